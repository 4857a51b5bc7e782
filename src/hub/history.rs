//! What was published lately, so that a client that comes back can be given what it has missed.
//!
//! A ring of segments. A segment that is closed never changes, and is searched without holding anybody up; only the last few
//! publications are read under the lock that appending takes, which is where recovery and live delivery meet.

mod postings;
mod segment;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc};

use tokio::time::Instant;

pub(super) use self::{
    postings::{Matching, Terms},
    segment::{Query, Segment},
};
use super::Publication;
use crate::{
    config,
    protocol::{Epoch, Position},
};

/// Publications that come before the last segment is closed.
const LAST_PUBLICATIONS: usize = 256;
/// Epochs that are known at most, though nothing is published: some begin each hour, and one with each start of an instance.
const EPOCHS: usize = 1024;
/// A segment does not span more than this part of the time that is kept, ...
const SEGMENT_AGE: u32 = 8;
/// ... nor more than this part of the bytes.
const SEGMENT_BYTES: usize = 16;

/// The publications that are kept, and which positions can be vouched for.
#[derive(Debug)]
pub(super) struct History {
    limits: config::History,
    /// Of the last publication recorded.
    number: u64,
    /// The last offset seen.
    head: Option<u64>,
    /// The epochs that are known, each with the offset it begins at. Where none is, nothing is kept.
    epochs: VecDeque<(u64, Epoch)>,
    /// All that was published after this offset is here, ...
    floor: u64,
    /// ... and after this number.
    floor_number: u64,
    full: VecDeque<Arc<Segment>>,
    last: Segment,
    bytes: usize,
}

/// What is known of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// What was published after it is what has a higher number than this.
    After(u64),
    /// This instance has not come to it yet, and will.
    Ahead,
    /// Nothing; its epoch may be one that this instance has not come to yet.
    Unknown,
    /// What was published after it cannot be told any more.
    Gone,
}

/// Where to go on reading.
#[derive(Debug)]
pub(super) enum Next<'h> {
    /// Something was dropped that has not been read.
    Dropped,
    /// In this segment, which does not change; there may be more behind it.
    Full(Arc<Segment>),
    /// Among the last few, which are all that is left.
    Last(&'h Segment),
}

impl History {
    pub(super) fn new(limits: config::History) -> Self {
        let last = Segment::new(Instant::now());
        Self {
            limits,
            number: 0,
            head: None,
            epochs: VecDeque::new(),
            floor: 0,
            floor_number: 0,
            full: VecDeque::new(),
            last,
            bytes: 0,
        }
    }

    /// The number of the last publication.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Where the log is at present.
    pub(super) fn position(&self) -> Option<Position> {
        let (_, epoch) = self.epochs.back()?;
        Some(Position { epoch: *epoch, offset: self.head? })
    }

    /// Bytes kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// From `offset` on, positions are of `epoch`.
    pub(super) fn begin(&mut self, epoch: Epoch, offset: u64, now: Instant) {
        if self.epochs.is_empty() {
            self.drop_all(now);
            self.floor = offset;
        }
        if self.epochs.len() == EPOCHS {
            self.epochs.pop_front();
            self.floor = self.floor.max(self.epochs.front().map_or(offset, |(begin, _)| *begin));
        }
        self.epochs.push_back((offset, epoch));
        self.head = Some(offset);
        self.drop_old(now);
    }

    /// What follows does not go on where this ends: no position given out so far counts any more.
    pub(super) fn forget(&mut self, now: Instant) {
        self.epochs.clear();
        self.head = None;
        self.drop_all(now);
    }

    /// Something stands at `offset` that is published to nobody.
    pub(super) fn pass(&mut self, offset: u64) {
        self.head = Some(offset);
    }

    /// Numbers `publication`, which stands at `offset` if there is a log, and keeps it.
    pub(super) fn record(
        &mut self,
        mut publication: Publication,
        offset: Option<u64>,
        now: Instant,
    ) -> Arc<Publication> {
        self.number += 1;
        publication.number = self.number;
        if let Some(offset) = offset {
            self.head = Some(offset);
            publication.position = self.position();
        }
        let publication = Arc::new(publication);
        if publication.position.is_some() {
            self.keep(publication.clone(), now);
        }
        publication
    }

    /// What is known of `position`.
    pub(super) fn find(&self, position: Position) -> Found {
        let known = self.epochs.iter().position(|(_, epoch)| *epoch == position.epoch);
        let (Some(at), Some(head)) = (known, self.head) else { return Found::Unknown };
        let (begin, next) = (self.epochs[at].0, self.epochs.get(at + 1).map(|(begin, _)| *begin));
        let is_before_next = next.is_none_or(|next| position.offset < next);
        if position.offset < begin.max(self.floor) || !is_before_next {
            return Found::Gone;
        }
        if position.offset > head {
            return Found::Ahead;
        }
        Found::After(self.number_at(position.offset))
    }

    /// Returns the number of the last publication up to `offset`.
    pub(super) fn number_at(&self, offset: u64) -> u64 {
        let is_reached =
            |publication: &Arc<Publication>| publication.position.is_some_and(|reached| reached.offset <= offset);
        let full = self.full.partition_point(|segment| segment.publications.last().is_some_and(is_reached));
        let segment = self.full.get(full).map_or(&self.last, Arc::as_ref);
        let before = segment.publications.partition_point(is_reached);
        match (before.checked_sub(1), segment.publications.first()) {
            (Some(last), _) => segment.publications[last].number,
            (None, Some(first)) => first.number - 1,
            (None, None) => self.number,
        }
    }

    /// Returns the number of the last publication that is not kept any more.
    pub(super) fn oldest(&self) -> u64 {
        self.floor_number
    }

    /// Where what comes after `number` is. Closes the last segment if there is much in it: what is read under the lock, which
    /// appending takes, must be little.
    pub(super) fn next(&mut self, number: u64, now: Instant) -> Next<'_> {
        let is_in_last = self.full.back().is_none_or(|closed| closed.last_number() <= number);
        if is_in_last && !self.last.is_short_after(number) {
            self.close_last(now);
        }
        if number < self.floor_number {
            return Next::Dropped;
        }
        let at = self.full.partition_point(|segment| segment.last_number() <= number);
        self.full.get(at).map_or(Next::Last(&self.last), |segment| Next::Full(segment.clone()))
    }

    fn keep(&mut self, publication: Arc<Publication>, now: Instant) {
        self.bytes += self.last.push(publication, now);
        let is_full = self.last.publications.len() == LAST_PUBLICATIONS
            || self.last.bytes > self.limits.limit_bytes / SEGMENT_BYTES
            || now.duration_since(self.last.oldest) > self.limits.age / SEGMENT_AGE;
        if is_full {
            self.close_last(now);
        }
    }

    /// Makes a segment of the last publications, or a part of the one before. However small the pieces, there are few segments
    /// in the end, and a publication is moved some ten times at most.
    fn close_last(&mut self, now: Instant) {
        let mut last = std::mem::replace(&mut self.last, Segment::new(now));
        while let Some(before) = self.full.pop_back_if(|before| {
            before.takes(&last)
                && before.bytes + last.bytes <= self.limits.limit_bytes / SEGMENT_BYTES
                && last.newest.duration_since(before.oldest) <= self.limits.age / SEGMENT_AGE
        }) {
            let before = Arc::try_unwrap(before).unwrap_or_else(|shared| shared.copy()); // somebody may be reading it
            last = before.join(last);
        }
        self.full.push_back(Arc::new(last));
        self.drop_old(now);
    }

    /// Drops segments that are too old or too much.
    fn drop_old(&mut self, now: Instant) {
        while let Some(oldest) = self.full.front()
            && (self.bytes > self.limits.limit_bytes || now.duration_since(oldest.newest) > self.limits.age)
        {
            self.bytes -= oldest.bytes;
            if let Some(last) = oldest.publications.last() {
                self.floor_number = last.number;
                self.floor = last.position.map_or(self.floor, |position| position.offset);
            }
            self.full.pop_front();
        }
        // The last of those that begin at the floor or before is the one of what follows it.
        while self.epochs.get(1).is_some_and(|(begin, _)| *begin <= self.floor) {
            self.epochs.pop_front();
        }
    }

    fn drop_all(&mut self, now: Instant) {
        self.full.clear();
        self.last = Segment::new(now);
        self.bytes = 0;
        self.floor_number = self.number;
    }
}
