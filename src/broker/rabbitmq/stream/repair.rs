//! The frames that a broker sends, repaired one after the other: bytes in, bytes out, no I/O.

use super::{ServerProperties, content};

/// Type, channel and payload size, which every frame begins with.
const HEAD_BYTES: usize = 7;
/// The same with the ids of class and method, which the payload of a method frame begins with.
const METHOD_BYTES: usize = HEAD_BYTES + 4;
/// The most that is kept of a content header's payload, as much as RabbitMQ's default `frame_max`. The rest is dropped:
/// a publisher can make a header larger than any frame, since RabbitMQ does not split it.
const CONTENT_BYTES: u32 = 128 << 10;
/// The largest payload of a method that has strings to be repaired: four short strings, and some numbers.
const STRINGS_BYTES: u32 = 2 << 10;
/// The largest payload of `connection.start` that is looked at.
const START_BYTES: u32 = 64 << 10;
/// The largest payload before the broker has said what it wants (`connection.tune`).
const UNTUNED_BYTES: u32 = 1 << 20;

/// Types of frames.
const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// Ids of class and method.
const CONNECTION_START: (u16, u16) = (10, 10);
const CONNECTION_TUNE: (u16, u16) = (10, 30);
const CONNECTION_CLOSE: (u16, u16) = (10, 50);
const CONNECTION_BLOCKED: (u16, u16) = (10, 60);
const CHANNEL_CLOSE: (u16, u16) = (20, 40);
const BASIC_RETURN: (u16, u16) = (60, 50);
const BASIC_DELIVER: (u16, u16) = (60, 60);
const BASIC_GET_OK: (u16, u16) = (60, 71);

/// A frame that cannot be part of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker sent a frame of {bytes} bytes, and {limit} are the most")]
pub(super) struct TooLarge {
    /// Size of its payload.
    bytes: u32,
    /// Largest size of a payload.
    limit: u32,
}

impl From<TooLarge> for std::io::Error {
    fn from(error: TooLarge) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// How far [`Repair::advance`] got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes of the input that are done with.
    pub read: usize,
    /// Bytes of the output that are written.
    pub written: usize,
}

/// Repairs what a broker sends on one connection.
///
/// - Content headers are reduced to what this project reads, see [`content::reduce`].
/// - In methods that can quote a publisher, each byte of a string that is not UTF-8 becomes `?`.
/// - Everything else passes unchanged, without being kept: bodies, heartbeats, other methods, and whatever is no frame
///   of AMQP 0-9-1.
///
/// At most [`CONTENT_BYTES`] are kept, whatever the broker sends.
#[derive(Debug)]
pub(super) struct Repair {
    state: State,
    /// The frame, or its beginning, that is collected or written.
    frame: Vec<u8>,
    /// A frame that is made of another one.
    spare: Vec<u8>,
    /// Largest payload of a frame that is not a content header.
    limit: u32,
    server: Option<ServerProperties>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// `frame` is filled up to `length`.
    Collect { length: usize, part: Part },
    /// The rest of a content header's payload, of which enough is in `frame`, is dropped.
    Drop { remaining: u32 },
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
    /// A frame with a method.
    Whole,
    /// The head of a frame with a content header, and what is kept of its payload.
    Content {
        remaining: u32,
    },
    /// The same, and the byte that ends the frame.
    WholeContent,
}

impl Default for Repair {
    fn default() -> Self {
        Self { state: State::FRAME, frame: Vec::new(), spare: Vec::new(), limit: UNTUNED_BYTES, server: None }
    }
}

impl State {
    /// A frame begins.
    const FRAME: Self = Self::Collect { length: 1, part: Part::Type };
}

impl Repair {
    /// Reads from `input` and writes to `output`, until one of them is used up.
    ///
    /// # Errors
    /// A frame larger than the broker itself allows is an error. The connection has to end then.
    pub(super) fn advance(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress, TooLarge> {
        let (mut input, mut output) = (Input { bytes: input, at: 0 }, Output { bytes: output, at: 0 });
        loop {
            match self.state {
                State::Collect { length, part } => {
                    self.frame.extend_from_slice(input.take(length - self.frame.len()));
                    if self.frame.len() < length {
                        break;
                    }
                    self.state = self.after(part)?;
                }
                State::Drop { remaining } => {
                    let dropped = input.take(usize::try_from(remaining).unwrap_or(usize::MAX)).len();
                    let remaining = remaining - u32::try_from(dropped).unwrap_or(remaining);
                    if remaining > 0 {
                        self.state = State::Drop { remaining };
                        break;
                    }
                    self.state = State::Collect { length: self.frame.len() + 1, part: Part::WholeContent };
                }
                State::Write { at, pass } => {
                    let at = at + output.write(self.frame.get(at..).unwrap_or_default());
                    if at < self.frame.len() {
                        self.state = State::Write { at, pass };
                        break;
                    }
                    self.frame.clear();
                    self.state = State::Pass { remaining: pass };
                }
                State::Pass { remaining: 0 } => self.state = State::FRAME,
                State::Pass { remaining } => {
                    let most = usize::try_from(remaining).unwrap_or(usize::MAX).min(output.room());
                    let passed = input.take(most);
                    output.write(passed);
                    self.state = State::Pass { remaining: remaining - passed.len() as u64 };
                    if passed.is_empty() {
                        break;
                    }
                }
            }
        }
        Ok(Progress { read: input.at, written: output.at })
    }

    /// Returns what the broker says of itself, once, when it has said so.
    pub(super) fn take_server_properties(&mut self) -> Option<ServerProperties> {
        self.server.take()
    }

    /// The state after `frame` is filled with `part`.
    fn after(&mut self, part: Part) -> Result<State, TooLarge> {
        let collect = |length, part| State::Collect { length, part };
        Ok(match part {
            Part::Type => match self.frame[..] {
                [METHOD | CONTENT_HEADER | BODY | HEARTBEAT] => collect(HEAD_BYTES, Part::Head),
                // The header of another version of the protocol, or no AMQP at all; lapin says what is wrong.
                _ => State::Write { at: 0, pass: u64::MAX },
            },
            Part::Head => self.after_head()?,
            Part::Method => self.after_method(),
            Part::Whole => {
                self.read_method();
                State::Write { at: 0, pass: 0 }
            }
            Part::Content { remaining } => State::Drop { remaining },
            Part::WholeContent => {
                self.reduce_content();
                State::Write { at: 0, pass: 0 }
            }
        })
    }

    fn after_head(&self) -> Result<State, TooLarge> {
        let bytes = self.payload_size();
        if self.frame.first() == Some(&CONTENT_HEADER) {
            let kept = bytes.min(CONTENT_BYTES);
            let part = Part::Content { remaining: bytes - kept };
            return Ok(State::Collect { length: HEAD_BYTES + kept as usize, part });
        }
        if bytes > self.limit {
            return Err(TooLarge { bytes, limit: self.limit });
        }
        if self.frame.first() == Some(&METHOD) && bytes >= 4 {
            return Ok(State::Collect { length: METHOD_BYTES, part: Part::Method });
        }
        Ok(State::Write { at: 0, pass: u64::from(bytes) + 1 })
    }

    fn after_method(&self) -> State {
        let bytes = self.payload_size();
        let most = match self.method() {
            CONNECTION_START => START_BYTES,
            CONNECTION_TUNE => STRINGS_BYTES,
            method if strings(method).is_some() => STRINGS_BYTES,
            _ => 0,
        };
        if bytes <= most {
            State::Collect { length: HEAD_BYTES + bytes as usize + 1, part: Part::Whole }
        } else {
            State::Write { at: 0, pass: u64::from(bytes) - 4 + 1 }
        }
    }

    /// Size of the payload, as the head says.
    fn payload_size(&self) -> u32 {
        match self.frame[..] {
            [_, _, _, a, b, c, d, ..] => u32::from_be_bytes([a, b, c, d]),
            _ => 0,
        }
    }

    fn method(&self) -> (u16, u16) {
        match self.frame[HEAD_BYTES.min(self.frame.len())..] {
            [a, b, c, d, ..] => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            _ => (0, 0),
        }
    }

    fn read_method(&mut self) {
        let method = self.method();
        let end = self.frame.len().saturating_sub(1);
        let Some(arguments) = self.frame.get_mut(METHOD_BYTES..end) else { return };
        match method {
            CONNECTION_START => {
                // After the version's two bytes.
                let table = arguments.get(2..).unwrap_or_default();
                let name = content::find_string(table, b"cluster_name");
                let cluster_name = name.map(|name| String::from_utf8_lossy(name).into_owned());
                self.server = Some(ServerProperties { cluster_name });
            }
            CONNECTION_TUNE => {
                if let [_, _, a, b, c, d, ..] = *arguments {
                    let frame_max = u32::from_be_bytes([a, b, c, d]);
                    self.limit = if frame_max == 0 { u32::MAX } else { frame_max };
                }
            }
            _ => {
                let _ = repair_strings(arguments, strings(method).unwrap_or_default());
            }
        }
    }

    fn reduce_content(&mut self) {
        let Some((head, [payload @ .., end])) = self.frame.split_at_checked(HEAD_BYTES) else { return };
        self.spare.clear();
        self.spare.extend_from_slice(head);
        content::reduce(payload, &mut self.spare);
        let size = u32::try_from(self.spare.len() - HEAD_BYTES).unwrap_or(u32::MAX);
        if let Some(place) = self.spare.get_mut(HEAD_BYTES - 4..HEAD_BYTES) {
            place.copy_from_slice(&size.to_be_bytes());
        }
        self.spare.push(*end);
        std::mem::swap(&mut self.frame, &mut self.spare);
    }
}

/// An argument of a method.
#[derive(Debug, Clone, Copy)]
enum Argument {
    /// So many bytes.
    Bytes(usize),
    ShortString,
}

/// The arguments of a method up to the last one that can quote a publisher; `None` for a method that quotes nobody.
fn strings(method: (u16, u16)) -> Option<&'static [Argument]> {
    use Argument::{Bytes, ShortString};
    Some(match method {
        // Consumer tag, delivery tag and whether it is redelivered, exchange, routing key.
        BASIC_DELIVER => &[ShortString, Bytes(9), ShortString, ShortString],
        // Code, text, exchange, routing key.
        BASIC_RETURN => &[Bytes(2), ShortString, ShortString, ShortString],
        BASIC_GET_OK => &[Bytes(9), ShortString, ShortString],
        // Code and text: RabbitMQ quotes names and arguments, and cuts it anywhere at 255 bytes.
        CONNECTION_CLOSE | CHANNEL_CLOSE => &[Bytes(2), ShortString],
        CONNECTION_BLOCKED => &[ShortString],
        _ => return None,
    })
}

/// Makes the strings among `arguments` UTF-8; `None` when they end early.
fn repair_strings(mut bytes: &mut [u8], arguments: &[Argument]) -> Option<()> {
    for argument in arguments {
        let length = match argument {
            Argument::Bytes(length) => *length,
            Argument::ShortString => usize::from(*bytes.split_off_first_mut()?),
        };
        let value = bytes.split_off_mut(..length)?;
        if matches!(argument, Argument::ShortString) {
            repair_string(value);
        }
    }
    Some(())
}

/// Makes each byte that is not UTF-8 a question mark.
fn repair_string(mut bytes: &mut [u8]) {
    while let Err(error) = str::from_utf8(bytes) {
        let rest = &mut bytes[error.valid_up_to()..];
        let (invalid, rest) = rest.split_at_mut(error.error_len().unwrap_or(rest.len()));
        invalid.fill(b'?');
        bytes = rest;
    }
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    /// Up to `most` bytes.
    fn take(&mut self, most: usize) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..most).unwrap_or(rest);
        self.at += taken.len();
        taken
    }
}

struct Output<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Output<'_> {
    fn room(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Writes as much of `bytes` as there is room for.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let length = bytes.len().min(self.room());
        if let (Some(place), Some(bytes)) = (self.bytes.get_mut(self.at..self.at + length), bytes.get(..length)) {
            place.copy_from_slice(bytes);
        }
        self.at += length;
        length
    }
}
