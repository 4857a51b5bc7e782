//! An accepted trigger, on its way to many.

use std::sync::OnceLock;

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    protocol::{
        Dialect, Position, RequestId, Version,
        server::{v3, v4},
    },
    room::RoomKey,
};

/// What all receivers of one accepted trigger share.
#[derive(Debug, Default)]
pub struct Publication {
    /// The rooms it was published to.
    pub rooms: Vec<RoomKey>,
    /// The data, any JSON, as the publisher wrote it.
    pub data: Bytes,
    /// Connections that do not get it, in order.
    exclude: Vec<Uuid>,
    /// The only ones that do, in order, if there is such a list.
    only: Option<Box<[Uuid]>>,
    /// Sequence number within this process, starting at 1; 0 until the hub has recorded the publication.
    pub(super) number: u64,
    /// Where it stands in the log, once that is known.
    pub(super) position: Option<Position>,
    /// Whether the data has a line break, which JSON allows between its parts.
    has_line_breaks: bool,
    /// The data in lines of an event, made when it is first needed.
    lines: OnceLock<Box<[u8]>>,
    /// What stands behind its data in version 4, made when it is first needed.
    end: OnceLock<Box<str>>,
}

impl Publication {
    /// One of `data` to `rooms`, not recorded yet.
    pub fn new(rooms: Vec<RoomKey>, data: Bytes, mut exclude: Vec<Uuid>) -> Self {
        exclude.sort_unstable();
        let has_line_breaks = memchr::memchr2(b'\n', b'\r', &data).is_some();
        Self { rooms, data, exclude, has_line_breaks, ..Self::default() }
    }

    /// The same for these connections only, if there is a list.
    pub fn only_for(mut self, connections: Option<Vec<Uuid>>) -> Self {
        self.only = connections.map(|mut connections| {
            connections.sort_unstable();
            connections.into()
        });
        self
    }

    /// The same at a position, as if it had been recorded there.
    #[cfg(test)]
    pub(crate) fn at(mut self, position: Option<Position>) -> Self {
        self.position = position;
        self
    }

    /// Where it stands in the log.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Whether a member that wants what comes from `first` on, and belongs to `connection`, gets it.
    pub(super) fn is_for(&self, connection: Uuid, first: u64) -> bool {
        self.number >= first
            && (self.exclude.is_empty() || self.exclude.binary_search(&connection).is_err())
            && self.only.as_ref().is_none_or(|only| only.binary_search(&connection).is_ok())
    }

    /// Returns the pieces of the frame for the subscription `request_id`.
    pub fn frame<'a>(&'a self, dialect: Dialect, request_id: &'a RequestId) -> [&'a [u8]; 5] {
        let (id, data) = (request_id.as_json().as_bytes(), self.data.as_ref());
        match dialect {
            Dialect::Session(Version::V3) => [
                v3::PUBLICATION_START.as_bytes(),
                data,
                v3::PUBLICATION_ID.as_bytes(),
                id,
                v3::PUBLICATION_END.as_bytes(),
            ],
            Dialect::Session(Version::V4) => {
                [v4::PUBLICATION_START.as_bytes(), id, v4::PUBLICATION_DATA.as_bytes(), data, self.end().as_bytes()]
            }
            Dialect::Channelstream => [b"[", data, b"]", b"", b""],
        }
    }

    /// Returns the position as text.
    pub fn position_text(&self) -> Option<&str> {
        self.position.and_then(|_| v4::position_in_end(self.end()))
    }

    /// Returns the pieces of the frame of version 4 for the subscription `request_id`, as they stand in lines of an event's `data`:
    /// each line break of the publisher's begins another one.
    pub fn event_data<'a>(&'a self, request_id: &'a RequestId) -> [&'a [u8]; 5] {
        let mut pieces = self.frame(Dialect::Session(Version::V4), request_id);
        if self.has_line_breaks {
            pieces[3] = self.lines.get_or_init(|| v4::data_lines(&self.data).into());
        }
        pieces
    }

    fn end(&self) -> &str {
        self.end.get_or_init(|| v4::publication_end(self.position).into())
    }
}
