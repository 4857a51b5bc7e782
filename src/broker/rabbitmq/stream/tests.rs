//! What lapin's own parser makes of repaired frames.

use amq_protocol::{
    frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame},
    protocol::{
        AMQPClass,
        basic::{self, AMQPProperties},
        channel, connection,
    },
};
use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Repaired, connect,
    content::ContentHeader,
    repair::{Progress, Repair, TooLarge},
};

/// A byte sequence that is UTF-8 nowhere.
const INVALID: &[u8] = b"\x8f\xe9\x01\xff";
const CONTENT_HEADER: u8 = 2;
const BODY: u8 = 3;

/// `input` in one piece, repaired.
fn repaired(input: &[u8]) -> Vec<u8> {
    repaired_by(&mut Repair::default(), input).unwrap()
}

fn repaired_by(repair: &mut Repair, input: &[u8]) -> Result<Vec<u8>, TooLarge> {
    let mut output = vec![0; input.len()];
    let progress = repair.advance(input, &mut output)?;
    assert_eq!(progress.read, input.len());
    output.truncate(progress.written);
    Ok(output)
}

/// `input` in pieces, each read into a buffer of another size.
fn repaired_in_pieces(input: &[u8], input_bytes: &[usize], output_bytes: &[usize]) -> Vec<u8> {
    let (mut repair, mut input, mut output) = (Repair::default(), input, Vec::new());
    let (mut input_bytes, mut output_bytes) = (input_bytes.iter().cycle(), output_bytes.iter().cycle());
    while !input.is_empty() {
        let (mut piece, rest) = input.split_at((*input_bytes.next().unwrap()).min(input.len()));
        input = rest;
        loop {
            let mut buffer = vec![0; *output_bytes.next().unwrap()];
            let Progress { read, written } = repair.advance(piece, &mut buffer).unwrap();
            output.extend(&buffer[..written]);
            piece = &piece[read..];
            if written < buffer.len() {
                assert!(piece.is_empty(), "the input is used up unless the output is full");
                break;
            }
        }
    }
    output
}

/// All of `bytes` as lapin understands them.
fn parsed(mut bytes: &[u8]) -> Vec<AMQPFrame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (rest, frame) = parse_frame(bytes).unwrap();
        frames.push(frame);
        bytes = rest;
    }
    frames
}

fn encoded(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(WriteContext::from(Vec::new())).unwrap().into_inner().0
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 0, 1][..], &size, payload, &[0xCE]].concat()
}

fn method(class: u16, method: u16, arguments: &[&[u8]]) -> Vec<u8> {
    frame(1, &[&class.to_be_bytes(), &method.to_be_bytes(), &arguments.concat()[..]].concat())
}

fn content(flags: u16, properties: &[&[u8]]) -> Vec<u8> {
    let fixed = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
    frame(CONTENT_HEADER, &[&fixed, &flags.to_be_bytes()[..], &properties.concat()].concat())
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn entry(name: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
    [&short(name), &[kind][..], value].concat()
}

fn offset(offset: i64) -> Vec<u8> {
    entry(b"x-stream-offset", b'l', &offset.to_be_bytes())
}

/// The properties of the only frame, a content header of a body of 5 bytes.
fn properties(bytes: &[u8]) -> AMQPProperties {
    match &parsed(bytes)[..] {
        [AMQPFrame::Header(1, AMQPContentHeader { class_id: 60, body_size: 5, properties })] => properties.clone(),
        frames => panic!("{frames:?}"),
    }
}

fn with_headers(entries: &[(&str, AMQPValue)]) -> AMQPProperties {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    AMQPProperties::default().with_headers(table)
}

#[test]
fn each_property_that_is_not_utf_8_is_left_out() {
    let expected = with_headers(&[("x-stream-offset", AMQPValue::LongLongInt(7))]);
    let headers = counted(&offset(7));
    for bit in [15, 14, 10, 9, 8, 7, 5, 4, 3, 2] {
        let text = short(INVALID);
        let before = [text.as_slice(), &headers];
        let after = [headers.as_slice(), &text];
        let bytes = content(1 << bit | 1 << 13, if bit > 13 { &before } else { &after });
        assert!(parse_frame(&bytes[..]).is_err(), "lapin's parser has learned to read it");
        assert_eq!(properties(&repaired(&bytes)), expected, "bit {bit}");
    }
}

#[test]
fn what_is_read_of_a_content_header_is_kept() {
    let message_id = AMQPProperties::default().with_message_id("é".into());
    for (name, value) in [
        ("x-stream-offset", AMQPValue::LongLongInt(i64::MAX)),
        ("x-stream-offset", AMQPValue::LongUInt(3)),
        ("x-stream-offset", AMQPValue::ShortShortInt(-3)),
        ("x-high-templar-instance", AMQPValue::LongString("é".into())),
    ] {
        let kept = [(name, value.clone())];
        let others = [("a", AMQPValue::Double(1.0)), ("b", AMQPValue::LongString("".into())), ("z", AMQPValue::Void)];
        let all = [&others[..2], &kept, &others[2..]].concat();
        let header =
            |properties| encoded(&AMQPFrame::Header(1, AMQPContentHeader { class_id: 60, body_size: 5, properties }));
        let given = with_headers(&all).with_content_type("text/plain".into()).with_priority(3).with_timestamp(1);
        assert_eq!(properties(&repaired(&header(given.clone()))), with_headers(&kept));
        let given = given.with_message_id("é".into()).with_type("k".into());
        assert_eq!(properties(&repaired(&header(given))), with_headers(&kept).with_message_id("é".into()));
    }
    assert_eq!(properties(&repaired(&content(1 << 7, &[&short("é".as_bytes())]))), message_id);
    // Nothing at all, and bits that no property has.
    assert_eq!(properties(&repaired(&content(3, &[]))), AMQPProperties::default());
}

#[test]
fn headers_of_ours_that_are_not_what_they_should_be_are_left_out() {
    for entry in [
        entry(b"x-stream-offset", b'S', &counted(b"7")),
        entry(b"x-stream-offset", b'd', &[0; 8]),
        entry(b"x-high-templar-instance", b'l', &[0; 8]),
        entry(b"x-high-templar-instance", b'S', &counted(INVALID)),
        entry(b"x-high-templar-instance", b'S', &counted(&[b'a'; 1025])),
        entry(b"X-Stream-Offset", b'l', &[0; 8]),
    ] {
        let table = counted(&[entry.as_slice(), &offset(7)].concat());
        let expected = with_headers(&[("x-stream-offset", AMQPValue::LongLongInt(7))]);
        assert_eq!(properties(&repaired(&content(1 << 13, &[&table]))), expected, "{entry:?}");
    }
}

#[test]
fn a_publishers_header_does_not_take_the_place_of_rabbitmqs() {
    let table = counted(&[entry(b"a", b'V', b""), offset(7), offset(5), offset(6)].concat());
    let expected = with_headers(&[("x-stream-offset", AMQPValue::LongLongInt(7))]);
    assert_eq!(properties(&repaired(&content(1 << 13, &[&table]))), expected);
}

#[test]
fn what_cannot_be_read_costs_only_what_comes_after_it() {
    let known = with_headers(&[("x-stream-offset", AMQPValue::LongLongInt(7))]);
    let both = known.clone().with_message_id("id".into());
    let id = short(b"id");
    let garbage: [(&[u8], _); 6] = [
        (b"", &both),
        (b"\x01kZ", &both),
        (b"\x01kS\xff\xff\xff\xff", &both),
        (b"\xff", &both),
        (b"\x01k", &both),
        (b"\x00l1234567", &both),
    ];
    for (garbage, expected) in garbage {
        let table = counted(&[&offset(7), garbage].concat());
        assert_eq!(&properties(&repaired(&content(1 << 13 | 1 << 7, &[&table, &id]))), expected, "{garbage:?}");
    }
    // A table that says more than there is takes the rest.
    let mut table = counted(&offset(7));
    table[..4].copy_from_slice(&[0xff; 4]);
    assert_eq!(properties(&repaired(&content(1 << 13 | 1 << 7, &[&table, &id]))), known);
    // Cut anywhere, what is there is found.
    let whole = content(1 << 13 | 1 << 7, &[&counted(&offset(7)), &id]);
    let payload = &whole[7..whole.len() - 1];
    for length in 14..payload.len() {
        let expected = if length < 14 + 4 + 25 { AMQPProperties::default() } else { known.clone() };
        assert_eq!(properties(&repaired(&frame(CONTENT_HEADER, &payload[..length]))), expected, "{length}");
    }
}

#[test]
fn nested_arrays_are_not_entered() {
    let inner_bytes = (0..100_000_u32).rev().map(|depth| depth * 5);
    let nested: Vec<u8> = inner_bytes.flat_map(|length| [&[b'A'][..], &length.to_be_bytes()].concat()).collect();
    let table = counted(&[&entry(b"a", b'A', &nested[1..]), &offset(7)[..]].concat());
    let expected = with_headers(&[("x-stream-offset", AMQPValue::LongLongInt(7))]).with_message_id("id".into());
    assert_eq!(properties(&repaired(&content(1 << 13 | 1 << 7, &[&table, &short(b"id")]))), expected);
}

#[test]
fn a_header_of_any_size_is_read_in_little_memory() {
    let large = entry(b"a", b'S', &counted(&vec![b'x'; 20 << 20]));
    let small = entry(b"n", b'V', b"").repeat(100_000);
    let table = counted(&[large, small, offset(7)].concat());
    let bytes = content(1 << 13 | 1 << 7, &[&table, &short(b"id")]);
    let expected = with_headers(&[("x-stream-offset", AMQPValue::LongLongInt(7))]).with_message_id("id".into());
    assert_eq!(properties(&repaired(&bytes)), expected);
    let mut header = ContentHeader::default();
    for piece in bytes[7..bytes.len() - 1].chunks(1000) {
        header.read(piece);
        assert!(header.kept_bytes() < 4 << 10);
    }
}

#[test]
fn strings_of_methods_that_quote_a_publisher_become_utf_8_and_stay_as_long() {
    let bad = short(INVALID);
    let cut = short(&"é".as_bytes()[..1]);
    let bytes = [
        method(60, 60, &[&short(b"tag"), &[0, 0, 0, 0, 0, 0, 0, 9, 1], &bad, &short(b"caf\xe9 \xe2\x82")]),
        method(60, 50, &[&312_u16.to_be_bytes(), &short(b"NO_ROUTE"), &bad, &bad]),
        method(60, 71, &[&[0, 0, 0, 0, 0, 0, 0, 9, 1], &bad, &bad, &[0; 4]]),
        method(20, 40, &[&404_u16.to_be_bytes(), &cut, &[0; 4]]),
        method(10, 50, &[&541_u16.to_be_bytes(), &bad, &[0; 4]]),
        method(10, 60, &[&bad]),
    ]
    .concat();
    assert!(parse_frame(&bytes[..]).is_err(), "lapin's parser has learned to read it");
    let frames = parsed(&repaired(&bytes));
    let question: ShortString = "??\u{1}?".into();
    let delivery = AMQPClass::Basic(basic::AMQPMethod::Deliver(basic::Deliver {
        consumer_tag: "tag".into(),
        delivery_tag: 9,
        redelivered: true,
        exchange: question.clone(),
        routing_key: "caf? ??".into(),
    }));
    assert_eq!(frames[0], AMQPFrame::Method(1, delivery));
    match &frames[1..] {
        [
            AMQPFrame::Method(_, AMQPClass::Basic(basic::AMQPMethod::Return(returned))),
            AMQPFrame::Method(_, AMQPClass::Basic(basic::AMQPMethod::GetOk(got))),
            AMQPFrame::Method(_, AMQPClass::Channel(channel::AMQPMethod::Close(channel))),
            AMQPFrame::Method(_, AMQPClass::Connection(connection::AMQPMethod::Close(connection))),
            AMQPFrame::Method(_, AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked))),
        ] => {
            assert_eq!(
                (returned.reply_text.as_str(), &returned.exchange, &returned.routing_key),
                ("NO_ROUTE", &question, &question)
            );
            assert_eq!((&got.exchange, &got.routing_key), (&question, &question));
            assert_eq!((channel.reply_code, channel.reply_text.as_str()), (404, "?"));
            assert_eq!((connection.reply_code, &connection.reply_text), (541, &question));
            assert_eq!(blocked.reason, question);
        }
        frames => panic!("{frames:?}"),
    }
}

#[test]
fn everything_else_passes_as_it_is() {
    let start = [0; 200];
    for bytes in [
        frame(BODY, INVALID),
        frame(BODY, b""),
        vec![8, 0, 0, 0, 0, 0, 0, 0xCE],
        method(60, 21, &[&short(b"tag")]),
        method(50, 11, &[&short(INVALID), &[0; 8]]),
        // No methods of AMQP, too short or too long.
        method(60, 60, &[&[200], b"short"]),
        method(10, 50, &[]),
        method(60, 60, &[&[0; 5000]]),
        method(10, 10, &[&start]),
        method(10, 10, &[&[0; 70_000]]),
        frame(1, &[0, 10, 0]),
        frame(CONTENT_HEADER, &[0; 13]),
        // No AMQP 0-9-1.
        b"AMQP\x00\x01\x00\x00".to_vec(),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![4, 0, 1, 0xff, 0xff, 0xff, 0xff],
    ] {
        assert_eq!(repaired(&bytes), bytes);
    }
}

#[test]
fn what_is_no_amqp_is_not_waited_for() {
    assert_eq!(repaired(b"H"), b"H");
}

#[test]
fn frames_beyond_what_the_broker_allows_are_an_error() {
    let tune = |frame_max: u32| method(10, 30, &[&[0, 1], &frame_max.to_be_bytes(), &[0, 9]]);
    let mut repair = Repair::default();
    assert!(repaired_by(&mut repair, &frame(BODY, &vec![0; (1 << 20) + 1])).is_err());
    let mut repair = Repair::default();
    repaired_by(&mut repair, &[tune(4096), frame(BODY, &[0; 4096])].concat()).unwrap();
    let error = repair.advance(&frame(BODY, &[0; 4097])[..7], &mut [0; 9]).unwrap_err();
    assert_eq!(error.to_string(), "the broker sent a frame of 4097 bytes, more than its own limit of 4096");
    // The connection stays broken.
    assert!(repair.advance(&[0xCE], &mut [0; 9]).is_err());
    // RabbitMQ neither splits a content header nor counts what it adds.
    let mut repair = Repair::default();
    let large = content(1 << 13, &[&counted(&entry(b"a", b'S', &counted(&[0; 5000])))]);
    assert_eq!(properties(&repaired_by(&mut repair, &[tune(4096), large].concat()).unwrap()[20..]), Default::default());
    let mut repair = Repair::default();
    repaired_by(&mut repair, &[tune(0), vec![BODY, 0, 1, 0xff, 0xff, 0xff, 0xff]].concat()).unwrap();
}

#[tokio::test]
async fn the_stream_ends_only_where_the_brokers_does() {
    let bytes = [content(1 << 10, &[&short(INVALID)]).repeat(3), frame(BODY, b"five.")].concat();
    let mut read = Vec::new();
    // A byte at a time, so that most reads give nothing.
    let broker = futures::io::AllowStdIo::new(OneByOne(&bytes));
    let mut stream = Repaired::new(broker, CancellationToken::new());
    stream.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, repaired(&bytes));
    assert_eq!(parsed(&read).len(), 4);
    // What is written is not looked at.
    let mut stream = Repaired::new(futures::io::Cursor::new(Vec::new()), CancellationToken::new());
    stream.write_all(&bytes).await.unwrap();
    assert_eq!(stream.stream.into_inner(), bytes);
}

struct OneByOne<'a>(&'a [u8]);

impl std::io::Read for OneByOne<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let end = buffer.len().min(1);
        std::io::Read::read(&mut self.0, &mut buffer[..end])
    }
}

#[tokio::test]
async fn a_handshake_that_nobody_waits_for_any_more_ends_its_connection() {
    let start = method(10, 10, &[&[0, 9], &counted(b""), &counted(b"PLAIN"), &counted(b"en_US")]);
    for (scheme, words) in [("amqp", &start[..]), ("amqp", b""), ("amqps", b"")] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: lapin::uri::AMQPUri = format!("{scheme}://{}", listener.local_addr().unwrap()).parse().unwrap();
        let broker = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.write_all(words).await.unwrap();
            let mut heard = Vec::new();
            let _ = socket.read_to_end(&mut heard).await; // until it is closed
        };
        let giving_up = timeout(Duration::from_millis(300), connect(uri, Default::default()));
        let both = async { tokio::join!(giving_up, broker) };
        let (connected, ()) = timeout(Duration::from_secs(10), both).await.expect("the connection is closed");
        assert!(!matches!(connected, Ok(Ok(_))), "{scheme} {words:?}");
    }
}

mod properties;
