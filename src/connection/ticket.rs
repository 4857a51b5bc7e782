//! Tickets with which a client comes back without a call to the backend.
//!
//! A ticket says what its holder may join, as of a position of the log. Any instance with the same secret takes it, from a
//! client with the same cookies only, for a while, and unless the log says that anything has changed for its user since.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    backend::{Admission, Backend, Identity},
    config,
    protocol::Position,
};

/// So that the secret is of no use for anything else.
const PURPOSE: &[u8] = b"high-templar resume ticket 1";
/// The longest ticket; a client with more rooms comes back the long way.
const LONGEST_BYTES: usize = 32 << 10;
/// What stands around a ticket in the message that shows it.
const AROUND_BYTES: usize = 64;

/// Makes tickets and takes them back.
#[derive(Debug)]
pub(super) struct Tickets {
    key: hmac::Key,
    ttl: Duration,
    limit_bytes: usize,
}

/// What a ticket says.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    connection: Uuid,
    user: Option<String>,
    rooms: Vec<Box<RawValue>>,
    position: String,
    /// Seconds since 1970.
    until: u64,
}

/// Why a ticket is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is none of ours, or somebody else's.
    Invalid,
    /// It is too old.
    Expired,
}

impl Refused {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Expired => "expired",
        }
    }
}

/// Who comes back with a ticket.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) admission: Admission,
    /// Its connection before.
    pub(super) connection: Uuid,
    /// The permissions are of this moment.
    pub(super) position: Position,
}

impl Tickets {
    /// Tickets that fit into a message of `message_limit_bytes`.
    pub(super) fn new(config: &config::Resume, message_limit_bytes: usize) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, config.secret.as_bytes());
        let key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, PURPOSE).as_ref());
        Self { key, ttl: config.ttl, limit_bytes: LONGEST_BYTES.min(message_limit_bytes.saturating_sub(AROUND_BYTES)) }
    }

    /// For how long a ticket counts.
    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// A ticket for `connection`, which may join `rooms` as of `position`; none where it would be too long.
    pub(super) fn issue<'a>(
        &self,
        connection: Uuid,
        identity: &Identity,
        user: Option<&str>,
        rooms: impl Iterator<Item = &'a str>,
        position: Position,
    ) -> Option<String> {
        let mut bytes = 0;
        let mut list = Vec::new();
        for room in rooms {
            bytes += room.len();
            if bytes > self.limit_bytes {
                return None;
            }
            list.push(RawValue::from_string(room.to_owned()).ok()?);
        }
        let until = (now() + self.ttl).as_secs();
        let user = user.map(str::to_owned);
        let said = Said { connection, user, rooms: list, position: position.to_string(), until };
        let said = serde_json::to_vec(&said).ok()?;
        let tag = hmac::sign(&self.key, &signed(&said, identity));
        let ticket = format!("{}.{}", URL_SAFE_NO_PAD.encode(said), URL_SAFE_NO_PAD.encode(tag));
        (ticket.len() <= self.limit_bytes).then_some(ticket)
    }

    /// What `ticket` says, if it is one for who comes with this `identity`.
    pub(super) fn redeem(&self, ticket: &str, identity: &Identity, backend: &Backend) -> Result<Holder, Refused> {
        let (said, tag) = ticket.split_once('.').filter(|_| ticket.len() <= LONGEST_BYTES).ok_or(Refused::Invalid)?;
        let said = URL_SAFE_NO_PAD.decode(said).map_err(|_| Refused::Invalid)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| Refused::Invalid)?;
        hmac::verify(&self.key, &signed(&said, identity), &tag).map_err(|_| Refused::Invalid)?; // in constant time
        let said: Said = serde_json::from_slice(&said).map_err(|_| Refused::Invalid)?;
        if now().as_secs() > said.until {
            return Err(Refused::Expired);
        }
        let position = said.position.parse().map_err(|_| Refused::Invalid)?;
        let admission = backend.admission(said.rooms, said.user.as_deref()).map_err(|_| Refused::Invalid)?;
        Ok(Holder { admission, connection: said.connection, position })
    }
}

/// What the tag is of. The identity is not in the ticket: only who comes with it again can have it checked.
fn signed(said: &[u8], identity: &Identity) -> Vec<u8> {
    [&(said.len() as u64).to_be_bytes(), said, identity.as_bytes()].concat()
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::Changes;

    fn tickets(secret: &str, ttl: u64) -> Tickets {
        Tickets::new(&config::Resume { secret: config::Secret::new(secret), ttl: Duration::from_secs(ttl) }, 1 << 20)
    }

    fn backend() -> Arc<Backend> {
        let api = ("API_URL".to_owned(), "http://localhost/".to_owned());
        let config = config::from_vars([api].into_iter()).unwrap();
        Backend::new(config.backend, Changes::new(Duration::ZERO), Arc::default()).unwrap()
    }

    const ME: Uuid = Uuid::from_u128(1);
    const ROOM: &str = r#"{"a":"*"}"#;

    fn issue(tickets: &Tickets, identity: &Identity) -> String {
        let position = "00000000000e:17".parse().unwrap();
        tickets.issue(ME, identity, Some("17"), [ROOM].into_iter(), position).unwrap()
    }

    #[test]
    fn a_ticket_counts_for_the_same_cookies_and_on_every_instance_with_the_secret() {
        let (backend, identity) = (backend(), Identity::from_bytes(b"cookie:a=1\n"));
        let ticket = issue(&tickets("one", 60), &identity);
        let holder = tickets("one", 60).redeem(&ticket, &identity, &backend).unwrap();
        assert_eq!((holder.connection, holder.position.to_string().as_str()), (ME, "00000000000e:17"));
        assert_eq!(holder.admission.user.as_deref(), Some("17"));
        assert_eq!(holder.admission.allowed.rooms().collect::<Vec<_>>(), [ROOM]);
        let redeem = |tickets: &Tickets, ticket: &str, identity: &[u8]| {
            tickets.redeem(ticket, &Identity::from_bytes(identity), &backend).map(drop)
        };
        assert_eq!(redeem(&tickets("one", 60), &ticket, b"cookie:a=2\n"), Err(Refused::Invalid));
        assert_eq!(redeem(&tickets("two", 60), &ticket, b"cookie:a=1\n"), Err(Refused::Invalid));
    }

    #[test]
    fn no_change_of_any_letter_goes_unnoticed() {
        let (backend, identity, tickets) = (backend(), Identity::from_bytes(b"x:y\n"), tickets("one", 60));
        let ticket = issue(&tickets, &identity);
        for at in 0..ticket.len() {
            let mut changed = ticket.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(tickets.redeem(&changed, &identity, &backend).map(drop), Err(Refused::Invalid), "{at}");
        }
        for other in ["", ".", "a.b", &ticket[1..], &ticket[..ticket.len() - 2]] {
            assert_eq!(tickets.redeem(other, &identity, &backend).map(drop), Err(Refused::Invalid));
        }
    }

    #[test]
    fn an_old_ticket_or_one_of_too_many_rooms_is_none() {
        let (backend, identity) = (backend(), Identity::from_bytes(b"x:y\n"));
        let old = tickets("one", 0);
        let ticket = issue(&old, &identity);
        std::thread::sleep(Duration::from_millis(2100)); // whole seconds of the clock on the wall
        assert_eq!(old.redeem(&ticket, &identity, &backend).map(drop), Err(Refused::Expired));
        let room = format!(r#"{{"a":"{}"}}"#, "x".repeat(LONGEST_BYTES));
        let position = "00000000000e:17".parse().unwrap();
        assert_eq!(old.issue(ME, &identity, None, [room.as_str()].into_iter(), position), None);
    }
}
