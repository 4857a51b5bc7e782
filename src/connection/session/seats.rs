//! The rooms that one `requestId` stands for.

use std::{
    borrow::Borrow,
    collections::HashSet,
    hash::{Hash, Hasher},
    sync::Arc,
};

use foldhash::fast::RandomState;

use crate::{hub::Seat, room::RoomKey};

/// Mostly one; several only in 3.1's protocol.
#[derive(Debug)]
pub(super) enum Seats {
    /// Not in its room yet: it waits for its answer, or is being given what it has missed. No other one has the same `Arc`.
    Recovering(Arc<RoomKey>),
    One(Seat),
    Many(HashSet<ByRoom, RandomState>),
}

/// A seat, as one of many found by its room.
#[derive(Debug)]
pub(super) struct ByRoom(Seat);

impl Seats {
    /// The rooms, as far as they have been joined.
    pub(super) fn rooms(&self) -> impl Iterator<Item = &RoomKey> {
        let (one, many) = match self {
            Self::Recovering(_) => (None, None),
            Self::One(seat) => (Some(seat.room()), None),
            Self::Many(seats) => (None, Some(seats)),
        };
        one.into_iter().chain(many.into_iter().flatten().map(|ByRoom(seat)| seat.room()))
    }

    /// The rooms, one that is waited for included.
    pub(super) fn all_rooms(&self) -> impl Iterator<Item = &RoomKey> {
        let waiting = match self {
            Self::Recovering(key) => Some(&**key),
            _ => None,
        };
        waiting.into_iter().chain(self.rooms())
    }

    /// Whether it is the one that waits for the room `key`.
    pub(super) fn is_waiting_for(&self, key: &Arc<RoomKey>) -> bool {
        matches!(self, Self::Recovering(waiting) if Arc::ptr_eq(waiting, key))
    }

    pub(super) fn has(&self, room: &RoomKey) -> bool {
        match self {
            Self::Recovering(_) => false,
            Self::One(seat) => seat.room() == room,
            Self::Many(seats) => seats.contains(room),
        }
    }

    pub(super) fn add(&mut self, seat: Seat) {
        match std::mem::replace(self, Self::Many(HashSet::default())) {
            Self::Recovering(_) => *self = Self::One(seat),
            Self::One(first) => *self = Self::Many([first, seat].map(ByRoom).into_iter().collect()),
            Self::Many(mut seats) => {
                seats.insert(ByRoom(seat));
                *self = Self::Many(seats);
            }
        }
    }

    pub(super) fn append_to(self, all: &mut Vec<Seat>) {
        match self {
            Self::Recovering(_) => {}
            Self::One(seat) => all.push(seat),
            Self::Many(seats) => all.extend(seats.into_iter().map(|ByRoom(seat)| seat)),
        }
    }
}

impl Borrow<RoomKey> for ByRoom {
    fn borrow(&self) -> &RoomKey {
        self.0.room()
    }
}

impl Hash for ByRoom {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.room().hash(state);
    }
}

impl PartialEq for ByRoom {
    fn eq(&self, other: &Self) -> bool {
        self.0.room() == other.0.room()
    }
}

impl Eq for ByRoom {}
