//! What clients without a signature can have written to the log.

use std::time::Instant;

use futures::{StreamExt, future::join_all};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::{
    TestServer,
    channelstream::{Place, SECRET, Site},
    http,
};

/// Polls of a client that never waits for the answer, one after the other and some beside each other.
async fn give_up(server: &TestServer, polls: usize, ids: &[String], headers: &[(&str, &str)]) {
    let listen = &server.public;
    futures::stream::iter(0..polls)
        .for_each_concurrent(16, |number| async move {
            let path = format!("/listen?conn_id={}", ids[number % ids.len()]);
            let mut stream = http::dial(listen).await;
            stream.write_all(&http::request("GET", &path, headers, b"")).await.unwrap();
            // For as long as another request takes: by then the poll is under way.
            http::send(listen, "GET", "/listen?conn_id=nonsense", headers, b"").await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_at_once_cannot_fill_the_log() {
    const POLLS: usize = 600;
    let server = TestServer::with(&[("CHANNELSTREAM_SECRET", SECRET)]).await;
    let site = Site::at(vec![Place::from(&server)]).without_public_calls();
    let commands = async || server.metric("channelstream_commands_total").await;

    // Of one connection.
    let id = site.connect("leaves-ann", &["leaves"]).await;
    site.say(json!({"user": "x", "channel": "leaves", "message": {"text": "once"}})).await;
    let (before, begun) = (commands().await, Instant::now());
    give_up(&server, POLLS, std::slice::from_ref(&id), &[]).await;
    let written = commands().await - before;
    let seconds = begun.elapsed().as_secs() + 1;
    let most = 2 * (4 + 2 * seconds) + seconds; // and the instance's own, now and then
    assert!(written <= most && most < POLLS as u64, "{written} commands in {seconds} s, of {most}");
    assert!(server.metric(r#"limited_total{reason="listening"}"#).await > 0);
    let frames = site.polls(&id, 1).await;
    assert_eq!(frames[0]["message"]["text"], json!("once"));

    // Of one address, however many connections it knows.
    let ids = join_all((0..POLLS).map(|_| site.connect("leaves-bob", &[]))).await;
    let (before, begun) = (commands().await, Instant::now());
    give_up(&server, 2 * POLLS, &ids, &[("X-Real-IP", "192.0.2.1")]).await;
    let written = commands().await - before;
    let seconds = begun.elapsed().as_secs() + 1;
    let most = 2 * (320 + 32 * seconds + 32) + seconds + ids.len() as u64; // those that nobody listens for are collected
    assert!(written <= most, "{written} commands in {seconds} s, of {most}");
    let path = format!("/listen?conn_id={id}");
    site.say(json!({"user": "x", "channel": "leaves", "message": {"text": "again"}})).await;
    let reply = http::send(&server.public, "GET", &path, &[("X-Real-IP", "192.0.2.2")], b"").await;
    assert!(reply.body.contains("again"), "another address is not concerned: {reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sockets_of_one_connection_write_little_and_the_last_one_listens() {
    const SOCKETS: usize = 150;
    let server = TestServer::with(&[("CHANNELSTREAM_SECRET", SECRET)]).await;
    let site = Site::at(vec![Place::from(&server)]).without_public_calls();
    let id = site.connect("sockets-ann", &["sockets"]).await;
    let (before, begun) = (server.metric("channelstream_commands_total").await, Instant::now());
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(site.socket(&id).await);
    }
    let mut last = sockets.pop().unwrap();
    site.say(json!({"user": "x", "channel": "sockets", "message": {"text": "to the last"}})).await;
    assert_eq!(last.next().await["message"]["text"], json!("to the last"));
    for mut older in sockets {
        older.end().await;
    }
    let written = server.metric("channelstream_commands_total").await - before;
    let seconds = begun.elapsed().as_secs() + 1;
    let most = 4 + 2 * seconds + seconds;
    assert!(written <= most, "{written} commands in {seconds} s, of {most}");
    last.expect_silence(&site, "sockets-ann").await;
}
