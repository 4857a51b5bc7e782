//! What is told: a row for some seconds each, and the whole.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Arguments, Outcome, api::Asked, crowd::Record, healthy::Verdict, server::Usage, socket::Version};

/// Up to here a row for each second, then one for every [`STRIDE`].
const CLOSE: usize = 10;
const STRIDE: usize = 5;
/// What is told of when clients were back.
const SHARES: [f64; 4] = [0.5, 0.9, 0.99, 1.0];

/// How things stood some seconds after the cut, and what came in the second before that.
pub(crate) struct Row {
    pub(crate) seconds: f64,
    pub(crate) back: usize,
    pub(crate) api: Asked,
    /// Latencies, in microseconds.
    pub(crate) healthy: Vec<u32>,
    pub(crate) server: Usage,
    pub(crate) own: Usage,
}

pub(crate) struct Report {
    head: Value,
    clients: usize,
    rate: f64,
    before: (Vec<u32>, Usage),
    rows: Vec<Row>,
    told: usize,
    whole: Value,
}

impl Report {
    /// Of what is known before the cut. The API's numbers are those of the gathering.
    pub(crate) fn new(arguments: &Arguments, healthy: Vec<u32>, server: Usage, gathering: Asked) -> Self {
        let head = json!({
            "clients": arguments.clients, "v3_share": arguments.v3, "healthy": arguments.healthy,
            "trigger_every_ms": arguments.every, "api_rate": arguments.rate, "api_workers": arguments.workers,
            "api_connections": arguments.connections, "api_concurrency": arguments.concurrency,
            "env": arguments.env, "pinned": !arguments.unpinned,
            "gathering": {"api_requests": gathering.requests, "api_most_at_once": gathering.most_at_once},
        });
        let (clients, rate, before) = (arguments.clients, arguments.rate, (healthy, server));
        Self { head, clients, rate, before, rows: Vec::new(), told: 0, whole: Value::Null }
    }

    /// Prints what has not been printed, if it is time for that.
    pub(crate) fn enter(&mut self, row: Row, is_last: bool) -> Outcome<()> {
        self.rows.push(row);
        let count = self.rows.len();
        if count > CLOSE && !count.is_multiple_of(STRIDE) && !is_last {
            return Ok(());
        }
        if self.told == 0 {
            let (api, healthy) = ("API requests", "healthy, ms");
            writeln!(io::stdout(), "{:>8} {:>7} {api:>26} {:>14} {healthy:>15}", "", "", "server")?;
            let columns = ["/s", "at once", "in vain", "MiB", "CPU %", "p99", "max"];
            let [a, b, c, d, e, f, g] = columns;
            writeln!(io::stdout(), "{:>8} {:>7} {a:>8} {b:>8} {c:>8} {d:>8} {e:>5} {f:>7} {g:>7}", "second", "back")?;
        }
        let Some(last) = self.rows.last() else { return Ok(()) };
        let (start, cpu) = match self.told.checked_sub(1).and_then(|at| self.rows.get(at)) {
            Some(row) => (row.seconds, row.server.cpu),
            None => (0.0, self.before.1.cpu),
        };
        let new = self.rows.get(self.told..).unwrap_or_default();
        let seconds = last.seconds - start;
        let latencies = Latencies::of(new.iter().flat_map(|row| &row.healthy));
        writeln!(
            io::stdout(),
            "{:>8.0} {:>7} {:>8.0} {:>8} {:>8} {:>8.1} {:>5.0} {:>7.1} {:>7.1}",
            last.seconds,
            last.back,
            new.iter().map(|row| row.api.requests).sum::<u64>() as f64 / seconds,
            new.iter().map(|row| row.api.most_at_once).max().unwrap_or(0),
            new.iter().map(|row| row.api.in_vain).sum::<u64>(),
            mib(last.server.memory_kib),
            last.server.cpu.saturating_sub(cpu).as_secs_f64() / seconds * 100.0,
            latencies.p99,
            latencies.max,
        )?;
        self.told = count;
        Ok(())
    }

    /// Enters how it ended.
    pub(crate) fn end(&mut self, records: &[Record], cut: Instant, after: Vec<u32>, verdict: Verdict, server: Usage) {
        let requests: u64 = self.rows.iter().map(|row| row.api.requests).sum();
        let in_vain: u64 = self.rows.iter().map(|row| row.api.in_vain).sum();
        let last = self.rows.last();
        let seconds = last.map_or(0.0, |row| row.seconds);
        let used = |of: fn(&Usage) -> Duration| {
            last.map_or(0.0, |row| of(&row.server).saturating_sub(of(&self.before.1)).as_secs_f64())
        };
        let (cpu, kernel) = (used(|usage| usage.cpu), used(|usage| usage.kernel));
        let own = self.rows.first().zip(last).map(|(first, last)| last.own.cpu.saturating_sub(first.own.cpu));
        let of = |version| records.iter().filter(move |record| record.version == version);
        let during = self.rows.iter().flat_map(|row| &row.healthy);
        self.whole = json!({
            "seconds_until_back": {
                "all": returns(records.iter(), cut),
                "v4": returns(of(Version::V4), cut),
                "v3": returns(of(Version::V3), cut),
                "arithmetic": SHARES.map(|share| share * self.clients as f64 / self.rate),
            },
            "not_back": records.iter().filter(|record| record.since.is_none()).count(),
            "lost_again": records.iter().map(|record| record.lost_again).sum::<u32>(),
            "api": {
                "requests": requests,
                "requests_per_client": requests as f64 / self.clients as f64,
                "requests_per_second": requests as f64 / seconds,
                "in_vain": in_vain,
                "most_at_once": self.rows.iter().map(|row| row.api.most_at_once).max(),
            },
            "per_client": {"v4": attempts(of(Version::V4)), "v3": attempts(of(Version::V3))},
            "healthy_ms": {
                "before": Latencies::of(&self.before.0).json(),
                "during": Latencies::of(during).json(),
                "after": Latencies::of(&after).json(),
            },
            "healthy": {
                "posted": verdict.posted, "confirmed": verdict.confirmed, "closed": verdict.closed,
                "missed": verdict.missed, "disordered": verdict.disordered, "is_well": verdict.is_well(),
            },
            "server": {
                "memory_before_mib": mib(self.before.1.memory_kib),
                "memory_peak_mib": mib(self.rows.iter().map(|row| row.server.memory_kib).max().unwrap_or(0)),
                "memory_after_mib": mib(server.memory_kib),
                "memory_most_ever_mib": mib(server.most_kib),
                "cpu_seconds": cpu,
                "kernel_cpu_seconds": kernel,
                "cpu_ms_per_client": cpu * 1000.0 / self.clients as f64,
            },
            "own_cpu_percent": own.map(|own| own.as_secs_f64() / (seconds - 1.0).max(1.0) * 100.0),
        });
    }

    /// Prints how it ended.
    pub(crate) fn print(&self) -> io::Result<()> {
        let (whole, mut out) = (&self.whole, io::stdout().lock());
        let number = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |number| format!("{number:.1}"));
        writeln!(out, "\n{:>12} {:>8} {:>8} {:>8} {:>8}", "back, s", "50 %", "90 %", "99 %", "100 %")?;
        for who in ["all", "v4", "v3", "arithmetic"] {
            let [a, b, c, d] = [0, 1, 2, 3].map(|at| number(&whole["seconds_until_back"][who][at]));
            writeln!(out, "{who:>12} {a:>8} {b:>8} {c:>8} {d:>8}")?;
        }
        writeln!(out, "not back: {}; lost again after that: {}", whole["not_back"], whole["lost_again"])?;
        let api = &whole["api"];
        writeln!(
            out,
            "API: {} requests, {:.2} per client, {:.0} in a second; {} in vain; at most {} at once",
            api["requests"],
            api["requests_per_client"].as_f64().unwrap_or_default(),
            api["requests_per_second"].as_f64().unwrap_or_default(),
            api["in_vain"],
            api["most_at_once"],
        )?;
        writeln!(
            out,
            "\n{:>12} {:>16} {:>16} {:>16} {:>16}",
            "per client", "attempts", "told later", "refused", "lost"
        )?;
        for who in ["v4", "v3"] {
            let told = ["attempts", "told_later", "refused", "lost"].map(|what| {
                let what = &whole["per_client"][who][what];
                format!("{:.2}, at most {}", what["mean"].as_f64().unwrap_or_default(), what["max"])
            });
            let [a, b, c, d] = told;
            writeln!(out, "{who:>12} {a:>16} {b:>16} {c:>16} {d:>16}")?;
        }
        writeln!(out, "\n{:>12} {:>8} {:>8} {:>8} {:>10}", "healthy, ms", "p50", "p99", "max", "deliveries")?;
        for when in ["before", "during", "after"] {
            let window = &whole["healthy_ms"][when];
            let [a, b, c] = ["p50", "p99", "max"].map(|what| number(&window[what]));
            writeln!(out, "{when:>12} {a:>8} {b:>8} {c:>8} {:>10}", window["count"])?;
        }
        let healthy = &whole["healthy"];
        let verdict = if healthy["is_well"] == json!(true) { "well" } else { "NOT WELL" };
        writeln!(
            out,
            "{verdict}: {} closed, {} deliveries missed, {} out of order; {} triggers posted, {} confirmed",
            healthy["closed"], healthy["missed"], healthy["disordered"], healthy["posted"], healthy["confirmed"],
        )?;
        let server = &whole["server"];
        let memory = ["before", "peak", "after", "most_ever"].map(|when| number(&server[format!("memory_{when}_mib")]));
        let [before, peak, after, most] = memory;
        writeln!(
            out,
            "\nserver: {before} MiB before, {peak} at the peak, {after} after ({most} resident at most since its start); \
             {} s of CPU, {} of them in the kernel, {} ms per client; the clients and the API used {} % of a core",
            number(&server["cpu_seconds"]),
            number(&server["kernel_cpu_seconds"]),
            number(&server["cpu_ms_per_client"]),
            number(&whole["own_cpu_percent"]),
        )
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "second": row.seconds, "back": row.back, "api_requests": row.api.requests,
                "api_most_at_once": row.api.most_at_once, "api_in_vain": row.api.in_vain,
                "memory_mib": mib(row.server.memory_kib), "cpu_seconds": row.server.cpu.as_secs_f64(),
                "healthy_ms": Latencies::of(&row.healthy).json(),
            })
        });
        json!({"arguments": self.head, "rows": rows.collect::<Vec<_>>(), "whole": self.whole})
    }
}

/// In milliseconds.
struct Latencies {
    count: usize,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Latencies {
    fn of<'a>(microseconds: impl IntoIterator<Item = &'a u32>) -> Self {
        let mut all: Vec<u32> = microseconds.into_iter().copied().collect();
        all.sort_unstable();
        let at = |share| quantile(&all, share).map_or(0.0, |us| f64::from(*us) / 1000.0);
        Self { count: all.len(), p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }

    fn json(&self) -> Value {
        json!({"count": self.count, "p50": self.p50, "p99": self.p99, "max": self.max})
    }
}

/// The least of the sorted values that a `share` of all are not above.
fn quantile<T>(sorted: &[T], share: f64) -> Option<&T> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1))
}

/// Seconds until the shares were back; `null` where so many are not.
fn returns<'a>(records: impl Iterator<Item = &'a Record>, cut: Instant) -> Value {
    let back = |record: &Record| record.since.map_or(f64::INFINITY, |since| (since - cut).as_secs_f64());
    let mut all: Vec<f64> = records.map(back).collect();
    all.sort_unstable_by(f64::total_cmp);
    json!(SHARES.map(|share| quantile(&all, share).copied().filter(|back| back.is_finite())))
}

/// How often what came to a client.
fn attempts<'a>(records: impl Iterator<Item = &'a Record> + Clone) -> Value {
    let of = |what: fn(&Record) -> u32| {
        let (count, sum) = records.clone().fold((0_u32, 0), |(count, sum), record| (count + 1, sum + what(record)));
        json!({"mean": f64::from(sum) / f64::from(count.max(1)), "max": records.clone().map(what).max().unwrap_or(0)})
    };
    json!({
        "attempts": of(|record| record.attempts), "told_later": of(|record| record.told_later),
        "refused": of(|record| record.refused), "lost": of(|record| record.lost),
    })
}

fn mib(kib: u64) -> f64 {
    (kib as f64 / 102.4).round() / 10.0
}
