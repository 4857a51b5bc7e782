//! The faults that tests rely on: what `tests/rabbitmq/node`, the proxy and the raw publisher do to RabbitMQ.

use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::task::spawn_blocking;

use crate::support::{
    Node, Proxy, eventually,
    rabbitmq::{self, Settings, channel_at},
    raw_amqp::{Confirmed, Property, RawPublisher},
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

/// A queue of this test alone, for as long as the channel is there.
async fn queue(channel: &Channel) -> String {
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
    queue.name().to_string()
}

#[tokio::test]
async fn the_raw_publisher_sends_what_rabbitmq_takes_and_a_client_library_cannot_read() {
    let mut publisher = RawPublisher::connect(&rabbitmq::shared()).await.unwrap();
    let body = vec![b'x'; 10_000];
    for property in Property::ALL {
        let channel = rabbitmq::channel().await;
        let queue = queue(&channel).await;
        assert_eq!(publisher.publish("", &queue, property, &body).await.unwrap(), Confirmed::Taken);
        tokio::select! {
            got = channel.basic_get(queue.into(), BasicGetOptions::default()) => panic!("{property:?}: {got:?}"),
            () = eventually("the library gives up the connection", async || !channel.status().connected()) => {}
        }
    }
    let returned = publisher.publish("", "no such queue", Property::Type, &body).await.unwrap();
    assert_eq!(returned, Confirmed::Returned);
}

/// A connection called `name` through `proxy`.
async fn named(proxy: &Proxy, name: &str) -> Channel {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connection = Connection::connect(&proxy.url, properties).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
}

/// How many messages RabbitMQ takes on `channel`, of ten.
async fn taken(channel: &Channel, queue: &str) -> usize {
    for count in 0..10 {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let sent = channel.basic_publish("".into(), queue.into(), options, b"hello", properties).await;
        let Ok(sent) = sent else { return count };
        if sent.await.is_err() {
            return count;
        }
    }
    10
}

#[tokio::test]
async fn a_proxy_cuts_connections_of_one_name_after_so_many_messages() {
    let proxy = Proxy::before(&rabbitmq::shared()).await;
    let own = rabbitmq::channel().await;
    let queue = queue(&own).await;
    let (first, other) = (named(&proxy, "publisher").await, named(&proxy, "consumer").await);
    proxy.cut_early("publisher", [3, 0]);
    eventually("the connection is cut", async || !first.status().connected()).await;
    assert_eq!(taken(&named(&proxy, "publisher").await, &queue).await, 3);
    assert_eq!(proxy.early_cuts_left(), 1);
    assert_eq!(taken(&named(&proxy, "publisher").await, &queue).await, 0);
    assert_eq!(proxy.early_cuts_left(), 0);
    assert_eq!(taken(&named(&proxy, "publisher").await, &queue).await, 10);
    assert_eq!(taken(&other, &queue).await, 10, "connections of other names are left alone");
}
