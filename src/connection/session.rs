//! The protocol state of one authorised client: which subscriptions it has.

use std::{
    collections::{HashMap, hash_map::Entry},
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
    /// One id may stand for several rooms.
    subscriptions: HashMap<RequestId, Vec<Seat>, RandomState>,
}

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

    /// Ends every subscription.
    pub(super) fn leave_all(&mut self, hub: &Hub) {
        for (_, seats) in std::mem::take(&mut self.subscriptions) {
            hub.leave(seats, || {});
        }
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
        let seats = match self.subscriptions.entry(request_id.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Vec::with_capacity(1)),
        };
        if seats.iter().any(|seat| *seat.room() == key) {
            return self.outbox.push(Frame::Fixed(server::SUCCESS));
        }
        let mut outcome = Ok(());
        let reply = || outcome = self.outbox.push(Frame::Fixed(server::SUCCESS));
        seats.push(hub.join(&key, &self.outbox, &request_id, reply));
        outcome
    }

    fn unsubscribe(&mut self, request_id: &RequestId, hub: &Hub) -> Result<(), Full> {
        let Some(seats) = self.subscriptions.remove(request_id) else {
            return self.reply(Frame::Fixed(Refusal::NotSubscribed.frame()));
        };
        let mut outcome = Ok(());
        hub.leave(seats, || outcome = self.outbox.push(Frame::Fixed(server::SUCCESS)));
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
