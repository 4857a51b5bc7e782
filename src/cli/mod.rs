//! The command line: what to do, how to log, and with which exit code to end.

mod check;
mod explain;
mod files;
mod local;
mod system;

use std::{
    error::Error as StdError,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    bench,
    config::{self, Config, Note},
    logging::{self, chain},
    server::Server,
};

/// Everything is as it should be.
const OK: u8 = 0;
/// Something failed, or was found wrong.
const FAILED: u8 = 1;
/// The configuration or the command line is wrong.
const MISUSED: u8 = 2;

/// Realtime WebSockets beside an existing stateless HTTP API.
///
/// Settings come from environment variables, and from the file that ENV_FILE names. Only API_URL is required.
#[derive(Debug, Parser)]
#[command(name = "high-templar", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT (what is done without a command, too)
    Serve,
    /// Check the configuration, reach the backend and the broker, and say what was found
    Check,
    Explain(explain::Options),
    Bench(Box<bench::Options>),
}

/// Runs the program as its command line says.
pub fn main() -> ExitCode {
    match Arguments::parse().command.unwrap_or(Command::Serve) {
        Command::Serve => configured(serve),
        Command::Check => configured(check),
        Command::Explain(options) => configured(|runtime, config| explain(&runtime, &config, &options)),
        Command::Bench(options) => measure(&options),
    }
}

/// What needs a configuration and a runtime.
fn configured(run: impl FnOnce(Runtime, Config) -> ExitCode) -> ExitCode {
    let config = match config::from_environment() {
        Ok(config) => config,
        Err(error) => return fail(MISUSED, &error),
    };
    match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => run(runtime, config),
        Err(error) => fail(FAILED, &error),
    }
}

fn check(runtime: Runtime, config: Config) -> ExitCode {
    match runtime.block_on(check::run(&config, &mut io::stdout())) {
        Ok(true) => OK.into(),
        Ok(false) => FAILED.into(),
        Err(error) => fail(FAILED, &error),
    }
}

fn explain(runtime: &Runtime, config: &Config, options: &explain::Options) -> ExitCode {
    match runtime.block_on(explain::run(&config.internal, options, &mut io::stdout())) {
        Ok(true) => OK.into(),
        Ok(false) => FAILED.into(),
        Err(wrong) => fail(FAILED, &io::Error::other(wrong)),
    }
}

/// Measures a server.
fn measure(options: &bench::Options) -> ExitCode {
    match bench::run(options, system::raise_file_limit()) {
        Ok(outcome) => match io::stdout().write_all(outcome.text.as_bytes()) {
            Ok(()) if outcome.is_well => OK.into(),
            Ok(()) => FAILED.into(),
            Err(error) => fail(FAILED, &error),
        },
        Err(error @ bench::Error::Misuse(_)) => fail(MISUSED, &error),
        Err(error) => fail(FAILED, &error),
    }
}

fn serve(runtime: Runtime, config: Config) -> ExitCode {
    let _logging = match logging::start(&config.log) {
        Ok(logging) => logging,
        Err(error) => return fail(FAILED, &error),
    };
    for note in &config.notes {
        match note {
            Note::Taken(text) => info!("{text}"),
            Note::Weak(text) => warn!("{text}"),
        }
    }
    let outcome = runtime.block_on(run(config));
    runtime.shutdown_background(); // a look-up of a name that hangs must not keep us
    match outcome {
        Ok(()) => OK.into(),
        Err(error) => {
            tracing::error!(error = chain(&*error), "cannot serve");
            FAILED.into()
        }
    }
}

async fn run(mut config: Config) -> Result<(), Box<dyn StdError>> {
    let files = system::raise_file_limit();
    if let Some(files) = files.and_then(|files| usize::try_from(files).ok())
        && let Some(warning) = files::divide(files, &mut config)
    {
        warn!("{warning}");
    }
    let connections = config.connection.limits.connections;
    let (dispatch, broker) = (config.dispatch, config.broker.clone());
    let server = Server::bind(config).await?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (listen, internal) = (server.public_address()?, server.internal_address()?);
    let version = env!("CARGO_PKG_VERSION");
    info!(version, %listen, %internal, ?broker, wildcard_dispatch = ?dispatch, files, connections, "serving");
    system::notify(&format!("READY=1\nSTATUS=listening on {listen}, internally on {internal}"));
    let stop = CancellationToken::new();
    let serving = server.run(stop.clone());
    tokio::pin!(serving);
    let mut either_signal = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::select! {
        outcome = &mut serving => return outcome.map(drop).map_err(Into::into),
        () = either_signal() => stop.cancel(),
    }
    system::notify("STOPPING=1");
    tokio::select! {
        outcome = &mut serving => outcome.map(drop).map_err(Into::into),
        () = either_signal() => {
            warn!("a second signal: stopping at once");
            Ok(())
        }
    }
}

fn fail(code: u8, error: &dyn StdError) -> ExitCode {
    // With nowhere to say it, the exit code has to do.
    let _ = writeln!(io::stderr(), "high-templar: {}", chain(error));
    code.into()
}
