//! How far an instance has read the log, and of which gaps it was told there. Pure.
//!
//! Several instances find out the same loss, and each tells of it. Clients are to be told once. A marker that tells of a loss
//! says something new only if its writer has read the last marker that did so: otherwise that one was written after the loss.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Gaps that a marker names; of earlier ones its writer says nothing.
const NAMED: usize = 4;
/// Gaps that are remembered.
const REMEMBERED: usize = 64;

/// A marker that told of a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Gap {
    /// Where it stands.
    pub offset: u64,
    /// Its writer, ...
    pub instance: Uuid,
    /// ... and its sequence number among the writer's markers.
    pub number: u64,
}

/// How far an instance has read, as its markers say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The instance says nothing of what stands before this offset.
    #[serde(default)]
    pub from: u64,
    /// The last offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<u64>,
    /// The gaps that it was told of, the last one last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

impl Progress {
    /// Whether the instance may have read `gap`, as far as it says.
    pub(super) fn knows(&self, gap: &Gap) -> bool {
        gap.offset < self.from || self.gaps.contains(gap)
    }
}

/// What one instance keeps of its own progress.
#[derive(Debug, Default)]
pub(super) struct Track {
    from: Option<u64>,
    gaps: Vec<Gap>,
    /// The gaps that the log held when it was read before.
    before: Vec<Gap>,
}

impl Track {
    /// Reading goes on at `offset`, whatever came before it.
    pub(super) fn read_from(&mut self, offset: u64) {
        self.from = Some(offset);
    }

    pub(super) fn is_begun(&self) -> bool {
        self.from.is_some()
    }

    /// The log is read anew, and may be another one.
    pub(super) fn start_over(&mut self) {
        *self = Self { from: None, gaps: Vec::new(), before: std::mem::take(&mut self.gaps) };
    }

    /// Notes a gap. Whether it was not told in what was read before.
    pub(super) fn tell(&mut self, gap: Gap) -> bool {
        if self.gaps.len() == REMEMBERED {
            self.gaps.remove(0);
        }
        self.gaps.push(gap);
        !self.before.contains(&gap)
    }

    /// Whether a marker whose writer is as far as `progress` tells of a loss that no other marker has told of.
    pub(super) fn is_new_to(&self, progress: &Progress) -> bool {
        self.gaps.last().is_none_or(|gap| progress.knows(gap))
    }

    pub(super) fn progress(&self, read: Option<u64>) -> Progress {
        let (earlier, named) = self.gaps.split_at(self.gaps.len().saturating_sub(NAMED));
        let from = self.from.unwrap_or(0).max(earlier.last().map_or(0, |gap| gap.offset + 1));
        Progress { from, read, gaps: named.to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(offset: u64) -> Gap {
        Gap { offset, instance: Uuid::from_u128(1), number: offset }
    }

    #[test]
    fn a_loss_is_new_where_its_witness_knows_the_last_gap_or_was_not_there_yet() {
        let mut track = Track::default();
        track.read_from(5);
        assert!(track.is_new_to(&Progress::default()), "nothing was told yet");
        assert!(track.tell(gap(10)));
        assert!(!track.is_new_to(&Progress { from: 3, read: Some(40), gaps: vec![] }), "it was told after the loss");
        assert!(track.is_new_to(&Progress { from: 3, read: Some(40), gaps: vec![gap(10)] }));
        assert!(track.is_new_to(&Progress { from: 11, read: Some(40), gaps: vec![] }), "it cannot know");
        let other = Gap { instance: Uuid::from_u128(2), ..gap(10) };
        assert!(!track.is_new_to(&Progress { from: 3, read: Some(40), gaps: vec![other] }), "of a lost end");
    }

    #[test]
    fn gaps_of_before_tell_nothing_of_what_happened_since() {
        let mut track = Track::default();
        track.tell(gap(10));
        track.start_over();
        assert!(!track.is_begun());
        assert!(!track.tell(gap(10)));
        assert!(track.tell(gap(2)), "whatever the offset");
    }

    #[test]
    fn what_is_kept_and_named_is_bounded() {
        let mut track = Track::default();
        track.read_from(1);
        for offset in 1..=200 {
            track.tell(gap(offset));
        }
        let progress = track.progress(Some(300));
        assert_eq!((progress.from, progress.gaps.len(), track.gaps.len()), (197, NAMED, REMEMBERED));
        assert!([1, 196, 197, 200].iter().all(|offset| progress.knows(&gap(*offset))));
    }
}
