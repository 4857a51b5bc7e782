//! A 200 is for what is in the log, and one publisher's message is no other publisher's trouble.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, future::join_all};
use high_templar::{
    broker::{self, Delivery, Kind},
    config,
    metrics::Metrics,
};
use lapin::{
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::{AMQPValue, FieldTable},
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{EXCHANGE, member, room, trigger};
use crate::support::{Node, PATIENCE, Proxy, TestServer, rabbitmq, rabbitmq::Settings};

/// Cuts of the publisher's connection; PUBLISHER_CUTS says how many where that is wanted.
const CUTS: usize = 24;
/// How many messages the connection publishes before it is cut: at least a marker, and what is published right behind it.
const CUT_AFTER: [usize; 6] = [3, 4, 6, 9, 17, 33];
const PUBLISHERS: usize = 32;
/// How often the log is unbound.
const UNBOUND: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_confirmed_is_missing_however_often_the_connection_is_cut() {
    let cuts = std::env::var("PUBLISHER_CUTS").ok().map_or(CUTS, |count| count.parse().unwrap());
    let node = Node::start().await;
    let proxy = Proxy::before(&node.url).await;
    // Right after a reconnect, at different points of what comes then.
    let cutting = async {
        proxy.cut_early("high-templar publisher", CUT_AFTER.into_iter().cycle().take(cuts));
        let mut left = cuts;
        while left > 0 {
            let deadline = Instant::now() + PATIENCE;
            while proxy.early_cuts_left() == left {
                assert!(Instant::now() < deadline, "{left} cuts are left");
                sleep(Duration::from_millis(5)).await;
            }
            left = proxy.early_cuts_left();
        }
    };
    let confirmed = publish_while(&proxy.url, &node.url, cutting).await;
    assert!(confirmed > cuts, "{confirmed} confirmed");
    eprintln!("{confirmed} confirmed over {cuts} cuts, none missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_returned_among_many_is_told_to_those_who_published_it() {
    let node = Node::start().await;
    let operator = rabbitmq::channel_at(&node.url).await;
    let log = format!("{EXCHANGE}.log");
    let unbinding = async {
        for _ in 0..UNBOUND {
            sleep(Duration::from_millis(50)).await;
            let none = FieldTable::default();
            operator.queue_unbind(log.as_str().into(), EXCHANGE.into(), "*".into(), none).await.unwrap();
        }
    };
    let confirmed = publish_while(&node.url, &node.url, unbinding).await;
    assert!(confirmed > UNBOUND, "{confirmed} confirmed");
}

/// Has many publish by one instance while something `disturbs` them, and looks for all that was confirmed in the log and among
/// what is delivered. How many that are.
async fn publish_while(instance_url: &str, node_url: &str, disturbs: impl Future<Output = ()>) -> usize {
    let vars = [("AMQP_URL", instance_url), ("API_URL", "http://localhost/"), ("AMQP_LOG", "stream")];
    let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = config::from_vars(vars).unwrap().broker;
    let stop = CancellationToken::new();
    let (publisher, mut consumer, upkeep) = broker::open(&config, &Arc::new(Metrics::default()), stop.clone()).unwrap();
    let upkeep = tokio::spawn(upkeep);
    let received = Arc::new(Mutex::new(HashSet::new()));
    let consuming = tokio::spawn({
        let received = received.clone();
        async move {
            loop {
                let batch = consumer.next().await.unwrap();
                for delivery in &batch.deliveries {
                    if let Delivery::Trigger { body, .. } = delivery {
                        received.lock().insert(body.clone());
                    }
                }
                consumer.acknowledge(batch).await;
            }
        }
    });
    let is_over = CancellationToken::new();
    let publishers = (0..PUBLISHERS).map(|name| {
        let (publisher, is_over) = (publisher.clone(), is_over.clone());
        tokio::spawn(async move {
            let mut confirmed = Vec::new();
            for number in 0.. {
                if is_over.is_cancelled() {
                    break;
                }
                let body = Bytes::from(format!("{name}-{number}"));
                match publisher.publish(Kind::Trigger, body.clone()).await {
                    Ok(()) => confirmed.push(body),
                    Err(_) => sleep(Duration::from_millis(1)).await, // refused at once, it must not keep others from their turn
                }
            }
            confirmed
        })
    });
    let publishers: Vec<_> = publishers.collect();
    disturbs.await;
    is_over.cancel();
    let confirmed: Vec<Bytes> =
        join_all(publishers).await.into_iter().flat_map(|confirmed| confirmed.unwrap()).collect();
    let in_log = read_log(node_url).await;
    let missing: Vec<_> = confirmed.iter().filter(|body| !in_log.contains(*body)).collect();
    assert!(missing.is_empty(), "{} of {} confirmed are not in the log: {missing:?}", missing.len(), confirmed.len());
    let all_received = async {
        while !confirmed.iter().all(|body| received.lock().contains(body)) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), all_received).await.expect("all of it is delivered");
    stop.cancel();
    consuming.abort();
    upkeep.await.unwrap();
    confirmed.len()
}

/// The bodies of all entries in the log.
async fn read_log(url: &str) -> HashSet<Bytes> {
    let channel = rabbitmq::channel_at(url).await;
    channel.basic_qos(1000, BasicQosOptions::default()).await.unwrap();
    let mut from_first = FieldTable::default();
    from_first.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
    let queue = format!("{EXCHANGE}.log");
    let options = BasicConsumeOptions::default();
    let mut entries = channel.basic_consume(queue.as_str().into(), "".into(), options, from_first).await.unwrap();
    let mut bodies = HashSet::new();
    while let Ok(Some(entry)) = timeout(Duration::from_secs(3), entries.next()).await {
        let entry = entry.unwrap();
        channel.basic_ack(entry.delivery_tag, BasicAckOptions::default()).await.unwrap();
        bodies.insert(Bytes::from(entry.data));
    }
    bodies
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_for_rabbitmq_concerns_its_publisher_alone() {
    let node = Node::with(Settings { config: "{max_message_size, 100000}", ..Settings::default() }).await;
    let server = TestServer::with(&[("AMQP_URL", &node.url)]).await;
    let mut client = member(&server).await;
    trigger(&server, json!("first")).await;
    assert_eq!(client.next().await["data"], json!("first"));
    let large = json!({"rooms": [room()], "data": "x".repeat(120_000)}).to_string();
    let others = (0..8).map(async |name| {
        for number in 0..40 {
            let data = format!("{name}-{number}-{}", "y".repeat(number * 100));
            server.trigger(json!({"rooms": [room()], "data": data})).await;
        }
    });
    let posting = async {
        for _ in 0..40 {
            let reply = server.post("/trigger/", &large).await;
            assert_eq!((reply.status, reply.json()["message"].clone()), (413, json!("too-large")), "{}", reply.body);
            assert!(reply.json()["detail"].as_str().unwrap().contains("100000"), "{}", reply.body);
        }
    };
    let receiving = async {
        let mut last = [None; 8];
        for _ in 0..8 * 40 {
            let frame = client.next().await;
            let data = frame["data"].as_str().unwrap_or_else(|| panic!("{frame}"));
            let mut parts = data.split('-');
            let (name, number) = (parts.next().unwrap(), parts.next().unwrap().parse::<usize>().unwrap());
            let last = &mut last[name.parse::<usize>().unwrap()];
            assert!(last.is_none_or(|last| number == last + 1), "{last:?} and then {number}");
            *last = Some(number);
        }
    };
    tokio::join!(join_all(others), posting, receiving);
    // In a list, each by itself and in order.
    let list = format!("[{},{large},{}]", json!({"rooms": [room()], "data": 1}), json!({"rooms": [room()], "data": 2}));
    let reply = server.post("/trigger/", &list).await;
    let messages: Vec<_> = reply.json().as_array().unwrap().iter().map(|item| item["message"].clone()).collect();
    assert_eq!((reply.status, messages), (200, vec![json!(null), json!("too-large"), json!(null)]));
    for data in [1, 2] {
        assert_eq!(client.next().await["data"], json!(data));
    }
    client.expect_silence().await;
    server.stop().await;
}
