//! The socket of a connection: what comes over it, and what its end means.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, sleep},
};
use tokio_tungstenite::tungstenite::{Error, Message};
use uuid::Uuid;

use crate::support::{
    Client, StubBackend, TestServer,
    backend::{Answer, Asked},
    channelstream::{Place, SECRET, SOON, Site, Socket},
    client::End,
    http,
};

fn texts(frames: &[Value]) -> Vec<&Value> {
    frames.iter().map(|frame| &frame["message"]["text"]).collect()
}

fn say(channel: &str, text: &str) -> Value {
    json!({"user": "x", "channel": channel, "message": {"text": text}})
}

pub async fn a_socket_of_an_unknown_connection_is_closed(site: &Site) {
    let gone = site.connect("unknown-ann", &[]).await;
    site.disconnect(&gone).await;
    for id in [gone, Uuid::new_v4().to_string()] {
        let (frames, end) = site.socket(&id).await.end().await;
        assert!(matches!(end, End::Closed(1000, _)), "{end:?}");
        assert_eq!(frames, Vec::<Value>::new());
    }
    for query in ["?conn_id=nonsense", "?conn_id="] {
        match Client::try_connect(site.public(), &format!("/ws{query}"), &[]).await {
            Err(Error::Http(reply)) => assert!(reply.status().is_client_error(), "{query}: {reply:?}"),
            Err(_) => {}
            Ok((mut client, _)) => assert_eq!(client.end().await.0, Vec::<String>::new(), "{query}"),
        }
    }
    let id = site.connect("unknown-ann", &[]).await;
    let reply = http::send(site.public(), "GET", &format!("/ws?conn_id={id}"), &[], b"").await;
    assert!(reply.status >= 400, "{reply:?}");
    // Whoever has the id may listen, from any page; nothing is agreed on.
    let headers = [
        ("Origin", "http://evil.example"),
        ("x-channelstream-secret", "nonsense"),
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
    ];
    let (_client, reply) = Client::try_connect(site.public(), &format!("/ws?conn_id={id}"), &headers).await.unwrap();
    for header in ["sec-websocket-extensions", "sec-websocket-protocol", "access-control-allow-origin"] {
        assert!(!reply.headers().contains_key(header), "{reply:?}");
    }
}

pub async fn whatever_a_client_sends_is_ignored(site: &Site) {
    let (_, mut ann) = site.join("ignored-ann", &["ignored"]).await;
    for message in [
        Message::text(r#"{"type": "heartbeat"}"#),
        Message::text(r#"{"type": "message", "channel": "ignored", "message": {"text": "x"}}"#),
        Message::text("nonsense"),
        Message::text(""),
        Message::text("ping"),
        Message::text("["),
        Message::binary(vec![0, 255, 17]),
        Message::binary(vec![b'x'; 20_000]),
    ] {
        ann.client.send_message(message).await;
    }
    site.say(say("ignored", "after")).await;
    assert_eq!(ann.next().await["message"], json!({"text": "after"}));
    ann.expect_silence(site, "ignored-ann").await;
}

/// Waits for heartbeats, none of which may keep one waiting.
async fn is_kept_alive(socket: &mut Socket, heartbeats: usize) {
    let mut last = Instant::now();
    for number in 0..heartbeats {
        socket.heartbeat().await;
        assert!(last.elapsed() < Duration::from_secs(9), "{:?}", last.elapsed());
        assert!(number == 0 || last.elapsed() > Duration::from_secs(3), "{:?}", last.elapsed());
        last = Instant::now();
    }
}

pub async fn an_attached_socket_is_kept_alive_by_heartbeats(site: &Site) {
    let (id, mut ann) = site.join("beat-ann", &["beat"]).await;
    is_kept_alive(&mut ann, 4).await; // 20 seconds; it would be collected after 15
    assert!(site.knows(&id).await);
    site.say(say("beat", "still here")).await;
    assert_eq!(ann.next().await["message"]["text"], json!("still here"));
}

pub async fn a_socket_attached_late_gets_heartbeats_too(site: &Site) {
    let id = site.connect("late-ann", &["late"]).await;
    sleep(Duration::from_secs(7)).await; // past the time of the first heartbeat
    let mut ann = site.socket(&id).await;
    is_kept_alive(&mut ann, 3).await;
    site.say(say("late", "still here")).await;
    assert_eq!(ann.next().await["message"]["text"], json!("still here"));
}

pub async fn a_newer_socket_takes_over(site: &Site) {
    let id = site.connect("newer-ann", &["newer"]).await;
    let mut current = site.socket(&id).await;
    for (round, how) in ["left", "cut", "left"].into_iter().enumerate() {
        site.say(say("newer", &format!("before {round}"))).await;
        assert_eq!(current.next().await["message"]["text"], json!(format!("before {round}")));
        let mut newer = site.socket(&id).await;
        // It is the one from the moment it is given something: at another instance, that may be what the older one has had.
        let mark = Uuid::new_v4().to_string();
        site.say(json!({"user": "nobody", "pm_users": ["newer-ann"], "message": {"mark": mark}})).await;
        let mut frame = newer.next().await;
        if frame["message"]["text"] == json!(format!("before {round}")) {
            assert_eq!(frame["catchup"], json!(true));
            frame = newer.next().await;
        }
        assert_eq!(frame["message"]["mark"], json!(mark));
        site.say(say("newer", &format!("after {round}"))).await;
        assert_eq!(newer.next().await["message"]["text"], json!(format!("after {round}")));
        if how == "left" {
            let (texts, _) = current.client.leave(None).await;
            // The mark may have come before the newer one counted; that one is given it all the same.
            let texts: Vec<_> = texts.into_iter().filter(|text| text != "[]" && !text.contains("mark")).collect();
            assert_eq!(texts, Vec::<String>::new(), "the older one is given nothing more");
        } else {
            drop(current);
        }
        // Which is no reason to collect the connection.
        newer.heartbeat().await;
        assert!(site.knows(&id).await, "after the older one was {how}");
        current = newer;
    }
    assert_eq!(site.channel("newer").await["total_connections"], json!(1));
}

/// Someone who watches a channel in which `user` is, and the connection of `user` with its socket.
async fn watched(site: &Site, channel: &str, user: &str) -> (Socket, String, Socket) {
    site.configure(channel, json!({"notify_presence": true})).await;
    let (_, mut watcher) = site.join(&format!("{channel}-watcher"), &[channel]).await;
    let (id, socket) = site.join(user, &[channel]).await;
    assert_eq!(watcher.next().await["message"]["action"], json!("joined"));
    (watcher, id, socket)
}

async fn has_parted(site: &Site, watcher: &mut Socket, id: &str, since: Instant) {
    let frame = watcher.next().await;
    assert_eq!((&frame["message"]["action"], &frame["state"]), (&json!("parted"), &json!(null)), "{frame}");
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    assert!(!site.knows(id).await);
}

pub async fn who_closes_has_parted(site: &Site) {
    for code in [None, Some(1000), Some(1001), Some(4321)] {
        let (mut watcher, id, socket) = watched(site, "closes", "closes-ann").await;
        let since = Instant::now();
        let (_, end) = socket.client.leave(code).await;
        if let Some(code) = code {
            assert!(matches!(end, End::Closed(echoed, _) if echoed == code), "{code}: {end:?}");
        }
        has_parted(site, &mut watcher, &id, since).await;
        let (_, end) = site.socket(&id).await.end().await;
        assert!(matches!(end, End::Closed(1000, _)), "{end:?}");
    }
}

pub async fn who_closes_before_it_is_served_has_parted(site: &Site) {
    for _ in 0..5 {
        site.configure("hasty", json!({"notify_presence": true})).await;
        let (_, mut watcher) = site.join("hasty-watcher", &["hasty"]).await;
        let id = site.connect("hasty-ann", &["hasty"]).await;
        assert_eq!(watcher.next().await["message"]["action"], json!("joined"));
        let since = Instant::now();
        let handshake = format!(
            "GET /ws?conn_id={id} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let close = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]; // 1000, masked with zeros
        let mut stream = http::dial(site.public()).await;
        stream.write_all(&[handshake.as_bytes(), &close].concat()).await.unwrap();
        has_parted(site, &mut watcher, &id, since).await;
    }
}

pub async fn who_is_cut_off_has_parted(site: &Site) {
    let (mut watcher, id, socket) = watched(site, "cut", "cut-ann").await;
    let since = Instant::now();
    drop(socket);
    has_parted(site, &mut watcher, &id, since).await;
}

pub async fn disconnecting_closes_the_socket(site: &Site) {
    let (mut watcher, id, mut socket) = watched(site, "dropped", "dropped-ann").await;
    let since = Instant::now();
    assert_eq!(site.disconnect(&id).await, json!(true));
    let (frames, end) = socket.end().await;
    assert!(matches!(end, End::Closed(1000, _)), "{end:?}");
    assert_eq!(frames, Vec::<Value>::new());
    has_parted(site, &mut watcher, &id, since).await;
}

pub async fn what_was_missed_comes_first(site: &Site) {
    site.configure("missed-b", json!({"notify_presence": true, "notify_state": true})).await;
    site.configure("missed-off", json!({"store_frames": false})).await;
    site.connect("missed-bob", &["missed-a"]).await;
    site.say(say("missed-a", "too old")).await;
    site.say(json!({"user": "x", "pm_users": ["missed-ann", "missed-bob"], "message": {"text": "too old"}})).await;
    let id = site.connect("missed-ann", &["missed-b", "missed-off", "missed-a"]).await;
    let to = |text: &str, more: Value| {
        let mut item = say("missed-a", text);
        item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        item
    };
    site.post(
        "/message",
        json!([
            say("missed-b", "b-1"),
            {"user": "x", "pm_users": ["missed-ann"], "message": {"text": "own"}},
            say("missed-a", "a-1"),
            to("not for ann", json!({"exclude_users": ["missed-ann"]})),
            to("not for ann, either", json!({"pm_users": ["missed-bob"]})),
            to("a-2", json!({"pm_users": ["missed-ann", "missed-bob"]})),
            to("a-3", json!({"timestamp": "2001-01-01T00:00:00", "no_history": true})),
            say("missed-off", "never kept"),
            say("missed-b", "b-2"),
        ]),
    )
    .await;
    site.connect("missed-bob", &["missed-b"]).await;
    site.post("/user_state", json!({"user": "missed-bob", "user_state": {"a": 1}, "state_public_keys": ["a"]})).await;
    let mut ann = site.socket(&id).await;
    let frames = ann.take(8).await;
    let wanted = ["a-1", "a-2", "a-3", "b-1", "b-2"];
    assert_eq!(texts(&frames[..5]), wanted, "{frames:?}");
    assert_eq!((&frames[5]["type"], &frames[5]["user"]), (&json!("presence"), &json!("missed-bob")), "{frames:?}");
    assert_eq!((&frames[6]["type"], &frames[6]["user"]), (&json!("user_state_change"), &json!("missed-bob")));
    assert_eq!((&frames[7]["message"]["text"], &frames[7]["channel"]), (&json!("own"), &json!(null)));
    for frame in &frames {
        assert_eq!(frame["catchup"], json!(true), "{frame}");
        for key in ["pm_users", "exclude_users", "no_history"] {
            assert!(frame.get(key).is_none(), "{frame}");
        }
    }
    site.say(say("missed-a", "live")).await;
    let frame = ann.next().await;
    assert_eq!((&frame["message"]["text"], &frame["catchup"]), (&json!("live"), &json!(false)));
    // Another socket of the connection is not told again.
    let mut again = site.socket(&id).await;
    again.expect_silence(site, "missed-ann").await;
}

pub async fn what_was_edited_meanwhile_comes_edited(site: &Site) {
    let id = site.connect("meanwhile-ann", &["meanwhile"]).await;
    let said =
        site.post("/message", json!([say("meanwhile", "a"), say("meanwhile", "b"), say("meanwhile", "c")])).await;
    let (first, second) = (&said[0]["uuid"], &said[1]["uuid"]);
    let edit = json!([{"uuid": first, "channel": "meanwhile", "message": {"text": "A"}}]);
    let edited = site.ask("PATCH", "/message", &edit).await[0]["edited"].take();
    site.ask("DELETE", "/message", &json!([{"uuid": second, "channel": "meanwhile"}])).await;
    let mut ann = site.socket(&id).await;
    let frames = ann.take(4).await;
    assert_eq!(
        frames[0],
        json!({"type": "message", "uuid": first, "timestamp": said[0]["timestamp"], "user": "x",
        "channel": "meanwhile", "message": {"text": "A"}, "edited": edited, "catchup": true})
    );
    assert_eq!(frames[1]["message"]["text"], json!("c"));
    assert_eq!(
        frames[2],
        json!({"type": "message:edit", "uuid": first, "channel": "meanwhile", "message": {"text": "A"},
        "edited": edited, "catchup": true})
    );
    assert_eq!(frames[3], json!({"type": "message:delete", "uuid": second, "channel": "meanwhile", "catchup": true}));
    ann.expect_silence(site, "meanwhile-ann").await;
}

pub async fn no_more_is_kept_than_the_newest(site: &Site) {
    let id = site.connect("newest-ann", &["newest"]).await;
    let items: Vec<Value> = (0..120).map(|number| say("newest", &number.to_string())).collect();
    site.post("/message", items.into()).await;
    let own = |number| json!({"user": "x", "pm_users": ["newest-ann"], "message": {"text": format!("own {number}")}});
    site.post("/message", (0..60).map(own).collect()).await;
    let mut ann = site.socket(&id).await;
    let frames = ann.take(150).await;
    let wanted = (20..120).map(|number| number.to_string()).chain((10..60).map(|number| format!("own {number}")));
    assert!(texts(&frames).into_iter().eq(wanted.map(Value::from).collect::<Vec<_>>().iter()), "{frames:?}");
    ann.expect_silence(site, "newest-ann").await;
}

pub async fn own_sockets_are_beside_it(site: &Site) {
    let mut client = Client::connect(site.public(), "/ws/", &[]).await;
    assert_eq!(client.next().await["is_authorized"], json!(true));
    client.subscribe("1", json!({"target": "message"})).await;
    site.connect("beside-ann", &["message"]).await;
    site.say(say("message", "none of its business")).await;
    client.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_a_room_like_others() {
    let rooms = json!([{"channelstream": ["lobby"]}, {"channelstream_user": ["ann"]}]);
    let says = rooms.to_string();
    let backend =
        StubBackend::answering(move |_: &Asked| Answer::Reply(200, format!(r#"{{"allowed_rooms":{says}}}"#))).await;
    let server = TestServer::before(backend, &[("CHANNELSTREAM_SECRET", SECRET)]).await;
    let site = Site::at(vec![Place::from(&server)]).without_public_calls();
    let mut own = Client::connect(&server.public, "/ws/", &[]).await;
    assert_eq!(own.next().await["is_authorized"], json!(true));
    for (name, room) in ["channel", "user"].iter().zip(rooms.as_array().unwrap()) {
        own.subscribe(name, room.clone()).await;
    }
    let (_, mut ann) = site.join("ann", &["lobby", "*"]).await;
    site.say(json!({"user": "x", "channel": "lobby", "message": {"n": 1}})).await;
    let frame = own.next().await;
    assert_eq!((&frame["requestId"], &frame["data"]["message"]), (&json!("channel"), &json!({"n": 1})));
    assert_eq!(ann.next().await, frame["data"]);
    // What is for some of a channel only is not for the room.
    site.say(json!({"user": "x", "channel": "lobby", "pm_users": ["ann"], "message": {"n": 2}})).await;
    site.say(json!({"user": "x", "pm_users": ["ann"], "message": {"n": 3}})).await;
    let frame = own.next().await;
    assert_eq!((&frame["requestId"], &frame["data"]["message"]), (&json!("user"), &json!({"n": 3})));
    assert_eq!([ann.next().await["message"]["n"].take(), ann.next().await["message"]["n"].take()], [2, 3]);
    // A channel's name is no wildcard, and a trigger reaches who listens.
    server.trigger(json!({"rooms": [{"channelstream": ["lobby"]}], "data": {"type": "message", "n": 4}})).await;
    assert_eq!(ann.next().await, json!({"type": "message", "n": 4}));
    ann.expect_silence(&site, "ann").await;
}
