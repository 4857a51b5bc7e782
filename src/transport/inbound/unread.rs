//! Answers to heads that the HTTP library cannot read.
//!
//! hyper answers those by itself, with a status and no body. It has no hook for that, so its answer is recognised as it is
//! written, and gets a body here.

use std::{
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use crate::transport::socket::Socket;

/// Makes the JSON body of the answer with a status.
pub type Explain = fn(u16) -> String;

/// The header that hyper's own answer has instead of a body.
const NO_BODY: &[u8] = b"content-length: 0\r\n";
/// The longest such answer: a status line, and a date.
const LONGEST_BYTES: usize = 256;

/// What is left to write of an answer that replaces hyper's.
#[derive(Debug)]
pub(super) struct Replacement {
    bytes: Vec<u8>,
    written: usize,
}

impl Replacement {
    /// Returns what to write instead of `bytes`, if that is hyper's answer to a head that it cannot read.
    pub(super) fn of(bytes: &[u8], explain: Explain) -> Option<Self> {
        let status = bytes.strip_prefix(b"HTTP/1.1 ").filter(|_| bytes.len() <= LONGEST_BYTES)?;
        let status: u16 = std::str::from_utf8(status.get(..3)?).ok()?.parse().ok()?;
        let head =
            bytes.strip_suffix(b"\r\n").filter(|head| (400..500).contains(&status) && head.ends_with(b"\r\n"))?;
        let at = head.windows(NO_BODY.len()).position(|line| line.eq_ignore_ascii_case(NO_BODY))?;
        let body = explain(status);
        let length = body.len();
        let headers =
            format!("content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        let bytes = [&head[..at], &head[at + NO_BODY.len()..], headers.as_bytes(), body.as_bytes()].concat();
        Some(Self { bytes, written: 0 })
    }

    /// Writes all of it.
    pub(super) fn poll_write(&mut self, socket: &Socket, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.bytes.len() {
            match ready!(socket.poll_write(context, &[IoSlice::new(&self.bytes[self.written..])]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_body_gets_one_and_nothing_else_is_touched() {
        let explain: Explain = |status| format!("{{{status}}}");
        let replaced = |bytes: &str| {
            let replacement = Replacement::of(bytes.as_bytes(), explain)?;
            String::from_utf8(replacement.bytes).ok()
        };
        let own = "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ndate: today\r\n\r\n";
        let expected = "HTTP/1.1 431 Request Header Fields Too Large\r\ndate: today\r\ncontent-type: application/json\r\n\
                        content-length: 5\r\nconnection: close\r\n\r\n{431}";
        assert_eq!(replaced(own).as_deref(), Some(expected));
        for other in [
            "",
            "HTTP/1.1 4",
            "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n",
            "tail\r\nHTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
        ] {
            assert_eq!(replaced(other), None, "{other}");
        }
    }
}
