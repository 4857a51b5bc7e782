//! What is known of users, and who hears of it.

use serde_json::{Value, json};

use crate::support::channelstream::{Site, is_server_time, is_uuid, without};

/// A list whose order carries no meaning.
fn by_key(changed: &Value) -> Value {
    let mut changed = changed.as_array().unwrap().clone();
    changed.sort_by_key(|change| change["key"].as_str().unwrap().to_owned());
    changed.into()
}

pub async fn state_is_merged_and_told(site: &Site) {
    let body = json!({"username": "state-ann", "user_state": {"avatar": "a.png", "level": 2, "gone": null}});
    let reply = site.post("/connect", body).await;
    // Null for what was not there is nothing.
    assert_eq!(reply["state"], json!({"avatar": "a.png", "level": 2}));
    let change = async |state: Value| {
        let mut reply = site.post("/user_state", json!({"user": "state-ann", "user_state": state})).await;
        reply["changed_state"] = by_key(&reply["changed_state"]);
        reply
    };
    assert_eq!(
        change(json!({"avatar": "c.png", "x": 2, "level": 2, "none": null})).await,
        json!({
        "user_state": {"avatar": "c.png", "level": 2, "x": 2},
        "changed_state": [{"key": "avatar", "value": "c.png"}, {"key": "x", "value": 2}], "public_keys": []})
    );
    assert_eq!(
        change(json!({"x": null})).await,
        json!({
        "user_state": {"avatar": "c.png", "level": 2, "x": null}, "changed_state": [{"key": "x", "value": null}],
        "public_keys": []})
    );
    let all = json!({"a": "ż", "b": 1.5, "c": true, "d": -7, "e": "", "f": false});
    let reply = change(all.clone()).await;
    for (key, value) in all.as_object().unwrap() {
        assert_eq!(&reply["user_state"][key], value);
    }
    assert_eq!(reply["changed_state"].as_array().unwrap().len(), 6);
    assert_eq!(change(json!({})).await["changed_state"], json!([]));
    assert_eq!(site.post("/user_state", json!({"user": "state-ann"})).await["user_state"], reply["user_state"]);
    let info =
        site.post("/connect", json!({"username": "state-ann", "channels": ["state"], "user_state": {"f": 1}})).await;
    assert_eq!((&info["state"]["f"], &info["state"]["a"]), (&json!(1), &json!("ż")));
    assert_eq!(info["channels_info"]["users"][0]["state"], info["state"]);
}

pub async fn fresh_state_is_for_new_users(site: &Site) {
    let body =
        |fresh: Value, state: Value| json!({"username": "fresh-ann", "fresh_user_state": fresh, "user_state": state});
    let reply = site.post("/connect", body(json!({"a": 1, "b": 1}), json!({"b": 2, "c": 2}))).await;
    assert_eq!(reply["state"], json!({"a": 1, "b": 2, "c": 2}));
    let reply = site.post("/connect", body(json!({"a": 7, "z": 7}), json!({"c": 3}))).await;
    assert_eq!(reply["state"], json!({"a": 1, "b": 2, "c": 3}));
    // Whoever has no connection is still known.
    for id in [reply["conn_id"].as_str().unwrap(), &site.connect("fresh-ann", &[]).await] {
        site.disconnect(id).await;
    }
    let reply = site.post("/connect", body(json!({"a": 7}), json!({}))).await;
    assert_eq!(reply["state"], json!({"a": 1, "b": 2, "c": 3}));
}

pub async fn public_keys_are_replaced(site: &Site) {
    let body = json!({"username": "keys-bob", "user_state": {"a": 1, "b": 2}, "state_public_keys": ["a", "other"]});
    assert_eq!(site.post("/connect", body).await["public_state"], json!({"a": 1}));
    let change = async |body: Value| {
        let mut body = body;
        body["user"] = json!("keys-bob");
        site.post("/user_state", body).await["public_keys"].take()
    };
    assert_eq!(change(json!({})).await, json!(["a", "other"]), "left out is as it was");
    assert_eq!(change(json!({"state_public_keys": null})).await, json!(["a", "other"]), "and so is null");
    assert_eq!(change(json!({"state_public_keys": ["b"]})).await, json!(["b"]));
    assert_eq!(change(json!({"state_public_keys": []})).await, json!([]));
    assert_eq!(change(json!({"state_public_keys": ["b", "a"]})).await, json!(["b", "a"]));
    let reply = site.post("/connect", json!({"username": "keys-bob"})).await;
    assert_eq!((&reply["public_state"], &reply["state"]), (&json!({}), &json!({"a": 1, "b": 2})), "connecting resets");
    assert_eq!(change(json!({})).await, json!([]));
}

pub async fn members_hear_of_changes_of_state(site: &Site) {
    site.configure("hear-a", json!({"notify_state": true})).await;
    site.configure("hear-b", json!({"notify_state": true})).await;
    site.configure("hear-quiet", json!({})).await;
    let both = ["hear-a", "hear-b", "hear-quiet"];
    let (_, mut ann) = site.join("hear-ann", &both).await;
    let (_, mut bob) = site.join("hear-bob", &["hear-a", "hear-quiet"]).await;
    let (_, mut eve) = site.join("hear-eve", &["hear-quiet"]).await;
    let body =
        json!({"user": "hear-ann", "user_state": {"avatar": "c.png", "shut": 1}, "state_public_keys": ["avatar"]});
    site.post("/user_state", body).await;
    let frame = |channel: &str, state: Value, changed: Value| {
        json!({"type": "user_state_change", "channel": channel, "user": "hear-ann", "catchup": false,
            "message": {"state": state, "changed": changed}})
    };
    let check = |told: Value, wanted: Value| {
        assert!(is_uuid(&told["uuid"]) && is_server_time(&told["timestamp"]), "{told}");
        assert_eq!(without(told, &["uuid", "timestamp"]), wanted);
    };
    let changed = json!([{"key": "avatar", "value": "c.png"}]);
    let mut told = ann.take(2).await;
    told.sort_by_key(|frame| frame["channel"].as_str().unwrap().to_owned());
    for (told, channel) in told.into_iter().zip(["hear-a", "hear-b"]) {
        check(told, frame(channel, json!({"avatar": "c.png"}), changed.clone()));
    }
    check(bob.next().await, frame("hear-a", json!({"avatar": "c.png"}), changed));
    // A key that becomes public is told when something changes, and then only what has changed.
    let body =
        json!({"user": "hear-ann", "user_state": {"level": 2}, "state_public_keys": ["avatar", "level", "shut"]});
    site.post("/user_state", body).await;
    let state = json!({"avatar": "c.png", "level": 2, "shut": 1});
    check(bob.next().await, frame("hear-a", state, json!([{"key": "level", "value": 2}])));
    ann.take(2).await;
    // Nothing is told of what is as it was, nor of connecting.
    let body = json!({"user": "hear-ann", "user_state": {"level": 2}, "state_public_keys": ["level"]});
    site.post("/user_state", body).await;
    site.post("/connect", json!({"username": "hear-ann", "user_state": {"level": 3}})).await;
    ann.expect_silence(site, "hear-ann").await;
    bob.expect_silence(site, "hear-bob").await;
    eve.expect_silence(site, "hear-eve").await;
}

pub async fn equal_values_are_no_change(site: &Site) {
    site.post("/connect", json!({"username": "equal-ann", "user_state": {"a": 1, "b": "1", "c": 1.5}})).await;
    for (state, changes) in [
        (json!({"a": 1, "b": "1", "c": 1.5}), 0),
        (json!({"a": "1"}), 1),
        (json!({"b": 1}), 1),
        (json!({"c": 1.25}), 1),
        (json!({"a": null}), 1),
        (json!({"a": null, "d": null}), 0),
        (json!({"a": false}), 1),
    ] {
        let reply = site.post("/user_state", json!({"user": "equal-ann", "user_state": state})).await;
        assert_eq!(reply["changed_state"].as_array().unwrap().len(), changes, "{state}: {reply}");
    }
}
