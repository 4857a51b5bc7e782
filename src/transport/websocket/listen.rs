//! A socket that only listens: what comes for a connection of Channelstream's is written to it, and what it says is of no
//! interest but as a sign of life.

use std::{net::IpAddr, ops::ControlFlow, pin::pin, sync::Arc, time::Duration};

use tokio::{
    io::Interest,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use uuid::Uuid;

use super::{
    Socket, WebSocket,
    early::Early,
    finish::{Goodbye, failure, finish, is_too_slow, receive},
    frame::{Event, Reader},
};
use crate::{
    backend::Identity,
    channelstream::{Attached, By, Channelstream, Listening},
    connection::{Connections, Link, Place, Rate, TooFast},
    hub::{Frame, Outbox},
    protocol::{CloseCode, Dialect, Version},
};

/// How often a client is sent an empty list, so that it sees that the connection is alive.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long a client that has gone already may take to be listened for.
const GONE_DEADLINE: Duration = Duration::from_secs(1);
/// Messages of one client that are handled before others have their turn.
const MESSAGES_AT_ONCE: usize = 64;

/// A socket that listens for a connection of Channelstream's.
#[derive(Debug)]
pub struct ListenerArrival {
    /// The connection.
    pub connection: Uuid,
    /// The last frame that there was before the handshake was answered.
    pub since: u64,
    /// Its place among all connections.
    pub place: Place,
}

/// Serves a socket that listens, from the moment its handshake has been answered until it is gone. `received` is what the client
/// has sent behind the handshake.
pub async fn listen(
    socket: Socket,
    received: Vec<u8>,
    arrival: ListenerArrival,
    channelstream: Arc<Channelstream>,
    connections: Arc<Connections>,
) {
    let ListenerArrival { connection, since, place } = arrival;
    let address = place.address();
    let reader = Reader::new(connections.config.message_limit_bytes, &received);
    let socket = WebSocket { socket, dialect: Dialect::Channelstream };
    let (socket, link) = connections.register(socket, Version::V3, Identity::nobody(), place);
    drop((received, connections));
    let mut client = Client { socket, reader, link };
    let listening = client.attach(connection, since, address, &channelstream).await;
    drop(channelstream);
    let goodbye = match &listening {
        ControlFlow::Continue(listening) => client.converse(listening).await,
        ControlFlow::Break(goodbye) => goodbye.clone(),
    };
    drop(listening); // the connection is over, whatever becomes of the last frames
    Box::pin(finish(&client.socket.wire().socket, client.link.outbox(), &mut client.reader, goodbye)).await;
}

struct Client {
    /// The outbox of `link`, of which the task needs the socket.
    socket: Arc<Outbox<WebSocket>>,
    reader: Reader,
    link: Link,
}

impl Client {
    /// Has what comes for the connection put into the outbox. `Break` if that cannot be, or the client is gone.
    async fn attach(
        &mut self,
        connection: Uuid,
        since: u64,
        address: Option<IpAddr>,
        channelstream: &Arc<Channelstream>,
    ) -> ControlFlow<Goodbye, Listening> {
        let outbox = self.link.outbox();
        let mut early = Early::new(&self.socket.wire().socket, &mut self.reader, &self.link);
        let mut attaching = pin!(channelstream.attach(connection, By::Socket, outbox.clone(), since, address));
        let attached = match early.during(attaching.as_mut()).await {
            ControlFlow::Continue(attached) => attached,
            ControlFlow::Break(goodbye) => {
                // Its connection ends with it, at once and not after 15 s of silence: for that it has to have listened.
                let _ = timeout(GONE_DEADLINE, attaching).await;
                return ControlFlow::Break(goodbye);
            }
        };
        self.link.connections().metrics.client_messages.inc_by(early.messages().len() as u64);
        match attached {
            Ok(Attached::Listening(listening)) => return ControlFlow::Continue(listening),
            Ok(Attached::Unknown | Attached::Occupied) => outbox.close(CloseCode::Normal, ""),
            Err(_) => outbox.close(CloseCode::TryLater, ""),
        }
        ControlFlow::Break(None)
    }

    /// Serves the client until it says goodbye or the outbox is closing.
    async fn converse(&mut self, listening: &Listening) -> Goodbye {
        let mut beats = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (socket, outbox, connections) = (&self.socket.wire().socket, self.link.outbox(), self.link.connections());
        let mut rate = Rate::new(Instant::now());
        loop {
            let mut handled = 0;
            while !outbox.is_closing() {
                handled += 1;
                if handled % MESSAGES_AT_ONCE == 0 {
                    tokio::task::yield_now().await;
                }
                let frames = self.reader.take_fragments() as usize + usize::from(handled > 1);
                let a_second = connections.config.limits.messages_a_second;
                if let Err(TooFast) = rate.count(frames, a_second, Instant::now()) {
                    connections.close_as_too_fast(outbox);
                    break;
                }
                match self.reader.next_event() {
                    Ok(None) => break,
                    Ok(Some(Event::Ping(payload))) => {
                        let _ = outbox.push(Frame::Pong(payload)); // over the limit it has closed itself
                        outbox.flush();
                    }
                    Ok(Some(Event::Text(_) | Event::Binary(_))) => {
                        connections.metrics.client_messages.inc();
                    }
                    Ok(Some(Event::Pong)) => {}
                    Ok(Some(Event::Close(code, reason))) => return Some((code, reason)),
                    Err(violation) => return Some(failure(violation, &self.reader)),
                }
            }
            if outbox.is_closing() {
                return None;
            }
            let is_blocked = outbox.blocked_for().is_some();
            let interest = if is_blocked { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            tokio::select! {
                biased;
                () = outbox.needs_task() => {}
                () = listening.ended() => outbox.close(CloseCode::Normal, ""),
                ready = socket.ready(interest) => {
                    if is_blocked && ready.as_ref().is_ok_and(|ready| ready.is_writable()) {
                        outbox.resume();
                    }
                    if ready.is_err() || ready.is_ok_and(|ready| ready.is_readable() && !receive(socket, &mut self.reader)) {
                        outbox.abandon();
                    }
                }
                _ = beats.tick() => {
                    if is_too_slow(outbox) {
                        outbox.close(CloseCode::TooSlow, "too slow");
                    } else {
                        let _ = outbox.push(Frame::Fixed("[]"));
                        outbox.flush();
                    }
                }
            }
            tokio::task::consume_budget().await;
        }
    }
}
