//! The program itself, as a process of its own.

use std::{
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use high_templar::config::Listen;
use rustix::process::{Pid, Signal, kill_process};

use super::{eventually, http};

/// The program, with nothing in its environment.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_high-templar"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// The program, serving. Killed when dropped.
pub struct Running {
    pub child: Child,
    pub public: Listen,
    pub internal: Listen,
}

impl Running {
    pub async fn start(vars: &[(&str, &str)]) -> Self {
        Self::start_as(program(), vars).await
    }

    /// The same with no more than `files` descriptors.
    pub async fn start_with_files(files: usize, vars: &[(&str, &str)]) -> Self {
        let mut command = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_high-templar");
        command.args(["-c", "ulimit -n \"$1\" && exec \"$0\"", program, &files.to_string()]);
        command.env_clear().stdin(Stdio::null());
        Self::start_as(command, vars).await
    }

    async fn start_as(mut command: Command, vars: &[(&str, &str)]) -> Self {
        let (public, internal) = (free_port(), free_port());
        let child = command
            .env("LISTEN", format!("127.0.0.1:{public}"))
            .env("INTERNAL_LISTEN", format!("127.0.0.1:{internal}"))
            .envs(vars.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let listen = |port: u16| Listen::Tcp(([127, 0, 0, 1], port).into());
        let running = Self { child, public: listen(public), internal: listen(internal) };
        eventually("it serves", async || match tokio::net::TcpStream::connect(("127.0.0.1", internal)).await {
            Ok(_) => http::send(&running.internal, "GET", "/readyz", &[], b"").await.status == 200,
            Err(_) => false,
        })
        .await;
        running
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end; the exit status and the log.
    pub fn end(mut self) -> (ExitStatus, String) {
        end(&mut self.child)
    }
}

/// The same of any process whose log is piped; killed if it does not end.
pub fn end(child: &mut Child) -> (ExitStatus, String) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    (status, log)
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on at present.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
