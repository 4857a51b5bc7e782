//! From the rooms of a trigger to the rooms that are subscribed to.
//!
//! A plain room is one look-up. Wildcards cost one more for each combination of them in use among rooms with the same
//! keys, and not by the number of rooms: the subscriptions' wildcards are tried by masking the trigger's room; for a
//! trigger's own wildcards the rooms of that shape are also kept under their masked texts, from the first such trigger on.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
};

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};

use super::{
    Audience, Outbox, WildcardDispatch,
    history::{History, Matching},
    members::{Room, Rooms, Seat},
    shape::{Cursor, Shape},
};
use crate::{
    config,
    metrics::Metrics,
    protocol::RequestId,
    room::{Mask, RoomKey, with_scratch},
};

/// All rooms of the process and who is in them.
#[derive(Debug)]
pub struct Hub {
    /// By what rooms with the same keys share: their text without its values.
    shapes: RwLock<HashMap<Box<str>, Arc<Shape>, RandomState>>,
    /// Of each shape, so that those who look for different rooms seldom meet.
    stripes: usize,
    dispatch: WildcardDispatch,
    pub(super) matching: Matching,
    /// Taken before the lock of any room.
    pub(super) history: Mutex<History>,
    pub(super) metrics: Arc<Metrics>,
}

impl Hub {
    /// An empty hub.
    pub fn new(dispatch: WildcardDispatch, history: config::History, metrics: Arc<Metrics>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let history = Mutex::new(History::new(history));
        let matching = Matching::new(dispatch);
        Self { shapes: RwLock::default(), stripes: 4 * cores, dispatch, matching, history, metrics }
    }

    /// How wildcards are delivered.
    pub fn dispatch(&self) -> WildcardDispatch {
        self.dispatch
    }

    /// Rooms with at least one subscription.
    pub fn rooms(&self) -> usize {
        self.shapes.read().values().map(|shape| shape.len()).sum()
    }

    /// The rooms that a trigger to `room` would reach, or all of them, the largest first: `limit` of them with their
    /// subscriptions, and how many there are. Walks all rooms.
    pub fn list(&self, room: Option<&RoomKey>, limit: usize) -> (Vec<(String, usize)>, usize) {
        let mut largest = BinaryHeap::new();
        let mut count = 0;
        let mut add = |room: &Arc<Room>| {
            count += 1;
            let (members, text) = (room.len(), room.key().as_str());
            if largest.len() == limit {
                let is_smaller = |Reverse((least, Reverse(last))): &Reverse<(usize, Reverse<String>)>| {
                    (members, Reverse(text)) < (*least, Reverse(last.as_str()))
                };
                if largest.peek().is_none_or(is_smaller) {
                    return; // without a copy of its text: there may be a million of them
                }
                largest.pop();
            }
            largest.push(Reverse((members, Reverse(text.to_owned()))));
        };
        match room {
            Some(room) => self.audience(std::slice::from_ref(room)).rooms().iter().for_each(&mut add),
            None => {
                let shapes: Vec<_> = self.shapes.read().values().cloned().collect();
                shapes.iter().for_each(|shape| shape.each(&mut add));
            }
        }
        let sorted = largest.into_sorted_vec().into_iter();
        (sorted.map(|Reverse((members, Reverse(text)))| (text, members)).collect(), count)
    }

    /// Whether nothing is kept of any room.
    #[cfg(test)]
    pub(super) fn is_blank(&self) -> bool {
        self.shapes.read().is_empty()
    }

    /// Subscribes to the room of `key`. `reply` runs when nobody can have published to the new subscription yet and
    /// nothing will until it returns: what it puts into `outbox` comes before any publication.
    pub fn join(&self, key: &RoomKey, outbox: &Arc<Outbox>, request_id: &RequestId, reply: impl FnMut()) -> Seat {
        self.join_from(0, key, outbox, request_id, reply)
    }

    /// As [`join`](Self::join), for publications from the number `first` on.
    pub(super) fn join_from(
        &self,
        first: u64,
        key: &RoomKey,
        outbox: &Arc<Outbox>,
        request_id: &RequestId,
        mut reply: impl FnMut(),
    ) -> Seat {
        outbox.note_join();
        loop {
            if let Some(seat) = self.room(key).join(outbox, request_id, first, &mut reply) {
                self.metrics.subscriptions.inc();
                return seat;
            }
        }
    }

    /// Ends the subscriptions of `seats`. `reply` runs when no publication can reach any of them any more.
    pub fn leave(&self, seats: impl IntoIterator<Item = Seat>, reply: impl FnOnce()) {
        let mut seats = seats.into_iter();
        let Some(mut last) = seats.next() else { return };
        for seat in seats {
            self.leave_one(&std::mem::replace(&mut last, seat), || {});
        }
        self.leave_one(&last, reply);
    }

    /// Who gets a trigger for `rooms`, found in one go.
    pub fn audience(&self, rooms: &[RoomKey]) -> Audience {
        let mut search = self.search(rooms);
        search.step(u64::MAX);
        search.finish()
    }

    /// Looks for who gets a trigger for `rooms`, in steps. Who joins meanwhile may be found or not.
    pub fn search<'s>(&'s self, rooms: &'s [RoomKey]) -> Search<'s> {
        Search { hub: self, left: rooms, cursor: Cursor::default(), found: Rooms::new(), look_ups: 0 }
    }

    /// Searches for `key` from `cursor` on, as long as `budget` lasts. Whether that was all.
    fn find(&self, key: &RoomKey, cursor: &mut Cursor, budget: &mut u64, found: &mut Rooms) -> bool {
        let Some(shape) = self.shape(key) else {
            *budget = budget.saturating_sub(1);
            return true;
        };
        match self.dispatch {
            WildcardDispatch::Both => shape.find(key, &key.wildcards(), cursor, budget, found),
            WildcardDispatch::Subscriptions => shape.find(key, &Mask::default(), cursor, budget, found),
            WildcardDispatch::Exact => {
                *budget = budget.saturating_sub(1);
                found.extend(shape.get(key.as_str()));
                true
            }
        }
    }

    fn shape(&self, key: &RoomKey) -> Option<Arc<Shape>> {
        with_scratch(|text| {
            key.write_shape(text);
            self.shapes.read().get(text.as_str()).cloned()
        })
    }

    fn leave_one(&self, seat: &Seat, reply: impl FnOnce()) {
        let is_empty = seat.room.leave(seat, reply);
        self.metrics.subscriptions.dec();
        if is_empty {
            self.remove(&seat.room);
        }
    }

    /// The room of `key`, made if there is none.
    fn room(&self, key: &RoomKey) -> Arc<Room> {
        let (room, is_new) = with_scratch(|text| {
            key.write_shape(text);
            let shapes = self.shapes.read(); // as long as the shape gets its room: an empty one may be removed
            if let Some(shape) = shapes.get(text.as_str()) {
                return shape.get_or_add(key);
            }
            drop(shapes);
            let mut shapes = self.shapes.write();
            let shape = shapes.entry(text.as_str().into()).or_insert_with(|| Arc::new(Shape::new(self.stripes)));
            shape.get_or_add(key)
        });
        if is_new {
            self.metrics.rooms.inc();
        }
        room
    }

    /// Takes `room` out if nobody is in it.
    fn remove(&self, room: &Arc<Room>) {
        let Some(shape) = self.shape(room.key()) else { return };
        if !shape.remove(room) {
            return;
        }
        self.metrics.rooms.dec();
        if shape.len() == 0 {
            let mut text = String::new();
            room.key().write_shape(&mut text);
            let mut shapes = self.shapes.write();
            if shapes.get(text.as_str()).is_some_and(|shape| shape.len() == 0) {
                shapes.remove(text.as_str());
            }
        }
    }
}

/// A search for the rooms that a trigger reaches.
///
/// A publisher chooses the rooms of a trigger, and clients the combinations of wildcards among theirs; each pair is a look-up.
#[derive(Debug)]
pub struct Search<'s> {
    hub: &'s Hub,
    /// Rooms of the trigger that are not done.
    left: &'s [RoomKey],
    /// How far the first of them is.
    cursor: Cursor,
    found: Rooms,
    look_ups: u64,
}

impl Search<'_> {
    /// Goes on with up to `look_ups`. Whether there is more to do.
    pub fn step(&mut self, look_ups: u64) -> bool {
        let mut budget = look_ups;
        while let [key, left @ ..] = self.left
            && budget > 0
        {
            if self.hub.find(key, &mut self.cursor, &mut budget, &mut self.found) {
                (self.left, self.cursor) = (left, Cursor::default());
            }
        }
        self.look_ups += look_ups - budget;
        !self.left.is_empty()
    }

    /// Look-ups so far.
    pub fn look_ups(&self) -> u64 {
        self.look_ups
    }

    /// What was found.
    pub fn finish(self) -> Audience {
        let mut found = self.found;
        if found.len() > 1 && self.hub.dispatch != WildcardDispatch::Exact {
            found.sort_unstable_by_key(Arc::as_ptr);
            found.dedup_by(|one, other| Arc::ptr_eq(one, other));
        }
        Audience::new(found)
    }
}
