//! An even pace, kept more exactly than the runtime's own timers, which tick once a millisecond.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// The longest sleep of the clock, which looks between two whether it is to stop.
const NAP: Duration = Duration::from_millis(20);

/// The ticks of one clock, handed out to whoever of several publishers asks next.
#[derive(Debug, Clone)]
pub(super) struct Ticks {
    start: Instant,
    rate: f64,
    /// Ticks that are due and not handed out.
    due: Arc<Semaphore>,
    next: Arc<AtomicU64>,
}

impl Ticks {
    /// Starts a clock of `rate` ticks a second, in a thread of its own, until `stop`.
    pub(super) fn start(rate: f64, stop: CancellationToken) -> io::Result<Self> {
        let (due, next) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU64::new(0)));
        let ticks = Self { start: Instant::now(), rate, due, next };
        let clock = ticks.clone();
        thread::Builder::new().name("clock".to_owned()).spawn(move || clock.run(&stop))?;
        Ok(ticks)
    }

    fn run(&self, stop: &CancellationToken) {
        let mut passed = 0;
        while !stop.is_cancelled() {
            let now = Instant::now();
            let due = (now.saturating_duration_since(self.start).as_secs_f64() * self.rate) as u64 + 1;
            self.due.add_permits((due - passed) as usize);
            passed = due;
            thread::sleep(self.at(due).saturating_duration_since(now).min(NAP));
        }
    }

    /// Waits until the next tick is due, not at all if it was already; when that is, or was.
    pub(super) async fn next(&self) -> Instant {
        if let Ok(permit) = self.due.acquire().await {
            permit.forget();
        }
        self.at(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn at(&self, tick: u64) -> Instant {
        self.start + Duration::from_secs_f64(tick as f64 / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ticks_come_evenly_never_early_and_each_to_one_publisher() {
        let stop = CancellationToken::new();
        let ticks = Ticks::start(500.0, stop.clone()).unwrap();
        let other = ticks.clone();
        for number in 0..4_u32 {
            let due = if number % 2 == 0 { ticks.next().await } else { other.next().await };
            assert_eq!(due, ticks.start + Duration::from_secs_f64(f64::from(number) / 500.0));
            assert!(Instant::now() + Duration::from_micros(1) >= due);
        }
        stop.cancel();
    }
}
