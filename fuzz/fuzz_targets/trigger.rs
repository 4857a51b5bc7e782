//! Triggers: no body makes the reader panic, it takes exactly those that serde_json's tree calls triggers, and what it
//! passes on is what was written.

#![no_main]

mod reading;

use high_templar::{
    protocol::trigger::{Error, Trigger},
    room::{self, Limits, Numbers, RoomKey, Rules},
};
use libfuzzer_sys::fuzz_target;
use reading::{Reading, assert_lies_in};
use serde::de::IgnoredAny;
use serde_json::Value;
use uuid::Uuid;

/// Levels of nesting accepted inside a room.
const MAX_DEPTH: usize = 64;

fuzz_target!(|body: &[u8]| {
    let rules = |numbers| Rules { numbers, limits: Limits::NONE };
    let parsed = Trigger::parse(body, rules(Numbers::ByValue));
    let by_type = Trigger::parse(body, rules(Numbers::ByType));
    // Limits refuse, and change nothing else.
    match Trigger::parse(body, Numbers::ByValue) {
        Err(Error::BadRooms(error)) if error.is_beyond_limits() => {}
        limited => assert_eq!(word(&limited), word(&parsed)),
    }
    assert_eq!(word(&parsed), word(&by_type));
    match &parsed {
        Ok(trigger) => {
            assert_lies_in(trigger.data.get(), body);
            assert!(serde_json::from_str::<IgnoredAny>(trigger.data.get()).is_ok());
            trigger.rooms.iter().for_each(assert_canonical);
        }
        Err(Error::BadRooms(room::Error::TooDeep)) => assert!(openings(body) > MAX_DEPTH),
        Err(Error::BadRooms(room::Error::Malformed)) => panic!("JSON as a whole, but not in its parts"),
        Err(_) => {}
    }
    match Reading::of(body) {
        Reading::NotJson => assert_eq!(word(&parsed), "malformed-json"),
        Reading::Unsure => {}
        Reading::Json(value) => match (parsed, expected(&value)) {
            (Ok(trigger), Ok((rooms, data))) => {
                assert_eq!(&serde_json::from_str::<Value>(trigger.data.get()).unwrap(), data);
                assert_eq!(trigger.rooms.len(), rooms.len());
                for (key, room) in trigger.rooms.iter().zip(rooms) {
                    assert!(is_same(&serde_json::from_str(key.as_str()).unwrap(), room), "{key:?} is not {room}");
                }
            }
            // The tree does not show what a later member of the same name has replaced.
            (Err(Error::BadRooms(room::Error::TooDeep)), _) => {}
            (parsed, expected) => assert_eq!(word(&parsed), expected.map_or_else(|word| word, |_| "success")),
        },
    }
});

fn word(parsed: &Result<Trigger<'_>, Error>) -> &'static str {
    parsed.as_ref().map_or_else(Error::word, |_| "success")
}

/// What the tree says: the rooms and the data, or the word for what is wrong.
fn expected(body: &Value) -> Result<(&[Value], &Value), &'static str> {
    let body = body.as_object().ok_or("malformed-json")?;
    let rooms = body.get("rooms").ok_or("no-rooms")?;
    let data = body.get("data").ok_or("no-data")?;
    let rooms = rooms.as_array().ok_or("malformed-rooms")?;
    let is_room = |room: &Value| room.is_object() && depth(room) <= MAX_DEPTH;
    if !rooms.iter().all(is_room) {
        return Err("malformed-rooms");
    }
    let is_list = |list: &Value| serde_json::from_value::<Vec<Uuid>>(list.clone()).is_ok();
    let is_id = |id: &Value| id.as_str().is_some_and(|id| (1..=255).contains(&id.len()));
    match (body.get("exclude"), body.get("id")) {
        (Some(list), _) if !is_list(list) => Err("malformed-exclude"),
        (_, Some(id)) if !is_id(id) => Err("malformed-id"),
        _ => Ok((rooms, data)),
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn openings(body: &[u8]) -> usize {
    body.iter().filter(|byte| matches!(byte, b'[' | b'{')).count()
}

/// A key read again is the same key.
fn assert_canonical(key: &RoomKey) {
    let rules = Rules { numbers: Numbers::ByValue, limits: Limits::NONE };
    let again = RoomKey::new(serde_json::from_str(key.as_str()).unwrap(), rules);
    assert_eq!(again.as_ref(), Ok(key));
}

/// Equal, however the numbers are spelled.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let is_same_in_other = |(key, value)| other.get(key).is_some_and(|other| is_same(value, other));
            one.len() == other.len() && one.iter().all(is_same_in_other)
        }
        _ => one == other,
    }
}
