//! What a broker promises, held against both: the embedded one and RabbitMQ.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use high_templar::{
    broker::{self, Batch, Consumer, Delivery, Kind, Publisher, State},
    config,
    metrics::Metrics,
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{PATIENCE, rabbitmq};

/// One instance's two ends of a broker.
struct Instance {
    publisher: Publisher,
    consumer: Consumer,
    stop: CancellationToken,
    upkeep: JoinHandle<()>,
    received: Vec<Bytes>,
}

impl Instance {
    async fn start(config: &config::Broker) -> Self {
        let stop = CancellationToken::new();
        let (publisher, consumer, upkeep) = broker::open(config, &Arc::new(Metrics::default()), stop.clone()).unwrap();
        let mut instance = Self { publisher, consumer, stop, upkeep: tokio::spawn(upkeep), received: Vec::new() };
        instance.until_accepted(b"probe").await;
        instance
    }

    /// Publishes `body` until the broker takes it, consuming meanwhile, and then until it is received.
    async fn until_accepted(&mut self, body: &'static [u8]) {
        let publisher = self.publisher.clone();
        let publish = async {
            while publisher.publish(Kind::Trigger, Bytes::from_static(body)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let consume = self.receive_until(|received| received.iter().any(|got| got == body));
        timeout(PATIENCE, async { tokio::join!(publish, consume) }).await.expect("accepted and received in time");
        self.received.clear();
    }

    async fn receive_until(&mut self, mut is_enough: impl FnMut(&[Bytes]) -> bool) {
        while !is_enough(&self.received) {
            let batch = self.consumer.next().await.unwrap();
            self.received.extend(triggers(&batch));
            self.consumer.acknowledge(batch).await;
        }
    }

    async fn receive(&mut self, count: usize) {
        timeout(PATIENCE, self.receive_until(|received| received.len() >= count)).await.expect("received in time");
    }

    async fn stop(self) {
        self.stop.cancel();
        self.consumer.close().await;
        self.upkeep.await.unwrap();
    }
}

/// The triggers in `batch`, and the control messages with a `c` before them.
fn triggers(batch: &Batch) -> impl Iterator<Item = Bytes> + '_ {
    batch.deliveries.iter().filter_map(|delivery| match delivery {
        Delivery::Trigger { body, .. } => Some(body.clone()),
        Delivery::Control { body, .. } => Some([b"c", &body[..]].concat().into()),
        _ => None,
    })
}

/// Every promise, one after the other.
async fn keeps_the_contract(config: &config::Broker) {
    let mut instance = Instance::start(config).await;

    // Bodies arrive byte for byte, whatever they are.
    let odd = [&b""[..], b"\0\xff", b"not json", &[b'x'; 300_000]].map(Bytes::from_static);
    for body in &odd {
        instance.publisher.publish(Kind::Trigger, body.clone()).await.unwrap();
    }
    instance.receive(odd.len()).await;
    assert_eq!(instance.received, odd);
    instance.received.clear();

    // In the order of their confirms.
    for number in 0..2000_u32 {
        let publisher = instance.publisher.clone();
        publisher.publish(Kind::Trigger, Bytes::from(number.to_string())).await.unwrap();
    }
    instance.receive(2000).await;
    let expected: Vec<_> = (0..2000_u32).map(|number| Bytes::from(number.to_string())).collect();
    assert_eq!(instance.received, expected);
    instance.received.clear();

    // Several at once come in their order, and confirmed one by one.
    let bodies: Vec<_> = (0..2000_u32).map(|number| Bytes::from(number.to_string())).collect();
    let publisher = instance.publisher.clone();
    let (outcomes, ()) = tokio::join!(publisher.publish_all(bodies.clone()), instance.receive(2000));
    assert!(outcomes.len() == 2000 && outcomes.iter().all(Result::is_ok));
    assert_eq!(std::mem::take(&mut instance.received), bodies);

    // What is published at the same time arrives once each, in some order.
    let publish = (0..1000_u32).map(|number| {
        let publisher = instance.publisher.clone();
        async move { publisher.publish(Kind::Trigger, Bytes::from(number.to_string())).await }
    });
    let (confirmed, ()) = tokio::join!(join_all(publish), instance.receive(1000));
    assert!(confirmed.iter().all(Result::is_ok));
    let mut numbers: Vec<u32> =
        instance.received.iter().map(|body| std::str::from_utf8(body).unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());

    // Control messages keep their place among the triggers, and are told from them.
    instance.received.clear();
    for number in 0..50_u8 {
        let (kind, body) =
            if number.is_multiple_of(3) { (Kind::Control, vec![number, b'!']) } else { (Kind::Trigger, vec![number]) };
        instance.publisher.publish(kind, body.into()).await.unwrap();
    }
    instance.receive(50).await;
    let in_order = |number: u8| {
        if number.is_multiple_of(3) { Bytes::from(vec![b'c', number, b'!']) } else { Bytes::from(vec![number]) }
    };
    assert_eq!(instance.received, (0..50).map(in_order).collect::<Vec<_>>());

    // Nothing is lost when somebody stops waiting for it.
    instance.received.clear();
    for number in 0..50_u8 {
        instance.publisher.publish(Kind::Trigger, Bytes::from(vec![number])).await.unwrap();
        for _ in 0..3 {
            let polled_once = futures::FutureExt::now_or_never(instance.consumer.next());
            if let Some(Ok(batch)) = polled_once {
                instance.received.extend(triggers(&batch));
                instance.consumer.acknowledge(batch).await;
            }
        }
    }
    instance.receive(50).await;
    assert_eq!(instance.received, (0..50_u8).map(|number| Bytes::from(vec![number])).collect::<Vec<_>>());

    assert!(*instance.consumer.state().borrow() == State::Current);
    instance.stop().await;
}

/// A broker as the variables describe it; RabbitMQ is the test run's node, with an exchange of the test's own.
fn configured(vars: &[(&str, &str)]) -> config::Broker {
    let api = ("API_URL", "http://localhost/");
    let vars = vars.iter().copied().chain([api]).map(|(name, value)| (name.to_owned(), value.to_owned()));
    config::from_vars(vars).unwrap().broker
}

fn on_rabbitmq(log: &str) -> config::Broker {
    let exchange = format!("test-{}", Uuid::new_v4());
    configured(&[("AMQP_URL", &rabbitmq::shared()), ("AMQP_EXCHANGE", &exchange), ("AMQP_LOG", log)])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_broker_keeps_the_contract() {
    keeps_the_contract(&configured(&[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_broker_with_a_file_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    keeps_the_contract(&configured(&[("EMBEDDED_LOG", folder.path().join("log").to_str().unwrap())])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_keeps_the_contract_with_a_log() {
    keeps_the_contract(&on_rabbitmq("stream")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_keeps_the_contract_without_a_log() {
    keeps_the_contract(&on_rabbitmq("off")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_on_one_exchange_receives_everything_in_the_same_order() {
    let config = on_rabbitmq("stream");
    let (mut one, mut two) = (Instance::start(&config).await, Instance::start(&config).await);
    one.received.clear();
    for number in 0..500_u32 {
        let publisher = if number % 2 == 0 { &one.publisher } else { &two.publisher };
        publisher.publish(Kind::Trigger, Bytes::from(number.to_string())).await.unwrap();
    }
    for instance in [&mut one, &mut two] {
        let all = instance.receive_until(|received| received.last().is_some_and(|last| last == "499"));
        timeout(PATIENCE, all).await.expect("received in time");
        instance.received.retain(|body| body != "probe");
    }
    assert_eq!(one.received.len(), 500);
    assert_eq!(one.received, two.received);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rabbitmq_has_dropped_before_it_was_read_is_told() {
    const TRIGGERS: usize = 20_000;
    let exchange = format!("test-{}", Uuid::new_v4());
    let vars = [("AMQP_URL", &*rabbitmq::shared()), ("AMQP_EXCHANGE", &*exchange), ("AMQP_LOG_MAX_BYTES", "1MiB")];
    let mut instance = Instance::start(&configured(&vars)).await;
    // Ten times as much as is kept, while nobody takes it.
    let body = Bytes::from("x".repeat(500));
    for _ in 0..TRIGGERS / 1000 {
        let outcomes = instance.publisher.publish_all(vec![body.clone(); 1000]).await;
        assert!(outcomes.iter().all(Result::is_ok));
    }
    let has_gap = |seen: &[&str]| seen.windows(2).any(|pair| pair == ["restart", "missed"]);
    let mut seen: Vec<&str> = Vec::new();
    let (mut triggers, mut last) = (0, None);
    let read = async {
        // An epoch behind the gap comes with the marker that is asked for there. At the start, too, something may be missed.
        while !(has_gap(&seen) && seen.last() == Some(&"epoch")) {
            let batch = instance.consumer.next().await.unwrap();
            for delivery in &batch.deliveries {
                match delivery {
                    Delivery::Trigger { offset, .. } => {
                        assert!(*offset > last, "{last:?} and then {offset:?}");
                        (last, triggers) = (*offset, triggers + 1);
                    }
                    Delivery::Control { .. } | Delivery::Instance { .. } | Delivery::Channelstream { .. } => {
                        panic!("nobody has published one")
                    }
                    Delivery::Epoch { .. } => seen.push("epoch"),
                    Delivery::Restart { .. } => seen.push("restart"),
                    Delivery::Recalled => seen.push("recalled"),
                    Delivery::Missed => seen.push("missed"),
                }
            }
            instance.consumer.acknowledge(batch).await;
        }
    };
    timeout(PATIENCE, read).await.expect("in time");
    assert!(triggers < TRIGGERS, "nothing was dropped: this shows nothing");
    instance.stop().await;
}
