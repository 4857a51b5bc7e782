//! A second opinion on JSON: what serde_json's own tree makes of a text.

use serde_json::Value;

/// Why the tree may refuse what is JSON all the same: our readers take deep nesting, lone surrogates and numbers beyond
/// a double.
const STRICTER: [&str; 4] = [
    "recursion limit exceeded",
    "lone leading surrogate in hex escape",
    "unexpected end of hex escape", // half a pair of surrogates
    "number out of range",
];

/// A key that the tree takes for its own.
const RESERVED: &[u8] = b"$serde_json::private";

pub enum Reading {
    Json(Value),
    NotJson,
    /// The tree is no judge of this one.
    Unsure,
}

impl Reading {
    pub fn of(text: &[u8]) -> Self {
        if text.windows(RESERVED.len()).any(|window| window == RESERVED) {
            return Self::Unsure;
        }
        match serde_json::from_slice(text) {
            Ok(value) => Self::Json(value),
            Err(error) if STRICTER.iter().any(|reason| error.to_string().starts_with(reason)) => Self::Unsure,
            Err(_) => Self::NotJson,
        }
    }
}

/// Asserts that `part` was not copied out of `whole` but lies in it.
pub fn assert_lies_in(part: &str, whole: &[u8]) {
    let (part, whole) = (part.as_bytes().as_ptr_range(), whole.as_ptr_range());
    assert!(whole.start <= part.start && part.end <= whole.end);
}
