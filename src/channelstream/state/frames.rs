//! What was sent lately to a channel or a user, for those who were not listening just then.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::protocol::channelstream::{CAUGHT_UP, Timestamp, requests};

/// However few they are: frames that are kept have no more bytes than this, but for the newest one.
const LIMIT_BYTES: usize = 1 << 20;

/// A message as it stands now, edited perhaps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Posted {
    pub(super) message: requests::Message,
    pub(super) edited: Option<Timestamp>,
}

/// A frame that is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The how manieth of all frames there ever were.
    pub(super) sequence: u64,
    /// Only for these users of the channel, if there are any.
    pub(super) pm_users: Vec<String>,
    /// Not for these.
    pub(super) exclude_users: Vec<String>,
    pub(super) body: Body,
}

/// What a frame says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Body {
    Message(Arc<Posted>),
    /// Its text without what closes it.
    Other(String),
    /// The same of an edit or a deletion, which says `catchup` only when it is missed.
    Change(String),
}

/// The newest frames.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Frames {
    most: usize,
    bytes: usize,
    all: VecDeque<Kept>,
}

impl Kept {
    /// Whether `user` is to have it.
    fn is_for(&self, user: &str) -> bool {
        let names = |users: &[String]| users.iter().any(|other| other == user);
        !names(&self.exclude_users) && (self.pm_users.is_empty() || names(&self.pm_users))
    }

    fn weight(&self) -> usize {
        let users: usize = self.pm_users.iter().chain(&self.exclude_users).map(String::len).sum();
        self.body.weight() + users + 256
    }
}

impl Body {
    fn weight(&self) -> usize {
        match self {
            Self::Message(posted) => posted.weight(),
            Self::Other(text) | Self::Change(text) => text.len(),
        }
    }

    /// The whole frame, for somebody who has missed it.
    fn caught_up(&self) -> Bytes {
        let mut text = match self {
            Self::Message(posted) => posted.message.frame_start(posted.edited.as_ref()),
            Self::Other(text) | Self::Change(text) => text.clone(),
        };
        text.push_str(CAUGHT_UP);
        text.into()
    }
}

impl Posted {
    /// About its bytes.
    pub(super) fn weight(&self) -> usize {
        let requests::Message { to, message, extra, .. } = &self.message;
        let users: usize = to.pm_users.iter().chain(&to.exclude_users).map(String::len).sum();
        let extra: usize = extra.iter().map(|(key, value)| key.len() + value.get().len()).sum();
        message.as_ref().map_or(0, |message| message.get().len()) + users + extra
    }

    pub(super) fn apply(&mut self, edit: &requests::Edit) {
        self.edited = Some(edit.edited.clone());
        if let Some(timestamp) = &edit.timestamp {
            self.message.timestamp = timestamp.clone();
        }
        if let Some(user) = &edit.user {
            self.message.user.clone_from(user);
        }
        if let Some(message) = &edit.message {
            self.message.message = Some(message.clone());
        }
    }
}

impl Frames {
    /// None yet, and later up to `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { most, bytes: 0, all: VecDeque::new() }
    }

    pub(super) fn keep(&mut self, kept: Kept) {
        self.bytes += kept.weight();
        self.all.push_back(kept);
        while self.all.len() > self.most || (self.bytes > LIMIT_BYTES && self.all.len() > 1) {
            let Some(oldest) = self.all.pop_front() else { return };
            self.bytes -= oldest.weight();
        }
    }

    /// Those behind `seen` that `user` is to have.
    pub(super) fn after(&self, seen: u64, user: &str) -> impl Iterator<Item = Bytes> {
        let first = self.all.partition_point(|kept| kept.sequence <= seen);
        self.all.iter().skip(first).filter(move |kept| kept.is_for(user)).map(|kept| kept.body.caught_up())
    }

    /// Edits the message that is `edit` is about, if it is here.
    pub(super) fn edit(&mut self, edit: &requests::Edit) {
        let found = self.all.iter_mut().rev().find_map(|kept| match &mut kept.body {
            Body::Message(posted) if posted.message.uuid == edit.uuid => Some(posted),
            _ => None,
        });
        if let Some(posted) = found {
            let before = posted.weight();
            Arc::make_mut(posted).apply(edit);
            self.bytes = self.bytes + posted.weight() - before;
        }
    }

    /// Takes the message out, if it is here.
    pub(super) fn delete(&mut self, uuid: Uuid) {
        self.all.retain(|kept| !matches!(&kept.body, Body::Message(posted) if posted.message.uuid == uuid));
        self.bytes = self.all.iter().map(Kept::weight).sum();
    }
}
