//! Section 5: messages in several frames, with control frames between them, and frames that continue nothing.

use super::{
    Cases,
    case::{Case, Chopped, PROTOCOL_ERROR, Pieces, Step, ping, pong, said, text},
    client::{PING, PONG, TEXT, frame},
};

const CONTINUATION: u8 = 0;
const FINAL: u8 = 0x80;
const ONE: &[u8] = b"fragment1";
const TWO: &[u8] = b"fragment2";
const BOTH: &str = "fragment1fragment2";

pub(super) fn cases() -> Cases {
    let message = || [frame(TEXT, ONE), frame(FINAL | CONTINUATION, TWO)];
    let with_ping = || [frame(TEXT, ONE), ping(b"ping payload"), frame(FINAL | CONTINUATION, TWO)];
    let around_ping = || [pong("ping payload"), text(BOTH)];
    let stray = |first| [frame(first | CONTINUATION, b"continues nothing"), said(b"Hello, world!")];
    // Twice: a frame that continues nothing, then a message in two fragments.
    let strays = |first| [[frame(first | CONTINUATION, ONE)].as_slice(), &message()].concat().concat().repeat(2);
    let after_message =
        [message().as_slice(), &[frame(CONTINUATION, b"fragment3"), said(b"fragment4")]].concat().concat();
    let fails = |number, frames| Case::fails(number, [frames], [], PROTOCOL_ERROR);
    Box::new(
        [
            fails("5.1", [frame(PING, ONE), frame(FINAL | CONTINUATION, TWO)].concat()),
            fails("5.2", [frame(PONG, ONE), frame(FINAL | CONTINUATION, TWO)].concat()),
            Case::answered("5.3", [message().concat()], [text(BOTH)]),
            Case::answered("5.4", message(), [text(BOTH)]),
            Case::answered("5.5", Chopped(message().concat(), 1), [text(BOTH)]),
            Case::answered("5.6", [with_ping().concat()], around_ping()),
            Case::answered("5.7", with_ping(), around_ping()),
            Case::answered("5.8", Chopped(with_ping().concat(), 1), around_ping()),
            fails("5.9", stray(FINAL).concat()),
            Case::fails("5.10", stray(FINAL), [], PROTOCOL_ERROR),
            Case::fails("5.11", Chopped(stray(FINAL).concat(), 1), [], PROTOCOL_ERROR),
            fails("5.12", stray(0).concat()),
            Case::fails("5.13", stray(0), [], PROTOCOL_ERROR),
            Case::fails("5.14", Chopped(stray(0).concat(), 1), [], PROTOCOL_ERROR),
            Case::fails("5.15", [after_message], [text(BOTH)], PROTOCOL_ERROR),
            fails("5.16", strays(0)),
            fails("5.17", strays(FINAL)),
            fails("5.18", [frame(TEXT, ONE), frame(FINAL | TEXT, TWO)].concat()),
            five_fragments("5.19", |frames| [frames.concat()].steps()),
            five_fragments("5.20", |frames| frames.into_iter().map(super::case::send).collect()),
        ]
        .into_iter(),
    )
}

/// Five fragments and two pings. The server answers the first ping before the message is complete.
fn five_fragments(number: &str, written: fn(Vec<Vec<u8>>) -> Vec<Step>) -> Case {
    let continuation = |number: u8| frame(CONTINUATION, format!("fragment{number}").as_bytes());
    let last = frame(FINAL | CONTINUATION, b"fragment5");
    let mut steps = written(vec![frame(TEXT, ONE), continuation(2), ping(b"pongme 1!")]);
    steps.extend([Step::Receive(pong("pongme 1!")), Step::Silence]);
    steps.extend(written(vec![continuation(3), continuation(4), ping(b"pongme 2!"), last]));
    let whole: String = (1..=5).map(|number| format!("fragment{number}")).collect();
    Case::answered(number, steps, [pong("pongme 2!"), text(whole)])
}
