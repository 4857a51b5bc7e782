//! The API behind is asked as rarely as can be, by few calls at once, and not at all while it fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::Instant};

use crate::support::{
    Client, StubBackend, TestServer, Users,
    backend::{Answer, Asked},
    client::End,
    eventually,
    users::user,
};

/// A backend whose answers each wait for a permit.
async fn held(users: &Users) -> (StubBackend, Arc<Semaphore>) {
    let (users, permits) = (users.clone(), Arc::new(Semaphore::new(0)));
    let held = permits.clone();
    let rule = move |asked: &Asked| Answer::Held(held.clone(), Box::new(users.answer(asked)));
    (StubBackend::answering(rule).await, permits)
}

async fn is_welcome(client: &mut Client) {
    let welcome = client.next().await;
    assert_eq!(welcome["is_authorized"], json!(true), "{welcome}");
}

/// A client of version 4 is told to come back later; after how many seconds.
async fn told_to_try_later(client: &mut Client) -> f64 {
    let (texts, end) = client.end().await;
    let told: Value = serde_json::from_str(&texts[0]).unwrap();
    assert_eq!((&told["is_authorized"], &told["message"]), (&json!(false), &json!("try-later")), "{told}");
    let seconds = told["retry_after"].as_f64().unwrap();
    assert_eq!((texts.len(), end), (1, End::Closed(1013, format!("retry_after={seconds:.1}"))));
    seconds
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_clients_that_are_the_same_are_asked_for_once() {
    let (backend, permits) = held(&Users::default()).await;
    let server = TestServer::before(backend, &[]).await;
    let mut clients = Vec::new();
    let mut handshakes = Vec::new();
    for _ in 0..50 {
        handshakes.push(server.dialing("alice"));
        clients.push(server.dial_v4("alice").await);
    }
    server.until_metric("bootstraps_shared_total", 99).await;
    handshakes.push(server.dialing("bob"));
    eventually("another one is asked for", async || server.backend.bootstraps() == 2).await;
    permits.add_permits(2);
    for handshake in handshakes {
        clients.push(handshake.await.unwrap().unwrap());
    }
    for client in &mut clients {
        is_welcome(client).await;
    }
    assert_eq!(server.backend.bootstraps(), 2);
    assert_eq!(server.metric(r#"bootstraps_total{outcome="Ok"}"#).await, 2);
    // Whoever comes later is asked for anew.
    permits.add_permits(1);
    is_welcome(&mut server.dial("alice").await).await;
    assert_eq!(server.backend.bootstraps(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_never_more_calls_at_once_than_configured_hooks_included() {
    let (backend, permits) = held(&Users::default()).await;
    let vars = [("API_CONCURRENCY", "3"), ("HOOK_CONNECT", "on/"), ("HOOK_PING", "on/"), ("HOOK_DISCONNECT", "off/")];
    let server = TestServer::before(backend, &vars).await;
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(server.dial_v4(&format!("user-{number}")).await);
    }
    eventually("the others wait", async || server.metric("api_waiting").await == 17).await;
    assert_eq!(server.metric("api_calls").await, 3);
    permits.add_permits(1000);
    for client in &mut clients {
        is_welcome(client).await;
        client.send_text("ping").await;
    }
    drop(clients);
    let is_off = |asked: &&Asked| asked.line == "POST /api/off/";
    eventually("all is posted", async || server.backend.asked().iter().filter(is_off).count() == 20).await;
    assert_eq!((server.backend.bootstraps(), server.backend.most_at_once()), (20, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_line_is_full_new_clients_come_back_later_and_old_ones_are_held_and_served_in_the_end() {
    let (backend, permits) = held(&Users::default()).await;
    let server = TestServer::before(backend, &[("API_CONCURRENCY", "1"), ("API_QUEUE", "2")]).await;
    let mut served = Vec::new();
    for name in ["a", "b", "c"] {
        served.push(server.dial_v4(name).await);
    }
    eventually("two wait", async || server.metric("api_waiting").await == 2).await;
    for name in ["d", "e", "f"] {
        let seconds = told_to_try_later(&mut server.dial_v4(name).await).await;
        assert!((1.0..60.0).contains(&seconds), "{seconds}");
    }
    let handshakes = ["g", "h", "i"].map(|name| server.dialing(name));
    eventually("all old ones wait", async || server.metric("api_waiting").await == 5).await;
    assert_eq!(server.backend.bootstraps(), 1);
    permits.add_permits(100);
    for handshake in handshakes {
        served.push(handshake.await.unwrap().unwrap());
    }
    for client in &mut served {
        is_welcome(client).await;
    }
    assert_eq!((server.backend.bootstraps(), server.backend.most_at_once()), (6, 1));
    assert_eq!(server.metric(r#"bootstraps_total{outcome="Dropped"}"#).await, 3);
    assert_eq!(server.metric(r#"connections_refused_total{reason="backend"}"#).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_client_waits_for_its_turn_as_long_as_configured() {
    let (backend, _permits) = held(&Users::default()).await;
    let vars = [("API_CONCURRENCY", "1"), ("API_QUEUE_TIMEOUT", "1s"), ("API_TIMEOUT", "30s")];
    let server = TestServer::before(backend, &vars).await;
    let _first = server.dial_v4("a").await;
    eventually("it is asked for", async || server.backend.bootstraps() == 1).await;
    let start = Instant::now();
    told_to_try_later(&mut server.dial_v4("b").await).await;
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    server.until_metric("api_waiting", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_failures_in_a_row_give_the_api_a_pause_that_ends_with_a_single_call() {
    let (users, permits) = (Users::default(), Arc::new(Semaphore::new(0)));
    let server = TestServer::start().await;
    users.log_out("nobody");
    let answering = users.clone();
    server.backend.answer(move |asked| match user(asked) {
        "somebody" | "nobody" => answering.answer(asked),
        _ => Answer::Reply(503, String::new()),
    });
    // One that works makes the failures before it none in a row, and so does a clear no.
    for other in ["somebody", "nobody", ""] {
        for number in 0..9 {
            assert_eq!(server.dial_v4(&number.to_string()).await.close_code().await, 1013);
        }
        assert_eq!(server.metric("api_paused").await, 0);
        if !other.is_empty() {
            server.dial(other).await.next().await;
        }
    }
    assert_eq!(server.dial_v4("last").await.close_code().await, 1013);
    // A request of our own fails, too.
    server.until_metric("api_paused", 1).await;
    assert_eq!(server.metric("api_pauses_total").await, 1);
    // One call is let through in the pause.
    assert_eq!(server.dial_v4("trial").await.close_code().await, 1013);
    let (asked, start) = (server.backend.bootstraps(), Instant::now());
    let held = (users.clone(), permits.clone());
    server.backend.answer(move |asked| Answer::Held(held.1.clone(), Box::new(held.0.answer(asked))));
    for number in 0..5 {
        let refused = server.dialing(&number.to_string()).await.unwrap();
        assert!(refused.is_err_and(|refused| refused.is_for_now()));
    }
    told_to_try_later(&mut server.dial_v4("new").await).await;
    if start.elapsed() < Duration::from_millis(400) {
        assert_eq!(server.backend.bootstraps(), asked, "asked while it was to be left alone");
    }
    eventually("it is tried", async || server.backend.bootstraps() > asked).await;
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
    assert_eq!(server.backend.asked().last().unwrap().header("cookie"), None, "with a client's cookies");
    // As long as the one call is not answered there is no other one, whoever comes.
    assert!(server.dialing("another").await.unwrap().is_err());
    told_to_try_later(&mut server.dial_v4("new").await).await;
    assert_eq!((server.backend.bootstraps(), server.metric("api_paused").await), (asked + 1, 1));
    permits.add_permits(100);
    server.until_metric("api_paused", 0).await;
    is_welcome(&mut server.dial_v4("new").await).await;
    is_welcome(&mut server.dial("old").await).await;
    assert_eq!(server.metric("api_pauses_total").await, 1);
    assert_eq!(server.backend.bootstraps(), asked + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_asks_for_a_pause_is_given_it() {
    let users = Users::default();
    let answering = users.clone();
    let last = Arc::new(AtomicUsize::new(0));
    let is_first = last.clone();
    let backend = StubBackend::answering(move |asked| match is_first.fetch_add(1, SeqCst) {
        0 | 1 => Answer::ReplyWith(503, "Retry-After: 2\r\n", String::new()), // a client, and our own look
        _ => answering.answer(asked),
    });
    let server = TestServer::before(backend.await, &[]).await;
    let start = Instant::now();
    let refused = server.dialing("a").await.unwrap().err().unwrap();
    assert!(refused.is_for_now() && refused.retry_after >= Some(2), "{refused:?}");
    server.until_metric("api_paused", 1).await;
    assert!(server.dialing("b").await.unwrap().is_err_and(|refused| refused.is_for_now()));
    let (seconds, waited) = (told_to_try_later(&mut server.dial_v4("c").await).await, start.elapsed());
    assert!(seconds >= 1.9 - waited.as_secs_f64() && seconds < 10.0, "{seconds} after {waited:?}");
    eventually("it is asked again", async || last.load(SeqCst) > 2).await;
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    server.until_metric("api_paused", 0).await;
    is_welcome(&mut server.dial("a").await).await;
    assert_eq!(server.backend.bootstraps(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clear_no_is_passed_on_at_once_whatever_else_the_api_says() {
    let refusing = |_: &Asked| Answer::ReplyWith(403, "Retry-After: 0\r\n", String::new());
    let server = TestServer::before(StubBackend::answering(refusing).await, &[]).await;
    assert_eq!(server.dial("a").await.close_code().await, 1000);
    assert_eq!(server.dial_v4("a").await.close_code().await, 3500);
    assert_eq!(server.backend.bootstraps(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_said_is_used_again_for_the_same_client_until_something_changes() {
    let users = Users::default();
    let server = TestServer::before(users.backend().await, &[("AUTH_CACHE", "10m")]).await;
    let come = async |path: &str, cookie: &str| {
        let mut client = Client::connect(&server.public, path, &[("Cookie", cookie)]).await;
        is_welcome(&mut client).await;
        client.close().await;
        (server.backend.bootstraps(), server.metric("bootstraps_cached_total").await)
    };
    assert_eq!(come("/ws/", "user=alice").await, (1, 0));
    assert_eq!(come("/ws/", "user=alice").await, (1, 1));
    assert_eq!(come("/ws/", "user=bob").await, (2, 1));
    assert_eq!(come("/ws/", "user=alice; other=1").await, (3, 1));
    assert_eq!(come("/ws/?token=t", "user=alice").await, (4, 1));
    // What is not passed on makes no difference.
    assert_eq!(come("/ws/?other=t", "user=alice").await, (4, 2));
    server.until_number("open_connections", 0).await;
    for (number, message) in
        (1..).zip([json!({"action": "reauthorize", "user": "alice"}), json!({"action": "disconnect", "user": "alice"})])
    {
        let asked = server.backend.bootstraps();
        server.control(message.clone()).await;
        server.until_metric(&format!(r#"controls_total{{reason="{}"}}"#, message["action"].as_str().unwrap()), 1).await;
        assert_eq!(come("/ws/", "user=alice").await, (asked + 1, 2 * number));
        assert_eq!(come("/ws/", "user=alice").await, (asked + 1, 2 * number + 1));
        assert_eq!(come("/ws/", "user=bob").await, (asked + 1, 2 * number + 2));
    }
    let asked = server.backend.bootstraps();
    server.control(json!({"action": "disconnect", "all": true})).await;
    server.until_metric(r#"controls_total{reason="disconnect"}"#, 2).await;
    for (number, user) in (1..).zip(["user=alice", "user=bob"]) {
        assert_eq!(come("/ws/", user).await, (asked + number, 6));
    }
    users.log_out("carl");
    for number in 1..=3 {
        assert_eq!(server.dial("carl").await.close_code().await, 1000);
        assert_eq!(server.backend.bootstraps(), asked + 2 + number, "a no was kept");
    }
    for answer in [Answer::Reply(500, String::new()), Answer::Reply(200, "null".into())] {
        server.backend.answer(move |_| answer.clone());
        for _ in 0..2 {
            let asked = server.backend.bootstraps();
            assert!(server.dialing("dora").await.unwrap().is_err());
            assert_eq!(server.backend.bootstraps(), asked + 1, "a failure was kept");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_said_is_not_used_again_for_longer_than_configured() {
    let server = TestServer::before(Users::default().backend().await, &[("AUTH_CACHE", "1s")]).await;
    is_welcome(&mut server.dial("alice").await).await;
    eventually("it is asked again", async || {
        is_welcome(&mut server.dial("alice").await).await;
        server.backend.bootstraps() == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_is_tried_again_where_that_may_help_and_given_up_in_the_end() {
    let (users, failed) = (Users::default(), Arc::new(AtomicUsize::new(0)));
    let backend = StubBackend::answering(move |asked| match (asked.line.as_str(), user(asked)) {
        ("POST /api/on/", "once") if failed.fetch_add(1, SeqCst) == 0 => Answer::Reply(500, String::new()),
        ("POST /api/on/", "never") => Answer::Reply(404, String::new()),
        ("POST /api/on/", "gone") => Answer::Reply(500, String::new()),
        _ => users.answer(asked),
    });
    let server = TestServer::before(backend.await, &[("HOOK_CONNECT", "on/"), ("HOOK_DISCONNECT", "off/")]).await;
    let hooks = |name: &str| {
        let asked = server.backend.asked().into_iter().filter(|asked| asked.line != "GET /api/bootstrap/");
        asked.filter(|asked| user(asked) == name).map(|asked| asked.line).collect::<Vec<_>>()
    };
    let (on, off) = ("POST /api/on/", "POST /api/off/");
    let once = server.member("once", &[]).await;
    let _never = server.member("never", &[]).await;
    let gone = server.member("gone", &[]).await;
    let refused = r#"hooks_total{outcome="Refused"}"#;
    eventually("each has failed once", async || server.metric(refused).await >= 3).await;
    gone.close().await;
    // A clear no is final. Nobody needs to hear that somebody has come who has gone; only that it has gone.
    eventually("the last word is posted", async || hooks("gone").last().is_some_and(|line| line == off)).await;
    assert_eq!(hooks("gone"), [on, on, off]);
    eventually("it is tried again", async || hooks("once") == [on, on]).await;
    assert_eq!(hooks("never"), [on]);
    server.until_metric("hooks_given_up_total", 2).await;
    assert_eq!(server.metric(refused).await, 4);
    once.close().await;
    eventually("it is gone, too", async || hooks("once") == [on, on, off]).await;
    // Clients do not suffer from it.
    assert_eq!(server.metric("api_pauses_total").await, 0);
}
