//! Which faults there are and when. Pure: the same seed makes the same ones.
//!
//! Three lanes, so that faults of different kinds overlap: the broker's, the instances' and the clients'. Within a lane one
//! follows the other, so that there are never two instances away at once.

use std::{fmt, ops::Range, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The broker closes all its connections.
    CutBroker,
    /// SIGKILL; it is started again after this time.
    KillBroker(Duration),
    /// SIGSTOP for this time: sockets stay open, nothing answers.
    PauseBroker(Duration),
    /// SIGKILL; it is started again after this time.
    KillInstance(usize, Duration),
    /// SIGTERM; it is started again after this time.
    StopInstance(usize, Duration),
    /// So many clients are cut off in the middle of a frame.
    CutClients(usize),
    /// So many clients read nothing for this time, while much data comes.
    StallClients(usize, Duration),
}

/// A fault, at the earliest at this time after the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    pub at: Duration,
    pub fault: Fault,
    /// Decides on what is left to chance, as which clients it is.
    pub pick: u64,
}

/// The faults of a run.
#[derive(Debug, PartialEq, Eq)]
pub struct Schedule {
    pub lanes: [Vec<Planned>; 3],
}

/// A lane draws from all its kinds before it draws one again.
struct Lane {
    kinds: &'static [fn(&mut StdRng) -> Fault],
    /// Between the end of a fault, by plan, and the next.
    gap: Range<f64>,
}

const BROKER: Lane = Lane {
    kinds: &[
        |_| Fault::CutBroker,
        |_| Fault::CutBroker,
        |rng| Fault::KillBroker(seconds(rng, 0.0..3.0)),
        // A short one passes for slowness, a long one for the broker's end.
        |rng| Fault::PauseBroker(seconds(rng, 1.0..6.0)),
        |rng| Fault::PauseBroker(seconds(rng, 6.0..25.0)),
    ],
    gap: 3.0..9.0,
};
const INSTANCES: Lane = Lane {
    kinds: &[
        |rng| Fault::KillInstance(0, seconds(rng, 0.0..4.0)),
        |rng| Fault::KillInstance(1, seconds(rng, 0.0..4.0)),
        |rng| Fault::StopInstance(0, seconds(rng, 0.0..4.0)),
        |rng| Fault::StopInstance(1, seconds(rng, 0.0..4.0)),
    ],
    gap: 4.0..12.0,
};
const CLIENTS: Lane = Lane {
    kinds: &[
        |rng| Fault::CutClients(rng.random_range(1..=20)),
        |rng| Fault::CutClients(rng.random_range(20..=120)),
        |rng| Fault::CutClients(rng.random_range(1..=60)),
        |rng| Fault::StallClients(rng.random_range(5..=30), seconds(rng, 2.0..15.0)),
    ],
    gap: 0.5..4.0,
};

/// Before the first fault, so that there is something to lose.
const CALM: f64 = 3.0;

impl Schedule {
    pub fn new(seed: u64, faults_for: Duration) -> Self {
        let mut seeds = StdRng::seed_from_u64(seed);
        // A seed of its own for each, so that a longer run begins as a shorter one.
        let lanes = [BROKER, INSTANCES, CLIENTS];
        Self { lanes: lanes.map(|lane| lane.plan(&mut StdRng::seed_from_u64(seeds.random()), faults_for)) }
    }
}

impl Lane {
    fn plan(&self, rng: &mut StdRng, faults_for: Duration) -> Vec<Planned> {
        let (mut planned, mut bag) = (Vec::new(), Vec::new());
        let mut at = Duration::from_secs_f64(CALM) + seconds(rng, self.gap.clone());
        while at < faults_for {
            if bag.is_empty() {
                bag = self.kinds.to_vec();
                bag.shuffle(rng);
            }
            let Some(kind) = bag.pop() else { break };
            let fault = kind(rng);
            planned.push(Planned { at, fault, pick: rng.random() });
            at += fault.takes() + seconds(rng, self.gap.clone());
        }
        planned
    }
}

impl Fault {
    /// About how long, what has to be started again included.
    fn takes(self) -> Duration {
        let (within, after) = match self {
            Self::CutBroker => (Duration::ZERO, 2),
            Self::KillBroker(away) => (away, 6),
            Self::PauseBroker(time) => (time, 2),
            Self::KillInstance(_, away) | Self::StopInstance(_, away) => (away, 1),
            Self::CutClients(_) => (Duration::ZERO, 0),
            Self::StallClients(_, time) => (time, 0),
        };
        within + Duration::from_secs(after)
    }

    /// The word it is counted under.
    pub fn word(self) -> &'static str {
        match self {
            Self::CutBroker => "broker cut",
            Self::KillBroker(_) => "broker killed",
            Self::PauseBroker(_) => "broker paused",
            Self::KillInstance(..) => "instance killed",
            Self::StopInstance(..) => "instance stopped",
            Self::CutClients(_) => "clients cut off",
            Self::StallClients(..) => "clients stalled",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match self {
            Self::CutBroker => Ok(()),
            Self::KillBroker(time) | Self::PauseBroker(time) => write!(f, ", {:.1} s", time.as_secs_f64()),
            Self::KillInstance(which, time) | Self::StopInstance(which, time) => {
                write!(f, ": {which}, {:.1} s", time.as_secs_f64())
            }
            Self::CutClients(count) => write!(f, ": {count}"),
            Self::StallClients(count, time) => write!(f, ": {count}, {:.1} s", time.as_secs_f64()),
        }
    }
}

fn seconds(rng: &mut StdRng, range: Range<f64>) -> Duration {
    Duration::from_secs_f64(rng.random_range(range))
}
