//! Which publications of a segment are for a room.
//!
//! An *entry* is one room of one publication. For each value of each key there is a list of the entries that have it, also for
//! the wildcard. A room is looked for in the shortest list among those of its values; where that is long, lists are kept as
//! bits and intersected 64 entries at a time. So a client cannot choose a room whose search walks what does not match, and no
//! combination of wildcards needs an index of its own.

use std::{collections::HashMap, hash::BuildHasher, sync::Arc};

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::{
    super::{Publication, WildcardDispatch},
    segment::Query,
};
use crate::room::{RoomKey, WILDCARD, with_scratch};

/// Bytes that a posting may take, counted when its publication is recorded: whether somebody will ask is not known then.
pub(super) const POSTING_BYTES: usize = 16;
/// A list that is not longer is never kept as bits.
const SPARSE: usize = 32;

/// How publications are found for a room, the same for all segments.
#[derive(Debug)]
pub(in super::super) struct Matching {
    dispatch: WildcardDispatch,
    hasher: RandomState,
}

/// A room that publications are looked for, in the terms of the lists.
#[derive(Debug)]
pub(in super::super) struct Terms(SmallVec<[Alternatives; 2]>);

/// The lists that an entry is in one of.
#[derive(Debug, Clone, Copy)]
struct Alternatives {
    value: u32,
    /// The list of entries with a wildcard at this key, where that counts.
    wildcard: Option<u32>,
}

/// The lists of one segment.
#[derive(Debug)]
pub(super) struct Postings {
    /// The publication of each entry, and which of its rooms it is.
    entries: Box<[(u16, u32)]>,
    /// The term in the upper half, the entry in the lower, sorted.
    sparse: Box<[u64]>,
    /// A bit for each entry.
    dense: HashMap<u32, Box<[u64]>, RandomState>,
}

/// The entries with one value.
#[derive(Debug, Clone, Copy)]
enum List<'a> {
    Sparse(&'a [u64]),
    Dense(&'a [u64]),
}

impl Matching {
    pub(in super::super) fn new(dispatch: WildcardDispatch) -> Self {
        Self { dispatch, hasher: RandomState::default() }
    }

    /// The terms of `room` as a subscription.
    pub(in super::super) fn terms(&self, room: &RoomKey) -> Terms {
        if self.dispatch == WildcardDispatch::Exact {
            return Terms(
                [Alternatives { value: self.term(room.as_str(), 0, ""), wildcard: None }].into_iter().collect(),
            );
        }
        with_scratch(|shape| {
            room.write_shape(shape);
            let both = self.dispatch == WildcardDispatch::Both;
            let values = (1..).zip(room.values()).filter(|(_, value)| *value != WILDCARD);
            let alternatives = values.map(|(position, value)| Alternatives {
                value: self.term(shape, position, value),
                wildcard: both.then(|| self.term(shape, position, WILDCARD)),
            });
            let mut terms: SmallVec<_> = alternatives.collect();
            if terms.is_empty() {
                terms.push(Alternatives { value: self.term(shape, 0, ""), wildcard: None });
            }
            Terms(terms)
        })
    }

    /// How often a publication to `rooms` is delivered to a subscription to `subscribed`.
    pub(super) fn deliveries(&self, rooms: &[RoomKey], subscribed: &RoomKey) -> usize {
        self.dispatch.deliveries(rooms, subscribed)
    }

    /// Whether a publication to `room` is for a subscription to `subscribed`.
    fn is_match(&self, room: &RoomKey, subscribed: &RoomKey) -> bool {
        self.deliveries(std::slice::from_ref(room), subscribed) > 0
    }

    /// Shows `each` the terms of `room` as a room that was published to.
    fn each_term(&self, room: &RoomKey, mut each: impl FnMut(u32)) {
        if self.dispatch == WildcardDispatch::Exact {
            return each(self.term(room.as_str(), 0, ""));
        }
        with_scratch(|shape| {
            room.write_shape(shape);
            each(self.term(shape, 0, ""));
            (1..).zip(room.values()).for_each(|(position, value)| each(self.term(shape, position, value)));
        });
    }

    /// Two terms may be the same by accident: who finds an entry compares its room.
    fn term(&self, shape: &str, position: u32, value: &str) -> u32 {
        self.hasher.hash_one((shape, position, value)) as u32
    }
}

/// Postings of a publication to `rooms`, at most.
pub(super) fn count(rooms: &[RoomKey]) -> usize {
    rooms.iter().map(|room| 1 + room.values().len()).sum()
}

impl Postings {
    pub(super) fn new(publications: &[Arc<Publication>], matching: &Matching) -> Self {
        let (mut entries, mut postings) = (Vec::new(), Vec::new());
        for (place, publication) in (0..).zip(publications) {
            for (number, room) in (0..).zip(&publication.rooms) {
                let entry = entries.len() as u64;
                matching.each_term(room, |term| postings.push(u64::from(term) << 32 | entry));
                entries.push((place, number));
            }
        }
        postings.sort_unstable();
        let words = entries.len().div_ceil(64);
        let mut dense = HashMap::default();
        let mut sparse = Vec::new();
        for list in postings.chunk_by(|one, other| one >> 32 == other >> 32) {
            if list.len() <= SPARSE.max(words) {
                sparse.extend_from_slice(list);
                continue;
            }
            let mut bits = vec![0; words].into_boxed_slice();
            list.iter().for_each(|posting| set(&mut bits, *posting));
            dense.insert((list[0] >> 32) as u32, bits);
        }
        Self { entries: entries.into(), sparse: sparse.into(), dense }
    }

    /// Finds those of `publications`, from the place `first` on, that are for the room of `query`, in their order; in 3.1's
    /// delivery as often as they list it. Adds what is looked at to `work`.
    pub(super) fn find(
        &self,
        publications: &[Arc<Publication>],
        first: u16,
        query: &Query<'_>,
        work: &mut u64,
    ) -> Vec<u16> {
        let matching = query.matching;
        let mut places = Vec::new();
        let mut look = |entry: usize, work: &mut u64| {
            *work += 1;
            let Some((place, number)) = self.entries.get(entry).filter(|(place, _)| *place >= first) else { return };
            let is_known = matching.dispatch != WildcardDispatch::Exact && places.last() == Some(place);
            let publication = &publications[usize::from(*place)];
            if !is_known && matching.is_match(&publication.rooms[*number as usize], query.room) {
                places.push(*place);
            }
        };
        match self.candidates(query.terms, work) {
            Candidates::Few(entries) => entries.iter().for_each(|entry| look(*entry as usize, work)),
            Candidates::Bits(words) => {
                for (at, mut word) in words.into_iter().enumerate() {
                    while word != 0 {
                        look(at * 64 + word.trailing_zeros() as usize, work);
                        word &= word - 1;
                    }
                }
            }
        }
        places
    }

    /// The entries that may be in all of `terms`, in their order.
    fn candidates(&self, Terms(terms): &Terms, work: &mut u64) -> Candidates {
        let mut shortest: Option<[List<'_>; 2]> = None;
        let mut all: SmallVec<[[List<'_>; 2]; 4]> = SmallVec::new();
        for alternatives in terms {
            *work += 1;
            let wildcard = alternatives.wildcard.map_or(List::Sparse(&[]), |term| self.list(term));
            let lists = [self.list(alternatives.value), wildcard];
            match lists {
                [List::Sparse([]), List::Sparse([])] => return Candidates::Few(SmallVec::new()),
                [List::Sparse(_), List::Sparse(_)] => {
                    let len = |lists: &[List<'_>; 2]| lists.iter().map(List::len).sum::<usize>();
                    if shortest.as_ref().is_none_or(|shortest| len(&lists) < len(shortest)) {
                        shortest = Some(lists);
                    }
                }
                lists => all.push(lists),
            }
        }
        if let Some([List::Sparse(values), List::Sparse(wildcards)]) = shortest {
            let mut entries: SmallVec<[u32; 16]> =
                values.iter().chain(wildcards).map(|posting| *posting as u32).collect();
            entries.sort_unstable();
            return Candidates::Few(entries);
        }
        let mut words = vec![u64::MAX; self.entries.len().div_ceil(64)];
        let mut either = vec![0; words.len()];
        for lists in all {
            *work += words.len() as u64;
            either.fill(0);
            for list in lists {
                match list {
                    List::Sparse(postings) => postings.iter().for_each(|posting| set(&mut either, *posting)),
                    List::Dense(bits) => either.iter_mut().zip(bits).for_each(|(word, bits)| *word |= bits),
                }
            }
            words.iter_mut().zip(&either).for_each(|(word, either)| *word &= either);
        }
        Candidates::Bits(words)
    }

    fn list(&self, term: u32) -> List<'_> {
        if let Some(bits) = self.dense.get(&term) {
            return List::Dense(bits);
        }
        let first = self.sparse.partition_point(|posting| posting >> 32 < u64::from(term));
        let rest = &self.sparse[first..];
        let len = rest.iter().take_while(|posting| *posting >> 32 == u64::from(term)).count();
        List::Sparse(&rest[..len])
    }
}

/// Entries that are worth a look.
#[derive(Debug)]
enum Candidates {
    Few(SmallVec<[u32; 16]>),
    Bits(Vec<u64>),
}

impl List<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Sparse(postings) => postings.len(),
            Self::Dense(bits) => bits.len() * 64,
        }
    }
}

/// Sets the bit of the entry of `posting`.
fn set(bits: &mut [u64], posting: u64) {
    let entry = (posting & u64::from(u32::MAX)) as usize;
    if let Some(word) = bits.get_mut(entry / 64) {
        *word |= 1 << (entry % 64);
    }
}
