//! Counts of the whole process, whichever server of it is asked.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::ConstCounter,
};

use crate::logging;

/// What the log counts.
#[derive(Debug)]
pub(super) struct LogCounts;

impl Collector for LogCounts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = [
            ("log_lines_dropped", "Log lines that did not reach standard error.", logging::lines_dropped()),
            ("panics", "Panics of a task or thread; each is a bug.", logging::panics()),
        ];
        for (name, help, count) in counts {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
