//! Messages: whom they reach, what is kept of them, and how they are changed and taken back.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::channelstream::{Site, Socket, is_server_time, is_uuid, without};

fn text(text: impl Into<Value>) -> Value {
    json!({"text": text.into()})
}

pub async fn the_reply_has_the_defaults_filled_in(site: &Site) {
    let (_, mut ann) = site.join("reply-ann", &["reply"]).await;
    let body = json!([
        {"user": "reply-bob", "channel": "reply", "message": {"text": "hi"}},
        {"user": "dropped"},
        {"user": "dropped", "channel": null, "pm_users": [], "message": {}},
        {"user": "reply-bob", "channel": "reply", "pm_users": ["reply-ann"], "exclude_users": ["x"], "no_history": true,
            "uuid": "8C635A4D-4AB6-4082-8DE4-80CF7BB3272B", "timestamp": "2026-11-20T20:47:57.946660",
            "edited": "never", "type": "presence", "catchup": true, "colour": "red", "deep": {"a": [1, null]}},
        {"user": "reply-bob", "channel": "reply no such channel"},
        {"user": "reply-bob", "pm_users": ["reply-ann", "reply-nobody"]},
    ]);
    let reply = site.post("/message", body).await;
    let items = reply.as_array().unwrap();
    assert_eq!(items.len(), 4, "{reply}");
    assert!(is_uuid(&items[0]["uuid"]) && is_server_time(&items[0]["timestamp"]), "{reply}");
    assert_eq!(
        without(items[0].clone(), &["uuid", "timestamp"]),
        json!({"pm_users": [], "exclude_users": [],
        "channel": "reply", "no_history": false, "user": "reply-bob", "message": {"text": "hi"}, "edited": null})
    );
    let second = &items[1];
    for (key, value) in [
        ("uuid", json!("8c635a4d-4ab6-4082-8de4-80cf7bb3272b")),
        ("timestamp", json!("2026-11-20T20:47:57.946660")),
        ("edited", json!(null)),
        ("pm_users", json!(["reply-ann"])),
        ("exclude_users", json!(["x"])),
        ("no_history", json!(true)),
        ("colour", json!("red")),
        ("deep", json!({"a": [1, null]})),
    ] {
        assert_eq!(second[key], value, "{key}: {second}");
    }
    assert!(second.get("message").is_none(), "{second}");
    assert_eq!(items[2]["channel"], json!("reply no such channel"));
    assert_eq!((&items[3]["channel"], &items[3]["pm_users"]), (&json!(null), &json!(["reply-ann", "reply-nobody"])));
    assert_eq!(site.info(&["reply no such channel"]).await["channels"], json!({}), "posting creates nothing");

    let frames = ann.take(3).await;
    assert_eq!(
        frames[0],
        json!({"type": "message", "uuid": items[0]["uuid"], "timestamp": items[0]["timestamp"],
        "user": "reply-bob", "channel": "reply", "message": {"text": "hi"}, "edited": null, "catchup": false})
    );
    assert_eq!(
        frames[1],
        json!({"type": "message", "uuid": "8c635a4d-4ab6-4082-8de4-80cf7bb3272b",
        "timestamp": "2026-11-20T20:47:57.946660", "user": "reply-bob", "channel": "reply", "edited": null,
        "catchup": false, "colour": "red", "deep": {"a": [1, null]}})
    );
    assert_eq!(
        frames[2],
        json!({"type": "message", "uuid": items[3]["uuid"], "timestamp": items[3]["timestamp"],
        "user": "reply-bob", "channel": null, "edited": null, "catchup": false})
    );
    assert_eq!(site.post("/message", json!([])).await, json!([]));
    assert_eq!(site.post("/message", json!([{"user": "dropped"}])).await, json!([]));
}

/// Checks who is given the message, and that nobody else is.
async fn reaches(site: &Site, sockets: &mut [(&str, Socket)], to: Value, wanted: &[usize]) {
    let mut message = json!({"user": "route-ann", "message": {"id": Uuid::new_v4()}});
    message.as_object_mut().unwrap().extend(to.as_object().unwrap().clone());
    site.say(message.clone()).await;
    for (index, (user, socket)) in sockets.iter_mut().enumerate() {
        if wanted.contains(&index) {
            let frame = socket.next().await;
            assert_eq!((&frame["message"], &frame["channel"]), (&message["message"], &to["channel"]), "{to}");
            for key in ["pm_users", "exclude_users", "no_history"] {
                assert!(frame.get(key).is_none(), "{frame}");
            }
        }
        socket.expect_silence(site, user).await;
    }
}

pub async fn a_message_reaches_whom_it_is_for(site: &Site) {
    let channel = "route";
    let mut sockets = Vec::new();
    for (user, channels) in [
        ("route-ann", &[channel][..]),
        ("route-bob", &[channel]),
        ("route-bob-2", &[channel, "route-other"]),
        ("route-carl", &["route-other"]),
        ("route-dan", &[]),
    ] {
        let (_, socket) = site.join(user, channels).await;
        sockets.push((user, socket));
    }
    let sockets = &mut sockets[..];
    let (all, known) = ([0, 1, 2], json!(channel));
    reaches(site, sockets, json!({"channel": known}), &all).await; // the sender, too
    reaches(site, sockets, json!({"channel": known, "pm_users": []}), &all).await;
    reaches(site, sockets, json!({"channel": known, "pm_users": ["route-bob", "route-carl", "x"]}), &[1]).await;
    reaches(site, sockets, json!({"channel": known, "exclude_users": ["route-ann", "route-carl"]}), &[1, 2]).await;
    let both = json!({"channel": known, "pm_users": ["route-ann", "route-bob"], "exclude_users": ["route-bob"]});
    reaches(site, sockets, both, &[0]).await;
    let unknown = json!({"channel": "route no such channel", "pm_users": ["route-bob"]});
    reaches(site, sockets, unknown, &[]).await;
    let private = json!({"channel": null, "pm_users": ["route-bob", "route-dan", "route-nobody", "route-carl"]});
    reaches(site, sockets, private, &[1, 3, 4]).await;
    // Every connection of a user, whatever channels it has.
    let (_, second) = site.join("route-bob", &[]).await;
    let mut bobs = [("route-ann", site.join("route-ann", &[]).await.1), ("route-bob", second)];
    site.say(json!({"user": "x", "pm_users": ["route-bob"], "message": text("both")})).await;
    for socket in [&mut bobs[1].1, &mut sockets[1].1] {
        assert_eq!(socket.next().await["message"], text("both"));
    }
    bobs[0].1.expect_silence(site, "route-ann").await;
}

pub async fn messages_come_in_the_order_they_were_posted(site: &Site) {
    let (_, mut first) = site.join("order-ann", &["order", "order-2"]).await;
    let (_, mut second) = site.join("order-bob", &["order", "order-2"]).await;
    let mut number = 0;
    for size in [1, 7, 1, 30, 1, 1, 12] {
        let items: Vec<Value> = (number..number + size)
            .map(|number| {
                let channel = if number % 3 == 0 { "order-2" } else { "order" };
                json!({"user": "x", "channel": channel, "message": {"number": number}})
            })
            .collect();
        number += size;
        site.post("/message", items.into()).await;
    }
    for socket in [&mut first, &mut second] {
        for wanted in 0..number {
            assert_eq!(socket.next().await["message"]["number"], json!(wanted));
        }
    }
}

pub async fn history_keeps_the_newest(site: &Site) {
    site.configure("size", json!({"store_history": true, "history_size": 3})).await;
    site.configure("size-default", json!({"store_history": true})).await;
    site.configure("size-none", json!({})).await;
    for number in 0..12 {
        let items = ["size", "size-default", "size-none"]
            .map(|channel| json!({"user": "x", "channel": channel, "message": text(number)}));
        site.post("/message", items.to_vec().into()).await;
    }
    assert_eq!(site.history("size").await, [9, 10, 11]);
    assert_eq!(site.history("size-default").await, (2..12).map(Value::from).collect::<Vec<_>>());
    assert_eq!(site.history("size-none").await, Vec::<Value>::new());
    // A smaller size shows when the next message comes.
    site.configure("size", json!({"store_history": true, "history_size": 2})).await;
    assert_eq!(site.history("size").await, [9, 10, 11]);
    site.say(json!({"user": "x", "channel": "size", "message": text(12)})).await;
    assert_eq!(site.history("size").await, [11, 12]);
    // What is there stays when nothing more is kept.
    site.configure("size", json!({})).await;
    site.say(json!({"user": "x", "channel": "size", "message": text(13)})).await;
    assert_eq!(site.history("size").await, [11, 12]);
}

pub async fn history_is_what_was_asked_to_be_kept(site: &Site) {
    let before = {
        site.configure("keep", json!({"store_history": true})).await;
        site.channel("keep").await["last_active"].clone()
    };
    site.say(json!({"user": "x", "channel": "keep", "no_history": true, "message": text("a")})).await;
    let said = json!({"user": "keep-bob", "channel": "keep", "pm_users": ["keep-ann"], "exclude_users": ["keep-eve"],
        "message": text("hi!"), "colour": "red"});
    let item = site.say(said).await;
    let channel = site.channel("keep").await;
    assert_eq!(
        channel["history"],
        json!([{"pm_users": ["keep-ann"], "exclude_users": ["keep-eve"], "channel": "keep",
        "no_history": false, "uuid": item["uuid"], "timestamp": item["timestamp"], "user": "keep-bob",
        "message": {"text": "hi!"}, "edited": null, "catchup": false, "type": "message", "colour": "red"}])
    );
    let (before, after) = (before.as_str().unwrap(), channel["last_active"].as_str().unwrap());
    assert!(after > before, "{after} {before}");
    let reply = site.post("/connect", json!({"username": "keep-carl", "channels": ["keep"]})).await;
    assert_eq!(reply["channels_info"]["channels"]["keep"]["history"], channel["history"]);
}

pub async fn a_message_is_edited_in_the_history_and_for_the_members(site: &Site) {
    site.configure("edit", json!({"store_history": true})).await;
    let (_, mut ann) = site.join("edit-ann", &["edit"]).await;
    let (_, mut bob) = site.join("edit-bob", &["edit"]).await;
    let first = site.say(json!({"user": "edit-bob", "channel": "edit", "message": text("hi"), "colour": "red"})).await;
    site.say(json!({"user": "edit-bob", "channel": "edit", "message": text("other")})).await;
    let uuid = &first["uuid"];
    let edit = json!([{"uuid": uuid, "channel": "edit", "user": "edit-bob", "message": text("hi!"), "colour": "blue"}]);
    let reply = site.ask("PATCH", "/message", &edit).await;
    let edited = reply[0]["edited"].clone();
    assert!(is_server_time(&edited), "{reply}");
    assert_eq!(
        reply,
        json!([{"uuid": uuid, "channel": "edit", "user": "edit-bob", "message": text("hi!"),
        "edited": edited, "pm_users": [], "exclude_users": [], "no_history": false, "colour": "blue"}])
    );
    let frame = json!({"type": "message:edit", "uuid": uuid, "channel": "edit", "user": "edit-bob",
        "message": {"text": "hi!"}, "edited": edited, "colour": "blue"});
    for socket in [&mut ann, &mut bob] {
        socket.take(2).await;
        assert_eq!(socket.next().await, frame);
    }
    let history = site.channel("edit").await["history"].take();
    assert_eq!(history.as_array().unwrap().len(), 2);
    assert_eq!(
        history[0],
        json!({"pm_users": [], "exclude_users": [], "channel": "edit", "no_history": false,
        "uuid": uuid, "timestamp": first["timestamp"], "user": "edit-bob", "message": text("hi!"), "edited": edited,
        "catchup": false, "type": "message", "colour": "red"})
    );
    assert_eq!(history[1]["message"], text("other"));

    // Only what is given changes.
    let edit =
        json!([{"uuid": uuid, "channel": "edit", "edited": "2026-11-20T20:47:57", "timestamp": "2026-01-01T00:00:00"}]);
    site.ask("PATCH", "/message", &edit).await;
    let entry = site.channel("edit").await["history"][0].take();
    assert_eq!((&entry["message"], &entry["user"]), (&text("hi!"), &json!("edit-bob")));
    assert_eq!((&entry["edited"], &entry["timestamp"]), (&json!("2026-11-20T20:47:57"), &json!("2026-01-01T00:00:00")));
    for socket in [&mut ann, &mut bob] {
        assert_eq!(socket.next().await["edited"], json!("2026-11-20T20:47:57"));
    }

    // Who hears of it is chosen as with messages, whether or not the message is there.
    let unknown = Uuid::new_v4();
    let edits = json!([
        {"uuid": unknown, "channel": "edit", "message": text("1"), "pm_users": ["edit-ann"]},
        {"uuid": unknown, "channel": "edit", "message": text("2"), "exclude_users": ["edit-ann"]},
        {"uuid": unknown, "channel": "edit no such channel", "message": text("3")},
        {"uuid": unknown, "message": text("4")},
    ]);
    let reply = site.ask("PATCH", "/message", &edits).await;
    assert_eq!(reply.as_array().unwrap().len(), 4);
    assert_eq!((&reply[3]["channel"], &reply[3]["pm_users"]), (&json!(null), &json!([])), "{reply}");
    for (user, socket, wanted) in [("edit-ann", &mut ann, "1"), ("edit-bob", &mut bob, "2")] {
        let frame = socket.next().await;
        assert_eq!((&frame["type"], &frame["message"]), (&json!("message:edit"), &text(wanted)));
        socket.expect_silence(site, user).await;
    }
    assert_eq!(site.info(&["edit no such channel"]).await["channels"], json!({}));
    assert_eq!(site.ask("PATCH", "/message", &json!([])).await, json!([]));
}

pub async fn a_message_is_deleted_from_the_history_and_for_the_members(site: &Site) {
    site.configure("delete", json!({"store_history": true})).await;
    let (_, mut ann) = site.join("delete-ann", &["delete"]).await;
    let (_, mut bob) = site.join("delete-bob", &["delete"]).await;
    let first = site.say(json!({"user": "x", "channel": "delete", "message": text("a")})).await;
    site.say(json!({"user": "x", "channel": "delete", "message": text("b")})).await;
    let uuid = &first["uuid"];
    let reply = site.ask("DELETE", "/message", &json!([{"uuid": uuid, "channel": "delete"}])).await;
    assert_eq!(
        reply,
        json!([{"uuid": uuid, "channel": "delete", "pm_users": [], "exclude_users": [], "no_history": false}])
    );
    for socket in [&mut ann, &mut bob] {
        socket.take(2).await;
        assert_eq!(socket.next().await, json!({"type": "message:delete", "uuid": uuid, "channel": "delete"}));
    }
    assert_eq!(site.history("delete").await, ["b"]);
    let unknown = Uuid::new_v4().to_string();
    let deletes = json!([
        {"uuid": unknown, "channel": "delete", "pm_users": ["delete-ann"]},
        {"uuid": uuid, "channel": "delete", "exclude_users": ["delete-ann"]},
        {"uuid": unknown, "channel": "delete no such channel"},
        {"uuid": unknown},
    ]);
    assert_eq!(site.ask("DELETE", "/message", &deletes).await.as_array().unwrap().len(), 4);
    for (user, socket, wanted) in [("delete-ann", &mut ann, json!(unknown)), ("delete-bob", &mut bob, uuid.clone())] {
        let frame = json!({"type": "message:delete", "uuid": wanted, "channel": "delete"});
        assert_eq!(socket.next().await, frame);
        socket.expect_silence(site, user).await;
    }
    assert_eq!(site.history("delete").await, ["b"]);
}

pub async fn private_messages_are_edited_and_deleted(site: &Site) {
    let (id, late) = (site.connect("own-ann", &[]).await, site.connect("own-bob", &[]).await);
    let mut ann = site.socket(&id).await;
    let both = json!(["own-ann", "own-bob", "own-nobody"]);
    let items = json!([
        {"user": "x", "pm_users": both, "message": text("a")},
        {"user": "x", "pm_users": both, "message": text("b")},
        {"user": "x", "pm_users": both, "message": text("c")},
    ]);
    let said = site.post("/message", items).await;
    let (first, second) = (&said[0]["uuid"], &said[1]["uuid"]);
    let edit = json!([{"uuid": first, "pm_users": both, "message": text("A")}]);
    let edited = site.ask("PATCH", "/message", &edit).await[0]["edited"].take();
    site.ask("DELETE", "/message", &json!([{"uuid": second, "pm_users": both}])).await;
    ann.take(3).await;
    assert_eq!(
        ann.next().await,
        json!({"type": "message:edit", "uuid": first, "channel": null, "message": text("A"),
        "edited": edited})
    );
    assert_eq!(ann.next().await, json!({"type": "message:delete", "uuid": second, "channel": null}));
    ann.expect_silence(site, "own-ann").await;
    // Who comes late is given what is left of them.
    let mut bob = site.socket(&late).await;
    let frames = bob.take(4).await;
    let kinds: Vec<_> =
        frames.iter().map(|frame| (&frame["type"], &frame["message"]["text"], &frame["catchup"])).collect();
    let (yes, none) = (&json!(true), &json!(null));
    assert_eq!(
        kinds,
        [
            (&json!("message"), &json!("A"), yes),
            (&json!("message"), &json!("c"), yes),
            (&json!("message:edit"), &json!("A"), yes),
            (&json!("message:delete"), none, yes),
        ]
    );
    bob.expect_silence(site, "own-bob").await;
}

pub async fn large_messages_and_odd_names_come_through(site: &Site) {
    let (user, channel) = ("ann \"ż\" 😀 \\ / <b>\u{7}", "room/ż%20 .#*?&=+😀");
    let (_, mut socket) = site.join(user, &[channel]).await;
    let large = "ż😀x".repeat(40_000);
    for message in [
        json!({"large": large}),
        json!({}),
        json!({"ż \" \\ \n": ["\u{0}\u{7f}", {"deep": [[[[]]]]}, 1.5, -0.25, 1e20, 12_345_678_901_234_567_u64]}),
    ] {
        let item = site.say(json!({"user": user, "channel": channel, "message": message})).await;
        assert!(item["message"] == message, "the reply has it");
        let frame = socket.next().await;
        assert!(
            frame["message"] == message && frame["channel"] == channel && frame["user"] == user,
            "the frame has it"
        );
    }
    assert_eq!(site.channel(channel).await["users"], json!([user]));
    socket.expect_silence(site, user).await;
}
