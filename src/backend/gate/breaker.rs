//! Whether the backend is asked at all: one that fails again and again, or asks for a pause, is left alone for a while, and
//! then tried with a single call. Pure: the clock is passed in.

use std::{collections::HashSet, time::Duration};

use rand::Rng;
use tokio::time::Instant;

/// Failures in a row after which the backend is left alone, those of one client counted once.
pub(super) const FAILURES: usize = 10;
/// For how long, the first time; twice as long each time after it, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The shortest and the longest pause that the backend may ask for.
const ASKED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// What a call says about the backend's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Verdict {
    /// It works.
    Fine,
    /// It does not, and perhaps asks for a pause.
    Failed { pause: Option<Duration> },
    /// It did not for this client, told by a hash, whose own doing it may be.
    FailedFor(u64),
}

/// Opens when the backend fails.
#[derive(Debug)]
pub(super) struct Breaker {
    stage: Stage,
    /// Whom calls have failed for since the last one that did not.
    failed_for: HashSet<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    /// All is well.
    Closed { failures: usize },
    /// Nobody calls until then. The next pause after this one.
    Open { until: Instant, next: Duration },
    /// One call is to show whether the backend is back.
    HalfOpen { is_probing: bool, next: Duration },
}

impl Default for Breaker {
    fn default() -> Self {
        Self { stage: Stage::Closed { failures: 0 }, failed_for: HashSet::new() }
    }
}

impl Breaker {
    /// Whether a call may begin.
    pub(super) fn may_call(&self) -> bool {
        match self.stage {
            Stage::Closed { .. } => true,
            Stage::Open { .. } => false,
            Stage::HalfOpen { is_probing, .. } => !is_probing,
        }
    }

    /// A call begins. Whether it is the one that is to show whether the backend is back.
    pub(super) fn begin(&mut self) -> bool {
        match &mut self.stage {
            Stage::HalfOpen { is_probing, .. } => {
                *is_probing = true;
                true
            }
            _ => false,
        }
    }

    /// A call is over; without a verdict it says nothing of the backend.
    pub(super) fn note(&mut self, now: Instant, is_probe: bool, verdict: Option<Verdict>) {
        let failure = match verdict {
            None | Some(Verdict::Fine) => None,
            Some(Verdict::Failed { pause }) => Some(pause),
            Some(Verdict::FailedFor(client)) => {
                let is_another = self.failed_for.insert(client);
                (is_another || is_probe).then_some(None)
            }
        };
        self.stage = match (self.stage, failure) {
            // Of those that began before the pause none counts any more.
            (Stage::HalfOpen { .. }, _) if !is_probe => self.stage,
            (Stage::HalfOpen { next, .. }, None) if verdict.is_none() => Stage::HalfOpen { is_probing: false, next },
            (Stage::HalfOpen { .. }, None) => Stage::Closed { failures: 0 },
            (Stage::HalfOpen { next, .. }, Some(pause)) => open(now, pause, next),
            (Stage::Closed { .. }, None) if verdict == Some(Verdict::Fine) => Stage::Closed { failures: 0 },
            (_, None) => self.stage,
            (Stage::Closed { failures }, Some(None)) if failures + 1 < FAILURES => {
                Stage::Closed { failures: failures + 1 }
            }
            (Stage::Closed { .. }, Some(pause)) => open(now, pause, PAUSE),
            (Stage::Open { until, next }, Some(pause)) => {
                let asked = now + pause.unwrap_or_default().min(ASKED.1);
                Stage::Open { until: until.max(asked), next }
            }
        };
        if self.stage == (Stage::Closed { failures: 0 }) {
            self.failed_for.clear();
        }
    }

    /// Whether the backend is left alone, or still to be tried.
    pub(super) fn is_paused(&self) -> bool {
        !matches!(self.stage, Stage::Closed { .. })
    }

    /// Until when it is left alone.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Open { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Has it be tried, if it has been left alone for long enough.
    pub(super) fn half_open(&mut self, now: Instant) {
        if let Stage::Open { until, next } = self.stage
            && until <= now
        {
            self.stage = Stage::HalfOpen { is_probing: false, next };
        }
    }
}

/// A pause as the backend asks for it, or a random one of up to `usual` that is no shorter than half of that.
fn open(now: Instant, asked: Option<Duration>, usual: Duration) -> Stage {
    let pause = match asked {
        Some(asked) => asked.clamp(ASKED.0, ASKED.1),
        None => usual.mul_f64(rand::rng().random_range(0.5..1.0)),
    };
    Stage::Open { until: now + pause, next: (usual * 2).min(LONGEST_PAUSE) }
}
