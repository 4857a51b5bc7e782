//! The clients that are cut and come back.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::Rng;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    Outcome,
    socket::{Setback, Socket, Version},
};

/// After which a client of 3.1's protocol comes again.
const RETURN: Duration = Duration::from_secs(2);
/// Within which a client of version 4 comes again when it is not told when; doubled with each connection that is lost.
const RETURN_WITHIN: Duration = Duration::from_secs(1);
/// How often that is doubled.
const DOUBLED: u32 = 4;
/// Healthy clients have the numbers from 0 on, the others those from here on.
const FIRST: usize = 1_000_000;

pub(crate) struct Crowd {
    server: SocketAddr,
    records: Mutex<Vec<Record>>,
    /// When they were cut.
    cut: watch::Sender<Option<Instant>>,
}

/// What has become of one client since the cut.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) version: Version,
    pub(crate) attempts: u32,
    /// Attempts that were answered with no, and no time.
    pub(crate) refused: u32,
    /// Attempts that were answered with a time to come again.
    pub(crate) told_later: u32,
    /// Attempts that led to nothing, for another reason.
    pub(crate) lost: u32,
    /// How often it was lost again after it had been back.
    pub(crate) lost_again: u32,
    /// Since when it has been there, if it is.
    pub(crate) since: Option<Instant>,
}

impl Crowd {
    pub(crate) fn new(server: SocketAddr, clients: usize, v3: f64) -> Arc<Self> {
        // The fractional parts let them be mixed evenly.
        let version = |number: usize| {
            let is_old = (number as f64 * v3).floor() < ((number + 1) as f64 * v3).floor();
            if is_old { Version::V3 } else { Version::V4 }
        };
        let record =
            |version| Record { version, attempts: 0, refused: 0, told_later: 0, lost: 0, lost_again: 0, since: None };
        let records = Mutex::new((0..clients).map(|number| record(version(number))).collect());
        Arc::new(Self { server, records, cut: watch::Sender::default() })
    }

    /// Lets all of them come, so many at once, and returns when they are there. They live until the tasks are dropped.
    pub(crate) async fn gather(self: Arc<Self>, at_once: usize, within: Duration) -> Outcome<JoinSet<()>> {
        let turns = Arc::new(Semaphore::new(at_once));
        let count = self.records.lock().len();
        let mut tasks = JoinSet::new();
        for number in 0..count {
            tasks.spawn(self.clone().live(number, turns.clone()));
        }
        let gathered = async {
            while self.back() < count {
                sleep(Duration::from_millis(50)).await;
            }
        };
        match timeout(within, gathered).await {
            Ok(()) => Ok(tasks),
            Err(_) => Err(format!("only {} of {count} clients got in within {within:?}", self.back()).into()),
        }
    }

    /// Cuts all of them at once. When that was.
    pub(crate) fn cut(&self) -> Instant {
        let now = Instant::now();
        self.records.lock().iter_mut().for_each(|record| record.since = None);
        self.cut.send_replace(Some(now));
        now
    }

    /// How many are there.
    pub(crate) fn back(&self) -> usize {
        self.records.lock().iter().filter(|record| record.since.is_some()).count()
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        self.records.lock().clone()
    }

    async fn live(self: Arc<Self>, number: usize, turns: Arc<Semaphore>) {
        let version = self.record(number, |record| record.version);
        let mut is_cut = self.cut.subscribe();
        let (mut cut, mut failures) = (None, 0);
        loop {
            // Before the cut they wait for each other.
            let turn = if cut.is_none() { turns.acquire().await.ok() } else { None };
            self.record(number, |record| record.attempts += u32::from(cut.is_some()));
            let entered = Box::pin(Socket::enter(self.server, FIRST + number, version, "quiet")).await;
            drop(turn);
            let setback = match entered {
                Ok(mut socket) => {
                    failures = 0;
                    self.record(number, |record| record.since = Some(Instant::now()));
                    let lost = tokio::select! {
                        setback = stay(&mut socket) => Some(setback),
                        () = async { drop(is_cut.wait_for(|now| *now != cut).await) } => None,
                    };
                    self.record(number, |record| record.since = None);
                    if lost.is_none() {
                        cut = *is_cut.borrow();
                        socket.cut();
                    } else if cut.is_some() {
                        self.record(number, |record| record.lost_again += 1);
                    }
                    lost.unwrap_or(Setback::Lost)
                }
                Err(setback) => {
                    self.record(number, |record| match setback {
                        _ if cut.is_none() => {}
                        Setback::Refused => record.refused += 1,
                        Setback::Later(_) => record.told_later += 1,
                        Setback::Lost => record.lost += 1,
                    });
                    failures += u32::from(matches!(setback, Setback::Lost));
                    setback
                }
            };
            sleep(pause(version, setback, failures)).await;
        }
    }

    fn record<T>(&self, number: usize, on: impl FnOnce(&mut Record) -> T) -> T {
        on(&mut self.records.lock()[number])
    }
}

/// Reads until the connection ends.
async fn stay(socket: &mut Socket) -> Setback {
    loop {
        if let Err(setback) = socket.next().await {
            return setback;
        }
    }
}

/// How long a client stays away.
fn pause(version: Version, setback: Setback, failures: u32) -> Duration {
    match (version, setback) {
        (Version::V3, _) | (Version::V4, Setback::Refused) => RETURN,
        (Version::V4, Setback::Later(time)) => time,
        (Version::V4, Setback::Lost) => {
            RETURN_WITHIN.mul_f64(rand::rng().random_range(0.0..1.0)) * 2_u32.pow(failures.min(DOUBLED))
        }
    }
}
