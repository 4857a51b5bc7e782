//! What a client sends.

use serde_json::value::RawValue;

use super::{RequestId, fields};

/// A client's message, as far as its form goes.
#[derive(Debug)]
pub enum Message<'a> {
    /// The text `ping`.
    Ping,
    /// `{"type":"subscribe","room":{…},"requestId":"1"}`.
    Subscribe {
        /// As sent; whether it is a room at all is for the subscription to say.
        room: Option<&'a RawValue>,
        /// `None` when there is none, or when it is a list or an object.
        request_id: Option<RequestId>,
    },
    /// `{"type":"unsubscribe","requestId":"1"}`.
    Unsubscribe {
        /// `None` when there is none, or when it is a list or an object.
        request_id: Option<RequestId>,
    },
    /// `{"type":"status"}`.
    Status,
    /// JSON that is none of the above.
    UnknownType,
    /// No JSON.
    NotJson,
}

impl<'a> Message<'a> {
    /// Reads one text message, or a binary one that holds text.
    ///
    /// Never fails: what cannot be understood is a variant of its own.
    pub fn parse(text: &'a str) -> Self {
        if text == "ping" {
            return Self::Ping;
        }
        let Ok(json) = serde_json::from_str::<&RawValue>(text) else { return Self::NotJson };
        let Ok([kind, room, request_id]) = fields(json.get(), ["type", "room", "requestId"]) else {
            // Not an object, or one with a key that is not text.
            return Self::UnknownType;
        };
        let request_id = request_id.and_then(RequestId::new);
        match kind.and_then(|kind| serde_json::from_str::<String>(kind.get()).ok()).as_deref() {
            Some("subscribe") => Self::Subscribe { room, request_id },
            Some("unsubscribe") => Self::Unsubscribe { request_id },
            Some("status") => Self::Status,
            _ => Self::UnknownType,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_bare_four_letters_are_a_ping() {
        assert!(matches!(Message::parse("ping"), Message::Ping));
        for other in ["PING", "ping ", "", "\u{feff}ping", "NaN", "{", "{} {}"] {
            assert!(matches!(Message::parse(other), Message::NotJson), "{other:?}");
        }
        assert!(matches!(Message::parse("\"ping\""), Message::UnknownType));
    }

    #[test]
    fn json_of_any_other_kind_has_an_unknown_type() {
        for json in ["[]", "1", "null", "true", "{}", r#"{"type":[]}"#, r#"{"type":{}}"#, r#"{"type":"Subscribe"}"#] {
            assert!(matches!(Message::parse(json), Message::UnknownType), "{json}");
        }
    }

    #[test]
    fn the_last_of_duplicate_members_counts() {
        let text = r#"{"type":"status","requestId":1,"requestId":2,"type":"unsubscribe","x":[{}]}"#;
        let Message::Unsubscribe { request_id: Some(id) } = Message::parse(text) else { panic!("{text}") };
        assert_eq!(id.as_json(), "2");
    }

    #[test]
    fn a_deep_or_long_message_needs_no_stack() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(Message::parse(&deep), Message::UnknownType));
        assert!(matches!(Message::parse(&deep[..100_000]), Message::NotJson));
        assert!(matches!(Message::parse(&"9".repeat(5000)), Message::UnknownType));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,64}") {
            let _ = Message::parse(&text);
        }

        #[test]
        fn nothing_but_json_objects_becomes_a_request(text in "[\\[\\]{}\":, a-z0-9]{0,40}") {
            if matches!(Message::parse(&text), Message::Status | Message::Subscribe { .. } | Message::Unsubscribe { .. }) {
                prop_assert!(serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).is_ok());
            }
        }
    }
}
