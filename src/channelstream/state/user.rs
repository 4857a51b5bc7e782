//! A user and its state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Age, frames::Frames};
use crate::channelstream::command::By;
use crate::protocol::channelstream::Scalar;

/// Frames that are kept of a user.
const FRAMES: usize = 50;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct User {
    pub(super) uuid: Uuid,
    pub(super) state: BTreeMap<String, Scalar>,
    pub(super) public_keys: Vec<String>,
    pub(super) connections: Vec<Uuid>,
    pub(super) frames: Frames,
    /// Signs of life so far.
    pub(super) signs: u64,
    /// Since the last one.
    pub(super) age: Age,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Connection {
    pub(super) user: Arc<str>,
    pub(super) channels: BTreeSet<Arc<str>>,
    /// The client that listens at present.
    pub(super) link: Option<Link>,
    /// The last frame that is of no interest to it: it has got it, or is older.
    pub(super) seen: u64,
    /// Signs of life so far.
    pub(super) signs: u64,
    /// Since the last one.
    pub(super) age: Age,
    /// Who has heard that: it is the first to notice that no other one comes.
    pub(super) instance: Uuid,
}

/// A client that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) id: Uuid,
    pub(super) by: By,
    /// Where.
    pub(super) instance: Uuid,
}

/// A value of the state that has changed.
#[derive(Debug, Clone, Serialize)]
pub(in crate::channelstream) struct Changed {
    pub(super) key: String,
    pub(super) value: Scalar,
}

impl User {
    pub(super) fn new(uuid: Uuid, state: BTreeMap<String, Scalar>) -> Self {
        Self {
            uuid,
            state,
            public_keys: Vec::new(),
            connections: Vec::new(),
            frames: Frames::new(FRAMES),
            signs: 0,
            age: Age::default(),
        }
    }

    /// It has been seen.
    pub(super) fn touch(&mut self) {
        self.signs += 1;
        self.age = Age::default();
    }

    /// Sets what differs from the present values, of which one that is not there is null; what that was.
    pub(super) fn merge(&mut self, state: &BTreeMap<String, Scalar>) -> Vec<Changed> {
        let mut changed = Vec::new();
        for (key, value) in state {
            let is_new = match self.state.get(key) {
                Some(present) => present != value,
                None => *value != Scalar::null(),
            };
            if is_new {
                self.state.insert(key.clone(), value.clone());
                changed.push(Changed { key: key.clone(), value: value.clone() });
            }
        }
        changed
    }

    /// The part of the state that everybody may see.
    pub(super) fn public_state(&self) -> BTreeMap<&str, &Scalar> {
        let keys = self.public_keys.iter();
        keys.filter_map(|key| self.state.get_key_value(key)).map(|(key, value)| (key.as_str(), value)).collect()
    }
}

impl Connection {
    /// There has been a sign of life, heard by `instance`.
    pub(super) fn touch(&mut self, instance: Uuid) {
        self.signs += 1;
        self.age = Age::default();
        self.instance = instance;
    }
}
