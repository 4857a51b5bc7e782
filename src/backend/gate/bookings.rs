//! When clients are told to come back for which there is no turn: one after the other, as fast as the API answers.

use std::{collections::HashMap, ops::Range, time::Duration};

use rand::Rng;
use tokio::time::Instant;

use super::{Busy, Caller};

/// Shortest time after which a client is told to come back.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// Longest such time, in seconds.
pub(super) const LONGEST_WAIT: f64 = 300.0;
/// Accounts whose bookings are remembered.
pub(super) const MOST: usize = 10_000;
/// Time between two sweeps of bookings that are over.
const SWEPT_EVERY: Duration = Duration::from_secs(1);

/// Times that are given away. The first one that an account is given comes after those of all other accounts; the following
/// ones come after its own. So an account that asks again and again sends itself away for longer, and no other.
#[derive(Debug)]
pub(super) struct Bookings {
    /// The last time that was given to an account that had none.
    last: Instant,
    by_caller: HashMap<Caller, Instant>,
    swept: Instant,
}

impl Bookings {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now, by_caller: HashMap::new(), swept: now }
    }

    /// Gives `caller` a time after `free`, and `step` after the one before it.
    pub(super) fn book(&mut self, caller: Caller, now: Instant, free: Instant, step: Duration) -> Busy {
        let own = self.by_caller.get(&caller).copied().filter(|own| *own > now);
        let booked = own.unwrap_or(self.last).max(free) + step;
        let seconds = (booked - now).as_secs_f64();
        if seconds > LONGEST_WAIT || (own.is_none() && !self.has_room(now)) {
            // There are very many of them, or one asks again and again: they will be told anew.
            return Busy { retry_after: random_seconds(LONGEST_WAIT / 2.0..LONGEST_WAIT) };
        }
        self.by_caller.insert(caller, booked);
        if own.is_none() {
            self.last = booked;
        }
        Busy { retry_after: random_seconds(seconds..seconds + 1.0).max(SHORTEST_WAIT) }
    }

    /// Returns whether another account can be remembered.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.by_caller.len() >= MOST && now - self.swept >= SWEPT_EVERY {
            self.swept = now;
            self.by_caller.retain(|_, booked| *booked > now);
        }
        self.by_caller.len() < MOST
    }
}

fn random_seconds(range: Range<f64>) -> Duration {
    Duration::from_secs_f64(rand::rng().random_range(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    #[test]
    fn an_account_that_asks_again_and_again_sends_no_other_away_for_longer() {
        let now = Instant::now();
        let mut bookings = Bookings::new(now);
        let mut longest = Duration::ZERO;
        for _ in 0..100_000 {
            longest = longest.max(bookings.book(Caller::Identity(0), now, now, STEP).retry_after);
        }
        assert!(longest > Duration::from_secs(200), "{longest:?}");
        for other in 1..=10 {
            let busy = bookings.book(Caller::Identity(other), now, now, STEP);
            assert!(busy.retry_after <= Duration::from_secs(3), "{other}: {busy:?}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten_in_time() {
        let now = Instant::now();
        let mut bookings = Bookings::new(now);
        for caller in 0..3 * MOST as u64 {
            bookings.book(Caller::Identity(caller), now, now, Duration::from_micros(1));
        }
        assert_eq!(bookings.by_caller.len(), MOST);
        let later = now + Duration::from_secs(2);
        let busy = bookings.book(Caller::Identity(u64::MAX), later, later, STEP);
        assert!(busy.retry_after <= Duration::from_secs(2) && bookings.by_caller.len() == 1, "{busy:?}");
    }
}
