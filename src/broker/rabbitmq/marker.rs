//! What instances write into the log for each other: markers, each with the name of an epoch.
//!
//! A marker proves, by its name at its offset, that a stream is still the same one; an instance that reads its own knows
//! that it has read all that was there before. Markers have a routing key of their own, so nobody but readers of the log
//! sees them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::protocol::Epoch;

/// The binding key of markers.
pub(super) const MARKER_KEY: &str = "marker";

/// The body of a marker, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The epoch that begins with it, 12 hexadecimal digits.
    epoch: String,
    /// Who wrote it.
    pub instance: Uuid,
    /// The how manieth session of its writer's consumer was under way.
    pub session: u64,
    /// Triggers may be missing in the log before it: the exchange was there, and the log was not bound to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_after_gap: bool,
}

impl Marker {
    /// One with an epoch of its own.
    pub(super) fn new(instance: Uuid, session: u64, is_after_gap: bool) -> Self {
        Self { epoch: Epoch::random().to_string(), instance, session, is_after_gap }
    }

    /// Reads one; `None` where `body` is none.
    pub(super) fn parse(body: &[u8]) -> Option<(Epoch, Self)> {
        let marker: Self = serde_json::from_slice(body).ok()?;
        Some((marker.epoch.parse().ok()?, marker))
    }

    pub(super) fn body(&self) -> Vec<u8> {
        serde_json::json!(self).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_as_it_was_written() {
        for is_after_gap in [false, true] {
            let marker = Marker::new(Uuid::new_v4(), 3, is_after_gap);
            let (epoch, read) = Marker::parse(&marker.body()).unwrap();
            assert_eq!((epoch.to_string(), &read), (marker.epoch.clone(), &marker));
        }
        assert_eq!(Marker::parse(b"{}"), None);
    }
}
