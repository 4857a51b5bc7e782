//! What RFC 9112 asks of a server: line endings, the request line, `Host`, framing. By its sections, on both listeners.

use serde_json::json;

use crate::support::{
    TestServer,
    http::{exchange, parse},
};

const TRIGGER: &str = r#"{"rooms":[{"target":"message"}],"data":1}"#;

/// The statuses of all answers to `bytes`, up to the end of the connection.
async fn statuses(listener: &high_templar::config::Listen, bytes: &str) -> Vec<u16> {
    let reply = exchange(listener, bytes.as_bytes()).await;
    let text = format!("{}\r\n\r\n{}", reply.head, reply.body);
    text.split("HTTP/1.1 ").skip(1).map(|answer| parse(format!("HTTP/1.1 {answer}").as_bytes()).status).collect()
}

/// Each of these is refused by both listeners, and what comes behind it on its connection is not answered.
async fn refused(server: &TestServer, section: &str, heads: &[&str]) {
    const BEHIND: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for head in heads {
        for listener in [&server.public, &server.internal] {
            let came = statuses(listener, &format!("{head}{BEHIND}")).await;
            assert_eq!(came, [400], "section {section}: {head:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_end_with_a_carriage_return_and_a_line_feed() {
    let server = TestServer::start().await;
    refused(
        &server,
        "2.2, a bare carriage return",
        &[
            "GET /status\r HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "GET /status HTTP/1.1\r\r\nHost: localhost\r\n\r\n",
            "GET /status HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n",
            "GET /status HTTP/1.1\r\nHost: localhost\r\nX: a\r\r\n\r\n",
            "GET /status HTTP/1.1\rHost: localhost\r\r\n\r\n",
        ],
    )
    .await;
    refused(
        &server,
        "2.2, a bare line feed",
        &[
            "GET /status HTTP/1.1\nHost: localhost\r\n\r\n",
            "GET /status HTTP/1.1\r\nHost: localhost\n\r\n",
            "GET /status HTTP/1.1\r\nHost: localhost\r\n\n",
            "\nGET /status HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ],
    )
    .await;
    refused(
        &server,
        "2.2, white space before the first field",
        &[
            "GET /status HTTP/1.1\r\n Host: localhost\r\n\r\n",
            "GET /status HTTP/1.1\r\n X: a\r\nHost: localhost\r\n\r\n",
            "GET /status HTTP/1.1\r\n\tX: a\r\nHost: localhost\r\n\r\n",
        ],
    )
    .await;
    // Empty lines before the request line are ignored.
    for before in ["\r\n", "\r\n\r\n\r\n"] {
        let request = format!("{before}GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let last = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert_eq!(statuses(&server.internal, &format!("{request}{before}{last}")).await, [200, 200]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_line_is_a_method_a_target_and_a_version_with_single_spaces() {
    let server = TestServer::start().await;
    let lines = [
        "GET  /status HTTP/1.1",
        "GET /status  HTTP/1.1",
        "GET\t/status HTTP/1.1",
        "GET /status HTTP/1.1 ",
        " GET /status HTTP/1.1",
        "GET /status http/1.1",
        "GET /status HTTP/1.10",
        "GET /status HTTP/2.0",
        "GET /status HTTP/1",
        "GET /status",
        "GET HTTP/1.1",
        "G(T /status HTTP/1.1",
        "GET /sta\0tus HTTP/1.1",
        "GET /status?\x01 HTTP/1.1",
        "GET /status?\x7f HTTP/1.1",
        "GET /status?a b HTTP/1.1",
    ];
    let heads: Vec<_> = lines.iter().map(|line| format!("{line}\r\nHost: localhost\r\n\r\n")).collect();
    refused(&server, "3", &heads.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // Methods are told apart by their case (RFC 9110 section 9.1).
    for method in ["get", "FROBNICATE"] {
        let request = format!("{method} /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(statuses(&server.internal, &request).await, [405]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_a_path_or_a_url_of_the_host() {
    let server = TestServer::start().await;
    let request = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    for (target, status) in [
        ("/healthz", 200),
        ("/healthz?", 200),
        ("http://localhost/healthz", 200),
        ("HTTP://LOCALHOST/healthz", 200),
        ("http://localhost:80/healthz", 200),
        ("http://localhost", 200),
        ("http://localhost?a=b", 200),
        ("//localhost/healthz", 404),
    ] {
        assert_eq!(statuses(&server.internal, &request(target)).await, [status], "{target}");
    }
    let of = |line: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let heads: Vec<_> = [
        "GET healthz",
        "GET \\healthz",
        "GET ?a=b",
        "GET /healthz#fragment",
        "GET /healthz#",
        "GET http://localhost/healthz#fragment",
        "GET http:///healthz",
        "GET http://user@localhost/healthz",
        "GET http://other/healthz",
        "GET localhost:80",
        "GET *",
        "OPTIONS *",
        "CONNECT localhost:80",
        "CONNECT /healthz",
    ]
    .map(of)
    .into();
    refused(&server, "3.2", &heads.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_its_host_once() {
    let server = TestServer::start().await;
    let of = |hosts: &str| format!("GET /healthz HTTP/1.1\r\n{hosts}\r\n");
    let heads: Vec<_> = [
        "",
        "Host: localhost\r\nHost: localhost\r\n",
        "Host: localhost\r\nHost: other\r\n",
        "Host: localhost\r\nhost: localhost\r\n",
        "Host: a, b\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: user@a\r\n",
        "Host: http://a\r\n",
        "Host: a?b\r\n",
        "Host: a#b\r\n",
        "Host: a\\b\r\n",
    ]
    .map(of)
    .into();
    refused(&server, "3.2", &heads.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (line, status) in [
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close", 200),
        ("GET /healthz HTTP/1.1\r\nHost:localhost:80\r\nConnection: close", 200),
        ("GET /healthz HTTP/1.1\r\nHost: \t localhost \t \r\nConnection: close", 200),
        ("GET /healthz HTTP/1.1\r\nhOST: [::1]:80\r\nConnection: close", 200),
        ("GET /healthz HTTP/1.0", 200),
    ] {
        assert_eq!(exchange(&server.internal, format!("{line}\r\n\r\n").as_bytes()).await.status, status, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_line_has_a_name_right_before_its_colon_and_is_not_folded() {
    let server = TestServer::start().await;
    refused(
        &server,
        "5",
        &[
            "GET /status HTTP/1.1\r\nHost : localhost\r\n\r\n",
            "GET /status HTTP/1.1\r\nHost: localhost\r\nX : a\r\n\r\n",
            "GET /status HTTP/1.1\r\nHost: localhost\r\nX\t: a\r\n\r\n",
            "GET /status HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
            "GET /status HTTP/1.1\r\nHost: localhost\r\nX: a\r\n\tb\r\n\r\n",
            "GET /status HTTP/1.1\r\nHost: localhost\r\nXa\r\n\r\n",
            "GET /status HTTP/1.1\r\nHost: localhost\r\n: a\r\n\r\n",
            "GET /status HTTP/1.1\r\nHost: localhost\r\nX(: a\r\n\r\n",
            "GET /status HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_ends_where_its_head_says_or_the_request_is_refused() {
    let server = TestServer::start().await;
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    let length = TRIGGER.len();
    let post = |version: &str, lines: &str, body: &str| {
        format!("POST /trigger/ HTTP/{version}\r\nHost: localhost\r\n{lines}\r\n{body}")
    };
    let (sized, chunked) = (format!("Content-Length: {length}\r\n"), "Transfer-Encoding: chunked\r\n");
    let chunk = |size: &str, end: &str| format!("{size}\r\n{TRIGGER}{end}0\r\n\r\n");
    let good = chunk(&format!("{length:x}"), "\r\n");
    let heads = [
        post("1.1", "Content-Length: -1\r\n", ""),
        post("1.1", &format!("Content-Length: +{length}\r\n"), TRIGGER),
        post("1.1", &format!("Content-Length: 0x{length:x}\r\n"), TRIGGER),
        post("1.1", &format!("Content-Length: {length}, {length}\r\n"), TRIGGER),
        post("1.1", "Content-Length: 99999999999999999999\r\n", TRIGGER),
        post("1.1", "Content-Length:\r\n", TRIGGER),
        post("1.1", &format!("{sized}Content-Length: {}\r\n", length - 1), TRIGGER),
        post("1.1", &format!("{sized}{chunked}"), &good),
        post("1.1", &format!("{chunked}{sized}"), &good),
        post("1.1", "Transfer-Encoding: chunked, gzip\r\n", &good),
        post("1.1", "Transfer-Encoding: gzip\r\n", &good),
        post("1.1", "Transfer-Encoding: \x0bchunked\r\n", &good),
        post("1.1", &format!("Transfer-Encoding: identity\r\n{sized}"), TRIGGER),
        post("1.0", chunked, &good),
    ];
    refused(&server, "6", &heads.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // A chunk that is none ends the request, whatever was before it, and the connection.
    let behind = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for body in [
        chunk("zz", "\r\n"),
        chunk(&format!("0x{length:x}"), "\r\n"),
        chunk(&format!("-{length:x}"), "\r\n"),
        chunk("fffffffffffffffff1", "\r\n"),
        chunk(&format!("{length:x}"), "xx"),
        chunk(&format!("{length:x}"), "\n"),
        chunk(&format!("{length:x}"), ""),
        format!("{length:x}\n{TRIGGER}\r\n0\r\n\r\n"),
    ] {
        let came = statuses(&server.internal, &format!("{}{behind}", post("1.1", chunked, &body))).await;
        assert!(matches!(came[..], [400 | 408]), "section 7.1: {body:?}: {came:?}");
    }
    assert_eq!(server.metric("triggers_total").await, 0);
    client.expect_silence().await;
    for (lines, body) in [
        (sized.as_str(), TRIGGER),
        (&format!("{sized}{sized}"), TRIGGER),
        (chunked, &good),
        ("Transfer-Encoding: CHUNKED\r\n", &good),
        (chunked, &chunk(&format!("{length:X};name=\"a;b\""), "\r\n")),
        (chunked, &format!("000{length:x}\r\n{TRIGGER}\r\n0\r\nX: trailer\r\n\r\n")),
    ] {
        let came = statuses(&server.internal, &format!("{}{behind}", post("1.1", lines, body))).await;
        assert_eq!(came, [200, 200], "{lines} {body}");
        assert_eq!(client.next().await["data"], json!(1));
    }
}
