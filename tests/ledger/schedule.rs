//! Which faults there are and when. Pure: the same seed makes the same ones.
//!
//! Lanes, so that faults of different kinds overlap: the broker's, the instances', the clients' and the publishers'. Within
//! a lane one follows the other, so that there are never two instances away at once.

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
    /// SIGKILL or a clean stop; what was appended to the log in the time before is lost, as when a host loses power.
    LoseTail { before: Duration, is_killed: bool },
    /// An operator deletes the exchange and declares it anew. Nothing is bound to it then. If it is a quiet moment, no
    /// publisher finds the exchange missing.
    RedeclareExchange { is_quiet: bool },
    /// An operator sets a policy with an alternate exchange that takes what no queue takes, then restarts RabbitMQ.
    AlternateExchange,
    /// RabbitMQ is short of memory for this time and blocks publishers; the instances have to connect again meanwhile.
    MemoryAlarm(Duration),
    /// So many triggers have a property that is not UTF-8.
    Unreadable(usize),
    /// So many times in a row, the connection by which an instance publishes is cut right after it was made.
    CutPublishers(usize),
    /// The log of an instance is a pipe that nobody reads for this time; it may be asked to stop then.
    BlockLog { which: usize, time: Duration, is_stopped: bool },
}

/// Which kinds of faults there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kinds {
    /// Cuts, kills, stops and pauses only. Nothing may be lost by them.
    Classic,
    All,
    /// Those with one of these parts in their name, separated by commas.
    Named(String),
}

impl Kinds {
    /// `classic`, `all`, or parts of faults' names.
    pub fn parse(word: &str) -> Result<Self, String> {
        let kinds = match word {
            "classic" => Self::Classic,
            "all" => Self::All,
            name => Self::Named(name.to_owned()),
        };
        match kinds.lanes().iter().any(|lane| lane.has(&kinds)) {
            true => Ok(kinds),
            false => Err(format!("there is no fault {word:?}")),
        }
    }

    fn lanes(&self) -> [Lane; 4] {
        match self {
            Self::Classic => [BROKER, INSTANCES, CLIENTS, Lane { kinds: &[], gap: 1.0..2.0 }],
            Self::All | Self::Named(_) => [ALL_BROKER, ALL_INSTANCES, CLIENTS, PUBLISHERS],
        }
    }

    fn include(&self, fault: Fault) -> bool {
        match self {
            Self::Named(names) => names.split(',').any(|name| !name.is_empty() && fault.word().contains(name)),
            Self::Classic | Self::All => true,
        }
    }
}

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Classic => f.write_str("classic"),
            Self::All => f.write_str("all"),
            Self::Named(name) => write!(f, "{name:?}"),
        }
    }
}

/// The seed of the run that every submission has to pass. It has each kind of fault at least once in the default time.
pub const DEFAULT_SEED: u64 = 42;
/// How long there are faults.
pub const DEFAULT_TIME: Duration = Duration::from_secs(130);

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
    pub lanes: [Vec<Planned>; 4],
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
const ALL_BROKER: Lane = Lane {
    kinds: &[
        |_| Fault::CutBroker,
        |rng| Fault::KillBroker(seconds(rng, 0.0..3.0)),
        |rng| Fault::PauseBroker(seconds(rng, 1.0..6.0)),
        |rng| Fault::PauseBroker(seconds(rng, 6.0..20.0)),
        |rng| Fault::LoseTail { before: seconds(rng, 1.0..4.0), is_killed: rng.random() },
        |rng| Fault::RedeclareExchange { is_quiet: rng.random() },
        |_| Fault::AlternateExchange,
        |rng| Fault::MemoryAlarm(seconds(rng, 2.0..6.0)),
    ],
    gap: 2.0..5.0,
};
const ALL_INSTANCES: Lane = Lane {
    kinds: &[
        |rng| Fault::KillInstance(0, seconds(rng, 0.0..4.0)),
        |rng| Fault::KillInstance(1, seconds(rng, 0.0..4.0)),
        |rng| Fault::StopInstance(0, seconds(rng, 0.0..4.0)),
        |rng| Fault::StopInstance(1, seconds(rng, 0.0..4.0)),
        |rng| Fault::BlockLog { which: 0, time: seconds(rng, 2.0..5.0), is_stopped: rng.random() },
        |rng| Fault::BlockLog { which: 1, time: seconds(rng, 2.0..5.0), is_stopped: rng.random() },
    ],
    gap: 3.0..9.0,
};
const PUBLISHERS: Lane = Lane {
    kinds: &[|rng| Fault::Unreadable(rng.random_range(1..=8)), |rng| Fault::CutPublishers(rng.random_range(3..=12))],
    gap: 3.0..10.0,
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
    pub fn new(seed: u64, faults_for: Duration, kinds: &Kinds) -> Self {
        let mut seeds = StdRng::seed_from_u64(seed);
        // A seed of its own for each, so that a longer run begins as a shorter one.
        let lanes = kinds.lanes();
        Self { lanes: lanes.map(|lane| lane.plan(&mut StdRng::seed_from_u64(seeds.random()), faults_for, kinds)) }
    }
}

impl Lane {
    /// Whether any of its faults are among these.
    fn has(&self, kinds: &Kinds) -> bool {
        self.kinds.iter().any(|kind| kinds.include(kind(&mut StdRng::seed_from_u64(0))))
    }

    fn plan(&self, rng: &mut StdRng, faults_for: Duration, kinds: &Kinds) -> Vec<Planned> {
        let (mut planned, mut bag) = (Vec::new(), Vec::new());
        if !self.has(kinds) {
            return planned;
        }
        let mut at = Duration::from_secs_f64(CALM) + seconds(rng, self.gap.clone());
        while at < faults_for {
            if bag.is_empty() {
                bag = self.kinds.to_vec();
                bag.shuffle(rng);
            }
            let Some(kind) = bag.pop() else { break };
            let fault = kind(rng);
            if !kinds.include(fault) {
                continue;
            }
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
            Self::LoseTail { before, .. } => (before, 10),
            Self::RedeclareExchange { .. } => (Duration::ZERO, 4),
            Self::AlternateExchange => (Duration::ZERO, 14),
            Self::MemoryAlarm(time) => (time, 6),
            Self::Unreadable(_) => (Duration::ZERO, 1),
            Self::CutPublishers(_) => (Duration::ZERO, 3),
            Self::BlockLog { time, .. } => (time, 2),
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
            Self::LoseTail { .. } => "end of the log lost",
            Self::RedeclareExchange { .. } => "exchange declared anew",
            Self::AlternateExchange => "alternate exchange set and broker restarted",
            Self::MemoryAlarm(_) => "memory alarm",
            Self::Unreadable(_) => "properties that are not UTF-8",
            Self::CutPublishers(_) => "publishing connections cut early",
            Self::BlockLog { .. } => "log blocked",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match self {
            Self::CutBroker | Self::AlternateExchange => Ok(()),
            Self::RedeclareExchange { is_quiet } => f.write_str(if *is_quiet { ", in a quiet moment" } else { "" }),
            Self::KillBroker(time) | Self::PauseBroker(time) | Self::MemoryAlarm(time) => {
                write!(f, ", {:.1} s", time.as_secs_f64())
            }
            Self::KillInstance(which, time) | Self::StopInstance(which, time) => {
                write!(f, ": {which}, {:.1} s", time.as_secs_f64())
            }
            Self::CutClients(count) | Self::Unreadable(count) | Self::CutPublishers(count) => write!(f, ": {count}"),
            Self::LoseTail { before, is_killed } => {
                let how = if *is_killed { "killed" } else { "stopped" };
                write!(f, ": {:.1} s, broker {how}", before.as_secs_f64())
            }
            Self::BlockLog { which, time, is_stopped } => {
                let then = if *is_stopped { ", then stopped" } else { "" };
                write!(f, ": {which}, {:.1} s{then}", time.as_secs_f64())
            }
            Self::StallClients(count, time) => write!(f, ": {count}, {:.1} s", time.as_secs_f64()),
        }
    }
}

fn seconds(rng: &mut StdRng, range: Range<f64>) -> Duration {
    Duration::from_secs_f64(rng.random_range(range))
}
