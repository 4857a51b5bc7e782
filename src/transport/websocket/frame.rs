//! WebSocket frames (RFC 6455 section 5): reading a client's, writing ours.
//!
//! Pure: bytes in, messages out.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{
    hub::{Content, Encoder},
    protocol::{CloseCode, Dialect},
};

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// The bit that control frames have in their opcode (section 5.5).
const CONTROL: u8 = 0x8;
/// The largest payload of a control frame (section 5.5).
const CONTROL_LIMIT: usize = 125;
/// From so many bytes on, a fragment costs no more than its bytes do.
const LARGE_FRAGMENT: usize = 64;
/// Bytes read at once: more where a large message is arriving.
const LEAST_READ: usize = 4 << 10;
const MOST_READ: usize = 16 << 10;

/// What a client said.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole text message, or a binary one that holds text.
    Text(&'a str),
    /// A whole binary message that holds no text.
    Binary(&'a [u8]),
    /// To be answered with the same payload.
    Ping(Bytes),
    /// The answer to a ping of ours.
    Pong,
    /// The client's goodbye, with the code and reason to send back.
    Close(CloseCode, Cow<'static, str>),
}

/// The client broke the protocol; the connection is to be closed with this code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation(pub CloseCode);

/// Assembles a client's bytes into messages, none larger than the limit.
///
/// Holds memory only while a message is incomplete. The payload of a data frame is taken out of the receive buffer as it
/// arrives, so an unfinished message is held once, and text that is not UTF-8 is noticed at its first invalid byte.
#[derive(Debug, Default)]
pub struct Reader {
    /// Received and not yet looked at, from `start` on.
    buffer: Vec<u8>,
    start: usize,
    /// The message under assembly. Boxed, because most clients never have one.
    message: Option<Box<Message>>,
    /// A whole message has been returned; its memory can be freed.
    is_spent: bool,
    /// A close frame has been read.
    has_closed: bool,
    /// Small frames without the end of a message that were read since [`take_fragments`](Self::take_fragments).
    fragments: u32,
    limit: usize,
}

#[derive(Debug)]
struct Message {
    is_text: bool,
    payload: Vec<u8>,
    /// Bytes at the start of a text that are known to be UTF-8.
    checked: usize,
    /// The frame whose payload is still arriving.
    frame: Option<Frame>,
}

/// What is still to come of a data frame.
#[derive(Debug, Clone, Copy)]
struct Frame {
    is_final: bool,
    key: [u8; 4],
    len: usize,
}

#[derive(Debug)]
struct Head {
    is_final: bool,
    opcode: u8,
    key: [u8; 4],
    len: usize,
    payload: usize,
}

impl Reader {
    /// Returns a reader of messages of up to `limit` bytes, with the bytes that arrived right behind the handshake.
    pub fn new(limit: usize, early: &[u8]) -> Self {
        Self { buffer: early.to_vec(), limit, ..Self::default() }
    }

    /// Where received bytes are to be appended. Has room for at least 1 KiB and is emptied by [`next_event`](Self::next_event).
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        if self.buffer.capacity() - self.buffer.len() < 1024 {
            let frame = self.message.as_ref().and_then(|message| message.frame);
            self.buffer.reserve(frame.map_or(0, |frame| frame.len).clamp(LEAST_READ, MOST_READ));
        }
        &mut self.buffer
    }

    /// The largest message.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether the client has sent a close frame, behind which nothing of it counts.
    pub fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// Bytes received and not yet looked at.
    pub fn unread(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Bytes received that belong to no event yet.
    pub fn held(&self) -> usize {
        self.unread() + self.message.as_ref().map_or(0, |message| message.payload.len())
    }

    /// Returns the number of frames read since the last call that did not end a message and had less than 64 bytes.
    ///
    /// They cost work and give no event, so whoever limits a client's rate has to ask for them. The cost of larger ones is that
    /// of their bytes, which a message may have anyway.
    pub fn take_fragments(&mut self) -> u32 {
        std::mem::take(&mut self.fragments)
    }

    /// Returns the next complete message; `None` when more bytes are needed. A binary message that holds UTF-8 counts as text.
    ///
    /// # Errors
    /// When the client breaks the protocol; what it sends after that is of no interest.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, Violation> {
        Ok(self.next_as_sent()?.map(|event| match event {
            Event::Binary(payload) => std::str::from_utf8(payload).map_or(event, Event::Text),
            event => event,
        }))
    }

    /// As [`next_event`](Self::next_event), but keeps text and binary messages apart, whatever they hold.
    pub(super) fn next_as_sent(&mut self) -> Result<Option<Event<'_>>, Violation> {
        if std::mem::take(&mut self.is_spent) {
            self.message = None;
        }
        loop {
            if let Some(frame) = self.message.as_mut().and_then(|message| message.frame.take()) {
                if !self.continue_frame(frame)? {
                    self.give_memory_back();
                    return Ok(None);
                }
                if frame.is_final {
                    self.is_spent = true;
                    let Some(message) = &self.message else { return Ok(None) };
                    return event(message.is_text, &message.payload).map(Some);
                }
                continue;
            }
            let Some(head) = self.head()? else {
                self.give_memory_back();
                return Ok(None);
            };
            let is_control = head.opcode & CONTROL != 0;
            let is_whole = self.unread() >= head.payload + head.len;
            if is_control && !is_whole {
                return Ok(None);
            }
            let from = self.start + head.payload;
            let range = from..from + head.len;
            if !is_control && (!head.is_final || !is_whole || self.message.is_some()) {
                self.start = from;
                self.begin_frame(&head);
                continue;
            }
            self.start = range.end;
            unmask(&mut self.buffer[range.clone()], head.key);
            return match head.opcode {
                PING => Ok(Some(Event::Ping(Bytes::copy_from_slice(&self.buffer[range])))),
                PONG => Ok(Some(Event::Pong)),
                CLOSE => {
                    self.has_closed = true;
                    close(&self.buffer[range]).map(Some)
                }
                // A message in one frame that has arrived whole is read where it lies.
                opcode => event(opcode == TEXT, &self.buffer[range]).map(Some),
            };
        }
    }

    /// Passes over what a client sends that has broken the protocol, as far as its frames still have heads. Returns whether a close
    /// frame is there.
    pub fn skip_to_close(&mut self) -> bool {
        let message = self.message.take();
        let mut left = message.and_then(|message| message.frame).map_or(0, |frame| frame.len);
        while !self.has_closed {
            let count = left.min(self.unread());
            (self.start, left) = (self.start + count, left - count);
            let Some([first, second, rest @ ..]) = self.buffer.get(self.start..).filter(|_| left == 0) else { break };
            let Some((len, extended)) = length(second & 0x7F, rest) else { break };
            let key = if second & MASKED == 0 { 0 } else { 4 };
            if rest.len() < extended + key {
                break;
            }
            self.has_closed = first & 0x0F == CLOSE;
            self.start += 2 + extended + key;
            left = usize::try_from(len).unwrap_or(usize::MAX);
        }
        let frame = (left > 0).then_some(Frame { is_final: false, key: [0; 4], len: left });
        self.message = frame
            .map(|frame| Box::new(Message { is_text: false, payload: Vec::new(), checked: 0, frame: Some(frame) }));
        self.give_memory_back();
        self.has_closed
    }

    /// Notes the head of a data frame whose payload goes into the message under assembly.
    fn begin_frame(&mut self, head: &Head) {
        let is_small = !head.is_final && head.len < LARGE_FRAGMENT;
        self.fragments = self.fragments.saturating_add(u32::from(is_small));
        let fresh = || Box::new(Message { is_text: head.opcode == TEXT, payload: Vec::new(), checked: 0, frame: None });
        let message = self.message.get_or_insert_with(fresh);
        message.frame = Some(Frame { is_final: head.is_final, key: head.key, len: head.len });
    }

    /// Takes over what has arrived of a data frame's payload. Returns whether that was all of it.
    fn continue_frame(&mut self, mut frame: Frame) -> Result<bool, Violation> {
        let count = self.unread().min(frame.len);
        let range = self.start..self.start + count;
        let Some(message) = &mut self.message else { return Ok(true) };
        unmask(&mut self.buffer[range.clone()], frame.key);
        message.payload.extend_from_slice(&self.buffer[range.clone()]);
        self.start = range.end;
        frame.len -= count;
        frame.key.rotate_left(count % 4);
        if frame.len > 0 {
            message.frame = Some(frame);
        }
        if message.is_text {
            message.check()?;
        }
        Ok(frame.len == 0)
    }

    /// Reads a frame's head, as soon as it is there as a whole.
    fn head(&self) -> Result<Option<Head>, Violation> {
        const PROTOCOL: Violation = Violation(CloseCode::ProtocolError);
        let bytes = &self.buffer[self.start..];
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let (is_final, opcode) = (first & FIN != 0, first & 0x0F);
        let is_control = opcode & CONTROL != 0;
        let is_known = matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG);
        let continues = self.message.is_some();
        if first & 0x70 != 0
            || second & MASKED == 0
            || !is_known
            || (is_control && (!is_final || usize::from(second & 0x7F) > CONTROL_LIMIT))
            || (!is_control && continues != (opcode == CONTINUATION))
        {
            return Err(PROTOCOL);
        }
        let Some((len, extended)) = length(second & 0x7F, rest) else { return Ok(None) };
        let so_far = self.message.as_ref().map_or(0, |message| message.payload.len());
        let len = usize::try_from(len).map_err(|_| Violation(CloseCode::TooBig))?;
        if !is_control && len > self.limit.saturating_sub(so_far) {
            return Err(Violation(CloseCode::TooBig)); // before a byte of it is kept
        }
        let Some([a, b, c, d]) = rest.get(extended..extended + 4) else { return Ok(None) };
        Ok(Some(Head { is_final, opcode, key: [*a, *b, *c, *d], len, payload: 2 + extended + 4 }))
    }

    fn give_memory_back(&mut self) {
        if self.unread() == 0 {
            self.buffer = Vec::new();
            self.start = 0;
        }
    }
}

/// The length of a payload, of which `short` is what the second byte of a frame says and `rest` is behind that; and the bytes that
/// it takes (section 5.2).
fn length(short: u8, rest: &[u8]) -> Option<(u64, usize)> {
    match (short, rest) {
        (126, [a, b, ..]) => Some((u64::from(u16::from_be_bytes([*a, *b])), 2)),
        (127, [a, b, c, d, e, f, g, h, ..]) => Some((u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 8)),
        (126 | 127, _) => None,
        (len, _) => Some((u64::from(len), 0)),
    }
}

impl Message {
    /// Checks what has been added to a text. A character that is cut off at the end may still be completed.
    fn check(&mut self) -> Result<(), Violation> {
        match std::str::from_utf8(&self.payload[self.checked..]) {
            Ok(_) => self.checked = self.payload.len(),
            Err(error) if error.error_len().is_some() => return Err(Violation(CloseCode::InvalidText)),
            Err(error) => self.checked += error.valid_up_to(),
        }
        Ok(())
    }
}

fn event(is_text: bool, payload: &[u8]) -> Result<Event<'_>, Violation> {
    if !is_text {
        return Ok(Event::Binary(payload));
    }
    std::str::from_utf8(payload).map(Event::Text).map_err(|_| Violation(CloseCode::InvalidText))
}

/// Reads the payload of a close frame (sections 5.5.1 and 7.4).
fn close(payload: &[u8]) -> Result<Event<'static>, Violation> {
    let [a, b, reason @ ..] = payload else {
        return match payload {
            [] => Ok(Event::Close(CloseCode::NoStatus, Cow::Borrowed(""))),
            _ => Err(Violation(CloseCode::ProtocolError)),
        };
    };
    let code = u16::from_be_bytes([*a, *b]);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation(CloseCode::ProtocolError));
    }
    match std::str::from_utf8(reason) {
        Ok(reason) => Ok(Event::Close(CloseCode::Echo(code), Cow::Owned(reason.to_owned()))),
        Err(_) => Err(Violation(CloseCode::InvalidText)),
    }
}

/// Undoes the masking (section 5.3).
fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let (words, rest) = payload.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// How many bytes [`encode`] gives for `content`.
pub fn encoded_len(content: Content<'_>, dialect: impl Into<Dialect>) -> usize {
    let payload = content.payload_len(dialect);
    payload
        + match payload {
            0..=125 => 2,
            126..=0xFFFF => 4,
            _ => 10,
        }
}

/// Writes `content` as a server sends it in `dialect`: one frame, unmasked.
pub fn encode<'a>(content: Content<'a>, dialect: impl Into<Dialect>, out: &mut Encoder<'a, '_>) {
    let opcode = match content {
        Content::Text(..) | Content::Sealed(_) | Content::Publication(..) => TEXT,
        Content::Ping => PING,
        Content::Pong(_) => PONG,
        Content::Close(..) => CLOSE,
    };
    let dialect = dialect.into();
    put_head(opcode, content.payload_len(dialect), out);
    content.put_payload(dialect, out);
}

/// Writes the head of a server's frame with `len` bytes of payload.
pub(super) fn put_head(opcode: u8, len: usize, out: &mut Encoder<'_, '_>) {
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..=125), _) => out.put_copy(&[FIN | opcode, len]),
        (_, Ok(len)) => {
            let [high, low] = len.to_be_bytes();
            out.put_copy(&[FIN | opcode, 126, high, low]);
        }
        _ => {
            out.put_copy(&[FIN | opcode, 127]);
            out.put_copy(&(len as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
