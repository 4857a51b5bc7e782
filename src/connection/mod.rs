//! The life of one client, whatever the transport: who it is, what it may do, when it has been silent for too long.

mod authority;
mod bootstrap;
mod clients;
mod inspection;
mod keepalive;
mod link;
#[cfg(test)]
mod permissions_simulation;
mod places;
mod rate;
mod recheck;
mod resume;
mod session;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
mod simulation;
mod ticket;

use std::{
    borrow::Cow,
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;
use uuid::Uuid;

pub use bootstrap::Bootstrap;
pub use inspection::{Explanation, Order, Seen, Whose};
pub use keepalive::{Due, Keepalive};
pub use link::{Connection, Link, Refused};
pub use places::{Accepted, Place, REFUSED_CONNECTIONS, TooMany};
pub use rate::{Rate, TooFast};
pub use session::CatchUp;

use self::{
    clients::{Client, Clients},
    places::Places,
    recheck::Rechecks,
    ticket::Tickets,
};
use crate::{
    backend::{Backend, Credentials, Hooks, Urgency, Whom},
    broker::State,
    config,
    hub::{Frame, Hub, Mark, Outbox, Wire},
    metrics::Metrics,
    protocol::{CloseCode, Version, server::v4},
    room::Rules,
};

/// What a client of 3.1's protocol is told at a stop.
const GOING_AWAY: &str = "going away";
/// At a stop, connections are closed at this distance if there is time.
const CLOSED_EVERY: Duration = Duration::from_millis(1);
/// The same after a gap, when they all come back, and each asks the backend.
const RETURNING_EVERY: Duration = Duration::from_millis(5);
/// The part of `DRAIN` over which they are closed; the rest is for their goodbyes.
const SPREAD: f64 = 0.8;
/// How long a client waits for the log to be read back before it is served without.
const READ_BACK: Duration = Duration::from_secs(10);
/// The shortest time over which clients are asked to spread their return.
const RETURN: Duration = Duration::from_secs(1);

/// All connections of the process, and what they have in common.
#[derive(Debug)]
pub struct Connections {
    /// Where their subscriptions are.
    pub hub: Arc<Hub>,
    /// Who says who they are.
    pub backend: Arc<Backend>,
    /// Who is told that they come and go.
    pub hooks: Arc<Hooks>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Their limits.
    pub config: config::Connection,
    /// Their tasks.
    pub tasks: TaskTracker,
    clients: Clients,
    places: Arc<Places>,
    rechecks: Rechecks,
    tickets: Option<Tickets>,
    /// Users of whom nothing that the backend has said before is to count any more; the other instances are still to be told.
    forgotten: Mutex<HashSet<Box<str>>>,
    has_forgotten: Notify,
    /// How far the consumer is.
    state: watch::Receiver<State>,
    /// Counts how often triggers may have been missed.
    gaps: watch::Sender<u64>,
    /// Turns to catch up: however many clients come back at once, few of them wait for a worker with everybody else.
    turns: Semaphore,
    /// The server stops: no client is let in any more.
    ended: CancellationToken,
    /// The log has been read back: whoever joins now is given all that is read.
    has_read_back: AtomicBool,
}

impl Connections {
    /// No connections yet.
    pub fn new(
        hub: Arc<Hub>,
        backend: Arc<Backend>,
        hooks: Arc<Hooks>,
        metrics: Arc<Metrics>,
        config: config::Connection,
        state: watch::Receiver<State>,
    ) -> Self {
        // Fewer than there are workers: one is left for everybody else.
        let turns =
            Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get).saturating_sub(1).max(1));
        Self {
            hub,
            backend,
            hooks,
            places: Arc::new(Places::new(&config.limits, metrics.clone())),
            metrics,
            tasks: TaskTracker::new(),
            clients: Clients::default(),
            rechecks: Rechecks::default(),
            tickets: config
                .resume
                .as_ref()
                .map(|resume| Tickets::new(resume, config.reauthorize.interval, config.message_limit_bytes)),
            forgotten: Mutex::default(),
            has_forgotten: Notify::new(),
            config,
            state,
            gaps: watch::Sender::new(0),
            turns,
            ended: CancellationToken::new(),
            has_read_back: AtomicBool::new(false),
        }
    }

    /// Counts a connection of the public listener that has been accepted from `peer`.
    ///
    /// # Errors
    /// When there are as many as there may be, and as many that are told so.
    pub fn accept(&self, peer: Option<SocketAddr>) -> Result<Accepted, TooMany> {
        self.places.accept(peer).inspect_err(|limit| self.metrics.limited.inc(limit.word()))
    }

    /// A place for a client that comes from `peer` with these headers.
    ///
    /// # Errors
    /// When there are as many as there may be.
    pub fn place(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Result<Place, TooMany> {
        self.places.take(peer, headers).inspect_err(|limit| self.metrics.limited.inc(limit.word()))
    }

    /// Returns where a client is that comes from `peer` with these headers, as far as that is known; of IPv6 its network.
    pub fn address(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        self.places.address(peer, headers).0
    }

    /// A connection over `wire` that is not authorised yet, and its outbox as what it is.
    pub fn register<W: Wire + 'static>(
        self: &Arc<Self>,
        wire: W,
        version: Version,
        credentials: impl Into<Credentials>,
        place: Place,
    ) -> (Arc<Outbox<W>>, Link) {
        let id = Uuid::new_v4();
        let concrete = Arc::new(Outbox::new(id, wire, self.config.outbox_limit_bytes, self.metrics.clone()));
        let credentials = credentials.into();
        let part = self.rechecks.part(&credentials.identity);
        let client = Arc::new(Client::new(concrete.clone(), version, credentials, part, place));
        if !self.clients.add(&client) {
            client.outbox.close(CloseCode::GoingAway, going_away(version, RETURN));
        }
        (concrete, Link { client, connections: self.clone() })
    }

    /// Ends the connection of a client that sends more than `MESSAGE_RATE`.
    pub fn close_as_too_fast(&self, outbox: &Outbox) {
        self.metrics.limited.inc("messages");
        let a_second = self.config.limits.messages_a_second;
        outbox.close(CloseCode::TooMany, format!("more than {a_second} messages a second"));
    }

    /// Returns how rooms of clients and publishers are read.
    pub fn room_rules(&self) -> Rules {
        Rules { numbers: self.hub.dispatch().numbers(), limits: self.config.limits.room }
    }

    /// Returns what a client is told of its limits.
    fn limits(&self) -> v4::Limits {
        let limits = &self.config.limits;
        v4::Limits {
            subscriptions: limits.subscriptions,
            message_bytes: self.config.message_limit_bytes,
            room_keys: limits.room.keys,
            room_bytes: limits.room.bytes,
            masks: limits.masks,
        }
    }

    /// How many there are, authorised or not.
    pub fn count(&self) -> usize {
        self.clients.len()
    }

    /// Whether this instance follows the log at present.
    pub fn follows_log(&self) -> bool {
        *self.state.borrow() == State::Current
    }

    /// Whether what is in the log from before the start has not all been read yet.
    pub fn is_reading_back(&self) -> bool {
        !self.has_read_back.load(Ordering::Relaxed) && !self.follows_log()
    }

    /// The log begins anew, and is perhaps read back; [`end_recall`](Self::end_recall) tells when that is over.
    pub fn restart(&self, is_read_back: bool) {
        if is_read_back {
            self.has_read_back.store(false, Ordering::Relaxed);
        }
        self.backend.changes.restart();
        self.hub.forget();
    }

    /// Waits until what was published before the start is known, so that a client can resume here: up to 10 s from the moment
    /// that the broker is there, and not while it is away.
    pub async fn until_log_is_read(&self) {
        if !self.is_reading_back() {
            return;
        }
        let mut state = self.state.clone();
        let State::Behind(since) = *state.borrow() else { return };
        let is_over = |state: &State| !matches!(state, State::Behind(_));
        let _ = timeout_at(since.max(Instant::now()) + READ_BACK, state.wait_for(is_over)).await;
    }

    /// Since when the log could be followed that a client has asked for at this moment; `None` while the broker is away.
    pub(super) fn log_there_since(&self, asked: Instant) -> Option<Instant> {
        match *self.state.borrow() {
            State::Current => Some(asked),
            State::Behind(since) => Some(asked.max(since)),
            State::Away => None,
        }
    }

    /// The log has been read back: a client that joins from now on is given everything that is read.
    pub fn end_recall(&self) {
        self.has_read_back.store(true, Ordering::Relaxed);
    }

    /// Waits until the server stops, and lets no client in any more.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Ends all connections, spread over a part of `within`, and returns when each one has been told.
    pub async fn close_all(&self, within: Duration) {
        let clients = self.clients.end();
        self.ended.cancel();
        let spread = within.mul_f64(SPREAD).min(CLOSED_EVERY * count(&clients));
        let goodbye = |client: &Client| {
            self.give_ticket(client);
            client.outbox.close(CloseCode::GoingAway, going_away(client.version, spread.max(RETURN)));
        };
        each(clients, spread, goodbye).await;
    }

    /// Tells all clients that triggers may have been missed: those of version 4 at once, in the order of what is published
    /// to them, the others by [`close_at_gaps`](Self::close_at_gaps). How many are to be told.
    ///
    /// Who has joined no room yet has missed nothing, and may still be given all it asks for.
    pub fn missed(&self) -> usize {
        // Something that changed their permissions may have been missed, too. First of all: who is on the way in learns of it
        // there.
        self.backend.changes.note(Whom::All, None);
        let clients = self.clients.authorized(|_| true);
        clients.iter().for_each(|client| self.rechecks.add(client, Urgency::Background));
        let (old, mut clients): (Vec<_>, Vec<_>) =
            clients.into_iter().partition(|client| client.version == Version::V3);
        let old = old.len();
        if old > 0 {
            self.gaps.send_modify(|gaps| *gaps += 1);
        }
        clients.retain(|client| client.outbox.has_joined());
        let position = self.hub.position();
        let frame = Frame::marked(v4::resync(position), Mark::All(position));
        for client in &clients {
            let _ = client.outbox.push_in_order(frame.clone()); // over the limit it closes itself, and the client comes back
            client.outbox.flush();
        }
        old + clients.len()
    }

    /// Ends the connections of 3.1's protocol whenever triggers may have been [missed](Self::missed), until `stop`: so that
    /// their clients come back and fetch what they have missed, though not all at once.
    pub async fn close_at_gaps(self: Arc<Self>, stop: CancellationToken) {
        let mut gaps = self.gaps.subscribe();
        let closing = async {
            while gaps.changed().await.is_ok() {
                let clients = self.clients.authorized(|client| client.version == Version::V3);
                info!(connections = clients.len(), "closing clients, because triggers may have been missed");
                let spread = RETURNING_EVERY * count(&clients);
                each(clients, spread, |client| client.close(CloseCode::Gap, "triggers may have been missed")).await;
            }
        };
        stop.run_until_cancelled(closing).await;
    }
}

/// The reason of a close at a stop; clients of version 4 come back at a random time within `longest`.
fn going_away(version: Version, longest: Duration) -> Cow<'static, str> {
    match version {
        Version::V3 => GOING_AWAY.into(),
        Version::V4 => v4::retry_after(longest).into(),
    }
}

fn count(clients: &[Arc<Client>]) -> u32 {
    u32::try_from(clients.len()).unwrap_or(u32::MAX)
}

/// Has `goodbye` end all of `clients` within `spread`.
async fn each(clients: Vec<Arc<Client>>, spread: Duration, goodbye: impl Fn(&Client)) {
    let (start, count) = (Instant::now(), count(&clients).max(1));
    let clients: Vec<_> = clients.iter().map(Arc::downgrade).collect(); // who goes by itself is gone
    for (at, client) in (0u32..).zip(clients) {
        sleep_until(start + spread.mul_f64(f64::from(at) / f64::from(count))).await;
        if let Some(client) = client.upgrade() {
            goodbye(&client);
        }
    }
}
