//! The parameters that a client shows anew: `{"token":"…"}`.

use std::fmt;

use serde::{
    Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Why parameters cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadParams {
    /// They are not an object of strings.
    NotStrings,
    /// Names and values take more bytes than they may.
    TooLarge,
}

/// Returns the parameters of `json` whose names `are_wanted`; of several with the same name the last one. Others only count
/// towards `limit_bytes`, and nothing is kept of them.
///
/// # Errors
/// When `json` is not an object of strings, or its names and values take more than `limit_bytes`.
pub fn params(
    json: &RawValue,
    limit_bytes: usize,
    are_wanted: impl Fn(&str) -> bool,
) -> Result<Vec<(String, String)>, BadParams> {
    let mut left_bytes = Some(limit_bytes);
    let reader = Reader { left_bytes: &mut left_bytes, are_wanted };
    let found = serde_json::Deserializer::from_str(json.get()).deserialize_map(reader);
    found.map_err(|_| if left_bytes.is_none() { BadParams::TooLarge } else { BadParams::NotStrings })
}

struct Reader<'r, F> {
    /// `None` when it was not enough.
    left_bytes: &'r mut Option<usize>,
    are_wanted: F,
}

impl<'de, F: Fn(&str) -> bool> Visitor<'de> for Reader<'_, F> {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found: Self::Value = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, String>()? {
            *self.left_bytes = self.left_bytes.and_then(|left| left.checked_sub(name.len() + value.len()));
            if self.left_bytes.is_none() {
                return Err(A::Error::custom("too large"));
            }
            if !(self.are_wanted)(&name) {
                continue;
            }
            match found.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => found.push((name, value)), // as many as the configuration names
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<(String, String)>, BadParams> {
        params(&RawValue::from_string(json.to_owned()).unwrap(), 20, |name| name != "other")
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn strings_are_found_by_name_and_the_last_of_several_counts() {
        assert_eq!(read(r#"{"token":"a","x":"\u0062","token":""}"#), Ok(pairs(&[("token", ""), ("x", "b")])));
        assert_eq!(read(r#"{"other":"a"}"#), Ok(Vec::new()));
        assert_eq!(read("{}"), Ok(Vec::new()));
    }

    #[test]
    fn anything_but_an_object_of_strings_is_refused() {
        for json in [
            "[]",
            "null",
            "\"token\"",
            "1",
            r#"{"token":1}"#,
            r#"{"token":null}"#,
            r#"{"other":["a"]}"#,
            r#"{"token":"\ud800"}"#,
        ] {
            assert_eq!(read(json), Err(BadParams::NotStrings), "{json}");
        }
    }

    #[test]
    fn names_and_values_are_counted_as_they_are_and_whatever_they_are_for() {
        assert!(read(r#"{"token":"\u0078xxxxxxxxxxxxxx"}"#).is_ok());
        for json in [
            r#"{"token":"xxxxxxxxxxxxxxxx"}"#,
            r#"{"other":"xxxxxxxxxxxxxxxx"}"#,
            r#"{"t":"xxxxxxxxxx","t":"xxxxxxxxx"}"#,
        ] {
            assert_eq!(read(json), Err(BadParams::TooLarge), "{json}");
        }
    }
}
