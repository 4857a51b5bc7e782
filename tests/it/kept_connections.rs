//! Connections to the listeners that are kept for a next request.

use std::time::Duration;

use high_templar::config::Listen;
use rustix::process::Signal;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};

use crate::support::{
    PATIENCE, StubBackend, TestServer,
    channelstream::VARS,
    eventually,
    http::{Reply, Stream, dial, exchange, parse},
    process::Running,
};

/// Longer than the head of a request may take.
const LONG_SILENCE: Duration = Duration::from_secs(6);

type Connection = Box<dyn Stream>;

/// A request that is answered 200 at once, without a body.
fn ask(listener: &Listen, server: &TestServer) -> Vec<u8> {
    let path =
        if *listener == server.public { "/listen?conn_id=00000000-0000-4000-8000-000000000000" } else { "/healthz" };
    format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

/// The head of the next answer.
async fn answer(connection: &mut Connection) -> Reply {
    let mut answer = Vec::new();
    let reading = async {
        while !answer.ends_with(b"\r\n\r\n") {
            if connection.read_buf(&mut answer).await.unwrap() == 0 {
                return;
            }
        }
    };
    timeout(PATIENCE, reading).await.expect("an answer in time");
    parse(&answer)
}

async fn end(connection: &mut Connection) {
    let mut rest = Vec::new();
    timeout(PATIENCE, connection.read_to_end(&mut rest)).await.expect("an end in time").unwrap();
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_through_a_silence_that_is_longer_than_a_head_may_take() {
    let server = TestServer::with(&VARS).await;
    for listener in [&server.public, &server.internal] {
        let ask = ask(listener, &server);
        let mut connection = dial(listener).await;
        for round in 0..2 {
            if round > 0 {
                sleep(LONG_SILENCE).await;
            }
            // A head may come in pieces.
            for piece in [&ask[..10], &ask[10..]] {
                connection.write_all(piece).await.unwrap();
                connection.flush().await.unwrap();
            }
            let reply = answer(&mut connection).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_eq!(reply.header("connection"), Some("keep-alive"), "{reply:?}");
            assert_eq!(reply.header("keep-alive"), Some("timeout=75"), "{reply:?}");
        }
        // From the first byte on, a head has its deadline.
        let since = Instant::now();
        connection.write_all(&ask[..10]).await.unwrap();
        end(&mut connection).await;
        assert!(since.elapsed() >= Duration::from_secs(4), "{:?}", since.elapsed());
    }
    server.until_metric(r#"limited_total{reason="handshake"}"#, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_some_time_after_what_was_announced_and_a_stop_waits_for_none() {
    let server = TestServer::with(&[&VARS[..], &[("KEEP_ALIVE", "1s")]].concat()).await;
    for listener in [&server.public, &server.internal] {
        let mut connection = dial(listener).await;
        connection.write_all(&ask(listener, &server)).await.unwrap();
        let (reply, since) = (answer(&mut connection).await, Instant::now());
        assert_eq!(reply.header("keep-alive"), Some("timeout=1"), "{reply:?}");
        end(&mut connection).await;
        assert!(since.elapsed() >= Duration::from_secs(2), "{:?}", since.elapsed());
    }
    assert_eq!(server.metric(r#"limited_total{reason="handshake"}"#).await, 0);
    let server = TestServer::start().await;
    let mut connection = dial(&server.internal).await;
    connection.write_all(&ask(&server.internal, &server)).await.unwrap();
    assert_eq!(answer(&mut connection).await.status, 200);
    server.begin_stop();
    end(&mut connection).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_whether_its_connection_is_kept() {
    let server = TestServer::with(&VARS).await;
    for (listener, line, headers, kept) in [
        (&server.internal, "HEAD /healthz HTTP/1.1", "Connection: close\r\n", false),
        (&server.internal, "HEAD /healthz HTTP/1.1", "Connection: TE, Close\r\n", false),
        (&server.internal, "HEAD /healthz HTTP/1.0", "", false),
        (&server.internal, "HEAD /healthz HTTP/1.0", "Connection: keep-alive\r\n", true),
        (&server.internal, "HEAD /healthz HTTP/1.1", "", true),
        (&server.internal, "HEAD /healthz HTTP/1.1", "Connection: keep-alive\r\n", true),
        (&server.internal, "HEAD /nothing HTTP/1.1", "", true),
        (&server.internal, "HEAD nothing HTTP/1.1", "", false),
        (&server.public, "HEAD /nothing HTTP/1.1", "", false),
        (&server.public, "HEAD /listen?conn_id=nonsense HTTP/1.1", "", false),
    ] {
        let mut connection = dial(listener).await;
        connection.write_all(format!("{line}\r\nHost: localhost\r\n{headers}\r\n").as_bytes()).await.unwrap();
        let reply = answer(&mut connection).await;
        let expected = if kept { (Some("keep-alive"), Some("timeout=75")) } else { (Some("close"), None) };
        assert_eq!((reply.header("connection"), reply.header("keep-alive")), expected, "{line} {headers}: {reply:?}");
        assert_eq!(reply.head.to_lowercase().matches("\nconnection:").count(), 1, "{reply:?}");
        if kept {
            connection.write_all(format!("{line}\r\nHost: localhost\r\n{headers}\r\n").as_bytes()).await.unwrap();
            assert_eq!(answer(&mut connection).await.status, reply.status, "{line} {headers}");
        } else {
            end(&mut connection).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_makes_room_where_there_are_many() {
    let limits = [("MAX_CONNECTIONS", "4"), ("TRUSTED_PROXIES", "none")];
    let by_address = [("MAX_CONNECTIONS_PER_ADDRESS", "4"), ("TRUSTED_PROXIES", "none")];
    for vars in [limits, by_address] {
        let server = TestServer::with(&[&VARS[..], &vars].concat()).await;
        let mut silent = dial(&server.public).await;
        silent.write_all(&ask(&server.public, &server)).await.unwrap();
        assert_eq!(answer(&mut silent).await.header("connection"), Some("keep-alive"));
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(server.connect().await);
        }
        end(&mut silent).await;
        for mut client in clients {
            client.expect_silence().await;
        }
    }
}

/// Judged by the clock alone, the connection would end when the process goes on, with the request unread.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_came_while_the_process_stood_still_is_answered() {
    let backend = StubBackend::allowing(json!([])).await;
    let running = Running::start(&[("API_URL", &backend.url()), ("KEEP_ALIVE", "1s")]).await;
    const ASK: &[u8] = b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut connections = Vec::new();
    for number in 0..20 {
        let mut connection = dial(&running.internal).await;
        if number % 2 == 0 {
            connection.write_all(ASK).await.unwrap();
            assert_eq!(answer(&mut connection).await.status, 200);
        }
        connections.push(connection);
    }
    running.signal(Signal::STOP);
    for connection in &mut connections {
        connection.write_all(ASK).await.unwrap();
    }
    sleep(LONG_SILENCE + Duration::from_secs(1)).await;
    running.signal(Signal::CONT);
    for connection in &mut connections {
        assert_eq!(answer(connection).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_ahead_of_an_answer_is_answered_in_order_however_much_it_is() {
    const REQUESTS: usize = 2000;
    let server = TestServer::with(&VARS).await;
    let one = "POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 22\r\n\r\n{\"rooms\":[],\"data\":1} ";
    let last = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let all = one.repeat(REQUESTS) + last;
    let reply = exchange(&server.internal, all.as_bytes()).await;
    let text = format!("{}\r\n\r\n{}", reply.head, reply.body);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), REQUESTS + 1);
    eventually("all are counted", async || {
        server.metric(r#"trigger_requests_total{reason="success"}"#).await == REQUESTS as u64
    })
    .await;
}
