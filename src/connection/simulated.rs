//! What the simulations share: connections without a server, a client's end of the network, rooms as a simple model sees
//! them, and the seeds.

use std::{
    io::{self, IoSlice},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use parking_lot::Mutex;
use serde_json::{Value, value::to_raw_value};
use tokio::sync::watch;

use super::{ticket::clock::Clock, *};
use crate::{
    backend::Changes,
    hub::{Content, Encoder, WildcardDispatch},
    room::{Numbers, RoomKey},
};

/// A client's end of the network: takes so many more bytes, then no more for now. Each frame is a line.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) version: Version,
    pub(super) received: Arc<Mutex<Vec<u8>>>,
    pub(super) room: Arc<Mutex<usize>>,
}

impl Network {
    pub(super) fn new(version: Version, room: usize) -> Self {
        Self { version, received: Arc::default(), room: Arc::new(Mutex::new(room)) }
    }

    /// The whole frames that have come since the last time, each with its line break.
    pub(super) fn take(&self) -> String {
        let mut received = self.received.lock();
        let end = received.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        String::from_utf8(received.drain(..end).collect()).unwrap()
    }
}

impl Wire for Network {
    fn transport(&self) -> &'static str {
        "none"
    }

    fn encoded_len(&self, content: Content<'_>) -> usize {
        1 + match content {
            Content::Close(code, _) => closed(code).len(),
            content => content.payload_len(self.version),
        }
    }

    fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>) {
        match content {
            Content::Close(code, _) => out.put_copy(closed(code).as_bytes()),
            content => content.put_payload(self.version, out),
        }
        out.put(b"\n");
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut room = self.room.lock();
        if *room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(*room).collect();
        *room -= bytes.len();
        self.received.lock().extend(&bytes);
        Ok(bytes.len())
    }
}

fn closed(code: CloseCode) -> String {
    format!(r#"{{"type":"close","code":{}}}"#, code.number())
}

/// Connections that know of no server, no broker and no network.
pub(crate) fn connections(vars: &[(&str, &str)], history: config::History) -> Arc<Connections> {
    let vars = [("API_URL", "http://localhost/")].iter().chain(vars);
    let config = config::from_vars(vars.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).unwrap();
    let metrics = Arc::new(Metrics::default());
    let hub = Arc::new(Hub::new(WildcardDispatch::Both, history, metrics.clone()));
    let backend = Backend::new(config.backend, Changes::new(Duration::from_secs(3600)), metrics.clone()).unwrap();
    let hooks = Arc::new(Hooks::new(backend.clone(), config.hooks, false));
    let state = watch::channel(State::Current).1;
    let mut connections = Connections::new(hub, backend, hooks, metrics, config.connection, state);
    if let Some(tickets) = &mut connections.tickets {
        tickets.clock = Clock::simulated();
    }
    Arc::new(connections)
}

pub(super) fn key(room: &Value) -> RoomKey {
    RoomKey::new(&to_raw_value(room).unwrap(), Numbers::ByValue).unwrap()
}

/// Whether the two rooms match, wildcards on either side.
pub(super) fn reaches(published: &Value, subscribed: &Value) -> bool {
    agree(published, subscribed, |value, other| value == other || value == "*" || other == "*")
}

/// Whether who may join `allowed` may join `wanted`.
pub(super) fn covers(allowed: &Value, wanted: &Value) -> bool {
    agree(allowed, wanted, |value, other| value == other || value == "*")
}

fn agree(one: &Value, other: &Value, values: impl Fn(&Value, &Value) -> bool) -> bool {
    let (one, other) = (one.as_object().unwrap(), other.as_object().unwrap());
    one.len() == other.len() && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| values(value, other)))
}

/// The outcome of `run` for each of `count` seeds; for one, or as many as the environment says. Names a seed that fails.
pub(super) async fn each_seed<T>(count: u64, run: impl AsyncFn(u64) -> T) -> Vec<T> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_RUNS").unwrap_or(count),
    };
    let mut outcomes = Vec::new();
    for seed in seeds {
        let outcome = AssertUnwindSafe(run(seed)).catch_unwind().await;
        outcomes.push(outcome.unwrap_or_else(|_| panic!("SIMULATION_SEED={seed} shows it")));
    }
    outcomes
}
