//! Reading the backend's answer to a bootstrap request.

use std::{collections::HashSet, sync::Arc};

use http::HeaderValue;
use serde_json::value::RawValue;

use crate::{
    protocol::{control::user_id, fields},
    room::{self, Allowed, Interner, Limits, Numbers, RoomKey, Rules},
};

/// What a room takes beside its text, about.
const ROOM_BYTES: usize = 48;

/// What the backend said of a client it knows.
#[derive(Debug)]
pub struct Admission {
    /// The rooms the client may join.
    pub allowed: Arc<Allowed>,
    /// The same rooms as the backend wrote them, in its order, without duplicates.
    pub rooms: Arc<[Box<RawValue>]>,
    /// Who it is, where the answer says so.
    pub user: Option<Arc<str>>,
    /// Number of rooms left out because they are larger than a room may be: no client can join them.
    pub left_out: usize,
}

/// Why an answer could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// No byte at all.
    #[error("it is empty")]
    Empty,
    /// Not JSON, not UTF-8, or not an object.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// `allowed_rooms` is not a list of rooms.
    #[error("its allowed_rooms are not a list of rooms")]
    BadRooms(#[source] room::Error),
    /// More than 16 MiB.
    #[error("it is larger than 16 MiB")]
    TooLarge,
}

impl Admission {
    pub(super) fn parse(body: &[u8], user_id_path: &[String], interner: &Interner) -> Result<Self, Malformed> {
        // RFC 8259 section 8.1 lets a reader skip the byte order mark that some frameworks write.
        let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
        if body.is_empty() {
            return Err(Malformed::Empty);
        }
        let json: &RawValue = serde_json::from_slice(body).map_err(|_| Malformed::NotAnObject)?;
        let [rooms] = fields(json.get(), ["allowed_rooms"]).map_err(|_| Malformed::NotAnObject)?;
        let not_a_list = |_| Malformed::BadRooms(room::Error::NotAnObject);
        let rooms: Vec<&RawValue> =
            rooms.map_or(Ok(Vec::new()), |rooms| serde_json::from_str(rooms.get()).map_err(not_a_list))?;
        let user = user(json, user_id_path).map(Into::into);
        Self::of(rooms, user, interner).map_err(Malformed::BadRooms)
    }

    /// Of `user`, who may join `rooms`.
    pub(super) fn of<'a>(
        rooms: impl IntoIterator<Item = &'a RawValue>,
        user: Option<Arc<str>>,
        interner: &Interner,
    ) -> Result<Self, room::Error> {
        let mut seen = HashSet::new();
        let mut kept = Vec::new();
        let mut keys = Vec::new();
        let mut left_out = 0;
        let limits = interner.limits();
        let rules = |numbers| Rules { numbers, limits };
        for room in rooms {
            let key = match RoomKey::new(room, rules(Numbers::ByValue)) {
                Ok(key) => key,
                // One room of many that is too large is no reason to refuse the client.
                Err(error) if error.is_beyond_limits() => {
                    left_out += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let spelled = RoomKey::new(room, Rules { numbers: Numbers::ByType, limits: Limits::NONE })?;
            keys.push(key);
            if seen.insert(spelled) {
                kept.push(room.to_owned());
            }
        }
        Ok(Self { allowed: interner.intern(&keys), rooms: interner.intern_written(kept), user, left_out })
    }

    /// Returns about how many bytes the rooms take, in both forms. Other answers may share them.
    pub(super) fn room_bytes(&self) -> [usize; 2] {
        let allowed = self.allowed.rooms().map(|room| room.len() + ROOM_BYTES).sum();
        let written = self.rooms.iter().map(|room| room.get().len() + ROOM_BYTES).sum();
        [allowed, written]
    }
}

/// Returns whether `body`, which is no bootstrap, is an HTML page by its type or its beginning.
pub(super) fn is_page(content_type: Option<&HeaderValue>, body: &[u8]) -> bool {
    let content_type = content_type.map(HeaderValue::as_bytes).unwrap_or_default();
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is_html = [&b"text/html"[..], b"application/xhtml+xml"].iter().any(|html| html.eq_ignore_ascii_case(essence));
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body).trim_ascii_start();
    match body.first() {
        None => false,
        Some(b'<') => true,
        Some(b'{' | b'[') => false, // meant as JSON, whatever its type
        Some(_) => is_html,
    }
}

/// UTF-8's.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The string or number at `path`.
fn user(json: &RawValue, path: &[String]) -> Option<String> {
    let mut at = json;
    for key in path {
        let [value] = fields(at.get(), [key.as_str()]).ok()?;
        at = value?;
    }
    user_id(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &[u8]) -> Result<Admission, Malformed> {
        let path = ["user", "data", "id"].map(str::to_owned);
        Admission::parse(body, &path, &Interner::default())
    }

    #[test]
    fn rooms_are_kept_as_written_without_duplicates() {
        let body = br#"{"other":1,"allowed_rooms":[{"b":1.0, "a":12345678901234567890123},{"a":"x"},{"a":"x"},{"a":"\u0078"}]}"#;
        let rooms: Vec<_> = parse(body).unwrap().rooms.iter().map(|room| room.get().to_owned()).collect();
        assert_eq!(rooms, [r#"{"b":1.0, "a":12345678901234567890123}"#, r#"{"a":"x"}"#]);
        assert!(parse(b"{}").unwrap().rooms.is_empty());
    }

    #[test]
    fn every_unusable_answer_is_told_from_a_usable_one() {
        for body in [
            &b""[..],
            b"null",
            b"[]",
            b"1",
            b"\"x\"",
            b"<html>",
            b"{\"allowed_rooms\":[",
            b"\xff",
            b"NaN",
            b"{\"allowed_rooms\":null}",
            b"{\"allowed_rooms\":1}",
            b"{\"allowed_rooms\":true}",
            b"{\"allowed_rooms\":\"\"}",
            b"{\"allowed_rooms\":{}}",
            b"{\"allowed_rooms\":[1]}",
            b"{\"allowed_rooms\":[null]}",
            b"{\"allowed_rooms\":[[]]}",
            b"{\"allowed_rooms\":[{\"a\":1},\"\"]}",
            b"{\"allowed_rooms\":[[[\"a\",1]]]}",
            b"{\"allowed_rooms\":[{\"a\":NaN}]}",
        ] {
            assert!(parse(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_a_page_is_told_from_other_answers() {
        assert!(parse(b"\xef\xbb\xbf{\"allowed_rooms\":[{\"a\":1}]}").is_ok());
        assert!(matches!(parse(b"\xef\xbb\xbf"), Err(Malformed::Empty)));
        let html = HeaderValue::from_static("Text/HTML; charset=utf-8");
        let json = HeaderValue::from_static("application/json");
        for page in [&b"<html>"[..], b" \r\n<!DOCTYPE html>", b"\xef\xbb\xbf<html>", b"<?xml?><html/>"] {
            assert!(is_page(None, page) && is_page(Some(&json), page) && is_page(Some(&html), page));
        }
        assert!(is_page(Some(&html), b"Please log in"));
        for other in [&b""[..], b"\xef\xbb\xbf", b" ", b"null", b"Please log in"] {
            assert!(!is_page(Some(&json), other), "{other:?}");
        }
        for other in [&b""[..], b"{\"allowed_rooms\":["] {
            assert!(!is_page(Some(&html), other), "{other:?}");
        }
    }

    #[test]
    fn a_room_that_is_too_large_is_left_out_and_the_others_stay() {
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(9000));
        let admission = parse(format!(r#"{{"allowed_rooms":[{large},{{"b":1}}]}}"#).as_bytes()).unwrap();
        let rooms: Vec<_> = admission.rooms.iter().map(|room| room.get()).collect();
        assert_eq!((rooms, admission.left_out), (vec![r#"{"b":1}"#], 1));
    }

    #[test]
    fn the_user_is_found_by_the_path_or_not_at_all() {
        let user = |body: &str| parse(body.as_bytes()).unwrap().user;
        assert_eq!(user(r#"{"user":{"data":{"id":17}}}"#).as_deref(), Some("17"));
        assert_eq!(user(r#"{"user":{"data":{"id":"u-1"}}}"#).as_deref(), Some("u-1"));
        assert_eq!(user(r#"{"user":{"data":{"id":null}}}"#), None);
        assert_eq!(user(r#"{"user":[]}"#), None);
    }
}
