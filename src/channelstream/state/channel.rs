//! A channel: who is in it, and what was said.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::frames::{Frames, Posted};
use crate::protocol::channelstream::{
    Timestamp,
    requests::{self, ChannelConfig},
};

/// Frames that are kept of a channel.
const FRAMES: usize = 100;
/// What "keeps everything" comes to: a history does not grow for ever.
const LONGEST_HISTORY: usize = 10_000;
/// Nor does it have more bytes than this, but for the newest message.
const HISTORY_BYTES: usize = 16 << 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Channel {
    pub(super) uuid: Uuid,
    pub(super) config: ChannelConfig,
    pub(super) members: Members,
    pub(super) history: History,
    pub(super) frames: Frames,
    /// When something was last sent to it.
    pub(super) last_active: Timestamp,
}

/// The users of a channel, with their connections that are in it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Members {
    users: HashMap<Arc<str>, Member>,
    /// In the order of their arrival.
    arrivals: BTreeMap<u64, Arc<str>>,
    arrived: u64,
    connections: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Member {
    arrival: u64,
    connections: Vec<Uuid>,
}

/// The newest messages.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct History {
    all: VecDeque<Arc<Posted>>,
    bytes: usize,
}

impl Channel {
    pub(super) fn new(uuid: Uuid, config: ChannelConfig, now: &Timestamp) -> Self {
        Self {
            uuid,
            config,
            members: Members::default(),
            history: History::default(),
            frames: Frames::new(FRAMES),
            last_active: now.clone(),
        }
    }
}

impl Members {
    /// Adds a connection of `user`. Whether it is the user's first one here; `None` if it was here already.
    pub(super) fn add(&mut self, user: &Arc<str>, connection: Uuid) -> Option<bool> {
        if let Some(member) = self.users.get_mut(user) {
            if member.connections.contains(&connection) {
                return None;
            }
            member.connections.push(connection);
            self.connections += 1;
            return Some(false);
        }
        self.arrived += 1;
        self.connections += 1;
        self.arrivals.insert(self.arrived, user.clone());
        self.users.insert(user.clone(), Member { arrival: self.arrived, connections: vec![connection] });
        Some(true)
    }

    /// Takes a connection of `user` out. Whether the user has none here then.
    pub(super) fn remove(&mut self, user: &str, connection: Uuid) -> bool {
        let Some(member) = self.users.get_mut(user) else { return true };
        if let Some(at) = member.connections.iter().position(|other| *other == connection) {
            member.connections.remove(at);
            self.connections -= 1;
        }
        if !member.connections.is_empty() {
            return false;
        }
        self.arrivals.remove(&member.arrival);
        self.users.remove(user);
        true
    }

    /// The users, in the order of their arrival.
    pub(super) fn users(&self) -> impl Iterator<Item = &Arc<str>> {
        self.arrivals.values()
    }

    /// How many connections.
    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    /// The connections of `user`.
    pub(super) fn of(&self, user: &str) -> &[Uuid] {
        self.users.get(user).map_or(&[], |member| &member.connections)
    }
}

impl History {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Posted>> {
        self.all.iter()
    }

    /// Adds a message, of which the newest `size` stay; with 0, as many as there can be.
    pub(super) fn add(&mut self, posted: Arc<Posted>, size: u64) {
        let most = match usize::try_from(size) {
            Ok(size @ 1..) => size.min(LONGEST_HISTORY),
            _ => LONGEST_HISTORY,
        };
        self.bytes += posted.weight();
        self.all.push_back(posted);
        while self.all.len() > most || (self.bytes > HISTORY_BYTES && self.all.len() > 1) {
            let Some(oldest) = self.all.pop_front() else { return };
            self.bytes -= oldest.weight();
        }
    }

    /// Edits the message that `edit` is about, if it is here.
    pub(super) fn edit(&mut self, edit: &requests::Edit) {
        if let Some(posted) = self.all.iter_mut().rev().find(|posted| posted.message.uuid == edit.uuid) {
            let before = posted.weight();
            Arc::make_mut(posted).apply(edit);
            self.bytes = self.bytes + posted.weight() - before;
        }
    }

    /// Takes the message out, if it is here.
    pub(super) fn delete(&mut self, uuid: Uuid) {
        self.all.retain(|posted| posted.message.uuid != uuid);
        self.bytes = self.all.iter().map(|posted| posted.weight()).sum();
    }
}
