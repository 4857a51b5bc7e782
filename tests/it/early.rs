//! Clients that wait: they are answered, and whoever goes is waited for by nobody.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use high_templar::config::Listen;
use serde_json::json;
use socket2::SockRef;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Semaphore};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Client, StubBackend, TestServer, Users,
    backend::{Answer, Asked},
    client::{End, frame},
    eventually,
    http::dial,
};

/// A server whose API answers one request at a time, each with a permit; somebody else is being asked for.
async fn busy() -> (TestServer, Arc<Semaphore>, Client) {
    let users = Users::default();
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    let rule = move |asked: &Asked| Answer::Held(held.clone(), Box::new(users.answer(asked)));
    let server =
        TestServer::before(StubBackend::answering(rule).await, &[("API_CONCURRENCY", "1"), ("API_TIMEOUT", "1m")])
            .await;
    let first = server.dial_v4("first").await;
    eventually("the API is asked", async || server.backend.bootstraps() == 1).await;
    (server, permits, first)
}

/// All that wait are answered, `first` among them; how many the API was asked for.
async fn asked_in_all(server: &TestServer, permits: &Semaphore, mut first: Client) -> usize {
    permits.add_permits(1000);
    assert_eq!(first.next().await["is_authorized"], json!(true));
    server.until_metric("api_waiting", 0).await;
    server.until_metric("api_calls", 0).await;
    server.backend.bootstraps()
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_before_the_welcome_and_messages_after_it_in_their_order() {
    let (server, permits, first) = busy().await;
    // The handshake of one of 3.1's is answered after a while, whatever the API does.
    let mut clients = [server.dial("old").await, server.dial_v4("new").await];
    for client in &mut clients {
        client.send(json!({"type": "nonsense"})).await;
        client.ping(b"still there?").await;
        client.send_raw(&frame(0x01, br#"{"type":"#)).await; // a fragment
        client.ping(b"and now?").await;
        client.send_raw(&frame(0x80, br#""status"}"#)).await;
        client.send_message(Message::Binary(b"\xff".as_slice().into())).await;
        client.send_text("ping").await;
        client.ping(b"").await;
    }
    permits.add_permits(1000);
    for client in &mut clients {
        assert_eq!(client.next().await["is_authorized"], json!(true));
        assert_eq!(client.next().await["message"], json!("message-type-not-allowed"));
        assert!(client.next_text().await.contains(r#""open_connections":"#));
        assert_eq!(client.next().await["message"], json!("non-json-message"));
        assert_eq!(client.next().await, json!("pong"));
        client.expect_silence().await;
    }
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_goodbye_while_it_waits_is_answered_and_the_api_is_not_asked_for_it() {
    let (server, permits, first) = busy().await;
    for (bytes, end) in [
        (frame(0x88, b"\x0f\xa1bye"), End::Closed(4001, "bye".to_owned())),
        (frame(0x88, b""), End::ClosedWithoutCode),
        (frame(0x83, b""), End::Closed(1002, String::new())),
        (frame(0x01, b"\xff"), End::Closed(1007, String::new())),
    ] {
        let is_first = end == End::ClosedWithoutCode;
        for is_new in [true, false].into_iter().take(if is_first { 2 } else { 1 }) {
            let mut client = if is_new { server.dial_v4("new").await } else { server.dial("old").await };
            server.until_metric("api_waiting", 1).await;
            client.send(json!({"type": "status"})).await;
            client.send_raw(&bytes).await;
            assert_eq!(client.end().await, (Vec::new(), end.clone()));
            server.until_metric("api_waiting", 0).await;
        }
    }
    assert_eq!(server.metric(r#"connections_refused_total{reason="gone"}"#).await, 5);
    assert_eq!(asked_in_all(&server, &permits, first).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_stream_is_seen_behind_more_than_is_kept_of_a_client() {
    const CLIENTS: u64 = 20;
    let (server, permits, first) = busy().await;
    let message = frame(0x81, format!(r#"{{"type":"{}"}}"#, "x".repeat(1000)).as_bytes());
    let mut clients = Vec::new();
    let dial = async |number: u64| {
        if number.is_multiple_of(2) { server.dial("old").await } else { server.dial_v4("new").await }
    };
    for mut client in join_all((0..CLIENTS).map(dial)).await {
        client.send_raw(&message.repeat(70)).await; // more than 64 KiB
        clients.push(client);
    }
    server.until_metric("api_waiting", 2).await; // clients of one user are asked for together
    drop(clients);
    server.until_metric(r#"connections_refused_total{reason="gone"}"#, CLIENTS).await;
    server.until_metric("api_waiting", 0).await;
    assert_eq!(asked_in_all(&server, &permits, first).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_sent_more_than_is_kept_is_served_all_of_it_in_the_end() {
    const MESSAGES: usize = 300;
    let (server, permits, first) = busy().await;
    let mut client = server.dial_v4("much").await;
    let message = |number: usize| {
        let filler = "x".repeat(if number == 10 { 500_000 } else { 1000 });
        frame(0x81, format!(r#"{{"type":"{filler}","requestId":{number}}}"#).as_bytes())
    };
    let all: Vec<u8> = (0..MESSAGES).flat_map(message).collect();
    client.send_raw(&all).await;
    client.send_raw(&frame(0x89, b"")).await;
    permits.add_permits(1000);
    assert_eq!(client.next().await["type"], json!("welcome"));
    for number in 0..MESSAGES {
        assert_eq!(client.next().await["requestId"], json!(number));
    }
    client.expect_silence().await;
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_to_show_its_ticket_is_answered_too() {
    let server = TestServer::with(&[("RESUME_SECRET", "0123456789abcdef")]).await;
    let connect = async || {
        let headers = [("Sec-WebSocket-Protocol", "high-templar.v4")];
        Client::connect(&server.public, "/ws/?resume=1", &headers).await
    };
    let mut client = connect().await;
    client.ping(b"before the ticket").await;
    client.send(json!({"type": "status", "requestId": "1"})).await; // no ticket at all
    assert_eq!(client.next().await["type"], json!("welcome"));
    assert_eq!(client.next().await["requestId"], json!("1"));
    let mut client = connect().await;
    client.send_raw(&frame(0x88, b"\x0f\xa1bye")).await;
    assert_eq!(client.end().await, (Vec::new(), End::Closed(4001, "bye".to_owned())));
    assert_eq!(server.backend.bootstraps(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_events_that_goes_while_it_waits_is_taken_out_of_the_line() {
    let (server, permits, first) = busy().await;
    let ask =
        "GET /sse/?room=%7B%22target%22%3A%22message%22%7D HTTP/1.1\r\nHost: localhost\r\nCookie: user=events\r\n\r\n";
    for behind in ["", "x", "GET / HTTP/1.1\r\n", &"x".repeat(20_000)] {
        let mut stream = dial(&server.public).await;
        stream.write_all(format!("{ask}{behind}").as_bytes()).await.unwrap();
        server.until_metric("api_waiting", 1).await;
        drop(stream);
        server.until_metric("api_waiting", 0).await;
    }
    assert_eq!(asked_in_all(&server, &permits, first).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_31_that_goes_before_its_handshake_is_answered_is_taken_out_of_the_line() {
    let (server, permits, first) = busy().await;
    let head = "GET /ws/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: user=old\r\n\r\n";
    let Listen::Tcp(address) = server.public else { panic!("{:?}", server.public) };
    for (gone, how) in (1..).zip(["fin", "reset", "fin behind a frame"]) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        server.until_metric("api_waiting", 1).await;
        match how {
            "fin" => stream.shutdown().await.unwrap(),
            "reset" => {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                drop(stream);
            }
            _ => {
                stream.write_all(&frame(0x81, b"ping")).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        }
        server.until_metric("api_waiting", 0).await;
        server.until_metric(r#"connections_refused_total{reason="gone"}"#, gone).await;
    }
    assert_eq!(asked_in_all(&server, &permits, first).await, 1);
}
