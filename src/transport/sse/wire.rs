//! Frames as server-sent events (HTML Standard section 9.2), written straight to the socket.
//!
//! In HTTP/1.1 the stream is chunked (RFC 9112 section 7.1), so that a client can tell a stream that was cut from one that has
//! ended; in HTTP/1.0 it ends with the connection.

use std::{
    io::{self, IoSlice, Write as _},
    sync::OnceLock,
    time::Duration,
};

use parking_lot::Mutex;
use rand::Rng;
use serde_json::json;

use super::marks::Marks;
use crate::{
    hub::{Content, Encoder, Mark, Publication, Sealed, Wire},
    protocol::{CloseCode, RequestId, server::v4},
    transport::socket::Socket,
};

/// Delay before a browser's `EventSource` reconnects by itself. Sent at the head of every stream, because an `EventSource` keeps
/// the delay of an earlier stream for good.
const RETRY: Duration = Duration::from_secs(3);
/// Shortest delay that the end of a stream asks for. A server that is restarted is away for some seconds, and each open page asks
/// again after each delay.
const SHORTEST_RETRY: Duration = Duration::from_secs(2);
/// A comment keeps proxies from ending a silent stream.
const COMMENT: &[u8] = b": ping\n\n";
const ID: &[u8] = b"id: ";
const DATA: &[u8] = b"data: ";
const LINE_END: &[u8] = b"\n";
const EVENT_END: &[u8] = b"\n\n";
const CRLF: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The wire of one event stream.
#[derive(Debug)]
pub(super) struct EventStream {
    /// Absent until the head of the response has been written.
    socket: OnceLock<Socket>,
    is_chunked: bool,
    /// How far each subscription has come, where there are several. For a single one, each event's own position says that.
    marks: Option<Box<Mutex<Marks>>>,
}

impl EventStream {
    /// Returns a wire without a socket. `marks` are where the subscriptions begin.
    pub(super) fn new(marks: Marks, is_chunked: bool) -> Self {
        let marks = (marks.len() > 1).then(|| Box::new(Mutex::new(marks)));
        Self { socket: OnceLock::new(), is_chunked, marks }
    }

    /// Writes to `socket` from here on, and returns it. Called once.
    pub(super) fn connect(&self, socket: Socket) -> &Socket {
        self.socket.get_or_init(|| socket)
    }

    /// Records that all subscriptions have caught up. From now on, an event for one of them implies that the others have everything
    /// before it.
    pub(super) fn level(&self) {
        if let Some(marks) = &self.marks {
            marks.lock().level();
        }
    }

    /// Advances the marks by `content`. Returns the event's `id`; `None` if no mark changes, or if `content` is a publication whose
    /// own position is the `id`.
    fn id(&self, content: Content<'_>) -> Option<String> {
        let Some(marks) = &self.marks else {
            return match content {
                Content::Text(_, Some(Mark::At(_, position) | Mark::All(Some(position)))) => Some(position.to_string()),
                _ => None,
            };
        };
        let mut marks = marks.lock();
        match content {
            Content::Publication(publication, id, _) => marks.advance(number(id), publication.position()?),
            Content::Text(_, Some(Mark::At(id, position))) => marks.advance(number(id), *position),
            Content::Text(_, Some(Mark::Ended(id))) => marks.end(number(id)),
            Content::Text(_, Some(Mark::All(position))) => marks.skip_to(*position),
            _ => return None,
        }
        Some(marks.to_string()).filter(|id| !id.is_empty())
    }

    /// Returns the whole event of a text, in its chunk.
    fn text_event(&self, text: &[u8], id: Option<&str>) -> Vec<u8> {
        let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
        self.chunk(&[id.as_bytes(), DATA, &v4::data_lines(text), EVENT_END].concat())
    }

    /// Returns the last event, in its chunk.
    fn close_event(&self, code: CloseCode, reason: &str) -> Vec<u8> {
        let retry = retry(code, reason).map(|retry| format!("retry: {}\n", retry.as_millis())).unwrap_or_default();
        let close = json!({"type": "close", "code": code.number(), "reason": reason});
        let mut event = self.chunk(format!("event: close\n{retry}data: {close}\n\n").as_bytes());
        // A stream that the client is to continue ends without the last chunk: it is not complete, and a client that reads the body
        // itself takes the end for a failure and reconnects.
        if self.is_chunked && code.is_final() {
            event.extend_from_slice(LAST_CHUNK);
        }
        event
    }

    fn chunk(&self, event: &[u8]) -> Vec<u8> {
        if !self.is_chunked {
            return event.to_vec();
        }
        [format!("{:x}", event.len()).as_bytes(), CRLF, event, CRLF].concat()
    }

    /// Returns the bytes of an event of so many bytes with its chunk around it.
    fn chunk_len(&self, event: usize) -> usize {
        event + if self.is_chunked { hex_digits(event) + 2 * CRLF.len() } else { 0 }
    }
}

/// Returns the bytes that open every stream.
pub fn opening(is_chunked: bool) -> Vec<u8> {
    let stream = EventStream { socket: OnceLock::new(), is_chunked, marks: None };
    stream.chunk(format!("retry: {}\n\n", RETRY.as_millis()).as_bytes())
}

impl Wire for EventStream {
    fn transport(&self) -> &'static str {
        "sse"
    }

    fn encoded_len(&self, content: Content<'_>) -> usize {
        match content {
            Content::Sealed(bytes) => bytes.len(),
            Content::Ping | Content::Pong(_) => self.chunk_len(COMMENT.len()),
            Content::Publication(publication, request_id, id) => {
                self.chunk_len(publication_pieces(publication, request_id, id).iter().map(|piece| piece.len()).sum())
            }
            // Sealed before they are queued. While one is on hold, this is what it will take without its `id`.
            Content::Text(text, _) => self.text_event(text, None).len(),
            Content::Close(code, reason) => self.close_event(code, reason).len(),
        }
    }

    fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>) {
        match content {
            Content::Sealed(bytes) => out.put(bytes),
            Content::Ping | Content::Pong(_) => self.put_chunk(&[COMMENT], out),
            Content::Publication(publication, request_id, id) => {
                self.put_chunk(&publication_pieces(publication, request_id, id), out);
            }
            Content::Text(text, _) => out.put_copy(&self.text_event(text, None)),
            Content::Close(code, reason) => out.put_copy(&self.close_event(code, reason)),
        }
    }

    fn seal(&self, content: Content<'_>) -> Sealed {
        match content {
            Content::Publication(..) => self.id(content).map_or(Sealed::AsIs, |id| Sealed::WithId(id.into())),
            Content::Text(text, _) => Sealed::Whole(self.text_event(text, self.id(content).as_deref()).into()),
            Content::Close(code, reason) => Sealed::Whole(self.close_event(code, reason).into()),
            Content::Sealed(_) | Content::Ping | Content::Pong(_) => Sealed::AsIs,
        }
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.get().ok_or(io::ErrorKind::WouldBlock)?.try_write(slices)
    }
}

impl EventStream {
    /// Appends the event that `pieces` are, in its chunk.
    fn put_chunk<'a>(&self, pieces: &[&'a [u8]], out: &mut Encoder<'a, '_>) {
        if self.is_chunked {
            let event: usize = pieces.iter().map(|piece| piece.len()).sum();
            let mut head = [0; size_of::<usize>() * 2];
            let _ = write!(head.as_mut_slice(), "{event:x}"); // as long as the longest number
            out.put_copy(&head[..hex_digits(event)]);
            out.put(CRLF);
        }
        pieces.iter().for_each(|piece| out.put(piece));
        if self.is_chunked {
            out.put(CRLF);
        }
    }
}

/// Returns the pieces of a publication's event. Its `id` is the publication's position unless another one is given.
fn publication_pieces<'a>(
    publication: &'a Publication,
    request_id: &'a RequestId,
    id: Option<&'a str>,
) -> [&'a [u8]; 10] {
    let [id_start, id, id_end] = match id.or_else(|| publication.position_text()) {
        Some(id) => [ID, id.as_bytes(), LINE_END],
        None => [&[][..]; 3],
    };
    let [start, request_id, data_start, data, end] = publication.event_data(request_id);
    [id_start, id, id_end, DATA, start, request_id, data_start, data, end, EVENT_END]
}

/// Returns the hexadecimal digits of `number`.
fn hex_digits(number: usize) -> usize {
    number.checked_ilog2().unwrap_or_default() as usize / 4 + 1
}

/// Returns the number of a subscription, whose id the server has given it.
fn number(id: &RequestId) -> usize {
    id.as_json().trim_matches('"').parse().unwrap_or(usize::MAX)
}

/// Returns when a browser's `EventSource` is to reconnect after a close for which the server names a time; `None` leaves it at
/// [`RETRY`].
fn retry(code: CloseCode, reason: &str) -> Option<Duration> {
    let hint: f64 = reason.strip_prefix("retry_after=")?.parse().ok().filter(|hint: &f64| hint.is_finite())?;
    let random: f64 = rand::rng().random();
    // At a stop, the hint is the time over which clients spread themselves; else it is the time from which on they may come.
    let seconds = match code {
        CloseCode::GoingAway => SHORTEST_RETRY.as_secs_f64() + random * hint,
        _ => hint.max(SHORTEST_RETRY.as_secs_f64()) + random,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests;
