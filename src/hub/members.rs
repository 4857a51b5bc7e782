//! A room and the subscriptions in it.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use super::{
    Full, Outbox, Publication,
    fanout::{Pace, Tally},
    outbox::Published,
};
use crate::{protocol::RequestId, room::RoomKey};

/// Members kept under one lock.
const CHUNK: usize = 1024;

/// Members that are published to before the lock is let go, so that who wants to join waits for no more than these writes.
const GROUP: usize = 16;

/// Some rooms; mostly one.
pub(super) type Rooms = SmallVec<[Arc<Room>; 2]>;

/// A room that somebody is subscribed to.
#[derive(Debug)]
pub(super) struct Room {
    key: RoomKey,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    chunks: Vec<Arc<Chunk>>,
    /// Chunks with a place left; a new member goes to the last of them.
    open: Vec<u32>,
    taken: usize,
    /// The room has left the index; nobody may join it any more.
    is_gone: bool,
}

/// Up to [`CHUNK`] members. Its lock is held for reading while a publication goes into their outboxes and for writing
/// while one joins or leaves, so what a member is sent agrees with the replies in its outbox.
#[derive(Debug, Default)]
pub(super) struct Chunk(RwLock<Members>);

#[derive(Debug, Default)]
struct Members {
    all: Vec<Option<Member>>,
    /// Empty places in `all`.
    free: Vec<u32>,
}

/// A subscription as its room sees it.
#[derive(Debug)]
struct Member {
    outbox: Arc<Outbox>,
    request_id: RequestId,
    /// The number of the first publication it gets here; those before it has got otherwise, or has no use for.
    first: u64,
}

/// A subscription's place in its room, to be given back to the hub.
#[derive(Debug)]
pub struct Seat {
    pub(super) room: Arc<Room>,
    chunk: u32,
    place: u32,
}

impl Seat {
    /// The room subscribed to.
    pub fn room(&self) -> &RoomKey {
        &self.room.key
    }
}

impl Room {
    pub(super) fn new(key: RoomKey) -> Self {
        Self { key, places: Mutex::default() }
    }

    pub(super) fn key(&self) -> &RoomKey {
        &self.key
    }

    /// Adds a member for publications from the number `first` on, and runs `reply` before any publication can reach it.
    ///
    /// `None`, with `reply` not run, when the room has left the index.
    pub(super) fn join(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        request_id: &RequestId,
        first: u64,
        reply: &mut impl FnMut(),
    ) -> Option<Seat> {
        let mut places = self.places.lock();
        if places.is_gone {
            return None;
        }
        let chunk = match places.open.last() {
            Some(chunk) => *chunk,
            None => places.open_chunk()?,
        };
        let mut members = places.chunks.get(chunk as usize)?.0.write();
        let place = members.seat(Member { outbox: outbox.clone(), request_id: request_id.clone(), first })?;
        reply();
        let is_full = members.is_full();
        drop(members);
        if is_full {
            places.open.pop();
        }
        places.taken += 1;
        Some(Seat { room: self.clone(), chunk, place })
    }

    /// Members at present.
    pub(super) fn len(&self) -> usize {
        self.places.lock().taken
    }

    /// Takes a member out and runs `reply` when no publication can reach it any more. Whether the room is empty now.
    pub(super) fn leave(&self, seat: &Seat, reply: impl FnOnce()) -> bool {
        let mut places = self.places.lock();
        let Some(chunk) = places.chunks.get(seat.chunk as usize) else { return false };
        let mut members = chunk.0.write();
        let was_full = members.is_full();
        members.unseat(seat.place);
        reply();
        drop(members);
        if was_full {
            places.open.push(seat.chunk);
        }
        places.taken -= 1;
        places.taken == 0
    }

    /// Closes an empty room for good. Whether it was empty, and open until now.
    pub(super) fn retire(&self) -> bool {
        let mut places = self.places.lock();
        let retires = places.taken == 0 && !places.is_gone;
        places.is_gone |= retires;
        retires
    }

    /// The members' chunks at present.
    pub(super) fn chunks(&self) -> SmallVec<[Arc<Chunk>; 1]> {
        self.places.lock().chunks.iter().cloned().collect()
    }
}

impl Chunk {
    /// Publishes to the members from place `start` on, to a group of them. Where the next group starts, if there is one.
    pub(super) fn publish(
        &self,
        start: usize,
        publication: &Arc<Publication>,
        pace: Pace,
        tally: &mut Tally,
    ) -> Option<usize> {
        let members = self.0.read();
        for member in members.all.iter().skip(start).take(GROUP).flatten() {
            if !publication.is_for(member.outbox.connection(), member.first) {
                continue;
            }
            match member.outbox.publish(publication, &member.request_id, pace) {
                Ok(Published::Written) => tally.written += 1,
                Ok(Published::Queued { must_flush }) => {
                    tally.queued += 1;
                    if must_flush {
                        tally.must_flush(&member.outbox);
                    }
                }
                Err(Full) => {}
            }
        }
        (start + GROUP < members.all.len()).then_some(start + GROUP)
    }
}

impl Places {
    fn open_chunk(&mut self) -> Option<u32> {
        let chunk = u32::try_from(self.chunks.len()).ok()?;
        if self.chunks.is_empty() {
            (self.chunks, self.open) = (Vec::with_capacity(1), Vec::with_capacity(1)); // most rooms are small
        }
        self.chunks.push(Arc::default());
        self.open.push(chunk);
        Some(chunk)
    }
}

impl Members {
    fn seat(&mut self, member: Member) -> Option<u32> {
        if let Some(place) = self.free.pop() {
            *self.all.get_mut(place as usize)? = Some(member);
            return Some(place);
        }
        if self.all.is_empty() {
            self.all = Vec::with_capacity(1);
        }
        self.all.push(Some(member));
        u32::try_from(self.all.len() - 1).ok()
    }

    fn unseat(&mut self, place: u32) {
        if self.all.get_mut(place as usize).and_then(Option::take).is_some() {
            self.free.push(place);
        }
        if self.free.len() == self.all.len() {
            *self = Self::default(); // give the memory back
        }
    }

    fn is_full(&self) -> bool {
        self.all.len() == CHUNK && self.free.is_empty()
    }
}
