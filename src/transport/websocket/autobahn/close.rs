//! Section 7: the closing handshake.

use super::{
    Cases,
    case::{Case, INVALID_TEXT, NORMAL, PROTOCOL_ERROR, Step, closed, ping, said, send, text},
    client::{self, CLOSE, TEXT, frame},
    utf8::KOSME,
};

const HELLO: &[u8] = b"Hello World!";
const VALID_CODES: [u16; 13] = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
const INVALID_CODES: [u16; 9] = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999];
/// The suite reports the outcome of these, and judges none.
const CODES_BEYOND: [u16; 2] = [5000, 65_535];

pub(super) fn cases() -> Cases {
    let valid = (1..).zip(VALID_CODES).map(|(number, code)| {
        let answer = Step::Receive(closed(code, ""));
        Case::new(format!("7.7.{number}"), vec![send(client::close(code)), answer])
    });
    let refused = |number: String, code| refused(number, &code_and_reason(code, b""), PROTOCOL_ERROR);
    let invalid = (1..).zip(INVALID_CODES).map(move |(number, code)| refused(format!("7.9.{number}"), code));
    let beyond = (1..).zip(CODES_BEYOND).map(move |(number, code)| refused(format!("7.13.{number}"), code));
    Box::new(behind_a_close().into_iter().chain(payloads()).chain(valid).chain(invalid).chain(beyond))
}

/// 7.1: the server ignores everything behind the client's close frame.
fn behind_a_close() -> Vec<Case> {
    let case = |number: &str, sent: &[Vec<u8>], answers: Vec<Vec<u8>>| {
        let mut steps = vec![send(sent.concat())];
        steps.extend(answers.into_iter().map(|payload| Step::Receive(text(payload))));
        steps.push(Step::Receive(closed(NORMAL, "")));
        Case::new(number, steps)
    };
    let close = || client::close(NORMAL);
    let large = b"BAsd7&jh23".repeat(26_215)[..256 << 10].to_vec();
    vec![
        Case::answered("7.1.1", [said(HELLO)], [text(HELLO)]),
        case("7.1.2", &[close(), frame(0x80 | CLOSE, b"")], vec![]),
        case("7.1.3", &[close(), ping(b"")], vec![]),
        case("7.1.4", &[close(), said(HELLO)], vec![]),
        case("7.1.5", &[frame(TEXT, b"fragment1"), close(), frame(0x80, b"fragment2")], vec![]),
        // The suite accepts any outcome. Here, both texts come back before the close, and the ping has no answer.
        case("7.1.6", &[said(&large), said(HELLO), close(), ping(b"")], vec![large, HELLO.to_vec()]),
    ]
}

/// 7.3 and 7.5: the length and the reason of a close frame.
fn payloads() -> Vec<Case> {
    let answered = |number: &str, code: &[u8], reason: &[u8]| {
        let payload = [code, reason].concat();
        let answer = Step::Receive(super::case::Answer { opcode: CLOSE, payload: payload.clone() });
        Case::new(number, vec![send(frame(0x80 | CLOSE, &payload)), answer])
    };
    let normal = NORMAL.to_be_bytes();
    let not_utf8 = [KOSME, b"\xed\xa0\x80edited"].concat();
    vec![
        answered("7.3.1", b"", b""),
        refused("7.3.2", b"a", PROTOCOL_ERROR),
        answered("7.3.3", &normal, b""),
        answered("7.3.4", &normal, HELLO),
        answered("7.3.5", &normal, &[b'*'; 123]),
        refused("7.3.6", &code_and_reason(NORMAL, &[b'*'; 124]), PROTOCOL_ERROR),
        refused("7.5.1", &code_and_reason(NORMAL, &not_utf8), INVALID_TEXT),
    ]
}

/// A close frame that breaks the protocol.
fn refused(number: impl Into<String>, payload: &[u8], code: u16) -> Case {
    Case::new(number, vec![send(frame(0x80 | CLOSE, payload)), Step::Closed(code)])
}

fn code_and_reason(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}
