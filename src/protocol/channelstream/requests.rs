//! The bodies of Channelstream's calls, checked and with their defaults filled in.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Scalar, Timestamp};

/// `POST /connect`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connect {
    /// Whose connection it is to be.
    pub username: String,
    /// Random if the caller gave none.
    pub conn_id: Uuid,
    /// Sorted; what was named twice is there twice.
    pub channels: Vec<String>,
    /// The state of a user that is not known yet.
    pub fresh_user_state: BTreeMap<String, Scalar>,
    /// Merged into the state.
    pub user_state: BTreeMap<String, Scalar>,
    /// Keys of the state that everybody sees.
    pub state_public_keys: Vec<String>,
    /// Settings for channels that are new.
    pub channel_configs: BTreeMap<String, ChannelConfig>,
    /// What to answer.
    pub info: InfoConfig,
}

/// `POST /subscribe` and `POST /unsubscribe`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subscribe {
    /// The connection.
    pub conn_id: Uuid,
    /// At least one, as the caller ordered them.
    pub channels: Vec<String>,
    /// Settings for channels that are new.
    pub channel_configs: BTreeMap<String, ChannelConfig>,
    /// What to answer.
    pub info: InfoConfig,
}

/// `POST /user_state`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserState {
    /// The user.
    pub user: String,
    /// Merged into the state.
    pub user_state: BTreeMap<String, Scalar>,
    /// Replaces the keys, if it is there.
    pub state_public_keys: Option<Vec<String>>,
}

/// Who gets something.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Recipients {
    /// A channel, or nobody in particular.
    pub channel: Option<String>,
    /// Only these users of the channel; without a channel, these wherever they are.
    pub pm_users: Vec<String>,
    /// Not these users of the channel.
    pub exclude_users: Vec<String>,
    /// Not to be kept in the channel's history.
    pub no_history: bool,
}

impl Recipients {
    /// Whether there is anybody it could be for.
    pub fn is_somebody(&self) -> bool {
        self.channel.is_some() || !self.pm_users.is_empty()
    }
}

/// An item of `POST /message`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    /// Who gets it.
    pub to: Recipients,
    /// Its id; random if the caller gave none.
    pub uuid: Uuid,
    /// When it was sent.
    pub timestamp: Timestamp,
    /// The label of the sender.
    pub user: String,
    /// An object, as the caller wrote it.
    pub message: Option<Arc<RawValue>>,
    /// Whatever else the caller said, by its key.
    pub extra: BTreeMap<String, Arc<RawValue>>,
}

/// An item of `PATCH /message`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Edit {
    /// Who is told.
    pub to: Recipients,
    /// The message that is edited.
    pub uuid: Uuid,
    /// When that was sent, if it is to change.
    pub timestamp: Option<Timestamp>,
    /// The label of the sender, if it is to change.
    pub user: Option<String>,
    /// The new message, if it is to change.
    pub message: Option<Arc<RawValue>>,
    /// When it was edited: now, if the caller did not say.
    pub edited: Timestamp,
    /// Whatever else the caller said, by its key.
    pub extra: BTreeMap<String, Arc<RawValue>>,
}

/// An item of `DELETE /message`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    /// Who is told.
    pub to: Recipients,
    /// The message that goes.
    pub uuid: Uuid,
}

/// The settings of a channel; what a caller leaves out is as [`default`](Self::default) has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "so is the protocol")]
pub struct ChannelConfig {
    /// Its members are told who comes and goes.
    pub notify_presence: bool,
    /// And who else is there.
    pub broadcast_presence_with_user_lists: bool,
    /// Its members are told of changes of state.
    pub notify_state: bool,
    /// Messages are kept for `history`.
    pub store_history: bool,
    /// How many of them.
    pub history_size: u64,
    /// Frames are kept for who has missed them.
    pub store_frames: bool,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            notify_presence: false,
            broadcast_presence_with_user_lists: false,
            notify_state: false,
            store_history: false,
            history_size: 10,
            store_frames: true,
        }
    }
}

/// What an answer is to tell of channels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfoConfig {
    /// What was said lately.
    pub include_history: bool,
    /// Who is there.
    pub include_users: bool,
    /// Not these channels.
    pub exclude_channels: Vec<String>,
    /// Of the users' states, what everybody may see.
    pub return_public_state: bool,
    /// For `/info`: only these channels; all, if there is no list.
    pub channels: Option<Vec<String>>,
}

impl Default for InfoConfig {
    fn default() -> Self {
        Self {
            include_history: true,
            include_users: true,
            exclude_channels: Vec::new(),
            return_public_state: false,
            channels: None,
        }
    }
}
