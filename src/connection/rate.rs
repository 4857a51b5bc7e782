//! How fast a client may send. Pure: the clock is passed in.

use std::time::Duration;

use tokio::time::Instant;

/// A client may send at once what it may send in this time.
const BURST: Duration = Duration::from_secs(10);

/// The rate of one client, as a virtual clock that runs ahead of the real one with everything that it sends (GCRA).
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// When the client would have finished sending, had it sent no faster than it may.
    sent: Instant,
}

/// The client sends faster than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFast;

impl Rate {
    /// Returns the rate of a client that has sent nothing before `now`.
    pub fn new(now: Instant) -> Self {
        Self { sent: now }
    }

    /// Counts `count` frames, of which `a_second` may come. One `count` that is larger than the burst is taken from a client
    /// that has been quiet.
    ///
    /// # Errors
    /// When that is too many.
    pub fn count(&mut self, count: usize, a_second: usize, now: Instant) -> Result<(), TooFast> {
        let takes = Duration::from_secs_f64(count as f64 / a_second as f64);
        let sent = self.sent.max(now) + takes;
        if sent > now + BURST.max(takes) {
            return Err(TooFast);
        }
        self.sent = sent;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_seconds_worth_may_come_at_once_and_then_no_more_than_the_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        assert!((0..50).all(|_| rate.count(1, 5, start).is_ok()));
        assert_eq!(rate.count(1, 5, start), Err(TooFast));
        let later = start + Duration::from_secs(1);
        assert!((0..5).all(|_| rate.count(1, 5, later).is_ok()) && rate.count(1, 5, later).is_err());
        let quiet = start + Duration::from_secs(3600);
        assert_eq!(rate.count(1000, 5, quiet), Ok(()), "one message may ask for more");
        assert_eq!(rate.count(1, 5, quiet), Err(TooFast));
    }
}
