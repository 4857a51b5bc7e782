//! The rooms that share a set of keys.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};

use super::{
    masks::Masks,
    members::{Room, Rooms},
};
use crate::room::{Mask, RoomKey, with_scratch};

/// Trigger wildcard combinations that are kept ready; one more replaces the one that was used longest ago.
const VIEWS: usize = 16;
/// A set of rooms that has become this much smaller than its memory gives some back.
const SHRINK: usize = 4;

/// All rooms of one shape.
///
/// Rooms come and go under `changing`, one at a time; whoever looks for rooms does not take it.
#[derive(Debug)]
pub(super) struct Shape {
    stripes: Box<[RwLock<HashSet<Entry, RandomState>>]>,
    hasher: RandomState,
    rooms: AtomicUsize,
    changing: Mutex<()>,
    /// The wildcard combinations of the rooms.
    masks: RwLock<Masks>,
    views: RwLock<Vec<View>>,
    /// Counts the uses of views.
    clock: AtomicU64,
}

/// A room under its text.
#[derive(Debug)]
struct Entry(Arc<Room>);

/// The rooms under their texts as seen by a trigger with wildcards at `mask`.
#[derive(Debug)]
struct View {
    mask: Mask,
    /// When it was built, by the shape's clock: no two have the same.
    built: u64,
    used: AtomicU64,
    /// The wildcard combinations of the rooms and `mask` together: there are often fewer.
    masks: Masks,
    /// By masked text, then by address, so that a room leaves as fast as it came.
    rooms: HashMap<Box<str>, HashMap<usize, Arc<Room>, RandomState>, RandomState>,
}

/// How far a search has come among the combinations of wildcards.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    slot: usize,
    /// The view that this is in; 0 for none.
    view: u64,
}

impl Shape {
    pub(super) fn new(stripes: usize) -> Self {
        Self {
            stripes: (0..stripes).map(|_| RwLock::default()).collect(),
            hasher: RandomState::default(),
            rooms: AtomicUsize::default(),
            changing: Mutex::default(),
            masks: RwLock::default(),
            views: RwLock::default(),
            clock: AtomicU64::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rooms.load(Ordering::Relaxed)
    }

    /// Shows `look` all rooms, those of one stripe after the other.
    pub(super) fn each(&self, mut look: impl FnMut(&Arc<Room>)) {
        for stripe in &self.stripes {
            stripe.read().iter().for_each(|entry| look(&entry.0));
        }
    }

    /// The room with exactly this text.
    pub(super) fn get(&self, text: &str) -> Option<Arc<Room>> {
        self.stripe(text).read().get(text).map(|entry| entry.0.clone())
    }

    /// The room of `key`, and whether it was made just now.
    pub(super) fn get_or_add(&self, key: &RoomKey) -> (Arc<Room>, bool) {
        if let Some(room) = self.get(key.as_str()) {
            return (room, false);
        }
        let _changing = self.changing.lock();
        if let Some(room) = self.get(key.as_str()) {
            return (room, false);
        }
        let room = Arc::new(Room::new(key.clone()));
        self.masks.write().add(key.wildcards());
        let mut text = String::new();
        for view in &mut *self.views.write() {
            view.add(&room, &mut text);
        }
        // Last: whoever finds it here may join it, and must then be found by its wildcards, too.
        self.stripe(key.as_str()).write().insert(Entry(room.clone()));
        self.rooms.fetch_add(1, Ordering::Relaxed);
        (room, true)
    }

    /// Takes `room` out if nobody is in it. Whether it did.
    pub(super) fn remove(&self, room: &Arc<Room>) -> bool {
        let _changing = self.changing.lock();
        let mut stripe = self.stripe(room.key().as_str()).write();
        if !room.retire() {
            return false;
        }
        stripe.remove(room.key().as_str());
        if stripe.capacity() > 64 && stripe.len() < stripe.capacity() / SHRINK {
            stripe.shrink_to_fit();
        }
        drop(stripe);
        self.rooms.fetch_sub(1, Ordering::Relaxed);
        self.masks.write().remove(&room.key().wildcards());
        let mut text = String::new();
        for view in &mut *self.views.write() {
            view.remove(room, &mut text);
        }
        true
    }

    /// Adds to `found` the rooms that `key` matches, wildcards in the rooms counting, and those of `key` at `wildcards`. Goes on
    /// where `cursor` is, as long as `budget` lasts, one look-up after the other. Whether that was all.
    pub(super) fn find(
        &self,
        key: &RoomKey,
        wildcards: &Mask,
        cursor: &mut Cursor,
        budget: &mut u64,
        found: &mut Rooms,
    ) -> bool {
        if wildcards.is_empty() {
            for (slot, mask) in self.masks.read().from(cursor.slot) {
                if *budget == 0 {
                    return false;
                }
                *budget -= 1;
                cursor.slot = slot + 1;
                if mask.is_empty() {
                    found.extend(self.get(key.as_str()));
                } else {
                    found.extend(with_scratch(|text| {
                        key.write_masked(mask, text);
                        self.get(text)
                    }));
                }
            }
            return true;
        }
        loop {
            if let Some(is_all) = self.find_in_view(key, wildcards, cursor, budget, found) {
                return is_all;
            }
            self.build_view(wildcards); // which others may have thrown out again by the next look
        }
    }

    /// As [`find`](Self::find) in the view for `wildcards`, if there is one.
    fn find_in_view(
        &self,
        key: &RoomKey,
        wildcards: &Mask,
        cursor: &mut Cursor,
        budget: &mut u64,
        found: &mut Rooms,
    ) -> Option<bool> {
        let views = self.views.read();
        let view = views.iter().find(|view| view.mask == *wildcards)?;
        view.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        if cursor.view != view.built {
            *cursor = Cursor { view: view.built, slot: 0 }; // the slots are those of another one
        }
        let mut text = String::new();
        for (slot, mask) in view.masks.from(cursor.slot) {
            if *budget == 0 {
                return Some(false);
            }
            *budget -= 1;
            cursor.slot = slot + 1;
            key.write_masked(mask, &mut text);
            found.extend(view.rooms.get(text.as_str()).into_iter().flat_map(HashMap::values).cloned());
        }
        Some(true)
    }

    /// Makes the rooms ready for triggers with wildcards at `mask`, which walks them all once.
    fn build_view(&self, mask: &Mask) {
        let _changing = self.changing.lock(); // no room comes or goes behind the walk
        if self.views.read().iter().any(|view| view.mask == *mask) {
            return;
        }
        let built = self.clock.fetch_add(1, Ordering::Relaxed) + 1; // 0 is none
        let (mask, used) = (mask.clone(), AtomicU64::new(built));
        let mut view = View { mask, built, used, masks: Masks::default(), rooms: HashMap::default() };
        let mut text = String::new();
        for stripe in &self.stripes {
            for entry in &*stripe.read() {
                view.add(&entry.0, &mut text);
            }
        }
        let mut views = self.views.write();
        if views.len() == VIEWS {
            let used = |view: &View| view.used.load(Ordering::Relaxed);
            let oldest = views.iter().enumerate().min_by_key(|(_, view)| used(view)).map_or(0, |(at, _)| at);
            views.swap_remove(oldest);
        }
        views.push(view);
    }

    fn stripe(&self, text: &str) -> &RwLock<HashSet<Entry, RandomState>> {
        // A hash of its own: the sets' own hashers are seeded differently.
        let at = self.hasher.hash_one(text) as usize % self.stripes.len();
        &self.stripes[at]
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
        self.masks.add(room.key().wildcards().union(&self.mask));
    }

    fn remove(&mut self, room: &Arc<Room>, text: &mut String) {
        room.key().write_masked(&self.mask, text);
        let Some(rooms) = self.rooms.get_mut(text.as_str()) else { return };
        rooms.remove(&Arc::as_ptr(room).addr());
        self.masks.remove(&room.key().wildcards().union(&self.mask));
        if rooms.is_empty() {
            self.rooms.remove(text.as_str());
        }
    }
}

impl Borrow<str> for Entry {
    fn borrow(&self) -> &str {
        self.0.key().as_str()
    }
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().as_str().hash(state);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0.key().as_str() == other.0.key().as_str()
    }
}

impl Eq for Entry {}
