//! What a publisher sends: `{"rooms":[{…}, …],"data":…}`, and perhaps `exclude` and `id`.

use serde_json::value::RawValue;
use smol_str::SmolStr;
use uuid::Uuid;

use super::{Unreadable, unreadable::members};
use crate::room::{self, RoomKey, Rules};

/// A request to publish `data` to `rooms`.
#[derive(Debug)]
pub struct Trigger<'a> {
    /// The rooms in the order given, duplicates included; an empty list is allowed and reaches nobody.
    pub rooms: Vec<RoomKey>,
    /// Any JSON, as the publisher wrote it.
    pub data: &'a RawValue,
    /// Connections that do not get it.
    pub exclude: Vec<Uuid>,
    /// A later trigger with the same id is not delivered. 1 to 255 bytes.
    pub id: Option<SmolStr>,
}

/// The longest `id`.
const ID_LIMIT_BYTES: usize = 255;

/// Why a body is no trigger.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The body is not UTF-8, not JSON, or not an object.
    #[error("a trigger must be a JSON object in UTF-8")]
    Malformed(#[source] Unreadable),
    /// There is no `rooms`.
    #[error("a trigger needs rooms")]
    NoRooms,
    /// There is no `data`.
    #[error("a trigger needs data")]
    NoData,
    /// `rooms` is not a list of rooms.
    #[error("rooms must be a list of objects")]
    BadRooms(#[source] room::Error),
    /// `exclude` is not a list of connections.
    #[error("exclude must be a list of connections' ids")]
    BadExclude,
    /// `id` is not a short text.
    #[error("id must be a string of 1 to {ID_LIMIT_BYTES} bytes")]
    BadId,
}

impl Error {
    /// The word a publisher is told.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed-json",
            Self::NoRooms => "no-rooms",
            Self::NoData => "no-data",
            Self::BadRooms(_) => "malformed-rooms",
            Self::BadExclude => "malformed-exclude",
            Self::BadId => "malformed-id",
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

impl<'a> Trigger<'a> {
    /// Reads a trigger from `body`, its rooms by `rules`.
    ///
    /// # Errors
    /// When anything about the body is wrong: a trigger is taken whole or not at all.
    pub fn parse(body: &'a [u8], rules: impl Into<Rules>) -> Result<Self, Error> {
        let names = ["rooms", "data", "exclude", "id"];
        let [rooms, data, exclude, id] = members(body, names).map_err(Error::Malformed)?;
        let (rooms, data) = (rooms.ok_or(Error::NoRooms)?, data.ok_or(Error::NoData)?);
        let rooms = RoomKey::list(rooms, rules).map_err(Error::BadRooms)?;
        let exclude = match exclude {
            Some(list) => serde_json::from_str(list.get()).map_err(|_| Error::BadExclude)?,
            None => Vec::new(),
        };
        let id = match id {
            Some(id) => Some(serde_json::from_str(id.get()).ok().filter(is_id).ok_or(Error::BadId)?),
            None => None,
        };
        Ok(Self { rooms, data, exclude, id })
    }
}

fn is_id(id: &SmolStr) -> bool {
    (1..=ID_LIMIT_BYTES).contains(&id.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::room::Numbers;

    fn word(body: &[u8]) -> &'static str {
        match Trigger::parse(body, Numbers::ByValue) {
            Ok(_) => "success",
            Err(error) => error.word(),
        }
    }

    #[test]
    fn every_wrong_body_has_its_word() {
        for (body, expected) in [
            (&br#"{"rooms":[{"a":1}],"data":null}"#[..], "success"),
            (br#"{"rooms":[],"data":1,"other":[]}"#, "success"),
            (br#"{"rooms":[{"a":1}],"data":1E400}"#, "success"),
            (br#"{"rooms":[{"a":1}],"data":"\ud800"}"#, "success"),
            (b"", "malformed-json"),
            (b"[]", "malformed-json"),
            (b"{", "malformed-json"),
            (b"\xff", "malformed-json"),
            (b"{\"rooms\":[],\"data\":\"\xff\"}", "malformed-json"),
            (br#"{"rooms":[],"data":NaN}"#, "malformed-json"),
            (br#"{"rooms":[],"data":Infinity}"#, "malformed-json"),
            (br#"{"data":1}"#, "no-rooms"),
            (br#"{"rooms":[]}"#, "no-data"),
            (br#"{"rooms":{},"data":1}"#, "malformed-rooms"),
            (br#"{"rooms":null,"data":1}"#, "malformed-rooms"),
            (br#"{"rooms":[[["a",1]]],"data":1}"#, "malformed-rooms"),
            (br#"{"rooms":[""],"data":1}"#, "malformed-rooms"),
            (br#"{"rooms":[],"data":1,"id":"x","exclude":["7d4c6a3e-0000-4000-8000-000000000000"]}"#, "success"),
            (br#"{"rooms":[],"data":1,"exclude":[]}"#, "success"),
            (br#"{"rooms":[],"data":1,"exclude":["x"]}"#, "malformed-exclude"),
            (br#"{"rooms":[],"data":1,"exclude":"x"}"#, "malformed-exclude"),
            (br#"{"rooms":[],"data":1,"id":""}"#, "malformed-id"),
            (br#"{"rooms":[],"data":1,"id":17}"#, "malformed-id"),
            (format!(r#"{{"rooms":[],"data":1,"id":"{}"}}"#, "x".repeat(256)).as_bytes(), "malformed-id"),
        ] {
            assert_eq!(word(body), expected, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn deep_data_needs_no_stack() {
        let data = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let body = format!(r#"{{"rooms":[{{"a":1}}],"data":{data}}}"#);
        let trigger = Trigger::parse(body.as_bytes(), Numbers::ByValue).unwrap();
        assert_eq!(trigger.data.get(), data);
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Trigger::parse(&body, Numbers::ByValue);
        }

        #[test]
        fn data_is_passed_on_as_written(number in "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?") {
            let body = format!("{{\"rooms\" :[ ], \"data\" : {number}\n}}");
            prop_assert_eq!(Trigger::parse(body.as_bytes(), Numbers::ByValue).unwrap().data.get(), number);
        }
    }
}
