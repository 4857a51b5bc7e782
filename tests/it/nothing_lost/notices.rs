//! A loss is told to all clients by whoever knows of it, and once.

use std::time::Duration;

use futures::future::join_all;
use lapin::{
    ExchangeKind,
    options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{EXCHANGE, member, redeclare_exchange, resume, room, trigger, unbound::catch_all};
use crate::support::{Client, Node, Proxy, TestServer, eventually, rabbitmq};

const LOG: &str = "hightemplar.log";
/// Longer than it takes to notice any of these losses, and to tell of it twice.
const NOTICED: Duration = Duration::from_secs(16);
/// Longer than it takes until the proofs before a marker are missed.
const PROVEN: Duration = Duration::from_secs(40);
const ALTERNATE: &str = r#"{"alternate-exchange":"alternate"}"#;

/// All frames that come within this time.
async fn frames(client: &mut Client, time: Duration) -> Vec<Value> {
    let (mut all, deadline) = (Vec::new(), Instant::now() + time);
    while Instant::now() < deadline {
        // A client does not wait for ever for a frame that it expects.
        let soon = deadline.min(Instant::now() + Duration::from_secs(5));
        all.extend(timeout_at(soon, client.next()).await);
    }
    all
}

fn resyncs(frames: &[Value]) -> usize {
    frames.iter().filter(|frame| frame["type"] == json!("resync")).count()
}

/// Four instances, each with a client.
async fn four(node: &Node) -> (Vec<TestServer>, Vec<Client>) {
    let servers = join_all((0..4).map(async |_| TestServer::with(&[("AMQP_URL", &node.url)]).await)).await;
    let clients = join_all(servers.iter().map(member)).await;
    (servers, clients)
}

/// How often each client is told within the time.
async fn told(clients: &mut [Client], time: Duration) -> Vec<usize> {
    join_all(clients.iter_mut().map(async |client| resyncs(&frames(client, time).await))).await
}

async fn alternate_exchange(node: &Node) {
    catch_all(&node.url, "alternate", ExchangeKind::Fanout).await;
    node.ctl(&["set_policy", "alternate", "^hightemplar$", ALTERNATE, "--apply-to", "exchanges"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_passed_nothing_on_is_told_once_by_four_instances() {
    for has_alternate in [false, true] {
        let node = Node::start().await;
        let (_servers, mut clients) = four(&node).await;
        if has_alternate {
            alternate_exchange(&node).await;
        }
        redeclare_exchange(&node.url).await;
        assert_eq!(told(&mut clients, 2 * NOTICED).await, [1; 4], "alternate exchange: {has_alternate}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_deleted_is_told_once_by_four_instances_whatever_was_told_before() {
    let node = Node::start().await;
    let (servers, mut clients) = four(&node).await;
    for number in 0..20 {
        trigger(&servers[0], json!(number)).await;
    }
    redeclare_exchange(&node.url).await;
    assert_eq!(told(&mut clients, NOTICED).await, [1; 4]);
    let channel = rabbitmq::channel_at(&node.url).await;
    channel.queue_delete(LOG.into(), QueueDeleteOptions::default()).await.unwrap();
    assert_eq!(told(&mut clients, 2 * NOTICED).await, [1; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_end_is_told_once_by_four_instances_although_an_earlier_gap_was_told_in_it() {
    let node = Node::start().await;
    let (servers, mut clients) = four(&node).await;
    for number in 0..20 {
        trigger(&servers[0], json!(number)).await;
    }
    node.save_streams();
    for number in 0..60 {
        trigger(&servers[number % 4], json!(number)).await;
    }
    redeclare_exchange(&node.url).await;
    assert_eq!(told(&mut clients, NOTICED).await, [1; 4]);
    node.kill();
    node.rewind_streams();
    node.start_again();
    assert_eq!(told(&mut clients, 2 * NOTICED).await, [1; 4]);
}

/// The last gap was told so long before that the instance has not read it back that has read the lost end alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_end_is_told_by_an_instance_that_was_started_long_after_the_last_gap() {
    let short = [("HISTORY", "2s"), ("TRIGGER_ID_TTL", "2s"), ("RESUME_TTL", "2s")];
    let node = Node::start().await;
    let [old_way, new_way] = [Proxy::before(&node.url).await, Proxy::before(&node.url).await];
    let old = TestServer::with(&[&short[..], &[("AMQP_URL", &old_way.url)]].concat()).await;
    let mut other = member(&old).await;
    redeclare_exchange(&node.url).await;
    assert_eq!(resyncs(&frames(&mut other, NOTICED).await), 1);
    let witness = TestServer::with(&[&short[..], &[("AMQP_URL", &new_way.url)]].concat()).await;
    let mut client = member(&witness).await;
    trigger(&witness, json!("kept")).await;
    for client in [&mut client, &mut other] {
        assert_eq!(client.next().await["data"], json!("kept"));
    }
    // The old one does not read what is lost.
    old_way.cut();
    eventually("it is away", async || old.get("/status").await.json()["broker"]["state"] == json!("away")).await;
    node.save_streams();
    let mut last = json!(null);
    for number in 0..40 {
        trigger(&witness, json!(number)).await;
        last = client.next().await;
        assert_eq!(last["data"], json!(number));
    }
    new_way.cut();
    node.kill();
    node.rewind_streams();
    node.start_again();
    old_way.mend();
    old.until_ready().await;
    for number in 0..60 {
        trigger(&old, json!(format!("new {number}"))).await;
        assert_eq!(other.next().await["data"], json!(format!("new {number}")));
    }
    new_way.mend();
    assert_eq!(told(&mut [client, other], 2 * NOTICED).await, [1; 2]);
    let (_client, reply) = resume(&old, &last["position"]).await;
    assert_eq!(reply["recovered"], json!(false), "{reply}");
}

/// The consumer cannot reach RabbitMQ while the publisher comes and goes.
#[tokio::test(flavor = "multi_thread")]
async fn markers_that_were_written_while_nobody_read_them_are_no_gap() {
    let node = Node::start().await;
    let [publishing, reading] = [Proxy::before(&node.url).await, Proxy::before(&node.url).await];
    // The consumer's connections end as soon as they have said their name, on the way that the publisher takes.
    let server = TestServer::with(&[("AMQP_URL", &publishing.url)]).await;
    let near = TestServer::with(&[("AMQP_URL", &reading.url)]).await;
    let mut client = member(&near).await;
    let is_publishing = async || server.get("/status").await.json()["broker"]["publishing"] == json!("open");
    for _ in 0..24 {
        publishing.keep_off("high-templar consumer");
        eventually("it publishes", is_publishing).await;
        publishing.cut();
        eventually("it is cut off", async || !is_publishing().await).await;
        publishing.mend();
    }
    eventually("it publishes", is_publishing).await;
    publishing.cut_early("nobody", []);
    eventually("it reads", async || server.get("/readyz").await.status == 200).await;
    trigger(&server, json!("after")).await;
    assert_eq!(client.next().await["data"], json!("after"));
    assert_eq!(near.metric("gaps_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_binding_that_is_taken_away_is_noticed_and_made_again() {
    let take_away = async |node: &Node, key: &str| {
        let channel = rabbitmq::channel_at(&node.url).await;
        channel.queue_unbind(LOG.into(), EXCHANGE.into(), key.into(), FieldTable::default()).await.unwrap();
    };
    let of_triggers = async {
        let node = Node::start().await;
        let server = TestServer::with(&[("AMQP_URL", &node.url)]).await;
        let mut client = member(&server).await;
        // As those of 3.1 are bound.
        let channel = rabbitmq::channel_at(&node.url).await;
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("other".into(), exclusive, FieldTable::default()).await.unwrap();
        let bind = QueueBindOptions::default();
        channel.queue_bind("other".into(), EXCHANGE.into(), "*".into(), bind, FieldTable::default()).await.unwrap();
        take_away(&node, "*").await;
        server.trigger(json!({"rooms": [room()], "data": "lost"})).await;
        assert_eq!(told(&mut [client], PROVEN).await, [1]);
        client = member(&server).await;
        trigger(&server, json!("after")).await;
        assert_eq!(client.next().await["data"], json!("after"));
    };
    let of_control = async {
        let node = Node::start().await;
        let server = TestServer::with(&[("AMQP_URL", &node.url)]).await;
        let mut client = member(&server).await;
        alternate_exchange(&node).await;
        take_away(&node, "control").await;
        server.control(json!({"action": "disconnect", "all": true})).await;
        assert_eq!(told(&mut [client], PROVEN).await, [1]);
        client = member(&server).await;
        server.control(json!({"action": "disconnect", "all": true})).await;
        assert_eq!(client.close_code().await, 3501);
    };
    tokio::join!(of_triggers, of_control);
}

/// As where a disk is slow; what is returned is confirmed at once, since nothing has to be written.
#[tokio::test(flavor = "multi_thread")]
async fn confirms_that_take_seconds_are_waited_for_and_a_gap_is_told_once() {
    let node = Node::start().await;
    let proxy = Proxy::before(&node.url).await;
    let far = TestServer::with(&[("AMQP_URL", &proxy.url)]).await;
    let near = TestServer::with(&[("AMQP_URL", &node.url)]).await;
    let mut clients = [member(&near).await];
    proxy.delay_confirms(Duration::from_millis(2500));
    redeclare_exchange(&node.url).await;
    let body = json!({"rooms": [room()], "data": 1}).to_string();
    assert_eq!(far.post("/trigger/", &body).await.status, 503);
    assert_eq!(told(&mut clients, 2 * NOTICED).await, [1]);
    eventually("it is published to", async || far.post("/trigger/", &body).await.status == 200).await;
    assert_eq!(clients[0].next().await["data"], json!(1));
}
