//! A limit on lines that input can repeat.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use smol_str::SmolStr;

/// The period in which [`BURST`] lines of a kind are let through.
const PERIOD: Duration = Duration::from_secs(10);
/// Lines of a kind that are let through in a period: enough to see whether they differ.
const BURST: u32 = 5;
/// Kinds of one place in the code that are told apart.
const MOST_KINDS: usize = 64;
/// The kind of all beyond that.
const OTHERS: &str = "others";

/// Every limit that has suppressed a line.
static IN_USE: Mutex<Vec<&'static Limit>> = Mutex::new(Vec::new());

/// Limits the lines of one place in the code, by kind: five lines of a kind in ten seconds. The others are counted, and their
/// number is logged when the ten seconds are over. [`limited!`] makes one for each place that uses it.
pub(crate) struct Limit {
    report: fn(&str, u64),
    periods: Mutex<BTreeMap<SmolStr, Period>>,
    is_in_use: AtomicBool,
}

#[derive(Debug)]
struct Period {
    start: Instant,
    lines: u32,
    suppressed: u64,
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit").field("periods", &self.periods).finish_non_exhaustive()
    }
}

impl Limit {
    /// A limit that logs with `report` how many lines of a kind it has suppressed.
    pub(crate) const fn new(report: fn(&str, u64)) -> Self {
        Self { report, periods: Mutex::new(BTreeMap::new()), is_in_use: AtomicBool::new(false) }
    }

    /// Returns whether a line of this kind may be logged now.
    pub(crate) fn admits(&'static self, kind: &str) -> bool {
        let is_admitted = self.admits_at(kind, Instant::now());
        if !is_admitted && !self.is_in_use.swap(true, Relaxed) {
            IN_USE.lock().push(self);
        }
        is_admitted
    }

    fn admits_at(&self, kind: &str, now: Instant) -> bool {
        let mut periods = self.periods.lock();
        let kind = if periods.len() < MOST_KINDS || periods.contains_key(kind) { kind } else { OTHERS };
        let period = periods.entry(kind.into()).or_insert(Period { start: now, lines: 0, suppressed: 0 });
        let mut suppressed = 0;
        if now.duration_since(period.start) >= PERIOD {
            suppressed = std::mem::take(&mut period.suppressed);
            (period.start, period.lines) = (now, 0);
        }
        let is_admitted = period.lines < BURST;
        if is_admitted {
            period.lines += 1;
        } else {
            period.suppressed += 1;
        }
        drop(periods); // a report may come back here
        if suppressed > 0 {
            (self.report)(kind, suppressed);
        }
        is_admitted
    }

    /// Reports and forgets the kinds of which `is_over` says so.
    fn report(&self, is_over: impl Fn(&Period) -> bool) {
        let over: Vec<_> = self.periods.lock().extract_if(.., |_, period| is_over(period)).collect();
        for (kind, period) in over {
            if period.suppressed > 0 {
                (self.report)(&kind, period.suppressed);
            }
        }
    }
}

/// Reports the suppressed lines of all periods that are over at `now`.
pub(super) fn report_over(now: Instant) {
    report(|period| now.duration_since(period.start) >= PERIOD);
}

/// Reports all suppressed lines.
pub(super) fn report_all() {
    report(|_| true);
}

fn report(is_over: impl Fn(&Period) -> bool) {
    let in_use = IN_USE.lock().clone(); // a report may put another limit into use
    in_use.iter().for_each(|limit| limit.report(&is_over));
}

/// Logs a line that input can repeat, through a [`Limit`] of its own:
/// `limited!(warn[error.kind()], "trigger dropped", %error)`. The kind in brackets comes from a closed list, and may be left out;
/// the fields are those of `tracing`, and are only evaluated if the line is logged.
macro_rules! limited {
    ($level:ident[$kind:expr], $message:literal $(, $($fields:tt)+)?) => {{
        static LIMIT: $crate::logging::Limit = $crate::logging::Limit::new(|kind, suppressed| {
            tracing::$level!(kind, suppressed, "{}: similar lines suppressed", $message);
        });
        let kind: &str = $kind;
        if LIMIT.admits(kind) {
            tracing::$level!(kind, $($($fields)+,)? $message);
        }
    }};
    ($level:ident, $message:literal $(, $($fields:tt)+)?) => {{
        static LIMIT: $crate::logging::Limit = $crate::logging::Limit::new(|_, suppressed| {
            tracing::$level!(suppressed, "{}: similar lines suppressed", $message);
        });
        if LIMIT.admits("") {
            tracing::$level!($($($fields)+,)? $message);
        }
    }};
}
pub(crate) use limited;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a limit of these tests has reported, by kind.
    static REPORTED: Mutex<Vec<(SmolStr, u64)>> = Mutex::new(Vec::new());

    fn reported(limit: &Limit) -> Vec<(SmolStr, u64)> {
        REPORTED.lock().clone().into_iter().filter(|_| limit.periods.try_lock().is_some()).collect()
    }

    #[test]
    fn a_few_lines_of_each_kind_pass_and_the_rest_is_counted_and_reported_once() {
        let limit = Limit::new(|kind, suppressed| REPORTED.lock().push((kind.into(), suppressed)));
        let start = Instant::now();
        let passed = |kind: &str, count, seconds| {
            let now = start + Duration::from_secs(seconds);
            (0..count).filter(|_| limit.admits_at(kind, now)).count()
        };
        assert_eq!((passed("gzip", 900, 0), passed("NaN", 3, 9), passed("gzip", 100, 9)), (5, 3, 0));
        assert!(reported(&limit).is_empty());
        // The next line after the period reports those before it.
        assert_eq!(passed("gzip", 7, 10), 5);
        assert_eq!(reported(&limit), [("gzip".into(), 995)]);
        // Where none comes, the look does. A kind that suppressed nothing is forgotten in silence.
        limit.report(|period| (start + Duration::from_secs(20)).duration_since(period.start) >= PERIOD);
        assert_eq!(reported(&limit), [("gzip".into(), 995), ("gzip".into(), 2)]);
        assert!(limit.periods.lock().is_empty());
        // However many kinds there are, few are kept.
        for kind in 0..1000 {
            passed(&kind.to_string(), 1, 30);
        }
        assert_eq!(limit.periods.lock().len(), MOST_KINDS + 1);
    }
}
