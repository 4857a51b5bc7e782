//! Peers that end their half of a connection behind a request, and peers that go before they have the answer.

use std::{sync::Arc, time::Duration};

use high_templar::config::Listen;
use serde_json::json;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::support::{
    PATIENCE, StubBackend, TestServer,
    backend::Answer,
    channelstream::{Place, Site, VARS, signature},
    events, eventually,
    http::{Reply, dial, parse, request, send},
    process::Running,
    rabbitmq,
};

/// What a peer that has ended its half is sent where an answer takes its time.
const PROBE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// A request of a client that would go on with the connection, and its body.
fn kept(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let request = String::from_utf8(request(method, path, headers, body)).unwrap();
    request.replace("Connection: close\r\n", "").into_bytes()
}

/// Sends `bytes`, ends its half of the connection, and reads the answer to the end of the other half.
async fn half_close(address: &Listen, bytes: &[u8]) -> Reply {
    let mut stream = dial(address).await;
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end in time").unwrap();
    parse(answer.strip_prefix(PROBE.as_bytes()).unwrap_or(&answer))
}

async fn tcp(address: &Listen) -> TcpStream {
    let Listen::Tcp(address) = address else { unreachable!("it is TCP") };
    TcpStream::connect(address).await.unwrap()
}

/// Ends the connection by a reset.
fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_is_answered_and_delivered_once_although_its_publisher_sends_nothing_more() {
    const TRIGGERS: u64 = 50;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log").display().to_string();
    let (url, exchange) = (rabbitmq::shared(), format!("test-{}", Uuid::new_v4()));
    let rabbitmq = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", exchange.as_str())];
    for vars in [&[][..], &[("EMBEDDED_LOG", file.as_str())], &rabbitmq] {
        let server = TestServer::with(vars).await;
        let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
        for number in 0..TRIGGERS {
            let body = json!({"rooms": [{"target": "message"}], "data": number}).to_string();
            let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
            let post = match number % 3 {
                0 => kept("POST", "/trigger/", &[], body.as_bytes()),
                1 => request("POST", "/trigger/", &[], body.as_bytes()),
                _ => {
                    format!("POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}")
                        .into_bytes()
                }
            };
            let reply = half_close(&server.internal, &post).await;
            assert_eq!((reply.status, reply.json()), (200, json!({"code": "success"})), "{vars:?}: {reply:?}");
        }
        for number in 0..TRIGGERS {
            assert_eq!(client.next().await["data"], json!(number), "{vars:?}");
        }
        client.expect_silence().await;
        assert_eq!(server.metric(r#"trigger_requests_total{reason="success"}"#).await, TRIGGERS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_answered_although_its_peer_sends_nothing_more() {
    let server = TestServer::with(&VARS).await;
    let signature = signature();
    let signed = [("x-channelstream-secret", signature.as_str())];
    let body = json!({"username": "ann", "channels": ["a"], "conn_id": Uuid::from_u128(1)}).to_string();
    let message = json!([{"channel": "a", "user": "ann", "message": {"text": "x"}}]).to_string();
    let control = json!({"action": "disconnect", "user": "nobody"}).to_string();
    let site = Site::at(vec![Place::from(&server)]);
    let listen = format!("/listen?conn_id={}", site.connect("bob", &["a"]).await);
    for (listener, method, path, headers, body, status) in [
        (&server.internal, "GET", "/metrics", &[][..], "", 200),
        (&server.internal, "GET", "/status", &[], "", 200),
        (&server.internal, "GET", "/healthz", &[], "", 200),
        (&server.internal, "GET", "/readyz", &[], "", 200),
        (&server.internal, "GET", "/connections", &[], "", 200),
        (&server.internal, "GET", "/", &[], "", 200),
        (&server.internal, "GET", "/position", &[], "", 200),
        (&server.internal, "GET", "/nothing", &[], "", 404),
        (&server.internal, "POST", "/control/", &[], &control, 200),
        (&server.internal, "POST", "/trigger/", &[], "{", 400),
        (&server.internal, "POST", "/connect", &signed, &body, 200),
        (&server.public, "POST", "/message", &signed, &message, 200),
        (&server.public, "GET", &listen, &[], "", 200),
        (&server.public, "GET", "/nothing", &[], "", 404),
        (&server.public, "GET", "/ws/", &[], "", 426),
        (&server.public, "GET", "/sse/", &[], "", 400),
    ] {
        for _ in 0..5 {
            if path == listen {
                site.say(json!({"channel": "a", "user": "ann", "message": {"text": "x"}})).await;
            }
            let reply = half_close(listener, &kept(method, path, headers, body.as_bytes())).await;
            assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
            if path == listen {
                assert_eq!(reply.json()[0]["message"]["text"], json!("x"), "{reply:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_begins_although_its_client_sends_nothing_more() {
    let server = TestServer::start().await;
    let path = events::path(&[json!({"target": "message"})], "");
    let mut stream = dial(&server.public).await;
    stream.write_all(&kept("GET", &path, &[], b"")).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("\"requestId\":\"0\"") {
        assert!(
            timeout(PATIENCE, stream.read_buf(&mut answer)).await.expect("bytes in time").unwrap() > 0,
            "{answer:?}"
        );
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.trim_start_matches(PROBE).starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_waits_for_a_peer_that_sends_nothing_more_and_asks_whether_it_is_there() {
    let site = Site::one(&[]).await;
    let id = site.connect("ann", &["a"]).await;
    for (version, probe) in [("HTTP/1.1", PROBE), ("HTTP/1.0", "")] {
        let mut stream = dial(site.public()).await;
        let poll = format!("GET /listen?conn_id={id} {version}\r\nHost: localhost\r\n\r\n");
        stream.write_all(poll.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut interim = vec![0; probe.len()];
        timeout(PATIENCE, stream.read_exact(&mut interim)).await.expect("an interim answer in time").unwrap();
        assert_eq!(String::from_utf8_lossy(&interim), probe);
        site.say(json!({"user": "bob", "channel": "a", "message": {"text": version}})).await;
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end in time").unwrap();
        let reply = parse(&answer);
        let frames = reply.json();
        assert_eq!((reply.status, frames.as_array().unwrap().len()), (200, 1), "{reply:?}");
        assert_eq!((&frames[0]["message"]["text"], reply.header("connection")), (&json!(version), Some("close")));
    }
}

/// A client that closes its end of a poll is told from one that waits at that end before a frame counts as received.
#[tokio::test(flavor = "multi_thread")]
async fn a_poll_that_was_given_up_long_ago_takes_nothing_away_from_the_next_one() {
    let server = TestServer::with(&VARS).await;
    let site = Site::at(vec![Place::from(&server)]);
    for (number, is_reset) in [false, true, false, true].into_iter().enumerate() {
        let id = site.connect("ann", &["a"]).await;
        let commands = server.metric("channelstream_commands_total").await;
        let mut stream = tcp(site.public()).await;
        stream.write_all(&kept("GET", &format!("/listen?conn_id={id}"), &[], b"")).await.unwrap();
        server.until_metric("channelstream_commands_total", commands + 1).await; // it listens
        if is_reset {
            reset(stream)
        } else {
            drop(stream)
        }
        server.until_metric("channelstream_commands_total", commands + 2).await; // it does not any more
        site.say(json!({"user": "bob", "channel": "a", "message": {"text": number}})).await;
        sleep(Duration::from_millis(600)).await; // longer than a poll waits for more
        let frames = site.poll(&id).await;
        assert_eq!((frames.len(), &frames[0]["message"]["text"]), (1, &json!(number)), "{frames:?}");
        site.disconnect(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_whose_client_has_gone_is_not_asked_for() {
    let server = TestServer::start().await;
    let (permits, answer) = (Arc::new(Semaphore::new(0)), json!({"allowed_rooms": []}).to_string());
    let held = permits.clone();
    server.backend.answer(move |_| Answer::Held(held.clone(), Box::new(Answer::Reply(200, answer.clone()))));
    let handshake = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (number, ends) in [Ends::HalfCloses, Ends::Closes, Ends::Resets].into_iter().enumerate() {
        for _ in 0..20 {
            ends.after(&server.public, &kept("GET", "/ws/", &handshake, b"")).await;
        }
        server.until_metric(r#"connections_refused_total{reason="gone"}"#, 20 * (number as u64 + 1)).await;
        server.until_number("open_connections", 0).await;
        server.until_metric("api_calls", 0).await;
    }
}

/// How a peer goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ends {
    /// Ends its half, waits for the end of the other, and reads nothing of it.
    HalfCloses,
    Closes,
    Resets,
}

impl Ends {
    /// Sends `bytes` and goes.
    async fn after(self, address: &Listen, bytes: &[u8]) {
        let mut stream = tcp(address).await;
        stream.write_all(bytes).await.unwrap();
        match self {
            Self::HalfCloses => {
                stream.shutdown().await.unwrap();
                let mut rest = Vec::new();
                let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end in time");
            }
            Self::Closes => {}
            Self::Resets => reset(stream),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_peers_that_go_in_the_middle_wherever_that_is() {
    let backend = StubBackend::allowing(json!([{"target": "message"}])).await;
    let url = backend.url();
    let vars = [&VARS[..], &[("API_URL", url.as_str()), ("PING_INTERVAL", "1s")]].concat();
    let running = Running::start(&vars).await;
    let site = Site::at(vec![Place::from(&running)]);
    let id = site.connect("ann", &["a"]).await;
    let signature = signature();
    let signed = [("x-channelstream-secret", signature.as_str())];
    let trigger = json!({"rooms": [{"target": "other"}], "data": 1}).to_string();
    let message = json!([{"channel": "a", "user": "bob", "message": {"text": "x"}}]).to_string();
    let control = json!({"action": "disconnect", "user": "nobody"}).to_string();
    let events = events::path(&[json!({"target": "message"})], "");
    let files = || std::fs::read_dir(format!("/proc/{}/fd", running.child.id())).unwrap().count();
    let before = files();
    for (listener, method, path, headers, body) in [
        (&running.internal, "GET", "/metrics", &[][..], ""),
        (&running.internal, "GET", "/status", &[], ""),
        (&running.internal, "POST", "/trigger/", &[], trigger.as_str()),
        (&running.internal, "POST", "/control/", &[], &control),
        (&running.public, "POST", "/message", &signed, &message),
        (&running.public, "GET", &format!("/listen?conn_id={id}"), &[], ""),
        (&running.public, "GET", "/ws/", &[], ""),
        (&running.public, "GET", &events, &[], ""),
    ] {
        let whole = kept(method, path, headers, body.as_bytes());
        let head = whole.len() - body.len();
        for cut in [0, 1, head / 2, head - 2, head, head + body.len() / 2, whole.len()] {
            for ends in [Ends::HalfCloses, Ends::Closes, Ends::Resets] {
                if ends == Ends::HalfCloses && cut == whole.len() && (path == events || path.contains("/listen")) {
                    continue; // it is served, which takes its time
                }
                ends.after(listener, &whole[..cut]).await;
            }
        }
    }
    eventually("all descriptors are closed", async || files() <= before).await;
    let metrics = send(&running.internal, "GET", "/metrics", &[], b"").await.body;
    for gauge in ["high_templar_connections 0\n", "high_templar_api_calls 0\n"] {
        assert!(metrics.contains(gauge), "{metrics}");
    }
    // Half a body is no trigger.
    let taken =
        metrics.lines().find(|line| line.starts_with("high_templar_trigger_requests_total{reason=\"success\"}"));
    let taken: usize = taken.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap());
    assert!(taken <= 3, "{taken} triggers of 3 whole requests");
}
