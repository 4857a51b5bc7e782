//! Those who listen, all of them by sockets or all of them by long polls, and what has come to them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::{
    net::TcpStream,
    time::{interval_at, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use crate::{
    Outcome,
    http::{self, Caller, Line},
};

/// The channel that all of them are in.
pub(crate) const CHANNEL: &str = "crowd";
/// How often Channelstream's JavaScript client says something on its socket.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long the answer to a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Addresses that they come from in turn: one does not have enough ports.
const SOURCES: usize = 8;

/// How they listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Socket,
    Poll,
}

pub(crate) struct Listeners {
    pub(crate) by: By,
    /// From when messages count the time.
    start: Instant,
    records: Mutex<Vec<Record>>,
    /// For each message what it took to whom it has come to, in microseconds.
    latencies_us: Mutex<Vec<Vec<u32>>>,
    lists: AtomicU64,
    caught_up: AtomicU64,
    /// Why the first one was lost.
    loss: Mutex<Option<String>>,
}

/// What has become of one of them.
#[derive(Debug, Clone, Default)]
struct Record {
    /// Lists that have come, empty ones too.
    lists: u64,
    /// The number of the next message.
    next: u64,
    /// What came again, or not in its order, or is not what it should be.
    wrong: u64,
    is_lost: bool,
}

/// How it went for all of them.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    /// Messages to somebody that did not come.
    pub(crate) missed: u64,
    pub(crate) wrong: u64,
    pub(crate) lost: usize,
    pub(crate) loss: Option<String>,
    /// Messages that came as something missed, between two polls.
    pub(crate) caught_up: u64,
}

#[derive(Deserialize)]
struct Frame {
    message: Option<Posted>,
    #[serde(default)]
    catchup: bool,
}

/// A message as it is posted.
#[derive(Deserialize)]
struct Posted {
    number: u64,
    /// Nanoseconds from the start.
    at: u64,
}

impl Listeners {
    /// So many, none of which is there yet.
    pub(crate) fn new(by: By, count: usize, start: Instant) -> Arc<Self> {
        Arc::new(Self {
            by,
            start,
            records: Mutex::new(vec![Record::default(); count]),
            latencies_us: Mutex::default(),
            lists: AtomicU64::new(0),
            caught_up: AtomicU64::new(0),
            loss: Mutex::default(),
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.records.lock().len()
    }

    /// Has `caller` make a connection for one of them, a user of its own, who listens at `server` from then on.
    pub(crate) async fn enter(self: &Arc<Self>, number: usize, caller: &mut Caller, server: SocketAddr) -> Outcome<()> {
        let user = format!("{:?}-{number}", self.by);
        // Who is there is left out, as everyone with that many users has to: it is more with each answer.
        let call = format!(
            r#"{{"username":"{user}","channels":["{CHANNEL}"],"info":{{"include_users":false,"include_history":false}}}}"#
        );
        let answer = caller.post("/connect", &call).await?;
        let connection = answer["conn_id"].as_str().ok_or("no conn_id")?;
        let source = [127, 0, 0, 2 + (number % SOURCES) as u8];
        match self.by {
            By::Socket => {
                let stream = http::connect(server, source).await?;
                let url = format!("ws://localhost/ws?conn_id={connection}");
                let config = WebSocketConfig::default().read_buffer_size(1024).write_buffer_size(0);
                let opening = Box::pin(client_async_with_config(url, stream, Some(config)));
                let (socket, _) = timeout(HANDSHAKE, opening).await.map_err(|_| "no handshake in time")??;
                tokio::spawn(self.clone().listen(number, socket));
            }
            By::Poll => {
                let line = Line::open(server, source).await?;
                let request = format!("GET /listen?conn_id={connection} HTTP/1.1\r\nHost: localhost\r\n\r\n");
                tokio::spawn(self.clone().poll(number, line, request));
            }
        }
        Ok(())
    }

    async fn listen(self: Arc<Self>, number: usize, mut socket: WebSocketStream<TcpStream>) {
        let mut beats = interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
        let why = loop {
            let message = tokio::select! {
                message = socket.next() => message,
                _ = beats.tick() => {
                    let _ = socket.send(Message::text(r#"{"type":"heartbeat"}"#)).await; // reading tells
                    continue;
                }
            };
            match message {
                Some(Ok(Message::Text(list))) => self.hear(number, list.as_bytes()),
                Some(Ok(Message::Close(close))) => break format!("closed with {close:?}"),
                Some(Ok(_)) => {}
                Some(Err(error)) => break error.to_string(),
                None => break "the connection was closed".to_owned(),
            }
        };
        self.lose(number, why);
    }

    async fn poll(self: Arc<Self>, number: usize, mut line: Line, request: String) {
        let why = loop {
            match line.ask(request.as_bytes()).await {
                Ok(answer) if answer.status == 200 => self.hear(number, &answer.body),
                Ok(answer) => break format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body)),
                Err(error) => break error.to_string(),
            }
        };
        self.lose(number, why);
    }

    fn hear(&self, number: usize, list: &[u8]) {
        let now = self.start.elapsed().as_nanos();
        self.lists.fetch_add(1, Relaxed);
        let frames = serde_json::from_slice::<Vec<Frame>>(list);
        let (mut records, mut latencies_us) = (self.records.lock(), self.latencies_us.lock());
        let record = &mut records[number];
        record.lists += 1;
        record.wrong += u64::from(frames.is_err());
        for Frame { message, catchup } in frames.into_iter().flatten() {
            let Some(Posted { number, at }) = message else { continue };
            self.caught_up.fetch_add(u64::from(catchup), Relaxed);
            record.wrong += u64::from(number != record.next);
            if number < record.next {
                continue;
            }
            record.next = number + 1;
            let message = number as usize;
            if latencies_us.len() <= message {
                latencies_us.resize_with(message + 1, Vec::new);
            }
            let latency_us = now.saturating_sub(at.into()) / 1000;
            latencies_us[message].push(latency_us.try_into().unwrap_or(u32::MAX));
        }
    }

    fn lose(&self, number: usize, why: String) {
        self.records.lock()[number].is_lost = true;
        self.loss.lock().get_or_insert(why);
    }

    /// Waits until each has heard something after this, those that are lost left out. Whether all have in time.
    pub(crate) async fn until_heard(&self, within: Duration) -> bool {
        let heard = || self.records.lock().iter().map(|record| record.lists).collect::<Vec<_>>();
        let before = heard();
        let all = async {
            while self
                .records
                .lock()
                .iter()
                .zip(&before)
                .any(|(record, lists)| !record.is_lost && record.lists <= *lists)
            {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(within, all).await.is_ok()
    }

    /// Whether everybody has the messages up to this number, those that are lost left out.
    pub(crate) fn have(&self, messages: u64) -> bool {
        self.records.lock().iter().all(|record| record.is_lost || record.next >= messages)
    }

    /// Lists that have come to anybody since the start.
    pub(crate) fn lists(&self) -> u64 {
        self.lists.load(Relaxed)
    }

    pub(crate) fn latencies_us(&self) -> Vec<Vec<u32>> {
        self.latencies_us.lock().clone()
    }

    /// After so many messages.
    pub(crate) fn verdict(&self, messages: u64) -> Verdict {
        let received: usize = self.latencies_us.lock().iter().map(Vec::len).sum();
        let records = self.records.lock();
        Verdict {
            missed: (messages * records.len() as u64).saturating_sub(received as u64),
            wrong: records.iter().map(|record| record.wrong).sum(),
            lost: records.iter().filter(|record| record.is_lost).count(),
            loss: self.loss.lock().clone(),
            caught_up: self.caught_up.load(Relaxed),
        }
    }
}
