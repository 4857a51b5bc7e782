//! Why a room is not allowed, for people.
//!
//! A client can ask for this with each request that is refused, so its cost is bounded: a few rooms are compared by counting,
//! and only the nearest one is described.

use std::{borrow::Cow, cmp::Ordering, fmt::Write};

use super::{
    Limits, Numbers, RoomKey, Rules,
    json::{self, Members},
    key::WILDCARD,
};

/// Allowed rooms that are compared at most.
const COMPARED_ROOMS: usize = 32;
/// Bytes of them after which no further room is compared.
const COMPARED_BYTES: usize = 16 << 10;
/// Longest room, and longest key, that is quoted.
const QUOTED_ROOM_BYTES: usize = 512;
const QUOTED_KEY_BYTES: usize = 64;
/// Differences that are named.
const NAMED: usize = 8;

/// How the value of one key differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    Value,
    Missing,
    Unexpected,
}

/// Describes the room of `allowed`, which are canonical texts, that is nearest to `wanted`.
pub(super) fn nearest<'a>(allowed: impl Iterator<Item = &'a str>, wanted: &RoomKey) -> String {
    let Some(wanted) = members(wanted.as_str()) else { return String::new() };
    let mut bytes = 0;
    let compared = allowed.take(COMPARED_ROOMS).take_while(|text| {
        let is_within = bytes < COMPARED_BYTES;
        bytes += text.len();
        is_within
    });
    let count = |text: &'a str| {
        let mut count = 0_usize;
        each_difference(&members(text)?, &wanted, |_, _| count += 1);
        Some((text, count))
    };
    match compared.filter_map(count).min_by_key(|(_, count)| *count) {
        Some((text, count)) => describe(text, &wanted, count),
        None => "no room is allowed".to_owned(),
    }
}

fn describe(text: &str, wanted: &Members<'_>, count: usize) -> String {
    let shown = if text.len() > QUOTED_ROOM_BYTES { "one that is too long to be shown" } else { text };
    let mut told = format!("the nearest allowed room is {shown}: ");
    let Some(allowed) = members(text) else { return told };
    let mut named = 0;
    each_difference(&allowed, wanted, |key, difference| {
        if named == NAMED {
            return;
        }
        let comma = if named > 0 { ", " } else { "" };
        let what = match difference {
            Difference::Value => "has another value",
            Difference::Missing => "is missing",
            Difference::Unexpected => "is no key of it",
        };
        let _ = write!(told, "{comma}{} {what}", quoted(key)); // a text takes everything
        named += 1;
    });
    if count > named {
        let _ = write!(told, ", and {} more differences", count - named);
    }
    told
}

/// Shows `each` the keys in which the two rooms differ, in their order.
fn each_difference(allowed: &Members<'_>, wanted: &Members<'_>, mut each: impl FnMut(&str, Difference)) {
    let (mut allowed, mut wanted) = (allowed.iter().peekable(), wanted.iter().peekable());
    loop {
        let order = match (allowed.peek(), wanted.peek()) {
            (Some((own, _)), Some((other, _))) => own.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let own = if order.is_le() { allowed.next() } else { None };
        let other = if order.is_ge() { wanted.next() } else { None };
        match (own, other) {
            (Some((key, value)), Some((_, other))) if value != WILDCARD && value != other => {
                each(key, Difference::Value);
            }
            (Some((key, _)), None) => each(key, Difference::Missing),
            (None, Some((key, _))) => each(key, Difference::Unexpected),
            _ => {}
        }
    }
}

/// The members of a room's canonical text.
fn members(text: &str) -> Option<Members<'_>> {
    json::members(text, Rules { numbers: Numbers::ByValue, limits: Limits::NONE }).ok()
}

/// `key` as JSON, cut short.
fn quoted(key: &str) -> String {
    let end = (0..=QUOTED_KEY_BYTES.min(key.len())).rev().find(|at| key.is_char_boundary(*at)).unwrap_or(0);
    let shown: Cow<'_, str> = if end < key.len() { format!("{}…", &key[..end]).into() } else { key.into() };
    let mut text = String::new();
    json::write_string(&shown, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::{Map, Value, json, value::to_raw_value};

    use super::*;

    fn key(room: &Value) -> RoomKey {
        RoomKey::new(&to_raw_value(room).unwrap(), Numbers::ByValue).unwrap()
    }

    fn told(allowed: &[Value], wanted: &Value) -> String {
        let texts: Vec<_> = allowed.iter().map(Value::to_string).collect();
        nearest(texts.iter().map(String::as_str), &key(wanted))
    }

    /// A room with as many keys and bytes as the limits allow.
    fn large(value: &str) -> Value {
        let filler = "\"".repeat(50);
        Value::Object((0..64).map(|n| (format!("{n:02}\n{value}"), json!(filler))).collect::<Map<_, _>>())
    }

    #[test]
    fn the_nearest_room_is_named_with_what_differs() {
        let allowed = [json!({"target": "message", "customer": "7"}), json!({"other": 1})];
        assert_eq!(
            told(&allowed, &json!({"target": "message", "customer": "8"})),
            r#"the nearest allowed room is {"customer":"7","target":"message"}: "customer" has another value"#
        );
        assert_eq!(
            told(&allowed, &json!({"target": "message"})),
            r#"the nearest allowed room is {"customer":"7","target":"message"}: "customer" is missing"#
        );
        assert_eq!(
            told(&allowed, &json!({"other": 1, "more": 2})),
            r#"the nearest allowed room is {"other":1}: "more" is no key of it"#
        );
        let allowed = [json!({"a": "*", "b": 2, "d": 4})];
        assert_eq!(
            told(&allowed, &json!({"a": 7, "b": 3, "c": 3})),
            r#"the nearest allowed room is {"a":"*","b":2,"d":4}: "b" has another value, "c" is no key of it, "d" is missing"#
        );
        assert_eq!(told(&[], &json!({})), "no room is allowed");
    }

    #[test]
    fn a_long_room_is_not_shown() {
        let told = told(&[json!({"a": "x".repeat(1000)})], &json!({"a": 1}));
        assert_eq!(told, r#"the nearest allowed room is one that is too long to be shown: "a" has another value"#);
    }

    #[test]
    fn the_largest_rooms_cost_a_bounded_number_of_comparisons_and_a_bounded_answer() {
        let rooms: Vec<String> = (0..300).map(|n| large(&n.to_string()).to_string()).collect();
        let compared = Cell::new(0);
        let rooms = rooms.iter().map(|room| {
            compared.set(compared.get() + room.len());
            room.as_str()
        });
        let told = nearest(rooms, &key(&large("wanted")));
        assert!(compared.get() <= COMPARED_BYTES + 2 * 8192, "{} bytes looked at", compared.get());
        assert!(told.len() <= 100 + QUOTED_ROOM_BYTES + NAMED * (2 * QUOTED_KEY_BYTES + 32), "{}: {told}", told.len());
        assert!(told.ends_with("and 120 more differences"), "{told}");
    }
}
