//! Giving a client that comes back what it has missed, and joining it to what comes now, without a gap and without a
//! double.
//!
//! Appending to the history and joining take the same lock. A publication is recorded before its audience is looked up;
//! so whoever joins behind the recording has been given it from the history, and the fan-out passes over a member for
//! which it is too early.

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::{
    Frame, Full, Hub, Outbox, Publication, Seat,
    history::{Found, Next, Query, Segment, Terms},
};
use crate::{
    protocol::{Epoch, Position, RequestId},
    room::RoomKey,
};

/// Work that may be done before others have their turn, and the work that was done.
#[derive(Debug)]
pub struct Budget {
    left: u64,
    /// Entries of the history that were looked at.
    visited: u64,
}

impl Budget {
    /// Work of `steps`, each about a look-up.
    pub fn new(steps: u64) -> Self {
        Self { left: steps, visited: 0 }
    }

    /// Takes `steps` from what is left.
    pub fn spend(&mut self, steps: u64) {
        self.left = self.left.saturating_sub(steps);
    }

    /// Whether nothing is left.
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }

    fn visit(&mut self, entries: u64) {
        self.visited += entries;
        self.spend(entries);
    }
}

/// Steps that it takes to give a publication to a client.
const GIVING: u64 = 4;

/// Whether what was published after a position can be given.
#[derive(Debug)]
pub enum Resumption {
    /// All of it.
    Possible(Recovery),
    /// The position has not been come to here yet.
    Ahead,
    /// The position is not known here yet, if it ever will be.
    Unknown,
    /// Not all of it.
    Impossible,
}

/// A subscription that is being given what it has missed. It is in its room only when that is done.
#[derive(Debug)]
pub struct Recovery {
    key: Arc<RoomKey>,
    terms: Terms,
    request_id: RequestId,
    /// The number of the last publication that has been given or passed over.
    reached: u64,
    at: Option<Reading>,
}

/// A segment on its way to a client. It may leave the history meanwhile: a client that takes its time keeps nothing alive.
#[derive(Debug)]
struct Reading {
    segment: Weak<Segment>,
    places: Vec<u16>,
    next: usize,
}

/// How far a recovery has got.
#[derive(Debug)]
pub enum Step {
    /// To the end: the subscription is in its room.
    Joined(Seat),
    /// As [`Joined`](Self::Joined), but something was dropped before the client had taken it.
    Lost(Seat),
    /// There is more, for when others have had their turn.
    More,
    /// There is more, for when the client has taken what waits for it.
    Full,
}

impl Hub {
    /// Where the log is at present, if there is one.
    pub fn position(&self) -> Option<Position> {
        self.history.lock().position()
    }

    /// Returns the number of the last publication, as [`Recovery::reached`] counts, and where the log is, if there is one.
    pub fn reached(&self) -> (u64, Option<Position>) {
        let history = self.history.lock();
        let position = history.position();
        (position.map_or_else(|| history.number(), |position| history.number_at(position.offset)), position)
    }

    /// Returns the number of the last publication up to `offset`, or `None` where the log has not come so far.
    pub fn number_at(&self, offset: u64) -> Option<u64> {
        let history = self.history.lock();
        history.position().filter(|head| offset <= head.offset).map(|_| history.number_at(offset))
    }

    /// Returns the number of the last publication that is too old to be given to a client that comes back.
    pub fn oldest(&self) -> u64 {
        self.history.lock().oldest()
    }

    /// From `offset` on, positions are of `epoch`.
    pub fn begin_epoch(&self, epoch: Epoch, offset: u64) {
        self.history.lock().begin(epoch, offset, Instant::now());
    }

    /// What follows does not go on where the log ended: no position given out so far counts any more.
    pub fn forget(&self) {
        self.history.lock().forget(Instant::now());
    }

    /// Something stands in the log at `offset` that is published to nobody.
    pub fn pass(&self, offset: u64) {
        self.history.lock().pass(offset);
    }

    /// Accepts `publication`, which stands at `offset` if there is a log. Its audience is looked up after that.
    pub fn record(&self, publication: Publication, offset: Option<u64>) -> Arc<Publication> {
        let mut history = self.history.lock();
        let publication = history.record(publication, offset, Instant::now());
        self.metrics.history_bytes.set(i64::try_from(history.bytes()).unwrap_or(i64::MAX));
        publication
    }

    /// As [`join`](Self::join), for a client that knows positions: `reply` is told after which one everything follows.
    pub fn join_after(
        &self,
        key: &RoomKey,
        outbox: &Arc<Outbox>,
        request_id: &RequestId,
        mut reply: impl FnMut(Option<Position>),
    ) -> Seat {
        let history = self.history.lock();
        self.join_from(history.number() + 1, key, outbox, request_id, || reply(history.position()))
    }

    /// Whether a subscription to the room of `key` can be given what was published after `since`.
    pub fn resume(&self, key: &Arc<RoomKey>, request_id: &RequestId, since: Position) -> Resumption {
        let found = self.history.lock().find(since);
        match found {
            Found::After(reached) => Resumption::Possible(Recovery {
                key: key.clone(),
                terms: self.matching.terms(key),
                request_id: request_id.clone(),
                reached,
                at: None,
            }),
            Found::Ahead => Resumption::Ahead,
            Found::Unknown => Resumption::Unknown,
            Found::Gone => Resumption::Impossible,
        }
    }

    /// Queues in `outbox`, which is to be flushed afterwards, what comes next of `recovery`, as long as no more than
    /// `waiting_bytes` are there and `budget` is not spent.
    ///
    /// # Errors
    /// When the outbox is closing.
    pub fn recover(
        &self,
        recovery: &mut Recovery,
        outbox: &Arc<Outbox>,
        waiting_bytes: usize,
        budget: &mut Budget,
    ) -> Result<Step, Full> {
        let mut queued = 0;
        let mut give = |publication: &Arc<Publication>, recovery_id: &RequestId| {
            if publication.is_for(outbox.connection(), 0) {
                outbox.push(Frame::Publication(publication.clone(), recovery_id.clone()))?;
                queued += 1;
            }
            Ok(())
        };
        let step = self.give(recovery, outbox, waiting_bytes, budget, &mut give);
        self.metrics.publications_queued.inc_by(queued);
        self.metrics.publications_replayed.inc_by(queued);
        self.metrics.recovery_entries.inc_by(std::mem::take(&mut budget.visited));
        step
    }

    fn give(
        &self,
        recovery: &mut Recovery,
        outbox: &Arc<Outbox>,
        waiting_bytes: usize,
        budget: &mut Budget,
        give: &mut impl FnMut(&Arc<Publication>, &RequestId) -> Result<(), Full>,
    ) -> Result<Step, Full> {
        while !budget.is_spent() {
            if let Some(reading) = &mut recovery.at
                && let Some(segment) = reading.segment.upgrade()
            {
                while let Some(publication) = reading.places.get(reading.next).and_then(|place| segment.get(*place)) {
                    // One that is delivered twice is so at once.
                    if publication.number != recovery.reached {
                        if budget.is_spent() {
                            return Ok(Step::More);
                        }
                        if !has_room(outbox, publication, waiting_bytes) {
                            return Ok(Step::Full);
                        }
                    }
                    budget.spend(GIVING);
                    give(publication, &recovery.request_id)?;
                    recovery.reached = publication.number;
                    reading.next += 1;
                }
                recovery.reached = segment.last_number();
            }
            recovery.at = None;
            let mut visited = 0;
            let (room, terms) = (&*recovery.key, &recovery.terms);
            let query = Query { room, terms, matching: &self.matching, after: recovery.reached };
            let mut history = self.history.lock();
            let number = history.number();
            match history.next(recovery.reached, Instant::now()) {
                Next::Full(segment) => {
                    drop(history);
                    let places = segment.find(&query, &mut visited);
                    budget.visit(visited);
                    recovery.at = Some(Reading { segment: Arc::downgrade(&segment), places, next: 0 });
                }
                Next::Last(segment) => {
                    let places = segment.walk(&query, &mut visited);
                    budget.visit(visited);
                    for publication in places.into_iter().filter_map(|place| segment.get(place)) {
                        if publication.number != recovery.reached && !has_room(outbox, publication, waiting_bytes) {
                            return Ok(Step::Full);
                        }
                        give(publication, &recovery.request_id)?;
                        recovery.reached = publication.number;
                    }
                    return Ok(Step::Joined(self.join_recovered(recovery, outbox, number)));
                }
                Next::Dropped => return Ok(Step::Lost(self.join_recovered(recovery, outbox, number))),
            }
        }
        Ok(Step::More)
    }

    fn join_recovered(&self, recovery: &Recovery, outbox: &Arc<Outbox>, number: u64) -> Seat {
        self.join_from(number + 1, &recovery.key, outbox, &recovery.request_id, || {})
    }
}

/// Whether `publication` can be added to what waits in `outbox`; a large one only when nothing does.
fn has_room(outbox: &Outbox, publication: &Publication, waiting_bytes: usize) -> bool {
    let waiting = outbox.waiting_bytes();
    waiting == 0 || waiting + publication.data.len() <= waiting_bytes
}

impl Recovery {
    /// Returns the number of the last publication that the client has been given or has passed over.
    pub fn reached(&self) -> u64 {
        self.reached
    }

    /// The room it will be in.
    pub fn room(&self) -> &Arc<RoomKey> {
        &self.key
    }

    /// The label of the subscription.
    pub fn request_id(&self) -> &RequestId {
        &self.request_id
    }
}
