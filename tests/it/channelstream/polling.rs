//! Long polling.

use std::time::Duration;

use futures::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::support::{
    channelstream::{SOON, Site},
    http,
};

/// For a poll that was sent to have arrived.
const A_MOMENT: Duration = Duration::from_millis(400);

fn say(channel: &str, text: impl Into<Value>) -> Value {
    json!({"user": "x", "channel": channel, "message": {"text": text.into()}})
}

fn texts(frames: &[Value]) -> Vec<&Value> {
    frames.iter().map(|frame| &frame["message"]["text"]).collect()
}

pub async fn an_idle_poll_ends_empty(site: &Site) {
    let id = site.connect("idle-ann", &["idle"]).await;
    for _ in 0..2 {
        let start = Instant::now();
        assert_eq!(site.poll(&id).await, Vec::<Value>::new());
        assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    }
}

pub async fn a_poll_ends_soon_after_something_came(site: &Site) {
    let id = site.connect("live-ann", &["live"]).await;
    let later = async {
        sleep(A_MOMENT).await;
        site.say(say("live", "a")).await;
        Instant::now()
    };
    let (frames, said) = tokio::join!(site.poll(&id), later);
    assert!(said.elapsed() < SOON, "{:?}", said.elapsed());
    assert_eq!(texts(&frames), ["a"]);
    assert_eq!((&frames[0]["type"], &frames[0]["catchup"]), (&json!("message"), &json!(false)));
    for key in ["pm_users", "exclude_users", "no_history"] {
        assert!(frames[0].get(key).is_none(), "{frames:?}");
    }
    // What comes together is told together.
    let later = async {
        sleep(A_MOMENT).await;
        site.post("/message", json!([say("live", "b"), say("live", "c")])).await;
        site.say(json!({"user": "x", "pm_users": ["live-ann"], "message": {"text": "d"}})).await;
    };
    let (frames, ()) = tokio::join!(site.polls(&id, 3), later);
    assert_eq!(texts(&frames), ["b", "c", "d"]);
}

pub async fn a_poll_brings_what_was_missed_and_nothing_twice(site: &Site) {
    let id = site.connect("between-ann", &["between", "between-2"]).await;
    site.post("/message", json!([say("between-2", "c"), say("between", "a"), say("between", "b")])).await;
    site.say(json!({"user": "x", "pm_users": ["between-ann"], "message": {"text": "d"}})).await;
    let start = Instant::now();
    let frames = site.poll(&id).await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(texts(&frames), ["a", "b", "c", "d"]);
    assert!(frames.iter().all(|frame| frame["catchup"] == json!(true)), "{frames:?}");
    for round in 0..3 {
        let said = [json!(format!("{round} a")), json!(format!("{round} b"))];
        for said in &said {
            site.say(say("between", said.clone())).await;
        }
        let frames = site.poll(&id).await;
        assert_eq!(texts(&frames), said.iter().collect::<Vec<_>>());
        assert!(frames.iter().all(|frame| frame["catchup"] == json!(true)), "{frames:?}");
    }
    assert_eq!(site.poll(&id).await, Vec::<Value>::new());
    // A socket goes on where the polls have ended.
    site.say(say("between", "over the socket")).await;
    let mut socket = site.socket(&id).await;
    assert_eq!(socket.next().await["message"]["text"], json!("over the socket"));
    socket.expect_silence(site, "between-ann").await;
}

pub async fn an_older_poll_ends_empty(site: &Site) {
    let id = site.connect("older-ann", &["older"]).await;
    for round in 0..2 {
        let newer = async {
            sleep(A_MOMENT).await;
            site.polls(&id, 1).await
        };
        let said = async {
            sleep(2 * A_MOMENT).await;
            site.say(say("older", round)).await;
        };
        let (older, newer, ()) = tokio::join!(site.poll(&id), newer, said);
        assert_eq!(older, Vec::<Value>::new());
        assert_eq!(texts(&newer), [&json!(round)]);
    }
}

pub async fn a_poll_wraps_its_answer_for_a_callback(site: &Site) {
    let id = site.connect("callback-ann", &["callback"]).await;
    let listen = async |callback: &str| {
        site.say(say("callback", "a")).await;
        http::send(site.public(), "GET", &format!("/listen?conn_id={id}&callback={callback}"), &[], b"").await
    };
    for callback in ["name", "jQuery123_4.on"] {
        let reply = listen(callback).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let inner = reply.body.trim().strip_prefix(callback).and_then(|rest| rest.strip_prefix('('));
        let inner =
            inner.and_then(|rest| rest.trim_end_matches(';').strip_suffix(')')).unwrap_or_else(|| panic!("{reply:?}"));
        assert_eq!(texts(&serde_json::from_str::<Vec<Value>>(inner).unwrap()), ["a"]);
    }
    let reply = listen("%3Cscript%3Ealert(1)%3C/script%3E").await;
    let is_page = reply.header("content-type").unwrap_or_default().starts_with("text/html");
    assert!(!(is_page && reply.body.contains("<script>")), "anybody's script runs: {reply:?}");
}

pub async fn polls_of_nobody_are_refused(site: &Site) {
    let listen = async |query: &str, headers: &[(&str, &str)]| {
        http::send(site.public(), "GET", &format!("/listen{query}"), headers, b"").await
    };
    let wrong = listen("?conn_id=nonsense", &[]).await;
    assert_eq!((wrong.status, wrong.json()), (422, json!(["Wrong UUID format"])));
    let missing = listen("", &[]).await;
    assert!(missing.status >= 400, "{missing:?}");
    let gone = site.connect("nobody-ann", &[]).await;
    site.disconnect(&gone).await;
    for id in [gone, Uuid::new_v4().to_string()] {
        let reply = listen(&format!("?conn_id={id}"), &[("Accept", "application/json")]).await;
        assert_eq!((reply.status, &reply.json()["title"]), (401, &json!("Unauthorized")), "{reply:?}");
        let reply = listen(&format!("?conn_id={id}"), &[("Accept", "*/*")]).await;
        assert!(reply.status == 401 && reply.body.contains("401 Unauthorized"), "{reply:?}");
    }
}

pub async fn a_poll_beside_a_socket_brings_nothing(site: &Site) {
    let (id, mut socket) = site.join("besides-ann", &["besides"]).await;
    let later = async {
        sleep(A_MOMENT).await;
        site.say(say("besides", "a")).await;
    };
    let (frames, ()) = tokio::join!(site.poll(&id), later);
    assert_eq!(frames, Vec::<Value>::new());
    assert_eq!(socket.next().await["message"]["text"], json!("a"));
    socket.expect_silence(site, "besides-ann").await;
}

pub async fn a_poll_ends_when_its_connection_does(site: &Site) {
    site.configure("poll-end", json!({"notify_presence": true})).await;
    let (_, mut watcher) = site.join("poll-end-watcher", &["poll-end"]).await;
    let id = site.connect("poll-end-ann", &["poll-end"]).await;
    let disconnected = async {
        sleep(A_MOMENT).await;
        assert_eq!(site.disconnect(&id).await, json!(true));
        Instant::now()
    };
    let (frames, since) = tokio::join!(site.poll(&id), disconnected);
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    assert_eq!(frames, Vec::<Value>::new());
    assert_eq!(site.listen(&id).await.status, 401);
    for action in ["joined", "parted"] {
        assert_eq!(watcher.next().await["message"]["action"], json!(action));
    }
}

pub async fn a_chat_over_polls_loses_nothing(site: &Site) {
    const MESSAGES: usize = 80;
    let id = site.connect("chat-ann", &["chat"]).await;
    let other = site.connect("chat-bob", &["chat"]).await;
    let talk = async {
        let mut chance = StdRng::seed_from_u64(7);
        for number in 0..MESSAGES {
            site.say(say("chat", number)).await;
            if number % 7 == 0 {
                sleep(Duration::from_millis(chance.random_range(0..700))).await;
            }
        }
    };
    let (first, second, ()) = tokio::join!(site.polls(&id, MESSAGES), site.polls(&other, MESSAGES), talk);
    for frames in [first, second] {
        let numbers: Vec<_> = frames.iter().map(|frame| frame["message"]["text"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..MESSAGES as u64).collect::<Vec<_>>());
    }
}

pub async fn polls_that_are_given_up_lose_nothing(site: &Site) {
    const MESSAGES: usize = 40;
    const GIVEN_UP: usize = 10;
    let id = site.connect("given-up-ann", &["given-up"]).await;
    let talk = async {
        for number in 0..MESSAGES {
            site.say(say("given-up", number)).await;
            sleep(Duration::from_millis(100)).await;
        }
    };
    let listen = async {
        let mut chance = StdRng::seed_from_u64(11);
        let (mut numbers, mut given_up) = (Vec::new(), 0);
        let deadline = Instant::now() + Duration::from_secs(60);
        while numbers.len() < MESSAGES || given_up < GIVEN_UP {
            assert!(Instant::now() < deadline, "{numbers:?}");
            // A poll that is answered has been under way for a quarter of a second at least.
            let patience = if chance.random_ratio(9, 10) { chance.random_range(0..100) } else { 10_000 };
            match timeout(Duration::from_millis(patience), site.poll(&id)).await {
                Ok(frames) => numbers.extend(frames.iter().map(|frame| frame["message"]["text"].as_u64().unwrap())),
                Err(_) => given_up += 1,
            }
        }
        numbers
    };
    let (numbers, ()) = tokio::join!(listen, talk);
    assert_eq!(numbers, (0..MESSAGES as u64).collect::<Vec<_>>());
}

pub async fn many_polls_lose_nothing_of_a_busy_channel(site: &Site) {
    const POLLS: usize = 300;
    const MESSAGES: usize = 60;
    let names: Vec<_> = (0..POLLS).map(|number| format!("busy-{number}")).collect();
    let ids = join_all(names.iter().map(|name| site.connect(name, &["busy"]))).await;
    let talk = async {
        for number in 0..MESSAGES {
            site.say(say("busy", number)).await;
            sleep(Duration::from_millis(if number % 20 == 0 { 400 } else { 15 })).await;
        }
    };
    let (all, ()) = tokio::join!(join_all(ids.iter().map(|id| site.polls(id, MESSAGES))), talk);
    for frames in all {
        let numbers: Vec<_> = frames.iter().map(|frame| frame["message"]["text"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..MESSAGES as u64).collect::<Vec<_>>());
    }
}
