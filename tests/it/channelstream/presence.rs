//! Who is told that somebody comes or goes.

use serde_json::{Value, json};

use crate::support::channelstream::{Site, is_server_time, is_uuid, without};

fn presence(channel: &str, user: &str, action: &str, state: Value, users: Value) -> Value {
    json!({"type": "presence", "channel": channel, "user": user, "message": {"action": action}, "state": state,
        "users": users, "catchup": false})
}

fn check(told: Value, wanted: Value) {
    assert!(is_uuid(&told["uuid"]) && is_server_time(&told["timestamp"]), "{told}");
    assert_eq!(without(told, &["uuid", "timestamp"]), wanted);
}

pub async fn coming_and_going_is_told_to_the_others(site: &Site) {
    site.configure("come", json!({"notify_presence": true})).await;
    site.configure("come-quiet", json!({})).await;
    let (_, mut ann) = site.join("come-ann", &["come", "come-quiet"]).await;
    let body = json!({"username": "come-bob", "channels": ["come", "come-quiet"], "user_state": {"avatar": "b.png", "x": 1},
        "state_public_keys": ["avatar"]});
    let bob = site.post("/connect", body).await["conn_id"].as_str().unwrap().to_owned();
    let mut bobs = site.socket(&bob).await;
    check(ann.next().await, presence("come", "come-bob", "joined", json!({"avatar": "b.png"}), json!([])));
    site.post("/unsubscribe", json!({"conn_id": bob, "channels": ["come"]})).await;
    check(ann.next().await, presence("come", "come-bob", "parted", json!(null), json!([])));
    site.post("/subscribe", json!({"conn_id": bob, "channels": ["come", "come-quiet"]})).await;
    check(ann.next().await, presence("come", "come-bob", "joined", json!({"avatar": "b.png"}), json!([])));
    bobs.expect_silence(site, "come-bob").await;
    site.disconnect(&bob).await;
    check(ann.next().await, presence("come", "come-bob", "parted", json!(null), json!([])));
    // Who closes the socket has gone, too.
    let (_, bobs) = site.join("come-bob", &["come"]).await;
    check(ann.next().await, presence("come", "come-bob", "joined", json!({}), json!([])));
    bobs.client.close().await;
    check(ann.next().await, presence("come", "come-bob", "parted", json!(null), json!([])));
    ann.expect_silence(site, "come-ann").await;
}

pub async fn lists_of_users_are_told_if_they_are_wanted(site: &Site) {
    let settings = json!({"notify_presence": true, "broadcast_presence_with_user_lists": true});
    site.configure("list", settings).await;
    let connect = async |user: &str, state: Value| {
        let body =
            json!({"username": user, "channels": ["list"], "user_state": state, "state_public_keys": ["avatar"]});
        site.post("/connect", body).await["conn_id"].as_str().unwrap().to_owned()
    };
    let zoe = connect("list-zoe", json!({"avatar": "z.png", "x": 1})).await;
    let mut zoe = site.socket(&zoe).await;
    let ann = connect("list-ann", json!({"avatar": "a.png"})).await;
    let bob = connect("list-bob", json!({})).await;
    // In the order in which they came.
    let (z, a) = (
        json!({"user": "list-zoe", "state": {"avatar": "z.png"}}),
        json!({"user": "list-ann", "state": {"avatar": "a.png"}}),
    );
    let b = json!({"user": "list-bob", "state": {}});
    check(zoe.next().await, presence("list", "list-ann", "joined", json!({"avatar": "a.png"}), json!([z, a])));
    check(zoe.next().await, presence("list", "list-bob", "joined", json!({}), json!([z, a, b])));
    site.disconnect(&ann).await;
    check(zoe.next().await, presence("list", "list-ann", "parted", json!(null), json!([z, b])));
    site.post("/unsubscribe", json!({"conn_id": bob, "channels": ["list"]})).await;
    check(zoe.next().await, presence("list", "list-bob", "parted", json!(null), json!([z])));
}

pub async fn only_the_first_and_the_last_connection_count(site: &Site) {
    site.configure("once-each", json!({"notify_presence": true})).await;
    let (_, mut ann) = site.join("once-ann-watches", &["once-each"]).await;
    let first = site.connect("once-bob", &["once-each"]).await;
    let second = site.connect("once-bob", &["once-each"]).await;
    let third = site.connect("once-bob", &[]).await;
    site.post("/subscribe", json!({"conn_id": third, "channels": ["once-each"]})).await;
    assert_eq!(site.channel("once-each").await["total_connections"], json!(4));
    assert_eq!(ann.next().await["message"]["action"], json!("joined"));
    ann.expect_silence(site, "once-ann-watches").await;
    site.disconnect(&first).await;
    site.post("/unsubscribe", json!({"conn_id": second, "channels": ["once-each"]})).await;
    ann.expect_silence(site, "once-ann-watches").await;
    assert_eq!(site.channel("once-each").await["users"], json!(["once-ann-watches", "once-bob"]));
    site.disconnect(&third).await;
    assert_eq!(ann.next().await["message"]["action"], json!("parted"));
    ann.expect_silence(site, "once-ann-watches").await;
    // Another connection of the one who watches is told of nobody's coming but the others'.
    let (_, mut other) = site.join("once-ann-watches", &["once-each"]).await;
    site.connect("once-carl", &["once-each"]).await;
    for socket in [&mut ann, &mut other] {
        assert_eq!(socket.next().await["user"], json!("once-carl"));
    }
    ann.expect_silence(site, "once-ann-watches").await;
}
