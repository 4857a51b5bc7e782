//! Coming back with a ticket, without the backend being asked; and all that makes a ticket count no more.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::Instant};
use uuid::Uuid;

use crate::support::{Client, TestServer, Users, backend::Answer, client::End, eventually, rabbitmq};

const SECRET: (&str, &str) = ("RESUME_SECRET", "0123456789abcdef");
const ALICE: &str = "user=alice";

fn room() -> Value {
    json!({"target": "message"})
}

async fn start(vars: &[(&str, &str)]) -> TestServer {
    TestServer::before(Users::default().backend().await, &[&[SECRET], vars].concat()).await
}

/// Connects with `cookie` to where tickets are shown; nothing has been read.
async fn dial(server: &TestServer, cookie: &str) -> Client {
    let headers = [("Sec-WebSocket-Protocol", "high-templar.v4"), ("Cookie", cookie)];
    Client::connect(&server.public, "/ws/?resume", &headers).await
}

/// Comes back with `ticket`: the client, its welcome, and whether the backend was asked.
async fn come_back(server: &TestServer, cookie: &str, ticket: &str) -> (Client, Value, bool) {
    let asked = server.backend.bootstraps();
    let mut client = dial(server, cookie).await;
    let welcome = client.ask(json!({"type": "resume", "ticket": ticket})).await;
    assert_eq!(welcome["is_authorized"], json!(true), "{welcome}");
    (client, welcome, server.backend.bootstraps() > asked)
}

async fn counts(server: &TestServer, cookie: &str, ticket: &str) -> bool {
    let (client, welcome, was_asked) = come_back(server, cookie, ticket).await;
    let is_resumed = welcome["resumed"] == json!(true);
    assert!(is_resumed || was_asked, "{welcome}"); // about a client that is resumed it may be asked right afterwards
    client.close().await;
    is_resumed
}

/// The ticket of somebody who has been here and has gone; and the connection's id.
async fn ticket(server: &TestServer, cookie: &str) -> (String, String) {
    let headers = [("Sec-WebSocket-Protocol", "high-templar.v4"), ("Cookie", cookie)];
    let mut client = Client::connect(&server.public, "/ws/", &headers).await;
    let welcome = client.next().await;
    assert_eq!(welcome["resumed"], json!(false), "{welcome}");
    client.close().await;
    let text = |name: &str| welcome[name].as_str().unwrap_or_else(|| panic!("no {name} in {welcome}")).to_owned();
    (text("ticket"), text("connection"))
}

async fn has_counted(server: &TestServer, word: &str) -> u64 {
    server.metric(&format!(r#"tickets_total{{reason="{word}"}}"#)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_with_a_ticket_may_do_what_it_could_without_the_backend_being_asked() {
    let server = start(&[]).await;
    let (mut client, first) = {
        let mut client = server.dial_v4("alice").await;
        let welcome = client.next().await;
        (client, welcome)
    };
    let wanted = json!({"type": "subscribe", "requestId": "1", "room": room()});
    assert_eq!(client.ask(wanted.clone()).await["code"], json!("success"));
    drop(client);
    server.trigger(json!({"rooms": [room()], "data": "missed"})).await;
    let (mut client, welcome, was_asked) = come_back(&server, ALICE, first["ticket"].as_str().unwrap()).await;
    assert!(!was_asked && welcome["resumed"] == json!(true), "{welcome}");
    for room in first["allowed_rooms"].as_array().unwrap() {
        assert!(welcome["allowed_rooms"].as_array().unwrap().contains(room), "{welcome}");
    }
    assert_ne!(welcome["connection"], first["connection"]);
    let mut since = wanted.clone();
    since["since"] = first["position"].clone();
    assert_eq!(client.ask(since).await["recovered"], json!(true));
    assert_eq!(client.next().await["data"], json!("missed"));
    let other = json!({"type": "subscribe", "requestId": "2", "room": {"target": "other"}});
    assert_eq!(client.ask(other).await["message"], json!("room-not-found"));
    // It is still the same user's, and has a ticket again.
    assert_eq!(server.get("/connections?user=alice").await.json()["count"], json!(1));
    assert!(counts(&server, ALICE, welcome["ticket"].as_str().unwrap()).await);
    server.control(json!({"action": "disconnect", "user": "alice"})).await;
    assert_eq!(client.close_code().await, 3501);
    assert_eq!(has_counted(&server, "accepted").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_counts_for_the_same_cookies_only_and_with_every_letter() {
    let server = start(&[]).await;
    let (ticket, _) = ticket(&server, ALICE).await;
    for cookie in ["user=bob", "user=alice; other=1", ""] {
        assert!(!counts(&server, cookie, &ticket).await, "{cookie}");
    }
    let (said, tag) = ticket.split_once('.').unwrap();
    let other = |letter: &str| if letter == "A" { "B" } else { "A" };
    let mut wrong =
        vec![String::new(), ".".into(), said.into(), format!("{said}."), format!(".{tag}"), "x".repeat(100_000)];
    for at in (0..ticket.len()).step_by(23).chain([ticket.len() - 2]) {
        wrong.push([&ticket[..at], other(&ticket[at..=at]), &ticket[at + 1..]].concat());
    }
    for wrong in &wrong {
        assert!(!counts(&server, ALICE, wrong).await, "{wrong}");
    }
    // What is longer than two tickets is not even taken for one.
    assert_eq!(has_counted(&server, "invalid").await, wrong.len() as u64 - 1 + 3);
    assert!(counts(&server, ALICE, &ticket).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_message_makes_the_tickets_of_those_it_is_about_worthless_and_no_others() {
    let server = start(&[]).await;
    for action in ["disconnect", "reauthorize"] {
        for target in ["user", "connection", "all", "room"] {
            let ((hers, id), (his, _)) = (ticket(&server, ALICE).await, ticket(&server, "user=bob").await);
            let message = match target {
                "user" => json!({"action": action, "user": "alice"}),
                "connection" => json!({"action": action, "connection": id}),
                "room" => json!({"action": action, "room": room()}),
                _ => json!({"action": action, "all": true}),
            };
            let name = format!(r#"controls_total{{reason="{action}"}}"#);
            let applied = server.metric(&name).await;
            server.control(message).await;
            server.until_metric(&name, applied + 1).await;
            assert!(!counts(&server, ALICE, &hers).await, "{action} {target}");
            let is_his_good = matches!(target, "user" | "connection");
            assert_eq!(counts(&server, "user=bob", &his).await, is_his_good, "{action} {target}");
            let (new, _) = ticket(&server, ALICE).await;
            assert!(counts(&server, ALICE, &new).await, "{action} {target}: one from after it");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_counts_for_as_long_as_configured() {
    let server = start(&[("RESUME_TTL", "2s")]).await;
    let (ticket, _) = ticket(&server, ALICE).await;
    assert!(counts(&server, ALICE, &ticket).await);
    crate::support::eventually("it is too old", async || !counts(&server, ALICE, &ticket).await).await;
    assert_eq!(has_counted(&server, "expired").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stays_is_given_another_ticket_before_the_last_one_is_too_old() {
    let server = start(&[("RESUME_TTL", "4s"), ("PING_INTERVAL", "1s")]).await;
    let mut client = server.dial_v4("alice").await;
    let mut last = client.next().await["ticket"].clone();
    for _ in 0..3 {
        let frame = client.next().await;
        assert_eq!(frame["type"], json!("ticket"), "{frame}");
        assert_ne!(frame["ticket"], last);
        last = frame["ticket"].clone();
    }
    assert!(counts(&server, ALICE, last.as_str().unwrap()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_stop_a_fresh_ticket_comes_before_the_close_and_what_is_no_client_of_it_gets_none() {
    let (exchange, url) = (format!("test-{}", Uuid::new_v4()), rabbitmq::shared());
    let vars = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", exchange.as_str())];
    let (one, two) = (start(&vars).await, start(&vars).await);
    let (mut client, _) = one.member_v4("alice", &[("1", room())]).await;
    let mut old = one.member("alice", &[("1", room())]).await;
    one.begin_stop();
    let (texts, end) = client.end().await;
    assert!(matches!(&end, End::Closed(1001, reason) if reason.starts_with("retry_after=")), "{end:?}");
    let frame: Value = serde_json::from_str(&texts[0]).unwrap();
    assert_eq!((texts.len(), &frame["type"]), (1, &json!("ticket")));
    assert_eq!(old.end().await, (Vec::new(), End::Closed(1001, "going away".into())));
    assert!(counts(&two, ALICE, frame["ticket"].as_str().unwrap()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_rabbitmq_a_ticket_counts_on_every_instance_with_the_secret_those_started_later_included() {
    let (exchange, url) = (format!("test-{}", Uuid::new_v4()), rabbitmq::shared());
    let vars = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", exchange.as_str())];
    let (one, two) = (start(&vars).await, start(&vars).await);
    let other = start(&[&vars[..], &[("RESUME_SECRET", "fedcba9876543210")]].concat()).await;
    let none = TestServer::before(Users::default().backend().await, &vars).await;
    let (ticket_a, _) = ticket(&one, ALICE).await;
    let (ticket_b, _) = ticket(&one, "user=bob").await;
    assert!(counts(&two, ALICE, &ticket_a).await && !counts(&other, ALICE, &ticket_a).await);
    let (_client, welcome, was_asked) = come_back(&none, ALICE, &ticket_a).await;
    assert!(was_asked && welcome.get("ticket").is_none() && welcome.get("resumed").is_none(), "{welcome}");
    let later = start(&vars).await;
    assert!(counts(&later, ALICE, &ticket_a).await);
    // An instance that was not there when the message came knows of it.
    two.control(json!({"action": "disconnect", "user": "alice"})).await;
    let last = start(&vars).await;
    for server in [&one, &two, &later, &last] {
        server.until_ready().await;
        crate::support::eventually("alice's counts no more", async || !counts(server, ALICE, &ticket_a).await).await;
        assert!(counts(server, "user=bob", &ticket_b).await);
    }
    two.control(json!({"action": "disconnect", "all": true})).await;
    let last = start(&vars).await;
    assert!(!counts(&last, "user=bob", &ticket_b).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn something_other_than_a_ticket_that_comes_first_is_answered_after_the_welcome() {
    let server = start(&[]).await;
    let batch = json!({"type": "subscribe", "subscriptions": [
        {"requestId": "1", "room": room()}, {"requestId": "2", "room": {"customer": 7}}]});
    let single = json!({"type": "subscribe", "requestId": "1", "room": room()});
    for (first, replies) in [(single, 1), (batch, 2), (json!({"type": "resume"}), 1), (json!(["ticket"]), 1)] {
        let mut client = dial(&server, ALICE).await;
        let welcome = client.ask(first.clone()).await;
        assert_eq!((&welcome["type"], &welcome["resumed"]), (&json!("welcome"), &json!(false)), "{first}");
        for _ in 0..replies {
            let reply = client.next().await;
            let is_subscribe = first["type"] == json!("subscribe");
            assert_eq!(reply["code"], json!(if is_subscribe { "success" } else { "error" }), "{reply}");
        }
        client.expect_silence().await;
    }
    let mut client = dial(&server, ALICE).await;
    client.send_text("ping").await;
    client.send_text("ping").await;
    assert_eq!(client.next().await["is_authorized"], json!(true));
    assert_eq!((client.next().await, client.next().await), (json!("pong"), json!("pong")));
    // Too late is a request like any other.
    let reply = client.ask(json!({"type": "resume", "ticket": "x"})).await;
    assert_eq!(reply["message"], json!("message-type-not-allowed"));
    assert_eq!(server.metric(r#"tickets_total{reason="invalid"}"#).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_that_it_has_a_ticket_and_shows_none_is_served_all_the_same() {
    let server = start(&[]).await;
    let mut client = dial(&server, ALICE).await;
    assert_eq!(client.next().await["resumed"], json!(false));
    client.expect_silence().await;
    // In 3.1's protocol there are none.
    let mut old = Client::connect(&server.public, "/ws/?resume", &[("Cookie", ALICE)]).await;
    let welcome = old.next().await;
    assert!(welcome["is_authorized"] == json!(true) && welcome.get("ticket").is_none(), "{welcome}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_restarted_takes_tickets_by_the_log_that_it_has_kept() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log").to_string_lossy().into_owned();
    let vars = [("EMBEDDED_LOG", log.as_str())];
    let server = start(&vars).await;
    let ((hers, _), (his, _)) = (ticket(&server, ALICE).await, ticket(&server, "user=bob").await);
    server.control(json!({"action": "disconnect", "user": "alice"})).await;
    server.stop().await;
    let server = start(&vars).await;
    assert!(!counts(&server, ALICE, &hers).await && counts(&server, "user=bob", &his).await);
    server.control(json!({"action": "disconnect", "all": true})).await;
    server.stop().await;
    let server = start(&vars).await;
    assert!(!counts(&server, "user=bob", &his).await);
    // A log that is gone vouches for nobody.
    let forgetful = start(&[]).await;
    let (ticket, _) = ticket(&forgetful, ALICE).await;
    forgetful.stop().await;
    assert!(!counts(&start(&[]).await, ALICE, &ticket).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_turned_out_by_a_check_does_not_come_back_with_a_ticket() {
    let users = Users::default();
    let vars = [SECRET, ("REAUTHORIZE_INTERVAL", "1s")];
    let server = TestServer::before(users.backend().await, &vars).await;
    let mut client = server.dial_v4("alice").await;
    let ticket = client.next().await["ticket"].as_str().unwrap().to_owned();
    users.log_out("alice");
    assert_eq!(client.close_code().await, 3502);
    let mut client = dial(&server, ALICE).await;
    let welcome = client.ask(json!({"type": "resume", "ticket": ticket})).await;
    assert_eq!(welcome["is_authorized"], json!(false), "{welcome}");
}

/// Waits until `time` has passed since `start`.
async fn until_after(start: Instant, time: Duration) {
    eventually("time passes", async || start.elapsed() > time).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_tickets_ends_when_the_api_does_not_confirm_it_and_the_api_is_asked() {
    const TTL: Duration = Duration::from_secs(4);
    const INTERVAL: Duration = Duration::from_secs(2);
    for answer in [Answer::Reply(403, String::new()), Answer::Reply(502, String::new())] {
        for interval in [None, Some(("REAUTHORIZE_INTERVAL", "2s"))] {
            let vars: Vec<_> = [("RESUME_TTL", "4s")].into_iter().chain(interval).collect();
            let server = start(&vars).await;
            let bound = if interval.is_some() { INTERVAL } else { TTL };
            let (mut last, _) = ticket(&server, ALICE).await;
            let (confirmed, mut tickets) = (Instant::now(), vec![last.clone()]);
            let asked = server.backend.bootstraps();
            let other = answer.clone();
            server.backend.answer(move |_| other.clone());
            let mut received = 0;
            loop {
                let since = server.get("/position").await.json()["position"].clone();
                server.trigger(json!({"rooms": [room()], "data": "news"})).await;
                let mut client = dial(&server, ALICE).await;
                let welcome = client.ask(json!({"type": "resume", "ticket": last})).await;
                if welcome["is_authorized"] == json!(false) {
                    break;
                }
                assert!(confirmed.elapsed() < bound + Duration::from_millis(100), "{:?}", confirmed.elapsed());
                client
                    .try_send(
                        &json!({"type": "subscribe", "requestId": "1", "room": room(), "since": since}).to_string(),
                    )
                    .await;
                while let Ok(frame) = client.next_or_end().await {
                    if frame["type"] == json!("publish") {
                        received += 1;
                        break;
                    }
                }
                client.try_send("ping").await;
                drop(client);
                last = welcome["ticket"].as_str().unwrap_or(&last).to_owned();
                tickets.push(last.clone());
                tokio::time::sleep(Duration::from_millis(100)).await; // comes back every few moments
            }
            assert!(received > 0 && server.backend.bootstraps() > asked, "{received}");
            // A ticket may be refused before its time, as where the log is not read to its end; after it, none counts.
            tokio::time::sleep((bound + Duration::from_millis(100)).saturating_sub(confirmed.elapsed())).await;
            for ticket in &tickets {
                let mut client = dial(&server, ALICE).await;
                let welcome = client.ask(json!({"type": "resume", "ticket": ticket})).await;
                assert_eq!(welcome["is_authorized"], json!(false), "{welcome}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_on_an_old_answer_is_asked_about_at_once_whether_it_stays_or_not() {
    let users = Users::default();
    let vars = [SECRET, ("RESUME_TTL", "6s"), ("PING_INTERVAL", "1s")];
    let server = TestServer::before(users.backend().await, &vars).await;
    let begin = Instant::now();
    let (mut leaving, mut staying) = (server.dial_v4("alice").await, server.dial_v4("bob").await);
    for client in [&mut leaving, &mut staying] {
        client.next().await;
    }
    until_after(begin, Duration::from_secs(3)).await;
    let mut tickets = Vec::new();
    for mut client in [leaving, staying] {
        // One from the end of a long connection counts in full.
        let mut last = client.next().await["ticket"].as_str().unwrap().to_owned();
        while let Ok(frame) = tokio::time::timeout(Duration::from_millis(50), client.next()).await {
            frame["ticket"].as_str().unwrap().clone_into(&mut last);
        }
        tickets.push(last);
    }
    users.log_out("alice");
    users.log_out("bob");
    let asked = server.backend.bootstraps();
    let (client, welcome, _) = come_back(&server, ALICE, &tickets[0]).await;
    drop(client);
    assert_eq!(welcome["resumed"], json!(true));
    let (mut client, _, _) = come_back(&server, "user=bob", &tickets[1]).await;
    assert_eq!(client.close_code().await, 3502);
    eventually("both are asked for", async || server.backend.bootstraps() == asked + 2).await;
    server.until_metric(r#"controls_total{reason="forget"}"#, 2).await;
    let mut client = dial(&server, ALICE).await;
    let welcome = client.ask(json!({"type": "resume", "ticket": welcome["ticket"]})).await;
    assert_eq!(welcome["is_authorized"], json!(false), "{welcome}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_come_back_are_served_at_once_and_the_api_is_asked_once_for_each_and_no_faster_than_it_can() {
    const CLIENTS: usize = 60;
    let users = Users::default();
    let vars = [SECRET, ("RESUME_TTL", "8s"), ("PING_INTERVAL", "1s"), ("API_CONCURRENCY", "4")];
    let server = TestServer::before(users.backend().await, &vars).await;
    let begin = Instant::now();
    let connect = async |number: usize| {
        let mut client = server.dial_v4(&format!("user-{number}")).await;
        client.next().await;
        client
    };
    let mut clients = join_all((0..CLIENTS).map(connect)).await;
    until_after(begin, Duration::from_secs(5)).await;
    let tickets = clients.iter_mut().map(async |client| {
        let mut last = client.next().await["ticket"].as_str().unwrap().to_owned();
        while let Ok(frame) = tokio::time::timeout(Duration::from_millis(50), client.next()).await {
            frame["ticket"].as_str().unwrap().clone_into(&mut last);
        }
        last
    });
    let tickets = join_all(tickets).await;
    drop(clients);
    let permits = Arc::new(Semaphore::new(0));
    let held = permits.clone();
    server.backend.answer(move |asked| Answer::Held(held.clone(), Box::new(users.answer(asked))));
    let asked = server.backend.bootstraps();
    let come = async |(number, ticket): (usize, &String)| {
        let mut client = dial(&server, &format!("user=user-{number}")).await;
        let welcome = client.ask(json!({"type": "resume", "ticket": ticket})).await;
        assert_eq!(welcome["resumed"], json!(true), "{welcome}");
        let reply = client.ask(json!({"type": "subscribe", "requestId": "1", "room": room()})).await;
        assert_eq!(reply["code"], json!("success"));
        client
    };
    let mut clients = join_all(tickets.iter().enumerate().map(come)).await;
    server.trigger(json!({"rooms": [room()], "data": "while nothing is answered"})).await;
    for client in &mut clients {
        assert_eq!(client.next().await["data"], json!("while nothing is answered"));
    }
    assert!(server.backend.bootstraps() - asked <= 4, "{}", server.backend.bootstraps() - asked);
    permits.add_permits(10 * CLIENTS);
    server.until_metric(r#"rechecks_total{reason="unchanged"}"#, CLIENTS as u64).await;
    assert_eq!(server.backend.bootstraps() - asked, CLIENTS);
    assert!(server.backend.most_at_once() <= 4, "{}", server.backend.most_at_once());
    // From here on their tickets count in full again.
    for client in &mut clients {
        assert_eq!(client.next().await["type"], json!("ticket"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_has_become_another_user_does_not_go_on_as_the_first_one() {
    let users = Users::default();
    let server = TestServer::before(users.backend().await, &[SECRET, ("REAUTHORIZE_INTERVAL", "1s")]).await;
    let mut client = server.dial_v4("alice").await;
    let ticket = client.next().await["ticket"].as_str().unwrap().to_owned();
    let body = json!({"allowed_rooms": [room(), {"customer": "*"}], "user": {"data": {"id": "carl"}}}).to_string();
    server.backend.answer(move |_| Answer::Reply(200, body.clone()));
    server.until_metric(r#"controls_total{reason="forget"}"#, 1).await;
    assert!(!counts(&server, ALICE, &ticket).await);
}
