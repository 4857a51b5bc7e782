//! What all sockets do alike: receiving, and saying goodbye.

use std::{borrow::Cow, io, time::Duration};

use tokio::{io::Interest, task::consume_budget, time::timeout};

use super::{
    Socket,
    frame::{Event, Reader, Violation},
};
use crate::{hub::Outbox, protocol::CloseCode};

/// How long a client may take nothing of what waits for it.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How long the last frames may take to go out.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// How long the client may take to answer our close frame, and how long to end the stream after that.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(1);

/// How to answer a client that has ended the conversation; `None` when it has not.
pub(super) type Goodbye = Option<(CloseCode, Cow<'static, str>)>;

/// Reads what has arrived. Whether the client is still there.
pub(super) fn receive(socket: &Socket, reader: &mut Reader) -> bool {
    match socket.try_read(reader.buffer()) {
        Ok(count) => count > 0,
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

/// Reads what has arrived while the process stood still, which the clock has noticed and tokio has not. Whether that was
/// anything.
pub(super) fn receive_now(socket: &Socket, reader: &mut Reader) -> bool {
    socket.read_now(reader.buffer()).is_ok_and(|count| count > 0)
}

/// Whether the client has taken nothing for too long. It is offered what waits once more before it is judged.
pub(in crate::transport) fn is_too_slow(outbox: &Outbox) -> bool {
    let is_late = || outbox.blocked_for().is_some_and(|blocked| blocked >= WRITE_DEADLINE);
    is_late() && {
        outbox.resume();
        is_late()
    }
}

/// What a client is told that has broken the protocol.
pub(super) fn failure(Violation(code): Violation, reader: &Reader) -> (CloseCode, Cow<'static, str>) {
    let reason = match code {
        CloseCode::TooBig => format!("a message of more than {} bytes", reader.limit()).into(),
        _ => "".into(),
    };
    (code, reason)
}

/// Sends what is left, says goodbye, and waits a little for the client to do the same. `reader` is where its frames are read.
pub(super) async fn finish(socket: &Socket, outbox: &Outbox, reader: &mut Reader, goodbye: Goodbye) {
    let is_broken = goodbye.is_some();
    if let Some((code, reason)) = goodbye {
        outbox.close(code, reason);
    }
    if flush(socket, outbox).await && !reader.has_closed() {
        // A client that is told the end of the stream together with the close frame may notice that first, and take the
        // connection for cut (RFC 6455 section 7.1.1).
        let _ = timeout(GOODBYE_DEADLINE, until_closed(socket, reader, is_broken)).await;
    }
    end(socket, outbox).await;
}

/// Sends what is left, ends the stream, and waits a little for the client to do the same.
pub(in crate::transport) async fn end(socket: &Socket, outbox: &Outbox) {
    let is_flushed = flush(socket, outbox).await;
    socket.shutdown_write();
    if is_flushed {
        // A socket closed with something unread is reset, and may take our last frames with it.
        let mut unread = Reader::new(0, &[]);
        let _ = timeout(GOODBYE_DEADLINE, discard(socket, &mut unread)).await;
    }
}

/// Sends what is left. Whether that was all taken in time.
async fn flush(socket: &Socket, outbox: &Outbox) -> bool {
    let flush = async {
        while !outbox.is_empty() {
            if socket.ready(Interest::WRITABLE).await.is_err() {
                outbox.abandon();
            }
            outbox.resume();
        }
    };
    timeout(FLUSH_DEADLINE, flush).await.is_ok()
}

/// Reads to the client's close frame, or to its end of the stream. `is_broken` says that the client has broken the protocol.
async fn until_closed(socket: &Socket, reader: &mut Reader, mut is_broken: bool) {
    loop {
        while !is_broken {
            match reader.next_event() {
                Ok(Some(Event::Close(..))) => return,
                // A peer that sends faster than this reads would keep the worker, and the deadline would never be looked at.
                Ok(Some(_)) => consume_budget().await,
                Ok(None) => break,
                Err(_) => is_broken = true,
            }
        }
        if is_broken && reader.skip_to_close() {
            return;
        }
        if socket.ready(Interest::READABLE).await.is_err() || !receive(socket, reader) {
            return;
        }
        consume_budget().await;
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
        consume_budget().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::Arc};

    use tokio::{net::UnixStream, task::yield_now};
    use uuid::Uuid;

    use super::*;
    use crate::{
        protocol::{Dialect, Version},
        transport::websocket::WebSocket,
    };

    #[tokio::test]
    async fn others_have_their_turn_while_a_peer_sends_on() {
        const FRAME: [u8; 6] = [0x82, 0x80, 0, 0, 0, 0]; // an empty binary message costs the reader most
        let (socket, peer) = UnixStream::pair().unwrap();
        let mut peer = peer.into_std().unwrap();
        let mut sent = 0;
        while let Ok(count) = peer.write(&FRAME.repeat(1000)) {
            sent += count;
        }
        drop(peer);
        let wire = WebSocket { socket: Socket::Unix(socket), dialect: Dialect::Session(Version::V4) };
        let concrete = Arc::new(Outbox::new(Uuid::nil(), wire, 1 << 20, Arc::default()));
        let mut reader = Reader::new(1 << 20, &[]);
        let mut turns = 0;
        let others = async {
            loop {
                turns += 1;
                yield_now().await;
            }
        };
        tokio::select! {
            () = until_closed(&concrete.wire().socket, &mut reader, false) => {}
            () = others => {}
        }
        let frames = sent / FRAME.len();
        assert!(frames > 1000 && turns > frames / 256, "{turns} turns beside {frames} frames");
    }
}
