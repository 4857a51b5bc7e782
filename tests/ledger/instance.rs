//! An instance of the program, as a process that is killed, stopped and started again on the same ports.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use rand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{absence::Absence, page::PUBLISHERS, stderr::Stderr};

/// How often is looked whether it is ready.
const LOOK: Duration = Duration::from_millis(200);
/// How long a request may take; longer than the server itself waits for the broker.
const REPLY: Duration = Duration::from_secs(15);
/// How long a clean stop may take: `DRAIN`, and some more for a busy machine.
const STOP: Duration = Duration::from_secs(20);

/// One of the instances. Its process is killed when this is dropped.
#[derive(Debug)]
pub struct Instance {
    pub name: usize,
    pub public: SocketAddr,
    internal: SocketAddr,
    vars: Vec<(&'static str, String)>,
    pub stderr: Stderr,
    state: Mutex<State>,
    /// Of each publisher, the last trigger that it has delivered to any client.
    delivered: [AtomicU64; PUBLISHERS],
}

#[derive(Debug, Default)]
struct State {
    child: Option<Child>,
    /// Counts the processes.
    life: u64,
    started: Option<Instant>,
    /// Of its readiness.
    absence: Absence,
}

impl Instance {
    /// One with ports of its own and these further variables. It is not running yet.
    pub fn new(name: usize, mut vars: Vec<(&'static str, String)>, log: PathBuf) -> Self {
        let (public, internal) = (free_address(), free_address());
        vars.extend([("LISTEN", public.to_string()), ("INTERNAL_LISTEN", internal.to_string())]);
        Self {
            name,
            public,
            internal,
            vars,
            stderr: Stderr::new(log),
            state: Mutex::default(),
            delivered: Default::default(),
        }
    }

    pub fn start(&self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_high-templar"));
        command.env_clear().envs(self.vars.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        self.stderr.read(child.stderr.take().unwrap());
        let mut state = self.state.lock();
        state.child = Some(child);
        state.life += 1;
        state.started = Some(Instant::now());
        state.absence.begin();
    }

    /// SIGKILL.
    pub fn kill(&self) {
        if let Some(mut child) = self.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Has it log into a pipe that is full and that nobody reads, until [`Stderr::unblock`].
    pub fn block_log(&self) -> std::io::Result<()> {
        let process = self.state.lock().child.as_ref().map(Child::id);
        process.map_or(Ok(()), |process| self.stderr.block(process))
    }

    /// SIGTERM, as soon as it answers at all: before that it does not know what to do about it. How it ended, if it did in
    /// time; it is killed otherwise.
    pub async fn stop(&self) -> Option<ExitStatus> {
        let deadline = Instant::now() + STOP;
        while self.request("GET", "/healthz", b"").await.is_err() && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
        let mut child = self.take()?;
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().unwrap() {
                return Some(status);
            }
            sleep(Duration::from_millis(20)).await;
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }

    fn take(&self) -> Option<Child> {
        let mut state = self.state.lock();
        state.absence.begin();
        state.child.take()
    }

    /// Whether it follows the log.
    pub fn is_ready(&self) -> bool {
        let state = self.state.lock();
        state.child.is_some() && state.absence.is_over()
    }

    /// The number of its process, while that runs.
    pub fn life(&self) -> Option<u64> {
        let state = self.state.lock();
        state.child.is_some().then_some(state.life)
    }

    /// Whether it has been running for this time.
    pub fn has_run_for(&self, time: Duration) -> bool {
        let state = self.state.lock();
        state.child.is_some() && state.started.is_some_and(|started| started.elapsed() > time)
    }

    /// Whether it says that RabbitMQ takes what it publishes.
    pub async fn is_publishing(&self) -> bool {
        let status = self.exchange("GET", "/status", b"").await;
        status.is_ok_and(|answer| answer.contains("\"publishing\":\"open\""))
    }

    /// For how long it has not been ready, or was not until just now.
    pub fn absence(&self) -> Duration {
        self.state.lock().absence.length()
    }

    /// A client has got this trigger.
    pub fn delivered(&self, publisher: usize, serial: u64) {
        if let Some(delivered) = self.delivered.get(publisher) {
            delivered.fetch_max(serial, Ordering::Relaxed);
        }
    }

    /// Whether a client has got anything that was published after each publisher's trigger of `serials`.
    pub fn has_delivered_since(&self, serials: &[u64; PUBLISHERS]) -> bool {
        // The next one may have been in flight then.
        self.delivered.iter().zip(serials).any(|(delivered, serial)| delivered.load(Ordering::Relaxed) > serial + 1)
    }

    /// Looks at its readiness again and again. `died` is told when the process has ended by itself.
    pub async fn watch(&self, died: impl Fn(ExitStatus)) {
        loop {
            let is_ready = matches!(self.request("GET", "/readyz", b"").await, Ok(200));
            if let Some(status) = self.note(is_ready) {
                died(status);
            }
            sleep(LOOK).await;
        }
    }

    /// How the process ended, if it has done so by itself.
    fn note(&self, is_ready: bool) -> Option<ExitStatus> {
        let mut state = self.state.lock();
        let ended = state.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        if ended.is_some() {
            state.child = None;
        }
        match is_ready && state.child.is_some() {
            true => state.absence.end(),
            false => state.absence.begin(),
        }
        ended
    }

    /// The status of the answer to a request to the internal listener.
    pub async fn request(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<u16> {
        let answer = self.exchange(method, path, body).await?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
    }

    async fn exchange(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<String> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.internal).await?;
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(&[head.as_bytes(), body].concat()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        timeout(REPLY, exchange).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Below the ports that the kernel hands out: nobody else is to have it while the instance is away.
fn free_address() -> SocketAddr {
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], rand::rng().random_range(12_000..20_000)));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
