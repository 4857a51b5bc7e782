//! Client messages: no text makes the reader panic, and it agrees with serde_json's tree on what the text says.

#![no_main]

mod reading;

use high_templar::protocol::{
    RequestId, Version,
    client::{Message, Wanted},
};
use libfuzzer_sys::fuzz_target;
use reading::{Reading, assert_lies_in};
use serde::de::IgnoredAny;
use serde_json::{Value, value::RawValue};

fuzz_target!(|text: &str| {
    check(text, Version::V3);
    check(text, Version::V4);
});

fn check(text: &str, version: Version) {
    let message = Message::parse(text, version);
    if text == "ping" {
        return assert!(matches!(message, Message::Ping));
    }
    if !matches!(message, Message::NotJson) {
        assert!(serde_json::from_str::<IgnoredAny>(text).is_ok());
    }
    match Reading::of(text.as_bytes()) {
        Reading::NotJson => assert!(matches!(message, Message::NotJson), "{message:?}"),
        Reading::Unsure => assert!(!matches!(message, Message::Ping)),
        Reading::Json(value) => {
            let kind = value.get("type").and_then(Value::as_str);
            let id = value.get("requestId");
            match (message, kind) {
                (Message::SubscribeAll { list, request_id }, Some("subscribe")) => {
                    assert_eq!(version, Version::V4);
                    let expected = value.get("subscriptions").unwrap();
                    check_id(request_id, id, version, text);
                    match (Wanted::list(list), expected.as_array()) {
                        (Some(entries), Some(expected)) => {
                            assert_eq!(entries.len(), expected.len());
                            for (entry, expected) in entries.zip(expected) {
                                assert_eq!(entry.is_some(), expected.is_object());
                                if let Some(entry) = entry {
                                    check_wanted(entry, expected, version, text);
                                }
                            }
                        }
                        (None, None) => {}
                        (entries, _) => panic!("{entries:?} of {expected}"),
                    }
                }
                (Message::Subscribe(wanted), Some("subscribe")) => {
                    assert!(version == Version::V3 || value.get("subscriptions").is_none());
                    check_wanted(wanted, &value, version, text);
                }
                (Message::Unsubscribe { request_id }, Some("unsubscribe"))
                | (Message::Status { request_id }, Some("status")) => check_id(request_id, id, version, text),
                (Message::UnknownType { .. }, Some("subscribe" | "unsubscribe" | "status")) => {
                    panic!("{kind:?} not known")
                }
                (Message::UnknownType { request_id }, _) => check_id(request_id, id, version, text),
                (message, _) => panic!("{message:?} is not what the tree reads"),
            }
        }
    }
}

fn check_wanted(wanted: Wanted<'_>, expected: &Value, version: Version, text: &str) {
    check_room(wanted.room, expected.get("room"), text);
    check_room(wanted.since, expected.get("since").filter(|_| version == Version::V4), text);
    check_id(wanted.request_id, expected.get("requestId"), version, text);
}

fn check_room(room: Option<&RawValue>, expected: Option<&Value>, text: &str) {
    if let Some(room) = room {
        assert_lies_in(room.get(), text.as_bytes());
    }
    let room: Option<Value> = room.map(|room| serde_json::from_str(room.get()).unwrap());
    assert_eq!(room.as_ref(), expected);
}

fn check_id(id: Option<RequestId>, expected: Option<&Value>, version: Version, text: &str) {
    let is_label = |value: &&Value| match version {
        Version::V3 => !value.is_array() && !value.is_object(),
        Version::V4 => value.is_string() || value.is_number(),
    };
    let expected = expected.filter(is_label);
    if id.is_none() && expected.is_some() {
        return assert!(text.len() > RequestId::LIMIT_BYTES, "only one that is too long is none");
    }
    let read: Option<Value> = id.as_ref().map(|id| serde_json::from_str(id.as_json()).unwrap());
    assert_eq!(read.as_ref(), expected);
    let Some(id) = id else { return };
    assert!(text.contains(id.as_json()), "not echoed as sent");
    let again = serde_json::from_str::<&RawValue>(id.as_json()).ok().and_then(RequestId::new);
    assert_eq!(again, Some(id));
}
