//! One case: what a client sends and receives, in order.

use super::client::{self, BINARY, CLOSE, Client, PING, PONG, TEXT};

pub(super) const NORMAL: u16 = 1000;
pub(super) const PROTOCOL_ERROR: u16 = 1002;
pub(super) const INVALID_TEXT: u16 = 1007;

/// A message or control frame that the server sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) opcode: u8,
    pub(super) payload: Vec<u8>,
}

/// One step of a case.
pub(super) enum Step {
    /// The client sends `bytes`, in writes of at most `at_once`.
    Send { bytes: Vec<u8>, at_once: usize },
    /// The client receives nothing for a moment.
    Silence,
    /// The next frame is this one.
    Receive(Answer),
    /// The next frame is a close frame with this code.
    Closed(u16),
}

/// A case of the suite. After its steps the server ends the TCP connection.
pub(super) struct Case {
    pub(super) number: String,
    steps: Vec<Step>,
}

impl Case {
    pub(super) fn new(number: impl Into<String>, steps: Vec<Step>) -> Self {
        Self { number: number.into(), steps }
    }

    /// The client sends `pieces`, receives `answers`, and closes the connection with 1000.
    pub(super) fn answered(
        number: impl Into<String>,
        pieces: impl Pieces,
        answers: impl IntoIterator<Item = Answer>,
    ) -> Self {
        let mut steps: Vec<_> = pieces.steps();
        steps.extend(answers.into_iter().map(Step::Receive));
        steps.push(send(client::close(NORMAL)));
        steps.push(Step::Receive(closed(NORMAL, "")));
        Self::new(number, steps)
    }

    /// The client sends `pieces` and receives `answers`; then the server closes the connection with `code`.
    pub(super) fn fails(
        number: impl Into<String>,
        pieces: impl Pieces,
        answers: impl IntoIterator<Item = Answer>,
        code: u16,
    ) -> Self {
        let mut steps: Vec<_> = pieces.steps();
        steps.extend(answers.into_iter().map(Step::Receive));
        steps.push(Step::Closed(code));
        steps.push(send(client::close(code)));
        Self::new(number, steps)
    }

    /// Plays the client.
    pub(super) async fn run(self, mut client: Client) -> Result<(), String> {
        for step in self.steps {
            match step {
                Step::Send { bytes, at_once } => client.send(&bytes, at_once).await?,
                Step::Silence => client.expect_silence().await?,
                Step::Receive(answer) => client.expect(&answer).await?,
                Step::Closed(code) => client.expect_close(code).await?,
            }
        }
        client.expect_end().await
    }
}

/// Bytes of a client, as it writes them.
pub(super) trait Pieces {
    fn steps(self) -> Vec<Step>;
}

/// One write for each item.
impl<const N: usize> Pieces for [Vec<u8>; N] {
    fn steps(self) -> Vec<Step> {
        self.into_iter().map(send).collect()
    }
}

/// For cases that receive something in between.
impl Pieces for Vec<Step> {
    fn steps(self) -> Vec<Step> {
        self
    }
}

/// Bytes, and the size of the writes.
pub(super) struct Chopped(pub(super) Vec<u8>, pub(super) usize);

impl Pieces for Chopped {
    fn steps(self) -> Vec<Step> {
        vec![Step::Send { bytes: self.0, at_once: self.1 }]
    }
}

pub(super) fn send(bytes: Vec<u8>) -> Step {
    Step::Send { at_once: bytes.len().max(1), bytes }
}

pub(super) fn text(payload: impl Into<Vec<u8>>) -> Answer {
    Answer { opcode: TEXT, payload: payload.into() }
}

pub(super) fn binary(payload: impl Into<Vec<u8>>) -> Answer {
    Answer { opcode: BINARY, payload: payload.into() }
}

pub(super) fn pong(payload: impl Into<Vec<u8>>) -> Answer {
    Answer { opcode: PONG, payload: payload.into() }
}

pub(super) fn closed(code: u16, reason: &str) -> Answer {
    Answer { opcode: CLOSE, payload: [&code.to_be_bytes(), reason.as_bytes()].concat() }
}

/// A client's ping.
pub(super) fn ping(payload: &[u8]) -> Vec<u8> {
    client::frame(0x80 | PING, payload)
}

/// A client's text in one frame.
pub(super) fn said(payload: &[u8]) -> Vec<u8> {
    client::frame(0x80 | TEXT, payload)
}

/// A client's message in frames of `size` bytes of payload.
pub(super) fn fragments(opcode: u8, payload: &[u8], size: usize) -> Vec<u8> {
    let count = payload.len().div_ceil(size);
    let frame = |(at, piece): (usize, &[u8])| {
        let opcode = if at == 0 { opcode } else { 0 };
        let fin = if at + 1 == count { 0x80 } else { 0 };
        client::frame(fin | opcode, piece)
    };
    payload.chunks(size).enumerate().flat_map(frame).collect()
}
