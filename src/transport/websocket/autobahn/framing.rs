//! Section 1: messages of the sizes at which the head of a frame changes.

use super::{
    Cases,
    case::{Case, Chopped, binary, text},
    client::{BINARY, TEXT, frame},
};

/// Case, bytes of payload, and bytes in each write.
const SIZES: [(u8, usize, usize); 8] = [
    (1, 0, usize::MAX),
    (2, 125, usize::MAX),
    (3, 126, usize::MAX),
    (4, 127, usize::MAX),
    (5, 128, usize::MAX),
    (6, 65_535, usize::MAX),
    (7, 65_536, usize::MAX),
    (8, 65_536, 997),
];

pub(super) fn cases() -> Cases {
    let texts = SIZES.into_iter().map(|(case, size, at_once)| {
        let payload = vec![b'*'; size];
        let sent = Chopped(frame(0x80 | TEXT, &payload), at_once);
        Case::answered(format!("1.1.{case}"), sent, [text(payload)])
    });
    let binaries = SIZES.into_iter().map(|(case, size, at_once)| {
        let payload = vec![0xFE; size];
        let sent = Chopped(frame(0x80 | BINARY, &payload), at_once);
        Case::answered(format!("1.2.{case}"), sent, [binary(payload)])
    });
    Box::new(texts.chain(binaries))
}
