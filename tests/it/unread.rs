//! Requests whose head the HTTP library cannot read.

use serde_json::json;

use crate::support::{TestServer, http::exchange};

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_cannot_be_read_is_answered_with_the_usual_body() {
    let server = TestServer::start().await;
    let lines = |count: usize| {
        format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n", "X: y\r\n".repeat(count - 2))
    };
    for (bytes, status, message, part) in [
        (lines(101), 431, "headers-too-large", "100 header lines"),
        (
            "GET /sse/?room={\"a\":1} HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            400,
            "malformed-request",
            "encoded",
        ),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nbad name: x\r\n\r\n".to_owned(), 400, "malformed-request", "HTTP/1.1"),
        ("\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n".to_owned(), 400, "malformed-request", "HTTP/1.1"),
    ] {
        for listener in [&server.public, &server.internal] {
            let reply = exchange(listener, bytes.as_bytes()).await;
            assert_eq!((reply.status, reply.header("connection")), (status, Some("close")), "{reply:?}");
            assert_eq!((&reply.json()["code"], &reply.json()["message"]), (&json!("error"), &json!(message)));
            assert!(reply.json()["detail"].as_str().unwrap().contains(part), "{reply:?}");
            assert_eq!(reply.header("content-type"), Some("application/json"));
            assert_eq!(reply.head.to_ascii_lowercase().matches("content-length").count(), 1, "{reply:?}");
            // Behind an answer on the same connection, too.
            let first = "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n";
            if *listener == server.internal {
                let ok = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
                let both = exchange(listener, format!("{ok}{bytes}").as_bytes()).await;
                assert!(both.status == 200 && both.body.ends_with('}') && both.body.contains(message), "{both:?}");
                let refused = exchange(listener, format!("{first}{bytes}").as_bytes()).await;
                assert_eq!((refused.status, refused.body.contains("not-found")), (404, true), "{refused:?}");
            }
        }
    }
    assert_eq!(exchange(&server.internal, lines(100).as_bytes()).await.status, 200);
    assert!(server.metric(r#"requests_malformed_total{reason="parse"}"#).await >= 6);
    assert!(server.metric(r#"limited_total{reason="headers"}"#).await >= 2);
}
