//! Content headers, reduced to the properties that this project reads.
//!
//! Nothing in a header is trusted: what cannot be read is left out, and what follows it too. Nested tables and arrays
//! are skipped by their length, so the work is linear in the header's size and the stack stays flat.

use std::ops::Range;

/// Class, weight and body size, which come before the properties and are kept as they are.
const FIXED_BYTES: usize = 12;
/// Property flags, in AMQP's order of the properties.
const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const MESSAGE_ID: u16 = 1 << 7;
/// Header that RabbitMQ adds to what it delivers from a stream.
const STREAM_OFFSET: &[u8] = b"x-stream-offset";
/// Header of what this project publishes for itself.
const LOG: &[u8] = b"x-high-templar-log";

/// Appends the payload of a content header frame to `output`, with no other properties than the headers
/// `x-stream-offset` and `x-high-templar-log`, and the message id.
///
/// Of a header that occurs more than once, the first one counts: RabbitMQ puts its own before the publisher's. The
/// result is never longer than `payload`. A payload without property flags is appended unchanged.
pub(super) fn reduce(payload: &[u8], output: &mut Vec<u8>) {
    let mut reader = Reader { bytes: payload, at: 0 };
    let (Some(fixed), Some(flags)) = (reader.take(FIXED_BYTES), reader.u16()) else {
        output.extend_from_slice(payload);
        return;
    };
    let kept = Kept::find(&mut reader, flags);
    let has_headers = kept.offset.is_some() || kept.log.is_some();
    let flags = if has_headers { HEADERS } else { 0 } | if kept.message_id.is_some() { MESSAGE_ID } else { 0 };
    output.extend_from_slice(fixed);
    output.extend_from_slice(&flags.to_be_bytes());
    let [offset, log, message_id] = [kept.offset, kept.log, kept.message_id].map(Option::unwrap_or_default);
    if has_headers {
        // A part of a payload, whose length is a u32 itself.
        let length = u32::try_from(offset.len() + log.len()).unwrap_or(u32::MAX);
        output.extend_from_slice(&length.to_be_bytes());
    }
    for part in [offset, log, message_id] {
        output.extend_from_slice(part);
    }
}

/// Looks up `name` in the field table of which `table` begins with the length, and returns it if it is a string.
pub(super) fn find_string<'a>(table: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut reader = Reader { bytes: table, at: 0 };
    let mut table = reader.table()?;
    loop {
        let entry = table.entry()?;
        if entry.name == name && entry.kind == b'S' {
            return table.bytes.get(entry.value)?.get(4..);
        }
    }
}

/// What is kept of a header, as it is encoded in it.
#[derive(Default)]
struct Kept<'a> {
    offset: Option<&'a [u8]>,
    log: Option<&'a [u8]>,
    message_id: Option<&'a [u8]>,
}

impl<'a> Kept<'a> {
    fn find(reader: &mut Reader<'a>, flags: u16) -> Self {
        let mut kept = Self::default();
        // `None` ends the search, with what was found so far.
        let _ = kept.search(reader, flags);
        kept
    }

    fn search(&mut self, reader: &mut Reader<'a>, flags: u16) -> Option<()> {
        let has = |property| flags & property != 0;
        for property in [CONTENT_TYPE, CONTENT_ENCODING] {
            if has(property) {
                reader.short_string()?;
            }
        }
        if has(HEADERS) {
            self.search_headers(reader.table()?);
        }
        for property in [DELIVERY_MODE, PRIORITY] {
            if has(property) {
                reader.take(1)?;
            }
        }
        for property in [CORRELATION_ID, REPLY_TO, EXPIRATION] {
            if has(property) {
                reader.short_string()?;
            }
        }
        if has(MESSAGE_ID) {
            let begin = reader.at;
            let id = reader.short_string()?;
            if str::from_utf8(id).is_ok() {
                self.message_id = reader.bytes.get(begin..reader.at);
            }
        }
        Some(())
    }

    fn search_headers(&mut self, mut table: Reader<'a>) {
        while self.offset.is_none() || self.log.is_none() {
            let begin = table.at;
            let Some(Entry { name, kind, value }) = table.entry() else { return };
            let encoded = table.bytes.get(begin..table.at);
            if name == STREAM_OFFSET && is_integer(kind) {
                self.offset = self.offset.or(encoded);
            } else if name == LOG && kind == b'S' {
                let text = table.bytes.get(value).and_then(|value| value.get(4..)).unwrap_or_default();
                if str::from_utf8(text).is_ok() {
                    self.log = self.log.or(encoded);
                }
            }
        }
    }
}

fn is_integer(kind: u8) -> bool {
    matches!(kind, b'b' | b'B' | b's' | b'u' | b'U' | b'I' | b'i' | b'l' | b'L' | b'T')
}

/// An entry of a field table.
struct Entry<'a> {
    name: &'a [u8],
    /// One letter for the value's type.
    kind: u8,
    /// Place of the encoded value.
    value: Range<usize>,
}

/// Reads AMQP's encoding; `None` at the end, and for what it does not know.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<usize> {
        usize::try_from(self.array().map(u32::from_be_bytes)?).ok()
    }

    fn short_string(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// The entries of a field table; as many as there are if the table's length says more.
    fn table(&mut self) -> Option<Self> {
        let length = self.u32()?;
        let end = self.at.saturating_add(length);
        let bytes = self.bytes.get(self.at..end.min(self.bytes.len()))?;
        self.at = end;
        Some(Self { bytes, at: 0 })
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let name = self.short_string()?;
        let kind = self.u8()?;
        let begin = self.at;
        // As RabbitMQ and lapin have it, which differs from AMQP's grammar for `s`.
        let length = match kind {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'u' | b'U' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'l' | b'L' | b'd' | b'T' => 8,
            b'S' | b'x' | b'A' | b'F' => self.u32()?,
            _ => return None,
        };
        self.take(length)?;
        Some(Entry { name, kind, value: begin..self.at })
    }
}
