//! However many connect, there are file descriptors left for callers, for the API and for the broker.

use std::{sync::Arc, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Barrier,
    task::JoinSet,
    time::timeout,
};

use crate::support::{
    Client, PATIENCE, TestServer, Users, eventually,
    http::{dial, send},
    process::Running,
};

const FILES: usize = 1024;
const ATTACKERS: usize = 1000;
/// What a server with so many descriptors keeps of them for others than clients, less those that it refuses something.
const KEPT: usize = 256 - 32;

/// Connects again and again: every other one says nothing, and the others ask on one connection for as long as that goes.
async fn attack(server: Arc<Running>, number: usize, all: Arc<Barrier>) {
    const ASK: &[u8] = b"GET /ws/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut stream = dial(&server.public).await;
    all.wait().await;
    loop {
        let mut answer = [0; 1024];
        let asking = async {
            while number.is_multiple_of(2) || stream.write_all(ASK).await.is_ok() {
                if !stream.read(&mut answer).await.is_ok_and(|count| count > 0) {
                    return;
                }
            }
        };
        let _ = timeout(Duration::from_secs(2), asking).await;
        stream = dial(&server.public).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_starve_neither_callers_nor_the_api() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let backend = Users::default().backend().await;
    let server = Arc::new(Running::start_with_files(FILES, &[("API_URL", &backend.url())]).await);
    let headers = [("Sec-WebSocket-Protocol", "high-templar.v4"), ("Cookie", "user=alice")];
    let mut client = Client::connect(&server.public, "/ws/", &headers).await;
    assert_eq!(client.next().await["type"], json!("welcome"));
    let wanted = json!({"type": "subscribe", "requestId": "1", "room": {"target": "message"}});
    assert_eq!(client.ask(wanted).await["code"], json!("success"));

    let barrier = Arc::new(Barrier::new(ATTACKERS + 1));
    let mut attackers = JoinSet::new();
    for number in 0..ATTACKERS {
        attackers.spawn(attack(server.clone(), number, barrier.clone()));
    }
    timeout(PATIENCE, barrier.wait()).await.expect("all have connected");
    let mut most_files = 0;
    for round in 0..30 {
        let ask = |method, path, body: String| {
            let server = server.clone();
            async move { send(&server.internal, method, path, &[], body.as_bytes()).await.status }
        };
        assert_eq!(ask("GET", "/healthz", String::new()).await, 200, "round {round}");
        let trigger = json!({"rooms": [{"target": "message"}], "data": round}).to_string();
        assert_eq!(ask("POST", "/trigger/", trigger).await, 200, "round {round}");
        assert_eq!(client.next().await["data"], json!(round));
        let order = json!({"action": "reauthorize", "user": "alice"}).to_string();
        assert_eq!(ask("POST", "/control/", order).await, 200, "round {round}");
        eventually("the API is asked", async || backend.bootstraps() >= round + 2).await;
        let files = std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap().count();
        most_files = most_files.max(files);
    }
    let metrics = send(&server.internal, "GET", "/metrics", &[], b"").await.body;
    attackers.abort_all();
    eprintln!("{most_files} descriptors at most");
    assert!(most_files <= FILES - KEPT + 64, "{most_files} descriptors");
    let refused = metrics.lines().find(|line| line.starts_with("high_templar_limited_total{reason=\"connections\"}"));
    assert!(refused.is_some(), "the limit was never reached: {metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_no_more_connections_than_allowed_whatever_they_say() {
    let vars = [("MAX_CONNECTIONS_PER_ADDRESS", "2"), ("TRUSTED_PROXIES", "none")];
    let server = TestServer::with(&vars).await;
    // Two clients, and eight connections that are there to be refused something.
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(dial(&server.public).await);
    }
    let is_closed_at_once = async || {
        let mut stream = dial(&server.public).await;
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        matches!(timeout(Duration::from_secs(2), reading).await, Ok(Ok(0) | Err(_)))
    };
    eventually("the limit is reached", is_closed_at_once).await;
    assert!(server.metric(r#"limited_total{reason="connections-per-address"}"#).await >= 1);
    // One that goes makes room, and sockets count as long as they are there.
    silent.clear();
    let clients = parking_lot::Mutex::new(Vec::new());
    eventually("two are served", async || {
        let connected = Client::try_connect(&server.public, "/ws/", &[]).await;
        let mut clients = clients.lock();
        clients.extend(connected.ok());
        clients.len() == 2
    })
    .await;
    let refused = send(&server.public, "GET", "/sse/?room=%7B%22target%22%3A%22message%22%7D", &[], b"").await;
    assert_eq!(refused.status, 429);
    for _ in 0..8 {
        silent.push(dial(&server.public).await);
    }
    eventually("the limit is reached", is_closed_at_once).await;
    drop((clients, silent));
    eventually("there is room again", async || send(&server.public, "GET", "/ws/", &[], b"").await.status == 426).await;
}
