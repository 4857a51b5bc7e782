//! What one client or publisher can cost, in entries looked at and bytes kept, while others are served as always.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{StubBackend, TestServer, Users, client::End, eventually, http};

async fn limited(server: &TestServer, word: &str) -> u64 {
    server.metric(&format!(r#"limited_total{{reason="{word}"}}"#)).await
}

fn subscribe(id: impl Into<Value>, room: Value) -> Value {
    json!({"type": "subscribe", "requestId": id.into(), "room": room})
}

/// A room of `keys` keys.
fn wide(keys: usize) -> Value {
    (0..keys).map(|n| (format!("k{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_wildcard_rooms_since_an_old_position_cost_a_bounded_search_and_disturb_nobody() {
    const KEPT: u64 = 20_000;
    const SOCKETS: usize = 3;
    const ROOMS: u64 = 10_000;
    let backend = StubBackend::allowing(json!([{"target": "message"}, {"customer": "*", "topic": "*", "kind": "*"}]));
    let server = TestServer::before(backend.await, &[]).await;
    let (_, welcome) = server.connect_v4().await;
    let since = welcome["position"].as_str().unwrap().to_owned();
    for from in (0..KEPT).step_by(1000) {
        let rooms = (from..from + 1000).map(|n| json!({"customer": n, "topic": n % 7, "kind": "a"}));
        let list: Vec<_> = rooms.map(|room| json!({"rooms": [room], "data": 0})).collect();
        assert_eq!(server.post("/trigger/", &json!(list).to_string()).await.status, 200);
    }
    server.until_number("rabbitmq_messages_received", KEPT).await;
    let (mut healthy, _) = server.connect_v4().await;
    healthy.ask(subscribe("1", json!({"target": "message"}))).await;
    let mut attackers = JoinSet::new();
    for _ in 0..SOCKETS {
        let (mut client, _) = server.connect_v4().await;
        let since = since.clone();
        attackers.spawn(async move {
            for from in (0..ROOMS).step_by(2000) {
                let wanted = |n: u64| {
                    let room = json!({"customer": "*", "topic": format!("nothing {n}"), "kind": "*"});
                    json!({"requestId": n, "room": room, "since": since})
                };
                let list: Vec<_> = (from..from + 2000).map(wanted).collect();
                client.send(json!({"type": "subscribe", "subscriptions": list})).await;
            }
            // One reply for each, in order.
            for n in 0..ROOMS {
                let reply = client.next().await;
                assert_eq!((&reply["requestId"], &reply["recovered"]), (&json!(n), &json!(true)), "{reply}");
            }
            client
        });
    }
    for number in 0..200 {
        server.trigger(json!({"rooms": [{"target": "message"}], "data": number})).await;
        let frame = healthy.next().await;
        assert_eq!((&frame["type"], &frame["data"]), (&json!("publish"), &json!(number)), "{frame}");
    }
    let mut attackers = attackers.join_all().await;
    eventually("all have caught up", async || server.metric("subscriptions").await == SOCKETS as u64 * ROOMS + 1).await;
    // A search is some look-ups for each segment, of which there are about two for each 4,096 publications kept; to make them
    // ready takes an entry for each publication and key, a few times as segments grow together.
    let searches = SOCKETS as u64 * ROOMS;
    let segments = KEPT / 2048 + 16;
    let entries = server.metric("recovery_entries_total").await;
    assert!(entries <= searches * segments * 2 + KEPT * 4 * 8, "{entries} entries for {searches} searches");
    assert!(entries < searches * KEPT / 100, "{entries} entries: they walk what does not match");
    // They are in their rooms.
    server.trigger(json!({"rooms": [{"customer": 1, "topic": "nothing 7", "kind": 1}], "data": "last"})).await;
    for client in &mut attackers {
        assert_eq!(client.next().await["requestId"], json!(7));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_with_many_rooms_is_answered_in_order_and_may_change_its_mind() {
    let server = TestServer::start().await;
    let (mut client, welcome) = server.connect_v4().await;
    for n in 0..100 {
        server.trigger(json!({"rooms": [{"customer": n}], "data": n})).await;
    }
    server.until_number("rabbitmq_messages_received", 100).await;
    let since = &welcome["position"];
    let now = server.get("/position").await.json()["position"].as_str().unwrap().to_owned();
    let (epoch, offset) = now.split_once(':').unwrap();
    let next = format!("{epoch}:{}", offset.parse::<u64>().unwrap() + 1);
    // All that is asked for waits behind a position that is still to come.
    let mut list = vec![json!({"requestId": "first", "room": {"target": "message"}, "since": next})];
    list.extend((0..100).map(|n| json!({"requestId": n, "room": {"customer": n}, "since": since})));
    list.push(json!({"requestId": "fresh", "room": {"customer": "*"}}));
    list.push(json!({"requestId": "bad", "room": {"other": 1}}));
    client.send(json!({"type": "subscribe", "subscriptions": list})).await;
    let ended = client.ask(json!({"type": "unsubscribe", "requestId": 50})).await;
    assert_eq!(ended, json!({"type": "reply", "requestId": 50, "code": "success"}));
    client.send(subscribe(50, json!({"customer": "again"}))).await;
    server.trigger(json!({"rooms": [{"nobody": 1}], "data": 0})).await;
    let (mut answered, mut given) = (Vec::new(), Vec::new());
    while answered.len() < 103 || given.len() < 99 {
        let frame = client.next().await;
        match frame["type"].as_str().unwrap() {
            "publish" => {
                assert!(answered.contains(&frame["requestId"]), "{frame} before its reply");
                given.push(frame["data"].as_u64().unwrap());
            }
            _ => answered.push(frame["requestId"].clone()),
        }
    }
    let once = (0..100).filter(|n| *n != 50);
    let mut expected = vec![json!("first")];
    expected.extend(once.clone().map(|n| json!(n)));
    expected.extend([json!("fresh"), json!("bad"), json!(50)]);
    assert_eq!(answered, expected);
    given.sort_unstable();
    assert_eq!(given, once.collect::<Vec<_>>());
    client.expect_silence().await;
    assert_eq!(server.metric("subscriptions").await, 102);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_has_no_more_keys_and_bytes_than_allowed_wherever_it_comes_from() {
    let backend = StubBackend::allowing(json!([{"customer": "*"}, wide(5), {"customer": "x".repeat(400)}])).await;
    let server = TestServer::before(backend, &[("MAX_ROOM_KEYS", "4"), ("ROOM_LIMIT", "256")]).await;
    let (mut new, welcome) = server.connect_v4().await;
    assert_eq!(welcome["limits"]["room_keys"], json!(4));
    assert_eq!(welcome["limits"]["room_bytes"], json!(256));
    assert_eq!(welcome["limits"]["request_id_bytes"], json!(255));
    assert_eq!(welcome["limits"]["masks"], json!(64));
    // What nobody can join is not said to be allowed.
    assert_eq!(welcome["allowed_rooms"], json!([{"customer": "*"}]));
    let from_api = limited(&server, "room").await;
    assert_eq!(from_api, 1);
    let long = json!({"customer": "x".repeat(300)});
    for (room, detail) in [
        (wide(5), "a room may have at most 4 keys (MAX_ROOM_KEYS)"),
        (long.clone(), "a room may have at most 256 bytes as canonical JSON (ROOM_LIMIT)"),
    ] {
        let reply = new.ask(subscribe("1", room.clone())).await;
        assert_eq!((&reply["message"], &reply["detail"]), (&json!("room-not-found"), &json!(detail)));
        for (path, body) in [
            ("/trigger/", json!({"rooms": [{"customer": 1}, room], "data": 1})),
            ("/control/", json!({"action": "disconnect", "room": room})),
        ] {
            let reply = server.post(path, &body.to_string()).await;
            let told = reply.json()["detail"].as_str().unwrap().to_owned();
            assert!(reply.status == 400 && told.contains(detail), "{path}: {reply:?}");
        }
        let list = json!([{"rooms": [room], "data": 1}, {"rooms": [{"customer": 1}], "data": 2}]);
        let reply = server.post("/trigger/", &list.to_string()).await.json();
        assert_eq!(
            (&reply[0]["message"], &reply[1]["code"]),
            (&json!("malformed-rooms"), &json!("success")),
            "{reply}"
        );
        let query: String = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("room", &room.to_string())
            .append_pair("connection", welcome["connection"].as_str().unwrap())
            .finish();
        for path in ["/rooms", "/explain"] {
            let reply = server.get(&format!("{path}?{query}")).await;
            assert!(reply.status == 400 && reply.body.contains(detail), "{path}: {reply:?}");
        }
        let reply = http::send(&server.public, "GET", &format!("/sse/?{query}"), &[], b"").await;
        assert_eq!(
            (reply.status, &reply.json()["message"], &reply.json()["detail"]),
            (403, &json!("room-not-found"), &json!(detail))
        );
    }
    let mut old = server.connect().await;
    let refused = json!({"code": "error", "message": "room-not-found"});
    assert_eq!(old.ask(subscribe("1", long)).await, refused);
    assert_eq!(limited(&server, "room").await, from_api + 2 + 2 + 2); // clients', /sse/, and the API's answers once more each
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_room_of_many_keys_is_answered_shortly_whatever_is_allowed() {
    let many: Vec<_> = (0..300).map(|n| json!({"customer": n, "topic": "x".repeat(100)})).collect();
    let server = TestServer::before(StubBackend::allowing(json!(many)).await, &[]).await;
    let (mut client, _) = server.connect_v4().await;
    let reply = client.ask(subscribe("1", wide(60_000))).await;
    assert_eq!(reply["detail"], json!("a room may have at most 64 keys (MAX_ROOM_KEYS)"));
    let reply = client.ask(subscribe("1", wide(64))).await;
    let detail = reply["detail"].as_str().unwrap();
    assert!(detail.starts_with("the nearest allowed room is {") && detail.len() < 1500, "{detail}");
    assert!(detail.ends_with(" more differences"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_is_no_longer_than_255_bytes() {
    let server = TestServer::start().await;
    let (mut new, mut old) = (server.connect_v4().await.0, server.connect().await);
    for client in [&mut new, &mut old] {
        let reply = client.ask(subscribe("x".repeat(255), json!({"target": "message"}))).await;
        assert_eq!(reply["code"], json!("success"));
        for kind in ["subscribe", "unsubscribe"] {
            let mut request = subscribe("x".repeat(256), json!({"target": "message"}));
            request["type"] = json!(kind);
            assert_eq!(client.ask(request).await["message"], json!("no-request-id"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_no_more_combinations_of_wildcards_than_allowed() {
    let server =
        TestServer::before(StubBackend::allowing(json!([{"a": "*", "b": "*", "c": "*"}])).await, &[("MAX_MASKS", "2")])
            .await;
    let (mut new, welcome) = server.connect_v4().await;
    assert_eq!(welcome["limits"]["masks"], json!(2));
    let mut old = server.connect().await;
    for (client, word) in [(&mut new, "too-many-masks"), (&mut old, "too-many-subscriptions")] {
        for (id, room, expected) in [
            ("1", json!({"a": "*", "b": 1, "c": 1}), None),
            ("2", json!({"a": "*", "b": 2, "c": 2}), None),
            ("3", json!({"a": 1, "b": "*", "c": "*"}), None),
            ("4", json!({"a": 1, "b": 1, "c": "*"}), Some(word)),
            ("5", json!({"a": 1, "b": 1, "c": 1}), None),
        ] {
            let reply = client.ask(subscribe(id, room)).await;
            assert_eq!(reply.get("message").and_then(Value::as_str), expected, "{reply}");
        }
        // One that is given up makes room for another one.
        client.ask(json!({"type": "unsubscribe", "requestId": "3"})).await;
        let reply = client.ask(subscribe("4", json!({"a": 1, "b": 1, "c": "*"}))).await;
        assert_eq!(reply["code"], json!("success"), "{reply}");
    }
    assert_eq!(limited(&server, "masks").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_costs_a_look_up_for_each_combination_that_connections_may_have() {
    const CLIENTS: u64 = 10;
    let keys = 10;
    let allowed: Value = (0..keys).map(|n| (format!("k{n}"), json!("*"))).collect::<serde_json::Map<_, _>>().into();
    let server = TestServer::before(StubBackend::allowing(json!([allowed])).await, &[]).await;
    let mut clients = Vec::new();
    let mut number = 0_u64;
    for _ in 0..CLIENTS {
        let (mut client, _) = server.connect_v4().await;
        let room = |mask: u64| -> Value {
            let value = |n: u64| if mask & 1 << n != 0 { json!("*") } else { json!(0) };
            (0..keys).map(|n| (format!("k{n}"), value(n))).collect::<serde_json::Map<_, _>>().into()
        };
        let list: Vec<_> = (0..100).map(|n| json!({"requestId": n, "room": room(number + n + 1)})).collect();
        number += 100;
        client.send(json!({"type": "subscribe", "subscriptions": list})).await;
        let mut taken = 0;
        for _ in 0..100 {
            let reply = client.next().await;
            if reply["code"] == json!("success") {
                taken += 1;
            } else {
                assert_eq!(reply["message"], json!("too-many-masks"), "{reply}");
            }
        }
        assert_eq!(taken, 64);
        clients.push(client);
    }
    let room: Value = (0..keys).map(|n| (format!("k{n}"), json!(1))).collect::<serde_json::Map<_, _>>().into();
    server.trigger(json!({"rooms": [room, room], "data": 1})).await;
    server.until_number("rabbitmq_messages_received", 1).await;
    assert_eq!(server.metric("room_look_ups_total").await, 2 * 64 * CLIENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_keeps_no_more_than_its_memory_and_is_told_so() {
    let vars = [("CONNECTION_MEMORY", "96KiB"), ("MESSAGE_LIMIT", "32KiB")];
    let server = TestServer::with(&vars).await;
    let (mut new, mut old) = (server.connect_v4().await.0, server.connect().await);
    for (client, word) in [(&mut new, "too-much-memory"), (&mut old, "too-many-subscriptions")] {
        let room = |n: usize| json!({"customer": format!("{n:05}{}", "x".repeat(4000))});
        let mut taken = 0;
        let refused = loop {
            let reply = client.ask(subscribe(taken, room(taken))).await;
            if reply["code"] != json!("success") {
                break reply;
            }
            taken += 1;
        };
        assert_eq!(refused["message"], json!(word));
        assert!((10..=16).contains(&taken), "{taken} rooms of 4 KB in 64 KiB");
        // A small one still fits, and what is given up can be used again.
        client.ask(json!({"type": "unsubscribe", "requestId": 0})).await;
        assert_eq!(client.ask(subscribe("again", room(0))).await["code"], json!("success"));
    }
    assert_eq!(limited(&server, "memory").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_refusals_cannot_be_answered_is_closed_before_they_take_its_memory() {
    let vars = [("CONNECTION_MEMORY", "96KiB"), ("MESSAGE_LIMIT", "32KiB")];
    let server = TestServer::before(Users::default().backend().await, &vars).await;
    let mut bystander = server.member("bob", &[("1", json!({"target": "message"}))]).await;
    let (mut client, welcome) = server.connect_v4().await;
    // A position that is still to come is waited for, and all that is asked for behind it waits, too.
    let (epoch, offset) = welcome["position"].as_str().unwrap().split_once(':').unwrap();
    let next = format!("{epoch}:{}", offset.parse::<u64>().unwrap() + 1);
    client.send(json!({"type": "subscribe", "requestId": 0, "room": {"target": "message"}, "since": next})).await;
    for n in 1..2000 {
        client.try_send(&subscribe(n, json!({"not": "allowed"})).to_string()).await;
    }
    let (_, end) = client.end().await;
    let reason = "more waits for an answer than may be kept (CONNECTION_MEMORY)";
    assert_eq!(end, End::Closed(1008, reason.to_owned()));
    assert_eq!(limited(&server, "memory").await, 1);
    server.trigger(json!({"rooms": [{"target": "message"}], "data": 1})).await;
    assert_eq!(bystander.next().await["data"], json!(1));
}
