//! Headers that a proxy has added to, or split over several lines.

use high_templar::config::{Listen, from_vars};
use serde_json::json;

use crate::support::{
    Client, StubBackend, TestServer, eventually,
    http::{exchange, send},
};

/// The public listener of a server on both families of addresses, as a client of IPv4 reaches it.
fn by_ipv4(server: &TestServer) -> Listen {
    let Listen::Tcp(address) = &server.public else { unreachable!("it is TCP") };
    Listen::Tcp(([127, 0, 0, 1], address.port()).into())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_gets_all_lines_of_a_header_and_the_address_that_the_proxy_told_last() {
    let headers = r#"{"X-Forwarded-For":"{header:X-Forwarded-For}","X-Session":"{cookie:sessionid}"}"#;
    let server = TestServer::with(&[("API_HEADERS", headers)]).await;
    let lines = [
        ("Cookie", "theme=dark"),
        ("X-Forwarded-For", "9.9.9.9"),
        ("X-Real-IP", "9.9.9.9"),
        ("Cookie", "sessionid=s"),
        ("Cookie", "csrftoken=t"),
        ("X-Forwarded-For", "203.0.113.7, 10.0.0.1"),
        ("X-Real-IP", "10.0.0.1, [2001:db8::7]:40123"),
    ];
    Client::connect(&server.public, "/ws/", &lines).await.next().await;
    send(&server.public, "GET", "/sse/?room=%7B%22target%22%3A%22other%22%7D", &lines, b"").await;
    let asked = server.backend.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    for asked in asked {
        for (name, value) in [
            ("cookie", "theme=dark; sessionid=s; csrftoken=t"),
            ("x-csrftoken", "t"),
            ("x-session", "s"),
            ("x-forwarded-for", "9.9.9.9, 203.0.113.7, 10.0.0.1"),
            ("x-real-ip", "2001:db8::7"),
        ] {
            assert_eq!(asked.header(name), Some(value), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_count_by_the_address_that_the_proxy_told_last_in_whatever_form() {
    let server = TestServer::with(&[("MAX_CONNECTIONS_PER_ADDRESS", "2")]).await;
    let connect = async |lines: &[&str]| {
        let lines: Vec<_> = lines.iter().map(|line| ("X-Real-IP", *line)).collect();
        Client::try_connect(&server.public, "/ws/", &lines).await.map(|(client, _)| client)
    };
    let mut clients = Vec::new();
    for lines in [&["9.9.9.9", "203.0.113.7"][..], &["203.0.113.7:40123"]] {
        clients.push(connect(lines).await.unwrap());
    }
    for lines in [
        &["203.0.113.7"][..],
        &["1.1.1.1", "203.0.113.7"],
        &["1.1.1.1, 203.0.113.7"],
        &["::ffff:203.0.113.7"],
        &["[::ffff:203.0.113.7]:40123"],
    ] {
        assert!(connect(lines).await.is_err(), "{lines:?}");
    }
    clients.push(connect(&["9.9.9.9"]).await.unwrap());
    assert_eq!(server.metric("addresses_unreadable_total").await, 0);
    for number in 1..=3 {
        clients.push(connect(&["203.0.113.7", "unknown"]).await.unwrap());
        assert_eq!(server.metric("addresses_unreadable_total").await, number);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_ipv4_has_an_address_of_ipv4_where_both_families_are_listened_on() {
    let backend = StubBackend::allowing(json!([{"target": "message"}])).await;
    let server = TestServer::before(backend, &[("LISTEN", "[::]:0"), ("API_HEADERS", r#"{"X-Peer":"{peer}"}"#)]).await;
    Client::connect(&by_ipv4(&server), "/ws/", &[]).await.next().await;
    assert_eq!(server.backend.asked()[0].header("x-peer"), Some("127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_holds_one_value_is_refused_where_it_comes_twice() {
    let vars =
        [("INTERNAL_TOKEN", "t"), ("ALLOWED_ORIGINS", "*"), ("API_HEADERS", r#"{"X-A":"{header:Authorization}"}"#)];
    let server = TestServer::with(&vars).await;
    for (name, one, two) in [
        ("Authorization", "Bearer x", "Bearer t"),
        ("Origin", "http://localhost", "https://evil.example"),
        ("Origin", "http://localhost", "http://localhost"),
        ("Sec-Fetch-Site", "same-origin", "cross-site"),
        ("Last-Event-ID", "a:1", "a:2"),
        ("Sec-WebSocket-Version", "13", "8"),
    ] {
        for listener in [&server.public, &server.internal] {
            let request = format!("GET /sse/ HTTP/1.1\r\nHost: localhost\r\n{name}: {one}\r\n{name}: {two}\r\n\r\n");
            let reply = exchange(listener, request.as_bytes()).await;
            assert_eq!((reply.status, &reply.json()["message"]), (400, &json!("malformed-request")), "{reply:?}");
            assert!(reply.json()["detail"].as_str().unwrap().contains(&name.to_ascii_lowercase()), "{reply:?}");
        }
    }
    let shown = [("Authorization", "Bearer t")];
    let metrics = send(&server.internal, "GET", "/metrics", &shown, b"").await.body;
    assert!(metrics.contains("requests_malformed_total{reason=\"repeated\"} 12\n"), "{metrics}");
    assert_eq!(server.backend.bootstraps(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_a_handshake_may_be_split_over_lines() {
    let server = TestServer::start().await;
    let handshake = "GET /ws/ HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\nConnection: Upgrade\r\n\
                     Upgrade: h2c\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: soap\r\n\
                     Sec-WebSocket-Protocol: high-templar.v4\r\n\r\n";
    let bytes = [handshake.as_bytes(), &[0x88, 0x80, 0, 0, 0, 0]].concat();
    let reply = exchange(&server.public, &bytes).await;
    assert_eq!((reply.status, reply.header("sec-websocket-protocol")), (101, Some("high-templar.v4")), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subprotocol_in_another_spelling_is_another_one() {
    let server = TestServer::start().await;
    let offered = "Sec-WebSocket-Protocol: HIGH-TEMPLAR.V4\r\n";
    let handshake = format!(
        "GET /ws/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offered}\r\n"
    );
    let bytes = [handshake.as_bytes(), &[0x88, 0x80, 0, 0, 0, 0]].concat();
    let reply = exchange(&server.public, &bytes).await;
    assert_eq!((reply.status, reply.header("sec-websocket-protocol")), (101, None), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_origin_is_compared_as_browsers_write_it() {
    let listed = "file://, https://x.example:443, https://bücher.example, capacitor://localhost";
    let server = TestServer::with(&[("ALLOWED_ORIGINS", listed)]).await;
    for origin in ["file://", "https://x.example", "https://xn--bcher-kva.example", "capacitor://localhost"] {
        Client::connect(&server.public, "/ws/", &[("Origin", origin)]).await;
        let room = "/sse/?room=%7B%22target%22%3A%22other%22%7D";
        let events = send(&server.public, "GET", room, &[("Origin", origin)], b"").await;
        assert_eq!(events.header("access-control-allow-origin"), Some(origin));
    }
    for origin in ["null", "file:///", "http://x.example", "https://x.example.evil"] {
        assert!(Client::try_connect(&server.public, "/ws/", &[("Origin", origin)]).await.is_err(), "{origin}");
    }
    eventually("all are counted", async || server.metric(r#"connections_refused_total{reason="origin"}"#).await == 4)
        .await;
    let vars = [("API_URL", "http://api/"), ("ALLOWED_ORIGINS", "https://*.example.org")];
    let wrong = from_vars(vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter()).unwrap_err();
    assert!(
        wrong.to_string().contains("https://*.example.org, which contains a wildcard: list each origin"),
        "{wrong}"
    );
}
