//! Markers: entries that instances write into the log to prove things to themselves and to each other.
//!
//! - An instance that reads its own marker has read all that was in the log before it, and knows that the exchange passes on
//!   to the log what is published.
//! - A marker names the previous marker of the same instance and the offset at which that instance read it. Only in the log
//!   that the instance itself reads does that marker stand at that offset. So a marker that federation or a shovel copied
//!   from another cluster proves nothing here: its writer is no member of this log.
//! - A marker of a member may begin an epoch, and may say that triggers are missing before it.
//! - A marker says how far its writer has read. Where it stands before that, the log has lost its end: every instance that
//!   reads it knows so, those that were started since included, though the writer may be gone by then.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::progress::{Gap, Progress};
use crate::protocol::Epoch;

/// The binding key of markers.
pub(super) const MARKER_KEY: &str = "marker";

/// The body of a marker, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The process that wrote it.
    pub instance: Uuid,
    /// Sequence number of the writer's consumer session, starting at 1.
    pub session: u64,
    /// Sequence number of the marker among those of its writer, starting at 1.
    pub number: u64,
    /// The last marker of its own that the writer had read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Read>,
    /// How far the writer had read.
    #[serde(default, flatten)]
    pub progress: Progress,
    /// An epoch begins with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begins_epoch: bool,
    /// Triggers may be missing in the log before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_after_gap: bool,
    /// The exchange passed nothing on to the log before it. The same number is the same loss, which is told once, whatever the
    /// writer has read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unbound: Option<u64>,
    /// A [proof](super::proof) under each other key stands before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_proofs: bool,
}

/// A marker that its writer has read in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Read {
    /// Sequence number of the marker.
    pub number: u64,
    /// Where it stands.
    pub offset: u64,
}

/// What a marker is to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Counts the markers that the consumer has asked for.
    pub request: u64,
    /// The consumer's session.
    pub session: u64,
    /// The last marker of this instance that it has read.
    pub after: Option<Read>,
    /// Whether the marker begins an epoch.
    pub begins_epoch: bool,
    /// Whether triggers may be missing in the log before it, ...
    pub is_after_gap: bool,
    /// ... unless that was told since by another marker than this.
    pub last_gap: Option<Gap>,
    /// A number for what was lost because the exchange passed nothing on.
    pub unbound: Option<u64>,
}

impl Marker {
    /// The marker with this sequence number that says what is wanted.
    pub(super) fn new(instance: Uuid, number: u64, progress: Progress, wanted: &Wanted) -> Self {
        let is_after_gap = wanted.is_after_gap && progress.gaps.last() == wanted.last_gap.as_ref();
        Self {
            instance,
            session: wanted.session,
            number,
            after: wanted.after,
            progress,
            begins_epoch: wanted.begins_epoch,
            is_after_gap,
            unbound: wanted.unbound,
            has_proofs: false,
        }
    }

    /// Parses a body; `None` where it is no marker.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// The name of the epoch that begins with it, if one does: the same for every reader, and for no other marker. The
    /// instance's name is random.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch::from_low_bits(self.instance.as_u64_pair().1 ^ self.number)
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
        for (after, begins_epoch) in [(None, false), (Some(Read { number: 6, offset: 17 }), true)] {
            let wanted = Wanted {
                request: 1,
                session: 3,
                after,
                begins_epoch,
                is_after_gap: begins_epoch,
                last_gap: None,
                unbound: after.map(|_| 5),
            };
            let marker = Marker::new(
                Uuid::new_v4(),
                7,
                Progress { from: 3, read: begins_epoch.then_some(20), gaps: Vec::new() },
                &wanted,
            );
            assert_eq!(Marker::parse(&marker.body()).as_ref(), Some(&marker));
            assert_eq!(Marker::parse(&marker.body()).map(|read| read.epoch()), Some(marker.epoch()));
        }
        assert_eq!(Marker::parse(b"{}"), None);
        assert_eq!(Marker::parse(b"\xff"), None);
    }

    #[test]
    fn a_gap_that_another_instance_has_told_since_is_not_told_again() {
        let gap = |offset| Gap { offset, instance: Uuid::from_u128(1), number: offset };
        let tells = |last_gap, gaps| {
            let wanted = Wanted { is_after_gap: true, last_gap, ..Wanted::default() };
            Marker::new(Uuid::from_u128(2), 7, Progress { gaps, ..Progress::default() }, &wanted).is_after_gap
        };
        assert!(tells(None, vec![]));
        assert!(tells(Some(gap(3)), vec![gap(3)]));
        assert!(!tells(Some(gap(3)), vec![gap(3), gap(9)]));
    }
}
