//! RabbitMQ goes away and comes back, with clients connected.

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::json;
use uuid::Uuid;

use crate::support::{Node, TestServer, eventually, rabbitmq};

#[tokio::test(flavor = "multi_thread")]
async fn delivery_resumes_by_itself_and_readiness_tells_the_truth_meanwhile() {
    let node = Node::start().await;
    let server = TestServer::with(&[("AMQP_URL", &node.url), ("ON_GAP", "ignore")]).await;
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    for round in 0..2 {
        server.trigger(json!({"rooms": [{"target": "message"}], "data": round})).await;
        assert_eq!(client.next().await["data"], json!(round));
        node.kill();
        eventually("it is not ready", async || {
            let reply = server.get("/readyz").await;
            reply.status == 503 && reply.json() == json!({"ready": false, "message": "broker-away"})
        })
        .await;
        let reply = server.post("/trigger/", r#"{"rooms":[],"data":1}"#).await;
        assert_eq!((reply.status, reply.json()["message"].as_str()), (503, Some("try-later")));
        assert!(reply.head.to_ascii_lowercase().contains("retry-after: "), "{}", reply.head);
        let list = server.post("/trigger/", r#"[{"rooms":[],"data":1},{"data":2}]"#).await;
        assert_eq!((list.status, list.json()[0]["message"].as_str()), (503, Some("try-later")));
        assert_eq!(list.json()[1]["message"], json!("no-rooms"));
        assert!(list.head.to_ascii_lowercase().contains("retry-after: "), "{}", list.head);
        // Clients are served all the same.
        client.expect_silence().await;
        server.subscriber(&[("2", json!({"customer": 2}))]).await;
        node.start_again();
        server.until_ready().await;
        eventually("a trigger is taken again", async || {
            server.post("/trigger/", r#"{"rooms":[],"data":1}"#).await.status == 200
        })
        .await;
    }
    server.trigger(json!({"rooms": [{"target": "message"}], "data": "back"})).await;
    assert_eq!(client.next().await["data"], json!("back"));
    client.expect_silence().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_clients_are_closed_when_triggers_may_have_been_missed_and_only_then() {
    let node = Node::start().await;
    let server = TestServer::with(&[("AMQP_URL", &node.url), ("AMQP_LOG", "off")]).await;
    let mut before = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    before.expect_silence().await;
    node.kill();
    eventually("it is not ready", async || server.get("/readyz").await.status == 503).await;
    before.expect_silence().await; // what it misses it can only fetch when the broker is back
    node.start_again();
    assert_eq!(before.close_code().await, 1012);
    server.until_ready().await;
    let mut after = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    after.expect_silence().await;
    assert!(server.get("/metrics").await.body.contains("high_templar_gaps_total 1\n"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_posted_to_either_instance_reaches_the_clients_of_both_once() {
    let exchange = format!("test-{}", Uuid::new_v4());
    let url = rabbitmq::shared();
    // The first broker of the list is not there: the next one is tried.
    let list = format!("amqp://127.0.0.1:1/%2f,{url}");
    let vars = [("AMQP_URL", list.as_str()), ("AMQP_EXCHANGE", exchange.as_str())];
    let (one, two) = (TestServer::with(&vars).await, TestServer::with(&vars).await);
    for server in [&one, &two] {
        eventually("triggers are taken", async || {
            server.post("/trigger/", r#"{"rooms":[],"data":0}"#).await.status == 200
        })
        .await;
    }
    let mut clients = [
        one.subscriber(&[("1", json!({"target": "message"}))]).await,
        two.subscriber(&[("1", json!({"target": "message"}))]).await,
    ];
    for round in 0..20 {
        let server = if round % 2 == 0 { &one } else { &two };
        server.trigger(json!({"rooms": [{"target": "message"}], "data": round})).await;
        for client in &mut clients {
            assert_eq!(client.next().await["data"], json!(round));
        }
    }
    for client in &mut clients {
        client.expect_silence().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_somebody_declared_otherwise_is_taken_as_it_is() {
    for log in ["stream", "off"] {
        let exchange = format!("test-{}", Uuid::new_v4());
        let channel = rabbitmq::channel().await;
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let (name, none) = (exchange.as_str().into(), FieldTable::default());
        channel.exchange_declare(name, ExchangeKind::Fanout, options, none).await.unwrap();
        let url = rabbitmq::shared();
        let vars = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", &exchange), ("AMQP_LOG", log)];
        let server = TestServer::with(&vars).await;
        let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
        server.trigger(json!({"rooms": [{"target": "message"}], "data": 1})).await;
        assert_eq!(client.next().await["data"], json!(1));
        client.expect_silence().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_in_the_place_of_the_log_is_a_clear_end_or_leaves_no_log() {
    let exchange = format!("test-{}", Uuid::new_v4());
    let channel = rabbitmq::channel().await;
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let queue = format!("{exchange}.log");
    channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.unwrap();
    let url = rabbitmq::shared();
    let vars = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", &exchange)];
    let server = TestServer::with(&vars).await;
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    server.trigger(json!({"rooms": [{"target": "message"}], "data": 1})).await;
    assert_eq!(client.next().await["data"], json!(1));
    assert_eq!(server.get("/position").await.json(), json!({"position": null}));

    let vars = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", &exchange), ("AMQP_LOG", "stream")];
    let error = TestServer::fails(&vars).await;
    assert!(error.contains(&queue) && error.contains("AMQP_LOG"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_of_a_log_count_no_more_when_it_has_become_a_queue() {
    let exchange = format!("test-{}", Uuid::new_v4());
    let url = rabbitmq::shared();
    let server = TestServer::with(&[("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", &exchange)]).await;
    let (mut client, welcome) = server.connect_v4().await;
    let wanted = json!({"requestId": "1", "type": "subscribe", "room": {"target": "message"}});
    client.ask(wanted.clone()).await;
    let (channel, queue) = (rabbitmq::channel().await, format!("{exchange}.log"));
    channel.queue_delete(queue.as_str().into(), Default::default()).await.unwrap();
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.unwrap();
    assert_eq!(client.next().await["type"], json!("resync"));
    server.until_ready().await;
    eventually("a trigger is taken", async || {
        server.post("/trigger/", r#"{"rooms":[{"target":"message"}],"data":1}"#).await.status == 200
    })
    .await;
    assert_eq!(client.next().await["data"], json!(1));
    let (mut client, _) = server.connect_v4().await;
    let mut wanted = wanted;
    wanted["since"] = welcome["position"].clone();
    assert_eq!(client.ask(wanted).await["recovered"], json!(false));
}
