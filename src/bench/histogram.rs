//! Latencies, counted in buckets that grow with the value: any quantile, at a fixed size and with a bounded error.

use std::time::Duration;

/// Buckets in each doubling; a quantile is too large by at most one part in this many.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.ilog2();
/// One group of buckets for each doubling of a number of nanoseconds, and one for the numbers below [`STEPS`].
const BUCKETS: usize = ((64 - STEP_BITS as usize) + 1) * STEPS as usize;

/// How often which latency was seen.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    least_ns: u64,
    most_ns: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; BUCKETS].into(), total: 0, least_ns: u64::MAX, most_ns: 0 }
    }

    pub(super) fn record(&mut self, latency_ns: u64) {
        if let Some(count) = self.counts.get_mut(bucket(latency_ns)) {
            *count += 1;
        }
        self.total += 1;
        self.least_ns = self.least_ns.min(latency_ns);
        self.most_ns = self.most_ns.max(latency_ns);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub(super) fn min(&self) -> Duration {
        Duration::from_nanos(if self.is_empty() { 0 } else { self.least_ns })
    }

    pub(super) fn max(&self) -> Duration {
        Duration::from_nanos(self.most_ns)
    }

    /// The least latency that a `share` (0 to 1) of all were not above; at most 1/64 too large. 0 where there are none.
    pub(super) fn quantile(&self, share: f64) -> Duration {
        let wanted = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut below = 0;
        for (at, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= wanted {
                return Duration::from_nanos(upper_ns(at).min(self.most_ns));
            }
        }
        self.max()
    }

    /// Upper bounds and counts, `parts` of them (a power of two up to 64) for each doubling, from the first that is not
    /// empty to the last.
    pub(super) fn coarse(&self, parts: u64) -> Vec<(Duration, u64)> {
        let width = (STEPS / parts.clamp(1, STEPS)) as usize;
        let groups: Vec<(Duration, u64)> = self
            .counts
            .chunks(width)
            .enumerate()
            .map(|(at, counts)| (Duration::from_nanos(upper_ns(at * width + width - 1)), counts.iter().sum()))
            .collect();
        let first = groups.iter().position(|(_, count)| *count > 0).unwrap_or(0);
        let end = groups.iter().rposition(|(_, count)| *count > 0).map_or(first, |last| last + 1);
        groups.get(first..end).unwrap_or_default().to_vec()
    }
}

fn bucket(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    // The leading bit says which doubling, the bits behind it which step of that.
    let doubling = value.ilog2() - STEP_BITS;
    let step = (value >> doubling) - STEPS;
    ((u64::from(doubling) + 1) * STEPS + step) as usize
}

/// The largest value of a bucket.
fn upper_ns(bucket: usize) -> u64 {
    let (group, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    match group {
        0 => step,
        group => ((u128::from(STEPS + step + 1) << (group - 1)) - 1).try_into().unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_quantile_is_never_below_the_true_one_and_at_most_a_64th_above(
            mut values in prop::collection::vec(prop_oneof![0..1000_u64, 0..1_000_000_000_u64, any::<u64>()], 1..300),
            share in 0.0..=1.0_f64,
        ) {
            let mut histogram = Histogram::new();
            values.iter().for_each(|value| histogram.record(*value));
            values.sort_unstable();
            let rank = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len());
            let truth = values[rank - 1];
            let told = u64::try_from(histogram.quantile(share).as_nanos()).unwrap();
            prop_assert!(told >= truth && told - truth <= truth / STEPS, "{told} for {truth}");
            prop_assert_eq!(histogram.min(), Duration::from_nanos(values[0]));
            prop_assert_eq!(histogram.max(), Duration::from_nanos(values[values.len() - 1]));
        }

        #[test]
        fn every_value_lies_in_its_bucket(value: u64) {
            let at = bucket(value);
            prop_assert!(value <= upper_ns(at));
            prop_assert!(at == 0 || value > upper_ns(at - 1));
        }
    }

    #[test]
    fn coarse_buckets_hold_all_values_and_no_empty_ends() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.quantile(0.5), histogram.coarse(1)), (Duration::ZERO, vec![]));
        for value in [1000, 1500, 9000] {
            histogram.record(value);
        }
        let ns = Duration::from_nanos;
        assert_eq!(histogram.coarse(1), [(ns(1023), 1), (ns(2047), 1), (ns(4095), 0), (ns(8191), 0), (ns(16383), 1)]);
    }
}
