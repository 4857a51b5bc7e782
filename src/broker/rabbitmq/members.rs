//! The instances that are known to read this very log.
//!
//! Entries of another cluster's log reach this one by federation or a shovel, with offsets of their own. An instance proves
//! that it reads this log by naming the offset of one of its markers: see [`marker`](super::marker). Pure.

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

use super::marker::{Marker, Read};

/// Markers of one instance that are remembered: one of which the writer does not know whether it was accepted may come between
/// two that it names.
const REMEMBERED: usize = 16;
/// Instances that are remembered; beyond that, those that have been silent for longest are forgotten.
const INSTANCES: usize = 1024;

/// The writers of markers, and which of them are members.
#[derive(Debug, Default)]
pub(super) struct Members(HashMap<Uuid, Writer>);

#[derive(Debug, Default)]
struct Writer {
    markers: VecDeque<Read>,
    is_member: bool,
}

impl Members {
    /// Records `marker`, which stands at `offset`. Whether its writer is a member, as far as this marker proves it or an
    /// earlier one did.
    pub(super) fn record(&mut self, marker: &Marker, offset: u64) -> bool {
        if !self.0.contains_key(&marker.instance) && self.0.len() >= INSTANCES {
            self.forget_oldest();
        }
        let writer = self.0.entry(marker.instance).or_default();
        if let Some(after) = &marker.after {
            // A writer that names an offset where its marker does not stand reads another log.
            writer.is_member = writer.markers.contains(after);
        }
        if writer.markers.len() == REMEMBERED {
            writer.markers.pop_front();
        }
        writer.markers.push_back(Read { number: marker.number, offset });
        writer.is_member
    }

    /// Whether `instance` has proven that it reads this log.
    pub(super) fn contains(&self, instance: Uuid) -> bool {
        self.0.get(&instance).is_some_and(|writer| writer.is_member)
    }

    /// Forgets everything: another log may follow.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn forget_oldest(&mut self) {
        let last = |writer: &Writer| writer.markers.back().map_or(0, |marker| marker.offset);
        let oldest = self.0.iter().min_by_key(|(_, writer)| last(writer)).map(|(instance, _)| *instance);
        if let Some(oldest) = oldest {
            self.0.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::marker::Wanted, *};

    fn marker(instance: u128, number: u64, after: Option<(u64, u64)>) -> Marker {
        let after = after.map(|(number, offset)| Read { number, offset });
        Marker::new(Uuid::from_u128(instance), number, &Wanted { after, ..Wanted::default() })
    }

    #[test]
    fn a_member_is_an_instance_that_names_its_own_marker_where_it_stands() {
        let mut members = Members::default();
        assert!(!members.record(&marker(1, 1, None), 10), "nothing is proven yet");
        assert!(members.record(&marker(1, 2, Some((1, 10))), 14));
        assert!(members.record(&marker(1, 3, None), 15), "what was proven holds");
        assert!(members.contains(Uuid::from_u128(1)));
        // A copy from another log, where marker 1 stands at 4.
        assert!(!members.record(&marker(2, 1, None), 16));
        assert!(!members.record(&marker(2, 2, Some((1, 4))), 17));
        assert!(!members.contains(Uuid::from_u128(2)));
    }

    #[test]
    fn an_instance_that_goes_over_to_another_log_is_no_member_any_longer() {
        let mut members = Members::default();
        members.record(&marker(1, 1, None), 10);
        assert!(members.record(&marker(1, 2, Some((1, 10))), 14));
        assert!(!members.record(&marker(1, 9, Some((8, 300))), 20));
        assert!(!members.contains(Uuid::from_u128(1)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut members = Members::default();
        for instance in 0..3 * INSTANCES {
            for number in 1..=20 {
                members.record(&marker(instance as u128, number, None), instance as u64 * 20 + number);
            }
        }
        assert_eq!(members.0.len(), INSTANCES);
        assert!(members.0.values().all(|writer| writer.markers.len() == REMEMBERED));
        assert!(members.0.contains_key(&Uuid::from_u128(3 * INSTANCES as u128 - 1)), "the last ones stay");
    }
}
