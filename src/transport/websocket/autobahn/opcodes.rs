//! Section 4: reserved opcodes.

use super::{
    Cases,
    case::{Case, Chopped, PROTOCOL_ERROR, ping, said, text},
    client::frame,
};

pub(super) fn cases() -> Cases {
    // Those of data frames, then those of control frames.
    Box::new([(1, 3), (2, 11)].into_iter().flat_map(|(group, opcode)| of_five(group, opcode)))
}

fn of_five(group: u8, opcode: u8) -> [Case; 5] {
    const HELLO: &[u8] = b"Hello, world!";
    let number = |case: u8| format!("4.{group}.{case}");
    let reserved = |case: u8, payload: &[u8]| frame(0x80 | (opcode + case - 1), payload);
    let frames = |case, payload: &[u8]| [said(HELLO), reserved(case, payload), ping(b"")].concat();
    [
        Case::fails(number(1), [reserved(1, b"")], [], PROTOCOL_ERROR),
        Case::fails(number(2), [reserved(2, b"of a reserved opcode")], [], PROTOCOL_ERROR),
        Case::fails(number(3), [frames(3, b"")], [text(HELLO)], PROTOCOL_ERROR),
        Case::fails(number(4), [frames(4, HELLO)], [text(HELLO)], PROTOCOL_ERROR),
        Case::fails(number(5), Chopped(frames(5, HELLO), 1), [text(HELLO)], PROTOCOL_ERROR),
    ]
}
