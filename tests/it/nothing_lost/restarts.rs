//! RabbitMQ is restarted: nothing is lost, and nobody is told that something may be.

use serde_json::json;

use super::{EXCHANGE, declare_exchange, member, resume, room, trigger};
use crate::support::{Node, Proxy, StubBackend, TestServer, eventually, process};

/// Restarts of RabbitMQ in a row; BROKER_RESTARTS says how many where that is wanted.
const RESTARTS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn restarts_of_rabbitmq_are_no_gap() {
    let restarts = std::env::var("BROKER_RESTARTS").ok().map_or(RESTARTS, |count| count.parse().unwrap());
    let node = Node::start().await;
    let vars = [("AMQP_URL", node.url.as_str()), ("AMQP_LOG", "stream")];
    let servers = [TestServer::with(&vars).await, TestServer::with(&vars).await, TestServer::with(&vars).await];
    let mut clients = Vec::new();
    for server in &servers {
        clients.push(member(server).await);
    }
    for restart in 0..restarts {
        match restart % 2 {
            0 => node.kill(),
            _ => node.control("stop"),
        }
        node.start_again();
        trigger(&servers[restart % 3], json!(restart)).await;
        for client in &mut clients {
            let frame = client.next().await;
            assert_eq!(frame["data"], json!(restart), "restart {restart}: {frame}");
        }
        for server in &servers {
            assert_eq!(server.metric("gaps_total").await, 0, "restart {restart}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_declares_the_exchange_before_any_instance_is_a_gap() {
    let node = Node::start().await;
    let server = TestServer::with(&[("AMQP_URL", &node.url)]).await;
    let proxied = Proxy::before(&node.url).await;
    let other = TestServer::with(&[("AMQP_URL", &proxied.url)]).await;
    let mut clients = [member(&server).await, member(&other).await];
    server.stop().await;
    // Nobody but a publisher reaches RabbitMQ after its restart.
    proxied.cut();
    node.kill();
    node.start_again();
    eventually("it is away", async || other.get("/readyz").await.status == 503).await;
    declare_exchange(&node.url).await;
    proxied.mend();
    assert_eq!(clients[1].next().await["type"], json!("resync"));
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_of_a_log_is_no_gap_whoever_has_declared_the_exchange() {
    let node = Node::start().await;
    let backend = StubBackend::allowing(json!([room()])).await;
    let check = || {
        let mut command = process::program();
        command.arg("check").env("API_URL", backend.url()).env("AMQP_URL", &node.url);
        let vars = [("LISTEN", "127.0.0.1:0"), ("INTERNAL_LISTEN", "127.0.0.1:0")];
        let output = command.envs(vars).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (is_well, said) = tokio::task::block_in_place(check);
    assert!(is_well && said.contains("not there yet"), "{said}");
    let listed = [node.ctl(&["list_exchanges", "name"]), node.ctl(&["list_queues", "name"])].concat();
    assert!(!listed.contains(EXCHANGE), "a check leaves nothing behind: {listed}");
    // As 3.1 does, which is still running.
    declare_exchange(&node.url).await;
    let running =
        process::Running::start(&[("API_URL", &backend.url()), ("AMQP_URL", &node.url), ("DRAIN", "1s")]).await;
    let (is_well, said) = tokio::task::block_in_place(check);
    assert!(is_well && said.contains("exchange hightemplar found"), "{said}");
    running.signal(rustix::process::Signal::TERM);
    let (status, log) = running.end();
    assert!(status.success() && !log.contains("may have been missed"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_loses_the_broker_goes_on_where_it_was_and_clients_wait_for_it() {
    let node = Node::start().await;
    let server = TestServer::with(&[("AMQP_URL", &node.url)]).await;
    let (_client, welcome) = server.connect_v4().await;
    trigger(&server, json!(1)).await;
    server.stop().await;
    let proxy = Proxy::before(&node.url).await;
    proxy.cut();
    let server = TestServer::starting(&[("AMQP_URL", &proxy.url)]).await;
    let mut client = server.connect_v4().await.0;
    let wanted = json!({"type": "subscribe", "requestId": "1", "room": room(), "since": welcome["position"]});
    client.send(wanted).await;
    // Longer than it would wait if the broker were there.
    assert!(tokio::time::timeout(std::time::Duration::from_secs(12), client.next()).await.is_err());
    proxy.mend();
    let reply = client.next().await;
    assert_eq!(reply["recovered"], json!(true), "{reply}");
    assert_eq!(client.next().await["data"], json!(1));
    server.until_ready().await;
    client.expect_silence().await;
    let (_client, reply) = resume(&server, &welcome["position"]).await;
    assert_eq!(reply["recovered"], json!(true), "{reply}");
    server.stop().await;
}
