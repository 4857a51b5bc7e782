//! An API that closes a kept connection just when the next request goes out.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use serde_json::json;

use crate::support::{
    StubBackend, TestServer, Users,
    backend::{Answer, Asked},
    events::{self, Events},
    eventually,
};

/// Answers the first request of each connection and ends at the second one, which it has read.
async fn one_request_a_connection() -> StubBackend {
    let users = Users::default();
    StubBackend::answering(move |asked| if asked.before > 0 { Answer::Raw(Vec::new()) } else { users.answer(asked) })
        .await
}

const REPEATED: &str = "api_requests_repeated_total";

fn of<'a>(asked: &'a [Asked], user: &'a str) -> impl Iterator<Item = &'a Asked> {
    asked.iter().filter(move |asked| asked.header("cookie") == Some(&format!("user={user}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_asked_for_once_more_and_let_in() {
    const CLIENTS: u64 = 20;
    let server = TestServer::before(one_request_a_connection().await, &[]).await;
    for number in 0..CLIENTS {
        let user = format!("user-{number}");
        match number % 3 {
            0 => drop(server.member(&user, &[]).await),
            1 => drop(server.member_v4(&user, &[]).await),
            _ => {
                let path = events::path(&[json!({"target": "message"})], "");
                drop(Events::open(&server.public, &path, &[("Cookie", &format!("user={user}"))]).await);
            }
        }
        let asked = server.backend.asked();
        assert!(of(&asked, &user).count() <= 2, "{asked:?}");
    }
    let repeated = server.metric(REPEATED).await;
    assert!(repeated >= CLIENTS / 4, "{repeated}");
    assert_eq!(server.metric(r#"bootstraps_total{outcome="Ok"}"#).await, CLIENTS);
    assert_eq!(server.metric("api_pauses_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_client_keeps_its_permissions() {
    let server = TestServer::before(one_request_a_connection().await, &[]).await;
    let (mut client, id) = server.member_v4("alice", &[("1", json!({"target": "message"}))]).await;
    for round in 1..=10 {
        server.control(json!({"action": "reauthorize", "connection": id})).await;
        eventually("it is checked", async || server.metric(r#"bootstraps_total{outcome="Ok"}"#).await == 1 + round)
            .await;
        server.trigger(json!({"rooms": [{"target": "message"}], "data": round})).await;
        assert_eq!(client.next().await["data"], json!(round));
    }
    assert!(server.metric(REPEATED).await >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_are_posted_in_the_end_and_say_nothing_about_the_api() {
    const CLIENTS: usize = 10;
    let (users, answered) = (Users::default(), Arc::new(AtomicUsize::new(0)));
    let counted = answered.clone();
    let backend = StubBackend::answering(move |asked| {
        if asked.before > 0 {
            return Answer::Raw(Vec::new());
        }
        counted.fetch_add(usize::from(asked.line.starts_with("POST ")), SeqCst);
        users.answer(asked)
    });
    let vars = [("HOOK_CONNECT", "online/"), ("HOOK_DISCONNECT", "offline/")];
    let server = TestServer::before(backend.await, &vars).await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(server.member_v4(&format!("user-{number}"), &[]).await);
    }
    eventually("all have been reported as connected", async || answered.load(SeqCst) == CLIENTS).await;
    drop(clients);
    eventually("and as gone", async || answered.load(SeqCst) == 2 * CLIENTS).await;
    assert_eq!((server.metric("hooks_given_up_total").await, server.metric("api_pauses_total").await), (0, 0));
    assert!(server.metric(r#"hooks_total{outcome="Unreachable"}"#).await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_on_a_connection_of_its_own_is_not_repeated() {
    let server = TestServer::before(StubBackend::answering(|_| Answer::Raw(Vec::new())).await, &[]).await;
    for number in 0..5 {
        let user = format!("user-{number}");
        let (texts, _) = server.dial_v4(&user).await.end().await;
        assert!(texts[0].contains("try-later"), "{texts:?}");
        let asked = server.backend.asked();
        assert_eq!(of(&asked, &user).count(), 1, "{asked:?}");
    }
    assert_eq!(server.metric(REPEATED).await, 0);
}
