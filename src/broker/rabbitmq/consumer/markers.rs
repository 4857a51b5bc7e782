//! The markers of this instance: when one is due, and what it means that one comes back, or does not.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::{Consumer, LOOK, Taken};
use crate::broker::{Publishing, State};

/// Time between two markers of an instance: so soon it notices that the exchange does not pass on what is published.
const MARKER_EVERY: Duration = Duration::from_secs(5);
/// How long a marker that RabbitMQ has accepted may take to come back, while nothing else comes.
const MARKER_DEADLINE: Duration = Duration::from_secs(5);
/// The same where other entries come all the time, behind which it may wait.
const BUSY_MARKER_DEADLINE: Duration = Duration::from_secs(60);
/// So many looks in a row find that nothing has come: a process that stood still reads what is there before it judges.
const QUIET_LOOKS: u32 = 3;
/// So long nothing comes where the log is read to its end.
const QUIET: Duration = Duration::from_secs(1);
/// Entries in the log after which there is to be another marker: so many are read again in a new session.
const UNMARKED: usize = 4096;
/// Behind one name there may be several brokers: so often is asked at least.
const ASKED: usize = 2;

impl Consumer {
    /// A marker has come that says something to this instance.
    pub(super) fn note_marker(&mut self, Taken { own, told_gap, is_unproven }: Taken) {
        if let Some(number) = own {
            self.note_own_marker(number);
        }
        if is_unproven {
            warn!(
                "a binding of the log to the exchange is missing: triggers may have been missed; the log is bound again"
            );
            self.tells_gap |= self.follower.has_begun_epoch();
            self.shared.unbound.send_modify(|count| *count += 1);
        }
        if told_gap {
            self.tells_gap = false;
            // What is missing of those that were written so far is told, too, though RabbitMQ's confirmation may still be to come.
            self.told_until = self.shared.last_number();
            self.is_witness = false;
        }
        if own.is_some() && self.shared.follows_log() && !self.is_current() {
            self.want_marker();
        }
    }

    fn note_own_marker(&mut self, number: u64) {
        self.marked = Instant::now();
        self.own_read = self.own_read.max(number);
        self.shared.is_overdue.send_if_modified(std::mem::take);
        if !self.shared.follows_log() {
            self.shared.accepted.lock().retain(|accepted| *accepted > number);
            return;
        }
        self.is_witness = false;
        let has_lost = {
            let mut accepted = self.shared.accepted.lock();
            accepted.retain(|accepted| *accepted > self.told_until);
            self.follower.has_lost(&mut accepted, number)
        };
        // Where no position is known, nothing was given that it could be missing behind.
        if has_lost && self.follower.has_epoch() && !self.tells_gap {
            warn!("a marker that RabbitMQ accepted is missing in the log: triggers may have been missed");
            self.tells_gap = true;
        }
    }

    /// Whether all that was there when the session began has come, positions are known, nothing is to be told, and the last
    /// marker has not been waited for in vain.
    pub(super) fn is_current(&self) -> bool {
        self.follower.is_current() && !self.tells_gap && !*self.shared.is_overdue.borrow()
    }

    pub(super) fn become_current(&mut self) {
        self.is_read_while_blocked = false;
        if *self.shared.state.borrow() != State::Current {
            info!("the log is read up to now");
            self.tell(State::Current);
        }
    }

    /// Asks for the marker that is due, and notices one that does not come back.
    pub(super) async fn look_after_markers(&mut self) {
        let Some(session) = &self.session else { return };
        let follows_log = session.follows_log;
        if !follows_log && *self.shared.unbound.borrow() != self.unbound {
            warn!("the exchange does not pass messages on to the queue: the queue is bound again");
            return self.lost(None).await;
        }
        self.quiet_looks = self.quiet_looks.saturating_add(1);
        let is_quiet = self.quiet_looks >= QUIET_LOOKS;
        let now = Instant::now();
        let wanted = self.shared.wanted.borrow().request;
        let confirmed = *self.shared.confirmed.borrow();
        let is_waiting = confirmed.request == wanted && confirmed.number > self.own_read;
        let waits_since = is_waiting.then_some(confirmed.at);
        if follows_log && self.follower.is_proving() {
            // The stream holds a marker of now. If it were the same, the old one would have come long since.
            if is_quiet && waits_since.is_some_and(|since| now - since > MARKER_DEADLINE) {
                self.doubt().await;
            }
            return;
        }
        self.doubtful = 0;
        if let Some(since) = waits_since {
            let is_overdue = is_quiet && now - since > MARKER_DEADLINE || now - since > BUSY_MARKER_DEADLINE;
            if is_overdue {
                self.be_overdue(follows_log).await;
            }
            return;
        }
        if follows_log && *self.shared.state.borrow() != State::Current {
            self.read_while_blocked().await;
        }
        if confirmed.request < wanted {
            return; // the publisher goes on trying
        }
        let is_due = now - self.marked > MARKER_EVERY
            || follows_log && (self.follower.unanchored() >= UNMARKED || !self.is_current() || self.is_epoch_due());
        if is_due && now - self.marked > LOOK {
            self.want_marker();
        }
    }

    /// A marker that RabbitMQ has accepted has not come: what is published now does not come here either.
    async fn be_overdue(&mut self, follows_log: bool) {
        let is_new = !self.shared.is_overdue.send_replace(true);
        if is_new {
            self.metrics.broker_markers_overdue.inc();
            warn!(
                "a marker that RabbitMQ accepted does not arrive, so the binding is renewed: look for an alternate exchange, \
                 and whether all brokers of AMQP_URL are one cluster"
            );
        }
        if !follows_log {
            return self.lost(None).await;
        }
        if *self.shared.state.borrow() == State::Current {
            self.tell(State::Behind(Instant::now()));
        }
        self.shared.unbound.send_modify(|count| *count += 1);
        self.want_marker();
    }

    /// While RabbitMQ takes nothing from any publisher, no marker comes, and the log does not grow: it is read up to now when
    /// its last entries have come.
    async fn read_while_blocked(&mut self) {
        // Once is enough: the clients' notices may still be on their way, and the instance is current only behind them.
        let is_done = self.is_read_while_blocked;
        if is_done || *self.shared.publishing.borrow() != Publishing::Blocked || self.heard.elapsed() < QUIET {
            return;
        }
        let Some(session) = &self.session else { return };
        let end = match session.end(self.topology.queue()).await {
            Ok(end) => end,
            Err(reason) => return self.complaint.tell("cannot find the end of the log", &reason),
        };
        if self.follower.last() >= end && *self.shared.publishing.borrow() == Publishing::Blocked {
            info!("the log is read up to now; RabbitMQ blocks publishers");
            self.follower.stop_recalling(&mut self.pending);
            self.is_read_while_blocked = true;
            if self.pending.is_empty() {
                self.become_current();
            }
        }
    }

    /// The broker does not hand over what was read last. One node of a cluster may lag behind; where no broker of the list
    /// does, the log has lost it.
    async fn doubt(&mut self) {
        self.doubtful += 1;
        if self.doubtful < self.retry.brokers().max(ASKED) {
            warn!("the log does not hold the entry that was read last, trying the next broker");
            self.retry.pass_over();
            self.end_session().await;
        } else {
            warn!("the log does not hold the entry that was read last: triggers may have been missed");
            self.doubtful = 0;
            self.tells_gap = true;
            self.start_over(Vec::new(), self.log).await;
        }
    }

    fn is_epoch_due(&self) -> bool {
        !self.follower.has_begun_epoch() || self.tells_gap || self.epoch_began.elapsed() > self.epoch_every
    }

    /// Asks the publisher for a marker of this session.
    pub(super) fn want_marker(&mut self) {
        self.marked = Instant::now();
        let after = self.follower.own();
        let (session, tells_gap) = (self.sessions, self.tells_gap);
        let last_gap = self.follower.progress().gaps.last().copied();
        let begins_epoch = after.is_some() && self.is_epoch_due();
        self.shared.wanted.send_modify(|wanted| {
            wanted.request += 1;
            wanted.session = session;
            wanted.after = after;
            wanted.begins_epoch = begins_epoch;
            wanted.is_after_gap = begins_epoch && tells_gap;
            wanted.last_gap = last_gap;
            wanted.unbound = None;
        });
    }
}
