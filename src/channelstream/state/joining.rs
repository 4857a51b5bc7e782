//! Who is in which channel and in which state, and who is told of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    Age, Context, Done, Effect, Room, State,
    channel::Channel,
    frames::Body,
    user::{Connection, Link, User},
};
use crate::{
    channelstream::object::Object,
    protocol::channelstream::{
        Invalid, Scalar,
        requests::{self, ChannelConfig},
    },
};

/// A user of a channel, as the others are told.
#[derive(Serialize)]
struct Present<'s> {
    user: &'s str,
    state: Option<BTreeMap<&'s str, &'s Scalar>>,
}

/// What a user has done.
#[derive(Serialize)]
struct Action<'s> {
    action: &'s str,
}

impl State {
    pub(super) fn connect(&mut self, request: &requests::Connect, context: &mut Context<'_>) -> Result<Done, Invalid> {
        let known = self.connections.get(&request.conn_id);
        if known.is_some_and(|known| *known.user != *request.username) {
            return Err(Invalid::one("conn_id", "Connection of another user"));
        }
        let name: Arc<str> = match self.users.get_key_value(request.username.as_str()) {
            Some((name, _)) => name.clone(),
            None => request.username.as_str().into(),
        };
        let fresh = || User::new(context.ids.next(), request.fresh_user_state.clone());
        let user = self.users.entry(name.clone()).or_insert_with(fresh);
        user.public_keys.clone_from(&request.state_public_keys);
        user.merge(&request.user_state);
        user.touch();
        let connection = self.connections.entry(request.conn_id).or_insert_with(|| {
            user.connections.push(request.conn_id);
            Connection {
                user: name,
                channels: Default::default(),
                link: None,
                seen: self.sequence,
                signs: 0,
                age: Age::default(),
                instance: context.instance,
            }
        });
        connection.touch(context.instance);
        let channels = request.channels.clone();
        self.enter(request.conn_id, &channels, &request.channel_configs, context);
        Ok(Done::Nothing)
    }

    pub(super) fn subscribe(
        &mut self,
        request: &requests::Subscribe,
        context: &mut Context<'_>,
    ) -> Result<Done, Invalid> {
        if !self.connections.contains_key(&request.conn_id) {
            return Err(unknown_connection());
        }
        let mut joined = self.enter(request.conn_id, &request.channels, &request.channel_configs, context);
        joined.sort();
        Ok(Done::Channels(joined))
    }

    pub(super) fn unsubscribe(
        &mut self,
        request: &requests::Subscribe,
        context: &mut Context<'_>,
    ) -> Result<Done, Invalid> {
        let Some(connection) = self.connections.get_mut(&request.conn_id) else { return Err(unknown_connection()) };
        let (user, link) = (connection.user.clone(), connection.link);
        let mut left = Vec::new();
        for name in &request.channels {
            if let Some(name) = connection.channels.take(name.as_str()) {
                left.push(name);
            }
        }
        for name in &left {
            self.leave(&user, request.conn_id, link, name, context);
        }
        left.sort();
        Ok(Done::Channels(left))
    }

    /// Has a connection enter channels, of which those that are not known are made. Those that it was not in.
    pub(super) fn enter(
        &mut self,
        id: Uuid,
        channels: &[String],
        configs: &BTreeMap<String, ChannelConfig>,
        context: &mut Context<'_>,
    ) -> Vec<Arc<str>> {
        let mut joined = Vec::new();
        for name in channels {
            let config = configs.get(name).copied().unwrap_or_default();
            let (name, channel) = open_channel(&mut self.channels, name, config, context);
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let Some(is_first) = channel.members.add(&connection.user, id) else { continue };
            connection.channels.insert(name.clone());
            let (user, link) = (connection.user.clone(), connection.link);
            joined.push(name.clone());
            if is_first && channel.config.notify_presence {
                self.announce(&name, &user, "joined", context);
            }
            if let Some(link) = link {
                context.effects.push(Effect::Join { link: link.id, room: Room::Channel(name) });
            }
        }
        joined
    }

    /// A connection of `user` that was in the channel is not any more.
    pub(super) fn leave(
        &mut self,
        user: &Arc<str>,
        id: Uuid,
        link: Option<Link>,
        name: &Arc<str>,
        context: &mut Context<'_>,
    ) {
        if let Some(link) = link {
            context.effects.push(Effect::Leave { link: link.id, room: Room::Channel(name.clone()) });
        }
        let Some(channel) = self.channels.get_mut(name) else { return };
        if channel.members.remove(user, id) && channel.config.notify_presence {
            self.announce(name, user, "parted", context);
        }
    }

    /// Tells the others in a channel that `user` came or went.
    pub(super) fn announce(&mut self, name: &Arc<str>, user: &Arc<str>, action: &str, context: &mut Context<'_>) {
        let Some(channel) = self.channels.get(name) else { return };
        let public = |user: &str| self.users.get(user).map(User::public_state);
        let mut users = Vec::new();
        if channel.config.broadcast_presence_with_user_lists {
            users = channel.members.users().map(|user| Present { user, state: public(user) }).collect();
        }
        let frame = context
            .frame("presence", name, user)
            .with("message", &Action { action })
            .with("state", &public(user).filter(|_| action == "joined"))
            .with("users", &users);
        self.send(name, Body::Other(frame.open()), &[], &[user.to_string()], context);
    }

    pub(super) fn change_state(
        &mut self,
        request: &requests::UserState,
        context: &mut Context<'_>,
    ) -> Result<Done, Invalid> {
        let Some((name, _)) = self.users.get_key_value(request.user.as_str()) else {
            return Err(Invalid::one("user", "Unknown user"));
        };
        let name = name.clone();
        let Some(user) = self.users.get_mut(&name) else { return Ok(Done::Nothing) };
        if let Some(keys) = &request.state_public_keys {
            user.public_keys.clone_from(keys);
        }
        let changed = user.merge(&request.user_state);
        user.touch();
        if !changed.is_empty() {
            let seen: Vec<_> = changed.iter().filter(|changed| user.public_keys.contains(&changed.key)).collect();
            let message = Object::new().with("state", &user.public_state()).with("changed", &seen).close();
            let message = RawValue::from_string(message).ok();
            let connections = user.connections.iter().filter_map(|id| self.connections.get(id));
            let channels: BTreeSet<_> =
                connections.flat_map(|connection| connection.channels.iter().cloned()).collect();
            for channel in channels {
                if self.channels.get(&channel).is_some_and(|channel| channel.config.notify_state) {
                    let frame = context.frame("user_state_change", &channel, &name).with("message", &message);
                    self.send(&channel, Body::Other(frame.open()), &[], &[], context);
                }
            }
        }
        Ok(Done::State(changed))
    }

    pub(super) fn configure(&mut self, configs: &BTreeMap<String, ChannelConfig>, context: &mut Context<'_>) -> Done {
        for (name, config) in configs {
            open_channel(&mut self.channels, name, *config, context).1.config = *config;
        }
        Done::Nothing
    }
}

/// The channel of this name; made if there is none.
fn open_channel<'s>(
    channels: &'s mut BTreeMap<Arc<str>, Channel>,
    name: &str,
    config: ChannelConfig,
    context: &mut Context<'_>,
) -> (Arc<str>, &'s mut Channel) {
    let key: Arc<str> = channels.get_key_value(name).map_or_else(|| name.into(), |(key, _)| key.clone());
    let fresh = || Channel::new(context.ids.next(), config, &context.command.at);
    (key.clone(), channels.entry(key).or_insert_with(fresh))
}

fn unknown_connection() -> Invalid {
    Invalid::one("conn_id", "Unknown connection")
}
