//! Control messages: whom they act on and whom not, in what order, and who may post them.

use std::sync::Arc;

use lapin::{BasicProperties, options::BasicPublishOptions};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::support::{
    Client, StubBackend, TestServer, Users,
    backend::Answer,
    client::End,
    eventually,
    http::{exchange, send},
    rabbitmq,
    users::user,
};

fn message() -> Value {
    json!({"target": "message"})
}

fn customer() -> Value {
    json!({"customer": 7})
}

/// Five clients: their names, and the connection of `alice 4`.
const NAMES: [&str; 5] = ["alice 4", "alice 4 elsewhere", "alice 3", "bob 4", "bob 3 elsewhere"];

/// Clients of both versions: those elsewhere are with the customer, the others in the room of messages.
struct Crowd {
    clients: Vec<(&'static str, Client)>,
    connection: String,
}

impl Crowd {
    async fn gather(server: &TestServer) -> Self {
        let (mut clients, mut connection) = (Vec::new(), String::new());
        for name in NAMES {
            let user = name.split(' ').next().unwrap();
            let rooms = [("1", if name.ends_with("elsewhere") { customer() } else { message() })];
            if name.contains('4') {
                let (client, id) = server.member_v4(user, &rooms).await;
                clients.push((name, client));
                if name == "alice 4" {
                    connection = id;
                }
            } else {
                clients.push((name, server.member(user, &rooms).await));
            }
        }
        Self { clients, connection }
    }

    /// Takes out those of these names, in the order of all.
    fn take(&mut self, names: &[&str]) -> Vec<(&'static str, Client)> {
        let (taken, left) = std::mem::take(&mut self.clients).into_iter().partition(|(name, _)| names.contains(name));
        self.clients = left;
        taken
    }

    /// Whoever is left is given a trigger, and nothing has come before it but what may be joined, to others of a user that is meant.
    async fn expect_trigger(&mut self, server: &TestServer, data: &str) {
        server.trigger(json!({"rooms": [message(), customer()], "data": data})).await;
        for (name, client) in &mut self.clients {
            let mut frame = client.next().await;
            if name.contains("4 elsewhere") && frame["type"] == json!("allowed_rooms") {
                frame = client.next().await;
            }
            assert_eq!((&frame["requestId"], &frame["data"]), (&json!("1"), &json!(data)), "{name}: {frame}");
        }
    }

    async fn leave(self, server: &TestServer) {
        for (_, client) in self.clients {
            client.close().await;
        }
        server.until_number("open_connections", 0).await;
    }
}

/// Targets, `ID` being the connection of `alice 4`, and whom each of them names.
fn targets() -> [(Value, &'static [&'static str]); 10] {
    [
        (json!({"user": "alice"}), &NAMES[..3]),
        (json!({"connection": "ID"}), &["alice 4"]),
        (json!({"room": message()}), &["alice 4", "alice 3", "bob 4"]),
        (json!({"room": {"customer": "*"}}), &["alice 4 elsewhere", "bob 3 elsewhere"]),
        (json!({"user": "alice", "room": message()}), &["alice 4", "alice 3"]),
        (json!({"connection": "ID", "room": customer()}), &[]),
        (json!({"connection": "ID", "user": "bob"}), &[]),
        (json!({"user": "Alice"}), &[]),
        (json!({"connection": Uuid::nil()}), &[]),
        (json!({"all": true}), &NAMES),
    ]
}

fn addressed(action: &str, target: &Value, crowd: &Crowd) -> Value {
    let text = target.to_string().replace("ID", &crowd.connection);
    let mut control: Value = serde_json::from_str(&text).unwrap();
    control["action"] = json!(action);
    control
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnect_ends_those_it_names_and_touches_nobody_else() {
    let server = TestServer::before(Users::default().backend().await, &[]).await;
    for (target, named) in targets() {
        let mut crowd = Crowd::gather(&server).await;
        crowd.expect_trigger(&server, "before").await;
        server.control(addressed("disconnect", &target, &crowd)).await;
        for (name, mut client) in crowd.take(named) {
            let end = End::Closed(3501, "disconnected by the application".into());
            assert_eq!(client.end().await, (Vec::new(), end), "{name} by {target}");
        }
        crowd.expect_trigger(&server, "after").await;
        crowd.leave(&server).await;
    }
    assert_eq!(server.metric(r#"controls_total{reason="disconnect"}"#).await, 10);
    assert_eq!(server.metric(r#"connections_closed_total{reason="disconnected"}"#).await, 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn reauthorize_asks_for_those_it_names_and_tells_them_what_has_changed() {
    let users = Users::default();
    let server = TestServer::before(users.backend().await, &[]).await;
    for (target, named) in targets() {
        for user in ["alice", "bob"] {
            users.allow(user, json!([message(), customer()]));
        }
        let mut crowd = Crowd::gather(&server).await;
        let asked = server.backend.bootstraps();
        crowd.expect_trigger(&server, "before").await;
        for user in ["alice", "bob"] {
            users.allow(user, json!([customer()]));
        }
        server.control(addressed("reauthorize", &target, &crowd)).await;
        let mut kept = Vec::new();
        for (name, mut client) in crowd.take(named) {
            if name == "alice 3" {
                assert_eq!(client.end().await, (Vec::new(), End::Closed(3502, "permissions changed".into())));
                continue;
            }
            if !name.ends_with("elsewhere") {
                let told = json!({"type": "unsubscribed", "requestId": "1", "message": "no-longer-allowed"});
                assert_eq!(client.next().await, told, "{name} by {target}");
            }
            if name.contains('4') {
                assert_eq!(client.next().await, json!({"type": "allowed_rooms", "allowed_rooms": [customer()]}));
                let wanted = json!({"type": "subscribe", "requestId": "2", "room": message()});
                assert_eq!(client.ask(wanted).await["message"], json!("room-not-found"));
            }
            if name.ends_with("elsewhere") {
                kept.push((name, client));
            } else {
                client.expect_silence().await;
                drop(client);
            }
        }
        crowd.clients.extend(kept);
        crowd.expect_trigger(&server, "after").await;
        let people = ["alice", "bob"].iter().filter(|user| named.iter().any(|name| name.starts_with(**user))).count();
        eventually("they are asked for", async || server.backend.bootstraps() - asked >= people).await;
        assert!(server.backend.bootstraps() - asked <= named.len(), "{target}");
        crowd.leave(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unsubscribe_takes_those_it_names_out_of_the_room_and_they_may_come_back() {
    let server = TestServer::before(Users::default().backend().await, &[]).await;
    for (target, named) in targets().into_iter().filter(|(target, _)| target.get("room").is_some()) {
        let mut crowd = Crowd::gather(&server).await;
        crowd.expect_trigger(&server, "before").await;
        server.control(addressed("unsubscribe", &target, &crowd)).await;
        let mut left = crowd.take(named);
        crowd.expect_trigger(&server, "after").await;
        for (name, client) in &mut left {
            if !name.contains('4') {
                assert_eq!(client.end().await, (Vec::new(), End::Closed(3502, "permissions changed".into())));
                continue;
            }
            let told = json!({"type": "unsubscribed", "requestId": "1", "message": "by-application"});
            assert_eq!(client.next().await, told, "{name} by {target}");
            client.expect_silence().await;
            let room = if name.ends_with("elsewhere") { customer() } else { message() };
            let reply = client.ask(json!({"type": "subscribe", "requestId": "1", "room": room})).await;
            assert_eq!(reply["code"], json!("success"));
        }
        crowd.clients.extend(left.into_iter().filter(|(name, _)| name.contains('4')));
        crowd.expect_trigger(&server, "back").await;
        crowd.leave(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_posted_before_a_control_message_comes_before_it_and_what_is_posted_after_it_does_not_come() {
    let server = TestServer::before(Users::default().backend().await, &[]).await;
    let mut bob = server.member("bob", &[("1", message())]).await;
    for round in 0..20 {
        let mut old = server.member("alice", &[("1", message())]).await;
        let (mut ended, _) = server.member_v4("alice", &[("1", message())]).await;
        let (mut left, _) = server.member_v4("carl", &[("1", message())]).await;
        let trigger = |data: &str| json!({"rooms": [message()], "data": format!("{data} {round}")});
        server.trigger(trigger("before")).await;
        server.control(json!({"action": "disconnect", "user": "alice"})).await;
        server.control(json!({"action": "unsubscribe", "user": "carl", "room": message()})).await;
        server.trigger(trigger("after")).await;
        for client in [&mut old, &mut ended] {
            let (texts, end) = client.end().await;
            assert!(
                texts.len() == 1 && texts[0].contains("before") && matches!(end, End::Closed(3501, _)),
                "{texts:?}"
            );
        }
        assert_eq!(left.next().await["data"], json!(format!("before {round}")));
        assert_eq!(left.next().await["type"], json!("unsubscribed"));
        left.expect_silence().await;
        for data in ["before", "after"] {
            assert_eq!(bob.next().await["data"], json!(format!("{data} {round}")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_join_at_once_what_it_is_given_and_is_told_nothing_when_nothing_has_changed() {
    let users = Users::default();
    users.allow("17", json!([message()]));
    let server = TestServer::before(users.backend().await, &[]).await;
    let (mut new, _) = server.member_v4("17", &[("1", message())]).await;
    let mut old = server.member("17", &[("1", message())]).await;
    // A number is meant as it is written, and so is a string.
    server.control(json!({"action": "reauthorize", "user": 17})).await;
    server.until_metric(r#"rechecks_total{reason="unchanged"}"#, 2).await;
    new.expect_silence().await;
    users.allow("17", json!([message(), customer()]));
    server.control(json!({"action": "reauthorize", "user": "17"})).await;
    assert_eq!(new.next().await, json!({"type": "allowed_rooms", "allowed_rooms": [message(), customer()]}));
    server.until_metric(r#"rechecks_total{reason="changed"}"#, 2).await;
    let wanted = json!({"type": "subscribe", "requestId": "2", "room": customer()});
    assert_eq!(new.ask(wanted).await["code"], json!("success"));
    old.subscribe("2", customer()).await;
    server.trigger(json!({"rooms": [message()], "data": 1})).await;
    for client in [&mut new, &mut old] {
        assert_eq!(client.next().await["requestId"], json!("1"));
        client.expect_silence().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_message_is_answered_with_its_word_and_touches_nobody() {
    let server = TestServer::before(Users::default().backend().await, &[]).await;
    let mut crowd = Crowd::gather(&server).await;
    let long = format!(r#"{{"action":"disconnect","user":"{}"}}"#, "x".repeat(70_000));
    let deep = format!(r#"{{"action":"disconnect","room":{{"a":{}{}}}}}"#, "[".repeat(100), "]".repeat(100));
    for (body, status, word) in [
        ("", 400, "malformed-json"),
        ("x", 400, "malformed-json"),
        ("[]", 400, "malformed-json"),
        (r#"{"action":"disconnect","all":true"#, 400, "malformed-json"),
        (r#"{"user":"alice"}"#, 400, "unknown-action"),
        (r#"{"action":"Disconnect","user":"alice"}"#, 400, "unknown-action"),
        (r#"{"action":["disconnect"],"user":"alice"}"#, 400, "unknown-action"),
        (r#"{"action":"disconnect"}"#, 400, "no-target"),
        (r#"{"action":"disconnect","all":false}"#, 400, "no-target"),
        (r#"{"action":"disconnect","all":"true"}"#, 400, "no-target"),
        (r#"{"action":"disconnect","all":true,"user":"bob"}"#, 400, "no-target"),
        (r#"{"action":"disconnect","user":null}"#, 400, "malformed-user"),
        (r#"{"action":"disconnect","user":["alice"]}"#, 400, "malformed-user"),
        (r#"{"action":"disconnect","user":"alice","connection":null}"#, 400, "malformed-connection"),
        (r#"{"action":"disconnect","connection":"alice"}"#, 400, "malformed-connection"),
        (r#"{"action":"disconnect","room":"message"}"#, 400, "malformed-room"),
        (r#"{"action":"unsubscribe","user":"alice"}"#, 400, "no-room"),
        (r#"{"action":"unsubscribe","all":true}"#, 400, "no-room"),
        (&deep, 400, "malformed-room"),
        (&long, 413, "too-large"),
    ] {
        let reply = server.post("/control/", body).await;
        let body = &body[..body.len().min(80)];
        assert_eq!((reply.status, &reply.json()["message"]), (status, &json!(word)), "{body}");
        assert!(reply.json()["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{body}");
    }
    let not_text =
        send(&server.internal, "POST", "/control/", &[], b"{\"action\":\"disconnect\",\"user\":\"\xff\"}").await;
    assert_eq!((not_text.status, &not_text.json()["message"]), (400, &json!("malformed-json")));
    assert_eq!(server.get("/control/").await.status, 405);
    crowd.expect_trigger(&server, "after").await;
    for (_, client) in &mut crowd.clients {
        client.expect_silence().await;
    }
    assert!(!server.get("/metrics").await.body.contains("controls_total{"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_shows_the_token_may_post_and_without_one_no_foreign_page() {
    let body = br#"{"action":"disconnect","all":true}"#;
    let server = TestServer::with(&[("INTERNAL_TOKEN", "letmein")]).await;
    let mut client = server.connect().await;
    for (token, status) in [("", 401), ("Bearer", 401), ("Bearer letmein2", 401), ("Basic letmein", 401)] {
        let reply = send(&server.internal, "POST", "/control/", &[("Authorization", token)], body).await;
        assert_eq!((reply.status, &reply.json()["message"]), (status, &json!("not-authorized")), "{token}");
    }
    client.expect_silence().await;
    let shown = [("Authorization", "Bearer letmein")];
    assert_eq!(send(&server.internal, "POST", "/control/", &shown, body).await.status, 200);
    assert_eq!(client.close_code().await, 3501);

    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let origin = [("Origin", "https://evil.example")];
    assert_eq!(send(&server.internal, "POST", "/control/", &origin, body).await.status, 403);
    let head = format!("POST /control/ HTTP/1.1\r\nHost: evil.example\r\nContent-Length: {}\r\n\r\n", body.len());
    assert_eq!(exchange(&server.internal, &[head.as_bytes(), body].concat()).await.status, 403);
    assert_eq!(send(&server.public, "POST", "/control/", &[], body).await.status, 404);
    client.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_broker_itself_a_good_message_acts_and_a_bad_one_is_counted_and_dropped() {
    for log in ["stream", "off"] {
        let (exchange, url) = (format!("test-{}", Uuid::new_v4()), rabbitmq::shared());
        let vars = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", &exchange), ("AMQP_LOG", log)];
        let server = TestServer::before(Users::default().backend().await, &vars).await;
        let mut crowd = Crowd::gather(&server).await;
        let channel = rabbitmq::channel().await;
        let publish = async |body: &[u8]| {
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            let name = exchange.as_str().into();
            channel.basic_publish(name, "control".into(), options, body, properties).await.unwrap();
        };
        for (body, word) in [
            (&b"\xff"[..], "malformed-json"),
            (br#"{"action":"ban","user":"alice"}"#, "unknown-action"),
            (br#"{"action":"disconnect"}"#, "no-target"),
            // A trigger by the wrong way is none.
            (br#"{"rooms":[{"target":"message"}],"data":1}"#, "unknown-action"),
        ] {
            publish(body).await;
            let name = format!(r#"controls_total{{reason="{word}"}}"#);
            eventually("it is counted", async || server.metric(&name).await > 0).await;
        }
        crowd.expect_trigger(&server, "before").await;
        publish(br#"{"action":"disconnect","user":"alice"}"#).await;
        for (_, mut client) in crowd.take(&NAMES[..3]) {
            assert_eq!(client.close_code().await, 3501);
        }
        crowd.expect_trigger(&server, "after").await;
        assert_eq!(server.metric(r#"triggers_dropped_total{reason="no-rooms"}"#).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_on_its_way_in_is_asked_for_again_when_its_user_is_meant() {
    for action in ["disconnect", "reauthorize"] {
        let permits = Arc::new(Semaphore::new(0));
        let (users, held) = (Users::default(), permits.clone());
        let (before, now) = (users.clone(), users.clone());
        let backend =
            StubBackend::answering(move |asked| Answer::Held(held.clone(), Box::new(before.answer(asked)))).await;
        let server = TestServer::before(backend, &[]).await;
        let mut clients = [server.dial_v4("alice").await, server.dial("alice").await];
        let (mut other, mut bob) = (server.dial_v4("alice").await, server.dial_v4("bob").await);
        eventually("both are asked for", async || server.backend.bootstraps() == 2).await;
        users.log_out("alice");
        server.backend.answer(move |asked| now.answer(asked));
        server.control(json!({"action": action, "user": "bo"})).await;
        server.control(json!({"action": action, "user": "alice"})).await;
        server.until_metric(&format!(r#"controls_total{{reason="{action}"}}"#), 2).await;
        other.send_text("ping").await;
        permits.add_permits(2); // the answers from before
        for (client, code) in clients.iter_mut().zip([3500, 1000]) {
            let (texts, end) = client.end().await;
            assert!(matches!(end, End::Closed(closed, _) if closed == code), "{end:?}");
            assert!(texts.len() == 1 && texts[0].contains(r#""is_authorized":false"#), "{texts:?}");
        }
        assert_eq!(other.close_code().await, 3500);
        assert_eq!(bob.next().await["is_authorized"], json!(true));
        let asked = server.backend.asked();
        assert_eq!(asked.iter().filter(|asked| user(asked) == "bob").count(), 1);
    }
}
