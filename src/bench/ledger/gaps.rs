//! The numbers a subscription misses, as a few ranges.

use std::{collections::VecDeque, ops::Range};

/// Ranges that are remembered; beyond that the oldest one counts as lost for good.
const LIMIT: usize = 1024;

/// Missing numbers: ranges that are not empty, do not touch, and rise.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    ranges: VecDeque<Range<u32>>,
    given_up: u64,
}

impl Gaps {
    /// Adds a range above all others.
    pub(super) fn open(&mut self, range: Range<u32>) {
        self.ranges.push_back(range);
        self.trim();
    }

    /// Takes a number out. Whether it was missing.
    pub(super) fn fill(&mut self, number: u32) -> bool {
        let at = self.ranges.partition_point(|range| range.end <= number);
        let Some(range) = self.ranges.get_mut(at).filter(|range| range.contains(&number)) else { return false };
        let above = number + 1..range.end;
        range.end = number;
        let is_below_empty = range.start == number;
        if !above.is_empty() {
            self.ranges.insert(at + 1, above);
        }
        if is_below_empty {
            self.ranges.remove(at);
        }
        self.trim();
        true
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        let at = self.ranges.partition_point(|range| range.end <= number);
        self.ranges.get(at).is_some_and(|range| range.contains(&number))
    }

    /// How many numbers are missing, those no longer remembered included.
    pub(super) fn missing(&self) -> u64 {
        self.given_up + self.ranges.iter().map(|range| u64::from(range.end - range.start)).sum::<u64>()
    }

    fn trim(&mut self) {
        if self.ranges.len() > LIMIT
            && let Some(range) = self.ranges.pop_front()
        {
            self.given_up += u64::from(range.end - range.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_shrinks_from_both_ends_and_splits() {
        let mut gaps = Gaps::default();
        gaps.open(3..8);
        assert!(gaps.fill(3) && gaps.fill(7) && gaps.fill(5));
        assert!(!gaps.fill(5) && !gaps.fill(2) && !gaps.fill(8));
        assert_eq!((gaps.missing(), gaps.contains(4), gaps.contains(5), gaps.contains(6)), (2, true, false, true));
        assert!(gaps.fill(4) && gaps.fill(6));
        assert_eq!((gaps.missing(), gaps.ranges.len()), (0, 0));
    }

    #[test]
    fn what_is_no_longer_remembered_stays_lost() {
        let mut gaps = Gaps::default();
        for number in 0..3 * LIMIT as u32 {
            gaps.open(2 * number..2 * number + 1);
        }
        assert_eq!((gaps.ranges.len(), gaps.missing()), (LIMIT, 3 * LIMIT as u64));
        assert!(!gaps.fill(0));
    }
}
