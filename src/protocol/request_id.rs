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
    /// Longest id, as it is written in JSON, without the quotes of a string. The server keeps an id as long as its subscription.
    pub const LIMIT_BYTES: usize = 255;

    /// Returns the id that `json` is; `None` for a list, an object, or one that is too long.
    pub fn new(json: &RawValue) -> Option<Self> {
        let raw = json.get();
        let quotes = if raw.starts_with('"') { 2 } else { 0 };
        if raw.len() > Self::LIMIT_BYTES + quotes {
            return None;
        }
        let canonical = canonical_scalar(raw)?;
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

    /// Returns the bytes that it takes beside its own size.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Spelling::Canonical(text) if text.is_heap_allocated() => text.len() + size_of::<[usize; 2]>(),
            Spelling::Canonical(_) => 0,
            Spelling::Other(other) => {
                other.raw.len() + other.canonical.len() + size_of::<Other>() + size_of::<[usize; 2]>()
            }
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
    fn an_id_of_255_bytes_is_kept_whole_and_a_longer_one_is_none() {
        let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
        assert_eq!(id(&text(255)).unwrap().as_json(), text(255));
        assert_eq!(id(&text(256)), None);
        assert!(id(&"9".repeat(255)).is_some());
        assert_eq!(id(&"9".repeat(256)), None);
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
