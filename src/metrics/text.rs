//! The two text formats that Prometheus reads.

use std::fmt::Write;

/// A text format of `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    /// OpenMetrics, version 1.0.0
    /// (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
    OpenMetrics,
    /// Prometheus, version 0.0.4
    /// (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
    Prometheus,
}

impl TextFormat {
    /// Returns the value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Translates OpenMetrics text, as the registry writes it, into Prometheus text.
///
/// OpenMetrics names a counter without the `_total` of its sample, has units, and ends with a mark. Prometheus text describes a
/// counter under the name of its sample, and knows neither of the others.
pub(super) fn to_prometheus(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len() + openmetrics.len() / 8);
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' '); // written when the type is known
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take() {
                let _ = writeln!(text, "# HELP {name}{suffix} {help}"); // a string takes anything
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::metrics::Metrics;

    /// Reads Prometheus text as its description has it and panics at anything else; the samples by name and labels.
    fn parse(text: &str) -> BTreeMap<String, f64> {
        assert!(text.ends_with('\n'));
        let mut described: Option<(&str, &str)> = None; // name and type of the family
        let (mut helped, mut typed) = (BTreeSet::new(), BTreeSet::new());
        let mut samples = BTreeMap::new();
        for line in text.lines() {
            if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
                assert!(helped.insert(name) && !help.is_empty(), "{line}");
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
                assert!(helped.contains(name) && typed.insert(name), "{line}");
                assert!(["counter", "gauge"].contains(&kind), "{line}");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                described = Some((name, kind));
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').map_or((series, None), |(name, rest)| (name, Some(rest)));
                assert_eq!(Some(name), described.map(|(name, _)| name), "{line}");
                assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
                if let Some(label) = labels {
                    let (label, value) = label.strip_suffix("\"}").unwrap().split_once("=\"").unwrap();
                    assert!(["reason", "outcome"].contains(&label) && !value.contains(['"', '\\']), "{line}");
                }
                assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{line}");
            }
        }
        samples
    }

    #[test]
    fn prometheus_text_has_every_number_of_openmetrics_under_the_same_name() {
        let metrics = Metrics::default();
        metrics.triggers.inc();
        metrics.connections.set(-3);
        metrics.triggers_dropped.inc("no-data");
        metrics.triggers_dropped.inc("no-rooms");
        metrics.dispatch_busy_seconds.begin(1);
        metrics.dispatch_busy_seconds.end();
        let openmetrics = metrics.text().unwrap();
        let samples = parse(&to_prometheus(&openmetrics));
        assert_eq!(samples["high_templar_triggers_total"], 1.0);
        assert_eq!(samples["high_templar_connections"], -3.0);
        assert_eq!(samples["high_templar_triggers_dropped_total{reason=\"no-rooms\"}"], 1.0);
        assert!(samples.contains_key("high_templar_start_time_seconds"));
        for counter in ["dispatch_busy_seconds", "log_lines_dropped", "panics"] {
            assert!(samples.contains_key(&format!("high_templar_{counter}_total")), "{counter}");
        }
        let lines: BTreeSet<_> = openmetrics.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(samples.len(), lines.len());
    }
}
