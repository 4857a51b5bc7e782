//! What operators see of connections and rooms.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    Client, StubBackend, TestServer, Users,
    backend::Answer,
    http::{exchange, send},
};

const SECRET: &str = "do-not-tell";

fn message() -> Value {
    json!({"target": "message"})
}

/// `text` as it stands in a query.
fn quoted(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// A client with secrets, which the server passes on.
async fn secretive(server: &TestServer) -> Client {
    let cookies = format!("user=alice; sessionid={SECRET}; csrftoken={SECRET}");
    let headers = [("Cookie", cookies.as_str()), ("X-Real-IP", "10.1.2.3"), ("User-Agent", SECRET)];
    let mut client = Client::connect(&server.public, &format!("/ws/?token={SECRET}"), &headers).await;
    assert_eq!(client.next().await["is_authorized"], json!(true));
    client.subscribe("1", message()).await;
    client
}

fn is_refused(reply: &crate::support::http::Reply, status: u16, word: &str) {
    let body = reply.json();
    assert_eq!((reply.status, &body["code"], &body["message"]), (status, &json!("error"), &json!(word)), "{body}");
    assert!(body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_listed_with_what_an_operator_needs() {
    let server = TestServer::before(Users::default().backend().await, &[]).await;
    assert_eq!(server.get("/connections").await.json(), json!({"count": 0, "connections": []}));
    let _old = secretive(&server).await;
    let rooms = [("1", message()), ("2", json!({"customer": 7}))];
    let (_new, id) = server.member_v4("17", &rooms).await;
    let answer = server.get("/connections").await.json();
    let [first, second] = answer["connections"].as_array().unwrap().as_slice() else { panic!("{answer}") };
    assert_eq!(answer["count"], json!(2));
    let is_young = |seen: &Value| seen["age"].as_u64().is_some_and(|age| age < 30);
    assert!(is_young(first) && is_young(second), "{answer}");
    assert!(first["connection"].as_str().unwrap().parse::<Uuid>().is_ok(), "{answer}");
    let shown = |connection: &Value, user: &str, protocol: &str, address: Value, subscriptions: u32, age: &Value| {
        json!({"connection": connection, "user": user, "transport": "websocket", "protocol": protocol,
            "address": address, "age": age, "subscriptions": subscriptions, "allowed_rooms": 2, "waiting": 0})
    };
    assert_eq!(*first, shown(&first["connection"], "alice", "3.1", json!("10.1.2.3"), 1, &first["age"]));
    assert_eq!(*second, shown(&json!(id), "17", "high-templar.v4", Value::Null, 2, &second["age"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_found_by_their_user_and_no_more_are_listed_than_asked_for() {
    let server = TestServer::before(Users::default().backend().await, &[]).await;
    let mut clients = Vec::new();
    for number in 0..105 {
        clients.push(server.member(if number % 5 == 0 { "a b&c" } else { "bob" }, &[]).await);
    }
    for (query, count, listed) in [
        ("".to_owned(), 105, 100),
        ("?limit=1".to_owned(), 105, 1),
        ("?limit=10000".to_owned(), 105, 105),
        (format!("?user={}", quoted("a b&c")), 21, 21),
        (format!("?limit=20&user={}", quoted("a b&c")), 21, 20),
        ("?user=bo".to_owned(), 0, 0),
        ("?user=".to_owned(), 0, 0),
    ] {
        let answer = server.get(&format!("/connections{query}")).await.json();
        let list = answer["connections"].as_array().unwrap();
        assert_eq!((&answer["count"], list.len()), (&json!(count), listed), "{query}");
    }
    // The oldest first.
    let ages: Vec<_> = server.get("/connections").await.json()["connections"].as_array().unwrap().clone();
    assert!(ages.is_sorted_by_key(|seen| std::cmp::Reverse(seen["age"].as_u64())), "{ages:?}");
    let first = server.get("/connections?limit=1").await.json()["connections"][0]["connection"].clone();
    clients.remove(0).close().await;
    server.until_number("open_connections", 104).await;
    assert_ne!(server.get("/connections?limit=1").await.json()["connections"][0]["connection"], first);
    // Who is not authorised is no connection.
    server.backend.answer(|_| Answer::Silence);
    let _waiting = server.dial("bob").await;
    assert_eq!(server.get("/connections").await.json()["count"], json!(104));
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_are_listed_the_largest_first_and_found_as_a_trigger_would_find_them() {
    let server = TestServer::start().await;
    assert_eq!(server.get("/rooms").await.json(), json!({"count": 0, "rooms": []}));
    let customer = |value: Value| json!({"customer": value});
    let mut clients = Vec::new();
    for number in 0..3 {
        clients.push(server.subscriber(&[("1", message()), ("2", customer(json!(number)))]).await);
    }
    clients.push(server.subscriber(&[("1", customer(json!("*"))), ("2", customer(json!("1")))]).await);
    let answer = server.get("/rooms").await.json();
    assert_eq!((&answer["count"], answer["rooms"].as_array().unwrap().len()), (&json!(6), 6));
    assert_eq!(answer["rooms"][0], json!({"room": message(), "subscriptions": 3}));
    assert!(answer["rooms"].as_array().unwrap()[1..].iter().all(|room| room["subscriptions"] == json!(1)), "{answer}");
    let one = server.get("/rooms?limit=1").await.json();
    assert_eq!(one, json!({"count": 6, "rooms": [{"room": message(), "subscriptions": 3}]}));
    for (wanted, mut found) in [
        (customer(json!(1)), vec![customer(json!("*")), customer(json!(1))]),
        (customer(json!("1")), vec![customer(json!("*")), customer(json!("1"))]),
        (customer(json!(17)), vec![customer(json!("*"))]),
        (
            customer(json!("*")),
            (0..3).map(|n| customer(json!(n))).chain([customer(json!("*")), customer(json!("1"))]).collect(),
        ),
        (json!({"target": "other"}), vec![]),
        (json!({"target": "message", "more": 1}), vec![]),
    ] {
        let answer = server.get(&format!("/rooms?room={}", quoted(&wanted.to_string()))).await.json();
        let mut rooms: Vec<_> = answer["rooms"].as_array().unwrap().iter().map(|room| room["room"].clone()).collect();
        rooms.sort_by_key(Value::to_string);
        found.sort_by_key(Value::to_string);
        assert_eq!((rooms, &answer["count"]), (found.clone(), &json!(found.len())), "{wanted}");
    }
    for mut client in clients {
        client.ask(json!({"type": "unsubscribe", "requestId": "1"})).await;
        client.close().await;
    }
    server.until_number("num_rooms", 0).await;
    assert_eq!(server.get("/rooms").await.json(), json!({"count": 0, "rooms": []}));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_explained_why_a_connection_may_or_may_not_join_and_by_what_it_is_in_a_room() {
    let server = TestServer::before(Users::default().backend().await, &[]).await;
    let rooms = [("a", json!({"customer": 7})), ("b", json!({"customer": "*"})), ("c", message())];
    let (mut client, id) = server.member_v4("alice", &rooms).await;
    let explain = async |id: &str, room: Value| {
        let reply = server.get(&format!("/explain?connection={id}&room={}", quoted(&room.to_string()))).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let mut answer = reply.json();
        answer["subscriptions"].as_array_mut().unwrap().sort_by_key(Value::to_string);
        answer
    };
    let allowed = json!({"connection": id, "user": "alice", "is_allowed": true, "detail": "an allowed room covers it",
        "subscriptions": ["a", "b"]});
    assert_eq!(explain(&id, json!({"customer": 7})).await, allowed);
    assert_eq!(explain(&id, json!({"customer": 8})).await["subscriptions"], json!(["b"]));
    let refused = explain(&id, json!({"target": "massage"})).await;
    assert_eq!((&refused["is_allowed"], &refused["subscriptions"]), (&json!(false), &json!([])));
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains(r#"{"target":"message"}"#) && detail.contains("another value"), "{detail}");
    // The client is told the same.
    let wanted = json!({"type": "subscribe", "requestId": "d", "room": {"target": "massage"}});
    assert_eq!(client.ask(wanted).await["detail"], json!(detail));
    client.ask(json!({"type": "unsubscribe", "requestId": "b"})).await;
    assert_eq!(explain(&id, json!({"customer": 7})).await["subscriptions"], json!(["a"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_make_no_sense_are_answered_with_what_is_wrong() {
    let server = TestServer::start().await;
    let (_client, welcome) = server.connect_v4().await;
    let id = welcome["connection"].as_str().unwrap();
    let room = quoted(&message().to_string());
    for limit in ["0", "-1", "10001", "x", "", "1e3", "99999999999999999999"] {
        for path in ["connections", "rooms"] {
            is_refused(&server.get(&format!("/{path}?limit={limit}")).await, 400, "malformed-limit");
        }
    }
    for wrong in ["", "x", "%5B%5D", "7", "%7B", "null", "%7B%22a%22%3A1%7D%20x"] {
        is_refused(&server.get(&format!("/rooms?room={wrong}")).await, 400, "malformed-room");
        is_refused(&server.get(&format!("/explain?connection={id}&room={wrong}")).await, 400, "malformed-room");
    }
    is_refused(&server.get(&format!("/explain?connection={id}")).await, 400, "malformed-room");
    for wrong in ["", "x", "17", &id[1..]] {
        let path = format!("/explain?connection={wrong}&room={room}");
        is_refused(&server.get(&path).await, 400, "malformed-connection");
    }
    is_refused(&server.get(&format!("/explain?room={room}")).await, 400, "malformed-connection");
    is_refused(&server.get("/explain").await, 400, "malformed-connection");
    let nobody = format!("/explain?connection={}&room={room}", Uuid::new_v4());
    is_refused(&server.get(&nobody).await, 404, "connection-not-found");
    for path in ["/connections/", "/rooms/", "/explain/"] {
        assert!([200, 400].contains(&server.get(path).await.status), "{path}");
    }
    for path in ["/connections", "/rooms", "/explain"] {
        is_refused(&server.post(path, "{}").await, 405, "method-not-allowed");
        assert_eq!(send(&server.public, "GET", path, &[], b"").await.status, 404);
    }
    is_refused(&server.get("/connections/x").await, 404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_shows_the_token_may_look_and_nothing_secret_is_shown() {
    let vars = [("INTERNAL_TOKEN", "letmein"), ("RESUME_SECRET", "do-not-tell-anyone"), ("AUTH_CACHE", "1m")];
    let users = Users::default();
    let backend = StubBackend::answering(move |asked| users.answer(asked)).await;
    let server = TestServer::before(backend, &vars).await;
    let _client = secretive(&server).await;
    let token = [("Authorization", "Bearer letmein")];
    let seen = send(&server.internal, "GET", "/connections", &token, b"").await;
    let id = seen.json()["connections"][0]["connection"].as_str().unwrap().to_owned();
    let explain = format!("/explain?connection={id}&room={}", quoted(&message().to_string()));
    for path in ["/connections", "/connections?user=alice", "/rooms", &explain, "/status", "/metrics"] {
        for headers in [&[][..], &[("Authorization", "Bearer letmeout")]] {
            let reply = send(&server.internal, "GET", path, headers, b"").await;
            assert_eq!((reply.status, &reply.json()["message"]), (401, &json!("not-authorized")), "{path}");
        }
        let reply = send(&server.internal, "GET", path, &token, b"").await;
        assert_eq!(reply.status, 200, "{path}");
        assert!(!reply.body.contains(SECRET) && !reply.body.contains("letmein"), "{path}: {}", reply.body);
    }
    let server = TestServer::start().await;
    for path in ["/connections", "/rooms", "/explain"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        is_refused(&exchange(&server.internal, request.as_bytes()).await, 403, "foreign-page");
    }
}
