//! How the server ends WebSockets, as a client sees it that looks at the stream as well as at the frames.

use std::time::Duration;

use high_templar::config::Listen;
use rustix::process::Signal;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use crate::support::{
    Client, PATIENCE, StubBackend, TestServer,
    channelstream::{Place, Site, VARS},
    client::{End, frame},
    http::{Stream, dial},
    process::Running,
};

/// Within it, an end that came together with a close frame would have been read.
const A_MOMENT: Duration = Duration::from_millis(300);

/// A WebSocket whose bytes are read as they come.
struct Raw {
    stream: Box<dyn Stream>,
    bytes: Vec<u8>,
}

impl Raw {
    async fn connect(public: &Listen, path: &str) -> Self {
        let mut stream = dial(public).await;
        let handshake = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: high-templar.v4\r\n\r\n"
        );
        stream.write_all(handshake.as_bytes()).await.unwrap();
        let mut raw = Self { stream, bytes: Vec::new() };
        raw.read_to(b"\r\n\r\n").await;
        raw.bytes.clear();
        raw
    }

    async fn welcome(public: &Listen) -> Self {
        let mut raw = Self::connect(public, "/ws/").await;
        raw.read_to(b"}").await;
        raw
    }

    /// Reads until these bytes have come.
    async fn read_to(&mut self, end: &[u8]) {
        while !self.bytes.windows(end.len()).any(|bytes| bytes == end) {
            let reading = timeout(PATIENCE, self.stream.read_buf(&mut self.bytes)).await;
            let count = reading.unwrap_or_else(|_| panic!("no {end:?} in time: {:?}", self.bytes)).unwrap();
            assert!(count > 0, "the end of the stream instead of {end:?}: {:?}", self.bytes);
        }
    }

    /// Reads a close frame with `code` and a reason that begins so, and then nothing, not even the end, until it is answered; then
    /// the end.
    async fn expect_close(mut self, code: u16, reason: &str) {
        let start = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
        self.read_to(&start).await;
        let at = self.bytes.windows(start.len()).position(|bytes| bytes == start).unwrap();
        let end = at + usize::from(self.bytes[at - 1]);
        assert_eq!((self.bytes[at - 2], self.bytes.len()), (0x88, end), "one close frame, written at once");
        let mut more = [0; 16];
        let early = timeout(A_MOMENT, self.stream.read(&mut more)).await;
        assert!(early.is_err(), "{code}: {early:?} right behind the close frame");
        self.stream.write_all(&frame(0x88, &code.to_be_bytes())).await.unwrap();
        let end = timeout(PATIENCE, self.stream.read(&mut more)).await.expect("an end in time");
        assert_eq!(end.unwrap(), 0, "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_ends_after_the_clients_answer_to_the_close_frame() {
    let vars = [&VARS[..], &[("IDLE_TIMEOUT", "2s"), ("MESSAGE_RATE", "5"), ("MESSAGE_LIMIT", "1KiB")]].concat();
    let server = TestServer::with(&vars).await;
    let site = Site::at(vec![Place::from(&server)]);
    Raw::welcome(&server.public).await.expect_close(3503, "idle").await;
    let raw = Raw::welcome(&server.public).await;
    server.control(json!({"action": "disconnect", "user": "17"})).await;
    raw.expect_close(3501, "disconnected by the application").await;
    let mut raw = Raw::welcome(&server.public).await;
    raw.stream.write_all(&frame(0x8A, b"").repeat(60)).await.unwrap();
    raw.expect_close(1008, "more than 5 messages a second").await;
    let mut raw = Raw::welcome(&server.public).await;
    // What is on its way does not keep the answer from being read.
    raw.stream.write_all(&[frame(0x81, b"{}"), frame(0x01, b"half")].concat()).await.unwrap();
    server.control(json!({"action": "disconnect", "user": "17"})).await;
    raw.expect_close(3501, "disconnected by the application").await;
    let id = site.connect("ann", &["a"]).await;
    let mut raw = Raw::connect(&server.public, &format!("/ws?conn_id={id}")).await;
    site.say(json!({"user": "bob", "channel": "a", "message": {"text": "listens"}})).await;
    raw.read_to(b"listens").await;
    site.disconnect(&id).await;
    raw.expect_close(1000, "").await;
    let raw = Raw::welcome(&server.public).await;
    server.begin_stop();
    raw.expect_close(1001, "retry_after=").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_is_told_so_before_the_stream_ends() {
    let server = TestServer::with(&[&VARS[..], &[("MESSAGE_LIMIT", "1KiB")]].concat()).await;
    let site = Site::at(vec![Place::from(&server)]);
    let reason = "a message of more than 1024 bytes";
    for id in [None, Some(site.connect("ann", &["a"]).await)] {
        let path = id.map_or_else(|| "/ws/".to_owned(), |id| format!("/ws?conn_id={id}"));
        let mut raw = Raw::connect(&server.public, &path).await;
        raw.stream.write_all(&frame(0x81, &[b'x'; 2000])).await.unwrap();
        let close = [&[0x88, 2 + reason.len() as u8, 0x03, 0xF1][..], reason.as_bytes()].concat();
        raw.read_to(&close).await;
        let mut more = [0; 16];
        assert!(timeout(A_MOMENT, raw.stream.read(&mut more)).await.is_err(), "the end right behind the close frame");
        let end = timeout(PATIENCE, raw.stream.read(&mut more)).await.expect("an end although there is no answer");
        assert_eq!(end.unwrap(), 0);
    }
    let mut client = server.connect().await;
    client.send_raw(&frame(0x81, &[b'x'; 2000])).await;
    assert_eq!(client.end().await.1, End::Closed(1009, reason.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_ends_at_once_where_the_client_has_said_goodbye() {
    let server = TestServer::start().await;
    let mut raw = Raw::welcome(&server.public).await;
    raw.stream.write_all(&frame(0x88, b"\x03\xe8")).await.unwrap();
    raw.read_to(&[0x88, 0x02, 0x03, 0xE8]).await;
    let mut more = [0; 16];
    assert_eq!(timeout(PATIENCE, raw.stream.read(&mut more)).await.expect("an end in time").unwrap(), 0);
}

/// Judged by the clock alone, all of them would be closed as idle when the process goes on, with their pings unread.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_ping_while_the_process_stands_still_are_not_idle() {
    let backend = StubBackend::allowing(json!([])).await;
    let running = Running::start(&[("API_URL", &backend.url()), ("IDLE_TIMEOUT", "2s")]).await;
    let mut clients = Vec::new();
    for number in 0..20 {
        let protocol = [("Sec-WebSocket-Protocol", "high-templar.v4")];
        let headers = if number % 2 == 0 { &protocol[..] } else { &[] };
        let mut client = Client::connect(&running.public, "/ws/", headers).await;
        assert_eq!(client.next().await["is_authorized"], json!(true));
        clients.push(client);
    }
    let silent = Client::connect(&running.public, "/ws/", &[]).await;
    sleep(A_MOMENT).await; // so that it sleeps when it is stopped
    running.signal(Signal::STOP);
    for client in &mut clients {
        client.send_text("ping").await;
    }
    sleep(Duration::from_secs(4)).await;
    running.signal(Signal::CONT);
    for client in &mut clients {
        assert_eq!(client.next().await, json!("pong"));
        client.expect_silence().await;
    }
    let mut silent = silent;
    assert_eq!(silent.end().await.1, End::Closed(1000, String::new()));
}
