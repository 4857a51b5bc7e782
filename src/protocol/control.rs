//! What the application has us do to connections: `{"action":"disconnect","user":"17"}`.

use serde_json::{Value, value::RawValue};
use uuid::Uuid;

use super::{Unreadable, unreadable::members};
use crate::room::{self, RoomKey, Rules};

/// Something to be done to some connections, on every instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// What.
    pub action: Action,
    /// To whom.
    pub target: Target,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The backend is to be asked again what they may do.
    Reauthorize,
    /// They are to leave the target's room.
    Unsubscribe,
    /// They are to end.
    Disconnect,
    /// Nothing of what the backend has said of them before is to count any more, for whoever comes.
    Forget,
}

impl Action {
    /// The word for it, on the wire and in the numbers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reauthorize => "reauthorize",
            Self::Unsubscribe => "unsubscribe",
            Self::Disconnect => "disconnect",
            Self::Forget => "forget",
        }
    }
}

/// Which connections: those that fit all that is given; all of them when nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// Of this user.
    pub user: Option<String>,
    /// This one.
    pub connection: Option<Uuid>,
    /// With a subscription that a trigger to this room would reach.
    pub room: Option<RoomKey>,
}

/// Why a body is no control message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The body is not UTF-8, not JSON, or not an object.
    #[error("a control message must be a JSON object in UTF-8")]
    Malformed(#[source] Unreadable),
    /// `action` is missing or none of these.
    #[error("action must be reauthorize, unsubscribe, disconnect or forget")]
    BadAction,
    /// `user` is no id.
    #[error("user must be a string or a number")]
    BadUser,
    /// `connection` is no id.
    #[error("connection must be the id of a connection")]
    BadConnection,
    /// `room` is no room.
    #[error("room must be an object")]
    BadRoom(#[source] room::Error),
    /// Nobody is named, or somebody and all.
    #[error("name whom it is about: user, connection, room, or all, which is true and alone")]
    NoTarget,
    /// Which room to leave is not said.
    #[error("unsubscribe needs the room")]
    NoRoom,
}

impl Error {
    /// The word a caller is told.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed-json",
            Self::BadAction => "unknown-action",
            Self::BadUser => "malformed-user",
            Self::BadConnection => "malformed-connection",
            Self::BadRoom(_) => "malformed-room",
            Self::NoTarget => "no-target",
            Self::NoRoom => "no-room",
        }
    }

    /// The same, or more exactly why the body cannot be read; from a fixed list.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Malformed(reason) => reason.kind(),
            other => other.word(),
        }
    }
}

impl Control {
    /// Reads a control message from `body`, its room by `rules`.
    ///
    /// # Errors
    /// When anything about the body is wrong.
    pub fn parse(body: &[u8], rules: impl Into<Rules>) -> Result<Self, Error> {
        let names = ["action", "user", "connection", "room", "all"];
        let [action, user, connection, room, all] = members(body, names).map_err(Error::Malformed)?;
        let action: Option<String> = action.and_then(|action| serde_json::from_str(action.get()).ok());
        let action = match action.as_deref() {
            Some("reauthorize") => Action::Reauthorize,
            Some("unsubscribe") => Action::Unsubscribe,
            Some("disconnect") => Action::Disconnect,
            Some("forget") => Action::Forget,
            _ => return Err(Error::BadAction),
        };
        let user = user.map(|user| user_id(user).ok_or(Error::BadUser)).transpose()?;
        let connection =
            connection.map(|id| serde_json::from_str(id.get()).map_err(|_| Error::BadConnection)).transpose()?;
        let room = room.map(|room| RoomKey::new(room, rules).map_err(Error::BadRoom)).transpose()?;
        let is_all = all.is_some_and(|all| all.get() == "true");
        let is_narrowed = user.is_some() || connection.is_some() || room.is_some();
        if is_all == is_narrowed || all.is_some() && !is_all {
            return Err(Error::NoTarget);
        }
        if action == Action::Unsubscribe && room.is_none() {
            return Err(Error::NoRoom);
        }
        Ok(Self { action, target: Target { user, connection, room } })
    }
}

/// The id of a user: a string, or a number as it is written.
pub fn user_id(json: &RawValue) -> Option<String> {
    match serde_json::from_str(json.get()).ok()? {
        Value::String(id) => Some(id),
        Value::Number(_) => Some(json.get().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::Numbers;

    fn parse(body: &str) -> Result<Control, &'static str> {
        Control::parse(body.as_bytes(), Numbers::ByValue).map_err(|error| error.word())
    }

    #[test]
    fn whom_it_is_about_is_narrowed_by_all_that_is_given() {
        let control = parse(r#"{"action":"unsubscribe","user":17,"room":{"a":"*"}}"#).unwrap();
        assert_eq!((control.action, control.target.user.as_deref()), (Action::Unsubscribe, Some("17")));
        assert_eq!(control.target.room.unwrap().as_str(), r#"{"a":"*"}"#);
        let id = Uuid::from_u128(7);
        let control = parse(&format!(r#"{{"action":"disconnect","connection":"{id}"}}"#)).unwrap();
        assert_eq!(control.target, Target { connection: Some(id), ..Target::default() });
        assert_eq!(parse(r#"{"action":"reauthorize","all":true}"#).unwrap().target, Target::default());
    }

    #[test]
    fn nobody_is_touched_by_a_message_that_is_not_understood() {
        for (body, word) in [
            ("", "malformed-json"),
            ("[]", "malformed-json"),
            ("{}", "unknown-action"),
            (r#"{"action":"ban","user":"1"}"#, "unknown-action"),
            (r#"{"action":"disconnect"}"#, "no-target"),
            (r#"{"action":"disconnect","all":false}"#, "no-target"),
            (r#"{"action":"disconnect","all":1}"#, "no-target"),
            (r#"{"action":"disconnect","all":true,"user":"1"}"#, "no-target"),
            (r#"{"action":"disconnect","all":false,"user":"1"}"#, "no-target"),
            (r#"{"action":"disconnect","user":null}"#, "malformed-user"),
            (r#"{"action":"disconnect","connection":"1"}"#, "malformed-connection"),
            (r#"{"action":"disconnect","room":[]}"#, "malformed-room"),
            (r#"{"action":"unsubscribe","user":"1"}"#, "no-room"),
        ] {
            assert_eq!(parse(body), Err(word), "{body}");
        }
    }
}
