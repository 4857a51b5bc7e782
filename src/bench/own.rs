//! A server of the run's own: this program once more, as a child that does not outlive the run.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::runtime::Handle;

use super::{
    options::{Plan, Rabbitmq},
    publish,
    target::Target,
};
use crate::config;

/// How long it may take to listen, and to reach its broker.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How often it is asked whether it is ready.
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// Lines of its log that are kept, to be shown if it fails.
const LINES: usize = 10;
/// Settings that a measurement may want to vary; the others are the run's own business.
const INHERITED: [&str; 7] =
    ["OUTBOX_LIMIT", "MESSAGE_LIMIT", "TRIGGER_LIMIT", "PING_INTERVAL", "IDLE_TIMEOUT", "WILDCARD_DISPATCH", "DRAIN"];

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot start a server of its own")]
    Start(#[from] io::Error),
    #[error("the server started for the run ended or did not listen; it said:\n{0}")]
    Ended(String),
    #[error("the server started for the run did not reach its broker; it said:\n{0}")]
    NotReady(String),
    #[error("the server started for the run cannot be asked how it is")]
    Unanswered(#[source] publish::Error),
}

/// The child. Killed and waited for when dropped.
pub(super) struct Own {
    child: Child,
    public: SocketAddr,
    internal: SocketAddr,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Own {
    /// Starts it in front of the API at `api`, and waits until it serves.
    pub(super) fn start(
        handle: &Handle,
        plan: &Plan,
        rabbitmq: Option<&Rabbitmq>,
        api: SocketAddr,
    ) -> Result<Self, Error> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve");
        config::VARIABLES.iter().filter(|name| !INHERITED.contains(name)).for_each(|name| {
            command.env_remove(name);
        });
        command
            .env("API_URL", format!("http://{api}/"))
            .env("LISTEN", "127.0.0.1:0")
            .env("INTERNAL_LISTEN", "127.0.0.1:0")
            .env("LOG", "info")
            .env("LOG_FORMAT", "json");
        if let Some(rabbitmq) = rabbitmq {
            command.env("AMQP_URL", &rabbitmq.url).env("AMQP_EXCHANGE", &rabbitmq.exchange);
        }
        if std::env::var_os("TRIGGER_LIMIT").is_none() {
            command.env("TRIGGER_LIMIT", (plan.size_bytes + (1 << 20)).to_string());
        }
        // A Ctrl-C at the terminal is ours alone to answer.
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).spawn()?;
        let (found, addresses) = mpsc::channel();
        let log = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = child.stderr.take() {
            let log = log.clone();
            // Ends with the child.
            thread::spawn(move || read(BufReader::new(stderr), &log, &found));
        }
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut own = Self { child, public: nowhere, internal: nowhere, log };
        let Ok((public, internal)) = addresses.recv_timeout(START_DEADLINE) else {
            return Err(Error::Ended(own.last_lines()));
        };
        (own.public, own.internal) = (public, internal);
        own.wait_until_ready(handle)?;
        Ok(own)
    }

    fn wait_until_ready(&self, handle: &Handle) -> Result<(), Error> {
        let deadline = Instant::now() + START_DEADLINE;
        let target = target("http", self.internal, "/readyz");
        loop {
            match handle.block_on(publish::get(&target)).map_err(Error::Unanswered)?.status {
                200 => return Ok(()),
                _ if Instant::now() > deadline => return Err(Error::NotReady(self.last_lines())),
                _ => thread::sleep(ASK_INTERVAL),
            }
        }
    }

    /// Where its clients connect.
    pub(super) fn clients(&self) -> Target {
        target("ws", self.public, "/ws/")
    }

    /// Where triggers are posted.
    pub(super) fn trigger(&self) -> Target {
        target("http", self.internal, "/trigger/")
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of its log.
    pub(super) fn last_lines(&self) -> String {
        self.log.lock().iter().map(|line| format!("    {line}\n")).collect::<String>().trim_end().to_owned()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // Both fail only when it has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn target(scheme: &str, address: SocketAddr, path: &str) -> Target {
    Target {
        url: format!("{scheme}://{address}{path}"),
        address,
        authority: address.to_string(),
        path: path.to_owned(),
    }
}

/// Keeps the last lines of the log, and tells where the server listens as soon as a line says so.
fn read(stderr: impl BufRead, log: &Mutex<VecDeque<String>>, found: &mpsc::Sender<(SocketAddr, SocketAddr)>) {
    for line in stderr.lines().map_while(Result::ok) {
        if let Some(addresses) = addresses(&line) {
            let _ = found.send(addresses); // nobody waits for a second one
        }
        let mut log = log.lock();
        if log.len() == LINES {
            log.pop_front();
        }
        log.push_back(line);
    }
}

fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let address = |name: &str| line.get(name)?.as_str()?.parse().ok();
    Some((address("listen")?, address("internal")?))
}
