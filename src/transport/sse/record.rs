//! A frame with what an event's `id` needs of it, as an outbox writes it.

use crate::{
    hub::{Content, Encoder},
    protocol::{CloseCode, Position, RequestId, Version},
};

/// In front of the text: its length, what it is, and of a publication its subscription and perhaps its position.
const HEAD_BYTES: usize = 4 + 1 + 4 + Position::BYTES;

const TEXT: u8 = 0;
const PING: u8 = 1;
const CLOSE: u8 = 2;
const PUBLICATION: u8 = 3;
/// There is a log, and it stands there.
const LOGGED_PUBLICATION: u8 = 4;

#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A frame of ours.
    Text,
    /// A publication to the subscription of this number.
    Publication(u32, Option<Position>),
    /// A sign of life.
    Ping,
    /// The end, with this code; the text is the reason.
    Close(u16),
}

impl<'a> Record<'a> {
    /// How long the record of `content` is.
    pub(super) fn len(content: Content<'_>) -> usize {
        HEAD_BYTES + text_len(content)
    }

    /// Appends the record of `content` to `out`.
    pub(super) fn put<'c>(content: Content<'c>, out: &mut Encoder<'c, '_>) {
        let (kind, number, position) = match content {
            Content::Text(_) => (TEXT, 0, None),
            Content::Ping | Content::Pong(_) => (PING, 0, None),
            Content::Close(code, _) => (CLOSE, u32::from(code.number()), None),
            Content::Publication(publication, id) => {
                let kind = if publication.position().is_some() { LOGGED_PUBLICATION } else { PUBLICATION };
                (kind, number(id), publication.position())
            }
        };
        let length = u32::try_from(text_len(content)).unwrap_or(u32::MAX); // an outbox holds up to 1 GiB
        out.put_copy(&length.to_le_bytes());
        out.put_copy(&[kind]);
        out.put_copy(&number.to_le_bytes());
        out.put_copy(&position.map_or([0; Position::BYTES], Position::to_bytes));
        match content {
            Content::Text(text) => out.put(text),
            Content::Close(_, reason) => out.put(reason.as_bytes()),
            Content::Publication(..) => content.put_payload(Version::V4, out),
            Content::Ping | Content::Pong(_) => {}
        }
    }

    /// Takes the first record off `bytes`.
    pub(super) fn next(bytes: &mut &'a [u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (&[kind], rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (position, rest) = rest.split_first_chunk()?;
        let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        *bytes = rest;
        let number = u32::from_le_bytes(*number);
        let kind = match kind {
            PING => Kind::Ping,
            CLOSE => Kind::Close(u16::try_from(number).unwrap_or(CloseCode::Normal.number())),
            PUBLICATION => Kind::Publication(number, None),
            LOGGED_PUBLICATION => Kind::Publication(number, Some(Position::from_bytes(*position))),
            _ => Kind::Text,
        };
        Some(Self { kind, text })
    }
}

fn text_len(content: Content<'_>) -> usize {
    match content {
        Content::Text(text) => text.len(),
        Content::Close(_, reason) => reason.len(),
        Content::Publication(..) => content.payload_len(Version::V4),
        Content::Ping | Content::Pong(_) => 0,
    }
}

/// The number of a subscription whose id we have given it ourselves.
fn number(id: &RequestId) -> u32 {
    id.as_json().trim_matches('"').parse().unwrap_or(u32::MAX)
}
