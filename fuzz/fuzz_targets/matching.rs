//! Which rooms a client may join, and who gets a trigger: both against an oracle that compares every room with every
//! other, while clients join and leave.

#![no_main]

use std::{
    io::{self, IoSlice},
    rc::Rc,
    sync::{Arc, LazyLock},
};

use arbitrary::Arbitrary;
use high_templar::{
    config::History,
    hub::{Content, Encoder, Frame, Hub, Outbox, Pace, Publication, Seat, Tally, WildcardDispatch, Wire},
    metrics::Metrics,
    protocol::{RequestId, Version},
    room::{Allowed, Numbers, RoomKey},
};
use libfuzzer_sys::fuzz_target;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use uuid::Uuid;

/// Sets of keys. Five keys have more combinations of wildcards than the hub keeps ready.
const KEYS: [&[&str]; 5] = [&[], &["a"], &["b"], &["a", "b"], &["a", "b", "c", "*", "\\\""]];

/// Values as spelled, with a number for what they mean, and another one where the type of a number counts.
const VALUES: [(&str, u8, u8); 24] = [
    (r#""*""#, 0, 0),
    (r#""\u002a""#, 0, 0),
    ("1", 1, 1),
    ("1.0", 1, 2),
    ("10e-1", 1, 2),
    ("1E0", 1, 2),
    ("0", 3, 3),
    ("-0", 3, 3),
    ("-0.0", 3, 4),
    ("0e5", 3, 4),
    ("9007199254740992", 5, 5),
    ("9007199254740993", 6, 6),
    ("9007199254740993.0", 6, 7),
    ("1e60", 8, 8),
    ("1000000000000000000000000000000000000000000000000000000000000", 8, 9),
    ("true", 10, 10),
    ("null", 11, 11),
    (r#""""#, 12, 12),
    (r#""1""#, 13, 13),
    (r#""\u0031""#, 13, 13),
    (r#"["*"]"#, 14, 14),
    (r#"{"y":2,"x":[1,"*"]}"#, 15, 15),
    (r#"{ "x" : [1.0, "\u002A"], "y":0, "y":2 }"#, 15, 16),
    ("{}", 17, 17),
];

const WILDCARD: u8 = 0;

static IDS: LazyLock<[(&str, RequestId); 3]> = LazyLock::new(|| ["1", "\"b\"", "null"].map(|id| (id, request_id(id))));
static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(Arc::default); // dear to make

/// Clients who are there from the beginning.
const CLIENTS: usize = 4;
/// Clients who come at once: more than the hub keeps under one lock, and more than are written to on the spot.
const CROWD: usize = 2100;
const RIGHT_FOR_A_CROWD: u8 = 0xC0;

#[derive(Debug, Arbitrary)]
struct Input {
    allowed: Vec<Room>,
    wanted: Vec<Room>,
    dispatch: Dispatch,
    /// Bytes that the wires take at once, to begin with.
    step: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Dispatch {
    Both,
    Subscriptions,
    Exact,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Join {
        client: u8,
        id: u8,
        room: Room,
    },
    /// Many new clients join one room, if the number is right: that takes its time.
    Crowd(u8, Room),
    /// The subscription at this place of all leaves.
    Leave(u16),
    /// All subscriptions of a client leave at once.
    LeaveAll(u8),
    Publish(Vec<Room>),
    /// As `Publish`, with a payload too large to be copied.
    PublishMuch(Vec<Room>),
    /// What is published next is written at once, or (`false`) later.
    Pace(bool),
    /// The batch ends.
    Flush,
}

/// A room's keys and values, by their places in the tables.
#[derive(Debug, Clone, Arbitrary)]
struct Room {
    keys: u8,
    values: [u8; 5],
    is_reversed: bool,
}

fuzz_target!(|input: Input| {
    check_allowed(&input.allowed, &input.wanted);
    let dispatch = match input.dispatch {
        Dispatch::Both => WildcardDispatch::Both,
        Dispatch::Subscriptions => WildcardDispatch::Subscriptions,
        Dispatch::Exact => WildcardDispatch::Exact,
    };
    let mut world = World::new(dispatch, usize::from(input.step) + 16);
    input.steps.iter().for_each(|step| world.take(step));
    world.end();
});

fn check_allowed(allowed: &[Room], wanted: &[Room]) {
    let keys: Vec<RoomKey> = allowed.iter().map(|room| room.key(Numbers::ByValue)).collect();
    let set: Allowed = keys.iter().collect();
    for wanted in wanted {
        let oracle = allowed.iter().any(|room| {
            let mut pairs = room.meaning(Numbers::ByValue).zip(wanted.meaning(Numbers::ByValue));
            room.shape() == wanted.shape() && pairs.all(|(allowed, wanted)| allowed == WILDCARD || allowed == wanted)
        });
        let key = wanted.key(Numbers::ByValue);
        assert_eq!(set.covers(&key), oracle, "{key:?} among {keys:?}");
    }
}

impl Room {
    /// Which set of keys.
    fn shape(&self) -> usize {
        usize::from(self.keys) % KEYS.len()
    }

    fn names(&self) -> &'static [&'static str] {
        KEYS[self.shape()]
    }

    fn values(&self) -> impl Iterator<Item = &'static (&'static str, u8, u8)> {
        let places = self.values.iter().take(self.names().len());
        places.map(|place| &VALUES[usize::from(*place) % VALUES.len()])
    }

    /// What each value means.
    fn meaning(&self, numbers: Numbers) -> impl Iterator<Item = u8> {
        self.values().map(move |(_, by_value, by_type)| match numbers {
            Numbers::ByValue => *by_value,
            Numbers::ByType => *by_type,
        })
    }

    fn key(&self, numbers: Numbers) -> RoomKey {
        let mut members: Vec<String> =
            self.names().iter().zip(self.values()).map(|(name, (value, ..))| format!("\"{name}\":{value}")).collect();
        if self.is_reversed {
            members.reverse();
        }
        let json = RawValue::from_string(format!("{{{}}}", members.join(","))).unwrap();
        RoomKey::new(&json, numbers).unwrap()
    }

    fn is_same(&self, other: &Self, numbers: Numbers) -> bool {
        self.shape() == other.shape() && self.meaning(numbers).eq(other.meaning(numbers))
    }

    /// Whether a trigger for this room goes to a subscription to `other`.
    fn reaches(&self, other: &Self, dispatch: WildcardDispatch) -> bool {
        let numbers = dispatch.numbers();
        self.shape() == other.shape()
            && self.meaning(numbers).zip(other.meaning(numbers)).all(|(trigger, subscription)| {
                trigger == subscription
                    || (subscription == WILDCARD && dispatch != WildcardDispatch::Exact)
                    || (trigger == WILDCARD && dispatch == WildcardDispatch::Both)
            })
    }
}

/// A hub with its clients, and what should become of them.
struct World {
    hub: Hub,
    tally: Tally,
    pace: Pace,
    clients: Vec<Client>,
    step: usize,
    members: Vec<Member>,
    published: u64,
    /// Publications that have been put into an outbox, those before this world included.
    queued: u64,
}

struct Client {
    outbox: Arc<Outbox>,
    received: Arc<Mutex<Vec<u8>>>,
    /// What is to come: runs of frames, in any order within a run.
    expected: Vec<Vec<Rc<str>>>,
}

struct Member {
    client: usize,
    id: usize,
    room: Room,
    seat: Seat,
}

impl World {
    fn new(dispatch: WildcardDispatch, step: usize) -> Self {
        Self {
            hub: Hub::new(dispatch, History::default(), METRICS.clone()),
            tally: Tally::default(),
            pace: Pace::Later,
            clients: (0..CLIENTS).map(|_| Client::new(step)).collect(),
            step,
            members: Vec::new(),
            published: 0,
            queued: METRICS.publications_queued.get(),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Join { client, id, room } => {
                let key = room.key(self.hub.dispatch().numbers());
                self.join(usize::from(*client) % self.clients.len(), usize::from(*id) % IDS.len(), room, key);
            }
            Step::Crowd(RIGHT_FOR_A_CROWD, room) if !self.has_crowd() => {
                let key = room.key(self.hub.dispatch().numbers());
                for client in CLIENTS..CLIENTS + CROWD {
                    self.clients.push(Client::new(self.step));
                    self.join(client, 0, room, key.clone());
                }
            }
            Step::Crowd(..) => {}
            Step::Leave(at) => {
                if let Some(at) = usize::from(*at).checked_rem(self.members.len()) {
                    let member = self.members.swap_remove(at);
                    self.leave(member.client, vec![member.seat]);
                }
            }
            Step::LeaveAll(client) => {
                let client = usize::from(*client) % self.clients.len();
                let members = self.members.extract_if(.., |member| member.client == client);
                let seats = members.map(|member| member.seat).collect();
                self.leave(client, seats);
            }
            Step::Publish(rooms) => self.publish(rooms, 0),
            Step::PublishMuch(rooms) => self.publish(rooms, if self.has_crowd() { 0 } else { 5000 }),
            Step::Pace(true) => self.pace = Pace::AtOnce,
            Step::Pace(false) => self.pace = Pace::Later,
            Step::Flush => self.flush(),
        }
    }

    fn has_crowd(&self) -> bool {
        self.clients.len() > CLIENTS
    }

    /// How many rooms have a member.
    fn rooms(&self) -> usize {
        let mut rooms: Vec<&Room> = Vec::new();
        for Member { room, .. } in &self.members {
            if !rooms.iter().any(|known| known.is_same(room, self.hub.dispatch().numbers())) {
                rooms.push(room);
            }
        }
        rooms.len()
    }

    fn join(&mut self, client: usize, id: usize, room: &Room, key: RoomKey) {
        let Client { outbox, expected, .. } = &mut self.clients[client];
        let reply = || outbox.push(Frame::Fixed("joined")).unwrap();
        let seat = self.hub.join(&key, outbox, &IDS[id].1, reply);
        expected.push(vec!["joined".into()]);
        self.members.push(Member { client, id, room: room.clone(), seat });
    }

    fn leave(&mut self, client: usize, seats: Vec<Seat>) {
        let Client { outbox, expected, .. } = &mut self.clients[client];
        if !seats.is_empty() {
            expected.push(vec!["left".into()]);
        }
        self.hub.leave(seats, || outbox.push(Frame::Fixed("left")).unwrap());
    }

    fn publish(&mut self, rooms: &[Room], padding: usize) {
        self.published += 1;
        let data = format!("\"{}{}\"", self.published, " ".repeat(padding));
        let frame = |id: &str| Rc::from(format!(r#"{{"type":"publish","data":{data},"requestId":{id}}}"#));
        let frames: [Rc<str>; 3] = IDS.each_ref().map(|(id, _)| frame(id));
        let dispatch = self.hub.dispatch();
        for client in &mut self.clients {
            client.expected.push(Vec::new());
        }
        let mut oracle = 0;
        for member in &self.members {
            let mut times = rooms.iter().filter(|room| room.reaches(&member.room, dispatch)).count();
            if dispatch != WildcardDispatch::Exact {
                times = times.min(1);
            }
            let run = self.clients[member.client].expected.last_mut().unwrap();
            run.extend(std::iter::repeat_n(frames[member.id].clone(), times));
            oracle += times as u64;
        }

        let keys: Vec<RoomKey> = rooms.iter().map(|room| room.key(dispatch.numbers())).collect();
        let publication = Arc::new(Publication::new(Vec::new(), data.into(), Vec::new()));
        let before = self.tally.written + self.tally.queued;
        self.hub.audience(&keys).publish(&publication, self.pace, &mut self.tally);
        let reached = self.tally.written + self.tally.queued - before;
        assert_eq!(reached, oracle, "{dispatch:?}: {keys:?}");
        self.queued += reached;
    }

    /// Ends a batch as dispatch does. A reply that comes later is not its business.
    fn flush(&mut self) {
        let outboxes = self.tally.settle(&METRICS);
        Outbox::flush_all(outboxes.iter().map(Arc::as_ref));
        assert_eq!(METRICS.publications_waiting(), 0);
        assert_eq!(self.hub.rooms(), self.rooms());
    }

    fn end(mut self) {
        self.flush();
        self.clients.iter_mut().for_each(Client::check);
        let counted = [METRICS.publications_queued.get(), METRICS.publications_sent.get()];
        assert_eq!(counted, [self.queued; 2]);
        self.hub.leave(self.members.drain(..).map(|member| member.seat), || {});
        assert_eq!(self.hub.rooms(), 0);
        assert_eq!((METRICS.rooms.get(), METRICS.subscriptions.get()), (0, 0));
    }
}

impl Client {
    fn new(step: usize) -> Self {
        let received = Arc::default();
        let wire = Recorder { received: Arc::clone(&received), step };
        let outbox = Arc::new(Outbox::new(Uuid::nil(), wire, usize::MAX / 2, METRICS.clone()));
        Self { outbox, received, expected: Vec::new() }
    }

    /// Asserts that everything expected has been received, and nothing else.
    fn check(&mut self) {
        self.outbox.flush();
        let bytes = self.received.lock();
        let mut frames = frames(&bytes);
        for run in &mut self.expected {
            let mut received: Vec<&str> = frames.by_ref().take(run.len()).collect();
            received.sort_unstable();
            run.sort_unstable();
            assert!(received.iter().copied().eq(run.iter().map(Rc::as_ref)), "{received:?} instead of {run:?}");
        }
        assert_eq!(frames.next(), None);
    }
}

/// Keeps what is written; takes only a few bytes at once until it has seen some.
struct Recorder {
    received: Arc<Mutex<Vec<u8>>>,
    step: usize,
}

/// Up to here a recorder takes few bytes at once.
const SLOW_BYTES: usize = 1024;

impl Wire for Recorder {
    fn transport(&self) -> &'static str {
        "none"
    }

    fn encoded_len(&self, content: Content<'_>) -> usize {
        size_of::<u32>() + content.payload_len(Version::V3)
    }

    fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>) {
        out.put_copy(&u32::try_from(content.payload_len(Version::V3)).unwrap().to_be_bytes());
        content.put_payload(Version::V3, out);
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut received = self.received.lock();
        let before = received.len();
        let mut room = if before < SLOW_BYTES { self.step } else { usize::MAX };
        for slice in slices {
            let (taken, _) = slice.split_at(room.min(slice.len()));
            received.extend_from_slice(taken);
            room -= taken.len();
        }
        Ok(received.len() - before)
    }
}

/// The payloads in what a [`Recorder`] has received.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (len, rest) = bytes.split_first_chunk()?;
        let (payload, rest) = rest.split_at(u32::from_be_bytes(*len) as usize);
        bytes = rest;
        Some(std::str::from_utf8(payload).unwrap())
    })
}

fn request_id(json: &str) -> RequestId {
    RequestId::new(&RawValue::from_string(json.to_owned()).unwrap()).unwrap()
}
