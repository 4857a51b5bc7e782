//! What all have seen, and the verdict.

use std::{collections::BTreeMap, fmt::Display, sync::OnceLock, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    gaps::{GapId, Gaps},
    page::{Numbers, PUBLISHERS},
};

/// The most errors that are shown.
const SHOWN: usize = 100;
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
    /// Of each publisher, the last trigger that was accepted.
    serials: [u64; PUBLISHERS],
    gaps: Gaps,
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

    /// Since the start.
    pub fn time(&self) -> Duration {
        self.start().elapsed()
    }

    /// A line of what happens.
    pub fn tell(&self, what: impl Display) {
        println!("[{:7.1} s] {what}", self.time().as_secs_f64());
    }

    pub fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    fn add(&self, what: &'static str, count: u64) {
        *self.inner.lock().counts.entry(what).or_default() += count;
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

    /// A trigger with these numbers was accepted.
    pub fn accept(&self, publisher: usize, serial: u64, numbers: &[(usize, u64)]) {
        let mut inner = self.inner.lock();
        inner.serials[publisher] = serial;
        for (room, number) in numbers {
            inner.accepted[publisher][*room] = *number;
        }
        *inner.counts.entry("triggers accepted").or_default() += 1;
    }

    pub fn accepted(&self) -> Numbers {
        self.inner.lock().accepted
    }

    /// Of each publisher, the last trigger that was accepted.
    pub fn serials(&self) -> [u64; PUBLISHERS] {
        self.inner.lock().serials
    }

    /// From now on publications may be missing, if the server notifies the clients.
    pub fn open_gap(&self, fault: &'static str) -> GapId {
        let now = self.time();
        self.inner.lock().gaps.open(fault, now)
    }

    /// What was accepted between `kept` and `reached` is lost: the server has to notify the clients of these rooms.
    pub fn lose(&self, gap: GapId, kept: &Numbers, reached: &Numbers) {
        let lost = self.inner.lock().gaps.lose(gap, kept, reached);
        self.add("numbers lost with the end of the log", lost);
    }

    pub fn close_gap(&self, gap: GapId) {
        let now = self.time();
        self.inner.lock().gaps.close(gap, now);
    }

    /// Whether a subscription with this last notice may be notified of a gap now, and may miss publications until it is.
    pub fn is_in_gap(&self, last_notice: Option<Duration>) -> bool {
        let now = self.time();
        self.inner.lock().gaps.excuse(last_notice, now)
    }

    /// The fault by which a subscription to `room`, or to all of them, has lost something without any notice since.
    pub fn unnotified(&self, last_notice: Option<Duration>, room: Option<usize>) -> Option<&'static str> {
        self.inner.lock().gaps.unnotified(last_notice, room)
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
            println!("verdict: nothing missing, nothing twice, nothing out of order, every gap notified, and no other");
            return true;
        }
        println!("verdict: {} errors", inner.errors_total);
        for error in &inner.errors {
            println!("{error}");
        }
        false
    }
}
