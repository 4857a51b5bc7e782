//! Three RabbitMQ nodes in a cluster, killed one after the other: nothing is lost, and nobody is told anything.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use serde_json::{Value, json};

use crate::support::{Client, Cluster, TestServer, eventually, rabbitmq};

/// So many are published while a node is killed.
const TRIGGERS: u32 = 200;

fn room() -> Value {
    json!({"target": "message"})
}

/// Publishes it through one server or the other, until one says that it has been accepted.
async fn publish<const SERVERS: usize>(servers: [&TestServer; SERVERS], number: u32) {
    let trigger = json!({"rooms": [room()], "data": number, "id": number.to_string()}).to_string();
    let attempt = AtomicU32::new(number);
    eventually("a trigger is accepted", async || {
        let server = servers[attempt.fetch_add(1, Relaxed) as usize % SERVERS];
        server.post("/trigger/", &trigger).await.status == 200
    })
    .await;
}

/// A client of version 4, subscribed to the room.
async fn subscriber(server: &TestServer) -> Client {
    let (mut client, _) = server.connect_v4().await;
    let reply = client.ask(json!({"type": "subscribe", "requestId": "1", "room": room()})).await;
    assert_eq!(reply["code"], json!("success"));
    client
}

/// Every client is given this next.
async fn expect(clients: impl IntoIterator<Item = &mut Client>, number: u32) {
    for client in clients {
        let frame = client.next().await;
        assert_eq!(frame["data"], json!(number), "{frame}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_nodes_of_a_cluster_are_killed_in_turn_every_trigger_comes_once_and_in_order() {
    let cluster = Cluster::start().await;
    let one = TestServer::with(&[("AMQP_URL", &cluster.urls_from(0))]).await;
    let two = TestServer::with(&[("AMQP_URL", &cluster.urls_from(1))]).await;
    let mut clients = [one.subscriber(&[("1", room())]).await, subscriber(&one).await, subscriber(&two).await];
    let (servers, published) = ([&one, &two], AtomicU32::new(0));
    let publish_next = async || {
        publish(servers, published.load(Relaxed)).await;
        published.fetch_add(1, Relaxed)
    };
    // The log begins at the first node, as that is where it was declared.
    for index in 0..3 {
        let first = published.load(Relaxed);
        let publish = async {
            for _ in 0..TRIGGERS {
                publish_next().await;
            }
        };
        let kill = async {
            eventually("some are published", async || published.load(Relaxed) > first + TRIGGERS / 4).await;
            cluster.kill(index).await;
        };
        tokio::join!(publish, kill);
        for number in first..first + TRIGGERS {
            expect(&mut clients, number).await;
        }
        let is_back = AtomicBool::new(false);
        let come_back = async {
            cluster.start_again(index, "hightemplar.log").await;
            is_back.store(true, Relaxed);
        };
        let go_on = async {
            while !is_back.load(Relaxed) {
                let number = publish_next().await;
                expect(&mut clients, number).await;
            }
        };
        tokio::join!(come_back, go_on);
    }
    for client in &mut clients {
        client.expect_silence().await;
    }
    for server in servers {
        server.until_ready().await;
        assert!(server.get("/metrics").await.body.contains("high_templar_gaps_total 0\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lags_behind_is_not_taken_for_a_log_that_has_lost_something() {
    let cluster = Cluster::start().await;
    let server = TestServer::with(&[("AMQP_URL", &cluster.urls_from(0))]).await;
    let mut client = subscriber(&server).await;
    // The first node leads the log. What it sends to the second one is held up.
    let hold_up = format!(
        "Leads = fun(Pid) -> proc_lib:initial_call(Pid) =:= {{osiris_replica_reader, init, ['Argument__1']}} end,
        IsThere = fun(Pid) -> is_pid(Pid) andalso node(Pid) =:= '{}' end,
        Senders = [Pid || Pid <- processes(), Leads(Pid), lists:any(IsThere, tuple_to_list(sys:get_state(Pid)))],
        spawn(fun() -> [erlang:suspend_process(Pid) || Pid <- Senders], timer:sleep(infinity) end), length(Senders).",
        rabbitmq::node_name(&cluster.urls[1])
    );
    assert_eq!(cluster.ctl(0, &["eval", &hold_up]).trim(), "2", "streams"); // the log, and the test's own
    // A session of its own writes a marker, which the second node does not have then.
    cluster.ctl(0, &["close_all_connections", "test"]);
    eventually("it is not ready", async || server.get("/readyz").await.status == 503).await;
    server.until_ready().await;
    cluster.ctl(0, &["suspend_listeners"]);
    cluster.ctl(0, &["close_all_connections", "test"]);
    eventually("it is not ready", async || server.get("/readyz").await.status == 503).await;
    server.until_ready().await;
    publish([&server], 0).await;
    expect([&mut client], 0).await;
    client.expect_silence().await;
}
