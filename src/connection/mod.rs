//! The life of one client, whatever the transport: who it is, what it may do, when it has been silent for too long.

mod keepalive;
mod session;

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::HeaderMap;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::yield_now,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info};
use uuid::Uuid;

pub use keepalive::{Due, Keepalive};
use session::Session;

use crate::{
    backend::{Admission, Backend, Event, Hooks, Notifier},
    config,
    hub::{Frame, Full, Hub, Outbox, Seat, Wire},
    metrics::Metrics,
    protocol::{CloseCode, client::Message, server},
};

/// What a client is told at a stop.
const GOING_AWAY: &str = "going away";
/// At a stop, connections are closed at this distance if there is time.
const CLOSED_EVERY: Duration = Duration::from_millis(1);
/// The same after a gap, when they all come back, and each asks the backend.
const RETURNING_EVERY: Duration = Duration::from_millis(5);
/// Rooms that a client leaves before others have their turn: well under a millisecond.
const LEFT_AT_ONCE: usize = 256;
/// The part of `DRAIN` over which they are closed; the rest is for their goodbyes.
const SPREAD: f64 = 0.8;

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
}

#[derive(Debug, Default)]
struct Open {
    outboxes: HashMap<Uuid, Arc<Outbox>>,
    /// The server is stopping: who comes now is sent away again.
    is_over: bool,
}

impl Connections {
    /// No connections yet.
    pub fn new(
        hub: Arc<Hub>,
        backend: Arc<Backend>,
        hooks: Arc<Hooks>,
        metrics: Arc<Metrics>,
        config: config::Connection,
    ) -> Self {
        Self { hub, backend, hooks, metrics, config, tasks: TaskTracker::new(), open: Mutex::default() }
    }

    /// A connection over `wire` that is not authorised yet, and its outbox as what it is.
    pub fn register<W: Wire + 'static>(self: &Arc<Self>, wire: W) -> (Arc<Outbox<W>>, Link) {
        let id = Uuid::new_v4();
        let concrete = Arc::new(Outbox::new(wire, self.config.outbox_limit_bytes, self.metrics.clone()));
        let outbox: Arc<Outbox> = concrete.clone();
        let mut open = self.open.lock();
        open.outboxes.insert(id, outbox.clone());
        let is_over = open.is_over;
        drop(open);
        if is_over {
            outbox.close(CloseCode::GoingAway, GOING_AWAY);
        }
        (concrete, Link { id, outbox, connections: self.clone() })
    }

    /// How many there are, authorised or not.
    pub fn count(&self) -> usize {
        self.open.lock().outboxes.len()
    }

    /// Ends all connections, spread over a part of `within`, and returns when each one has been told.
    pub async fn close_all(&self, within: Duration) {
        let outboxes = {
            let mut open = self.open.lock();
            open.is_over = true;
            open.all()
        };
        let spread = within.mul_f64(SPREAD).min(CLOSED_EVERY * count(&outboxes));
        close(outboxes, spread, CloseCode::GoingAway, GOING_AWAY).await;
    }

    /// Ends the connections that are there at each of `gaps`, until `stop`: so that their clients come back and fetch what
    /// they have missed, though not all at once.
    pub async fn close_at_gaps(self: Arc<Self>, mut gaps: watch::Receiver<u64>, stop: CancellationToken) {
        let closing = async {
            while gaps.changed().await.is_ok() {
                let outboxes = self.open.lock().all();
                info!(connections = outboxes.len(), "closing clients, because triggers may have been missed");
                let spread = RETURNING_EVERY * count(&outboxes);
                close(outboxes, spread, CloseCode::Gap, "triggers may have been missed").await;
            }
        };
        if stop.run_until_cancelled(closing).await.is_some() {
            stop.cancelled().await; // there is no broker that could tell of gaps
        }
    }
}

impl Open {
    fn all(&self) -> Vec<Arc<Outbox>> {
        self.outboxes.values().cloned().collect()
    }
}

fn count(outboxes: &[Arc<Outbox>]) -> u32 {
    u32::try_from(outboxes.len()).unwrap_or(u32::MAX)
}

/// Closes all of `outboxes` within `spread`.
async fn close(outboxes: Vec<Arc<Outbox>>, spread: Duration, code: CloseCode, reason: &'static str) {
    let (start, count) = (Instant::now(), count(&outboxes).max(1));
    for (at, outbox) in (0u32..).zip(outboxes) {
        sleep_until(start + spread.mul_f64(f64::from(at) / f64::from(count))).await;
        outbox.close(code, reason);
    }
}

/// A client that is connected, authorised or not. Forgotten when dropped.
#[derive(Debug)]
pub struct Link {
    id: Uuid,
    outbox: Arc<Outbox>,
    connections: Arc<Connections>,
}

impl Link {
    /// What waits for the client.
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
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
        let connections = &self.connections;
        debug!(connection = %self.id, rooms = admission.rooms.len(), user = admission.user, "authorised");
        connections.metrics.connections.inc();
        connections.metrics.connections_opened.inc();
        let connection = Connection {
            session: Session::new(self.id, self.outbox.clone(), admission.allowed),
            notifier: connections.hooks.connected(headers),
            connections: connections.clone(),
        };
        self.outbox.push(Frame::Text(server::welcome(&admission.rooms).into()))?;
        self.outbox.flush();
        Ok(connection)
    }

    /// Tells the client that it is not authorised, and ends the connection.
    pub fn refuse(&self) {
        // A client that is gone needs no answer.
        let _ = self.outbox.push(Frame::Fixed(server::REFUSED));
        self.outbox.close(CloseCode::Normal, "");
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connections.open.lock().outboxes.remove(&self.id);
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
}

impl Connection {
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
