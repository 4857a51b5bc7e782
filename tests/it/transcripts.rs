//! The wire protocol as it is spoken, pinned in `tests/protocol/*.txt`.
//!
//! `# allowed: [...]` is what the backend allows, `# NAME=value` a setting. `>` is what the client sends, `<` what it gets
//! next (JSON compared by value, `<id>` stands for a connection's id, `<*>` for anything), `!` a trigger posted to the
//! internal listener. With a line `# v4` the client offers that subprotocol.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{Client, StubBackend, TestServer};

#[tokio::test(flavor = "multi_thread")]
async fn every_transcript_is_spoken_to_the_letter() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/protocol");
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        follow(&name.display().to_string(), &fs::read_to_string(&name).unwrap()).await;
    }
}

async fn follow(name: &str, transcript: &str) {
    let head = |line: &str| line.strip_prefix("# ").map(str::to_owned);
    let allowed = transcript.lines().filter_map(head).find_map(|line| Some(line.strip_prefix("allowed: ")?.to_owned()));
    let settings: Vec<(String, String)> = transcript
        .lines()
        .filter_map(head)
        .filter_map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
        .filter(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .collect();
    let allowed = allowed.unwrap_or_else(|| panic!("{name}: no '# allowed:' line"));
    let backend = StubBackend::allowing(serde_json::from_str(&allowed).unwrap()).await;
    let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let server = TestServer::before(backend, &settings).await;
    let is_v4 = transcript.lines().any(|line| line == "# v4");
    let offer = [("Sec-WebSocket-Protocol", "high-templar.v4")];
    let mut client = Client::connect(&server.public, "/ws/", if is_v4 { &offer } else { &[] }).await;
    let mut triggers = 0;
    for (number, line) in (1..).zip(transcript.lines()) {
        let place = format!("{name}:{number}");
        if let Some(text) = line.strip_prefix("> ") {
            client.send_text(text).await;
        } else if let Some(expected) = line.strip_prefix("< ") {
            eprintln!("{place}: waiting for {expected}");
            let got = client.next_text().await;
            assert!(is_as_expected(expected, &got), "{place}: {got}");
        } else if let Some(trigger) = line.strip_prefix("! ") {
            let reply = server.post("/trigger/", trigger).await;
            assert_eq!((reply.status, reply.json()), (200, json!({"code": "success"})), "{place}");
            triggers += 1; // accepted is not yet dispatched, and what comes next may change who gets it
            server.until_number("rabbitmq_messages_received", triggers).await;
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{place}: {line}");
        }
    }
    client.expect_silence().await;
}

fn is_as_expected(expected: &str, got: &str) -> bool {
    match (serde_json::from_str::<Value>(expected), serde_json::from_str::<Value>(got)) {
        (Ok(expected), Ok(got)) => is_same(&expected, &got),
        _ => expected == got,
    }
}

fn is_same(expected: &Value, got: &Value) -> bool {
    match (expected, got) {
        (Value::String(any), _) if any == "<*>" => true,
        (Value::String(id), Value::String(got)) if id == "<id>" => {
            got.len() == 36 && got.chars().all(|c| c == '-' || c.is_ascii_digit() || ('a'..='f').contains(&c))
        }
        (Value::Object(expected), Value::Object(got)) => {
            expected.len() == got.len()
                && expected.iter().all(|(key, value)| got.get(key).is_some_and(|got| is_same(value, got)))
        }
        (Value::Array(expected), Value::Array(got)) => {
            expected.len() == got.len() && expected.iter().zip(got).all(|(expected, got)| is_same(expected, got))
        }
        _ => expected == got,
    }
}
