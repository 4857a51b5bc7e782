//! What callers and listeners are told of messages.
//!
//! A frame is written once for all listeners, up to where it would say whether it is told late: whoever gets it is sent its
//! `frame_start`, and then one of [`LIVE`], [`CAUGHT_UP`] and [`LIVE_CHANGE`].

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    Timestamp,
    requests::{Delete, Edit, Message, Recipients},
};

/// Ends the frame of a message that is told at once.
pub const LIVE: &str = r#","catchup":false}"#;

/// Ends any frame that is told late, to who has missed it.
pub const CAUGHT_UP: &str = r#","catchup":true}"#;

/// Ends the frame of an edit or a deletion that is told at once.
pub const LIVE_CHANGE: &str = "}";

impl Message {
    /// The item of the reply, as JSON: all fields with their defaults.
    pub fn reply_json(&self) -> String {
        json(&Reply { to: &self.to, item: self.item(None) })
    }

    /// The entry in a channel's history, as JSON; edited last at `edited`.
    pub fn history_json(&self, edited: Option<&Timestamp>) -> String {
        json(&Entry { to: &self.to, item: self.item(edited), catchup: false, kind: "message" })
    }

    /// The frame, edited last at `edited`; [`LIVE`] or [`CAUGHT_UP`] has to follow.
    pub fn frame_start(&self, edited: Option<&Timestamp>) -> String {
        start(&Frame { kind: "message", channel: self.to.channel.as_deref(), item: self.item(edited) })
    }

    fn item<'a>(&'a self, edited: Option<&'a Timestamp>) -> Item<'a> {
        Item {
            uuid: self.uuid,
            timestamp: Some(&self.timestamp),
            user: Some(&self.user),
            message: self.message.as_deref(),
            edited,
            extra: &self.extra,
        }
    }
}

impl Edit {
    /// The item of the reply, as JSON: what was given, and the defaults of the rest.
    pub fn reply_json(&self) -> String {
        json(&Reply { to: &self.to, item: self.item() })
    }

    /// The frame; [`LIVE_CHANGE`] or [`CAUGHT_UP`] has to follow.
    pub fn frame_start(&self) -> String {
        start(&Frame { kind: "message:edit", channel: self.to.channel.as_deref(), item: self.item() })
    }

    fn item(&self) -> Item<'_> {
        Item {
            uuid: self.uuid,
            timestamp: self.timestamp.as_ref(),
            user: self.user.as_deref(),
            message: self.message.as_deref(),
            edited: Some(&self.edited),
            extra: &self.extra,
        }
    }
}

impl Delete {
    /// The item of the reply, as JSON.
    pub fn reply_json(&self) -> String {
        json(&Reply { to: &self.to, item: Gone { uuid: self.uuid } })
    }

    /// The frame; [`LIVE_CHANGE`] or [`CAUGHT_UP`] has to follow.
    pub fn frame_start(&self) -> String {
        let item = Gone { uuid: self.uuid };
        start(&Frame { kind: "message:delete", channel: self.to.channel.as_deref(), item })
    }
}

#[derive(Serialize)]
struct Reply<'a, T> {
    #[serde(flatten)]
    to: &'a Recipients,
    #[serde(flatten)]
    item: T,
}

#[derive(Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    to: &'a Recipients,
    #[serde(flatten)]
    item: Item<'a>,
    catchup: bool,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Frame<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    channel: Option<&'a str>,
    #[serde(flatten)]
    item: T,
}

/// What a message and an edit have in common; `extra` has none of the other keys, here or above.
#[derive(Serialize)]
struct Item<'a> {
    uuid: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<&'a Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a RawValue>,
    edited: Option<&'a Timestamp>,
    #[serde(flatten)]
    extra: &'a BTreeMap<String, Arc<RawValue>>,
}

#[derive(Serialize)]
struct Gone {
    uuid: Uuid,
}

/// Cannot fail: every key is a string.
fn json(object: &impl Serialize) -> String {
    serde_json::to_string(object).unwrap_or_default()
}

/// Without the brace at the end.
fn start(object: &impl Serialize) -> String {
    let mut json = json(object);
    json.pop();
    json
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const UUID: &str = "8c635a4d-4ab6-4082-8de4-80cf7bb3272b";
    const SENT: &str = "2026-11-20T20:47:57.946660";
    const EDITED: &str = "2026-11-20T20:47:57.949183";

    fn value(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    fn message(mut item: Value) -> Message {
        item["uuid"] = UUID.into();
        item["timestamp"] = SENT.into();
        item["user"] = "bob".into();
        Message::parse_all(json!([item]).to_string().as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn a_message_is_told_to_its_caller_with_all_defaults() {
        let message = message(json!({"channel": "lobby", "message": {"text": "hi"}}));
        let expected = json!({
            "pm_users": [], "exclude_users": [], "channel": "lobby", "no_history": false,
            "uuid": UUID, "timestamp": SENT, "user": "bob", "message": {"text": "hi"}, "edited": null
        });
        assert_eq!(value(&message.reply_json()), expected);
        let mut entry = expected;
        entry["edited"] = EDITED.into();
        entry["catchup"] = false.into();
        entry["type"] = "message".into();
        assert_eq!(value(&message.history_json(Timestamp::parse(EDITED).as_ref())), entry);
    }

    #[test]
    fn a_frame_has_no_delivery_fields() {
        let message = message(json!({"channel": "lobby", "message": {"text": "hi"}, "pm_users": ["al"], "x": [1]}));
        let mut expected = json!({
            "type": "message", "uuid": UUID, "timestamp": SENT, "user": "bob", "channel": "lobby",
            "message": {"text": "hi"}, "edited": null, "catchup": false, "x": [1]
        });
        assert_eq!(value(&(message.frame_start(None) + LIVE)), expected);
        expected["catchup"] = true.into();
        expected["edited"] = EDITED.into();
        assert_eq!(value(&(message.frame_start(Timestamp::parse(EDITED).as_ref()) + CAUGHT_UP)), expected);
    }

    #[test]
    fn what_was_not_given_is_null_or_left_out() {
        let message = message(json!({"pm_users": ["al"]}));
        let frame = value(&(message.frame_start(None) + LIVE));
        assert_eq!(frame["channel"], Value::Null);
        assert_eq!(frame.get("message"), None);
        assert_eq!(value(&message.reply_json())["channel"], Value::Null);
    }

    #[test]
    fn an_edit_is_told_as_it_was_given() {
        let item = json!([{"uuid": UUID, "channel": "lobby", "user": "bob", "message": {"text": "hi!"}, "edited": EDITED,
            "type": "x", "catchup": 1}]);
        let edit = Edit::parse_all(item.to_string().as_bytes()).unwrap().remove(0);
        let mut expected = json!({"uuid": UUID, "channel": "lobby", "user": "bob", "message": {"text": "hi!"},
            "edited": EDITED, "pm_users": [], "exclude_users": [], "no_history": false});
        assert_eq!(value(&edit.reply_json()), expected);
        for field in ["pm_users", "exclude_users", "no_history"] {
            expected.as_object_mut().unwrap().remove(field);
        }
        expected["type"] = "message:edit".into();
        assert_eq!(value(&(edit.frame_start() + LIVE_CHANGE)), expected);
        expected["catchup"] = true.into();
        assert_eq!(value(&(edit.frame_start() + CAUGHT_UP)), expected);
    }

    #[test]
    fn a_deletion_is_told_by_its_id() {
        let item = json!([{"uuid": UUID, "channel": "lobby", "user": "bob"}]);
        let delete = Delete::parse_all(item.to_string().as_bytes()).unwrap().remove(0);
        let reply = json!({"uuid": UUID, "channel": "lobby", "pm_users": [], "exclude_users": [], "no_history": false});
        assert_eq!(value(&delete.reply_json()), reply);
        let frame = json!({"type": "message:delete", "uuid": UUID, "channel": "lobby"});
        assert_eq!(value(&(delete.frame_start() + LIVE_CHANGE)), frame);
    }

    #[test]
    fn what_the_caller_wrote_is_kept_and_no_key_is_there_twice() {
        let body = r#"[{"user":"b","channel":"c","message":{"n":123456789012345678901234567890, "f":1.0},"n":1E999,
            "s":"\u0041","edited":1,"type":2,"catchup":3,"ą\"":{}}]"#;
        let message = Message::parse_all(body.as_bytes()).unwrap().remove(0);
        for text in [message.reply_json(), message.history_json(None), message.frame_start(None) + LIVE] {
            assert!(text.contains(r#""message":{"n":123456789012345678901234567890, "f":1.0}"#), "{text}");
            for once in [r#""n":1E999"#, r#""s":"\u0041""#, r#""edited":null"#, r#""ą\"":{}"#] {
                assert_eq!(text.matches(once).count(), 1, "{once} in {text}");
            }
            for key in ["\"edited\":", "\"type\":", "\"catchup\":", "\"user\":", "\"channel\":"] {
                assert!(text.matches(key).count() <= 1, "{key} in {text}");
            }
        }
    }

    #[test]
    fn a_request_is_the_same_when_it_comes_from_the_log() {
        let body = r#"[{"user":"b","channel":"c","message":{"n":1.0},"x":1E999}]"#;
        let message = Message::parse_all(body.as_bytes()).unwrap().remove(0);
        let log = serde_json::to_string(&message).unwrap();
        let again: Message = serde_json::from_str(&log).unwrap();
        assert_eq!(again.history_json(None), message.history_json(None));
    }
}
