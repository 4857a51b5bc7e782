//! The protocol state of one authorised client: which subscriptions it has.

mod account;
mod permissions;
mod provenance;
mod recovering;
mod renewal;
mod seats;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use foldhash::fast::RandomState;
use serde_json::value::RawValue;
use tokio::time::Instant;

use self::{account::Account, recovering::Behind, renewal::Standing, seats::Seats};
use super::{
    Connections,
    clients::Client,
    rate::{Rate, TooFast},
};
use crate::{
    backend::{Admission, Event, Moment, Notifier},
    hub::{Frame, Full, Hub, Mark, Outbox, Seat},
    logging::limited,
    protocol::{
        RequestId, Version,
        client::{Message, Wanted},
        server::{self, Misunderstanding, Refusal, Status, v3, v4},
    },
    room::{Allowed, Numbers, RoomKey, Rules},
};

pub(super) use permissions::Applied;
pub(super) use provenance::{Confirmation, Earlier, Provenance};
pub use recovering::CatchUp;

#[derive(Debug)]
pub(super) struct Session {
    version: Version,
    outbox: Arc<Outbox>,
    user: Option<Arc<str>>,
    allowed: Arc<Allowed>,
    /// When the backend was asked for that.
    asked: Moment,
    subscriptions: HashMap<RequestId, Seats, RandomState>,
    /// What is kept for the client.
    account: Account,
    /// There while something is; most clients are not behind, and there are many clients.
    behind: Option<Box<Behind>>,
    /// How fast the client sends.
    rate: Rate,
    /// Where its permissions come from, as far as there is anything to know.
    provenance: Option<Box<Provenance>>,
    /// What the backend has said of the credentials that the client has shown last.
    standing: Standing,
    /// Posts the hooks, if there are any. The last one is posted when this is dropped.
    notifier: Option<Notifier>,
}

impl Session {
    pub(super) fn new(
        version: Version,
        outbox: Arc<Outbox>,
        admission: &Admission,
        asked: Moment,
        provenance: Option<Box<Provenance>>,
    ) -> Self {
        Self {
            version,
            outbox,
            user: admission.user.clone(),
            allowed: admission.allowed.clone(),
            asked,
            subscriptions: HashMap::default(),
            account: Account::default(),
            behind: None,
            rate: Rate::new(Instant::now()),
            provenance,
            standing: Standing::Confirmed,
            notifier: None,
        }
    }

    /// The hooks of the connection are posted by `notifier`.
    pub(super) fn report_by(&mut self, notifier: Option<Notifier>) {
        self.notifier = notifier;
    }

    /// The client has given a sign of life that the backend is to be told of.
    pub(super) fn is_there(&self) {
        if let Some(notifier) = &self.notifier {
            notifier.notify(Event::Ping);
        }
    }

    /// Whose it is.
    pub(super) fn user(&self) -> Option<&Arc<str>> {
        self.user.as_ref()
    }

    /// The client says `count` things. Ends the connection when it says too much.
    pub(super) fn count(&mut self, count: usize, connections: &Connections) -> Result<(), Full> {
        let a_second = connections.config.limits.messages_a_second;
        self.rate.count(count, a_second, Instant::now()).map_err(|TooFast| {
            connections.close_as_too_fast(&self.outbox);
            Full
        })
    }

    /// One reply for each message of `client`, though for a subscription with `since` perhaps not yet; the outbox is flushed.
    pub(super) fn on_message(
        &mut self,
        message: Message<'_>,
        client: &Client,
        connections: &Connections,
    ) -> Result<(), Full> {
        let outcome = match message {
            Message::Ping => {
                self.is_there();
                self.reply(Frame::Fixed(server::PONG))
            }
            Message::Subscribe(wanted) => self.subscribe(Some(wanted), connections),
            Message::SubscribeAll { request_id, .. } => {
                let detail = "subscriptions is a list of objects with room and requestId";
                self.refuse(request_id.as_ref(), Refusal::MalformedSubscriptions, connections, || detail.to_owned())
            }
            Message::Unsubscribe { request_id: None } => self.refuse_unlabelled(connections),
            Message::Unsubscribe { request_id: Some(id) } => self.unsubscribe(&id, connections),
            Message::Status { request_id } => self.status(request_id.as_ref(), connections),
            Message::Authenticate { params, request_id: Some(id) } => self.renew(params, &id, client, connections),
            Message::Authenticate { request_id: None, .. } => self.refuse_unlabelled(connections),
            Message::UnknownType { request_id } => {
                self.misunderstood(request_id.as_ref(), Misunderstanding::UnknownType)
            }
            Message::NotJson => self.misunderstood(None, Misunderstanding::NotJson),
        };
        self.outbox.flush();
        outcome
    }

    /// All subscriptions, to be left by the caller.
    pub(super) fn take_seats(&mut self) -> Vec<Seat> {
        self.behind = None;
        let subscriptions = std::mem::take(&mut self.subscriptions);
        let mut all = Vec::with_capacity(subscriptions.len());
        subscriptions.into_values().for_each(|seats| seats.append_to(&mut all));
        all
    }

    /// Subscribes, or says why not; `None` is no request at all.
    pub(super) fn subscribe(&mut self, wanted: Option<Wanted<'_>>, connections: &Connections) -> Result<(), Full> {
        let Some(Wanted { room, request_id: Some(request_id), since }) = wanted else {
            return self.refuse_unlabelled(connections);
        };
        if self.version == Version::V4 && self.subscriptions.contains_key(&request_id) {
            let detail = || "this connection has a subscription with that requestId".to_owned();
            return self.refuse(Some(&request_id), Refusal::RequestIdInUse, connections, detail);
        }
        if self.account.subscriptions() >= connections.config.limits.subscriptions {
            return self.refuse_more(&request_id, Refusal::TooManySubscriptions, connections);
        }
        let key = match self.allowed_key(room, connections) {
            Ok(key) => key,
            Err(detail) => return self.refuse(Some(&request_id), Refusal::RoomNotFound, connections, detail),
        };
        if self.subscriptions.get(&request_id).is_some_and(|seats| seats.has(&key)) {
            return self.outbox.push(Frame::Fixed(v3::SUCCESS)); // of 3.1's: others are refused above
        }
        if let Err(refusal) = self.account.add(&key, &request_id, &connections.config) {
            return self.refuse_more(&request_id, refusal, connections);
        }
        let key = Arc::new(key);
        match (self.version, since) {
            (Version::V3, _) => self.join(&key, request_id, &connections.hub),
            (Version::V4, None) => self.begin(key, request_id, connections),
            (Version::V4, Some(since)) => self.resume(key, request_id, since, connections),
        }
    }

    /// The room as the hub knows it, if the client may join it; else why not, for people.
    fn allowed_key<'a>(
        &self,
        room: Option<&'a RawValue>,
        connections: &Connections,
    ) -> Result<RoomKey, impl FnOnce() -> String + use<'a>> {
        let allowed = self.allowed.clone();
        let (rules, connection) = (connections.room_rules(), self.outbox.connection());
        let read = |room, rules| {
            RoomKey::new(room, rules).map_err(|error| {
                if error.is_beyond_limits() {
                    connections.metrics.limited.inc("room");
                    limited!(warn, "subscription refused: the room is too large", %connection, reason = %error);
                }
                Some(Err(error))
            })
        };
        let outcome = room.ok_or(None).and_then(|room| {
            let key = read(room, Rules { numbers: Numbers::ByValue, ..rules })?;
            if !allowed.covers(&key) {
                return Err(Some(Ok(key)));
            }
            match rules.numbers {
                Numbers::ByValue => Ok(key),
                Numbers::ByType => read(room, rules),
            }
        });
        outcome.map_err(|reason| {
            move || match reason {
                None => "the request has no room".to_owned(),
                Some(Err(error)) => error.to_string(),
                Some(Ok(key)) => allowed.nearest(&key),
            }
        })
    }

    /// Subscribes as 3.1 does: one id may stand for several rooms.
    fn join(&mut self, key: &RoomKey, request_id: RequestId, hub: &Hub) -> Result<(), Full> {
        let mut outcome = Ok(());
        let reply = || outcome = self.outbox.push(Frame::Fixed(v3::SUCCESS));
        match self.subscriptions.entry(request_id) {
            Entry::Occupied(mut entry) => {
                let seat = hub.join(key, &self.outbox, entry.key(), reply);
                entry.get_mut().add(seat);
            }
            Entry::Vacant(entry) => {
                let seat = hub.join(key, &self.outbox, entry.key(), reply);
                entry.insert(Seats::One(seat));
            }
        }
        outcome
    }

    /// Takes a subscription off the books. Its seats are still to be left.
    fn take_out(&mut self, request_id: &RequestId) -> Option<Seats> {
        let seats = self.subscriptions.remove(request_id)?;
        seats.all_rooms().for_each(|room| self.account.remove(room, request_id));
        Some(seats)
    }

    fn unsubscribe(&mut self, request_id: &RequestId, connections: &Connections) -> Result<(), Full> {
        let Some(seats) = self.take_out(request_id) else {
            let detail = || "this connection has no subscription with that requestId".to_owned();
            return self.refuse(Some(request_id), Refusal::NotSubscribed, connections, detail);
        };
        if let Seats::Recovering(key) = &seats {
            self.stop_recovering(key, connections);
        }
        let mut all = Vec::new();
        seats.append_to(&mut all);
        let mut outcome = Ok(());
        let frame = match self.version {
            Version::V3 => Frame::Fixed(v3::SUCCESS),
            Version::V4 => Frame::Text(v4::success(request_id, None, None).into()),
        };
        if all.is_empty() {
            outcome = self.outbox.push(frame);
        } else {
            connections.hub.leave(all, || {
                self.outbox.withhold(request_id); // nothing comes behind the reply
                outcome = self.outbox.push(frame);
            });
        }
        if self.subscriptions.is_empty() {
            self.subscriptions = HashMap::default(); // give the memory back
        }
        outcome
    }

    fn status(&self, request_id: Option<&RequestId>, connections: &Connections) -> Result<(), Full> {
        let status = Status::now(&connections.metrics);
        let text = match self.version {
            Version::V3 => v3::status(&status),
            Version::V4 => v4::status(request_id, &status),
        };
        self.reply(Frame::Text(text.into()))
    }

    fn misunderstood(&self, request_id: Option<&RequestId>, what: Misunderstanding) -> Result<(), Full> {
        let text = match self.version {
            Version::V3 => v3::misunderstood(what, &self.outbox.connection()),
            Version::V4 => v4::misunderstood(request_id, what),
        };
        self.reply(Frame::Text(text.into()))
    }

    fn refuse_unlabelled(&mut self, connections: &Connections) -> Result<(), Full> {
        let detail = || format!("a requestId is a string or a number of up to {} bytes", RequestId::LIMIT_BYTES);
        self.refuse(None, Refusal::NoRequestId, connections, detail)
    }

    /// Refuses a subscription that is beyond a limit.
    fn refuse_more(&mut self, request_id: &RequestId, refusal: Refusal, connections: &Connections) -> Result<(), Full> {
        let limits = &connections.config.limits;
        let (reason, setting, detail) = match refusal {
            Refusal::TooManyMasks => {
                let masks = limits.masks;
                let detail = format!("a connection may have {masks} different combinations of wildcards (MAX_MASKS)");
                ("masks", "MAX_MASKS", detail)
            }
            Refusal::TooMuchMemory => {
                let detail = "this connection's subscriptions take as much memory as they may (CONNECTION_MEMORY)";
                ("memory", "CONNECTION_MEMORY", detail.to_owned())
            }
            _ => {
                let detail = format!("a connection may have {} subscriptions", limits.subscriptions);
                ("subscriptions", "MAX_SUBSCRIPTIONS", detail)
            }
        };
        connections.metrics.limited.inc(reason);
        let connection = self.outbox.connection();
        limited!(warn[reason], "subscription refused: the connection is at a limit", %connection, setting);
        self.refuse(Some(request_id), refusal, connections, || detail)
    }

    fn refuse(
        &mut self,
        request_id: Option<&RequestId>,
        refusal: Refusal,
        connections: &Connections,
        detail: impl FnOnce() -> String,
    ) -> Result<(), Full> {
        let frame = match (self.version, request_id) {
            (Version::V3, _) => Frame::Text(v3::refused(refusal).into()),
            (Version::V4, Some(id)) if refusal != Refusal::RequestIdInUse => {
                Frame::marked(v4::refused(Some(id), refusal, &detail()), Mark::Ended(id.clone()))
            }
            (Version::V4, id) => Frame::Text(v4::refused(id, refusal, &detail()).into()),
        };
        self.refuse_in_turn(frame, connections)
    }

    fn reply(&self, frame: Frame) -> Result<(), Full> {
        self.outbox.push(frame)
    }
}
