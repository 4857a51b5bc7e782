//! What was published lately, so that a client that comes back can be given what it has missed.
//!
//! A ring of segments. A full segment never changes and is read without holding anybody up; only the last one is read
//! under the lock that appending takes, which is where recovery and live delivery meet.

use std::{
    collections::VecDeque,
    hash::BuildHasher,
    sync::{Arc, OnceLock},
};

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Publication, WildcardDispatch};
use crate::{
    config,
    protocol::{Epoch, Position},
    room::RoomKey,
};

/// Publications of a segment.
const SEGMENT: usize = 256;
/// What a publication costs beside its texts.
const OVERHEAD_BYTES: usize = 256;
/// A segment does not span more than this part of the time that is kept.
const SEGMENT_AGE: u32 = 8;

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

/// Publications that follow each other.
#[derive(Debug)]
pub(super) struct Segment {
    publications: Vec<Arc<Publication>>,
    bytes: usize,
    oldest: Instant,
    newest: Instant,
    /// Of a full segment that somebody has asked.
    index: OnceLock<Index>,
}

/// Where to look for the publications to a room.
#[derive(Debug)]
struct Index {
    hasher: RandomState,
    /// The hash of each room's text with the place of the publication, sorted.
    exact: Vec<(u64, u16)>,
    /// The places of publications to rooms with wildcards.
    wild: Vec<u16>,
}

/// Places of publications in their segment.
pub(super) type Places = SmallVec<[u16; 16]>;

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
    /// Here; there is more behind it.
    Full(Arc<Segment>),
    /// Here; it is the last one.
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
        let is_reached = |publication: &Arc<Publication>| {
            publication.position.is_some_and(|reached| reached.offset <= position.offset)
        };
        let full = self.full.partition_point(|segment| segment.publications.last().is_some_and(is_reached));
        let segment = self.full.get(full).map_or(&self.last, Arc::as_ref);
        let before = segment.publications.partition_point(is_reached);
        Found::After(match (before.checked_sub(1), segment.publications.first()) {
            (Some(last), _) => segment.publications[last].number,
            (None, Some(first)) => first.number - 1,
            (None, None) => self.number,
        })
    }

    /// Where what comes after `number` is.
    pub(super) fn next(&self, number: u64) -> Next<'_> {
        if number < self.floor_number {
            return Next::Dropped;
        }
        let at = self.full.partition_point(|segment| segment.last_number() <= number);
        self.full.get(at).map_or(Next::Last(&self.last), |segment| Next::Full(segment.clone()))
    }

    fn keep(&mut self, publication: Arc<Publication>, now: Instant) {
        if self.last.publications.is_empty() {
            self.last.oldest = now;
        }
        let bytes = weight(&publication);
        self.bytes += bytes;
        self.last.bytes += bytes;
        self.last.newest = now;
        self.last.publications.push(publication);
        let is_full = self.last.publications.len() == SEGMENT
            || self.last.bytes > self.limits.limit_bytes / 16
            || now.duration_since(self.last.oldest) > self.limits.age / SEGMENT_AGE;
        if is_full {
            let mut full = std::mem::replace(&mut self.last, Segment::new(now));
            full.publications.shrink_to_fit();
            self.full.push_back(Arc::new(full));
            self.drop_old(now);
        }
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

impl Segment {
    fn new(now: Instant) -> Self {
        Self { publications: Vec::new(), bytes: 0, oldest: now, newest: now, index: OnceLock::new() }
    }

    pub(super) fn get(&self, place: u16) -> Option<&Arc<Publication>> {
        self.publications.get(usize::from(place))
    }

    /// The number of the last publication; 0 where there is none.
    pub(super) fn last_number(&self) -> u64 {
        self.publications.last().map_or(0, |publication| publication.number)
    }

    /// The publications after `number` to the room `key`, in their order; in 3.1's delivery as often as they list it.
    /// `has_wildcards` says whether any of the room's values stands for others.
    pub(super) fn wanted(&self, key: &RoomKey, has_wildcards: bool, number: u64, dispatch: WildcardDispatch) -> Places {
        let first = self.publications.partition_point(|publication| publication.number <= number);
        let mut places = Places::new();
        let mut look = |place: u16| {
            let Some(publication) = self.get(place).filter(|_| usize::from(place) >= first) else { return };
            let times = dispatch.deliveries(&publication.rooms, key);
            places.extend(std::iter::repeat_n(place, times));
        };
        if self.publications.len() < SEGMENT || has_wildcards {
            (0..).take(self.publications.len()).for_each(look);
        } else {
            let index = self.index.get_or_init(|| Index::new(&self.publications));
            let mut found = index.look_up(key);
            found.sort_unstable();
            found.dedup();
            found.into_iter().for_each(&mut look);
        }
        places
    }
}

impl Index {
    fn new(publications: &[Arc<Publication>]) -> Self {
        let hasher = RandomState::default();
        let (mut exact, mut wild) = (Vec::new(), Vec::new());
        for (place, publication) in (0..).zip(publications) {
            for room in &publication.rooms {
                exact.push((hasher.hash_one(room.as_str()), place));
                if !room.wildcards().is_empty() {
                    wild.push(place);
                }
            }
        }
        exact.sort_unstable();
        Self { hasher, exact, wild }
    }

    /// The places worth looking at for the room `key`, which has no wildcards that count.
    fn look_up(&self, key: &RoomKey) -> Places {
        let hash = self.hasher.hash_one(key.as_str());
        let first = self.exact.partition_point(|(known, _)| *known < hash);
        let exact = self.exact[first..].iter().take_while(|(known, _)| *known == hash).map(|(_, place)| *place);
        exact.chain(self.wild.iter().copied()).collect()
    }
}

fn weight(publication: &Publication) -> usize {
    let rooms: usize = publication.rooms.iter().map(|room| size_of::<RoomKey>() + room.as_str().len()).sum();
    // The data keeps the whole body of its trigger, of which the rooms are the rest.
    OVERHEAD_BYTES + publication.data.len() + 2 * rooms
}
