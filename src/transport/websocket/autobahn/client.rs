//! The client of the cases. It writes and reads frames with code of its own, so that no mistake of the program hides another.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::case::Answer;

pub(super) const TEXT: u8 = 0x1;
pub(super) const BINARY: u8 = 0x2;
pub(super) const CLOSE: u8 = 0x8;
pub(super) const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xA;

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client listens when it expects nothing. The next step notices what comes later.
const MOMENT: Duration = Duration::from_millis(20);

/// How the server answers a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answers {
    /// With the same message.
    Echoes,
    /// With a text of its own.
    Own,
    /// Not at all. It may send an empty list, which is a heartbeat, at any time.
    None,
}

pub(super) struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    /// Bytes of `received` that were read as frames.
    seen: usize,
    answers: Answers,
}

/// A masked frame, as clients send it; `first` is its first byte.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key: [u8; 4] = rand::random();
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(key);
    let start = bytes.len();
    bytes.extend(payload);
    // By words, because a byte at a time 16 MiB take seconds in a build without optimisation.
    let (words, rest) = bytes[start..].as_chunks_mut::<8>();
    let long = u64::from_ne_bytes([key, key].concat().try_into().unwrap());
    words.iter_mut().for_each(|word| *word = (u64::from_ne_bytes(*word) ^ long).to_ne_bytes());
    rest.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    bytes
}

/// A close frame with a code and no reason.
pub(super) fn close(code: u16) -> Vec<u8> {
    frame(0x80 | CLOSE, &code.to_be_bytes())
}

impl Client {
    /// A client after its handshake; `received` came right behind it.
    pub(super) fn new(stream: TcpStream, received: Vec<u8>, answers: Answers) -> Self {
        Self { stream, received, seen: 0, answers }
    }

    pub(super) async fn send(&mut self, bytes: &[u8], at_once: usize) -> Result<(), String> {
        for piece in bytes.chunks(at_once) {
            let sending = timeout(PATIENCE, self.stream.write_all(piece)).await;
            sending.map_err(|_| "the server reads nothing")?.map_err(|error| format!("cannot send: {error}"))?;
            if at_once < bytes.len() {
                tokio::task::yield_now().await; // the server may read it by itself
            }
        }
        Ok(())
    }

    /// Expects `wanted` as the next frame. Where the server does not echo, its own text, or nothing, stands for a message.
    pub(super) async fn expect(&mut self, wanted: &Answer) -> Result<(), String> {
        let is_echo = matches!(wanted.opcode, TEXT | BINARY);
        if is_echo && self.answers == Answers::None {
            return Ok(());
        }
        let got = self.next().await?;
        let is_right = if is_echo && self.answers == Answers::Own { got.opcode == TEXT } else { got == *wanted };
        if is_right { Ok(()) } else { Err(format!("got {} instead of {}", shown(&got), shown(wanted))) }
    }

    /// Expects a close frame with `code` as the next frame.
    pub(super) async fn expect_close(&mut self, code: u16) -> Result<(), String> {
        let got = self.next().await?;
        let is_close = got.opcode == CLOSE && got.payload.starts_with(&code.to_be_bytes());
        if is_close { Ok(()) } else { Err(format!("got {} instead of a close with {code}", shown(&got))) }
    }

    pub(super) async fn expect_silence(&mut self) -> Result<(), String> {
        match timeout(MOMENT, self.next()).await {
            Err(_) => Ok(()),
            Ok(got) => Err(format!("got {got:?} too early")),
        }
    }

    /// Expects that the server ends the stream.
    pub(super) async fn expect_end(mut self) -> Result<(), String> {
        match self.read().await {
            Ok(0) if self.unseen().is_empty() => Ok(()),
            Ok(_) => Err(format!("got {:x?} instead of the end", self.unseen())),
            Err(error) => Err(format!("the end is {error}")),
        }
    }

    fn unseen(&self) -> &[u8] {
        &self.received[self.seen..]
    }

    async fn read(&mut self) -> io::Result<usize> {
        if self.seen > 1 << 20 {
            self.received.drain(..std::mem::take(&mut self.seen));
        }
        self.received.reserve(64 << 10);
        let reading = timeout(PATIENCE, self.stream.read_buf(&mut self.received));
        reading.await.map_err(|_| io::Error::other("nothing in 10 s"))?
    }

    /// Receives the next frame. Dropping the future loses nothing.
    async fn next(&mut self) -> Result<Answer, String> {
        loop {
            if let Some((answer, count)) = read_frame(self.unseen())? {
                self.seen += count;
                if self.answers == Answers::None && answer.opcode == TEXT && answer.payload == b"[]" {
                    continue;
                }
                return Ok(answer);
            }
            match self.read().await {
                Ok(0) => return Err("got the end of the stream".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// Reads the frame at the start of `bytes`, if all of it is there, and returns its length.
fn read_frame(bytes: &[u8]) -> Result<Option<(Answer, usize)>, String> {
    let [first, short, rest @ ..] = bytes else { return Ok(None) };
    let (len, extended) = match (short, rest) {
        (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 2),
        (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 8),
        (126 | 127, _) => return Ok(None),
        (len, _) => (u64::from(*len), 0),
    };
    let shortest = match len {
        0..=125 => 0,
        126..=0xFFFF => 2,
        _ => 8,
    };
    let opcode = first & 0x0F;
    let is_known = matches!(opcode, TEXT | BINARY) || (matches!(opcode, CLOSE | PING | PONG) && len <= 125);
    if first & 0xF0 != 0x80 || short & 0x80 != 0 || !is_known || extended != shortest {
        return Err(format!("a frame that a server may not send: {first:x} {short:x}"));
    }
    let start = 2 + extended;
    let end = start + usize::try_from(len).unwrap();
    Ok(bytes.get(start..end).map(|payload| (Answer { opcode, payload: payload.to_vec() }, end)))
}

/// A frame's kind and size, and how it begins.
fn shown(answer: &Answer) -> String {
    let start = &answer.payload[..answer.payload.len().min(40)];
    format!("opcode {:x} with {} bytes ({})", answer.opcode, answer.payload.len(), start.escape_ascii())
}
