//! When to try the next broker of the list.

use std::time::Duration;

use lapin::uri::AMQPUri;
use rand::Rng;
use tokio::time::sleep;

use crate::config;

/// The longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(5);
/// The wait before the second attempt.
const SHORTEST: Duration = Duration::from_millis(500);

/// Walks through the list of brokers: at once to the first, then with growing, randomly shortened waits of 5 s at most.
#[derive(Debug)]
pub(super) struct Retry {
    uris: config::Uris,
    attempt: usize,
    wait: Duration,
}

impl Retry {
    pub(super) fn new(uris: config::Uris) -> Self {
        Self { uris, attempt: 0, wait: Duration::ZERO }
    }

    /// Waits until it is time, and says whom to try.
    pub(super) async fn next(&mut self) -> &AMQPUri {
        let wait = self.wait.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.wait = (self.wait * 2).clamp(SHORTEST, LONGEST);
        sleep(wait).await;
        let uri = self.uris.at(self.attempt);
        self.attempt = self.attempt.wrapping_add(1);
        uri.amqp()
    }

    /// The last one tried works: begin with it when it is lost.
    pub(super) fn succeeded(&mut self) {
        self.attempt = self.attempt.wrapping_sub(1);
        self.wait = SHORTEST;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_try_is_at_once_and_none_waits_longer_than_five_seconds() {
        let mut retry = Retry::new(config::Uris::parse("amqp://one,amqp://two").unwrap());
        let mut waits = Vec::new();
        let mut hosts = Vec::new();
        for _ in 0..8 {
            let start = Instant::now();
            hosts.push(retry.next().await.authority.host.clone());
            waits.push(start.elapsed());
        }
        assert_eq!(hosts[..4], ["one", "two", "one", "two"]);
        assert!(waits[0] < Duration::from_millis(10) && waits[1] < Duration::from_secs(1), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= LONGEST + Duration::from_millis(10)), "{waits:?}");
        retry.succeeded();
        assert_eq!(retry.next().await.authority.host, "two");
    }
}
