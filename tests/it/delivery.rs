//! What is published reaches those who are subscribed, as it was written, in order.

use futures::future::join_all;
use serde_json::json;

use crate::support::{Client, TestServer};

#[tokio::test(flavor = "multi_thread")]
async fn data_arrives_byte_for_byte() {
    let server = TestServer::start().await;
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    for data in [
        "1.0",
        "1E400",
        "-0.0",
        "[ 1 ,\n 2 ]",
        r#"{"b":1,"a":2,"b":3}"#,
        r#""\u00e9 \ud800 \/""#,
        "123456789012345678901234567890",
    ] {
        let body = format!(r#"{{"data" : {data} , "rooms":[{{"target":"message"}}]}}"#);
        assert_eq!(server.post("/trigger/", &body).await.status, 200, "{data}");
        assert_eq!(client.next_text().await, format!(r#"{{"type":"publish","data":{data},"requestId":"1"}}"#));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_gets_the_publications_in_the_brokers_order() {
    const TRIGGERS: usize = 500;
    let server = TestServer::start().await;
    let mut clients = Vec::new();
    for number in 0..20 {
        let own = json!({"customer": number % 3});
        clients.push(server.subscriber(&[("all", json!({"target": "message"})), ("some", own)]).await);
    }
    for number in 0..TRIGGERS {
        server.trigger(json!({"rooms": [{"target": "message"}, {"customer": number % 3}], "data": number})).await;
    }
    let read = clients.iter_mut().map(async |client: &mut Client| {
        let mut all = Vec::new();
        while all.len() < TRIGGERS {
            let frame = client.next().await;
            if frame["requestId"] == "all" {
                all.push(frame["data"].as_u64().unwrap());
            }
        }
        all
    });
    for all in join_all(read).await {
        assert_eq!(all, (0..TRIGGERS as u64).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_trigger_costs_nobody_else_anything() {
    let server = TestServer::start().await;
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    let deep = format!(r#"{{"rooms":[{{"a":{}}}],"data":1}}"#, "[".repeat(50_000) + &"]".repeat(50_000));
    for (body, message) in [
        ("", "malformed-json"),
        ("{", "malformed-json"),
        ("7", "malformed-json"),
        (r#"{"rooms":[],"data":NaN}"#, "malformed-json"),
        (r#"{"data":1}"#, "no-rooms"),
        (r#"{"rooms":[{"target":"message"}]}"#, "no-data"),
        (r#"{"rooms":{"target":"message"},"data":1}"#, "malformed-rooms"),
        (r#"{"rooms":[{"target":"message"},1],"data":1}"#, "malformed-rooms"),
        (&deep, "malformed-rooms"),
    ] {
        let reply = server.post("/trigger/", body).await;
        assert_eq!(reply.status, 400, "{body:.60}");
        assert_eq!((&reply.json()["code"], &reply.json()["message"]), (&json!("error"), &json!(message)), "{body:.60}");
    }
    server.trigger(json!({"rooms": [{"target": "message"}], "data": "good"})).await;
    assert_eq!(client.next().await["data"], json!("good"));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifteen_hundred_subscriptions_on_one_socket_are_each_answered() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    for number in 0..1500 {
        client.subscribe(&number.to_string(), json!({"customer": number})).await;
    }
    assert_eq!(server.numbers().await["num_rooms"], json!(1500));
    for number in 0..1500 {
        server.trigger(json!({"rooms": [{"customer": number}], "data": number})).await;
        let expected = json!({"type": "publish", "data": number, "requestId": number.to_string()});
        assert_eq!(client.next().await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_is_out_of_the_books_before_its_goodbye_is_answered() {
    let server = TestServer::start().await;
    let mut watcher = server.connect().await;
    for _ in 0..50 {
        let leaver = server.subscriber(&[("1", json!({"customer": 1}))]).await;
        let status = watcher.ask(json!({"type": "status"})).await;
        assert_eq!((&status["open_connections"], &status["num_rooms"]), (&json!(2), &json!(1)));
        leaver.close().await;
        let status = watcher.ask(json!({"type": "status"})).await;
        assert_eq!((&status["open_connections"], &status["num_rooms"]), (&json!(1), &json!(0)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_without_goodbye_is_out_of_the_books_at_once() {
    let server = TestServer::start().await;
    let client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    server.until_number("num_rooms", 1).await;
    drop(client);
    server.until_number("open_connections", 0).await;
    server.until_number("num_rooms", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_a_trigger_excludes_do_not_get_it() {
    let server = TestServer::start().await;
    let (mut sender, welcome) = server.connect_v4().await;
    let mut other = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    let request = json!({"type": "subscribe", "requestId": "1", "room": {"target": "message"}});
    let since = sender.ask(request).await["position"].clone();
    let exclude = json!([welcome["connection"], "00000000-0000-4000-8000-000000000000"]);
    server.trigger(json!({"rooms": [{"target": "message"}], "data": 1, "exclude": exclude})).await;
    server.trigger(json!({"rooms": [{"target": "message"}], "data": 2})).await;
    assert_eq!(sender.next().await["data"], json!(2));
    assert_eq!(other.next().await["data"], json!(1));
    // Nor when it catches up.
    let request = json!({"type": "subscribe", "requestId": "2", "room": {"target": "message"}, "since": since});
    assert_eq!(sender.ask(request).await["recovered"], json!(true));
    assert_eq!(sender.next().await["data"], json!(2));
    sender.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_whose_id_was_seen_is_accepted_and_not_delivered_again() {
    let server = TestServer::with(&[("TRIGGER_ID_TTL", "1s")]).await;
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    let trigger = |data: &str, id: &str| json!({"rooms": [{"target": "message"}], "data": data, "id": id});
    for (data, id) in [("first", "a"), ("again", "a"), ("other", "b")] {
        server.trigger(trigger(data, id)).await;
    }
    server
        .post("/trigger/", &json!([trigger("again", "a"), trigger("again", "b"), trigger("last", "c")]).to_string())
        .await;
    for data in ["first", "other", "last"] {
        assert_eq!(client.next().await["data"], json!(data));
    }
    client.expect_silence().await;
    // Not for ever.
    crate::support::eventually("the id counts no more", async || {
        server.trigger(trigger("later", "a")).await;
        !server.get("/metrics").await.body.contains("publications_queued_total 3\n")
    })
    .await;
    assert_eq!(client.next().await["data"], json!("later"));
}
