//! How many calls the backend gets at once, which call has the next turn, and which client is told to come back later.
//!
//! Behind it stands a [`Breaker`]. What a client brings about has bounds of its own: [`Slots`] and the [`Line`] are shared out
//! between accounts ([`Caller`]), [`Bookings`] of one do not push those of another, and no outcome of a client's call opens the
//! breaker.

mod bookings;
mod breaker;
mod line;
mod slots;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout_at},
};
use tracing::{info, warn};

pub(super) use breaker::Verdict;
pub(super) use line::CallId;

use self::{bookings::Bookings, breaker::Breaker, line::Line, slots::Slots};
use super::Caller;
use crate::{config, metrics::Metrics};

/// One turn of so many goes to the least urgent of those who wait.
const TURNS: u32 = 4;
/// Time that a call is taken to last before any has been seen.
const FIRST_GUESS: Duration = Duration::from_millis(50);
/// Weight of a call's time in the mean, shared by the calls that its account has under way: an account whose calls are slow
/// counts as one, however many it makes.
const WEIGHT: f64 = 0.05;

/// Who goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Urgency {
    /// A client's permissions have changed.
    Urgent,
    /// A client waits.
    Client,
    /// No client waits.
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

/// A call that wants a turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// Made by [`Gate::number`].
    pub(super) call: CallId,
    pub(super) caller: Caller,
    pub(super) urgency: Urgency,
    pub(super) patience: Patience,
}

/// Lets a bounded number of calls through.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// Number of the next call.
    next: AtomicU64,
    /// A probe may be due earlier than before.
    needs_look: Notify,
    /// The backend is being left alone from now on, for those in line who do not want to wait for the end of it.
    pauses: Notify,
    queue_timeout: Duration,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    slots: Slots,
    queue: usize,
    /// By urgency.
    lines: [Line; 3],
    /// Those who wait in one of the lines.
    waiting: HashMap<CallId, oneshot::Sender<Grant>>,
    /// Counts the turns given to those who waited.
    turns: u32,
    breaker: Breaker,
    /// The mean time of a call, in seconds.
    call_seconds: f64,
    bookings: Bookings,
}

/// A slot for a call.
#[derive(Debug, Clone, Copy)]
struct Grant {
    /// The account on which it is taken: perhaps another one that waits for the same call.
    caller: Caller,
    /// It is the one call that is let through while the backend is being left alone.
    is_trial: bool,
}

/// A turn. Given back when dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    gate: &'a Gate,
    start: Instant,
    grant: Grant,
    verdict: Option<Verdict>,
}

impl Turn<'_> {
    /// Notes that the call is over.
    pub(super) fn end(mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.gate.metrics.api_calls.dec();
        let now = Instant::now();
        self.gate.change(|state| state.finish(self.start, now, self.grant, self.verdict));
    }
}

/// A request of our own, to see whether the backend works. Takes no slot. Over when dropped.
#[derive(Debug)]
pub(super) struct Probe<'a> {
    gate: &'a Gate,
    verdict: Option<Verdict>,
}

impl Probe<'_> {
    /// Notes what came of it.
    pub(super) fn end(mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.gate.change(|state| state.breaker.end_probe(Instant::now(), self.verdict));
    }
}

impl Gate {
    pub(super) fn new(config: &config::Backend, metrics: Arc<Metrics>) -> Self {
        Self {
            state: Mutex::new(State::new(config.concurrency, config.queue, Instant::now())),
            next: AtomicU64::new(0),
            needs_look: Notify::new(),
            pauses: Notify::new(),
            queue_timeout: config.queue_timeout,
            metrics,
        }
    }

    /// Returns a number for a call, by which others can [`join`](Self::join) it.
    pub(super) fn number(&self) -> CallId {
        self.next.fetch_add(1, Relaxed)
    }

    /// Has a call that waits go on the turn of `caller`, too, if that comes earlier.
    pub(super) fn join(&self, call: CallId, caller: Caller, urgency: Urgency) {
        let mut state = self.state.lock();
        state.lines[urgency as usize].join(call, caller);
        state.give_turns(); // its account may have a slot where the other one has none
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// When there is none in time.
    pub(super) async fn turn(&self, request: Request) -> Result<Turn<'_>, Busy> {
        let Request { call, caller, urgency, patience } = request;
        let (turn, pause) = {
            let mut state = self.state.lock();
            if state.has_turn_for(caller) {
                // Whoever waits may not have it: turns are given as soon as there are any.
                let grant = state.begin(caller);
                return Ok(self.begin(grant));
            }
            let now = Instant::now();
            if patience == Patience::Short && state.is_hopeless(caller, self.queue_timeout) {
                return Err(state.book(caller, now, self.queue_timeout));
            }
            if patience == Patience::UnlessPaused && state.breaker.is_paused() {
                return Err(state.pause(now));
            }
            (state.enqueue(call, caller, urgency), self.pauses.notified())
        };
        let _counted = Waiting::count(&self.metrics);
        let mut place = Place { gate: self, call, urgency, turn };
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
        if let Some(Ok(grant)) = given {
            return Ok(self.begin(grant));
        }
        drop(place);
        let (mut state, now) = (self.state.lock(), Instant::now());
        Err(match patience {
            Patience::UnlessPaused => state.pause(now),
            _ => state.book(caller, now, self.queue_timeout),
        })
    }

    fn begin(&self, grant: Grant) -> Turn<'_> {
        self.metrics.api_calls.inc();
        Turn { gate: self, start: Instant::now(), grant, verdict: None }
    }

    /// Waits until the backend is to be probed.
    pub(super) async fn probe(&self) -> Probe<'_> {
        loop {
            let due = {
                let breaker = &mut self.state.lock().breaker;
                let due = breaker.probe_due();
                let now = Instant::now();
                if due.is_some_and(|due| due <= now) {
                    breaker.begin_probe(now);
                    return Probe { gate: self, verdict: None };
                }
                due
            };
            tokio::select! {
                () = self.needs_look.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// Does `work` on the state, gives the turns that there are then, and tells of a pause that begins or ends.
    fn change(&self, work: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        let was_paused = state.breaker.is_paused();
        work(&mut state);
        state.give_turns();
        let is_paused = state.breaker.is_paused();
        let needs_look = state.breaker.probe_due().is_some();
        drop(state);
        if needs_look {
            self.needs_look.notify_one();
        }
        match (was_paused, is_paused) {
            (false, true) => {
                self.metrics.api_paused.set(1);
                self.metrics.api_pauses.inc();
                self.pauses.notify_waiters();
                warn!(
                    "the API fails for the server's own request, too, and is left alone for a while: see the API's log"
                );
            }
            (true, false) => {
                self.metrics.api_paused.set(0);
                info!("the API works again");
            }
            _ => {}
        }
    }
}

/// A place in a line. A turn that is given when nobody waits there any more is passed on.
struct Place<'a> {
    gate: &'a Gate,
    call: CallId,
    urgency: Urgency,
    turn: oneshot::Receiver<Grant>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock(); // under which turns are given
        if state.waiting.remove(&self.call).is_some() {
            state.lines[self.urgency as usize].remove(self.call);
        } else if let Ok(grant) = self.turn.try_recv() {
            let now = Instant::now();
            state.finish(now, now, grant, None);
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
        Self {
            slots: Slots::new(limit),
            queue,
            lines: Default::default(),
            waiting: HashMap::new(),
            turns: 0,
            breaker: Breaker::new(now),
            call_seconds: FIRST_GUESS.as_secs_f64(),
            bookings: Bookings::new(now),
        }
    }

    fn has_turn_for(&self, caller: Caller) -> bool {
        self.breaker.may_call(caller) && self.slots.has_one_for(caller)
    }

    /// Takes a slot for a call of `caller`.
    fn begin(&mut self, caller: Caller) -> Grant {
        self.slots.take(caller);
        Grant { caller, is_trial: self.breaker.begin() }
    }

    fn enqueue(&mut self, call: CallId, caller: Caller, urgency: Urgency) -> oneshot::Receiver<Grant> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(call, sender);
        self.lines[urgency as usize].push(call, caller);
        receiver
    }

    /// Gives those who wait the turns there are.
    fn give_turns(&mut self) {
        while self.breaker.may_any_call() && !self.slots.is_full() {
            let Some((caller, sender)) = self.next() else { return };
            let grant = self.begin(caller);
            if sender.send(grant).is_err() {
                let now = Instant::now();
                self.finish(now, now, grant, None);
            }
        }
    }

    fn next(&mut self) -> Option<(Caller, oneshot::Sender<Grant>)> {
        let turn = self.turns.wrapping_add(1);
        let mut order = [0, 1, 2];
        if turn.is_multiple_of(TURNS) {
            order.reverse();
        }
        let Self { lines, slots, breaker, .. } = self;
        let may_go = |caller| slots.has_one_for(caller) && breaker.may_call(caller);
        let (call, caller) = order.into_iter().find_map(|line| lines[line].pop(may_go))?;
        self.turns = turn;
        Some((caller, self.waiting.remove(&call)?))
    }

    /// Notes that a call which began at `start` is over; without a verdict it says nothing of the backend.
    fn finish(&mut self, start: Instant, now: Instant, grant: Grant, verdict: Option<Verdict>) {
        if verdict.is_some() {
            let weight = WEIGHT / self.slots.running_for(grant.caller).max(1) as f64;
            self.call_seconds += weight * ((now - start).as_secs_f64() - self.call_seconds);
        }
        self.slots.give_back(grant.caller);
        self.breaker.note(now, grant.caller, grant.is_trial, verdict);
    }

    /// Calls a second, as long as all slots are taken (Little's law).
    fn rate(&self) -> f64 {
        self.slots.limit() as f64 / self.call_seconds.max(1e-4)
    }

    /// Those who wait where a client would, and have their turn before one of `caller`'s.
    fn ahead_of(&self, caller: Caller) -> usize {
        self.lines[Urgency::Urgent as usize].len() + self.lines[Urgency::Client as usize].ahead_of(caller)
    }

    /// Whether a client of `caller` that comes now would most likely wait for nothing.
    fn is_hopeless(&self, caller: Caller, timeout: Duration) -> bool {
        let ahead = self.ahead_of(caller);
        self.breaker.is_paused() || ahead >= self.queue || ahead as f64 / self.rate() > timeout.as_secs_f64()
    }

    /// When the pause is over, for a caller that has other reasons to come back at a time of its own.
    fn pause(&self, now: Instant) -> Busy {
        let until = self.breaker.paused_until();
        Busy { retry_after: until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now)) }
    }

    /// When to come back: one after the other, as fast as the backend answers, and at a time when the line is shorter.
    fn book(&mut self, caller: Caller, now: Instant, timeout: Duration) -> Busy {
        let rate = self.rate();
        // Half of the line is kept full, so that the backend is never without work while a client waits for it.
        let line = timeout.as_secs_f64().min(self.queue as f64 / rate) / 2.0;
        let drained = (self.ahead_of(caller) as f64 / rate - line).max(0.0);
        let free = self.breaker.paused_until().map_or(now, |until| until.max(now)) + Duration::from_secs_f64(drained);
        self.bookings.book(caller, now, free, Duration::from_secs_f64(1.0 / rate))
    }
}

#[cfg(test)]
mod tests;
