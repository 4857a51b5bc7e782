//! An instance that is cut off from the broker for a while.

use futures::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestServer,
    channelstream::{Place, SECRET, Site},
    eventually,
    proxy::Proxy,
    rabbitmq,
};

#[tokio::test(flavor = "multi_thread")]
async fn without_the_broker_calls_are_refused_clients_stay_and_nothing_is_lost() {
    let (exchange, proxy) = (format!("test-{}", Uuid::new_v4()), Proxy::before(&rabbitmq::shared()).await);
    let direct = rabbitmq::shared();
    let servers = join_all([&direct, &proxy.url].map(async |url| {
        let vars = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", &exchange), ("CHANNELSTREAM_SECRET", SECRET)];
        TestServer::with(&vars).await
    }))
    .await;
    let [other, cut] = [0, 1].map(|at| Site::at(vec![Place::from(&servers[at])]).without_public_calls());
    for site in [&other, &cut] {
        eventually("calls are answered", async || site.call("GET", "/info", "").await.status == 200).await;
    }
    let say = |number: u32| json!({"user": "x", "channel": "out", "message": {"n": number}});
    let (_, mut ann) = cut.join("out-ann", &["out"]).await;
    let bob = cut.connect("out-bob", &["out"]).await;
    cut.say(say(1)).await;
    assert_eq!(ann.next().await["message"], json!({"n": 1}));
    assert_eq!(numbers(&cut.polls(&bob, 1).await), [1]);

    proxy.cut();
    eventually("it is cut off", async || servers[1].get("/readyz").await.status == 503).await;
    let refused = cut.call("POST", "/message", &json!([say(0)]).to_string()).await;
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("1")), "{refused:?}");
    assert_eq!(cut.poll(&bob).await, Vec::<Value>::new());
    other.say(say(2)).await;
    ann.heartbeat().await;

    proxy.mend();
    assert_eq!(ann.next().await["message"], json!({"n": 2}), "what was refused is not done later");
    assert_eq!(numbers(&cut.polls(&bob, 1).await), [2]);
    eventually("calls are answered", async || cut.call("GET", "/info", "").await.status == 200).await;
    cut.say(say(3)).await;
    assert_eq!(ann.next().await["message"], json!({"n": 3}));
}

fn numbers(frames: &[Value]) -> Vec<u64> {
    frames.iter().map(|frame| frame["message"]["n"].as_u64().unwrap()).collect()
}
