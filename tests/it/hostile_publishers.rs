//! No message of a publisher ends an instance's connection to RabbitMQ, whatever bytes its properties are.

use lapin::{ExchangeKind, options::ExchangeDeclareOptions, types::FieldTable};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    TestServer,
    amqp::{
        APP_ID, CLUSTER_ID, CONTENT_ENCODING, CONTENT_TYPE, CORRELATION_ID, FRAME_MAX, HEADERS, MESSAGE_ID, PRIORITY,
        REPLY_TO, RawPublisher, Refused, TIMESTAMP, TYPE, counted, entry, nested, short,
    },
    rabbitmq,
};

/// A byte sequence that is UTF-8 nowhere.
const INVALID: &[u8] = b"\x8f\xe9\x01\xff";

/// Flags and properties of messages, by name.
fn messages() -> Vec<(String, u16, Vec<u8>)> {
    let mut messages = Vec::new();
    let mut add = |name: &str, flags, properties| messages.push((name.to_owned(), flags, properties));
    for (name, flag) in [
        ("correlation id", CORRELATION_ID),
        ("message id", MESSAGE_ID),
        ("reply to", REPLY_TO),
        ("type", TYPE),
        ("app id", APP_ID),
        ("cluster id", CLUSTER_ID),
        ("content type", CONTENT_TYPE),
        ("content encoding", CONTENT_ENCODING),
    ] {
        add(name, flag, short(INVALID));
        add(&format!("{name} in Latin-1"), flag, short(b"caf\xe9"));
    }
    let all = CORRELATION_ID | MESSAGE_ID | REPLY_TO | TYPE | APP_ID | CONTENT_TYPE | CONTENT_ENCODING;
    add("all of them", all, short(INVALID).repeat(7));
    add("highest priority", PRIORITY, vec![0xff]);
    add("last timestamp", TIMESTAMP, vec![0xff; 8]);
    add("unknown flags", 3, vec![]);

    let header = |name: &[u8], kind, value: &[u8]| counted(&entry(name, kind, value));
    add("a header's name", HEADERS, header(INVALID, b'S', &counted(b"x")));
    add("a header without a name", HEADERS, header(b"", b'S', &counted(b"x")));
    add("a header's value", HEADERS, header(b"k", b'S', &counted(INVALID)));
    for kind in *b"tbBsuUIilLfdDTxVASFZ" {
        let value = match kind {
            b'V' => vec![],
            b't' | b'b' | b'B' => vec![2],
            b's' | b'u' | b'U' => vec![0xff; 2],
            b'I' | b'i' => vec![0xff; 4],
            b'f' => 1_f32.to_be_bytes().to_vec(),
            b'd' => 1_f64.to_be_bytes().to_vec(),
            b'D' => vec![0xff; 5],
            b'x' | b'S' => counted(INVALID),
            b'A' => counted(&entry(b"", b'x', &counted(INVALID))[1..]),
            b'F' => header(INVALID, b'F', &header(INVALID, b'A', &counted(b""))),
            _ => vec![0xff; 8],
        };
        add(&format!("a header of type {}", char::from(kind)), HEADERS, header(b"k", kind, &value));
    }
    for depth in [10, 20_000] {
        add(&format!("{depth} nested arrays"), HEADERS, header(b"k", b'A', &nested(depth)[1..]));
    }
    // RabbitMQ adds the offset to it.
    let head = 7 + 14 + 4 + 2 + 1 + 4 + 1;
    let filler = vec![b'x'; FRAME_MAX as usize - head];
    add("a frame full of headers", HEADERS, header(b"k", b'S', &counted(&filler)));
    let offset = |offset: i64| entry(b"x-stream-offset", b'l', &offset.to_be_bytes());
    add("an offset of its own", HEADERS, counted(&offset(1 << 40)));
    add("several offsets of its own", HEADERS, counted(&[offset(1 << 40), offset(2), offset(-1)].concat()));
    add("an offset that is none", HEADERS, header(b"x-stream-offset", b'S', &counted(b"first")));
    messages
}

/// Publishes them all; the names of those that RabbitMQ takes.
async fn publish(url: &str, exchange: &str, routing_key: &[u8]) -> Vec<String> {
    let mut publisher = RawPublisher::connect(url).await;
    let mut taken = Vec::new();
    for (name, flags, properties) in messages() {
        let body = json!({"rooms": [{"target": "message"}], "data": name}).to_string();
        match publisher.publish(exchange, routing_key, flags, &properties, body.as_bytes()).await {
            Ok(()) => taken.push(name),
            Err(Refused(why)) => {
                // RabbitMQ 3.10 cannot read the types U and Z itself, nor keep D in a stream, and ends the connection.
                assert!(["U", "Z", "D"].iter().any(|kind| name == format!("a header of type {kind}")), "{name}: {why}");
                publisher = RawPublisher::connect(url).await;
            }
        }
    }
    taken
}

/// Publishes all `messages` to an exchange of this kind, and sees that each is delivered and nothing else happens.
async fn are_delivered(log: &str, kind: ExchangeKind, routing_key: &[u8]) {
    let exchange = format!("test-{}", Uuid::new_v4());
    let channel = rabbitmq::channel().await;
    let (options, none) = (ExchangeDeclareOptions::default(), FieldTable::default());
    channel.exchange_declare(exchange.as_str().into(), kind, options, none).await.unwrap();
    let url = rabbitmq::shared();
    let vars = [("AMQP_URL", url.as_str()), ("AMQP_EXCHANGE", &exchange), ("AMQP_LOG", log)];
    let server = TestServer::with(&vars).await;
    let mut client = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    let taken = publish(&url, &exchange, routing_key).await;
    for name in &taken {
        assert_eq!(client.next().await["data"], json!(name));
    }
    server.trigger(json!({"rooms": [{"target": "message"}], "data": "after"})).await;
    assert_eq!(client.next().await["data"], json!("after"));
    client.expect_silence().await;
    assert_eq!(server.metric("broker_failures_total").await, 0);
    if log == "stream" {
        // An instance that starts reads them again, and so does one that knows all of them.
        let other = TestServer::with(&vars).await;
        let position = server.get("/position").await.json();
        assert_ne!(position, json!({"position": Value::Null}));
        assert_eq!(other.get("/position").await.json(), position);
        assert_eq!(other.metric("broker_failures_total").await, 0);
        other.stop().await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_with_any_properties_are_delivered_from_the_log() {
    are_delivered("stream", ExchangeKind::Direct, b"*").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_with_any_properties_are_delivered_without_a_log() {
    are_delivered("off", ExchangeKind::Direct, b"*").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_with_any_routing_key_are_delivered_from_an_adopted_exchange() {
    for log in ["stream", "off"] {
        are_delivered(log, ExchangeKind::Fanout, INVALID).await;
    }
}
