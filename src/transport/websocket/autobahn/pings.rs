//! Section 2: the server answers a ping with its payload, and no pong.

use super::{
    Cases,
    case::{Case, Chopped, PROTOCOL_ERROR, ping, pong},
    client::{PONG, frame},
};

pub(super) fn cases() -> Cases {
    const BYTES: &[u8] = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff";
    let unsolicited = |payload: &[u8]| frame(0x80 | PONG, payload);
    let many = || (0..10).map(|number| format!("payload-{number}"));
    let pings = || many().flat_map(|payload| ping(payload.as_bytes())).collect::<Vec<_>>();
    Box::new(
        [
            Case::answered("2.1", [ping(b"")], [pong("")]),
            Case::answered("2.2", [ping(b"Hello, world!")], [pong("Hello, world!")]),
            Case::answered("2.3", [ping(BYTES)], [pong(BYTES)]),
            Case::answered("2.4", [ping(&[0xFE; 125])], [pong([0xFE; 125])]),
            Case::fails("2.5", [ping(&[0xFE; 126])], [], PROTOCOL_ERROR),
            Case::answered("2.6", Chopped(ping(&[0xFE; 125]), 1), [pong([0xFE; 125])]),
            Case::answered("2.7", [unsolicited(b"")], []),
            Case::answered("2.8", [unsolicited(b"nobody asked")], []),
            Case::answered("2.9", [unsolicited(b"nobody asked"), ping(b"ping payload")], [pong("ping payload")]),
            Case::answered("2.10", [pings()], many().map(pong)),
            Case::answered("2.11", Chopped(pings(), 1), many().map(pong)),
        ]
        .into_iter(),
    )
}
