//! The life of one client, whatever the transport: who it is, what it may do, when it has been silent for too long.

mod keepalive;
mod session;
#[cfg(test)]
mod simulation;

use std::{
    borrow::Cow,
    collections::HashMap,
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use parking_lot::Mutex;
use rand::Rng;
use tokio::{
    sync::{Semaphore, watch},
    task::yield_now,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info};
use uuid::Uuid;

pub use keepalive::{Due, Keepalive};
pub use session::CatchUp;
use session::Session;

use crate::{
    backend::{self, Admission, Backend, Event, Hooks, Notifier},
    broker::State,
    config,
    hub::{Frame, Full, Hub, Outbox, Seat, Wire},
    metrics::Metrics,
    protocol::{
        CloseCode, Version,
        client::{Message, Wanted},
        server::{v3, v4},
    },
};

/// What a client of 3.1's protocol is told at a stop.
const GOING_AWAY: &str = "going away";
/// At a stop, connections are closed at this distance if there is time.
const CLOSED_EVERY: Duration = Duration::from_millis(1);
/// The same after a gap, when they all come back, and each asks the backend.
const RETURNING_EVERY: Duration = Duration::from_millis(5);
/// Rooms that a client leaves before others have their turn: well under a millisecond.
const LEFT_AT_ONCE: usize = 256;
/// The part of `DRAIN` over which they are closed; the rest is for their goodbyes.
const SPREAD: f64 = 0.8;
/// How long a client waits for the log to be read back before it is served without.
const READ_BACK: Duration = Duration::from_secs(10);
/// The shortest time over which clients are asked to spread their return.
const RETURN: Duration = Duration::from_secs(1);
/// When a client may come back that could not be served, in seconds: at random, so that they do not come together.
const TRY_LATER_SECONDS: std::ops::Range<f64> = 1.0..5.0;

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
    open: Mutex<Open>,
    /// How far the consumer is.
    state: watch::Receiver<State>,
    /// Counts how often triggers may have been missed.
    gaps: watch::Sender<u64>,
    /// Turns to catch up: however many clients come back at once, few of them wait for a worker with everybody else.
    turns: Semaphore,
    /// The log has been read back: whoever joins now is given all that is read.
    has_read_back: AtomicBool,
}

#[derive(Debug, Default)]
struct Open {
    clients: HashMap<Uuid, Client>,
    /// The server is stopping: who comes now is sent away again.
    is_over: bool,
}

#[derive(Debug, Clone)]
struct Client {
    outbox: Arc<Outbox>,
    version: Version,
    /// It has been told that it is welcome.
    is_admitted: bool,
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
        let (tasks, open, gaps) = (TaskTracker::new(), Mutex::default(), watch::Sender::new(0));
        let turns = Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get));
        let has_read_back = AtomicBool::new(false);
        Self { hub, backend, hooks, metrics, config, tasks, open, state, gaps, turns, has_read_back }
    }

    /// A connection over `wire` that is not authorised yet, and its outbox as what it is.
    pub fn register<W: Wire + 'static>(self: &Arc<Self>, wire: W, version: Version) -> (Arc<Outbox<W>>, Link) {
        let id = Uuid::new_v4();
        let concrete = Arc::new(Outbox::new(id, wire, self.config.outbox_limit_bytes, self.metrics.clone()));
        let outbox: Arc<Outbox> = concrete.clone();
        let mut open = self.open.lock();
        open.clients.insert(id, Client { outbox: outbox.clone(), version, is_admitted: false });
        let is_over = open.is_over;
        drop(open);
        if is_over {
            outbox.close(CloseCode::GoingAway, going_away(version, RETURN));
        }
        (concrete, Link { outbox, version, connections: self.clone() })
    }

    /// How many there are, authorised or not.
    pub fn count(&self) -> usize {
        self.open.lock().clients.len()
    }

    /// Whether this instance follows the log at present.
    pub fn follows_log(&self) -> bool {
        *self.state.borrow() == State::Current
    }

    /// Whether what is in the log from before the start has not all been read yet.
    pub fn is_reading_back(&self) -> bool {
        !self.has_read_back.load(Ordering::Relaxed) && !self.follows_log()
    }

    /// The log begins anew, and is perhaps read back; [`missed`](Self::missed) tells when that is over.
    pub fn restart(&self) {
        self.has_read_back.store(false, Ordering::Relaxed);
        self.hub.forget();
    }

    /// Waits until what was published before the start is known, so that a client can resume here; not for ever.
    pub async fn until_log_is_read(&self) {
        if self.is_reading_back() {
            let mut state = self.state.clone();
            let _ = timeout(READ_BACK, state.wait_for(|state| *state != State::Behind)).await;
        }
    }

    /// Ends all connections, spread over a part of `within`, and returns when each one has been told.
    pub async fn close_all(&self, within: Duration) {
        let clients = {
            let mut open = self.open.lock();
            open.is_over = true;
            open.clients.values().cloned().collect::<Vec<_>>()
        };
        let spread = within.mul_f64(SPREAD).min(CLOSED_EVERY * count(&clients));
        close(clients, spread, CloseCode::GoingAway, |version| going_away(version, spread.max(RETURN))).await;
    }

    /// Tells all clients that triggers may have been missed: those of version 4 at once, in the order of what is published
    /// to them, the others by [`close_at_gaps`](Self::close_at_gaps). How many are to be told.
    ///
    /// Who has joined no room yet has missed nothing, and may still be given all it asks for.
    pub fn missed(&self) -> usize {
        self.has_read_back.store(true, Ordering::Relaxed);
        let old = self.admitted(|version| version == Version::V3).len();
        if old > 0 {
            self.gaps.send_modify(|gaps| *gaps += 1);
        }
        let mut clients = self.admitted(|version| version == Version::V4);
        clients.retain(|client| client.outbox.has_joined());
        let frame = Frame::Text(v4::resync(self.hub.position()).into());
        for client in &clients {
            let _ = client.outbox.push(frame.clone()); // over the limit it closes itself, and the client comes back
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
                let clients = self.admitted(|version| version == Version::V3);
                info!(connections = clients.len(), "closing clients, because triggers may have been missed");
                let spread = RETURNING_EVERY * count(&clients);
                close(clients, spread, CloseCode::Gap, |_| "triggers may have been missed".into()).await;
            }
        };
        stop.run_until_cancelled(closing).await;
    }

    fn admitted(&self, of: impl Fn(Version) -> bool) -> Vec<Client> {
        let open = self.open.lock();
        open.clients.values().filter(|client| client.is_admitted && of(client.version)).cloned().collect()
    }
}

/// The reason of a close at a stop; clients of version 4 come back at a random time within `longest`.
fn going_away(version: Version, longest: Duration) -> Cow<'static, str> {
    match version {
        Version::V3 => GOING_AWAY.into(),
        Version::V4 => v4::retry_after(longest).into(),
    }
}

fn count(clients: &[Client]) -> u32 {
    u32::try_from(clients.len()).unwrap_or(u32::MAX)
}

/// Closes all of `clients` within `spread`.
async fn close(clients: Vec<Client>, spread: Duration, code: CloseCode, reason: impl Fn(Version) -> Cow<'static, str>) {
    let (start, count) = (Instant::now(), count(&clients).max(1));
    for (at, client) in (0u32..).zip(clients) {
        sleep_until(start + spread.mul_f64(f64::from(at) / f64::from(count))).await;
        client.outbox.close(code, reason(client.version));
    }
}

/// A client that is connected, authorised or not. Forgotten when dropped.
#[derive(Debug)]
pub struct Link {
    outbox: Arc<Outbox>,
    version: Version,
    connections: Arc<Connections>,
}

impl Link {
    /// What waits for the client.
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// What the client speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// All connections, this one included.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// Tells the client that it is welcome, and counts it from here on. The backend is told with `headers`.
    ///
    /// # Errors
    /// When the client is gone already, or takes nothing.
    pub fn admit(&self, admission: Admission, headers: &HeaderMap) -> Result<Connection, Full> {
        let (connections, id) = (&self.connections, self.outbox.connection());
        debug!(connection = %id, rooms = admission.rooms.len(), user = admission.user, "authorised");
        connections.metrics.connections.inc();
        connections.metrics.connections_opened.inc();
        let connection = Connection {
            session: Session::new(self.version, self.outbox.clone(), admission.allowed),
            notifier: connections.hooks.connected(headers),
            connections: connections.clone(),
        };
        let welcome = match self.version {
            Version::V3 => v3::welcome(&admission.rooms),
            Version::V4 => v4::welcome(&v4::Welcome {
                rooms: &admission.rooms,
                connection: id,
                position: connections.hub.position(),
                ping_interval: connections.config.ping_interval,
                message_limit_bytes: connections.config.message_limit_bytes,
            }),
        };
        self.outbox.push(Frame::Text(welcome.into()))?;
        if let Some(client) = connections.open.lock().clients.get_mut(&id) {
            client.is_admitted = true;
        }
        self.outbox.flush();
        Ok(connection)
    }

    /// Tells the client why it is not served, and ends the connection.
    pub fn refuse(&self, error: &backend::Error) {
        let (frame, code, reason) = match (self.version, error) {
            (Version::V3, _) => (Frame::Fixed(v3::REFUSED), CloseCode::Normal, Cow::Borrowed("")),
            (Version::V4, backend::Error::Refused(status)) if !status.is_server_error() => {
                (Frame::Fixed(v4::NOT_AUTHORIZED), CloseCode::NotAuthorized, "not authorized".into())
            }
            (Version::V4, _) => {
                let later = Duration::from_secs_f64(rand::rng().random_range(TRY_LATER_SECONDS));
                (Frame::Text(v4::try_later(later).into()), CloseCode::TryLater, v4::retry_after(later).into())
            }
        };
        // A client that is gone needs no answer.
        let _ = self.outbox.push(frame);
        self.outbox.close(code, reason);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connections.open.lock().clients.remove(&self.outbox.connection());
        if let Some(code) = self.outbox.close_code() {
            self.connections.metrics.connections_closed.inc(code.word());
        }
    }
}

/// An authorised client. Leaves its rooms, and is reported as gone, when dropped.
#[derive(Debug)]
pub struct Connection {
    session: Session,
    notifier: Option<Notifier>,
    connections: Arc<Connections>,
}

impl Connection {
    /// Carries out what the client said. Does not wait; the reply goes to the outbox.
    ///
    /// # Errors
    /// When the outbox takes no more; the connection is ending then.
    pub fn on_message(&mut self, message: Message<'_>) -> Result<(), Full> {
        self.connections.metrics.client_messages.inc();
        if let (Message::Ping, Some(notifier)) = (&message, &self.notifier) {
            notifier.notify(Event::Ping);
        }
        self.session.on_message(message, &self.connections)
    }

    /// As [`on_message`](Self::on_message), for a text that asks for much; others have their turn in between.
    ///
    /// # Errors
    /// As [`on_message`](Self::on_message).
    pub async fn on_long_message(&mut self, text: &str) -> Result<(), Full> {
        match Message::parse(text, self.session.version()) {
            Message::SubscribeAll { list, .. } if let Ok(list) = Wanted::list(list) => {
                self.connections.metrics.client_messages.inc();
                self.session.subscribe_all(list, &self.connections).await
            }
            message => self.on_message(message),
        }
    }

    /// Whether some subscriptions are still being given what they have missed.
    pub fn is_behind(&self) -> bool {
        self.session.is_behind()
    }

    /// Goes on with them, when it is this connection's turn.
    ///
    /// # Errors
    /// When the outbox takes no more; the connection is ending then.
    pub async fn catch_up(&mut self) -> Result<CatchUp, Full> {
        let turns = &self.connections.turns;
        if turns.available_permits() > 0 {
            // Nobody else catches up. Where others do, waiting for the turn is enough: a yield for each would make a queue of them
            // that everybody else has to wait behind.
            yield_now().await;
        }
        let _turn = turns.acquire().await; // fails only when closed, which it never is
        self.session.catch_up(&self.connections)
    }

    /// Leaves all rooms, in steps between which others have their turn, and is gone then.
    pub async fn leave(mut self) {
        let mut leaving = Leaving { seats: self.session.take_seats(), hub: self.connections.hub.clone() };
        while leaving.seats.len() > LEFT_AT_ONCE {
            let rest = leaving.seats.len() - LEFT_AT_ONCE;
            leaving.hub.leave(leaving.seats.drain(rest..), || {});
            yield_now().await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop(Leaving { seats: self.session.take_seats(), hub: self.connections.hub.clone() });
        self.connections.metrics.connections.dec();
    }
}

/// Subscriptions that are on their way out, all at once at the latest when this is dropped.
struct Leaving {
    seats: Vec<Seat>,
    hub: Arc<Hub>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.hub.leave(std::mem::take(&mut self.seats), || {});
    }
}
