//! Client messages: no text makes the reader panic, and it agrees with serde_json's tree on what the text says.

#![no_main]

mod reading;

use high_templar::protocol::{RequestId, client::Message};
use libfuzzer_sys::fuzz_target;
use reading::{Reading, assert_lies_in};
use serde::de::IgnoredAny;
use serde_json::{Value, value::RawValue};

fuzz_target!(|text: &str| {
    let message = Message::parse(text);
    if text == "ping" {
        return assert!(matches!(message, Message::Ping));
    }
    if matches!(message, Message::Subscribe { .. } | Message::Unsubscribe { .. } | Message::Status) {
        assert!(text.trim_ascii_start().starts_with('{'));
        assert!(serde_json::from_str::<IgnoredAny>(text).is_ok());
    }
    match Reading::of(text.as_bytes()) {
        Reading::NotJson => assert!(matches!(message, Message::NotJson), "{message:?}"),
        Reading::Unsure => assert!(!matches!(message, Message::Ping)),
        Reading::Json(value) => {
            let kind = value.get("type").and_then(Value::as_str);
            match (message, kind) {
                (Message::Subscribe { room, request_id }, Some("subscribe")) => {
                    check_room(room, value.get("room"), text);
                    check_id(request_id, value.get("requestId"), text);
                }
                (Message::Unsubscribe { request_id }, Some("unsubscribe")) => {
                    check_id(request_id, value.get("requestId"), text);
                }
                (Message::Status, Some("status")) => {}
                (Message::UnknownType, Some("subscribe" | "unsubscribe" | "status")) => panic!("{kind:?} not known"),
                (Message::UnknownType, _) => {}
                (message, _) => panic!("{message:?} is not what the tree reads"),
            }
        }
    }
});

fn check_room(room: Option<&RawValue>, expected: Option<&Value>, text: &str) {
    if let Some(room) = room {
        assert_lies_in(room.get(), text.as_bytes());
    }
    let room: Option<Value> = room.map(|room| serde_json::from_str(room.get()).unwrap());
    assert_eq!(room.as_ref(), expected);
}

fn check_id(id: Option<RequestId>, expected: Option<&Value>, text: &str) {
    let expected = expected.filter(|value| !value.is_array() && !value.is_object());
    let read: Option<Value> = id.as_ref().map(|id| serde_json::from_str(id.as_json()).unwrap());
    assert_eq!(read.as_ref(), expected);
    let Some(id) = id else { return };
    assert!(text.contains(id.as_json()), "not echoed as sent");
    let again = serde_json::from_str::<&RawValue>(id.as_json()).ok().and_then(RequestId::new);
    assert_eq!(again, Some(id));
}
