//! How far the consumer is, and whether what is published reaches it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{Publishing, State};
use crate::metrics::Metrics;

/// Deliveries that have waited for so long, without any being taken, are not delivered for all that is known. Publishers
/// give up after the same time.
const STALLED: Duration = Duration::from_secs(10);

/// Shared by the publishers, the writer of the file and the consumer.
#[derive(Debug)]
pub(super) struct Progress {
    facts: Mutex<Facts>,
    state: watch::Sender<State>,
    publishing: watch::Sender<Publishing>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Facts {
    /// When the log was opened that the consumer has still to take over; `None` when it has.
    opened: Option<Instant>,
    /// The file takes what is published.
    is_writable: bool,
    /// Accepted, and neither taken by the consumer nor refused.
    waiting: i64,
    /// When one of those was last taken, or the first one accepted.
    moved: Instant,
    /// What follows from the others.
    state: State,
}

impl Progress {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            facts: Mutex::new(Facts {
                opened: Some(now),
                is_writable: true,
                waiting: 0,
                moved: now,
                state: State::Behind(now),
            }),
            state: watch::Sender::new(State::Behind(now)),
            publishing: watch::Sender::new(Publishing::Open),
            metrics,
        })
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(super) fn publishing(&self) -> watch::Receiver<Publishing> {
        self.publishing.subscribe()
    }

    /// Something was accepted for the consumer.
    pub(super) fn accepted(&self) {
        let mut facts = self.facts.lock();
        if facts.waiting <= 0 {
            facts.moved = Instant::now();
        }
        facts.waiting += 1; // the consumer may have been faster
    }

    /// So much of it was taken or refused.
    pub(super) fn taken(&self, count: usize) {
        self.change(|facts| {
            facts.waiting -= i64::try_from(count).unwrap_or(i64::MAX);
            facts.moved = Instant::now();
        });
    }

    /// The consumer has taken over what was in the log.
    pub(super) fn has_read(&self) {
        self.change(|facts| facts.opened = None);
    }

    /// The log begins anew, and is read again.
    pub(super) fn begin(&self) {
        let now = Instant::now();
        self.change(|facts| facts.opened = Some(now));
    }

    /// The file takes nothing, for this reason.
    pub(super) fn fail(&self, reason: &str) {
        self.publishing.send_replace(Publishing::Away(Some(reason.into())));
        self.change(|facts| facts.is_writable = false);
    }

    /// The file takes what is published again.
    pub(super) fn recover(&self) {
        self.publishing.send_replace(Publishing::Open);
        self.change(|facts| facts.is_writable = true);
    }

    /// Looks whether anything has waited for too long. To be called from time to time.
    pub(super) fn look(&self) {
        self.change(|_| {});
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts.lock();
        change(&mut facts);
        let state = if !facts.is_writable || facts.is_stalled() {
            State::Away
        } else {
            facts.opened.map_or(State::Current, State::Behind)
        };
        // Most changes change no state: this is done for each batch.
        if std::mem::replace(&mut facts.state, state) != state {
            self.state.send_replace(state);
            self.metrics.broker_consuming.set(i64::from(state == State::Current));
            if state == State::Away {
                self.metrics.broker_failures.inc();
            }
        }
    }
}

impl Facts {
    fn is_stalled(&self) -> bool {
        self.waiting > 0 && self.moved.elapsed() >= STALLED
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_consumer_that_takes_nothing_is_away_until_it_does() {
        let progress = Progress::new(Arc::default());
        let state = progress.state();
        assert!(matches!(*state.borrow(), State::Behind(_)));
        progress.has_read();
        advance(Duration::from_secs(3600)).await;
        progress.accepted();
        progress.accepted();
        progress.look();
        assert_eq!(*state.borrow(), State::Current, "idle is not stalled");
        advance(STALLED).await;
        progress.look();
        assert_eq!(*state.borrow(), State::Away);
        progress.taken(1);
        assert_eq!(*state.borrow(), State::Current);
        advance(STALLED).await;
        progress.look();
        assert_eq!(*state.borrow(), State::Away, "the other one still waits");
        progress.taken(1);
        advance(STALLED).await;
        progress.look();
        assert_eq!(*state.borrow(), State::Current);
    }

    #[test]
    fn a_log_that_cannot_be_written_is_away_whatever_is_read() {
        let progress = Progress::new(Arc::default());
        let state = progress.state();
        progress.fail("full");
        progress.has_read();
        assert_eq!(*state.borrow(), State::Away);
        assert_eq!(*progress.publishing().borrow(), Publishing::Away(Some("full".into())));
        progress.recover();
        assert_eq!(*state.borrow(), State::Current);
        progress.begin();
        assert!(matches!(*state.borrow(), State::Behind(_)));
        assert_eq!(progress.metrics.broker_failures.get(), 1);
    }
}
