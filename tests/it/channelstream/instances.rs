//! Instances that come and that are killed, while people chat.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use futures::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};
use uuid::Uuid;

use crate::support::{
    StubBackend, TestServer,
    channelstream::{Place, Site, Socket, VARS, signature, without},
    http,
    process::Running,
    rabbitmq,
};

const CHANNELS: [&str; 5] = ["chat-0", "chat-1", "chat-2", "chat-3", "chat-4"];
/// What was on an instance that was killed has parted after so long.
const GONE: Duration = Duration::from_secs(25);

/// A user who listens, and what came.
struct Chatter {
    name: String,
    channel: &'static str,
    at: usize,
    socket: Socket,
}

/// Posts a message to an instance that may die meanwhile; whether it said that it was posted.
async fn try_say(place: &Place, item: &Value) -> bool {
    let high_templar::config::Listen::Tcp(address) = place.internal else { panic!("not on TCP") };
    let signature = signature();
    let headers = [("x-channelstream-secret", signature.as_str())];
    let request = http::request("POST", "/message", &headers, json!([item]).to_string().as_bytes());
    match TcpStream::connect(address).await {
        Ok(stream) => http::exchange_on(stream, &request).await.status == 200,
        Err(_) => false,
    }
}

/// Everything an instance knows, with what has no order sorted.
async fn everything(place: &Place) -> Value {
    let site = Site::at(vec![place.clone()]);
    let mut info = site.ask("POST", "/info", &json!({"info": {}})).await;
    let users = info["users"].as_array_mut().unwrap();
    users.sort_by_key(|user| user["user"].as_str().unwrap().to_owned());
    info
}

/// What an administrator is shown, with what has no order sorted and without what is the instance's own.
async fn statistics(place: &Place) -> Value {
    let mut numbers = Site::at(vec![place.clone()]).call("GET", "/admin/admin.json", "").await.json();
    let users = numbers["users"].as_array_mut().unwrap();
    users.sort_by_key(|user| user["user"].as_str().unwrap().to_owned());
    without(numbers, &["uptime"])
}

fn uuids(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|entry| entry["uuid"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_killed_while_a_hundred_users_chat() {
    let backend = StubBackend::allowing(json!([])).await;
    let (api, url, exchange) = (backend.url(), rabbitmq::shared(), format!("test-{}", Uuid::new_v4()));
    let own = [("API_URL", api.as_str()), ("AMQP_URL", &url), ("AMQP_EXCHANGE", &exchange)];
    let vars = [&VARS[..], &own].concat();
    let (doomed, second, third) = tokio::join!(Running::start(&vars), Running::start(&vars), Running::start(&vars));
    let places = [&doomed, &second, &third].map(Place::from);
    let (dead, survivors) = (0, Site::at(places[1..].to_vec()));
    let site = Site::at(places.to_vec());
    site.until_answered().await;
    for channel in CHANNELS {
        let settings = json!({"notify_presence": true, "store_history": true, "history_size": 5000});
        site.configure(channel, settings).await;
    }
    // Each is connected by a call to any instance, and listens at a certain one.
    let mut chatters = join_all((0..100).map(async |number: usize| {
        let (name, channel, at) = (format!("user-{number:02}"), CHANNELS[number % 5], number % 3);
        let id = site.connect(&name, &[channel]).await;
        let socket = Site::at(vec![places[at].clone()]).socket(&id).await;
        Chatter { name, channel, at, socket }
    }))
    .await;
    for channel in CHANNELS {
        assert_eq!(site.channel(channel).await["total_connections"], json!(20));
    }

    // All talk, through any instance; what was not answered may have been said or not.
    let is_over = AtomicBool::new(false);
    let talk = async |name: String, channel: &str, number: usize| {
        let mut said = Vec::new();
        for round in 0.. {
            if is_over.load(Relaxed) {
                return said;
            }
            let uuid = Uuid::new_v4().to_string();
            let item = json!({"user": name, "channel": channel, "uuid": uuid, "message": {"text": round}});
            if try_say(&places[(number + round) % 3], &item).await {
                said.push((channel.to_owned(), uuid));
            }
            sleep(Duration::from_millis(200)).await;
        }
        said
    };
    let kill = async {
        sleep(Duration::from_secs(2)).await;
        doomed.signal(Signal::KILL);
        let killed = Instant::now();
        sleep(Duration::from_secs(2)).await;
        is_over.store(true, Relaxed);
        killed
    };
    let names: Vec<_> = chatters.iter().map(|chatter| (chatter.name.clone(), chatter.channel)).collect();
    let talking = names.into_iter().enumerate().map(|(number, (name, channel))| talk(name, channel, number));
    let (said, killed) = tokio::join!(join_all(talking), kill);
    let said: Vec<_> = said.into_iter().flatten().collect();
    assert!(said.len() > 200, "they have hardly talked: {}", said.len());

    let (gone, mut left): (Vec<_>, Vec<_>) = chatters.drain(..).partition(|chatter| chatter.at == dead);
    // Some come again at once and have never been away.
    let mut back = Vec::new();
    for chatter in gone.iter().take(5) {
        back.push((chatter, survivors.join(&chatter.name, &[chatter.channel]).await));
    }
    let present = |channel: &str| -> BTreeSet<&str> {
        let back = back.iter().map(|(chatter, _)| *chatter);
        left.iter().chain(back).filter(|chatter| chatter.channel == channel).map(|chatter| &chatter.name[..]).collect()
    };
    let wanted: Vec<Value> = CHANNELS.map(|channel| json!(present(channel))).to_vec();
    let parted: Vec<BTreeSet<String>> = CHANNELS
        .map(|channel| {
            let gone = gone.iter().skip(5).filter(|chatter| chatter.channel == channel);
            gone.map(|chatter| chatter.name.clone()).collect()
        })
        .to_vec();
    for place in &places[1..] {
        let site = Site::at(vec![place.clone()]);
        let users = async || {
            let info = site.info(&CHANNELS).await;
            CHANNELS.map(|channel| info["channels"][channel]["users"].clone()).to_vec()
        };
        while users().await != wanted {
            assert!(killed.elapsed() < GONE, "{:?} instead of {wanted:?}", users().await);
            sleep(Duration::from_millis(200)).await;
        }
    }

    let (one, other) = tokio::join!(everything(&places[1]), everything(&places[2]));
    assert_eq!(one, other);
    for (channel, uuid) in &said {
        let history = one["channels"][channel]["history"].as_array().unwrap();
        assert_eq!(history.iter().filter(|entry| entry["uuid"] == json!(uuid)).count(), 1, "{channel} {uuid}");
    }
    // Whoever listened at a survivor was told of every message in the order of the history, and once of each who has gone.
    survivors.post("/message", CHANNELS.map(|channel| json!({"user": "x", "channel": channel})).to_vec().into()).await;
    let histories = survivors.info(&CHANNELS).await;
    join_all(left.iter_mut().map(async |chatter: &mut Chatter| {
        let history = uuids(&histories["channels"][chatter.channel]["history"]);
        let (mut told, mut has_parted) = (Vec::new(), Vec::new());
        while told.last() != history.last() {
            let frame = chatter.socket.next().await;
            match (frame["type"].as_str(), frame["message"]["action"].as_str()) {
                (Some("message"), _) => told.push(frame["uuid"].as_str().unwrap().to_owned()),
                (_, Some("parted")) => has_parted.push(frame["user"].as_str().unwrap().to_owned()),
                _ => {}
            }
        }
        assert_eq!(told, history, "{}", chatter.name);
        let number = CHANNELS.iter().position(|channel| *channel == chatter.channel).unwrap();
        assert_eq!(has_parted.len(), parted[number].len(), "{has_parted:?}");
        assert_eq!(has_parted.into_iter().collect::<BTreeSet<_>>(), parted[number]);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_comes_later_knows_what_the_others_know() {
    let (url, exchange) = (rabbitmq::shared(), format!("test-{}", Uuid::new_v4()));
    let vars = [&VARS[..], &[("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", &exchange)]].concat();
    let start = async || TestServer::with(&vars).await;
    let old = [start().await, start().await];
    let site = Site::at(old.iter().map(Place::from).collect());
    site.until_answered().await;
    let settings = json!({"notify_presence": true, "store_history": true, "history_size": 20});
    site.post("/channel_config", json!({"lobby": settings, "quiet": {}})).await;
    let body = json!({"username": "ann", "channels": ["lobby", "quiet"], "user_state": {"avatar": "a.png", "x": 1},
        "state_public_keys": ["avatar"]});
    let ann = site.post("/connect", body).await["conn_id"].as_str().unwrap().to_owned();
    let mut anns = site.socket(&ann).await;
    let (bob, _bobs) = site.join("bob", &["lobby"]).await;
    let (eve, _eves) = site.join("eve", &["lobby"]).await;
    site.disconnect(&eve).await;
    let said = site
        .post(
            "/message",
            (0..30).map(|text| json!({"user": "bob", "channel": "lobby", "message": {"text": text}})).collect(),
        )
        .await;
    site.ask("PATCH", "/message", &json!([{"uuid": said[20]["uuid"], "channel": "lobby", "message": {"text": "!"}}]))
        .await;
    site.ask("DELETE", "/message", &json!([{"uuid": said[21]["uuid"], "channel": "lobby"}])).await;
    site.say(json!({"user": "bob", "pm_users": ["ann"], "message": {"text": "own"}})).await;
    let late = site.connect("late", &["lobby"]).await;
    site.say(json!({"user": "bob", "channel": "lobby", "message": {"text": "for whoever is late"}})).await;

    let newcomer = start().await;
    let places: Vec<_> = old.iter().chain([&newcomer]).map(Place::from).collect();
    let new = Site::at(vec![Place::from(&newcomer)]);
    new.until_answered().await;
    let all = join_all(places.iter().map(everything)).await;
    assert_eq!(all[0]["channels"]["lobby"]["users"], json!(["ann", "bob", "late"]));
    assert_eq!(all[0]["channels"]["lobby"]["history"].as_array().unwrap().len(), 20);
    assert!(all.iter().all(|info| *info == all[0]), "{all:?}");
    let numbers = join_all(places.iter().map(statistics)).await;
    assert!(numbers.iter().all(|those| *those == numbers[0]), "{numbers:?}");
    // It serves those who have connected before it was there.
    let mut lates = new.socket(&late).await;
    let frame = lates.next().await;
    assert_eq!((&frame["message"]["text"], &frame["catchup"]), (&json!("for whoever is late"), &json!(true)));
    let item = new.say(json!({"user": "late", "channel": "lobby", "message": {"text": "from the newcomer"}})).await;
    for socket in [&mut anns, &mut lates] {
        while socket.next().await["uuid"] != item["uuid"] {}
    }
    assert_eq!(new.disconnect(&bob).await, json!(true));
    for place in &places {
        assert_eq!(everything(place).await["channels"]["lobby"]["users"], json!(["ann", "late"]));
    }
}
