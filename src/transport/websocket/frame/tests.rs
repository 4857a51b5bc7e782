use std::sync::Arc;

use proptest::prelude::*;

use uuid::Uuid;

use super::*;
use crate::protocol::Version;
use crate::{
    hub::{Frame, Outbox, Pace, Publication, Published, Wire},
    metrics::Metrics,
    protocol::RequestId,
};

/// A frame as a client sends it.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(MASKED | u8::try_from(len).unwrap()),
        len @ 126..=0xFFFF => {
            bytes.push(MASKED | 126);
            bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            bytes.push(MASKED | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// What a reader makes of `bytes` when they come in pieces of `step`: events as text, until it wants more or gives up.
fn read(bytes: &[u8], step: usize, limit: usize) -> (Vec<String>, Option<CloseCode>) {
    read_pieces(&[], bytes.chunks(step.max(1)), limit)
}

/// The same for bytes that come right behind the handshake (`early`) and in `pieces`.
fn read_pieces<'a>(
    early: &[u8],
    pieces: impl Iterator<Item = &'a [u8]>,
    limit: usize,
) -> (Vec<String>, Option<CloseCode>) {
    let mut reader = Reader::new(limit, early);
    let mut events = Vec::new();
    for piece in std::iter::once(&[][..]).chain(pieces) {
        reader.buffer().extend_from_slice(piece);
        loop {
            match reader.next_event() {
                Ok(Some(event)) => events.push(format!("{event:?}")),
                Ok(None) => break,
                Err(Violation(code)) => return (events, Some(code)),
            }
        }
    }
    (events, None)
}

/// A client's frames, and the events that a reader has to return.
type Conversation = (Vec<u8>, Vec<String>);

fn control_frame() -> impl Strategy<Value = Conversation> {
    (any::<bool>(), prop::collection::vec(any::<u8>(), 0..=125)).prop_map(|(is_ping, payload)| {
        let event = if is_ping { Event::Ping(payload.clone().into()) } else { Event::Pong };
        (masked(FIN | if is_ping { PING } else { PONG }, &payload), vec![format!("{event:?}")])
    })
}

/// A message in one or more frames, with control frames between some of them.
fn message() -> impl Strategy<Value = Conversation> {
    let payload = prop_oneof![
        "\\PC{0,80}".prop_map(|text| (TEXT, text.into_bytes())),
        "\\PC{0,80}".prop_map(|text| (BINARY, text.into_bytes())),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| (BINARY, bytes)),
    ];
    let between = prop::collection::vec(control_frame(), 0..2);
    (payload, prop::collection::vec((0..60_usize, between), 0..5)).prop_map(|((opcode, payload), cuts)| {
        let (mut bytes, mut events) = (Vec::new(), Vec::new());
        let (mut first, mut rest) = (opcode, payload.as_slice());
        for (size, between) in cuts {
            let (fragment, later) = rest.split_at(size.min(rest.len()));
            bytes.extend(masked(first, fragment));
            (first, rest) = (CONTINUATION, later);
            for (frame, event) in between {
                bytes.extend(frame);
                events.extend(event);
            }
        }
        bytes.extend(masked(FIN | first, rest));
        events.push(format!("{:?}", std::str::from_utf8(&payload).map_or(Event::Binary(&payload), Event::Text)));
        (bytes, events)
    })
}

/// Messages and control frames, some with a close frame at the end.
fn conversation() -> impl Strategy<Value = Conversation> {
    let goodbye = (1000..1004_u16, "\\PC{0,30}").prop_map(|(code, reason)| {
        let event = Event::Close(CloseCode::Echo(code), reason.clone().into());
        (masked(FIN | CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat()), vec![format!("{event:?}")])
    });
    let parts = prop::collection::vec(prop_oneof![message(), control_frame()], 0..6);
    (parts, prop::option::of(goodbye)).prop_map(|(parts, goodbye)| {
        let (bytes, events): (Vec<_>, Vec<_>) = parts.into_iter().chain(goodbye).unzip();
        (bytes.concat(), events.concat())
    })
}

#[test]
fn fragments_are_put_together_around_control_frames() {
    let bytes = [
        masked(TEXT, b"he"),
        masked(FIN | PING, b"x"),
        masked(CONTINUATION, b"ll"),
        masked(FIN | CONTINUATION, b"o"),
        masked(FIN | TEXT, b"two"),
    ]
    .concat();
    for step in [1, 2, 3, 7, 1000] {
        let expected = [r#"Ping(b"x")"#, r#"Text("hello")"#, r#"Text("two")"#].map(str::to_owned).to_vec();
        assert_eq!(read(&bytes, step, 1024), (expected, None), "in steps of {step}");
    }
}

#[test]
fn every_violation_has_its_code() {
    let protocol = Some(CloseCode::ProtocolError);
    for (bytes, code) in [
        (vec![FIN | TEXT, 1, b'x'], protocol),      // not masked
        (masked(FIN | 0x40 | TEXT, b""), protocol), // reserved bit
        (masked(FIN | 0x3, b""), protocol),         // reserved opcodes
        (masked(FIN | 0xB, b""), protocol),
        (masked(FIN | CONTINUATION, b""), protocol), // nothing to continue
        ([masked(TEXT, b""), masked(FIN | TEXT, b"")].concat(), protocol), // not continued
        (masked(PING, b""), protocol),               // fragmented control frame
        (masked(FIN | PING, &[0; 126]), protocol),   // large control frame
        (masked(FIN | CLOSE, &[3]), protocol),
        (masked(FIN | CLOSE, &999_u16.to_be_bytes()), protocol),
        (masked(FIN | CLOSE, &1005_u16.to_be_bytes()), protocol),
        (masked(FIN | CLOSE, b"\x03\xe8\xff"), Some(CloseCode::InvalidText)),
        (masked(FIN | TEXT, b"\xff"), Some(CloseCode::InvalidText)),
        (masked(FIN | TEXT, &[b'x'; 1025]), Some(CloseCode::TooBig)),
        ([masked(TEXT, &[b'x'; 1000]), masked(CONTINUATION, &[b'x'; 25])].concat(), Some(CloseCode::TooBig)),
        ([&[FIN | TEXT, MASKED | 127][..], &u64::MAX.to_be_bytes()].concat(), Some(CloseCode::TooBig)),
    ] {
        assert_eq!(read(&bytes, 1, 1024), (vec![], code), "{bytes:?}");
    }
}

#[test]
fn text_that_is_not_utf8_is_noticed_at_its_first_invalid_byte() {
    // Greek letters, then a surrogate, which UTF-8 does not have (Autobahn 6.4.1 to 6.4.4), or a byte that is never valid.
    let valid = "κόσμε".as_bytes();
    let invalid = Some(CloseCode::InvalidText);
    for bad in [&b"\xf4\x90\x80\x80"[..], b"\xed\xa0\x80", b"\xff", b"\xc0\xaf"] {
        let fragments = [masked(TEXT, valid), masked(CONTINUATION, bad)].concat();
        assert_eq!(read(&fragments, 1, 1024), (vec![], invalid), "{bad:x?}: the message goes on");
        let whole = masked(FIN | TEXT, &[valid, bad, b"edited"].concat());
        let begun = &whole[..whole.len() - "edited".len()];
        for step in [1, 5, 1000] {
            assert_eq!(read(begun, step, 1024), (vec![], invalid), "{bad:x?}: the frame goes on, in steps of {step}");
        }
        let after_a_ping = [masked(TEXT, bad), masked(FIN | PING, b"")].concat();
        assert_eq!(read(&after_a_ping, 1, 1024), (vec![], invalid), "{bad:x?}");
    }
    // A character may be cut anywhere, and what is cut off at the end of the message is no character.
    for at in 1..valid.len() {
        let (head, tail) = valid.split_at(at);
        let bytes = [masked(TEXT, head), masked(CONTINUATION, b""), masked(FIN | CONTINUATION, tail)].concat();
        assert_eq!(read(&bytes, 1, 1024), (vec![r#"Text("κόσμε")"#.to_owned()], None), "cut at {at}");
    }
    let cut = [masked(TEXT, valid), masked(FIN | CONTINUATION, b"\xce")].concat();
    assert_eq!(read(&cut, 1, 1024), (vec![], invalid));
    // Binary messages may hold anything.
    let binary = [masked(BINARY, b"\xff"), masked(FIN | CONTINUATION, b"\xff")].concat();
    assert_eq!(read(&binary, 1, 1024), (vec!["Binary([255, 255])".to_owned()], None));
}

#[test]
fn an_unfinished_message_is_held_once_and_its_fragments_are_counted() {
    let mut reader = Reader::new(1 << 20, &[]);
    let bytes = masked(FIN | TEXT, &vec![b'x'; 600_000]);
    for piece in bytes[..500_000].chunks(4096) {
        reader.buffer().extend_from_slice(piece);
        assert_eq!(reader.next_event(), Ok(None));
    }
    assert_eq!((reader.unread(), reader.buffer.capacity()), (0, 0));
    assert_eq!(reader.held(), 500_000 - 14);
    assert_eq!(reader.take_fragments(), 0, "a frame that ends its message is the message");
    reader.buffer().extend_from_slice(&bytes[500_000..]);
    assert!(matches!(reader.next_event(), Ok(Some(Event::Text(_)))));
    let again = [masked(CONTINUATION, b""), masked(FIN | PING, b"")].concat();
    let (large, small) = (masked(CONTINUATION, &[b'x'; 64]), masked(CONTINUATION, &[b'x'; 63]));
    reader
        .buffer()
        .extend([masked(TEXT, b""), again.repeat(5), small, large, masked(FIN | CONTINUATION, b"")].concat());
    while reader.next_event().unwrap().is_some() {}
    assert_eq!((reader.take_fragments(), reader.take_fragments()), (1 + 6, 0));
}

#[test]
fn a_close_is_read_with_its_code_and_reason() {
    let event = |payload: &[u8]| read(&masked(FIN | CLOSE, payload), 1, 1024).0.concat();
    assert_eq!(event(b"\x03\xe8bye"), r#"Close(Echo(1000), "bye")"#);
    assert_eq!(event(b""), r#"Close(NoStatus, "")"#);
    assert_eq!(event(&4999_u16.to_be_bytes()), r#"Close(Echo(4999), "")"#);
}

#[test]
fn a_giant_length_is_refused_before_any_of_it_is_kept() {
    let mut reader = Reader::new(1024, &[]);
    reader.buffer().extend([FIN | BINARY, MASKED | 127, 0, 0, 0, 0, 0x40, 0, 0, 0]);
    assert_eq!(reader.next_event(), Err(Violation(CloseCode::TooBig)));
    assert!(reader.buffer.capacity() < 8192);
}

#[test]
fn a_reader_that_waits_holds_no_memory() {
    let mut reader = Reader::new(1 << 20, &[]);
    reader.buffer().extend(masked(FIN | TEXT, &vec![b'x'; 100_000]));
    assert!(matches!(reader.next_event(), Ok(Some(Event::Text(_)))));
    assert_eq!(reader.next_event(), Ok(None));
    assert_eq!(reader.buffer.capacity(), 0);
    for piece in [masked(TEXT, &vec![b'x'; 100_000]), masked(FIN | CONTINUATION, b"")] {
        reader.buffer().extend(piece);
        let _ = reader.next_event();
    }
    assert_eq!(reader.next_event(), Ok(None));
    assert!(reader.message.is_none());
    assert_eq!(reader.buffer.capacity(), 0);
}

/// Takes everything, a few bytes at a time.
#[derive(Default)]
struct Slow {
    taken: Arc<parking_lot::Mutex<Vec<u8>>>,
    step: usize,
}

impl Wire for Slow {
    fn transport(&self) -> &'static str {
        "none"
    }

    fn encoded_len(&self, content: Content<'_>) -> usize {
        encoded_len(content, Version::V3)
    }

    fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>) {
        encode(content, Version::V3, out);
    }

    fn try_write(&self, slices: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(self.step).collect();
        self.taken.lock().extend(&bytes);
        Ok(bytes.len())
    }
}

/// The payloads of the server's frames in `bytes`, read by a simple reader of its own.
fn payloads(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let [_, short, rest @ ..] = bytes {
        let (len, at) = match short {
            126 => (usize::from(u16::from_be_bytes(rest[..2].try_into().unwrap())), 2),
            127 => (usize::try_from(u64::from_be_bytes(rest[..8].try_into().unwrap())).unwrap(), 8),
            len => (usize::from(*len), 0),
        };
        all.push(rest[at..at + len].to_vec());
        bytes = &rest[at + len..];
    }
    all
}

proptest! {
    #[test]
    fn random_bytes_never_panic_and_never_pile_up(bytes in prop::collection::vec(any::<u8>(), 0..300), step in 1..64_usize) {
        let _ = read(&bytes, step, 100);
    }

    #[test]
    fn a_conversation_is_read_alike_wherever_it_is_cut(
        (bytes, expected) in conversation(),
        early in 0..100_usize,
        sizes in prop::collection::vec(1..200_usize, 1..8),
    ) {
        let (early, mut rest) = bytes.split_at(early.min(bytes.len()));
        let pieces = sizes.iter().cycle().map_while(|size| {
            let piece;
            (piece, rest) = rest.split_at((*size).min(rest.len()));
            (!piece.is_empty()).then_some(piece)
        });
        prop_assert_eq!(read_pieces(early, pieces, 4096), (expected, None));
    }

    #[test]
    fn an_outbox_writes_every_frame_once_and_in_order(
        sizes in prop::collection::vec(prop_oneof![0..200_usize, 4000..5000_usize, 65_530..65_540_usize], 1..8),
        step in prop_oneof![1..50_usize, 1000..100_000_usize],
    ) {
        let slow = Slow { step, ..Slow::default() };
        let taken = slow.taken.clone();
        let metrics = Arc::new(Metrics::default());
        let outbox: Arc<Outbox> = Arc::new(Outbox::new(Uuid::nil(), slow, 1 << 20, metrics.clone()));
        let id = RequestId::new(&serde_json::value::to_raw_value("id").unwrap()).unwrap();
        let (mut expected, mut written) = (Vec::new(), 0);
        for (at, size) in sizes.iter().enumerate() {
            let text = format!("{at}").repeat(*size);
            if at % 2 == 0 {
                let publication = Arc::new(Publication::new(Vec::new(), text.clone().into(), Vec::new()));
                let pace = if at % 4 == 0 { Pace::AtOnce } else { Pace::Later };
                let outcome = outbox.publish(&publication, &id, pace).unwrap();
                written += u64::from(outcome == Published::Written);
                let frame = format!(r#"{{"type":"publish","data":{text},"requestId":"id"}}"#);
                expected.push(frame.into_bytes());
            } else {
                outbox.push(Frame::Text(text.clone().into())).unwrap();
                expected.push(text.into_bytes());
            }
        }
        outbox.flush();
        prop_assert_eq!(payloads(&taken.lock()), expected);
        prop_assert!(outbox.is_empty());
        prop_assert_eq!(metrics.publications_sent.get() + written, sizes.len().div_ceil(2) as u64);
    }
}

#[test]
fn a_close_frame_is_found_behind_whatever_broke_the_protocol() {
    let close = masked(FIN | CLOSE, b"\x03\xe8");
    let large = masked(FIN | BINARY, &vec![0x88; 70_000]);
    for broken in [
        masked(FIN | TEXT, &[b'x'; 2000]),
        [masked(TEXT, &[b'x'; 1000]), masked(FIN | CONTINUATION, &[b'x'; 200])].concat(),
        masked(FIN | TEXT, &[&b"\xff"[..], &[0x88; 500]].concat()),
        [masked(TEXT, b"x"), masked(FIN | CONTINUATION, &[&b"\xff"[..], &[0x88; 500]].concat())].concat(),
        masked(FIN | 0x3, &[0x88; 300]),
        masked(FIN | 0x40 | TEXT, &[0x88; 300]),
        vec![FIN | TEXT, 3, 0x88, 0x88, 0x88],
        [masked(FIN | CONTINUATION, b""), large].concat(),
    ] {
        for step in [1, 7, 600, 100_000] {
            let bytes = [&broken[..], &masked(FIN | PING, b"between"), &close].concat();
            let (mut reader, mut is_broken) = (Reader::new(1024, &[]), false);
            let mut fed = 0;
            for piece in bytes.chunks(step) {
                assert!(!reader.has_closed() || fed + 2 >= bytes.len(), "closed after {fed} bytes of {}", bytes.len());
                reader.buffer().extend_from_slice(piece);
                fed += piece.len();
                while !is_broken
                    && reader.next_event().inspect_err(|_| is_broken = true).is_ok_and(|event| event.is_some())
                {
                }
                if is_broken {
                    reader.skip_to_close();
                }
            }
            assert!(is_broken && reader.has_closed(), "{:?} by {step}", &broken[..8.min(broken.len())]);
        }
    }
    let mut endless = Reader::new(1024, &[&[FIN | TEXT, MASKED | 127][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat());
    assert!(endless.next_event().is_err());
    for _ in 0..100 {
        endless.buffer().extend_from_slice(&close);
        assert!(!endless.skip_to_close());
        assert_eq!(endless.held(), 0);
    }
}
