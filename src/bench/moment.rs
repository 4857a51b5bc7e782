//! The two ends of the time that is measured, and what lies between them.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::{
    books::Books,
    options::{Pace, Plan},
    process::Usage,
    report::{Cpu, Latency, Load, Probe, ms, round},
};

/// From this share of a core on, the clients may be what limits the numbers.
const BUSY: f64 = 0.92;

/// Where everything stood at one moment.
pub(super) struct Moment {
    at: Instant,
    server: Option<Usage>,
    broker: Option<Usage>,
    complete: u64,
    thread: Duration,
    all_threads: Duration,
}

impl Moment {
    /// This moment, with so many triggers complete.
    pub(super) fn now(server: Option<Usage>, broker: Option<Usage>, complete: u64) -> Self {
        Self {
            at: Instant::now(),
            server,
            broker,
            complete,
            thread: cpu_time(ClockId::ThreadCPUTime),
            all_threads: cpu_time(ClockId::ProcessCPUTime),
        }
    }

    /// What was measured since `start`; `books` hold what came since then.
    pub(super) fn measured(&self, start: &Self, plan: &Plan, books: &Books) -> Load {
        let account = &books.load;
        let seconds = (self.at - start.at).as_secs_f64();
        let (triggers, deliveries) = (self.complete - start.complete, account.deliveries);
        let us_per = |used: f64, count: u64| round(used * 1e6 / count.max(1) as f64);
        let used = |of: fn(&Moment) -> Option<Usage>| of(self).zip(of(start)).map(|(end, start)| end.since(&start));
        let cpu = used(|moment| moment.server).map(|used| {
            let (all, user) = (used.cpu.as_secs_f64(), used.user_share());
            Cpu {
                server_cpu_percent: round(all / seconds * 100.0),
                server_cpu_us_per_trigger: us_per(all, triggers),
                server_cpu_us_per_delivery: us_per(all, deliveries),
                server_user_cpu_us_per_delivery: us_per(all * user, deliveries),
                server_system_cpu_us_per_delivery: us_per(all * (1.0 - user), deliveries),
            }
        });
        let probe = plan.probe.map(|rate_per_s| {
            let account = &books.probe;
            Probe { rate_per_s, deliveries: account.deliveries, latency: Latency::of(&account.latencies) }
        });
        Load {
            seconds: round(seconds),
            triggers,
            deliveries,
            triggers_per_second: round(triggers as f64 / seconds),
            deliveries_per_second: round(deliveries as f64 / seconds),
            cpu,
            broker_cpu_us_per_trigger: used(|moment| moment.broker)
                .map(|used| us_per(used.cpu.as_secs_f64(), triggers)),
            latency_ms: Latency::of(&account.latencies),
            histogram: account.latencies.coarse(8).into_iter().map(|(upper, count)| (ms(upper), count)).collect(),
            bars: account.latencies.coarse(1),
            probe,
            client_busy: round((self.thread - start.thread).as_secs_f64() / seconds),
        }
    }

    /// What makes the numbers doubtful.
    pub(super) fn warnings(&self, start: &Self, plan: &Plan, load: &Load) -> Vec<String> {
        let mut warnings = Vec::new();
        let seconds = (self.at - start.at).as_secs_f64();
        let busy = |used: Duration| used.as_secs_f64() / seconds;
        // Pinned to one core, the publishers take what the clients could use.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let share = busy(self.thread - start.thread).max(busy(self.all_threads - start.all_threads) / cores as f64);
        if share > BUSY {
            let percent = share * 100.0;
            warnings.push(format!(
                "the clients used {percent:.0} % of what they have, so the server may be faster than this"
            ));
        }
        if let Pace::Rate(rate) = plan.pace
            && load.triggers_per_second < 0.98 * rate
        {
            let complete = load.triggers_per_second;
            warnings.push(format!(
                "{complete:.1} triggers/s of {rate} became complete: the server or the publishers do not keep up"
            ));
        }
        warnings
    }
}

fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}
