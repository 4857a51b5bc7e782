//! Every order of events that a seed comes up with, against a simple model: publishing, joining, leaving, being cut off in
//! the middle of a frame, coming back, taking nothing for a while, the log beginning anew.
//!
//! The parts are the real ones (history, rooms, outboxes, sessions); only the network is not, and a scheduler takes the
//! place of threads: each step of each part is one event, and any other may come between two of them.
//!
//!     SIMULATION_SEED=17 cargo test simulation     # one order again
//!     SIMULATION_RUNS=100000 cargo test simulation # many more

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::HeaderMap;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    session::Session,
    simulated::{Network, connections, each_seed, key, reaches},
    *,
};
use crate::{
    backend::Identity,
    hub::{Pace, Portion, Publication, Tally},
    protocol::{Epoch, client::Message},
};

/// Events of one run.
const EVENTS: usize = 250;
/// Runs, if not said otherwise.
const RUNS: u64 = 1500;

/// What was published, as the model knows it.
struct Entry {
    rooms: Vec<Value>,
    exclude: Vec<Uuid>,
}

/// A trigger under way to its audience.
struct UnderWay {
    publication: Arc<Publication>,
    portions: Option<Vec<Portion>>,
    pace: Pace,
}

struct Connected {
    session: Session,
    client: Client,
    outbox: Arc<Outbox>,
    network: Network,
}

/// A client, which goes on where it was each time it comes back.
#[derive(Default)]
struct Peer {
    connected: Option<Connected>,
    subscriptions: HashMap<String, Subscription>,
    names: usize,
}

struct Subscription {
    room: Value,
    /// The last position known.
    since: Option<String>,
    /// Everything up to this entry, as an index of the model's, has been received.
    last: Option<usize>,
    /// The server has said that it does not vouch for what came before the next publication.
    may_jump: bool,
    is_answered: bool,
}

struct World {
    rng: StdRng,
    connections: Arc<Connections>,
    is_large: bool,
    entries: Vec<Entry>,
    /// By position: the number of entries up to there, and the life of the log it is of.
    positions: HashMap<String, (usize, usize)>,
    /// The how manieth life of the log it is.
    life: usize,
    offset: u64,
    under_way: Option<UnderWay>,
    tally: Tally,
    peers: Vec<Peer>,
    replayed: usize,
}

impl Entry {
    fn is_for(&self, room: &Value, connection: Uuid) -> bool {
        self.rooms.iter().any(|published| reaches(published, room)) && !self.exclude.contains(&connection)
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let is_large = rng.random_bool(0.7);
        let limit_bytes = if is_large { 64 << 20 } else { rng.random_range(2_000..20_000) };
        let connections = connections(&[], config::History { age: Duration::from_secs(3600), limit_bytes });
        let peers = (0..rng.random_range(1..4)).map(|_| Peer::default()).collect();
        let mut world = Self {
            rng,
            connections,
            is_large,
            entries: Vec::new(),
            positions: HashMap::new(),
            life: 0,
            offset: 0,
            under_way: None,
            tally: Tally::default(),
            peers,
            replayed: 0,
        };
        world.begin_epoch();
        world
    }

    fn hub(&self) -> &Hub {
        &self.connections.hub
    }

    fn begin_epoch(&mut self) {
        self.offset += 1;
        self.hub().begin_epoch(Epoch::random(), self.offset);
        self.note_position();
    }

    /// From here on the position is known to stand for all entries so far.
    fn note_position(&mut self) {
        let position = self.hub().position().unwrap().to_string();
        self.positions.insert(position, (self.entries.len(), self.life));
    }

    fn room(&mut self) -> Value {
        match self.rng.random_range(0..6) {
            0 => json!({"a": "*"}),
            1 => json!({"a": 1, "b": 1}),
            2 => json!({"a": "*", "b": 1}),
            number => json!({"a": number % 3}),
        }
    }

    async fn event(&mut self) {
        match self.rng.random_range(0..100) {
            0..40 => self.dispatch(),
            40..42 => self.begin_epoch(),
            42 => self.restart(),
            43..53 => self.connect_or_subscribe(),
            53..56 => self.unsubscribe(),
            56..59 => self.cut(),
            59..75 => {
                let room = self.rng.random_range(0..3000);
                if let Some(connected) = self.some_connected() {
                    *connected.network.room.lock() += room;
                    connected.outbox.resume();
                }
            }
            75..90 => self.catch_up().await,
            _ => {
                let peer = self.rng.random_range(0..self.peers.len());
                self.read(peer);
            }
        }
    }

    fn some_peer(&mut self) -> &mut Peer {
        let peer = self.rng.random_range(0..self.peers.len());
        &mut self.peers[peer]
    }

    fn some_connected(&mut self) -> Option<&mut Connected> {
        self.some_peer().connected.as_mut()
    }

    /// One step of the trigger that is under way, or a new one.
    fn dispatch(&mut self) {
        let Some(mut under_way) = self.under_way.take() else { return self.publish() };
        let audience = self.connections.hub.audience(&under_way.publication.rooms);
        let portions = under_way.portions.get_or_insert_with(|| audience.into_portions());
        match portions.pop() {
            Some(mut portion) => {
                if portion.publish(&under_way.publication, under_way.pace, &mut self.tally) {
                    portions.push(portion);
                }
                self.under_way = Some(under_way);
            }
            // The last of a batch: all is written.
            None if self.rng.random_bool(0.5) => self.flush(),
            None => {}
        }
    }

    fn flush(&mut self) {
        let dirty = self.tally.settle(&self.connections.metrics);
        Outbox::flush_all(dirty.iter().map(Arc::as_ref));
    }

    fn publish(&mut self) {
        let rooms: Vec<Value> = (0..self.rng.random_range(1..3)).map(|_| self.room()).collect();
        let mut exclude = Vec::new();
        if self.rng.random_bool(0.1) {
            exclude.extend(self.some_connected().map(|connected| connected.outbox.connection()));
        }
        self.offset += self.rng.random_range(1..3);
        let size = self.rng.random_range(0..200);
        let data = format!("\"{}\"", "x".repeat(size));
        let publication = Publication::new(rooms.iter().map(key).collect(), data.into(), exclude.clone());
        let publication = self.hub().record(publication, Some(self.offset));
        self.entries.push(Entry { rooms, exclude });
        self.note_position();
        let pace = if self.rng.random_bool(0.5) { Pace::AtOnce } else { Pace::Later };
        self.under_way = Some(UnderWay { publication, portions: None, pace });
    }

    /// The log begins anew, perhaps at lower offsets, and all clients are told.
    fn restart(&mut self) {
        while self.under_way.is_some() {
            self.dispatch();
        }
        self.hub().forget();
        self.life += 1;
        if self.rng.random_bool(0.5) {
            self.offset = 0;
        }
        self.begin_epoch();
        let position = self.hub().position();
        let resync = Frame::marked(v4::resync(position), Mark::All(position));
        for connected in self.peers.iter().filter_map(|peer| peer.connected.as_ref()) {
            let _ = connected.outbox.push(resync.clone());
        }
    }

    fn connect_or_subscribe(&mut self) {
        let room = self.room();
        let peer = self.rng.random_range(0..self.peers.len());
        if self.peers[peer].connected.is_none() {
            return self.connect(peer);
        }
        let name = self.peers[peer].names.to_string();
        self.peers[peer].names += 1;
        let subscription = Subscription { room, since: None, last: None, may_jump: false, is_answered: false };
        self.peers[peer].subscriptions.insert(name.clone(), subscription);
        self.subscribe(peer, &name);
    }

    /// Comes back, and asks for what was missed.
    fn connect(&mut self, peer: usize) {
        let network = Network::new(Version::V4, self.rng.random_range(0..2000));
        let metrics = self.connections.metrics.clone();
        let outbox: Arc<Outbox> = Arc::new(Outbox::new(Uuid::new_v4(), network.clone(), 1 << 20, metrics));
        let backend = &self.connections.backend;
        let rooms = [json!({"a": "*"}), json!({"a": "*", "b": "*"})];
        let rooms = rooms.iter().map(|room| to_raw_value(room).unwrap()).collect();
        let admission = backend.admission(rooms, None).unwrap();
        let session = Session::new(Version::V4, outbox.clone(), &admission, backend.changes.now(), None);
        let place = self.connections.place(None, &HeaderMap::new()).unwrap();
        let client = Client::new(outbox.clone(), Version::V4, Identity::nobody().into(), 0, place);
        self.peers[peer].connected = Some(Connected { session, client, outbox, network });
        let mut names: Vec<String> = self.peers[peer].subscriptions.keys().cloned().collect();
        names.sort();
        for name in names {
            self.subscribe(peer, &name);
        }
    }

    fn subscribe(&mut self, peer: usize, name: &str) {
        let Peer { connected: Some(connected), subscriptions, .. } = &mut self.peers[peer] else { return };
        let subscription = subscriptions.get_mut(name).unwrap();
        subscription.is_answered = false;
        let mut request = json!({"type": "subscribe", "requestId": name, "room": subscription.room});
        if let Some(since) = &subscription.since {
            request["since"] = json!(since);
        }
        let text = request.to_string();
        let message = Message::parse(&text, Version::V4);
        connected.session.on_message(message, &connected.client, &self.connections).unwrap();
    }

    fn unsubscribe(&mut self) {
        let peer = self.rng.random_range(0..self.peers.len());
        let Peer { connected: Some(_), subscriptions, .. } = &self.peers[peer] else { return };
        let mut names: Vec<&String> = subscriptions.keys().collect();
        names.sort();
        let Some(name) = names.choose(&mut self.rng).map(|name| (*name).clone()) else { return };
        self.read(peer);
        let Peer { connected: Some(connected), subscriptions, .. } = &mut self.peers[peer] else { return };
        let text = json!({"type": "unsubscribe", "requestId": name}).to_string();
        let message = Message::parse(&text, Version::V4);
        connected.session.on_message(message, &connected.client, &self.connections).unwrap();
        // What was sent before is of no interest any more; what comes after the reply would be an error.
        subscriptions.remove(&name);
        let Some(connected) = &self.peers[peer].connected else { return };
        *connected.network.room.lock() = usize::MAX / 2;
        connected.outbox.resume();
        let text = connected.network.take();
        *connected.network.room.lock() = 0;
        let marker = format!("\"requestId\":\"{name}\",\"code\"");
        let mut lines: Vec<&str> = text.lines().collect();
        let reply = lines.iter().rposition(|line| line.contains(&marker)).expect("a reply to unsubscribe");
        assert!(!lines[reply..].iter().any(|line| line.contains("publish") && line.contains(&format!("\"{name}\""))));
        lines.retain(|line| !line.contains(&format!("\"requestId\":\"{name}\"")));
        let rest = lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect::<Vec<u8>>();
        *connected.network.received.lock() = rest;
        self.read(peer);
    }

    /// The connection breaks: what has not come as a whole frame never does.
    fn cut(&mut self) {
        let peer = self.rng.random_range(0..self.peers.len());
        self.read(peer);
        let Some(mut connected) = self.peers[peer].connected.take() else { return };
        connected.outbox.abandon();
        let seats = connected.session.take_seats();
        self.hub().leave(seats, || {});
    }

    async fn catch_up(&mut self) {
        let connections = self.connections.clone();
        let Some(connected) = self.some_connected() else { return };
        if connected.session.catch_up(&connections).unwrap() == CatchUp::Waiting {
            tokio::time::advance(Duration::from_millis(300)).await;
        }
    }

    /// The client looks at what has come, and holds it against the model.
    fn read(&mut self, peer: usize) {
        let Peer { connected: Some(connected), subscriptions, .. } = &mut self.peers[peer] else { return };
        let connection = connected.outbox.connection();
        for line in connected.network.take().lines() {
            let frame: Value = serde_json::from_str(line).unwrap();
            let position = frame["position"].as_str();
            if frame["type"] == "resync" {
                subscriptions.values_mut().for_each(|subscription| subscription.may_jump = true);
                continue;
            }
            let id = frame["requestId"].as_str().unwrap_or_else(|| panic!("{frame}"));
            let Some(subscription) = subscriptions.get_mut(id) else { continue };
            let (entries, _) = self.positions[position.unwrap_or_else(|| panic!("{frame}"))];
            match frame["type"].as_str().unwrap() {
                "reply" => {
                    assert_eq!(frame["code"], "success", "{frame}");
                    assert!(!subscription.is_answered, "answered twice: {frame}");
                    subscription.is_answered = true;
                    match frame["recovered"].as_bool() {
                        Some(true) => {
                            assert_eq!(position, subscription.since.as_deref());
                            self.replayed += 1;
                        }
                        Some(false) => {
                            // Only what was dropped, or is of another life of the log, is not vouched for.
                            let life = subscription.since.as_ref().map_or(0, |since| self.positions[since].1);
                            assert!(!self.is_large || life < self.life, "not recovered: {frame}");
                            subscription.may_jump = true;
                        }
                        None => subscription.last = entries.checked_sub(1),
                    }
                }
                "publish" => {
                    assert!(subscription.is_answered, "before the reply: {frame}");
                    let this = entries - 1;
                    let next = subscription.last.map_or(0, |last| last + 1);
                    assert!(this >= next, "again or out of order: {frame}");
                    assert!(self.entries[this].is_for(&subscription.room, connection), "not for this one: {frame}");
                    let is_missing = |entry: &Entry| entry.is_for(&subscription.room, connection);
                    let missing = self.entries[next..this].iter().filter(|entry| is_missing(entry)).count();
                    assert!(missing == 0 || subscription.may_jump, "{missing} missing before {frame}");
                    (subscription.last, subscription.may_jump) = (Some(this), false);
                }
                other => panic!("{other}"),
            }
            subscription.since = position.map(str::to_owned);
        }
    }

    /// Everything comes to rest: whoever is away comes back, and takes all there is.
    async fn end(mut self) -> usize {
        while self.under_way.is_some() {
            self.dispatch();
        }
        self.flush();
        let connections = self.connections.clone();
        for peer in 0..self.peers.len() {
            if self.peers[peer].connected.is_none() {
                self.connect(peer);
            }
            while let Some(connected) = &mut self.peers[peer].connected {
                *connected.network.room.lock() = usize::MAX / 2;
                connected.outbox.resume();
                match connected.session.catch_up(&connections).unwrap() {
                    CatchUp::Done => break,
                    CatchUp::Waiting => tokio::time::advance(Duration::from_secs(1)).await,
                    CatchUp::More | CatchUp::Full => {}
                }
            }
            self.read(peer);
            let Peer { connected: Some(connected), subscriptions, .. } = &mut self.peers[peer] else { continue };
            for (name, subscription) in &*subscriptions {
                assert!(subscription.is_answered, "{name} was never answered");
                let next = subscription.last.map_or(0, |last| last + 1);
                let connection = connected.outbox.connection();
                let missing = |entry: &&Entry| entry.is_for(&subscription.room, connection);
                let missing = self.entries[next..].iter().filter(missing).count();
                assert!(missing == 0 || subscription.may_jump, "{name} never got {missing}");
            }
            let seats = connected.session.take_seats();
            self.connections.hub.leave(seats, || {});
        }
        assert_eq!(self.connections.metrics.subscriptions.get(), 0);
        self.replayed
    }
}

#[tokio::test(start_paused = true)]
async fn simulation() {
    let replayed = each_seed(RUNS, async |seed| {
        let mut world = World::new(seed);
        for _ in 0..EVENTS {
            world.event().await;
        }
        world.end().await
    });
    let replayed = replayed.await;
    let (runs, replayed) = (replayed.len(), replayed.iter().sum::<usize>());
    assert!(replayed >= runs / 2, "hardly anybody has come back: this shows nothing");
}
