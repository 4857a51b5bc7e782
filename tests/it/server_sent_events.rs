//! Publications as server-sent events: as over a socket, by one request.

use high_templar::config::Listen;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

use crate::support::{
    PATIENCE, TestServer, Users,
    backend::Answer,
    events::{Events, path, refusal},
    eventually,
    http::{dial, request},
    rabbitmq,
};

fn message() -> Value {
    json!({"target": "message"})
}

fn customer(id: impl Into<Value>) -> Value {
    json!({"customer": id.into()})
}

/// A stream for these rooms, and what is told at its beginning: the welcome, and a reply for each.
async fn open(server: &TestServer, rooms: &[Value], more: &str) -> (Events, Value, Vec<Value>) {
    opened(Events::open(&server.public, &path(rooms, more), &[]).await, rooms.len()).await
}

async fn opened(mut events: Events, rooms: usize) -> (Events, Value, Vec<Value>) {
    let welcome = events.next().await;
    assert_eq!((&welcome["type"], &welcome["is_authorized"]), (&json!("welcome"), &json!(true)), "{welcome}");
    let mut replies = Vec::new();
    for number in 0..rooms {
        let reply = events.next().await;
        assert_eq!((&reply["type"], &reply["requestId"]), (&json!("reply"), &json!(number.to_string())), "{reply}");
        replies.push(reply);
    }
    (events, welcome, replies)
}

/// The subscription and the data of the next event, which has to be a publication.
async fn publication(events: &mut Events) -> (String, Value) {
    let frame = events.next().await;
    assert_eq!(frame["type"], json!("publish"), "{frame}");
    (frame["requestId"].as_str().unwrap().to_owned(), frame["data"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_the_frames_that_a_socket_is_sent() {
    let server = TestServer::start().await;
    let (mut events, welcome, replies) = open(&server, &[message(), customer("*")], "").await;
    assert_eq!(events.id, welcome["position"].as_str().unwrap());
    assert!(replies.iter().all(|reply| reply["code"] == json!("success") && reply["position"] == welcome["position"]));
    let (mut socket, _) = server.connect_v4().await;
    socket.ask(json!({"type": "subscribe", "requestId": "0", "room": message()})).await;
    let trigger = "{\"rooms\":[{\"target\":\"message\"}],\"data\":{\"b\" : 1e2,\"a\":\"\\u00e9 \\n\"}}";
    assert_eq!(server.post("/trigger/", trigger).await.status, 200);
    assert_eq!(events.next_event().await.unwrap().data, socket.next_text().await);
    server.trigger(json!({"rooms": [customer(7)], "data": 1})).await;
    assert_eq!(publication(&mut events).await, ("1".to_owned(), json!(1)));
    // Line breaks of the publisher's are lines of data.
    let trigger = "{\"rooms\":[{\"target\":\"message\"}],\"data\":[1,\n2,\r\n3]}";
    assert_eq!(server.post("/trigger/", trigger).await.status, 200);
    assert_eq!(publication(&mut events).await, ("0".to_owned(), json!([1, 2, 3])));
    let seen = server.get("/connections").await.json()["connections"][0].clone();
    let told = ["transport", "protocol", "subscriptions"].map(|name| seen[name].clone());
    assert_eq!(told, [json!("sse"), json!("high-templar.v4"), json!(2)], "{seen}");
    for header in ["text/event-stream", "no-store", "x-accel-buffering: no"] {
        assert!(events.head.contains(header), "{}", events.head);
    }
    drop(events);
    server.until_number("open_connections", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_is_given_what_it_has_missed() {
    let server = TestServer::start().await;
    let (mut events, ..) = open(&server, &[message()], "").await;
    server.trigger(json!({"rooms": [message()], "data": 0})).await;
    publication(&mut events).await;
    let last = std::mem::take(&mut events.id);
    drop(events);
    for number in 1..500 {
        server.trigger(json!({"rooms": [message()], "data": number})).await;
    }
    let query = path(&[message()], &format!("&since={last}"));
    let old = path(&[message()], "&since=0123456789ab:1");
    let polyfill = path(&[message()], &format!("&since=0123456789ab:1&lastEventId={last}"));
    // As a page asks; as a browser's own EventSource does, whose `since` is that of the first time; and as event-source-polyfill.
    let header = vec![("Last-Event-ID", last.as_str())];
    for (path, headers) in [(&query, vec![]), (&old, header), (&polyfill, vec![])] {
        let (mut events, _, replies) = opened(Events::open(&server.public, path, &headers).await, 1).await;
        assert_eq!(replies[0]["recovered"], json!(true), "{replies:?}");
        for number in 1..500 {
            assert_eq!(publication(&mut events).await.1, json!(number));
        }
    }
    let (_, _, replies) = opened(Events::open(&server.public, &old, &[]).await, 1).await;
    assert_eq!(replies[0]["recovered"], json!(false));
}

/// Cuts a stream of several rooms everywhere it can be cut: each room goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_wherever_a_stream_of_several_rooms_is_cut() {
    const TRIGGERS: usize = 60;
    let server = TestServer::start().await;
    let rooms = [message(), customer("*"), customer(7)];
    let (first, ..) = open(&server, &rooms, "").await;
    // Some go to one subscription, some to two, some to all; some at once, so that they come in one piece.
    let rooms_of = |number: usize| match number % 4 {
        0 => vec![message()],
        1 => vec![customer(7)],
        2 => vec![customer(8)],
        _ => vec![message(), customer(7)],
    };
    let all: Vec<Value> = (0..TRIGGERS).map(|number| json!({"rooms": rooms_of(number), "data": number})).collect();
    let expected: Vec<Vec<usize>> = [[0, 3, 3], [1, 2, 3], [1, 3, 3]]
        .map(|kinds| (0..TRIGGERS).filter(|number| kinds.contains(&(number % 4))).collect())
        .to_vec();
    let publish = async {
        for some in all.chunks(5) {
            assert_eq!(server.post("/trigger/", &json!(some).to_string()).await.status, 200);
            tokio::task::yield_now().await;
        }
    };
    // Reads so many events before it is cut off; the id is all that it keeps.
    let read = async |patience: usize| {
        let (mut id, mut seen) = (first.id.clone(), vec![Vec::new(); 3]);
        while seen != expected {
            let headers = [("Last-Event-ID", id.as_str())];
            let (mut events, _, replies) =
                opened(Events::open(&server.public, &path(&rooms, ""), &headers).await, 3).await;
            assert!(replies.iter().all(|reply| reply["recovered"] == json!(true)), "{id}: {replies:?}");
            for _ in 0..patience {
                if seen == expected {
                    break;
                }
                let (subscription, data) = publication(&mut events).await;
                let seen = &mut seen[subscription.parse::<usize>().unwrap()];
                seen.push(usize::try_from(data.as_u64().unwrap()).unwrap());
                let wanted = &expected[subscription.parse::<usize>().unwrap()];
                assert_eq!(*seen, wanted[..seen.len()], "subscription {subscription} after {id}");
            }
            id.clone_from(&events.id);
        }
    };
    let readers = async { tokio::join!(read(1), read(2), read(3), read(7), read(200)) };
    tokio::join!(publish, readers);
}

/// As many rooms as a stream may have, all of them reached by each trigger, cost a few bytes of `id` for each event.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_costs_a_stream_of_many_rooms_a_few_bytes_for_each_event() {
    const ROOMS: usize = 128;
    let server = TestServer::start().await;
    let rooms = vec![message(); ROOMS];
    let (mut events, ..) = open(&server, &rooms, "").await;
    for number in 0..20 {
        let before = events.bytes;
        server.trigger(json!({"rooms": [message()], "data": number})).await;
        for _ in 0..ROOMS {
            assert_eq!(publication(&mut events).await.1, json!(number));
        }
        let each = (events.bytes - before) / ROOMS;
        assert!(each < 250, "{each} bytes of each event, of which its data are about 100");
    }
    let reply = refusal(&server.public, &path(&vec![message(); ROOMS + 1], ""), &[]).await;
    assert_eq!((reply.status, &reply.json()["message"]), (400, &json!("too-many-subscriptions")), "{reply:?}");
    assert_eq!(reply.json()["limit"], json!(ROOMS));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_room_may_have_a_position_of_its_own() {
    let server = TestServer::start().await;
    let (mut events, welcome, _) = open(&server, &[message()], "").await;
    server.trigger(json!({"rooms": [message()], "data": 1})).await;
    assert_eq!(publication(&mut events).await.1, json!(1));
    let (mut socket, _) = server.connect_v4().await;
    let reply = socket.ask(json!({"type": "subscribe", "requestId": "1", "room": message()})).await;
    server.trigger(json!({"rooms": [message(), customer(7)], "data": 2})).await;
    assert_eq!(socket.next().await["data"], json!(2), "it has been delivered to whoever was there");
    let [first, second] = [&welcome, &reply].map(|frame| frame["position"].as_str().unwrap());
    assert_ne!(first, second);
    let since = format!("&since={second}&since=&since={first}");
    let (mut events, _, replies) = open(&server, &[message(), message(), message()], &since).await;
    let recovered: Vec<_> = replies.iter().map(|reply| &reply["recovered"]).collect();
    assert_eq!(recovered, [&json!(true), &Value::Null, &json!(true)]);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(publication(&mut events).await);
    }
    seen.sort_by(|one, other| one.0.cmp(&other.0));
    let (zero, two) = ("0".to_owned(), "2".to_owned());
    assert_eq!(seen, [(zero, json!(2)), (two.clone(), json!(1)), (two, json!(2))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_listen_is_told_by_a_status() {
    let users = Users::default();
    users.log_out("nobody");
    let variables = [("MAX_CONNECTIONS_PER_USER", "1"), ("MAX_SUBSCRIPTIONS", "3"), ("HOOK_CONNECT", "here/")];
    let server = TestServer::before(users.backend().await, &variables).await;
    let ask = async |path: &str, user: &str| {
        let reply = refusal(&server.public, path, &[("Cookie", &format!("user={user}"))]).await;
        (reply.status, reply.json()["message"].as_str().unwrap().to_owned(), reply)
    };
    let of = |rooms: &[Value]| path(rooms, "");
    for (path, user, status, word) in [
        (of(&[message()]), "nobody", 401, "not-authorized"),
        ("/sse/".to_owned(), "4", 400, "no-room"),
        (path(&[message(), message()], "&since=a&since=b&since=c"), "4", 400, "malformed-since"),
        (of(&[message(), message(), message(), message()]), "4", 400, "too-many-subscriptions"),
        (path(&[message()], &format!("&since={}", "1".repeat(200))), "4", 400, "malformed-since"),
        (of(&[json!([])]), "4", 403, "room-not-found"),
        ("/sse?room=nonsense".to_owned(), "4", 403, "room-not-found"),
    ] {
        let (found, message, reply) = ask(&path, user).await;
        assert_eq!((found, message.as_str()), (status, word), "{path}: {reply:?}");
        assert_eq!(reply.header("Cache-Control"), Some("no-store, no-transform"));
    }
    let last = [("Cookie", "user=4"), ("Last-Event-ID", &*"x=;".repeat(10_000))];
    let reply = refusal(&server.public, &of(&[message()]), &last).await;
    assert_eq!((reply.status, &reply.json()["message"]), (400, &json!("malformed-since")), "{reply:?}");
    let (status, word, reply) = ask(&of(&[message(), json!({"target": "secret"})]), "4").await;
    assert_eq!((status, word.as_str(), &reply.json()["requestId"]), (403, "room-not-found", &json!("1")));
    assert!(reply.json()["detail"].as_str().unwrap().contains("\"target\""), "{reply:?}");
    let hooks = server.backend.lines().iter().filter(|line| line.starts_with("POST")).count();
    assert_eq!(hooks, 0, "nobody was let in");

    let cookie = [("Cookie", "user=4")];
    let _one = opened(Events::open(&server.public, &of(&[message()]), &cookie).await, 1).await;
    let (status, word, reply) = ask(&of(&[message()]), "4").await;
    assert_eq!((status, word.as_str()), (429, "too-many-connections"));
    assert!(reply.header("Retry-After").unwrap().parse::<u32>().unwrap() >= 30, "{reply:?}");
    server.backend.answer(|_| Answer::Reply(503, String::new()));
    let (status, word, reply) = ask(&of(&[message()]), "5").await;
    assert_eq!((status, word.as_str()), (503, "try-later"));
    assert!(reply.header("Retry-After").unwrap().parse::<u32>().unwrap() >= 1, "{reply:?}");
    server.until_number("open_connections", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pages_that_may_connect_can_read_the_events() {
    let server = TestServer::with(&[("ALLOWED_ORIGINS", "https://app.example.org")]).await;
    let path = path(&[message()], "");
    let reply = refusal(&server.public, &path, &[("Origin", "https://evil.example")]).await;
    assert_eq!((reply.status, reply.json()["message"].clone()), (403, json!("origin-not-allowed")));
    assert_eq!(reply.header("Access-Control-Allow-Origin"), None);
    assert!(server.backend.asked().is_empty(), "nobody was asked");
    let events = Events::open(&server.public, &path, &[("Origin", "https://app.example.org")]).await;
    for header in [
        "access-control-allow-origin: https://app.example.org",
        "access-control-allow-credentials: true",
        "access-control-expose-headers: Retry-After",
        "vary: Origin",
    ] {
        assert!(events.head.contains(header), "{}", events.head);
    }
    let reply = refusal(&server.public, "/sse/", &[("Origin", "https://app.example.org")]).await;
    assert_eq!(
        reply.header("Access-Control-Allow-Origin"),
        Some("https://app.example.org"),
        "why not can be read, too"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_are_taken_away_from_who_listens() {
    let users = Users::default();
    let server = TestServer::before(users.backend().await, &[]).await;
    let cookie = [("Cookie", "user=4")];
    let rooms = path(&[message(), customer(7)], "");
    let (mut events, ..) = opened(Events::open(&server.public, &rooms, &cookie).await, 2).await;
    users.allow("4", json!([message()]));
    server.control(json!({"action": "reauthorize", "user": "4"})).await;
    let told = [events.next().await, events.next().await];
    assert!(
        told.contains(&json!({"type": "unsubscribed", "requestId": "1", "message": "no-longer-allowed"})),
        "{told:?}"
    );
    assert!(told.contains(&json!({"type": "allowed_rooms", "allowed_rooms": [message()]})), "{told:?}");
    server.trigger(json!({"rooms": [customer(7), message()], "data": 1})).await;
    assert_eq!(publication(&mut events).await, ("0".to_owned(), json!(1)));
    server.control(json!({"action": "disconnect", "user": "4"})).await;
    assert_eq!(events.close().await.0, 3501);
    server.until_number("open_connections", 0).await;
    server.until_metric(r#"connections_closed_total{reason="disconnected"}"#, 1).await;
    let (mut events, ..) = opened(Events::open(&server.public, &path(&[message()], ""), &cookie).await, 1).await;
    users.log_out("4");
    server.control(json!({"action": "reauthorize", "user": "4"})).await;
    assert_eq!(events.close().await, (3502, "permissions changed".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_told_and_leaves_nobody_behind() {
    let server = TestServer::with(&[("HOOK_DISCONNECT", "gone/")]).await;
    let (mut events, ..) = open(&server, &[message()], "").await;
    server.trigger(json!({"rooms": [message()], "data": "last"})).await;
    assert_eq!(publication(&mut events).await.1, json!("last"));
    let (report, end) = tokio::join!(server.stop(), events.close());
    assert_eq!((report.connections, report.hooks), (0, 0));
    assert_eq!((end.0, end.1.starts_with("retry_after=")), (1001, true), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_costs_no_more_than_its_outbox_and_nobody_elses_time() {
    let server = TestServer::with(&[("OUTBOX_LIMIT", "64KiB")]).await;
    let (mut reader, ..) = open(&server, &[message()], "").await;
    let (_stuck, ..) = open(&server, &[message()], "").await;
    let filler = "x".repeat(50_000);
    let mut sent = 0;
    while server.numbers().await["open_connections"] == json!(2) {
        server.trigger(json!({"rooms": [message()], "data": [sent, filler]})).await;
        assert_eq!(publication(&mut reader).await.1[0], json!(sent));
        sent += 1;
        assert!(sent < 1000, "it is never closed");
    }
    server.until_metric(r#"connections_closed_total{reason="too-slow"}"#, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_never_idle_and_its_client_is_told_so_and_the_api_too() {
    let server = TestServer::with(&[("PING_INTERVAL", "1s"), ("IDLE_TIMEOUT", "1s"), ("HOOK_PING", "here/")]).await;
    let (mut events, ..) = open(&server, &[message()], "").await;
    let hooks = || server.backend.lines().iter().filter(|line| *line == "POST /api/here/").count();
    eventually("the API is told twice", async || hooks() >= 2).await;
    server.trigger(json!({"rooms": [message()], "data": 1})).await;
    assert_eq!(publication(&mut events).await.1, json!(1));
    assert!(events.comments >= 2, "{}", events.comments);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_while_the_api_is_asked_is_forgotten() {
    let server = TestServer::start().await;
    let held = std::sync::Arc::new(Semaphore::new(0));
    let permits = held.clone();
    let body = json!({"allowed_rooms": [message()]}).to_string();
    server.backend.answer(move |_| Answer::Held(permits.clone(), Box::new(Answer::Reply(200, body.clone()))));
    let mut stream = dial(&server.public).await;
    let request = request("GET", &path(&[message()], ""), &[], b"");
    stream.write_all(&request).await.unwrap();
    eventually("the API is asked", async || server.backend.bootstraps() == 1).await;
    drop(stream);
    held.add_permits(2);
    let (mut other, _) = server.connect_v4().await;
    other.send_text("ping").await;
    assert_eq!(other.next().await, json!("pong"));
    server.until_number("open_connections", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_its_side_hears_on_and_one_that_is_gone_is_forgotten_at_once() {
    let server = TestServer::start().await;
    let Listen::Tcp(address) = server.public else { panic!("TCP") };
    let (mut half, mut gone) = (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
    for stream in [&mut half, &mut gone] {
        stream.write_all(&request("GET", &path(&[message()], ""), &[], b"")).await.unwrap();
    }
    server.until_number("open_connections", 2).await;
    half.shutdown().await.unwrap();
    // No ping is due for 25 s.
    drop(gone);
    server.until_number("open_connections", 1).await;
    server.trigger(json!({"rooms": [message()], "data": "heard"})).await;
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains("\"data\":\"heard\"") {
        assert!(timeout(PATIENCE, half.read_buf(&mut received)).await.unwrap().unwrap() > 0);
    }
    drop(half);
    server.until_number("open_connections", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_behind_its_request_is_left_where_it_is() {
    let server = TestServer::start().await;
    let Listen::Tcp(address) = server.public else { panic!("TCP") };
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = request("GET", &path(&[message()], ""), &[], b"");
    stream.write_all(&[&request[..], &request[..], &[b'x'; 4096]].concat()).await.unwrap();
    server.until_number("open_connections", 1).await;
    server.trigger(json!({"rooms": [message()], "data": "heard"})).await;
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains("\"data\":\"heard\"") {
        assert!(timeout(PATIENCE, stream.read_buf(&mut received)).await.unwrap().unwrap() > 0);
    }
    assert_eq!(server.backend.bootstraps(), 1);
    assert_eq!(String::from_utf8_lossy(&received).matches("HTTP/1.1 ").count(), 1);
    drop(stream);
    server.until_number("open_connections", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_a_stream_says_how_its_body_is_sent_and_when_to_reconnect() {
    let server = TestServer::start().await;
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let mut stream = dial(&server.public).await;
        let request = format!("GET {} {version}\r\nHost: localhost\r\n\r\n", path(&[message()], ""));
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut received = Vec::new();
        while !String::from_utf8_lossy(&received).contains("\"type\":\"reply\"") {
            assert!(timeout(PATIENCE, stream.read_buf(&mut received)).await.unwrap().unwrap() > 0);
        }
        let received = String::from_utf8(received).unwrap();
        let (head, body) = received.split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200 ok\r\n") && head.contains("\r\ndate: "), "{head}");
        assert!(head.contains("\r\nconnection: close") && !head.contains("content-length"), "{head}");
        assert_eq!(head.contains("\r\ntransfer-encoding: chunked"), version == "HTTP/1.1", "{head}");
        let start = if version == "HTTP/1.1" { "d\r\nretry: 3000\n\n\r\n" } else { "retry: 3000\n\ndata: " };
        assert!(body.starts_with(start), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_there_are_no_ids_and_all_else_works() {
    let url = rabbitmq::shared();
    let exchange = format!("test-{}", uuid::Uuid::new_v4());
    let variables = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", &exchange), ("AMQP_LOG", "off")];
    let server = TestServer::with(&variables).await;
    let (mut events, welcome, _) = open(&server, &[message()], "").await;
    assert_eq!((welcome.get("position"), events.id.as_str()), (None, ""));
    server.trigger(json!({"rooms": [message()], "data": 1})).await;
    assert_eq!(publication(&mut events).await.1, json!(1));
    assert_eq!(events.id, "");
    let (_, _, replies) = open(&server, &[message()], "&since=0123456789ab:1").await;
    assert_eq!(replies[0]["recovered"], json!(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_at_another_instance() {
    let url = rabbitmq::shared();
    let exchange = format!("test-{}", uuid::Uuid::new_v4());
    let variables = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", exchange.as_str())];
    let (one, other) = tokio::join!(TestServer::with(&variables), TestServer::with(&variables));
    let (mut events, ..) = open(&one, &[message(), customer("*")], "").await;
    one.trigger(json!({"rooms": [message()], "data": 1})).await;
    publication(&mut events).await;
    one.stop().await;
    other.trigger(json!({"rooms": [customer(3)], "data": 2})).await;
    assert_eq!(events.close().await.0, 1001);
    let headers = [("Last-Event-ID", events.id.as_str())];
    let rooms = path(&[message(), customer("*")], "");
    let (mut events, _, replies) = opened(Events::open(&other.public, &rooms, &headers).await, 2).await;
    assert!(replies.iter().all(|reply| reply["recovered"] == json!(true)), "{replies:?}");
    assert_eq!(publication(&mut events).await, ("1".to_owned(), json!(2)));
}
