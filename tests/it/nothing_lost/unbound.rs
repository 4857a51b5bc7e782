//! The exchange does not pass on to the log what is published, or something else takes it.

use lapin::{
    BasicProperties, ExchangeKind,
    options::{BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::json;

use super::{EXCHANGE, member, redeclare_exchange, room, trigger};
use crate::support::{Node, TestServer, eventually, rabbitmq};

/// A queue that takes everything that `exchange`, of this kind, gets.
pub async fn catch_all(url: &str, exchange: &str, kind: ExchangeKind) {
    let channel = rabbitmq::channel_at(url).await;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(exchange.into(), kind, durable, FieldTable::default()).await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("spill".into(), durable, FieldTable::default()).await.unwrap();
    let bind = QueueBindOptions::default();
    channel.queue_bind("spill".into(), exchange.into(), "#".into(), bind, FieldTable::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alternate_exchange_does_not_keep_the_log_from_being_bound() {
    let node = Node::start().await;
    catch_all(&node.url, "alternate", ExchangeKind::Fanout).await;
    let policy = r#"{"alternate-exchange":"alternate"}"#;
    node.ctl(&["set_policy", "alternate", "^hightemplar$", policy, "--apply-to", "exchanges"]);
    let server = TestServer::with(&[("AMQP_URL", &node.url)]).await;
    let mut client = member(&server).await;
    trigger(&server, json!(1)).await;
    assert_eq!(client.next().await["data"], json!(1));
    // The exchange is gone with RabbitMQ, the policy is not.
    node.kill();
    node.start_again();
    eventually("it is away", async || server.metric("broker_failures_total").await > 0).await;
    server.until_ready().await;
    trigger(&server, json!(2)).await;
    assert_eq!(client.next().await["data"], json!(2));
    assert_eq!(server.metric("gaps_total").await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_queue_bound_to_the_exchange_does_not_keep_the_log_from_being_bound() {
    for kind in [ExchangeKind::Topic, ExchangeKind::Fanout] {
        let node = Node::start().await;
        catch_all(&node.url, EXCHANGE, kind).await;
        let server = TestServer::with(&[("AMQP_URL", &node.url)]).await;
        let mut client = member(&server).await;
        trigger(&server, json!(1)).await;
        assert_eq!(client.next().await["data"], json!(1));
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_an_operator_declares_anew_is_bound_at_the_first_trigger_and_clients_are_told() {
    for log in ["stream", "off"] {
        let node = Node::start().await;
        let server = TestServer::with(&[("AMQP_URL", &node.url), ("AMQP_LOG", log)]).await;
        let mut client = member(&server).await;
        trigger(&server, json!(1)).await;
        assert_eq!(client.next().await["data"], json!(1), "{log}");
        redeclare_exchange(&node.url).await;
        // The first one comes back to its publisher.
        let body = json!({"rooms": [room()], "data": 2}).to_string();
        assert_eq!(server.post("/trigger/", &body).await.status, 503, "{log}");
        assert_eq!(client.next().await["type"], json!("resync"), "{log}");
        trigger(&server, json!(3)).await;
        assert_eq!(client.next().await["data"], json!(3), "{log}");
        assert_eq!(server.metric("gaps_total").await, 1, "{log}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rabbitmq_confirms_into_the_void_is_noticed_without_any_trigger_by_http() {
    for log in ["stream", "off"] {
        let node = Node::start().await;
        let server = TestServer::with(&[("AMQP_URL", &node.url), ("AMQP_LOG", log)]).await;
        let mut client = member(&server).await;
        redeclare_exchange(&node.url).await;
        // As pika publishes: nobody is told that no queue takes it.
        let channel = rabbitmq::channel_at(&node.url).await;
        let body = json!({"rooms": [room()], "data": 1}).to_string();
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default();
        channel.basic_publish(EXCHANGE.into(), "*".into(), options, body.as_bytes(), properties).await.unwrap();
        assert_eq!(client.next().await["type"], json!("resync"), "{log}");
        trigger(&server, json!(2)).await;
        assert_eq!(client.next().await["data"], json!(2), "{log}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_is_lost_behind_an_alternate_exchange_is_noticed() {
    let node = Node::start().await;
    catch_all(&node.url, "alternate", ExchangeKind::Fanout).await;
    let server = TestServer::with(&[("AMQP_URL", &node.url)]).await;
    let mut client = member(&server).await;
    let policy = r#"{"alternate-exchange":"alternate"}"#;
    node.ctl(&["set_policy", "alternate", "^hightemplar$", policy, "--apply-to", "exchanges"]);
    redeclare_exchange(&node.url).await;
    // RabbitMQ confirms what goes to the alternate exchange: only that nothing comes back shows the fault.
    assert_eq!(client.next().await["type"], json!("resync"));
    server.until_ready().await;
    trigger(&server, json!(1)).await;
    assert_eq!(client.next().await["data"], json!(1));
    assert!(server.metric("broker_markers_overdue_total").await > 0);
    server.stop().await;
}
