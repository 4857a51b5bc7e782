//! Positions, and clients that come back: what they have missed comes once and in order, or they are told that it cannot.

use lapin::{BasicProperties, options::BasicPublishOptions};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Client, Node, TestServer, eventually, rabbitmq};

fn room() -> Value {
    json!({"target": "message"})
}

fn trigger(data: impl Into<Value>) -> Value {
    json!({"rooms": [room()], "data": data.into()})
}

fn position(frame: &Value) -> String {
    frame["position"].as_str().unwrap_or_else(|| panic!("no position in {frame}")).to_owned()
}

/// Subscribes `"1"` to the room, `since` a position if there is one; the reply.
async fn subscribe(client: &mut Client, since: Option<&str>) -> Value {
    let mut request = json!({"type": "subscribe", "requestId": "1", "room": room()});
    if let Some(since) = since {
        request["since"] = json!(since);
    }
    client.ask(request).await
}

/// Reads publications with these data, in this order; the position of the last one.
async fn expect(client: &mut Client, data: impl IntoIterator<Item = i32>) -> String {
    let mut last = String::new();
    for number in data {
        let frame = client.next().await;
        assert_eq!((&frame["type"], &frame["data"]), (&json!("publish"), &json!(number)), "{frame}");
        last = position(&frame);
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_is_given_what_it_has_missed() {
    let server = TestServer::start().await;
    let (mut client, welcome) = server.connect_v4().await;
    let reply = subscribe(&mut client, None).await;
    assert_eq!((&reply["code"], position(&reply)), (&json!("success"), position(&welcome)));
    for number in 0..3 {
        server.trigger(trigger(number)).await;
    }
    let last = expect(&mut client, 0..3).await;
    drop(client);
    for number in 3..1000 {
        server.trigger(trigger(number)).await;
        server.trigger(json!({"rooms": [{"customer": number}], "data": "of somebody else"})).await;
    }
    let (mut client, _) = server.connect_v4().await;
    let reply = subscribe(&mut client, Some(&last)).await;
    assert_eq!(
        reply,
        json!({"type": "reply", "requestId": "1", "code": "success", "position": last, "recovered": true})
    );
    server.trigger(trigger(1000)).await;
    let last = expect(&mut client, 3..=1000).await;
    client.expect_silence().await;
    assert_eq!(server.get("/position").await.json(), json!({"position": last}));
    let reply = client.ask(json!({"type": "unsubscribe", "requestId": "1"})).await;
    assert_eq!(reply, json!({"type": "reply", "requestId": "1", "code": "success"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_cannot_be_vouched_for_is_answered_so() {
    let server = TestServer::with(&[("HISTORY_LIMIT", "64KiB")]).await;
    let (mut client, welcome) = server.connect_v4().await;
    let first = position(&welcome);
    for number in 0..2000 {
        server.trigger(trigger(number)).await;
    }
    server.until_number("rabbitmq_messages_received", 2000).await;
    for (id, since) in [json!(first), json!("nonsense"), json!(17), json!("0123456789ab:5")].into_iter().enumerate() {
        let request = json!({"type": "subscribe", "requestId": id, "room": room(), "since": since});
        let reply = client.ask(request).await;
        assert_eq!((&reply["requestId"], &reply["recovered"]), (&json!(id), &json!(false)), "{since}: {reply}");
        assert_ne!(position(&reply), first);
    }
    server.trigger(trigger(2000)).await;
    for _ in 0..4 {
        assert_eq!(client.next().await["data"], json!(2000));
    }
    client.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_this_instance_will_come_to_is_waited_for() {
    let server = TestServer::start().await;
    let (mut client, welcome) = server.connect_v4().await;
    // As another instance may have given it out that the broker served before it fell silent.
    let (epoch, offset) = welcome["position"].as_str().unwrap().split_once(':').unwrap();
    let next = format!("{epoch}:{}", offset.parse::<u64>().unwrap() + 1);
    client.send(json!({"type": "subscribe", "requestId": "1", "room": room(), "since": next})).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    server.trigger(trigger(0)).await;
    let reply = client.next().await;
    assert_eq!((&reply["recovered"], &reply["position"]), (&json!(true), &json!(next)), "{reply}");
    server.trigger(trigger(1)).await;
    expect(&mut client, [1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_joins_the_live_stream_without_gap_or_double_under_load() {
    const TRIGGERS: i32 = 4000;
    let server = TestServer::start().await;
    let (_, welcome) = server.connect_v4().await;
    let start = position(&welcome);
    let publish = async {
        for from in (0..TRIGGERS).step_by(10) {
            let list: Vec<Value> = (from..from + 10).map(trigger).collect();
            assert_eq!(server.post("/trigger/", &json!(list).to_string()).await.status, 200);
        }
    };
    // Each is cut off and comes back again and again while all that is published.
    let read = |patience: usize| {
        let (server, mut since) = (&server, start.clone());
        async move {
            let mut next = 0;
            while next < TRIGGERS {
                let (mut client, _) = server.connect_v4().await;
                let reply = subscribe(&mut client, Some(&since)).await;
                assert_eq!(reply["recovered"], json!(true), "{reply}");
                let until = (next + i32::try_from(patience).unwrap()).min(TRIGGERS);
                since = expect(&mut client, next..until).await;
                next = until;
                if next == TRIGGERS {
                    client.expect_silence().await;
                }
            }
        }
    };
    let readers = futures::future::join_all([37, 111, 500, 1999, 4000].map(read));
    tokio::join!(publish, readers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_come_back_to_another_instance_even_one_that_was_not_there() {
    let exchange = format!("test-{}", Uuid::new_v4());
    let url = rabbitmq::shared();
    let vars = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", exchange.as_str())];
    let one = TestServer::with(&vars).await;
    let (mut client, _) = one.connect_v4().await;
    subscribe(&mut client, None).await;
    for number in 0..5 {
        one.trigger(trigger(number)).await;
    }
    let last = expect(&mut client, 0..5).await;
    for number in 5..10 {
        one.trigger(trigger(number)).await;
    }
    expect(&mut client, 5..10).await;
    let stopped = tokio::spawn(one.stop());
    let end = client.end().await.1;
    assert!(
        matches!(&end, crate::support::client::End::Closed(1001, hint) if hint.starts_with("retry_after=")),
        "{end:?}"
    );
    stopped.await.unwrap();
    let two = TestServer::starting(&vars).await; // a client need not wait until it is ready
    let (mut client, _) = two.connect_v4().await;
    let reply = subscribe(&mut client, Some(&last)).await;
    assert_eq!(reply["recovered"], json!(true), "{reply}");
    let last = expect(&mut client, 5..10).await;
    two.until_ready().await;
    two.trigger(trigger(10)).await;
    expect(&mut client, [10]).await;
    // Both name the same place by the same position.
    let three = TestServer::with(&vars).await;
    let (mut client, _) = three.connect_v4().await;
    assert_eq!(subscribe(&mut client, Some(&last)).await["recovered"], json!(true));
    expect(&mut client, [10]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_while_the_log_is_read_back_is_not_told_to_fetch_again() {
    let exchange = format!("test-{}", Uuid::new_v4());
    let url = rabbitmq::shared();
    let vars = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", exchange.as_str())];
    let one = TestServer::with(&vars).await;
    for _ in 0..20 {
        let list: Vec<Value> = (0..500).map(|number| json!({"rooms": [{"customer": number}], "data": 0})).collect();
        assert_eq!(one.post("/trigger/", &json!(list).to_string()).await.status, 200);
    }
    one.until_number("rabbitmq_messages_received", 10_000).await;
    let since = one.get("/position").await.json()["position"].as_str().unwrap().to_owned();
    let two = TestServer::starting(&vars).await;
    let clients = (0..50).map(async |number| {
        tokio::time::sleep(std::time::Duration::from_millis(10 * number)).await; // at all stages of the start
        let (mut client, _) = two.connect_v4().await;
        assert_eq!(subscribe(&mut client, Some(&since)).await["recovered"], json!(true));
        client
    });
    let clients = futures::future::join_all(clients).await;
    two.until_ready().await;
    one.trigger(trigger(1)).await;
    for mut client in clients {
        expect(&mut client, [1]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_log_nothing_is_lost_when_rabbitmq_is_killed_and_nobody_is_closed() {
    let node = Node::start().await;
    let vars = [("AMQP_URL", node.url.as_str())];
    let (one, two) = (TestServer::with(&vars).await, TestServer::with(&vars).await);
    let mut old = one.subscriber(&[("1", room())]).await;
    let (mut client, _) = one.connect_v4().await;
    subscribe(&mut client, None).await;
    one.trigger(trigger(0)).await;
    assert_eq!(old.next().await["data"], json!(0));
    let last = expect(&mut client, [0]).await;
    node.kill();
    eventually("it is not ready", async || one.get("/readyz").await.status == 503).await;
    // Nobody is told anything yet, and who comes back is served from memory.
    let (mut other, _) = two.connect_v4().await;
    assert_eq!(subscribe(&mut other, Some(&last)).await["recovered"], json!(true));
    node.start_again();
    one.until_ready().await;
    eventually("a trigger is taken", async || one.post("/trigger/", &trigger(1).to_string()).await.status == 200).await;
    assert_eq!(old.next().await["data"], json!(1));
    old.expect_silence().await;
    for client in [&mut client, &mut other] {
        expect(client, [1]).await;
        client.expect_silence().await;
    }
    assert!(one.get("/metrics").await.body.contains("high_templar_gaps_total 0\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_to_an_exchange_without_the_log_is_told_as_a_gap_on_every_instance() {
    let node = Node::start().await;
    let vars = [("AMQP_URL", node.url.as_str())];
    let (one, two) = (TestServer::with(&vars).await, TestServer::with(&vars).await);
    let mut old = one.subscriber(&[("1", room())]).await;
    let (mut client, _) = one.connect_v4().await;
    let (mut other, _) = two.connect_v4().await;
    let before = position(&subscribe(&mut client, None).await);
    subscribe(&mut other, None).await;
    // A publisher that comes to the exchange before the log is bound to it again: RabbitMQ confirms, and drops.
    let channel = rabbitmq::channel_at(&node.url).await;
    let unbind = ["*", "marker"].map(|key| {
        channel.queue_unbind("hightemplar.log".into(), "hightemplar".into(), key.into(), Default::default())
    });
    futures::future::try_join_all(unbind).await.unwrap();
    let (body, options) = (trigger("lost").to_string(), BasicPublishOptions::default());
    let lost =
        channel.basic_publish("hightemplar".into(), "*".into(), options, body.as_bytes(), BasicProperties::default());
    lost.await.unwrap();
    node.ctl(&["close_all_connections", "test"]);
    for client in [&mut client, &mut other] {
        let frame = client.next().await;
        assert_eq!(frame["type"], json!("resync"), "{frame}");
        assert_ne!(position(&frame), before);
    }
    assert_eq!(old.close_code().await, 1012);
    let (mut again, _) = two.connect_v4().await;
    assert_eq!(subscribe(&mut again, Some(&before)).await["recovered"], json!(false));
    one.until_ready().await;
    one.trigger(trigger(1)).await;
    for client in [&mut client, &mut other, &mut again] {
        let mut frame = client.next().await;
        if frame["type"] == json!("resync") {
            frame = client.next().await; // both instances have found it so at the same time, and each has said so
        }
        assert_eq!((&frame["type"], &frame["data"]), (&json!("publish"), &json!(1)), "{frame}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_deleted_is_noticed_and_told() {
    let exchange = format!("test-{}", Uuid::new_v4());
    let url = rabbitmq::shared();
    let vars = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", exchange.as_str())];
    let server = TestServer::with(&vars).await;
    let (mut client, _) = server.connect_v4().await;
    subscribe(&mut client, None).await;
    for number in 0..20 {
        server.trigger(trigger(number)).await;
    }
    let last = expect(&mut client, 0..20).await;
    let channel = rabbitmq::channel().await;
    channel.queue_delete(format!("{exchange}.log").into(), Default::default()).await.unwrap();
    assert_eq!(client.next().await["type"], json!("resync"));
    server.until_ready().await;
    let (mut again, _) = server.connect_v4().await;
    assert_eq!(subscribe(&mut again, Some(&last)).await["recovered"], json!(false));
    server.trigger(trigger(20)).await;
    for client in [&mut client, &mut again] {
        expect(client, [20]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_with_a_file_forgets_nothing_when_it_is_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let vars = [("EMBEDDED_LOG", path.to_str().unwrap())];
    let server = TestServer::with(&vars).await;
    let (mut client, _) = server.connect_v4().await;
    subscribe(&mut client, None).await;
    server.trigger(trigger(0)).await;
    let last = expect(&mut client, [0]).await;
    for number in 1..5 {
        server.trigger(trigger(number)).await;
    }
    drop(client);
    server.stop().await;
    let server = TestServer::with(&vars).await;
    let (mut client, _) = server.connect_v4().await;
    assert_eq!(subscribe(&mut client, Some(&last)).await["recovered"], json!(true));
    expect(&mut client, 1..5).await;
    server.trigger(trigger(5)).await;
    expect(&mut client, [5]).await;
    client.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_counts_on_every_instance_also_on_one_that_came_later() {
    let exchange = format!("test-{}", Uuid::new_v4());
    let url = rabbitmq::shared();
    let vars = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", exchange.as_str())];
    let one = TestServer::with(&vars).await;
    let once = json!({"rooms": [room()], "data": 1, "id": "once"});
    let (_, welcome) = one.connect_v4().await;
    one.trigger(once.clone()).await;
    let two = TestServer::with(&vars).await;
    let mut clients = Vec::new();
    for server in [&one, &two] {
        let (mut client, _) = server.connect_v4().await;
        assert_eq!(subscribe(&mut client, Some(&position(&welcome))).await["recovered"], json!(true));
        clients.push(client);
    }
    two.trigger(once).await;
    two.trigger(trigger(2)).await;
    for client in &mut clients {
        expect(client, [1, 2]).await;
        client.expect_silence().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_the_order_of_the_requests_also_when_one_has_to_wait() {
    let server = TestServer::start().await;
    let (mut client, _) = server.connect_v4().await;
    let nowhere = json!({"requestId": "waits", "room": room(), "since": "0123456789ab:5"});
    let fresh = json!({"requestId": "fresh", "room": room()});
    let refused = json!({"requestId": "refused", "room": {"of": "others"}});
    client.send(json!({"type": "subscribe", "subscriptions": [nowhere, fresh, refused]})).await;
    client.send(json!({"type": "subscribe", "requestId": "last", "room": room()})).await;
    client.expect_silence().await; // what is no subscription is answered at once
    for (id, code) in [("waits", "success"), ("fresh", "success"), ("refused", "error"), ("last", "success")] {
        let reply = client.next().await;
        assert_eq!((&reply["requestId"], &reply["code"]), (&json!(id), &json!(code)), "{reply}");
    }
}
