//! What is published between a `reauthorize` and the API's answer: it waits, and only what the client still may have arrives.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{
    Client, TestServer, Users,
    backend::Answer,
    client::End,
    events::{Events, path},
};

const ON_HOLD: &str = "connections_on_hold";
const HELD: &str = "publications_held_total";
const WITHHELD: &str = "publications_withheld_total";
const TRIGGERS: u64 = 10;

fn message() -> Value {
    json!({"target": "message"})
}

fn customer() -> Value {
    json!({"customer": 7})
}

fn both() -> [(&'static str, Value); 2] {
    [("1", message()), ("2", customer())]
}

/// Makes the API answer only with a permit from now on.
fn slow_down(server: &TestServer, users: &Users) -> Arc<Semaphore> {
    let permits = Arc::new(Semaphore::new(0));
    let (users, held) = (users.clone(), permits.clone());
    server.backend.answer(move |asked| Answer::Held(held.clone(), Box::new(users.answer(asked))));
    permits
}

/// Publishes to each of the two rooms in turn.
async fn publish(server: &TestServer, numbers: std::ops::Range<u64>) {
    for number in numbers {
        server.trigger(json!({"rooms": [message()], "data": ["message", number]})).await;
        server.trigger(json!({"rooms": [customer()], "data": ["customer", number]})).await;
    }
}

/// The client is given what was published to these rooms, in the order of the log, and nothing else.
async fn expect(client: &mut Client, numbers: std::ops::Range<u64>, rooms: &[&str]) {
    for number in numbers {
        for room in rooms {
            let frame = client.next().await;
            assert_eq!(frame["data"], json!([room, number]), "{frame}");
        }
    }
    client.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_behind_a_reauthorize_waits_for_the_answer_and_none_of_a_lost_room_arrives() {
    let users = Users::default();
    let server = TestServer::before(users.backend().await, &[]).await;
    let (mut new, _) = server.member_v4("alice", &both()).await;
    let mut losing = server.member("alice", &both()).await;
    let mut keeping = server.member("alice", &both()[1..]).await;
    let mut events =
        Events::open(&server.public, &path(&[message(), customer()], ""), &[("Cookie", "user=alice")]).await;
    for _ in 0..3 {
        events.next().await;
    }
    let mut bob = server.member("bob", &both()).await;
    let permits = slow_down(&server, &users);
    users.allow("alice", json!([customer()]));
    publish(&server, 0..1).await;
    server.control(json!({"action": "reauthorize", "user": "alice"})).await;
    publish(&server, 1..TRIGGERS).await;
    // Others are not held up.
    expect(&mut bob, 0..TRIGGERS, &["message", "customer"]).await;
    for client in [&mut new, &mut losing] {
        expect(client, 0..1, &["message", "customer"]).await;
    }
    expect(&mut keeping, 0..1, &["customer"]).await;
    for room in ["message", "customer"] {
        assert_eq!(events.next().await["data"], json!([room, 0]));
    }
    assert_eq!(server.metric(ON_HOLD).await, 4);
    let waiting = server.get("/connections?user=alice").await.json();
    assert!(waiting["connections"][0]["waiting"].as_u64().unwrap() > 0, "{waiting}");
    // A client on hold is answered, and may leave a room that something waits for.
    assert_eq!(new.ask(json!({"type": "subscribe", "requestId": "3", "room": customer()})).await["code"], "success");
    assert_eq!(new.ask(json!({"type": "unsubscribe", "requestId": "3"})).await["code"], "success");
    permits.add_permits(100);
    let lost = |id: &str| json!({"type": "unsubscribed", "requestId": id, "message": "no-longer-allowed"});
    let allowed = json!({"type": "allowed_rooms", "allowed_rooms": [customer()]});
    assert_eq!((new.next().await, new.next().await), (lost("1"), allowed.clone()));
    expect(&mut new, 1..TRIGGERS, &["customer"]).await;
    expect(&mut keeping, 1..TRIGGERS, &["customer"]).await;
    assert_eq!(losing.end().await, (Vec::new(), End::Closed(3502, "permissions changed".into())));
    assert_eq!((events.next().await, events.next().await), (lost("0"), allowed));
    for number in 1..TRIGGERS {
        assert_eq!(events.next().await["data"], json!(["customer", number]));
    }
    publish(&server, TRIGGERS..TRIGGERS + 1).await;
    expect(&mut new, TRIGGERS..TRIGGERS + 1, &["customer"]).await;
    assert_eq!(server.metric(ON_HOLD).await, 0);
    // Two rooms for three of them, one for the fourth; the lost room of the two of version 4.
    assert_eq!(server.metric(HELD).await, 7 * (TRIGGERS - 1));
    assert_eq!(server.metric(WITHHELD).await, 2 * (TRIGGERS - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_its_rooms_is_given_all_that_waited_once_and_in_order() {
    let users = Users::default();
    let server = TestServer::before(users.backend().await, &[]).await;
    let (mut new, id) = server.member_v4("alice", &both()).await;
    let mut old = server.member("alice", &both()).await;
    for target in
        [json!({"user": "alice"}), json!({"connection": id}), json!({"room": message()}), json!({"all": true})]
    {
        let permits = slow_down(&server, &users);
        let mut control = target.clone();
        control["action"] = json!("reauthorize");
        server.control(control).await;
        publish(&server, 0..TRIGGERS).await;
        new.expect_silence().await;
        permits.add_permits(100);
        for client in [&mut new, &mut old] {
            expect(client, 0..TRIGGERS, &["message", "customer"]).await;
        }
        server.until_metric(ON_HOLD, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_catches_up_is_given_nothing_until_the_answer_and_only_what_it_keeps() {
    let users = Users::default();
    let server = TestServer::before(users.backend().await, &[]).await;
    let (mut client, _) = server.member_v4("alice", &[]).await;
    let since = server.get("/position").await.json()["position"].clone();
    publish(&server, 0..TRIGGERS).await;
    let permits = slow_down(&server, &users);
    users.allow("alice", json!([customer()]));
    server.control(json!({"action": "reauthorize", "user": "alice"})).await;
    server.until_metric(ON_HOLD, 1).await;
    let since = |id: &str, room: Value| json!({"type": "subscribe", "requestId": id, "room": room, "since": since});
    for (id, room) in both() {
        let reply = client.ask(since(id, room)).await;
        assert_eq!(reply["recovered"], json!(true), "{reply}");
    }
    publish(&server, TRIGGERS..TRIGGERS + 5).await;
    client.expect_silence().await;
    permits.add_permits(100);
    let told = json!({"type": "unsubscribed", "requestId": "1", "message": "no-longer-allowed"});
    assert_eq!((client.next().await, &client.next().await["type"]), (told, &json!("allowed_rooms")));
    expect(&mut client, 0..TRIGGERS + 5, &["customer"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_does_not_answer_a_reauthorize_in_time_costs_the_connection_and_nothing_is_delivered() {
    for answer in [Answer::Silence, Answer::Reply(502, String::new())] {
        let server = TestServer::before(Users::default().backend().await, &[("API_TIMEOUT", "1s")]).await;
        let (mut new, _) = server.member_v4("alice", &both()).await;
        let mut old = server.member("alice", &both()).await;
        let mut bob = server.member("bob", &both()).await;
        server.backend.answer(move |_| answer.clone());
        server.control(json!({"action": "reauthorize", "user": "alice"})).await;
        publish(&server, 0..TRIGGERS).await;
        for client in [&mut new, &mut old] {
            let (texts, end) = client.end().await;
            let is_told = |reason: &str| reason.starts_with("retry_after=");
            assert!(
                texts.is_empty() && matches!(&end, End::Closed(1013, reason) if is_told(reason)),
                "{texts:?} {end:?}"
            );
        }
        expect(&mut bob, 0..TRIGGERS, &["message", "customer"]).await;
        server.until_metric(r#"rechecks_total{reason="given-up"}"#, 2).await;
        server.until_metric(ON_HOLD, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_bounded_by_the_limit_of_the_outbox_and_others_get_theirs() {
    let users = Users::default();
    let server = TestServer::before(users.backend().await, &[("OUTBOX_LIMIT", "16KiB")]).await;
    let (mut new, _) = server.member_v4("alice", &both()).await;
    let mut bob = server.member("bob", &both()).await;
    let permits = slow_down(&server, &users);
    server.control(json!({"action": "reauthorize", "user": "alice"})).await;
    let data = "x".repeat(1000);
    for number in 0..30 {
        server.trigger(json!({"rooms": [message()], "data": [number, data]})).await;
        assert_eq!(bob.next().await["data"][0], json!(number));
    }
    let (texts, end) = new.end().await;
    assert!(texts.is_empty() && matches!(&end, End::Closed(3008, _)), "{} {end:?}", texts.len());
    let held = server.metric(HELD).await;
    assert!((10..=16).contains(&held), "{held}");
    permits.add_permits(100);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_that_nobody_has_asked_for_hold_nothing_back() {
    let users = Users::default();
    let server = TestServer::before(users.backend().await, &[("REAUTHORIZE_INTERVAL", "1s")]).await;
    let (mut new, _) = server.member_v4("alice", &both()).await;
    let permits = slow_down(&server, &users);
    let asked = server.backend.bootstraps();
    server.control(json!({"action": "forget", "user": "alice"})).await;
    crate::support::eventually("it is asked", async || server.backend.bootstraps() > asked).await;
    publish(&server, 0..TRIGGERS).await;
    expect(&mut new, 0..TRIGGERS, &["message", "customer"]).await;
    permits.add_permits(1000);
    assert_eq!(server.metric(HELD).await, 0);
}
