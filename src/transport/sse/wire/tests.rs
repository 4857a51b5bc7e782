use std::sync::Arc;

use serde_json::value::to_raw_value;
use tokio::net::UnixStream;
use uuid::Uuid;

use super::*;
use crate::{
    hub::{Frame, Outbox, Pace, Sealed},
    protocol::Position,
    transport::sse::Since,
};

/// An outbox, and the client's end of its stream.
struct World {
    stream: Arc<Outbox<EventStream>>,
    outbox: Arc<Outbox>,
    client: UnixStream,
}

/// A stream of subscriptions since these positions.
fn world(since: &[&str], is_chunked: bool) -> World {
    let marks = Marks::new(since.iter().map(|since| Since::read(since)));
    let stream = Arc::new(Outbox::new(Uuid::nil(), EventStream::new(marks, is_chunked), 1 << 20, Arc::default()));
    let (socket, client) = UnixStream::pair().unwrap();
    stream.wire().connect(Socket::Unix(socket));
    World { outbox: stream.clone(), stream, client }
}

impl World {
    /// What the client has received.
    async fn received(&self) -> String {
        self.outbox.flush();
        self.client.readable().await.unwrap();
        let mut bytes = vec![0; 1 << 20];
        let count = self.client.try_read(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }
}

fn id(number: usize) -> RequestId {
    RequestId::new(&to_raw_value(&number.to_string()).unwrap()).unwrap()
}

fn at(offset: u64) -> Position {
    format!("00000000000e:{offset}").parse().unwrap()
}

fn publication(data: &'static str, offset: Option<u64>) -> Arc<Publication> {
    Arc::new(Publication::new(Vec::new(), data.into(), Vec::new()).at(offset.map(at)))
}

#[tokio::test]
async fn an_event_of_a_single_room_carries_its_own_position() {
    let world = world(&["00000000000e:1"], false);
    let frames = [
        Frame::Fixed(r#"{"type":"welcome"}"#),
        Frame::marked(r#"{"type":"reply"}"#, Mark::At(id(0), at(1))),
        Frame::Ping,
        Frame::Publication(publication("[1]", Some(2)), id(0)),
        Frame::Publication(publication("[1,\r\n2]", Some(3)), id(0)),
        Frame::Publication(publication("3", None), id(0)),
        Frame::marked(r#"{"type":"resync"}"#, Mark::All(Some(at(9)))),
        Frame::marked(r#"{"type":"unsubscribed"}"#, Mark::Ended(id(0))),
    ];
    frames.into_iter().for_each(|frame| world.outbox.push(frame).unwrap());
    assert_eq!(
        world.received().await,
        "data: {\"type\":\"welcome\"}\n\n\
         id: 00000000000e:1\ndata: {\"type\":\"reply\"}\n\n\
         : ping\n\n\
         id: 00000000000e:2\n\
         data: {\"type\":\"publish\",\"requestId\":\"0\",\"data\":[1],\"position\":\"00000000000e:2\"}\n\n\
         id: 00000000000e:3\n\
         data: {\"type\":\"publish\",\"requestId\":\"0\",\"data\":[1,\ndata: \n\
         data: 2],\"position\":\"00000000000e:3\"}\n\n\
         data: {\"type\":\"publish\",\"requestId\":\"0\",\"data\":3}\n\n\
         id: 00000000000e:9\ndata: {\"type\":\"resync\"}\n\n\
         data: {\"type\":\"unsubscribed\"}\n\n"
    );
}

#[tokio::test]
async fn an_event_of_several_rooms_says_how_far_each_has_come() {
    let world = world(&["00000000000a:1", "00000000000e:4"], false);
    let publish = |offset, number| {
        let publication = publication("1", Some(offset));
        world.outbox.publish(&publication, &id(number), Pace::AtOnce).unwrap();
    };
    world.outbox.push(Frame::marked("0", Mark::At(id(0), at(5)))).unwrap();
    publish(6, 1);
    world.stream.wire().level();
    publish(9, 1);
    publish(9, 0);
    world.outbox.push(Frame::marked("1", Mark::Ended(id(1)))).unwrap();
    let received = world.received().await;
    let ids: Vec<_> = received.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(
        ids,
        [
            "00000000000e:4;0=00000000000e:5",
            "00000000000e:5;1=00000000000e:6",
            "00000000000e:8;1=00000000000e:9",
            "00000000000e:9",
            "00000000000e:9",
        ]
    );
}

#[tokio::test]
async fn every_event_is_a_chunk_of_the_length_that_was_announced() {
    for rooms in [&[""][..], &["", ""]] {
        let world = world(rooms, true);
        let long = "x".repeat(4090);
        let mut frames = vec![Frame::Ping, Frame::Text(long.clone().into())];
        // Around the lengths at which the head of a chunk gets another digit.
        for length in (0..40).chain(180..220).chain(3990..4090) {
            let publication = Publication::new(Vec::new(), long[..length].to_owned().into(), Vec::new());
            frames.push(Frame::Publication(Arc::new(publication.at(Some(at(length as u64)))), id(0)));
        }
        for frame in frames {
            let announced = world.stream.wire().encoded_len(frame.content());
            let is_sealed = world.stream.wire().seal(frame.content()) != Sealed::AsIs;
            world.outbox.push(frame).unwrap();
            let received = world.received().await;
            assert!(is_sealed || received.len() == announced, "{received}");
            let (head, rest) = received.split_once("\r\n").unwrap();
            let length = usize::from_str_radix(head, 16).unwrap();
            assert_eq!(rest.len(), length + 2);
            assert!(rest.ends_with("\n\n\r\n"), "{rest}");
        }
    }
    assert_eq!(String::from_utf8(opening(true)).unwrap(), "d\r\nretry: 3000\n\n\r\n");
    assert_eq!(opening(false), b"retry: 3000\n\n");
}

#[tokio::test]
async fn a_stream_that_is_to_be_continued_ends_without_the_last_chunk() {
    for (code, is_complete) in [
        (CloseCode::Disconnected, true),
        (CloseCode::NotAuthorized, true),
        (CloseCode::GoingAway, false),
        (CloseCode::TryLater, false),
        (CloseCode::TooSlow, false),
        (CloseCode::PermissionsChanged, false),
    ] {
        let world = world(&[""], true);
        world.outbox.close(code, "retry_after=1.0");
        let received = world.received().await;
        assert_eq!(received.ends_with("0\r\n\r\n"), is_complete, "{received}");
        let data =
            format!("data: {{\"code\":{},\"reason\":\"retry_after=1.0\",\"type\":\"close\"}}\n\n", code.number());
        assert!(received.contains("\r\nevent: close\n") && received.contains(&data), "{received}");
        assert!(world.outbox.push(Frame::Fixed("{}")).is_err());
    }
}

#[test]
fn browsers_reconnect_when_the_server_asks_for_it_and_never_at_once() {
    let asked = |code, reason| retry(code, reason).map(|wait| wait.as_secs_f64());
    for _ in 0..100 {
        assert!(asked(CloseCode::GoingAway, "retry_after=8.0").is_some_and(|wait| (2.0..=10.0).contains(&wait)));
        assert!(asked(CloseCode::GoingAway, "retry_after=0.0").is_some_and(|wait| wait >= 2.0));
        assert!(asked(CloseCode::TryLater, "retry_after=8.0").is_some_and(|wait| (8.0..=9.0).contains(&wait)));
        assert!(asked(CloseCode::TryLater, "retry_after=0.1").is_some_and(|wait| wait >= 2.0));
    }
    assert_eq!((asked(CloseCode::Disconnected, ""), asked(CloseCode::TryLater, "retry_after=NaN")), (None, None));
}

#[test]
fn a_stream_of_several_rooms_keeps_no_copy_of_what_waits_for_it() {
    let marks = Marks::new([None, None].into_iter());
    let outbox: Arc<Outbox> =
        Arc::new(Outbox::new(Uuid::nil(), EventStream::new(marks, true), 1 << 30, Arc::default()));
    let publication = Arc::new(Publication::new(Vec::new(), "[\n1]".into(), Vec::new()).at(Some(at(1))));
    for number in [0, 1] {
        let before = Arc::strong_count(&publication);
        outbox.publish(&publication, &id(number), Pace::AtOnce).unwrap();
        assert_eq!(Arc::strong_count(&publication), before + 1);
    }
    let [.., data, _] = publication.event_data(&id(0)).map(<[u8]>::as_ptr);
    let [.., again, _] = publication.event_data(&id(1)).map(<[u8]>::as_ptr);
    assert_eq!(data, again, "one copy in lines for all streams");
}

#[test]
fn what_comes_before_the_head_of_the_response_waits() {
    let stream =
        Outbox::new(Uuid::nil(), EventStream::new(Marks::new([None].into_iter()), true), 1 << 20, Arc::default());
    let outbox: Arc<Outbox> = Arc::new(stream);
    outbox.push(Frame::Fixed("{}")).unwrap();
    outbox.flush();
    assert!(outbox.blocked_for().is_some() && !outbox.is_empty());
}
