//! What a connected client may do is checked from time to time, and what becomes of it when that cannot be done.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Client, TestServer, Users, backend::Answer, client::End, eventually};

const UNCHANGED: &str = r#"rechecks_total{reason="unchanged"}"#;

fn message() -> Value {
    json!({"target": "message"})
}

async fn expect_trigger(server: &TestServer, clients: impl IntoIterator<Item = &mut Client>) {
    server.trigger(json!({"rooms": [message()], "data": 1})).await;
    for client in clients {
        let frame = client.next().await;
        assert_eq!(frame["data"], json!(1), "{frame}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_the_api_takes_away_is_left_without_any_control_message() {
    let users = Users::default();
    let server = TestServer::before(users.backend().await, &[("REAUTHORIZE_INTERVAL", "1s")]).await;
    let mut old = server.member("alice", &[("1", message())]).await;
    let (mut new, _) = server.member_v4("alice", &[("1", message()), ("2", json!({"customer": 7}))]).await;
    let (mut out, _) = server.member_v4("carl", &[("1", message())]).await;
    let mut others =
        [server.member("bob", &[("1", message())]).await, server.member_v4("bob", &[("1", message())]).await.0];
    expect_trigger(&server, [&mut old, &mut new, &mut out].into_iter().chain(&mut others)).await;
    users.allow("alice", json!([{"customer": "*"}]));
    users.log_out("carl");
    assert_eq!(new.next().await, json!({"type": "unsubscribed", "requestId": "1", "message": "no-longer-allowed"}));
    assert_eq!(new.next().await, json!({"type": "allowed_rooms", "allowed_rooms": [{"customer": "*"}]}));
    assert_eq!(old.end().await, (Vec::new(), End::Closed(3502, "permissions changed".into())));
    // It may come back with what it holds by now; what is refused then is refused for good.
    assert_eq!(out.end().await, (Vec::new(), End::Closed(3502, "permissions changed".into())));
    assert_eq!(server.dial_v4("carl").await.close_code().await, 3500);
    let checked = server.metric(UNCHANGED).await;
    eventually("all are checked once more", async || server.metric(UNCHANGED).await > checked + 6).await;
    expect_trigger(&server, &mut others).await;
    for client in others.iter_mut().chain([&mut new]) {
        client.expect_silence().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_one_identity_are_checked_by_one_call_and_none_are_without_an_interval() {
    let server = TestServer::before(Users::default().backend().await, &[("REAUTHORIZE_INTERVAL", "1s")]).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(server.member("alice", &[]).await);
    }
    let (asked, checked) = (server.backend.bootstraps() as u64, server.metric(UNCHANGED).await);
    eventually("all are checked", async || server.metric(UNCHANGED).await >= checked + 40).await;
    let asked = server.backend.bootstraps() as u64 - asked;
    assert!(asked <= 5, "{asked} calls");
    let server = TestServer::before(Users::default().backend().await, &[]).await;
    let mut client = server.member("alice", &[]).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    client.expect_silence().await;
    assert_eq!((server.backend.bootstraps(), server.metric(UNCHANGED).await), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_is_away_clients_keep_what_they_have_for_the_grace_and_no_longer() {
    const CLIENTS: usize = 40;
    const GRACE: Duration = Duration::from_secs(3);
    let vars = [("REAUTHORIZE_INTERVAL", "1s"), ("REAUTHORIZE_GRACE", "3s")];
    let server = TestServer::before(Users::default().backend().await, &vars).await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let user = format!("user-{number}");
        clients.push(match number % 2 {
            0 => server.member(&user, &[("1", message())]).await,
            _ => server.member_v4(&user, &[("1", message())]).await.0,
        });
    }
    let start = Instant::now();
    server.backend.answer(|_| Answer::Raw(Vec::new()));
    eventually("it is away", async || server.metric("api_paused").await == 1).await;
    expect_trigger(&server, &mut clients).await;
    for client in &mut clients {
        let (texts, end) = client.end().await;
        let is_told =
            |reason: &str| reason.strip_prefix("retry_after=").is_some_and(|time| time.parse::<f64>().is_ok());
        assert!(matches!(&end, End::Closed(1013, reason) if is_told(reason)), "{end:?} after {texts:?}");
        assert!(start.elapsed() >= GRACE, "{:?}", start.elapsed());
    }
    // The first failed check is up to an interval later, and counts from there.
    assert!(start.elapsed() < GRACE + Duration::from_secs(6), "{:?}", start.elapsed());
    server.until_metric(r#"rechecks_total{reason="given-up"}"#, CLIENTS as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_comes_back_in_time_has_cost_nobody_anything() {
    let users = Users::default();
    let server = TestServer::before(users.backend().await, &[]).await;
    let mut clients =
        [server.member("a", &[("1", message())]).await, server.member_v4("b", &[("1", message())]).await.0];
    server.backend.answer(|_| Answer::Reply(502, String::new()));
    server.control(json!({"action": "reauthorize", "all": true})).await;
    server.until_metric(r#"rechecks_total{reason="failed"}"#, 2).await;
    server.trigger(json!({"rooms": [message()], "data": "waits"})).await;
    for client in &mut clients {
        client.expect_silence().await;
    }
    server.backend.answer(move |asked| users.answer(asked));
    server.until_metric(UNCHANGED, 2).await;
    for client in &mut clients {
        assert_eq!(client.next().await["data"], json!("waits"));
    }
    expect_trigger(&server, &mut clients).await;
    for client in &mut clients {
        client.expect_silence().await;
    }
}
