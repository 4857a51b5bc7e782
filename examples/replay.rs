//! What it costs to give many clients that come back at once what they have missed.
//!
//!     cargo build --release --examples --bins
//!     target/release/examples/replay --clients 1000 --triggers 100000 --rooms 1
//!
//! Starts a server of its own on the embedded broker, publishes while nobody is there, and then has all clients come back at
//! once with the position from before. Beside it, from before to after, a trigger every 5 ms goes to one client that has not
//! been away. On Linux with two cores: the server has the first one, all else the second.

use std::{
    error::Error,
    io::{self, Write},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{interval, sleep},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How often the undisturbed client gets something.
const BESIDE: Duration = Duration::from_millis(5);
/// Triggers in one request.
const AT_ONCE: usize = 500;

/// Measures what it costs to give many clients that come back at once what they have missed.
#[derive(Debug, Parser)]
#[command(name = "replay")]
struct Arguments {
    /// Clients that come back
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Triggers published while they are away, to all rooms together
    #[arg(long, default_value_t = 100_000)]
    triggers: usize,
    /// Rooms; each client is in one
    #[arg(long, default_value_t = 1)]
    rooms: usize,
    /// Bytes of a trigger's data
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// The server
    #[arg(long, default_value = "target/release/high-templar")]
    binary: String,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let measuring = runtime.map_err(Into::into);
    match measuring.and_then(|runtime| runtime.block_on(run(Arguments::parse()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "replay: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Outcome<()> {
    let api = TcpListener::bind("127.0.0.1:0").await?;
    let api_port = api.local_addr()?.port();
    tokio::spawn(serve_api(api));
    let server = Server::start(&arguments.binary, api_port).await?;
    let mut requests = TcpStream::connect(("127.0.0.1", server.internal)).await?;
    let position = get(&mut requests, "/position").await?["position"].as_str().ok_or("no position")?.to_owned();
    for from in (0..arguments.triggers).step_by(AT_ONCE) {
        let numbers = from..(from + AT_ONCE).min(arguments.triggers);
        let list: Vec<Value> = numbers.map(|number| trigger(number, &arguments)).collect();
        post(&mut requests, &json!(list).to_string()).await?;
    }
    let published = async {
        while get(&mut requests, "/status").await?["clients"]["rabbitmq_messages_received"] != json!(arguments.triggers)
        {
            sleep(Duration::from_millis(20)).await;
        }
        Outcome::Ok(())
    };
    published.await?;

    let beside = Arc::new(Beside::default());
    let watcher = std::thread::spawn({
        let (beside, public, internal) = (beside.clone(), server.public, server.internal);
        move || watch_beside(public, internal, &beside)
    });
    sleep(Duration::from_secs(3)).await;
    let (alone, before) = (beside.take(), server.memory()?);
    let (cpu, start) = (server.cpu()?, Instant::now());
    let peak = Arc::new(AtomicU64::new(0));
    let watching = tokio::spawn(watch_memory(server.child.id(), peak.clone()));
    let clients = (0..arguments.clients).map(|number| {
        let room = number % arguments.rooms;
        let missed = (arguments.triggers + arguments.rooms - 1 - room) / arguments.rooms;
        come_back(server.public, position.clone(), room, missed, arguments.rooms)
    });
    let outcomes = futures::future::join_all(
        clients.map(|client| tokio::spawn(async { client.await.map_err(|e| e.to_string()) })),
    )
    .await;
    let (took, cpu) = (start.elapsed(), server.cpu()? - cpu);
    watching.abort();
    beside.is_over.store(true, Relaxed);
    let during = beside.take();
    watcher.join().map_err(|_| "the undisturbed client has failed")??;
    let mut delivered = 0;
    for outcome in outcomes {
        delivered += outcome??;
    }
    let told = json!({
        "clients": arguments.clients, "rooms": arguments.rooms, "triggers": arguments.triggers, "bytes": arguments.size,
        "delivered": delivered,
        "seconds": took.as_secs_f64(),
        "deliveries_per_second": delivered as f64 / took.as_secs_f64(),
        "server_cpu_us_per_delivery": cpu.as_secs_f64() * 1e6 / delivered as f64,
        "memory_before_mib": before as f64 / 1024.0,
        "memory_peak_mib": peak.load(Relaxed) as f64 / 1024.0,
        "beside_ms": {"alone": alone, "during": during},
    });
    writeln!(io::stdout(), "{told:#}")?;
    Ok(())
}

/// `{"a":NUMBER}`, padded.
fn trigger(number: usize, arguments: &Arguments) -> Value {
    let data = format!("{number:>10}{}", "x".repeat(arguments.size.saturating_sub(12)));
    json!({"rooms": [{"room": number % arguments.rooms}], "data": data})
}

struct Server {
    child: Child,
    public: u16,
    internal: u16,
}

impl Server {
    async fn start(binary: &str, api_port: u16) -> Outcome<Self> {
        let free = || Outcome::Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let (public, internal) = (free()?, free()?);
        let child = Command::new("taskset")
            .args(["-c", "0", binary])
            .env("API_URL", format!("http://127.0.0.1:{api_port}/"))
            .env("LISTEN", format!("127.0.0.1:{public}"))
            .env("INTERNAL_LISTEN", format!("127.0.0.1:{internal}"))
            .env("HISTORY_LIMIT", "256MiB")
            .env("LOG", "warn")
            .stdin(Stdio::null())
            .spawn()?;
        let server = Self { child, public, internal };
        let itself = std::process::id().to_string();
        Command::new("taskset").args(["-a", "-c", "-p", "1", &itself]).stdout(Stdio::null()).status()?;
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", internal)).await.is_ok() {
                return Ok(server);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Err("the server does not start".into())
    }

    /// Resident, in KiB.
    fn memory(&self) -> Outcome<u64> {
        memory(self.child.id())
    }

    fn cpu(&self) -> Outcome<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 10))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn memory(pid: u32) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

async fn watch_memory(pid: u32, peak: Arc<AtomicU64>) {
    loop {
        peak.fetch_max(memory(pid).unwrap_or_default(), Relaxed);
        sleep(Duration::from_millis(20)).await;
    }
}

/// Allows everybody every room.
async fn serve_api(listener: TcpListener) {
    const BODY: &str = r#"{"allowed_rooms":[{"room":"*"},{"beside":1}]}"#;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|count| count > 0) {
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn post(stream: &mut TcpStream, body: &str) -> Outcome<()> {
    let head = format!("POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).await?;
    let (head, _) = answer(stream).await?;
    if head.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(head.into()) }
}

async fn get(stream: &mut TcpStream, path: &str) -> Outcome<Value> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
    Ok(serde_json::from_slice(&answer(stream).await?.1)?)
}

async fn answer(stream: &mut TcpStream) -> Outcome<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err("the server has hung up".into());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).ok_or("no length")?;
    let length: usize = length.trim().parse()?;
    while bytes.len() < end + length {
        stream.read_buf(&mut bytes).await?;
    }
    Ok((head.replacen("http", "HTTP", 1), bytes.split_off(end)))
}

/// A client of version 4, as cheap as can be.
struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
    start: usize,
}

impl Client {
    async fn connect(port: u16) -> Outcome<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let handshake = "GET /ws/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Protocol: high-templar.v4\r\n\r\n";
        stream.write_all(handshake.as_bytes()).await?;
        let mut client = Self { stream, bytes: Vec::with_capacity(128 * 1024), start: 0 };
        loop {
            if let Some(end) = client.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                client.start = end + 4;
                client.frame().await?; // the welcome
                return Ok(client);
            }
            client.read().await?;
        }
    }

    async fn read(&mut self) -> Outcome<()> {
        self.bytes.drain(..self.start);
        self.start = 0;
        if self.stream.read_buf(&mut self.bytes).await? == 0 {
            return Err("the server has hung up".into());
        }
        Ok(())
    }

    async fn send(&mut self, text: &str) -> Outcome<()> {
        let length = u16::try_from(text.len())?.to_be_bytes();
        let mut frame = vec![0x81, 0x80 | 126, length[0], length[1], 0, 0, 0, 0]; // masked with zeros
        frame.extend_from_slice(text.as_bytes());
        Ok(self.stream.write_all(&frame).await?)
    }

    /// Where the next whole frame's payload is.
    async fn frame(&mut self) -> Outcome<std::ops::Range<usize>> {
        loop {
            let unread = &self.bytes[self.start..];
            let head = match unread {
                [_, short @ 0..=125, ..] => Some((2, usize::from(*short))),
                [_, 126, a, b, ..] => Some((4, usize::from(u16::from_be_bytes([*a, *b])))),
                _ => None,
            };
            if let Some((head, length)) = head
                && unread.len() >= head + length
            {
                let start = self.start + head;
                self.start = start + length;
                return Ok(start..start + length);
            }
            self.read().await?;
        }
    }
}

/// Comes back to `room`, and reads until it has had all it had missed. How much that was.
async fn come_back(port: u16, since: String, room: usize, missed: usize, rooms: usize) -> Outcome<usize> {
    let mut client = Client::connect(port).await?;
    let request = json!({"type": "subscribe", "requestId": 1, "room": {"room": room}, "since": since});
    client.send(&request.to_string()).await?;
    let reply = client.frame().await?;
    let reply: Value = serde_json::from_slice(&client.bytes[reply])?;
    if reply["recovered"] != json!(true) {
        return Err(reply.to_string().into());
    }
    for number in 0..missed {
        let frame = client.frame().await?;
        // `{"type":"publish","requestId":1,"data":"` comes before it.
        let text = client.bytes[frame].get(40..50).map(<[u8]>::trim_ascii_start).unwrap_or_default();
        let expected = number * rooms + room;
        if std::str::from_utf8(text)?.parse() != Ok(expected) {
            return Err(format!("{} instead of {expected}", String::from_utf8_lossy(text)).into());
        }
    }
    Ok(missed)
}

/// What comes to the client that has not been away.
#[derive(Default)]
struct Beside {
    /// From the posting of a trigger to its arrival.
    latencies_ns: parking_lot::Mutex<Vec<u64>>,
    is_over: AtomicBool,
}

impl Beside {
    /// Percentiles since the last time, in milliseconds.
    fn take(&self) -> Value {
        let mut all = std::mem::take(&mut *self.latencies_ns.lock());
        all.sort_unstable();
        let at = |part: f64| all.get((all.len() as f64 * part) as usize).map(|ns| (*ns as f64 / 1e4).round() / 100.0);
        json!({"count": all.len(), "p50": at(0.5), "p99": at(0.99), "max": at(0.999_999)})
    }
}

/// Publishes to the undisturbed client and reads what comes, on a thread of its own: the others' reading is not its business.
fn watch_beside(public: u16, internal: u16, beside: &Beside) -> Result<(), String> {
    // The reading of what is missed takes all of this core; waiting for it must not be measured as the server's delay.
    let thread = std::fs::read_link("/proc/thread-self").map_err(|error| error.to_string())?;
    let thread = thread.file_name().unwrap_or_default().to_owned();
    let first = Command::new("chrt").args(["--fifo", "-p", "1"]).arg(&thread).status();
    if !first.is_ok_and(|status| status.success()) {
        let _ = writeln!(
            io::stderr(),
            "replay: not allowed to come first (chrt); latencies count the waiting for this core"
        );
    }
    let watch = async {
        let mut requests = TcpStream::connect(("127.0.0.1", internal)).await?;
        let mut client = Client::connect(public).await?;
        let request = json!({"type": "subscribe", "requestId": 1, "room": {"beside": 1}}).to_string();
        client.send(&request).await?;
        client.frame().await?;
        let mut ticks = interval(BESIDE);
        while !beside.is_over.load(Relaxed) {
            ticks.tick().await;
            let sent = Instant::now();
            post(&mut requests, r#"{"rooms":[{"beside":1}],"data":1}"#).await?;
            client.frame().await?;
            beside.latencies_ns.lock().push(sent.elapsed().as_nanos() as u64);
        }
        Outcome::Ok(())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(watch).map_err(|error| error.to_string())
}
