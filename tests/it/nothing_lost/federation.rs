//! Two clusters, of which one is fed by the other, as in a blue-green upgrade.

use std::time::Duration;

use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{EXCHANGE, member, resume, room, trigger};
use crate::support::{Node, StubBackend, TestServer, backend::Answer, eventually, rabbitmq::Settings};

#[tokio::test(flavor = "multi_thread")]
async fn positions_and_instances_of_another_cluster_count_for_nothing() {
    let plugins = Settings { plugins: "rabbitmq_federation", ..Settings::default() };
    let (blue, green) = (Node::with(plugins).await, Node::with(plugins).await);
    let allowed = json!({"allowed_rooms": [room()], "user": {"data": {"id": 17}}});
    let backend = async || {
        StubBackend::answering({
            let allowed = allowed.clone();
            move |_| Answer::Reply(200, allowed.to_string())
        })
        .await
    };
    let vars =
        [("RESUME_SECRET", "a secret of all instances"), ("HOOK_CONNECT", "online/"), ("HOOK_DISCONNECT", "offline/")];
    let on_blue = TestServer::before(backend().await, &[&vars[..], &[("AMQP_URL", &blue.url)]].concat()).await;
    let on_green = TestServer::before(backend().await, &[&vars[..], &[("AMQP_URL", &green.url)]].concat()).await;
    // What blue's exchange gets, green's gets, too.
    let upstream = format!(r#"{{"uri":"{}"}}"#, blue.url);
    green.ctl(&["set_parameter", "federation-upstream", "blue", &upstream]);
    let policy = r#"{"federation-upstream":"blue"}"#;
    green.ctl(&["set_policy", "from-blue", &format!("^{EXCHANGE}$"), policy, "--apply-to", "exchanges"]);
    let mut follower = member(&on_green).await;
    let mut client = member(&on_blue).await;
    let mut last = json!(null);
    loop {
        on_blue.trigger(json!({"rooms": [room()], "data": "probe"})).await;
        if timeout(Duration::from_millis(500), follower.next()).await.is_ok() {
            break;
        }
    }
    for number in 0..20 {
        trigger(&on_blue, json!(number)).await;
        loop {
            let frame = client.next().await;
            if frame["data"] == json!(number) {
                last = frame["position"].clone();
                break;
            }
        }
    }
    assert!(last.is_string());
    // Both read what the other's markers say; blue's positions are not green's.
    eventually("green ignores what blue's instance says", async || {
        on_green.metric("broker_foreign_entries_total").await > 0
    })
    .await;
    let (_client, reply) = resume(&on_green, &last).await;
    assert_eq!(reply["recovered"], json!(false), "{reply}");
    // Blue falls silent for green: its clients are not gone.
    green.ctl(&["clear_policy", "from-blue"]);
    sleep(Duration::from_secs(40)).await; // an instance is given up after half a minute
    let gone = |server: &TestServer| server.backend.lines().iter().any(|line| line.contains("offline/"));
    assert!(!gone(&on_green) && !gone(&on_blue));
    on_blue.stop().await;
    on_green.stop().await;
}
