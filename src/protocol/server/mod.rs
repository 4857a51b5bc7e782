//! What a client gets, as JSON text: the words for what goes wrong, the numbers it may ask for, and the frames of each
//! version of the protocol.

pub mod v3;
pub mod v4;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::metrics::Metrics;

/// The answer to `ping`; the only text that is not JSON.
pub const PONG: &str = "pong";

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The room is not one the client may join.
    RoomNotFound,
    /// The request has no usable `requestId`.
    NoRequestId,
    /// The connection has no subscription with that `requestId`.
    NotSubscribed,
    /// The connection has a subscription with that `requestId` already; in version 4 only.
    RequestIdInUse,
    /// `subscriptions` is no list; in version 4 only.
    MalformedSubscriptions,
    /// `params` cannot be read, or not be sent to the API; in version 4 only.
    MalformedParams,
    /// The connection has as many subscriptions as it may have.
    TooManySubscriptions,
    /// The connection's subscriptions have as many combinations of wildcards as they may have; in version 4 only.
    TooManyMasks,
    /// The connection's subscriptions take as much memory as they may; in version 4 only.
    TooMuchMemory,
}

/// Why a subscription has ended that the client has not ended; in version 4 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The room was taken away.
    NoLongerAllowed,
    /// The application has asked for it.
    ByApplication,
}

impl Ended {
    /// The one word a client is told.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoLongerAllowed => "no-longer-allowed",
            Self::ByApplication => "by-application",
        }
    }
}

impl Refusal {
    /// The one word a client is told.
    pub fn word(self) -> &'static str {
        match self {
            Self::RoomNotFound => "room-not-found",
            Self::NoRequestId => "no-request-id",
            Self::NotSubscribed => "not-subscribed",
            Self::RequestIdInUse => "request-id-in-use",
            Self::MalformedSubscriptions => "malformed-subscriptions",
            Self::MalformedParams => "malformed-params",
            Self::TooManySubscriptions => "too-many-subscriptions",
            Self::TooManyMasks => "too-many-masks",
            Self::TooMuchMemory => "too-much-memory",
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
    /// The one word a client is told.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotJson => "non-json-message",
            Self::UnknownType => "message-type-not-allowed",
        }
    }
}

/// Appends the rooms to `frame` as the backend wrote them.
fn push_list(frame: &mut String, rooms: &[Box<RawValue>]) {
    frame.push('[');
    for (at, room) in rooms.iter().enumerate() {
        if at > 0 {
            frame.push(',');
        }
        frame.push_str(room.get());
    }
    frame.push(']');
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
}
