//! The hub against a naive oracle, and the outbox's limits.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json, value::to_raw_value};
use uuid::Uuid;

use super::{Step as Progress, *};
use crate::{
    config,
    metrics::Metrics,
    protocol::{CloseCode, Position, RequestId, Version},
    room::RoomKey,
};

/// Writes down the payloads, as long as it is open.
#[derive(Clone, Default)]
struct Recorder {
    frames: Arc<Mutex<Vec<String>>>,
    is_blocked: Arc<Mutex<bool>>,
}

impl Wire for Recorder {
    fn transport(&self) -> &'static str {
        "none"
    }

    fn encoded_len(&self, content: Content<'_>) -> usize {
        content.payload_len(Version::V3) + 1
    }

    fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>) {
        content.put_payload(Version::V3, out);
        out.put(b"\n");
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if *self.is_blocked.lock() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        self.frames.lock().extend(lines.map(|line| String::from_utf8_lossy(line).into_owned()));
        Ok(bytes.len())
    }
}

fn outbox(limit_bytes: usize) -> (Recorder, Arc<Outbox>, Arc<Metrics>) {
    let (recorder, metrics) = (Recorder::default(), Arc::new(Metrics::default()));
    let outbox = Outbox::new(Uuid::new_v4(), recorder.clone(), limit_bytes, metrics.clone());
    (recorder, Arc::new(outbox), metrics)
}

fn id(text: &str) -> RequestId {
    RequestId::new(&to_raw_value(text).unwrap()).unwrap()
}

fn publication(text: &str) -> Arc<Publication> {
    Arc::new(Publication::new(Vec::new(), text.to_owned().into(), Vec::new()))
}

/// The text of that publication for the subscription `name`.
fn frame(text: &str, name: &str) -> String {
    format!(r#"{{"type":"publish","data":{text},"requestId":"{name}"}}"#)
}

fn publish(hub: &Hub, rooms: &[Value], text: &str, pace: Pace) -> u64 {
    let keys: Vec<_> = rooms.iter().map(|room| key(hub, room)).collect();
    let mut tally = Tally::default();
    let mut search = hub.search(&keys);
    while search.step(1) {}
    search.finish().publish(&publication(text), pace, &mut tally);
    let reached = tally.written + tally.queued;
    Outbox::flush_all(tally.settle(&Metrics::default()).iter().map(Arc::as_ref));
    reached
}

fn key(hub: &Hub, room: &Value) -> RoomKey {
    RoomKey::new(&to_raw_value(room).unwrap(), hub.dispatch().numbers()).unwrap()
}

fn matches(dispatch: WildcardDispatch, subscribed: &Value, triggered: &Value) -> bool {
    let (subscribed, triggered) = (subscribed.as_object().unwrap(), triggered.as_object().unwrap());
    let is_match = |mine: &Value, theirs: &Value| match dispatch {
        WildcardDispatch::Both => mine == "*" || theirs == "*" || mine == theirs,
        WildcardDispatch::Subscriptions => mine == "*" || mine == theirs,
        WildcardDispatch::Exact => mine == theirs,
    };
    subscribed.len() == triggered.len()
        && subscribed.iter().all(|(key, mine)| triggered.get(key).is_some_and(|theirs| is_match(mine, theirs)))
}

#[derive(Debug, Clone)]
enum Step {
    Join(Value),
    /// The subscription of that number, counted around.
    Leave(usize),
    Publish(Vec<Value>, Pace),
}

fn room() -> impl Strategy<Value = Value> {
    let value = prop_oneof![2 => Just(json!("*")), 2 => (0..2).prop_map(Value::from), 1 => Just(json!("x"))];
    prop::collection::btree_map("[abc]", value, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn pace() -> impl Strategy<Value = Pace> {
    prop_oneof![Just(Pace::AtOnce), Just(Pace::Later)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => room().prop_map(Step::Join),
        1 => any::<usize>().prop_map(Step::Leave),
        3 => (prop::collection::vec(room(), 0..4), pace()).prop_map(|(rooms, pace)| Step::Publish(rooms, pace)),
    ]
}

proptest! {
    #[test]
    fn whoever_matches_gets_it_and_nobody_else(
        steps in prop::collection::vec(step(), 1..40),
        dispatch in prop_oneof![
            Just(WildcardDispatch::Both), Just(WildcardDispatch::Subscriptions), Just(WildcardDispatch::Exact)
        ],
    ) {
        let metrics = Arc::new(Metrics::default());
        let hub = Hub::new(dispatch, config::History::default(), metrics.clone());
        let mut joined: Vec<(Value, String, Seat)> = Vec::new();
        let (recorder, outbox, _) = outbox(1 << 20);
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Join(room) => {
                    let name = format!("s{number}");
                    let seat = hub.join(&key(&hub, &room), &outbox, &id(&name), || {});
                    joined.push((room, name, seat));
                }
                Step::Leave(_) if joined.is_empty() => {}
                Step::Leave(which) => {
                    let (_, _, seat) = joined.swap_remove(which % joined.len());
                    hub.leave(vec![seat], || {});
                }
                Step::Publish(rooms, pace) => {
                    let times = |subscribed: &Value| {
                        let matching = rooms.iter().filter(|room| matches(dispatch, subscribed, room)).count();
                        if dispatch == WildcardDispatch::Exact { matching } else { matching.min(1) }
                    };
                    let mut expected: Vec<String> = joined
                        .iter()
                        .flat_map(|(room, name, _)| vec![frame(&format!("p{number}:"), name); times(room)])
                        .collect();
                    let reached = publish(&hub, &rooms, &format!("p{number}:"), pace);
                    let mut got = std::mem::take(&mut *recorder.frames.lock());
                    expected.sort();
                    got.sort();
                    prop_assert_eq!(reached, expected.len() as u64);
                    prop_assert_eq!(got, expected);
                }
            }
            let mut rooms: Vec<_> = joined.iter().map(|(room, ..)| room.to_string()).collect();
            rooms.sort();
            rooms.dedup();
            prop_assert_eq!(hub.rooms(), rooms.len());
            prop_assert_eq!(metrics.rooms.get(), i64::try_from(rooms.len()).unwrap());
        }
        hub.leave(joined.into_iter().map(|(.., seat)| seat), || {});
        prop_assert!(hub.is_blank(), "something is kept of rooms that are gone");
    }

    #[test]
    fn an_outbox_holds_no_more_than_its_limit_and_keeps_the_order(
        sizes in prop::collection::vec(1..60_usize, 1..60), unblock in any::<bool>()
    ) {
        const LIMIT: usize = 500;
        let (recorder, outbox, metrics) = outbox(LIMIT);
        *recorder.is_blocked.lock() = true;
        let mut waiting = 0;
        let mut accepted = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            let text = format!("{number}-{}", "x".repeat(*size));
            let weight = text.len() + 1;
            let outcome = outbox.push(Frame::Text(text.clone().into()));
            outbox.flush();
            let first = accepted.first().map_or(weight, |first: &String| first.len() + 1);
            if waiting + weight - first > LIMIT {
                prop_assert_eq!(outcome, Err(Full));
                prop_assert_eq!(outbox.close_code(), Some(CloseCode::TooSlow));
                accepted.clear(); // dropped, and told by the close frame
                break;
            }
            prop_assert_eq!(outcome, Ok(()));
            waiting += weight;
            accepted.push(text);
        }
        if unblock {
            *recorder.is_blocked.lock() = false;
            outbox.resume();
            let frames = recorder.frames.lock().clone();
            prop_assert!(outbox.is_empty());
            match outbox.close_code() {
                None => prop_assert_eq!(frames, accepted),
                Some(_) => prop_assert_eq!(frames.len(), 1),
            }
        }
        prop_assert_eq!(metrics.publications_failed.get(), 0);
    }
}

#[test]
fn a_room_with_many_members_reaches_them_all_and_lets_them_go() {
    let metrics = Arc::new(Metrics::default());
    let hub = Hub::new(WildcardDispatch::Both, config::History::default(), metrics);
    let (recorder, outbox, _) = outbox(1 << 20);
    let mut seats: Vec<Seat> =
        (0..3000).map(|n| hub.join(&key(&hub, &json!({"a": 1})), &outbox, &id(&n.to_string()), || {})).collect();
    assert_eq!(publish(&hub, &[json!({"a": 1})], "all:", Pace::AtOnce), 3000);
    recorder.frames.lock().clear();
    let staying = seats.split_off(2990);
    hub.leave(seats, || {});
    assert_eq!(publish(&hub, &[json!({"a": "*"})], "some:", Pace::Later), 10);
    let more: Vec<Seat> =
        (0..2000).map(|n| hub.join(&key(&hub, &json!({"a": 1})), &outbox, &id(&n.to_string()), || {})).collect();
    assert_eq!(publish(&hub, &[json!({"a": 1})], "again:", Pace::AtOnce), 2010);
    hub.leave(staying, || {});
    hub.leave(more, || {});
    assert!(hub.is_blank());
}

#[test]
fn a_reply_stands_between_what_came_before_and_what_comes_after() {
    let hub = Arc::new(Hub::new(WildcardDispatch::Both, config::History::default(), Arc::new(Metrics::default())));
    let (recorder, outbox, _) = outbox(64 << 20);
    let room = json!({"a": 1});
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for n in 0..20_000 {
                let pace = if n % 3 == 0 { Pace::Later } else { Pace::AtOnce };
                publish(&hub, std::slice::from_ref(&room), &format!("{n}:"), pace);
            }
        });
        while !publisher.is_finished() {
            let reply = |text| outbox.push(Frame::Fixed(text)).unwrap();
            let seat = hub.join(&key(&hub, &room), &outbox, &id("1"), || reply("joined"));
            hub.leave(vec![seat], || reply("left"));
            outbox.flush();
        }
    });
    let mut is_member = false;
    for frame in recorder.frames.lock().iter() {
        match frame.as_str() {
            "joined" => is_member = true,
            "left" => is_member = false,
            publication => assert!(is_member, "{publication} outside of the subscription"),
        }
    }
}

#[test]
fn the_first_reason_to_close_stands_and_nothing_follows_it() {
    let (recorder, outbox, _) = outbox(1000);
    outbox.push(Frame::Fixed("before")).unwrap();
    outbox.close(CloseCode::Normal, "");
    outbox.close(CloseCode::GoingAway, "");
    assert_eq!(outbox.push(Frame::Fixed("after")), Err(Full));
    assert_eq!(outbox.close_code(), Some(CloseCode::Normal));
    assert_eq!(recorder.frames.lock().len(), 2);
}

/// A hub that follows a log, and the position before its first publication.
fn logged(dispatch: WildcardDispatch, limit_bytes: usize) -> (Hub, Position) {
    let history = config::History { limit_bytes, ..config::History::default() };
    let hub = Hub::new(dispatch, history, Arc::new(Metrics::default()));
    let start: Position = "00000000000e:0".parse().unwrap();
    hub.begin_epoch(start.epoch, start.offset);
    (hub, start)
}

fn record(hub: &Hub, rooms: &[Value], text: &str, offset: u64) -> Arc<Publication> {
    let keys = rooms.iter().map(|room| key(hub, room)).collect();
    hub.record(Publication::new(keys, text.to_owned().into(), Vec::new()), Some(offset))
}

fn recovery(hub: &Hub, room: &Value, since: Position) -> Recovery {
    match hub.resume(&Arc::new(key(hub, room)), &id("1"), since) {
        Resumption::Possible(recovery) => recovery,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_missed_comes_as_often_as_live_in_however_small_steps() {
    for (dispatch, room, times) in [
        (WildcardDispatch::Both, json!({"a": "*"}), 1),
        (WildcardDispatch::Subscriptions, json!({"a": "*"}), 1),
        (WildcardDispatch::Exact, json!({"a": 1}), 2),
    ] {
        let (hub, start) = logged(dispatch, 64 << 20);
        let (recorder, outbox, _) = outbox(1 << 20);
        let mut expected = Vec::new();
        for offset in 1..=700 {
            let (rooms, wanted) = match offset % 3 {
                0 => (vec![json!({"a": 1}), json!({"b": 1}), json!({"a": 1})], times),
                _ => (vec![json!({"b": offset})], 0),
            };
            record(&hub, &rooms, &format!("{offset}:"), offset);
            expected.extend(vec![frame(&format!("{offset}:"), "1"); wanted]);
        }
        let mut recovery = recovery(&hub, &room, start);
        let seat = loop {
            // No room for a second frame, and one step at a time: each goes on where the last one ended.
            match hub.recover(&mut recovery, &outbox, 1, &mut Budget::new(1)).unwrap() {
                Progress::Joined(seat) => break seat,
                Progress::Lost(_) => panic!("nothing is dropped"),
                Progress::More | Progress::Full => outbox.flush(),
            }
        };
        outbox.flush();
        assert!(*recorder.frames.lock() == expected, "{dispatch:?}: {:?}", recorder.frames.lock().first());
        hub.leave([seat], || {});
    }
}

#[test]
fn a_client_that_takes_its_time_keeps_nothing_alive_and_is_told() {
    let (hub, start) = logged(WildcardDispatch::Both, 64 << 10);
    let (recorder, outbox, _) = outbox(1 << 20);
    *recorder.is_blocked.lock() = true;
    let room = json!({"a": 1});
    let first: Vec<_> =
        (1..=40).map(|offset| Arc::downgrade(&record(&hub, std::slice::from_ref(&room), "x", offset))).collect();
    let mut recovery = recovery(&hub, &room, start);
    assert!(matches!(hub.recover(&mut recovery, &outbox, 1, &mut Budget::new(1000)), Ok(Progress::Full)));
    for offset in 41..2000 {
        record(&hub, &[json!({"b": offset})], "y", offset);
    }
    // One waits in the outbox; nothing else is kept.
    assert_eq!(first.iter().filter(|publication| publication.upgrade().is_some()).count(), 1);
    let step = hub.recover(&mut recovery, &outbox, 1, &mut Budget::new(1000)).unwrap();
    let Progress::Lost(seat) = step else { panic!("{step:?}") };
    hub.leave([seat], || {});
}

#[test]
fn what_is_on_hold_is_released_in_its_order_withheld_by_subscription_and_counted() {
    let hub = Hub::new(WildcardDispatch::Both, config::History::default(), Arc::new(Metrics::default()));
    let (recorder, outbox, metrics) = outbox(1 << 20);
    let _seats: Vec<Seat> = [("kept", json!({"a": 1})), ("lost", json!({"a": "*"}))]
        .iter()
        .map(|(name, room)| hub.join(&key(&hub, room), &outbox, &id(name), || {}))
        .collect();
    let publish = |number: u64| {
        let mut tally = Tally::default();
        let pace = if number.is_multiple_of(2) { Pace::AtOnce } else { Pace::Later };
        hub.audience(&[key(&hub, &json!({"a": 1}))]).publish(&publication(&number.to_string()), pace, &mut tally);
        Outbox::flush_all(tally.settle(&metrics).iter().map(Arc::as_ref));
    };
    publish(0);
    recorder.frames.lock().clear();
    outbox.hold();
    (1..4).for_each(publish);
    outbox.push(Frame::Fixed("reply")).unwrap();
    outbox.push_in_order(Frame::Fixed("resync")).unwrap();
    publish(4);
    outbox.flush();
    assert_eq!(*recorder.frames.lock(), ["reply"]);
    assert_eq!((outbox.waiting_bytes(), metrics.connections_on_hold.get()), (0, 1));
    outbox.withhold(&id("lost"));
    outbox.release();
    outbox.flush();
    let expected = [frame("1", "kept"), frame("2", "kept"), frame("3", "kept"), "resync".into(), frame("4", "kept")];
    assert_eq!(recorder.frames.lock()[1..], expected);
    publish(5);
    assert_eq!(recorder.frames.lock().len(), 8);
    let Metrics { publications_held, publications_withheld, connections_on_hold, .. } = &*metrics;
    assert_eq!((publications_held.get(), publications_withheld.get(), connections_on_hold.get()), (8, 4, 0));
    assert_eq!(metrics.publications_waiting(), 0);
    // What waits when the connection ends is dropped.
    outbox.hold();
    publish(6);
    assert_eq!(metrics.publications_waiting(), 2);
    outbox.close(CloseCode::Normal, "");
    assert_eq!((metrics.publications_waiting(), metrics.connections_on_hold.get()), (0, 0));
    assert_eq!(recorder.frames.lock().len(), 9);
}

#[test]
fn a_hold_takes_no_more_than_the_outbox_may_keep() {
    let hub = Hub::new(WildcardDispatch::Both, config::History::default(), Arc::new(Metrics::default()));
    let (recorder, outbox, metrics) = outbox(1000);
    let _seat = hub.join(&key(&hub, &json!({"a": 1})), &outbox, &id("1"), || {});
    outbox.hold();
    for number in 0..100 {
        publish(&hub, &[json!({"a": 1})], &format!("{number:0100}"), Pace::AtOnce);
        assert!(outbox.bytes_on_hold() <= 1000);
    }
    assert_eq!(outbox.close_code(), Some(CloseCode::TooSlow));
    outbox.resume();
    assert_eq!(recorder.frames.lock().len(), 1, "nothing but the end");
    assert_eq!((metrics.connections_on_hold.get(), metrics.publications_held.get()), (0, 6));
}
