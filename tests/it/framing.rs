//! What WebSocket frames may cost, and how soon a wrong one is noticed.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    StubBackend, TestServer,
    client::{End, frame},
    eventually,
};

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf8_ends_the_connection_before_the_message_is_over() {
    const VALID: &[u8] = "κόσμε".as_bytes();
    const BEYOND_UNICODE: &[u8] = b"\xf4\x90\x80\x80";
    let server = TestServer::start().await;
    let chopped = frame(0x81, &[VALID, BEYOND_UNICODE, b"edited"].concat());
    let chopped = &chopped[..chopped.len() - b"edited".len()];
    let at = chopped.len() - BEYOND_UNICODE.len();
    for pieces in [
        [frame(0x01, VALID), frame(0x00, BEYOND_UNICODE)], // 6.4.1
        [frame(0x01, &[VALID, b"\xf4"].concat()), frame(0x00, b"\x90")], // 6.4.2
        [chopped[..at].to_vec(), chopped[at..].to_vec()],  // 6.4.3
        [chopped[..=at].to_vec(), chopped[at + 1..at + 2].to_vec()], // 6.4.4
    ] {
        let mut client = server.connect().await;
        client.send_raw(&pieces[0]).await;
        client.send_raw(&pieces[1]).await;
        assert_eq!(client.end().await, (Vec::new(), End::Closed(1007, String::new())), "{pieces:x?}");
    }
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
