//! Counters that are split by a word from a fixed list.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::RwLock;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::Counter},
};

/// What happened to a request to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered as hoped.
    Ok,
    /// Answered with another status than hoped.
    Refused,
    /// No answer in time.
    TimedOut,
    /// No connection, or one that broke.
    Unreachable,
    /// Answered with an HTML page.
    Page,
    /// An answer that could not be read.
    Malformed,
    /// Not sent: too many were waiting.
    Dropped,
}

impl Outcome {
    /// The word that it is counted under.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "Ok",
            Self::Refused => "Refused",
            Self::TimedOut => "TimedOut",
            Self::Unreachable => "Unreachable",
            Self::Page => "Page",
            Self::Malformed => "Malformed",
            Self::Dropped => "Dropped",
        }
    }
}

/// How often each word was counted so far.
pub type Counts = BTreeMap<&'static str, u64>;

/// A counter for each word, from its first use on.
#[derive(Debug, Clone, Default)]
struct Words(Arc<RwLock<BTreeMap<&'static str, Counter>>>);

impl Words {
    fn inc(&self, word: &'static str) {
        if let Some(counter) = self.0.read().get(word) {
            counter.inc();
            return;
        }
        self.0.write().entry(word).or_default().inc();
    }

    fn counts(&self) -> Counts {
        self.0.read().iter().map(|(word, counter)| (*word, counter.get())).collect()
    }

    fn encode(&self, label: &'static str, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (word, counter) in self.0.read().iter() {
            counter.encode(encoder.encode_family(&[(label, *word)])?)?;
        }
        Ok(())
    }
}

/// A counter that is split by a reason.
#[derive(Debug, Clone, Default)]
pub struct ByWord(Words);

impl ByWord {
    /// Adds one under `reason`.
    pub fn inc(&self, reason: &'static str) {
        self.0.inc(reason);
    }

    /// What was counted under each reason.
    pub fn counts(&self) -> Counts {
        self.0.counts()
    }
}

impl EncodeMetric for ByWord {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode("reason", encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// A counter that is split by [`Outcome`].
#[derive(Debug, Clone, Default)]
pub struct ByResult(Words);

impl ByResult {
    /// Adds one under `outcome`.
    pub fn inc(&self, outcome: Outcome) {
        self.0.inc(outcome.word());
    }

    /// What was counted under each outcome.
    pub fn counts(&self) -> Counts {
        self.0.counts()
    }
}

impl EncodeMetric for ByResult {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode("outcome", encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}
