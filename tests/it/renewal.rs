//! A client that shows new credentials while it is connected: they count for what the API is asked later, and for nothing before.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::support::{
    Client, PATIENCE, StubBackend, TestServer,
    backend::{Answer, Asked},
    client::End,
    eventually,
};

const SECRET: (&str, &str) = ("RESUME_SECRET", "0123456789abcdef");
const UNCHANGED: &str = r#"rechecks_total{reason="unchanged"}"#;

/// An application that knows its users by tokens; answers about tokens that are held wait for a permit.
#[derive(Clone, Default)]
struct Application {
    users: Arc<Mutex<HashMap<String, u64>>>,
    held: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

fn token(asked: &Asked) -> &str {
    asked.header("authorization").and_then(|value| value.strip_prefix("Token ")).unwrap_or_default()
}

impl Application {
    fn with(tokens: &[(&str, u64)]) -> Self {
        let application = Self::default();
        tokens.iter().for_each(|(token, user)| application.accept(token, *user));
        application
    }

    fn accept(&self, token: &str, user: u64) {
        self.users.lock().insert(token.to_owned(), user);
    }

    fn revoke(&self, token: &str) {
        self.users.lock().remove(token);
    }

    fn hold(&self, token: &str) -> Arc<Semaphore> {
        self.held.lock().entry(token.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(0))).clone()
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let token = token(asked);
        let answer = match self.users.lock().get(token) {
            Some(user) => {
                let body = json!({"allowed_rooms": [room()], "user": {"data": {"id": user}}});
                Answer::Reply(200, body.to_string())
            }
            None => Answer::Reply(401, String::new()),
        };
        match self.held.lock().get(token) {
            Some(permits) => Answer::Held(permits.clone(), Box::new(answer)),
            None => answer,
        }
    }

    async fn serve(&self, vars: &[(&str, &str)]) -> TestServer {
        let application = self.clone();
        TestServer::before(StubBackend::answering(move |asked| application.answer(asked)).await, vars).await
    }
}

fn room() -> Value {
    json!({"target": "message"})
}

/// Connects with a token; nothing has been read.
async fn dial(server: &TestServer, query: &str) -> Client {
    Client::connect(&server.public, &format!("/ws/?{query}"), &[("Sec-WebSocket-Protocol", "high-templar.v4")]).await
}

/// The same, with a subscription; and the welcome.
async fn member(server: &TestServer, token: &str) -> (Client, Value) {
    let mut client = dial(server, &format!("token={token}")).await;
    let welcome = client.next().await;
    assert_eq!(welcome["is_authorized"], json!(true), "{welcome}");
    let reply = client.ask(json!({"type": "subscribe", "requestId": "1", "room": room()})).await;
    assert_eq!(reply["code"], json!("success"), "{reply}");
    (client, welcome)
}

fn authenticate(params: &Value) -> Value {
    json!({"type": "authenticate", "requestId": "9", "params": params})
}

/// The client shows a token, which is taken.
async fn show(client: &mut Client, token: &str) {
    let reply = client.ask(authenticate(&json!({"token": token}))).await;
    assert_eq!(reply, json!({"type": "reply", "requestId": "9", "code": "success"}));
}

/// Waits until the API has been asked with `wanted` so often.
async fn until_asked(server: &TestServer, wanted: &str, times: usize) {
    eventually(&format!("asked with {wanted}"), async || asked_with(server, wanted) >= times).await;
    assert_eq!(asked_with(server, wanted), times);
}

fn asked_with(server: &TestServer, wanted: &str) -> usize {
    server.backend.asked().iter().filter(|asked| token(asked) == wanted).count()
}

async fn expect_trigger(server: &TestServer, client: &mut Client) {
    server.trigger(json!({"rooms": [room()], "data": 1})).await;
    let frame = client.next().await;
    assert_eq!(frame["data"], json!(1), "{frame}");
}

async fn reauthorize(server: &TestServer) {
    server.control(json!({"action": "reauthorize", "all": true})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn later_checks_are_made_with_what_a_client_has_shown_last_and_none_because_of_it() {
    let application = Application::with(&[("old", 17), ("new", 17)]);
    let server = application.serve(&[]).await;
    let (mut client, _) = member(&server, "old").await;
    for number in 0..50 {
        show(&mut client, &number.to_string()).await;
    }
    show(&mut client, "new").await;
    show(&mut client, "new").await;
    assert_eq!(server.backend.bootstraps(), 1);
    application.revoke("old");
    for times in 1..=2 {
        reauthorize(&server).await;
        server.until_metric(UNCHANGED, times).await;
    }
    expect_trigger(&server, &mut client).await;
    assert_eq!((server.backend.bootstraps(), asked_with(&server, "new")), (3, 2));
    assert_eq!(server.metric(r#"credentials_shown_total{reason="renewed"}"#).await, 51);
    assert_eq!(server.metric(r#"credentials_shown_total{reason="unchanged"}"#).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_renews_its_token_stays_connected_whatever_the_interval() {
    let application = Application::with(&[("0", 17)]);
    let server = application.serve(&[("REAUTHORIZE_INTERVAL", "1s")]).await;
    let (mut client, _) = member(&server, "0").await;
    for round in 1..5 {
        let (before, after) = ((round - 1).to_string(), round.to_string());
        application.accept(&after, 17);
        show(&mut client, &after).await;
        application.revoke(&before);
        eventually("checked with the new token", async || asked_with(&server, &after) > 0).await;
    }
    expect_trigger(&server, &mut client).await;
    // What was never renewed ends, and may come back with what is held by then.
    application.revoke("4");
    application.accept("5", 17);
    assert_eq!(client.close_code().await, 3502);
    member(&server, "5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_what_was_shown_before_is_no_end_and_the_api_is_asked_again_at_once() {
    let application = Application::with(&[("old", 17), ("new", 17)]);
    let server = application.serve(&[]).await;
    let (mut client, _) = member(&server, "old").await;
    let permits = application.hold("old");
    application.revoke("old");
    reauthorize(&server).await;
    until_asked(&server, "old", 2).await;
    show(&mut client, "new").await;
    server.trigger(json!({"rooms": [room()], "data": "held"})).await;
    permits.add_permits(1);
    assert_eq!(client.next().await["data"], json!("held"));
    until_asked(&server, "new", 1).await;
    assert_eq!(server.metric(r#"rechecks_total{reason="refused"}"#).await, 0);
    client.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_waits_to_be_tried_again_is_made_with_what_was_shown_meanwhile() {
    let application = Application::with(&[("old", 17), ("new", 17)]);
    let server = application.serve(&[("API_TIMEOUT", "1m")]).await;
    let (mut client, _) = member(&server, "old").await;
    server.backend.answer(|_| Answer::Reply(502, String::new()));
    reauthorize(&server).await;
    eventually("it has failed", async || server.metric(r#"rechecks_total{reason="failed"}"#).await > 0).await;
    show(&mut client, "new").await;
    let asked = asked_with(&server, "old");
    server.backend.answer(move |asked| application.answer(asked));
    server.until_metric(UNCHANGED, 1).await;
    assert_eq!(asked_with(&server, "old"), asked);
    expect_trigger(&server, &mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_shows_other_credentials_again_and_again_does_not_put_off_its_end() {
    let application = Application::with(&[("old", 17)]);
    let server = application.serve(&[]).await;
    let (mut client, _) = member(&server, "old").await;
    let permits = ["old", "bad"].map(|token| application.hold(token));
    application.revoke("old");
    reauthorize(&server).await;
    until_asked(&server, "old", 2).await;
    show(&mut client, "bad").await;
    permits[0].add_permits(1);
    until_asked(&server, "bad", 1).await;
    show(&mut client, "worse").await;
    permits[1].add_permits(1);
    assert_eq!(client.end().await, (Vec::new(), End::Closed(3502, "permissions changed".into())));
    assert_eq!(server.backend.bootstraps(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_shows_other_credentials_while_the_api_is_away_has_no_more_grace_for_it() {
    let application = Application::with(&[("old", 17)]);
    let vars = [("REAUTHORIZE_INTERVAL", "1s"), ("REAUTHORIZE_GRACE", "3s")];
    let server = application.serve(&vars).await;
    let (mut client, _) = member(&server, "old").await;
    server.backend.answer(|_| Answer::Raw(Vec::new()));
    let showing = async {
        while server.metric(r#"rechecks_total{reason="given-up"}"#).await == 0 {
            sleep(Duration::from_millis(20)).await;
            client.try_send(&authenticate(&json!({"token": Uuid::new_v4().to_string()})).to_string()).await;
        }
    };
    timeout(PATIENCE, showing).await.expect("an end of the grace");
    let (_, end) = client.end().await;
    assert!(matches!(end, End::Closed(1013, _)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_have_shown_the_same_are_asked_for_together() {
    const CLIENTS: u64 = 10;
    let application = Application::with(&[("new", 17)]);
    let server = application.serve(&[]).await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        application.accept(&number.to_string(), 17);
        clients.push(member(&server, &number.to_string()).await.0);
    }
    for client in &mut clients {
        show(client, "new").await;
    }
    let asked = server.backend.bootstraps();
    let permits = application.hold("new");
    reauthorize(&server).await;
    until_asked(&server, "new", 1).await;
    permits.add_permits(1);
    server.until_metric(UNCHANGED, CLIENTS).await;
    assert_eq!(server.backend.bootstraps(), asked + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_bound_to_what_was_shown_before_and_the_next_check_gives_another() {
    let application = Application::with(&[("old", 17), ("new", 17)]);
    let server = application.serve(&[SECRET, ("PING_INTERVAL", "1s")]).await;
    let (mut client, welcome) = member(&server, "old").await;
    let come_back = async |token: &str, ticket: &Value| {
        let asked = server.backend.bootstraps();
        let mut client = dial(&server, &format!("token={token}&resume")).await;
        let welcome = client.ask(json!({"type": "resume", "ticket": ticket})).await;
        client.close().await;
        (welcome["resumed"] == json!(true), server.backend.bootstraps() - asked)
    };
    show(&mut client, "new").await;
    assert_eq!(come_back("new", &welcome["ticket"]).await, (false, 1));
    // None is given at the server's pings before the API has been asked with the new token.
    assert!(client.pings_before("9").await >= 2);
    reauthorize(&server).await;
    let told = client.next().await;
    assert_eq!(told["type"], json!("ticket"), "{told}");
    assert_eq!(come_back("new", &told["ticket"]).await, (true, 0));
    assert_eq!(come_back("old", &told["ticket"]).await, (false, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_shows_the_credentials_of_another_user_comes_in_anew() {
    let application = Application::with(&[("old", 17), ("other", 18)]);
    let hooks = [("HOOK_CONNECT", "on/"), ("HOOK_DISCONNECT", "off/"), ("MAX_CONNECTIONS_PER_USER", "1")];
    let server = application.serve(&hooks).await;
    let (other, _) = member(&server, "other").await;
    let (mut client, _) = member(&server, "old").await;
    show(&mut client, "other").await;
    server.trigger(json!({"rooms": [room()], "data": 1})).await;
    assert_eq!(client.next().await["data"], json!(1));
    reauthorize(&server).await;
    assert_eq!(client.close_code().await, 3502);
    let posted = |line: &str, by: &str| {
        let asked = server.backend.asked();
        asked.iter().any(|asked| asked.line == line && token(asked) == by)
    };
    eventually("the first user is gone", async || posted("POST /api/off/", "old")).await;
    assert!(!posted("POST /api/off/", "other"));
    let mut refused = dial(&server, "token=other").await;
    assert_eq!(refused.next().await["message"], json!("too-many-connections"));
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_are_posted_with_new_credentials_as_soon_as_the_api_has_confirmed_them() {
    let application = Application::with(&[("old", 17), ("new", 17)]);
    let server = application.serve(&[("HOOK_DISCONNECT", "off/")]).await;
    for is_checked in [false, true] {
        let (mut client, _) = member(&server, "old").await;
        show(&mut client, "new").await;
        if is_checked {
            reauthorize(&server).await;
            server.until_metric(UNCHANGED, 1).await;
        }
        client.close().await;
        let wanted = if is_checked { "new" } else { "old" };
        let is_wanted = |asked: &Asked| asked.line == "POST /api/off/" && token(asked) == wanted;
        eventually("it is posted", async || server.backend.asked().iter().any(is_wanted)).await;
    }
    assert_eq!(server.backend.asked().iter().filter(|asked| asked.line == "POST /api/off/").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shown_is_refused_with_a_word_and_changes_nothing() {
    let application = Application::with(&[("old", 17)]);
    let server = application.serve(&[("URL_LIMIT", "256"), ("MESSAGE_RATE", "5")]).await;
    let (mut client, _) = member(&server, "old").await;
    for params in [
        Value::Null,
        json!("s3cret"),
        json!(["s3cret"]),
        json!({"token": 1}),
        json!({"token": ["s3cret"]}),
        json!({"token": "s3cret\r\nX-Evil: 1"}),
        json!({"token": "s3cret\0"}),
        json!({"token": "s3cret", "other": "x".repeat(300)}),
    ] {
        let reply = client.ask(authenticate(&params)).await;
        assert_eq!((&reply["requestId"], &reply["message"]), (&json!("9"), &json!("malformed-params")), "{reply}");
        assert!(!reply["detail"].as_str().unwrap().contains("s3cret"), "{reply}");
    }
    let reply = client.ask(json!({"type": "authenticate", "requestId": "9"})).await;
    assert_eq!(reply["message"], json!("malformed-params"));
    let reply = client.ask(json!({"type": "authenticate", "params": {"token": "x"}})).await;
    assert_eq!(reply["message"], json!("no-request-id"));
    let too_large = r#"credentials_shown_total{reason="too-large"}"#;
    assert_eq!(server.metric(too_large).await, 1);
    reauthorize(&server).await;
    server.until_metric(UNCHANGED, 1).await;
    assert_eq!(asked_with(&server, "old"), 2);
    // It counts as a message like any other.
    for _ in 0..60 {
        client.try_send(&authenticate(&json!({})).to_string()).await;
    }
    assert_eq!(client.close_code().await, 1008);
    let mut old = Client::connect(&server.public, "/ws/?token=old", &[]).await;
    old.next().await;
    assert_eq!(old.ask(authenticate(&json!({"token": "x"}))).await["message"], json!("message-type-not-allowed"));
}
