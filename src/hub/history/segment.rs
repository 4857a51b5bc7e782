//! A run of publications, of which those for a room can be found.

use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use super::{
    super::Publication,
    postings::{self, Matching, POSTING_BYTES, Postings, Terms},
};
use crate::room::RoomKey;

/// Publications of a segment at most. A place in it fits 16 bits.
const PUBLICATIONS: usize = 4096;
/// Postings after which a segment takes no more: to make them takes about a millisecond.
const POSTINGS: usize = 4 * PUBLICATIONS;
/// Publications that are read under the lock by a walk, and rooms of theirs.
const WALKED_PUBLICATIONS: usize = 16;
const WALKED_ROOMS: usize = 64;
/// Bytes of a publication beside its texts.
const OVERHEAD_BYTES: usize = 256;

/// Publications that follow each other.
#[derive(Debug)]
pub(in super::super) struct Segment {
    pub(super) publications: Vec<Arc<Publication>>,
    pub(super) bytes: usize,
    pub(super) oldest: Instant,
    pub(super) newest: Instant,
    /// Postings there are, or would be.
    postings: usize,
    /// Made when somebody first asks; never of a segment that grows.
    index: OnceLock<Postings>,
}

/// A room that publications are looked for.
#[derive(Debug)]
pub(in super::super) struct Query<'q> {
    pub(in super::super) room: &'q RoomKey,
    pub(in super::super) terms: &'q Terms,
    pub(in super::super) matching: &'q Matching,
    /// Publications up to this number are not wanted.
    pub(in super::super) after: u64,
}

impl Segment {
    pub(super) fn new(now: Instant) -> Self {
        Self { publications: Vec::new(), bytes: 0, oldest: now, newest: now, postings: 0, index: OnceLock::new() }
    }

    pub(in super::super) fn get(&self, place: u16) -> Option<&Arc<Publication>> {
        self.publications.get(usize::from(place))
    }

    /// Returns the number of the last publication; 0 where there is none.
    pub(in super::super) fn last_number(&self) -> u64 {
        self.publications.last().map_or(0, |publication| publication.number)
    }

    /// Adds a publication; returns the bytes that are kept because of it.
    pub(super) fn push(&mut self, publication: Arc<Publication>, now: Instant) -> usize {
        if self.publications.is_empty() {
            self.oldest = now;
        }
        let postings = postings::count(&publication.rooms);
        let texts: usize = publication.rooms.iter().map(|room| size_of::<RoomKey>() + room.as_str().len()).sum();
        // The data keeps the whole body of its trigger, of which the rooms are the rest.
        let bytes = OVERHEAD_BYTES + publication.data.len() + 2 * texts + POSTING_BYTES * postings;
        self.bytes += bytes;
        self.postings += postings;
        self.newest = now;
        self.publications.push(publication);
        bytes
    }

    /// Whether this and `later`, which follows it, can be one segment, and the copying is worth it.
    pub(super) fn takes(&self, later: &Self) -> bool {
        self.publications.len() + later.publications.len() <= PUBLICATIONS
            && self.postings + later.postings <= POSTINGS
            && self.publications.len() <= 2 * later.publications.len()
    }

    /// The same publications, to become part of another one.
    pub(super) fn copy(&self) -> Self {
        let (publications, index) = (self.publications.clone(), OnceLock::new());
        Self { publications, index, ..*self }
    }

    /// The two as one.
    pub(super) fn join(mut self, mut later: Self) -> Self {
        self.publications.reserve_exact(later.publications.len());
        self.publications.append(&mut later.publications);
        Self {
            publications: self.publications,
            bytes: self.bytes + later.bytes,
            oldest: self.oldest,
            newest: later.newest,
            postings: self.postings + later.postings,
            index: OnceLock::new(),
        }
    }

    /// Whether so little stands after `number` that it can be read under the lock.
    pub(super) fn is_short_after(&self, number: u64) -> bool {
        let left = &self.publications[self.first_after(number)..];
        let rooms = || left.iter().map(|publication| publication.rooms.len()).sum::<usize>();
        left.len() <= WALKED_PUBLICATIONS && rooms() <= WALKED_ROOMS
    }

    /// Finds the publications for a room, in their order; in 3.1's delivery as often as they list it. Adds what is looked at to
    /// `work`. Not for a segment that grows.
    pub(in super::super) fn find(&self, query: &Query<'_>, work: &mut u64) -> Vec<u16> {
        let index = self.index.get_or_init(|| {
            *work += self.postings as u64;
            Postings::new(&self.publications, query.matching)
        });
        let first = u16::try_from(self.first_after(query.after)).unwrap_or(u16::MAX);
        index.find(&self.publications, first, query, work)
    }

    /// As [`find`](Self::find), by a walk, for the few publications that are the last.
    pub(in super::super) fn walk(&self, query: &Query<'_>, work: &mut u64) -> Vec<u16> {
        let first = self.first_after(query.after);
        let mut places = Vec::new();
        for (place, publication) in (0..).zip(&self.publications).skip(first) {
            *work += publication.rooms.len() as u64;
            let times = query.matching.deliveries(&publication.rooms, query.room);
            places.extend(std::iter::repeat_n(place, times));
        }
        places
    }

    fn first_after(&self, number: u64) -> usize {
        self.publications.partition_point(|publication| publication.number <= number)
    }
}
