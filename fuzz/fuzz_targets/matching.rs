//! Which rooms a client may join, and who gets a trigger: both against an oracle that compares every room with every
//! other, while clients join and leave.

#![no_main]

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use arbitrary::Arbitrary;
use high_templar::{
    hub::{Encoder, Frame, Hub, Outbox, Publication, Seat, WildcardDispatch, Wire},
    metrics::Metrics,
    protocol::{RequestId, server},
    room::{Allowed, Numbers, RoomKey},
};
use libfuzzer_sys::fuzz_target;
use parking_lot::Mutex;
use serde_json::value::RawValue;

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
const CLIENTS: usize = 4;
const IDS: [&str; 3] = ["1", "\"b\"", "null"];
/// More than the hub keeps under one lock.
const CROWD: usize = 1100;

#[derive(Debug, Arbitrary)]
struct Input {
    allowed: Vec<Room>,
    wanted: Vec<Room>,
    /// Bytes that the wires take at once, to begin with.
    step: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Join(Visitor),
    /// Joins very often.
    Crowd(Visitor),
    /// The subscription at this place of all leaves.
    Leave(u16),
    /// All subscriptions of a client leave at once.
    LeaveAll(u8),
    Publish(Vec<Room>),
    /// As `Publish`, with a payload too large to be copied.
    PublishMuch(Vec<Room>),
    Flush,
}

#[derive(Debug, Arbitrary)]
struct Visitor {
    client: u8,
    id: u8,
    room: Room,
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
    for dispatch in [WildcardDispatch::Both, WildcardDispatch::Subscriptions, WildcardDispatch::Exact] {
        let mut world = World::new(dispatch, usize::from(input.step) + 16);
        for step in &input.steps {
            world.take(step);
        }
        world.end();
    }
});

fn check_allowed(allowed: &[Room], wanted: &[Room]) {
    let keys: Vec<RoomKey> = allowed.iter().map(|room| room.key(Numbers::ByValue)).collect();
    let set: Allowed = keys.iter().collect();
    for wanted in wanted {
        let oracle = allowed.iter().any(|room| {
            let mut pairs = room.meaning(Numbers::ByValue).zip(wanted.meaning(Numbers::ByValue));
            room.names() == wanted.names() && pairs.all(|(allowed, wanted)| allowed == WILDCARD || allowed == wanted)
        });
        let key = wanted.key(Numbers::ByValue);
        assert_eq!(set.covers(&key), oracle, "{key:?} among {keys:?}");
    }
}

impl Room {
    fn names(&self) -> &'static [&'static str] {
        KEYS[usize::from(self.keys) % KEYS.len()]
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
        self.names() == other.names() && self.meaning(numbers).eq(other.meaning(numbers))
    }

    /// Whether a trigger for this room goes to a subscription to `other`.
    fn reaches(&self, other: &Self, dispatch: WildcardDispatch) -> bool {
        let numbers = dispatch.numbers();
        self.names() == other.names()
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
    metrics: Arc<Metrics>,
    clients: Vec<Client>,
    members: Vec<Member>,
    dirty: Vec<Arc<Outbox>>,
    published: u64,
    reached: u64,
}

struct Client {
    outbox: Arc<Outbox>,
    received: Arc<Mutex<Vec<u8>>>,
    /// What is to come: runs of frames, in any order within a run.
    expected: Vec<Vec<String>>,
}

struct Member {
    client: usize,
    id: &'static str,
    room: Room,
    seat: Seat,
}

impl World {
    fn new(dispatch: WildcardDispatch, step: usize) -> Self {
        let metrics = Arc::new(Metrics::default());
        let client = |_| {
            let received = Arc::default();
            let wire = Recorder { received: Arc::clone(&received), step };
            let outbox = Arc::new(Outbox::new(Box::new(wire), usize::MAX / 2, metrics.clone()));
            Client { outbox, received, expected: Vec::new() }
        };
        let clients = (0..CLIENTS).map(client).collect();
        let hub = Hub::new(dispatch, metrics.clone());
        Self { hub, metrics, clients, members: Vec::new(), dirty: Vec::new(), published: 0, reached: 0 }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Join(visitor) => self.join(visitor),
            // One crowd is enough, and takes its time.
            Step::Crowd(visitor) if self.members.len() < CROWD => (0..CROWD).for_each(|_| self.join(visitor)),
            Step::Crowd(_) => {}
            Step::Leave(at) => {
                if let Some(at) = usize::from(*at).checked_rem(self.members.len()) {
                    let member = self.members.swap_remove(at);
                    self.leave(member.client, vec![member.seat]);
                }
            }
            Step::LeaveAll(client) => {
                let client = usize::from(*client) % CLIENTS;
                let seats = self.members.extract_if(.., |member| member.client == client);
                let seats = seats.map(|member| member.seat).collect();
                self.leave(client, seats);
            }
            Step::Publish(rooms) => self.publish(rooms, 0),
            Step::PublishMuch(rooms) => self.publish(rooms, if self.members.len() < CROWD { 5000 } else { 0 }),
            Step::Flush => self.flush(),
        }
        assert_eq!(self.hub.rooms(), self.rooms());
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

    fn join(&mut self, visitor: &Visitor) {
        let client = usize::from(visitor.client) % CLIENTS;
        let id = IDS[usize::from(visitor.id) % IDS.len()];
        let Client { outbox, expected, .. } = &mut self.clients[client];
        let reply = || outbox.push(Frame::Fixed("joined")).unwrap();
        let key = visitor.room.key(self.hub.dispatch().numbers());
        let seat = self.hub.join(key, outbox, &request_id(id), reply);
        expected.push(vec!["joined".to_owned()]);
        self.members.push(Member { client, id, room: visitor.room.clone(), seat });
    }

    fn leave(&mut self, client: usize, seats: Vec<Seat>) {
        let Client { outbox, expected, .. } = &mut self.clients[client];
        if !seats.is_empty() {
            expected.push(vec!["left".to_owned()]);
        }
        self.hub.leave(seats, || outbox.push(Frame::Fixed("left")).unwrap());
    }

    fn publish(&mut self, rooms: &[Room], padding: usize) {
        self.published += 1;
        let data = format!("{}{}", self.published, " ".repeat(padding));
        let keys: Vec<RoomKey> = rooms.iter().map(|room| room.key(self.hub.dispatch().numbers())).collect();
        let json = RawValue::from_string(format!("\"{data}\"")).unwrap();
        let publication = Arc::new(Publication { shared: server::publication(&json).into() });
        let reached = self.hub.publish(&keys, &publication, &mut self.dirty);

        let dispatch = self.hub.dispatch();
        let mut runs = vec![Vec::new(); CLIENTS];
        for member in &self.members {
            let mut times = rooms.iter().filter(|room| room.reaches(&member.room, dispatch)).count();
            if dispatch != WildcardDispatch::Exact {
                times = times.min(1);
            }
            let frame = format!(r#"{{"type":"publish","data":"{data}","requestId":{}}}"#, member.id);
            runs[member.client].extend(std::iter::repeat_n(frame, times));
        }
        let oracle: usize = runs.iter().map(Vec::len).sum();
        assert_eq!(reached, oracle as u64, "{dispatch:?}: {keys:?} reached");
        self.reached += reached;
        for (client, run) in self.clients.iter_mut().zip(runs) {
            client.expected.push(run);
        }
    }

    /// As dispatch does it at the end of a batch; a reply that comes later is not its business.
    fn flush(&mut self) {
        self.dirty.drain(..).for_each(|outbox| outbox.flush());
        assert_eq!(self.metrics.publications_waiting(), 0);
    }

    fn end(mut self) {
        self.flush();
        self.clients.iter_mut().for_each(Client::check);
        let counted = [&self.metrics.publications_queued, &self.metrics.publications_sent].map(|counter| counter.get());
        assert_eq!(counted, [self.reached; 2]);
        self.hub.leave(self.members.drain(..).map(|member| member.seat).collect(), || {});
        assert_eq!(self.hub.rooms(), 0);
        assert_eq!((self.metrics.rooms.get(), self.metrics.subscriptions.get()), (0, 0));
    }
}

impl Client {
    /// Asserts that everything expected has been received, and nothing else.
    fn check(&mut self) {
        self.outbox.flush();
        let bytes = self.received.lock();
        let mut frames = frames(&bytes);
        for mut run in self.expected.drain(..) {
            let mut received: Vec<&str> = frames.by_ref().take(run.len()).collect();
            run.sort_unstable();
            received.sort_unstable();
            assert_eq!(received, run);
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
const SLOW_BYTES: usize = 4096;

impl Wire for Recorder {
    fn encoded_len(&self, frame: &Frame) -> usize {
        size_of::<u32>() + frame.payload_len()
    }

    fn encode<'a>(&self, frame: &'a Frame, out: &mut Encoder<'a, '_>) {
        out.put_copy(&u32::try_from(frame.payload_len()).unwrap().to_be_bytes());
        match frame {
            Frame::Fixed(text) => out.put(text.as_bytes()),
            Frame::Publication(publication, request_id) => {
                out.put(&publication.shared);
                out.put(request_id.as_json().as_bytes());
                out.put(server::PUBLICATION_END.as_bytes());
            }
            other => panic!("nobody sent {other:?}"),
        }
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
