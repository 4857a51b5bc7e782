//! Who listens for which connection, and what has been silent for too long.

use std::{collections::HashSet, time::Duration};

use uuid::Uuid;

use super::{
    Age, Context, Done, Effect, Room, State,
    user::{Connection, Link},
};
use crate::channelstream::command::By;

/// Connections that one order takes out: each may be told to all members of large channels.
const BURIED_AT_ONCE: usize = 500;

impl State {
    pub(super) fn attach(&mut self, id: Uuid, link: Link, since: u64, context: &mut Context<'_>) -> Done {
        let Some(connection) = self.connections.get_mut(&id) else { return Done::Was(false) };
        match connection.link {
            Some(present) if present.by == By::Socket && link.by == By::Poll => return Done::Occupied,
            Some(present) => {
                context.effects.push(Effect::Ended { link: present.id });
                if present.by == By::Socket {
                    connection.seen = connection.seen.max(since.min(self.sequence)); // that one has been sent all there was
                }
            }
            None => {}
        }
        connection.link = Some(link);
        connection.touch(context.instance);
        if context.instance == context.me {
            let mut frames = Vec::new();
            for channel in connection.channels.iter().filter_map(|name| self.channels.get(name)) {
                frames.extend(channel.frames.after(connection.seen, &connection.user));
            }
            if let Some(user) = self.users.get(&connection.user) {
                frames.extend(user.frames.after(connection.seen, &connection.user));
            }
            let channels = connection.channels.iter().cloned().map(Room::Channel);
            let rooms = channels.chain([Room::User(connection.user.clone())]).collect();
            context.effects.push(Effect::Attached { link: link.id, frames, rooms });
        }
        if link.by == By::Socket {
            connection.seen = self.sequence;
        }
        self.touch_user(id);
        Done::Attached
    }

    pub(super) fn detach(&mut self, id: Uuid, link: Uuid, has_got: bool, context: &mut Context<'_>) -> Done {
        let Some(connection) = self.connections.get_mut(&id) else { return Done::Was(false) };
        let Some(present) = connection.link.filter(|present| present.id == link) else { return Done::Was(false) };
        self.touch_user(id);
        match present.by {
            By::Socket => Done::Was(self.drop_connection(id, context)),
            By::Poll => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.link = None;
                    if has_got {
                        connection.seen = self.sequence;
                    }
                    connection.touch(context.instance);
                }
                context.effects.push(Effect::Ended { link });
                Done::Was(true)
            }
        }
    }

    /// The user of a connection has been seen.
    pub(super) fn touch_user(&mut self, id: Uuid) {
        let user = self.connections.get(&id).map(|connection| connection.user.clone());
        if let Some(user) = user.and_then(|user| self.users.get_mut(&user)) {
            user.touch();
        }
    }

    /// Takes a connection out of everything. Whether there was one.
    pub(super) fn drop_connection(&mut self, id: Uuid, context: &mut Context<'_>) -> bool {
        let Some(connection) = self.connections.remove(&id) else { return false };
        if let Some(link) = connection.link {
            context.effects.push(Effect::Ended { link: link.id });
        }
        for name in &connection.channels {
            self.leave(&connection.user, id, None, name, context);
        }
        if let Some(user) = self.users.get_mut(&connection.user) {
            user.connections.retain(|other| *other != id);
            if connection.link.is_some() {
                user.touch();
            }
        }
        true
    }

    /// Those who listened at an instance that is gone do not any more.
    pub(super) fn bury(&mut self, instance: Uuid, context: &mut Context<'_>) -> Done {
        let is_there = |connection: &Connection| connection.link.is_some_and(|link| link.instance == instance);
        let mut orphans: Vec<_> =
            self.connections.iter().filter(|(_, connection)| is_there(connection)).map(|(id, _)| *id).collect();
        orphans.sort(); // the same everywhere
        orphans.truncate(BURIED_AT_ONCE); // the rest by the next order
        for id in orphans {
            self.drop_connection(id, context);
        }
        Done::Nothing
    }

    /// Connections that nobody has listened for in `within`; a little later also those whose instance should have said so.
    pub(in crate::channelstream) fn silent(&self, me: Uuid, within: Duration, later: Duration) -> Vec<(Uuid, u64)> {
        let is_silent = |connection: &Connection| {
            let within = if connection.instance == me { within } else { within + later };
            connection.link.is_none() && connection.age.is_over(within)
        };
        let silent = self.connections.iter().filter(|(_, connection)| is_silent(connection));
        silent.map(|(id, connection)| (*id, connection.signs)).collect()
    }

    /// Nobody has been silent until now.
    pub(in crate::channelstream) fn forgive(&mut self) {
        self.connections.values_mut().for_each(|connection| connection.age = Age::default());
    }

    /// Users that have not been seen in `within`.
    pub(in crate::channelstream) fn unseen(&self, within: Duration) -> Vec<(String, u64)> {
        let unseen = self.users.iter().filter(|(_, user)| user.connections.is_empty() && user.age.is_over(within));
        unseen.map(|(name, user)| (name.to_string(), user.signs)).collect()
    }

    pub(in crate::channelstream) fn has_connection(&self, id: Uuid) -> bool {
        self.connections.contains_key(&id)
    }

    /// Whether it is by `link` that somebody listens for a connection.
    pub(in crate::channelstream) fn is_listened_for(&self, id: Uuid, link: Uuid) -> bool {
        let present = self.connections.get(&id).and_then(|connection| connection.link);
        present.is_some_and(|present| present.id == link)
    }

    /// The links of `instance`, each with its connection.
    pub(in crate::channelstream) fn links(&self, instance: Uuid) -> Vec<(Uuid, Uuid)> {
        let links = self.connections.iter().filter_map(|(id, connection)| Some((*id, connection.link?)));
        links.filter(|(_, link)| link.instance == instance).map(|(id, link)| (id, link.id)).collect()
    }

    /// The instances at which somebody listens.
    pub(in crate::channelstream) fn instances(&self) -> HashSet<Uuid> {
        self.connections.values().filter_map(|connection| Some(connection.link?.instance)).collect()
    }
}
