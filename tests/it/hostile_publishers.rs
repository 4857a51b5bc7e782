//! No message of a publisher ends an instance's connection to RabbitMQ, whatever bytes its properties are.

use lapin::{ExchangeKind, options::ExchangeDeclareOptions, types::FieldTable};
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    Client, StubBackend, TestServer, eventually, http,
    process::{Running, program},
    rabbitmq,
    raw_amqp::{Confirmed, RawPublisher, long, short},
    tls::TlsProxy,
};

/// The largest frame that RabbitMQ takes unless configured otherwise.
const FRAME_BYTES: usize = 131_072;
/// Bits of the properties of a message, in the order in which they are encoded.
const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const MESSAGE_ID: u16 = 1 << 7;
const TIMESTAMP: u16 = 1 << 6;
const TYPE: u16 = 1 << 5;
const APP_ID: u16 = 1 << 3;
const CLUSTER_ID: u16 = 1 << 2;
/// A byte sequence that is UTF-8 nowhere.
const INVALID: &[u8] = b"\x8f\xe9\x01\xff";

/// One entry of a table.
fn entry(name: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
    [&short(name), &[kind][..], value].concat()
}

/// Arrays in each other.
fn nested(depth: u32) -> Vec<u8> {
    let inner_bytes = (0..depth).rev().map(|depth| depth * 5);
    inner_bytes.flat_map(|length| [&[b'A'][..], &length.to_be_bytes()].concat()).collect()
}

/// Encoded properties of messages, by name.
fn messages() -> Vec<(String, Vec<u8>)> {
    let mut messages = Vec::new();
    let mut add = |name: &str, flags: u16, properties: Vec<u8>| {
        messages.push((name.to_owned(), [&flags.to_be_bytes()[..], &properties].concat()));
    };
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

    let header = |name: &[u8], kind, value: &[u8]| long(&entry(name, kind, value));
    add("a header's name", HEADERS, header(INVALID, b'S', &long(b"x")));
    add("a header without a name", HEADERS, header(b"", b'S', &long(b"x")));
    add("a header's value", HEADERS, header(b"k", b'S', &long(INVALID)));
    for kind in *b"tbBsuUIilLfdDTxVASFZ" {
        let value = match kind {
            b'V' => vec![],
            b't' | b'b' | b'B' => vec![2],
            b's' | b'u' | b'U' => vec![0xff; 2],
            b'I' | b'i' => vec![0xff; 4],
            b'f' => 1_f32.to_be_bytes().to_vec(),
            b'd' => 1_f64.to_be_bytes().to_vec(),
            b'D' => vec![0xff; 5],
            b'x' | b'S' => long(INVALID),
            b'A' => long(&entry(b"", b'x', &long(INVALID))[1..]),
            b'F' => header(INVALID, b'F', &header(INVALID, b'A', &long(b""))),
            _ => vec![0xff; 8],
        };
        add(&format!("a header of type {}", char::from(kind)), HEADERS, header(b"k", kind, &value));
    }
    for depth in [10, 20_000] {
        add(&format!("{depth} nested arrays"), HEADERS, header(b"k", b'A', &nested(depth)[1..]));
    }
    // RabbitMQ adds the offset to it.
    let head = 7 + 14 + 4 + 2 + 1 + 4 + 1;
    let filler = vec![b'x'; FRAME_BYTES - head];
    add("a frame full of headers", HEADERS, header(b"k", b'S', &long(&filler)));
    let offset = |offset: i64| entry(b"x-stream-offset", b'l', &offset.to_be_bytes());
    add("an offset of its own", HEADERS, long(&offset(1 << 40)));
    add("several offsets of its own", HEADERS, long(&[offset(1 << 40), offset(2), offset(-1)].concat()));
    add("an offset that is none", HEADERS, header(b"x-stream-offset", b'S', &long(b"first")));
    messages
}

/// Publishes them all; the names of those that RabbitMQ takes.
async fn publish(url: &str, exchange: &str, key: &[u8]) -> Vec<String> {
    let mut publisher = RawPublisher::connect(url).await.unwrap();
    let mut taken = Vec::new();
    let body = |name: &str| json!({"rooms": [{"target": "message"}], "data": name}).to_string().into_bytes();
    for (name, properties) in messages() {
        match publisher.publish_bytes(exchange, key, &properties, &body(&name)).await {
            Ok(confirmed) => {
                assert_eq!(confirmed, Confirmed::Taken, "{name}");
                taken.push(name);
            }
            Err(why) => {
                // RabbitMQ 3.10 cannot read the types U and Z itself, nor keep D in a stream, and ends the connection.
                assert!(["U", "Z", "D"].iter().any(|kind| name == format!("a header of type {kind}")), "{name}: {why}");
                publisher = RawPublisher::connect(url).await.unwrap();
            }
        }
    }
    // One body in many frames, and one in none, which is no trigger.
    let large = [body("large"), vec![b' '; 3 * FRAME_BYTES]].concat();
    let properties = [&CORRELATION_ID.to_be_bytes()[..], &short(INVALID)].concat();
    for body in [&large[..], &[]] {
        let confirmed = publisher.publish_bytes(exchange, key, &properties, body).await.unwrap();
        assert_eq!(confirmed, Confirmed::Taken);
    }
    taken.push("large".to_owned());
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
        // An instance that starts reads all of them.
        let other = TestServer::with(&vars).await;
        eventually("both are at the same position", async || {
            let position = server.get("/position").await.json();
            position["position"].is_string() && other.get("/position").await.json() == position
        })
        .await;
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

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_they_are_delivered_too_and_the_certificate_is_verified() {
    let broker = TlsProxy::before(&rabbitmq::shared()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("authorities.pem");
    std::fs::write(&path, &broker.certificate).unwrap();
    let trusted = path.to_str().unwrap();
    let exchange = format!("test-{}", Uuid::new_v4());
    let backend = StubBackend::allowing(json!([{"target": "message"}])).await;
    let url = |host: &str| format!("amqps://guest:guest@{host}:{}/%2f", broker.port);
    for (host, authorities) in [("localhost", "/dev/null"), ("127.0.0.1", trusted)] {
        let vars = [("AMQP_URL", url(host)), ("API_URL", backend.url()), ("AMQP_EXCHANGE", exchange.clone())];
        let output = program().arg("check").envs(vars).env("SSL_CERT_FILE", authorities).output().unwrap();
        assert_ne!(output.status.code(), Some(0), "{host}, {authorities}");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).to_lowercase();
        assert!(said.contains("certificate"), "{said}");
    }

    let (url, api) = (url("localhost"), backend.url());
    let vars =
        [("AMQP_URL", url.as_str()), ("API_URL", &api), ("AMQP_EXCHANGE", &exchange), ("SSL_CERT_FILE", trusted)];
    let running = Running::start(&vars).await;
    let mut client = Client::connect(&running.public, "/ws/", &[]).await;
    assert_eq!(client.next().await["is_authorized"], json!(true));
    client.subscribe("1", json!({"target": "message"})).await;
    for name in publish(&rabbitmq::shared(), &exchange, b"*").await {
        assert_eq!(client.next().await["data"], json!(name));
    }
    let metrics = http::send(&running.internal, "GET", "/metrics", &[], b"").await.body;
    assert!(metrics.contains("\nhigh_templar_broker_failures_total 0\n"), "{metrics}");
}
