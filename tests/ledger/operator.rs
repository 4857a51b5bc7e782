//! What an operator does to RabbitMQ.

use std::time::Duration;

use lapin::{
    BasicProperties, ExchangeKind,
    options::{
        BasicPublishOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use tokio::time::{Instant, sleep};

use crate::{
    World,
    support::{Node, rabbitmq::channel_at},
};

const EXCHANGE: &str = "hightemplar";
/// The exchange and the queue that take what no other queue takes.
const CATCH_ALL: &str = "ledger.unroutable";
/// The watermark of a node that has not been told another one.
const WATERMARK: &str = "0.4";
/// So little that every node has more in use.
const NO_MEMORY: &str = "0.0000001";
/// Between two looks at the bindings, each of which takes a second.
const LOOK: Duration = Duration::from_millis(200);
/// Bodies that are no trigger. Each stands for a kind of mistake, and causes a warning.
const MISTAKES: [&[u8]; 6] =
    [b"{\"rooms\": NaN}", b"\xef\xbb\xbf{}", b"\x1f\x8b\x08\0", b"\xff\xfe{\0}\0", b"\x80\x04.", b"hello"];

/// Deletes the exchange and declares it as 3.1 does, so that nothing is bound to it.
pub async fn redeclare_exchange(node: &Node) {
    let channel = channel_at(&node.url).await;
    channel.exchange_delete(EXCHANGE.into(), ExchangeDeleteOptions::default()).await.unwrap();
    let (kind, options) = (ExchangeKind::Direct, ExchangeDeclareOptions::default());
    channel.exchange_declare(EXCHANGE.into(), kind, options, FieldTable::default()).await.unwrap();
}

/// Has a queue take what no other queue takes.
pub async fn set_alternate_exchange(world: &World) {
    let channel = channel_at(&world.node.url).await;
    let (kind, options) = (ExchangeKind::Fanout, ExchangeDeclareOptions { durable: true, ..Default::default() });
    channel.exchange_declare(CATCH_ALL.into(), kind, options, FieldTable::default()).await.unwrap();
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(CATCH_ALL.into(), options, FieldTable::default()).await.unwrap();
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(CATCH_ALL.into(), CATCH_ALL.into(), "".into(), options, none).await.unwrap();
    let policy = format!("{{\"alternate-exchange\": \"{CATCH_ALL}\"}}");
    let pattern = format!("^{EXCHANGE}$");
    world
        .with_node(move |node| _ = node.ctl(&["set_policy", "--apply-to", "exchanges", CATCH_ALL, &pattern, &policy]))
        .await;
}

pub async fn clear_alternate_exchange(world: &World) {
    world.with_node(|node| _ = node.ctl(&["clear_policy", CATCH_ALL])).await;
    let channel = channel_at(&world.node.url).await;
    channel.exchange_delete(CATCH_ALL.into(), ExchangeDeleteOptions::default()).await.unwrap();
    let unused = channel.queue_delete(CATCH_ALL.into(), Default::default()).await.unwrap();
    world.books.tell(format_args!("the alternate exchange took {unused} messages"));
}

/// Waits until the exchange passes triggers on to the log. Whether it does within this time.
pub async fn is_bound_within(world: &World, time: Duration) -> bool {
    let deadline = Instant::now() + time;
    loop {
        let (tell, bindings) = std::sync::mpsc::channel();
        let list = ["list_bindings", "source_name", "routing_key", "--quiet", "--no-table-headers"];
        world.with_node(move |node| _ = tell.send(node.ctl(&list))).await;
        let bindings = bindings.recv().unwrap_or_default();
        if bindings.lines().any(|line| line.split('\t').eq([EXCHANGE, "*"])) {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        sleep(LOOK).await;
    }
}

/// RabbitMQ takes no messages from anybody from now on.
pub async fn raise_memory_alarm(world: &World) {
    world.with_node(|node| _ = node.ctl(&["set_vm_memory_high_watermark", NO_MEMORY])).await;
}

pub async fn clear_memory_alarm(world: &World) {
    world.with_node(|node| _ = node.ctl(&["set_vm_memory_high_watermark", WATERMARK])).await;
}

/// Publishes so many messages that are no triggers.
///
/// # Errors
/// When RabbitMQ is not there.
pub async fn publish_mistakes(node: &Node, count: usize) -> lapin::Result<()> {
    let connection = lapin::Connection::connect(&node.url, lapin::ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    for body in MISTAKES.iter().cycle().take(count) {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        channel.basic_publish(EXCHANGE.into(), "*".into(), options, body, properties).await?;
    }
    connection.close(200, "bye".into()).await
}
