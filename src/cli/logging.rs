//! Where log lines go, and how they look.

use std::io::{self, IsTerminal};

use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::Log;

/// All that the AMQP library logs under.
const AMQP_LIBRARY: [&str; 5] = ["lapin", "amq_protocol", "async_rs", "tcp_stream", "io_loop"];

/// Starts logging to standard error, for the life of the process.
pub(super) fn start(config: &Log) {
    // The filter has been checked together with the rest of the configuration.
    let mut filter: Targets = config.filter.parse().unwrap_or_default();
    // The AMQP library writes down passwords at its lower levels, and at its higher ones the triggers that come back. What it
    // has to say of errors, we say.
    for library in AMQP_LIBRARY {
        filter = filter.with_target(library, LevelFilter::OFF);
    }
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = if config.is_json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).boxed()
    };
    // Fails only when logging has been started before.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}
