//! What every subscription has got: which triggers are there, which came twice, which came after a later one, and which
//! never came.

mod gaps;

use std::collections::{HashMap, VecDeque};

use gaps::Gaps;

/// How a delivery stands to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The next one, or one after a gap.
    New,
    /// It had not been there yet, but a later one had.
    Late,
    /// It had been there already.
    Double,
}

/// What went wrong, over all subscriptions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Faults {
    /// Deliveries that never came.
    pub(super) lost: u64,
    /// Deliveries that came again.
    pub(super) doubled: u64,
    /// Deliveries that came after a later one of their room.
    pub(super) out_of_order: u64,
}

/// The books of a run. Subscription `s` is in room `s` mod `rooms`; triggers are numbered from 0 in every room.
#[derive(Debug)]
pub(super) struct Ledger {
    /// By subscription, one more than the greatest number that has come.
    next: Vec<u32>,
    /// What is missing below `next`, for the few subscriptions that miss anything.
    gaps: HashMap<u32, Gaps>,
    rooms: Vec<Room>,
    complete: u64,
    faults: Faults,
}

#[derive(Debug, Clone, Default)]
struct Room {
    /// Subscriptions whose connection is open.
    members: u32,
    /// The oldest trigger that may not have reached all members.
    oldest: u32,
    /// From `oldest` on, how many members have not got it.
    waiting: VecDeque<u32>,
}

impl Ledger {
    /// Empty books for `subscriptions` subscriptions spread over `rooms` rooms in turn.
    pub(super) fn new(subscriptions: usize, rooms: usize) -> Self {
        let mut all = vec![Room::default(); rooms.max(1)];
        let (each, more) = (subscriptions / all.len(), subscriptions % all.len());
        for (at, room) in all.iter_mut().enumerate() {
            room.members = u32::try_from(each + usize::from(at < more)).unwrap_or(u32::MAX);
        }
        Self { next: vec![0; subscriptions], gaps: HashMap::new(), rooms: all, complete: 0, faults: Faults::default() }
    }

    /// The room of a subscription.
    pub(super) fn room(&self, subscription: u32) -> u32 {
        subscription % self.rooms.len() as u32
    }

    /// Triggers that every member of their room has got.
    pub(super) fn complete(&self) -> u64 {
        self.complete
    }

    /// Enters that `subscription` got the trigger `number` of its room.
    pub(super) fn deliver(&mut self, subscription: u32, number: u32) -> Verdict {
        let room = self.room(subscription);
        let Some(next) = self.next.get_mut(subscription as usize) else { return Verdict::Double };
        let verdict = if number >= *next {
            if number > *next {
                self.gaps.entry(subscription).or_default().open(*next..number);
            }
            *next = number.saturating_add(1);
            Verdict::New
        } else if self.gaps.get_mut(&subscription).is_some_and(|gaps| gaps.fill(number)) {
            self.faults.out_of_order += 1;
            Verdict::Late
        } else {
            self.faults.doubled += 1;
            return Verdict::Double;
        };
        if let Some(room) = self.rooms.get_mut(room as usize) {
            self.complete += room.got(number);
        }
        verdict
    }

    /// Enters that the subscription's connection has ended: nobody waits for it any more.
    pub(super) fn leave(&mut self, subscription: u32) {
        let room = self.room(subscription);
        let next = self.next.get(subscription as usize).copied().unwrap_or_default();
        let gaps = self.gaps.get(&subscription);
        let Some(room) = self.rooms.get_mut(room as usize) else { return };
        room.members = room.members.saturating_sub(1);
        let has = |number: u32| number < next && !gaps.is_some_and(|gaps| gaps.contains(number));
        for (number, waiting) in (room.oldest..).zip(&mut room.waiting) {
            // One that this subscription has not got, and so is one of those it still waits for.
            if !has(number) && *waiting > 0 {
                *waiting -= 1;
                self.complete += u64::from(*waiting == 0);
            }
        }
        room.forget_complete();
    }

    /// Whether everybody who is still there has got all triggers, where `published` says of each room how many it got.
    pub(super) fn is_complete(&self, published: &[u32]) -> bool {
        self.rooms.iter().zip(published).all(|(room, published)| room.members == 0 || room.oldest >= *published)
    }

    /// What was wrong in all, where `published` says of each room how many triggers it got.
    pub(super) fn close(&self, published: &[u32]) -> Faults {
        let mut lost: u64 = self.gaps.values().map(Gaps::missing).sum();
        for (next, published) in self.next.iter().zip(published.iter().cycle()) {
            lost += u64::from(published.saturating_sub(*next));
        }
        Faults { lost, ..self.faults }
    }
}

impl Room {
    /// One more member has got it; how many triggers are complete now that were not before.
    fn got(&mut self, number: u32) -> u64 {
        // One that came this late has been complete without the members that left.
        let Some(at) = number.checked_sub(self.oldest) else { return 0 };
        if self.waiting.len() <= at as usize {
            self.waiting.resize(at as usize + 1, self.members);
        }
        let Some(waiting) = self.waiting.get_mut(at as usize) else { return 0 };
        if *waiting == 0 {
            return 0;
        }
        *waiting -= 1;
        let is_complete = *waiting == 0;
        self.forget_complete();
        is_complete.into()
    }

    fn forget_complete(&mut self) {
        while self.waiting.front() == Some(&0) {
            self.waiting.pop_front();
            self.oldest += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_says_what_a_naive_list_of_everything_says(
            subscriptions in 1..6_u32, rooms in 1..3_usize,
            deliveries in prop::collection::vec((0..6_u32, 0..12_u32), 0..120), leaver in prop::option::of(0..6_u32),
        ) {
            let rooms = rooms.min(subscriptions as usize);
            let mut ledger = Ledger::new(subscriptions as usize, rooms);
            let mut seen: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); subscriptions as usize];
            let (mut doubled, mut late) = (0, 0);
            for (subscription, number) in deliveries {
                let subscription = subscription % subscriptions;
                let before = &mut seen[subscription as usize];
                let expected = if before.contains(&number) {
                    doubled += 1;
                    Verdict::Double
                } else if before.last().is_some_and(|last| *last > number) {
                    late += 1;
                    Verdict::Late
                } else {
                    Verdict::New
                };
                before.insert(number);
                prop_assert_eq!(ledger.deliver(subscription, number), expected);
            }
            let left = leaver.map(|leaver| leaver % subscriptions);
            left.into_iter().for_each(|subscription| ledger.leave(subscription));
            let lost: usize = seen.iter().map(|seen| 12 - seen.len()).sum();
            prop_assert_eq!(ledger.close(&vec![12; rooms]), Faults { lost: lost as u64, doubled, out_of_order: late });
            let mut complete = 0;
            for room in 0..rooms {
                for number in 0..12 {
                    let members: Vec<usize> = (room..subscriptions as usize).step_by(rooms).collect();
                    let last = members.iter().filter_map(|member| seen[*member].last()).max().copied();
                    let mut stay = members.iter().filter(|member| left != Some(**member as u32));
                    // A trigger counts once it, or a later one of its room, has been seen by anybody.
                    let is_awaited = last.is_some_and(|last| last >= number);
                    complete += u64::from(is_awaited && stay.all(|member| seen[*member].contains(&number)));
                }
            }
            prop_assert_eq!(ledger.complete(), complete);
        }
    }

    #[test]
    fn one_that_never_comes_is_lost_one_that_comes_later_is_not() {
        let mut ledger = Ledger::new(2, 1);
        for number in [0, 2, 1, 2] {
            ledger.deliver(0, number);
        }
        ledger.deliver(1, 2);
        assert_eq!(ledger.complete(), 1);
        assert_eq!(ledger.close(&[4]), Faults { lost: 1 + 3, doubled: 1, out_of_order: 1 });
        ledger.leave(1);
        assert_eq!(ledger.complete(), 3);
    }
}
