//! Log lines about a backend that does not say who its clients are.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::{Error, Malformed};

/// Shortest time between two lines about faults of the same kind.
const REPORTED_EVERY: Duration = Duration::from_secs(60);

/// Reports each kind of fault at once, and then once a minute as long as it goes on: any client can bring about a fault.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<BTreeMap<&'static str, Kind>>);

#[derive(Debug)]
struct Kind {
    last: Instant,
    /// Faults since then.
    suppressed: u64,
}

impl Reports {
    /// Logs `error`, unless it is the backend's decision or ours, or one of its kind has been logged lately.
    pub(super) fn report(&self, error: &Error) {
        let kind = match error {
            // A clear no is no fault, and what was not sent is counted where it is decided.
            Error::Refused { .. } if error.is_final() => return,
            Error::Busy { .. } => return,
            Error::Refused { .. } => "status",
            Error::TimedOut(_) => "timeout",
            Error::Unreachable(_) => "unreachable",
            Error::Page { .. } => "page",
            Error::Malformed(Malformed::Empty) => "empty",
            Error::Malformed(_) => "malformed",
        };
        let Some(suppressed) = self.due(kind) else { return };
        let error = error as &dyn std::error::Error;
        warn!(error, suppressed, "the API does not say who a client is: the client is refused or told to try again");
    }

    /// Returns how many faults of this kind have not been logged since the last line, if another one is due now.
    pub(super) fn due(&self, kind: &'static str) -> Option<u64> {
        self.due_at(kind, Instant::now())
    }

    fn due_at(&self, kind: &'static str, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock();
        match kinds.get_mut(kind) {
            Some(known) if now - known.last < REPORTED_EVERY => {
                known.suppressed += 1;
                None
            }
            known => {
                let suppressed = known.map_or(0, |known| known.suppressed);
                kinds.insert(kind, Kind { last: now, suppressed: 0 });
                Some(suppressed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_logged_once_a_minute_with_the_number_of_the_others() {
        let (reports, now) = (Reports::default(), Instant::now());
        assert_eq!(reports.due_at("page", now), Some(0));
        for _ in 0..1000 {
            assert_eq!(reports.due_at("page", now), None);
        }
        assert_eq!(reports.due_at("timeout", now), Some(0));
        assert_eq!(reports.due_at("page", now + REPORTED_EVERY), Some(1000));
        assert_eq!(reports.due_at("page", now + REPORTED_EVERY), None);
    }
}
