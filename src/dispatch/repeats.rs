//! Triggers that come again under the id of one that came before.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use smol_str::SmolStr;
use tokio::time::Instant;

use crate::logging::limited;

/// The most ids that are remembered: some 200 MiB at worst, most often a tenth of that.
const MOST: usize = 1 << 20;

/// The ids of the triggers of a while.
///
/// Every instance comes to the same by reading the same log, except that one which was started meanwhile counts the time of
/// what it reads back from its own start on.
#[derive(Debug)]
pub(super) struct Repeats {
    ttl: Duration,
    /// Each with the offset of its first trigger, where there is a log.
    known: HashMap<SmolStr, Option<u64>>,
    oldest_first: VecDeque<(Instant, SmolStr)>,
}

impl Repeats {
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, known: HashMap::new(), oldest_first: VecDeque::new() }
    }

    /// Whether a trigger with this id, other than the one at `offset`, has come within the time. Otherwise it has now.
    ///
    /// The same entry comes again when the log is read back a second time: it belongs to the history that is built then.
    pub(super) fn is_repeat(&mut self, id: SmolStr, offset: Option<u64>, now: Instant) -> bool {
        self.forget(now);
        if let Some(first) = self.known.get(&id) {
            return offset.is_none() || *first != offset;
        }
        self.known.insert(id.clone(), offset);
        self.oldest_first.push_back((now, id));
        false
    }

    fn forget(&mut self, now: Instant) {
        while let Some((since, _)) = self.oldest_first.front() {
            let is_old = now.duration_since(*since) >= self.ttl;
            if !is_old && self.oldest_first.len() < MOST {
                break;
            }
            if !is_old && self.oldest_first.len() == MOST {
                limited!(
                    warn,
                    "too many ids of triggers within TRIGGER_ID_TTL, the oldest is forgotten early",
                    ids = MOST
                );
            }
            if let Some((_, id)) = self.oldest_first.pop_front() {
                self.known.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_counts_from_its_first_trigger_and_not_for_ever() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut repeats = Repeats::new(Duration::from_secs(60));
        assert!(!repeats.is_repeat("a".into(), None, at(0)));
        assert!(!repeats.is_repeat("b".into(), None, at(30)));
        assert!(repeats.is_repeat("a".into(), None, at(59)));
        assert!(!repeats.is_repeat("a".into(), None, at(60)));
        assert!(repeats.is_repeat("b".into(), None, at(61)));
        assert_eq!(repeats.known.len(), repeats.oldest_first.len());
    }

    #[test]
    fn an_entry_that_is_read_again_is_no_repeat_of_itself() {
        let now = Instant::now();
        let mut repeats = Repeats::new(Duration::from_secs(60));
        for _ in 0..2 {
            assert!(!repeats.is_repeat("a".into(), Some(7), now));
            assert!(repeats.is_repeat("a".into(), Some(9), now));
        }
    }

    #[test]
    fn the_ids_that_are_remembered_are_bounded() {
        let now = Instant::now();
        let mut repeats = Repeats::new(Duration::from_secs(60));
        for id in 0..=MOST {
            assert!(!repeats.is_repeat(id.to_string().into(), None, now));
        }
        assert_eq!(repeats.known.len(), MOST);
        assert!(!repeats.is_repeat("0".into(), None, now));
        assert!(repeats.is_repeat(MOST.to_string().into(), None, now));
    }
}
