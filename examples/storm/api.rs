//! The stub of an API: so many workers, each busy for so long with a request, and a line before them.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, sleep_until},
};

use crate::Outcome;

/// Connections that wait in the kernel's line.
const BACKLOG: i32 = 4096;

pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    line: Mutex<Line>,
}

/// What came to the API in some time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    pub(crate) requests: u64,
    /// Those whose asker had gone before they were answered; they were work all the same.
    pub(crate) in_vain: u64,
    /// The most requests at once, waiting or worked on.
    pub(crate) most_at_once: u64,
}

/// The requests that wait or are worked on. None is worked on before those that came before it have begun.
struct Line {
    /// When each of the workers has done what it has got so far.
    free_at: Vec<Instant>,
    /// How long a request takes a worker.
    takes: Duration,
    at_once: u64,
    asked: Asked,
}

impl Api {
    /// Starts it on a thread of its own, where it stays for as long as the process.
    ///
    /// So many connections are open at most; further ones wait in the kernel's line, as far as that goes.
    pub(crate) fn start(rate: f64, workers: usize, connections: usize) -> Outcome<Arc<Self>> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        listener.listen(BACKLOG)?;
        let listener = std::net::TcpListener::from(listener);
        let takes = Duration::from_secs_f64(workers as f64 / rate);
        let line = Line { free_at: vec![Instant::now(); workers], takes, at_once: 0, asked: Asked::default() };
        let api = Arc::new(Self { address: listener.local_addr()?, line: Mutex::new(line) });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = api.clone();
        thread::spawn(move || runtime.block_on(serving.serve(listener, connections)));
        Ok(api)
    }

    /// What has come since the last time.
    pub(crate) fn take(&self) -> Asked {
        let mut line = self.line.lock();
        let most_at_once = line.at_once;
        std::mem::replace(&mut line.asked, Asked { most_at_once, ..Asked::default() })
    }

    async fn serve(self: Arc<Self>, listener: std::net::TcpListener, connections: usize) {
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        let places = Arc::new(Semaphore::new(connections));
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let answering = self.clone().answer(stream);
                    tokio::spawn(async move {
                        let _ = answering.await; // the server has gone away
                        drop(place);
                    });
                }
                // Out of descriptors: those in line give some back.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Answers one request after the other.
    async fn answer(self: Arc<Self>, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut request = Vec::with_capacity(1024);
        loop {
            let end = loop {
                if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
                    break end + 4;
                }
                if stream.read_buf(&mut request).await? == 0 {
                    return Ok(());
                }
            };
            let answer = bootstrap(&String::from_utf8_lossy(&request[..end]));
            request.drain(..end);
            let done = self.line.lock().enter();
            sleep_until(done.into()).await;
            let is_gone =
                !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
            self.line.lock().leave(is_gone);
            stream.write_all(answer.as_bytes()).await?;
        }
    }
}

impl Line {
    /// When the request that comes now will have been done.
    fn enter(&mut self) -> Instant {
        self.asked.requests += 1;
        self.at_once += 1;
        self.asked.most_at_once = self.asked.most_at_once.max(self.at_once);
        let now = Instant::now();
        match self.free_at.iter_mut().min() {
            Some(first) => {
                *first = now.max(*first) + self.takes;
                *first
            }
            None => now,
        }
    }

    fn leave(&mut self, is_gone: bool) {
        self.at_once -= 1;
        self.asked.in_vain += u64::from(is_gone);
    }
}

/// The answer to a client who shows who it is by `sid=NUMBER` among its cookies.
fn bootstrap(head: &str) -> String {
    let sid =
        head.split_once("sid=").map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    match sid {
        Some(sid) if head.starts_with("GET /bootstrap/ ") => {
            let body = format!(
                r#"{{"allowed_rooms":[{{"target":"message"}},{{"target":"quiet"}}],"user":{{"data":{{"id":{sid}}}}}}}"#
            );
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
        _ => "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_owned(),
    }
}
