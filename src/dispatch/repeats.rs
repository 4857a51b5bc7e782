//! Triggers that come again under the id of one that came before.

use std::{
    collections::{HashSet, VecDeque},
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
    known: HashSet<SmolStr>,
    oldest_first: VecDeque<(Instant, SmolStr)>,
}

impl Repeats {
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, known: HashSet::new(), oldest_first: VecDeque::new() }
    }

    /// Whether a trigger with this id has come within the time. Otherwise it has now.
    pub(super) fn is_repeat(&mut self, id: SmolStr, now: Instant) -> bool {
        self.forget(now);
        let is_new = self.known.insert(id.clone());
        if is_new {
            self.oldest_first.push_back((now, id));
        }
        !is_new
    }

    /// Forgets all: the log is read back from its beginning.
    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.oldest_first.clear();
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
        assert!(!repeats.is_repeat("a".into(), at(0)));
        assert!(!repeats.is_repeat("b".into(), at(30)));
        assert!(repeats.is_repeat("a".into(), at(59)));
        assert!(!repeats.is_repeat("a".into(), at(60)));
        assert!(repeats.is_repeat("b".into(), at(61)));
        assert_eq!(repeats.known.len(), repeats.oldest_first.len());
    }

    #[test]
    fn a_log_that_is_read_back_again_has_no_repeats_of_itself() {
        let now = Instant::now();
        let mut repeats = Repeats::new(Duration::from_secs(60));
        for _ in 0..2 {
            assert!(!repeats.is_repeat("a".into(), now));
            assert!(repeats.is_repeat("a".into(), now));
            repeats.clear();
        }
        assert!(repeats.known.is_empty() && repeats.oldest_first.is_empty());
    }

    #[test]
    fn the_ids_that_are_remembered_are_bounded() {
        let now = Instant::now();
        let mut repeats = Repeats::new(Duration::from_secs(60));
        for id in 0..=MOST {
            assert!(!repeats.is_repeat(id.to_string().into(), now));
        }
        assert_eq!(repeats.known.len(), MOST);
        assert!(!repeats.is_repeat("0".into(), now));
        assert!(repeats.is_repeat(MOST.to_string().into(), now));
    }
}
