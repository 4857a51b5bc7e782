//! State machine that repairs the frames of one connection: bytes in, bytes out, no I/O.

use super::{
    content::{ContentHeader, SHORTEST_BYTES},
    method::{self, Method},
};

/// Type, channel and payload size at the beginning of each frame.
const HEAD_BYTES: usize = 7;
/// The same, with class id and method id at the beginning of a method's payload.
const METHOD_BYTES: usize = HEAD_BYTES + 4;
/// Largest payload of a method that is repaired. Valid ones have at most three short strings.
const REPAIRED_BYTES: u32 = 2 << 10;
/// Largest payload before the broker has announced its limit (`connection.tune`).
const UNTUNED_BYTES: u32 = 1 << 20;

/// Frame types.
const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// A frame is larger than the broker itself allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker sent a frame of {bytes} bytes, more than its own limit of {limit_bytes}")]
pub(super) struct TooLarge {
    bytes: u32,
    limit_bytes: u32,
}

impl From<TooLarge> for std::io::Error {
    fn from(error: TooLarge) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Bytes that [`Repair::advance`] has processed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes read from the input.
    pub read: usize,
    /// Bytes written to the output.
    pub written: usize,
}

/// Repairs the frames that a broker sends on one connection.
///
/// - Content headers are reduced to the properties that this project uses, see [`ContentHeader`].
/// - In methods that can contain a publisher's strings, each byte that is not UTF-8 becomes `?`.
/// - All other bytes pass unchanged and are not buffered: bodies, heartbeats, other methods, and data that is not AMQP
///   0-9-1, which lapin reports.
///
/// Memory is bounded. RabbitMQ sends a content header in one frame, however large it is, and adds to the headers that the
/// publisher has set, so the limit of the frame size does not apply to content headers. All other frames have to keep it.
#[derive(Debug)]
pub(super) struct Repair {
    state: State,
    /// The frame that is collected or written, or its beginning.
    frame: Vec<u8>,
    content: ContentHeader,
    /// Largest payload of a frame that is not a content header.
    limit_bytes: u32,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Reads until `frame` has `length` bytes.
    Collect { length: usize, part: Part },
    /// Parses the payload of a content header.
    Reduce { remaining: u32 },
    /// Writes `frame` from `at` on, then passes `pass` bytes.
    Write { at: usize, pass: u64 },
    /// Passes bytes unchanged.
    Pass { remaining: u64 },
}

/// The part of a frame that is collected.
#[derive(Debug, Clone, Copy)]
enum Part {
    Type,
    Head,
    /// The head, class id and method id.
    Method,
    WholeMethod,
    /// A content header with its payload reduced.
    WholeContent,
}

impl State {
    /// The beginning of a frame.
    const FRAME: Self = Self::Collect { length: 1, part: Part::Type };
    /// Passes everything that follows.
    const FOREIGN: Self = Self::Write { at: 0, pass: u64::MAX };
}

impl Default for Repair {
    fn default() -> Self {
        Self { state: State::FRAME, frame: Vec::new(), content: ContentHeader::default(), limit_bytes: UNTUNED_BYTES }
    }
}

impl Repair {
    /// Reads from `input` and writes to `output` until the input is used up or the output is full.
    ///
    /// # Errors
    /// Fails if a frame is larger than the broker itself allows, and on each call after that.
    pub(super) fn advance(&mut self, mut input: &[u8], mut output: &mut [u8]) -> Result<Progress, TooLarge> {
        let lengths = (input.len(), output.len());
        loop {
            match self.state {
                State::Collect { length, part } => {
                    let missing = length.saturating_sub(self.frame.len());
                    self.frame.extend_from_slice(split(&mut input, missing));
                    if self.frame.len() < length {
                        break;
                    }
                    self.state = self.after(part)?;
                }
                State::Reduce { remaining: 0 } => {
                    self.content.finish(&mut self.frame);
                    self.state = State::Collect { length: self.frame.len() + 1, part: Part::WholeContent };
                }
                State::Reduce { remaining } => {
                    let part = split(&mut input, saturated(remaining.into()));
                    if part.is_empty() {
                        break;
                    }
                    self.content.read(part);
                    self.state =
                        State::Reduce { remaining: remaining - u32::try_from(part.len()).unwrap_or(remaining) };
                }
                State::Write { at, pass } => {
                    let at = at + write(self.frame.get(at..).unwrap_or_default(), &mut output);
                    if at < self.frame.len() {
                        self.state = State::Write { at, pass };
                        break;
                    }
                    self.frame.clear();
                    self.state = State::Pass { remaining: pass };
                }
                State::Pass { remaining: 0 } => self.state = State::FRAME,
                State::Pass { remaining } => {
                    let passed = split(&mut input, saturated(remaining).min(output.len()));
                    if passed.is_empty() {
                        break;
                    }
                    write(passed, &mut output);
                    self.state = State::Pass { remaining: remaining - passed.len() as u64 };
                }
            }
        }
        Ok(Progress { read: lengths.0 - input.len(), written: lengths.1 - output.len() })
    }

    /// Returns the state that follows the complete `part`.
    fn after(&mut self, part: Part) -> Result<State, TooLarge> {
        Ok(match part {
            Part::Type => match self.frame[..] {
                [METHOD | CONTENT_HEADER | BODY | HEARTBEAT] => State::Collect { length: HEAD_BYTES, part: Part::Head },
                // A protocol header, sent if the broker does not support this version, or no AMQP at all.
                _ => State::FOREIGN,
            },
            Part::Head => return self.after_head(),
            Part::Method => self.after_method(),
            Part::WholeMethod => {
                self.read_method();
                State::Write { at: 0, pass: 0 }
            }
            Part::WholeContent => {
                // The reduced payload is shorter than the original one.
                let size = u32::try_from(self.frame.len() - HEAD_BYTES - 1).unwrap_or(u32::MAX);
                if let Some(place) = self.frame.get_mut(HEAD_BYTES - 4..HEAD_BYTES) {
                    place.copy_from_slice(&size.to_be_bytes());
                }
                State::Write { at: 0, pass: 0 }
            }
        })
    }

    fn after_head(&self) -> Result<State, TooLarge> {
        let bytes = self.payload_bytes();
        Ok(match self.frame.first() {
            Some(&CONTENT_HEADER) if bytes >= SHORTEST_BYTES => State::Reduce { remaining: bytes },
            _ if bytes > self.limit_bytes => return Err(TooLarge { bytes, limit_bytes: self.limit_bytes }),
            Some(&METHOD) if bytes >= 4 => State::Collect { length: METHOD_BYTES, part: Part::Method },
            _ => State::Write { at: 0, pass: u64::from(bytes) + 1 },
        })
    }

    fn after_method(&self) -> State {
        let bytes = self.payload_bytes();
        let most = match self.method() {
            method::CONNECTION_TUNE => REPAIRED_BYTES,
            method if method::has_publisher_strings(method) => REPAIRED_BYTES,
            _ => 0,
        };
        if bytes <= most {
            State::Collect { length: HEAD_BYTES + bytes as usize + 1, part: Part::WholeMethod }
        } else {
            State::Write { at: 0, pass: u64::from(bytes) - 4 + 1 }
        }
    }

    fn read_method(&mut self) {
        let method = self.method();
        let end = self.frame.len().saturating_sub(1);
        let Some(arguments) = self.frame.get_mut(METHOD_BYTES..end) else { return };
        match method {
            method::CONNECTION_TUNE => self.limit_bytes = method::frame_max(arguments).unwrap_or(u32::MAX),
            method => method::repair(method, arguments),
        }
    }

    /// Returns the payload size in the head.
    fn payload_bytes(&self) -> u32 {
        match self.frame[..] {
            [_, _, _, a, b, c, d, ..] => u32::from_be_bytes([a, b, c, d]),
            _ => 0,
        }
    }

    fn method(&self) -> Method {
        match self.frame[..] {
            [_, _, _, _, _, _, _, a, b, c, d, ..] => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            _ => (0, 0),
        }
    }
}

/// Removes up to `most` bytes from the beginning of `input` and returns them.
fn split<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

/// Moves as much of `bytes` as fits to the beginning of `output`, removes that part from `output` and returns its length.
fn write(bytes: &[u8], output: &mut &mut [u8]) -> usize {
    let length = bytes.len().min(output.len());
    if let Some(place) = output.split_off_mut(..length) {
        place.copy_from_slice(&bytes[..length]);
    }
    length
}

fn saturated(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
