//! Each limit: how one is told that it is reached, where that is counted, and that there is room again afterwards.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::Error;

use crate::support::{
    Client, PATIENCE, TestServer, Users,
    backend::Answer,
    client::End,
    eventually,
    http::{dial, exchange},
};

async fn limited(server: &TestServer, word: &str) -> u64 {
    server.metric(&format!(r#"limited_total{{reason="{word}"}}"#)).await
}

fn room(number: usize) -> Value {
    json!({"customer": number})
}

/// Connects, or tells the status, the seconds of `Retry-After`, and the body.
async fn try_connect(server: &TestServer, headers: &[(&str, &str)]) -> Result<Client, (u16, Option<u32>, Value)> {
    match Client::try_connect(&server.public, "/ws/", headers).await {
        Ok((mut client, _)) => {
            let welcome = client.next().await;
            assert_eq!(welcome["is_authorized"], json!(true));
            Ok(client)
        }
        Err(Error::Http(response)) => {
            let later = response.headers().get("retry-after").map(|later| later.to_str().unwrap().parse().unwrap());
            let body = response.body().as_deref().unwrap_or_default();
            Err((response.status().as_u16(), later, serde_json::from_slice(body).unwrap_or_default()))
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_more_connections_than_allowed_authorised_or_not() {
    let server = TestServer::with(&[("MAX_CONNECTIONS", "3")]).await;
    let mut clients = vec![server.connect().await, server.connect_v4().await.0];
    server.backend.answer(|_| Answer::Silence);
    let waiting = Client::connect(&server.public, "/ws/", &[]).await;
    let (status, later, body) = try_connect(&server, &[]).await.err().unwrap();
    assert_eq!((status, &body["message"]), (503, &json!("too-many-connections")));
    assert!(later.is_some_and(|later| (1..=60).contains(&later)), "{later:?}");
    assert!(body["detail"].as_str().unwrap().contains("this server has as many connections"), "{body}");
    assert_eq!(limited(&server, "connections").await, 1);
    assert_eq!(server.metric(r#"connections_refused_total{reason="limit"}"#).await, 1);
    for client in &mut clients {
        client.expect_silence().await;
    }
    // What is no connection of a client takes no place.
    assert_eq!(server.get("/status").await.status, 200);
    let users = Users::default();
    server.backend.answer(move |asked| users.answer(asked));
    drop(waiting);
    eventually("there is room again", async || try_connect(&server, &[]).await.is_ok()).await;
    clients.remove(0).close().await;
    eventually("there is room again", async || try_connect(&server, &[]).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_no_more_connections_than_allowed_as_a_proxy_that_is_trusted_tells_it() {
    let server = TestServer::with(&[("MAX_CONNECTIONS_PER_ADDRESS", "2")]).await;
    let from = |address| [("X-Real-IP", address)];
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(try_connect(&server, &from("10.0.0.1")).await.unwrap());
    }
    let (status, later, body) = try_connect(&server, &from("10.0.0.1")).await.err().unwrap();
    assert_eq!((status, &body["message"]), (429, &json!("too-many-connections")));
    assert!(later.is_some() && body["detail"].as_str().unwrap().contains("from this address"), "{later:?} {body}");
    assert_eq!(limited(&server, "connections-per-address").await, 1);
    for address in ["10.0.0.2", "2001:db8:1:2::1", "2001:db8:1:2::2", "2001:db8:1:3::1"] {
        clients.push(try_connect(&server, &from(address)).await.unwrap());
    }
    // One network of 64 bits is one household.
    assert_eq!(try_connect(&server, &from("2001:db8:1:2::3")).await.err().unwrap().0, 429);
    // All that come without the header through a proxy are not one.
    for _ in 0..3 {
        clients.push(try_connect(&server, &[]).await.unwrap());
    }
    clients.remove(0).close().await;
    eventually("there is room again", async || try_connect(&server, &from("10.0.0.1")).await.is_ok()).await;

    let vars = [("MAX_CONNECTIONS_PER_ADDRESS", "1"), ("TRUSTED_PROXIES", "10.0.0.0/8")];
    let server = TestServer::with(&vars).await;
    let client = try_connect(&server, &from("10.0.0.1")).await.unwrap();
    let refused = try_connect(&server, &from("10.0.0.2")).await.err().unwrap();
    assert_eq!(refused.0, 429, "anybody can say to be somebody else");
    client.close().await;
    eventually("there is room again", async || try_connect(&server, &from("10.0.0.3")).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_no_more_connections_than_allowed_and_others_are_not_concerned() {
    let server = TestServer::before(Users::default().backend().await, &[("MAX_CONNECTIONS_PER_USER", "2")]).await;
    let mut clients = [server.member("alice", &[]).await, server.member_v4("alice", &[]).await.0];
    let (texts, end) = server.dial_v4("alice").await.end().await;
    let told: Value = serde_json::from_str(&texts[0]).unwrap();
    assert_eq!((&told["is_authorized"], &told["message"]), (&json!(false), &json!("too-many-connections")));
    let seconds = told["retry_after"].as_f64().unwrap();
    assert!(seconds >= 1.0, "{told}");
    assert_eq!((texts.len(), end), (1, End::Closed(1013, format!("retry_after={seconds:.1}"))));
    let (texts, end) = server.dial("alice").await.end().await;
    let is_hint = |reason: &str| reason.starts_with("retry_after=");
    assert!(texts.is_empty(), "one of 3.1's would take that for the end of its session: {texts:?}");
    assert!(matches!(&end, End::Closed(1013, reason) if is_hint(reason)), "{end:?}");
    assert_eq!(limited(&server, "connections-per-user").await, 2);
    server.member("bob", &[]).await;
    for client in &mut clients {
        client.expect_silence().await;
    }
    let [gone, _stays] = clients;
    gone.close().await;
    server.member_v4("alice", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_no_more_subscriptions_than_allowed() {
    let server = TestServer::with(&[("MAX_SUBSCRIPTIONS", "3")]).await;
    let (mut new, welcome) = server.connect_v4().await;
    assert_eq!(welcome["limits"]["subscriptions"], json!(3));
    let since = &welcome["position"];
    let batch = json!({"type": "subscribe", "subscriptions": [
        {"requestId": "0", "room": room(0)}, {"requestId": "1", "room": room(1), "since": since},
        {"requestId": "x", "room": {"not": "allowed"}}, {"requestId": "2", "room": room(2)},
        {"requestId": "3", "room": room(3)}, {"requestId": "4", "room": room(4), "since": since}]});
    new.send(batch).await;
    let mut replies = Vec::new();
    for _ in 0..6 {
        replies.push(new.next().await);
    }
    let words: Vec<_> = replies.iter().map(|reply| reply["message"].as_str().unwrap_or("success")).collect();
    let (ok, full) = ("success", "too-many-subscriptions");
    assert_eq!(words, [ok, ok, "room-not-found", ok, full, full]);
    assert_eq!(replies[4]["detail"], json!("a connection may have 3 subscriptions"));
    assert_eq!(limited(&server, "subscriptions").await, 2);
    new.ask(json!({"type": "unsubscribe", "requestId": "1"})).await;
    let wanted = json!({"type": "subscribe", "requestId": "3", "room": room(3)});
    assert_eq!(new.ask(wanted).await["code"], json!("success"));
    // What the application takes away leaves room, too.
    server.control(json!({"action": "unsubscribe", "room": room(0)})).await;
    assert_eq!(new.next().await["type"], json!("unsubscribed"));
    let wanted = json!({"type": "subscribe", "requestId": "4", "room": room(4), "since": since});
    assert_eq!(new.ask(wanted).await["code"], json!("success"));
    assert_eq!(limited(&server, "subscriptions").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_old_protocol_has_no_more_subscriptions_either() {
    let server = TestServer::with(&[("MAX_SUBSCRIPTIONS", "2")]).await;
    // One id may stand for several rooms, and each room counts; the same one again does not.
    let mut client = server.subscriber(&[("1", room(1)), ("1", room(2))]).await;
    let wanted = json!({"type": "subscribe", "requestId": "2", "room": room(3)});
    let refused = json!({"code": "error", "message": "too-many-subscriptions"});
    assert_eq!(client.ask(wanted).await, refused);
    assert_eq!(limited(&server, "subscriptions").await, 1);
    server.trigger(json!({"rooms": [room(1), room(2), room(3)], "data": 1})).await;
    assert_eq!((client.next().await["data"].clone(), client.next().await["data"].clone()), (json!(1), json!(1)));
    client.expect_silence().await;
    assert_eq!(client.ask(json!({"type": "unsubscribe", "requestId": "1"})).await, json!({"code": "success"}));
    client.subscribe("2", room(3)).await;
    // Another connection has places of its own.
    server.subscriber(&[("1", room(1)), ("2", room(2))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_too_much_is_closed_and_one_that_says_much_at_once_is_not() {
    let server = TestServer::with(&[("MESSAGE_RATE", "5")]).await;
    let mut quiet = server.connect().await;
    for is_new in [false, true] {
        let mut client = if is_new { server.connect_v4().await.0 } else { server.connect().await };
        for _ in 0..50 {
            client.send_text("ping").await; // ten seconds' worth
        }
        for _ in 0..50 {
            assert_eq!(client.next().await, json!("pong"));
        }
        for _ in 0..60 {
            client.send_text("ping").await;
        }
        let (texts, end) = client.end().await;
        assert_eq!(end, End::Closed(1008, "more than 5 messages a second".into()));
        assert!(texts.len() < 60, "{}", texts.len());
    }
    assert_eq!(limited(&server, "messages").await, 2);
    // Each entry of a list counts, though one list may be as long as it is.
    let (mut client, _) = server.connect_v4().await;
    let list: Vec<_> = (0..100).map(|number| json!({"requestId": number, "room": room(number)})).collect();
    client.send(json!({"type": "subscribe", "subscriptions": list})).await;
    for _ in 0..100 {
        assert_eq!(client.next().await["code"], json!("success"));
    }
    client.send_text("ping").await;
    assert_eq!(client.close_code().await, 1008);
    quiet.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_and_headers_that_are_too_long_are_refused_with_the_setting_to_blame() {
    let server = TestServer::with(&[("URL_LIMIT", "300"), ("HEADER_LIMIT", "2KiB")]).await;
    let get = |path: &str, header: &str| {
        let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: close";
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {header}\r\n{handshake}\r\n\r\n")
    };
    let long_query = format!("/ws/?token={}", "x".repeat(300));
    let reply = exchange(&server.public, get(&long_query, "").as_bytes()).await;
    assert_eq!((reply.status, &reply.json()["message"]), (414, &json!("url-too-long")));
    assert!(reply.json()["detail"].as_str().unwrap().contains("300 bytes (URL_LIMIT)"), "{}", reply.body);
    assert_eq!(limited(&server, "url").await, 1);
    let reply = exchange(&server.public, get("/ws/", &"x".repeat(2100)).as_bytes()).await;
    assert_eq!((reply.status, &reply.json()["message"]), (431, &json!("headers-too-large")));
    assert!(reply.json()["detail"].as_str().unwrap().contains("2048 bytes (HEADER_LIMIT)"), "{}", reply.body);
    assert_eq!(limited(&server, "headers").await, 1);
    // One that is much too large is not read to its end.
    let reply = exchange(&server.public, get("/ws/", &"x".repeat(200_000)).as_bytes()).await;
    assert_eq!(reply.status, 431);
    server.until_metric(r#"limited_total{reason="headers"}"#, 2).await;
    assert!(server.backend.asked().is_empty());
    let cookie = "x".repeat(1500);
    let path = format!("/ws/?token={}", "x".repeat(250));
    let mut client = Client::connect(&server.public, &path, &[("Cookie", &cookie)]).await;
    assert_eq!(client.next().await["is_authorized"], json!(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_waits_for_its_first_frame_no_longer_than_configured() {
    let server = TestServer::with(&[("HANDSHAKE_TIMEOUT", "1s"), ("API_TIMEOUT", "20s")]).await;
    server.backend.answer(|_| Answer::Silence);
    let start = Instant::now();
    let (old, mut new) = (server.dialing("a"), server.dial_v4("b").await);
    assert!(old.await.unwrap().is_err_and(|refused| refused.is_for_now()));
    let (texts, end) = new.end().await;
    assert!(texts.len() == 1 && texts[0].contains(r#""message":"try-later","retry_after":"#), "{texts:?}");
    assert!(matches!(end, End::Closed(1013, _)), "{end:?}");
    assert!((1..10).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    server.until_metric("api_calls", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_arrive_whole_is_not_waited_for_and_counted() {
    let server = TestServer::start().await;
    let start = Instant::now();
    let mut stream = dial(&server.public).await;
    stream.write_all(b"GET /ws/ HTTP/1.1\r\nHost: local").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end in time");
    assert!(start.elapsed() >= Duration::from_secs(4), "{:?}", start.elapsed());
    server.until_metric(r#"limited_total{reason="handshake"}"#, 1).await;
}
