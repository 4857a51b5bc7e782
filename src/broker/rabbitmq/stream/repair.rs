//! The frames that a broker sends, repaired one after the other: bytes in, bytes out, no I/O.

use super::{
    ServerProperties,
    content::{ContentHeader, SHORTEST_BYTES},
    method::{self, Method},
};

/// Type, channel and payload size, which every frame begins with.
const HEAD_BYTES: usize = 7;
/// The same with the ids of class and method, which the payload of a method frame begins with.
const METHOD_BYTES: usize = HEAD_BYTES + 4;
/// The largest payload of a method that is repaired; four short strings and some numbers are smaller.
const REPAIRED_BYTES: u32 = 2 << 10;
/// The largest payload of `connection.start` that is read.
const START_BYTES: u32 = 64 << 10;
/// The largest payload before the broker has said what is (`connection.tune`).
const UNTUNED_BYTES: u32 = 1 << 20;

/// Types of frames.
const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// A frame that is larger than the broker itself allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker sent a frame of {bytes} bytes, and allows {limit_bytes}")]
pub(super) struct TooLarge {
    bytes: u32,
    limit_bytes: u32,
}

impl From<TooLarge> for std::io::Error {
    fn from(error: TooLarge) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// How far [`Repair::advance`] got, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Of the input.
    pub read: usize,
    /// Of the output.
    pub written: usize,
}

/// Repairs what a broker sends on one connection.
///
/// - Content headers are reduced to what this project reads, see [`ContentHeader`].
/// - In methods that can quote a publisher, each byte of a string that is not UTF-8 becomes `?`.
/// - Everything else passes unchanged, and is not kept: bodies, heartbeats, other methods, and whatever is not AMQP
///   0-9-1, for lapin to say so.
///
/// Memory is bounded, whatever the broker sends: a content header can be larger than any other frame, since RabbitMQ
/// does not split it and adds to it, but only what is wanted of it is kept.
#[derive(Debug)]
pub(super) struct Repair {
    state: State,
    /// The frame, or its beginning, that is collected or written.
    frame: Vec<u8>,
    content: ContentHeader,
    /// The largest payload of a frame that is no content header.
    limit_bytes: u32,
    server: Option<ServerProperties>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// `frame` is filled up to `length`.
    Collect { length: usize, part: Part },
    /// The payload of a content header.
    Reduce { remaining: u32 },
    /// `frame` is written from `at` on, then `pass` bytes pass.
    Write { at: usize, pass: u64 },
    /// So many bytes pass unchanged.
    Pass { remaining: u64 },
}

/// What `frame` holds when it is filled.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// The type alone.
    Type,
    Head,
    /// The head, and the ids of class and method.
    Method,
    /// All of a method.
    WholeMethod,
    /// A content header with what is kept of its payload, and the byte that ends the frame.
    WholeContent,
}

impl State {
    /// A frame begins.
    const FRAME: Self = Self::Collect { length: 1, part: Part::Type };
    /// Nothing more is repaired.
    const FOREIGN: Self = Self::Write { at: 0, pass: u64::MAX };
}

impl Default for Repair {
    fn default() -> Self {
        Self {
            state: State::FRAME,
            frame: Vec::new(),
            content: ContentHeader::default(),
            limit_bytes: UNTUNED_BYTES,
            server: None,
        }
    }
}

impl Repair {
    /// Reads from `input` and writes to `output`, until one of them is used up.
    ///
    /// # Errors
    /// Says so when a frame is larger than the broker itself allows. The connection has to end then.
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
                    let part = split(&mut input, bytes(remaining.into()));
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
                    let passed = split(&mut input, bytes(remaining).min(output.len()));
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

    /// Returns what the broker says of itself, once, after it has said so.
    pub(super) fn take_server_properties(&mut self) -> Option<ServerProperties> {
        self.server.take()
    }

    /// The state after `frame` is filled with `part`.
    fn after(&mut self, part: Part) -> Result<State, TooLarge> {
        Ok(match part {
            Part::Type => match self.frame[..] {
                [METHOD | CONTENT_HEADER | BODY | HEARTBEAT] => State::Collect { length: HEAD_BYTES, part: Part::Head },
                // The protocol header of another version, or no AMQP at all.
                _ => State::FOREIGN,
            },
            Part::Head => return self.after_head(),
            Part::Method => self.after_method(),
            Part::WholeMethod => {
                self.read_method();
                State::Write { at: 0, pass: 0 }
            }
            Part::WholeContent => {
                // The payload is shorter than before.
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
            method::CONNECTION_START => START_BYTES,
            method::CONNECTION_TUNE => REPAIRED_BYTES,
            method if method::has_foreign_strings(method) => REPAIRED_BYTES,
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
            method::CONNECTION_START => self.server = Some(method::server_properties(arguments)),
            method::CONNECTION_TUNE => self.limit_bytes = method::frame_max(arguments).unwrap_or(u32::MAX),
            method => method::repair(method, arguments),
        }
    }

    /// Size of the payload, as the head says.
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

/// Takes up to `most` bytes off the beginning of `input`.
fn split<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

/// Writes as much of `bytes` to `output` as there is room for, and takes that off `output`. Returns how much.
fn write(bytes: &[u8], output: &mut &mut [u8]) -> usize {
    let length = bytes.len().min(output.len());
    if let Some(place) = output.split_off_mut(..length) {
        place.copy_from_slice(&bytes[..length]);
    }
    length
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
