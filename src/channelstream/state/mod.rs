//! All users, connections and channels, and what each command makes of them.
//!
//! Deterministic: the same commands in the same order make the same state on every instance, whatever the time is there.
//! Only how long ago something was is told by each one's own clock, and decides nothing here.

mod age;
mod channel;
mod frames;
mod info;
mod joining;
mod listening;
mod messages;
#[cfg(test)]
mod tests;
mod user;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

pub(super) use age::Age;
use channel::Channel;
use frames::{Body, Kept};
use user::{Changed, Connection, Link, User};

use super::{
    Call,
    command::{Command, Ids, Order},
    object::Object,
};
use crate::{
    protocol::channelstream::Invalid,
    room::{Limits, Numbers, RoomKey, Rules},
};

/// Which beginning of everything a state goes back to; the older one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Era {
    /// Microseconds since 1970.
    began: u64,
    id: Uuid,
}

/// Everything there is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) era: Era,
    /// When it all began, in microseconds since 1970.
    began: u64,
    /// Frames there ever were.
    sequence: u64,
    users: HashMap<Arc<str>, User>,
    connections: HashMap<Uuid, Connection>,
    channels: BTreeMap<Arc<str>, Channel>,
    /// Items of `/message`, each counted for every connection that it was for.
    total_messages: u64,
    total_unique_messages: u64,
}

/// Those who get something: the members of a room of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Room {
    Channel(Arc<str>),
    /// All connections of a user.
    User(Arc<str>),
}

/// What is to be done outside.
#[derive(Debug)]
pub(super) enum Effect {
    /// A frame for everybody in a room, or only for some links, or not for others.
    Publish { room: Room, text: Bytes, only: Option<Vec<Uuid>>, exclude: Vec<Uuid> },
    /// The link gets what comes for the room from here on.
    Join { link: Uuid, room: Room },
    /// It does not any more.
    Leave { link: Uuid, room: Room },
    /// The link counts from here on, has missed these frames, and is in these rooms.
    Attached { link: Uuid, frames: Vec<Bytes>, rooms: Vec<Room> },
    /// The link does not count any more.
    Ended { link: Uuid },
}

/// What a command has done, as far as its answer depends on it.
#[derive(Debug)]
pub(super) enum Done {
    Nothing,
    Channels(Vec<Arc<str>>),
    State(Vec<Changed>),
    Was(bool),
    /// The link counts.
    Attached,
    /// A socket listens already.
    Occupied,
}

/// The circumstances of one command.
struct Context<'c> {
    command: &'c Command,
    /// Who has given it.
    instance: Uuid,
    /// Who carries it out.
    me: Uuid,
    ids: Ids<'c>,
    effects: &'c mut Vec<Effect>,
}

impl Context<'_> {
    /// The beginning of a frame that the server itself makes.
    fn frame(&mut self, kind: &str, channel: &str, user: &str) -> Object {
        Object::new()
            .with("type", kind)
            .with("uuid", &self.ids.next())
            .with("timestamp", &self.command.at)
            .with("channel", channel)
            .with("user", user)
    }
}

impl Era {
    /// One that begins now.
    pub(super) fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { began: u64::try_from(now.as_micros()).unwrap_or_default(), id: Uuid::new_v4() }
    }
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl State {
    /// Nobody and nothing.
    pub(super) fn new(era: Era) -> Self {
        Self {
            era,
            began: era.began,
            sequence: 0,
            users: HashMap::new(),
            connections: HashMap::new(),
            channels: BTreeMap::new(),
            total_messages: 0,
            total_unique_messages: 0,
        }
    }

    /// The same at the beginning of another era: something may be missing.
    pub(super) fn anew(&self, era: Era) -> Self {
        Self { era, ..self.clone() }
    }

    /// Carries out what `instance` has ordered. What is to be done outside is added to `effects`, in its order, as far as it
    /// may concern `me`.
    ///
    /// # Errors
    /// Says what is wrong with the order; nothing is changed then.
    pub(super) fn apply(
        &mut self,
        instance: Uuid,
        command: &Command,
        me: Uuid,
        effects: &mut Vec<Effect>,
    ) -> Result<Done, Invalid> {
        let context = &mut Context { command, instance, me, ids: Ids::of(command), effects };
        Ok(match &command.order {
            Order::Call(Call::Connect(request)) => return self.connect(request, context),
            Order::Call(Call::Subscribe(request)) => return self.subscribe(request, context),
            Order::Call(Call::Unsubscribe(request)) => return self.unsubscribe(request, context),
            Order::Call(Call::UserState(request)) => return self.change_state(request, context),
            Order::Call(Call::Message(items)) => self.post(items, context),
            Order::Call(Call::Edit(items)) => self.edit(items, context),
            Order::Call(Call::Delete(items)) => self.delete(items, context),
            Order::Call(Call::ChannelConfig(configs)) => self.configure(configs, context),
            Order::Call(Call::Disconnect(id)) => Done::Was(self.drop_connection(*id, context)),
            Order::Attach { connection, link, by, since } => {
                let link = Link { id: *link, by: *by, instance };
                self.attach(*connection, link, *since, context)
            }
            Order::Detach { connection, link, has_got } => self.detach(*connection, *link, *has_got, context),
            Order::Collect { connection, signs } => {
                let is_silent = |known: &Connection| known.link.is_none() && known.signs == *signs;
                let is_silent = self.connections.get(connection).is_some_and(is_silent);
                Done::Was(is_silent && self.drop_connection(*connection, context))
            }
            Order::Forget { user, signs } => {
                if self.users.get(user.as_str()).is_some_and(|user| user.connections.is_empty() && user.signs == *signs)
                {
                    self.users.remove(user.as_str());
                }
                Done::Nothing
            }
            Order::Gone { instance } => self.bury(*instance, context),
            Order::Call(Call::Info(_) | Call::Statistics)
            | Order::Look
            | Order::Beat { .. }
            | Order::Mark { .. }
            | Order::Piece(_) => Done::Nothing,
        })
    }

    /// Sends a frame to a channel, and keeps it for who is not listening.
    fn send(
        &mut self,
        name: &Arc<str>,
        body: Body,
        pm_users: &[String],
        exclude_users: &[String],
        context: &mut Context<'_>,
    ) -> usize {
        let Some(channel) = self.channels.get_mut(name) else { return 0 };
        self.sequence += 1;
        channel.last_active = context.command.at.clone();
        let text = body.live();
        if channel.config.store_frames {
            let (pm_users, exclude_users) = (pm_users.to_vec(), exclude_users.to_vec());
            channel.frames.keep(Kept { sequence: self.sequence, pm_users, exclude_users, body });
        }
        let count = |users: &[String]| -> Vec<Uuid> {
            let mut users: Vec<_> = users.iter().collect();
            users.sort();
            users.dedup();
            users.into_iter().flat_map(|user| channel.members.of(user)).copied().collect()
        };
        let mut excluded = count(exclude_users);
        excluded.sort_unstable();
        let mut wanted = (!pm_users.is_empty()).then(|| count(pm_users));
        if let Some(wanted) = &mut wanted {
            wanted.retain(|id| excluded.binary_search(id).is_err());
        }
        let receivers = wanted.as_ref().map_or(channel.members.connections() - excluded.len(), |wanted| wanted.len());
        let links = |ids: &[Uuid]| -> Vec<Uuid> {
            let links = ids.iter().filter_map(|id| self.connections.get(id)?.link);
            links.filter(|link| link.instance == context.me).map(|link| link.id).collect()
        };
        let (only, exclude) = (wanted.as_deref().map(links), links(&excluded));
        if receivers > 0 {
            context.effects.push(Effect::Publish { room: Room::Channel(name.clone()), text, only, exclude });
        }
        receivers
    }

    /// Frames that there have been so far.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether there is nothing worth keeping.
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.channels.is_empty()
    }
}

impl Room {
    /// The room of the hub: `{"channelstream":["lobby"]}` for a channel, `{"channelstream_user":["alice"]}` for a user. The name
    /// stands in a list, so that none of them is a wildcard.
    pub(super) fn key(&self) -> Option<RoomKey> {
        let (kind, name) = match self {
            Self::Channel(name) => ("channelstream", name),
            Self::User(name) => ("channelstream_user", name),
        };
        let json = RawValue::from_string(Object::new().with(kind, &[&**name]).close()).ok()?;
        RoomKey::new(&json, Rules { numbers: Numbers::ByValue, limits: Limits::NONE }).ok() // names have limits of their own
    }
}
