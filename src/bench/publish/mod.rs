//! What is published, at which pace and by which way: tasks in a thread of their own, apart from the clients.

mod amqp;
mod http;
mod pace;

use std::{sync::Arc, time::Instant};

use tokio::{runtime::Handle, sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub(super) use self::http::get;
use self::pace::Ticks;
use super::{
    marker::{Marker, Payload},
    options::{Pace, Plan, Route},
};

/// Why nothing more can be published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("nothing listens at {0}: is it the server's internal listener?")]
    NobodyThere(String),
    #[error("cannot publish to {to}")]
    Broken {
        to: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{url} answered a trigger with {answer}")]
    Refused { url: String, answer: String },
    #[error("{0} did not answer a trigger within 30 s")]
    TimedOut(String),
    #[error("RabbitMQ at {host} failed")]
    Rabbitmq {
        host: String,
        #[source]
        source: lapin::Error,
    },
    #[error("RabbitMQ at {0} did not pass a trigger on: is a server connected to it, at that exchange?")]
    NotConfirmed(String),
    #[error("cannot start a clock")]
    Clock(#[source] std::io::Error),
    #[error("the publishing task ended early")]
    Ended,
}

/// One publishing connection.
enum Sender {
    Http(http::Sender),
    Amqp(Box<amqp::Sender>),
}

impl Sender {
    async fn open(route: &Route) -> Result<Self, Error> {
        Ok(match route {
            Route::Http { target, headers } => Self::Http(http::Sender::open(target, headers).await?),
            Route::Amqp { uris, exchange } => Self::Amqp(Box::new(amqp::Sender::open(uris, exchange).await?)),
        })
    }

    /// Publishes a trigger; it is accepted when this returns, or at the latest when [`Sender::finish`] does.
    async fn publish(&mut self, body: &[u8]) -> Result<(), Error> {
        match self {
            Self::Http(sender) => sender.publish(body).await,
            Self::Amqp(sender) => sender.publish(body).await,
        }
    }

    /// Waits until one more trigger is accepted; for ever if none is under way.
    async fn settle(&mut self) -> Result<(), Error> {
        match self {
            Self::Http(sender) => sender.settle().await,
            Self::Amqp(sender) => sender.settle().await,
        }
    }

    /// Waits until all are.
    async fn finish(self) -> Result<(), Error> {
        match self {
            Self::Http(sender) => sender.finish().await,
            Self::Amqp(sender) => sender.finish().await,
        }
    }
}

/// The load and the probe, being published.
pub(super) struct Load {
    handle: Handle,
    stop: CancellationToken,
    permits: Option<Arc<Semaphore>>,
    publishers: Vec<JoinHandle<Result<Vec<u32>, Error>>>,
    probe: Option<JoinHandle<Result<Vec<u32>, Error>>>,
    rooms: u32,
}

impl Load {
    /// Starts publishing.
    ///
    /// # Errors
    /// [`Error::Clock`] if there is no thread to be had for the open loop's clock.
    pub(super) fn start(handle: &Handle, plan: &Plan, route: &Route, run: u32, epoch: Instant) -> Result<Self, Error> {
        let stop = CancellationToken::new();
        let payload = Payload::new(run, plan.size_bytes);
        let clock = |rate| Ticks::start(rate, stop.clone()).map(Source::Clock).map_err(Error::Clock);
        let source = match plan.pace {
            Pace::Window(window) => Source::Permits(Arc::new(Semaphore::new(window as usize))),
            Pace::Rate(rate) => clock(rate)?,
        };
        let spawn = |rooms: Vec<u32>, pace: Source| {
            let bodies = rooms.iter().map(|room| format!(r#"{{"rooms":[{}],"data":"#, plan.room_json(*room))).collect();
            let task = Publishing { rooms, bodies, payload: payload.clone(), epoch, stop: stop.clone() };
            let route = route.clone();
            handle.spawn(async move { task.run(&route, pace).await })
        };
        let publishers = (0..plan.publishers)
            .map(|first| spawn((first..plan.rooms).step_by(plan.publishers as usize).collect(), source.clone()))
            .collect();
        let probe = match plan.probe {
            Some(rate) => Some(spawn(vec![plan.rooms], clock(rate)?)),
            None => None,
        };
        let permits = match source {
            Source::Permits(permits) => Some(permits),
            Source::Clock(_) => None,
        };
        Ok(Self { handle: handle.clone(), stop, permits, publishers, probe, rooms: plan.rooms })
    }

    /// Allows so many more triggers in the closed loop.
    pub(super) fn allow(&self, triggers: u64) {
        if let Some(permits) = &self.permits
            && triggers > 0
        {
            permits.add_permits(triggers as usize);
        }
    }

    /// Whether a publisher has given up.
    pub(super) fn has_failed(&self) -> bool {
        self.publishers.iter().chain(&self.probe).any(|task| task.is_finished() && !self.stop.is_cancelled())
    }

    /// Publishes nothing new from here on.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether the last trigger has been accepted.
    pub(super) fn is_finished(&self) -> bool {
        self.publishers.iter().chain(&self.probe).all(JoinHandle::is_finished)
    }

    /// Waits for the publishers; how many triggers each room got, and the probe's.
    ///
    /// # Errors
    /// What made the first of them give up.
    pub(super) fn finish(self) -> Result<(Vec<u32>, u32), Error> {
        self.stop.cancel();
        let Self { handle, publishers, probe, rooms, .. } = self;
        handle.block_on(async move {
            let step = publishers.len().max(1);
            let mut published = vec![0; rooms as usize];
            for (first, task) in publishers.into_iter().enumerate() {
                let counts = task.await.map_err(|_| Error::Ended)??;
                for (count, of) in published.iter_mut().skip(first).step_by(step).zip(counts) {
                    *count = of;
                }
            }
            let probes = match probe {
                Some(task) => task.await.map_err(|_| Error::Ended)??.first().copied(),
                None => None,
            };
            Ok((published, probes.unwrap_or(0)))
        })
    }
}

/// Where a publisher gets leave to publish.
#[derive(Clone)]
enum Source {
    Permits(Arc<Semaphore>),
    Clock(Ticks),
}

/// One publishing connection's work.
struct Publishing {
    rooms: Vec<u32>,
    /// Of each room, the trigger up to its data.
    bodies: Vec<String>,
    payload: Payload,
    epoch: Instant,
    stop: CancellationToken,
}

impl Publishing {
    /// Publishes to its rooms in turn until it is stopped; how many triggers each got.
    async fn run(self, route: &Route, source: Source) -> Result<Vec<u32>, Error> {
        let mut sender = Sender::open(route).await?;
        let mut counts = vec![0_u32; self.rooms.len()];
        let mut body = Vec::new();
        'all: loop {
            for ((room, start), count) in self.rooms.iter().zip(&self.bodies).zip(&mut counts) {
                let due = loop {
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => break 'all,
                        due = source.next() => break due?,
                        settled = sender.settle() => settled?,
                    }
                };
                let at_ns = u64::try_from(due.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX);
                body.clear();
                body.extend_from_slice(start.as_bytes());
                self.payload.write(Marker { room: *room, number: *count, at_ns }, &mut body);
                body.push(b'}');
                sender.publish(&body).await?;
                *count += 1;
            }
        }
        sender.finish().await?;
        Ok(counts)
    }
}

impl Source {
    /// Waits for leave; when the trigger is due, or was.
    async fn next(&self) -> Result<Instant, Error> {
        match self {
            Self::Permits(permits) => {
                permits.acquire().await.map_err(|_| Error::Ended)?.forget();
                Ok(Instant::now())
            }
            Self::Clock(ticks) => Ok(ticks.next().await),
        }
    }
}
