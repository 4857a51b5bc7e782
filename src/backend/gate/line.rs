//! The line of calls that wait for a slot. Accounts have their turns one after the other, however many calls each has there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Caller;

/// Number of a call.
pub(in super::super) type CallId = u64;

/// Calls that wait. One may be listed for several accounts that wait for its outcome; it goes when it is the turn of any of them.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Each call with the accounts that it is listed for.
    calls: HashMap<CallId, Vec<Caller>>,
    callers: HashMap<Caller, Listed>,
    /// The accounts in the order of their turns.
    order: BTreeMap<u64, Caller>,
    /// Number of the next turn.
    next: u64,
}

/// The calls of an account, oldest first.
#[derive(Debug)]
struct Listed {
    calls: BTreeSet<CallId>,
    turn: u64,
}

impl Line {
    /// Lists a call for `caller`.
    pub(super) fn push(&mut self, call: CallId, caller: Caller) {
        let turn = self.next;
        let listed = self.callers.entry(caller).or_insert_with(|| {
            self.order.insert(turn, caller);
            self.next += 1;
            Listed { calls: BTreeSet::new(), turn }
        });
        if listed.calls.insert(call) {
            self.calls.entry(call).or_default().push(caller);
        }
    }

    /// Lists a call for another account if it waits here.
    pub(super) fn join(&mut self, call: CallId, caller: Caller) {
        if self.calls.contains_key(&call) {
            self.push(call, caller);
        }
    }

    /// Takes the oldest call of the first account that `may_go`, whose next turn is after that of all others.
    pub(super) fn pop(&mut self, may_go: impl Fn(Caller) -> bool) -> Option<(CallId, Caller)> {
        let (turn, caller) =
            self.order.iter().map(|(turn, caller)| (*turn, *caller)).find(|(_, caller)| may_go(*caller))?;
        let listed = self.callers.get_mut(&caller)?;
        let call = *listed.calls.first()?;
        self.order.remove(&turn);
        listed.turn = self.next;
        self.order.insert(self.next, caller);
        self.next += 1;
        self.remove(call);
        Some((call, caller))
    }

    /// Takes a call out, wherever it is listed.
    pub(super) fn remove(&mut self, call: CallId) {
        for caller in self.calls.remove(&call).unwrap_or_default() {
            let Some(listed) = self.callers.get_mut(&caller) else { continue };
            listed.calls.remove(&call);
            if listed.calls.is_empty() {
                let turn = listed.turn;
                self.order.remove(&turn);
                self.callers.remove(&caller);
            }
        }
    }

    /// Returns how many calls wait.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Returns how many calls go before one that `caller` would add now, at most.
    pub(super) fn ahead_of(&self, caller: Caller) -> usize {
        let own = self.callers.get(&caller).map_or(0, |listed| listed.calls.len());
        self.len().min((own + 1).saturating_mul(self.callers.len()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Caller = Caller::Identity(1);
    const B: Caller = Caller::Identity(2);
    const C: Caller = Caller::Identity(3);

    fn drain(line: &mut Line) -> Vec<CallId> {
        std::iter::from_fn(|| line.pop(|_| true)).map(|(call, _)| call).collect()
    }

    #[test]
    fn accounts_have_their_turns_one_after_the_other() {
        let mut line = Line::default();
        (0..5).for_each(|call| line.push(call, A));
        line.push(5, B);
        assert_eq!((line.ahead_of(A), line.ahead_of(B), line.ahead_of(C)), (6, 4, 2));
        line.push(6, C);
        line.push(7, B);
        assert_eq!(drain(&mut line), [0, 5, 6, 1, 7, 2, 3, 4]);
    }

    #[test]
    fn an_account_that_may_not_go_keeps_nobody_waiting() {
        let mut line = Line::default();
        (0..3).for_each(|call| line.push(call, A));
        line.push(3, B);
        assert_eq!(line.pop(|caller| caller != A), Some((3, B)));
        assert_eq!(line.pop(|caller| caller != A), None);
        assert_eq!(line.pop(|_| true), Some((0, A)));
    }

    #[test]
    fn a_call_that_others_wait_for_goes_when_it_is_the_turn_of_any_of_them() {
        let mut line = Line::default();
        (0..100).for_each(|call| line.push(call, A));
        line.join(99, B);
        line.join(1000, B); // is not there
        assert_eq!((line.len(), line.ahead_of(C)), (100, 2));
        assert_eq!(line.pop(|_| true), Some((0, A)));
        assert_eq!(line.pop(|_| true), Some((99, B)));
        assert_eq!((line.len(), line.callers.len()), (98, 1));
    }

    proptest! {
        #[test]
        fn every_call_goes_once_or_is_taken_out_and_nothing_is_kept_of_it(
            steps in prop::collection::vec((0..4_u8, 0..20_u64, 0..4_u64), 0..200)
        ) {
            let (mut line, mut there) = (Line::default(), BTreeSet::new());
            for (step, call, caller) in steps {
                match step {
                    0 => {
                        line.push(call, Caller::Identity(caller));
                        there.insert(call);
                    }
                    1 => line.join(call, Caller::Identity(caller)),
                    2 => {
                        line.remove(call);
                        there.remove(&call);
                    }
                    _ => {
                        let popped = line.pop(|other| other != Caller::Identity(caller));
                        prop_assert!(popped.is_none_or(|(call, _)| there.remove(&call)));
                    }
                }
                prop_assert_eq!(line.len(), there.len());
                prop_assert_eq!(line.order.len(), line.callers.len());
            }
            prop_assert_eq!(drain(&mut line).len(), there.len());
            prop_assert!(line.callers.is_empty() && line.order.is_empty() && line.calls.is_empty());
        }
    }
}
