//! What callers want, and what they are answered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::protocol::channelstream::{Invalid, requests};

/// What a caller wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
