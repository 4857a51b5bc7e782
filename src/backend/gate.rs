//! How many calls the backend gets at once, who waits for a turn, and who is told to come back later.
//!
//! Behind it stands a breaker: a backend that fails again and again, or asks for a pause, is left alone for a while, and
//! then tried with a single call.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rand::Rng;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{config, metrics::Metrics};

/// Failures in a row after which the backend is left alone, those of one client counted once.
const FAILURES: usize = 10;
/// For how long, the first time; twice as long each time after it, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The shortest and the longest pause that the backend may ask for.
const ASKED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
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

/// What a call says about the backend's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It works.
    Fine,
    /// It does not, and perhaps asks for a pause.
    Failed { pause: Option<Duration> },
    /// It did not for this client, told by a hash, whose own doing it may be.
    FailedFor(u64),
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
    /// Whom calls have failed for since the last one that did not.
    failed_for: HashSet<u64>,
    /// The mean time of a call, in seconds.
    call_seconds: f64,
    /// Until when those who were sent away have been told to come back.
    booked: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Breaker {
    Closed {
        failures: usize,
    },
    /// Nobody gets a turn until then. The next pause after this one.
    Open {
        until: Instant,
        next: Duration,
    },
    /// One call is to show whether the backend is back.
    HalfOpen {
        is_probing: bool,
        next: Duration,
    },
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
        let was_paused = state.is_paused();
        state.finish(self.start, Instant::now(), self.is_probe, self.verdict);
        let (is_paused, until) = (state.is_paused(), state.paused_until());
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
                if patience == Patience::UnlessPaused && state.is_paused() {
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
                let until = self.state.lock().paused_until();
                match until {
                    None => self.has_paused.notified().await,
                    Some(until) => {
                        sleep_until(until).await;
                        let mut state = self.state.lock();
                        state.half_open(Instant::now());
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
        let breaker = Breaker::Closed { failures: 0 };
        let failed_for = HashSet::new();
        Self { limit, queue, running: 0, lines, turns: 0, breaker, failed_for, call_seconds, booked: now }
    }

    /// Whether there is a turn for somebody who comes now, ahead of those who wait with less urgency.
    fn may_go(&mut self, urgency: Urgency) -> bool {
        self.has_turn() && !self.lines[..=urgency as usize].iter().flatten().any(|waiting| !waiting.is_closed())
    }

    fn has_turn(&self) -> bool {
        match self.breaker {
            Breaker::Closed { .. } => self.running < self.limit,
            Breaker::Open { .. } => false,
            Breaker::HalfOpen { is_probing, .. } => !is_probing,
        }
    }

    /// Somebody has a turn. Whether it is a probe.
    fn begin(&mut self) -> bool {
        self.running += 1;
        match &mut self.breaker {
            Breaker::HalfOpen { is_probing, .. } => {
                *is_probing = true;
                true
            }
            _ => false,
        }
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
        let failure = match verdict {
            None | Some(Verdict::Fine) => None,
            Some(Verdict::Failed { pause }) => Some(pause),
            Some(Verdict::FailedFor(client)) => {
                let is_another = self.failed_for.insert(client);
                (is_another || is_probe).then_some(None)
            }
        };
        self.breaker = match (self.breaker, failure) {
            // Of those that began before the pause none counts any more.
            (Breaker::HalfOpen { .. }, _) if !is_probe => self.breaker,
            (Breaker::HalfOpen { next, .. }, None) if verdict.is_none() => {
                Breaker::HalfOpen { is_probing: false, next }
            }
            (Breaker::HalfOpen { .. }, None) => Breaker::Closed { failures: 0 },
            (Breaker::HalfOpen { next, .. }, Some(pause)) => open(now, pause, next),
            (Breaker::Closed { .. }, None) if verdict == Some(Verdict::Fine) => Breaker::Closed { failures: 0 },
            (_, None) => self.breaker,
            (Breaker::Closed { failures }, Some(None)) if failures + 1 < FAILURES => {
                Breaker::Closed { failures: failures + 1 }
            }
            (Breaker::Closed { .. }, Some(pause)) => open(now, pause, PAUSE),
            (Breaker::Open { until, next }, Some(pause)) => {
                let asked = now + pause.unwrap_or_default().min(ASKED.1);
                Breaker::Open { until: until.max(asked), next }
            }
        };
        if self.breaker == (Breaker::Closed { failures: 0 }) {
            self.failed_for.clear();
        }
    }

    fn is_paused(&self) -> bool {
        !matches!(self.breaker, Breaker::Closed { .. })
    }

    fn paused_until(&self) -> Option<Instant> {
        match self.breaker {
            Breaker::Open { until, .. } => Some(until),
            _ => None,
        }
    }

    fn half_open(&mut self, now: Instant) {
        if let Breaker::Open { until, next } = self.breaker
            && until <= now
        {
            self.breaker = Breaker::HalfOpen { is_probing: false, next };
        }
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
        self.is_paused() || waiting >= self.queue || waiting as f64 / self.rate() > timeout.as_secs_f64()
    }

    /// When the pause is over, for somebody who has other reasons to come back at a time of its own.
    fn pause(&self, now: Instant) -> Busy {
        Busy { retry_after: self.paused_until().map_or(Duration::ZERO, |until| until.saturating_duration_since(now)) }
    }

    /// When to come back: one after the other, as fast as the backend answers, and at a time when the line is shorter.
    fn book(&mut self, now: Instant, timeout: Duration) -> Busy {
        let rate = self.rate();
        // Half of the line is kept full, so that the backend is never without work while somebody wants something.
        let line = timeout.as_secs_f64().min(self.queue as f64 / rate) / 2.0;
        let drained = (self.waiting() as f64 / rate - line).max(0.0);
        let free = self.paused_until().map_or(now, |until| until.max(now)) + Duration::from_secs_f64(drained);
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

/// A pause as the backend asks for it, or a random one of up to `usual` that is no shorter than half of that.
fn open(now: Instant, asked: Option<Duration>, usual: Duration) -> Breaker {
    let pause = match asked {
        Some(asked) => asked.clamp(ASKED.0, ASKED.1),
        None => usual.mul_f64(rand::rng().random_range(0.5..1.0)),
    };
    Breaker::Open { until: now + pause, next: (usual * 2).min(LONGEST_PAUSE) }
}

fn random_seconds(range: std::ops::Range<f64>) -> Duration {
    Duration::from_secs_f64(rand::rng().random_range(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(concurrency: usize, queue: usize) -> Arc<Gate> {
        let vars = [
            ("API_URL", "http://api/".to_owned()),
            ("API_CONCURRENCY", concurrency.to_string()),
            ("API_QUEUE", queue.to_string()),
        ];
        let config = config::from_vars(vars.map(|(name, value)| (name.to_owned(), value)).into_iter()).unwrap();
        Arc::new(Gate::new(&config.backend, Arc::default()))
    }

    async fn client(gate: &Gate) -> Turn<'_> {
        gate.turn(Urgency::Client, Patience::Endless).await.unwrap()
    }

    /// Has somebody wait, who then says so; returns when it waits.
    async fn wait(
        gate: &Arc<Gate>,
        urgency: Urgency,
        name: &'static str,
        told: &Arc<Mutex<Vec<&'static str>>>,
    ) -> tokio::task::JoinHandle<()> {
        let (gate, told) = (gate.clone(), told.clone());
        let waiting = tokio::spawn(async move {
            let turn = gate.turn(urgency, Patience::Endless).await.unwrap();
            told.lock().push(name);
            tokio::time::sleep(Duration::from_millis(10)).await;
            turn.end(Verdict::Fine);
        });
        tokio::task::yield_now().await;
        waiting
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_calls_than_the_limit_run_and_the_urgent_ones_go_first_without_starving_the_others() {
        let gate = gate(1, 1000);
        let told = Arc::default();
        let running = client(&gate).await;
        let mut all = Vec::new();
        for name in ["b1", "b2"] {
            all.push(wait(&gate, Urgency::Background, name, &told).await);
        }
        for name in ["c1", "c2", "c3"] {
            all.push(wait(&gate, Urgency::Client, name, &told).await);
        }
        all.push(wait(&gate, Urgency::Urgent, "u1", &told).await);
        assert_eq!((gate.metrics.api_calls.get(), gate.metrics.api_waiting.get()), (1, 6));
        drop(running);
        for waiting in all {
            waiting.await.unwrap();
        }
        assert_eq!(*told.lock(), ["u1", "c1", "c2", "b1", "c3", "b2"]);
        assert_eq!((gate.metrics.api_calls.get(), gate.metrics.api_waiting.get()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_nobody_takes_is_passed_on() {
        let gate = gate(1, 1000);
        let told = Arc::default();
        let running = client(&gate).await;
        let gone = wait(&gate, Urgency::Client, "gone", &told).await;
        let stays = wait(&gate, Urgency::Client, "stays", &told).await;
        drop(running); // the turn has been given to the first one, which has not run since
        gone.abort();
        stays.await.unwrap();
        assert_eq!(*told.lock(), ["stays"]);
        client(&gate).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_patience_is_refused_where_the_line_is_full_and_told_times_that_the_backend_can_follow() {
        let gate = gate(10, 100);
        gate.state.lock().call_seconds = 0.05; // 200 a second
        let _running: Vec<_> = futures::future::join_all((0..10).map(|_| client(&gate))).await;
        let told = Arc::default();
        for _ in 0..100 {
            wait(&gate, Urgency::Client, "", &told).await;
        }
        let mut seconds = Vec::new();
        for _ in 0..10_000 {
            let busy = gate.turn(Urgency::Client, Patience::Short).await.unwrap_err();
            seconds.push(busy.retry_after.as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        assert!(seconds[0] >= 1.0);
        for second in 2..48 {
            let count = seconds.iter().filter(|at| (f64::from(second)..f64::from(second + 1)).contains(*at)).count();
            assert!((150..=250).contains(&count), "{count} come back in second {second}");
        }
        assert!(*seconds.last().unwrap() < 53.0, "{:?}", seconds.last());
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_are_sent_away_nobody_is_told_to_stay_away_for_hours() {
        let gate = gate(1, 1);
        let _running = client(&gate).await;
        let told = Arc::default();
        wait(&gate, Urgency::Client, "", &told).await;
        for _ in 0..100_000 {
            let busy = gate.turn(Urgency::Client, Patience::Short).await.unwrap_err();
            assert!((1.0..=LONGEST_WAIT + 1.0).contains(&busy.retry_after.as_secs_f64()), "{busy:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_fails_is_left_alone_and_then_tried_with_one_call() {
        let gate = gate(4, 100);
        let stop = CancellationToken::new();
        let keeper = gate.clone();
        let stopping = stop.clone();
        let keeping = tokio::spawn(async move { keeper.keep(stopping).await });
        for _ in 0..FAILURES {
            client(&gate).await.end(Verdict::Failed { pause: None });
        }
        assert_eq!(gate.metrics.api_paused.get(), 1);
        assert!(gate.turn(Urgency::Client, Patience::Short).await.is_err());
        for pause in [1, 2, 4] {
            let start = Instant::now();
            let probe = client(&gate).await; // waits
            let waited = start.elapsed().as_secs_f64() / f64::from(pause);
            assert!((0.5..=1.01).contains(&waited), "{waited} of {pause}");
            assert!(gate.turn(Urgency::Client, Patience::Short).await.is_err(), "one call at a time");
            probe.end(Verdict::Failed { pause: None });
        }
        drop(client(&gate).await); // says nothing
        client(&gate).await.end(Verdict::Fine);
        assert_eq!(gate.metrics.api_paused.get(), 0);
        let four = futures::future::join_all((0..4).map(|_| gate.turn(Urgency::Client, Patience::Short))).await;
        assert!(four.iter().all(Result::is_ok));
        stop.cancel();
        keeping.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_does_not_have_the_backend_be_left_alone_and_several_do() {
        let gate = gate(4, 100);
        for _ in 0..10 * FAILURES {
            client(&gate).await.end(Verdict::FailedFor(1));
        }
        assert_eq!(gate.metrics.api_paused.get(), 0);
        for other in 0..FAILURES as u64 {
            client(&gate).await.end(Verdict::FailedFor(other));
        }
        assert_eq!(gate.metrics.api_paused.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_called_before_the_pause_says_nothing_of_what_is_after_it() {
        let gate = gate(4, 100);
        let (keeper, stop) = (gate.clone(), CancellationToken::new());
        let keeping = tokio::spawn(async move { keeper.keep(stop).await });
        let [given_up, late] = [client(&gate).await, client(&gate).await];
        client(&gate).await.end(Verdict::Failed { pause: Some(Duration::from_secs(1)) });
        let probe = client(&gate).await;
        drop(given_up);
        assert!(gate.turn(Urgency::Client, Patience::Short).await.is_err(), "there is a probe already");
        late.end(Verdict::Failed { pause: None });
        probe.end(Verdict::Fine);
        assert_eq!(gate.metrics.api_paused.get(), 0);
        keeping.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn hooks_in_line_are_nothing_that_a_client_has_to_wait_for() {
        let gate = gate(1, 10);
        let running = client(&gate).await;
        let told = Arc::default();
        for _ in 0..1000 {
            wait(&gate, Urgency::Background, "", &told).await;
        }
        let gone = tokio::time::timeout(Duration::from_secs(1), gate.turn(Urgency::Client, Patience::Short)).await;
        assert!(gone.is_err(), "it was sent away");
        drop(running);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_the_backend_asks_for_is_kept_to() {
        let gate = gate(4, 100);
        let (keeper, stop) = (gate.clone(), CancellationToken::new());
        let keeping = tokio::spawn(async move { keeper.keep(stop).await });
        let start = Instant::now();
        let beside = client(&gate).await;
        client(&gate).await.end(Verdict::Failed { pause: Some(Duration::from_secs(7)) });
        beside.end(Verdict::Fine);
        let busy = gate.turn(Urgency::Client, Patience::Short).await.unwrap_err();
        assert!((7.0..9.0).contains(&busy.retry_after.as_secs_f64()), "{busy:?}");
        client(&gate).await.end(Verdict::Fine);
        assert_eq!(start.elapsed().as_secs(), 7);
        keeping.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_want_to_wait_for_the_end_of_a_pause_is_told_when_it_begins() {
        let gate = gate(1, 1000);
        let check = || gate.turn(Urgency::Urgent, Patience::UnlessPaused);
        for _ in 1..FAILURES {
            client(&gate).await.end(Verdict::Failed { pause: None });
        }
        let turn = client(&gate).await;
        let (mut waiting, mut patient) = (Box::pin(check()), Box::pin(client(&gate)));
        assert!(futures::poll!(&mut waiting).is_pending() && futures::poll!(&mut patient).is_pending());
        turn.end(Verdict::Failed { pause: Some(Duration::from_secs(5)) });
        assert_eq!(waiting.await.err(), Some(Busy { retry_after: Duration::from_secs(5) }));
        assert_eq!(check().await.err(), Some(Busy { retry_after: Duration::from_secs(5) }));
        assert!(futures::poll!(&mut patient).is_pending());
        assert_eq!(gate.metrics.api_waiting.get(), 1);
    }
}
