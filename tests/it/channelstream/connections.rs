//! Connections and the channels they are in.

use futures::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::channelstream::{Site, is_server_time, is_uuid, without};

/// What a channel has that nobody has configured.
fn defaults() -> Value {
    json!({"notify_presence": false, "store_history": false, "history_size": 10,
        "broadcast_presence_with_user_lists": false, "notify_state": false, "store_frames": true})
}

pub async fn connecting_tells_all_about_the_channels(site: &Site) {
    let settings = json!({"notify_presence": true, "store_history": true, "history_size": 3,
        "broadcast_presence_with_user_lists": true, "notify_state": true, "store_frames": true});
    let reply = site
        .post(
            "/connect",
            json!({"username": "all-alice", "channels": ["all-news", "all-lobby"], "fresh_user_state": {"avatar": "b.png"},
                "user_state": {"avatar": "a.png", "level": 2}, "state_public_keys": ["avatar", "no such key"],
                "channel_configs": {"all-lobby": settings, "all-other": settings}}),
        )
        .await;
    assert!(is_uuid(&reply["conn_id"]), "{reply}");
    let info = &reply["channels_info"];
    assert_eq!(
        without(reply.clone(), &["conn_id", "channels_info"]),
        json!({
        "username": "all-alice", "state": {"avatar": "a.png", "level": 2}, "public_state": {"avatar": "a.png"},
        "channels": ["all-lobby", "all-news"]})
    );
    assert_eq!(info["users"], json!([{"user": "all-alice", "state": {"avatar": "a.png", "level": 2}}]));
    let channels = info["channels"].as_object().unwrap();
    assert_eq!(channels.len(), 2, "{info}");
    for (name, settings) in [("all-lobby", settings), ("all-news", defaults())] {
        let channel = &channels[name];
        assert!(is_uuid(&channel["uuid"]) && is_server_time(&channel["last_active"]), "{channel}");
        assert_eq!(
            without(channel.clone(), &["uuid", "last_active"]),
            json!({
            "name": name, "long_name": null, "settings": settings, "history": [], "total_connections": 1,
            "total_users": 1, "users": ["all-alice"]})
        );
    }
    // What was configured for a channel that nobody joined has created nothing.
    assert_eq!(site.info(&["all-other"]).await, json!({"channels": {}, "users": []}));

    let least = site.post("/connect", json!({"username": "all-least"})).await;
    assert_eq!(
        without(least, &["conn_id"]),
        json!({"username": "all-least", "state": {}, "public_state": {},
        "channels": [], "channels_info": {"channels": {}, "users": []}})
    );

    site.say(json!({"user": "x", "channel": "all-lobby", "message": {"text": "a"}})).await;
    let reply = site
        .post(
            "/connect",
            json!({"username": "all-bob", "channels": ["all-news", "all-lobby", "all-news"],
            "info": {"exclude_channels": ["all-news"], "return_public_state": true}}),
        )
        .await;
    assert_eq!(reply["channels"], json!(["all-lobby", "all-news", "all-news"]));
    let info = &reply["channels_info"];
    assert_eq!(info["channels"].as_object().unwrap().keys().collect::<Vec<_>>(), ["all-lobby"]);
    let lobby = &info["channels"]["all-lobby"];
    assert_eq!(lobby["users"], json!(["all-alice", "all-bob"]));
    assert_eq!((&lobby["total_users"], &lobby["total_connections"]), (&json!(2), &json!(2)));
    assert_eq!(lobby["history"][0]["message"], json!({"text": "a"}));
    assert_eq!(by_user(info), json!({"all-alice": {"avatar": "a.png"}, "all-bob": {}}));

    let quiet = json!({"username": "all-bob", "channels": ["all-lobby"],
        "info": {"include_history": false, "include_users": false}});
    let info = site.post("/connect", quiet).await["channels_info"].take();
    let lobby = &info["channels"]["all-lobby"];
    assert_eq!((&lobby["users"], &lobby["history"], &info["users"]), (&json!([]), &json!([]), &json!([])));
    assert_eq!((&lobby["total_users"], &lobby["total_connections"]), (&json!(0), &json!(3)));
}

/// The users' states, which have no order.
fn by_user(info: &Value) -> Value {
    let users = info["users"].as_array().unwrap().iter();
    let map: serde_json::Map<_, _> =
        users.map(|user| (user["user"].as_str().unwrap().to_owned(), user["state"].clone())).collect();
    assert_eq!(map.len(), info["users"].as_array().unwrap().len(), "each once: {info}");
    map.into()
}

pub async fn a_connection_id_is_used_once_or_by_the_same_user(site: &Site) {
    let id = Uuid::new_v4().to_string();
    let connect = |user: &str, channels: &[&str]| json!({"username": user, "conn_id": id, "channels": channels});
    assert_eq!(site.post("/connect", connect("twice-ann", &["twice-a"])).await["conn_id"], json!(id));
    let mut socket = site.socket(&id).await;
    let reply = site.post("/connect", connect("twice-ann", &["twice-b"])).await;
    assert_eq!((&reply["conn_id"], &reply["channels"]), (&json!(id), &json!(["twice-b"])));
    assert_eq!(reply["channels_info"]["channels"].as_object().unwrap().len(), 1);
    for channel in ["twice-a", "twice-b"] {
        assert_eq!(site.channel(channel).await["total_connections"], json!(1));
        site.say(json!({"user": "x", "channel": channel})).await;
        assert_eq!(socket.next().await["channel"], json!(channel));
    }
    let wrong = site.refused("POST", "/connect", &connect("twice-bob", &["twice-c"])).await;
    assert_eq!(wrong.as_object().unwrap().keys().collect::<Vec<_>>(), ["conn_id"]);
    assert_eq!(site.info(&["twice-c"]).await["channels"], json!({}));
    assert_eq!(site.channel("twice-a").await["users"], json!(["twice-ann"]));
    // Once it is gone, anybody may have it.
    assert_eq!(site.disconnect(&id).await, json!(true));
    assert_eq!(site.post("/connect", connect("twice-bob", &["twice-c"])).await["username"], json!("twice-bob"));
}

pub async fn subscribing_adds_channels(site: &Site) {
    let id = site.connect("sub-ann", &["sub-b"]).await;
    let body = json!({"conn_id": id, "channels": ["sub-c", "sub-a", "sub-b", "sub-c"],
        "channel_configs": {"sub-a": {"notify_state": true}, "sub-b": {"notify_state": true}, "sub-x": {}}});
    let reply = site.post("/subscribe", body).await;
    assert_eq!(reply.as_object().unwrap().len(), 3, "{reply}");
    assert_eq!(reply["channels"], json!(["sub-a", "sub-b", "sub-c"]));
    assert_eq!(reply["subscribed_to"], json!(["sub-a", "sub-c"]));
    let info = &reply["channels_info"];
    assert_eq!(info["channels"].as_object().unwrap().keys().collect::<Vec<_>>(), ["sub-a", "sub-b", "sub-c"]);
    for (name, is_set) in [("sub-a", true), ("sub-b", false), ("sub-c", false)] {
        let channel = &info["channels"][name];
        assert_eq!((&channel["users"], &channel["total_connections"]), (&json!(["sub-ann"]), &json!(1)));
        assert_eq!(channel["settings"]["notify_state"], json!(is_set), "{name}");
    }
    let body = json!({"channels": ["sub-d", "sub-a"], "info": {"exclude_channels": ["sub-b"], "include_users": false}});
    let reply = site.post(&format!("/subscribe?conn_id={id}"), body).await;
    assert_eq!(reply["channels"], json!(["sub-a", "sub-b", "sub-c", "sub-d"]));
    assert_eq!(reply["subscribed_to"], json!(["sub-d"]));
    let names: Vec<_> = reply["channels_info"]["channels"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["sub-a", "sub-c", "sub-d"]);
    assert_eq!(reply["channels_info"]["users"], json!([]));
    // What the body says counts more than what the query says.
    let other = site.connect("sub-bob", &[]).await;
    let reply = site.post(&format!("/subscribe?conn_id={other}"), json!({"conn_id": id, "channels": ["sub-e"]})).await;
    assert_eq!(reply["channels"].as_array().unwrap().len(), 5);
    assert_eq!(site.channel("sub-e").await["users"], json!(["sub-ann"]));
    let again = site.post("/subscribe", json!({"conn_id": id, "channels": ["sub-e"]})).await;
    assert_eq!(again["subscribed_to"], json!([]));
}

pub async fn unsubscribing_removes_them(site: &Site) {
    let id = site.connect("unsub-ann", &["unsub-a", "unsub-b", "unsub-c", "unsub-d"]).await;
    let mut socket = site.socket(&id).await;
    let body = json!({"conn_id": id, "channels": ["unsub-c", "unsub-a", "unsub-unknown"],
        "info": {"exclude_channels": ["unsub-d"]}, "channel_configs": {"unsub-unknown": {"notify_state": true}}});
    let reply = site.post("/unsubscribe", body).await;
    assert_eq!(reply.as_object().unwrap().len(), 3, "{reply}");
    assert_eq!(reply["channels"], json!(["unsub-b", "unsub-d"]));
    assert_eq!(reply["unsubscribed_from"], json!(["unsub-a", "unsub-c"]));
    let info = &reply["channels_info"];
    assert_eq!(info["channels"].as_object().unwrap().keys().collect::<Vec<_>>(), ["unsub-b"]);
    let left = site.channel("unsub-a").await;
    assert_eq!((&left["users"], &left["total_users"], &left["total_connections"]), (&json!([]), &json!(0), &json!(0)));
    assert_eq!(site.info(&["unsub-unknown"]).await["channels"], json!({}));
    for channel in ["unsub-a", "unsub-b"] {
        site.say(json!({"user": "x", "channel": channel})).await;
    }
    assert_eq!(socket.next().await["channel"], json!("unsub-b"));
    let reply = site.post(&format!("/unsubscribe?conn_id={id}"), json!({"channels": ["unsub-b", "unsub-d"]})).await;
    assert_eq!(
        reply,
        json!({"channels": [], "channels_info": {"channels": {}, "users": []},
        "unsubscribed_from": ["unsub-b", "unsub-d"]})
    );
    let back = site.post("/subscribe", json!({"conn_id": id, "channels": ["unsub-a"]})).await;
    assert_eq!(back["channels"], json!(["unsub-a"]));
    site.say(json!({"user": "x", "channel": "unsub-a"})).await;
    assert_eq!(socket.next().await["channel"], json!("unsub-a"));
}

pub async fn info_tells_what_is_asked_for(site: &Site) {
    let body = json!({"username": "info-ann", "channels": ["info-a", "info-b"], "user_state": {"open": 1, "shut": 2},
        "state_public_keys": ["open"], "channel_configs": {"info-a": {"store_history": true}}});
    site.post("/connect", body).await;
    site.connect("info-ann", &["info-a"]).await;
    site.connect("info-Zoe", &["info-a"]).await;
    // The second connection has said nothing of keys, which takes them away.
    site.post("/user_state", json!({"user": "info-ann", "state_public_keys": ["open"]})).await;
    site.say(json!({"user": "x", "channel": "info-a", "message": {"text": "a"}})).await;
    let names = |info: &Value| info["channels"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();

    let info = site.info(&["info-a", "info-unknown", "info-b", "info-a"]).await;
    assert_eq!(names(&info), ["info-a", "info-b"]);
    assert_eq!(by_user(&info), json!({"info-ann": {"open": 1, "shut": 2}, "info-Zoe": {}}));
    let channel = &info["channels"]["info-a"];
    assert_eq!(channel["users"], json!(["info-Zoe", "info-ann"]));
    assert_eq!((&channel["total_users"], &channel["total_connections"]), (&json!(2), &json!(3)));
    assert_eq!(channel["history"].as_array().unwrap().len(), 1);
    assert_eq!(without(channel["settings"].clone(), &["store_history"]), without(defaults(), &["store_history"]));

    let ask = async |info: Value| site.post("/info", json!({"info": info})).await;
    let both = ["info-a", "info-b"];
    assert_eq!(names(&ask(json!({"channels": both, "exclude_channels": ["info-b"]})).await), ["info-a"]);
    let public = ask(json!({"channels": both, "return_public_state": true, "include_connections": true})).await;
    assert_eq!(by_user(&public), json!({"info-ann": {"open": 1}, "info-Zoe": {}}));
    let bare = ask(json!({"channels": both, "include_users": false, "include_history": false})).await;
    let channel = &bare["channels"]["info-a"];
    assert_eq!(bare["users"], json!([]));
    assert_eq!((&channel["users"], &channel["history"]), (&json!([]), &json!([])));
    assert_eq!((&channel["total_users"], &channel["total_connections"]), (&json!(0), &json!(3)));
    assert_eq!(ask(json!({"channels": []})).await, json!({"channels": {}, "users": []}));

    // Everything, beside what others have: without a body, and with one that does not choose.
    for method in ["GET", "POST", "PUT"] {
        let reply = site.call(method, "/info", "").await;
        assert_eq!((reply.status, &reply.json()["channels"]["info-a"]), (200, &info["channels"]["info-a"]), "{method}");
    }
    let all = ask(json!({})).await;
    assert_eq!(all["channels"]["info-a"], info["channels"]["info-a"]);
    assert!(names(&all).len() >= 2);
    // As callers of 0.6 ask.
    assert_eq!(names(&site.post("/info", json!({"channels": ["info-b"], "info": {}})).await), ["info-b"]);
    assert_eq!(names(&site.post("/info", json!({"channels": ["info-a"]})).await), ["info-a"]);
}

pub async fn channel_config_creates_and_resets(site: &Site) {
    assert_eq!(site.post("/channel_config", json!({})).await, json!({"channels": {}, "users": []}));
    let long = "n".repeat(300);
    let body =
        json!({"conf-a": {"store_history": true, "history_size": 3, "notify_presence": "yes"}, long.clone(): {}});
    let reply = site.post("/channel_config", body).await;
    assert_eq!(reply["channels"].as_object().unwrap().len(), 2);
    assert_eq!(reply["channels"][&long]["settings"], defaults());
    let created = reply["channels"]["conf-a"].clone();
    let mut settings = defaults();
    settings["store_history"] = json!(true);
    settings["history_size"] = json!(3);
    settings["notify_presence"] = json!(true);
    assert_eq!(
        without(created.clone(), &["uuid", "last_active"]),
        json!({"name": "conf-a", "long_name": null,
        "settings": settings, "history": [], "total_connections": 0, "total_users": 0, "users": []})
    );
    site.connect("conf-ann", &["conf-a"]).await;
    site.connect("conf-ann", &["conf-a"]).await;
    site.say(json!({"user": "x", "channel": "conf-a", "message": {"text": "a"}})).await;

    // What is left out is as it was in the beginning; who and what is there stays, though it is not told here.
    let reply = site.post("/channel_config", json!({"conf-a": {"notify_state": true}})).await;
    let channel = &reply["channels"]["conf-a"];
    let mut settings = defaults();
    settings["notify_state"] = json!(true);
    assert_eq!((&channel["settings"], &channel["uuid"]), (&settings, &created["uuid"]));
    assert_eq!((&channel["history"], &channel["users"], &reply["users"]), (&json!([]), &json!([]), &json!([])));
    assert_eq!((&channel["total_users"], &channel["total_connections"]), (&json!(0), &json!(2)));
    let info = site.channel("conf-a").await;
    assert_eq!((&info["users"], &info["settings"]), (&json!(["conf-ann"]), &settings));
    assert_eq!(info["history"][0]["message"], json!({"text": "a"}));
}

pub async fn settings_count_for_new_channels_only(site: &Site) {
    site.configure("once", json!({"store_history": true})).await;
    let body = json!({"username": "once-ann", "channels": ["once"], "channel_configs": {"once": {"history_size": 2}}});
    let reply = site.post("/connect", body).await;
    let settings = &reply["channels_info"]["channels"]["once"]["settings"];
    assert_eq!((&settings["history_size"], &settings["store_history"]), (&json!(10), &json!(true)));
    let body = json!({"conn_id": reply["conn_id"], "channels": ["once", "once-2"],
        "channel_configs": {"once": {"history_size": 2}, "once-2": {"history_size": 2}}});
    let reply = site.post("/subscribe", body).await;
    let channels = &reply["channels_info"]["channels"];
    assert_eq!(channels["once"]["settings"]["history_size"], json!(10));
    assert_eq!(channels["once-2"]["settings"]["history_size"], json!(2));
    assert_ne!(channels["once"]["uuid"], channels["once-2"]["uuid"]);
    let uuid = site.channel("once").await["uuid"].take();
    for _ in 0..5 {
        assert_eq!(site.channel("once").await["uuid"], uuid, "wherever one asks");
    }
}

pub async fn disconnecting_is_at_once(site: &Site) {
    for way in ["POST", "GET", "PUT", "client", "beacon"] {
        let id = site.connect("gone-ann", &["gone"]).await;
        let query = format!("/disconnect?conn_id={id}");
        let body = json!({"conn_id": id}).to_string();
        let reply = match way {
            "POST" => site.send("POST", "/disconnect", &[], &body).await,
            // As the JS client does.
            "client" => site.send("POST", &query, &[("Content-Type", "application/json")], &body).await,
            "beacon" => site.call("POST", "/disconnect", &body).await,
            method => site.send(method, &query, &[], "").await,
        };
        assert_eq!((reply.status, reply.json()), (200, json!(true)), "{way}");
        assert!(!site.knows(&id).await, "{way}");
        let channel = site.channel("gone").await;
        assert_eq!((&channel["users"], &channel["total_connections"]), (&json!([]), &json!(0)), "{way}");
        let again = site.disconnect(&id).await;
        assert!(again.is_boolean(), "{way}: {again}");
    }
    assert_eq!(site.disconnect(&Uuid::new_v4().to_string()).await, json!(false));
    for (query, wrong) in [("", "Field may not be null."), ("?conn_id=x", "Not a valid UUID.")] {
        let reply = site.send("GET", &format!("/disconnect{query}"), &[], "").await;
        assert_eq!((reply.status, reply.json()), (422, json!({"conn_id": [wrong]})), "{query}");
    }
    // A post does not look at the query.
    let id = site.connect("gone-bob", &["gone"]).await;
    let reply = site.send("POST", &format!("/disconnect?conn_id={id}"), &[], "{}").await;
    assert_eq!((reply.status, reply.json()), (422, json!({"conn_id": ["Field may not be null."]})));
    assert!(site.knows(&id).await);
    let reply = crate::support::http::send(site.public(), "GET", &format!("/disconnect?conn_id={id}"), &[], b"").await;
    assert_eq!(reply.json(), json!(true));
}

pub async fn many_at_once_are_each_carried_out(site: &Site) {
    let ids = join_all((0..40).map(async |number: usize| {
        let user = format!("many-{}", number % 10);
        let id = site.connect(&user, &["many"]).await;
        let own = format!("many-{number}");
        site.post("/subscribe", json!({"conn_id": id, "channels": [own]})).await;
        id
    }))
    .await;
    let channel = site.channel("many").await;
    assert_eq!((&channel["total_connections"], &channel["total_users"]), (&json!(40), &json!(10)));
    join_all(ids.iter().skip(10).map(async |id| assert_eq!(site.disconnect(id).await, json!(true)))).await;
    let channel = site.channel("many").await;
    assert_eq!((&channel["total_connections"], &channel["total_users"]), (&json!(10), &json!(10)));
    assert_eq!(site.channel("many-39").await["total_connections"], json!(0));
}
