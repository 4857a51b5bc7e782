//! What the benchmarks, and the counting tests, stand on: rooms, and clients that take everything.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::expect_used, reason = "each uses a part of it")]

use std::{
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use high_templar::{
    backend::{Backend, Changes, Hooks},
    broker::{self, Kind, State},
    config,
    connection::Connections,
    dispatch::{Dispatch, Triggers},
    hub::{Content, Encoder, Hub, Outbox, Publication, Seat, WildcardDispatch, Wire},
    metrics::Metrics,
    protocol::{RequestId, Version},
    room::{Numbers, RoomKey},
    transport::websocket::frame,
};
use serde_json::{Value, json, value::to_raw_value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Takes whatever it is given, and counts how often.
#[derive(Debug, Clone, Default)]
pub struct Sink(pub Arc<AtomicU64>);

impl Wire for Sink {
    fn transport(&self) -> &'static str {
        "none"
    }

    fn encoded_len(&self, content: Content<'_>) -> usize {
        frame::encoded_len(content, Version::V3)
    }

    fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>) {
        frame::encode(content, Version::V3, out);
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(slices.iter().map(|slice| std::hint::black_box(slice).len()).sum())
    }
}

/// A hub with clients in it.
pub struct World {
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    /// Of all its clients.
    pub sink: Sink,
    seats: Vec<Seat>,
    anybody: Option<Arc<Outbox>>,
}

impl World {
    pub fn new() -> Self {
        let metrics = Arc::new(Metrics::default());
        Self {
            hub: Arc::new(Hub::new(WildcardDispatch::Both, config::History::default(), metrics.clone())),
            metrics,
            sink: Sink::default(),
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
        let outbox = self.outbox();
        self.seats.push(self.hub.join(&key(room), &outbox, &request_id(), || {}));
    }

    pub fn join_and_leave(&mut self, key: &RoomKey) {
        let outbox = self.anybody.get_or_insert_with(|| outbox(&self.sink, &self.metrics));
        let seat = self.hub.join(key, outbox, &request_id(), || {});
        self.hub.leave([seat], || {});
    }

    pub fn outbox(&self) -> Arc<Outbox> {
        outbox(&self.sink, &self.metrics)
    }

    /// Publishes `bodies` through an embedded broker, and dispatches them, until that is done.
    pub async fn pass_through<'a>(&self, bodies: impl Iterator<Item = &'a Bytes>) {
        let stop = CancellationToken::new();
        let embedded = config::Broker::Embedded(config::Embedded::default());
        let (publisher, consumer, _) = broker::open(&embedded, &self.metrics, stop.clone()).expect("a broker");
        let dispatch = Dispatch::new(
            self.connections(),
            None,
            None,
            Triggers { id_ttl: Duration::from_secs(60), limit_bytes: 16 << 20 },
        );
        let publish = async {
            for body in bodies {
                publisher.publish(Kind::Trigger, body.clone()).await.expect("a place in the queue");
            }
            stop.cancel();
        };
        tokio::join!(publish, dispatch.run(consumer, stop.clone())).1.expect("a broker that can be used");
    }

    fn connections(&self) -> Arc<Connections> {
        let api = ("API_URL".to_owned(), "http://localhost/".to_owned());
        let config = config::from_vars([api].into_iter()).expect("a configuration");
        let (hub, metrics) = (self.hub.clone(), self.metrics.clone());
        let backend = Backend::new(config.backend, Changes::new(Duration::ZERO), metrics.clone()).expect("a client");
        let hooks = Arc::new(Hooks::new(backend.clone(), config.hooks, false));
        Arc::new(Connections::new(hub, backend, hooks, metrics, config.connection, watch::channel(State::Current).1))
    }
}

fn outbox(sink: &Sink, metrics: &Arc<Metrics>) -> Arc<Outbox> {
    Arc::new(Outbox::new(Uuid::nil(), sink.clone(), 1 << 20, metrics.clone()))
}

/// One of `bytes` bytes.
pub fn publication(bytes: usize) -> Arc<Publication> {
    Arc::new(Publication::new(Vec::new(), "x".repeat(bytes).into(), Vec::new()))
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
