//! WebSocket frames as a client that only listens needs them: the server's frames out of a stream of bytes, without a copy
//! where a frame arrived whole, and the client's few short ones.

/// A frame up to this size is kept whole while it is incomplete; of a larger one its beginning and its end.
const WHOLE_BYTES: usize = 4096;
/// What is kept of the beginning of a larger one.
const BEGINNING_BYTES: usize = 512;
/// What is kept of its end.
const END_BYTES: usize = 64;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Text,
    Close,
    Ping,
    Pong,
}

/// What the server sent that is no frame a server may send, or none that this client can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent a frame that cannot be read (first byte {first:#04x}, second {second:#04x})")]
pub(crate) struct Malformed {
    first: u8,
    second: u8,
}

/// Puts together the frames that come in pieces.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// Of the frame at hand: all that has come, or its beginning and as much of its end.
    kept: Vec<u8>,
    /// How much of it has come.
    come: usize,
}

impl Assembler {
    /// Hands every frame that is complete to `each`, until it says `false`. Of a frame that is large and came in pieces, the
    /// middle is left out.
    ///
    /// # Errors
    /// [`Malformed`] for a frame in parts, a masked or a binary one, or an extension that was not asked for.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Opcode, &[u8]) -> bool,
    ) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            if self.kept.is_empty()
                && let Some(head) = Head::parse(bytes)?
                && let Some((frame, rest)) = bytes.split_at_checked(head.total())
            {
                bytes = rest;
                if !each(head.opcode, &frame[head.bytes..]) {
                    return Ok(());
                }
                continue;
            }
            let Some(head) = Head::parse(&self.kept)? else {
                self.kept.push(bytes[0]);
                self.come += 1;
                bytes = &bytes[1..];
                continue;
            };
            bytes = self.take(&head, bytes);
            if self.come == head.total() {
                let frame = std::mem::take(&mut self.kept);
                self.come = 0;
                if !each(head.opcode, &frame[head.bytes..]) {
                    return Ok(());
                }
            }
        }
        // A frame whose payload is empty is complete with its head.
        if let Some(head) = Head::parse(&self.kept)?
            && self.come == head.total()
        {
            self.kept = Vec::new();
            self.come = 0;
            each(head.opcode, &[]);
        }
        Ok(())
    }

    /// Takes what belongs to the frame at hand, and gives back the rest.
    fn take<'a>(&mut self, head: &Head, bytes: &'a [u8]) -> &'a [u8] {
        let total = head.total();
        let (own, rest) = bytes.split_at(bytes.len().min(total - self.come));
        if total <= WHOLE_BYTES {
            self.kept.extend_from_slice(own);
        } else {
            let part = |from: usize, to: usize| {
                let within = |at: usize| at.saturating_sub(self.come).min(own.len());
                &own[within(from)..within(to)]
            };
            let (beginning, end) = (part(0, BEGINNING_BYTES), part(total - END_BYTES, total));
            self.kept.extend_from_slice(beginning);
            self.kept.extend_from_slice(end);
        }
        self.come += own.len();
        rest
    }
}

/// The beginning of a frame.
struct Head {
    opcode: Opcode,
    bytes: usize,
    payload_bytes: usize,
}

impl Head {
    /// `None` while it is incomplete.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let [first, second, ..] = *bytes else { return Ok(None) };
        let opcode = match (first, second & 0x80) {
            (0x81, 0) => Opcode::Text,
            (0x88, 0) => Opcode::Close,
            (0x89, 0) => Opcode::Ping,
            (0x8a, 0) => Opcode::Pong,
            _ => return Err(Malformed { first, second }),
        };
        let (length_bytes, payload_bytes) = match second {
            126 => (2, bytes.get(2..4).and_then(|length| length.try_into().ok()).map(|b| u16::from_be_bytes(b).into())),
            127 => (8, bytes.get(2..10).and_then(|length| length.try_into().ok()).map(u64::from_be_bytes)),
            short => (0, Some(u64::from(short))),
        };
        let Some(payload_bytes) = payload_bytes else { return Ok(None) };
        let payload_bytes = usize::try_from(payload_bytes).ok().filter(|bytes| *bytes < 1 << 40);
        let payload_bytes = payload_bytes.ok_or(Malformed { first, second })?;
        Ok(Some(Self { opcode, bytes: 2 + length_bytes, payload_bytes }))
    }

    fn total(&self) -> usize {
        self.bytes + self.payload_bytes
    }
}

/// Appends a masked frame.
pub(super) fn write(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    out.push(match opcode {
        Opcode::Text => 0x81,
        Opcode::Close => 0x88,
        Opcode::Ping => 0x89,
        Opcode::Pong => 0x8a,
    });
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let mask: [u8; 4] = rand::random();
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(length as u8),
            length @ 126..0x1_0000 => {
                frame.push(126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        frame
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_the_stream_is_cut(
            sizes in prop::collection::vec(prop_oneof![0..4_usize, 100..140_usize, 4000..6000_usize, 65_000..70_000_usize], 1..6),
            cuts in prop::collection::vec(1..5000_usize, 1..40),
        ) {
            let frames: Vec<Vec<u8>> =
                sizes.iter().map(|size| (0..*size).map(|at| (at % 251) as u8).collect()).collect();
            let stream: Vec<u8> = frames.iter().flat_map(|frame| server_frame(0x81, frame)).collect();
            let (mut assembler, mut seen, mut rest) = (Assembler::default(), Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                assembler.feed(now, |opcode, payload| { seen.push((opcode, payload.to_vec())); true }).unwrap();
                rest = later;
            }
            prop_assert_eq!(seen.len(), frames.len());
            for ((opcode, payload), frame) in seen.iter().zip(&frames) {
                prop_assert_eq!(*opcode, Opcode::Text);
                let head = server_frame(0x81, frame).len() - frame.len();
                if payload.len() == frame.len() {
                    prop_assert_eq!(payload, frame);
                } else {
                    prop_assert!(frame.len() + head > WHOLE_BYTES);
                    let (beginning, end) = payload.split_at(BEGINNING_BYTES - head);
                    prop_assert!(frame.starts_with(beginning) && frame.ends_with(end) && end.len() == END_BYTES);
                }
            }
        }
    }

    #[test]
    fn what_a_server_may_not_send_is_an_error() {
        for frame in [[0x01, 0], [0xc1, 0], [0x81, 0x80], [0x82, 0], [0x80, 0]] {
            assert!(Assembler::default().feed(&frame, |_, _| true).is_err(), "{frame:?}");
        }
    }

    #[test]
    fn a_masked_frame_is_what_the_standard_shows() {
        let mut out = Vec::new();
        write(Opcode::Text, b"ping", &mut out);
        assert_eq!((out[0], out[1], out.len()), (0x81, 0x84, 10));
        let unmasked: Vec<u8> = out[6..].iter().zip(&out[2..6]).map(|(byte, mask)| byte ^ mask).collect();
        assert_eq!(unmasked, b"ping");
    }
}
