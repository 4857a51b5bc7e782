//! A client on its way in, and then as one that is authorised.

use std::{sync::Arc, time::Duration};

use rand::Rng;
use tokio::{task::yield_now, time::Instant};
use tracing::debug;
use uuid::Uuid;

use super::{
    Bootstrap, CatchUp, Connections,
    clients::{Client, TooMany},
    resume::Resumed,
    session::{Confirmation, Provenance, Session},
};
use crate::{
    backend::{Admission, Moment},
    hub::{Frame, Full, Hub, Outbox, Seat},
    logging::limited,
    protocol::{
        CloseCode, Version,
        client::{Message, Wanted},
        server::{v3, v4},
    },
    room::RoomKey,
};

/// When a client may come back whose user has too many connections, in seconds, at random.
const TOO_MANY_SECONDS: std::ops::Range<f64> = 30.0..60.0;
/// Rooms that a client leaves before others have their turn: well under a millisecond.
const LEFT_AT_ONCE: usize = 256;
/// Entries of one message that are carried out before others have their turn: about a millisecond.
const SUBSCRIBED_AT_ONCE: usize = 128;

/// A client that is connected, authorised or not. Forgotten when dropped.
#[derive(Debug)]
pub struct Link {
    pub(super) client: Arc<Client>,
    pub(super) connections: Arc<Connections>,
}

/// Why a client is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The backend says no.
    NotAuthorized,
    /// The backend cannot be asked, or has too much to do.
    TryLater {
        /// When to come back.
        retry_after: Duration,
    },
    /// The user has too many connections.
    TooMany {
        /// When to come back.
        retry_after: Duration,
    },
    /// It may not join a room that it cannot do without.
    Room {
        /// Which one of those.
        number: usize,
        /// Why not, for people.
        detail: String,
    },
    /// It is gone, or the server stops.
    Gone,
}

/// Who says what a client may do.
#[derive(Debug)]
pub(super) enum Source {
    /// The backend.
    Backend {
        /// When it was asked.
        at: Instant,
    },
    /// The ticket that the client came with.
    Ticket(Provenance),
}

/// Why somebody whom the backend knows is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotAdmitted {
    /// What the backend said may not hold any more: ask again.
    Stale,
    /// The user has too many connections.
    TooMany,
    /// The client is gone, or takes nothing.
    Gone,
}

impl Link {
    /// What waits for the client.
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.client.outbox
    }

    /// What the client speaks.
    pub fn version(&self) -> Version {
        self.client.version
    }

    /// All connections, this one included.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// Counts the connection from here on, which outlives its HTTP request.
    pub fn keep_connection(&self) {
        self.client.keep_connection();
    }

    /// Asks the backend who this is, or a ticket if it has one, and welcomes the client if it may join all of `rooms`. Waits up
    /// to `HANDSHAKE_TIMEOUT`, which has begun with `bootstrap` if the backend is being asked already.
    ///
    /// # Errors
    /// When it is not let in, which it has not been told then.
    pub async fn authenticate(
        &self,
        ticket: Option<&str>,
        rooms: &[&RoomKey],
        bootstrap: Option<Bootstrap>,
    ) -> Result<Connection, Refused> {
        let (connections, client) = (&self.connections, &self.client);
        let deadline = Instant::now() + connections.config.handshake_timeout;
        let deadline = bootstrap.as_ref().map_or(deadline, |bootstrap| bootstrap.deadline);
        if let Some(ticket) = ticket {
            connections.until_log_is_read().await;
            if let Some(resumed) = connections.redeem(client, ticket) {
                let Resumed { admission, asked, provenance } = resumed;
                self.check_rooms(&admission, rooms)?;
                match self.admit(&admission, asked, Source::Ticket(provenance)) {
                    Ok(connection) => {
                        connections.check_resumed(client);
                        return Ok(connection);
                    }
                    Err(NotAdmitted::Stale) => {}
                    Err(reason) => return Err(self.not_admitted(reason)),
                }
            }
        }
        let ask = || connections.bootstrap_until(deadline, client.version, client.identity(), client.address());
        let mut bootstrap = bootstrap.unwrap_or_else(ask);
        loop {
            let answer = bootstrap.outcome().await.map_err(|error| connections.refusal(&error))?;
            self.check_rooms(&answer.admission, rooms)?;
            match self.admit(&answer.admission, answer.asked, Source::Backend { at: answer.at }) {
                Ok(connection) => return Ok(connection),
                Err(NotAdmitted::Stale) => {}
                Err(reason) => return Err(self.not_admitted(reason)),
            }
            if Instant::now() >= deadline {
                return Err(connections.refusal(&connections.waited_too_long()));
            }
            yield_now().await;
            bootstrap = ask();
        }
    }

    fn check_rooms(&self, admission: &Admission, rooms: &[&RoomKey]) -> Result<(), Refused> {
        let Some(number) = rooms.iter().position(|room| !admission.allowed.covers(room)) else { return Ok(()) };
        self.connections.metrics.connections_refused.inc("room");
        Err(Refused::Room { number, detail: admission.allowed.nearest(rooms[number]) })
    }

    /// Tells the client that it is welcome, and counts it from here on, unless the backend may say otherwise by now.
    pub(super) fn admit(
        &self,
        admission: &Admission,
        asked: Moment,
        source: Source,
    ) -> Result<Connection, NotAdmitted> {
        let (connections, client) = (&self.connections, &self.client);
        if client.outbox.is_closing() {
            return Err(NotAdmitted::Gone);
        }
        let id = client.id();
        let is_resumed = matches!(source, Source::Ticket(_));
        let provenance = match source {
            Source::Ticket(provenance) => Some(Box::new(provenance)),
            Source::Backend { at } => {
                connections.provenance(client.version, admission.user.as_deref(), Confirmation::new(at))
            }
        };
        let session = Session::new(client.version, client.outbox.clone(), admission, asked, provenance);
        // In this order: from here on, who changes the user's permissions finds it, and who has done so before is found below.
        if let Some(user) = &admission.user {
            let most = connections.config.limits.per_user;
            connections.clients.assign(client, user, most).map_err(|TooMany| NotAdmitted::TooMany)?;
        }
        let mut place = client.session();
        *place = Some(session);
        client.outbox.release(); // a hold of an earlier attempt, whose check finds no session to end it
        drop(place);
        connections.metrics.connections.inc();
        let connection = Connection { client: client.clone(), connections: connections.clone() };
        if !connections.backend.changes.none_since(asked, admission.user.as_deref(), Some(id)) {
            return Err(NotAdmitted::Stale);
        }
        debug!(connection = %id, rooms = admission.rooms.len(), user = admission.user.as_deref(), "authorised");
        connections.metrics.connections_opened.inc();
        let ticket = connections.ticket(client);
        let welcome = match client.version {
            Version::V3 => v3::welcome(&admission.rooms),
            Version::V4 => v4::welcome(&v4::Welcome {
                rooms: &admission.rooms,
                connection: id,
                position: connections.hub.position(),
                ping_interval: connections.config.ping_interval,
                limits: connections.limits(),
                ticket: ticket.as_deref(),
                is_resumed,
            }),
        };
        client.outbox.push(Frame::Text(welcome.into())).map_err(|Full| NotAdmitted::Gone)?;
        client.outbox.flush();
        let (user, address) = (admission.user.as_ref(), client.address());
        let notifier = connections.hooks.connected(id, user, &client.identity(), address);
        if let Some(session) = client.session().as_mut() {
            session.report_by(notifier);
        }
        Ok(connection)
    }

    /// What somebody is told whom the backend knows, and counts that.
    pub(super) fn not_admitted(&self, reason: NotAdmitted) -> Refused {
        if reason != NotAdmitted::TooMany {
            return Refused::Gone;
        }
        self.connections.metrics.limited.inc("connections-per-user");
        limited!(warn, "client refused: its user has MAX_CONNECTIONS_PER_USER connections");
        self.connections.metrics.connections_refused.inc("limit");
        Refused::TooMany { retry_after: random_seconds(TOO_MANY_SECONDS) }
    }

    /// Tells the client why it is not let in, and ends the connection.
    pub fn turn_away(&self, refused: &Refused) {
        match refused {
            Refused::NotAuthorized => self.refuse_for_good(),
            Refused::TryLater { retry_after } => self.send_away(*retry_after, v4::try_later),
            Refused::TooMany { retry_after } => self.send_away(*retry_after, v4::too_many_connections),
            Refused::Room { .. } => self.outbox().abandon(), // who can say it otherwise does not come here
            Refused::Gone => {}                              // its outbox is closing already
        }
    }

    /// Tells the client that the backend does not know it.
    fn refuse_for_good(&self) {
        let (frame, code, reason) = match self.version() {
            Version::V3 => (v3::REFUSED, CloseCode::Normal, ""),
            Version::V4 => (v4::NOT_AUTHORIZED, CloseCode::NotAuthorized, "not authorized"),
        };
        let outbox = self.outbox();
        let _ = outbox.push(Frame::Fixed(frame)); // a client that is gone needs no answer
        outbox.close(code, reason);
    }

    /// Tells the client when to come back. One of 3.1's has no frame for that, and takes the only one there is for the end of its
    /// session: it is closed.
    fn send_away(&self, retry_after: Duration, frame: impl FnOnce(Duration) -> String) {
        let outbox = self.outbox();
        if self.version() == Version::V4 {
            let _ = outbox.push(Frame::Text(frame(retry_after).into())); // as above
        }
        outbox.close(CloseCode::TryLater, v4::retry_after(retry_after));
    }
}

pub(super) fn random_seconds(range: std::ops::Range<f64>) -> Duration {
    Duration::from_secs_f64(rand::rng().random_range(range))
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connections.clients.remove(&self.client);
        if let Some(code) = self.outbox().close_code() {
            self.connections.metrics.connections_closed.inc(code.word());
            log_end(code, self.client.id());
        }
    }
}

/// Logs an end that a limit has brought about, or a mistake of the client.
fn log_end(code: CloseCode, connection: Uuid) {
    let reason = match code {
        CloseCode::TooSlow => "it does not read as fast as it is sent to: see OUTBOX_LIMIT",
        CloseCode::TooMany => "it sends too many messages: see MESSAGE_RATE",
        CloseCode::TooBig => "it has sent a message that is too large: see MESSAGE_LIMIT",
        CloseCode::ProtocolError | CloseCode::InvalidText => "it broke the WebSocket protocol",
        _ => return,
    };
    limited!(warn[code.word()], "client closed", %connection, reason);
}

/// An authorised client. Leaves its rooms, and is reported as gone, when dropped.
#[derive(Debug)]
pub struct Connection {
    client: Arc<Client>,
    connections: Arc<Connections>,
}

impl Connection {
    /// Carries out what the client said. Does not wait; the reply goes to the outbox.
    ///
    /// # Errors
    /// When the outbox takes no more; the connection is ending then.
    pub fn on_message(&mut self, message: Message<'_>) -> Result<(), Full> {
        self.connections.metrics.client_messages.inc();
        self.with_session(|session, connections| {
            session.count(1, connections)?;
            session.on_message(message, &self.client, connections)
        })
    }

    /// Counts frames that are no message: control frames, and fragments of a message.
    ///
    /// # Errors
    /// When the client sends too many; the connection is ending then.
    pub fn on_frames(&mut self, count: usize) -> Result<(), Full> {
        self.with_session(|session, connections| session.count(count, connections))
    }

    /// As [`on_message`](Self::on_message), for a text that asks for much; others have their turn in between.
    ///
    /// # Errors
    /// As [`on_message`](Self::on_message).
    pub async fn on_long_message(&mut self, text: &str) -> Result<(), Full> {
        let mut list = match Message::parse(text, self.client.version) {
            Message::SubscribeAll { list, .. } if let Some(list) = Wanted::list(list) => list,
            message => return self.on_message(message),
        };
        self.connections.metrics.client_messages.inc();
        self.with_session(|session, connections| session.count(list.len(), connections))?;
        while list.len() > 0 {
            self.with_session(|session, connections| {
                list.by_ref().take(SUBSCRIBED_AT_ONCE).try_for_each(|wanted| session.subscribe(wanted, connections))
            })?;
            self.client.outbox.flush();
            yield_now().await;
        }
        Ok(())
    }

    /// Whether some subscriptions are still being given what they have missed.
    pub fn is_behind(&self) -> bool {
        self.client.session().as_ref().is_some_and(Session::is_behind)
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
        self.with_session(Session::catch_up)
    }

    /// The client has given a sign of life that the backend is to be told of.
    pub fn is_there(&self) {
        if let Some(session) = self.client.session().as_ref() {
            session.is_there();
        }
    }

    /// Gives the client another ticket, if the one that it has is not of much use any more.
    pub fn renew_ticket(&self) {
        self.connections.renew_ticket(&self.client);
    }

    /// Leaves all rooms, in steps between which others have their turn, and is gone then.
    pub async fn leave(self) {
        let mut leaving = Leaving { seats: self.take_seats(), hub: self.connections.hub.clone() };
        while leaving.seats.len() > LEFT_AT_ONCE {
            let rest = leaving.seats.len() - LEFT_AT_ONCE;
            leaving.hub.leave(leaving.seats.drain(rest..), || {});
            yield_now().await;
        }
    }

    fn with_session<T>(&self, work: impl FnOnce(&mut Session, &Connections) -> Result<T, Full>) -> Result<T, Full> {
        match &mut *self.client.session() {
            Some(session) => work(session, &self.connections),
            None => Err(Full),
        }
    }

    /// Ends the session; its rooms are to be left by the caller.
    fn take_seats(&self) -> Vec<Seat> {
        let Some(mut session) = self.client.session().take() else { return Vec::new() };
        if let Some(user) = session.user() {
            self.connections.clients.unassign(&self.client, user);
        }
        session.take_seats()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop(Leaving { seats: self.take_seats(), hub: self.connections.hub.clone() });
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
