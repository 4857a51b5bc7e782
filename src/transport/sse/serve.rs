//! One client's task: it gives the client what it has missed, sends comments, and notices when the client is gone.

use std::sync::Arc;

use tokio::{
    io::Interest,
    time::{Instant, sleep_until},
};

use super::wire::EventStream;
use crate::{
    connection::{CatchUp, Connection, Link},
    hub::{Frame, Outbox},
    protocol::CloseCode,
    transport::{
        socket::Socket,
        websocket::finish::{end, is_too_slow},
    },
};

/// An authorised client whose response has begun.
pub(super) struct Client {
    /// The outbox of `link`, of which the task needs the socket.
    pub(super) stream: Arc<Outbox<EventStream>>,
    pub(super) connection: Connection,
    pub(super) link: Link,
}

impl Client {
    /// Serves the client over `socket` until its outbox is closing.
    pub(super) async fn serve(mut self, socket: Socket) {
        let stream = self.stream.clone();
        let socket = stream.wire().connect(socket);
        self.link.outbox().resume(); // the welcome waits there
        self.converse(socket).await;
        Box::pin(self.finish(socket)).await;
    }

    async fn converse(&mut self, socket: &Socket) {
        let outbox = self.link.outbox();
        let ping_interval = self.link.connections().config.ping_interval;
        let mut next_ping = Instant::now() + ping_interval;
        let clock = sleep_until(next_ping);
        tokio::pin!(clock);
        let mut has_sent_end = false;
        let mut is_level = false;
        while !outbox.is_closing() {
            if self.connection.is_behind() {
                match Box::pin(self.connection.catch_up()).await {
                    Ok(CatchUp::More) => continue,
                    Ok(CatchUp::Full) if outbox.is_empty() => continue,
                    Ok(CatchUp::Waiting) => clock.as_mut().reset(next_ping.min(Instant::now() + CatchUp::LOOK_AGAIN)),
                    Ok(CatchUp::Full | CatchUp::Done) | Err(_) => {} // a full outbox is closing
                }
            }
            if !is_level && !self.connection.is_behind() {
                self.stream.wire().level();
                is_level = true;
            }
            let is_blocked = outbox.blocked_for().is_some();
            // What a client sends behind its request is left where it is.
            let mut interest = if has_sent_end { Interest::ERROR } else { Socket::END };
            if is_blocked {
                interest |= Interest::WRITABLE;
            }
            tokio::select! {
                biased;
                () = outbox.needs_task() => {}
                ready = socket.ready(interest) => {
                    let Ok(ready) = ready else {
                        outbox.abandon();
                        break;
                    };
                    if is_blocked && !self.connection.is_behind() && ready.is_writable() {
                        outbox.resume();
                    }
                    if has_sent_end && ready.is_error() {
                        outbox.abandon();
                    } else if !has_sent_end && ready.is_read_closed() {
                        // Some clients end their side behind the request and go on reading. The kernel of one that is gone
                        // resets the connection as soon as something is sent.
                        has_sent_end = true;
                        ping(outbox);
                    }
                }
                () = &mut clock => {
                    let now = Instant::now();
                    if is_too_slow(outbox) {
                        outbox.close(CloseCode::TooSlow, "too slow");
                    } else if now >= next_ping {
                        next_ping = now + ping_interval;
                        if !is_blocked {
                            ping(outbox);
                            self.connection.is_there();
                            self.connection.renew_ticket();
                        }
                    }
                    clock.as_mut().reset(next_ping);
                }
            }
            tokio::task::consume_budget().await;
        }
    }

    /// Leaves the rooms, and ends the stream.
    async fn finish(self, socket: &Socket) {
        self.connection.leave().await;
        end(socket, self.link.outbox()).await;
    }
}

/// Sends a comment.
fn ping(outbox: &Outbox) {
    let _ = outbox.push(Frame::Ping); // over the limit it closes itself
    outbox.flush();
}
