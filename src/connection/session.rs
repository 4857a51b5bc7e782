//! The protocol state of one authorised client: which subscriptions it has.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet, hash_map::Entry},
    hash::{Hash, Hasher},
    sync::Arc,
};

use foldhash::fast::RandomState;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::Connections;
use crate::{
    hub::{Frame, Full, Hub, Outbox, Seat},
    protocol::{
        RequestId,
        client::Message,
        server::{self, Misunderstanding, Refusal, Status},
    },
    room::{Allowed, Numbers, RoomKey},
};

#[derive(Debug)]
pub(super) struct Session {
    id: Uuid,
    outbox: Arc<Outbox>,
    allowed: Arc<Allowed>,
    subscriptions: HashMap<RequestId, Seats, RandomState>,
}

/// The rooms that one id stands for: mostly one.
#[derive(Debug)]
enum Seats {
    One(Seat),
    Many(HashSet<ByRoom, RandomState>),
}

/// A seat, as one of many found by its room.
#[derive(Debug)]
struct ByRoom(Seat);

impl Session {
    pub(super) fn new(id: Uuid, outbox: Arc<Outbox>, allowed: Arc<Allowed>) -> Self {
        Self { id, outbox, allowed, subscriptions: HashMap::default() }
    }

    /// One reply for each message; the outbox is flushed.
    pub(super) fn on_message(&mut self, message: Message<'_>, connections: &Connections) -> Result<(), Full> {
        let outcome = match message {
            Message::Ping => self.reply(Frame::Fixed(server::PONG)),
            Message::Subscribe { room, request_id } => match self.wanted(room, request_id, &connections.hub) {
                Ok((key, request_id)) => self.subscribe(key, request_id, &connections.hub),
                Err(refusal) => self.reply(Frame::Fixed(refusal.frame())),
            },
            Message::Unsubscribe { request_id: None } => self.reply(Frame::Fixed(Refusal::NoRequestId.frame())),
            Message::Unsubscribe { request_id: Some(id) } => self.unsubscribe(&id, &connections.hub),
            Message::Status => self.status(connections),
            Message::UnknownType => self.misunderstood(Misunderstanding::UnknownType),
            Message::NotJson => self.misunderstood(Misunderstanding::NotJson),
        };
        self.outbox.flush();
        outcome
    }

    /// All subscriptions, to be left by the caller.
    pub(super) fn take_seats(&mut self) -> Vec<Seat> {
        let subscriptions = std::mem::take(&mut self.subscriptions);
        let mut all = Vec::with_capacity(subscriptions.len());
        subscriptions.into_values().for_each(|seats| seats.append_to(&mut all));
        all
    }

    fn wanted(
        &self,
        room: Option<&RawValue>,
        request_id: Option<RequestId>,
        hub: &Hub,
    ) -> Result<(RoomKey, RequestId), Refusal> {
        let request_id = request_id.ok_or(Refusal::NoRequestId)?;
        let room = room.ok_or(Refusal::RoomNotFound)?;
        let key = RoomKey::new(room, Numbers::ByValue).map_err(|_| Refusal::RoomNotFound)?;
        if !self.allowed.covers(&key) {
            return Err(Refusal::RoomNotFound);
        }
        Ok(match hub.dispatch().numbers() {
            Numbers::ByValue => (key, request_id),
            numbers => (RoomKey::new(room, numbers).map_err(|_| Refusal::RoomNotFound)?, request_id),
        })
    }

    fn subscribe(&mut self, key: RoomKey, request_id: RequestId, hub: &Hub) -> Result<(), Full> {
        let mut outcome = Ok(());
        let reply = || outcome = self.outbox.push(Frame::Fixed(server::SUCCESS));
        match self.subscriptions.entry(request_id) {
            Entry::Occupied(entry) if entry.get().has(&key) => {
                return self.outbox.push(Frame::Fixed(server::SUCCESS));
            }
            Entry::Occupied(mut entry) => {
                let seat = hub.join(&key, &self.outbox, entry.key(), reply);
                entry.get_mut().add(seat);
            }
            Entry::Vacant(entry) => {
                let seat = hub.join(&key, &self.outbox, entry.key(), reply);
                entry.insert(Seats::One(seat));
            }
        }
        outcome
    }

    fn unsubscribe(&mut self, request_id: &RequestId, hub: &Hub) -> Result<(), Full> {
        let Some(seats) = self.subscriptions.remove(request_id) else {
            return self.reply(Frame::Fixed(Refusal::NotSubscribed.frame()));
        };
        let mut all = Vec::new();
        seats.append_to(&mut all);
        let mut outcome = Ok(());
        hub.leave(all, || outcome = self.outbox.push(Frame::Fixed(server::SUCCESS)));
        if self.subscriptions.is_empty() {
            self.subscriptions = HashMap::default(); // give the memory back
        }
        outcome
    }

    fn status(&self, connections: &Connections) -> Result<(), Full> {
        self.reply(Frame::Text(Status::now(&connections.metrics).frame().into()))
    }

    fn misunderstood(&self, what: Misunderstanding) -> Result<(), Full> {
        self.reply(Frame::Text(what.frame(&self.id).into()))
    }

    fn reply(&self, frame: Frame) -> Result<(), Full> {
        self.outbox.push(frame)
    }
}

impl Seats {
    fn has(&self, room: &RoomKey) -> bool {
        match self {
            Self::One(seat) => seat.room() == room,
            Self::Many(seats) => seats.contains(room),
        }
    }

    fn add(&mut self, seat: Seat) {
        match std::mem::replace(self, Self::Many(HashSet::default())) {
            Self::One(first) => *self = Self::Many([first, seat].map(ByRoom).into_iter().collect()),
            Self::Many(mut seats) => {
                seats.insert(ByRoom(seat));
                *self = Self::Many(seats);
            }
        }
    }

    fn append_to(self, all: &mut Vec<Seat>) {
        match self {
            Self::One(seat) => all.push(seat),
            Self::Many(seats) => all.extend(seats.into_iter().map(|ByRoom(seat)| seat)),
        }
    }
}

impl Borrow<RoomKey> for ByRoom {
    fn borrow(&self) -> &RoomKey {
        self.0.room()
    }
}

impl Hash for ByRoom {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.room().hash(state);
    }
}

impl PartialEq for ByRoom {
    fn eq(&self, other: &Self) -> bool {
        self.0.room() == other.0.room()
    }
}

impl Eq for ByRoom {}
