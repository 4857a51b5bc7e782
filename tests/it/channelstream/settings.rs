//! How it is configured, and what is said of a configuration that is wrong.

use std::process::Stdio;

use serde_json::json;

use crate::support::{
    TestServer,
    channelstream::{SECRET, now, sign},
    http,
    process::{self, program},
    rabbitmq,
};

async fn status(server: &TestServer, secret: &str) -> u16 {
    let token = sign(secret, "channelstream", now());
    http::send(&server.internal, "GET", "/info", &[("x-channelstream-secret", &token)], b"").await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_secret_there_is_no_channelstream() {
    let server = TestServer::start().await;
    for listen in [&server.public, &server.internal] {
        for (method, path) in [("POST", "/connect"), ("GET", "/info"), ("GET", "/listen?conn_id=x"), ("GET", "/admin")]
        {
            let reply = http::send(listen, method, path, &[], b"").await;
            assert_eq!(reply.status, 404, "{method} {path}: {reply:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_original_s_file_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channelstream.ini");
    let file = "# of the original\n[server:main]\nuse = egg\n\n[channelstream]\ndebug = false\nport = 8000\ndemo = true\n\
        unknown_key = 1\nsecret = 100%% sure\n; a comment\nadmin_user = root\nadmin_secret = toor\n\
        allow_posting_from = 127.0.0.1,\n    10.1.2.3,\nallow_cors =\nvalidate_requests = OFF\nenforce_https = nonsense\n";
    std::fs::write(&path, file).unwrap();
    let vars = [("CHANNELSTREAM_INI", path.to_str().unwrap()), ("CHANNELSTREAM_SECRET", SECRET)];
    let server = TestServer::with(&vars).await;
    assert_eq!(status(&server, "100% sure").await, 200);
    assert_eq!(status(&server, SECRET).await, 401, "the file and the variables are not merged");
    let old = sign("100% sure", "channelstream", 1);
    let reply = http::send(&server.internal, "GET", "/info", &[("x-channelstream-secret", &old)], b"").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    let body = b"username=root&password=toor";
    assert_eq!(http::send(&server.internal, "POST", "/admin/sign_in", &headers, body).await.status, 302);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_call_at_the_public_listener_is_told_where_to_go() {
    let server = TestServer::with(&[("CHANNELSTREAM_SECRET", SECRET)]).await;
    let token = sign(SECRET, "channelstream", now());
    for (method, path) in [("POST", "/connect"), ("POST", "/message"), ("GET", "/info"), ("GET", "/admin")] {
        let reply = http::send(&server.public, method, path, &[("x-channelstream-secret", &token)], b"{}").await;
        assert_eq!((reply.status, &reply.json()["message"]), (404, &json!("not-found")), "{path}");
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("INTERNAL_LISTEN") && detail.contains("CHANNELSTREAM_PUBLIC=true"), "{detail}");
    }
    let other = http::send(&server.public, "GET", "/nothing", &[], b"").await;
    assert_eq!(other.json()["detail"], json!("there is nothing at this path"));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_is_content_without_an_api_where_channelstream_alone_is_spoken() {
    let vars = [("CHANNELSTREAM_SECRET", SECRET), ("LISTEN", "127.0.0.1:0"), ("INTERNAL_LISTEN", "127.0.0.1:0")];
    let output = program().arg("check").envs(vars).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("note     API_URL is not set: only Channelstream's clients are served\n"), "{said}");
    assert!(said.contains("ok       backend: none"), "{said}");
}

/// What the program says when it is started with these variables, which must not be enough for it.
fn complaint(vars: &[(&str, &str)]) -> String {
    let base = [("API_URL", "http://127.0.0.1:1/"), ("LISTEN", "127.0.0.1:0"), ("INTERNAL_LISTEN", "127.0.0.1:0")];
    let mut child = program().envs(base).envs(vars.iter().copied()).stderr(Stdio::piped()).spawn().unwrap();
    let (status, said) = process::end(&mut child);
    assert_eq!(status.code(), Some(2), "{vars:?}: {said}");
    said
}

#[test]
fn a_configuration_that_cannot_work_is_refused_in_a_line() {
    let shared = rabbitmq::shared();
    let said = complaint(&[("CHANNELSTREAM_SECRET", SECRET), ("AMQP_URL", &shared), ("AMQP_LOG", "off")]);
    let lines: Vec<_> = said.lines().filter(|line| line.contains("AMQP_LOG")).collect();
    assert!(lines.len() == 1 && !said.contains(SECRET), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channelstream.ini");
    let ini = [("CHANNELSTREAM_INI", path.to_str().unwrap())];
    assert!(complaint(&ini).contains("CHANNELSTREAM_INI"), "a file that is missing");
    std::fs::write(&path, "[something else]\nsecret = x\n").unwrap();
    assert!(complaint(&ini).contains("channelstream"), "a section that is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_is_known_after_a_restart_with_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let vars = [("CHANNELSTREAM_SECRET", SECRET), ("EMBEDDED_LOG", log.to_str().unwrap())];
    let call = async |server: &TestServer, method: &str, path: &str, body: serde_json::Value| {
        let token = sign(SECRET, "channelstream", now());
        let headers = [("x-channelstream-secret", token.as_str())];
        let reply = http::send(&server.internal, method, path, &headers, body.to_string().as_bytes()).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    };
    let all = json!({"info": {}});
    let server = TestServer::with(&vars).await;
    call(&server, "POST", "/channel_config", json!({"lobby": {"store_history": true, "history_size": 5}, "quiet": {}}))
        .await;
    call(&server, "POST", "/connect", json!({"username": "ann", "channels": ["lobby"], "user_state": {"a": 1}})).await;
    let items = (0..7).map(|text| json!({"user": "ann", "channel": "lobby", "message": {"text": text}})).collect();
    let said = call(&server, "POST", "/message", items).await;
    call(
        &server,
        "PATCH",
        "/message",
        json!([{"uuid": said[4]["uuid"], "channel": "lobby", "message": {"text": "!"}}]),
    )
    .await;
    call(&server, "DELETE", "/message", json!([{"uuid": said[5]["uuid"], "channel": "lobby"}])).await;
    let before = call(&server, "POST", "/info", all.clone()).await;
    assert_eq!(before["channels"]["lobby"]["history"].as_array().unwrap().len(), 4);
    server.stop().await;
    for _ in 0..2 {
        let server = TestServer::with(&vars).await;
        let after = call(&server, "POST", "/info", all.clone()).await;
        for channel in ["lobby", "quiet"] {
            for key in ["uuid", "name", "settings", "history"] {
                assert_eq!(after["channels"][channel][key], before["channels"][channel][key], "{channel} {key}");
            }
        }
        let state = call(&server, "POST", "/user_state", json!({"user": "ann"})).await;
        assert_eq!(state["user_state"], json!({"a": 1}));
        server.stop().await;
    }
}
