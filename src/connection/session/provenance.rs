//! Where a client's permissions come from: when the backend last confirmed them, and what they were before.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    hub::Hub,
    room::{Allowed, RoomKey},
};

/// Earlier permissions that are remembered, each for as long as the history reaches back to them. Of more, the oldest ones count
/// as none at all.
const MOST_EARLIER: usize = 16;

/// Where a client's permissions come from. Most clients that are given no tickets have none of it.
#[derive(Debug, Default)]
pub(in super::super) struct Provenance {
    /// Set for a client that is given tickets.
    pub(in super::super) confirmation: Option<Confirmation>,
    /// What the client could join before, in the order of time.
    pub(in super::super) earlier: Vec<Earlier>,
}

/// When the backend confirmed a client's permissions, and what that means for its tickets.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Confirmation {
    /// Start of the last call that the backend answered with these permissions, on whichever instance.
    pub(in super::super) at: Instant,
    /// End of all tickets until the backend confirms the permissions; set for a client that came with a ticket.
    pub(in super::super) limit: Option<Instant>,
    /// End of the ticket that the client was given last.
    pub(in super::super) given_until: Option<Instant>,
}

impl Confirmation {
    /// One by the backend, asked at `at`.
    pub(in super::super) fn new(at: Instant) -> Self {
        Self { at, limit: None, given_until: None }
    }

    /// The backend, asked at `at`, has confirmed the permissions.
    pub(in super::super) fn renew(&mut self, at: Instant) {
        (self.at, self.limit) = (self.at.max(at), None);
    }
}

/// Permissions that a client had before.
#[derive(Debug, Clone)]
pub(in super::super) struct Earlier {
    /// Number of the last publication for which they counted.
    pub(in super::super) until: u64,
    /// Where the log was then, if that is known.
    pub(in super::super) offset: Option<u64>,
    /// The rooms.
    pub(in super::super) allowed: Arc<Allowed>,
}

impl Provenance {
    /// Whether the client could join the room of `key` all the time since publication `number`, as far as is known. `key` must
    /// compare numbers by value.
    pub(in super::super) fn covers_since(&self, number: u64, key: &RoomKey) -> bool {
        self.earlier.iter().filter(|earlier| earlier.until > number).all(|earlier| earlier.allowed.covers(key))
    }

    /// The client had `allowed` until now, and has other permissions from here on.
    pub(in super::super) fn supersede(&mut self, allowed: Arc<Allowed>, hub: &Hub) {
        let (until, position) = hub.reached();
        let oldest = hub.oldest();
        self.earlier.retain(|earlier| earlier.until > oldest);
        self.earlier.push(Earlier { until, offset: position.map(|position| position.offset), allowed });
        if self.earlier.len() > MOST_EARLIER {
            self.earlier.remove(0);
            self.earlier[0].allowed = Arc::default();
        }
    }
}
