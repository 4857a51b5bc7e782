//! A clean stop.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Client, TestServer, backend::Answer, http::dial};

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_that_the_server_goes_away() {
    let server = TestServer::start().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(server.subscriber(&[("1", json!({"target": "message"}))]).await);
    }
    server.trigger(json!({"rooms": [{"target": "message"}], "data": "last"})).await;
    let codes = async {
        for client in &mut clients {
            let (texts, end) = client.end().await;
            assert_eq!(texts.len(), 1, "the publication comes before the end");
            assert_eq!(end, crate::support::client::End::Closed(1001, "going away".to_owned()));
        }
    };
    let ((), report) = tokio::join!(codes, server.stop());
    assert_eq!((report.connections, report.hooks), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_go_is_cut_at_the_deadline_and_reported() {
    let server = TestServer::with(&[("DRAIN", "1s"), ("OUTBOX_LIMIT", "64MiB"), ("TRIGGER_LIMIT", "16MiB")]).await;
    let _stuck = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    for _ in 0..3 {
        let data = "x".repeat(8_000_000);
        server.trigger(json!({"rooms": [{"target": "message"}], "data": data})).await;
    }
    let report = server.stop().await;
    assert_eq!(report.connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_drains_it_is_alive_but_not_ready_and_takes_no_clients() {
    let server = TestServer::with(&[("DRAIN", "20s"), ("HOOK_DISCONNECT", "gone/"), ("API_TIMEOUT", "5s")]).await;
    let mut client = server.connect().await;
    server.backend.answer(|_| Answer::Silence);
    let idle_internal = dial(&server.internal).await;
    // A client that does not say goodbye keeps the drain going for a while.
    server.begin_stop();
    crate::support::eventually("it is not ready", async || {
        match tokio::net::TcpStream::connect(address(&server.internal)).await {
            Ok(_) => server.get("/readyz").await.json() == json!({"ready": false, "message": "stopping"}),
            Err(_) => true,
        }
    })
    .await;
    assert!(tokio::net::TcpStream::connect(address(&server.public)).await.is_err());
    assert_eq!(client.close_code().await, 1001);
    drop(idle_internal);
    server.stop().await;
}

fn address(listen: &high_templar::config::Listen) -> std::net::SocketAddr {
    match listen {
        high_templar::config::Listen::Tcp(address) => *address,
        high_templar::config::Listen::Unix(_) => panic!("not TCP"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_still_being_authenticated_is_told_too_and_keeps_nobody() {
    let server = TestServer::with(&[("DRAIN", "20s")]).await;
    server.backend.answer(|_| Answer::Silence);
    let mut client = Client::connect(&server.public, "/ws/", &[]).await;
    let start = tokio::time::Instant::now();
    let (code, report) = tokio::join!(async { client.close_code().await }, server.stop());
    assert_eq!((code, report.connections), (1001, 0));
    assert!(start.elapsed() < std::time::Duration::from_secs(9), "it waited for the backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_ends_during_the_stop_is_told_too() {
    let server = TestServer::with(&[("DRAIN", "20s"), ("HOOK_DISCONNECT", "gone/"), ("API_TIMEOUT", "2s")]).await;
    let holder = server.connect().await;
    server.backend.answer(|_| Answer::Silence);
    let mut late = [dial(&server.public).await, dial(&server.public).await];
    let head = "GET /ws/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let (first, rest) = head.split_at(20);
    for late in &mut late {
        late.write_all(first.as_bytes()).await.unwrap();
    }
    server.get("/healthz").await; // the first part has been read by now
    server.begin_stop();
    crate::support::eventually("it stops", async || {
        tokio::net::TcpStream::connect(address(&server.public)).await.is_err()
    })
    .await;
    // One of 3.1's is told by the answer to its handshake, one of version 4 by a close frame.
    let offer = "Sec-WebSocket-Protocol: high-templar.v4\r\n";
    let told = [("", &b"HTTP/1.1 503 "[..]), (offer, b"\x88\x11\x03\xe9retry_after=")];
    for (late, (offer, told)) in late.iter_mut().zip(told) {
        late.write_all(format!("{rest}{offer}\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        late.read_to_end(&mut answer).await.unwrap();
        assert!(answer.windows(told.len()).any(|bytes| bytes == told), "{}", String::from_utf8_lossy(&answer));
    }
    drop(holder);
    assert_eq!(server.stop().await.connections, 0);
}
