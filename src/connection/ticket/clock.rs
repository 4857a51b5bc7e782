//! The time of day, by which instances understand each other's tickets.
//!
//! Within a process everything else goes by the monotonic clock, which no operator can set.

use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(test)]
use std::sync::atomic::{AtomicI64, Ordering};

/// A clock that tells the time of day.
#[derive(Debug, Default)]
pub(crate) enum Clock {
    /// That of the machine.
    #[default]
    System,
    /// One that runs with Tokio's clock and can be set.
    #[cfg(test)]
    Simulated {
        start: tokio::time::Instant,
        /// Milliseconds by which it is ahead of the others.
        ahead: AtomicI64,
    },
}

impl Clock {
    /// Returns the milliseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
            #[cfg(test)]
            Self::Simulated { start, ahead } => {
                const START: u64 = 1_000_000_000_000;
                let since = START + u64::try_from(start.elapsed().as_millis()).unwrap();
                since.saturating_add_signed(ahead.load(Ordering::Relaxed))
            }
        }
    }
}

#[cfg(test)]
impl Clock {
    pub(crate) fn simulated() -> Self {
        Self::Simulated { start: tokio::time::Instant::now(), ahead: AtomicI64::new(0) }
    }

    /// Sets it to be `milliseconds` ahead of the others.
    pub(crate) fn set_ahead(&self, milliseconds: i64) {
        let Self::Simulated { ahead, .. } = self else { panic!("the machine's clock is nobody's to set") };
        ahead.store(milliseconds, Ordering::Relaxed);
    }
}
