//! What one subscription has been given, number by number. Pure.

use serde::{Deserialize, Serialize};

pub const PUBLISHERS: usize = 3;
pub const ROOMS: usize = 6;

/// A number for each publisher and room.
pub type Numbers = [[u64; ROOMS]; PUBLISHERS];

/// The data of a trigger.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry<'a> {
    pub publisher: usize,
    /// Counts the publisher's triggers.
    pub serial: u64,
    /// The rooms it goes to, each with a number that counts the publisher's triggers to it.
    pub numbers: Vec<(usize, u64)>,
    pub size: usize,
    /// So many letters.
    pub padding: &'a str,
}

/// Why an entry may not come where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// These come before it, and did not.
    Missing { from: u64, until: u64 },
    /// It has come already, or a later one has.
    Again { last: u64 },
    /// It is later than one that has come already to another room.
    Disorder { last: u64 },
    /// It is for other rooms, or not what was sent.
    Garbled,
}

/// The last numbers that one subscription was given.
#[derive(Debug)]
pub struct Page {
    /// All rooms where there is none.
    room: Option<usize>,
    last: Numbers,
    serials: [u64; PUBLISHERS],
    /// Where anything may come next.
    excused: [[bool; ROOMS]; PUBLISHERS],
    excused_serials: [bool; PUBLISHERS],
}

impl Page {
    pub fn new(room: Option<usize>) -> Self {
        Self {
            room,
            last: Default::default(),
            serials: Default::default(),
            excused: Default::default(),
            excused_serials: Default::default(),
        }
    }

    /// Which room it is of; `None` for all of them.
    pub fn room(&self) -> Option<usize> {
        self.room
    }

    /// Notes that `entry` has come, right or wrong.
    pub fn enter(&mut self, entry: &Entry<'_>) -> Result<(), Wrong> {
        let Some(last) = self.serials.get_mut(entry.publisher) else { return Err(Wrong::Garbled) };
        let is_excused = std::mem::take(&mut self.excused_serials[entry.publisher]);
        let mut outcome = Ok(());
        if entry.serial <= *last && !is_excused {
            outcome = Err(Wrong::Disorder { last: *last });
        }
        *last = entry.serial;
        if entry.padding.len() != entry.size {
            return Err(Wrong::Garbled);
        }
        let mut is_wanted = false;
        for (room, number) in entry.numbers.iter().filter(|(room, _)| self.room.is_none_or(|own| own == *room)) {
            let Some(last) = self.last[entry.publisher].get_mut(*room) else { return Err(Wrong::Garbled) };
            is_wanted = true;
            let is_excused = std::mem::take(&mut self.excused[entry.publisher][*room]);
            if !is_excused && *number <= *last {
                outcome = Err(Wrong::Again { last: *last });
                continue;
            }
            if !is_excused && *number > *last + 1 {
                outcome = Err(Wrong::Missing { from: *last + 1, until: *number });
            }
            *last = *number;
        }
        if is_wanted { outcome } else { Err(Wrong::Garbled) }
    }

    /// The client has been told to fetch again: whatever comes next is right.
    pub fn excuse(&mut self) {
        self.excused = [[true; ROOMS]; PUBLISHERS];
        self.excused_serials = [true; PUBLISHERS];
    }

    /// How many of `accepted` have not come yet.
    pub fn behind(&self, accepted: &Numbers) -> u64 {
        let of_publisher = |publisher: usize| {
            let rooms = (0..ROOMS).filter(|room| self.room.is_none_or(|own| own == *room));
            let rooms = rooms.filter(move |room| !self.excused[publisher][*room]);
            rooms.map(move |room| accepted[publisher][room].saturating_sub(self.last[publisher][room])).sum::<u64>()
        };
        (0..PUBLISHERS).map(of_publisher).sum()
    }
}
