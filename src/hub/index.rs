//! From the rooms of a trigger to the rooms that are subscribed to.
//!
//! A plain room is one look-up. Wildcards cost one more for each combination of them in use among rooms with the same
//! keys, and not by the number of rooms: the subscriptions' wildcards are tried by masking the trigger's room; for a
//! trigger's own wildcards the rooms of that shape are also kept under their masked texts, from the first such trigger on.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::BuildHasher,
    sync::Arc,
};

use foldhash::fast::RandomState;
use parking_lot::RwLock;

use super::{
    Flush, Outbox, Publication,
    members::{Room, Seat},
};
use crate::{
    metrics::Metrics,
    protocol::RequestId,
    room::{Mask, Numbers, RoomKey},
};

/// Trigger wildcard combinations that are kept ready for one set of keys; one more replaces the oldest.
const VIEWS: usize = 16;

/// On which side a `"*"` stands for any value when triggers are matched with subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WildcardDispatch {
    /// On either side; a subscription gets a trigger at most once.
    Both,
    /// On the subscription's side only; a subscription gets a trigger at most once.
    Subscriptions,
    /// On neither: 3.1's delivery, in which a room listed twice is delivered twice.
    Exact,
}

impl WildcardDispatch {
    /// How this mode compares the numbers in rooms.
    pub fn numbers(self) -> Numbers {
        match self {
            Self::Exact => Numbers::ByType,
            Self::Both | Self::Subscriptions => Numbers::ByValue,
        }
    }
}

type Map<V> = HashMap<Box<str>, V, RandomState>;

/// All rooms of the process and who is in them.
#[derive(Debug)]
pub struct Hub {
    stripes: Box<[RwLock<Map<Arc<Room>>>]>,
    shapes: RwLock<Map<Shape>>,
    hasher: RandomState,
    dispatch: WildcardDispatch,
    metrics: Arc<Metrics>,
}

/// What is known of the rooms that share a set of keys.
#[derive(Debug, Default)]
struct Shape {
    /// The wildcard combinations of its rooms, with the number of rooms that have each.
    masks: Vec<(Mask, usize)>,
    views: Vec<View>,
}

/// The rooms of one shape under their texts as seen by a trigger with wildcards at `mask`.
#[derive(Debug)]
struct View {
    mask: Mask,
    /// By masked text, then by address, so that a room leaves as fast as it came.
    rooms: Map<HashMap<usize, Arc<Room>, RandomState>>,
}

impl Hub {
    /// An empty hub.
    pub fn new(dispatch: WildcardDispatch, metrics: Arc<Metrics>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let stripes = (0..4 * cores).map(|_| RwLock::default()).collect();
        Self { stripes, shapes: RwLock::default(), hasher: RandomState::default(), dispatch, metrics }
    }

    /// How wildcards are delivered.
    pub fn dispatch(&self) -> WildcardDispatch {
        self.dispatch
    }

    /// Rooms with at least one subscription.
    pub fn rooms(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.read().len()).sum()
    }

    /// Whether nothing is kept of any room.
    #[cfg(test)]
    pub(super) fn is_blank(&self) -> bool {
        self.rooms() == 0 && self.shapes.read().is_empty()
    }

    /// Subscribes to the room of `key`. `reply` runs when nobody can have published to the new subscription yet and
    /// nothing will until it returns: what it puts into `outbox` comes before any publication.
    pub fn join(&self, key: RoomKey, outbox: &Arc<Outbox>, request_id: &RequestId, mut reply: impl FnMut()) -> Seat {
        loop {
            if let Some(seat) = self.room(&key).join(outbox, request_id, &mut reply) {
                self.metrics.subscriptions.inc();
                return seat;
            }
        }
    }

    /// Ends the subscriptions of `seats`. `reply` runs when no publication can reach any of them any more.
    pub fn leave(&self, mut seats: Vec<Seat>, reply: impl FnOnce()) {
        let Some(last) = seats.pop() else { return };
        for seat in seats {
            self.leave_one(&seat, || {});
        }
        self.leave_one(&last, reply);
    }

    fn leave_one(&self, seat: &Seat, reply: impl FnOnce()) {
        let is_empty = seat.room.leave(seat, reply);
        self.metrics.subscriptions.dec();
        if is_empty {
            self.remove(&seat.room);
        }
    }

    /// Puts `publication` into the outboxes of all subscriptions that match any of `rooms`, and leaves it to `flush` when
    /// they are written. How many subscriptions it went to.
    pub fn publish(&self, rooms: &[RoomKey], publication: &Arc<Publication>, flush: &mut Flush) -> u64 {
        let found = match self.dispatch {
            WildcardDispatch::Exact => rooms.iter().filter_map(|key| self.find(key.as_str())).collect(),
            WildcardDispatch::Both | WildcardDispatch::Subscriptions => self.matching(rooms),
        };
        flush.expect(found.iter().map(|room| room.len()).sum());
        let reached = found.iter().map(|room| room.publish(publication, flush)).sum();
        self.metrics.publications_queued.inc_by(reached);
        reached
    }

    /// The rooms that match any of `keys`, each once.
    fn matching(&self, keys: &[RoomKey]) -> Vec<Arc<Room>> {
        let mut found: Vec<Arc<Room>> = Vec::new();
        let mut text = String::new();
        for key in keys {
            key.write_shape(&mut text);
            let wildcards = match self.dispatch {
                WildcardDispatch::Both => key.wildcards(),
                WildcardDispatch::Subscriptions | WildcardDispatch::Exact => Mask::default(),
            };
            if !wildcards.is_empty() {
                self.ensure_view(&text, &wildcards);
            }
            let shapes = self.shapes.read();
            let Some(shape) = shapes.get(text.as_str()) else { continue };
            if wildcards.is_empty() {
                found.extend(shape.masks.iter().filter_map(|(mask, _)| {
                    key.write_masked(mask, &mut text);
                    self.find(&text)
                }));
            } else if let Some(view) = shape.views.iter().find(|view| view.mask == wildcards) {
                for (mask, _) in &shape.masks {
                    key.write_masked(mask, &mut text);
                    found.extend(view.rooms.get(text.as_str()).into_iter().flat_map(HashMap::values).cloned());
                }
            }
        }
        if found.len() > 1 {
            found.sort_unstable_by_key(Arc::as_ptr);
            found.dedup_by(|one, other| Arc::ptr_eq(one, other));
        }
        found
    }

    fn find(&self, text: &str) -> Option<Arc<Room>> {
        self.stripe(text).read().get(text).cloned()
    }

    fn stripe(&self, text: &str) -> &RwLock<Map<Arc<Room>>> {
        // A hash of its own: the maps' own hashers are seeded differently.
        let at = self.hasher.hash_one(text) as usize % self.stripes.len();
        &self.stripes[at]
    }

    /// The room of `key`, made if there is none.
    fn room(&self, key: &RoomKey) -> Arc<Room> {
        if let Some(room) = self.find(key.as_str()) {
            return room;
        }
        let mut text = String::new();
        key.write_shape(&mut text);
        let mut shapes = self.shapes.write();
        let mut stripe = self.stripe(key.as_str()).write();
        match stripe.entry(key.as_str().into()) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => {
                let room = entry.insert(Arc::new(Room::new(key.clone()))).clone();
                drop(stripe);
                match shapes.get_mut(text.as_str()) {
                    Some(shape) => shape.add(&room),
                    None => shapes.entry(text.into()).or_default().add(&room),
                }
                self.metrics.rooms.inc();
                room
            }
        }
    }

    /// Takes `room` out if nobody is in it.
    fn remove(&self, room: &Arc<Room>) {
        let mut text = String::new();
        room.key().write_shape(&mut text);
        let mut shapes = self.shapes.write();
        let mut stripe = self.stripe(room.key().as_str()).write();
        if !room.retire() {
            return;
        }
        stripe.remove(room.key().as_str());
        if stripe.capacity() > 64 && stripe.len() < stripe.capacity() / 4 {
            stripe.shrink_to_fit();
        }
        drop(stripe);
        if let Some(shape) = shapes.get_mut(text.as_str()) {
            shape.remove(room);
            if shape.masks.is_empty() {
                shapes.remove(text.as_str());
            }
        }
        self.metrics.rooms.dec();
    }

    /// Makes the rooms of `shape` ready for triggers with wildcards at `mask`.
    fn ensure_view(&self, shape: &str, mask: &Mask) {
        let is_ready = |shape: &Shape| shape.views.iter().any(|view| view.mask == *mask);
        if self.shapes.read().get(shape).is_none_or(is_ready) {
            return;
        }
        let mut shapes = self.shapes.write();
        let Some(known) = shapes.get_mut(shape).filter(|known| !is_ready(known)) else { return };
        let mut view = View { mask: mask.clone(), rooms: Map::default() };
        let mut text = String::new();
        for stripe in &self.stripes {
            for room in stripe.read().values() {
                room.key().write_shape(&mut text);
                if text == shape {
                    view.add(room, &mut text);
                }
            }
        }
        if known.views.len() == VIEWS {
            known.views.remove(0);
        }
        known.views.push(view);
    }
}

impl Shape {
    fn add(&mut self, room: &Arc<Room>) {
        let mask = room.key().wildcards();
        match self.masks.iter_mut().find(|(known, _)| *known == mask) {
            Some((_, rooms)) => *rooms += 1,
            None => self.masks.push((mask, 1)),
        }
        let mut text = String::new();
        for view in &mut self.views {
            view.add(room, &mut text);
        }
    }

    fn remove(&mut self, room: &Arc<Room>) {
        let mask = room.key().wildcards();
        if let Some(at) = self.masks.iter().position(|(known, _)| *known == mask) {
            self.masks[at].1 -= 1;
            if self.masks[at].1 == 0 {
                self.masks.swap_remove(at);
            }
        }
        let mut text = String::new();
        for view in &mut self.views {
            view.remove(room, &mut text);
        }
    }
}

impl View {
    fn add(&mut self, room: &Arc<Room>, text: &mut String) {
        room.key().write_masked(&self.mask, text);
        let rooms = match self.rooms.get_mut(text.as_str()) {
            Some(rooms) => rooms,
            None => self.rooms.entry(text.as_str().into()).or_default(),
        };
        rooms.insert(Arc::as_ptr(room).addr(), room.clone());
    }

    fn remove(&mut self, room: &Arc<Room>, text: &mut String) {
        room.key().write_masked(&self.mask, text);
        let Some(rooms) = self.rooms.get_mut(text.as_str()) else { return };
        rooms.remove(&Arc::as_ptr(room).addr());
        if rooms.is_empty() {
            self.rooms.remove(text.as_str());
        }
    }
}
