//! Decides whether the API is asked at all. Pure: the clock is passed in.
//!
//! A client chooses the headers that are forwarded for it, and with them what its own requests come to: a cookie that is too
//! large for the API's server breaks its connection, a slow query times out. So the outcome of a client's call is never proof
//! that the API fails. It is only a reason to look: after [`FAILURES`] of them in a row the gate sends a request of its own, the
//! *probe*, which carries nothing that a client chose. The API is left alone if the probe fails, too, unless a call has succeeded
//! since the probe began or within [`RECENT`] before its end. At the end of each pause the next probe decides whether it goes on.
//!
//! An API may break for a request without cookies although it serves its clients. To notice that, one call of a client, the
//! *trial*, is let through in each pause, but for a first one that the API itself asks for; if it succeeds, the pause is over, and if it fails, nothing follows. The trial is for
//! accounts other than those whose calls failed last, so that they cannot use it up. If none of the others has taken it, the
//! next pause's is for anybody: perhaps there are no others. A client that makes up accounts is not kept from the trial.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

use super::Caller;

/// Failed calls in a row after which the API is probed.
pub(super) const FAILURES: usize = 10;
/// Shortest time between two probes while the API is not left alone: clients whose calls fail cannot have it asked more often.
pub(super) const PROBE_GAP: Duration = Duration::from_secs(1);
/// A success of a client is worth more than a failed probe for so long.
const RECENT: Duration = Duration::from_secs(1);
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
    /// When the probe began that is under way.
    probing_since: Option<Instant>,
    /// When a client's call last succeeded while the API was not left alone, or ended a pause.
    succeeded: Option<Instant>,
    /// Accounts whose calls failed last, oldest first; at most [`FAILURES`].
    failed: Vec<Caller>,
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
        /// Accounts of which a call may go through as the trial.
        trial: Trial,
    },
}

/// Accounts of which a call may be the trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trial {
    /// Accounts whose calls have not failed.
    Others,
    Anybody,
    /// It has begun.
    Nobody,
}

impl Breaker {
    pub(super) fn new(now: Instant) -> Self {
        let stage = Stage::Closed { failures: 0 };
        Self { stage, probing_since: None, succeeded: None, failed: Vec::new(), probe_from: now }
    }

    /// Returns whether a call of some client may begin.
    pub(super) fn may_any_call(&self) -> bool {
        !matches!(self.stage, Stage::Open { trial: Trial::Nobody, .. })
    }

    /// Returns whether a call of `caller` may begin.
    pub(super) fn may_call(&self, caller: Caller) -> bool {
        match self.stage {
            Stage::Closed { .. } | Stage::Open { trial: Trial::Anybody, .. } => true,
            Stage::Open { trial: Trial::Others, .. } => !self.failed.contains(&caller),
            Stage::Open { trial: Trial::Nobody, .. } => false,
        }
    }

    /// Notes that a client's call begins; returns whether it is the trial.
    pub(super) fn begin(&mut self) -> bool {
        match &mut self.stage {
            Stage::Open { trial, .. } => std::mem::replace(trial, Trial::Nobody) != Trial::Nobody,
            Stage::Closed { .. } => false,
        }
    }

    /// Notes that a call of `caller` is over. Without a verdict it was given up: another one may be the trial.
    pub(super) fn note(&mut self, now: Instant, caller: Caller, is_trial: bool, verdict: Option<Verdict>) {
        // Calls that began before a pause say nothing about what is after it.
        if !is_trial && self.is_paused() {
            return;
        }
        match verdict {
            Some(Verdict::Fine) => {
                self.failed.retain(|failed| *failed != caller);
                self.succeeded = Some(now);
            }
            Some(Verdict::Failed { .. }) => {
                self.failed.retain(|failed| *failed != caller);
                self.failed.push(caller);
                if self.failed.len() > FAILURES {
                    self.failed.remove(0);
                }
            }
            Some(Verdict::Unclear) | None => {}
        }
        match (&mut self.stage, verdict) {
            (_, Some(Verdict::Fine)) => self.stage = Stage::Closed { failures: 0 },
            (Stage::Closed { failures }, Some(Verdict::Failed { pause: None })) => {
                *failures = failures.saturating_add(1)
            }
            // Asked for a pause, it is worth a look at once.
            (Stage::Closed { failures }, Some(Verdict::Failed { pause: Some(_) })) => *failures = FAILURES,
            (Stage::Open { trial, .. }, None) => *trial = Trial::Others,
            (Stage::Open { .. }, Some(_)) | (Stage::Closed { .. }, Some(Verdict::Unclear) | None) => {}
        }
    }

    /// Returns when the next probe is due, if one is.
    pub(super) fn probe_due(&self) -> Option<Instant> {
        match self.stage {
            _ if self.probing_since.is_some() => None,
            Stage::Closed { failures } if failures < FAILURES => None,
            Stage::Closed { .. } => Some(self.probe_from),
            Stage::Open { until, .. } => Some(until),
        }
    }

    /// Notes that a probe begins.
    pub(super) fn begin_probe(&mut self, now: Instant) {
        self.probing_since = Some(now);
    }

    /// Notes that the probe is over; without a verdict it was given up.
    pub(super) fn end_probe(&mut self, now: Instant, verdict: Option<Verdict>) {
        let since = self.probing_since.take().unwrap_or(now);
        self.probe_from = now + PROBE_GAP;
        let has_succeeded = self.succeeded.is_some_and(|at| at >= since || at + RECENT > now);
        self.stage = match (self.stage, verdict) {
            (stage, Some(Verdict::Unclear) | None) => stage,
            (_, Some(Verdict::Fine)) => {
                self.failed.clear();
                Stage::Closed { failures: 0 }
            }
            (Stage::Closed { failures }, Some(Verdict::Failed { pause })) if failures >= FAILURES && !has_succeeded => {
                // One that asks for a pause is given it.
                let trial = if pause.is_some() { Trial::Nobody } else { Trial::Others };
                open(now, pause, PAUSE, trial)
            }
            // A client's call has succeeded meanwhile.
            (stage @ Stage::Closed { .. }, Some(Verdict::Failed { .. })) => stage,
            (Stage::Open { next, trial, .. }, Some(Verdict::Failed { pause })) => {
                let is_unused = trial != Trial::Nobody;
                open(now, pause, next, if is_unused { Trial::Anybody } else { Trial::Others })
            }
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
fn open(now: Instant, asked: Option<Duration>, usual: Duration, trial: Trial) -> Stage {
    let pause = match asked {
        Some(asked) => asked.clamp(ASKED.0, ASKED.1),
        None => usual.mul_f64(rand::rng().random_range(0.5..1.0)),
    };
    Stage::Open { until: now + pause, next: (usual * 2).min(LONGEST_PAUSE), trial }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAILED: Verdict = Verdict::Failed { pause: None };
    const STRANGER: Caller = Caller::Identity(0);
    const OTHER: Caller = Caller::Identity(1);

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
            breaker.begin_probe(now);
            breaker.end_probe(now, Some(verdict));
            *probes += 1;
        }
    }

    fn call(breaker: &mut Breaker, now: Instant, caller: Caller, verdict: Option<Verdict>) -> bool {
        let may_call = breaker.may_call(caller);
        assert!(!may_call || breaker.may_any_call());
        if may_call {
            let is_trial = breaker.begin();
            breaker.note(now, caller, is_trial, verdict);
        }
        may_call
    }

    /// A breaker after ten failed calls of `caller`.
    fn failing(now: Instant, caller: Caller) -> Breaker {
        let mut breaker = Breaker::new(now);
        (0..FAILURES).for_each(|_| assert!(call(&mut breaker, now, caller, Some(FAILED))));
        breaker
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
                    Step::Stranger(verdict) => _ = call(&mut breaker, now, STRANGER, verdict),
                    Step::Other => prop_assert!(call(&mut breaker, now, OTHER, Some(Verdict::Fine))),
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
                        calls += usize::from(call(&mut breaker, now, STRANGER, verdict) && verdict.is_some());
                    }
                    Step::Other => calls += usize::from(call(&mut breaker, now, OTHER, Some(FAILED))),
                    Step::Wait(millis) => now += Duration::from_millis(millis),
                }
                look(&mut breaker, now, FAILED, &mut probes);
                // Ten calls until the first look, and one trial after each look.
                prop_assert!(calls <= FAILURES + probes, "{calls} calls, {probes} probes");
                prop_assert!(calls < FAILURES || breaker.is_paused());
            }
            if breaker.is_paused() {
                now += LONGEST_PAUSE;
                look(&mut breaker, now, Verdict::Fine, &mut probes);
                prop_assert!(!breaker.is_paused(), "a success of ours ends it");
            }
        }

        #[test]
        fn an_account_whose_calls_fail_has_an_api_that_breaks_without_cookies_left_alone_for_no_other(
            steps in prop::collection::vec(step(), 0..400)
        ) {
            let (mut now, mut probes) = (Instant::now(), 0);
            let mut breaker = Breaker::new(now);
            let mut has_others = true;
            for step in steps {
                match step {
                    Step::Stranger(verdict) => {
                        let verdict = verdict.map(|verdict| if verdict == Verdict::Fine { FAILED } else { verdict });
                        call(&mut breaker, now, STRANGER, verdict);
                    }
                    // Unless none came in a whole pause, the stranger cannot have used the trial up.
                    Step::Other => {
                        let is_served = call(&mut breaker, now, OTHER, Some(Verdict::Fine));
                        prop_assert!(is_served || !has_others);
                        prop_assert!(!is_served || !breaker.is_paused());
                        has_others |= is_served;
                    }
                    Step::Wait(millis) => now += Duration::from_millis(millis),
                }
                let was_paused = breaker.is_paused();
                let before = probes;
                look(&mut breaker, now, FAILED, &mut probes);
                has_others &= !(was_paused && probes > before);
            }
            // Where the stranger has used the trial up, the next one is for others.
            if !breaker.may_call(OTHER) {
                now += LONGEST_PAUSE;
                look(&mut breaker, now, FAILED, &mut probes);
                call(&mut breaker, now, STRANGER, Some(FAILED));
            }
            prop_assert!(call(&mut breaker, now, OTHER, Some(Verdict::Fine)) && !breaker.is_paused());
        }
    }

    #[test]
    fn the_trial_is_for_others_and_for_anybody_where_there_are_none() {
        let mut now = Instant::now();
        let mut breaker = failing(now, STRANGER);
        for has_other in [false, false, false, true, false, false] {
            breaker.begin_probe(now);
            breaker.end_probe(now, Some(FAILED));
            let is_for_anybody = breaker.may_call(STRANGER);
            assert!(breaker.may_call(OTHER));
            if has_other {
                assert!(call(&mut breaker, now, OTHER, None), "one that says nothing does not use the trial up");
                assert!(call(&mut breaker, now, OTHER, Some(Verdict::Unclear)));
                assert!(!breaker.may_any_call(), "one trial in a pause");
            } else if is_for_anybody {
                assert!(call(&mut breaker, now, STRANGER, Some(FAILED)));
                assert!(!breaker.may_any_call());
                breaker.begin_probe(now);
                breaker.end_probe(now, Some(FAILED));
                assert!(!breaker.may_call(STRANGER) && breaker.may_call(OTHER), "others first again");
            }
            now += LONGEST_PAUSE;
        }
        breaker.begin_probe(now);
        breaker.end_probe(now, Some(FAILED));
        assert!(call(&mut breaker, now, STRANGER, Some(Verdict::Fine)), "a lone account ends the pause, too");
        assert!(!breaker.is_paused());
    }

    #[test]
    fn a_trial_that_tells_nothing_is_the_only_one_in_its_pause() {
        let now = Instant::now();
        let mut breaker = failing(now, STRANGER);
        breaker.begin_probe(now);
        breaker.end_probe(now, Some(FAILED));
        assert!(call(&mut breaker, now, OTHER, Some(Verdict::Unclear)));
        assert!(breaker.is_paused() && !breaker.may_any_call());
    }

    #[test]
    fn a_success_while_the_probe_is_under_way_or_just_before_outweighs_its_failure_whatever_fails_then() {
        let mut now = Instant::now();
        for (lasts, is_before) in [(Duration::from_secs(10), false), (Duration::from_millis(10), true)] {
            let mut breaker = Breaker::new(now);
            if is_before {
                assert!(call(&mut breaker, now, OTHER, Some(Verdict::Fine)));
            }
            (0..FAILURES).for_each(|_| assert!(call(&mut breaker, now, STRANGER, Some(FAILED))));
            breaker.begin_probe(now);
            if !is_before {
                assert!(call(&mut breaker, now, OTHER, Some(Verdict::Fine)));
            }
            (0..FAILURES).for_each(|_| assert!(call(&mut breaker, now, STRANGER, Some(FAILED))));
            now += lasts;
            breaker.end_probe(now, Some(FAILED));
            assert!(!breaker.is_paused());
            assert_eq!(breaker.probe_due(), Some(now + PROBE_GAP));
            // Down after all, it is left alone a second later.
            now += PROBE_GAP;
            breaker.begin_probe(now);
            breaker.end_probe(now, Some(FAILED));
            assert!(breaker.is_paused());
        }
    }

    #[test]
    fn a_pause_is_as_long_as_the_probe_is_told_and_not_as_a_client_is() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        call(&mut breaker, now, STRANGER, Some(Verdict::Failed { pause: Some(Duration::from_secs(500)) }));
        breaker.begin_probe(now);
        breaker.end_probe(now, Some(Verdict::Failed { pause: Some(Duration::from_secs(7)) }));
        assert_eq!(breaker.paused_until(), Some(now + Duration::from_secs(7)));
    }
}
