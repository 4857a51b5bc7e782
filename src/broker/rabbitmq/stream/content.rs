//! Content headers, reduced to the properties that this project reads.

use std::mem;

/// Class, weight and body size, which come before the properties.
const FIXED_BYTES: usize = 12;
/// The shortest payload that has properties: these and the flags that say which.
pub(super) const SHORTEST_BYTES: u32 = 14;
/// Flags of the properties, which follow in this order.
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const MESSAGE_ID: u16 = 1 << 7;
/// Header that RabbitMQ adds to what it delivers from a stream.
const STREAM_OFFSET: &[u8] = b"x-stream-offset";
/// Header of what this project publishes for itself.
const LOG: &[u8] = b"x-high-templar-log";
/// The longest value of it that is kept.
const LOG_BYTES: usize = 1 << 10;

/// The payload of a content header frame while it is read, reduced to the headers `x-stream-offset` (an integer) and
/// `x-high-templar-log` (UTF-8) and the property `message_id` (UTF-8).
///
/// Everything else in it is a publisher's and is skipped by its length: nested tables are not entered, so the work is
/// linear and the stack stays flat, and only what is kept takes memory, however large the header is. What cannot be
/// read is left out.
///
/// Of a header that occurs more than once, the first one counts. RabbitMQ sorts headers by name, or puts its own first;
/// a publisher's header of the same name always follows.
#[derive(Debug, Default)]
pub(super) struct ContentHeader {
    step: Step,
    /// The item that `step` reads, as far as it is there.
    item: Vec<u8>,
    /// The properties that are still to come.
    flags: u16,
    /// Bytes of the headers that are still to come.
    table_bytes: usize,
    /// What is kept, as it is encoded.
    fixed: Vec<u8>,
    offset: Vec<u8>,
    log: Vec<u8>,
    message_id: Vec<u8>,
}

/// What is read next; the numbers are lengths in bytes.
#[derive(Debug, Default, Clone, Copy)]
enum Step {
    /// [`FIXED_BYTES`] and the flags.
    #[default]
    Fixed,
    ShortStringLength,
    MessageIdLength,
    MessageId(usize),
    TableLength,
    NameLength,
    /// The name of a header and its type.
    Name(usize),
    /// The length of a value, perhaps of the header [`LOG`].
    ValueLength {
        is_log: bool,
    },
    Log(usize),
    /// The value of [`STREAM_OFFSET`], of this type.
    Offset(u8, usize),
    Skip(usize),
    /// The rest is not needed.
    Done,
}

/// How the length of a value is known.
pub(super) enum Width {
    Bytes(usize),
    /// From the four bytes before it.
    Counted,
}

impl Width {
    /// Of a value of type `kind`, as RabbitMQ and lapin understand the types, which is not quite AMQP's grammar.
    pub(super) fn of(kind: u8) -> Option<Self> {
        Some(match kind {
            b'V' => Self::Bytes(0),
            b't' | b'b' | b'B' => Self::Bytes(1),
            b's' | b'u' | b'U' => Self::Bytes(2),
            b'I' | b'i' | b'f' => Self::Bytes(4),
            b'D' => Self::Bytes(5),
            b'l' | b'L' | b'd' | b'T' => Self::Bytes(8),
            b'S' | b'x' | b'A' | b'F' => Self::Counted,
            _ => return None,
        })
    }
}

fn is_integer(kind: u8) -> bool {
    matches!(kind, b'b' | b'B' | b's' | b'u' | b'U' | b'I' | b'i' | b'l' | b'L' | b'T')
}

impl ContentHeader {
    /// Reads the next bytes of the payload.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        loop {
            let wanted = match self.step {
                Step::Done => return,
                Step::Skip(length) => {
                    let skipped = length.min(bytes.len());
                    bytes = bytes.get(skipped..).unwrap_or_default();
                    if skipped < length {
                        self.step = Step::Skip(length - skipped);
                        return;
                    }
                    self.step = self.next_entry();
                    continue;
                }
                Step::Fixed => FIXED_BYTES + 2,
                Step::ShortStringLength | Step::MessageIdLength | Step::NameLength => 1,
                Step::TableLength | Step::ValueLength { .. } => 4,
                Step::MessageId(length) | Step::Name(length) | Step::Log(length) | Step::Offset(_, length) => length,
            };
            let taken = bytes.len().min(wanted - self.item.len());
            let (taken, rest) = bytes.split_at(taken);
            bytes = rest;
            self.item.extend_from_slice(taken);
            if self.item.len() < wanted {
                return;
            }
            self.step = self.after_item();
            self.item.clear();
        }
    }

    /// Appends the reduced payload to `frame` and gets ready for the next one.
    pub(super) fn finish(&mut self, frame: &mut Vec<u8>) {
        let headers_bytes = self.offset.len() + self.log.len();
        let mut flags = 0;
        if headers_bytes > 0 {
            flags |= HEADERS;
        }
        if !self.message_id.is_empty() {
            flags |= MESSAGE_ID;
        }
        frame.append(&mut self.fixed);
        frame.extend_from_slice(&flags.to_be_bytes());
        if headers_bytes > 0 {
            // Some 1,100 at most.
            frame.extend_from_slice(&u32::try_from(headers_bytes).unwrap_or(u32::MAX).to_be_bytes());
        }
        for kept in [&mut self.offset, &mut self.log, &mut self.message_id] {
            frame.append(kept);
        }
        self.item.clear();
        self.step = Step::Fixed;
        self.flags = 0;
        self.table_bytes = 0;
    }

    /// Memory that it takes beside its own size.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        [&self.item, &self.fixed, &self.offset, &self.log, &self.message_id].map(Vec::capacity).iter().sum()
    }

    /// The step after `item`, which is complete.
    fn after_item(&mut self) -> Step {
        let item = mem::take(&mut self.item);
        let step = self.after(&item);
        self.item = item;
        step
    }

    fn after(&mut self, item: &[u8]) -> Step {
        match self.step {
            Step::Fixed => {
                let (fixed, flags) = item.split_at(FIXED_BYTES.min(item.len()));
                self.fixed.extend_from_slice(fixed);
                self.flags = number(flags).try_into().unwrap_or_default();
                self.next_property()
            }
            Step::ShortStringLength => Step::Skip(number(item)),
            Step::MessageIdLength => Step::MessageId(number(item)),
            Step::MessageId(length) => {
                if str::from_utf8(item).is_ok() {
                    self.message_id.push(u8::try_from(length).unwrap_or_default());
                    self.message_id.extend_from_slice(item);
                }
                Step::Done
            }
            Step::TableLength => {
                self.table_bytes = number(item);
                self.next_entry()
            }
            Step::NameLength => {
                let length = number(item) + 1;
                self.in_table(length, Step::Name(length))
            }
            Step::Name(_) => self.after_name(item),
            Step::ValueLength { is_log } => {
                let length = number(item);
                let is_kept = is_log && length <= LOG_BYTES;
                self.in_table(length, if is_kept { Step::Log(length) } else { Step::Skip(length) })
            }
            Step::Log(length) => {
                if str::from_utf8(item).is_ok() {
                    push_name(&mut self.log, LOG, b'S');
                    self.log.extend_from_slice(&u32::try_from(length).unwrap_or_default().to_be_bytes());
                    self.log.extend_from_slice(item);
                }
                self.next_entry()
            }
            Step::Offset(kind, _) => {
                push_name(&mut self.offset, STREAM_OFFSET, kind);
                self.offset.extend_from_slice(item);
                self.next_entry()
            }
            Step::Skip(_) | Step::Done => Step::Done,
        }
    }

    fn after_name(&mut self, item: &[u8]) -> Step {
        let Some((&kind, name)) = item.split_last() else { return Step::Done };
        match Width::of(kind) {
            Some(Width::Bytes(length)) => {
                let is_offset = name == STREAM_OFFSET && is_integer(kind) && self.offset.is_empty();
                self.in_table(length, if is_offset { Step::Offset(kind, length) } else { Step::Skip(length) })
            }
            Some(Width::Counted) => {
                let is_log = name == LOG && kind == b'S' && self.log.is_empty();
                self.in_table(4, Step::ValueLength { is_log })
            }
            None => self.skip_table(),
        }
    }

    /// `step`, which reads `length` bytes of the headers, if they have so many.
    fn in_table(&mut self, length: usize, step: Step) -> Step {
        match self.table_bytes.checked_sub(length) {
            Some(rest) => {
                self.table_bytes = rest;
                step
            }
            None => self.skip_table(),
        }
    }

    fn skip_table(&mut self) -> Step {
        Step::Skip(mem::take(&mut self.table_bytes))
    }

    /// The next header if there is one, or else the next property.
    fn next_entry(&mut self) -> Step {
        if self.table_bytes == 0 {
            self.next_property()
        } else if !self.offset.is_empty() && !self.log.is_empty() {
            self.skip_table()
        } else {
            self.in_table(1, Step::NameLength)
        }
    }

    fn next_property(&mut self) -> Step {
        let first = self.flags.checked_ilog2().map_or(0, |bit| 1 << bit);
        self.flags &= !first;
        match first {
            HEADERS => Step::TableLength,
            DELIVERY_MODE | PRIORITY => Step::Skip(1),
            MESSAGE_ID => Step::MessageIdLength,
            0..MESSAGE_ID => Step::Done,
            _ => Step::ShortStringLength,
        }
    }
}

fn push_name(entry: &mut Vec<u8>, name: &[u8], kind: u8) {
    entry.push(u8::try_from(name.len()).unwrap_or_default());
    entry.extend_from_slice(name);
    entry.push(kind);
}

/// An unsigned number of one, two or four bytes.
fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}
