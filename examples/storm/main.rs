//! What a reconnect storm does: to the API that each client has to be asked about, to the clients that come back, and to
//! those that have stayed.
//!
//!     cargo build --release --examples --bins
//!     target/release/examples/storm --clients 10000 --rate 200 --json storm.json
//!
//! Starts a stub of an API that can do so many requests a second, and a server of its own before it on the embedded broker.
//! Then many clients come patiently, are all cut at once, and come back as their version's clients do: those of version 4
//! within a second and, when told when, then; those of 3.1 after 2 s, for ever. Beside them some healthy clients stay
//! connected; a trigger goes to all of those every 10 ms. On Linux with two cores: the server has the first one, all else
//! the second; `--unpinned` leaves that to the kernel.

mod api;
mod crowd;
mod healthy;
mod report;
#[path = "../support/server.rs"]
mod server;
mod socket;

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
    time::{interval_at, sleep},
};

use api::Api;
use crowd::Crowd;
use healthy::Healthy;
use report::{Report, Row};
use server::{Server, Usage, raise_file_limit};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Measures what a reconnect storm does to the API, the clients, and those that have stayed.
#[derive(Debug, Parser)]
#[command(name = "storm")]
struct Arguments {
    /// Clients that are cut and come back
    #[arg(long, default_value_t = 10_000)]
    clients: usize,
    /// The share of them, 0 to 1, that speaks 3.1's protocol; the others speak version 4
    #[arg(long, default_value_t = 0.3)]
    v3: f64,
    /// Clients that stay
    #[arg(long, default_value_t = 200)]
    healthy: usize,
    /// Milliseconds between two triggers to those that stay
    #[arg(long, default_value_t = 10)]
    every: u64,
    /// Requests that the API can do in a second
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Requests that the API works on at once
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// Connections that the API takes at once, whether their requests are worked on or wait
    #[arg(long, default_value_t = 8192)]
    connections: usize,
    /// The server's API_CONCURRENCY
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// A further variable of the server's, as NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Seconds that are measured before the cut, and after the storm
    #[arg(long, default_value_t = 5)]
    settle: u64,
    /// Seconds after the cut when those that are not back are given up
    #[arg(long, default_value_t = 180)]
    give_up: u64,
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
            let _ = writeln!(io::stderr(), "storm: {error}");
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
    if arguments.clients == 0 || arguments.workers == 0 || arguments.rate <= 0.0 {
        return Err("there is nothing to measure without clients, workers or a rate".into());
    }
    let needed = (arguments.clients + arguments.healthy + arguments.connections) as u64 + 256;
    if let Some(limit) = raise_file_limit(needed) {
        tell(&format!("only {limit} files may be open, of {needed}"))?;
    }
    let api = Api::start(arguments.rate, arguments.workers, arguments.connections)?;
    let mut variables =
        vec![("API_URL", format!("http://{}/", api.address)), ("API_CONCURRENCY", arguments.concurrency.to_string())];
    for variable in &arguments.env {
        let (name, value) = variable.split_once('=').ok_or("--env wants NAME=VALUE")?;
        variables.push((name, value.to_owned()));
    }
    let server = Server::start(&arguments.binary, !arguments.unpinned, &variables).await?;
    let measured = measure(arguments, &api, &server).await;
    for line in server.complaints() {
        tell(&line)?;
    }
    measured
}

async fn measure(arguments: &Arguments, api: &Api, server: &Server) -> Outcome<()> {
    let (healthy, watching) = Healthy::start(server, arguments.healthy, Duration::from_millis(arguments.every))?;
    healthy.until_connected().await?;
    let crowd = Crowd::new(server.public, arguments.clients, arguments.v3);
    tell(&format!("{} clients come, as fast as the API can follow", arguments.clients))?;
    // In all 3 times as long as the API takes if nothing goes wrong.
    let enough = Duration::from_secs_f64(3.0 * arguments.clients as f64 / arguments.rate + 30.0);
    let tasks = crowd.clone().gather(2 * arguments.workers, enough).await?;

    sleep(Duration::from_secs(1)).await;
    healthy.take();
    sleep(Duration::from_secs(arguments.settle)).await;
    let mut report = Report::new(arguments, healthy.take(), server.usage()?, api.take());

    let cut = crowd.cut();
    tell("all of them are cut")?;
    watch_storm(arguments, &crowd, &healthy, api, server, cut, &mut report).await?;
    sleep(Duration::from_secs(arguments.settle)).await;
    let after = healthy.take();
    let verdict = healthy.finish(watching).await?;
    report.end(&crowd.records(), cut, after, verdict, server.usage()?);
    drop(tasks);
    report.print()?;
    if let Some(path) = &arguments.json {
        std::fs::write(path, format!("{:#}\n", report.json()))?;
    }
    if verdict.is_well() { Ok(()) } else { Err("the healthy clients have felt it".into()) }
}

/// A row for each second, until all are back.
async fn watch_storm(
    arguments: &Arguments,
    crowd: &Arc<Crowd>,
    healthy: &Healthy,
    api: &Api,
    server: &Server,
    cut: Instant,
    report: &mut Report,
) -> Outcome<()> {
    let second = Duration::from_secs(1);
    let mut ticks = interval_at((cut + second).into(), second);
    loop {
        ticks.tick().await;
        let seconds = cut.elapsed().as_secs_f64();
        let (back, usage) = (crowd.back(), server.usage()?);
        let is_over = back == arguments.clients || seconds > arguments.give_up as f64;
        let own = Usage::of(std::process::id())?;
        report.enter(Row { seconds, back, api: api.take(), healthy: healthy.take(), server: usage, own }, is_over)?;
        if is_over {
            return Ok(());
        }
    }
}

fn tell(text: &str) -> io::Result<()> {
    writeln!(io::stderr(), "storm: {text}")
}
