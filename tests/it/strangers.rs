//! What a stranger sends is its own trouble: the API goes on being asked for everybody else.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use futures::future::join_all;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{
    Client, StubBackend, TestServer, Users,
    backend::{Answer, Asked},
    client::End,
    eventually,
    users::user,
};

/// What an API's server does with a cookie of more than 4096 bytes.
fn before_servers_with_small_buffers() -> [(&'static str, Answer); 4] {
    [
        ("uWSGI closes the connection", Answer::Raw(Vec::new())),
        ("nginx before it says 502", Answer::Reply(502, String::new())),
        ("a proxy says 503", Answer::Reply(503, String::new())),
        ("and for how long", Answer::ReplyWith(503, "Retry-After: 600\r\n", String::new())),
    ]
}

async fn in_front_of(answer: Answer, vars: &[(&str, &str)]) -> TestServer {
    let users = Users::default();
    let backend = StubBackend::answering(move |asked| match asked.header("cookie") {
        Some(cookie) if cookie.len() > 4096 => answer.clone(),
        _ => users.answer(asked),
    });
    TestServer::before(backend.await, vars).await
}

/// A client of version 4 at `address`, if a proxy tells that, with a cookie of `length` bytes.
async fn dial(server: &TestServer, name: &str, address: Option<&str>, length: usize) -> Client {
    let cookie = format!("user={name}; x={}", "x".repeat(length.saturating_sub(name.len() + 8)));
    let mut headers = vec![("Sec-WebSocket-Protocol", "high-templar.v4"), ("Cookie", cookie.as_str())];
    headers.extend(address.map(|address| ("X-Real-IP", address)));
    Client::connect(&server.public, "/ws/", &headers).await
}

async fn is_welcome(client: &mut Client) {
    let welcome = client.next().await;
    assert_eq!(welcome["is_authorized"], json!(true), "{welcome}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cookies_of_a_stranger_keep_the_api_from_being_asked_for_others() {
    for (what, answer) in before_servers_with_small_buffers() {
        for address in [None, Some("192.0.2.66")] {
            let server = in_front_of(answer.clone(), &[]).await;
            for round in 0..3 {
                // Ten times one cookie, ten different ones, and ten at the same time.
                for number in 0..20 {
                    let name = format!("stranger-{}", if number < 10 { 0 } else { number });
                    let (texts, _) = dial(&server, &name, address, 5000).await.end().await;
                    assert!(texts[0].contains("try-later"), "{what}: {texts:?}");
                }
                let mut strangers = Vec::new();
                for number in 0..10 {
                    strangers.push(dial(&server, &format!("at once {number}"), address, 5000).await);
                }
                for number in 0..10 {
                    let name = format!("newcomer-{round}-{number}");
                    let address = address.map(|_| format!("192.0.2.{number}"));
                    is_welcome(&mut dial(&server, &name, address.as_deref(), 100).await).await;
                }
                drop(strangers);
                assert_eq!(server.metric("api_paused").await, 0, "{what}");
            }
            assert_eq!(server.metric("api_pauses_total").await, 0, "{what}");
            assert_eq!(server.metric(r#"bootstraps_total{outcome="Dropped"}"#).await, 0, "{what}");
            let probes = server.metric(r#"api_probes_total{outcome="Ok"}"#).await;
            assert!((1..10).contains(&probes), "{what}: {probes} probes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_down_is_left_alone_whoever_finds_that_out_and_asked_again_when_it_is_back() {
    let is_down = Arc::new(AtomicBool::new(false));
    for strangers in [1, 10] {
        let (users, down) = (Users::default(), is_down.clone());
        let backend = StubBackend::answering(move |asked| match down.load(SeqCst) {
            true => Answer::Raw(Vec::new()),
            false => users.answer(asked),
        });
        let server = TestServer::before(backend.await, &[]).await;
        is_welcome(&mut server.dial_v4("a").await).await;
        is_down.store(true, SeqCst);
        for number in 0..10 {
            dial(&server, &(number % strangers).to_string(), Some("192.0.2.66"), 100).await.end().await;
        }
        server.until_metric("api_paused", 1).await;
        // From here on it is asked once by ourselves after each pause, and for one client.
        let (asked, mut probes) = (server.backend.bootstraps() as u64, 0);
        while probes < 3 {
            dial(&server, "another", None, 100).await.end().await;
            probes = server.metric(r#"api_probes_total{outcome="Unreachable"}"#).await;
        }
        let asked = server.backend.bootstraps() as u64 - asked;
        assert!(asked <= 2 * probes, "{asked} requests, {probes} probes");
        is_down.store(false, SeqCst);
        server.until_metric("api_paused", 0).await;
        is_welcome(&mut server.dial_v4("b").await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_answers_nobody_is_left_alone() {
    let backend = StubBackend::answering(|_| Answer::Silence).await;
    let server = TestServer::before(backend, &[("API_TIMEOUT", "1s")]).await;
    let mut clients = Vec::new();
    for number in 0..10 {
        clients.push(server.dial_v4(&number.to_string()).await);
    }
    server.until_metric("api_paused", 1).await;
    assert_eq!(server.backend.bootstraps(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_the_same_cookies_as_a_stranger_does_not_wait_in_its_line() {
    let (users, held) = (Users::default(), Arc::new(Semaphore::new(0)));
    let permits = held.clone();
    let backend = StubBackend::answering(move |asked: &Asked| match user(asked) {
        name if name.starts_with("slow") => Answer::Held(permits.clone(), Box::new(users.answer(asked))),
        _ => users.answer(asked),
    });
    let vars = [("API_CONCURRENCY", "4"), ("API_TIMEOUT", "2m"), ("API_HEADERS", r#"{"X-Real-IP":""}"#)];
    let server = TestServer::before(backend.await, &vars).await;
    let mut strangers = Vec::new();
    for number in 0..10 {
        let cookie = format!("user=slow-{number}");
        let headers = [("Cookie", cookie.as_str()), ("X-Real-IP", "192.0.2.66")];
        strangers.push(Client::connect(&server.public, "/ws/", &headers).await);
    }
    eventually("it has its share", async || server.metric("api_waiting").await == 7).await;
    // Without cookies all are the same to the API, and are asked for once.
    let mut same = Vec::new();
    for number in [66, 1, 2] {
        let address = format!("192.0.2.{number}");
        same.push(Client::connect(&server.public, "/ws/", &[("X-Real-IP", &address)]).await);
        if number == 66 {
            eventually("it waits in its line", async || server.metric("api_waiting").await == 8).await;
        }
    }
    for client in &mut same {
        is_welcome(client).await;
    }
    let without = server.backend.asked().iter().filter(|asked| asked.header("cookie").is_none()).count();
    assert!(without <= 2, "{without}"); // one that comes when the first is answered is asked for anew
    held.add_permits(100);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_cannot_be_reached_at_all_is_left_alone() {
    let server = TestServer::with(&[("API_URL", "http://127.0.0.1:1/api/")]).await;
    for _ in 0..10 {
        server.dial_v4("a").await.end().await;
    }
    server.until_metric("api_paused", 1).await;
    let (texts, _) = server.dial_v4("a").await.end().await;
    assert!(texts[0].contains("try-later"), "{texts:?}");
    server.until_metric(r#"bootstraps_total{outcome="Dropped"}"#, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_fails_without_cookies_is_asked_again_when_it_serves_a_client() {
    let is_down = Arc::new(AtomicBool::new(true));
    let (users, down) = (Users::default(), is_down.clone());
    let backend = StubBackend::answering(move |asked| match asked.header("cookie") {
        Some(_) if !down.load(SeqCst) => users.answer(asked),
        _ => Answer::Reply(502, String::new()),
    });
    let server = TestServer::before(backend.await, &[]).await;
    for number in 0..10 {
        server.dial_v4(&number.to_string()).await.end().await;
    }
    server.until_metric("api_paused", 1).await;
    is_down.store(false, SeqCst);
    eventually("a client is served", async || server.dial_v4("a").await.next().await["is_authorized"] == json!(true))
        .await;
    assert_eq!(server.metric("api_paused").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_requests_of_a_stranger_leave_slots_and_turns_to_others() {
    let (users, held) = (Users::default(), Arc::new(Semaphore::new(0)));
    let permits = held.clone();
    let backend = StubBackend::answering(move |asked: &Asked| match user(asked) {
        name if name.starts_with("slow") => Answer::Held(permits.clone(), Box::new(users.answer(asked))),
        _ => users.answer(asked),
    });
    // A stranger that held everything would hold it for two minutes.
    let vars = [("API_CONCURRENCY", "4"), ("API_QUEUE", "10"), ("API_TIMEOUT", "2m")];
    let server = TestServer::before(backend.await, &vars).await;
    let slow = |asked: &Asked| user(asked).starts_with("slow").then(|| user(asked).to_owned());
    let asked_slowly = || server.backend.asked().iter().filter_map(slow).collect::<HashSet<_>>().len();
    // Clients of 3.1's protocol wait in line however long it is; their handshakes are answered meanwhile.
    let stranger = async |number: usize| {
        let cookie = format!("user=slow-{number}");
        let headers = [("Cookie", cookie.as_str()), ("X-Real-IP", "192.0.2.66")];
        Client::connect(&server.public, "/ws/", &headers).await
    };
    let mut strangers = join_all((0..40).map(stranger)).await;
    eventually("it has its share", async || server.metric("api_waiting").await == 37).await;
    assert_eq!((server.metric("api_calls").await, asked_slowly()), (3, 3));
    for number in 0..20 {
        let address = format!("192.0.2.{number}");
        is_welcome(&mut dial(&server, &number.to_string(), Some(&address), 100).await).await;
    }
    // A client of version 4 at its address is told to come back: the line is full for that.
    let (texts, end) = dial(&server, "stranger", Some("192.0.2.66"), 100).await.end().await;
    assert!(texts[0].contains("try-later") && matches!(end, End::Closed(1013, _)), "{texts:?}");
    assert_eq!((asked_slowly(), server.metric("api_calls").await), (3, 3));
    held.add_permits(100);
    for client in &mut strangers {
        is_welcome(client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_of_a_stranger_that_take_long_leave_slots_to_others() {
    let (users, held) = (Users::default(), Arc::new(Semaphore::new(0)));
    let permits = held.clone();
    let backend = StubBackend::answering(move |asked: &Asked| match asked.line.starts_with("POST") {
        true if user(asked).starts_with("slow") => Answer::Held(permits.clone(), Box::new(users.answer(asked))),
        _ => users.answer(asked),
    });
    let vars = [("API_CONCURRENCY", "4"), ("API_TIMEOUT", "2m"), ("HOOK_CONNECT", "on/")];
    let server = TestServer::before(backend.await, &vars).await;
    let mut strangers = Vec::new();
    for number in 0..10 {
        let name = format!("slow-{number}");
        let mut stranger = dial(&server, &name, Some("192.0.2.66"), 100).await;
        if number < 3 {
            is_welcome(&mut stranger).await;
            eventually("its hook is posted", async || server.metric("api_calls").await == number + 1).await;
        }
        strangers.push(stranger); // the others wait behind its own hooks
    }
    for number in 0..20 {
        let address = format!("192.0.2.{number}");
        is_welcome(&mut dial(&server, &number.to_string(), Some(&address), 100).await).await;
    }
    held.add_permits(1000);
}
