//! One publication for many, by several workers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use tokio::task::{JoinSet, yield_now};

use crate::{
    hub::{Audience, Pace, Portion, Publication, Tally},
    logging::limited,
};

/// Steps of a few writes after which a worker looks at its other tasks: about half a millisecond.
const WRITING_STEPS: u32 = 8;
/// The same when nothing is written.
const QUEUEING_STEPS: u32 = 128;

/// The workers on their way through an audience.
#[derive(Debug)]
pub(super) struct Spread {
    work: Arc<Work>,
    workers: JoinSet<Tally>,
}

#[derive(Debug)]
struct Work {
    portions: Mutex<Vec<Portion>>,
    publication: Arc<Publication>,
    is_hurried: AtomicBool,
}

impl Spread {
    pub(super) fn start(audience: Audience, publication: Arc<Publication>, pace: Pace, workers: usize) -> Self {
        let portions = audience.into_portions();
        let workers = workers.min(portions.len());
        let is_hurried = AtomicBool::new(pace == Pace::Later);
        let work = Arc::new(Work { portions: Mutex::new(portions), publication, is_hurried });
        Self { workers: (0..workers).map(|_| work.clone().run()).collect(), work }
    }

    /// What is not done yet is only to be queued: something else is waiting.
    pub(super) fn hurry(&self) {
        self.work.is_hurried.store(true, Ordering::Relaxed);
    }

    /// Waits until the publication is in every outbox. May be dropped and called again.
    pub(super) async fn finished(&mut self, tally: &mut Tally) {
        while let Some(worker) = self.workers.join_next().await {
            match worker {
                Ok(done) => tally.add(done),
                // The error would quote the panic, which may quote a payload. The panic itself is in the log.
                Err(_) => limited!(error, "a worker of a fan-out failed: clients have missed a publication"),
            }
        }
    }
}

impl Work {
    async fn run(self: Arc<Self>) -> Tally {
        let mut tally = Tally::default();
        let mut steps = 0;
        loop {
            let Some(mut portion) = self.portions.lock().pop() else { return tally };
            loop {
                let (pace, limit) = match self.is_hurried.load(Ordering::Relaxed) {
                    true => (Pace::Later, QUEUEING_STEPS),
                    false => (Pace::AtOnce, WRITING_STEPS),
                };
                if !portion.publish(&self.publication, pace, &mut tally) {
                    break;
                }
                steps += 1;
                if steps >= limit {
                    steps = 0;
                    yield_now().await;
                }
            }
        }
    }
}
