//! Requests that two servers could read in two ways are refused before they are routed, on both listeners.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Client, StubBackend, TestServer,
    http::{Reply, dial, exchange, request, send},
    process::Running,
};

const REFUSED: &str = "malformed-request";

async fn refused(server: &TestServer, bytes: &[u8]) {
    for listener in [&server.public, &server.internal] {
        let reply = exchange(listener, bytes).await;
        let told = (reply.status, reply.header("connection"));
        assert_eq!(told, (400, Some("close")), "{:?}: {reply:?}", String::from_utf8_lossy(bytes));
        assert_eq!(reply.json()["message"], json!(REFUSED), "{reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_no_path_is_refused_before_it_is_routed() {
    let server = TestServer::start().await;
    let targets =
        ["localhost", "localhost:80", "*", "http://other.example/ws/", "http://a@localhost/ws/", "ftp://localhost/"];
    for target in targets {
        for method in ["GET", "POST", "OPTIONS"] {
            refused(&server, format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
        }
    }
    for target in ["localhost:443", "/ws/"] {
        refused(&server, format!("CONNECT {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
    }
    assert_eq!(server.metric(r#"requests_malformed_total{reason="target"}"#).await, 2 * (3 * 5 + 2));
    assert_eq!(server.metric(r#"requests_malformed_total{reason="other-host"}"#).await, 2 * 3);
    // A URL of the same host is what a path is.
    for target in ["http://localhost/healthz", "http://LOCALHOST:80/healthz", "/healthz"] {
        assert_eq!(send(&server.internal, "GET", target, &[], b"").await.status, 200, "{target}");
    }
    server.connect().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_one_host() {
    let server = TestServer::start().await;
    for hosts in ["", "Host: localhost\r\nHost: localhost\r\n", "Host: localhost\r\nhost: other\r\n", "Host: a/b\r\n"] {
        refused(&server, format!("GET /status HTTP/1.1\r\n{hosts}\r\n").as_bytes()).await;
    }
    // HTTP/1.0 did not know the header.
    assert_eq!(exchange(&server.internal, b"GET /status HTTP/1.0\r\n\r\n").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_says_in_one_way_where_its_body_ends() {
    let server = TestServer::start().await;
    let body = "f\r\n{\"rooms\":[],\"da\r\n5\r\nta\":1\r\n1\r\n}\r\n0\r\n\r\n";
    let post =
        |lines: &str| format!("POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n{body}");
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\ncontent-length: 0\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ] {
        refused(&server, post(lines).as_bytes()).await;
    }
    assert_eq!(server.metric(r#"requests_malformed_total{reason="length"}"#).await, 2 * 3);
    assert_eq!(server.metric(r#"requests_malformed_total{reason="encoding"}"#).await, 2 * 2);
    for lines in ["Transfer-Encoding: chunked\r\n", "Transfer-Encoding: Chunked\r\n"] {
        let reply = exchange(&server.internal, post(lines).as_bytes()).await;
        assert_eq!(reply.status, 200, "{lines} {reply:?}");
    }
    let handshake = "GET /ws/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for rest in ["Content-Length: 2\r\n\r\nab", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        refused(&server, format!("{handshake}{rest}").as_bytes()).await;
    }
    assert_eq!(server.metric(r#"requests_malformed_total{reason="handshake-body"}"#).await, 2 * 2);
    Client::connect(&server.public, "/ws/", &[("Content-Length", "0")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_a_head_ends_with_a_carriage_return_and_a_line_feed() {
    let server = TestServer::start().await;
    for bytes in [
        &b"GET /status HTTP/1.1\nHost: localhost\n\n"[..],
        b"GET /status HTTP/1.1\r\nHost: localhost\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: localhost\r\n\n",
        b"\nGET /status HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        refused(&server, bytes).await;
    }
    // The next request on a connection is looked at as well, whatever the body before it holds.
    let trigger = "{\"rooms\":[],\n\n\"data\":1}";
    let length = trigger.len();
    let chunks = format!("{:x}\r\n{}\r\n{:x};a=\"b\"\r\n{}\r\n0\r\n\r\n", 5, &trigger[..5], length - 5, &trigger[5..]);
    let sized = format!("POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{trigger}");
    let chunked = format!("POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    for first in [sized, chunked] {
        let answers = async |second: &str| {
            let answer = exchange(&server.internal, format!("{first}{first}{second}").as_bytes()).await;
            let answer = format!("{}\r\n\r\n{}", answer.head, answer.body);
            let answers = answer.split("HTTP/1.1 ").skip(1);
            answers.map(|answer| answer[..3].to_owned()).collect::<Vec<_>>()
        };
        let strict = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert_eq!(answers(strict).await, ["200", "200", "200"], "{first}");
        let bare = "GET /healthz HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n";
        assert_eq!(answers(bare).await, ["200", "200", "400"], "{first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_refused_by_the_public_listener_has_to_connect_again() {
    let server = TestServer::start().await;
    for path in ["/ws/", "/nothing", "/sse/"] {
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(3);
        let reply = exchange(&server.public, bytes.as_bytes()).await;
        assert_eq!((reply.header("connection"), reply.body.contains("HTTP/1.1")), (Some("close"), false), "{reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_came_by_http_does_not_connect_where_a_proxy_says_https() {
    let server = TestServer::start().await;
    let connects = async |scheme: &str, origin: &str| {
        let headers = [("X-Forwarded-Proto", scheme), ("Origin", origin)];
        let socket = Client::try_connect(&server.public, "/ws/", &headers).await.is_ok();
        let room = "/sse/?room=%7B%22target%22%3A%22other%22%7D"; // not allowed, which is told to whoever may ask
        let events = send(&server.public, "GET", room, &headers, b"").await;
        let may_read = events.header("access-control-allow-origin").is_some();
        assert_eq!(events.json()["message"] == json!("room-not-found"), socket, "{events:?}");
        assert_eq!(may_read, socket, "{events:?}");
        socket
    };
    assert!(connects("https", "https://localhost").await);
    assert!(connects("http", "http://localhost").await);
    assert!(!connects("https", "http://localhost").await);
    let server = TestServer::with(&[("TRUSTED_PROXIES", "none")]).await;
    let headers = [("X-Forwarded-Proto", "https"), ("Origin", "http://localhost")];
    assert!(Client::try_connect(&server.public, "/ws/", &headers).await.is_ok(), "anybody can say that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_has_no_browser_ask_the_internal_listener_even_without_an_origin() {
    let server = TestServer::start().await;
    // A form of another site's page is a navigation, too.
    let form = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")];
    let posted = send(&server.internal, "POST", "/trigger/", &form, br#"{"rooms":[],"data":1}"#).await;
    assert_eq!((posted.status, &posted.json()["message"]), (403, &json!("foreign-page")));
    let ask = async |path: &str, site: &str, mode: &str, dest: &str| -> Reply {
        let headers = [("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", mode), ("Sec-Fetch-Dest", dest)];
        exchange(&server.internal, &request("GET", path, &headers, b"")).await
    };
    for path in ["/status", "/connections", "/metrics", "/", "/position"] {
        for site in ["cross-site", "same-site"] {
            for (mode, dest) in [("no-cors", "image"), ("no-cors", "script"), ("navigate", "iframe"), ("cors", "empty")]
            {
                let reply = ask(path, site, mode, dest).await;
                assert_eq!(
                    (reply.status, &reply.json()["message"]),
                    (403, &json!("foreign-page")),
                    "{path} {site} {dest}"
                );
            }
            // Somebody follows a link to the status page.
            assert_eq!(ask(path, site, "navigate", "document").await.status, 200, "{path} {site}");
        }
        for site in ["same-origin", "none"] {
            assert_eq!(ask(path, site, "cors", "empty").await.status, 200, "{path} {site}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_before_it_is_routed_has_few_lines_in_the_log() {
    let backend = StubBackend::allowing(json!([])).await;
    let url = backend.url();
    let vars = [
        ("API_URL", url.as_str()),
        ("LOG_FORMAT", "json"),
        ("MAX_CONNECTIONS_PER_ADDRESS", "1"),
        ("TRUSTED_PROXIES", "none"),
    ];
    let running = Running::start(&vars).await;
    for _ in 0..100 {
        assert_eq!(exchange(&running.public, b"GET localhost HTTP/1.1\r\nHost: secret\r\n\r\n").await.status, 400);
    }
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(dial(&running.public).await);
    }
    let metrics = send(&running.internal, "GET", "/metrics", &[], b"").await.body;
    assert!(metrics.contains("requests_malformed_total{reason=\"target\"} 100\n"), "{metrics}");
    running.signal(Signal::TERM);
    drop(silent);
    let (_, log) = running.end();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (message, kind) in [("request refused", "target"), ("connection closed unanswered", "connections-per-address")]
    {
        let count = lines.iter().filter(|line| line["message"] == message && line["kind"] == kind).count();
        assert!((1..=10).contains(&count), "{message}: {log}");
    }
    assert!(!log.contains("secret"), "{log}");
}
