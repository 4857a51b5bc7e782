//! When to ping a client, and when to give it up. Pure: the clock is passed in.

use std::time::Duration;

use tokio::time::Instant;

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// Ping the client.
    Ping,
    /// Close it: it has been silent for too long.
    Idle,
}

/// The two clocks of a connection. Looked at only when the earlier one may have run out.
#[derive(Debug)]
pub struct Keepalive {
    idle_timeout: Duration,
    ping_interval: Duration,
    heard: Instant,
    pinged: Instant,
}

impl Keepalive {
    /// Both clocks start at `now`.
    pub fn new(idle_timeout: Duration, ping_interval: Duration, now: Instant) -> Self {
        Self { idle_timeout, ping_interval, heard: now, pinged: now }
    }

    /// The client has sent a data frame.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// When to look again.
    pub fn next(&self) -> Instant {
        (self.heard + self.idle_timeout).min(self.pinged + self.ping_interval)
    }

    /// Whether the client has been silent for too long at `now`.
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.heard + self.idle_timeout
    }

    /// What is due at `now`; a ping is then taken as sent.
    pub fn due(&mut self, now: Instant) -> Due {
        if self.is_over(now) {
            Due::Idle
        } else if now >= self.pinged + self.ping_interval {
            self.pinged = now;
            Due::Ping
        } else {
            Due::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_client_is_pinged_and_then_given_up() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut keepalive = Keepalive::new(Duration::from_secs(60), Duration::from_secs(25), start);
        assert_eq!((keepalive.next(), keepalive.due(at(24))), (at(25), Due::Nothing));
        assert_eq!(keepalive.due(at(25)), Due::Ping);
        assert_eq!(keepalive.due(at(50)), Due::Ping);
        assert_eq!((keepalive.next(), keepalive.due(at(60))), (at(60), Due::Idle));
    }

    #[test]
    fn whatever_it_says_keeps_a_client_alive() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut keepalive = Keepalive::new(Duration::from_secs(60), Duration::from_secs(600), start);
        keepalive.heard(at(59));
        assert_eq!(keepalive.due(at(60)), Due::Nothing);
        assert_eq!(keepalive.due(at(119)), Due::Idle);
    }
}
