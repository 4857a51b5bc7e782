//! The server, as a process, and what it uses; for the examples that measure one.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::sleep};

use crate::Outcome;

/// Lines of its log that are shown at the end.
const COMPLAINTS: usize = 5;

/// Killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) public: SocketAddr,
    pub(crate) internal: SocketAddr,
    directory: TempDir,
}

impl Server {
    /// Starts it with these variables. `is_pinned`: it has the first core for itself, and all of this process the second.
    pub(crate) async fn start(binary: &str, is_pinned: bool, variables: &[(&str, String)]) -> Outcome<Self> {
        let (public, internal) = (free_address()?, free_address()?);
        let directory = tempfile::tempdir()?;
        let mut command = Command::new(if is_pinned { "taskset" } else { binary });
        if is_pinned {
            command.args(["-c", "0", binary]);
        }
        command
            .env("LISTEN", public.to_string())
            .env("INTERNAL_LISTEN", internal.to_string())
            .env("LOG", "info")
            .envs(variables.iter().map(|(name, value)| (name, value)));
        let log = File::create(directory.path().join("log"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut server = Self { child, public, internal, directory };
        if is_pinned {
            let itself = std::process::id().to_string();
            Command::new("taskset").args(["-a", "-c", "-p", "1", &itself]).stdout(Stdio::null()).status()?;
        }
        for _ in 0..500 {
            if TcpStream::connect(internal).await.is_ok() {
                return Ok(server);
            }
            if server.child.try_wait()?.is_some() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        Err(format!("the server does not start; it said:\n{}", server.log()).into())
    }

    pub(crate) fn usage(&self) -> Outcome<Usage> {
        Usage::of(self.child.id()).map_err(|error| format!("the server is gone ({error}):\n{}", self.log()).into())
    }

    fn log(&self) -> String {
        let path: PathBuf = self.directory.path().join("log");
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    /// What it has warned of, the first lines of it.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.log();
        let all: Vec<&str> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
        let mut told = Vec::new();
        if !all.is_empty() {
            told.push(format!("{} warnings in the server's log, of which the first:", all.len()));
        }
        told.extend(all.iter().take(COMPLAINTS).map(|line| format!("    {line}")));
        told
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> Outcome<SocketAddr> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// What a process uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Since its start.
    pub(crate) cpu: Duration,
    /// The kernel's part of that.
    pub(crate) kernel: Duration,
    /// Its share of what is resident, now.
    pub(crate) memory_kib: u64,
    /// The most that has ever been resident.
    pub(crate) most_kib: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Outcome<Self> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        let stat = read("stat")?;
        let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11);
        let mut time = || fields.next().unwrap_or_default().parse().map(|ticks: u64| Duration::from_millis(ticks * 10));
        let (user, kernel) = (time()?, time()?);
        let memory_kib = kib(&read("smaps_rollup")?, "Pss:")?;
        Ok(Self { cpu: user + kernel, kernel, memory_kib, most_kib: kib(&read("status")?, "VmHWM:")? })
    }
}

fn kib(text: &str, name: &str) -> Outcome<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("a number is missing in /proc")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Lets this process and the server have as many descriptors as are `needed`, or as is allowed; how many, if that is too few.
pub(crate) fn raise_file_limit(needed: u64) -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let is_enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    if is_enough(limit.current) && is_enough(limit.maximum) {
        return None;
    }
    let wanted = if is_enough(limit.maximum) { limit.maximum } else { Some(needed) };
    let raised = setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: wanted });
    if raised.is_ok() {
        return None;
    }
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    limit.maximum
}
