//! What a trigger carries: `data` of a fixed size that begins with a marker, which tells of every delivery which trigger
//! it is and when that was meant to be published.
//!
//! The data is one JSON string, `"bench-RRRRRRRRroomssequencetime of publishingxxxx…"`, all numbers in hexadecimal; `R` is
//! a number of the run's own, so that what another run publishes to the same rooms is left alone.

use std::io::Write;

use memchr::memmem;

/// The least size of a payload: the marker, its quotes and some room.
pub(super) const MIN_BYTES: usize = 64;
/// The largest.
pub(super) const MAX_BYTES: usize = 1 << 20;

const ROOM_DIGITS: usize = 6;
const NUMBER_DIGITS: usize = 8;
const TIME_DIGITS: usize = 16;
const DIGITS: usize = ROOM_DIGITS + NUMBER_DIGITS + TIME_DIGITS;
/// Rooms that can be told apart.
pub(super) const MAX_ROOMS: usize = 1 << (4 * ROOM_DIGITS);

/// One trigger of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker {
    /// Number of the room.
    pub(super) room: u32,
    /// Number of the trigger within its room, from 0.
    pub(super) number: u32,
    /// When it was meant to be published, in nanoseconds since the start of the run.
    pub(super) at_ns: u64,
}

/// Writes payloads.
#[derive(Debug, Clone)]
pub(super) struct Payload {
    prefix: String,
    padding: String,
}

impl Payload {
    /// Payloads of `size_bytes` bytes as they stand in the JSON, quotes included; at least [`MIN_BYTES`].
    pub(super) fn new(run: u32, size_bytes: usize) -> Self {
        let prefix = prefix(run);
        let padding = "x".repeat(size_bytes.saturating_sub(prefix.len() + DIGITS + 2));
        Self { prefix, padding }
    }

    pub(super) fn write(&self, marker: Marker, out: &mut Vec<u8>) {
        let Marker { room, number, at_ns } = marker;
        // Writing to memory does not fail.
        let _ = write!(out, "\"{}{room:06x}{number:08x}{at_ns:016x}{}\"", self.prefix, self.padding);
    }
}

/// Finds markers in frames.
#[derive(Debug)]
pub(super) struct Search {
    prefix: String,
    finder: memmem::Finder<'static>,
    /// Where the last one stood; the next one nearly always stands there too.
    last: usize,
}

impl Search {
    pub(super) fn new(run: u32) -> Self {
        let prefix = prefix(run);
        Self { finder: memmem::Finder::new(&prefix).into_owned(), prefix, last: 0 }
    }

    /// The marker in a frame's text; `None` if the frame is no delivery of this run's.
    pub(super) fn find(&mut self, text: &[u8]) -> Option<Marker> {
        if !text.get(self.last..).is_some_and(|text| text.starts_with(self.prefix.as_bytes())) {
            self.last = self.finder.find(text)?;
        }
        let digits = text.get(self.last + self.prefix.len()..)?;
        let (room, rest) = hexadecimal(digits, ROOM_DIGITS)?;
        let (number, rest) = hexadecimal(rest, NUMBER_DIGITS)?;
        let (at_ns, _) = hexadecimal(rest, TIME_DIGITS)?;
        Some(Marker { room: u32::try_from(room).ok()?, number: u32::try_from(number).ok()?, at_ns })
    }
}

/// The number that the run's client has given as `requestId`, wherever in the frame the server puts it.
pub(super) fn request_id(text: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"\"requestId\"";
    // The end of the frame, mostly; the data holds no quotes, so what is found is a name.
    let from = text.len().saturating_sub(NAME.len() + 32);
    let end = |from: usize| memmem::find(&text[from..], NAME).map(|at| from + at + NAME.len());
    let after = text.get(end(from).or_else(|| end(0))?..)?;
    let first = after.iter().position(u8::is_ascii_digit)?;
    let digits = after.get(first..)?.iter().take_while(|byte| byte.is_ascii_digit());
    digits.map(|byte| u32::from(byte - b'0')).try_fold(0_u32, |id, digit| id.checked_mul(10)?.checked_add(digit))
}

fn prefix(run: u32) -> String {
    format!("bench-{run:08x}")
}

/// The number in the first `digits` bytes, and what follows.
fn hexadecimal(text: &[u8], digits: usize) -> Option<(u64, &[u8])> {
    let (digits, rest) = text.split_at_checked(digits)?;
    let mut value = 0;
    for byte in digits {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u64::from(digit);
    }
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_marker_is_found_again_in_whatever_frame(
            run: u32, room in 0..MAX_ROOMS as u32, number: u32, at_ns: u64, id: u32, size in MIN_BYTES..5000,
            is_spaced: bool, is_first: bool,
        ) {
            let marker = Marker { room, number, at_ns };
            let mut data = Vec::new();
            Payload::new(run, size).write(marker, &mut data);
            prop_assert_eq!(data.len(), size);
            let data = String::from_utf8(data).unwrap();
            let space = if is_spaced { " " } else { "" };
            let frame = match is_first {
                true => format!("{{\"requestId\":{space}\"{id}\",\"type\":\"publish\",\"data\":{data}}}"),
                false => format!("{{\"type\":{space}\"publish\",{space}\"data\":{data},\"requestId\":{id}}}"),
            };
            let mut search = Search::new(run);
            for _ in 0..2 {
                prop_assert_eq!(search.find(frame.as_bytes()), Some(marker));
            }
            prop_assert_eq!(request_id(frame.as_bytes()), Some(id));
            prop_assert_eq!(Search::new(run.wrapping_add(1)).find(frame.as_bytes()), None);
        }
    }

    #[test]
    fn what_is_no_delivery_has_no_marker() {
        let mut search = Search::new(7);
        for text in ["", "pong", r#"{"code":"success"}"#, r#""bench-00000007"#, r#""bench-00000007zzzzzz"#] {
            assert_eq!(search.find(text.as_bytes()), None, "{text}");
        }
        assert_eq!(request_id(br#"{"code":"success"}"#), None);
    }
}
