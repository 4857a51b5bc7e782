//! What a client gets: the frames of 3.1 as JSON text.

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::RequestId;
use crate::metrics::Metrics;

/// The answer to `ping`; the only text that is not JSON.
pub const PONG: &str = "pong";
/// A request was carried out.
pub const SUCCESS: &str = r#"{"code":"success"}"#;
/// The first and only frame of a client the backend did not authorise.
pub const REFUSED: &str = r#"{"is_authorized":false}"#;
/// What stands behind the `requestId` of a publication.
pub const PUBLICATION_END: &str = "}";

/// Why a request failed, in the one word a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The room is not one the client may join.
    RoomNotFound,
    /// The request has no usable `requestId`.
    NoRequestId,
    /// The connection has no subscription with that `requestId`.
    NotSubscribed,
}

impl Refusal {
    /// The whole frame.
    pub fn frame(self) -> &'static str {
        match self {
            Self::RoomNotFound => r#"{"code":"error","message":"room-not-found"}"#,
            Self::NoRequestId => r#"{"code":"error","message":"no-request-id"}"#,
            Self::NotSubscribed => r#"{"code":"error","message":"not-subscribed"}"#,
        }
    }
}

/// What was wrong with a message that is no request at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misunderstanding {
    /// The message is not JSON.
    NotJson,
    /// The message is JSON of no known type.
    UnknownType,
}

impl Misunderstanding {
    /// The whole frame; its `requestId` is the connection's id, as in 3.1.
    pub fn frame(self, connection: &Uuid) -> String {
        let message = match self {
            Self::NotJson => "non-json-message",
            Self::UnknownType => "message-type-not-allowed",
        };
        format!(r#"{{"requestId":"{connection}","code":"error","message":"{message}"}}"#)
    }
}

/// The first frame of an authorised client; the rooms are passed on as the backend wrote them.
pub fn welcome(rooms: &[Box<RawValue>]) -> String {
    let mut frame = String::from(r#"{"is_authorized":true,"allowed_rooms":["#);
    for (at, room) in rooms.iter().enumerate() {
        if at > 0 {
            frame.push(',');
        }
        frame.push_str(room.get());
    }
    frame.push_str("]}");
    frame
}

/// What all receivers of a publication share: all of the frame before the `requestId`.
///
/// With the receiver's [`RequestId`] and [`PUBLICATION_END`] behind it, it is `{"type":"publish","data":…,"requestId":…}`.
pub fn publication(data: &RawValue) -> String {
    const START: &str = r#"{"type":"publish","data":"#;
    const MIDDLE: &str = r#","requestId":"#;
    let mut shared = String::with_capacity(START.len() + data.get().len() + MIDDLE.len());
    shared.push_str(START);
    shared.push_str(data.get());
    shared.push_str(MIDDLE);
    shared
}

/// How many bytes `request_id` adds to what [`publication`] gives.
pub fn publication_tail_len(request_id: &RequestId) -> usize {
    request_id.as_json().len() + PUBLICATION_END.len()
}

/// The process's numbers, as any authorised client may ask for them.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Authorised connections now.
    pub open_connections: u64,
    /// Rooms with at least one subscription.
    pub num_rooms: u64,
    /// Start of the process: local time, ISO 8601 with microseconds and without offset.
    pub online_since: String,
    /// Triggers taken from the broker, malformed ones included.
    pub rabbitmq_messages_received: u64,
    /// Data frames received from clients.
    pub ws_messages_received: u64,
    /// Publications written to clients.
    pub ws_messages_send: u64,
    /// Publications that could not be written.
    pub ws_messages_send_error: u64,
    /// Publications accepted and not yet written.
    pub ws_messages_send_queued: u64,
}

impl Status {
    /// The numbers as they are now.
    pub fn now(metrics: &Metrics) -> Self {
        let gauge = |gauge: &prometheus_client::metrics::gauge::Gauge| u64::try_from(gauge.get()).unwrap_or(0);
        Self {
            open_connections: gauge(&metrics.connections),
            num_rooms: gauge(&metrics.rooms),
            online_since: metrics.online_since(),
            rabbitmq_messages_received: metrics.triggers.get(),
            ws_messages_received: metrics.client_messages.get(),
            ws_messages_send: metrics.publications_sent.get(),
            ws_messages_send_error: metrics.publications_failed.get(),
            ws_messages_send_queued: metrics.publications_waiting(),
        }
    }

    /// The whole frame.
    pub fn frame(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn data_stands_in_the_frame_byte_for_byte() {
        let data = RawValue::from_string("{\"b\": 1e2,\n \"a\":0.10}".to_owned()).unwrap();
        let frame = publication(&data) + "\"r1\"" + PUBLICATION_END;
        assert_eq!(frame, "{\"type\":\"publish\",\"data\":{\"b\": 1e2,\n \"a\":0.10},\"requestId\":\"r1\"}");
    }

    #[test]
    fn fixed_frames_are_the_json_the_specification_shows() {
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(parsed(SUCCESS), json!({"code": "success"}));
        assert_eq!(parsed(REFUSED), json!({"is_authorized": false}));
        for (refusal, message) in [
            (Refusal::RoomNotFound, "room-not-found"),
            (Refusal::NoRequestId, "no-request-id"),
            (Refusal::NotSubscribed, "not-subscribed"),
        ] {
            assert_eq!(parsed(refusal.frame()), json!({"code": "error", "message": message}));
        }
        let id = Uuid::nil();
        assert_eq!(
            parsed(&Misunderstanding::NotJson.frame(&id)),
            json!({"requestId": id.to_string(), "code": "error", "message": "non-json-message"})
        );
        assert_eq!(parsed(&welcome(&[])), json!({"is_authorized": true, "allowed_rooms": []}));
    }
}
