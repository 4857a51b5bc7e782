//! What callers want, and what they are answered.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::command::{Looked, Order};
use crate::protocol::channelstream::{Invalid, requests};

/// What a caller wants.
#[derive(Debug, Clone)]
pub enum Call {
    /// `POST /connect`.
    Connect(requests::Connect),
    /// `POST /subscribe`.
    Subscribe(requests::Subscribe),
    /// `POST /unsubscribe`.
    Unsubscribe(requests::Subscribe),
    /// `POST /user_state`.
    UserState(requests::UserState),
    /// `POST /message`.
    Message(Vec<requests::Message>),
    /// `PATCH /message`.
    Edit(Vec<requests::Edit>),
    /// `DELETE /message`.
    Delete(Vec<requests::Delete>),
    /// `POST /channel_config`.
    ChannelConfig(BTreeMap<String, requests::ChannelConfig>),
    /// `/info`.
    Info(requests::InfoConfig),
    /// `/disconnect`.
    Disconnect(Uuid),
    /// `/admin/admin.json`.
    Statistics,
}

/// What came of a call that was carried out.
#[derive(Debug, Clone)]
pub enum Answer {
    /// 200 with this JSON.
    Done(String),
    /// 422.
    Invalid(Invalid),
}

impl From<Call> for Order {
    fn from(call: Call) -> Self {
        match call {
            Call::Connect(request) => Self::Connect(request),
            Call::Subscribe(request) => Self::Subscribe(request),
            Call::Unsubscribe(request) => Self::Unsubscribe(request),
            Call::UserState(request) => Self::UserState(request),
            Call::Message(items) => Self::Message(items),
            Call::Edit(items) => Self::Edit(items),
            Call::Delete(items) => Self::Delete(items),
            Call::ChannelConfig(configs) => Self::ChannelConfig(configs),
            Call::Info(config) => Self::Look(Looked::Info(config)),
            Call::Disconnect(connection) => Self::Disconnect(connection),
            Call::Statistics => Self::Look(Looked::Statistics),
        }
    }
}
