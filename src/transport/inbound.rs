//! A stream that HTTP requests arrive on, before and beside the HTTP server that reads them.
//!
//! hyper is lenient where a request can be read in two ways, and it does not look at the end of a stream behind bytes that
//! it has not asked for. So the bytes pass through here: a head is handed over alone, its line ends are looked at, and what
//! follows a request that is being answered is held back. Nothing of this stays with a socket that becomes a WebSocket.
//!
//! What is framed here is only where a request ends, as hyper has read its head: this is no second opinion on that.

mod framing;
mod unread;

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use framing::{Follows, Head};
pub use unread::Explain;

use self::{framing::Framing, unread::Replacement};
use super::socket::Socket;

/// Bytes behind a request that are held while it is answered.
const HELD_BYTES: usize = 16 << 10;

/// What becomes of a peer that sends more than is held while its request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// It has to wait. Its end is then not noticed before the answer.
    Waits,
    /// Its connection ends.
    Ends,
}

/// A stream, as an HTTP server reads and writes it.
#[derive(Debug)]
pub struct Inbound {
    socket: Socket,
    requests: Requests,
    ahead: Ahead,
    explain: Explain,
    /// Written instead of hyper's own answer.
    replacement: Option<Replacement>,
}

/// The requests on a stream, as the one who answers them sees them.
#[derive(Debug, Clone, Default)]
pub struct Requests(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    framing: Framing,
    /// Received and not handed over.
    held: Vec<u8>,
    /// A request is being answered.
    is_busy: bool,
    /// Reads when there is something to hand over.
    reader: Option<Waker>,
    /// The HTTP server may still hold bytes of an answer that the kernel has not taken.
    is_unflushed: bool,
    /// Waits until it does not.
    flushed: Option<Waker>,
}

impl Inbound {
    /// Returns `socket` as a stream of requests, and the handle to them. `explain` makes the bodies of answers to heads that cannot
    /// be read.
    pub fn new(socket: Socket, ahead: Ahead, explain: Explain) -> (Self, Requests) {
        let requests = Requests::default();
        (Self { socket, requests: requests.clone(), ahead, explain, replacement: None }, requests)
    }

    /// Returns the socket, and what was received and not handed over.
    pub fn into_parts(self) -> (Socket, Vec<u8>) {
        let held = std::mem::take(&mut self.requests.0.lock().held);
        (self.socket, held)
    }
}

impl Requests {
    /// A head has been read; `follows` is its body. Returns what is known of the head; `None` where hyper has taken something else
    /// for one.
    pub fn begin(&self, follows: Follows) -> Option<Head> {
        let mut state = self.0.lock();
        state.is_busy = true;
        state.framing.follow(follows)
    }

    /// The answer to that is known: the next request may be read.
    pub fn finish(&self) {
        let mut state = self.0.lock();
        state.is_busy = false;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Waits until the kernel has taken the whole of the answers so far.
    pub async fn flushed(&self) {
        poll_fn(|context| {
            let mut state = self.0.lock();
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
        let mut state = self.0.lock();
        state.is_unflushed = true;
        !state.is_busy && state.framing.is_unanswered()
    }

    fn note_flush(&self) {
        let mut state = self.0.lock();
        state.is_unflushed = false;
        if let Some(waiting) = state.flushed.take() {
            waiting.wake();
        }
    }
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
        let Self { socket, requests, ahead, .. } = self.get_mut();
        let mut state = requests.0.lock();
        if state.is_waiting() {
            state.reader = Some(context.waker().clone());
            return watch(socket, &mut state.held, *ahead, context);
        }
        if !state.held.is_empty() {
            state.hand_over(buffer);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(socket).poll_read(context, buffer))?;
        let count = state.framing.pass(&buffer.filled()[before..]);
        state.held.extend_from_slice(&buffer.filled()[before + count..]);
        buffer.set_filled(before + count);
        Poll::Ready(Ok(()))
    }
}

/// Holds what arrives, and is ready only at the end of the stream.
fn watch(socket: &mut Socket, held: &mut Vec<u8>, ahead: Ahead, context: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut piece = [0; 4096];
    while held.len() < HELD_BYTES {
        let mut buffer = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut *socket).poll_read(context, &mut buffer))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Ok(()));
        }
        held.extend_from_slice(buffer.filled());
    }
    match ahead {
        Ahead::Waits => Poll::Pending,
        Ahead::Ends => Poll::Ready(Err(io::Error::other("too much was sent ahead of an answer"))),
    }
}

impl AsyncWrite for Inbound {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.requests.note_write() && this.replacement.is_none() {
            this.replacement = Replacement::of(buf, this.explain);
        }
        match &mut this.replacement {
            Some(replacement) => replacement.poll_write(&mut this.socket, cx).map_ok(|()| buf.len()),
            None => Pin::new(&mut this.socket).poll_write(cx, buf),
        }
    }

    // hyper flushes once the stream has taken all of its buffer.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.requests.note_flush();
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [slice] = slices {
            return self.poll_write(cx, slice);
        }
        self.requests.note_write();
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::{io::AsyncWriteExt, net::UnixStream};

    use super::*;

    #[tokio::test]
    async fn a_response_is_flushed_when_the_http_server_has_nothing_left_of_it() {
        let (socket, _peer) = UnixStream::pair().unwrap();
        let (mut inbound, requests) = Inbound::new(Socket::Unix(socket), Ahead::Waits, |_| String::new());
        requests.flushed().await;
        while inbound.write(&[0; 4096]).now_or_never().is_some() {}
        assert!(requests.flushed().now_or_never().is_none());
        let waiting = tokio::spawn(async move { requests.flushed().await });
        inbound.flush().await.unwrap();
        waiting.await.unwrap();
    }
}
