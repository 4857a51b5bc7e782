//! What was published to a room before a client could join it: not replayed, wherever it is known when that was.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Client, TestServer, Users, eventually, rabbitmq};

const SECRET: (&str, &str) = ("RESUME_SECRET", "0123456789abcdef");

fn message() -> Value {
    json!({"target": "message"})
}

fn customer() -> Value {
    json!({"customer": 7})
}

async fn position(server: &TestServer) -> Value {
    server.get("/position").await.json()["position"].clone()
}

/// Publishes to both rooms; returns when whoever joins now is too late for it.
async fn publish(server: &TestServer, data: &str) {
    let before = position(server).await;
    server.trigger(json!({"rooms": [message(), customer()], "data": data})).await;
    eventually("it is dispatched", async || position(server).await != before).await;
}

/// Subscribes since a position and leaves again: whether everything since then was given, and what it was.
async fn since(client: &mut Client, room: Value, since: &Value) -> (bool, Vec<Value>) {
    let reply = client.ask(json!({"type": "subscribe", "requestId": "r", "room": room, "since": since})).await;
    assert_eq!(reply["code"], json!("success"), "{reply}");
    client.send(json!({"type": "status", "requestId": "s"})).await;
    let mut data = Vec::new();
    loop {
        let frame = client.next().await;
        match frame["type"].as_str() {
            Some("publish") => data.push(frame["data"].clone()),
            Some("reply") if frame["requestId"] == json!("s") => break,
            _ => {}
        }
    }
    // What was missed may still be on its way.
    while let Ok(frame) = tokio::time::timeout(std::time::Duration::from_millis(200), client.next()).await {
        if frame["type"] == json!("publish") {
            data.push(frame["data"].clone());
        }
    }
    assert_eq!(client.ask(json!({"type": "unsubscribe", "requestId": "r"})).await["code"], json!("success"));
    (reply["recovered"].as_bool().unwrap(), data)
}

async fn next_of(client: &mut Client, kind: &str) -> Value {
    loop {
        let frame = client.next().await;
        if frame["type"] == json!(kind) {
            return frame;
        }
    }
}

/// Alice may join the customer's room from the start, and the room of messages between two triggers.
async fn grant(server: &TestServer, users: &Users) -> (Client, [Value; 2]) {
    let (mut client, _) = server.member_v4("alice", &[]).await;
    let before = position(server).await;
    publish(server, "before").await;
    users.allow("alice", json!([customer(), message()]));
    server.control(json!({"action": "reauthorize", "user": "alice"})).await;
    next_of(&mut client, "allowed_rooms").await;
    let granted = position(server).await;
    publish(server, "after").await;
    (client, [before, granted])
}

fn all(data: &[&str]) -> (bool, Vec<Value>) {
    (true, data.iter().map(|data| json!(data)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_given_a_room_is_given_nothing_from_before_that() {
    let users = Users::default();
    users.allow("alice", json!([customer()]));
    let server = TestServer::before(users.backend().await, &[]).await;
    let (mut client, [before, granted]) = grant(&server, &users).await;
    assert_eq!(since(&mut client, message(), &before).await, (false, Vec::new()));
    assert_eq!(since(&mut client, message(), &granted).await, all(&["after"]));
    assert_eq!(since(&mut client, customer(), &before).await, all(&["before", "after"]));
    // Nor from the time in between, when it is taken away and given again.
    users.allow("alice", json!([customer()]));
    server.control(json!({"action": "reauthorize", "user": "alice"})).await;
    next_of(&mut client, "allowed_rooms").await;
    publish(&server, "between").await;
    users.allow("alice", json!([customer(), {"target": "*"}]));
    server.control(json!({"action": "reauthorize", "user": "alice"})).await;
    next_of(&mut client, "allowed_rooms").await;
    let again = position(&server).await;
    publish(&server, "again").await;
    assert_eq!(since(&mut client, message(), &granted).await, (false, Vec::new()));
    assert_eq!(since(&mut client, message(), &again).await, all(&["again"]));
    assert_eq!(since(&mut client, customer(), &granted).await, all(&["after", "between", "again"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_connection_is_given_nothing_from_before_the_last_message_about_its_user() {
    let users = Users::default();
    users.allow("alice", json!([customer()]));
    let server = TestServer::before(users.backend().await, &[]).await;
    let (_, [before, granted]) = grant(&server, &users).await;
    let (mut again, _) = server.member_v4("alice", &[]).await;
    assert_eq!(since(&mut again, message(), &before).await, (false, Vec::new()));
    assert_eq!(since(&mut again, message(), &granted).await, all(&["after"]));
    // It is not known that she could join this one all the time.
    assert_eq!(since(&mut again, customer(), &before).await, (false, Vec::new()));
    let (mut bob, _) = server.member_v4("bob", &[]).await;
    assert_eq!(since(&mut bob, message(), &before).await, all(&["before", "after"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_says_since_when_a_room_could_be_joined_on_every_instance() {
    let (exchange, url) = (format!("test-{}", Uuid::new_v4()), rabbitmq::shared());
    let vars = [SECRET, ("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", exchange.as_str())];
    let users = Users::default();
    users.allow("alice", json!([customer()]));
    let one = TestServer::before(users.backend().await, &vars).await;
    let two = TestServer::before(users.backend().await, &vars).await;
    for server in [&one, &two] {
        server.until_ready().await;
    }
    let (mut client, [before, granted]) = grant(&one, &users).await;
    // The check tells all instances of the change, behind which a ticket has to be.
    one.until_metric(r#"controls_total{reason="forget"}"#, 1).await;
    let mut ticket = next_of(&mut client, "ticket").await;
    while let Ok(frame) = tokio::time::timeout(std::time::Duration::from_millis(500), client.next()).await {
        ticket = frame;
    }
    drop(client);
    let asked = two.backend.bootstraps();
    let headers = [("Sec-WebSocket-Protocol", "high-templar.v4"), ("Cookie", "user=alice")];
    let mut client = Client::connect(&two.public, "/ws/?resume", &headers).await;
    let welcome = client.ask(json!({"type": "resume", "ticket": ticket["ticket"]})).await;
    assert_eq!((&welcome["resumed"], two.backend.bootstraps()), (&json!(true), asked), "{welcome}");
    assert_eq!(since(&mut client, message(), &before).await, (false, Vec::new()));
    assert_eq!(since(&mut client, message(), &granted).await, all(&["after"]));
    assert_eq!(since(&mut client, customer(), &before).await, all(&["before", "after"]));
}
