//! When to try the next broker of the list.

use std::{io, time::Duration};

use lapin::uri::{AMQPScheme, AMQPUri};
use rand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::Error;
use crate::config;

/// The longest wait between two attempts.
const LONGEST: Duration = Duration::from_secs(5);
/// The wait before the second attempt.
const SHORTEST: Duration = Duration::from_millis(500);

/// How long a broker that has hung before may take to say its first word.
const WORD_DEADLINE: Duration = Duration::from_secs(5);
/// What a client begins with (AMQP 0-9-1 section 4.2.2).
const GREETING: &[u8] = b"AMQP\x00\x00\x09\x01";

/// Walks through the list of brokers: at once, then again after growing, randomly shortened waits of 5 s at most.
#[derive(Debug)]
pub(super) struct Retry {
    uris: config::Uris,
    attempt: usize,
    /// Attempts until the next wait: each broker of the list is tried before any is tried again.
    left: usize,
    wait: Duration,
    /// The last one tried took the connection and then said nothing.
    has_hung: bool,
}

impl Retry {
    pub(super) fn new(uris: config::Uris) -> Self {
        Self { uris, attempt: 0, left: 0, wait: Duration::ZERO, has_hung: false }
    }

    /// Waits until it is time, and says whom to try.
    pub(super) async fn next(&mut self) -> &AMQPUri {
        loop {
            if self.left == 0 {
                let wait = self.wait.mul_f64(rand::rng().random_range(0.5..=1.0));
                self.wait = (self.wait * 2).clamp(SHORTEST, LONGEST);
                sleep(wait).await;
                self.left = self.brokers();
            }
            self.left -= 1;
            let attempt = self.attempt;
            self.attempt = attempt.wrapping_add(1);
            // The library never gives up a handshake that hangs: after one, a broker is first asked for a word.
            if !self.has_hung || is_talking(self.uris.at(attempt).amqp()).await {
                self.has_hung = false;
                return self.uris.at(attempt).amqp();
            }
        }
    }

    /// The last one tried works: begin with it when it is lost.
    pub(super) fn succeeded(&mut self) {
        self.attempt = self.attempt.wrapping_sub(1);
        (self.left, self.wait) = (0, SHORTEST);
    }

    /// The one that works is of no use: begin with the next one.
    pub(super) fn pass_over(&mut self) {
        self.attempt = self.attempt.wrapping_add(1);
    }

    /// How many brokers there are.
    pub(super) fn brokers(&self) -> usize {
        self.uris.iter().count()
    }

    /// The last one tried did not answer.
    pub(super) fn failed(&mut self, error: &Error) {
        self.has_hung = matches!(error, Error::TimedOut { .. });
    }
}

/// Whether the broker answers a greeting. Over TLS only that it takes the connection.
async fn is_talking(uri: &AMQPUri) -> bool {
    let talk = async {
        let mut stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await?;
        if uri.scheme == AMQPScheme::AMQPS {
            return Ok(1);
        }
        stream.write_all(GREETING).await?;
        stream.read(&mut [0]).await
    };
    matches!(timeout(WORD_DEADLINE, talk).await, Ok(io::Result::Ok(1..)))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_list_is_tried_at_once_and_again_after_five_seconds_at_the_most() {
        let mut retry = Retry::new(config::Uris::parse("amqp://one,amqp://two").unwrap());
        let mut waits = Vec::new();
        let mut hosts = Vec::new();
        for _ in 0..16 {
            let start = Instant::now();
            hosts.push(retry.next().await.authority.host.clone());
            waits.push(start.elapsed());
        }
        assert_eq!(hosts[..4], ["one", "two", "one", "two"]);
        let at_once = Duration::from_millis(10);
        assert!(waits[0] < at_once && waits[2] < Duration::from_secs(1), "{waits:?}");
        assert!(waits.iter().skip(1).step_by(2).all(|wait| *wait < at_once), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= LONGEST + at_once), "{waits:?}");
        retry.succeeded();
        let start = Instant::now();
        assert_eq!(retry.next().await.authority.host, "two");
        let wait = start.elapsed();
        assert!(SHORTEST / 2 <= wait && wait <= SHORTEST + at_once, "{wait:?}");
        assert_eq!(retry.next().await.authority.host, "one");
        assert!(start.elapsed() < wait + at_once);
    }

    #[tokio::test]
    async fn a_broker_that_has_hung_is_tried_again_only_when_it_talks() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uris = format!("amqp://{}", listener.local_addr().unwrap());
        let mut retry = Retry::new(config::Uris::parse(&uris).unwrap());
        retry.next().await;
        retry.failed(&Error::TimedOut { host: String::new() });
        let broker = async {
            drop(listener.accept().await.unwrap()); // says nothing, and goes
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut greeting = [0; 8];
            stream.read_exact(&mut greeting).await.unwrap();
            assert_eq!(greeting, GREETING);
            stream.write_all(b"\x01").await.unwrap();
        };
        tokio::join!(broker, retry.next());
    }
}
