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
    /// The marker that it named last and that does not stand where it said.
    refuted: Option<Read>,
    /// What it last told to be lost because the exchange passed nothing on.
    unbound: Option<u64>,
}

/// What a marker shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    /// Its writer is a member.
    pub is_member: bool,
    /// A member has read further than where the marker stands, or a marker where another entry stands now: the log has lost
    /// its end.
    pub is_end_lost: bool,
    /// A member says for the first time that the exchange passed nothing on.
    pub was_unbound: bool,
}

impl Members {
    /// Records `marker`, which stands at `offset`. Its writer is a member as far as this marker proves it or an earlier one did.
    pub(super) fn record(&mut self, marker: &Marker, offset: u64) -> Shown {
        if !self.0.contains_key(&marker.instance) && self.0.len() >= INSTANCES {
            self.forget_oldest();
        }
        let writer = self.0.entry(marker.instance).or_default();
        let is_end_lost = writer.judge(marker, offset);
        if writer.markers.len() == REMEMBERED {
            writer.markers.pop_front();
        }
        writer.markers.push_back(Read { number: marker.number, offset });
        let was_unbound = writer.is_member && marker.unbound.is_some() && marker.unbound != writer.unbound;
        writer.unbound = marker.unbound.or(writer.unbound);
        Shown { is_member: writer.is_member, is_end_lost, was_unbound }
    }

    /// Some entries were not read: of markers that do not stand where they should, nothing is known from now on.
    pub(super) fn forget_places(&mut self) {
        self.0.values_mut().for_each(|writer| writer.markers.clear());
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

impl Writer {
    /// Judges the writer by its `marker` at `offset`. Whether it shows that the log has lost its end.
    fn judge(&mut self, marker: &Marker, offset: u64) -> bool {
        let mut is_end_lost = false;
        let is_remembered = |after: &Read| self.markers.front().is_some_and(|oldest| oldest.number <= after.number);
        match marker.after {
            Some(after) if self.markers.contains(&after) => (self.is_member, self.refuted) = (true, None),
            // The writer reads another log, or this one before it lost its end. A writer of another log is no member.
            Some(after) if self.is_member && is_remembered(&after) && self.refuted != Some(after) => {
                self.is_member = self.refuted.replace(after).is_none();
                is_end_lost = self.is_member;
            }
            _ => {}
        }
        is_end_lost || self.is_member && marker.progress.read.is_some_and(|read| read >= offset)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{marker::Wanted, progress::Progress},
        *,
    };

    fn marker(instance: u128, number: u64, after: Option<(u64, u64)>) -> Marker {
        reading(instance, number, after, None)
    }

    fn reading(instance: u128, number: u64, after: Option<(u64, u64)>, read: Option<u64>) -> Marker {
        let after = after.map(|(number, offset)| Read { number, offset });
        let progress = Progress { read, ..Progress::default() };
        Marker::new(Uuid::from_u128(instance), number, progress, &Wanted { after, ..Wanted::default() })
    }

    const STRANGER: Shown = Shown { is_member: false, is_end_lost: false, was_unbound: false };
    const MEMBER: Shown = Shown { is_member: true, is_end_lost: false, was_unbound: false };
    const WITNESS: Shown = Shown { is_member: true, is_end_lost: true, was_unbound: false };

    #[test]
    fn a_member_is_an_instance_that_names_its_own_marker_where_it_stands() {
        let mut members = Members::default();
        assert_eq!(members.record(&marker(1, 1, None), 10), STRANGER, "nothing is proven yet");
        assert_eq!(members.record(&marker(1, 2, Some((1, 10))), 14), MEMBER);
        assert_eq!(members.record(&marker(1, 3, None), 15), MEMBER, "what was proven holds");
        assert!(members.contains(Uuid::from_u128(1)));
        // A copy from another log, where marker 1 stands at 40 and more has been read.
        assert_eq!(members.record(&reading(2, 1, None, Some(38)), 16), STRANGER);
        assert_eq!(members.record(&reading(2, 2, Some((1, 40)), Some(44)), 17), STRANGER);
        assert!(!members.contains(Uuid::from_u128(2)));
    }

    #[test]
    fn a_member_that_has_read_further_shows_that_the_end_is_lost() {
        let mut members = Members::default();
        members.record(&marker(1, 1, None), 10);
        assert_eq!(members.record(&reading(1, 2, Some((1, 10)), Some(13)), 14), MEMBER);
        assert_eq!(members.record(&reading(1, 3, Some((2, 14)), Some(30)), 20), WITNESS);
        assert_eq!(members.record(&reading(1, 4, Some((3, 20)), Some(20)), 27), MEMBER);
    }

    #[test]
    fn a_member_that_names_a_marker_where_another_entry_stands_shows_that_the_end_is_lost() {
        let mut members = Members::default();
        members.record(&marker(1, 1, None), 10);
        members.record(&marker(1, 2, Some((1, 10))), 14);
        // Its third one was lost, and others have published beyond that.
        assert_eq!(members.record(&reading(1, 4, Some((3, 18)), Some(19)), 21), WITNESS);
        assert_eq!(
            members.record(&reading(1, 5, Some((3, 18)), Some(19)), 22),
            MEMBER,
            "it is there that its log ended"
        );
        assert_eq!(members.record(&marker(1, 6, None), 23), MEMBER);
        assert_eq!(members.record(&marker(1, 7, Some((6, 23))), 24), MEMBER);
    }

    #[test]
    fn an_exchange_that_passed_nothing_on_is_told_once_by_each_number() {
        let unbound = |number, after, unbound| Marker { unbound, ..marker(1, number, after) };
        let mut members = Members::default();
        assert!(!members.record(&unbound(1, None, Some(7)), 10).was_unbound, "nothing is proven yet");
        members.record(&marker(1, 2, Some((1, 10))), 14);
        for (number, told, is_new) in [(3, Some(8), true), (4, Some(8), false), (5, None, false), (6, Some(9), true)] {
            assert_eq!(members.record(&unbound(number, None, told), 20 + number).was_unbound, is_new, "{number}");
        }
    }

    #[test]
    fn markers_that_were_not_read_show_nothing() {
        let mut members = Members::default();
        members.record(&marker(1, 1, None), 10);
        members.record(&marker(1, 2, Some((1, 10))), 14);
        members.forget_places();
        assert_eq!(members.record(&marker(1, 5, Some((4, 30))), 36), MEMBER);
        assert_eq!(members.record(&marker(1, 6, Some((5, 36))), 40), MEMBER);
        for number in 7..=7 + REMEMBERED as u64 {
            members.record(&marker(1, number, None), 40 + number);
        }
        assert_eq!(members.record(&marker(1, 40, Some((6, 40))), 80), MEMBER, "too long ago");
    }

    #[test]
    fn an_instance_that_goes_over_to_another_log_is_no_member_any_longer() {
        let mut members = Members::default();
        members.record(&marker(1, 1, None), 10);
        assert_eq!(members.record(&marker(1, 2, Some((1, 10))), 14), MEMBER);
        // At first it looks as if it had read what was lost.
        assert_eq!(members.record(&reading(1, 9, Some((8, 300)), None), 20), WITNESS);
        for number in 10..20 {
            assert_eq!(members.record(&marker(1, number, Some((number - 1, 300 + number))), 20 + number), STRANGER);
        }
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
