//! What a client sends before it is served.
//!
//! Authentication may take minutes. Meanwhile pings are answered, and a close frame or the end of the stream ends the
//! connection, so that nobody waits for a client that is gone. Messages are kept in order, up to a limit.

use std::{collections::VecDeque, future::Future, ops::ControlFlow, time::Duration};

use tokio::{
    io::Interest,
    task::yield_now,
    time::{Instant, interval, timeout_at},
};

use super::{
    Socket,
    finish::{Goodbye, failure, receive},
    frame::{Event, Reader},
};
use crate::{
    connection::{Link, Rate, TooFast},
    hub::Frame,
    protocol::client,
};

/// Bytes kept of one client, twice as many as a ticket has at most. While so many are kept no more are read, though the end of the stream is still noticed.
const LIMIT_BYTES: usize = 64 * 1024;
/// Frames of one client that are handled before other clients have their turn.
const FRAMES_AT_ONCE: usize = 64;
/// How long a client that has announced a ticket may take to show it.
const FIRST_MESSAGE_DEADLINE: Duration = Duration::from_secs(5);

/// A message that waits until its sender is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// A text, or a binary message that holds text.
    Text(Box<str>),
    /// A binary message that holds no text.
    Binary,
}

/// How long to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// There is a message, or the beginning of one that is longer than what is kept, and so than any ticket.
    First,
    /// The connection is over.
    Over,
}

/// A client that is not served yet.
pub(super) struct Early<'a> {
    socket: &'a Socket,
    reader: &'a mut Reader,
    link: &'a Link,
    messages: VecDeque<Message>,
    /// What they take.
    bytes: usize,
    rate: Rate,
}

impl<'a> Early<'a> {
    pub(super) fn new(socket: &'a Socket, reader: &'a mut Reader, link: &'a Link) -> Self {
        Self { socket, reader, link, messages: VecDeque::new(), bytes: 0, rate: Rate::new(Instant::now()) }
    }

    /// Returns the messages so far, in order.
    pub(super) fn messages(&mut self) -> &mut VecDeque<Message> {
        &mut self.messages
    }

    /// Waits for a ticket, which is the first message if there is one, though not for long. `Break` if the connection is over.
    pub(super) async fn ticket(&mut self) -> ControlFlow<Goodbye, Option<String>> {
        self.first_message().await?;
        let ticket = match self.messages.front() {
            Some(Message::Text(text)) => client::ticket(text).map(str::to_owned),
            _ => None,
        };
        if ticket.is_some() {
            self.messages.pop_front();
            self.bytes = 0; // nothing behind it has been looked at
        }
        ControlFlow::Continue(ticket)
    }

    async fn first_message(&mut self) -> ControlFlow<Goodbye> {
        let (deadline, outbox) = (Instant::now() + FIRST_MESSAGE_DEADLINE, self.link.outbox());
        let waiting = async {
            loop {
                tokio::select! {
                    () = outbox.needs_task() => {
                        if outbox.is_closing() {
                            return ControlFlow::Break(None);
                        }
                    }
                    outcome = self.read(Until::First) => return outcome,
                }
            }
        };
        timeout_at(deadline, waiting).await.unwrap_or(ControlFlow::Continue(()))
    }

    /// Serves the client's control frames until `work` is done, and returns its outcome. `Break` if the connection is over
    /// before.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> ControlFlow<Goodbye, T> {
        let (link, outbox) = (self.link, self.link.outbox());
        let mut pings = interval(link.connections().config.ping_interval);
        pings.reset();
        tokio::pin!(work);
        loop {
            tokio::select! {
                outcome = &mut work => return ControlFlow::Continue(outcome),
                // The server is stopping, or has been told to end the connection; or writing is blocked, which `read` looks at.
                () = outbox.needs_task() => {
                    if outbox.is_closing() {
                        return ControlFlow::Break(None);
                    }
                }
                outcome = self.read(Until::Over) => {
                    if let ControlFlow::Break(goodbye) = outcome {
                        link.connections().metrics.connections_refused.inc("gone");
                        return ControlFlow::Break(goodbye);
                    }
                }
                // Proxies end connections on which nothing is sent.
                _ = pings.tick() => {
                    let _ = outbox.push(Frame::Ping); // over the limit it closes itself
                    outbox.flush();
                }
            }
        }
    }

    /// Reads until then. `Break` if the connection is over. Nothing is lost when this is dropped.
    async fn read(&mut self, until: Until) -> ControlFlow<Goodbye> {
        let outbox = self.link.outbox();
        loop {
            while self.handle_frames(until)? {
                yield_now().await;
            }
            if until == Until::First && (!self.messages.is_empty() || !self.has_room()) {
                return ControlFlow::Continue(());
            }
            let mut interest = if self.has_room() { Interest::READABLE } else { Socket::END };
            if outbox.blocked_for().is_some() {
                interest |= Interest::WRITABLE;
            }
            let Ok(ready) = self.socket.ready(interest).await else { return self.gone() };
            if ready.is_writable() {
                outbox.resume();
            }
            let is_there = if self.has_room() {
                !ready.is_readable() || receive(self.socket, self.reader)
            } else {
                !ready.is_read_closed()
            };
            if !is_there {
                return self.gone();
            }
        }
    }

    /// Handles complete frames until then, though not too many at once. Returns whether there may be more.
    fn handle_frames(&mut self, until: Until) -> ControlFlow<Goodbye, bool> {
        let outbox = self.link.outbox();
        for _ in 0..FRAMES_AT_ONCE {
            if !self.has_room() || (until == Until::First && !self.messages.is_empty()) {
                return ControlFlow::Continue(false);
            }
            let mut count = self.reader.take_fragments() as usize;
            match self.reader.next_event() {
                Ok(None) => {
                    self.count(count)?;
                    return ControlFlow::Continue(false);
                }
                Ok(Some(Event::Text(text))) => {
                    self.bytes += size_of::<Message>() + text.len();
                    self.messages.push_back(Message::Text(text.into()));
                }
                Ok(Some(Event::Binary(_))) => {
                    self.bytes += size_of::<Message>();
                    self.messages.push_back(Message::Binary);
                }
                Ok(Some(Event::Pong)) => count += 1,
                Ok(Some(Event::Ping(payload))) => {
                    count += 1;
                    let _ = outbox.push(Frame::Pong(payload)); // over the limit it closes itself
                    outbox.flush();
                }
                Ok(Some(Event::Close(code, reason))) => return ControlFlow::Break(Some((code, reason))),
                Err(violation) => return ControlFlow::Break(Some(failure(violation, self.reader))),
            }
            self.count(count)?;
        }
        ControlFlow::Continue(true)
    }

    /// Counts frames that are no message; messages count when they are carried out.
    fn count(&mut self, count: usize) -> ControlFlow<Goodbye> {
        let connections = self.link.connections();
        match self.rate.count(count, connections.config.limits.messages_a_second, Instant::now()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(TooFast) => {
                connections.close_as_too_fast(self.link.outbox());
                ControlFlow::Break(None)
            }
        }
    }

    fn has_room(&self) -> bool {
        self.bytes + self.reader.held() < LIMIT_BYTES
    }

    fn gone(&self) -> ControlFlow<Goodbye> {
        self.link.outbox().abandon();
        ControlFlow::Break(None)
    }
}
