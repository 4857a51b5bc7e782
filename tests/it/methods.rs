//! What load balancers and browsers ask before they send a client: `HEAD`, `OPTIONS`, preflights.

use serde_json::json;

use crate::support::{
    StubBackend, TestServer,
    http::{Reply, exchange, send},
};

const READ: &str = "GET, HEAD, OPTIONS";
const PREFLIGHT: [(&str, &str); 2] =
    [("Access-Control-Request-Method", "GET"), ("Access-Control-Request-Headers", "last-event-id")];

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_answered_wherever_a_get_is_and_without_a_body() {
    let server = TestServer::start().await;
    let explained = "/explain?connection=00000000-0000-0000-0000-000000000000&room=%7B%7D";
    for path in [
        "/",
        "/page/main.js",
        "/healthz",
        "/readyz",
        "/metrics",
        "/status",
        "/position",
        "/connections",
        "/rooms",
        "/openapi.json",
        "/nothing",
        explained,
    ] {
        let get = server.get(path).await;
        let head = send(&server.internal, "HEAD", path, &[], b"").await;
        assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
    }
    for path in ["/ws/", "/ws", "/sse/", "/sse", "/sse/?room=%7B%22target%22%3A%22message%22%7D", "/ws/?token=x"] {
        let head = send(&server.public, "HEAD", path, &[], b"").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path} {head:?}");
    }
    assert_eq!(send(&server.public, "HEAD", "/nothing", &[], b"").await.status, 404);
    // Nothing is opened, and the API is not asked.
    assert_eq!((server.backend.bootstraps(), server.metric("connections").await), (0, 0));
    assert_eq!(server.metric("connections_opened_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_tells_its_methods() {
    let vars = [("INTERNAL_TOKEN", "t")];
    let server = TestServer::with(&vars).await;
    let options = async |listener, path: &str| send(listener, "OPTIONS", path, &[], b"").await;
    for path in ["/", "/healthz", "/readyz", "/metrics", "/status", "/connections", "/rooms", "/explain", "/position"] {
        let reply = options(&server.internal, path).await;
        assert_eq!((reply.status, reply.header("allow")), (204, Some(READ)), "{path}");
    }
    for path in ["/trigger/", "/trigger", "/control/"] {
        let reply = options(&server.internal, path).await;
        assert_eq!((reply.status, reply.header("allow")), (204, Some("POST, OPTIONS")), "{path}");
    }
    for path in ["/ws/", "/ws", "/sse/", "/sse"] {
        let reply = options(&server.public, path).await;
        assert_eq!((reply.status, reply.header("allow")), (204, Some(READ)), "{path}");
    }
    // As `option httpchk` of HAProxy sends it.
    let reply = exchange(&server.public, b"OPTIONS / HTTP/1.0\r\n\r\n").await;
    assert_eq!((reply.status, reply.header("allow")), (204, Some("OPTIONS")));
    assert_eq!(options(&server.public, "/nothing").await.status, 404);
    let shown = [("Authorization", "Bearer t")];
    for (listener, method, path, allowed) in [
        (&server.public, "POST", "/ws/", READ),
        (&server.public, "DELETE", "/sse/", READ),
        (&server.internal, "GET", "/trigger/", "POST, OPTIONS"),
        (&server.internal, "PUT", "/control/", "POST, OPTIONS"),
        (&server.internal, "POST", "/metrics", READ),
        (&server.internal, "DELETE", "/healthz", READ),
        (&server.internal, "POST", "/", READ),
    ] {
        let reply = send(listener, method, path, &shown, b"").await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allowed)), "{method} {path}");
        assert_eq!(reply.json()["message"], json!("method-not-allowed"));
    }
}

async fn preflight(server: &TestServer, path: &str, origin: &str) -> Reply {
    let headers = [&PREFLIGHT[..], &[("Origin", origin)]].concat();
    send(&server.public, "OPTIONS", path, &headers, b"").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_allowed_origin_may_send_headers_and_another_one_may_not() {
    let server = TestServer::with(&[("ALLOWED_ORIGINS", "https://app.example.org")]).await;
    for path in ["/sse/", "/sse", "/ws/", "/sse/?room=%7B%22target%22%3A%22message%22%7D"] {
        let reply = preflight(&server, path, "https://app.example.org").await;
        assert_eq!(reply.status, 204, "{reply:?}");
        for (name, value) in [
            ("access-control-allow-origin", "https://app.example.org"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET"),
            ("access-control-allow-headers", "last-event-id"),
            ("access-control-max-age", "7200"),
            ("vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{reply:?}");
        }
        let foreign = preflight(&server, path, "https://evil.example").await;
        assert_eq!((foreign.status, &foreign.json()["message"]), (403, &json!("origin-not-allowed")));
        assert_eq!(foreign.header("access-control-allow-origin"), None);
    }
    assert_eq!(server.metric(r#"connections_refused_total{reason="origin"}"#).await, 4);
    let asked = [("Origin", "https://app.example.org"), ("Access-Control-Request-Method", "GET")];
    let reply = send(&server.public, "OPTIONS", "/sse/", &asked, b"").await;
    let allowed = reply.header("access-control-allow-headers").unwrap().to_owned();
    for name in ["last-event-id", "cache-control", "authorization", "content-type"] {
        assert!(allowed.contains(name), "{allowed}");
    }
    // What is answered to the request itself can be read, be it an error.
    for (method, path, status) in
        [("GET", "/sse/", 400), ("POST", "/sse/", 405), ("GET", "/sse/?room=%7B%22x%22%3A1%7D", 403)]
    {
        let reply = send(&server.public, method, path, &[("Origin", "https://app.example.org")], b"").await;
        let origin = reply.header("access-control-allow-origin");
        assert_eq!((reply.status, origin), (status, Some("https://app.example.org")), "{reply:?}");
    }
    assert_eq!(server.backend.bootstraps(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_to_channelstream_is_answered_as_before() {
    let vars = [("CHANNELSTREAM_SECRET", "0123456789abcdef"), ("CHANNELSTREAM_PUBLIC", "true")];
    let server = TestServer::before(StubBackend::allowing(json!([])).await, &vars).await;
    for path in ["/listen", "/disconnect", "/connect", "/"] {
        let reply = preflight(&server, path, "https://app.example.org").await;
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, Some("*")), "{path} {reply:?}");
    }
    assert_eq!(preflight(&server, "/sse/", "https://localhost").await.status, 204);
}
