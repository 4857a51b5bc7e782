//! WebSockets (RFC 6455): the handshake, the frames, and one task per connection that reads.
//!
//! Writing is done by whoever has something to say, straight through the connection's outbox.

mod early;
mod finish;
pub mod frame;
mod listen;
mod run;
mod upgrade;

use std::io::{self, IoSlice};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tracing::debug;

pub use listen::listen;
pub use run::{Arrival, serve};
pub use upgrade::{Refused, Request, accept};

use super::{inbound::Inbound, socket::Socket};
use crate::{
    hub::{Content, Encoder, Wire},
    protocol::Dialect,
};

/// Waits until a handshake has been answered, and returns the socket with what the client has sent since.
async fn upgraded(upgrade: OnUpgrade) -> Option<(Socket, Vec<u8>)> {
    // Taken apart, because hyper's own wrapping would keep its read buffer for as long as the connection lives.
    match upgrade.await.map(|upgraded| upgraded.downcast::<TokioIo<Inbound>>()) {
        Ok(Ok(parts)) => {
            let (socket, held) = parts.io.into_inner().into_parts();
            Some((socket, [parts.read_buf.as_ref(), &held].concat()))
        }
        Ok(Err(_)) => None,
        Err(error) => {
            debug!(%error, "the handshake was not finished");
            None
        }
    }
}

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
