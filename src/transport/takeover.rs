//! Takes a connection out of HTTP: the listener writes the head of the response, and a transport gets the socket.
//!
//! hyper hands a connection over only after a 101. An event stream is a 200 that does not end, and it would keep hyper's buffers
//! for as long as the client listens. So a response can carry a [`Takeover`]: the listener takes the socket back from hyper
//! before hyper writes anything of that response.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::Response;
use parking_lot::Mutex;

use super::socket::Socket;

/// Serves the socket. The second argument is what the client has sent behind its request.
type Begin = Box<dyn FnOnce(Socket, Vec<u8>) + Send>;

/// The transport that serves a connection once the head of its response has been written.
///
/// Dropped with the response if that is never written, along with everything that the transport keeps for the client.
#[derive(Clone)]
pub struct Takeover {
    opening: Bytes,
    begin: Arc<Mutex<Option<Begin>>>, // extensions of a response have to be `Clone`
}

impl Takeover {
    /// Has `begin` serve the connection that `response` is written to. `begin` must spawn a task and return at once. The listener
    /// writes `opening` directly after the head.
    pub fn attach<B>(
        response: &mut Response<B>,
        opening: impl Into<Bytes>,
        begin: impl FnOnce(Socket, Vec<u8>) + Send + 'static,
    ) {
        let begin: Begin = Box::new(begin);
        response.extensions_mut().insert(Self { opening: opening.into(), begin: Arc::new(Mutex::new(Some(begin))) });
    }

    /// Takes the takeover out of `response`, if there is one.
    pub fn detach<B>(response: &mut Response<B>) -> Option<Self> {
        response.extensions_mut().remove()
    }

    /// Returns what is written behind the head of the response.
    pub fn opening(&self) -> &[u8] {
        &self.opening
    }

    /// Hands the socket over.
    pub fn begin(self, socket: Socket, received: Vec<u8>) {
        let begin = self.begin.lock().take();
        if let Some(begin) = begin {
            begin(socket, received);
        }
    }
}

impl fmt::Debug for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Takeover").finish_non_exhaustive()
    }
}
