//! The frames of `high-templar.v4`.

use std::{fmt::Write as _, time::Duration};

use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Ended, Misunderstanding, Refusal, Status, push_list};
use crate::protocol::{Position, RequestId};

/// The first and only frame of a client the backend did not authorise.
pub const NOT_AUTHORIZED: &str = r#"{"type":"welcome","is_authorized":false,"message":"not-authorized"}"#;

/// What a client may ask for at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Subscriptions.
    pub subscriptions: usize,
    /// Bytes of a message.
    pub message_bytes: usize,
    /// Keys of a room.
    pub room_keys: usize,
    /// Bytes of a room as canonical JSON.
    pub room_bytes: usize,
    /// Distinct combinations of wildcards among its subscriptions.
    pub masks: usize,
}

/// What an authorised client is told first.
#[derive(Debug)]
pub struct Welcome<'a> {
    /// As the backend wrote them.
    pub rooms: &'a [Box<RawValue>],
    /// The connection's own id.
    pub connection: Uuid,
    /// Where the log is at present, if there is one.
    pub position: Option<Position>,
    /// Time between two pings of the server's.
    pub ping_interval: Duration,
    /// What the client may ask for.
    pub limits: Limits,
    /// What it may come back with, where tickets are given out.
    pub ticket: Option<&'a str>,
    /// Whether it has come back with one.
    pub is_resumed: bool,
}

/// The first frame of an authorised client.
pub fn welcome(welcome: &Welcome<'_>) -> String {
    let mut frame = String::from(r#"{"type":"welcome","is_authorized":true,"allowed_rooms":"#);
    push_list(&mut frame, welcome.rooms);
    let _ = write!(frame, r#","connection":"{}""#, welcome.connection); // a text takes everything
    push_position(&mut frame, welcome.position);
    let _ = write!(frame, r#","ping_interval":{},"limits":"#, welcome.ping_interval.as_secs_f64());
    let Limits { subscriptions, message_bytes, room_keys, room_bytes, masks } = welcome.limits;
    let id_bytes = RequestId::LIMIT_BYTES;
    let _ = write!(frame, r#"{{"subscriptions":{subscriptions},"message_bytes":{message_bytes},"#);
    let _ = write!(frame, r#""room_keys":{room_keys},"room_bytes":{room_bytes},"#);
    let _ = write!(frame, r#""request_id_bytes":{id_bytes},"masks":{masks}}}"#);
    if let Some(ticket) = welcome.ticket {
        let _ = write!(frame, r#","ticket":"{ticket}""#); // of letters and digits
    }
    if welcome.ticket.is_some() || welcome.is_resumed {
        let _ = write!(frame, r#","resumed":{}"#, welcome.is_resumed);
    }
    frame.push('}');
    frame
}

/// Another ticket, which takes the place of the one before.
pub fn ticket(ticket: &str) -> String {
    format!(r#"{{"type":"ticket","ticket":"{ticket}"}}"#)
}

/// The rooms that are allowed from now on.
pub fn allowed_rooms(rooms: &[Box<RawValue>]) -> String {
    let mut frame = String::from(r#"{"type":"allowed_rooms","allowed_rooms":"#);
    push_list(&mut frame, rooms);
    frame.push('}');
    frame
}

/// A subscription has ended that the client has not ended.
pub fn unsubscribed(request_id: &RequestId, why: Ended) -> String {
    format!(r#"{{"type":"unsubscribed","requestId":{},"message":"{}"}}"#, request_id.as_json(), why.word())
}

/// The first and only frame of a client whose user has as many connections as it may have.
pub fn too_many_connections(retry_after: Duration) -> String {
    not_now("too-many-connections", retry_after)
}

/// The first and only frame of a client that cannot be served now.
pub fn try_later(retry_after: Duration) -> String {
    not_now("try-later", retry_after)
}

fn not_now(message: &str, retry_after: Duration) -> String {
    let seconds = retry_after.as_secs_f64();
    format!(r#"{{"type":"welcome","is_authorized":false,"message":"{message}","retry_after":{seconds:.1}}}"#)
}

/// Why a connection is closed by a server that can be come back to: the reason of the close frame.
pub fn retry_after(longest: Duration) -> String {
    format!("retry_after={:.1}", longest.as_secs_f64())
}

/// A request was carried out. What is published after `position` follows; for one with `since`, `recovered` says whether
/// that is so from there on.
pub fn success(request_id: &RequestId, position: Option<Position>, recovered: Option<bool>) -> String {
    let mut frame = reply(Some(request_id), "success");
    push_position(&mut frame, position);
    if let Some(recovered) = recovered {
        let _ = write!(frame, r#","recovered":{recovered}"#);
    }
    frame.push('}');
    frame
}

/// A request failed; `detail` is for people.
pub fn refused(request_id: Option<&RequestId>, refusal: Refusal, detail: &str) -> String {
    error(request_id, refusal.word(), detail)
}

/// A message was no request.
pub fn misunderstood(request_id: Option<&RequestId>, what: Misunderstanding) -> String {
    let detail = match what {
        Misunderstanding::NotJson => "a message is ping or a JSON object",
        Misunderstanding::UnknownType => "the type of a message is subscribe, unsubscribe, authenticate or status",
    };
    error(request_id, what.word(), detail)
}

/// The process's numbers.
pub fn status(request_id: Option<&RequestId>, status: &Status) -> String {
    format!(r#"{},"status":{}}}"#, reply(request_id, "success"), serde_json::json!(status))
}

/// Triggers may have been missed before `position`.
pub fn resync(position: Option<Position>) -> String {
    let mut frame = String::from(r#"{"type":"resync""#);
    push_position(&mut frame, position);
    frame.push('}');
    frame
}

/// A publication up to the receiver's `requestId`; then comes that, [`PUBLICATION_DATA`], the data, and
/// [`publication_end`].
pub const PUBLICATION_START: &str = r#"{"type":"publish","requestId":"#;
/// What stands before a position.
const POSITION_START: &str = r#","position":""#;
/// What stands before a publication's data.
pub const PUBLICATION_DATA: &str = r#","data":"#;

/// What stands behind a publication's data.
pub fn publication_end(position: Option<Position>) -> String {
    let mut end = String::new();
    push_position(&mut end, position);
    end.push('}');
    end
}

/// Returns JSON as it stands behind `data: ` in a server-sent event. Each of its line breaks, which can only stand between its parts,
/// begins another line of data.
pub fn data_lines(json: &[u8]) -> Vec<u8> {
    let lines: Vec<&[u8]> = json.split(|byte| matches!(byte, b'\n' | b'\r')).collect();
    lines.join(&b"\ndata: "[..])
}

/// Returns the position in an `end` that [`publication_end`] has made.
pub fn position_in_end(end: &str) -> Option<&str> {
    end.strip_prefix(POSITION_START)?.strip_suffix("\"}")
}

fn error(request_id: Option<&RequestId>, word: &str, detail: &str) -> String {
    format!(r#"{},"message":"{word}","detail":{}}}"#, reply(request_id, "error"), serde_json::json!(detail))
}

/// A reply without its end.
fn reply(request_id: Option<&RequestId>, code: &str) -> String {
    match request_id {
        Some(id) => format!(r#"{{"type":"reply","requestId":{},"code":"{code}""#, id.as_json()),
        None => format!(r#"{{"type":"reply","code":"{code}""#),
    }
}

fn push_position(frame: &mut String, position: Option<Position>) {
    if let Some(position) = position {
        let _ = write!(frame, r#"{POSITION_START}{position}""#);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_frames_are_the_json_the_specification_shows() {
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let id = RequestId::new(&RawValue::from_string("\"1\"".to_owned()).unwrap()).unwrap();
        let position: Position = "00000000000e:17".parse().unwrap();
        let greeting = Welcome {
            rooms: &[RawValue::from_string("{\"a\": 1}".to_owned()).unwrap()],
            connection: Uuid::nil(),
            position: Some(position),
            ping_interval: Duration::from_secs(25),
            limits: Limits { subscriptions: 10, message_bytes: 1024, room_keys: 64, room_bytes: 8192, masks: 16 },
            ticket: None,
            is_resumed: false,
        };
        let limits = json!({"subscriptions": 10, "message_bytes": 1024, "room_keys": 64, "room_bytes": 8192,
            "request_id_bytes": 255, "masks": 16});
        for (frame, shown) in [
            (
                welcome(&greeting),
                json!({"type": "welcome", "is_authorized": true, "allowed_rooms": [{"a": 1}],
                    "connection": Uuid::nil(), "position": "00000000000e:17", "ping_interval": 25,
                    "limits": limits}),
            ),
            (
                welcome(&Welcome { position: None, ticket: Some("x.y"), is_resumed: true, ..greeting }),
                json!({"type": "welcome", "is_authorized": true, "allowed_rooms": [{"a": 1}],
                    "connection": Uuid::nil(), "ping_interval": 25,
                    "limits": limits, "ticket": "x.y", "resumed": true}),
            ),
            (ticket("x.y"), json!({"type": "ticket", "ticket": "x.y"})),
            (
                allowed_rooms(&[RawValue::from_string("{\"a\": 1}".to_owned()).unwrap()]),
                json!({"type": "allowed_rooms", "allowed_rooms": [{"a": 1}]}),
            ),
            (
                unsubscribed(&id, Ended::NoLongerAllowed),
                json!({"type": "unsubscribed", "requestId": "1", "message": "no-longer-allowed"}),
            ),
            (
                too_many_connections(Duration::from_secs(30)),
                json!({"type": "welcome", "is_authorized": false, "message": "too-many-connections", "retry_after": 30.0}),
            ),
            (
                NOT_AUTHORIZED.to_owned(),
                json!({"type": "welcome", "is_authorized": false, "message": "not-authorized"}),
            ),
            (
                try_later(Duration::from_millis(12_345)),
                json!({"type": "welcome", "is_authorized": false, "message": "try-later", "retry_after": 12.3}),
            ),
            (
                success(&id, Some(position), None),
                json!({"type": "reply", "requestId": "1", "code": "success", "position": "00000000000e:17"}),
            ),
            (
                success(&id, None, Some(false)),
                json!({"type": "reply", "requestId": "1", "code": "success", "recovered": false}),
            ),
            (
                refused(Some(&id), Refusal::RoomNotFound, "a \"b\""),
                json!({"type": "reply", "requestId": "1", "code": "error", "message": "room-not-found",
                    "detail": "a \"b\""}),
            ),
            (resync(Some(position)), json!({"type": "resync", "position": "00000000000e:17"})),
            (
                format!(
                    "{PUBLICATION_START}{}{PUBLICATION_DATA}{}{}",
                    id.as_json(),
                    "[1]",
                    publication_end(Some(position))
                ),
                json!({"type": "publish", "requestId": "1", "data": [1], "position": "00000000000e:17"}),
            ),
        ] {
            assert_eq!(parsed(&frame), shown, "{frame}");
        }
        let misunderstood = parsed(&misunderstood(None, Misunderstanding::NotJson));
        assert_eq!(misunderstood["message"], json!("non-json-message"));
        assert_eq!(misunderstood.get("requestId"), None);
        assert_eq!(retry_after(Duration::from_secs(1)), "retry_after=1.0");
    }
}
