//! One client's task: it authenticates, then reads, and writes only what others could not.

use std::{borrow::Cow, sync::Arc, time::Duration};

use hyper::upgrade::OnUpgrade;
use tokio::{
    io::Interest,
    time::{Instant, interval, sleep_until, timeout_at},
};

use super::{
    Socket, WebSocket,
    finish::{Goodbye, WRITE_DEADLINE, finish, receive, wait_for_end},
    frame::{Event, Reader, Violation},
    upgraded,
};
use crate::{
    backend::Identity,
    connection::{CatchUp, Connection, Connections, Due, Keepalive, Link, Place},
    hub::{Frame, Full, Outbox},
    protocol::{
        CloseCode, Version,
        client::{self, Message},
    },
};

/// Messages of one client that are handled before others have their turn.
const MESSAGES_AT_ONCE: usize = 64;
/// When to look again whether a position is known by now.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a client that has a ticket may take to show it.
const FIRST_MESSAGE_DEADLINE: Duration = Duration::from_secs(5);

/// A client whose handshake is being answered.
#[derive(Debug)]
pub struct Arrival {
    /// What will be spoken.
    pub version: Version,
    /// Whether it says that it has a ticket.
    pub has_ticket: bool,
    /// What is passed on of it.
    pub identity: Identity,
    /// Its place among all connections.
    pub place: Place,
}

/// Serves one client from the moment its handshake has been answered until it is gone.
pub async fn serve(upgrade: OnUpgrade, arrival: Arrival, connections: Arc<Connections>) {
    let Some((socket, received)) = upgraded(upgrade).await else { return };
    let reader = Reader::new(connections.config.message_limit_bytes, &received);
    let Arrival { version, has_ticket, identity, place } = arrival;
    let socket = WebSocket { socket, dialect: version.into() };
    let (socket, link) = connections.register(socket, version, identity, place);
    drop((received, connections));
    let mut client = Client { socket, reader, connection: None, link };
    Box::pin(client.authenticate(has_ticket)).await;
    let goodbye = client.converse().await;
    Box::pin(client.finish(goodbye)).await;
}

/// How far a round of messages got.
#[derive(Debug)]
enum Progress {
    /// All that is there is handled.
    Done,
    /// There may be more.
    More,
    /// Here is a message with much to do.
    Many(Box<str>),
    /// All that is there is handled, and there are subscriptions that have not caught up.
    Behind,
    /// Nothing more of the client counts.
    Ended(Goodbye),
}

/// One client. What only its beginning and its end need is boxed: the rest is there as long as the client is.
struct Client {
    /// The outbox of `link`, of which the task needs the socket.
    socket: Arc<Outbox<WebSocket>>,
    reader: Reader,
    /// There as long as the client is authorised.
    connection: Option<Connection>,
    link: Link,
}

impl Client {
    fn outbox(&self) -> &Arc<Outbox> {
        self.link.outbox()
    }

    fn socket(&self) -> &Socket {
        &self.socket.wire().socket
    }

    /// Learns who this is. When it is nobody, or gone, the outbox is closing afterwards.
    async fn authenticate(&mut self, has_ticket: bool) {
        let first = if has_ticket { self.first_message().await } else { None };
        let ticket = first.as_deref().and_then(client::ticket);
        let mut pings = interval(self.link.connections().config.ping_interval);
        pings.reset();
        let admission = self.link.authenticate(ticket, &[]);
        tokio::pin!(admission);
        loop {
            tokio::select! {
                admitted = &mut admission => match admitted {
                    Ok(connection) => {
                        self.connection = Some(connection);
                        break;
                    }
                    Err(refused) => return self.link.turn_away(&refused),
                },
                () = self.link.outbox().needs_task() => {
                    if self.link.outbox().is_closing() {
                        return; // the server is stopping, or has been told to end it
                    }
                }
                () = wait_for_end(&self.socket.wire().socket, &mut self.reader) => {
                    self.link.connections().metrics.connections_refused.inc("gone");
                    return self.link.outbox().abandon();
                }
                // Whoever is in between must not take a long wait for the end.
                _ = pings.tick() => {
                    let _ = self.link.outbox().push(Frame::Ping);
                    self.link.outbox().flush();
                }
            }
        }
        if let (Some(other), Some(connection)) = (first.as_deref().filter(|_| ticket.is_none()), &mut self.connection) {
            let _ = connection.on_long_message(other).await;
        }
    }

    /// What the client says first of all; not waited for for long.
    async fn first_message(&mut self) -> Option<Box<str>> {
        let deadline = Instant::now() + FIRST_MESSAGE_DEADLINE;
        loop {
            match self.reader.next_event() {
                Ok(Some(Event::Text(text))) => return Some(text.into()),
                Ok(Some(Event::Ping(_) | Event::Pong)) => {}
                // All else can wait until it is known who says it, though not be read again: it ends the connection.
                Ok(Some(Event::Binary | Event::Close(..))) | Err(_) => {
                    self.outbox().abandon();
                    return None;
                }
                Ok(None) => match timeout_at(deadline, self.socket().ready(Interest::READABLE)).await {
                    Ok(Ok(_)) if self.receive() => {}
                    Ok(_) => {
                        self.outbox().abandon();
                        return None;
                    }
                    Err(_) => return None,
                },
            }
        }
    }

    /// Serves an authorised client until it says goodbye or the outbox is closing.
    async fn converse(&mut self) -> Goodbye {
        let config = &self.link.connections().config;
        let mut keepalive = Keepalive::new(config.idle_timeout, config.ping_interval, Instant::now());
        let clock = sleep_until(keepalive.next());
        tokio::pin!(clock);
        // What came before the welcome is answered after it.
        loop {
            match self.handle_messages(&mut keepalive) {
                Progress::Ended(goodbye) => return goodbye,
                Progress::More => {
                    // A client that always has more to say must not keep this worker from the others.
                    tokio::task::yield_now().await;
                    continue;
                }
                Progress::Done => {}
                Progress::Many(message) => {
                    if let Some(connection) = &mut self.connection {
                        let _ = Box::pin(connection.on_long_message(&message)).await;
                    }
                    continue;
                }
                Progress::Behind => match Box::pin(self.catch_up()).await {
                    CatchUp::More => continue,
                    CatchUp::Waiting => clock.as_mut().reset(keepalive.next().min(Instant::now() + LOOK_AGAIN)),
                    CatchUp::Full | CatchUp::Done => {}
                },
            }
            let is_blocked = self.outbox().blocked_for().is_some();
            let interest = if is_blocked { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            tokio::select! {
                biased;
                () = self.link.outbox().needs_task() => {}
                ready = self.socket().ready(interest) => {
                    // Who is behind writes when it is its turn.
                    let is_behind = self.connection.as_ref().is_some_and(Connection::is_behind);
                    if is_blocked && !is_behind && ready.as_ref().is_ok_and(|ready| ready.is_writable()) {
                        self.outbox().resume();
                    }
                    if ready.is_err() || ready.is_ok_and(|ready| ready.is_readable() && !self.receive()) {
                        self.outbox().abandon();
                    }
                }
                () = &mut clock => {
                    if on_clock(&mut keepalive, self.link.version(), self.outbox()) == Due::Ping
                        && let Some(connection) = &self.connection
                    {
                        connection.renew_ticket();
                    }
                    clock.as_mut().reset(keepalive.next());
                }
            }
            tokio::task::consume_budget().await;
        }
    }

    /// Handles complete messages, though not too many at once.
    fn handle_messages(&mut self, keepalive: &mut Keepalive) -> Progress {
        let (outbox, version) = (self.link.outbox(), self.link.version());
        let mut handled = 0;
        while let Some(connection) = self.connection.as_mut().filter(|_| !outbox.is_closing()) {
            if handled == MESSAGES_AT_ONCE {
                return Progress::More;
            }
            handled += 1;
            let message = match self.reader.next_event() {
                Ok(None) if connection.is_behind() => return Progress::Behind,
                Ok(None) => return Progress::Done,
                Ok(Some(Event::Text(text))) => match Message::parse(text, version) {
                    Message::SubscribeAll { .. } => {
                        keepalive.heard(Instant::now());
                        return Progress::Many(text.into());
                    }
                    message => message,
                },
                Ok(Some(Event::Binary)) => Message::NotJson,
                Ok(Some(event @ (Event::Pong | Event::Ping(_)))) => {
                    if version == Version::V4 {
                        keepalive.heard(Instant::now());
                    }
                    let Event::Ping(payload) = event else { continue };
                    // Over the limit the outbox closes itself, which ends the loop; so below.
                    let _ = outbox.push(Frame::Pong(payload));
                    outbox.flush();
                    continue;
                }
                Ok(Some(Event::Close(code, reason))) => return Progress::Ended(Some((code, reason))),
                Err(Violation(code)) => return Progress::Ended(Some((code, Cow::Borrowed("")))),
            };
            keepalive.heard(Instant::now());
            let _ = connection.on_message(message);
        }
        Progress::Ended(None)
    }

    /// Gives the client some of what it has missed.
    async fn catch_up(&mut self) -> CatchUp {
        let Some(connection) = &mut self.connection else { return CatchUp::Done };
        match connection.catch_up().await {
            Ok(CatchUp::Full) if self.outbox().is_empty() => CatchUp::More,
            Ok(outcome) => outcome,
            Err(Full) => CatchUp::Done, // the outbox is closing, which the next round notices
        }
    }

    /// Reads what has arrived. Whether the client is still there.
    fn receive(&mut self) -> bool {
        receive(&self.socket.wire().socket, &mut self.reader)
    }

    /// Leaves the rooms, and says goodbye.
    async fn finish(mut self, goodbye: Goodbye) {
        if let Some(connection) = self.connection.take() {
            connection.leave().await; // out of the books before the answer is sent
        }
        finish(&self.socket, self.outbox(), goodbye).await;
    }
}

/// Does what is due by the clock, and says what that was.
fn on_clock(keepalive: &mut Keepalive, version: Version, outbox: &Outbox) -> Due {
    if outbox.blocked_for().is_some_and(|blocked| blocked >= WRITE_DEADLINE) {
        outbox.close(CloseCode::TooSlow, "too slow");
        return Due::Nothing;
    }
    let due = keepalive.due(Instant::now());
    match due {
        Due::Nothing => {}
        Due::Idle if version == Version::V4 => outbox.close(CloseCode::Idle, "idle"),
        Due::Idle => outbox.close(CloseCode::Normal, ""),
        Due::Ping => {
            // Over the limit the outbox has closed itself, which the next round notices.
            let _ = outbox.push(Frame::Ping);
            outbox.flush();
        }
    }
    due
}
