//! Publishing to those who are subscribed, in pieces that can be spread over the workers.

use std::sync::Arc;

use super::{
    Outbox, Publication,
    members::{Chunk, Rooms},
};
use crate::metrics::Metrics;

/// Whether a publication is written at once.
///
/// What a client sees first is decided when a frame comes to its outbox. Writing keeps that order whoever does it, and so
/// it can be put off to the end of a batch, where one system call takes all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Written at once to whoever has nothing waiting.
    AtOnce,
    /// Queued, because more follows.
    Later,
}

/// What came of publishing.
#[derive(Debug, Default)]
pub struct Tally {
    /// Subscriptions whose frame has been written.
    pub written: u64,
    /// Subscriptions whose frame waits in an outbox.
    pub queued: u64,
    dirty: Vec<Arc<Outbox>>,
}

/// The rooms that a trigger is for.
#[derive(Debug)]
pub struct Audience {
    rooms: Rooms,
}

/// A part of an audience: up to 1,024 subscriptions.
#[derive(Debug)]
pub struct Portion {
    chunk: Arc<Chunk>,
    next: usize,
}

impl Tally {
    /// Adds what another part of the same work came to.
    pub fn add(&mut self, mut other: Self) {
        self.written += other.written;
        self.queued += other.queued;
        self.dirty.append(&mut other.dirty);
    }

    /// The outbox of one of the queued has to be flushed by the caller.
    pub(super) fn must_flush(&mut self, outbox: &Arc<Outbox>) {
        self.dirty.push(outbox.clone());
    }

    /// Counts what has been done since the last time. The outboxes that are left to flush.
    pub fn settle(&mut self, metrics: &Metrics) -> Vec<Arc<Outbox>> {
        let Self { written, queued, dirty } = std::mem::take(self);
        metrics.publications_queued.inc_by(written + queued);
        metrics.publications_sent.inc_by(written);
        dirty
    }
}

impl Audience {
    pub(super) fn new(rooms: Rooms) -> Self {
        Self { rooms }
    }

    pub(super) fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// Subscriptions at present.
    pub fn members(&self) -> usize {
        self.rooms.iter().map(|room| room.len()).sum()
    }

    /// Publishes to all of it.
    pub fn publish(&self, publication: &Arc<Publication>, pace: Pace, tally: &mut Tally) {
        for chunk in self.rooms.iter().flat_map(|room| room.chunks()) {
            let mut portion = Portion { chunk, next: 0 };
            while portion.publish(publication, pace, tally) {}
        }
    }

    /// The same as parts, to be published to in any order and by anybody.
    pub fn into_portions(self) -> Vec<Portion> {
        self.rooms.iter().flat_map(|room| room.chunks()).map(|chunk| Portion { chunk, next: 0 }).collect()
    }
}

impl Portion {
    /// Publishes to the next few subscriptions. Whether there are more.
    pub fn publish(&mut self, publication: &Arc<Publication>, pace: Pace, tally: &mut Tally) -> bool {
        let next = self.chunk.publish(self.next, publication, pace, tally);
        self.next = next.unwrap_or(self.next);
        next.is_some()
    }
}
