//! The broker inside the process: for a single instance, and for trying things out.
//!
//! Its log is in memory, and is over with the process; or in a file, and then a trigger is confirmed when it is on the disk.

mod file;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

pub use file::LogFailed;

use super::{Batch, Delivery, Error, Kind, State, Upkeep};
use crate::{config, metrics::Metrics, protocol::Epoch};

/// Triggers accepted and not yet consumed; a publisher waits when there are more.
const CAPACITY: usize = 4096;
/// The most deliveries handed over at once.
const BATCH: usize = 256;
/// How long a publisher waits for a place, and for the disk.
const DEADLINE: Duration = Duration::from_secs(10);

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
    let state = watch::Sender::new(State::Behind(Instant::now()));
    let Some(path) = &config.log else {
        let ready = vec![Delivery::Epoch { epoch: Epoch::random(), offset: 0 }];
        let consumer = Consumer { receiver, last: 0, ready, state, metrics };
        let upkeep = async move { stop.cancelled().await };
        return Ok((Publisher::Memory(sender), consumer, Box::pin(upkeep)));
    };
    let (file, ready) = file::Log::open(path, &config.history)?;
    let last = file.last();
    let (written, to_write) = mpsc::channel(CAPACITY);
    let consumer = Consumer { receiver, last, ready, state, metrics };
    let upkeep = async move {
        stop.run_until_cancelled(file::write(file, to_write, sender)).await;
    };
    Ok((Publisher::File(written), consumer, Box::pin(upkeep)))
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    kind: Kind,
    body: Bytes,
}

#[derive(Debug, Clone)]
pub(super) enum Publisher {
    Memory(mpsc::Sender<Entry>),
    File(mpsc::Sender<Unwritten>),
}

/// Something on its way to the disk.
#[derive(Debug)]
pub(super) struct Unwritten {
    entry: Entry,
    /// Told when it is there; dropped when it could not be written.
    written: oneshot::Sender<()>,
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
        match self {
            Self::Memory(sender) => {
                sender.send(entry).await.map_err(|_| Error::Away)?;
                Ok(Sent(None))
            }
            Self::File(sender) => {
                let (written, is_written) = oneshot::channel();
                sender.send(Unwritten { entry, written }).await.map_err(|_| Error::Away)?;
                Ok(Sent(Some(is_written)))
            }
        }
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
    receiver: mpsc::Receiver<Entry>,
    /// The offset of the last trigger that was taken.
    last: u64,
    /// Taken and not yet handed over.
    ready: Vec<Delivery>,
    state: watch::Sender<State>,
    metrics: Arc<Metrics>,
}

impl Consumer {
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
            && let Ok(entry) = self.receiver.try_recv()
        {
            self.take(entry);
        }
        Batch { deliveries: std::mem::take(&mut self.ready), tag: None }
    }

    fn take(&mut self, entry: Entry) {
        self.last += 1;
        self.ready.push(Delivery::of(entry.kind, entry.body, Some(self.last), false));
    }

    /// What was handed over has been taken, and so has all that is in the log.
    pub(super) fn acknowledge(&self) {
        if self.state.send_replace(State::Current) != State::Current {
            self.metrics.broker_consuming.set(1);
        }
    }

    /// Takes nothing more; what was taken and not handed over.
    pub(super) fn close(mut self) -> Vec<Delivery> {
        self.receiver.close();
        while let Ok(entry) = self.receiver.try_recv() {
            self.take(entry);
        }
        self.ready
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}
