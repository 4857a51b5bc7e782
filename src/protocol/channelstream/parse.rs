//! From bodies to requests. Keys that are not known are left alone.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    Scalar, Timestamp,
    readers::{boolean, datetime, integer, list, map, object, scalar, some, string, uuid, uuid_text},
    requests::{ChannelConfig, Connect, Delete, Edit, InfoConfig, Message, Recipients, Subscribe, UserState},
    validation::{Bad, Fields, Invalid, Read, filled, json, objects, said},
};

impl Connect {
    /// Reads the body of `POST /connect`.
    ///
    /// # Errors
    /// Names everything that is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, Bad> {
        let mut fields = Fields::of(json(body)?)?;
        let username = fields.required("username", user);
        let conn_id = fields.optional("conn_id", uuid);
        let mut channels = fields.optional("channels", list(channel)).unwrap_or_default();
        let fresh_user_state = fields.optional("fresh_user_state", state).unwrap_or_default();
        let user_state = fields.optional("user_state", state).unwrap_or_default();
        let state_public_keys = fields.optional("state_public_keys", list(channel)).unwrap_or_default();
        let channel_configs = fields.optional("channel_configs", configs).unwrap_or_default();
        let info = fields.optional("info", InfoConfig::read).unwrap_or_default();
        channels.sort();
        Ok(fields.finish(username.map(|username| Self {
            username,
            conn_id: conn_id.unwrap_or_else(Uuid::new_v4),
            channels,
            fresh_user_state,
            user_state,
            state_public_keys,
            channel_configs,
            info,
        }))?)
    }
}

impl Subscribe {
    /// Reads the body of `POST /subscribe` or `POST /unsubscribe`; `query_conn_id` counts if the body has no `conn_id`.
    ///
    /// # Errors
    /// Names everything that is wrong with it.
    pub fn parse(body: &[u8], query_conn_id: Option<&str>) -> Result<Self, Bad> {
        let mut fields = Fields::of(json(body)?)?;
        let conn_id = connection(&mut fields, query_conn_id);
        let channels = fields.required("channels", some(list(channel)));
        let channel_configs = fields.optional("channel_configs", configs).unwrap_or_default();
        let info = fields.optional("info", InfoConfig::read).unwrap_or_default();
        let both = conn_id.zip(channels);
        Ok(fields.finish(both.map(|(conn_id, channels)| Self { conn_id, channels, channel_configs, info }))?)
    }
}

/// Reads what `/disconnect` is told: of a `POST`, the body; of others, `conn_id` of the query.
///
/// # Errors
/// When that is no UUID, or there is none.
pub fn parse_disconnect(body: Option<&[u8]>, query: Option<&str>) -> Result<Uuid, Bad> {
    let mut fields = match body {
        Some(body) => Fields::of(json(body)?)?,
        None => Fields::default(),
    };
    let query = query.filter(|_| body.is_none());
    let conn_id = connection(&mut fields, query);
    Ok(fields.finish(conn_id)?)
}

/// `conn_id` of the body, or else of the query; one of them has to be there.
fn connection(fields: &mut Fields<'_>, query: Option<&str>) -> Option<Uuid> {
    if fields.has("conn_id") {
        return fields.optional("conn_id", uuid);
    }
    let read = query.map_or_else(|| Err(said("Field may not be null.")), uuid_text);
    read.map_err(|wrong| fields.wrong("conn_id", wrong)).ok()
}

impl UserState {
    /// Reads the body of `POST /user_state`.
    ///
    /// # Errors
    /// Names everything that is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, Bad> {
        let mut fields = Fields::of(json(body)?)?;
        let user = fields.required("user", user);
        let user_state = fields.optional("user_state", state).unwrap_or_default();
        let state_public_keys = fields.nullable("state_public_keys", list(channel));
        Ok(fields.finish(user.map(|user| Self { user, user_state, state_public_keys }))?)
    }
}

impl Recipients {
    fn read(fields: &mut Fields<'_>) -> Self {
        Self {
            channel: fields.nullable("channel", channel),
            pm_users: fields.optional("pm_users", list(user)).unwrap_or_default(),
            exclude_users: fields.optional("exclude_users", list(user)).unwrap_or_default(),
            no_history: fields.optional("no_history", boolean).unwrap_or_default(),
        }
    }
}

impl Message {
    /// Reads the body of `POST /message`. Items that are for nobody are among them.
    ///
    /// # Errors
    /// Names everything that is wrong with it.
    pub fn parse_all(body: &[u8]) -> Result<Vec<Self>, Bad> {
        objects(body, Self::read)
    }

    fn read(raw: &RawValue) -> Result<Self, Invalid> {
        let mut fields = Fields::of(raw)?;
        let to = Recipients::read(&mut fields);
        let uuid = fields.optional("uuid", uuid);
        let timestamp = fields.optional("timestamp", datetime);
        let user = fields.required("user", user);
        let message = fields.optional("message", object);
        // These are for us to say.
        let extra = fields.rest(&["edited", "type", "catchup"]);
        fields.finish(user.map(|user| Self {
            to,
            uuid: uuid.unwrap_or_else(Uuid::new_v4),
            timestamp: timestamp.unwrap_or_else(Timestamp::now),
            user,
            message,
            extra,
        }))
    }
}

impl Edit {
    /// Reads the body of `PATCH /message`.
    ///
    /// # Errors
    /// Names everything that is wrong with it.
    pub fn parse_all(body: &[u8]) -> Result<Vec<Self>, Bad> {
        objects(body, Self::read)
    }

    fn read(raw: &RawValue) -> Result<Self, Invalid> {
        let mut fields = Fields::of(raw)?;
        let to = Recipients::read(&mut fields);
        let uuid = fields.required("uuid", uuid);
        let timestamp = fields.optional("timestamp", datetime);
        let user = fields.optional("user", user);
        let message = fields.optional("message", object);
        let edited = fields.optional("edited", datetime).unwrap_or_else(Timestamp::now);
        let extra = fields.rest(&["type", "catchup"]);
        fields.finish(uuid.map(|uuid| Self { to, uuid, timestamp, user, message, edited, extra }))
    }
}

impl Delete {
    /// Reads the body of `DELETE /message`.
    ///
    /// # Errors
    /// Names everything that is wrong with it.
    pub fn parse_all(body: &[u8]) -> Result<Vec<Self>, Bad> {
        objects(body, Self::read)
    }

    fn read(raw: &RawValue) -> Result<Self, Invalid> {
        let mut fields = Fields::of(raw)?;
        let to = Recipients::read(&mut fields);
        let uuid = fields.required("uuid", uuid);
        fields.finish(uuid.map(|uuid| Self { to, uuid }))
    }
}

impl ChannelConfig {
    /// Reads the body of `POST /channel_config`: settings by the name of the channel.
    ///
    /// # Errors
    /// Tells what is wrong with the first channel, by name, that has something wrong; not which channel that is.
    pub fn parse_all(body: &[u8]) -> Result<BTreeMap<String, Self>, Bad> {
        let channels = Fields::of(json(body)?)?.into_unread();
        channels.into_iter().map(|(name, raw)| Ok((name, Self::fields(raw)?))).collect()
    }

    fn read(raw: &RawValue) -> Read<Self> {
        Ok(Self::fields(raw)?)
    }

    fn fields(raw: &RawValue) -> Result<Self, Invalid> {
        let mut fields = Fields::of(raw)?;
        let mut flag = |name, default| fields.optional(name, boolean).unwrap_or(default);
        let default = Self::default();
        let config = Self {
            notify_presence: flag("notify_presence", default.notify_presence),
            broadcast_presence_with_user_lists: flag(
                "broadcast_presence_with_user_lists",
                default.broadcast_presence_with_user_lists,
            ),
            notify_state: flag("notify_state", default.notify_state),
            store_history: flag("store_history", default.store_history),
            store_frames: flag("store_frames", default.store_frames),
            history_size: fields.optional("history_size", integer).unwrap_or(default.history_size),
        };
        fields.finish(Some(config))
    }
}

impl InfoConfig {
    /// Reads the body of `/info`. Without one, everything is told.
    ///
    /// `info` is required, unless there is a list `channels` beside it, as callers of Channelstream 0.6 have it: an empty one
    /// means all channels there, whereas in `info` it means none.
    ///
    /// # Errors
    /// Names everything that is wrong with it.
    pub fn parse(body: &[u8]) -> Result<Self, Bad> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        let mut fields = Fields::of(json(body)?)?;
        let info = match fields.has("channels") {
            true => Some(fields.optional("info", Self::read).unwrap_or_default()),
            false => fields.required("info", Self::read),
        };
        let beside = fields.optional("channels", list(channel)).filter(|list| !list.is_empty());
        Ok(fields.finish(info.map(|info| Self { channels: info.channels.or(beside), ..info }))?)
    }

    fn read(raw: &RawValue) -> Read<Self> {
        let mut fields = Fields::of(raw)?;
        let default = Self::default();
        let info = Self {
            include_history: fields.optional("include_history", boolean).unwrap_or(default.include_history),
            include_users: fields.optional("include_users", boolean).unwrap_or(default.include_users),
            exclude_channels: fields.optional("exclude_channels", list(channel)).unwrap_or_default(),
            return_public_state: fields.optional("return_public_state", boolean).unwrap_or(default.return_public_state),
            channels: fields.optional("channels", list(channel)),
        };
        // Has no effect, but has to be one.
        fields.optional("include_connections", boolean);
        Ok(fields.finish(Some(info))?)
    }
}

/// A user's name.
fn user(raw: &RawValue) -> Read<String> {
    string(1..=512)(raw)
}

/// A channel's name, or a key of a state.
fn channel(raw: &RawValue) -> Read<String> {
    string(1..=256)(raw)
}

fn state(raw: &RawValue) -> Read<BTreeMap<String, Scalar>> {
    map(scalar)(raw)
}

fn configs(raw: &RawValue) -> Read<BTreeMap<String, ChannelConfig>> {
    map(|raw| filled(raw, ChannelConfig::read))(raw)
}

#[cfg(test)]
mod tests;
