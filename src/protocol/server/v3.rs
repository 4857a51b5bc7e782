//! The frames of high-templar 3.1.

use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Misunderstanding, Refusal, Status, push_list};

/// A request was carried out.
pub const SUCCESS: &str = r#"{"code":"success"}"#;
/// The first and only frame of a client the backend did not authorise.
pub const REFUSED: &str = r#"{"is_authorized":false}"#;

/// A publication up to its data; then come that, [`PUBLICATION_ID`], the receiver's `requestId` and [`PUBLICATION_END`].
pub const PUBLICATION_START: &str = r#"{"type":"publish","data":"#;
/// What stands before the receiver's `requestId`.
pub const PUBLICATION_ID: &str = r#","requestId":"#;
/// What stands behind it.
pub const PUBLICATION_END: &str = "}";

/// The first frame of an authorised client.
pub fn welcome(rooms: &[Box<RawValue>]) -> String {
    let mut frame = String::from(r#"{"is_authorized":true,"allowed_rooms":"#);
    push_list(&mut frame, rooms);
    frame.push('}');
    frame
}

/// A request failed.
pub fn refused(refusal: Refusal) -> String {
    let refusal = match refusal {
        Refusal::TooManyMasks | Refusal::TooMuchMemory => Refusal::TooManySubscriptions, // the word that is known here
        refusal => refusal,
    };
    format!(r#"{{"code":"error","message":"{}"}}"#, refusal.word())
}

/// A message was no request; the `requestId` is the connection's id.
pub fn misunderstood(what: Misunderstanding, connection: &Uuid) -> String {
    format!(r#"{{"requestId":"{connection}","code":"error","message":"{}"}}"#, what.word())
}

/// The process's numbers.
pub fn status(status: &Status) -> String {
    serde_json::json!(status).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_frames_are_the_json_the_specification_shows() {
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(parsed(SUCCESS), json!({"code": "success"}));
        assert_eq!(parsed(REFUSED), json!({"is_authorized": false}));
        for (refusal, message) in [
            (Refusal::RoomNotFound, "room-not-found"),
            (Refusal::NoRequestId, "no-request-id"),
            (Refusal::NotSubscribed, "not-subscribed"),
        ] {
            assert_eq!(parsed(&refused(refusal)), json!({"code": "error", "message": message}));
        }
        let id = Uuid::nil();
        assert_eq!(
            parsed(&misunderstood(Misunderstanding::NotJson, &id)),
            json!({"requestId": id.to_string(), "code": "error", "message": "non-json-message"})
        );
        assert_eq!(parsed(&welcome(&[])), json!({"is_authorized": true, "allowed_rooms": []}));
    }
}
