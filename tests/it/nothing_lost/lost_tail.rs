//! A host loses what the stream has not written to disk, and offsets are used again.

use serde_json::json;

use super::{member, resume, trigger};
use crate::support::{Node, Proxy, TestServer, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_when_the_log_has_lost_its_end() {
    let node = Node::start().await;
    let proxy = Proxy::before(&node.url).await;
    let server = TestServer::with(&[("AMQP_URL", &proxy.url)]).await;
    let mut client = member(&server).await;
    trigger(&server, json!("kept")).await;
    let kept = client.next().await;
    node.save_streams();
    let mut last = kept.clone();
    for number in 0..6 {
        trigger(&server, json!(number)).await;
        last = client.next().await;
        assert_eq!(last["data"], json!(number));
    }
    // Down, rewound, and up again with other entries at the same offsets before this instance comes back.
    proxy.cut();
    node.kill();
    node.rewind_streams();
    node.start_again();
    let first_back = TestServer::with(&[("AMQP_URL", &node.url)]).await;
    let mut other = member(&first_back).await;
    for number in 10..14 {
        trigger(&first_back, json!(number)).await;
        assert_eq!(other.next().await["data"], json!(number));
    }
    proxy.mend();
    assert_eq!(client.next().await["type"], json!("resync"), "entries took the places of others");
    eventually("it is ready", async || server.get("/readyz").await.status == 200).await;
    trigger(&server, json!("after")).await;
    let data = async |client: &mut crate::support::Client| loop {
        let frame = client.next().await;
        if frame["type"] == json!("publish") {
            return frame["data"].clone();
        }
    };
    assert_eq!(data(&mut client).await, json!("after"));
    assert_eq!(data(&mut other).await, json!("after"));
    // No instance vouches for a position that has been lost.
    for server in [&server, &first_back] {
        let (_client, reply) = resume(server, &last["position"]).await;
        assert_eq!(reply["recovered"], json!(false), "{reply}");
    }
    server.stop().await;
    first_back.stop().await;
}

/// The instance that has read the lost end comes no further than to publish: others tell their clients by what it wrote.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_other_instances_are_told_by_the_first_marker_of_one_that_had_read_the_lost_end() {
    let node = Node::start().await;
    let proxy = Proxy::before(&node.url).await;
    let witness = TestServer::with(&[("AMQP_URL", &proxy.url)]).await;
    let mut client = member(&witness).await;
    trigger(&witness, json!("kept")).await;
    let kept = client.next().await;
    node.save_streams();
    let mut last = kept.clone();
    for number in 0..40 {
        trigger(&witness, json!(number)).await;
        last = client.next().await;
    }
    proxy.cut();
    node.kill();
    node.rewind_streams();
    node.start_again();
    let fresh = TestServer::with(&[("AMQP_URL", &node.url)]).await;
    // As far as this instance knows, nothing is missing.
    let (mut other, reply) = resume(&fresh, &kept["position"]).await;
    assert_eq!(reply["recovered"], json!(true), "{reply}");
    trigger(&fresh, json!("new")).await;
    assert_eq!(other.next().await["data"], json!("new"));
    proxy.keep_off("high-templar consumer");
    proxy.mend();
    assert_eq!(other.next().await["type"], json!("resync"));
    for position in [&last["position"], &kept["position"]] {
        let (_client, reply) = resume(&fresh, position).await;
        assert_eq!(reply["recovered"], json!(false), "{reply}");
    }
    witness.stop().await;
    fresh.stop().await;
}
