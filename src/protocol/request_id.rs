//! The client's own label for a subscription.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use serde_json::value::RawValue;

use crate::room::canonical_scalar;

/// A `requestId`: any JSON scalar, echoed as the client wrote it.
///
/// Equality is by value: strings by code points, numbers by value (`1` is `1.0`), booleans only with booleans.
#[derive(Clone)]
pub struct RequestId {
    /// As sent.
    raw: Arc<str>,
    /// The canonical spelling, where it differs.
    canonical: Option<Arc<str>>,
}

impl RequestId {
    /// The id that `json` is; `None` for a list or an object.
    pub fn new(json: &RawValue) -> Option<Self> {
        let canonical = canonical_scalar(json.get())?;
        let canonical = (canonical != json.get()).then(|| Arc::from(canonical));
        Some(Self { raw: json.get().into(), canonical })
    }

    /// The JSON text as the client sent it.
    pub fn as_json(&self) -> &str {
        &self.raw
    }

    fn canonical(&self) -> &str {
        self.canonical.as_ref().unwrap_or(&self.raw)
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
        f.write_str(&self.raw)
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
    fn lists_and_objects_are_no_ids() {
        assert_eq!(id("[]"), None);
        assert_eq!(id("{}"), None);
    }
}
