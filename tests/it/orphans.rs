//! The backend hears of the end of a connection even when the instance that held it has died.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::support::{Client, StubBackend, TestServer, backend::Answer, eventually, http, process::Running, rabbitmq};

const ONLINE: &str = "POST /api/online/";
const OFFLINE: &str = "POST /api/offline/";
const SETTINGS: [(&str, &str); 3] =
    [("HOOK_CONNECT", "online/"), ("HOOK_DISCONNECT", "offline/"), ("RESUME_SECRET", "a secret of all instances")];
/// An instance is given up after half a minute of silence.
const PATIENCE: Duration = Duration::from_secs(75);

/// A backend whose users are told by the cookie `user=…`.
async fn backend() -> StubBackend {
    StubBackend::answering(|asked| {
        let user = asked.header("cookie").and_then(|cookie| cookie.strip_prefix("user=")).unwrap_or_default();
        Answer::Reply(200, json!({"allowed_rooms": [{"a": 1}], "user": {"data": {"id": user}}}).to_string())
    })
    .await
}

/// A connection of `user`, and its id.
async fn connect(to: &high_templar::config::Listen, user: &str) -> (Client, String) {
    let cookie = format!("user={user}");
    let headers = [("Cookie", cookie.as_str()), ("Sec-WebSocket-Protocol", "high-templar.v4")];
    let mut client = Client::connect(to, "/ws/", &headers).await;
    let id = client.next().await["connection"].as_str().unwrap().to_owned();
    (client, id)
}

/// The hooks that were posted to `line`, by user, with their bodies.
fn hooks(backend: &StubBackend, line: &str) -> Vec<(String, Value)> {
    let posted = backend.asked().into_iter().filter(|asked| asked.line == line);
    let mut hooks: Vec<_> = posted
        .map(|asked| {
            (asked.header("cookie").unwrap().to_owned(), serde_json::from_str(&asked.body).unwrap_or(Value::Null))
        })
        .collect();
    hooks.sort_by(|one, other| one.0.cmp(&other.0));
    hooks
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until an instance has said in the log whom it answers for by now, which takes about a second.
async fn until_told(instance: &Running) {
    let told = async || {
        let metrics = http::send(&instance.internal, "GET", "/metrics", &[], b"").await.body;
        let line = metrics.lines().find_map(|line| line.strip_prefix("high_templar_instances_told_total "));
        line.and_then(|count| count.parse::<u64>().ok()).unwrap()
    };
    // One message may be under way already.
    let before = told().await;
    eventually("two more messages have come to the log", async || told().await >= before + 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn survivors_report_the_connections_of_an_instance_that_was_killed_one_hook_for_each_user() {
    let (backend, url, exchange) = (backend().await, rabbitmq::shared(), format!("orphans-{}", Uuid::new_v4()));
    let api = backend.url();
    let settings = [&SETTINGS[..], &[("API_URL", &api), ("AMQP_URL", &url), ("AMQP_EXCHANGE", &exchange)]].concat();
    let doomed = Running::start(&settings).await;
    let survivors = [Running::start(&settings).await, Running::start(&settings).await];
    let (_first, first) = connect(&doomed.public, "one").await;
    let (_second, second) = connect(&doomed.public, "one").await;
    let (_other, other) = connect(&doomed.public, "two").await;
    let (mut living, _) = connect(&survivors[0].public, "three").await;
    until("all are online", || hooks(&backend, ONLINE).len() == 4).await;
    until_told(&doomed).await;
    doomed.signal(Signal::KILL);
    until("the connections are reported", || hooks(&backend, OFFLINE).len() == 2).await;
    let told = hooks(&backend, OFFLINE);
    let ids = |hook: &Value| {
        let mut ids: Vec<_> =
            hook["connections"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let mut of_one = [first, second];
    of_one.sort();
    assert_eq!((told[0].0.as_str(), &told[0].1["user"], ids(&told[0].1)), ("user=one", &json!("one"), of_one.to_vec()));
    assert_eq!((told[1].0.as_str(), &told[1].1["user"], ids(&told[1].1)), ("user=two", &json!("two"), vec![other]));
    assert_eq!(told[0].1["reason"], json!("instance-lost"));
    // Once, by one of them; and who lives is not touched.
    living.send_text("ping").await;
    assert_eq!(living.next().await, json!("pong"));
    living.close().await;
    until("the last one is reported", || hooks(&backend, OFFLINE).len() >= 3).await;
    assert_eq!(hooks(&backend, OFFLINE).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_started_again_reports_what_it_held_before_it_was_killed() {
    let (backend, folder) = (backend().await, tempfile::tempdir().unwrap());
    let (api, log) = (backend.url(), folder.path().join("log").to_string_lossy().into_owned());
    let settings = [&SETTINGS[..], &[("API_URL", &api), ("EMBEDDED_LOG", &log)]].concat();
    let killed = Running::start(&settings).await;
    let (_client, id) = connect(&killed.public, "one").await;
    until("it is online", || hooks(&backend, ONLINE).len() == 1).await;
    until_told(&killed).await;
    killed.signal(Signal::KILL);
    killed.end();
    assert!(!std::fs::read(&log).unwrap().windows(8).any(|bytes| bytes == b"user=one"), "a cookie stands in the log");
    let _again = Running::start(&settings).await;
    until("its end is reported", || hooks(&backend, OFFLINE).len() == 1).await;
    assert_eq!(hooks(&backend, OFFLINE)[0].1["connections"], json!([id]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stops_reports_its_connections_itself_and_says_so() {
    let backend = backend().await;
    let server = TestServer::before(backend, &SETTINGS).await;
    let (_client, _) = connect(&server.public, "one").await;
    until("it is online", || hooks(&server.backend, ONLINE).len() == 1).await;
    server.begin_stop();
    until("its end is reported", || hooks(&server.backend, OFFLINE).len() == 1).await;
    assert_eq!(hooks(&server.backend, OFFLINE)[0].1, Value::Null, "as every hook is: without a body");
}
