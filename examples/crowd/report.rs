//! What is told: what the server used, and how long messages took.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    Arguments,
    listeners::{By, Listeners},
    server::Usage,
};

/// How things stood at some time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) server: Usage,
    pub(crate) own: Usage,
    /// Polls that have been answered.
    pub(crate) polls: u64,
}

pub(crate) struct Report {
    before: Sample,
    whole: Value,
}

/// The columns of what the server used, by their names in the JSON.
const COLUMNS: [(&str, &str); 6] = [
    ("seconds", "s"),
    ("memory_mib", "MiB"),
    ("cpu_percent", "CPU %"),
    ("kernel_cpu_percent", "kernel %"),
    ("polls_per_second", "polls/s"),
    ("own_cpu_percent", "clients %"),
];

impl Report {
    /// `before` anybody is there.
    pub(crate) fn new(arguments: &Arguments, before: Sample) -> Self {
        let whole = json!({
            "sockets": arguments.sockets, "polls": arguments.polls, "messages": arguments.messages,
            "every_ms": arguments.every, "pinned": !arguments.unpinned,
            "server": {"empty": {"memory_mib": mib(before.server.memory_kib)}},
        });
        Self { before, whole }
    }

    pub(crate) fn gathered(&mut self, after: Sample) {
        self.whole["server"]["connecting"] = used(&self.before, &after);
    }

    pub(crate) fn idled(&mut self, before: Sample, after: Sample) {
        self.whole["server"]["idle"] = used(&before, &after);
    }

    /// The messages, until everybody had the last. `calls_us`: how long the calls took.
    pub(crate) fn posted(&mut self, before: Sample, after: Sample, calls_us: Vec<u32>) {
        self.whole["server"]["messages"] = used(&before, &after);
        let calls = sorted(calls_us);
        self.whole["call_ms"] = json!({"median": quantile(&calls, 0.5), "worst": quantile(&calls, 1.0)});
    }

    pub(crate) fn end(&mut self, after: Sample, crowd: [&Listeners; 2]) {
        let server = &mut self.whole["server"];
        server["after"] = json!({"memory_mib": mib(after.server.memory_kib)});
        server["memory_most_ever_mib"] = json!(mib(after.server.most_kib));
        let messages = self.whole["messages"].as_u64().unwrap_or(0);
        for listeners in crowd {
            self.whole["messages_to"][word(listeners.by)] = reached(listeners, messages);
        }
    }

    /// Whether everybody has got everything, once and in its order.
    pub(crate) fn is_well(&self) -> bool {
        let is_well = |by| {
            let to = &self.whole["messages_to"][word(by)];
            ["missed", "wrong", "lost"].iter().all(|what| to[what] == 0)
        };
        is_well(By::Socket) && is_well(By::Poll)
    }

    pub(crate) fn print(&self) -> io::Result<()> {
        let (whole, mut out) = (&self.whole, io::stdout().lock());
        let number = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |number| format!("{number:.1}"));
        writeln!(
            out,
            "{} sockets and {} polls, {} messages, one every {} ms\n",
            whole["sockets"], whole["polls"], whole["messages"], whole["every_ms"]
        )?;
        write!(out, "{:>12}", "server")?;
        COLUMNS.iter().try_for_each(|(_, title)| write!(out, " {title:>9}"))?;
        for when in ["empty", "connecting", "idle", "messages", "after"] {
            write!(out, "\n{when:>12}")?;
            COLUMNS.iter().try_for_each(|(key, _)| write!(out, " {:>9}", number(&whole["server"][when][key])))?;
        }
        let titles = ["deliveries", "p50", "p99", "last: p50", "worst", "missed", "wrong", "lost", "caught up"];
        write!(out, "\n\n{:>12}", "ms")?;
        titles.iter().try_for_each(|title| write!(out, " {title:>10}"))?;
        for by in [By::Socket, By::Poll] {
            let to = &whole["messages_to"][word(by)];
            write!(out, "\n{:>12} {:>10}", word(by), to["deliveries"].to_string())?;
            let times = [&to["ms"]["p50"], &to["ms"]["p99"], &to["last_ms"]["median"], &to["last_ms"]["worst"]];
            times.iter().try_for_each(|time| write!(out, " {:>10}", number(time)))?;
            ["missed", "wrong", "lost", "caught_up"]
                .iter()
                .try_for_each(|what| write!(out, " {:>10}", to[what].to_string()))?;
            if let Some(loss) = to["loss"].as_str() {
                write!(out, "  (the first lost one: {loss})")?;
            }
        }
        let verdict = if self.is_well() { "well" } else { "NOT WELL" };
        let call = &whole["call_ms"];
        writeln!(
            out,
            "\n\n{verdict}; a call is answered after {} ms (median), {} ms (worst); the server had {} MiB at most",
            number(&call["median"]),
            number(&call["worst"]),
            whole["server"]["memory_most_ever_mib"],
        )
    }

    pub(crate) fn json(&self) -> &Value {
        &self.whole
    }
}

/// What was used from one sample to the other.
fn used(before: &Sample, after: &Sample) -> Value {
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    let percent = |before: Duration, after: Duration| tenths((after - before).as_secs_f64() / seconds * 100.0);
    json!({
        "seconds": tenths(seconds),
        "memory_mib": mib(after.server.memory_kib),
        "cpu_percent": percent(before.server.cpu, after.server.cpu),
        "kernel_cpu_percent": percent(before.server.kernel, after.server.kernel),
        "own_cpu_percent": percent(before.own.cpu, after.own.cpu),
        "polls_per_second": tenths((after.polls - before.polls) as f64 / seconds),
    })
}

/// How messages came to all of these.
fn reached(listeners: &Listeners, messages: u64) -> Value {
    let latencies_us = listeners.latencies_us();
    let all = sorted(latencies_us.iter().flatten().copied().collect());
    let last = sorted(latencies_us.iter().filter_map(|of_one| of_one.iter().max()).copied().collect());
    let verdict = listeners.verdict(messages);
    json!({
        "deliveries": all.len(),
        "ms": {"p50": quantile(&all, 0.5), "p99": quantile(&all, 0.99)},
        "last_ms": {"median": quantile(&last, 0.5), "worst": quantile(&last, 1.0)},
        "missed": verdict.missed, "wrong": verdict.wrong, "lost": verdict.lost, "loss": verdict.loss,
        "caught_up": verdict.caught_up,
    })
}

fn word(by: By) -> &'static str {
    match by {
        By::Socket => "sockets",
        By::Poll => "polls",
    }
}

fn sorted(mut microseconds: Vec<u32>) -> Vec<u32> {
    microseconds.sort_unstable();
    microseconds
}

/// The least of the sorted values that a `share` of all are not above, in milliseconds.
fn quantile(sorted_us: &[u32], share: f64) -> Option<f64> {
    let rank = (sorted_us.len() as f64 * share).ceil() as usize;
    sorted_us.get(rank.saturating_sub(1)).map(|us| tenths(f64::from(*us) / 1000.0))
}

fn mib(kib: u64) -> f64 {
    tenths(kib as f64 / 1024.0)
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
