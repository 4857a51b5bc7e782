//! Subscriptions that are being given what they have missed.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{super::Connections, Seats, Session, account::waiting_bytes};
use crate::{
    hub::{Budget, Frame, Full, Mark, Recovery, Resumption, Step},
    logging::limited,
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
/// Subscriptions of one connection that are given what they have missed at a time. The others wait for their answers.
const MOST_READING: usize = 8;
/// Steps of one turn: well under a millisecond.
const TURN: u64 = 1024;
/// Steps that an answer takes.
const ANSWERING: u64 = 8;
/// Bytes of an answer that waits, beside its text.
const REFUSED_BYTES: usize = 128;
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
    Since { key: Arc<RoomKey>, request_id: RequestId, since: Position, asked: Instant, until: Instant },
    /// Behind another one that waits; what was published before is not asked for, or unknown for good.
    Fresh { key: Arc<RoomKey>, request_id: RequestId, recovered: Option<bool> },
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

impl CatchUp {
    /// When to look again after [`Waiting`](Self::Waiting).
    pub const LOOK_AGAIN: Duration = Duration::from_millis(20);
}

impl Behind {
    fn is_empty(&self) -> bool {
        self.unanswered.is_empty() && self.reading.is_empty()
    }
}

impl Unanswered {
    /// A refusal, and the bytes that are kept for it.
    pub(super) fn refused(frame: Frame) -> (Self, usize) {
        let bytes = refused_bytes(&frame);
        (Self::Refused(frame), bytes)
    }
}

fn refused_bytes(frame: &Frame) -> usize {
    REFUSED_BYTES + frame.text_bytes()
}

impl Session {
    /// Subscribes to what was published after `since`, if that can be vouched for.
    pub(super) fn resume(
        &mut self,
        key: Arc<RoomKey>,
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
    pub(super) fn begin(
        &mut self,
        key: Arc<RoomKey>,
        request_id: RequestId,
        connections: &Connections,
    ) -> Result<(), Full> {
        self.answer_in_turn(connections, Unanswered::Fresh { key, request_id, recovered: None })
    }

    /// Sends the answer to a request for a subscription that was refused.
    pub(super) fn refuse_in_turn(&mut self, frame: Frame, connections: &Connections) -> Result<(), Full> {
        if !self.must_wait() {
            return self.reply(frame);
        }
        let (refused, bytes) = Unanswered::refused(frame);
        if !self.account.keep(bytes, &connections.config) {
            // A refusal that waits cannot be refused.
            connections.metrics.limited.inc("memory");
            let connection = self.outbox.connection();
            limited!(warn, "connection closed: more refusals wait than CONNECTION_MEMORY takes", %connection);
            self.outbox.close(CloseCode::TooMany, "more waits for an answer than may be kept (CONNECTION_MEMORY)");
            return Err(Full);
        }
        self.wait(refused);
        Ok(())
    }

    /// Whether somebody waits for an answer already.
    fn must_wait(&self) -> bool {
        self.behind.as_ref().is_some_and(|behind| !behind.unanswered.is_empty())
    }

    fn wait(&mut self, request: Unanswered) {
        self.behind.get_or_insert_default().unanswered.push_back(request);
    }

    /// Answers, unless another one waits for its answer.
    fn answer_in_turn(&mut self, connections: &Connections, request: Unanswered) -> Result<(), Full> {
        if let Unanswered::Since { key, request_id, .. } | Unanswered::Fresh { key, request_id, .. } = &request {
            self.subscriptions.insert(request_id.clone(), Seats::Recovering(key.clone()));
        }
        let waiting = if self.must_wait() { Some(request) } else { self.answer(request, connections)? };
        if let Some(waiting) = waiting {
            self.wait(waiting);
        }
        Ok(())
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
        if self.outbox.on_hold_for().is_some() {
            return Ok(CatchUp::Waiting); // what was missed waits in the history
        }
        if self.outbox.blocked_for().is_some() {
            return Ok(CatchUp::Full);
        }
        let mut budget = Budget::new(TURN);
        let outcome = loop {
            let answered = self.answer_next(connections, &mut budget)?;
            let read = self.read_next(connections, &mut budget)?;
            // With nothing left to read there is room for more that wait for that.
            if answered != CatchUp::More || read != CatchUp::Done || budget.is_spent() {
                break answered.max(read);
            }
        };
        self.behind = self.behind.take().filter(|behind| !behind.is_empty());
        self.outbox.flush();
        Ok(outcome)
    }

    /// A subscription has been ended that waits for the room `key`. A request for it is passed over when it is its turn: to look
    /// for it among all that wait would take a client that ends many of them little and the server much.
    pub(super) fn stop_recovering(&mut self, key: &Arc<RoomKey>, connections: &Connections) {
        let Some(behind) = &mut self.behind else { return };
        match behind.reading.iter().position(|recovery| Arc::ptr_eq(recovery.room(), key)) {
            Some(at) => {
                behind.reading.remove(at);
            }
            None => {
                let _ = self.account.keep(waiting_bytes(key), &connections.config); // less than the subscription took
            }
        }
    }

    /// Bytes that may wait in the outbox before more is put there.
    fn waiting_bytes(&self) -> usize {
        QUEUED_BYTES.min(self.outbox.limit_bytes() / 4)
    }

    fn is_reading_enough(&self) -> bool {
        self.behind.as_ref().is_some_and(|behind| behind.reading.len() >= MOST_READING)
    }

    /// Answers those that wait, as far as that can be done now.
    fn answer_next(&mut self, connections: &Connections, budget: &mut Budget) -> Result<CatchUp, Full> {
        while self.must_wait() {
            if budget.is_spent() {
                return Ok(CatchUp::More);
            }
            if self.outbox.waiting_bytes() > self.waiting_bytes() {
                return Ok(CatchUp::Full);
            }
            budget.spend(ANSWERING);
            let Some(next) = self.behind.as_mut().and_then(|behind| behind.unanswered.pop_front()) else { break };
            match &next {
                Unanswered::Refused(frame) => self.account.give_up(refused_bytes(frame)),
                Unanswered::Since { key, request_id, .. } | Unanswered::Fresh { key, request_id, .. } => {
                    if !self.subscriptions.get(request_id).is_some_and(|seats| seats.is_waiting_for(key)) {
                        self.account.give_up(waiting_bytes(key)); // it has been ended
                        continue;
                    }
                }
            }
            if let Some(waiting) = self.answer(next, connections)? {
                self.behind.get_or_insert_default().unanswered.push_front(waiting);
                return Ok(if self.is_reading_enough() { CatchUp::More } else { CatchUp::Waiting });
            }
        }
        Ok(CatchUp::Done)
    }

    /// Gives each of those that have been answered some more, as long as there is room for it.
    fn read_next(&mut self, connections: &Connections, budget: &mut Budget) -> Result<CatchUp, Full> {
        let mut outcome = CatchUp::Done;
        let most_bytes = self.waiting_bytes();
        for _ in 0..self.behind.as_ref().map_or(0, |behind| behind.reading.len()) {
            let Some(mut recovery) = self.behind.as_mut().and_then(|behind| behind.reading.pop_front()) else { break };
            if budget.is_spent() {
                self.behind.get_or_insert_default().reading.push_front(recovery);
                return Ok(outcome.max(CatchUp::More));
            }
            let seat = match connections.hub.recover(&mut recovery, &self.outbox, most_bytes, budget)? {
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
                    let position = connections.hub.position();
                    self.reply(Frame::marked(v4::resync(position), Mark::All(position)))?;
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
        if self.is_reading_enough() {
            return Ok(Some(Unanswered::Since { key, request_id, since, asked, until }));
        }
        // Nobody who joins while the log is read back is given what is still to be read.
        let resumption = match connections.is_reading_back() {
            true => Resumption::Unknown,
            false => connections.hub.resume(&key, &request_id, since),
        };
        let numbers = connections.hub.dispatch().numbers();
        let resumption = match resumption {
            // Something may have been published to the room that was not for this client yet.
            Resumption::Possible(recovery) if !self.has_been_allowed_since(recovery.reached(), &key, numbers) => {
                Resumption::Impossible
            }
            resumption => resumption,
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
                let text = v4::success(&request_id, Some(since), Some(true));
                self.reply(Frame::marked(text, Mark::At(request_id, since)))?;
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
            let text = v4::success(&request_id, position, recovered);
            outcome = self.outbox.push(match position {
                Some(position) => Frame::marked(text, Mark::At(request_id.clone(), position)),
                None => Frame::Text(text.into()),
            });
        });
        self.subscriptions.insert(request_id, Seats::One(seat));
        outcome
    }
}
