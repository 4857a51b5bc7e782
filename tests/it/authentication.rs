//! Who a client is, is for the backend to say.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use crate::support::{
    Client, PATIENCE, StubBackend, TestServer,
    backend::Answer,
    client::{End, frame},
    http::{dial, exchange, send},
};

fn reply(body: Value) -> Answer {
    Answer::Reply(200, body.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_is_asked_with_what_is_mapped_and_nothing_else() {
    let server = TestServer::with(&[("API_HEADERS", r#"{"X-Tenant":"{param:tenant}/{peer}"}"#)]).await;
    let headers = [
        ("Cookie", "sessionid=1; csrftoken=abc"),
        ("User-Agent", "browser"),
        ("X-Real-IP", "10.1.2.3"),
        ("Authorization", "Basic secret"),
        ("X-Forwarded-For", "1.1.1.1"),
        ("Accept-Language", "nl"),
    ];
    let mut client = Client::connect(&server.public, "/ws/?token=t%20x&tenant=7", &headers).await;
    assert_eq!(client.next().await["is_authorized"], json!(true));
    let asked = server.backend.asked().remove(0);
    assert_eq!(asked.line, "GET /api/bootstrap/");
    for (name, value) in [
        ("cookie", "sessionid=1; csrftoken=abc"),
        ("user-agent", "browser"),
        ("x-real-ip", "10.1.2.3"),
        ("x-csrftoken", "abc"),
        ("authorization", "Token t x"),
        ("x-tenant", "7/127.0.0.1"),
    ] {
        assert_eq!(asked.header(name), Some(value), "{name}");
    }
    let backend = server.backend.url();
    assert_eq!(asked.header("host"), backend.strip_prefix("http://").and_then(|url| url.strip_suffix("/api/")));
    let mut names: Vec<_> = asked.headers.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["accept", "authorization", "cookie", "host", "user-agent", "x-csrftoken", "x-real-ip", "x-tenant"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_unusable_answer_means_not_authorised() {
    let large = format!(r#"{{"allowed_rooms":[],"x":"{}"}}"#, "x".repeat(17 << 20));
    let no = [
        Answer::Reply(401, String::new()),
        Answer::Reply(403, String::new()),
        Answer::Reply(201, r#"{"allowed_rooms":[]}"#.into()),
        Answer::Reply(204, String::new()),
        Answer::Reply(200, "<html></html>".into()),
        Answer::Raw(b"HTTP/1.1 302 Found\r\nLocation: /other/\r\nContent-Length: 0\r\n\r\n".to_vec()),
    ];
    let failed = [
        Answer::Reply(500, r#"{"allowed_rooms":[]}"#.into()),
        Answer::Reply(503, String::new()),
        Answer::Reply(429, String::new()),
        Answer::Reply(200, "null".into()),
        Answer::Reply(200, r#"{"allowed_rooms":[{"a":1}"#.into()),
        Answer::Reply(200, r#"{"allowed_rooms":[[]]}"#.into()),
        Answer::Reply(200, r#"{"allowed_rooms":null}"#.into()),
        Answer::Reply(200, large),
        Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"allowed_".to_vec()),
        Answer::Raw(b"\xff\xff\r\n\r\n".to_vec()),
        Answer::Raw(Vec::new()),
        Answer::Silence,
    ];
    let server = TestServer::with(&[("API_TIMEOUT", "1s")]).await;
    for (number, answer) in no.into_iter().enumerate() {
        server.backend.answer(move |_| answer.clone());
        let (texts, end) = Client::connect(&server.public, "/ws/", &[]).await.end().await;
        assert_eq!(texts, [r#"{"is_authorized":false}"#], "answer {number}");
        assert_eq!(end, End::Closed(1000, String::new()), "answer {number}");
    }
    // One that failed says nothing about the client: it must not think that it is logged out.
    for (number, answer) in failed.into_iter().enumerate() {
        server.backend.answer(move |_| answer.clone());
        let refused = Client::dial(&server.public, "/ws/", &[]).await.err().unwrap();
        assert!(refused.is_for_now(), "answer {number}: {refused:?}");
    }
    assert!(!server.backend.lines().iter().any(|line| line.contains("/other/")), "a redirect was followed");
    server.backend.answer(|_| reply(json!({"allowed_rooms": []})));
    server.connect().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_31_that_has_waited_for_its_handshake_is_not_told_that_it_is_logged_out_either() {
    let server = TestServer::with(&[("API_TIMEOUT", "7s")]).await;
    server.backend.answer(|_| Answer::Silence);
    let start = Instant::now();
    let mut client = Client::connect(&server.public, "/ws/", &[]).await;
    assert!(start.elapsed() >= Duration::from_secs(5), "the API had time to answer: {:?}", start.elapsed());
    client.ping(b"still there?").await;
    let (texts, end) = client.end().await;
    assert!(texts.is_empty(), "{texts:?}");
    assert!(matches!(&end, End::Closed(1013, reason) if reason.starts_with("retry_after=")), "{end:?}");
    assert_eq!(server.backend.bootstraps(), 1, "the request from before the handshake goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_to_log_in_is_a_no_and_other_answers_that_cannot_be_read_are_a_reason_to_try_later() {
    let html = "Content-Type: text/html; charset=utf-8\r\n";
    for (answer, is_final) in [
        (Answer::Reply(200, "\u{feff}\r\n<!DOCTYPE html><form action=\"/login/\">".into()), true),
        (Answer::Raw(format!("HTTP/1.1 200 OK\r\n{html}Content-Length: 7\r\n\r\nLog in!").into_bytes()), true),
        (Answer::Reply(302, String::new()), true),
        (Answer::Reply(204, String::new()), true),
        (Answer::Raw(format!("HTTP/1.1 200 OK\r\n{html}Content-Length: 2\r\n\r\n{{]").into_bytes()), false),
        (Answer::Reply(200, String::new()), false),
        (Answer::Reply(200, "null".into()), false),
        (Answer::Reply(200, r#"{"allowed_rooms":null}"#.into()), false),
        (Answer::Reply(503, "<html>".into()), false),
    ] {
        let server = TestServer::start().await;
        server.backend.answer(move |_| answer.clone());
        let (texts, end) = server.dial_v4("a").await.end().await;
        match end {
            End::Closed(3500, _) if is_final => assert!(texts[0].contains("not-authorized"), "{texts:?}"),
            End::Closed(1013, _) if !is_final => assert!(texts[0].contains("try-later"), "{texts:?}"),
            other => panic!("{other:?} {texts:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_order_mark_before_the_answer_is_skipped() {
    let server = TestServer::start().await;
    server.backend.answer(|_| Answer::Reply(200, "\u{feff}{\"allowed_rooms\":[{\"a\":1}]}".into()));
    assert_eq!(server.connect_v4().await.1["allowed_rooms"], json!([{"a": 1}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_not_there_fails_the_handshake() {
    let server = TestServer::with(&[("API_URL", "http://127.0.0.1:1/api/")]).await;
    let refused = Client::dial(&server.public, "/ws/", &[]).await.err().unwrap();
    assert!(refused.is_for_now(), "{refused:?}");
    let (texts, end) = server.dial_v4("a").await.end().await;
    assert!(texts[0].contains("try-later") && matches!(end, End::Closed(1013, _)), "{texts:?} {end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_is_reached_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let backend = StubBackend::on_unix_socket(&path, |_| reply(json!({"allowed_rooms": [{"a": 1}]})));
    let server = TestServer::before(backend, &[]).await;
    server.connect().await;
    let asked = server.backend.asked().remove(0);
    assert_eq!((asked.line.as_str(), asked.header("host")), ("GET /api/bootstrap/", Some("backend.example")));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_the_backend_are_used_again() {
    let server = TestServer::start().await;
    for _ in 0..20 {
        server.connect().await;
    }
    assert_eq!(server.backend.asked().len(), 20);
    assert!(server.backend.connections() <= 3, "{}", server.backend.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_frame_repeats_the_rooms_as_the_backend_wrote_them() {
    let body = r#"{"allowed_rooms":[{"b":1.50,"a":123456789012345678901234567890},{"a":"x"},{"a":"x"}]}"#;
    let backend = StubBackend::answering(move |_| Answer::Reply(200, body.to_owned())).await;
    let server = TestServer::before(backend, &[]).await;
    let mut client = Client::connect(&server.public, "/ws/", &[]).await;
    let expected =
        r#"{"is_authorized":true,"allowed_rooms":[{"b":1.50,"a":123456789012345678901234567890},{"a":"x"}]}"#;
    assert_eq!(client.next_text().await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_before_its_first_frame_is_handled_after_it() {
    let server = TestServer::start().await;
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut stream = dial(&server.public).await;
    stream.write_all(&[request.as_bytes(), &frame(0x81, b"ping")].concat()).await.unwrap();
    let mut answer = Vec::new();
    let until_pong = async {
        while !answer.ends_with(b"pong") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
        }
    };
    timeout(PATIENCE, until_pong).await.expect("an answer to the ping");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("is_authorized"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_while_the_backend_thinks_is_forgotten() {
    let server = TestServer::start().await;
    server.backend.answer(|_| Answer::Silence);
    let client = Client::connect(&server.public, "/ws/", &[]).await;
    drop(client);
    crate::support::eventually("the refusal is counted", async || {
        server.get("/metrics").await.body.contains(r#"connections_refused_total{reason="gone"} 1"#)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_a_line_break_is_refused_before_the_backend_hears_of_it() {
    let server = TestServer::start().await;
    for query in ["token=a%0d%0aX-Evil:%201", "token=%00"] {
        let Err(error) = Client::try_connect(&server.public, &format!("/ws/?{query}"), &[]).await else {
            panic!("{query}")
        };
        assert!(error.to_string().contains("400"), "{error}");
    }
    assert!(server.backend.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pages_of_the_same_host_may_connect_unless_configured_otherwise() {
    let status = async |server: &TestServer, origin: &str| match Client::try_connect(
        &server.public,
        "/ws/",
        &[("Origin", origin)],
    )
    .await
    {
        Ok(_) => 101,
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
    };
    let server = TestServer::start().await;
    assert_eq!(status(&server, "http://localhost").await, 101);
    assert_eq!(status(&server, "https://evil.example").await, 403);
    let listed = TestServer::with(&[("ALLOWED_ORIGINS", "https://a.example, https://b.example/")]).await;
    assert_eq!(status(&listed, "https://b.example").await, 101);
    assert_eq!(status(&listed, "http://localhost").await, 403);
    let any = TestServer::with(&[("ALLOWED_ORIGINS", "*")]).await;
    assert_eq!(status(&any, "https://evil.example").await, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_listener_serves_clients_and_nothing_else() {
    let server = TestServer::start().await;
    for (method, path, status) in [
        ("GET", "/ws/", 426),
        ("GET", "/ws?x=1", 426),
        ("POST", "/ws/", 405),
        ("GET", "/sse/", 400),
        ("GET", "/sse", 400),
        ("POST", "/sse/", 405),
        ("GET", "/sse/x", 404),
        ("GET", "/WS/", 404),
        ("GET", "/ws/x", 404),
        ("GET", "/", 404),
        ("POST", "/trigger/", 404),
        ("GET", "/metrics", 404),
        ("GET", "/status", 404),
        ("GET", "/readyz", 404),
    ] {
        assert_eq!(send(&server.public, method, path, &[], b"").await.status, status, "{method} {path}");
    }
    let old = exchange(&server.public, b"GET /ws/ HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(old.status, 426);
    let large = format!("GET /ws/ HTTP/1.1\r\nHost: x\r\nCookie: {}\r\n\r\n", "x".repeat(70_000));
    assert_eq!(exchange(&server.public, large.as_bytes()).await.status, 431);
    let cookie = "x".repeat(40_000);
    let mut client = Client::connect(&server.public, "/ws?any=query", &[("Cookie", &cookie)]).await;
    assert_eq!(client.next().await["is_authorized"], json!(true));
}
