//! A client that does not read costs its outbox limit, and nobody else anything; a silent one is given up.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::{Client, TestServer, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_closed_and_the_others_miss_nothing() {
    const TRIGGERS: u64 = 400;
    let server = TestServer::with(&[("OUTBOX_LIMIT", "64KiB")]).await;
    let mut reader = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    let mut stuck = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    let filler = "x".repeat(50_000);
    for number in 0..TRIGGERS {
        server.trigger(json!({"rooms": [{"target": "message"}], "data": [number, filler]})).await;
        assert_eq!(reader.next().await["data"][0], json!(number));
    }
    let metrics = server.get("/metrics").await.body;
    server.until_number("open_connections", 1).await;
    let numbers = server.numbers().await;
    assert!(numbers["ws_messages_send_error"].as_u64().unwrap() > 0, "{numbers}\n{metrics}");
    // What the kernel had taken still arrives, in order; then the reason, or the end of the stream.
    let (texts, _) = stuck.end().await;
    assert!((texts.len() as u64) < TRIGGERS);
    for (number, text) in texts.iter().enumerate() {
        assert!(text.starts_with(&format!(r#"{{"type":"publish","data":[{number},"#)), "{text:.60}");
    }
    eventually("it is counted", async || {
        server.get("/metrics").await.body.contains(r#"connections_closed_total{reason="too-slow"} 1"#)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_again_learns_that_it_was_too_slow() {
    let server = TestServer::with(&[("OUTBOX_LIMIT", "64KiB")]).await;
    let mut stuck = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    let filler = "x".repeat(200_000);
    let mut sent = 0;
    while server.numbers().await["open_connections"] == json!(1) {
        server.trigger(json!({"rooms": [{"target": "message"}], "data": filler})).await;
        sent += 1;
        assert!(sent < 1000, "it is never closed");
    }
    assert_eq!(stuck.close_code().await, 3008);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_publication_larger_than_the_outbox_reaches_a_client_that_reads() {
    let server = TestServer::with(&[("OUTBOX_LIMIT", "4KiB")]).await;
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    let data = json!("x".repeat(900_000));
    for _ in 0..3 {
        server.trigger(json!({"rooms": [{"target": "message"}], "data": data})).await;
        assert_eq!(client.next().await["data"], data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_publications_at_once_are_no_sign_of_a_slow_client() {
    let server = TestServer::with(&[("OUTBOX_LIMIT", "4KiB")]).await;
    let rooms: Vec<_> = (0..500).map(|number| (number.to_string(), json!({"customer": number}))).collect();
    let rooms: Vec<_> = rooms.iter().map(|(id, room)| (id.as_str(), room.clone())).collect();
    let mut client = server.subscriber(&rooms).await;
    server.trigger(json!({"rooms": [{"customer": "*"}], "data": "x".repeat(100)})).await;
    for _ in 0..500 {
        assert_eq!(client.next().await["type"], json!("publish"));
    }
    client.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_closed_and_transport_frames_do_not_count() {
    let server = TestServer::with(&[("IDLE_TIMEOUT", "2s"), ("PING_INTERVAL", "1s")]).await;
    let mut silent = server.connect().await;
    let start = Instant::now();
    let code = silent.close_code().await; // tungstenite answers the server's pings meanwhile
    assert_eq!(code, 1000);
    assert!(start.elapsed() >= Duration::from_millis(1900), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_pings_at_its_interval() {
    let server = TestServer::with(&[("PING_INTERVAL", "1s")]).await;
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    let publish = async {
        tokio::time::sleep(Duration::from_millis(2500)).await; // the time itself is what is tested
        server.trigger(json!({"rooms": [{"target": "message"}], "data": 1})).await;
    };
    let (pings, ()) = tokio::join!(client.pings_before_text(), publish);
    assert_eq!(pings, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_floods_and_never_reads_is_closed() {
    let server = TestServer::with(&[("OUTBOX_LIMIT", "16KiB")]).await;
    let mut flood = Client::connect(&server.public, "/ws/", &[]).await;
    let status = json!({"type": "status"}).to_string();
    let mut frames = Vec::new();
    for _ in 0..2000 {
        frames.extend([0x81, 0x80 | u8::try_from(status.len()).unwrap(), 0, 0, 0, 0]);
        frames.extend(status.as_bytes());
    }
    let flooding = async {
        while server.numbers().await["open_connections"] == json!(1) {
            let _ = tokio::time::timeout(Duration::from_millis(200), flood.send_raw(&frames)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, flooding).await.expect("closed in time");
}
