//! Calls at once: how many there may be in all, and how many of them on one account.

use std::collections::{HashMap, hash_map::Entry};

use super::Caller;

/// Bounds the calls under way. An account that has a call under way gets another slot only while it has fewer than
/// [`SHARE`] times the slots that are left after that; one that has none gets the last slot, too. So one account has at most about
/// three quarters of the slots, two have about six sevenths, and a slow caller never keeps everyone else waiting for `API_TIMEOUT`.
#[derive(Debug)]
pub(super) struct Slots {
    limit: usize,
    running: usize,
    /// As many entries as there are calls, at most.
    by_caller: HashMap<Caller, usize>,
}

const SHARE: usize = 3;

impl Slots {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, running: 0, by_caller: HashMap::new() }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns whether no slot is free, whoever asks.
    pub(super) fn is_full(&self) -> bool {
        self.running >= self.limit
    }

    /// Returns whether `caller` may have a slot now.
    pub(super) fn has_one_for(&self, caller: Caller) -> bool {
        let free = self.limit.saturating_sub(self.running);
        let own = self.running_for(caller);
        free > 0 && (own == 0 || own < SHARE * (free - 1))
    }

    /// Returns how many calls `caller` has under way.
    pub(super) fn running_for(&self, caller: Caller) -> usize {
        self.by_caller.get(&caller).copied().unwrap_or(0)
    }

    pub(super) fn take(&mut self, caller: Caller) {
        self.running += 1;
        *self.by_caller.entry(caller).or_default() += 1;
    }

    pub(super) fn give_back(&mut self, caller: Caller) {
        self.running -= 1;
        if let Entry::Occupied(mut entry) = self.by_caller.entry(caller) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many slots each of `callers` has when all take as many as they can, in turn.
    fn taken(limit: usize, callers: u64) -> Vec<usize> {
        let mut slots = Slots::new(limit);
        let callers: Vec<Caller> = (0..callers).map(Caller::Identity).collect();
        loop {
            let takers: Vec<Caller> = callers.iter().copied().filter(|caller| slots.has_one_for(*caller)).collect();
            if takers.is_empty() {
                return callers.iter().map(|caller| slots.running_for(*caller)).collect();
            }
            for caller in takers {
                if slots.has_one_for(caller) {
                    slots.take(caller);
                }
            }
        }
    }

    #[test]
    fn one_account_leaves_a_quarter_to_others_and_many_accounts_take_everything() {
        assert_eq!(taken(32, 1), [24]);
        assert_eq!(taken(4, 1), [3]);
        assert_eq!(taken(2, 1), [1]);
        assert_eq!(taken(1, 1), [1]);
        assert_eq!(taken(32, 2), [14, 13]);
        assert_eq!(taken(32, 100).iter().sum::<usize>(), 32);
        for limit in 2..100 {
            for callers in 1..limit {
                let taken: usize = taken(limit, callers as u64).iter().sum();
                assert!(taken < limit, "{callers} accounts have all {limit} slots");
            }
        }
    }

    #[test]
    fn nothing_is_kept_of_calls_that_are_over() {
        let mut slots = Slots::new(8);
        for caller in 0..1000 {
            slots.take(Caller::Identity(caller));
            slots.give_back(Caller::Identity(caller));
        }
        assert!(slots.by_caller.is_empty() && slots.running == 0);
    }
}
