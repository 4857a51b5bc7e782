//! Who may receive what, as simply as it can be said: everything is remembered, and looked through from one end to the other.

mod credentials;
mod visit;

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use uuid::Uuid;

pub(super) use self::visit::Visit;
use super::{
    super::simulated::{covers, key},
    TTL,
};

/// Who somebody is and what it may join.
#[derive(Clone, Debug)]
pub(super) struct Rights {
    pub(super) user: Option<String>,
    pub(super) rooms: Vec<Value>,
    /// The rooms in their canonical form.
    pub(super) keys: BTreeSet<String>,
}

impl Rights {
    pub(super) fn new(user: Option<String>, rooms: Vec<Value>) -> Self {
        let keys = rooms.iter().map(|room| key(room).as_str().to_owned()).collect();
        Self { user, rooms, keys }
    }

    fn cover(&self, wanted: &Value) -> bool {
        self.rooms.iter().any(|allowed| covers(allowed, wanted))
    }

    /// Those of these rooms that `other` covers.
    fn within(&self, other: &Self) -> Self {
        Self::new(self.user.clone(), self.rooms.iter().filter(|room| other.cover(room)).cloned().collect())
    }
}

/// Rights that somebody had for entries up to a number.
type Past = (usize, Rights);

/// What was published.
pub(super) struct Entry {
    pub(super) rooms: Vec<Value>,
    pub(super) exclude: Vec<Uuid>,
}

/// All that has happened, by the number of the event.
#[derive(Default)]
pub(super) struct Log {
    pub(super) now: u64,
    /// Milliseconds since the start, and by how many of them the time of day is ahead.
    pub(super) time: u64,
    pub(super) ahead: i64,
    pub(super) interval: Option<u64>,
    pub(super) entries: Vec<Entry>,
    /// Of these, how many are in the outboxes of all they are for.
    pub(super) fanned_out: usize,
    /// By position: the number of entries up to there, and the life of the log it is of.
    pub(super) positions: HashMap<String, (usize, usize)>,
    pub(super) life: usize,
    /// Control messages: whom they were about, everybody if nobody is named.
    controls: Vec<(u64, Option<String>, Option<Uuid>)>,
    /// The last one about each user in this life of the log: the entries before it.
    changed: HashMap<String, (usize, usize)>,
    gap: u64,
}

impl Log {
    pub(super) fn checked_every(interval: Option<u64>) -> Self {
        Self { interval, ..Self::default() }
    }

    pub(super) fn note_control(&mut self, user: Option<&str>, connection: Option<Uuid>) {
        let user = user.filter(|_| connection.is_none()).map(str::to_owned);
        if let Some(user) = &user {
            self.changed.insert(user.clone(), (self.entries.len(), self.life));
        }
        self.controls.push((self.now, user, connection));
    }

    /// Something may have been said that nobody has heard.
    pub(super) fn note_gap(&mut self) {
        self.gap = self.now;
    }

    fn is_told_since(&self, event: u64, user: Option<&str>, connection: Option<Uuid>) -> bool {
        self.controls.iter().rev().take_while(|(at, ..)| *at > event).any(|(_, about, id)| match (about, id) {
            (None, None) => true,
            (_, Some(id)) => connection == Some(*id),
            (Some(about), None) => user == Some(about),
        })
    }

    /// Whether what the backend was asked at `event` may not hold any more.
    fn has_changed(&self, event: u64, user: Option<&str>, connection: Option<Uuid>) -> bool {
        self.gap > event || self.is_told_since(event, user, connection)
    }

    pub(super) fn counts(&self, ticket: &Ticket) -> bool {
        let (user, connection) = (ticket.rights.user.as_deref(), Some(ticket.connection));
        let wall = self.wall();
        let ttl = i64::try_from(TTL).unwrap();
        ticket.life == self.life
            && !self.is_told_since(ticket.queued, user, connection)
            && ticket.confirmed <= wall + ttl
            && ticket.end <= wall + 2 * ttl
            && self.left(ticket) > 0
    }

    /// For how long a ticket counts yet.
    fn left(&self, ticket: &Ticket) -> i64 {
        let end = self.interval.map(|interval| ticket.confirmed + i64::try_from(interval).unwrap());
        end.unwrap_or(i64::MAX).min(ticket.end) - self.wall()
    }

    /// The time of day.
    fn wall(&self) -> i64 {
        i64::try_from(self.time).unwrap() + self.ahead
    }
}

/// A ticket, with the rights and the event that it is of.
#[derive(Clone)]
pub(super) struct Ticket {
    pub(super) text: String,
    pub(super) rights: Rights,
    past: Vec<Past>,
    pub(super) identity: usize,
    connection: Uuid,
    queued: u64,
    life: usize,
    /// By the time of day: when the backend said so, and when it ends. Of one that has been redeemed, by the other clock.
    confirmed: i64,
    end: i64,
    /// When somebody was last connected whom the backend itself had let in.
    backed: u64,
}

impl Ticket {
    /// Where nobody sets the clock: this is what tickets promise.
    pub(super) fn assert_in_time(&self, log: &Log) {
        assert!(log.time - self.backed < TTL, "a chain of tickets that is too long");
        let age = log.time - u64::try_from(self.confirmed).unwrap();
        assert!(log.interval.is_none_or(|interval| age < interval), "longer than between two checks");
    }

    /// The same, as the one who has it redeemed goes by it.
    pub(super) fn redeemed(&self, log: &Log) -> Self {
        let now = i64::try_from(log.time).unwrap();
        let (confirmed, end) =
            (now - (log.wall() - self.confirmed).max(0), now + log.left(self).min(i64::try_from(TTL).unwrap()));
        Self { confirmed, end, ..self.clone() }
    }
}
