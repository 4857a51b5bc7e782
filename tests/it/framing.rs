//! What WebSocket frames may cost.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    StubBackend, TestServer,
    backend::Answer,
    client::{End, frame},
    eventually,
};

#[tokio::test(flavor = "multi_thread")]
async fn control_frames_and_fragments_count_as_messages_do() {
    let server = TestServer::with(&[("MESSAGE_RATE", "5")]).await;
    let closed = End::Closed(1008, "more than 5 messages a second".to_owned());
    let floods = [
        frame(0x89, b"").repeat(200),
        frame(0x8A, b"").repeat(200),
        [frame(0x01, b""), frame(0x00, b"").repeat(200)].concat(),
        [frame(0x02, b"x"), frame(0x00, b"x").repeat(200)].concat(),
    ];
    let floods: Vec<_> = floods.iter().map(|flood| [flood.as_slice(), &frame(0x89, b"")].concat()).collect();
    for flood in &floods {
        for mut client in [server.connect().await, server.connect_v4().await.0] {
            client.send_raw(flood).await;
            assert_eq!(client.end().await.1, closed);
        }
    }
    assert_eq!(server.metric(r#"limited_total{reason="messages"}"#).await, 8);
    // Nor may a client send more of them while it waits.
    server.backend.answer(|_| Answer::Silence);
    for flood in &floods {
        let mut client = server.dial("waiting").await;
        client.send_raw(flood).await;
        assert_eq!(client.end().await.1, closed);
    }
    assert_eq!(server.metric(r#"limited_total{reason="messages"}"#).await, 12);
    server.until_metric("api_calls", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_pings_and_does_not_read_makes_the_server_keep_one_pong() {
    const PINGS: usize = 200_000;
    let server = TestServer::with(&[("MESSAGE_RATE", "1000000"), ("OUTBOX_LIMIT", "64MiB")]).await;
    let mut client = server.connect().await;
    let mut reader = server.connect().await;
    // The kernel's buffers take so much of that; all else would have to be kept.
    let ping = frame(0x89, &[b'x'; 125]);
    for _ in 0..PINGS / 1000 {
        client.send_raw(&ping.repeat(1000)).await;
    }
    client.send_raw(&frame(0x81, br#"{"type":"status"}"#)).await;
    let waiting = async || {
        let connections = server.get("/connections").await.json();
        let list = connections["connections"].as_array().unwrap().clone();
        list.iter().map(|one| one["waiting"].as_u64().unwrap()).max()
    };
    server.until_metric("client_messages_total", 1).await;
    let kept = waiting().await.unwrap();
    assert!(kept < 1024, "{kept} bytes wait");
    reader.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_causes_one_ping_hook_in_each_interval() {
    let backend = StubBackend::allowing(json!([])).await;
    let vars = [("HOOK_PING", "on/"), ("HOOK_DISCONNECT", "off/"), ("PING_INTERVAL", "600s")];
    let server = TestServer::before(backend, &vars).await;
    let posted = |line: &str| server.backend.lines().iter().filter(|posted| *posted == line).count();
    let mut client = server.connect().await;
    for round in 0..50 {
        client.send_text("ping").await;
        assert_eq!(client.next().await, json!("pong"));
        if round == 0 {
            eventually("the first ping is posted", async || posted("POST /api/on/") == 1).await;
        }
    }
    client.send_message(Message::Close(None)).await;
    client.end().await;
    eventually("its end is posted", async || posted("POST /api/off/") == 1).await;
    assert_eq!(posted("POST /api/on/"), 1);
}
