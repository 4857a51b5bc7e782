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

use super::outbox::Encoder;

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
    /// The how manieth of this process, counted from 1; 0 before the hub has recorded it.
    pub(super) number: u64,
    /// Where it stands in the log, once that is known.
    pub(super) position: Option<Position>,
    /// What stands behind its data in version 4, made when it is first needed.
    end: OnceLock<Box<str>>,
}

impl Publication {
    /// One of `data` to `rooms`, not recorded yet.
    pub fn new(rooms: Vec<RoomKey>, data: Bytes, mut exclude: Vec<Uuid>) -> Self {
        exclude.sort_unstable();
        Self { rooms, data, exclude, ..Self::default() }
    }

    /// The same for these connections only, if there is a list.
    pub fn only_for(mut self, connections: Option<Vec<Uuid>>) -> Self {
        self.only = connections.map(|mut connections| {
            connections.sort_unstable();
            connections.into()
        });
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

    /// Bytes of the frame for a subscription of `request_id`.
    pub(super) fn frame_len(&self, dialect: Dialect, request_id: &RequestId) -> usize {
        let fixed = match dialect {
            Dialect::Session(Version::V3) => {
                v3::PUBLICATION_START.len() + v3::PUBLICATION_ID.len() + v3::PUBLICATION_END.len()
            }
            Dialect::Session(Version::V4) => {
                v4::PUBLICATION_START.len() + v4::PUBLICATION_DATA.len() + self.end().len()
            }
            Dialect::Channelstream => return self.data.len() + 2,
        };
        fixed + self.data.len() + request_id.as_json().len()
    }

    /// Appends that frame to `out`.
    pub(super) fn put_frame<'a>(&'a self, dialect: Dialect, request_id: &'a RequestId, out: &mut Encoder<'a, '_>) {
        let id = request_id.as_json().as_bytes();
        match dialect {
            Dialect::Session(Version::V3) => {
                out.put(v3::PUBLICATION_START.as_bytes());
                out.put(&self.data);
                out.put(v3::PUBLICATION_ID.as_bytes());
                out.put(id);
                out.put(v3::PUBLICATION_END.as_bytes());
            }
            Dialect::Session(Version::V4) => {
                out.put(v4::PUBLICATION_START.as_bytes());
                out.put(id);
                out.put(v4::PUBLICATION_DATA.as_bytes());
                out.put(&self.data);
                out.put(self.end().as_bytes());
            }
            Dialect::Channelstream => {
                out.put(b"[");
                out.put(&self.data);
                out.put(b"]");
            }
        }
    }

    fn end(&self) -> &str {
        self.end.get_or_init(|| v4::publication_end(self.position).into())
    }
}
