//! `TRIGGER_LIMIT` bounds what publishers send, by HTTP and by RabbitMQ alike.

use futures::future::join_all;
use lapin::{BasicProperties, options::BasicPublishOptions};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use crate::support::{TestServer, eventually, http::dial, rabbitmq};

/// A trigger without anything in it.
const AROUND: &str = r#"{"rooms":[{"target":"message"}],"data":""}"#;

/// A trigger of exactly so many bytes.
fn trigger(bytes: usize) -> String {
    format!(r#"{{"rooms":[{{"target":"message"}}],"data":"{}"}}"#, "x".repeat(bytes - AROUND.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_posted_trigger_may_be_larger_than_a_message_of_a_client_and_than_its_outbox() {
    let server = TestServer::start().await;
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    for bytes in [2_000_000, 15 << 20] {
        let reply = server.post("/trigger/", &trigger(bytes)).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(client.next().await["data"].as_str().unwrap().len(), bytes - AROUND.len());
    }
    let reply = server.post("/trigger/", &trigger((16 << 20) + 1)).await;
    assert_eq!((reply.status, &reply.json()["message"]), (413, &json!("too-large")));
    assert!(reply.json()["detail"].as_str().unwrap().contains("16777216 bytes (TRIGGER_LIMIT)"), "{reply:?}");
    drop(client); // the test's own one takes no larger frame
    assert_eq!(server.post("/trigger/", &trigger(16 << 20)).await.status, 200);
    let server = TestServer::with(&[("TRIGGER_LIMIT", "2KiB"), ("MESSAGE_LIMIT", "4MiB")]).await;
    assert_eq!(server.post("/trigger/", &trigger(2048)).await.status, 200);
    for body in [trigger(2049), format!("[{},{}]", trigger(1024), trigger(1024))] {
        assert_eq!(server.post("/trigger/", &body).await.status, 413);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_received_at_the_same_time_share_a_bounded_memory() {
    const BODY: usize = 16 << 20;
    let server = TestServer::start().await;
    let whole = trigger(BODY);
    let begin = async || {
        let mut stream = dial(&server.internal).await;
        let head = format!(
            "POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {BODY}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&whole.as_bytes()[..BODY - 1]).await.unwrap();
        stream
    };
    let waiting = join_all((0..4).map(|_| begin())).await;
    // 64 MiB are taken as soon as the server has read all of that.
    let is_busy = async || {
        let reply = server.post("/trigger/", &trigger(100)).await;
        assert!(reply.status == 200 || reply.json()["message"] == "try-later", "{reply:?}");
        reply.status == 503
    };
    eventually("there is no memory left", is_busy).await;
    for mut stream in waiting {
        stream.write_all(&whole.as_bytes()[BODY - 1..]).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(server.post("/trigger/", &trigger(100)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_in_rabbitmq_has_the_same_limit() {
    for log in ["stream", "off"] {
        let exchange = format!("large-{}", Uuid::new_v4());
        let url = rabbitmq::shared();
        let vars = [
            ("AMQP_URL", url.as_str()),
            ("AMQP_EXCHANGE", exchange.as_str()),
            ("AMQP_LOG", log),
            ("TRIGGER_LIMIT", "2KiB"),
        ];
        let server = TestServer::with(&vars).await;
        let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
        let channel = rabbitmq::channel().await;
        for bytes in [2049, 2048] {
            let body = trigger(bytes);
            let options = BasicPublishOptions::default();
            let exchange = exchange.as_str().into();
            channel
                .basic_publish(exchange, "*".into(), options, body.as_bytes(), BasicProperties::default())
                .await
                .unwrap();
        }
        assert_eq!(client.next().await["data"].as_str().unwrap().len(), 2048 - AROUND.len(), "{log}");
        assert_eq!(server.metric(r#"triggers_dropped_total{reason="too-large"}"#).await, 1, "{log}");
        client.expect_silence().await;
    }
}
