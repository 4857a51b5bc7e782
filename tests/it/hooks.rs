//! The backend hears of clients that come, ping and go, and no client ever waits for it.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::{Client, StubBackend, TestServer, backend::Answer, eventually};

const ONLINE: &str = "POST /api/user/notify_online/";
const OFFLINE: &str = "POST /api/user/notify_offline/";
const HOOKS: [(&str, &str); 3] = [
    ("HOOK_CONNECT", "user/notify_online/"),
    ("HOOK_PING", "user/notify_online/"),
    ("HOOK_DISCONNECT", "user/notify_offline/"),
];

fn hooks(server: &TestServer) -> Vec<String> {
    server.backend.lines().into_iter().filter(|line| line.starts_with("POST")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_ping_and_disconnect_are_posted_with_the_clients_headers() {
    let server = TestServer::with(&HOOKS).await;
    let mut client = Client::connect(&server.public, "/ws/?token=t", &[("Cookie", "csrftoken=c")]).await;
    client.next().await;
    eventually("online is posted", async || hooks(&server) == [ONLINE]).await;
    client.send_text("ping").await;
    assert_eq!(client.next().await, json!("pong"));
    eventually("the ping is posted", async || hooks(&server) == [ONLINE, ONLINE]).await;
    client.close().await;
    eventually("offline is posted", async || hooks(&server) == [ONLINE, ONLINE, OFFLINE]).await;
    for asked in server.backend.asked().into_iter().filter(|asked| asked.line.starts_with("POST")) {
        assert_eq!(asked.header("cookie"), Some("csrftoken=c"));
        assert_eq!(asked.header("x-csrftoken"), Some("c"));
        assert_eq!(asked.header("authorization"), Some("Token t"));
        assert_eq!(asked.header("content-length"), Some("0"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transport_ping_is_no_ping_and_a_refused_client_is_not_reported() {
    let server = TestServer::with(&HOOKS).await;
    let mut client = server.connect().await;
    client.send_message(tokio_tungstenite::tungstenite::Message::Ping(Vec::new().into())).await;
    client.ask(json!({"type": "status"})).await;
    server.backend.answer(|_| Answer::Reply(403, String::new()));
    let mut refused = Client::connect(&server.public, "/ws/", &[]).await;
    assert_eq!(refused.close_code().await, 1000);
    client.close().await;
    eventually("offline is posted", async || hooks(&server).last().is_some_and(|line| line == OFFLINE)).await;
    assert_eq!(hooks(&server), [ONLINE, OFFLINE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_hangs_or_fails_keeps_no_client_waiting() {
    let bootstrap = json!({"allowed_rooms": [{"target": "message"}]}).to_string();
    let backend = StubBackend::answering(move |asked| {
        if asked.line.starts_with("GET") { Answer::Reply(200, bootstrap.clone()) } else { Answer::Silence }
    })
    .await;
    let server = TestServer::before(backend, &[&HOOKS[..], &[("API_TIMEOUT", "1s")]].concat()).await;
    let start = Instant::now();
    let mut client = server.connect().await;
    for _ in 0..50 {
        client.send_text("ping").await;
        assert_eq!(client.next().await, json!("pong"));
    }
    assert!(start.elapsed() < Duration::from_millis(900), "the client waited for a hook: {:?}", start.elapsed());
    client.close().await;
    // The pings while the first hook hung are not posted after the client has gone; the last word is.
    eventually("offline is posted", async || hooks(&server) == [ONLINE, OFFLINE]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_that_was_reported_online_is_reported_offline_however_it_ends() {
    let server = TestServer::with(&[&HOOKS[..], &[("DRAIN", "5s")]].concat()).await;
    let mut ends = Vec::new();
    for number in 0..30 {
        let mut client = server.connect().await;
        match number % 3 {
            0 => drop(client),
            1 => client.send_raw(&[0xFF; 8]).await,
            _ => ends.push(client), // stays until the server stops
        }
    }
    let count = |line: &str, asked: &[String]| asked.iter().filter(|asked| *asked == line).count();
    eventually("all are online", async || count(ONLINE, &hooks(&server)) == 30).await;
    let asked = {
        server.begin_stop();
        eventually("all are offline", async || count(OFFLINE, &hooks(&server)) == 30).await;
        hooks(&server)
    };
    assert_eq!((count(ONLINE, &asked), count(OFFLINE, &asked)), (30, 30));
}
