//! Section 3: none of the three reserved bits may be set.

use super::{
    Cases,
    case::{Case, Chopped, PROTOCOL_ERROR, ping, said, text},
    client::{BINARY, CLOSE, PING, TEXT, frame},
};

pub(super) fn cases() -> Cases {
    const HELLO: &[u8] = b"Hello, world!";
    let with_bits = |bits: u8, opcode: u8, payload: &[u8]| frame(0x80 | bits << 4 | opcode, payload);
    let fails = |number, bits, opcode, payload: &[u8]| {
        Case::fails(number, [with_bits(bits, opcode, payload)], [], PROTOCOL_ERROR)
    };
    let frames = |bits| [said(HELLO), with_bits(bits, TEXT, HELLO), ping(b"")];
    Box::new(
        [
            fails("3.1", 1, TEXT, HELLO),
            Case::fails("3.2", [frames(2).concat()], [text(HELLO)], PROTOCOL_ERROR),
            Case::fails("3.3", frames(3), [text(HELLO)], PROTOCOL_ERROR),
            Case::fails("3.4", Chopped(frames(4).concat(), 1), [text(HELLO)], PROTOCOL_ERROR),
            fails("3.5", 5, BINARY, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"),
            fails("3.6", 6, PING, HELLO),
            fails("3.7", 7, CLOSE, b""),
        ]
        .into_iter(),
    )
}
