//! One client's task: it authenticates, then reads, and writes only what others could not.

use std::{ops::ControlFlow, sync::Arc};

use tokio::{
    io::Interest,
    time::{Instant, sleep_until},
};

use super::{
    Socket, WebSocket,
    early::{self, Early},
    finish::{Goodbye, failure, finish, is_too_slow, receive, receive_now},
    frame::{Event, Reader},
};
use crate::{
    backend::Credentials,
    connection::{Bootstrap, CatchUp, Connection, Connections, Due, Keepalive, Link, Place},
    hub::{Frame, Full, Outbox},
    protocol::{CloseCode, Version, client::Message},
};

/// Messages of one client that are handled before others have their turn.
const MESSAGES_AT_ONCE: usize = 64;

/// A client whose handshake is being answered.
#[derive(Debug)]
pub struct Arrival {
    /// What will be spoken.
    pub version: Version,
    /// Whether it says that it has a ticket.
    pub has_ticket: bool,
    /// What is forwarded of it.
    pub credentials: Credentials,
    /// Its place among all connections.
    pub place: Place,
    /// The request to the API about it, if that is under way already.
    pub bootstrap: Option<Bootstrap>,
}

/// Serves one client from the moment its handshake has been answered until it is gone. `received` is what the client has sent
/// behind the handshake.
///
/// The client is registered before the future is made: what only that needs would take memory as long as the connection lasts.
pub fn serve(
    socket: Socket,
    received: Vec<u8>,
    arrival: Arrival,
    connections: &Arc<Connections>,
) -> impl Future<Output = ()> + Send + use<> {
    let reader = Reader::new(connections.config.message_limit_bytes, &received);
    let Arrival { version, has_ticket, credentials, place, bootstrap } = arrival;
    let socket = WebSocket { socket, dialect: version.into() };
    let (socket, link) = connections.register(socket, version, credentials, place);
    let client = Client { socket, reader, connection: None, link };
    let bootstrap = bootstrap.map(Box::new);
    async move {
        let mut client = client;
        let goodbye = match Box::pin(client.authenticate(has_ticket, bootstrap)).await {
            ControlFlow::Continue(()) => client.converse().await,
            ControlFlow::Break(goodbye) => goodbye,
        };
        Box::pin(client.finish(goodbye)).await;
    }
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

    /// Learns who this is, and carries out what it has said until then. `Break` if the connection is over.
    async fn authenticate(&mut self, has_ticket: bool, bootstrap: Option<Box<Bootstrap>>) -> ControlFlow<Goodbye> {
        let mut early = Early::new(&self.socket.wire().socket, &mut self.reader, &self.link);
        let ticket = if has_ticket { early.ticket().await? } else { None };
        let mut connection = match early
            .during(self.link.authenticate(ticket.as_deref(), &[], bootstrap.map(|bootstrap| *bootstrap)))
            .await?
        {
            Ok(connection) => connection,
            Err(refused) => {
                self.link.turn_away(&refused);
                return ControlFlow::Break(None);
            }
        };
        for (number, message) in std::mem::take(early.messages()).into_iter().enumerate() {
            // An outbox that takes no more is closing, which ends the conversation before it begins.
            let _ = match message {
                early::Message::Text(text) => connection.on_long_message(&text).await,
                early::Message::Binary => connection.on_message(Message::NotJson),
            };
            if number % MESSAGES_AT_ONCE == MESSAGES_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        self.connection = Some(connection);
        ControlFlow::Continue(())
    }

    /// Serves an authorised client until it says goodbye or the outbox is closing.
    async fn converse(&mut self) -> Goodbye {
        let config = &self.link.connections().config;
        let mut keepalive = Keepalive::new(config.idle_timeout, config.ping_interval, Instant::now());
        let clock = sleep_until(keepalive.next());
        tokio::pin!(clock);
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
                    CatchUp::Waiting => {
                        clock.as_mut().reset(keepalive.next().min(Instant::now() + CatchUp::LOOK_AGAIN))
                    }
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
                    if keepalive.is_over(Instant::now()) && receive_now(&self.socket.wire().socket, &mut self.reader) {
                        continue;
                    }
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
            let fragments = self.reader.take_fragments() as usize;
            if fragments > 0 && connection.on_frames(fragments).is_err() {
                continue; // the outbox is closing, which ends the loop; so below
            }
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
                Ok(Some(Event::Binary(_))) => Message::NotJson,
                Ok(Some(event @ (Event::Pong | Event::Ping(_)))) => {
                    if version == Version::V4 {
                        keepalive.heard(Instant::now());
                    }
                    // An unsolicited pong costs as much as a ping.
                    if connection.on_frames(1).is_err() {
                        continue;
                    }
                    let Event::Ping(payload) = event else { continue };
                    let _ = outbox.push(Frame::Pong(payload));
                    outbox.flush();
                    continue;
                }
                Ok(Some(Event::Close(code, reason))) => return Progress::Ended(Some((code, reason))),
                Err(violation) => return Progress::Ended(Some(failure(violation, &self.reader))),
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
        finish(&self.socket.wire().socket, self.link.outbox(), &mut self.reader, goodbye).await;
    }
}

/// Does what is due by the clock, and says what that was.
fn on_clock(keepalive: &mut Keepalive, version: Version, outbox: &Outbox) -> Due {
    if is_too_slow(outbox) {
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
