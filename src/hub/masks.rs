//! Combinations of wildcards, counted.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::room::Mask;

/// The combinations of wildcards of some rooms, with the number of rooms that have each.
///
/// They are looked through by slot, a few at a time. A combination keeps its slot as long as a room has it, so what is there from
/// the beginning to the end of a look is not missed, whatever comes and goes meanwhile.
#[derive(Debug, Default)]
pub(super) struct Masks {
    slots: Vec<Option<(Mask, usize)>>,
    free: Vec<usize>,
    /// Only where there are several.
    known: HashMap<Mask, usize, RandomState>,
}

/// Combinations that are looked through one by one: mostly there are no more.
const FEW: usize = 8;

impl Masks {
    /// A room has `mask`.
    pub(super) fn add(&mut self, mask: Mask) {
        if let Some(slot) = self.slot(&mask) {
            if let Some((_, rooms)) = &mut self.slots[slot] {
                *rooms += 1;
            }
            return;
        }
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        if self.slots.len() > FEW {
            if self.known.is_empty() {
                let slots = self.slots.iter().enumerate();
                self.known = slots.filter_map(|(at, slot)| Some((slot.as_ref()?.0.clone(), at))).collect();
            }
            self.known.insert(mask.clone(), slot);
        }
        self.slots[slot] = Some((mask, 1));
    }

    /// A room that had `mask` is gone.
    pub(super) fn remove(&mut self, mask: &Mask) {
        let Some(slot) = self.slot(mask) else { return };
        let Some((_, rooms)) = &mut self.slots[slot] else { return };
        *rooms -= 1;
        if *rooms > 0 {
            return;
        }
        self.slots[slot] = None;
        self.free.push(slot);
        self.known.remove(mask);
        if self.free.len() == self.slots.len() {
            *self = Self::default(); // give the memory back
        }
    }

    /// The combinations from `slot` on, with their slots.
    pub(super) fn from(&self, slot: usize) -> impl Iterator<Item = (usize, &Mask)> {
        let slots = self.slots.iter().enumerate().skip(slot);
        slots.filter_map(|(at, slot)| Some((at, &slot.as_ref()?.0)))
    }

    fn slot(&self, mask: &Mask) -> Option<usize> {
        if self.slots.len() > FEW {
            return self.known.get(mask).copied();
        }
        self.slots.iter().position(|slot| slot.as_ref().is_some_and(|(known, _)| known == mask))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_there_all_the_time_is_not_missed(
            changes in prop::collection::vec((any::<bool>(), 0..24_u32), 0..200), step in 1..5_usize
        ) {
            let mask = |n: u32| (0..5).filter(|bit| n & 1 << bit != 0).collect::<Mask>();
            let mut masks = Masks::default();
            let mut rooms = [0; 24];
            rooms[7] = 1;
            masks.add(mask(7));
            let (mut slot, mut seen) = (0, Vec::new());
            for (is_added, n) in changes {
                if is_added {
                    rooms[n as usize] += 1;
                    masks.add(mask(n));
                } else if rooms[n as usize] > u32::from(n == 7) {
                    rooms[n as usize] -= 1;
                    masks.remove(&mask(n));
                }
                for (at, mask) in masks.from(slot).take(step) {
                    seen.push(mask.clone());
                    slot = at + 1;
                }
                let there: Vec<_> = masks.from(0).map(|(_, mask)| mask.clone()).collect();
                let expected = (0..24).filter(|n| rooms[*n as usize] > 0).count();
                prop_assert_eq!(there.len(), expected);
                prop_assert!((0..24).all(|n| there.contains(&mask(n)) == (rooms[n as usize] > 0)));
            }
            seen.extend(masks.from(slot).map(|(_, mask)| mask.clone()));
            prop_assert_eq!(seen.iter().filter(|seen| **seen == mask(7)).count(), 1);
        }
    }
}
