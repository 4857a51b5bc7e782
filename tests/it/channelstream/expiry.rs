//! What is collected when nobody is heard of any more, and what is not.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::support::channelstream::Site;

/// After so long without activity a connection is collected.
const LIFE: Duration = Duration::from_secs(15);
/// Looking is every second; a busy machine has a little more.
const LATE: Duration = Duration::from_secs(20);

/// Checks that the connection is known almost for its whole life, and then unknown.
async fn lives_once(site: &Site, id: &str, start: Instant) {
    sleep_until(start + LIFE - Duration::from_millis(1500)).await;
    assert!(site.knows(id).await, "collected after {:?}", start.elapsed());
    site.until_unknown(id).await;
    let age = start.elapsed();
    assert!(age < LATE, "{age:?}");
}

pub async fn who_never_attaches_is_collected(site: &Site) {
    site.configure("never", json!({"notify_presence": true})).await;
    let (_, mut watcher) = site.join("never-watcher", &["never"]).await;
    let start = Instant::now();
    let id = site.connect("never-ann", &["never"]).await;
    assert_eq!(watcher.next().await["message"]["action"], json!("joined"));
    let parted = async {
        let frame = watcher.next().await;
        assert_eq!((&frame["user"], &frame["message"]["action"]), (&json!("never-ann"), &json!("parted")), "{frame}");
        assert!(start.elapsed() >= LIFE - Duration::from_millis(100), "{:?}", start.elapsed());
        assert!(start.elapsed() < LATE, "{:?}", start.elapsed());
    };
    tokio::join!(parted, lives_once(site, &id, start));
    assert_eq!(site.channel("never").await["users"], json!(["never-watcher"]));
    watcher.expect_silence(site, "never-watcher").await;
}

pub async fn connections_without_channels_are_collected(site: &Site) {
    let start = Instant::now();
    let never = site.connect("leak-ann", &[]).await;
    let left = site.connect("leak-bob", &["leak"]).await;
    site.post("/unsubscribe", json!({"conn_id": left, "channels": ["leak"]})).await;
    tokio::join!(lives_once(site, &never, start), lives_once(site, &left, start));
}

pub async fn other_calls_keep_nobody_alive(site: &Site) {
    let start = Instant::now();
    let id = site.connect("alive-ann", &["alive"]).await;
    let calls = async {
        while start.elapsed() < LIFE - Duration::from_secs(1) {
            site.say(json!({"user": "alive-ann", "channel": "alive", "message": {}})).await;
            site.say(json!({"user": "x", "pm_users": ["alive-ann"], "message": {}})).await;
            site.post("/subscribe", json!({"conn_id": id, "channels": ["alive-2"]})).await;
            site.post("/user_state", json!({"user": "alive-ann", "user_state": {"a": 1}})).await;
            sleep_until(Instant::now() + Duration::from_millis(700)).await;
        }
    };
    tokio::join!(calls, lives_once(site, &id, start));
}

pub async fn polls_keep_a_connection_alive(site: &Site) {
    let polling = async {
        let id = site.connect("polled-ann", &["polled"]).await;
        let start = Instant::now();
        while start.elapsed() < LIFE + Duration::from_secs(3) {
            site.poll(&id).await;
        }
        assert!(site.knows(&id).await);
        site.say(json!({"user": "x", "channel": "polled", "message": {"text": "still here"}})).await;
        assert_eq!(site.polls(&id, 1).await[0]["message"]["text"], json!("still here"));
    };
    let stopped = async {
        let id = site.connect("polled-bob", &["polled"]).await;
        site.poll(&id).await;
        lives_once(site, &id, Instant::now()).await;
    };
    tokio::join!(polling, stopped);
}

pub async fn a_ping_is_answered(site: &Site) {
    let (_, mut ann) = site.join("ping-ann", &["ping"]).await;
    ann.client.ping(b"are you there").await;
    ann.client.ping(b"").await;
    ann.expect_silence(site, "ping-ann").await;
}

pub async fn users_and_channels_are_remembered(site: &Site) {
    site.configure("memory", json!({"store_history": true, "history_size": 4})).await;
    let start = Instant::now();
    let body = json!({"username": "memory-ann", "channels": ["memory"], "user_state": {"a": 1}});
    let id = site.post("/connect", body).await["conn_id"].as_str().unwrap().to_owned();
    site.say(json!({"user": "memory-ann", "channel": "memory", "message": {"text": "kept"}})).await;
    let before = site.channel("memory").await;
    lives_once(site, &id, start).await;
    let after = site.channel("memory").await;
    for key in ["uuid", "settings", "history"] {
        assert_eq!(after[key], before[key]);
    }
    assert_eq!((&after["users"], &after["total_connections"]), (&json!([]), &json!(0)));
    let state = site.post("/user_state", json!({"user": "memory-ann"})).await;
    assert_eq!(state["user_state"], json!({"a": 1}));
}
