//! Which rooms a client may join.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use foldhash::fast::RandomState;
use serde_json::value::RawValue;

use super::{
    Limits, Mask, RoomKey,
    nearest::nearest,
    pool::{Pool, digest},
    with_scratch,
};

/// The rooms a backend allows a client, ready to be asked.
///
/// Asking costs a hash look-up for each combination of wildcards in use among rooms with the same keys, however many
/// rooms are allowed.
#[derive(Debug, Default)]
pub struct Allowed {
    shapes: HashMap<Box<str>, Shape, RandomState>,
}

#[derive(Debug, Default)]
struct Shape {
    masks: HashSet<Mask, RandomState>,
    rooms: HashSet<Box<str>, RandomState>,
}

impl Allowed {
    /// Whether some allowed room covers `wanted`: the same keys, each value equal or `"*"` on the allowed side.
    ///
    /// `wanted` must be a key with [`Numbers::ByValue`](super::Numbers::ByValue).
    pub fn covers(&self, wanted: &RoomKey) -> bool {
        with_scratch(|text| {
            wanted.write_shape(text);
            let Some(shape) = self.shapes.get(text.as_str()) else { return false };
            shape.masks.iter().any(|mask| {
                wanted.write_masked(mask, text);
                shape.rooms.contains(text.as_str())
            })
        })
    }
}

impl Allowed {
    /// The allowed rooms, in their canonical form.
    pub fn rooms(&self) -> impl Iterator<Item = &str> {
        self.shapes.values().flat_map(|shape| shape.rooms.iter().map(Box::as_ref))
    }

    /// Names the allowed room nearest to `wanted`, which none covers, and what differs, for people. Compares a bounded number
    /// of rooms.
    pub fn nearest(&self, wanted: &RoomKey) -> String {
        let mut shape = String::new();
        wanted.write_shape(&mut shape);
        // Rooms with the same keys come first: not all rooms are compared.
        let same = self.shapes.get(shape.as_str()).into_iter();
        let others = self.shapes.iter().filter(|(other, _)| ***other != *shape).map(|(_, shape)| shape);
        nearest(same.chain(others).flat_map(|shape| shape.rooms.iter().map(Box::as_ref)), wanted)
    }
}

impl<'a> FromIterator<&'a RoomKey> for Allowed {
    fn from_iter<I: IntoIterator<Item = &'a RoomKey>>(rooms: I) -> Self {
        let mut allowed = Self::default();
        let mut text = String::new();
        for room in rooms {
            room.write_shape(&mut text);
            let shape = match allowed.shapes.get_mut(text.as_str()) {
                Some(shape) => shape,
                None => allowed.shapes.entry(text.as_str().into()).or_default(),
            };
            shape.masks.insert(room.wildcards());
            shape.rooms.insert(room.as_str().into());
        }
        allowed
    }
}

/// Hands out one shared copy of rooms to all who were allowed the same ones and still hold them.
#[derive(Debug, Default)]
pub struct Interner {
    limits: Limits,
    allowed: Pool<Allowed>,
    written: Pool<[Box<RawValue>]>,
}

impl Interner {
    /// An empty interner of rooms within `limits`.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Returns the largest room that a client can join.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The set of `rooms`, in whatever order they are given.
    pub fn intern(&self, rooms: &[RoomKey]) -> Arc<Allowed> {
        let mut texts: Vec<&str> = rooms.iter().map(RoomKey::as_str).collect();
        texts.sort_unstable();
        self.allowed.get(digest(texts), || Arc::new(rooms.iter().collect()))
    }

    /// Returns `rooms` as they are written, in their order.
    pub fn intern_written(&self, rooms: Vec<Box<RawValue>>) -> Arc<[Box<RawValue>]> {
        self.written.get(digest(rooms.iter().map(|room| room.get())), || rooms.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json, value::to_raw_value};

    use super::{super::Numbers, *};

    fn key(room: &Value) -> RoomKey {
        RoomKey::new(&to_raw_value(room).unwrap(), Numbers::ByValue).unwrap()
    }

    fn allows(allowed: &[Value], wanted: Value) -> bool {
        let keys: Vec<_> = allowed.iter().map(key).collect();
        keys.iter().collect::<Allowed>().covers(&key(&wanted))
    }

    #[test]
    fn a_wildcard_on_the_allowed_side_covers_any_value() {
        let allowed = [json!({"target": "message", "customer": "*"})];
        for customer in [json!("1"), json!(1), json!(null), json!(""), json!({"x": 1}), json!("*")] {
            assert!(allows(&allowed, json!({"target": "message", "customer": customer})));
        }
        assert!(!allows(&allowed, json!({"target": "other", "customer": "1"})));
    }

    #[test]
    fn a_wildcard_on_the_wanted_side_is_a_value_like_any_other() {
        assert!(!allows(&[json!({"a": "1"})], json!({"a": "*"})));
        assert!(!allows(&[json!({"a": "1", "b": "*"}), json!({"a": "*", "b": "1"})], json!({"a": "*", "b": "*"})));
    }

    #[test]
    fn missing_and_extra_keys_never_match() {
        let allowed = [json!({"a": "*"})];
        assert!(!allows(&allowed, json!({})));
        assert!(!allows(&allowed, json!({"a": 1, "b": 1})));
        assert!(allows(&[json!({})], json!({})));
    }

    #[test]
    fn truth_is_not_one_and_numbers_compare_by_exact_value() {
        assert!(!allows(&[json!({"a": true})], json!({"a": 1})));
        assert!(allows(&[json!({"a": 1})], json!({"a": 1.0})));
        assert!(!allows(&[json!({"a": 9_007_199_254_740_993_i64})], json!({"a": 9_007_199_254_740_992_i64})));
    }

    #[test]
    fn equal_rooms_share_one_set_while_somebody_has_it() {
        let interner = Interner::default();
        let (one, two) = (key(&json!({"a": 1})), key(&json!({"b": "*"})));
        let first = interner.intern(&[one.clone(), two.clone()]);
        assert!(Arc::ptr_eq(&first, &interner.intern(&[two, one.clone()])));
        assert!(!Arc::ptr_eq(&first, &interner.intern(&[one])));
    }

    fn small_room() -> impl Strategy<Value = Value> {
        let value = prop_oneof![Just(json!("*")), (0..3).prop_map(Value::from), Just(json!("x"))];
        prop::collection::btree_map("[ab]", value, 0..3).prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn covering_agrees_with_a_naive_oracle(
            allowed in prop::collection::vec(small_room(), 0..6), wanted in small_room()
        ) {
            let oracle = allowed.iter().any(|room| {
                let (room, wanted) = (room.as_object().unwrap(), wanted.as_object().unwrap());
                room.len() == wanted.len()
                    && room.iter().all(|(k, v)| wanted.get(k).is_some_and(|w| v == "*" || v == w))
            });
            prop_assert_eq!(allows(&allowed, wanted), oracle);
        }
    }
}
