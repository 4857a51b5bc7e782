//! Content headers, reduced to the properties that this project uses.

use std::mem;

/// Class, weight and body size, which come before the properties.
const FIXED_BYTES: usize = 12;
/// Shortest payload that is valid: [`FIXED_BYTES`] and the property flags.
pub(super) const SHORTEST_BYTES: u32 = 14;
/// Property flags. The properties follow in the order of the flags, highest bit first.
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const MESSAGE_ID: u16 = 1 << 7;
/// Header that RabbitMQ adds to each delivery from a stream.
const STREAM_OFFSET: &[u8] = b"x-stream-offset";
/// Header of messages that instances publish for each other.
const INSTANCE: &[u8] = b"x-high-templar-instance";
/// Longest value of [`INSTANCE`] that is kept.
const INSTANCE_BYTES: usize = 1 << 10;

/// Incremental parser of a content header frame's payload. Keeps the headers `x-stream-offset` (an integer) and
/// `x-high-templar-instance` (UTF-8) and the property `message_id` (UTF-8), and drops all other properties.
///
/// A publisher chooses what the payload contains. The parser skips values by their length and does not enter nested
/// tables, so time is linear in the payload's size, and neither memory nor stack depend on it. A property that cannot be
/// parsed is dropped, and so is what follows it in the same table or payload.
///
/// If a header occurs more than once, the first one counts. RabbitMQ replaces a publisher's first `x-stream-offset` by its
/// own and leaves further ones behind it; lapin would take the last one.
#[derive(Debug, Default)]
pub(super) struct ContentHeader {
    step: Step,
    /// Beginning of the item that `step` reads.
    item: Vec<u8>,
    /// Flags of the properties that still have to be parsed.
    flags: u16,
    /// Bytes of the header table that still have to be parsed.
    table_bytes: usize,
    /// The encoded items that are kept; empty if the payload does not have them.
    fixed: Vec<u8>,
    offset: Vec<u8>,
    instance: Vec<u8>,
    message_id: Vec<u8>,
}

/// The item to be read next. Numbers are lengths in bytes.
#[derive(Debug, Default, Clone, Copy)]
enum Step {
    /// [`FIXED_BYTES`] and the property flags.
    #[default]
    Fixed,
    ShortStringLength,
    MessageIdLength,
    MessageId(usize),
    TableLength,
    NameLength,
    /// The name of a header and its type.
    Name(usize),
    /// The length of a value, which belongs to the header [`INSTANCE`] if `is_instance`.
    ValueLength {
        is_instance: bool,
    },
    Instance(usize),
    /// The value of [`STREAM_OFFSET`], of this type.
    Offset(u8, usize),
    Skip(usize),
    /// All properties that are kept have been read.
    Done,
}

/// Length of an encoded value.
pub(super) enum Width {
    Bytes(usize),
    /// Four bytes with the length of the rest precede it.
    Counted,
}

impl Width {
    /// Returns the width of a value of type `kind` as RabbitMQ and lapin encode it, which differs from AMQP's grammar.
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
                Step::MessageId(length) | Step::Name(length) | Step::Instance(length) | Step::Offset(_, length) => {
                    length
                }
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

    /// Appends the reduced payload to `frame` and resets the parser.
    pub(super) fn finish(&mut self, frame: &mut Vec<u8>) {
        let headers_bytes = self.offset.len() + self.instance.len();
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
            // At most some 1,100 bytes.
            frame.extend_from_slice(&u32::try_from(headers_bytes).unwrap_or(u32::MAX).to_be_bytes());
        }
        for kept in [&mut self.offset, &mut self.instance, &mut self.message_id] {
            frame.append(kept);
        }
        self.item.clear();
        self.step = Step::Fixed;
        self.flags = 0;
        self.table_bytes = 0;
    }

    /// Returns the bytes that the parser has allocated.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        [&self.item, &self.fixed, &self.offset, &self.instance, &self.message_id].map(Vec::capacity).iter().sum()
    }

    /// Returns the step that follows the complete `item`.
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
            Step::ValueLength { is_instance } => {
                let length = number(item);
                let is_kept = is_instance && length <= INSTANCE_BYTES;
                self.in_table(length, if is_kept { Step::Instance(length) } else { Step::Skip(length) })
            }
            Step::Instance(length) => {
                if str::from_utf8(item).is_ok() {
                    push_name(&mut self.instance, INSTANCE, b'S');
                    self.instance.extend_from_slice(&u32::try_from(length).unwrap_or_default().to_be_bytes());
                    self.instance.extend_from_slice(item);
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
                let is_instance = name == INSTANCE && kind == b'S' && self.instance.is_empty();
                self.in_table(4, Step::ValueLength { is_instance })
            }
            None => self.skip_table(),
        }
    }

    /// Returns `step`, which reads `length` bytes of the table, or skips the table if it is shorter.
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

    /// Returns the step for the next header, or for the next property after the last header.
    fn next_entry(&mut self) -> Step {
        if self.table_bytes == 0 {
            self.next_property()
        } else if !self.offset.is_empty() && !self.instance.is_empty() {
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

/// Decodes an unsigned number of one, two or four bytes.
fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}
