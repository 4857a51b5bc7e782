//! Proofs: entries that show an instance that the log is bound for all routing keys, and not only for that of its markers.
//!
//! An operator may take a single binding away. Where another queue or an alternate exchange takes those messages, RabbitMQ
//! confirms them, and markers still arrive. So every 20 s the publisher sends a proof with each of the other keys before a marker:
//! an instance that reads its own marker without its proofs knows that a binding is missing. To everybody else a proof is a trigger for no room. Pure.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{CHANNELSTREAM_KEY, CONTROL_KEY, INSTANCE_KEY, ROUTING_KEY};

/// The routing keys that proofs are published with.
pub(super) const PROVEN_KEYS: [&str; 4] = [ROUTING_KEY, CONTROL_KEY, INSTANCE_KEY, CHANNELSTREAM_KEY];

const BEFORE: &str = r#"{"rooms":[],"data":{"proof":"#;
const BEHIND: &str = "}}";

/// Stands before the marker with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Proof {
    /// The process that wrote it.
    pub instance: Uuid,
    /// Sequence number of the marker.
    pub number: u64,
}

impl Proof {
    pub(super) fn body(&self) -> Vec<u8> {
        format!("{BEFORE}{}{BEHIND}", serde_json::json!(self)).into_bytes()
    }

    /// Parses a body; `None` where it is no proof.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let own = body.strip_prefix(BEFORE.as_bytes())?.strip_suffix(BEHIND.as_bytes())?;
        serde_json::from_slice(own).ok()
    }
}

/// The proofs that an instance has read of its own.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    number: u64,
    keys: [bool; PROVEN_KEYS.len()],
}

impl Proofs {
    /// Notes one that came with this key.
    pub(super) fn note(&mut self, key: &str, number: u64) {
        if self.number != number {
            *self = Self { number, ..Self::default() };
        }
        if let Some(at) = PROVEN_KEYS.iter().position(|proven| *proven == key) {
            self.keys[at] = true;
        }
    }

    /// Whether all those of the marker with this number have come.
    pub(super) fn are_complete(&self, number: u64) -> bool {
        self.number == number && self.keys.iter().all(|has_come| *has_come)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{protocol::trigger::Trigger, room::Numbers};

    #[test]
    fn a_proof_is_read_as_it_was_written_and_is_a_trigger_for_nobody() {
        let proof = Proof { instance: Uuid::from_u128(7), number: 3 };
        assert_eq!(Proof::parse(&proof.body()), Some(proof));
        assert!(Trigger::parse(&proof.body(), Numbers::ByValue).is_ok_and(|trigger| trigger.rooms.is_empty()));
        for other in [&b"{}"[..], b"", b"{\"rooms\":[],\"data\":{\"proof\":7}}"] {
            assert_eq!(Proof::parse(other), None);
        }
    }

    #[test]
    fn proofs_are_complete_with_all_keys_of_one_marker() {
        let mut proofs = Proofs::default();
        for key in PROVEN_KEYS {
            assert!(!proofs.are_complete(5), "{key}");
            proofs.note(key, 5);
        }
        assert!(proofs.are_complete(5) && !proofs.are_complete(4));
        PROVEN_KEYS[1..].iter().for_each(|key| proofs.note(key, 6));
        assert!(!proofs.are_complete(6));
    }
}
