//! A backend that answers as a test wants, and remembers what it was asked.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinSet,
};

use super::tls;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET /api/bootstrap/`.
    pub line: String,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    pub body: String,
    /// Requests before it on its connection.
    pub before: usize,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What the backend does with a request.
#[derive(Clone)]
pub enum Answer {
    /// Status and body, as JSON.
    Reply(u16, String),
    /// The same with further headers, each ended by a line break.
    ReplyWith(u16, &'static str, String),
    /// Another answer, when there is a permit for it.
    Held(Arc<Semaphore>, Box<Answer>),
    /// These bytes, then the end of the stream.
    Raw(Vec<u8>),
    /// Nothing, ever.
    Silence,
}

type Rule = Arc<dyn Fn(&Asked) -> Answer + Send + Sync>;

/// A real HTTP server under a test's command. Stops when dropped.
pub struct StubBackend {
    pub address: Address,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
    rule: Arc<Mutex<Rule>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Clone)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl StubBackend {
    /// Allows every client the rooms of `allowed`.
    pub async fn allowing(allowed: Value) -> Self {
        let body = serde_json::json!({"allowed_rooms": allowed, "user": {"data": {"id": 17}}}).to_string();
        Self::answering(move |_| Answer::Reply(200, body.clone())).await
    }

    pub async fn answering(rule: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let (mut backend, shared) = Self::new(address, Arc::new(rule));
        backend._tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(shared.clone().serve(stream));
            }
        });
        backend
    }

    /// The same on a unix socket at `path`.
    pub fn on_unix_socket(path: &Path, rule: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let (mut backend, shared) = Self::new(Address::Unix(path.to_owned()), Arc::new(rule));
        backend._tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(shared.clone().serve(stream));
            }
        });
        backend
    }

    /// The same over TLS, with a certificate for `localhost` that is returned in PEM.
    pub async fn over_tls(rule: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> (Self, String) {
        let (acceptor, certificate) = tls::acceptor();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut backend, shared) = Self::new(Address::Tcp(listener.local_addr().unwrap()), Arc::new(rule));
        backend._tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    connections.spawn(shared.clone().serve(stream));
                }
            }
        });
        (backend, certificate)
    }

    fn new(address: Address, rule: Rule) -> (Self, Shared) {
        let shared = Shared {
            asked: Arc::default(),
            connections: Arc::default(),
            at_once: Arc::default(),
            most_at_once: Arc::default(),
            rule: Arc::new(Mutex::new(rule)),
        };
        let backend = Self {
            address,
            asked: shared.asked.clone(),
            connections: shared.connections.clone(),
            most_at_once: shared.most_at_once.clone(),
            rule: shared.rule.clone(),
            _tasks: JoinSet::new(),
        };
        (backend, shared)
    }

    /// Answers differently from now on.
    pub fn answer(&self, rule: impl Fn(&Asked) -> Answer + Send + Sync + 'static) {
        *self.rule.lock() = Arc::new(rule);
    }

    /// Everything asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    /// The request lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.asked.lock().iter().map(|asked| asked.line.clone()).collect()
    }

    /// How many clients it has been asked for.
    pub fn bootstraps(&self) -> usize {
        self.asked.lock().iter().filter(|asked| asked.line == "GET /api/bootstrap/").count()
    }

    /// The most requests that were under way at the same time.
    pub fn most_at_once(&self) -> usize {
        self.most_at_once.load(SeqCst)
    }

    /// How many connections have been opened to it.
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// The value of `API_URL`.
    pub fn url(&self) -> String {
        match &self.address {
            Address::Tcp(address) => format!("http://{address}/api/"),
            Address::Unix(_) => "http://backend.example/api/".to_owned(),
        }
    }
}

#[derive(Clone)]
struct Shared {
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
    at_once: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
    rule: Arc<Mutex<Rule>>,
}

impl Shared {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        self.connections.fetch_add(1, SeqCst);
        let mut stream = BufReader::new(stream);
        let mut before = 0;
        while let Some(asked) = read_request(&mut stream).await {
            let asked = Asked { before, ..asked };
            before += 1;
            self.asked.lock().push(asked.clone());
            let rule = self.rule.lock().clone();
            let at_once = self.at_once.fetch_add(1, SeqCst) + 1;
            self.most_at_once.fetch_max(at_once, SeqCst);
            let mut answer = rule(&asked);
            while let Answer::Held(permits, other) = answer {
                permits.acquire().await.unwrap().forget();
                answer = *other;
            }
            if matches!(answer, Answer::Silence) {
                return std::future::pending().await;
            }
            self.at_once.fetch_sub(1, SeqCst);
            let (status, headers, body) = match answer {
                Answer::Reply(status, body) => (status, "", body),
                Answer::ReplyWith(status, headers, body) => (status, headers, body),
                Answer::Raw(bytes) => {
                    let _ = stream.write_all(&bytes).await;
                    return;
                }
                Answer::Held(..) | Answer::Silence => unreachable!(),
            };
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n",
                body.len()
            );
            if stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).await.is_err() {
                return;
            }
        }
    }
}

async fn read_request(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await.ok()? == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let line = lines.first()?.rsplit_once(' ')?.0.to_owned();
    let headers: HashMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": ").or_else(|| line.split_once(':')))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked { line, headers, body: String::from_utf8_lossy(&body).into_owned(), before: 0 })
}
