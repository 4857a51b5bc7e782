//! A client's frames: no bytes make the reader panic or pile up, and what it makes of them does not depend on the pieces
//! they come in.
//!
//! The input: the limit, how much comes with the handshake, three sizes of pieces used in turn (0 stands for as much as
//! the buffer has room for), then the stream.

#![no_main]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use high_templar::{
    protocol::CloseCode,
    transport::websocket::frame::{Event, Reader, Violation},
};
use libfuzzer_sys::fuzz_target;

/// A frame's head at its longest.
const HEAD: usize = 14;
/// The largest payload of a control frame.
const CONTROL: usize = 125;
/// What a reader may allocate beyond its limit, of which its vectors may hold a multiple.
const SPARE: usize = 6 * 1024;
/// How much is sent to see whether anything piles up.
const MUCH: usize = 16 * 1024;

fuzz_target!(|input: &[u8]| {
    let [limit, early, a, b, c, stream @ ..] = input else { return };
    let sizes = &[*a, *b, *c];
    let limit = usize::from(*limit).pow(2) / 16; // 0 to 4,064, most of them small
    let (early, rest) = stream.split_at(usize::from(*early).min(stream.len()));

    let expected = expected(stream, limit);
    for (early, rest, sizes) in [(early, rest, sizes), (&[], stream, &[0; 3]), (&[], stream, &[1; 3])] {
        let mut seen = Vec::new();
        let violation = read(early, rest, sizes, limit, |event| seen.push(Seen::from(event)), |_| {});
        assert_eq!((seen, violation), expected, "in pieces of {sizes:?}");
    }

    let again_and_again = stream.repeat(MUCH / stream.len().max(1));
    let before = ALLOCATED.load(Relaxed);
    read(
        &[],
        &again_and_again,
        sizes,
        limit,
        |_| {},
        |reader| {
            assert!(reader.unread() < limit.max(CONTROL) + HEAD);
            let held = ALLOCATED.load(Relaxed) - before;
            assert!(held <= 3 * limit + SPARE, "{held} bytes held, the limit is {limit}");
        },
    );
});

/// What a reader makes of a stream; `wait` is called whenever it wants more.
fn read(
    early: &[u8],
    mut rest: &[u8],
    sizes: &[u8; 3],
    limit: usize,
    mut on_event: impl FnMut(Event<'_>),
    mut wait: impl FnMut(&Reader),
) -> Option<CloseCode> {
    let mut reader = Reader::new(limit, early);
    for size in sizes.iter().cycle() {
        loop {
            match reader.next_event() {
                Ok(Some(event)) => on_event(event),
                Ok(None) => break,
                Err(Violation(code)) => {
                    let _ = reader.next_event(); // whatever it says, it must not panic
                    return Some(code);
                }
            }
        }
        wait(&reader);
        if rest.is_empty() {
            break;
        }
        let buffer = reader.buffer();
        let size = if *size == 0 { buffer.capacity() - buffer.len() } else { usize::from(*size) };
        let (piece, later) = rest.split_at(size.min(rest.len()));
        buffer.extend_from_slice(piece);
        rest = later;
    }
    None
}

/// An event that outlives its reader.
#[derive(Debug, PartialEq)]
enum Seen {
    Text(String),
    Binary,
    Ping(Vec<u8>),
    Pong,
    Close(u16, String),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(_) => Self::Binary,
            Event::Ping(payload) => Self::Ping(payload.into()),
            Event::Pong => Self::Pong,
            Event::Close(code, reason) => Self::Close(code.number(), reason.into_owned()),
        }
    }
}

/// RFC 6455 section 5 read off the page, with the whole stream at hand.
fn expected(mut stream: &[u8], limit: usize) -> (Vec<Seen>, Option<CloseCode>) {
    let mut seen = Vec::new();
    let mut message: Option<(bool, Vec<u8>)> = None;
    loop {
        let frame = match frame(stream, message.as_ref().map(|(_, payload)| payload.len()), limit) {
            Ok(Some(frame)) => frame,
            Ok(None) => return (seen, None),
            Err(code) => return (seen, Some(code)),
        };
        stream = frame.rest;
        let event = match frame.opcode {
            8 => match goodbye(&frame.payload) {
                Ok(event) => event,
                Err(code) => return (seen, Some(code)),
            },
            9 => Seen::Ping(frame.payload),
            10 => Seen::Pong,
            opcode => {
                let (is_text, mut payload) = message.take().unwrap_or((opcode == 1, Vec::new()));
                payload.extend(frame.payload);
                // A text is given up at its first byte that no text can have there, whether the rest has come or not.
                if is_text && std::str::from_utf8(&payload).is_err_and(|error| error.error_len().is_some()) {
                    return (seen, Some(CloseCode::InvalidText));
                }
                if !frame.is_whole {
                    return (seen, None);
                }
                if !frame.is_final {
                    message = Some((is_text, payload));
                    continue;
                }
                match String::from_utf8(payload) {
                    Ok(text) => Seen::Text(text),
                    Err(_) if is_text => return (seen, Some(CloseCode::InvalidText)),
                    Err(_) => Seen::Binary,
                }
            }
        };
        seen.push(event);
    }
}

struct Frame<'a> {
    is_final: bool,
    /// Of a data frame, the payload may end early.
    is_whole: bool,
    opcode: u8,
    payload: Vec<u8>,
    rest: &'a [u8],
}

/// The first frame of `stream`, `None` if it is not there as a whole; `so_far` is the length of an unfinished message.
fn frame(stream: &[u8], so_far: Option<usize>, limit: usize) -> Result<Option<Frame<'_>>, CloseCode> {
    let (Some(first), Some(second)) = (stream.first(), stream.get(1)) else { return Ok(None) };
    let (is_final, reserved, opcode) = (first >> 7 == 1, first >> 4 & 0b111, first & 0b1111);
    let (is_masked, short) = (second >> 7 == 1, second & 0b111_1111);
    let is_allowed = match opcode {
        0 => so_far.is_some(),
        1 | 2 => so_far.is_none(),
        8..=10 => is_final && usize::from(short) <= CONTROL,
        _ => false,
    };
    if reserved != 0 || !is_masked || !is_allowed {
        return Err(CloseCode::ProtocolError);
    }
    let extra = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some(digits) = stream.get(2..2 + extra) else { return Ok(None) };
    let long = digits.iter().fold(0, |number, digit| number << 8 | u128::from(*digit));
    let len = if extra == 0 { u128::from(short) } else { long };
    if opcode < 8 && len + so_far.unwrap_or(0) as u128 > limit as u128 {
        return Err(CloseCode::TooBig);
    }
    let (Some(key), from, len) = (stream.get(2 + extra..6 + extra), 6 + extra, len as usize) else { return Ok(None) };
    let is_whole = stream.len() - from >= len;
    if !is_whole && opcode >= 8 {
        return Ok(None);
    }
    let (payload, rest) = stream[from..].split_at(len.min(stream.len() - from));
    let payload = payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
    Ok(Some(Frame { is_final, is_whole, opcode, payload, rest }))
}

/// The payload of a close frame (section 7.4; the codes are those registered since, and the private ones).
fn goodbye(payload: &[u8]) -> Result<Seen, CloseCode> {
    match payload {
        [] => Ok(Seen::Close(1005, String::new())),
        [_] => Err(CloseCode::ProtocolError),
        [high, low, reason @ ..] => match u16::from_be_bytes([*high, *low]) {
            0..=999 | 1004..=1006 | 1015..=2999 | 5000.. => Err(CloseCode::ProtocolError),
            code => {
                let reason = String::from_utf8(reason.to_vec()).map_err(|_| CloseCode::InvalidText)?;
                Ok(Seen::Close(code, reason))
            }
        },
    }
}

/// Counts the bytes in use.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: all of it is the system's doing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(place, layout) }
    }
}
