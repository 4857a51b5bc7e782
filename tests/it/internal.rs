//! The internal listener: health, numbers, and who may post.

use std::{io::Write, net::TcpStream, time::Duration};

use high_templar::config::Listen;
use serde_json::json;
use socket2::SockRef;

use crate::support::{
    TestServer,
    http::{exchange, send},
};

#[tokio::test(flavor = "multi_thread")]
async fn health_status_metrics_and_the_document_are_served() {
    let server = TestServer::start().await;
    let _client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(send(&server.internal, "HEAD", "/readyz", &[], b"").await.status, 200);
    assert_eq!(server.get("/readyz").await.json(), json!({"ready": true}));
    let status = server.get("/status").await.json();
    assert_eq!((&status["broker"]["kind"], &status["broker"]["consuming"]), (&json!("embedded"), &json!(true)));
    assert_eq!((&status["subscriptions"], &status["clients"]["num_rooms"]), (&json!(1), &json!(1)));
    for (headers, content_type, counter, end) in [
        (&[][..], "text/plain; version=0.0.4; charset=utf-8", "high_templar_triggers_total", false),
        (&[("Accept", "text/plain")], "text/plain; version=0.0.4; charset=utf-8", "high_templar_triggers_total", false),
        (
            &[("Accept", "application/openmetrics-text; version=1.0.0, text/plain;q=0.5")],
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "high_templar_triggers",
            true,
        ),
    ] {
        let metrics = send(&server.internal, "GET", "/metrics", headers, b"").await;
        assert_eq!((metrics.header("content-type"), metrics.header("vary")), (Some(content_type), Some("Accept")));
        assert!(metrics.body.contains("high_templar_connections 1\n"), "{}", metrics.body);
        assert!(metrics.body.contains(&format!("# TYPE {counter} counter\n")), "{}", metrics.body);
        assert_eq!(metrics.body.contains("# EOF\n"), end, "{}", metrics.body);
    }
    assert_eq!(server.get("/openapi.json").await.json()["openapi"], json!("3.1.0"));
    let missing = server.get("/nothing").await;
    assert_eq!((missing.status, missing.json()["message"].as_str()), (404, Some("not-found")));
    assert_eq!(server.get("/trigger/").await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_needs_no_content_type_and_may_have_any() {
    let server = TestServer::start().await;
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    let body = br#"{"rooms":[{"target":"message"}],"data":1}"#;
    for headers in [&[][..], &[("Content-Type", "application/json")], &[("Content-Type", "text/plain")]] {
        for path in ["/trigger/", "/trigger"] {
            assert_eq!(send(&server.internal, "POST", path, headers, body).await.status, 200);
            assert_eq!(client.next().await["data"], json!(1));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_triggers_is_published_in_its_order_and_each_is_answered_for_itself() {
    let server = TestServer::start().await;
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    let good = |data: u32| json!({"rooms": [{"target": "message"}], "data": data});
    let list = json!([good(0), {"data": 1}, good(2), 7, {"rooms": [1], "data": 3}, good(4)]);
    let reply = server.post("/trigger/", &list.to_string()).await;
    let answers = reply.json();
    let detail = |number: usize| answers[number]["detail"].as_str().unwrap();
    assert!(detail(1).contains("; a trigger is {") && detail(3).ends_with("found a number"), "{answers}");
    assert!(detail(4).contains("rooms must be a list"), "{answers}");
    let words: Vec<_> = answers.as_array().unwrap().iter().map(|one| one["message"].as_str()).collect();
    assert_eq!(reply.status, 200);
    assert_eq!(words, [None, Some("no-rooms"), None, Some("malformed-json"), Some("malformed-rooms"), None]);
    assert_eq!((&answers[0], answers[1]["code"].as_str()), (&json!({"code": "success"}), Some("error")));
    for data in [0, 2, 4] {
        assert_eq!(client.next().await["data"], json!(data));
    }
    let empty = server.post("/trigger/", " [] ").await;
    assert_eq!((empty.status, empty.json()), (200, json!([])));
    let broken = server.post("/trigger/", &format!("[{},", good(5))).await;
    assert_eq!((broken.status, broken.json()["message"].as_str()), (400, Some("malformed-json")));
    assert!(broken.json()["detail"].as_str().unwrap().contains("ends early at byte"), "{broken:?}");
    let not_json = server.post("/trigger/", r#"{"rooms":[{"target":"message"}],"data":NaN}"#).await;
    assert!(not_json.json()["detail"].as_str().unwrap().contains("NaN at byte 39: "), "{not_json:?}");
    client.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_list_of_triggers_is_bounded_and_a_longer_list_is_refused_as_a_whole() {
    const MOST: usize = 10_000;
    let server = TestServer::start().await;
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    let reply = server.post("/trigger/", &json!(vec![1; MOST]).to_string()).await;
    assert_eq!((reply.status, reply.json().as_array().unwrap().len()), (200, MOST));
    assert!(reply.body.len() < 150 * MOST, "{} bytes", reply.body.len());
    let mut list = vec![json!({"rooms": [{"target": "message"}], "data": 1})];
    list.resize(MOST + 1, json!(1));
    let reply = server.post("/trigger/", &json!(list).to_string()).await;
    assert_eq!((reply.status, &reply.json()["message"]), (413, &json!("too-large")), "{reply:?}");
    assert!(reply.json()["detail"].as_str().unwrap().contains("10000"), "{reply:?}");
    let reply = server.post("/trigger/", &format!("[{}1]", "1,".repeat(500_000))).await;
    assert_eq!(reply.status, 413);
    assert!(reply.body.len() < 1000, "{} bytes", reply.body.len());
    client.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_where_there_is_one() {
    let server = TestServer::with(&[("INTERNAL_TOKEN", "s3cret")]).await;
    let body = br#"{"rooms":[],"data":1}"#;
    let post = async |headers: &[(&str, &str)]| send(&server.internal, "POST", "/trigger/", headers, body).await;
    let refused = post(&[]).await;
    assert_eq!((refused.status, refused.json()["message"].as_str()), (401, Some("not-authorized")));
    assert!(refused.head.to_ascii_lowercase().contains("www-authenticate: bearer"));
    for wrong in ["Bearer wrong", "Bearer s3cret2", "Bearer ", "Basic s3cret", "s3cret"] {
        assert_eq!(post(&[("Authorization", wrong)]).await.status, 401, "{wrong}");
    }
    assert_eq!(post(&[("Authorization", "Bearer s3cret")]).await.status, 200);
    assert_eq!(server.get("/metrics").await.status, 401);
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_host_may_not_post() {
    let server = TestServer::start().await;
    let body = br#"{"rooms":[],"data":1}"#;
    for (origin, status) in [("https://evil.example", 403), ("null", 403), ("http://localhost", 200)] {
        let reply = send(&server.internal, "POST", "/trigger/", &[("Origin", origin)], body).await;
        assert_eq!(reply.status, status, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_this_machine_alone_may_call_by_its_own_names() {
    let server = TestServer::start().await;
    let guarded = TestServer::with(&[("INTERNAL_TOKEN", "t")]).await;
    let body = br#"{"rooms":[],"data":1}"#;
    for (host, status) in [
        ("localhost:8002", 200),
        ("127.0.0.1:8002", 200),
        ("[::1]:8002", 200),
        ("evil.example", 403),
        ("evil.example:8002", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::1].evil.example", 403),
        ("localhost:80.evil.example", 403),
        ("", 403),
        ("10.0.0.1", 403),
    ] {
        let request = format!(
            "POST /trigger/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        let plain = [request.as_bytes(), b"\r\n", body].concat();
        assert_eq!(exchange(&server.internal, &plain).await.status, status, "{host}");
        let shown = [request.as_bytes(), b"Authorization: Bearer t\r\n\r\n", body].concat();
        assert_eq!(exchange(&guarded.internal, &shown).await.status, 200, "{host}");
    }
}

/// A peer that resets its connection right behind its request is still known by its address, and is no unix socket.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_connection_is_reset_counts_as_of_its_peer() {
    const REQUESTS: usize = 500;
    let server = TestServer::start().await;
    let Listen::Tcp(address) = server.internal else { unreachable!("it is TCP") };
    let body = br#"{"rooms":[{"target":"message"}],"data":"from a page"}"#;
    let head = format!("POST /trigger/ HTTP/1.1\r\nHost: evil.example\r\nContent-Length: {}\r\n\r\n", body.len());
    let request = [head.as_bytes(), body].concat();
    let shoot = move || {
        for _ in 0..REQUESTS {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&request).unwrap();
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(); // closing it is a reset
        }
    };
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    tokio::task::spawn_blocking(shoot).await.unwrap();
    for number in 0..10 {
        server.trigger(json!({"rooms": [{"target": "message"}], "data": number})).await;
        assert_eq!(client.next().await["data"], json!(number));
    }
    client.expect_silence().await;
    assert_eq!(server.metric(r#"trigger_requests_total{reason="success"}"#).await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_work_on_unix_sockets_and_replace_what_a_crash_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| format!("unix:{}", folder.path().join(name).display());
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("ws")).unwrap()); // leaves its file behind
    let server = TestServer::with(&[("LISTEN", &path("ws")), ("INTERNAL_LISTEN", &path("internal"))]).await;
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    server.trigger(json!({"rooms": [{"target": "message"}], "data": "x".repeat(100_000)})).await;
    assert_eq!(client.next().await["data"].as_str().unwrap().len(), 100_000);
    let any_name = b"GET /status HTTP/1.1\r\nHost: sidecar\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(&server.internal, any_name).await.status, 200);
    server.stop().await;
    assert!(!folder.path().join("ws").exists());
}
