//! What the consumer and the publisher of one instance tell each other.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, warn};
use uuid::Uuid;

use super::{
    super::{Publishing, State},
    marker::Wanted,
    progress::Progress,
};

/// A fault that lasts is told again after this time.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// State that both ends share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The name of this process in the log.
    pub instance: Uuid,
    /// Whether there is a log, once that is known.
    pub has_log: watch::Sender<Option<bool>>,
    /// The marker that the consumer wants next.
    pub wanted: watch::Sender<Wanted>,
    /// The last marker that was wanted and that RabbitMQ has accepted.
    pub confirmed: watch::Sender<Confirmed>,
    /// Sequence numbers of markers that RabbitMQ has accepted or returned, and that have not been looked for in the log yet.
    pub accepted: Mutex<BTreeSet<u64>>,
    /// How far the consumer has read. Where the log is not what it was, it stays what it was until that is told: markers show
    /// by it that the end was lost.
    pub progress: Mutex<Progress>,
    /// How far the consumer is.
    pub state: watch::Sender<State>,
    /// Whether RabbitMQ takes what is published.
    pub publishing: watch::Sender<Publishing>,
    /// Counts the reasons to believe that the exchange is not bound as it was.
    pub unbound: watch::Sender<u64>,
    /// A marker that RabbitMQ accepted has not come to this instance.
    pub is_overdue: watch::Sender<bool>,
    numbers: AtomicU64,
}

/// A marker that RabbitMQ has accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Confirmed {
    /// The request that it answers.
    pub request: u64,
    /// The sequence number of the marker.
    pub number: u64,
    /// Since when.
    pub at: Instant,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            instance: Uuid::new_v4(),
            has_log: watch::Sender::new(None),
            wanted: watch::Sender::default(),
            confirmed: watch::Sender::new(Confirmed { request: 0, number: 0, at: Instant::now() }),
            accepted: Mutex::default(),
            progress: Mutex::default(),
            state: watch::Sender::new(State::Behind(Instant::now())),
            publishing: watch::Sender::new(Publishing::Away(None)),
            unbound: watch::Sender::default(),
            is_overdue: watch::Sender::default(),
            numbers: AtomicU64::new(0),
        }
    }

    /// Whether the log is what this instance consumes from.
    pub(super) fn follows_log(&self) -> bool {
        *self.has_log.borrow() == Some(true)
    }

    /// The sequence number of the last marker.
    pub(super) fn last_number(&self) -> u64 {
        self.numbers.load(Relaxed)
    }

    /// The sequence number of the next marker.
    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Relaxed) + 1
    }
}

/// Reports a fault that is tried again and again: as a warning when it is new, and once a minute while it lasts.
#[derive(Debug, Default)]
pub(super) struct Complaint {
    last: Option<(String, Instant)>,
    suppressed: u64,
}

impl Complaint {
    /// Something has failed.
    pub(super) fn tell(&mut self, what: &'static str, reason: &str) {
        let is_known = self.last.as_ref().is_some_and(|(last, at)| last == reason && at.elapsed() < TOLD_AGAIN);
        if is_known {
            self.suppressed += 1;
            debug!(reason, "{what}, trying again");
            return;
        }
        warn!(reason, suppressed = self.suppressed, "{what}, trying again");
        self.last = Some((reason.to_owned(), Instant::now()));
        self.suppressed = 0;
    }

    /// It works.
    pub(super) fn settle(&mut self) {
        *self = Self::default();
    }
}
