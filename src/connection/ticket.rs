//! Resume tickets: a client that shows one is welcomed without waiting for the backend.
//!
//! A ticket says what its holder may join, as of a position of the log, and when the backend confirmed that last. Any instance
//! with the same secret accepts it from a client with the same forwarded headers, until it ends, and unless the log holds a
//! change for its user since.
//!
//! A ticket ends `RESUME_TTL` after it was given, and at the latest `REAUTHORIZE_INTERVAL` after the backend's confirmation. A
//! connection that began with a ticket gives no ticket that ends later than that one, until the backend has confirmed it: so no
//! chain of tickets outlives the last connection that the backend itself has confirmed by more than `RESUME_TTL`.

pub(super) mod clock;

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;
use uuid::Uuid;

use self::clock::Clock;
use super::session::{Confirmation, Earlier};
use crate::{
    backend::{Admission, Backend, Identity},
    config,
    protocol::Position,
    room::{Allowed, Numbers, RoomKey},
};

/// So that the secret is of no use for anything else.
const PURPOSE: &[u8] = b"high-templar resume ticket 2";
/// The longest ticket; a client with more rooms comes back the long way.
const LONGEST_BYTES: usize = 32 << 10;
/// What stands around a ticket in the message that shows it.
const AROUND_BYTES: usize = 64;
/// A ticket that would end sooner is not given: its holder could hardly connect in that time.
const SHORTEST_USE: Duration = Duration::from_millis(500);

/// Issues tickets and redeems them.
#[derive(Debug)]
pub(super) struct Tickets {
    key: hmac::Key,
    ttl: Duration,
    /// Longest time since the backend's confirmation.
    interval: Option<Duration>,
    limit_bytes: usize,
    pub(super) clock: Clock,
}

/// What a ticket says. Times are milliseconds since 1970.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    connection: Uuid,
    user: Option<String>,
    rooms: Vec<Box<RawValue>>,
    position: String,
    /// When the backend confirmed this last.
    confirmed: u64,
    end: u64,
    /// Offsets up to which the holder could not join all of these rooms, with the places of those it could not join.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<(u64, Vec<usize>)>,
}

/// Why a ticket is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is none of ours, or somebody else's.
    Invalid,
    /// It has ended.
    Expired,
    /// It comes from a clock that is ahead of ours by more than `RESUME_TTL`.
    Ahead,
}

impl Refused {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::Ahead => "ahead",
        }
    }
}

/// What is put into a ticket.
#[derive(Debug)]
pub(super) struct Contents<'a> {
    pub(super) connection: Uuid,
    pub(super) identity: &'a Identity,
    pub(super) user: Option<&'a str>,
    pub(super) allowed: &'a Allowed,
    /// What it could join before.
    pub(super) earlier: &'a [Earlier],
    /// The permissions are of this moment.
    pub(super) position: Position,
    /// When the backend confirmed them last.
    pub(super) confirmed: Instant,
    /// When the ticket ends.
    pub(super) end: Instant,
}

/// A client that comes back with a ticket.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) admission: Admission,
    /// Its connection before.
    pub(super) connection: Uuid,
    /// The permissions are of this moment.
    pub(super) position: Position,
    pub(super) confirmation: Confirmation,
    /// What it could join before, up to these offsets.
    pub(super) earlier: Vec<(u64, Arc<Allowed>)>,
}

impl Tickets {
    /// Tickets that fit into a message of `message_limit_bytes`, of clients that are checked every `interval` if there is one.
    pub(super) fn new(config: &config::Resume, interval: Option<Duration>, message_limit_bytes: usize) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, config.secret.as_bytes());
        let key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, PURPOSE).as_ref());
        let limit_bytes = LONGEST_BYTES.min(message_limit_bytes.saturating_sub(AROUND_BYTES));
        Self { key, ttl: config.ttl, interval, limit_bytes, clock: Clock::default() }
    }

    /// The longest time that a ticket counts.
    pub(super) fn lifetime(&self) -> Duration {
        self.interval.map_or(self.ttl, |interval| interval.min(self.ttl))
    }

    /// When a ticket ends that is given now; `None` where it would be of no use.
    pub(super) fn end(&self, confirmation: &Confirmation) -> Option<Instant> {
        let now = Instant::now();
        let by_interval = self.interval.map(|interval| confirmation.at + interval);
        let end = [by_interval, confirmation.limit].into_iter().flatten().fold(now + self.ttl, Instant::min);
        (end >= now + SHORTEST_USE).then_some(end)
    }

    /// Whether a ticket that ends at `end` should take the place of one that ends at `given`, which is looked at again after
    /// `pause`: that one will have lost half of its time, and this one ends later.
    pub(super) fn is_better(&self, end: Instant, given: Instant, pause: Duration) -> bool {
        given < Instant::now() + pause + self.lifetime() / 2 && end > given + SHORTEST_USE
    }

    /// Whether the backend should be asked again about a client that comes back.
    pub(super) fn is_old(&self, confirmation: &Confirmation) -> bool {
        confirmation.at.elapsed() > self.lifetime() / 2
    }

    /// A ticket; none where it would be too long.
    pub(super) fn issue(&self, contents: &Contents<'_>) -> Option<String> {
        let mut bytes = 0;
        let mut rooms = Vec::new();
        for room in contents.allowed.rooms() {
            bytes += room.len();
            if bytes > self.limit_bytes {
                return None;
            }
            rooms.push(RawValue::from_string(room.to_owned()).ok()?);
        }
        let (wall, now) = (self.clock.now(), Instant::now());
        let claims = Claims {
            connection: contents.connection,
            user: contents.user.map(str::to_owned),
            earlier: earlier(contents, &rooms)?,
            rooms,
            position: contents.position.to_string(),
            confirmed: wall.saturating_sub(milliseconds(now.saturating_duration_since(contents.confirmed))),
            end: wall + milliseconds(contents.end.saturating_duration_since(now)),
        };
        let claims = serde_json::to_vec(&claims).ok()?;
        let tag = hmac::sign(&self.key, &signed(&claims, contents.identity));
        let ticket = format!("{}.{}", URL_SAFE_NO_PAD.encode(claims), URL_SAFE_NO_PAD.encode(tag));
        (ticket.len() <= self.limit_bytes).then_some(ticket)
    }

    /// What `ticket` says, if it is one of the client with this `identity`.
    pub(super) fn redeem(&self, ticket: &str, identity: &Identity, backend: &Backend) -> Result<Holder, Refused> {
        let (claims, tag) = ticket.split_once('.').filter(|_| ticket.len() <= LONGEST_BYTES).ok_or(Refused::Invalid)?;
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| Refused::Invalid)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| Refused::Invalid)?;
        hmac::verify(&self.key, &signed(&claims, identity), &tag).map_err(|_| Refused::Invalid)?; // in constant time
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Refused::Invalid)?;
        let confirmation = self.confirmation(claims.confirmed, claims.end)?;
        let position = claims.position.parse().map_err(|_| Refused::Invalid)?;
        let user = claims.user.as_deref();
        let mut earlier = Vec::new();
        for (offset, missing) in claims.earlier {
            let rooms = claims.rooms.iter().enumerate().filter(|(place, _)| !missing.contains(place));
            let rooms = rooms.map(|(_, room)| room.clone()).collect();
            earlier.push((offset, backend.admission(rooms, user).map_err(|_| Refused::Invalid)?.allowed));
        }
        let admission = backend.admission(claims.rooms, user).map_err(|_| Refused::Invalid)?;
        Ok(Holder { admission, connection: claims.connection, position, confirmation, earlier })
    }

    /// What the times of a ticket come to here, if it has not ended.
    fn confirmation(&self, confirmed: u64, end: u64) -> Result<Confirmation, Refused> {
        let (wall, ttl) = (self.clock.now(), milliseconds(self.ttl));
        // One that is given now ends after `ttl`.
        if confirmed > wall + ttl || end > wall + 2 * ttl {
            return Err(Refused::Ahead);
        }
        let by_interval = self.interval.map_or(u64::MAX, |interval| confirmed.saturating_add(milliseconds(interval)));
        let left = end.min(by_interval).saturating_sub(wall).min(ttl);
        if left == 0 {
            return Err(Refused::Expired);
        }
        let (now, age) = (Instant::now(), Duration::from_millis(wall.saturating_sub(confirmed)));
        let at = now.checked_sub(age).ok_or(Refused::Expired)?;
        Ok(Confirmation { at, limit: Some(now + Duration::from_millis(left)), given_until: None })
    }
}

/// The places of those `rooms` that the holder could not join before, for each time that this has changed.
fn earlier(contents: &Contents<'_>, rooms: &[Box<RawValue>]) -> Option<Vec<(u64, Vec<usize>)>> {
    let mut list = Vec::new();
    if contents.earlier.is_empty() {
        return Some(list);
    }
    let keys: Vec<RoomKey> =
        rooms.iter().map(|room| RoomKey::new(room, Numbers::ByValue)).collect::<Result<_, _>>().ok()?;
    for Earlier { offset, allowed, .. } in contents.earlier {
        let missing: Vec<usize> = (0..keys.len()).filter(|place| !allowed.covers(&keys[*place])).collect();
        if !missing.is_empty() {
            list.push((offset.unwrap_or(contents.position.offset), missing));
        }
    }
    Some(list)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What the tag is of. The identity is not in the ticket: only a client that comes with it again can have it checked.
fn signed(claims: &[u8], identity: &Identity) -> Vec<u8> {
    [&(claims.len() as u64).to_be_bytes(), claims, identity.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
