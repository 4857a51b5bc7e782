//! What `tests/rabbitmq/node` does that other tests rely on.

use futures::StreamExt;
use lapin::{
    BasicProperties, Confirmation,
    options::{BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::task::spawn_blocking;

use crate::support::{
    Node,
    rabbitmq::{Settings, channel_at},
};

/// The stream that every node of a test has.
const STREAM: &str = "first";

async fn append(node: &Node, entries: &[&str]) {
    let channel = channel_at(&node.url).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    for entry in entries {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let sent =
            channel.basic_publish("".into(), STREAM.into(), options, entry.as_bytes(), properties).await.unwrap();
        assert!(matches!(sent.await.unwrap(), Confirmation::Ack(None)));
    }
}

/// The first `count` entries, with their offsets.
async fn entries(node: &Node, count: usize) -> Vec<(i64, String)> {
    let channel = channel_at(&node.url).await;
    channel.basic_qos(100, BasicQosOptions::default()).await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), AMQPValue::LongLongInt(0));
    let consumer =
        channel.basic_consume(STREAM.into(), "".into(), BasicConsumeOptions::default(), arguments).await.unwrap();
    let read = consumer.take(count).map(|delivery| {
        let delivery = delivery.unwrap();
        let headers = delivery.properties.headers().clone().unwrap();
        let Some(AMQPValue::LongLongInt(offset)) = headers.inner().get("x-stream-offset") else { panic!("no offset") };
        (*offset, String::from_utf8(delivery.data).unwrap())
    });
    read.collect().await
}

#[tokio::test]
async fn a_node_keeps_its_plugins_and_settings_and_can_lose_the_end_of_its_streams() {
    let settings = Settings { plugins: "rabbitmq_federation rabbitmq_shovel", config: "{max_message_size, 4096}" };
    let node = Node::with(settings).await;
    append(&node, &["a", "b"]).await;
    node.save_streams();
    append(&node, &["lost", "lost too"]).await;
    assert_eq!(entries(&node, 4).await[3].1, "lost too");
    let node = spawn_blocking(move || {
        node.kill();
        node.rewind_streams();
        node.start_again();
        assert!(node.ctl(&["federation_status"]).contains("Listing federation links"));
        assert_eq!(node.ctl(&["eval", "application:get_env(rabbit, max_message_size)."]), "{ok,4096}");
        node
    })
    .await
    .unwrap();
    append(&node, &["c", "d"]).await;
    let entries = entries(&node, 4).await;
    let bodies: Vec<&str> = entries.iter().map(|(_, body)| body.as_str()).collect();
    assert_eq!(bodies, ["a", "b", "c", "d"]);
    // RabbitMQ itself does not notice: the offsets of what is lost are used again.
    assert_eq!(entries.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 1, 2, 3]);
}
