//! A user of RabbitMQ that may not do all that a server has to: it is told what is missing.

use serde_json::json;

use crate::support::{Node, StubBackend, TestServer, eventually, process};

/// The node's URL for another user.
fn url_of(node: &Node, user: &str) -> String {
    node.url.replace("guest:guest", &format!("{user}:secret"))
}

fn add_user(node: &Node, user: &str, rights: [&str; 3]) {
    node.ctl(&["add_user", user, "secret"]);
    node.ctl(&[&["set_permissions", user][..], &rights].concat());
}

/// What `check` says to this broker, and whether all is well.
async fn check(url: &str) -> (bool, String) {
    check_with(&[("AMQP_URL", url)]).await
}

/// What `check` says with these settings, and whether all is well.
pub(super) async fn check_with(vars: &[(&str, &str)]) -> (bool, String) {
    let backend = StubBackend::allowing(json!([])).await;
    let mut command = process::program();
    command.arg("check").envs([("LISTEN", "127.0.0.1:0"), ("INTERNAL_LISTEN", "127.0.0.1:0")]);
    command.envs(vars.iter().copied()).env("API_URL", backend.url());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_or_a_limit_is_named_by_the_server_and_by_check() {
    let node = Node::start().await;
    add_user(&node, "reader", ["^hightemplar", "^$", "^hightemplar"]);
    add_user(&node, "publisher", ["^hightemplar", "^hightemplar$", "^hightemplar"]);
    add_user(&node, "deaf", ["^hightemplar", "^hightemplar", "^$"]);
    add_user(&node, "stranger", ["^$", "^hightemplar", "^hightemplar"]);
    add_user(&node, "one", ["^hightemplar", "^hightemplar", "^hightemplar"]);
    node.ctl(&["set_user_limits", "one", r#"{"max-connections": 1}"#]);
    add_user(&node, "narrow", ["^hightemplar", "^hightemplar", "^hightemplar"]);
    node.ctl(&["set_user_limits", "narrow", r#"{"max-channels": 1}"#]);
    for (user, what) in [
        ("reader", "bind the log"),
        ("publisher", "bind the log"),
        ("deaf", "consume from the log"),
        ("stranger", "declare"),
        ("one", "connect twice"),
        ("narrow", "channel"),
    ] {
        let (is_well, said) = check(&url_of(&node, user)).await;
        assert!(!is_well && said.contains(what), "{user}: {said}");
        assert!(said.contains("refused") || said.contains("limit"), "RabbitMQ's own text for {user}: {said}");
    }
    add_user(&node, "good", ["^hightemplar", "^hightemplar", "^hightemplar"]);
    let (is_well, said) = check(&url_of(&node, "good")).await;
    assert!(is_well && said.contains("read back"), "{said}");

    for user in ["reader", "one"] {
        let server = TestServer::starting(&[("AMQP_URL", &url_of(&node, user))]).await;
        eventually("the reason is told", async || {
            let broker = server.get("/status").await.json()["broker"].clone();
            let detail = broker["detail"].as_str().unwrap_or_default().to_owned();
            broker["publishing"] == json!("away") && (detail.contains("refused") || detail.contains("limit"))
        })
        .await;
        let reply = server.get("/readyz").await;
        assert_eq!((reply.status, reply.json()["message"].as_str()), (503, Some("cannot-publish")), "{user}");
        assert!(server.metric("broker_failures_total").await > 0);
        assert_eq!(server.post("/trigger/", r#"{"rooms":[],"data":1}"#).await.status, 503);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_rabbitmq_refuses_from_the_start_says_why() {
    let node = Node::start().await;
    let wrong_vhost = node.url.replace("%2f", "none");
    for (url, words) in [
        (url_of(&node, "guest"), "refused the login; see user and password in AMQP_URL"),
        (wrong_vhost, "vhost none not found"),
        ("amqp://guest:guest@127.0.0.1:1/%2f".to_owned(), "refused"),
    ] {
        let server = TestServer::starting(&[("AMQP_URL", &url)]).await;
        eventually("the reason is told", async || {
            let broker = server.get("/status").await.json()["broker"].clone();
            assert!(broker["log"].is_null(), "{broker}");
            let detail = broker["detail"].as_str().unwrap_or_default().to_owned();
            assert!(detail.matches("ACCESS_REFUSED").count() <= 1, "RabbitMQ's words come once: {detail}");
            broker["detail"].as_str().unwrap_or_default().contains(words)
        })
        .await;
        server.stop().await;
    }
    for (log, has_log) in [("auto", true), ("off", false)] {
        let server = TestServer::with(&[("AMQP_URL", &node.url), ("AMQP_LOG", log)]).await;
        let broker = server.get("/status").await.json()["broker"].clone();
        assert_eq!((&broker["log"], &broker["detail"]), (&json!(has_log), &json!(null)), "{broker}");
        server.stop().await;
    }
}
