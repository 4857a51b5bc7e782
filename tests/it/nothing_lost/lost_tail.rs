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
