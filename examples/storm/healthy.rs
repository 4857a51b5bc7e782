//! The clients that stay, and what is published to them meanwhile, on a thread of its own: the others' coming back is not
//! its business.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf},
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Outcome,
    server::Server,
    socket::{Socket, Version},
};

/// How many connect at once.
const AT_ONCE: usize = 8;
/// How long the last trigger may take to get everywhere.
const LAST: Duration = Duration::from_secs(10);

pub(crate) struct Healthy {
    start: Instant,
    /// Triggers each has received.
    received: Vec<AtomicU64>,
    latencies_us: Mutex<Vec<u32>>,
    posted: AtomicU64,
    confirmed: AtomicU64,
    closed: AtomicU64,
    /// Triggers that came twice, or not in their order.
    disordered: AtomicU64,
    is_connected: AtomicBool,
    over: CancellationToken,
}

/// How it went in all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict {
    pub(crate) posted: u64,
    pub(crate) confirmed: u64,
    pub(crate) closed: u64,
    /// Deliveries that have not come.
    pub(crate) missed: u64,
    pub(crate) disordered: u64,
}

impl Verdict {
    /// Whether all have stayed, and have everything.
    pub(crate) fn is_well(self) -> bool {
        self.confirmed == self.posted && self.closed + self.missed + self.disordered == 0
    }
}

#[derive(Deserialize)]
struct Frame {
    /// Its number, and the nanoseconds from the start to its posting.
    data: Option<(u64, u64)>,
}

type Watching = JoinHandle<Result<(), String>>;

impl Healthy {
    /// Connects so many, and publishes to them `every` so often once all are there.
    pub(crate) fn start(server: &Server, count: usize, every: Duration) -> Outcome<(Arc<Self>, Watching)> {
        let healthy = Arc::new(Self {
            start: Instant::now(),
            received: (0..count).map(|_| AtomicU64::new(0)).collect(),
            latencies_us: Mutex::default(),
            posted: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            disordered: AtomicU64::new(0),
            is_connected: AtomicBool::new(false),
            over: CancellationToken::new(),
        });
        let (public, internal) = (server.public, server.internal);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let watching = thread::spawn({
            let healthy = healthy.clone();
            move || {
                come_first();
                let outcome = runtime.block_on(healthy.clone().watch(public, internal, every));
                healthy.over.cancel(); // whoever waits for us need not
                outcome.map_err(|error| error.to_string())
            }
        });
        Ok((healthy, watching))
    }

    pub(crate) async fn until_connected(&self) -> Outcome<()> {
        while !self.is_connected.load(Relaxed) {
            if self.over.is_cancelled() {
                return Err("the healthy clients do not get in".into());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// From posting to receipt, in microseconds, in the order of receipt; those since the last time.
    pub(crate) fn take(&self) -> Vec<u32> {
        std::mem::take(&mut self.latencies_us.lock())
    }

    /// Publishes no more, and tells what has not come.
    pub(crate) async fn finish(&self, watching: Watching) -> Outcome<Verdict> {
        self.over.cancel();
        tokio::task::spawn_blocking(|| watching.join()).await?.map_err(|_| "the healthy clients have failed")??;
        let posted = self.posted.load(Relaxed);
        let missed = self.received.iter().map(|received| posted.saturating_sub(received.load(Relaxed))).sum();
        let (confirmed, closed) = (self.confirmed.load(Relaxed), self.closed.load(Relaxed));
        Ok(Verdict { posted, confirmed, closed, missed, disordered: self.disordered.load(Relaxed) })
    }

    async fn watch(self: Arc<Self>, public: SocketAddr, internal: SocketAddr, every: Duration) -> Outcome<()> {
        let sockets = stream::iter(0..self.received.len())
            .map(|number| Box::pin(Socket::enter(public, number, Version::V4, "message")))
            .buffered(AT_ONCE);
        let sockets: Vec<_> = sockets.collect().await;
        for (number, socket) in sockets.into_iter().enumerate() {
            let socket = socket.map_err(|setback| format!("a healthy client does not get in: {setback:?}"))?;
            tokio::spawn(self.clone().read(number, socket));
        }
        let (answers, mut requests) = TcpStream::connect(internal).await?.into_split();
        let confirming = tokio::spawn(self.clone().confirm(answers));
        self.is_connected.store(true, Relaxed);
        let mut ticks = interval(every);
        // It does not wait for the answers: a server that takes its time would be asked less often.
        while !self.over.is_cancelled() {
            ticks.tick().await;
            let (number, now) = (self.posted.fetch_add(1, Relaxed), self.start.elapsed().as_nanos());
            let body = format!(r#"{{"rooms":[{{"target":"message"}}],"data":[{number},{now}]}}"#);
            let head = format!("POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
            requests.write_all((head + &body).as_bytes()).await?;
        }
        let posted = self.posted.load(Relaxed);
        let all = async {
            while self.confirmed.load(Relaxed) < posted
                || self.received.iter().any(|received| received.load(Relaxed) < posted)
            {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = timeout(LAST, all).await; // the verdict says what is missing
        confirming.abort();
        Ok(())
    }

    /// Reads what comes to one of them.
    async fn read(self: Arc<Self>, number: usize, mut socket: Socket) {
        let mut expected = 0;
        while let Ok(text) = socket.next().await {
            let Ok(Frame { data: Some((at, posted_ns)) }) = serde_json::from_str(&text) else { continue };
            let latency = self.start.elapsed().as_nanos().saturating_sub(posted_ns.into());
            self.latencies_us.lock().push((latency / 1000).try_into().unwrap_or(u32::MAX));
            self.received[number].fetch_add(1, Relaxed);
            self.disordered.fetch_add(u64::from(at != expected), Relaxed);
            expected = at + 1;
        }
        self.closed.fetch_add(1, Relaxed);
    }

    /// Counts the answers to what was posted.
    async fn confirm(self: Arc<Self>, mut answers: OwnedReadHalf) {
        let mut bytes = Vec::new();
        while answers.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
            // The first line of an answer stands nowhere else in it.
            const CONFIRMED: &[u8] = b"HTTP/1.1 200 OK\r\n";
            let mut read = 0;
            while let Some(at) = memchr::memmem::find(&bytes[read..], CONFIRMED) {
                self.confirmed.fetch_add(1, Relaxed);
                read += at + CONFIRMED.len();
            }
            let keep = bytes.len().saturating_sub(CONFIRMED.len() - 1).max(read);
            bytes.drain(..keep);
        }
    }
}

/// The others' reading takes much of this core; waiting for it must not be measured as the server's delay.
fn come_first() {
    let thread = std::fs::read_link("/proc/thread-self").ok().and_then(|path| Some(path.file_name()?.to_owned()));
    let first = thread.map(|thread| Command::new("chrt").args(["--fifo", "-p", "1"]).arg(thread).status());
    if !first.is_some_and(|status| status.is_ok_and(|status| status.success())) {
        let _ = writeln!(
            io::stderr(),
            "storm: not allowed to come first (chrt); latencies count the waiting for this core"
        );
    }
}
