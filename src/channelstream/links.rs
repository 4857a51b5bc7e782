//! The clients that listen at this instance.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::state::Room;
use crate::{
    hub::{Frame, Hub, Outbox, Seat},
    protocol::RequestId,
};

/// All of them, by their ids.
#[derive(Debug)]
pub(super) struct Links {
    hub: Arc<Hub>,
    /// Under which the members of a room get what comes there: nobody is told.
    request_id: RequestId,
    all: Mutex<HashMap<Uuid, Link>>,
}

/// A client that listens, or is about to.
#[derive(Debug)]
struct Link {
    outbox: Arc<Outbox>,
    seats: HashMap<Room, Seat>,
    /// It does not count any more.
    ended: CancellationToken,
}

impl Links {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub, request_id: RequestId::none(), all: Mutex::default() }
    }

    /// Adds one that gets nothing yet. What it returns is cancelled when the link does not count any more.
    pub(super) fn add(&self, id: Uuid, outbox: Arc<Outbox>) -> CancellationToken {
        let ended = CancellationToken::new();
        let link = Link { outbox, seats: HashMap::new(), ended: ended.clone() };
        self.all.lock().insert(id, link);
        ended
    }

    /// Takes one out; it gets nothing any more.
    pub(super) fn remove(&self, id: Uuid) {
        let removed = self.all.lock().remove(&id);
        if let Some(link) = removed {
            self.hub.leave(link.seats.into_values(), || {});
            link.ended.cancel();
        }
    }

    /// Takes out all.
    pub(super) fn clear(&self) {
        let ids: Vec<_> = self.all.lock().keys().copied().collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    pub(super) fn contains(&self, id: Uuid) -> bool {
        self.all.lock().contains_key(&id)
    }

    /// Gives a link what it has missed, and from here on what comes for `rooms`.
    pub(super) fn attach(&self, id: Uuid, frames: Vec<bytes::Bytes>, rooms: Vec<Room>) {
        let mut all = self.all.lock();
        let Some(link) = all.get_mut(&id) else { return };
        if !frames.is_empty() {
            // All in one: however much it is, that is no sign of a slow client.
            let text = [b"[", &frames.join(&b","[..])[..], b"]"].concat();
            let _ = link.outbox.push(Frame::Text(text.into())); // an outbox that closes is noticed by its task
            link.outbox.flush();
        }
        rooms.into_iter().for_each(|room| self.seat(link, room));
    }

    pub(super) fn join(&self, id: Uuid, room: Room) {
        if let Some(link) = self.all.lock().get_mut(&id) {
            self.seat(link, room);
        }
    }

    pub(super) fn leave(&self, id: Uuid, room: &Room) {
        let seat = self.all.lock().get_mut(&id).and_then(|link| link.seats.remove(room));
        self.hub.leave(seat, || {});
    }

    fn seat(&self, link: &mut Link, room: Room) {
        let Some(key) = room.key() else { return };
        let seat = self.hub.join(&key, &link.outbox, &self.request_id, || {});
        if let Some(before) = link.seats.insert(room, seat) {
            self.hub.leave([before], || {});
        }
    }
}
