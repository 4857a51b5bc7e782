//! What one subscription has been given, number by number. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Many, so that several publish at once on a connection that an instance has just made.
pub const PUBLISHERS: usize = 14;
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
    /// Where something may be missing, come again or out of order before the next entry: the last number that may be missing.
    excused: [[Option<u64>; ROOMS]; PUBLISHERS],
    excused_serials: [bool; PUBLISHERS],
    /// When the client was last notified of a gap, or subscribed anew.
    last_notice: Option<Duration>,
    /// What was wrong since then, in a gap of which the client has to be notified.
    suspended: Vec<String>,
}

/// The most that is remembered of what is wrong in a gap.
const SUSPENDED: usize = 3;

impl Page {
    pub fn new(room: Option<usize>) -> Self {
        Self {
            room,
            last: Default::default(),
            serials: Default::default(),
            excused: Default::default(),
            excused_serials: Default::default(),
            last_notice: None,
            suspended: Vec::new(),
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
            let excused = self.excused[entry.publisher][*room].take();
            if excused.is_none() && *number <= *last {
                outcome = Err(Wrong::Again { last: *last });
                continue;
            }
            let from = excused.unwrap_or_default().max(*last) + 1;
            if *number > from {
                outcome = Err(Wrong::Missing { from, until: *number });
            }
            *last = *number;
        }
        if is_wanted { outcome } else { Err(Wrong::Garbled) }
    }

    /// The client fetches everything again, because it was notified of a gap or subscribes anew. What was `accepted` by now
    /// need not come any more, and may come again.
    pub fn excuse(&mut self, now: Duration, accepted: &Numbers) {
        for (excused, accepted) in self.excused.iter_mut().zip(accepted) {
            // One more may have been delivered that its publisher does not know to be accepted.
            *excused = accepted.map(|number| Some(number + 1));
        }
        self.excused_serials = [true; PUBLISHERS];
        self.last_notice = Some(now);
        self.suspended.clear();
    }

    /// When the client was last notified of a gap, or subscribed anew.
    pub fn last_notice(&self) -> Option<Duration> {
        self.last_notice
    }

    /// Remembers something that is wrong unless the client is notified of a gap.
    pub fn suspend(&mut self, wrong: String) {
        if self.suspended.len() < SUSPENDED {
            self.suspended.push(wrong);
        }
    }

    /// What was wrong in a gap of which the client has not been notified.
    pub fn suspended(&self) -> &[String] {
        &self.suspended
    }

    /// How many of `accepted` have not come yet.
    pub fn behind(&self, accepted: &Numbers) -> u64 {
        let of_publisher = |publisher: usize| {
            let rooms = (0..ROOMS).filter(|room| self.room.is_none_or(|own| own == *room));
            rooms.map(move |room| accepted[publisher][room].saturating_sub(self.reached(publisher, room))).sum::<u64>()
        };
        (0..PUBLISHERS).map(of_publisher).sum()
    }

    /// The last number that has come, or need not.
    fn reached(&self, publisher: usize, room: usize) -> u64 {
        self.last[publisher][room].max(self.excused[publisher][room].unwrap_or_default())
    }
}
