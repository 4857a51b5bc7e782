//! The client's own label for a subscription.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use serde_json::value::RawValue;
use smol_str::SmolStr;

use crate::room::canonical_scalar;

/// A `requestId`: any JSON scalar, echoed as the client wrote it.
///
/// Equality is by value: strings by code points, numbers by value (`1` is `1.0`), booleans only with booleans.
#[derive(Clone)]
pub struct RequestId(Spelling);

/// Up to 23 bytes lie in place: a room's members are read one after the other, and should not point elsewhere.
#[derive(Clone)]
enum Spelling {
    Canonical(SmolStr),
    Other(Arc<Other>),
}

struct Other {
    raw: Box<str>,
    canonical: Box<str>,
}

impl RequestId {
    /// The id that `json` is; `None` for a list or an object.
    pub fn new(json: &RawValue) -> Option<Self> {
        let (raw, canonical) = (json.get(), canonical_scalar(json.get())?);
        Some(Self(if canonical == raw {
            Spelling::Canonical(raw.into())
        } else {
            Spelling::Other(Arc::new(Other { raw: raw.into(), canonical: canonical.into() }))
        }))
    }

    /// Of a subscription that its client never named.
    pub fn none() -> Self {
        Self(Spelling::Canonical(SmolStr::new_static("null")))
    }

    /// The JSON text as the client sent it.
    pub fn as_json(&self) -> &str {
        match &self.0 {
            Spelling::Canonical(text) => text,
            Spelling::Other(other) => &other.raw,
        }
    }

    fn canonical(&self) -> &str {
        match &self.0 {
            Spelling::Canonical(text) => text,
            Spelling::Other(other) => &other.canonical,
        }
    }
}

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

impl Eq for RequestId {}

impl Hash for RequestId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical().hash(state);
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_json())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(json: &str) -> Option<RequestId> {
        RequestId::new(&RawValue::from_string(json.to_owned()).unwrap())
    }

    #[test]
    fn ids_are_equal_by_value_and_echoed_as_sent() {
        assert_eq!(id("1"), id("1.0"));
        assert_eq!(id(r#""\u0061""#), id(r#""a""#));
        assert_eq!(id(r#""\u0061""#).unwrap().as_json(), r#""\u0061""#);
        assert_ne!(id("1"), id("true"));
        assert_ne!(id("1"), id("\"1\""));
        assert_ne!(id("null"), id("\"\""));
    }

    #[test]
    fn a_long_id_is_kept_whole() {
        let long = format!("\"{}\"", "x".repeat(1000));
        assert_eq!(id(&long).unwrap().as_json(), long);
    }

    #[test]
    fn an_id_takes_no_more_room_than_three_words() {
        assert_eq!(size_of::<RequestId>(), 24);
    }

    #[test]
    fn lists_and_objects_are_no_ids() {
        assert_eq!(id("[]"), None);
        assert_eq!(id("{}"), None);
    }
}
