//! What all sockets do alike: receiving, and saying goodbye.

use std::{borrow::Cow, io, time::Duration};

use tokio::{io::Interest, time::timeout};

use super::{Socket, frame::Reader};
use crate::{hub::Outbox, protocol::CloseCode};

/// How long a client may take nothing of what waits for it.
pub(in crate::transport) const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How long the last frames may take to go out.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// How long the client may take to close its side after that.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(2);

/// How to answer a client that has ended the conversation; `None` when it has not.
pub(in crate::transport) type Goodbye = Option<(CloseCode, Cow<'static, str>)>;

/// Reads what has arrived. Whether the client is still there.
pub(super) fn receive(socket: &Socket, reader: &mut Reader) -> bool {
    match socket.try_read(reader.buffer()) {
        Ok(count) => count > 0,
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

/// Sends what is left, says goodbye, and waits a little for the client to do the same.
pub(in crate::transport) async fn finish(socket: &Socket, outbox: &Outbox, goodbye: Goodbye) {
    if let Some((code, reason)) = goodbye {
        outbox.close(code, reason);
    }
    let flush = async {
        while !outbox.is_empty() {
            if socket.ready(Interest::WRITABLE).await.is_err() {
                outbox.abandon();
            }
            outbox.resume();
        }
    };
    let is_flushed = timeout(FLUSH_DEADLINE, flush).await.is_ok();
    socket.shutdown_write();
    if is_flushed {
        // A socket closed with something unread is reset, and may take our last frames with it.
        let mut unread = Reader::new(0, &[]);
        let _ = timeout(GOODBYE_DEADLINE, discard(socket, &mut unread)).await;
    }
}

/// Reads to the client's end of the stream.
async fn discard(socket: &Socket, reader: &mut Reader) {
    loop {
        let outcome = socket.ready(Interest::READABLE).await.and_then(|_| socket.try_read(reader.buffer()));
        match outcome {
            Ok(1..) => reader.buffer().clear(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
        }
    }
}
