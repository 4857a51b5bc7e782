//! How many calls the backend gets at once, who waits for a turn, and who is told to come back later.
//!
//! Behind it stands a [`Breaker`].

mod breaker;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::Rng;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(super) use breaker::Verdict;

use self::breaker::Breaker;
use crate::{config, metrics::Metrics};

/// One turn of so many goes to those who wait with the least urgency.
const TURNS: u32 = 4;
/// What a call is taken to last before any has been seen.
const FIRST_GUESS: Duration = Duration::from_millis(50);
/// The part of a call's time in the mean.
const WEIGHT: f64 = 0.05;
/// The shortest and the longest time, the latter in seconds, after which somebody is told to come back.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: f64 = 300.0;

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Urgency {
    /// Somebody's permissions have changed.
    Urgent,
    /// A client waits.
    Client,
    /// Nobody does.
    Background,
}

/// How long to wait for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// `API_QUEUE_TIMEOUT`, and not at all where the line is longer than that or the backend is being left alone.
    Short,
    /// Until then, whatever happens.
    Until(Instant),
    /// For ever, though not while the backend is being left alone: that is to be known at once.
    UnlessPaused,
    /// For ever.
    Endless,
}

/// No turn: come back later.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Busy {
    pub(super) retry_after: Duration,
}

/// Lets a bounded number of calls through.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// The backend is being left alone from now on.
    has_paused: Notify,
    /// The same, for those in line who do not want to wait for the end of it.
    pauses: Notify,
    queue_timeout: Duration,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    queue: usize,
    running: usize,
    /// By urgency.
    lines: [VecDeque<oneshot::Sender<bool>>; 3],
    /// Counts the turns given to those who waited.
    turns: u32,
    breaker: Breaker,
    /// The mean time of a call, in seconds.
    call_seconds: f64,
    /// Until when those who were sent away have been told to come back.
    booked: Instant,
}

/// A turn. Given back when dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    gate: &'a Gate,
    start: Instant,
    /// It is the one call that is to show whether the backend is back.
    is_probe: bool,
    verdict: Option<Verdict>,
}

impl Turn<'_> {
    /// The call is over.
    pub(super) fn end(mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock();
        let was_paused = state.breaker.is_paused();
        state.finish(self.start, Instant::now(), self.is_probe, self.verdict);
        let (is_paused, until) = (state.breaker.is_paused(), state.breaker.paused_until());
        state.give_turns();
        drop(state);
        let metrics = &self.gate.metrics;
        metrics.api_calls.dec();
        if until.is_some() {
            self.gate.has_paused.notify_one();
        }
        match (was_paused, is_paused) {
            (false, true) => {
                metrics.api_paused.set(1);
                metrics.api_pauses.inc();
                self.gate.pauses.notify_waiters();
                warn!("the API fails or asks for a pause: it is left alone for a while");
            }
            (true, false) => {
                metrics.api_paused.set(0);
                info!("the API works again");
            }
            _ => {}
        }
    }
}

impl Gate {
    pub(super) fn new(config: &config::Backend, metrics: Arc<Metrics>) -> Self {
        let state = Mutex::new(State::new(config.concurrency, config.queue, Instant::now()));
        Self { state, has_paused: Notify::new(), pauses: Notify::new(), queue_timeout: config.queue_timeout, metrics }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// When there is none in time.
    pub(super) async fn turn(&self, urgency: Urgency, patience: Patience) -> Result<Turn<'_>, Busy> {
        let mut is_probe = false;
        let waiting = {
            let mut state = self.state.lock();
            if state.may_go(urgency) {
                is_probe = state.begin();
                None
            } else {
                let now = Instant::now();
                if patience == Patience::Short && state.is_hopeless(self.queue_timeout) {
                    return Err(state.book(now, self.queue_timeout));
                }
                if patience == Patience::UnlessPaused && state.breaker.is_paused() {
                    return Err(state.pause(now));
                }
                let (sender, receiver) = oneshot::channel();
                state.lines[urgency as usize].push_back(sender);
                Some((receiver, self.pauses.notified()))
            }
        };
        if let Some((turn, pause)) = waiting {
            let _counted = Waiting::count(&self.metrics);
            let mut place = Place { gate: self, turn };
            let turn = &mut place.turn;
            let given = match patience {
                Patience::Short => timeout_at(Instant::now() + self.queue_timeout, turn).await.ok(),
                Patience::Until(deadline) => timeout_at(deadline, turn).await.ok(),
                Patience::UnlessPaused => tokio::select! {
                    biased;
                    turn = turn => Some(turn),
                    () = pause => None,
                },
                Patience::Endless => Some(turn.await),
            };
            if let Some(Ok(given)) = given {
                is_probe = given;
            } else {
                drop(place);
                let (mut state, now) = (self.state.lock(), Instant::now());
                return Err(match patience {
                    Patience::UnlessPaused => state.pause(now),
                    _ => state.book(now, self.queue_timeout),
                });
            }
        }
        self.metrics.api_calls.inc();
        Ok(Turn { gate: self, start: Instant::now(), is_probe, verdict: None })
    }

    /// Tries the backend again when it has been left alone for long enough, until `stop`.
    pub(super) async fn keep(&self, stop: CancellationToken) {
        let keeping = async {
            loop {
                let until = self.state.lock().breaker.paused_until();
                match until {
                    None => self.has_paused.notified().await,
                    Some(until) => {
                        sleep_until(until).await;
                        let mut state = self.state.lock();
                        state.breaker.half_open(Instant::now());
                        state.give_turns();
                    }
                }
            }
        };
        stop.run_until_cancelled(keeping).await;
    }
}

/// A place in the line. A turn that comes when nobody waits there any more is passed on.
struct Place<'a> {
    gate: &'a Gate,
    turn: oneshot::Receiver<bool>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock(); // under which turns are given
        self.turn.close();
        if let Ok(is_probe) = self.turn.try_recv() {
            let now = Instant::now();
            state.finish(now, now, is_probe, None);
            state.give_turns();
        }
    }
}

struct Waiting<'a>(&'a Metrics);

impl<'a> Waiting<'a> {
    fn count(metrics: &'a Metrics) -> Self {
        metrics.api_waiting.inc();
        Self(metrics)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.api_waiting.dec();
    }
}

impl State {
    fn new(limit: usize, queue: usize, now: Instant) -> Self {
        let (lines, call_seconds) = (Default::default(), FIRST_GUESS.as_secs_f64());
        Self { limit, queue, running: 0, lines, turns: 0, breaker: Breaker::default(), call_seconds, booked: now }
    }

    /// Whether there is a turn for somebody who comes now, ahead of those who wait with less urgency.
    fn may_go(&mut self, urgency: Urgency) -> bool {
        self.has_turn() && !self.lines[..=urgency as usize].iter().flatten().any(|waiting| !waiting.is_closed())
    }

    fn has_turn(&self) -> bool {
        self.running < self.limit && self.breaker.may_call()
    }

    /// Somebody has a turn. Whether it is a probe.
    fn begin(&mut self) -> bool {
        self.running += 1;
        self.breaker.begin()
    }

    /// Gives those who wait the turns there are.
    fn give_turns(&mut self) {
        while self.has_turn() {
            let Some(next) = self.next() else { return };
            let is_probe = self.begin();
            if next.send(is_probe).is_err() {
                let now = Instant::now();
                self.finish(now, now, is_probe, None);
            }
        }
    }

    fn next(&mut self) -> Option<oneshot::Sender<bool>> {
        self.turns = self.turns.wrapping_add(1);
        let mut order = [0, 1, 2];
        if self.turns.is_multiple_of(TURNS) {
            order.reverse();
        }
        let line = order.into_iter().find(|line| !self.lines[*line].is_empty())?;
        self.lines[line].pop_front()
    }

    /// A call that began at `start` is over; without a verdict it says nothing of the backend.
    fn finish(&mut self, start: Instant, now: Instant, is_probe: bool, verdict: Option<Verdict>) {
        self.running -= 1;
        if verdict.is_some() {
            self.call_seconds += WEIGHT * ((now - start).as_secs_f64() - self.call_seconds);
        }
        self.breaker.note(now, is_probe, verdict);
    }

    /// Those who wait where a client would.
    fn waiting(&mut self) -> usize {
        let waiting = |state: &Self| state.lines[..=Urgency::Client as usize].iter().map(VecDeque::len).sum();
        if waiting(self) >= self.queue {
            // Not those who have given up.
            self.lines.iter_mut().for_each(|line| line.retain(|waiting| !waiting.is_closed()));
        }
        waiting(self)
    }

    /// Calls a second, as long as all turns are taken (Little's law).
    fn rate(&self) -> f64 {
        self.limit as f64 / self.call_seconds.max(1e-4)
    }

    /// Whether somebody who comes now would most likely wait for nothing.
    fn is_hopeless(&mut self, timeout: Duration) -> bool {
        let waiting = self.waiting();
        self.breaker.is_paused() || waiting >= self.queue || waiting as f64 / self.rate() > timeout.as_secs_f64()
    }

    /// When the pause is over, for somebody who has other reasons to come back at a time of its own.
    fn pause(&self, now: Instant) -> Busy {
        Busy {
            retry_after: self
                .breaker
                .paused_until()
                .map_or(Duration::ZERO, |until| until.saturating_duration_since(now)),
        }
    }

    /// When to come back: one after the other, as fast as the backend answers, and at a time when the line is shorter.
    fn book(&mut self, now: Instant, timeout: Duration) -> Busy {
        let rate = self.rate();
        // Half of the line is kept full, so that the backend is never without work while somebody wants something.
        let line = timeout.as_secs_f64().min(self.queue as f64 / rate) / 2.0;
        let drained = (self.waiting() as f64 / rate - line).max(0.0);
        let free = self.breaker.paused_until().map_or(now, |until| until.max(now)) + Duration::from_secs_f64(drained);
        let booked = self.booked.max(free) + Duration::from_secs_f64(1.0 / rate);
        let seconds = (booked - now).as_secs_f64();
        if seconds > LONGEST_WAIT {
            // Somebody comes again and again, or there are very many: they will be told anew.
            return Busy { retry_after: random_seconds(LONGEST_WAIT / 2.0..LONGEST_WAIT) };
        }
        self.booked = booked;
        Busy { retry_after: random_seconds(seconds..seconds + 1.0).max(SHORTEST_WAIT) }
    }
}

fn random_seconds(range: std::ops::Range<f64>) -> Duration {
    Duration::from_secs_f64(rand::rng().random_range(range))
}

#[cfg(test)]
mod tests;
