//! Counters and gauges, with their text form for Prometheus.
//!
//! Any part of the program may count here; only the internal listener reads.

mod by_word;
mod process;
mod text;
mod work;

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};

pub use self::{
    by_word::{ByResult, ByWord, Counts, Outcome},
    text::TextFormat,
    work::{Progress, Work},
};

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $name:ident: $kind:ty,)+) => {
        /// Every number the process keeps about itself.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            started: SystemTime,
            $($(#[doc = $help])+ pub $name: $kind,)+
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut registry = Registry::with_prefix("high_templar");
                $(
                    let $name = <$kind>::default();
                    let help = concat!($($help),+).trim().trim_end_matches('.');
                    registry.register(stringify!($name), help, $name.clone());
                )+
                let metrics = Self { registry, started: SystemTime::now(), $($name,)+ };
                metrics.register_start()
            }
        }
    };
}

metrics! {
    /// Authorised connections now.
    connections: Gauge,
    /// Connections that were authorised.
    connections_opened: Counter,
    /// Connections that ended with a close frame, by reason; `client` for those that the client closed.
    connections_closed: ByWord,
    /// Handshakes that were not authorised, by reason.
    connections_refused: ByWord,
    /// Credentials that connected clients have shown anew, by outcome.
    credentials_shown: ByWord,
    /// Requests refused before they were routed, by reason.
    requests_malformed: ByWord,
    /// Requests of clients whose proxy told an address that could not be read.
    addresses_unreadable: Counter,
    /// Data frames received from clients.
    client_messages: Counter,
    /// Times that clients were told that triggers may have been missed.
    gaps: Counter,
    /// Bytes kept so that clients can be given what they have missed.
    history_bytes: Gauge,
    /// Publications given to clients that came back, of those queued.
    publications_replayed: Counter,
    /// Entries of the history that were looked at for clients that came back.
    recovery_entries: Counter,
    /// Subscriptions from a position on, by what became of them.
    recoveries: ByWord,
    /// Rooms with at least one subscription.
    rooms: Gauge,
    /// Subscriptions now.
    subscriptions: Gauge,
    /// Look-ups for the rooms that triggers reach: one for each room of a trigger and combination of wildcards.
    room_look_ups: Counter,
    /// Triggers taken from the broker, malformed ones included.
    triggers: Counter,
    /// Triggers taken from the broker and dropped, by reason.
    triggers_dropped: ByWord,
    /// Triggers not delivered because one with their id had been.
    triggers_repeated: Counter,
    /// Triggers posted over HTTP, by what was answered.
    trigger_requests: ByWord,
    /// Requests to Channelstream's API, by what was answered.
    channelstream_requests: ByWord,
    /// Batches of deliveries that were fanned out.
    dispatch_batches: Counter,
    /// Time spent on fanning out what the broker handed over.
    dispatch_busy_seconds: Work,
    /// Publications put into a client's outbox.
    publications_queued: Counter,
    /// Publications written to clients.
    publications_sent: Counter,
    /// Publications that were not written: the client was too slow or gone, or lost the room.
    publications_failed: Counter,
    /// Connections whose publications wait because their permissions are being checked.
    connections_on_hold: Gauge,
    /// Publications that waited for such a check.
    publications_held: Counter,
    /// Publications that waited for such a check and were dropped because the client lost the room.
    publications_withheld: Counter,
    /// Requests to the backend for a client's bootstrap, by outcome.
    bootstraps: ByResult,
    /// Bootstraps that were answered together with another one under way.
    bootstraps_shared: Counter,
    /// Bootstraps that were answered from memory.
    bootstraps_cached: Counter,
    /// Bytes of the answers that are kept for `AUTH_CACHE`.
    auth_cache_bytes: Gauge,
    /// Answers that were dropped before their time to keep within `AUTH_CACHE_LIMIT`.
    auth_cache_evicted: Counter,
    /// Calls to the backend under way.
    api_calls: Gauge,
    /// Calls to the backend that wait for their turn.
    api_waiting: Gauge,
    /// Whether the backend is left alone because it fails or asks for it.
    api_paused: Gauge,
    /// Times that it was left alone.
    api_pauses: Counter,
    /// Requests without a client's headers that were made to see whether the backend works, by outcome.
    api_probes: ByResult,
    /// Bootstrap requests sent once more because their kept connection was closed before an answer.
    api_requests_repeated: Counter,
    /// Hooks posted to the backend, by outcome.
    hooks: ByResult,
    /// Hooks that the backend never took.
    hooks_given_up: Counter,
    /// Messages for the other instances that the broker has taken.
    instances_told: Counter,
    /// Connections of instances that died, reported as gone by this one.
    connections_adopted: Counter,
    /// Control messages that were applied, by action.
    controls: ByWord,
    /// Checks of connected clients' permissions, by what became of them.
    rechecks: ByWord,
    /// Resume tickets that clients came back with, by what became of them.
    tickets: ByWord,
    /// What was refused because of a limit, by limit.
    limited: ByWord,
    /// Commands of Channelstream's taken from the log.
    channelstream_commands: Counter,
    /// Users that Channelstream remembers, on all instances.
    channelstream_users: Gauge,
    /// Its connections, on all instances.
    channelstream_connections: Gauge,
    /// Its channels.
    channelstream_channels: Gauge,
    /// Whether triggers are being consumed from the broker.
    broker_consuming: Gauge,
    /// Times a connection to the broker was lost or could not be made.
    broker_failures: Counter,
    /// Whether RabbitMQ takes no messages from any publisher, short of memory or disk.
    broker_publishing_blocked: Gauge,
    /// Times that a marker which RabbitMQ accepted did not come back in time.
    broker_markers_overdue: Counter,
    /// Entries of the log that end every connection that reads them, passed over.
    broker_entries_skipped: Counter,
    /// Entries in the log that instances of another cluster have written, ignored.
    broker_foreign_entries: Counter,
}

impl Metrics {
    /// Returns all numbers as OpenMetrics text.
    ///
    /// # Errors
    /// Only if formatting itself fails.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Returns all numbers in `format`.
    ///
    /// # Errors
    /// Only if formatting itself fails.
    pub fn text_in(&self, format: TextFormat) -> Result<String, std::fmt::Error> {
        let text = self.text()?;
        Ok(match format {
            TextFormat::OpenMetrics => text,
            TextFormat::Prometheus => text::to_prometheus(&text),
        })
    }

    /// Notes how many users, connections and channels Channelstream has.
    pub fn count_channelstream(&self, counts: [usize; 3]) {
        let gauges = [&self.channelstream_users, &self.channelstream_connections, &self.channelstream_channels];
        for (gauge, count) in gauges.into_iter().zip(counts) {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Publications accepted and neither written nor given up.
    pub fn publications_waiting(&self) -> u64 {
        let done = self.publications_sent.get() + self.publications_failed.get();
        self.publications_queued.get().saturating_sub(done)
    }

    /// For how long the process has been running.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed().unwrap_or_default()
    }

    /// When the process started: local time, ISO 8601 with microseconds and without offset.
    pub fn online_since(&self) -> String {
        let started = Timestamp::try_from(self.started).unwrap_or(Timestamp::UNIX_EPOCH);
        let local = started.to_zoned(jiff::tz::TimeZone::system());
        local.strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string()
    }

    fn register_start(mut self) -> Self {
        let start: Gauge = Gauge::default();
        let since = self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        start.set(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        self.registry.register_with_unit("start_time", "When the process started", Unit::Seconds, start);
        self.registry.register_collector(Box::new(process::LogCounts));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_every_number_with_its_help() {
        let metrics = Metrics::default();
        metrics.triggers.inc();
        metrics.triggers_dropped.inc("no-data");
        let text = metrics.text().unwrap();
        assert!(text.contains("# HELP high_templar_connections Authorised connections now.\n"), "{text}");
        assert!(text.contains("high_templar_triggers_total 1\n"), "{text}");
        assert!(text.contains("high_templar_triggers_dropped_total{reason=\"no-data\"} 1\n"), "{text}");
    }

    #[test]
    fn the_start_is_told_as_python_would() {
        let since = Metrics::default().online_since();
        let shape: String = since.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000000");
    }
}
