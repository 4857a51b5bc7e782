//! `high-templar check` finds what a server would find, and changes nothing for the next one.

use std::time::{Duration, Instant};

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use serde_json::json;

use super::{EXCHANGE, declare_exchange, member, redeclare_exchange, resume, rights::check_with, trigger};
use crate::support::{Node, TestServer, rabbitmq};

const LOG: &str = "hightemplar.log";

async fn declare_queue(url: &str, queue: &str) {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let channel = rabbitmq::channel_at(url).await;
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
}

async fn delete_queue(url: &str, queue: &str) {
    let channel = rabbitmq::channel_at(url).await;
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_is_there_is_looked_at_whatever_is_missing() {
    let node = Node::start().await;
    declare_queue(&node.url, LOG).await;
    let no_stream = "there is a queue hightemplar.log that is no stream; delete it";
    for has_exchange in [false, true] {
        if has_exchange {
            declare_exchange(&node.url).await;
        }
        let (is_well, said) = check_with(&[("AMQP_URL", &node.url), ("AMQP_LOG", "stream")]).await;
        assert!(!is_well && said.contains(no_stream), "{has_exchange}: {said}");
        let (is_well, said) = check_with(&[("AMQP_URL", &node.url)]).await;
        assert!(is_well && said.contains(&format!("no log: {no_stream}")), "{has_exchange}: {said}");
    }
    delete_queue(&node.url, LOG).await;

    // An exchange that takes nothing from publishers, without a log beside it.
    let channel = rabbitmq::channel_at(&node.url).await;
    channel.exchange_delete(EXCHANGE.into(), ExchangeDeleteOptions::default()).await.unwrap();
    let internal = ExchangeDeclareOptions { internal: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Direct, internal, FieldTable::default()).await.unwrap();
    let (is_well, said) = check_with(&[("AMQP_URL", &node.url)]).await;
    assert!(!is_well && said.contains("publish to the exchange") && said.contains("internal"), "{said}");
    assert_eq!(node.ctl(&["list_queues", "name", "--silent"]), "first", "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_leaves_an_exchange_that_is_not_bound_to_the_server_which_tells_its_clients() {
    let node = Node::start().await;
    let bindings = || node.ctl(&["list_bindings", "source_name", "destination_name", "--silent"]);
    declare_exchange(&node.url).await;
    for _ in 0..2 {
        let (is_well, said) = check_with(&[("AMQP_URL", &node.url)]).await;
        assert!(is_well && said.contains("exchange hightemplar found, not bound to the log yet"), "{said}");
    }
    let server = TestServer::with(&[("AMQP_URL", &node.url)]).await;
    let mut client = member(&server).await;
    trigger(&server, json!(1)).await;
    let position = client.next().await["position"].clone();
    assert!(bindings().contains(LOG));
    let (is_well, said) = check_with(&[("AMQP_URL", &node.url)]).await;
    assert!(is_well && said.contains("exchange hightemplar found, log in a stream"), "{said}");
    server.stop().await;

    redeclare_exchange(&node.url).await;
    let (is_well, said) = check_with(&[("AMQP_URL", &node.url)]).await;
    assert!(is_well && said.contains("not bound to the log yet"), "{said}");
    assert!(!bindings().contains(&format!("{EXCHANGE}\t")), "{}", bindings());
    let server = TestServer::with(&[("AMQP_URL", &node.url)]).await;
    let (_, reply) = resume(&server, &position).await;
    assert_eq!(reply["recovered"], json!(false), "the gap is told: {reply}");
    server.stop().await;
    assert_eq!(node.ctl(&["list_queues", "name", "--silent"]).lines().count(), 2, "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_that_rabbitmq_takes_no_messages_and_leaves_nothing_behind() {
    let node = Node::start().await;
    node.ctl(&["set_vm_memory_high_watermark", "0.0000001"]);
    let begun = Instant::now();
    let (is_well, said) = check_with(&[("AMQP_URL", &node.url)]).await;
    assert!(!is_well && said.contains("takes no messages, short of memory or disk"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(node.ctl(&["list_queues", "name", "--silent"]), "first");
}
