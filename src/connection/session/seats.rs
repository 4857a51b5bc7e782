//! The rooms that one `requestId` stands for.

use std::{
    borrow::Borrow,
    collections::HashSet,
    hash::{Hash, Hasher},
};

use foldhash::fast::RandomState;

use crate::{hub::Seat, room::RoomKey};

/// Mostly one; several only in 3.1's protocol.
#[derive(Debug)]
pub(super) enum Seats {
    /// Not in its room yet: it is being given what it has missed.
    Recovering,
    One(Seat),
    Many(HashSet<ByRoom, RandomState>),
}

/// A seat, as one of many found by its room.
#[derive(Debug)]
pub(super) struct ByRoom(Seat);

impl Seats {
    /// How many there are, one that is waited for included.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Recovering | Self::One(_) => 1,
            Self::Many(seats) => seats.len(),
        }
    }

    /// The rooms, as far as they have been joined.
    pub(super) fn rooms(&self) -> impl Iterator<Item = &RoomKey> {
        let (one, many) = match self {
            Self::Recovering => (None, None),
            Self::One(seat) => (Some(seat.room()), None),
            Self::Many(seats) => (None, Some(seats)),
        };
        one.into_iter().chain(many.into_iter().flatten().map(|ByRoom(seat)| seat.room()))
    }

    pub(super) fn has(&self, room: &RoomKey) -> bool {
        match self {
            Self::Recovering => false,
            Self::One(seat) => seat.room() == room,
            Self::Many(seats) => seats.contains(room),
        }
    }

    pub(super) fn add(&mut self, seat: Seat) {
        match std::mem::replace(self, Self::Recovering) {
            Self::Recovering => *self = Self::One(seat),
            Self::One(first) => *self = Self::Many([first, seat].map(ByRoom).into_iter().collect()),
            Self::Many(mut seats) => {
                seats.insert(ByRoom(seat));
                *self = Self::Many(seats);
            }
        }
    }

    pub(super) fn append_to(self, all: &mut Vec<Seat>) {
        match self {
            Self::Recovering => {}
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
