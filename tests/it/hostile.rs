//! Hostile clients get the right error, cost bounded memory, and disturb nobody.

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::support::{
    Client, TestServer,
    client::{End, frame},
    http::{dial, exchange},
};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_breaks_the_protocol_is_closed_with_the_code_for_it() {
    let server = TestServer::start().await;
    let giant = [&[0x82, 0xFF][..], &(1_u64 << 62).to_be_bytes(), &[0; 4]].concat();
    for (bytes, code) in [
        (vec![0x81, 0x01, b'x'], 1002),
        (frame(0xC1, b""), 1002),
        (frame(0x83, b""), 1002),
        (frame(0x80, b""), 1002),
        (frame(0x09, b""), 1002),
        (frame(0x81, b"\xff\xfe"), 1007),
        (frame(0x88, b"\x03"), 1002),
        (giant, 1009),
        (frame(0x81, &vec![b'x'; (1 << 20) + 1]), 1009),
        ([frame(0x01, &vec![b'x'; 1 << 19]), frame(0x80, &vec![b'x'; (1 << 19) + 1])].concat(), 1009),
    ] {
        let mut client = server.connect().await;
        client.send_raw(&bytes).await;
        assert_eq!(client.close_code().await, code, "{:?}", &bytes[..bytes.len().min(16)]);
    }
    server.until_number("open_connections", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_message_allowed_is_read_in_any_form() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let filler = "x".repeat((1 << 20) - 28);
    let text = format!(r#"{{"type":"status","filler":"{filler}"}}"#);
    assert!(text.len() > (1 << 20) && text.len() < (1 << 20) + 64);
    let text = &text.replace(&filler, &filler[..filler.len() - 64]);
    client.send_text(text).await;
    assert_eq!(client.next().await["open_connections"], json!(1));
    client.send_message(Message::Binary(Bytes::from(text.clone()))).await;
    assert_eq!(client.next().await["open_connections"], json!(1));
    let pieces: Vec<&[u8]> = text.as_bytes().chunks(1000).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let first = if at == 0 { 0x01 } else { 0x00 } | if at + 1 == pieces.len() { 0x80 } else { 0 };
        client.send_raw(&frame(first, piece)).await;
        if at == 10 {
            client.send_raw(&frame(0x89, b"between")).await;
        }
    }
    assert_eq!(client.next().await["open_connections"], json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_request_is_told_so_and_the_connection_stays() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let bombs = [
        "[".repeat(500_000),
        format!("{}{}", "[".repeat(400_000), "]".repeat(400_000)),
        format!(
            r#"{{"type":"subscribe","requestId":1,"room":{}1{}}}"#,
            r#"{"a":"#.repeat(100_000),
            "}".repeat(100_000)
        ),
        format!(r#"{{"type":"subscribe","requestId":1,"room":{{"a":{}}}}}"#, "9".repeat(500_000)),
        format!(r#"{{"type":"subscribe","requestId":{},"room":{{"target":"message"}}}}"#, "9".repeat(5000)),
        format!(r#"{{"type":"{}"}}"#, "\\u0000".repeat(100_000)),
        format!("{{{}}}", (0..50_000).map(|n| format!(r#""{n}":{n}"#)).collect::<Vec<_>>().join(",")),
    ];
    let expected = [
        "non-json-message",
        "message-type-not-allowed",
        "room-not-found",
        "room-not-found",
        "no-request-id",
        "message-type-not-allowed",
        "message-type-not-allowed",
    ];
    for (bomb, expected) in bombs.iter().zip(expected) {
        client.send_text(bomb).await;
        let answer = client.next().await;
        let told = if answer["code"] == "success" { &answer["code"] } else { &answer["message"] };
        assert_eq!(told, expected, "{bomb:.60}");
    }
    client.send_message(Message::Binary(Bytes::from_static(b"\xff\xfe"))).await;
    assert_eq!(client.next().await["message"], json!("non-json-message"));
    client.send_message(Message::Binary(Bytes::new())).await;
    assert_eq!(client.next().await["message"], json!("non-json-message"));
    client.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_types_in_every_field_are_answered_with_an_error() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let values = [
        json!(null),
        json!(true),
        json!(1.5),
        json!(""),
        json!("*"),
        json!([]),
        json!({}),
        json!([[]]),
        json!({"a": {}}),
    ];
    let good = json!({"type": "subscribe", "requestId": "1", "room": {"target": "message"}});
    for field in ["type", "requestId", "room"] {
        for value in &values {
            let mut message = good.clone();
            message[field] = value.clone();
            let answer = client.ask(message.clone()).await;
            let is_known = matches!(answer["code"].as_str(), Some("success" | "error"));
            assert!(is_known, "{message}: {answer}");
            if field != "requestId" {
                assert_eq!(answer["code"], json!("error"), "{message}: {answer}");
            }
        }
    }
    client.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_on_many_sockets_disturb_nobody() {
    let server = TestServer::start().await;
    let mut bystander = server.subscriber(&[("1", json!({"target": "message"}))]).await;
    let seed: u64 = rand::rng().random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..200_u32 {
        let mut client = server.connect().await;
        let bytes: Vec<u8> = (0..random.random_range(1..400)).map(|_| random.random()).collect();
        match round % 3 {
            0 => client.send_raw(&bytes).await,                                      // garbage
            1 => client.send_raw(&frame(0x81, &bytes)[..bytes.len().min(20)]).await, // half a frame, then gone
            _ => client.send_raw(&frame(0x82, &bytes)).await,                        // a whole frame of garbage
        }
        if round % 20 == 0 {
            server.trigger(json!({"rooms": [{"target": "message"}], "data": round})).await;
            assert_eq!(bystander.next().await["data"], json!(round));
        }
    }
    bystander.expect_silence().await;
    server.until_number("open_connections", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_http_is_answered_or_closed_and_disturbs_nobody() {
    let server = TestServer::start().await;
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET /ws/ HTTP/9.9\r\n\r\n",
        b"POST /trigger/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /trigger/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nZZ\r\n",
        b"POST /trigger/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n{",
    ] {
        for listener in [&server.public, &server.internal] {
            let _ = tokio::time::timeout(std::time::Duration::from_secs(15), exchange(listener, bytes)).await;
        }
    }
    let reply = server.post("/trigger/", &format!(r#"{{"rooms":[],"data":"{}"}}"#, "x".repeat(16 << 20))).await;
    assert_eq!((reply.status, reply.json()["message"].as_str()), (413, Some("too-large")));
    server.connect().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_sends_no_request_is_closed() {
    let server = TestServer::start().await;
    let mut stream = dial(&server.public).await;
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /ws/ HTTP/1.1\r\n").await.unwrap();
    let mut answer = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
    tokio::time::timeout(std::time::Duration::from_secs(15), reading).await.expect("closed in time").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_is_answered_with_the_same_code_and_reason() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.send_raw(&frame(0x88, b"\x0f\xa1bye")).await;
    assert_eq!(client.end().await, (Vec::<String>::new(), End::Closed(4001, "bye".to_owned())));
    let mut client = server.connect().await;
    client.send_raw(&frame(0x88, b"")).await;
    assert_eq!(client.end().await.1, End::ClosedWithoutCode);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_of_extensions_or_subprotocols_is_declined() {
    let server = TestServer::start().await;
    let headers = [("Sec-WebSocket-Extensions", "permessage-deflate"), ("Cookie", "a=1")];
    let (mut client, response) = Client::try_connect(&server.public, "/ws/", &headers).await.unwrap();
    assert!(response.headers().get("sec-websocket-extensions").is_none());
    assert_eq!(client.next().await["is_authorized"], Value::Bool(true));
    let offer = "GET /ws/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: unknown\r\n\r\n";
    let answer = exchange(&server.public, [offer.as_bytes(), &frame(0x88, b"")].concat().as_slice()).await;
    assert!(
        answer.status == 101 && !answer.head.to_ascii_lowercase().contains("sec-websocket-protocol"),
        "{}",
        answer.head
    );
}
