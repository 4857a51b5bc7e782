//! Section 9: large messages, whole, in fragments and in pieces, and many small ones in turn.
//!
//! The texts have letters of two and three bytes, which the fragments cut.

use super::{
    Cases,
    case::{Answer, Case, Chopped, Step, fragments, send},
    client::{BINARY, TEXT, frame},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// 9.1 and 9.2: payloads.
const WHOLE: [usize; 6] = [64 * KIB, 256 * KIB, MIB, 4 * MIB, 8 * MIB, 16 * MIB];
/// 9.3 and 9.4: fragments of 4 MiB.
const FRAGMENTS: [usize; 9] = [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB];
/// 9.5 and 9.6: bytes written at once of 1 MiB.
const PIECES: [usize; 6] = [64, 128, 256, 512, KIB, 2 * KIB];
/// 9.7 and 9.8: payloads.
const SMALL: [usize; 6] = [0, 16, 64, 256, KIB, 4 * KIB];
/// Messages of each case of 9.7 and 9.8. The client sends each one when the one before has come back.
const ROUND_TRIPS: usize = 1000;

pub(super) fn cases() -> Cases {
    let whole = of_both(1, WHOLE, |opcode, payload, _| Chopped(frame(0x80 | opcode, payload), usize::MAX));
    let in_fragments =
        of_both(3, FRAGMENTS, |opcode, payload, size| Chopped(fragments(opcode, payload, size), usize::MAX));
    let in_pieces = of_both(5, PIECES, |opcode, payload, size| Chopped(frame(0x80 | opcode, payload), size));
    Box::new(whole.chain(in_fragments).chain(in_pieces).chain(round_trips()))
}

/// The cases of two groups, one for each of `sizes`: `group` has texts, and the one behind it binary messages.
fn of_both<const N: usize>(
    group: u8,
    sizes: [usize; N],
    sent: fn(opcode: u8, payload: &[u8], size: usize) -> Chopped,
) -> impl Iterator<Item = Case> {
    [TEXT, BINARY].into_iter().flat_map(move |opcode| {
        (1..).zip(sizes).map(move |(case, size)| {
            let payload = payload(
                opcode,
                match group {
                    1 => size,
                    3 => 4 * MIB,
                    _ => MIB,
                },
            );
            let sent = sent(opcode, &payload, size);
            Case::answered(format!("9.{}.{case}", group + opcode - TEXT), sent, [Answer { opcode, payload }])
        })
    })
}

fn round_trips() -> impl Iterator<Item = Case> {
    [TEXT, BINARY].into_iter().flat_map(|opcode| {
        (1..).zip(SMALL).map(move |(case, size)| {
            let round_trip = |_| {
                let payload = payload(opcode, size);
                [send(frame(0x80 | opcode, &payload)), Step::Receive(Answer { opcode, payload })]
            };
            let steps: Vec<_> = (0..ROUND_TRIPS).flat_map(round_trip).collect();
            Case::answered(format!("9.{}.{case}", 7 + opcode - TEXT), steps, [])
        })
    })
}

/// A text, or bytes that are not UTF-8.
fn payload(opcode: u8, size: usize) -> Vec<u8> {
    const LETTERS: &str = "κόσμε!";
    if opcode == BINARY {
        return [0xFE, 0, 0x2A, 0xFF, 0x80].repeat(size.div_ceil(5))[..size].to_vec();
    }
    let mut text = LETTERS.repeat(size / LETTERS.len());
    text.extend(std::iter::repeat_n('*', size % LETTERS.len()));
    text.into_bytes()
}
