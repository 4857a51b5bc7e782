//! The status page, and the numbers that it shows.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    Proxy, TestServer, Users,
    backend::Answer,
    eventually,
    http::{Reply, exchange, send},
    rabbitmq,
};

fn message() -> Value {
    json!({"target": "message"})
}

async fn status(server: &TestServer) -> Value {
    server.get("/status").await.json()
}

/// The files that the page names.
fn files(page: &str) -> Vec<&str> {
    let names = page.split("\"page/").skip(1);
    names.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name).collect()
}

fn is_protected(reply: &Reply) {
    let policy = reply.header("Content-Security-Policy").unwrap_or_default();
    for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"] {
        assert!(policy.contains(part), "{part}: {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    for (name, value) in [
        ("X-Frame-Options", "DENY"),
        ("X-Content-Type-Options", "nosniff"),
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "no-referrer"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_its_files_are_served_protected_and_on_the_internal_listener_alone() {
    let server = TestServer::start().await;
    let page = server.get("/").await;
    assert_eq!((page.status, page.header("Content-Type")), (200, Some("text/html; charset=utf-8")));
    is_protected(&page);
    let files = files(&page.body);
    assert!(files.contains(&"main.js") && files.contains(&"status.css"), "{files:?}");
    for file in files {
        let reply = server.get(&format!("/page/{file}")).await;
        let content_type = if file.ends_with(".js") { "text/javascript" } else { "text/css" };
        assert_eq!(reply.status, 200, "{file}");
        assert!(reply.header("Content-Type").unwrap().starts_with(content_type), "{file}: {reply:?}");
        is_protected(&reply);
    }
    assert_eq!(send(&server.internal, "HEAD", "/", &[], b"").await.status, 200);
    assert_eq!(server.post("/", "").await.status, 405);
    for missing in ["/page/", "/page/nothing.js", "/page/..%2fmod.rs", "/page/../mod.rs", "/index.html"] {
        assert_eq!(server.get(missing).await.status, 404, "{missing}");
    }
    for path in ["/", "/page/main.js"] {
        assert_eq!(send(&server.public, "GET", path, &[], b"").await.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_the_page_is_for_everybody_and_there_is_no_data_in_it() {
    let server = TestServer::with(&[("INTERNAL_TOKEN", "letmein")]).await;
    let _client = server.member("alice", &[("1", json!({"customer": "very-special"}))]).await;
    let empty = TestServer::start().await;
    for path in ["/", "/page/main.js"] {
        // By whatever name: it is behind a proxy, most likely.
        let request = format!("GET {path} HTTP/1.1\r\nHost: status.example\r\nConnection: close\r\n\r\n");
        let page = exchange(&server.internal, request.as_bytes()).await;
        assert_eq!(page.status, 200, "{path}");
        assert_eq!(page.body, empty.get(path).await.body, "the same whatever the server knows");
    }
    for path in ["/status", "/connections?sort=waiting", "/rooms", "/explain", "/metrics"] {
        assert_eq!(server.get(path).await.status, 401, "{path}");
    }
    assert_eq!(server.post("/control/", r#"{"action":"disconnect","all":true}"#).await.status, 401);
    let token = [("Authorization", "Bearer letmein")];
    assert_eq!(send(&server.internal, "GET", "/status", &token, b"").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_the_page_is_for_this_machine_by_its_own_names() {
    let server = TestServer::start().await;
    for path in ["/", "/page/main.js", "/status"] {
        for (host, wanted) in [("localhost:8002", 200), ("[::1]:8002", 200), ("evil.example", 403), ("10.0.0.1", 403)] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            assert_eq!(exchange(&server.internal, request.as_bytes()).await.status, wanted, "{path} of {host}");
        }
        let foreign = send(&server.internal, "GET", path, &[("Origin", "https://evil.example")], b"").await;
        assert_eq!((foreign.status, foreign.json()["message"].as_str()), (403, Some("foreign-page")), "{path}");
    }
    // What the page posts carries its own origin.
    let body = br#"{"action":"disconnect","user":"nobody"}"#;
    for (origin, wanted) in [("http://localhost", 200), ("http://localhost:81", 403), ("http://evil.example", 403)] {
        let reply = send(&server.internal, "POST", "/control/", &[("Origin", origin)], body).await;
        assert_eq!(reply.status, wanted, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_high_templars_where_channelstream_is_spoken_and_the_numbers_are_counted() {
    let plain = TestServer::start().await;
    assert_eq!(status(&plain).await["channelstream"], Value::Null);
    let secret = "0123456789abcdef";
    let server = TestServer::with(&[("CHANNELSTREAM_SECRET", secret)]).await;
    for path in ["/", "/page/main.js", "/page/nothing.js"] {
        let (reply, wanted) = (server.get(path).await, plain.get(path).await);
        assert_eq!((reply.status, reply.body), (wanted.status, wanted.body), "{path}");
    }
    let numbers = json!({"users": 0, "connections": 0, "channels": 0});
    assert_eq!(status(&server).await["channelstream"], numbers);
    // Its own pages are made of the same parts.
    for file in ["dom.js", "style.css"] {
        let reply = server.get(&format!("/static/{file}")).await;
        assert_eq!((reply.status, reply.body), (200, plain.get(&format!("/page/{file}")).await.body), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_follow_what_happens() {
    let users = Users::default();
    users.log_out("stranger");
    let vars = [("HOOK_CONNECT", "online/"), ("OUTBOX_LIMIT", "64KiB"), ("API_CONCURRENCY", "1")];
    let server = TestServer::before(users.backend().await, &vars).await;
    let idle = status(&server).await;
    assert_eq!((&idle["ready"], &idle["message"]), (&json!(true), &Value::Null));
    assert_eq!(idle["dispatch"]["in_hand"], json!(0));
    assert_eq!(idle["connections"], json!({"opened": 0, "closed": {}, "refused": {}, "outbox_limit": 65536}));
    assert!(idle["uptime"].as_u64().is_some_and(|seconds| seconds < 60), "{idle}");

    let client = server.member("alice", &[("1", message())]).await;
    let _other = server.member("bob", &[]).await;
    server.dial("stranger").await.next().await;
    server.trigger(json!({"rooms": [message()], "data": 1, "id": "once"})).await;
    server.trigger(json!({"rooms": [message()], "data": 1, "id": "once"})).await;
    server.until_metric("triggers_total", 2).await;
    client.close().await;
    eventually("all is counted", async || {
        let seen = status(&server).await;
        let (connections, api) = (&seen["connections"], &seen["api"]);
        connections["opened"] == json!(2)
            && connections["closed"] == json!({"client": 1, "normal": 1})
            && connections["refused"] == json!({"backend": 1})
            && api["bootstraps"] == json!({"Ok": 2, "Refused": 1})
            && api["hooks"] == json!({"Ok": 2})
            && seen["dispatch"]["repeated"] == json!(1)
            && seen["broker"]["history_bytes"].as_u64() > Some(0)
    })
    .await;
    let dispatch = status(&server).await["dispatch"].clone();
    assert!(dispatch["busy_seconds"].as_f64() > Some(0.0), "{dispatch}");
    assert!(dispatch["since_last"].as_f64().is_some_and(|seconds| seconds < 60.0), "{dispatch}");
    assert_eq!((&dispatch["age"], &dispatch["dropped"]), (&json!(0.0), &json!({})));

    server.backend.answer(|_| Answer::Silence);
    let _asking = (server.dial_v4("carol").await, server.dial_v4("dave").await);
    eventually("one call is under way, and one waits", async || {
        let api = &status(&server).await["api"];
        (&api["calls"], &api["waiting"]) == (&json!(1), &json!(1))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_consumers_come_first_with_what_they_have_not_been_sent() {
    let server = TestServer::with(&[("OUTBOX_LIMIT", "64MiB")]).await;
    let mut readers = Vec::new();
    for _ in 0..5 {
        readers.push(server.member_v4("reader", &[]).await);
    }
    let room = json!({"customer": "slow"});
    let (_slow, id) = server.member_v4("slow", &[("1", room.clone())]).await;
    readers.push(server.member_v4("reader", &[]).await);
    let first = async || server.get("/connections?sort=waiting&limit=1").await.json()["connections"][0].clone();
    let filler = "x".repeat(500_000);
    let mut sent = 0;
    while first().await["waiting"] == json!(0) {
        server.trigger(json!({"rooms": [room], "data": filler})).await;
        sent += 1;
        assert!(sent < 100, "the kernel takes everything");
    }
    assert_eq!(first().await["connection"], json!(id));
    let all = server.get("/connections?sort=waiting").await.json();
    let waiting: Vec<_> = all["connections"].as_array().unwrap().iter().map(|seen| &seen["waiting"]).collect();
    assert_eq!((waiting.len(), waiting[1..].iter().filter(|bytes| **bytes == &json!(0)).count()), (7, 6), "{all}");
    // Those that are equally slow come as they do otherwise.
    let oldest = server.get("/connections").await.json();
    let ids = |list: &Value| -> Vec<Value> {
        let seen = list["connections"].as_array().unwrap().iter().map(|seen| seen["connection"].clone());
        seen.filter(|seen| *seen != json!(id)).collect()
    };
    assert_eq!(ids(&all), ids(&oldest));
    assert_eq!(all["count"], json!(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_told_why_an_instance_that_is_cut_off_from_the_broker_is_not_ready() {
    let (exchange, proxy) = (format!("test-{}", Uuid::new_v4()), Proxy::before(&rabbitmq::shared()).await);
    let server = TestServer::with(&[("AMQP_URL", &proxy.url), ("AMQP_EXCHANGE", &exchange)]).await;
    let seen = status(&server).await;
    assert_eq!((&seen["broker"]["kind"], &seen["broker"]["state"]), (&json!("rabbitmq"), &json!("current")));
    proxy.cut();
    eventually("it is away", async || {
        let seen = status(&server).await;
        let broker = &seen["broker"];
        (&seen["ready"], &seen["message"]) == (&json!(false), &json!("broker-away"))
            && (&broker["state"], &broker["consuming"]) == (&json!("away"), &json!(false))
            && broker["failures"].as_u64() > Some(0)
    })
    .await;
    proxy.mend();
    eventually("it is back", async || {
        let seen = status(&server).await;
        seen["ready"] == json!(true) && seen["broker"]["state"] == json!("current")
    })
    .await;
}

/// Every field of `value` is documented in `schema`, and every one that is required is there.
fn is_documented(value: &Value, schema: &Value, document: &Value, path: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(link) => &document[link.rsplit('/').next().unwrap()],
        None => schema,
    };
    let Some(fields) = value.as_object() else { return };
    for (name, value) in fields {
        let known = if schema["additionalProperties"].is_object() {
            &schema["additionalProperties"]
        } else {
            &schema["properties"][name]
        };
        assert!(known.is_object(), "{path}/{name} is not documented");
        is_documented(value, known, document, &format!("{path}/{name}"));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(fields.contains_key(name.as_str().unwrap()), "{path}/{name} is not there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_names_every_field() {
    let server = TestServer::with(&[("CHANNELSTREAM_SECRET", "0123456789abcdef")]).await;
    let client = server.member("alice", &[("1", message())]).await;
    client.close().await;
    server.until_number("open_connections", 0).await;
    let document = server.get("/openapi.json").await.json()["components"]["schemas"].clone();
    let seen = status(&server).await;
    is_documented(&seen, &document["Status"], &document, "/status");
    for name in document["Status"]["properties"].as_object().unwrap().keys() {
        assert!(seen.get(name).is_some(), "{name} is documented and not there");
    }
}
