//! What was measured, as JSON with stable names and as text.

use std::{
    fmt::{self, Write},
    time::Duration,
};

use serde::Serialize;

use super::{histogram::Histogram, ledger::Faults};

/// The most characters a bar of the histogram has.
const BAR: usize = 40;

/// A whole run. Absent fields were not asked for, or are not known because the server's process is not.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: &'static str,
    pub(super) target: String,
    pub(super) connections: u32,
    pub(super) subscriptions: u32,
    pub(super) rooms: u32,
    pub(super) size_bytes: usize,
    pub(super) publishers: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) window: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate_per_s: Option<f64>,
    pub(super) poll: &'static str,
    pub(super) connect: Connect,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idle: Option<Idle>,
    #[serde(flatten)]
    pub(super) load: Option<Load>,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) out_of_order: u64,
    /// Deliveries to a subscription that is not in the trigger's room.
    pub(super) misdelivered: u64,
    /// Connections that the server closed.
    pub(super) closed: u32,
    pub(super) closings: Vec<Closings>,
    pub(super) warnings: Vec<String>,
}

/// Connecting: handshake, welcome and subscriptions.
#[derive(Debug, Serialize)]
pub(super) struct Connect {
    pub(super) seconds: f64,
    pub(super) per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_cpu_us_each: Option<f64>,
}

/// Connections that sit there and ping.
#[derive(Debug, Serialize)]
pub(super) struct Idle {
    pub(super) seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_user_bytes_per_connection: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_cpu_percent: Option<f64>,
}

/// The time that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Load {
    pub(super) seconds: f64,
    /// Triggers that reached everybody.
    pub(super) triggers: u64,
    pub(super) deliveries: u64,
    pub(super) triggers_per_second: f64,
    pub(super) deliveries_per_second: f64,
    #[serde(flatten)]
    pub(super) cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) broker_cpu_us_per_trigger: Option<f64>,
    pub(super) latency_ms: Latency,
    /// Upper bounds in milliseconds, and how many deliveries took no longer and longer than the bound before.
    pub(super) histogram: Vec<(f64, u64)>,
    #[serde(skip)]
    pub(super) bars: Vec<(Duration, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) probe: Option<Probe>,
    /// Share of a core that the clients' thread used.
    pub(super) client_busy: f64,
}

/// What the server's processes used.
#[derive(Debug, Serialize)]
pub(super) struct Cpu {
    pub(super) server_cpu_percent: f64,
    pub(super) server_cpu_us_per_trigger: f64,
    pub(super) server_cpu_us_per_delivery: f64,
    pub(super) server_user_cpu_us_per_delivery: f64,
    pub(super) server_system_cpu_us_per_delivery: f64,
}

/// The room of one member beside the load.
#[derive(Debug, Serialize)]
pub(super) struct Probe {
    pub(super) rate_per_s: f64,
    pub(super) deliveries: u64,
    #[serde(flatten)]
    pub(super) latency: Latency,
}

/// Percentiles of a latency, in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    min: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// Connections that the server closed in the same way.
#[derive(Debug, Serialize)]
pub(super) struct Closings {
    pub(super) code: Option<u16>,
    pub(super) reason: String,
    pub(super) connections: u32,
}

impl Latency {
    pub(super) fn of(histogram: &Histogram) -> Self {
        let quantile = |share| ms(histogram.quantile(share));
        Self {
            min: ms(histogram.min()),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: ms(histogram.max()),
        }
    }
}

/// In milliseconds, to the microsecond.
pub(super) fn ms(duration: Duration) -> f64 {
    round(duration.as_secs_f64() * 1000.0)
}

/// To three decimals, which is more than any of this is exact to.
pub(super) fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

impl Report {
    /// Whether everything arrived, once, in order, and everybody stayed.
    pub(super) fn is_well(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.out_of_order == 0 && self.misdelivered == 0 && self.closed == 0
    }

    pub(super) fn enter_faults(&mut self, faults: Faults, misdelivered: u64) {
        (self.lost, self.doubled, self.out_of_order) = (faults.lost, faults.doubled, faults.out_of_order);
        self.misdelivered = misdelivered;
    }

    /// The text for people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to memory does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut impl Write) -> fmt::Result {
        let Self { target, connections, subscriptions, rooms, size_bytes, .. } = self;
        writeln!(out, "target       {target}")?;
        let pace = match (self.window, self.rate_per_s) {
            (_, Some(rate)) => format!("{rate} triggers/s"),
            (window, None) => format!("{} in flight", window.unwrap_or_default()),
        };
        writeln!(
            out,
            "setting      {connections} connections, {subscriptions} subscriptions, {rooms} rooms; {size_bytes} bytes, {pace}"
        )?;
        let Connect { seconds, per_second, server_cpu_us_each } = &self.connect;
        let cpu = server_cpu_us_each.map(|us| format!(", {us:.0} µs of server CPU each")).unwrap_or_default();
        writeln!(out, "connect      {seconds:.2} s, {per_second:.0}/s{cpu}")?;
        if let Some(idle) = &self.idle {
            write!(out, "idle         {:.0} s", idle.seconds)?;
            if let (Some(bytes), Some(percent)) = (idle.server_user_bytes_per_connection, idle.server_cpu_percent) {
                write!(out, ": {bytes:.0} bytes of server memory each, {percent:.2} % of a core")?;
            }
            writeln!(out)?;
        }
        if let Some(load) = &self.load {
            load.write(out)?;
        }
        let Self { lost, doubled, out_of_order, misdelivered, closed, .. } = self;
        let verdict = if self.is_well() { "all right" } else { "WRONG" };
        write!(out, "verdict      {verdict}: {lost} lost, {doubled} doubled, {out_of_order} out of order, ")?;
        writeln!(out, "{misdelivered} to the wrong room, {closed} connections closed")?;
        for closing in &self.closings {
            let code = closing.code.map(|code| format!("{code} ")).unwrap_or_default();
            writeln!(out, "closed       {} connections: {code}{}", closing.connections, closing.reason)?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(out, "warning      {warning}"))
    }
}

impl Load {
    fn write(&self, out: &mut impl Write) -> fmt::Result {
        let Self { seconds, triggers, triggers_per_second, deliveries, deliveries_per_second, client_busy, .. } = self;
        writeln!(out, "measured     {seconds:.2} s, {triggers} triggers, {deliveries} deliveries")?;
        writeln!(out, "throughput   {deliveries_per_second:.0} deliveries/s, {triggers_per_second:.1} triggers/s")?;
        if let Some(cpu) = &self.cpu {
            writeln!(
                out,
                "server CPU   {:.3} µs a delivery ({:.3} user, {:.3} system), {:.1} µs a trigger, {:.0} % of a core",
                cpu.server_cpu_us_per_delivery,
                cpu.server_user_cpu_us_per_delivery,
                cpu.server_system_cpu_us_per_delivery,
                cpu.server_cpu_us_per_trigger,
                cpu.server_cpu_percent,
            )?;
        }
        if let Some(us) = self.broker_cpu_us_per_trigger {
            writeln!(out, "broker CPU   {us:.1} µs a trigger")?;
        }
        writeln!(out, "client CPU   {:.0} % of a core", client_busy * 100.0)?;
        writeln!(out, "latency      {}", self.latency_ms)?;
        if let Some(probe) = &self.probe {
            writeln!(out, "probe        {} ({} deliveries)", probe.latency, probe.deliveries)?;
        }
        let most = self.bars.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
        for (upper, count) in &self.bars {
            let length = (*count as f64 / most as f64 * BAR as f64).ceil() as usize;
            writeln!(out, "{:>9.3} ms {:<BAR$} {count}", ms(*upper), "█".repeat(length))?;
        }
        Ok(())
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, p50, p90, p99, p999, max } = self;
        write!(f, "min {min:.2}, p50 {p50:.2}, p90 {p90:.2}, p99 {p99:.2}, p99.9 {p999:.2}, max {max:.2} ms")
    }
}
