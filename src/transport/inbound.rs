//! A stream that HTTP requests arrive on, before and beside the HTTP server that reads them.
//!
//! hyper is lenient where a request can be read in two ways, and while it answers, it either takes the end of the stream for
//! the end of the peer, or notices no end at all. So the bytes pass through here: a head is handed over alone, its line ends
//! are looked at, and what follows a request that is being answered stays in the kernel. Nothing of this stays with a socket
//! that becomes a WebSocket.
//!
//! A peer may end its half of the stream behind its request and still read the answer: that ends nothing. A peer that resets
//! the connection is gone, and so is its request.
//!
//! What is framed here is only where a request ends, as hyper has read its head: this is no second opinion on that.

mod clock;
mod framing;
mod unread;

use std::{
    fmt,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    sync::Notify,
};

pub use clock::Patience;
pub use framing::{Follows, Head};
pub use unread::Explain;

use self::{
    clock::{Clock, Overdue},
    framing::Framing,
    unread::Replacement,
};
use super::socket::Socket;

/// An interim answer that asks nothing of the peer (RFC 9110 section 15.2.1).
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Bytes read past tokio, where a peer is about to be given up.
const LAST_LOOK_BYTES: usize = 4 << 10;

/// A stream, as an HTTP server reads and writes it.
pub struct Inbound {
    socket: Arc<Socket>,
    requests: Requests,
    clock: Clock,
    /// Requests that have been read when the clock was last set.
    counted: u64,
    explain: Explain,
    /// Written instead of hyper's own answer.
    replacement: Option<Replacement>,
    /// There from the first request on that is not answered at once. Ready when the peer is gone.
    watch: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound")
            .field("socket", &self.socket)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

/// The requests on a stream, as the one who answers them sees them.
#[derive(Debug, Clone, Default)]
pub struct Requests(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    half_closed: Notify,
}

#[derive(Debug, Default)]
struct State {
    framing: Framing,
    /// Received and not handed over.
    held: Vec<u8>,
    /// A request is being answered.
    is_busy: bool,
    /// Requests whose head has been read.
    count: u64,
    /// Reads when there is something to hand over.
    reader: Option<Waker>,
    /// The HTTP server may still hold bytes of an answer that the kernel has not taken.
    is_unflushed: bool,
    /// Waits until it does not.
    flushed: Option<Waker>,
    /// The peer sends nothing more.
    is_half_closed: bool,
    /// The peer is to be sent an interim answer.
    is_probed: bool,
    /// The peer has not sent a head in time.
    is_late: bool,
}

impl Inbound {
    /// Returns `socket` as a stream of requests that are waited for with `patience`, and the handle to them. `explain` makes the
    /// bodies of answers to heads that cannot be read.
    pub fn new(socket: Socket, patience: Patience, explain: Explain) -> (Self, Requests) {
        let requests = Requests::default();
        let (socket, clock) = (Arc::new(socket), Clock::new(patience));
        let inbound =
            Self { socket, requests: requests.clone(), clock, counted: 0, explain, replacement: None, watch: None };
        (inbound, requests)
    }

    /// Returns the socket, and what was received and not handed over; `None` is never seen.
    pub fn into_parts(self) -> Option<(Socket, Vec<u8>)> {
        let Self { socket, requests, watch, .. } = self;
        drop(watch); // the other one that holds the socket
        let held = std::mem::take(&mut requests.0.state.lock().held);
        Some((Arc::into_inner(socket)?, held))
    }

    /// Waits until the peer is gone. Needs somebody who calls it whenever the connection's task is awake.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let watch = self.watch.get_or_insert_with(|| Box::pin(watch(self.socket.clone(), self.requests.clone())));
        ready!(watch.as_mut().poll(context));
        self.watch = None;
        Poll::Ready(io::ErrorKind::ConnectionReset.into())
    }
}

impl Requests {
    /// A head has been read; `follows` is its body. Returns what is known of the head; `None` where hyper has taken something else
    /// for one.
    pub fn begin(&self, follows: Follows) -> Option<Head> {
        let mut state = self.0.state.lock();
        state.is_busy = true;
        state.count += 1;
        state.framing.follow(follows)
    }

    /// The answer to that is known: the next request may be read.
    pub fn finish(&self) {
        let mut state = self.0.state.lock();
        state.is_busy = false;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Waits until the kernel has taken the whole of the answers so far.
    pub async fn flushed(&self) {
        poll_fn(|context| {
            let mut state = self.0.state.lock();
            if !state.is_unflushed {
                return Poll::Ready(());
            }
            state.flushed = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Notes that something is written. Returns whether that answers a head which hyper has not taken for one.
    fn note_write(&self) -> bool {
        let mut state = self.0.state.lock();
        state.is_unflushed = true;
        !state.is_busy && state.framing.is_unanswered()
    }

    /// Returns whether the peer is known to send nothing more.
    pub fn is_half_closed(&self) -> bool {
        self.0.state.lock().is_half_closed
    }

    /// Waits until the peer sends nothing more.
    pub async fn half_closed(&self) {
        let notified = self.0.half_closed.notified();
        if !self.is_half_closed() {
            notified.await;
        }
    }

    /// Sends the peer an interim answer, before the answer to the request under way has begun.
    ///
    /// A peer that sends nothing more may be waiting or gone. If it is gone, it resets the connection when it is sent something.
    pub fn probe(&self) {
        self.0.state.lock().is_probed = true; // this is a part of the connection's task, which flushes before it sleeps
    }

    /// Returns whether the peer has not sent a head in time.
    pub fn is_late(&self) -> bool {
        self.0.state.lock().is_late
    }
}

/// Waits until the peer is gone, and notes on the way that it sends nothing more. Nothing is read for that.
async fn watch(socket: Arc<Socket>, requests: Requests) {
    // The kernel tells of both although there are bytes that nobody has read.
    let _ = socket.ready(Socket::END | Interest::ERROR).await;
    if socket.is_broken() {
        return;
    }
    requests.0.state.lock().is_half_closed = true;
    requests.0.half_closed.notify_waiters();
    let _ = socket.ready(Interest::ERROR).await;
}

impl State {
    /// Whether a request is being answered that has arrived whole.
    fn is_waiting(&self) -> bool {
        self.is_busy && self.framing.is_between()
    }

    /// Hands over what it may of what is held.
    fn hand_over(&mut self, buffer: &mut ReadBuf<'_>) {
        let offered = self.held.len().min(buffer.remaining());
        let count = self.framing.pass(&self.held[..offered]);
        buffer.put_slice(&self.held[..count]);
        self.held.drain(..count);
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }
}

impl AsyncRead for Inbound {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { socket, requests, clock, counted, .. } = self.get_mut();
        let mut state = requests.0.state.lock();
        if state.is_waiting() {
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        if *counted < state.count && state.framing.is_between() {
            *counted = state.count;
            clock.rest();
        }
        let before = buffer.filled().len();
        while state.held.is_empty() {
            if let Poll::Ready(outcome) = socket.poll_read(context, buffer) {
                let count = state.framing.pass(&buffer.filled()[before..]);
                state.held.extend_from_slice(&buffer.filled()[before + count..]);
                buffer.set_filled(before + count);
                if state.framing.is_within_head() {
                    clock.begin();
                }
                return Poll::Ready(outcome);
            }
            if !state.framing.is_head() {
                return Poll::Pending;
            }
            let overdue = ready!(clock.poll(context));
            // The process may have stood still for longer than that, while the peer did not.
            state.held.reserve(LAST_LOOK_BYTES);
            match (socket.read_now(&mut state.held), overdue) {
                (Ok(1..), _) => {}
                (_, Overdue::Idle) => return Poll::Ready(Ok(())), // the end of the stream, as far as hyper is concerned
                (_, Overdue::Head) => {
                    state.is_late = true;
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        state.hand_over(buffer);
        if state.framing.is_within_head() {
            clock.begin();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Inbound {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.requests.note_write() && this.replacement.is_none() {
            this.replacement = Replacement::of(bytes, this.explain);
        }
        match &mut this.replacement {
            Some(replacement) => replacement.poll_write(&this.socket, context).map_ok(|()| bytes.len()),
            None => this.socket.poll_write(context, &[IoSlice::new(bytes)]),
        }
    }

    /// Nothing is kept that could be flushed. hyper asks for it whenever it is awake and has written all there is, which is the
    /// one occasion to tell it that the peer is gone: it does not read while it answers.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut state = this.requests.0.state.lock();
        state.is_unflushed = false;
        if let Some(waiting) = state.flushed.take() {
            waiting.wake();
        }
        let (is_busy, is_probed) = (state.is_busy, std::mem::take(&mut state.is_probed));
        drop(state);
        if is_busy && is_probed {
            match this.socket.try_write(&[IoSlice::new(PROBE)]) {
                Ok(count) if count < PROBE.len() => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                // A peer that has not read the answers before it will be noticed by this one.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ => {}
            }
        }
        match is_busy.then(|| this.poll_gone(context)) {
            Some(Poll::Ready(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.shutdown_write();
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [slice] = slices {
            return self.poll_write(context, slice);
        }
        self.requests.note_write();
        self.socket.poll_write(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use tokio::{io::AsyncWriteExt, net::UnixStream};

    use super::*;

    #[tokio::test]
    async fn a_response_is_flushed_when_the_http_server_has_nothing_left_of_it() {
        let (socket, _peer) = UnixStream::pair().unwrap();
        let (head, idle) = (Duration::from_secs(5), Duration::from_secs(75));
        let patience = Patience { head, idle, is_crowded: Box::new(|| false) };
        let (mut inbound, requests) = Inbound::new(Socket::Unix(socket), patience, |_| String::new());
        requests.flushed().await;
        while inbound.write(&[0; 4096]).now_or_never().is_some() {}
        assert!(requests.flushed().now_or_never().is_none());
        let waiting = tokio::spawn(async move { requests.flushed().await });
        inbound.flush().await.unwrap();
        waiting.await.unwrap();
    }
}
