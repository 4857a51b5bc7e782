//! What an operator sees of connections: which there are, and why one may or may not join a room.

use std::{cmp::Reverse, time::SystemTime};

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Connections, clients::Client};
use crate::{
    protocol::Version,
    room::{Numbers, RoomKey, Rules},
};

/// Why a connection may or may not join a room.
#[derive(Debug, Serialize)]
pub struct Explanation {
    connection: Uuid,
    user: Option<String>,
    is_allowed: bool,
    /// For people: the allowed room that comes nearest, and in what it differs.
    detail: String,
    /// The subscriptions by which it is in the room, wildcards included.
    subscriptions: Vec<Box<RawValue>>,
}

/// A connection, as an operator sees it.
#[derive(Debug, Serialize)]
pub struct Seen {
    connection: Uuid,
    user: Option<String>,
    transport: &'static str,
    protocol: &'static str,
    /// Where the client is, where that is known.
    address: Option<String>,
    /// Seconds.
    age: u64,
    subscriptions: usize,
    allowed_rooms: usize,
    /// Unsent bytes.
    waiting: usize,
}

/// Which connections are listed.
#[derive(Debug, Clone, Copy)]
pub enum Whose<'a> {
    /// All.
    Anybody,
    /// Those of this user.
    User(&'a str),
    /// The one with this id.
    Connection(Uuid),
}

/// Which of them come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Those that have been there for longest.
    Oldest,
    /// Those with the most unsent bytes, and then as above.
    Slowest,
}

impl Connections {
    /// Why a connection may or may not join `room`; `None` when it is not here.
    ///
    /// # Errors
    /// When it is no room.
    pub fn explain(&self, connection: Uuid, room: &RawValue) -> Result<Option<Explanation>, crate::room::Error> {
        let rules = self.room_rules();
        let key = RoomKey::new(room, Rules { numbers: Numbers::ByValue, ..rules })?;
        let dispatched = RoomKey::new(room, rules)?;
        let Some(client) = self.clients.get(connection) else { return Ok(None) };
        let session = client.session();
        let Some(session) = session.as_ref() else { return Ok(None) };
        let is_allowed = session.allowed().covers(&key);
        let dispatch = self.hub.dispatch();
        let is_meant = |other: &RoomKey| dispatch.deliveries(std::slice::from_ref(&dispatched), other) > 0;
        let ids = session.subscribed_to(is_meant).into_iter();
        Ok(Some(Explanation {
            connection,
            user: session.user().map(|user| user.to_string()),
            is_allowed,
            detail: if is_allowed { "an allowed room covers it".to_owned() } else { session.allowed().nearest(&key) },
            subscriptions: ids.filter_map(|id| RawValue::from_string(id.as_json().to_owned()).ok()).collect(),
        }))
    }

    /// The authorised connections of `whose`: `limit` of them, and how many there are. Looks at each one for a moment, and
    /// sorts no more of them than are wanted.
    pub fn list(&self, whose: Whose<'_>, order: Order, limit: usize) -> (Vec<Seen>, usize) {
        let clients = match whose {
            Whose::Anybody => self.clients.authorized(|_| true),
            Whose::User(user) => self.clients.of(user),
            Whose::Connection(id) => self.clients.authorized_one(id).into_iter().collect(),
        };
        let count = clients.len();
        let waiting = |client: &Client| if order == Order::Slowest { unsent_bytes(client) } else { 0 };
        let mut ranked: Vec<_> = clients
            .into_iter()
            .map(|client| ((Reverse(waiting(&client)), client.opened, client.id()), client))
            .collect();
        if limit < count {
            ranked.select_nth_unstable_by_key(limit, |(rank, _)| *rank);
            ranked.truncate(limit);
        }
        ranked.sort_unstable_by_key(|(rank, _)| *rank);
        (ranked.iter().filter_map(|(_, client)| seen(client)).collect(), count)
    }
}

fn seen(client: &Client) -> Option<Seen> {
    let session = client.session();
    let session = session.as_ref()?;
    Some(Seen {
        connection: client.id(),
        user: session.user().map(|user| user.to_string()),
        transport: client.outbox.transport(),
        protocol: match client.version {
            Version::V3 => "3.1",
            Version::V4 => Version::SUBPROTOCOL,
        },
        address: client.address().map(|address| address.to_string()),
        age: SystemTime::now().duration_since(client.opened).unwrap_or_default().as_secs(),
        subscriptions: session.subscriptions(),
        allowed_rooms: session.allowed().rooms().count(),
        waiting: unsent_bytes(client),
    })
}

fn unsent_bytes(client: &Client) -> usize {
    client.outbox.waiting_bytes() + client.outbox.bytes_on_hold()
}
