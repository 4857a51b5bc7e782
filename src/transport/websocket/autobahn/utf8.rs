//! Section 6: a text is UTF-8, however its frames cut it, and is refused at its first invalid byte.

use super::{
    Cases,
    case::{Case, INVALID_TEXT, Step, fragments, said, send, text},
    client::{TEXT, frame},
};

/// A Greek word whose second letter, U+1F79, has three bytes.
pub(super) const KOSME: &[u8] = "κ\u{1F79}σμε".as_bytes();
const GREETING: &str = "Hello-µ@ßöäüàá-UTF-8!!";
/// Would be U+110000, one more than the last code point. Invalid from its second byte on.
const BEYOND: &[u8] = b"\xf4\x90\x80\x80";
const SURROGATE: &[u8] = b"\xed\xa0\x80";
const REST: &[u8] = b"edited";

pub(super) fn cases() -> Cases {
    let whole = [valid_in_frames(), invalid_in_frames(), fail_fast()].into_iter().flatten();
    let sequences = (5..).zip(SEQUENCES).flat_map(|(group, sequences)| {
        (1..).zip(sequences()).map(move |(number, (payload, is_valid))| {
            let number = format!("6.{group}.{number}");
            let sent = [said(&payload)];
            if is_valid {
                Case::answered(number, sent, [text(payload)])
            } else {
                Case::fails(number, sent, [], INVALID_TEXT)
            }
        })
    });
    Box::new(whole.chain(sequences))
}

/// 6.1 and 6.2.
fn valid_in_frames() -> Vec<Case> {
    let three = |middle: &[u8]| [frame(TEXT, b""), frame(0, middle), frame(0x80, b"")].concat();
    let (head, tail) = GREETING.split_at("Hello-µ@ßöä".len());
    let two = [frame(TEXT, head.as_bytes()), frame(0x80, tail.as_bytes())].concat();
    vec![
        Case::answered("6.1.1", [said(b"")], [text("")]),
        Case::answered("6.1.2", [three(b"")], [text("")]),
        Case::answered("6.1.3", [three(b"in the middle")], [text("in the middle")]),
        Case::answered("6.2.1", [said(GREETING.as_bytes())], [text(GREETING)]),
        Case::answered("6.2.2", [two], [text(GREETING)]),
        Case::answered("6.2.3", [fragments(TEXT, GREETING.as_bytes(), 1)], [text(GREETING)]),
        Case::answered("6.2.4", [fragments(TEXT, KOSME, 1)], [text(KOSME)]),
    ]
}

/// 6.3.
fn invalid_in_frames() -> Vec<Case> {
    let payload = [KOSME, SURROGATE, REST].concat();
    vec![
        Case::fails("6.3.1", [said(&payload)], [], INVALID_TEXT),
        Case::fails("6.3.2", [fragments(TEXT, &payload, 1)], [], INVALID_TEXT),
    ]
}

/// 6.4: the server closes at the invalid byte. The client never sends the rest of the message.
fn fail_fast() -> Vec<Case> {
    let payload = [KOSME, BEYOND, REST].concat();
    let whole = said(&payload);
    let head = whole.len() - payload.len();
    let case = |number: &str, first: Vec<u8>, second: Vec<u8>| {
        Case::fails(number, vec![send(first), Step::Silence, send(second)], [], INVALID_TEXT)
    };
    let cut = KOSME.len() + BEYOND.len();
    let bad = KOSME.len() + 1;
    vec![
        case("6.4.1", frame(TEXT, KOSME), frame(0, BEYOND)),
        case("6.4.2", frame(TEXT, &payload[..bad]), frame(0, &payload[bad..=bad])),
        case("6.4.3", whole[..head + KOSME.len()].to_vec(), whole[head + KOSME.len()..head + cut].to_vec()),
        case("6.4.4", whole[..head + bad].to_vec(), whole[head + bad..=head + bad].to_vec()),
    ]
}

/// A payload, and whether it is UTF-8.
type Sequence = (Vec<u8>, bool);

fn all(is_valid: bool, payloads: &[&[u8]]) -> Vec<Sequence> {
    payloads.iter().map(|payload| (payload.to_vec(), is_valid)).collect()
}

/// 6.5 to 6.23, in this order.
const SEQUENCES: [fn() -> Vec<Sequence>; 19] = [
    some_valid_text,
    beginnings_of_a_text,
    || all(true, &[b"\0", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"]), // the first of each length
    || all(false, &[b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"]),    // of five and six bytes
    || all(true, &[b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"]), // the last of each length
    || all(false, &[b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"]),
    other_boundaries,
    stray_continuations,
    lonely_starts,
    || all(false, &CUT_SHORT),
    || all(false, &[&CUT_SHORT.concat()]),
    || all(false, &[b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"]), // bytes of no character
    || {
        all(
            false,
            &[b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf", b"\xfc\x80\x80\x80\x80\xaf"],
        )
    },
    || {
        all(
            false,
            &[b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf8\x87\xbf\xbf\xbf", b"\xfc\x83\xbf\xbf\xbf\xbf"],
        )
    },
    || {
        all(
            false,
            &[b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xf8\x80\x80\x80\x80", b"\xfc\x80\x80\x80\x80\x80"],
        )
    },
    surrogates,
    pairs_of_surrogates,
    noncharacters,
    || (0xFFF9..=0xFFFF).map(|code| (character(code), true)).collect(),
];

/// Encodings of two to six bytes without their last byte: the smallest of each length, then the largest.
const CUT_SHORT: [&[u8]; 10] = [
    b"\xc0",
    b"\xe0\x80",
    b"\xf0\x80\x80",
    b"\xf8\x80\x80\x80",
    b"\xfc\x80\x80\x80\x80",
    b"\xdf",
    b"\xef\xbf",
    b"\xf7\xbf\xbf",
    b"\xfb\xbf\xbf\xbf",
    b"\xfd\xbf\xbf\xbf\xbf",
];

/// The bytes of a code point that is no surrogate.
fn character(code: u32) -> Vec<u8> {
    char::from_u32(code).unwrap().to_string().into_bytes()
}

fn some_valid_text() -> Vec<Sequence> {
    let between = ['$', '¢', '€', '\u{24B62}'].map(|letter| (format!("hello{letter}world").into_bytes(), true));
    between.into_iter().chain([(KOSME.to_vec(), true)]).collect()
}

fn beginnings_of_a_text() -> Vec<Sequence> {
    let ends = [2, 5, 7, 9, 11]; // of its letters
    (1..=KOSME.len()).map(|length| (KOSME[..length].to_vec(), ends.contains(&length))).collect()
}

fn other_boundaries() -> Vec<Sequence> {
    let mut valid = all(true, &[b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf"]);
    valid.extend(all(false, &[BEYOND]));
    valid
}

fn stray_continuations() -> Vec<Sequence> {
    let mut bytes = all(false, &[b"\x80", b"\xbf"]);
    bytes.extend((2..=6).map(|count| ([0x80, 0xBF].repeat(3)[..count].to_vec(), false)));
    bytes.push(((0x80..0xBF).collect(), false));
    bytes
}

/// First bytes of characters, each followed by a space. The suite omits the last one of each length.
fn lonely_starts() -> Vec<Sequence> {
    let starts = [0xC0..0xDF, 0xE0..0xEF, 0xF0..0xF7, 0xF8..0xFB, 0xFC..0xFD];
    starts.into_iter().map(|starts| (starts.flat_map(|start| [start, b' ']).collect(), false)).collect()
}

/// A surrogate in three bytes, which UTF-8 forbids.
fn surrogate(code: u16) -> [u8; 3] {
    let [low, middle] = [code, code >> 6].map(|bits| 0x80 | u8::try_from(bits & 0x3F).unwrap());
    [0xED, middle, low]
}

fn surrogates() -> Vec<Sequence> {
    let codes = [0xD800, 0xDB7F, 0xDB80, 0xDBFF, 0xDC00, 0xDF80, 0xDFFF];
    codes.map(|code| (surrogate(code).to_vec(), false)).to_vec()
}

fn pairs_of_surrogates() -> Vec<Sequence> {
    let pairs_of = |high| [0xDC00, 0xDFFF].map(|low| ([surrogate(high), surrogate(low)].concat(), false));
    [0xD800, 0xDB7F, 0xDB80, 0xDBFF].into_iter().flat_map(pairs_of).collect()
}

/// The last two code points of every plane: not characters, but valid in UTF-8.
fn noncharacters() -> Vec<Sequence> {
    (0..=0x10_u32).flat_map(|plane| [0xFFFE, 0xFFFF].map(|last| (character(plane << 16 | last), true))).collect()
}
