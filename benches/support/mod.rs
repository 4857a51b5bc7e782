//! What the benchmarks stand on: rooms, and clients that take everything.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::expect_used, reason = "each benchmark uses a part of it")]

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use high_templar::{
    hub::{Content, Encoder, Hub, Outbox, Seat, WildcardDispatch, Wire},
    metrics::Metrics,
    protocol::RequestId,
    room::{Numbers, RoomKey},
    transport::websocket::frame,
};
use serde_json::{Value, json, value::to_raw_value};

/// Takes whatever it is given.
#[derive(Debug)]
pub struct Sink;

impl Wire for Sink {
    fn encoded_len(&self, content: Content<'_>) -> usize {
        frame::encoded_len(content)
    }

    fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>) {
        frame::encode(content, out);
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| std::hint::black_box(slice).len()).sum())
    }
}

/// A hub with clients in it.
pub struct World {
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    seats: Vec<Seat>,
    anybody: Option<Arc<Outbox>>,
}

impl World {
    pub fn new() -> Self {
        let metrics = Arc::new(Metrics::default());
        Self {
            hub: Arc::new(Hub::new(WildcardDispatch::Both, metrics.clone())),
            metrics,
            seats: Vec::new(),
            anybody: None,
        }
    }

    /// `rooms` rooms with a member each, of a client of its own.
    pub fn with_rooms(rooms: usize) -> Self {
        let mut world = Self::new();
        for number in 0..rooms {
            world.join(&room(number));
        }
        world
    }

    /// One room with `members` members, each of a client of its own.
    pub fn with_members(members: usize) -> Self {
        let mut world = Self::new();
        for _ in 0..members {
            world.join(&room(0));
        }
        world
    }

    pub fn join(&mut self, room: &Value) {
        let outbox: Arc<Outbox> = Arc::new(Outbox::new(Sink, 1 << 20, self.metrics.clone()));
        self.seats.push(self.hub.join(&key(room), &outbox, &request_id(), || {}));
    }

    pub fn join_and_leave(&mut self, key: &RoomKey) {
        let outbox = self.anybody.get_or_insert_with(|| Arc::new(Outbox::new(Sink, 1 << 20, self.metrics.clone())));
        let seat = self.hub.join(key, outbox, &request_id(), || {});
        self.hub.leave([seat], || {});
    }
}

/// How rooms compare in this hub.
pub const NUMBERS: Numbers = Numbers::ByValue;

pub fn room(number: usize) -> Value {
    json!({"target": "message", "customer": format!("{number}")})
}

pub fn key(room: &Value) -> RoomKey {
    RoomKey::new(&to_raw_value(room).expect("JSON"), NUMBERS).expect("a room")
}

pub fn request_id() -> RequestId {
    RequestId::new(&to_raw_value("messages").expect("JSON")).expect("an id")
}

/// Full size when measured, little when only tried by `cargo test`.
pub fn sized(full: usize) -> usize {
    if std::env::args().any(|argument| argument == "--bench") { full } else { full.min(100) }
}

/// The same of several sizes, each once.
pub fn sizes<const N: usize>(full: [usize; N]) -> Vec<usize> {
    let mut sizes = full.map(sized).to_vec();
    sizes.dedup();
    sizes
}
