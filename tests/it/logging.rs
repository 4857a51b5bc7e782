//! The log: what it says, how often, and that nothing waits for whoever reads it.

use std::{
    io::{BufRead, BufReader},
    time::{Duration, Instant},
};

use high_templar::config::Listen;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Client, StubBackend, eventually, http,
    process::{Running, program},
};

/// Posts to the internal listener.
async fn post(running: &Running, path: &str, body: &[u8]) -> http::Reply {
    http::send(&running.internal, "POST", path, &[], body).await
}

/// A number of `/metrics`.
async fn metric(internal: &Listen, name: &str) -> u64 {
    let text = http::send(internal, "GET", "/metrics", &[], b"").await.body;
    let line = text.lines().find_map(|line| line.strip_prefix("high_templar_")?.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
}

/// The lines of a log in JSON that have this message.
fn lines_of(log: &str, message: &str) -> Vec<Value> {
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    lines.filter(|line: &Value| line["message"] == message).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_delays_no_trigger_and_no_stop() {
    let backend = StubBackend::allowing(json!([{"target": "message"}])).await;
    let url = backend.url();
    // Its standard error is a pipe, which is not read until it has ended.
    let vars = [("API_URL", url.as_str()), ("LOG", "trace"), ("LOG_FORMAT", "json"), ("DRAIN", "5s")];
    let running = Running::start(&vars).await;
    let mut client = Client::connect(&running.public, "/ws/", &[]).await;
    client.next().await;
    client.subscribe("1", json!({"target": "message"})).await;
    for number in 0..2000 {
        assert_eq!(post(&running, "/trigger/", b"{\"rooms\":[],\"data\":NaN}").await.status, 400);
        let trigger = json!({"rooms": [{"target": "message"}], "data": number}).to_string();
        assert_eq!(post(&running, "/trigger/", trigger.as_bytes()).await.status, 200);
        assert_eq!(client.next().await["data"], json!(number));
    }
    assert!(metric(&running.internal, "log_lines_dropped_total").await > 0, "the log has to be larger than its queue");
    let start = Instant::now();
    running.signal(Signal::TERM);
    assert_eq!(client.close_code().await, 1001);
    drop(client);
    let (status, log) = running.end();
    assert_eq!(status.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // The lines that were written before the pipe was full are whole.
    assert!(lines_of(&log, "serving").len() == 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_read_again_says_how_many_lines_were_lost_and_has_all_others_whole_and_in_order() {
    let backend = StubBackend::allowing(json!([{"target": "message"}])).await;
    let url = backend.url();
    let vars = [("API_URL", url.as_str()), ("LOG", "trace"), ("LOG_FORMAT", "json")];
    let mut running = Running::start(&vars).await;
    let mut posted = 0;
    while metric(&running.internal, "log_lines_dropped_total").await < 1000 {
        for _ in 0..100 {
            let trigger = json!({"rooms": [{"target": "message"}], "data": 1}).to_string();
            assert_eq!(post(&running, "/trigger/", trigger.as_bytes()).await.status, 200);
        }
        posted += 100;
        assert!(posted < 10_000, "no line is lost");
    }
    let stderr = running.child.stderr.take().unwrap();
    let (found, report) = tokio::sync::oneshot::channel();
    let reading = tokio::task::spawn_blocking(move || {
        let (mut found, mut last) = (Some(found), String::new());
        for line in BufReader::new(stderr).lines() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let at = line["timestamp"].as_str().unwrap().to_owned();
            // Two threads may take their time in one order and the queue in the other.
            assert!(at[..19] >= last[..last.len().min(19)], "{at} after {last}");
            last = at;
            if line["message"].as_str().is_some_and(|message| message.starts_with("log lines dropped")) {
                let _ = found.take().map(|found| found.send(line["lines"].as_u64().unwrap()));
            }
        }
    });
    let reported = tokio::time::timeout(crate::support::PATIENCE, report).await.unwrap().unwrap();
    assert!(reported >= 1000, "{reported}");
    assert_eq!(reported, metric(&running.internal, "log_lines_dropped_total").await);
    running.signal(Signal::TERM);
    // Its standard error ends with it.
    tokio::time::timeout(crate::support::PATIENCE, reading).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refused_request_has_a_line_with_its_reason_and_many_have_few() {
    let backend = StubBackend::allowing(json!([{"target": "message"}])).await;
    let url = backend.url();
    let token = "s3cret-token-of-the-api";
    let vars = [
        ("API_URL", url.as_str()),
        ("LOG_FORMAT", "json"),
        ("INTERNAL_TOKEN", token),
        ("TRIGGER_LIMIT", "1KiB"),
        ("URL_LIMIT", "300"),
        ("MAX_CONNECTIONS", "1"),
    ];
    let running = Running::start(&vars).await;
    let _only = Client::connect(&running.public, "/ws/", &[]).await;
    let bearer = format!("Bearer {token}");
    let signed = [("Authorization", bearer.as_str())];
    let send = async |method: &str, path: &str, body: &[u8]| {
        http::send(&running.internal, method, path, &signed, body).await.status
    };
    for _ in 0..300 {
        assert_eq!(send("POST", "/trigger/", br#"{"rooms":[{"a":"s3cret"}],"data":NaN}"#).await, 400);
        assert_eq!(send("POST", "/trigger/", b"\x1f\x8b\x08\0s3cret").await, 400);
        assert_eq!(http::send(&running.internal, "POST", "/trigger/", &[], b"{}").await.status, 401);
    }
    assert_eq!(send("POST", "/trigger/?token=s3cret", &[b'x'; 2000]).await, 413);
    assert_eq!(send("POST", "/trigger/", br#"[{"rooms":[],"data":"s3cret"},{"rooms":1,"data":"s3cret"}]"#).await, 200);
    assert_eq!(send("POST", "/control/", b"s3cret").await, 400);
    assert_eq!(send("POST", "/triggers/", b"{}").await, 404);
    assert_eq!(send("GET", "/trigger/", b"").await, 405);
    let dial =
        async |path: &str, headers: &[(&str, &str)]| match Client::try_connect(&running.public, path, headers).await {
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => response.status().as_u16(),
            other => panic!("{:?}", other.map(drop)),
        };
    let cookie = ("Cookie", "sessionid=s3cret");
    assert_eq!(dial("/ws/?a=s3cret", &[("Origin", "https://evil.example"), cookie]).await, 403);
    assert_eq!(dial("/ws/", &[cookie]).await, 503);
    assert_eq!(dial(&format!("/ws/?{}", "s3cret".repeat(100)), &[]).await, 414);
    for path in ["/ws/", "/sse/?room={}", "/nothing"] {
        let headers = [("Origin", "https://evil.example"), cookie];
        http::send(&running.public, "GET", path, &headers, b"").await;
    }
    running.signal(Signal::TERM);
    let (_, log) = running.end();
    assert!(!log.contains("s3cret"), "{log}");
    for (message, kind, status, words, count) in [
        ("request refused", "NaN", 400, "NaN at byte 33: JSON has no such number", 5),
        ("request refused", "gzip", 400, "gzip: send the body uncompressed", 5),
        ("request refused", "not-authorized", 401, "INTERNAL_TOKEN", 5),
        ("request refused", "too-large", 413, "TRIGGER_LIMIT", 1),
        ("request refused", "not JSON", 400, "a control message must be", 1),
        ("request refused", "not-found", 404, "nothing at this path", 1),
        ("request refused", "method-not-allowed", 405, "another method", 1),
        ("client refused", "origin", 403, "ALLOWED_ORIGINS (Origin https://evil.example, Host localhost)", 2),
        ("client refused", "connections", 503, "MAX_CONNECTIONS", 1),
        ("client refused", "url-too-long", 414, "URL_LIMIT", 1),
        ("client refused", "not-an-upgrade", 426, "Upgrade", 1),
        ("client refused", "not-found", 404, "nothing at this path", 1),
    ] {
        let lines: Vec<_> = lines_of(&log, message).into_iter().filter(|line| line["kind"] == kind).collect();
        let are_right = |line: &Value| {
            line["status"] == status && line["detail"].as_str().unwrap().contains(words) && line["level"] == "WARN"
        };
        // A slow machine needs more than one period for 300 requests.
        let is_count = lines.len() == count || count == 5 && lines.len() > 5 && lines.len().is_multiple_of(5);
        assert!(is_count && lines.iter().all(are_right), "{kind}: {lines:#?}");
    }
    assert_eq!(lines_of(&log, "trigger of a list refused")[0]["kind"], "malformed-rooms");
    assert_eq!(lines_of(&log, "request refused")[0]["path"], "/trigger/");
    assert!(lines_of(&log, "request refused")[0]["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    let suppressed = |kind: &str| -> u64 {
        let lines = lines_of(&log, "request refused: similar lines suppressed");
        lines.iter().filter(|line| line["kind"] == kind).map(|line| line["suppressed"].as_u64().unwrap()).sum()
    };
    for kind in ["NaN", "gzip", "not-authorized"] {
        let lines = lines_of(&log, "request refused").into_iter().filter(|line| line["kind"] == kind).count();
        assert_eq!(suppressed(kind) + lines as u64, 300, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_that_cannot_be_read_are_told_by_kind_and_place() {
    let exchange = format!("test-{}", uuid::Uuid::new_v4());
    let backend = StubBackend::allowing(json!([{"target": "message"}])).await;
    let (url, amqp) = (backend.url(), crate::support::rabbitmq::shared());
    let vars = [("API_URL", url.as_str()), ("LOG_FORMAT", "json"), ("AMQP_URL", &amqp), ("AMQP_EXCHANGE", &exchange)];
    let running = Running::start(&vars).await;
    let channel = crate::support::rabbitmq::channel().await;
    let bodies: [(&str, &[u8], &str); 5] = [
        ("NaN", br#"{"rooms":[{"a":"1"}],"data":{"x":NaN}}"#, "NaN at byte 33"),
        ("byte order mark", b"\xef\xbb\xbf{\"rooms\":[],\"data\":1}", "byte order mark"),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
        ("UTF-16", b"\xff\xfe{\0\"\0", "UTF-16"),
        ("pickle", b"\x80\x04\x95\x1d\0\0\0\0\0\0\0}", "pickle"),
    ];
    for number in 0..900 {
        let (_, body, _) = bodies[number % bodies.len()];
        let published =
            channel.basic_publish(exchange.as_str().into(), "*".into(), Default::default(), body, Default::default());
        published.await.unwrap();
    }
    let dropped = "triggers_dropped_total{reason=\"malformed-json\"}";
    eventually("all are dropped", async || {
        let text = http::send(&running.internal, "GET", "/metrics", &[], b"").await.body;
        text.contains(&format!("high_templar_{dropped} 900\n"))
    })
    .await;
    running.signal(Signal::TERM);
    let (_, log) = running.end();
    for (kind, _, reason) in bodies {
        let of_kind =
            |message: &str| lines_of(&log, message).into_iter().filter(|line| line["kind"] == kind).collect::<Vec<_>>();
        let lines = of_kind("trigger dropped");
        assert!(lines.iter().all(|line| line["reason"].as_str().unwrap().contains(reason)), "{lines:#?}");
        let suppressed = of_kind("trigger dropped: similar lines suppressed");
        let suppressed: u64 = suppressed.iter().map(|line| line["suppressed"].as_u64().unwrap()).sum();
        assert!(!lines.is_empty() && lines.len() <= 20, "{}", lines.len());
        assert_eq!(lines.len() as u64 + suppressed, 180, "{kind}");
    }
}

/// Set for the process that [`a_panic_is_a_line_of_the_log_and_a_storm_of_them_few`] starts.
const PANICS: &str = "TEST_LOGGING_PANICS";

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_a_line_of_the_log_and_a_storm_of_them_few() {
    if std::env::var_os(PANICS).is_some() {
        let logging =
            high_templar::logging::start(&high_templar::config::Log { filter: "info".to_owned(), is_json: true });
        for number in 0..10_000 {
            let payload = String::from("s3cret payload");
            tokio::spawn(async move { payload.parse::<u64>().map_err(|_| payload).unwrap() + number })
                .await
                .unwrap_err();
        }
        assert_eq!(high_templar::logging::panics(), 10_000);
        drop(logging);
        return;
    }
    // In a process of its own: the log and the hook for panics are the whole process's.
    let name = "logging::a_panic_is_a_line_of_the_log_and_a_storm_of_them_few";
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(PANICS, "1").env("RUST_BACKTRACE", "0");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
    let lines = lines_of(&log, "panic");
    let suppressed = lines_of(&log, "panic: similar lines suppressed");
    let suppressed: u64 = suppressed.iter().map(|line| line["suppressed"].as_u64().unwrap()).sum();
    assert_eq!(lines.len() as u64 + suppressed, 10_000);
    assert!(lines.len() <= 30 && lines.len().is_multiple_of(5), "{}", lines.len());
    let kind = lines[0]["kind"].as_str().unwrap();
    assert!(lines[0]["level"] == "ERROR" && kind.starts_with("tests/it/logging.rs:"), "{}", lines[0]);
    assert_eq!(lines[0]["text"], "called `Result::unwrap()` on an `Err` value: …");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_ends_early_is_named_at_the_end_of_the_process() {
    let exchange = format!("test-{}", uuid::Uuid::new_v4());
    let channel = crate::support::rabbitmq::channel().await;
    let queue = format!("{exchange}.log");
    let durable = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.as_str().into(), durable, Default::default()).await.unwrap();
    let amqp = crate::support::rabbitmq::shared();
    let mut command = program();
    command.envs([
        ("API_URL", "http://127.0.0.1:1/"),
        ("LISTEN", "127.0.0.1:0"),
        ("INTERNAL_LISTEN", "127.0.0.1:0"),
        ("LOG_FORMAT", "json"),
        ("AMQP_URL", &amqp),
        ("AMQP_EXCHANGE", &exchange),
        ("AMQP_LOG", "stream"),
    ]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    let last = lines_of(&log, "cannot serve").remove(0);
    let error = last["error"].as_str().unwrap();
    assert!(error.starts_with("dispatch ended early: the broker cannot be used: AMQP_LOG is stream, but "), "{last}");
}
