//! What all have seen, and the verdict.

use std::{collections::BTreeMap, fmt::Display, sync::OnceLock, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::page::Numbers;

/// The most errors that are shown.
const SHOWN: usize = 10;
/// Faults of so long ago are told beside an error, ...
const NEAR: Duration = Duration::from_secs(30);
/// ... but no more than these.
const NEAREST: usize = 6;

/// The books of a run.
#[derive(Debug)]
pub struct Books {
    start: OnceLock<Instant>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The last number that was accepted.
    accepted: Numbers,
    counts: BTreeMap<&'static str, u64>,
    faults: Vec<(Duration, String)>,
    errors: Vec<String>,
    errors_total: usize,
}

impl Books {
    pub fn new() -> Self {
        Self { start: OnceLock::new(), inner: Mutex::default() }
    }

    /// From when on times count: now, if that was not said before.
    pub fn start(&self) -> Instant {
        *self.start.get_or_init(Instant::now)
    }

    fn time(&self) -> Duration {
        self.start().elapsed()
    }

    /// A line of what happens.
    pub fn tell(&self, what: impl Display) {
        println!("[{:7.1} s] {what}", self.time().as_secs_f64());
    }

    pub fn count(&self, what: &'static str) {
        *self.inner.lock().counts.entry(what).or_default() += 1;
    }

    /// A fault begins.
    pub fn fault(&self, word: &'static str, text: String) {
        self.tell(&text);
        let mut inner = self.inner.lock();
        *inner.counts.entry(word).or_default() += 1;
        inner.faults.push((self.time(), text));
    }

    /// Something that must not be.
    pub fn error(&self, text: impl Display) {
        let now = self.time();
        let mut inner = self.inner.lock();
        inner.errors_total += 1;
        if inner.errors.len() == SHOWN {
            return;
        }
        let near = inner.faults.iter().rev().take_while(|(at, _)| now - *at < NEAR).take(NEAREST);
        let near: Vec<String> = near.map(|(at, text)| format!("{text} at {:.1}", at.as_secs_f64())).collect();
        let error = format!("[{:7.1} s] {text}", now.as_secs_f64());
        println!("{error}");
        inner.errors.push(format!("{error}\n            after: {}", near.join("; ")));
    }

    /// The numbers of a trigger were accepted.
    pub fn accept(&self, publisher: usize, numbers: &[(usize, u64)]) {
        let mut inner = self.inner.lock();
        for (room, number) in numbers {
            inner.accepted[publisher][*room] = *number;
        }
        *inner.counts.entry("triggers accepted").or_default() += 1;
    }

    pub fn accepted(&self) -> Numbers {
        self.inner.lock().accepted
    }

    /// The summary and the verdict; whether all was right.
    pub fn close(&self) -> bool {
        let inner = self.inner.lock();
        println!();
        for (what, count) in &inner.counts {
            println!("{count:>10}  {what}");
        }
        println!();
        if inner.errors_total == 0 {
            println!("verdict: nothing missing, nothing twice, nothing out of order, nobody sent away without need");
            return true;
        }
        println!("verdict: {} errors", inner.errors_total);
        for error in &inner.errors {
            println!("{error}");
        }
        false
    }
}
