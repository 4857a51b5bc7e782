//! What one connection has the server keep, and how much it may be.
//!
//! The client chooses its rooms, labels and how many of them there are. Each is counted when it is taken and counted back when
//! it is given up; beyond the limits nothing more is taken.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::{
    config,
    protocol::{RequestId, server::Refusal},
    room::{Mask, RoomKey},
};

/// Bytes of a subscription beside its texts, in a room of its own: the room, its place in the index, the member, and the
/// connection's own note of it. Held to by `tests/counting.rs`.
const SUBSCRIPTION_BYTES: usize = 576;
/// Bytes of a request that waits although its subscription is gone, beside its texts.
const WAITING_BYTES: usize = 192;
/// Bytes of a combination of wildcards beside its positions.
const MASK_BYTES: usize = 64;

/// The account of one connection.
#[derive(Debug, Default)]
pub(super) struct Account {
    subscriptions: u32,
    /// `CONNECTION_MEMORY` is no larger than fits.
    bytes: u32,
    /// Combinations of wildcards, with the number of subscriptions that have each. Most clients have none.
    #[expect(clippy::box_collection, reason = "there are many connections, and a word each is enough for most")]
    masks: Option<Box<HashMap<Mask, usize, RandomState>>>,
}

impl Account {
    /// Subscriptions, waiting ones included.
    pub(super) fn subscriptions(&self) -> usize {
        self.subscriptions as usize
    }

    /// Takes a subscription.
    ///
    /// # Errors
    /// When its wildcards, or its bytes, are too many.
    pub(super) fn add(
        &mut self,
        key: &RoomKey,
        request_id: &RequestId,
        config: &config::Connection,
    ) -> Result<(), Refusal> {
        let limits = &config.limits;
        let mask = key.wildcards();
        let is_new_mask = !mask.is_empty() && self.masks.as_ref().is_none_or(|masks| !masks.contains_key(&mask));
        let bytes = subscription_bytes(key, request_id) + if is_new_mask { mask_bytes(&mask) } else { 0 };
        if is_new_mask && self.masks.as_ref().is_some_and(|masks| masks.len() >= limits.masks) {
            return Err(Refusal::TooManyMasks);
        }
        if !self.keep(bytes, config) {
            self.give_up(bytes);
            return Err(Refusal::TooMuchMemory);
        }
        self.subscriptions += 1;
        if !mask.is_empty() {
            *self.masks.get_or_insert_default().entry(mask).or_default() += 1;
        }
        Ok(())
    }

    /// Gives up a subscription that was taken.
    pub(super) fn remove(&mut self, key: &RoomKey, request_id: &RequestId) {
        self.subscriptions -= 1;
        self.give_up(subscription_bytes(key, request_id));
        let mask = key.wildcards();
        let Some(masks) = self.masks.as_mut().filter(|_| !mask.is_empty()) else { return };
        let Some(subscriptions) = masks.get_mut(&mask) else { return };
        *subscriptions -= 1;
        if *subscriptions == 0 {
            masks.remove(&mask);
            let is_last = masks.is_empty();
            self.give_up(mask_bytes(&mask));
            if is_last {
                self.masks = None;
            }
        }
    }

    /// Counts `bytes` more. Whether all is still within the limit.
    pub(super) fn keep(&mut self, bytes: usize, config: &config::Connection) -> bool {
        self.bytes = self.bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.bytes as usize <= most_bytes(config)
    }

    /// Counts back `bytes` that were counted.
    pub(super) fn give_up(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
}

/// What may be kept: all but the room for a message that the client has not finished.
fn most_bytes(config: &config::Connection) -> usize {
    config.limits.memory_bytes.saturating_sub(config.message_limit_bytes)
}

/// Bytes of a request for the room `key` that waits although its subscription is gone. One whose subscription is there takes no
/// more than that will.
pub(super) fn waiting_bytes(key: &RoomKey) -> usize {
    WAITING_BYTES + key.heap_bytes()
}

fn subscription_bytes(key: &RoomKey, request_id: &RequestId) -> usize {
    SUBSCRIPTION_BYTES + key.heap_bytes() + request_id.heap_bytes()
}

fn mask_bytes(mask: &Mask) -> usize {
    MASK_BYTES + size_of::<u32>() * mask.positions().count()
}
