//! The log on standard error: its format, a writer that never blocks, limits on what input can repeat, and panics.
//!
//! Every part of the program logs with `tracing`. Wherever a client, a publisher or an operator can cause a line for each
//! message, the line goes through `limited!`, so that nobody can fill the log or hide other lines in it.
//!
//! Invariants: no thread of the runtime writes to standard error; a thread of its own does, and when the reader of standard
//! error stops, lines are dropped and counted. Nothing here knows payloads, cookies, tokens or query strings.

mod limit;
mod panics;
mod writer;

use std::{
    error::Error,
    io::{self, IsTerminal},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

pub(crate) use self::{
    limit::{Limit, limited},
    panics::text_of as panic_text,
    writer::Writer,
};
use crate::config::Log;

/// Targets of the AMQP library.
const AMQP_LIBRARY: [&str; 5] = ["lapin", "amq_protocol", "async_rs", "tcp_stream", "io_loop"];
/// How often the limits are asked for lines that they have suppressed.
const LOOK: Duration = Duration::from_secs(1);

/// Lines that did not reach standard error since the process started.
static LINES_DROPPED: AtomicU64 = AtomicU64::new(0);
/// Panics since the process started.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Returns how many lines did not reach standard error since the process started.
pub fn lines_dropped() -> u64 {
    LINES_DROPPED.load(Relaxed)
}

/// Returns how many threads and tasks have panicked since the process started.
pub fn panics() -> u64 {
    PANICS.load(Relaxed)
}

/// The running log. Dropping it reports what the limits still hold back and writes what is queued, as long as standard error
/// takes it.
#[derive(Debug)]
pub struct Logging {
    writer: Writer,
}

impl Drop for Logging {
    fn drop(&mut self) {
        limit::report_all();
        self.writer.flush();
    }
}

/// Starts logging to standard error, for the life of the process. Panics go to the log, too.
///
/// # Errors
/// When the writer's thread cannot be started.
pub fn start(config: &Log) -> io::Result<Logging> {
    let writer = Writer::start(io::stderr(), |lines| {
        LINES_DROPPED.fetch_add(lines, Relaxed);
    })?;
    // The filter has been checked together with the rest of the configuration.
    let filter = without_amqp_library(&config.filter.parse().unwrap_or_default());
    let queue = writer.clone();
    // The layer reports its own errors with `eprintln!`, which blocks.
    let lines = fmt::layer().with_writer(move || queue.clone()).log_internal_errors(false);
    let lines = if config.is_json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).boxed()
    };
    // Fails only when logging has been started before.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
    panics::log();
    Ok(Logging { writer })
}

/// Returns `filter` with nothing of the AMQP library, whatever it says: the library logs passwords at its lower levels, and
/// returned triggers at its higher ones. Its errors are logged where they are handled. A directive that names a part of it would
/// count for more than one that names all of it.
fn without_amqp_library(filter: &Targets) -> Targets {
    let of_others = filter.iter().filter(|(target, _)| !AMQP_LIBRARY.iter().any(|library| target.starts_with(library)));
    Targets::new()
        .with_default(filter.default_level().unwrap_or(LevelFilter::OFF))
        .with_targets(of_others.map(|(target, level)| (target.to_owned(), level)))
        .with_targets(AMQP_LIBRARY.map(|library| (library, LevelFilter::OFF)))
}

/// Reports the lines that the limits have suppressed, soon after each limit's period is over, until `stop`.
pub(crate) async fn report_suppressed(stop: CancellationToken) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reporting = async {
        loop {
            looks.tick().await;
            limit::report_over(Instant::now());
        }
    };
    stop.run_until_cancelled(reporting).await;
}

/// Returns an error's message followed by those of its sources. Log lines take an error as this text: the JSON format leaves out
/// the sources of an error that is a field itself. A source whose message ends the text already is left out: some libraries repeat
/// their sources.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    #[test]
    fn a_source_that_is_repeated_is_told_once() {
        let link = |text, source: Option<Link>| Link { text, source: source.map(Box::new) };
        let refused = link("ACCESS_REFUSED", Some(link("ACCESS_REFUSED", None)));
        let told = chain(&link("RabbitMQ failed", Some(link("protocol error: ACCESS_REFUSED", Some(refused)))));
        assert_eq!(told, "RabbitMQ failed: protocol error: ACCESS_REFUSED");
        assert_eq!(chain(&link("one", Some(link("two", None)))), "one: two");
    }

    #[test]
    fn no_filter_lets_the_amqp_library_log() {
        for filter in
            ["trace", "info,lapin::returned_messages=warn", "lapin=trace,amq_protocol::frame=trace,hyper=debug"]
        {
            let filter = without_amqp_library(&filter.parse().unwrap());
            for target in ["lapin", "lapin::returned_messages", "amq_protocol_tcp", "amq_protocol::frame::parsing"] {
                assert!(!filter.would_enable(target, &Level::ERROR), "{filter}: {target}");
            }
        }
        let filter = without_amqp_library(&"info,high_templar::broker=debug".parse().unwrap());
        assert!(filter.would_enable("high_templar::broker::rabbitmq", &Level::DEBUG));
        assert!(filter.would_enable("hyper", &Level::INFO) && !filter.would_enable("hyper", &Level::DEBUG));
    }
}
