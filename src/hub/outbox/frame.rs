//! What an outbox holds.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;

use super::{super::Publication, Encoder};
use crate::protocol::{CloseCode, Dialect, Position, RequestId};

/// One thing to tell a client.
#[derive(Debug, Clone)]
pub enum Frame {
    /// A whole text message that never changes.
    Fixed(&'static str),
    /// A whole text message.
    Text(Bytes),
    /// A text message that says how far subscriptions have come. Boxed: few frames are such.
    Marked(Box<(Bytes, Mark)>),
    /// The bytes that the wire has made of a frame ([`Sealed::Whole`]).
    Sealed(Bytes),
    /// A publication, under the label the client gave the subscription it came by.
    Publication(Arc<Publication>, RequestId),
    /// The same with the `id` that the wire has given its event ([`Sealed::WithId`]).
    PublicationWithId(Arc<Publication>, RequestId, Box<str>),
    /// A ping of the transport's own, where it has one.
    Ping,
    /// The answer to the peer's ping, with what that held.
    Pong(Bytes),
    /// The end; nothing follows.
    Close(CloseCode, Cow<'static, str>),
}

/// How far a text message says that subscriptions have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// The subscription has been sent everything up to the position.
    At(RequestId, Position),
    /// The subscription is over.
    Ended(RequestId),
    /// No subscription needs anything from before the position; `None` where no position is known.
    All(Option<Position>),
}

/// What a wire makes of a frame when it is queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sealed {
    /// The frame as it is.
    AsIs,
    /// A publication whose event has this `id`, which depends on the frames before it.
    WithId(Box<str>),
    /// All bytes of the frame.
    Whole(Bytes),
}

/// What a [`Frame`] says, wherever it lies.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// A whole text message, and how far it says that subscriptions have come.
    Text(&'a [u8], Option<&'a Mark>),
    /// The bytes that the wire has made of a frame.
    Sealed(&'a [u8]),
    /// A publication, under the label of the subscription it goes to, and the `id` of its event if that is not its own position.
    Publication(&'a Publication, &'a RequestId, Option<&'a str>),
    /// A ping of the transport's own.
    Ping,
    /// The answer to the peer's ping.
    Pong(&'a [u8]),
    /// The end.
    Close(CloseCode, &'a str),
}

impl Frame {
    /// Returns a text message that says how far subscriptions have come.
    pub fn marked(text: impl Into<Bytes>, mark: Mark) -> Self {
        Self::Marked(Box::new((text.into(), mark)))
    }

    /// Returns a publication, with the `id` of its event if the wire has given it one.
    pub(super) fn publication(publication: &Arc<Publication>, request_id: &RequestId, id: Option<Box<str>>) -> Self {
        let (publication, request_id) = (publication.clone(), request_id.clone());
        match id {
            Some(id) => Self::PublicationWithId(publication, request_id, id),
            None => Self::Publication(publication, request_id),
        }
    }

    /// What it says.
    pub fn content(&self) -> Content<'_> {
        match self {
            Self::Fixed(text) => Content::Text(text.as_bytes(), None),
            Self::Text(text) => Content::Text(text, None),
            Self::Marked(marked) => Content::Text(&marked.0, Some(&marked.1)),
            Self::Sealed(bytes) => Content::Sealed(bytes),
            Self::Publication(publication, request_id) => Content::Publication(publication, request_id, None),
            Self::PublicationWithId(publication, request_id, id) => {
                Content::Publication(publication, request_id, Some(id))
            }
            Self::Ping => Content::Ping,
            Self::Pong(payload) => Content::Pong(payload),
            Self::Close(code, reason) => Content::Close(*code, reason),
        }
    }

    /// Returns the bytes of a text of its own.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Marked(marked) => marked.0.len(),
            _ => 0,
        }
    }

    pub(super) fn is_publication(&self) -> bool {
        matches!(self, Self::Publication(..) | Self::PublicationWithId(..))
    }
}

impl<'a> Content<'a> {
    /// Bytes of payload for a client that is sent `dialect`, whatever the wire puts around it.
    pub fn payload_len(&self, dialect: impl Into<Dialect>) -> usize {
        match self {
            Self::Text(text, _) | Self::Sealed(text) => text.len(),
            Self::Publication(publication, id, _) => {
                publication.frame(dialect.into(), id).iter().map(|piece| piece.len()).sum()
            }
            Self::Ping => 0,
            Self::Pong(payload) => payload.len(),
            Self::Close(CloseCode::NoStatus, _) => 0,
            Self::Close(_, reason) => size_of::<u16>() + reason.len(),
        }
    }

    /// Appends that payload to `out`.
    pub fn put_payload(self, dialect: impl Into<Dialect>, out: &mut Encoder<'a, '_>) {
        match self {
            Self::Text(text, _) | Self::Sealed(text) | Self::Pong(text) => out.put(text),
            Self::Publication(publication, request_id, _) => {
                publication.frame(dialect.into(), request_id).into_iter().for_each(|piece| out.put(piece));
            }
            Self::Ping | Self::Close(CloseCode::NoStatus, _) => {}
            Self::Close(code, reason) => {
                out.put_copy(&code.number().to_be_bytes());
                out.put(reason.as_bytes());
            }
        }
    }
}
