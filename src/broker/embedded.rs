//! The broker inside the process: for a single instance, and for trying things out.
//!
//! Its log is in memory, and is over with the process; or in a file, and then a trigger is confirmed when it is on the disk.
//! A file that cannot be written is opened again and again until it can; until then triggers are refused, and the broker is
//! [away](State::Away). It is away as well while nobody takes what was accepted.

mod file;
mod progress;
mod writer;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rustix::process::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};
use tokio_util::sync::CancellationToken;

pub use file::{LogFailed, check as check_log};

use self::progress::Progress;
use super::{Batch, Delivery, Error, Kind, Publishing, State, Upkeep};
use crate::{config, metrics::Metrics, protocol::Epoch};

/// Triggers accepted and not yet consumed; a publisher waits when there are more.
const CAPACITY: usize = 4096;
/// The most deliveries handed over at once.
const BATCH: usize = 256;
/// How long a publisher waits for a place, and for the disk.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often it is looked whether what was accepted is taken.
const LOOK: Duration = Duration::from_secs(1);

/// Both ends, and what writes the file, if there is one.
///
/// # Errors
/// When the file cannot be used.
pub(super) fn open(
    config: &config::Embedded,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(Publisher, Consumer, Upkeep), LogFailed> {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    let progress = Progress::new(metrics);
    let looking = look(progress.clone());
    let (route, last, ready, upkeep): (_, _, _, Upkeep) = match &config.log {
        None => {
            let ready = vec![Delivery::Epoch { epoch: Epoch::random(), offset: 0 }, Delivery::Recalled];
            let upkeep = async move {
                stop.run_until_cancelled(looking).await;
            };
            (Route::Memory(sender), 0, ready, Box::pin(upkeep))
        }
        Some(path) => {
            // Beyond RLIMIT_FSIZE a write is to fail; it ends the process where nothing handles the signal.
            let _ = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
            let (log, mut ready) = file::Log::open(path, &config.history)?;
            ready.push(Delivery::Recalled);
            let last = log.known().last;
            let (to_write, unwritten) = mpsc::channel(CAPACITY);
            let writing = writer::write(log, unwritten, sender, progress.clone());
            let upkeep = async move {
                stop.run_until_cancelled(async { tokio::join!(looking, writing) }).await;
            };
            (Route::File(to_write), last, ready, Box::pin(upkeep))
        }
    };
    let consumer = Consumer::new(receiver, last, ready, progress.clone());
    Ok((Publisher { route, progress }, consumer, upkeep))
}

/// Looks after `progress` for ever.
async fn look(progress: Arc<Progress>) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        progress.look();
    }
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    kind: Kind,
    body: Bytes,
}

#[derive(Debug, Clone)]
pub(super) struct Publisher {
    route: Route,
    progress: Arc<Progress>,
}

#[derive(Debug, Clone)]
enum Route {
    Memory(mpsc::Sender<Accepted>),
    File(mpsc::Sender<Unwritten>),
}

/// Something on its way to the disk.
#[derive(Debug)]
pub(super) struct Unwritten {
    entry: Entry,
    /// Told when it is there; dropped when it could not be written.
    written: oneshot::Sender<()>,
}

/// Something on its way to the consumer.
#[derive(Debug)]
pub(super) enum Accepted {
    /// It follows the last one.
    Entry(Entry),
    /// The file was opened again, and holds more than was known.
    Reopened {
        /// What follows the last entry; or all of the log, if that begins anew.
        deliveries: Vec<Delivery>,
        /// The last offset.
        last: u64,
    },
}

impl Publisher {
    pub(super) async fn publish(&self, kind: Kind, body: Bytes) -> Result<(), Error> {
        let deadline = Instant::now() + DEADLINE;
        within(deadline, self.send(Entry { kind, body })).await?.until_written(deadline).await
    }

    pub(super) async fn publish_all(&self, bodies: Vec<Bytes>) -> Vec<Result<(), Error>> {
        let deadline = Instant::now() + DEADLINE; // for all of them
        let mut sent = Vec::with_capacity(bodies.len());
        for body in bodies {
            let entry = Entry { kind: Kind::Trigger, body };
            sent.push(within(deadline, self.send(entry)).await); // one after the other, which gives them their order
        }
        let mut outcomes = Vec::with_capacity(sent.len());
        for sent in sent {
            outcomes.push(match sent {
                Ok(sent) => sent.until_written(deadline).await,
                Err(error) => Err(error),
            });
        }
        outcomes
    }

    async fn send(&self, entry: Entry) -> Result<Sent, Error> {
        let sent = match &self.route {
            Route::Memory(sender) => {
                sender.send(Accepted::Entry(entry)).await.map_err(|_| Error::Away)?;
                Sent(None)
            }
            Route::File(sender) => {
                let (written, is_written) = oneshot::channel();
                sender.send(Unwritten { entry, written }).await.map_err(|_| Error::Away)?;
                Sent(Some(is_written))
            }
        };
        self.progress.accepted();
        Ok(sent)
    }
}

/// What has its place; with a file it is not in that yet.
struct Sent(Option<oneshot::Receiver<()>>);

impl Sent {
    async fn until_written(self, deadline: Instant) -> Result<(), Error> {
        let Some(is_written) = self.0 else { return Ok(()) };
        within(deadline, async { is_written.await.map_err(|_| Error::Refused(None)) }).await
    }
}

async fn within<T>(deadline: Instant, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout_at(deadline, work).await.unwrap_or(Err(Error::TimedOut(DEADLINE)))
}

#[derive(Debug)]
pub(super) struct Consumer {
    receiver: mpsc::Receiver<Accepted>,
    /// The offset of the last trigger that was taken.
    last: u64,
    /// Taken and not yet handed over, ...
    ready: Vec<Delivery>,
    /// ... and how many publications of those were waiting.
    taken: usize,
    /// Batches handed over and acknowledged so far.
    handed: u64,
    acknowledged: u64,
    /// The batch that ends with all that was in the log when it was opened, until it is acknowledged.
    begun: Option<u64>,
    progress: Arc<Progress>,
}

impl Consumer {
    /// A consumer of what comes after the offset `last`; what comes up to there is `ready`.
    fn new(receiver: mpsc::Receiver<Accepted>, last: u64, ready: Vec<Delivery>, progress: Arc<Progress>) -> Self {
        Self { receiver, last, ready, taken: 0, handed: 0, acknowledged: 0, begun: Some(1), progress }
    }

    /// Loses nothing when it is dropped while it waits.
    pub(super) async fn next(&mut self) -> Batch {
        if self.ready.is_empty() {
            let Some(first) = self.receiver.recv().await else {
                // Every publisher is gone: nothing will ever come.
                return std::future::pending().await;
            };
            self.take(first);
        }
        // Under load others are about to publish, too; what is handed over together is written together.
        tokio::task::yield_now().await;
        while self.ready.len() < BATCH
            && let Ok(accepted) = self.receiver.try_recv()
        {
            self.take(accepted);
        }
        self.progress.taken(std::mem::take(&mut self.taken));
        self.handed += 1;
        Batch { deliveries: std::mem::take(&mut self.ready), tag: None }
    }

    /// Makes deliveries of what was accepted.
    fn take(&mut self, accepted: Accepted) {
        match accepted {
            Accepted::Entry(Entry { kind, body }) => {
                self.last += 1;
                self.ready.push(Delivery::of(kind, body, Some(self.last), false));
                self.taken += 1;
            }
            Accepted::Reopened { mut deliveries, last } => {
                self.ready.append(&mut deliveries);
                self.last = last;
                self.begun = Some(self.handed + 1);
            }
        }
    }

    /// The oldest batch that was handed over has been taken.
    pub(super) fn acknowledge(&mut self) {
        self.acknowledged += 1;
        if self.begun.is_some_and(|batch| batch <= self.acknowledged) {
            self.begun = None;
            self.progress.has_read();
        }
    }

    /// Takes nothing more; what was taken and not handed over.
    pub(super) fn close(mut self) -> Vec<Delivery> {
        self.receiver.close();
        while let Ok(accepted) = self.receiver.try_recv() {
            self.take(accepted);
        }
        self.ready
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.progress.state()
    }

    /// Whether the file takes what is published.
    pub(super) fn publishing(&self) -> watch::Receiver<Publishing> {
        self.progress.publishing()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_consumer_that_was_not_waited_for_has_still_taken_what_it_took() {
        let (metrics, stop) = (Arc::new(Metrics::default()), CancellationToken::new());
        let config = config::Embedded { log: None, history: config::History::default() };
        let (publisher, mut consumer, upkeep) = open(&config, metrics, stop.clone()).unwrap();
        let upkeep = tokio::spawn(upkeep);
        let _beginning = consumer.next().await;
        consumer.acknowledge();
        publisher.publish(Kind::Trigger, Bytes::from_static(b"a")).await.unwrap();
        assert!(consumer.next().now_or_never().is_none(), "it lets others publish first");
        assert_eq!(consumer.next().await.deliveries.len(), 1);
        consumer.acknowledge();
        advance(Duration::from_secs(60)).await;
        tokio::task::yield_now().await;
        assert_eq!(*consumer.state().borrow(), State::Current, "nothing waits");
        stop.cancel();
        upkeep.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_broker_is_away_while_nobody_takes_what_it_has_accepted() {
        let (metrics, stop) = (Arc::new(Metrics::default()), CancellationToken::new());
        let config = config::Embedded { log: None, history: config::History::default() };
        let (publisher, mut consumer, upkeep) = open(&config, metrics.clone(), stop.clone()).unwrap();
        let upkeep = tokio::spawn(upkeep);
        let mut state = consumer.state();
        let _beginning = consumer.next().await;
        consumer.acknowledge();
        assert_eq!(*state.borrow_and_update(), State::Current);
        publisher.publish(Kind::Trigger, Bytes::from_static(b"a")).await.unwrap();
        let accepted = Instant::now();
        state.changed().await.unwrap();
        assert_eq!((*state.borrow_and_update(), metrics.broker_consuming.get()), (State::Away, 0));
        assert!((10..12).contains(&accepted.elapsed().as_secs()), "{:?}", accepted.elapsed());
        assert_eq!(consumer.next().await.deliveries.len(), 1);
        assert_eq!((*state.borrow_and_update(), metrics.broker_consuming.get()), (State::Current, 1));
        advance(Duration::from_secs(3600)).await;
        assert!(!state.has_changed().unwrap(), "nothing waits");
        stop.cancel();
        upkeep.await.unwrap();
    }
}
