//! What a client sends.

use serde_json::value::RawValue;

use super::{RequestId, Version, fields};

/// A client's message, as far as its form goes.
#[derive(Debug)]
pub enum Message<'a> {
    /// The text `ping`.
    Ping,
    /// `{"type":"subscribe","room":{…},"requestId":"1"}`.
    Subscribe(Wanted<'a>),
    /// `{"type":"subscribe","subscriptions":[{"room":{…},"requestId":"1"}, …]}`, in version 4.
    SubscribeAll {
        /// As sent; [`Wanted::list`] reads it.
        list: &'a RawValue,
        /// For the case that it is no list.
        request_id: Option<RequestId>,
    },
    /// `{"type":"unsubscribe","requestId":"1"}`.
    Unsubscribe {
        /// `None` when there is none that can be one.
        request_id: Option<RequestId>,
    },
    /// `{"type":"status"}`.
    Status {
        /// `None` when there is none that can be one.
        request_id: Option<RequestId>,
    },
    /// `{"type":"authenticate","params":{"token":"…"},"requestId":"1"}`, in version 4.
    Authenticate {
        /// As sent.
        params: Option<&'a RawValue>,
        /// `None` when there is none that can be one.
        request_id: Option<RequestId>,
    },
    /// JSON that is none of the above.
    UnknownType {
        /// `None` when there is none that can be one.
        request_id: Option<RequestId>,
    },
    /// No JSON.
    NotJson,
}

/// A subscription as a client asks for it.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// As sent; whether it is a room at all is for the subscription to say.
    pub room: Option<&'a RawValue>,
    /// `None` when there is none that can be one.
    pub request_id: Option<RequestId>,
    /// `"since":"POSITION"` as sent, in version 4: what was published after that is wanted, too.
    pub since: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    /// Reads one text message, or a binary one that holds text.
    ///
    /// Never fails: what cannot be understood is a variant of its own.
    pub fn parse(text: &'a str, version: Version) -> Self {
        if text == "ping" {
            return Self::Ping;
        }
        let Ok(json) = serde_json::from_str::<&RawValue>(text) else { return Self::NotJson };
        let names = ["type", "requestId", "room", "since", "subscriptions", "params"];
        let Ok([kind, request_id, room, since, list, params]) = fields(json.get(), names) else {
            // Not an object, or one with a key that is not text.
            return Self::UnknownType { request_id: None };
        };
        let request_id = request_id.and_then(|id| label(id, version));
        match kind.and_then(|kind| serde_json::from_str::<String>(kind.get()).ok()).as_deref() {
            Some("subscribe") => match list.filter(|_| version == Version::V4) {
                Some(list) => Self::SubscribeAll { list, request_id },
                None => Self::Subscribe(Wanted { room, request_id, since: since.filter(|_| version == Version::V4) }),
            },
            Some("unsubscribe") => Self::Unsubscribe { request_id },
            Some("status") => Self::Status { request_id },
            Some("authenticate") if version == Version::V4 => Self::Authenticate { params, request_id },
            _ => Self::UnknownType { request_id },
        }
    }
}

impl<'a> Wanted<'a> {
    /// The entries of a [`Message::SubscribeAll`]; `None` when it is no list.
    pub fn list(list: &'a RawValue) -> Option<Entries<'a>> {
        let entries = Entries { rest: list.get().trim_ascii_start().strip_prefix('[')?, left: 0 };
        let left = std::iter::from_fn({
            let mut entries = Entries { ..entries };
            move || entries.next_json()
        });
        Some(Entries { left: left.count(), ..entries })
    }

    fn entry(json: &'a RawValue) -> Option<Self> {
        let [request_id, room, since] = fields(json.get(), ["requestId", "room", "since"]).ok()?;
        Some(Self { room, request_id: request_id.and_then(|id| label(id, Version::V4)), since })
    }
}

/// The entries of a list of subscriptions, in their order; `None` for one that is no object.
///
/// Read one by one: a list of short entries would take many times its own memory otherwise.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    /// JSON, from behind the bracket or an entry on.
    rest: &'a str,
    left: usize,
}

impl<'a> Entries<'a> {
    fn next_json(&mut self) -> Option<&'a RawValue> {
        let rest = self.rest.trim_ascii_start();
        let rest = rest.strip_prefix(',').unwrap_or(rest);
        let mut values = serde_json::Deserializer::from_str(rest).into_iter();
        let json = values.next()?.ok()?; // at the closing bracket there is none
        self.rest = &rest[values.byte_offset()..];
        Some(json)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Option<Wanted<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let json = self.next_json()?;
        self.left = self.left.saturating_sub(1);
        Some(Wanted::entry(json))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Entries<'_> {}

/// The ticket of `{"type":"resume","ticket":"…"}`, with which a client of version 4 may begin.
pub fn ticket(text: &str) -> Option<&str> {
    let [kind, ticket] = fields(text, ["type", "ticket"]).ok()?;
    let is_resume = kind.is_some_and(|kind| kind.get() == r#""resume""#);
    // Tickets have no letters that would be written otherwise in JSON.
    ticket.filter(|_| is_resume)?.get().strip_prefix('"')?.strip_suffix('"')
}

/// The id that `json` is: any scalar in 3.1, a string or a number in version 4.
fn label(json: &RawValue, version: Version) -> Option<RequestId> {
    let is_label = |id: &RequestId| version == Version::V3 || !matches!(id.as_json(), "true" | "false" | "null");
    RequestId::new(json).filter(is_label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Message<'_> {
        Message::parse(text, Version::V3)
    }

    #[test]
    fn only_the_bare_four_letters_are_a_ping() {
        assert!(matches!(parse("ping"), Message::Ping));
        for other in ["PING", "ping ", "", "\u{feff}ping", "NaN", "{", "{} {}"] {
            assert!(matches!(parse(other), Message::NotJson), "{other:?}");
        }
        assert!(matches!(parse("\"ping\""), Message::UnknownType { .. }));
    }

    #[test]
    fn json_of_any_other_kind_has_an_unknown_type() {
        for json in ["[]", "1", "null", "true", "{}", r#"{"type":[]}"#, r#"{"type":{}}"#, r#"{"type":"Subscribe"}"#] {
            assert!(matches!(parse(json), Message::UnknownType { .. }), "{json}");
        }
    }

    #[test]
    fn the_last_of_duplicate_members_counts() {
        let text = r#"{"type":"status","requestId":1,"requestId":2,"type":"unsubscribe","x":[{}]}"#;
        let Message::Unsubscribe { request_id: Some(id) } = parse(text) else { panic!("{text}") };
        assert_eq!(id.as_json(), "2");
    }

    #[test]
    fn a_deep_or_long_message_needs_no_stack() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(parse(&deep), Message::UnknownType { .. }));
        assert!(matches!(parse(&deep[..100_000]), Message::NotJson));
        assert!(matches!(parse(&"9".repeat(5000)), Message::UnknownType { .. }));
    }

    #[test]
    fn a_ticket_is_all_that_a_resume_message_holds() {
        assert_eq!(ticket(r#" {"ticket":"a.b-_","type":"resume"}"#), Some("a.b-_"));
        for text in [
            "",
            "ping",
            "{}",
            r#"{"type":"resume"}"#,
            r#"{"type":"x","ticket":"a"}"#,
            r#"{"type":"resume","ticket":1}"#,
        ] {
            assert_eq!(ticket(text), None, "{text}");
        }
    }

    #[test]
    fn positions_and_lists_are_for_version_4() {
        let text = r#"{"type":"subscribe","room":{},"requestId":true,"since":"e:1"}"#;
        assert!(matches!(parse(text), Message::Subscribe(Wanted { since: None, request_id: Some(_), .. })));
        let v4 = Message::parse(text, Version::V4);
        assert!(matches!(v4, Message::Subscribe(Wanted { since: Some(_), request_id: None, .. })));
        let text = r#"{"type":"subscribe","subscriptions":[{"room":{},"requestId":1},2]}"#;
        assert!(matches!(parse(text), Message::Subscribe(Wanted { room: None, .. })));
        let Message::SubscribeAll { list, .. } = Message::parse(text, Version::V4) else { panic!("{text}") };
        let entries: Vec<_> = Wanted::list(list).unwrap().collect();
        assert!(matches!(&entries[..], [Some(Wanted { request_id: Some(_), .. }), None]));
    }

    #[test]
    fn credentials_are_shown_in_version_4_only() {
        let text = r#"{"type":"authenticate","requestId":"9","params":{"token":"a"}}"#;
        assert!(matches!(parse(text), Message::UnknownType { request_id: Some(_) }));
        let v4 = Message::parse(text, Version::V4);
        assert!(matches!(v4, Message::Authenticate { params: Some(_), request_id: Some(_) }));
        let v4 = Message::parse(r#"{"type":"authenticate"}"#, Version::V4);
        assert!(matches!(v4, Message::Authenticate { params: None, request_id: None }));
    }

    #[test]
    fn a_list_is_read_entry_by_entry() {
        let ids = |json: &str| {
            let list = RawValue::from_string(json.to_owned()).unwrap();
            let entries = Wanted::list(&list)?;
            let len = entries.len();
            let ids: Vec<_> =
                entries.map(|entry| entry.map(|wanted| wanted.request_id.map(|id| id.as_json().to_owned()))).collect();
            assert_eq!(ids.len(), len, "{json}");
            Some(ids)
        };
        let id = |id: &str| Some(Some(id.to_owned()));
        assert_eq!(ids("[]"), Some(vec![]));
        assert_eq!(ids(" [ ] "), Some(vec![]));
        let mixed = r#"[ {"requestId":1} ,2,"]",[3,4],null,{"requestId":"a,]"},{} ]"#;
        assert_eq!(ids(mixed), Some(vec![id("1"), None, None, None, None, id("\"a,]\""), Some(None)]));
        for json in ["{}", "1", "\"[]\"", "null"] {
            assert_eq!(ids(json), None, "{json}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,64}") {
            let _ = parse(&text);
        }

        #[test]
        fn nothing_but_json_objects_becomes_a_request(text in "[\\[\\]{}\":, a-z0-9]{0,40}") {
            if matches!(parse(&text), Message::Status { .. } | Message::Subscribe(_) | Message::Unsubscribe { .. }) {
                prop_assert!(serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).is_ok());
            }
        }
    }
}
