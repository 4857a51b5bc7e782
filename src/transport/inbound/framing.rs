//! Where a request ends. Pure: bytes in, counts out.

use memchr::memchr;

/// The body of a request (RFC 9112 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// So many bytes.
    Bytes(u64),
    /// Chunks.
    Chunks,
}

/// What hyper does not tell of a head.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// A line ends without a carriage return.
    pub has_bare_line_feed: bool,
    /// There is a `#` in the request line, from which on hyper ignores the target.
    pub has_fragment: bool,
    /// There is a `Content-Length`. hyper removes it where there is a `Transfer-Encoding` as well.
    pub has_content_length: bool,
}

/// The name in front of that length.
const CONTENT_LENGTH: &[u8] = b"content-length:";

/// How far a stream of requests has been passed on.
#[derive(Debug)]
pub(super) enum Framing {
    /// Within a head, or before one.
    Head(Lines),
    /// A head is over, and it is not known yet what follows.
    Known(Head),
    /// So many bytes of a body are to come.
    Bytes(u64),
    /// The line before a chunk, and what of its length has been read.
    Length { length: u64, is_over: bool },
    /// So many bytes of a chunk are to come, and the line end behind it.
    Chunk(u64),
    /// Behind the last chunk.
    Trailers(Lines),
    /// Everything passes: hyper takes it for something else.
    Anything,
}

impl Default for Framing {
    fn default() -> Self {
        Self::Head(Lines::default())
    }
}

/// Lines up to an empty one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines {
    /// A line that is not empty has begun.
    has_begun: bool,
    /// The current line is not empty.
    is_filled: bool,
    /// The last byte was a carriage return.
    is_returned: bool,
    /// Bytes of the current line that are those of [`CONTENT_LENGTH`]; `None` from the first one that is not.
    named: Option<usize>,
    head: Head,
}

impl Default for Lines {
    fn default() -> Self {
        Self { has_begun: false, is_filled: false, is_returned: false, named: Some(0), head: Head::default() }
    }
}

impl Lines {
    /// Notes whether the first line has a fragment, and whether another one begins with [`CONTENT_LENGTH`]. `bytes` are the next
    /// ones of the line.
    fn look_at(&mut self, bytes: &[u8]) {
        self.head.has_fragment |= !self.has_begun && memchr(b'#', bytes).is_some();
        let Some(named) = self.named else { return };
        let left = &CONTENT_LENGTH[named..];
        let count = left.len().min(bytes.len());
        self.named = bytes[..count].eq_ignore_ascii_case(&left[..count]).then_some(named + count);
        self.head.has_content_length |= self.named == Some(CONTENT_LENGTH.len());
    }

    /// Returns how many of `bytes` belong to the lines, the empty one at the end included; `None` if all do and there is
    /// more to come. `begins` says that empty lines before the first other one do not count (RFC 9112 section 2.2).
    fn pass(&mut self, bytes: &[u8], begins: bool) -> Option<usize> {
        let mut at = 0;
        while let Some(length) = memchr(b'\n', &bytes[at..]) {
            let line = &bytes[at..at + length];
            at += length + 1;
            let is_returned = line.last().map_or(self.is_returned, |last| *last == b'\r');
            // A carriage return before this piece is no content; one in the middle of a line is.
            let content = line.len() - usize::from(line.last() == Some(&b'\r'));
            let is_filled = self.is_filled || content > 0 || (self.is_returned && !line.is_empty());
            self.head.has_bare_line_feed |= !is_returned;
            self.look_at(line);
            (self.is_filled, self.is_returned, self.named) = (false, false, Some(0));
            self.has_begun |= is_filled;
            if !is_filled && (self.has_begun || !begins) {
                return Some(at);
            }
        }
        if let [rest @ .., last] = &bytes[at..] {
            self.is_filled |= self.is_returned || !rest.is_empty() || *last != b'\r';
            self.is_returned = *last == b'\r';
            self.look_at(&bytes[at..]);
        }
        None
    }
}

impl Framing {
    /// Returns how many of `bytes` may be handed over at once.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self {
                Self::Anything => return bytes.len(),
                Self::Known(_) => {
                    // It was to be answered by now: hyper has not taken that for a whole head.
                    *self = Self::Anything;
                }
                Self::Head(lines) => match lines.pass(rest, true) {
                    None => return bytes.len(),
                    Some(count) => {
                        *self = Self::Known(lines.head);
                        return at + count;
                    }
                },
                Self::Bytes(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    at += count;
                    *left -= count as u64;
                    if *left == 0 {
                        *self = Self::default();
                        return at;
                    }
                }
                Self::Length { length, is_over } => {
                    at += 1;
                    match (rest[0], char::from(rest[0]).to_digit(16)) {
                        (b'\n', _) if *length == 0 => *self = Self::Trailers(Lines::default()),
                        (b'\n', _) => *self = Self::Chunk(length.saturating_add(2)),
                        (_, Some(digit)) if !*is_over => {
                            // A length that overflows is an error to hyper.
                            *length = length.saturating_mul(16).saturating_add(digit.into());
                        }
                        _ => *is_over = true,
                    }
                }
                Self::Chunk(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    at += count;
                    *left -= count as u64;
                    if *left == 0 {
                        *self = Self::Length { length: 0, is_over: false };
                    }
                }
                Self::Trailers(lines) => match lines.pass(rest, false) {
                    None => return bytes.len(),
                    Some(count) => {
                        *self = Self::default();
                        return at + count;
                    }
                },
            }
        }
        at
    }

    /// A head has been read that `follows` follows. Returns what is known of it; `None` where hyper has taken something else for a
    /// head.
    pub(super) fn follow(&mut self, follows: Follows) -> Option<Head> {
        let head = if let Self::Known(head) = self { Some(*head) } else { None };
        *self = match follows {
            Follows::Bytes(0) => Self::default(),
            Follows::Bytes(count) => Self::Bytes(count),
            Follows::Chunks => Self::Length { length: 0, is_over: false },
        };
        head
    }

    /// Whether a head, or a part of one, has been passed on and not answered.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(self, Self::Known(_) | Self::Anything) || self.is_within_head()
    }

    /// Whether the end of a head is still to come, be it that none has begun.
    pub(super) fn is_head(&self) -> bool {
        matches!(self, Self::Head(_))
    }

    /// Whether a head has begun whose end is still to come.
    pub(super) fn is_within_head(&self) -> bool {
        self.is_head() && !self.is_between()
    }

    /// Whether a request has ended and none has begun.
    pub(super) fn is_between(&self) -> bool {
        matches!(self, Self::Head(Lines { has_begun: false, is_filled: false, .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes `bytes` in pieces of `step`, and tells the requests in them: head, body, and whether the head's lines are strict.
    fn requests(mut bytes: &[u8], step: usize, follows: impl Fn(&[u8]) -> Follows) -> Vec<(Vec<u8>, Vec<u8>, bool)> {
        let mut framing = Framing::default();
        let mut all: Vec<(Vec<u8>, Vec<u8>, bool)> = Vec::new();
        let (mut head, mut is_head) = (Vec::new(), true);
        while !bytes.is_empty() {
            let offered = &bytes[..step.min(bytes.len())];
            let count = framing.pass(offered);
            assert!(count > 0, "{:?} stops at {:?}", framing, String::from_utf8_lossy(offered));
            let passed = &offered[..count];
            bytes = &bytes[count..];
            if is_head {
                head.extend_from_slice(passed);
            } else if let Some((_, body, _)) = all.last_mut() {
                body.extend_from_slice(passed);
            }
            if matches!(framing, Framing::Known(_)) {
                let follows = follows(&head);
                let is_strict = framing.follow(follows).is_some_and(|head| !head.has_bare_line_feed);
                all.push((std::mem::take(&mut head), Vec::new(), is_strict));
            }
            is_head = matches!(framing, Framing::Head(_));
        }
        all
    }

    #[test]
    fn a_head_is_passed_alone_and_its_line_ends_are_looked_at_in_whatever_pieces() {
        for (head, is_strict) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], true),
            (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            (b"GET / HTTP/1.1\nHost: a\r\n\r\n", false),
            (b"GET / HTTP/1.1\r\nHost: a\n\r\n", false),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\n", false),
            (b"GET / HTTP/1.1\nHost: a\n\n", false),
            (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", false),
            (b"GET / HTTP/1.1\r\nX: \r \r\r\n\r\n", true), // hyper refuses it
        ] {
            for step in [1, 2, 3, 5, 1000] {
                let twice = [head, head].concat();
                let seen = requests(&twice, step, |_| Follows::Bytes(0));
                let expected = (head.to_vec(), Vec::new(), is_strict);
                assert_eq!(seen, [expected.clone(), expected], "in steps of {step}");
            }
        }
    }

    #[test]
    fn a_body_passes_unseen_and_the_next_head_is_looked_at_again() {
        let chunked = b"5;a=\"b\"\r\n\n\n\r\n\n\r\n1F\r\n0123456789012345678901234567890\r\n0\r\nX: y\r\n\r\n";
        let bodies = [(&b"\n\r\n\r\n\n\n"[..], Follows::Bytes(7)), (chunked, Follows::Chunks)];
        for (body, follows) in bodies {
            for bare in [&b"\n"[..], b"\r\n"] {
                let first = b"POST / HTTP/1.1\r\n\r\n";
                let second = [b"GET / HTTP/1.1".as_slice(), bare, b"\r\n"].concat();
                let stream = [first.as_slice(), body, &second].concat();
                for step in [1, 2, 3, 7, 1000] {
                    let follows = |head: &[u8]| if head.starts_with(b"POST") { follows } else { Follows::Bytes(0) };
                    let expected =
                        [(first.to_vec(), body.to_vec(), true), (second.clone(), Vec::new(), bare == b"\r\n")];
                    assert_eq!(requests(&stream, step, follows), expected, "in steps of {step}");
                }
            }
        }
    }

    #[test]
    fn a_length_is_seen_among_the_lines_of_a_head_in_whatever_pieces() {
        for (lines, has_content_length) in [
            ("Host: a\r\nContent-Length: 3\r\n", true),
            ("CONTENT-LENGTH:3\r\nHost: a\r\n", true),
            ("content-length:\r\n", true),
            ("X-Content-Length: 3\r\n", false),
            ("Host: a\r\nX: content-length: 3\r\n", false),
            ("Content-Lengths: 3\r\nContent-\r\nLength: 3\r\n", false),
        ] {
            let head = format!("POST / HTTP/1.1\r\n{lines}\r\n");
            for step in [1, 2, 3, 7, 1000] {
                let mut framing = Framing::default();
                for piece in head.as_bytes().chunks(step) {
                    assert_eq!(framing.pass(piece), piece.len());
                }
                let seen = framing.follow(Follows::Bytes(0));
                assert_eq!(seen, Some(Head { has_content_length, ..Head::default() }), "{lines} by {step}");
            }
        }
    }

    #[test]
    fn a_fragment_is_seen_in_the_request_line_alone_in_whatever_pieces() {
        for (head, has_fragment) in [
            ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("\r\nGET /a# HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("GET /a%23b HTTP/1.1\r\nHost: a#\r\nX: #\r\n\r\n", false),
        ] {
            for step in [1, 2, 3, 7, 1000] {
                let mut framing = Framing::default();
                for piece in head.as_bytes().chunks(step) {
                    assert_eq!(framing.pass(piece), piece.len());
                }
                let seen = framing.follow(Follows::Bytes(0));
                assert_eq!(seen, Some(Head { has_fragment, ..Head::default() }), "{head:?} by {step}");
            }
        }
    }

    #[test]
    fn what_hyper_does_not_take_for_a_head_passes() {
        let mut framing = Framing::default();
        assert_eq!(framing.pass(b"x\r\n\r\nyy"), 5);
        assert_eq!(framing.pass(b"yy"), 2);
        assert_eq!(framing.pass(b"\n\n\n"), 3);
    }
}
