//! A control message posted to one instance acts on all of them, those included that are cut off at that moment.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::{Client, Proxy, TestServer, Users, client::End, eventually, rabbitmq, users};

/// Promised is one second; a machine that is busy with other tests has a little more.
const SOON: Duration = Duration::from_secs(3);

fn room() -> Value {
    json!({"target": "message"})
}

/// Instances that share an exchange of their own at the test run's node, and an application. The last one is behind a proxy.
struct Instances {
    users: Users,
    servers: Vec<TestServer>,
    proxy: Proxy,
}

impl Instances {
    async fn start(count: usize, vars: &[(&str, &str)]) -> Self {
        let (users, exchange) = (Users::default(), format!("test-{}", Uuid::new_v4()));
        let proxy = Proxy::before(&rabbitmq::shared()).await;
        let mut servers = Vec::new();
        for number in 1..=count {
            let url = if number == count { proxy.url.clone() } else { rabbitmq::shared() };
            let own = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", exchange.as_str())];
            servers.push(TestServer::before(users.backend().await, &[&own[..], vars].concat()).await);
        }
        let instances = Self { users, servers, proxy };
        for server in &instances.servers {
            instances.until_taken(server).await;
        }
        instances
    }

    async fn until_taken(&self, server: &TestServer) {
        let nothing = r#"{"rooms":[],"data":0}"#;
        eventually("triggers are taken", async || server.post("/trigger/", nothing).await.status == 200).await;
    }

    fn last(&self) -> &TestServer {
        self.servers.last().unwrap()
    }

    /// Cuts the last one off from the broker.
    async fn cut(&self) {
        self.proxy.cut();
        eventually("it is cut off", async || self.last().get("/readyz").await.status == 503).await;
    }

    async fn mend(&self) {
        self.proxy.mend();
        self.last().until_ready().await;
    }

    /// A client of each version of `user` on each instance, in the room.
    async fn members(&self, user: &str) -> Members {
        let mut members = Members::default();
        for server in &self.servers {
            members.old.push(server.member(user, &[("1", room())]).await);
            members.new.push(server.member_v4(user, &[("1", room())]).await.0);
        }
        members
    }

    /// By the first instance.
    async fn publish(&self, data: &str) {
        self.servers[0].trigger(json!({"rooms": [room()], "data": data})).await;
    }
}

/// Clients of one user: an old and a new one for each instance.
#[derive(Default)]
struct Members {
    old: Vec<Client>,
    new: Vec<Client>,
}

impl Members {
    fn all(&mut self) -> impl Iterator<Item = &mut Client> {
        self.old.iter_mut().chain(&mut self.new)
    }

    /// Each is given exactly these, in this order.
    async fn expect(&mut self, data: &[&str]) {
        for client in self.all() {
            for data in data {
                let frame = client.next().await;
                assert_eq!((&frame["type"], &frame["data"]), (&json!("publish"), &json!(data)), "{frame}");
            }
            client.expect_silence().await;
        }
    }

    /// Each is closed with this without being given anything more.
    async fn expect_end(&mut self, old: u16, new: u16) {
        for (clients, code) in [(&mut self.old, old), (&mut self.new, new)] {
            for client in clients {
                let (texts, end) = client.end().await;
                assert!(
                    texts.is_empty() && matches!(end, End::Closed(closed, _) if closed == code),
                    "{texts:?} {end:?}"
                );
            }
        }
    }
}

/// The codes with which clients of 3.1's protocol and of version 4 end, when a user who has been logged out is the subject of
/// this action.
const ENDS: [(&str, u16, u16); 2] = [("disconnect", 3501, 3501), ("reauthorize", 3502, 3502)];

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_was_logged_out_is_off_every_instance_within_a_second_and_nobody_else_is_touched() {
    let instances = Instances::start(3, &[]).await;
    let mut others = [instances.members("bob").await, instances.members("").await];
    for (user, (action, old, new)) in ["alice", "ann"].into_iter().zip(ENDS) {
        let mut members = instances.members(user).await;
        instances.publish("before").await;
        members.expect(&["before"]).await;
        instances.users.log_out(user);
        let start = Instant::now();
        instances.servers[1].control(json!({"action": action, "user": user})).await;
        members.expect_end(old, new).await;
        assert!(start.elapsed() < SOON, "{action}: {:?}", start.elapsed());
        instances.publish("after").await;
        for other in &mut others {
            other.expect(&["before", "after"]).await;
        }
        for server in &instances.servers {
            assert_eq!(server.dial(user).await.close_code().await, 1000);
            assert_eq!(server.dial_v4(user).await.close_code().await, 3500);
            assert_eq!(server.metric(&format!(r#"controls_total{{reason="{action}"}}"#)).await, 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_is_taken_away_is_left_on_every_instance_by_those_who_had_it() {
    let instances = Instances::start(3, &[]).await;
    let mut bob = instances.members("bob").await;
    let mut alice = instances.members("alice").await;
    let mut elsewhere = Vec::new();
    for server in &instances.servers {
        elsewhere.push(server.member("alice", &[("2", json!({"customer": 7}))]).await);
    }
    for client in &mut alice.new {
        let reply = client.ask(json!({"type": "subscribe", "requestId": "2", "room": {"customer": 7}})).await;
        assert_eq!(reply["code"], json!("success"));
    }
    instances.users.allow("alice", json!([{"customer": 7}]));
    let start = Instant::now();
    instances.servers[2].control(json!({"action": "reauthorize", "user": "alice"})).await;
    for client in &mut alice.new {
        let told = json!({"type": "unsubscribed", "requestId": "1", "message": "no-longer-allowed"});
        assert_eq!(client.next().await, told);
        let rooms = json!({"type": "allowed_rooms", "allowed_rooms": [{"customer": 7}]});
        assert_eq!(client.next().await, rooms);
    }
    for client in &mut alice.old {
        assert_eq!(client.close_code().await, 3502);
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    instances.servers[0].trigger(json!({"rooms": [room(), {"customer": 7}], "data": "after"})).await;
    bob.expect(&["after"]).await;
    for client in alice.new.iter_mut().chain(&mut elsewhere) {
        let frame = client.next().await;
        assert_eq!((&frame["requestId"], &frame["data"]), (&json!("2"), &json!("after")), "{frame}");
        client.expect_silence().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_cut_off_applies_the_message_between_the_triggers_that_it_missed() {
    let instances = Instances::start(2, &[]).await;
    let mut bob = instances.members("bob").await;
    let mut gone = instances.members("alice").await;
    let mut checked = instances.members("ann").await;
    let (mut left, _) = instances.last().member_v4("carl", &[("1", room()), ("2", json!({"customer": 7}))]).await;
    instances.cut().await;
    instances.publish("before").await;
    instances.users.log_out("ann");
    for message in [
        json!({"action": "disconnect", "user": "alice"}),
        json!({"action": "reauthorize", "user": "ann"}),
        json!({"action": "unsubscribe", "user": "carl", "room": room()}),
    ] {
        instances.servers[0].control(message).await;
    }
    let refused = instances.last().post("/control/", r#"{"action":"disconnect","user":"nobody"}"#).await;
    assert_eq!((refused.status, &refused.json()["message"]), (503, &json!("try-later")));
    assert!(refused.head.to_ascii_lowercase().contains("retry-after: "), "{}", refused.head);
    // On the instance that is connected it is done now, on the other one nothing has happened yet.
    for (members, old, new) in [(&mut gone, 3501, 3501), (&mut checked, 3502, 3502)] {
        for (client, code) in [(members.old.remove(0), old), (members.new.remove(0), new)] {
            let mut client = client;
            assert_eq!(client.next().await["data"], json!("before"));
            assert_eq!(client.close_code().await, code);
        }
        for client in members.all() {
            client.expect_silence().await;
        }
    }
    instances.publish("after").await;
    bob.old[1].expect_silence().await;
    instances.mend().await;
    for client in gone.all() {
        assert_eq!(client.next().await["data"], json!("before"));
    }
    gone.expect_end(3501, 3501).await;
    assert_eq!(left.next().await["data"], json!("before"));
    assert_eq!(left.next().await, json!({"type": "unsubscribed", "requestId": "1", "message": "by-application"}));
    left.expect_silence().await;
    for (clients, code) in [(&mut checked.old, 3502), (&mut checked.new, 3502)] {
        let (texts, end) = clients[0].end().await;
        assert!(texts[0].contains("before") && matches!(end, End::Closed(closed, _) if closed == code), "{texts:?}");
    }
    bob.expect(&["before", "after"]).await;
    instances.publish("at last").await;
    bob.expect(&["at last"]).await;
    assert_eq!(instances.last().metric("gaps_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_it_acts_on_the_connected_instances_and_whoever_was_cut_off_is_checked() {
    // The clients of 3.1's protocol would be told of the gap otherwise.
    let instances = Instances::start(3, &[("AMQP_LOG", "off"), ("ON_GAP", "ignore")]).await;
    let mut bob = instances.members("bob").await;
    let mut alice = instances.members("alice").await;
    let (mut old, mut new) = (alice.old.pop().unwrap(), alice.new.pop().unwrap());
    instances.cut().await;
    instances.users.log_out("alice");
    instances.servers[0].control(json!({"action": "disconnect", "user": "alice"})).await;
    alice.expect_end(3501, 3501).await;
    for client in [&mut old, &mut new] {
        client.expect_silence().await;
    }
    instances.mend().await;
    assert_eq!(old.close_code().await, 3502);
    let (texts, end) = new.end().await;
    assert!(matches!(end, End::Closed(3502, _)), "{end:?}");
    assert!(texts.len() == 1 && texts[0].contains("resync"), "{texts:?}");
    assert_eq!(bob.new[2].next().await["type"], json!("resync"));
    instances.until_taken(instances.last()).await;
    instances.publish("after").await;
    bob.expect(&["after"]).await;
    let last = instances.last();
    let checked = r#"rechecks_total{reason="unchanged"}"#;
    eventually("bob is checked", async || last.metric(checked).await == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_backend_said_before_a_gap_is_not_used_again_after_it() {
    let vars = [("AMQP_LOG", "off"), ("AUTH_CACHE", "10m")];
    let instances = Instances::start(2, &vars).await;
    let last = instances.last();
    last.member("alice", &[]).await.close().await;
    last.until_number("open_connections", 0).await;
    instances.cut().await;
    instances.users.log_out("alice");
    instances.servers[0].control(json!({"action": "disconnect", "user": "alice"})).await;
    instances.mend().await;
    assert_eq!(last.dial_v4("alice").await.close_code().await, 3500);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_slips_in_who_connects_while_the_user_is_being_logged_out() {
    let instances = Instances::start(2, &[]).await;
    for round in 0..5 {
        let user = format!("alice-{round}");
        let come = |index: usize| {
            let (server, user) = (&instances.servers[index % 2], user.clone());
            async move {
                let mut clients = Vec::new();
                for number in 0..30 {
                    clients.push(if number % 2 == 0 { server.dial(&user).await } else { server.dial_v4(&user).await });
                }
                clients
            }
        };
        let log_out = async {
            tokio::task::yield_now().await;
            eventually("the first ones are there", async || {
                instances.servers[0].backend.asked().iter().any(|asked| users::user(asked) == user)
            })
            .await;
            instances.users.log_out(&user);
            instances.servers[round % 2].control(json!({"action": "disconnect", "user": user})).await;
        };
        let (one, two, three, ()) = tokio::join!(come(0), come(1), come(2), log_out);
        for mut client in [one, two, three].into_iter().flatten() {
            let (texts, end) = client.end().await;
            assert!(matches!(end, End::Closed(3501 | 3500 | 1000, _)), "{end:?} after {texts:?}");
        }
    }
}
