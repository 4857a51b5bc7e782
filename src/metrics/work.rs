//! Whether somebody has work in hand, since when, and how much of its time it spends on it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

/// The work of one task, which alone calls [`begin`](Self::begin) and [`end`](Self::end); anybody may look. Counts as the
/// seconds that were spent on it.
#[derive(Debug, Clone)]
pub struct Work(Arc<Clock>);

/// Times in microseconds since `start`.
#[derive(Debug)]
struct Clock {
    start: Instant,
    in_hand: AtomicU64,
    begun: AtomicU64,
    /// 0 as long as nothing was.
    ended: AtomicU64,
    busy: AtomicU64,
}

/// How the work gets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Pieces that are worked on now.
    pub in_hand: u64,
    /// For how long they have been; zero if there are none.
    pub age: Duration,
    /// Since the last time that some were done, if ever.
    pub since_last: Option<Duration>,
    /// What was spent on all that are done.
    pub busy: Duration,
}

impl Default for Work {
    fn default() -> Self {
        let [in_hand, begun, ended, busy] = Default::default();
        Self(Arc::new(Clock { start: Instant::now(), in_hand, begun, ended, busy }))
    }
}

impl Work {
    /// So many pieces are in hand from now on.
    pub fn begin(&self, pieces: usize) {
        let clock = &*self.0;
        clock.begun.store(clock.now(), Relaxed);
        clock.in_hand.store(pieces as u64, Relaxed);
    }

    /// They are done.
    pub fn end(&self) {
        let clock = &*self.0;
        let now = clock.now();
        let busy = clock.busy.load(Relaxed) + now.saturating_sub(clock.begun.load(Relaxed));
        clock.in_hand.store(0, Relaxed);
        clock.busy.store(busy, Relaxed); // by one task alone, and so nothing is lost in between
        clock.ended.store(now.max(1), Relaxed);
    }

    /// How it gets on now.
    pub fn progress(&self) -> Progress {
        let clock = &*self.0;
        let (in_hand, begun, ended) =
            (clock.in_hand.load(Relaxed), clock.begun.load(Relaxed), clock.ended.load(Relaxed));
        let now = clock.now();
        let since = |then| Duration::from_micros(now.saturating_sub(then));
        Progress {
            in_hand,
            age: if in_hand > 0 { since(begun) } else { Duration::ZERO },
            since_last: (ended > 0).then(|| since(ended)),
            busy: clock.busy(),
        }
    }
}

impl Clock {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn busy(&self) -> Duration {
        Duration::from_micros(self.busy.load(Relaxed))
    }
}

impl EncodeMetric for Work {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<NoLabelSet, _, u64>(&self.0.busy().as_secs_f64(), None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    #[test]
    fn what_is_in_hand_ages_and_what_is_done_counts() {
        let work = Work::default();
        let idle = work.progress();
        assert_eq!((idle.in_hand, idle.age, idle.since_last), (0, Duration::ZERO, None));
        work.begin(3);
        sleep(Duration::from_millis(5)); // the time itself is what is tested
        let during = work.progress();
        assert!(during.in_hand == 3 && during.age >= Duration::from_millis(5) && during.busy.is_zero(), "{during:?}");
        work.end();
        let after = work.progress();
        assert!(after.in_hand == 0 && after.age.is_zero() && after.busy >= during.age, "{after:?}");
        assert!(after.since_last.is_some_and(|since| since < work.0.start.elapsed()), "{after:?}");
        work.begin(1);
        work.end();
        assert!(work.progress().busy >= after.busy);
    }
}
