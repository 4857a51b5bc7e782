//! Subscriptions that are being given what they have missed.

use std::{collections::VecDeque, time::Duration};

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{super::Connections, Seats, Session};
use crate::{
    hub::{Frame, Full, Recovery, Resumption, Step},
    protocol::{CloseCode, Position, RequestId, server::v4},
    room::RoomKey,
};

/// How long a position may be unknown that another instance may have given out just now.
const UNKNOWN: Duration = Duration::from_secs(1);
/// For how long that does not count, because this instance is behind: it does not follow the log, or the position is of a
/// time that is still to come here. Counted from the moment that the broker is there.
const BEHIND: Duration = Duration::from_secs(10);
/// How long a client waits while the broker is away; after that it fetches again.
const AWAY: Duration = Duration::from_secs(30);
/// Requests of one connection that may wait for their answers.
const MOST_UNANSWERED: usize = 10_000;
/// What is queued for a client at once.
const QUEUED_BYTES: usize = 32 * 1024;

/// The subscriptions of one connection that are not in their rooms yet.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// In the order in which they were asked for, and will be answered.
    pub(super) unanswered: VecDeque<Unanswered>,
    /// Those that have been answered, and are given one publication after the other.
    pub(super) reading: VecDeque<Recovery>,
}

/// A request for a subscription that has to wait for its answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// Nothing is known of its position yet.
    Since { key: RoomKey, request_id: RequestId, since: Position, asked: Instant, until: Instant },
    /// Behind another one that waits; what was published before is not asked for, or unknown for good.
    Fresh { key: RoomKey, request_id: RequestId, recovered: Option<bool> },
    /// Behind another one that waits: no.
    Refused(Frame),
}

/// What there is to do for the subscriptions that have not caught up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CatchUp {
    /// Nothing.
    Done,
    /// To look again in a moment.
    Waiting,
    /// More, when others have had their turn.
    More,
    /// More, when the client has taken what waits for it.
    Full,
}

impl Behind {
    fn is_empty(&self) -> bool {
        self.unanswered.is_empty() && self.reading.is_empty()
    }
}

impl Session {
    /// Subscribes to what was published after `since`, if that can be vouched for.
    pub(super) fn resume(
        &mut self,
        key: RoomKey,
        request_id: RequestId,
        since: &RawValue,
        connections: &Connections,
    ) -> Result<(), Full> {
        let since = serde_json::from_str::<String>(since.get()).ok().and_then(|since| since.parse().ok());
        let asked = Instant::now();
        self.answer_in_turn(
            connections,
            match since {
                Some(since) => Unanswered::Since { key, request_id, since, asked, until: asked + UNKNOWN },
                None => Unanswered::Fresh { key, request_id, recovered: Some(false) },
            },
        )
    }

    /// Subscribes to what is published from now on.
    pub(super) fn begin(&mut self, key: RoomKey, request_id: RequestId, connections: &Connections) -> Result<(), Full> {
        self.answer_in_turn(connections, Unanswered::Fresh { key, request_id, recovered: None })
    }

    /// Sends the answer to a request for a subscription that was refused.
    pub(super) fn refuse_in_turn(&mut self, frame: Frame) -> Result<(), Full> {
        if self.must_wait() { self.wait(Unanswered::Refused(frame)) } else { self.reply(frame) }
    }

    /// Whether somebody waits for an answer already.
    fn must_wait(&self) -> bool {
        self.behind.as_ref().is_some_and(|behind| !behind.unanswered.is_empty())
    }

    fn wait(&mut self, request: Unanswered) -> Result<(), Full> {
        let unanswered = &mut self.behind.get_or_insert_default().unanswered;
        if unanswered.len() >= MOST_UNANSWERED {
            self.outbox.close(CloseCode::TooSlow, "too many subscriptions wait for an answer");
            return Err(Full);
        }
        unanswered.push_back(request);
        Ok(())
    }

    /// Answers, unless another one waits for its answer.
    fn answer_in_turn(&mut self, connections: &Connections, request: Unanswered) -> Result<(), Full> {
        if let Unanswered::Since { request_id, .. } | Unanswered::Fresh { request_id, .. } = &request {
            self.subscriptions.insert(request_id.clone(), Seats::Recovering);
            self.places += 1;
        }
        let waiting = if self.must_wait() { Some(request) } else { self.answer(request, connections)? };
        waiting.map_or(Ok(()), |waiting| self.wait(waiting))
    }

    /// Whether some have not caught up.
    pub(in super::super) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Goes on with the subscriptions that have not caught up, as soon as what waits in the outbox is written; it is flushed
    /// afterwards.
    ///
    /// # Errors
    /// When the outbox takes no more; the connection is ending then.
    pub(in super::super) fn catch_up(&mut self, connections: &Connections) -> Result<CatchUp, Full> {
        self.outbox.resume();
        if self.outbox.blocked_for().is_some() {
            return Ok(CatchUp::Full);
        }
        let outcome = match self.answer_next(connections)? {
            true => self.read_next(connections)?.max(CatchUp::Waiting),
            false => self.read_next(connections)?,
        };
        self.behind = self.behind.take().filter(|behind| !behind.is_empty());
        self.outbox.flush();
        Ok(outcome)
    }

    pub(super) fn stop_recovering(&mut self, request_id: &RequestId) {
        let Some(behind) = &mut self.behind else { return };
        behind.reading.retain(|recovery| recovery.request_id() != request_id);
        behind.unanswered.retain(|waiting| match waiting {
            Unanswered::Since { request_id: waiting, .. } | Unanswered::Fresh { request_id: waiting, .. } => {
                waiting != request_id
            }
            Unanswered::Refused(_) => true,
        });
    }

    /// Answers those that wait, as far as that can be done now. Whether some go on waiting.
    fn answer_next(&mut self, connections: &Connections) -> Result<bool, Full> {
        while let Some(next) = self.behind.as_mut().and_then(|behind| behind.unanswered.pop_front()) {
            if let Some(waiting) = self.answer(next, connections)? {
                self.behind.get_or_insert_default().unanswered.push_front(waiting);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives each of those that have been answered some more, as long as there is room for it.
    fn read_next(&mut self, connections: &Connections) -> Result<CatchUp, Full> {
        let mut outcome = CatchUp::Done;
        let waiting_bytes = QUEUED_BYTES.min(self.outbox.limit_bytes() / 4);
        for _ in 0..self.behind.as_ref().map_or(0, |behind| behind.reading.len()) {
            let Some(mut recovery) = self.behind.as_mut().and_then(|behind| behind.reading.pop_front()) else { break };
            let seat = match connections.hub.recover(&mut recovery, &self.outbox, waiting_bytes)? {
                step @ (Step::More | Step::Full) => {
                    let is_full = matches!(step, Step::Full);
                    outcome = outcome.max(if is_full { CatchUp::Full } else { CatchUp::More });
                    // It goes on where the client has taken it; the others have their turn first.
                    self.behind.get_or_insert_default().reading.push_back(recovery);
                    if is_full {
                        break;
                    }
                    continue;
                }
                Step::Joined(seat) => seat,
                Step::Lost(seat) => {
                    // It was told that it would get everything.
                    connections.metrics.recoveries.inc("lost");
                    self.reply(Frame::Text(v4::resync(connections.hub.position()).into()))?;
                    seat
                }
            };
            self.subscriptions.insert(recovery.request_id().clone(), Seats::One(seat));
        }
        Ok(outcome)
    }

    /// Answers `request`, if that can be done now; gives it back if not.
    fn answer(&mut self, request: Unanswered, connections: &Connections) -> Result<Option<Unanswered>, Full> {
        let (key, request_id, since, asked, mut until) = match request {
            Unanswered::Since { key, request_id, since, asked, until } => (key, request_id, since, asked, until),
            Unanswered::Fresh { key, request_id, recovered } => {
                self.join_after(&key, request_id, recovered, connections)?;
                return Ok(None);
            }
            Unanswered::Refused(frame) => {
                self.reply(frame)?;
                return Ok(None);
            }
        };
        // Nobody who joins while the log is read back is given what is still to be read.
        let resumption = match connections.is_reading_back() {
            true => Resumption::Unknown,
            false => connections.hub.resume(&key, &request_id, since),
        };
        let now = Instant::now();
        let is_behind = matches!(resumption, Resumption::Ahead) || !connections.follows_log();
        let patience = match connections.log_there_since(asked) {
            Some(since) => since + BEHIND,
            None => asked + AWAY,
        };
        if is_behind && now < patience {
            until = now + UNKNOWN;
        }
        match resumption {
            Resumption::Possible(recovery) => {
                connections.metrics.recoveries.inc("recovered");
                self.reply(Frame::Text(v4::success(&request_id, Some(since), Some(true)).into()))?;
                self.behind.get_or_insert_default().reading.push_back(recovery);
                Ok(None)
            }
            Resumption::Ahead | Resumption::Unknown if now < until => {
                Ok(Some(Unanswered::Since { key, request_id, since, asked, until }))
            }
            Resumption::Ahead | Resumption::Unknown | Resumption::Impossible => {
                self.join_after(&key, request_id, Some(false), connections)?;
                Ok(None)
            }
        }
    }

    /// Subscribes to what is published from now on. The reply tells the position, and whatever `recovered` is.
    fn join_after(
        &mut self,
        key: &RoomKey,
        request_id: RequestId,
        recovered: Option<bool>,
        connections: &Connections,
    ) -> Result<(), Full> {
        if recovered == Some(false) {
            connections.metrics.recoveries.inc("not-recovered");
        }
        let mut outcome = Ok(());
        let seat = connections.hub.join_after(key, &self.outbox, &request_id, |position| {
            outcome = self.outbox.push(Frame::Text(v4::success(&request_id, position, recovered).into()));
        });
        self.subscriptions.insert(request_id, Seats::One(seat));
        outcome
    }
}
