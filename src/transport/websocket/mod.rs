//! WebSockets (RFC 6455): the handshake, the frames, and one task per connection that reads.
//!
//! Writing is done by whoever has something to say, straight through the connection's outbox.

#[cfg(test)]
mod autobahn;
mod early;
pub(super) mod finish;
pub mod frame;
mod listen;
mod run;
mod upgrade;

use std::io::{self, IoSlice};

pub use listen::{ListenerArrival, listen};
pub use run::{Arrival, serve};
pub use upgrade::{Refused, Request, accept};

use super::socket::Socket;
use crate::{
    hub::{Content, Encoder, Wire},
    protocol::Dialect,
};

/// A socket as an outbox writes to it.
#[derive(Debug)]
struct WebSocket {
    socket: Socket,
    dialect: Dialect,
}

impl Wire for WebSocket {
    fn transport(&self) -> &'static str {
        "websocket"
    }

    fn encoded_len(&self, content: Content<'_>) -> usize {
        frame::encoded_len(content, self.dialect)
    }

    fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>) {
        frame::encode(content, self.dialect, out);
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.try_write(slices)
    }
}
