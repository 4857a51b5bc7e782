//! Decides whether the API is asked at all. Pure: the clock is passed in.
//!
//! A client chooses the headers that are forwarded for it, and with them what its own requests come to: a cookie that is too
//! large for the API's server breaks its connection, a slow query times out. So the outcome of a client's call is never proof
//! that the API fails. It is only a reason to look: after [`FAILURES`] of them in a row the gate sends a request of its own, the
//! *probe*, which carries nothing that a client chose. The API is left alone if the probe fails, too, and no call has succeeded
//! meanwhile. At the end of each pause the next probe decides whether it goes on.
//!
//! An API may break for a request without cookies although it serves its clients. To notice that, one call of a client, the
//! *trial*, is let through in each pause that follows a failed probe; if it succeeds, the pause is over, and if it fails, nothing
//! follows.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

/// Failed calls in a row after which the API is probed.
pub(super) const FAILURES: usize = 10;
/// Shortest time between two probes while the API is not left alone: clients whose calls fail cannot have it asked more often.
pub(super) const PROBE_GAP: Duration = Duration::from_secs(1);
/// First pause; each one after it is twice as long, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Shortest and longest pause that the API may ask for.
const ASKED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// What a call says about the API's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Verdict {
    /// It works.
    Fine,
    /// It does not, as far as this call can tell, and perhaps asks for a pause.
    Failed { pause: Option<Duration> },
    /// The call was made, and tells nothing.
    Unclear,
}

/// Opens when the API fails.
#[derive(Debug)]
pub(super) struct Breaker {
    stage: Stage,
    is_probing: bool,
    /// When the API may be probed again that is not left alone.
    probe_from: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    /// Calls go through; so many have failed since the last one that did not.
    Closed { failures: usize },
    /// No call goes through, except for the trial, until a probe has succeeded.
    Open {
        /// When the next probe is due.
        until: Instant,
        /// How long the next pause lasts.
        next: Duration,
        /// Whether a client's call may go through as the trial.
        has_trial: bool,
    },
}

impl Breaker {
    pub(super) fn new(now: Instant) -> Self {
        Self { stage: Stage::Closed { failures: 0 }, is_probing: false, probe_from: now }
    }

    /// Returns whether a client's call may begin.
    pub(super) fn may_call(&self) -> bool {
        match self.stage {
            Stage::Closed { .. } => true,
            Stage::Open { has_trial, .. } => has_trial,
        }
    }

    /// Notes that a client's call begins; returns whether it is the trial.
    pub(super) fn begin(&mut self) -> bool {
        match &mut self.stage {
            Stage::Open { has_trial, .. } => std::mem::take(has_trial),
            Stage::Closed { .. } => false,
        }
    }

    /// Notes that a client's call is over. Without a verdict it was given up: another one may be the trial.
    pub(super) fn note(&mut self, is_trial: bool, verdict: Option<Verdict>) {
        match (&mut self.stage, verdict) {
            (Stage::Closed { failures }, Some(Verdict::Fine)) => *failures = 0,
            (Stage::Closed { failures }, Some(Verdict::Failed { pause: None })) => {
                *failures = failures.saturating_add(1)
            }
            // Asked for a pause, it is worth a look at once.
            (Stage::Closed { failures }, Some(Verdict::Failed { pause: Some(_) })) => *failures = FAILURES,
            (Stage::Open { .. }, Some(Verdict::Fine)) if is_trial => self.stage = Stage::Closed { failures: 0 },
            (Stage::Open { has_trial, .. }, None) if is_trial => *has_trial = true,
            // Calls that began before the pause say nothing about what is after it.
            (Stage::Open { .. }, _) | (Stage::Closed { .. }, Some(Verdict::Unclear) | None) => {}
        }
    }

    /// Returns when the next probe is due, if one is.
    pub(super) fn probe_due(&self) -> Option<Instant> {
        match self.stage {
            _ if self.is_probing => None,
            Stage::Closed { failures } if failures < FAILURES => None,
            Stage::Closed { .. } => Some(self.probe_from),
            Stage::Open { until, .. } => Some(until),
        }
    }

    /// Notes that a probe begins.
    pub(super) fn begin_probe(&mut self) {
        self.is_probing = true;
    }

    /// Notes that the probe is over; without a verdict it was given up.
    pub(super) fn end_probe(&mut self, now: Instant, verdict: Option<Verdict>) {
        self.is_probing = false;
        self.probe_from = now + PROBE_GAP;
        self.stage = match (self.stage, verdict) {
            (stage, Some(Verdict::Unclear) | None) => stage,
            (_, Some(Verdict::Fine)) => Stage::Closed { failures: 0 },
            (Stage::Closed { failures }, Some(Verdict::Failed { pause })) if failures >= FAILURES => {
                open(now, pause, PAUSE, false)
            }
            // A client's call has succeeded meanwhile.
            (stage @ Stage::Closed { .. }, Some(Verdict::Failed { .. })) => stage,
            (Stage::Open { next, .. }, Some(Verdict::Failed { pause })) => open(now, pause, next, true),
        };
    }

    /// Returns whether the API is being left alone.
    pub(super) fn is_paused(&self) -> bool {
        matches!(self.stage, Stage::Open { .. })
    }

    /// Returns until when the API is left alone at least.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Open { until, .. } => Some(until),
            Stage::Closed { .. } => None,
        }
    }
}

/// Opens for as long as the API asks for, or else for a random time between half of `usual` and all of it.
fn open(now: Instant, asked: Option<Duration>, usual: Duration, has_trial: bool) -> Stage {
    let pause = match asked {
        Some(asked) => asked.clamp(ASKED.0, ASKED.1),
        None => usual.mul_f64(rand::rng().random_range(0.5..1.0)),
    };
    Stage::Open { until: now + pause, next: (usual * 2).min(LONGEST_PAUSE), has_trial }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAILED: Verdict = Verdict::Failed { pause: None };

    /// What a stranger can bring about: any outcome of its own calls, whenever it wants.
    #[derive(Debug, Clone)]
    enum Step {
        Stranger(Option<Verdict>),
        /// A call of a client that has nothing to do with it.
        Other,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let pause = prop::option::of((0..100_000_u64).prop_map(Duration::from_secs));
        let verdict = prop_oneof![1 => Just(Verdict::Fine), 4 => pause.prop_map(|pause| Verdict::Failed { pause })];
        prop_oneof![
            8 => prop::option::of(verdict).prop_map(Step::Stranger),
            1 => Just(Step::Other),
            1 => (0..5000_u64).prop_map(Step::Wait),
        ]
    }

    /// Probes if one is due, and returns how often since the beginning.
    fn look(breaker: &mut Breaker, now: Instant, verdict: Verdict, probes: &mut usize) {
        if breaker.probe_due().is_some_and(|due| due <= now) {
            breaker.begin_probe();
            breaker.end_probe(now, Some(verdict));
            *probes += 1;
        }
    }

    fn call(breaker: &mut Breaker, verdict: Option<Verdict>) -> bool {
        let may_call = breaker.may_call();
        if may_call {
            let is_trial = breaker.begin();
            breaker.note(is_trial, verdict);
        }
        may_call
    }

    proptest! {
        #[test]
        fn no_outcomes_that_a_stranger_chooses_ever_stop_the_calls_of_others(
            steps in prop::collection::vec(step(), 0..400)
        ) {
            let start = Instant::now();
            let (mut breaker, mut now, mut probes) = (Breaker::new(start), start, 0);
            for step in steps {
                match step {
                    Step::Stranger(verdict) => _ = call(&mut breaker, verdict),
                    Step::Other => prop_assert!(call(&mut breaker, Some(Verdict::Fine))),
                    Step::Wait(millis) => now += Duration::from_millis(millis),
                }
                look(&mut breaker, now, Verdict::Fine, &mut probes);
                prop_assert!(!breaker.is_paused());
            }
            // Nor do they have the API be probed without end.
            prop_assert!(probes as f64 <= 1.0 + (now - start).as_secs_f64() / PROBE_GAP.as_secs_f64());
        }

        #[test]
        fn an_api_that_fails_is_left_alone_whatever_a_stranger_does_and_asked_again_when_it_is_back(
            steps in prop::collection::vec(step(), 0..400)
        ) {
            let (mut now, mut probes, mut calls) = (Instant::now(), 0, 0);
            let mut breaker = Breaker::new(now);
            for step in steps {
                match step {
                    // Down, it has no success for anybody.
                    Step::Stranger(verdict) => {
                        let verdict = verdict.map(|verdict| if verdict == Verdict::Fine { FAILED } else { verdict });
                        calls += usize::from(call(&mut breaker, verdict) && verdict.is_some());
                    }
                    Step::Other => calls += usize::from(call(&mut breaker, Some(FAILED))),
                    Step::Wait(millis) => now += Duration::from_millis(millis),
                }
                look(&mut breaker, now, FAILED, &mut probes);
                // Ten calls until the first look, and one trial after each of the others.
                prop_assert!(calls <= FAILURES + probes.saturating_sub(1), "{calls} calls, {probes} probes");
                prop_assert!(calls < FAILURES || breaker.is_paused());
            }
            if breaker.is_paused() {
                now += LONGEST_PAUSE;
                look(&mut breaker, now, Verdict::Fine, &mut probes);
                prop_assert!(!breaker.is_paused(), "a success of ours ends it");
            }
        }

        #[test]
        fn an_api_that_breaks_for_requests_without_cookies_is_asked_again_by_a_clients_success(
            strangers in prop::collection::vec(any::<bool>(), 1..40)
        ) {
            let (mut now, mut probes) = (Instant::now(), 0);
            let mut breaker = Breaker::new(now);
            (0..FAILURES).for_each(|_| _ = call(&mut breaker, Some(FAILED)));
            look(&mut breaker, now, FAILED, &mut probes);
            for is_stranger in strangers {
                prop_assert!(breaker.is_paused());
                now += LONGEST_PAUSE;
                look(&mut breaker, now, FAILED, &mut probes);
                prop_assert!(call(&mut breaker, None), "one that says nothing does not use the trial up");
                let verdict = if is_stranger { FAILED } else { Verdict::Fine };
                prop_assert!(call(&mut breaker, Some(verdict)));
                if !is_stranger {
                    prop_assert!(!breaker.is_paused());
                    return Ok(());
                }
                prop_assert!(!call(&mut breaker, Some(Verdict::Fine)), "one trial in a pause");
            }
        }
    }

    #[test]
    fn a_trial_that_tells_nothing_is_the_only_one_in_its_pause() {
        let mut now = Instant::now();
        let mut breaker = Breaker::new(now);
        (0..FAILURES).for_each(|_| _ = call(&mut breaker, Some(FAILED)));
        for has_trial in [false, true] {
            breaker.begin_probe();
            breaker.end_probe(now, Some(FAILED));
            assert_eq!(breaker.may_call(), has_trial);
            now += LONGEST_PAUSE;
        }
        assert!(call(&mut breaker, Some(Verdict::Unclear)));
        assert!(breaker.is_paused() && !breaker.may_call());
    }

    #[test]
    fn a_success_while_the_probe_is_under_way_outweighs_its_failure() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        (0..FAILURES).for_each(|_| _ = call(&mut breaker, Some(FAILED)));
        breaker.begin_probe();
        assert!(call(&mut breaker, Some(Verdict::Fine)));
        breaker.end_probe(now, Some(FAILED));
        assert!(!breaker.is_paused());
        (0..FAILURES).for_each(|_| _ = call(&mut breaker, Some(FAILED)));
        assert_eq!(breaker.probe_due(), Some(now + PROBE_GAP));
    }

    #[test]
    fn a_pause_is_as_long_as_the_probe_is_told_and_not_as_a_client_is() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        call(&mut breaker, Some(Verdict::Failed { pause: Some(Duration::from_secs(500)) }));
        breaker.begin_probe();
        breaker.end_probe(now, Some(Verdict::Failed { pause: Some(Duration::from_secs(7)) }));
        assert_eq!(breaker.paused_until(), Some(now + Duration::from_secs(7)));
    }
}
