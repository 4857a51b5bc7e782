//! RabbitMQ is short of memory and takes nothing from any publisher: clients are served all the same.

use serde_json::json;

use super::{member, resume, trigger};
use crate::support::{Node, TestServer, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_served_while_rabbitmq_takes_nothing() {
    let node = Node::start().await;
    let server = TestServer::with(&[("AMQP_URL", &node.url)]).await;
    let mut client = member(&server).await;
    let (_, welcome) = server.connect_v4().await;
    trigger(&server, json!(1)).await;
    assert_eq!(client.next().await["data"], json!(1));
    node.ctl(&["set_vm_memory_high_watermark", "0.0000001"]);
    eventually("publishing is blocked", async || {
        server.get("/status").await.json()["broker"]["publishing"] == json!("blocked")
    })
    .await;
    assert_eq!(server.metric("broker_publishing_blocked").await, 1);
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(server.post("/trigger/", r#"{"rooms":[],"data":1}"#).await.status, 503);
    // One that starts now reads what is there.
    let started = TestServer::with(&[("AMQP_URL", &node.url)]).await;
    let (mut resumed, reply) = resume(&started, &welcome["position"]).await;
    assert_eq!(reply["recovered"], json!(true), "{reply}");
    assert_eq!(resumed.next().await["data"], json!(1));
    node.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    trigger(&server, json!(2)).await;
    for client in [&mut client, &mut resumed] {
        assert_eq!(client.next().await["data"], json!(2));
    }
    assert_eq!(server.metric("gaps_total").await + started.metric("gaps_total").await, 0);
    server.until_metric("broker_publishing_blocked", 0).await;
    server.stop().await;
    started.stop().await;
}
