//! What one instance does with a crowd in one channel of Channelstream's: thousands of sockets, and thousands that poll.
//!
//!     cargo build --release --examples --bins
//!     target/release/examples/crowd --sockets 5000 --polls 5000 --json crowd.json
//!
//! Starts a server of its own on the embedded broker. Each client is a user of its own: a signed call makes its connection,
//! and then it listens, by a socket or by one poll after the other. When all do, messages are posted to the channel, one
//! every second; each has to come to everybody, once and in its order. On Linux with two cores: the server has the first
//! one, all else the second; `--unpinned` leaves that to the kernel.

mod http;
mod listeners;
mod report;
#[path = "../support/server.rs"]
mod server;

use std::{
    error::Error,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{interval, sleep, timeout},
};

use http::Caller;
use listeners::{By, CHANNEL, Listeners};
use report::{Report, Sample};
use server::{Server, Usage, raise_file_limit};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What calls are signed with.
const SECRET: &str = "the secret of a measurement";
/// How long the last message may take to get everywhere.
const LAST: Duration = Duration::from_secs(30);
/// Within which everybody hears something, be it that there is nothing.
const QUIET: Duration = Duration::from_secs(30);

/// Measures what a crowd in one channel of Channelstream's costs, and how fast messages get to it.
#[derive(Debug, Parser)]
#[command(name = "crowd")]
struct Arguments {
    /// Clients that listen by a socket
    #[arg(long, default_value_t = 5000)]
    sockets: usize,
    /// Clients that poll
    #[arg(long, default_value_t = 5000)]
    polls: usize,
    /// Messages
    #[arg(long, default_value_t = 20)]
    messages: u64,
    /// Milliseconds between two of them
    #[arg(long, default_value_t = 1000)]
    every: u64,
    /// Seconds that are measured while nothing is posted
    #[arg(long, default_value_t = 30)]
    idle: u64,
    /// Clients that connect at once
    #[arg(long, default_value_t = 32)]
    at_once: usize,
    /// Leave it to the kernel what runs on which core
    #[arg(long)]
    unpinned: bool,
    /// The server
    #[arg(long, default_value = "target/release/high-templar")]
    binary: String,
    /// Where the numbers are written to, too
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let arguments = Arguments::parse();
    let measuring = runtime.map_err(Into::into);
    match measuring.and_then(|runtime| runtime.block_on(until_stopped(&arguments))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = tell(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Stopped by a signal, the server ends with us.
async fn until_stopped(arguments: &Arguments) -> Outcome<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        outcome = Box::pin(run(arguments)) => outcome,
        _ = terminate.recv() => Err("terminated".into()),
        _ = interrupt.recv() => Err("interrupted".into()),
    }
}

async fn run(arguments: &Arguments) -> Outcome<()> {
    let clients = arguments.sockets + arguments.polls;
    if clients == 0 || arguments.messages == 0 || arguments.every == 0 || arguments.at_once == 0 {
        return Err("there is nothing to measure without clients, messages or time".into());
    }
    let needed = (clients + arguments.at_once) as u64 + 256;
    if let Some(limit) = raise_file_limit(needed) {
        tell(&format!("only {limit} files may be open, of {needed}"))?;
    }
    let variables = [
        ("API_URL", "http://127.0.0.1:9/".to_owned()), // nobody asks it anything
        ("CHANNELSTREAM_SECRET", SECRET.to_owned()),
    ];
    let server = Server::start(&arguments.binary, !arguments.unpinned, &variables).await?;
    let measured = measure(arguments, &server).await;
    for line in server.complaints() {
        tell(&line)?;
    }
    measured
}

async fn measure(arguments: &Arguments, server: &Server) -> Outcome<()> {
    let start = Instant::now();
    let sockets = Listeners::new(By::Socket, arguments.sockets, start);
    let polls = Listeners::new(By::Poll, arguments.polls, start);
    let sample = || -> Outcome<Sample> {
        let (server, own) = (server.usage()?, Usage::of(std::process::id())?);
        Ok(Sample { at: Instant::now(), server, own, polls: polls.lists() })
    };
    sleep(Duration::from_secs(1)).await;
    let mut report = Report::new(arguments, sample()?);

    gather(arguments, server, &sockets, &polls).await?;
    report.gathered(sample()?);
    tell("all have connected")?;
    if tokio::join!(sockets.until_heard(QUIET), polls.until_heard(QUIET)) != (true, true) {
        return Err("some clients hear nothing".into());
    }

    let before = sample()?;
    sleep(Duration::from_secs(arguments.idle)).await;
    report.idled(before, sample()?);
    tell("nothing was said; now the messages")?;

    let before = sample()?;
    let calls_us = post(arguments, server, start).await?;
    let everybody = async {
        while !(sockets.have(arguments.messages) && polls.have(arguments.messages)) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let _ = timeout(LAST, everybody).await; // the verdict says what is missing
    report.posted(before, sample()?, calls_us);
    // What comes again does so now.
    tokio::join!(sockets.until_heard(QUIET), polls.until_heard(QUIET));
    report.end(sample()?, [&sockets, &polls]);

    report.print()?;
    if let Some(path) = &arguments.json {
        std::fs::write(path, format!("{:#}\n", report.json()))?;
    }
    if report.is_well() { Ok(()) } else { Err("not everybody has got everything, once and in its order".into()) }
}

/// Has all of them connect and listen, some at once.
async fn gather(
    arguments: &Arguments,
    server: &Server,
    sockets: &Arc<Listeners>,
    polls: &Arc<Listeners>,
) -> Outcome<()> {
    let (public, most) = (server.public, sockets.count().max(polls.count()));
    let connecting = (0..arguments.at_once).map(async |first| -> Outcome<()> {
        let mut caller = Caller::new(server.internal, SECRET).await?;
        for number in (first..most).step_by(arguments.at_once) {
            for listeners in [sockets, polls] {
                if number < listeners.count() {
                    Box::pin(listeners.enter(number, &mut caller, public)).await?;
                }
            }
        }
        Ok(())
    });
    futures::future::try_join_all(connecting).await?;
    Ok(())
}

/// Posts the messages; how long each call took, in microseconds.
async fn post(arguments: &Arguments, server: &Server, start: Instant) -> Outcome<Vec<u32>> {
    let mut ticks = interval(Duration::from_millis(arguments.every));
    let mut calls_us = Vec::new();
    for number in 0..arguments.messages {
        ticks.tick().await;
        let mut caller = Caller::new(server.internal, SECRET).await?;
        let at = start.elapsed().as_nanos();
        let items = format!(
            r#"[{{"user":"speaker","channel":"{CHANNEL}","message":{{"number":{number},"at":{at},"text":"Is everybody here?"}}}}]"#
        );
        let called = Instant::now();
        caller.post("/message", &items).await?;
        calls_us.push(called.elapsed().as_micros().try_into().unwrap_or(u32::MAX));
    }
    Ok(calls_us)
}

fn tell(text: &str) -> io::Result<()> {
    writeln!(io::stderr(), "crowd: {text}")
}
