//! Frames as server-sent events (HTML Standard section 9.2), written straight to the socket.
//!
//! In HTTP/1.1 the stream is chunked (RFC 9112 section 7.1), so that a client can tell a stream that was cut from one that has
//! ended; in HTTP/1.0 it ends with the connection.

use std::{
    io::{self, IoSlice, Write as _},
    sync::OnceLock,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::Rng;
use serde_json::json;

use super::marks::Marks;
use crate::{
    hub::{Content, Encoder, Mark, Publication, Wire},
    protocol::{CloseCode, Dialect, RequestId, Version},
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
const VERSION: Dialect = Dialect::Session(Version::V4);

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

    /// Writes to `socket` from here on. Called once.
    pub(super) fn connect(&self, socket: Socket) {
        let _ = self.socket.set(socket); // a second one would be dropped
    }

    /// Returns the socket, once there is one.
    pub(super) fn socket(&self) -> Option<&Socket> {
        self.socket.get()
    }

    /// All subscriptions have caught up: each is sent what is published, in the order of the log.
    pub(super) fn level(&self) {
        if let Some(marks) = &self.marks {
            marks.lock().level();
        }
    }

    /// Returns the `id` of the event that `content` becomes, if it moves a mark, and moves it.
    fn id(&self, content: Content<'_>) -> Option<String> {
        let Some(marks) = &self.marks else {
            return match content {
                Content::Publication(publication, _) => publication.position_text().map(str::to_owned),
                Content::Text(_, Some(Mark::At(_, position) | Mark::All(Some(position)))) => Some(position.to_string()),
                _ => None,
            };
        };
        let mut marks = marks.lock();
        match content {
            Content::Publication(publication, id) => marks.advance(number(id), publication.position()?),
            Content::Text(_, Some(Mark::At(id, position))) => marks.advance(number(id), *position),
            Content::Text(_, Some(Mark::Ended(id))) => marks.end(number(id)),
            Content::Text(_, Some(Mark::All(position))) => marks.skip_to(*position),
            _ => return None,
        }
        Some(marks.to_string()).filter(|id| !id.is_empty())
    }

    /// Returns the whole event, in its chunk.
    fn event(&self, content: Content<'_>, id: Option<&str>) -> Vec<u8> {
        let mut event = Vec::new();
        if let Some(id) = id {
            [ID, id.as_bytes(), LINE_END].iter().for_each(|piece| event.extend_from_slice(piece));
        }
        match content {
            Content::Ping | Content::Pong(_) => event.extend_from_slice(COMMENT),
            Content::Sealed(bytes) => return bytes.to_vec(),
            Content::Text(text, _) => push_data(&mut event, text),
            Content::Publication(publication, id) => {
                push_data(&mut event, &publication.frame(VERSION, id).concat());
            }
            Content::Close(code, reason) => {
                event.extend_from_slice(b"event: close\n");
                if let Some(retry) = retry(code, reason) {
                    let _ = writeln!(event, "retry: {}", retry.as_millis()); // a vector takes everything
                }
                let close = json!({"type": "close", "code": code.number(), "reason": reason});
                push_data(&mut event, close.to_string().as_bytes());
            }
        }
        let event = self.chunk(event);
        match content {
            // A stream that the client is to continue ends without the last chunk: it is not complete, and a client that reads
            // the body itself takes the end for a failure and reconnects.
            Content::Close(code, _) if self.is_chunked && code.is_final() => [&event, LAST_CHUNK].concat(),
            _ => event,
        }
    }

    fn chunk(&self, event: Vec<u8>) -> Vec<u8> {
        if !self.is_chunked {
            return event;
        }
        let head = format!("{:x}\r\n", event.len());
        [head.as_bytes(), &event, CRLF].concat()
    }

    /// Returns the bytes around an event of so many bytes.
    fn chunk_bytes(&self, event: usize) -> usize {
        if self.is_chunked { hex_digits(event) + 2 * CRLF.len() } else { 0 }
    }

    /// Returns whether the event of `publication` depends on nothing before it, and has its data in one line.
    fn is_plain(&self, publication: &Publication) -> bool {
        self.marks.is_none() && !publication.has_line_breaks()
    }
}

/// Returns the bytes that open every stream.
pub fn opening(is_chunked: bool) -> Vec<u8> {
    let stream = EventStream { socket: OnceLock::new(), is_chunked, marks: None };
    stream.chunk(format!("retry: {}\n\n", RETRY.as_millis()).into_bytes())
}

impl Wire for EventStream {
    fn transport(&self) -> &'static str {
        "sse"
    }

    fn encoded_len(&self, content: Content<'_>) -> usize {
        match content {
            Content::Sealed(bytes) => bytes.len(),
            Content::Ping | Content::Pong(_) => COMMENT.len() + self.chunk_bytes(COMMENT.len()),
            Content::Publication(publication, request_id) if self.is_plain(publication) => {
                let event = plain_len(publication, request_id);
                event + self.chunk_bytes(event)
            }
            // Sealed before it is queued. While it is on hold, this is what it will take without its `id`.
            Content::Publication(..) | Content::Text(..) | Content::Close(..) => self.event(content, None).len(),
        }
    }

    fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>) {
        let event = match content {
            Content::Sealed(bytes) => return out.put(bytes),
            Content::Publication(publication, request_id) if self.is_plain(publication) => {
                plain_len(publication, request_id)
            }
            Content::Ping | Content::Pong(_) => COMMENT.len(),
            Content::Publication(..) | Content::Text(..) | Content::Close(..) => {
                return out.put_copy(&self.event(content, None));
            }
        };
        if self.is_chunked {
            let mut head = [0; size_of::<usize>() * 2];
            let mut rest = head.as_mut_slice();
            let _ = write!(rest, "{event:x}"); // as long as the longest number
            out.put_copy(&head[..hex_digits(event)]);
            out.put(CRLF);
        }
        if let Content::Publication(publication, request_id) = content {
            if let Some(position) = publication.position_text() {
                [ID, position.as_bytes(), LINE_END].into_iter().for_each(|piece| out.put(piece));
            }
            out.put(DATA);
            publication.frame(VERSION, request_id).into_iter().for_each(|piece| out.put(piece));
            out.put(EVENT_END);
        } else {
            out.put(COMMENT);
        }
        if self.is_chunked {
            out.put(CRLF);
        }
    }

    fn seal(&self, content: Content<'_>) -> Option<Bytes> {
        match content {
            Content::Sealed(_) | Content::Ping | Content::Pong(_) => None,
            Content::Publication(publication, _) if self.is_plain(publication) => None,
            Content::Publication(..) | Content::Text(..) | Content::Close(..) => {
                Some(self.event(content, self.id(content).as_deref()).into())
            }
        }
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.get().ok_or(io::ErrorKind::WouldBlock)?.try_write(slices)
    }
}

/// Returns the bytes of a publication's event whose data is one line.
fn plain_len(publication: &Publication, request_id: &RequestId) -> usize {
    let id = publication.position_text().map_or(0, |position| ID.len() + position.len() + LINE_END.len());
    let frame: usize = publication.frame(VERSION, request_id).iter().map(|piece| piece.len()).sum();
    id + DATA.len() + frame + EVENT_END.len()
}

/// Returns the hexadecimal digits of `number`.
fn hex_digits(number: usize) -> usize {
    number.checked_ilog2().unwrap_or_default() as usize / 4 + 1
}

/// Appends `text` as the data that ends an event. Each line of the text becomes a line of data; between the parts of JSON, where
/// alone it can have line breaks, they mean nothing.
fn push_data(event: &mut Vec<u8>, text: &[u8]) {
    for line in text.split(|byte| matches!(byte, b'\n' | b'\r')) {
        [DATA, line, LINE_END].iter().for_each(|piece| event.extend_from_slice(piece));
    }
    event.extend_from_slice(LINE_END);
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
