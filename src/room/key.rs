//! A room's identity.

use std::{cell::RefCell, fmt};

use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::{Mask, json};

/// How a room spells a wildcard, as canonical JSON.
pub(crate) const WILDCARD: &str = "\"*\"";

/// Why a JSON value cannot be a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A list, string, number, boolean or null stands where a room should.
    #[error("a room must be a JSON object")]
    NotAnObject,
    /// More than 64 levels of nesting.
    #[error("a room is nested too deeply")]
    TooDeep,
    /// A string with a lone surrogate, which no text can hold.
    #[error("a room holds a string that is not text")]
    Text,
    /// Not JSON at all.
    #[error("a room must be JSON")]
    Malformed,
    /// More keys than a room may have.
    #[error("a room may have at most {0} keys (MAX_ROOM_KEYS)")]
    TooManyKeys(usize),
    /// A longer canonical text than a room may have.
    #[error("a room may have at most {0} bytes as canonical JSON (ROOM_LIMIT)")]
    TooLong(usize),
}

impl Error {
    /// Whether the room is one, but larger than the limits allow.
    pub fn is_beyond_limits(self) -> bool {
        matches!(self, Self::TooManyKeys(_) | Self::TooLong(_))
    }
}

/// The largest room that is accepted.
///
/// A client chooses its rooms, and the cost of matching, comparing and keeping a room grows with its keys and its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Top-level keys.
    pub keys: usize,
    /// Bytes of the canonical text.
    pub bytes: usize,
}

impl Limits {
    /// No limits, for rooms that the server makes itself.
    pub const NONE: Self = Self { keys: usize::MAX, bytes: usize::MAX };
}

impl Default for Limits {
    fn default() -> Self {
        Self { keys: 64, bytes: 8 << 10 }
    }
}

/// How a room is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Comparison of numbers.
    pub numbers: Numbers,
    /// Largest room.
    pub limits: Limits,
}

impl From<Numbers> for Rules {
    /// With the default limits.
    fn from(numbers: Numbers) -> Self {
        Self { numbers, limits: Limits::default() }
    }
}

/// When two numbers inside rooms are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// By exact value: `1` is `1.0`.
    ByValue,
    /// By spelled type and value: `1` is not `1.0`, but `1.0` is `1e0` (3.1's identity of rooms).
    ByType,
}

/// A room in canonical form: equal rooms have equal keys.
///
/// Its text is JSON without white space, keys sorted at every level, one spelling for every string and number.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RoomKey {
    text: Box<str>,
    /// Where each top-level value stands in `text`, in the order of the keys.
    values: SmallVec<[(u32, u32); 2]>,
}

impl RoomKey {
    /// The key of the room that `json` describes.
    ///
    /// # Errors
    /// When `json` is not an object, nests deeper than 64 levels, holds a string that is not text, or is larger than the
    /// limits allow.
    pub fn new(json: &RawValue, rules: impl Into<Rules>) -> Result<Self, Error> {
        let rules = rules.into();
        Self::of(&json::members(json.get(), rules)?, rules.limits)
    }

    /// The keys of the rooms in the list that `json` is, in its order.
    ///
    /// # Errors
    /// When `json` is not a list, or one of its elements no room.
    pub fn list(json: &RawValue, rules: impl Into<Rules>) -> Result<Vec<Self>, Error> {
        let rules = rules.into();
        let mut keys = Vec::with_capacity(1);
        json::each_members(json.get(), rules, |members| {
            keys.push(Self::of(&members, rules.limits)?);
            Ok(())
        })?;
        Ok(keys)
    }

    fn of(members: &[json::Member<'_>], limits: Limits) -> Result<Self, Error> {
        if members.len() > limits.keys {
            return Err(Error::TooManyKeys(limits.keys));
        }
        with_scratch(|text| {
            let mut values = SmallVec::with_capacity(members.len());
            text.push('{');
            for (key, value) in members {
                if text.len() > 1 {
                    text.push(',');
                }
                json::write_string(key, text);
                text.push(':');
                let start = offset(text)?;
                text.push_str(value);
                values.push((start, offset(text)?));
                if text.len() >= limits.bytes {
                    return Err(Error::TooLong(limits.bytes)); // the closing brace is still to come
                }
            }
            text.push('}');
            Ok(Self { text: text.as_str().into(), values })
        })
    }

    /// The canonical JSON text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the bytes that it takes beside its own size.
    pub fn heap_bytes(&self) -> usize {
        let values = if self.values.spilled() { self.values.capacity() * size_of::<(u32, u32)>() } else { 0 };
        self.text.len() + values
    }

    /// Returns the top-level values as canonical JSON, in the order of the keys.
    pub(crate) fn values(&self) -> impl ExactSizeIterator<Item = &str> {
        self.values.iter().map(|span| self.slice(*span))
    }

    /// Which top-level values are the wildcard `"*"`.
    pub fn wildcards(&self) -> Mask {
        (0..).zip(self.values()).filter(|(_, value)| *value == WILDCARD).map(|(at, _)| at).collect()
    }

    /// Whether `other` has the same keys and, key by key, an equal value, or one of the two is the wildcard.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        self.compare(other, |own, other| own == other || own == WILDCARD || other == WILDCARD)
    }

    /// Whether `other` has the same keys and, key by key, an equal value, or this one's is the wildcard.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.compare(other, |own, other| own == other || own == WILDCARD)
    }

    /// Whether the keys are the same and `is_like` holds for each pair of values.
    fn compare(&self, other: &Self, is_like: impl Fn(&str, &str) -> bool) -> bool {
        let mut key = (0, 0); // where the next key begins in each text
        let is_like = |(own, theirs): (&(u32, u32), &(u32, u32))| {
            let same_key = self.text[key.0..own.0 as usize] == other.text[key.1..theirs.0 as usize];
            key = (own.1 as usize, theirs.1 as usize);
            same_key && is_like(self.slice(*own), other.slice(*theirs))
        };
        self.values.len() == other.values.len() && self.values.iter().zip(&other.values).all(is_like)
    }

    /// Writes to `out` the text with the values at `mask` replaced by the wildcard.
    pub(crate) fn write_masked(&self, mask: &Mask, out: &mut String) {
        out.clear();
        let mut copied = 0;
        for (start, end) in mask.positions().filter_map(|at| self.values.get(at as usize)) {
            out.push_str(&self.text[copied..*start as usize]);
            out.push_str(WILDCARD);
            copied = *end as usize;
        }
        out.push_str(&self.text[copied..]);
    }

    /// Writes to `out` what rooms with the same set of keys share: the text without its values.
    pub(crate) fn write_shape(&self, out: &mut String) {
        out.clear();
        let mut copied = 0;
        for (start, end) in &self.values {
            out.push_str(&self.text[copied..*start as usize]);
            copied = *end as usize;
        }
        out.push_str(&self.text[copied..]);
    }

    fn slice(&self, (start, end): (u32, u32)) -> &str {
        &self.text[start as usize..end as usize]
    }
}

impl fmt::Debug for RoomKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

thread_local! {
    static SCRATCH: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `work` with an empty text that need not be allocated again each time. `work` must not ask for another one, and so
/// not make a [`RoomKey`].
pub(crate) fn with_scratch<T>(work: impl FnOnce(&mut String) -> T) -> T {
    const KEPT_BYTES: usize = 16 * 1024;
    SCRATCH.with_borrow_mut(|text| {
        text.clear();
        let outcome = work(text);
        if text.capacity() > KEPT_BYTES {
            *text = String::new();
        }
        outcome
    })
}

fn offset(text: &str) -> Result<u32, Error> {
    u32::try_from(text.len()).map_err(|_| Error::TooDeep)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn key(json: &str) -> Result<RoomKey, Error> {
        RoomKey::new(&RawValue::from_string(json.to_owned()).unwrap(), Numbers::ByValue)
    }

    #[test]
    fn the_order_of_keys_and_white_space_do_not_count() {
        let one = key(r#"{"b": {"y":1 , "x":[ 1,2 ]}, "a":"1"}"#).unwrap();
        assert_eq!(one.as_str(), r#"{"a":"1","b":{"x":[1,2],"y":1}}"#);
        assert_eq!(one, key(r#"{"a":"1","b":{"x":[1.0,2],"y":1}}"#).unwrap());
    }

    #[test]
    fn the_type_of_a_value_counts() {
        let rooms: Vec<_> = [r#"{"a":"1"}"#, r#"{"a":1}"#, r#"{"a":true}"#, r#"{"a":null}"#]
            .into_iter()
            .map(|json| key(json).unwrap().text)
            .collect();
        for (at, room) in rooms.iter().enumerate() {
            assert!(!rooms[..at].contains(room));
        }
    }

    #[test]
    fn spellings_of_one_string_are_one_room() {
        assert_eq!(key(r#"{"\u0061":"\u00e9\/"}"#), key(r#"{"a":"é/"}"#));
    }

    #[test]
    fn the_last_of_duplicate_keys_counts() {
        assert_eq!(key(r#"{"a":1,"b":0,"a":2,"\u0061":3}"#), key(r#"{"a":3,"b":0}"#));
    }

    #[test]
    fn anything_but_an_object_is_refused() {
        for json in ["[]", "\"\"", "1", "null", "true", r#"[["a",1]]"#] {
            assert_eq!(key(json), Err(Error::NotAnObject), "{json}");
        }
        assert_eq!(key(r#"{"a":"\ud800"}"#), Err(Error::Text));
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(key(&deep), Err(Error::TooDeep));
    }

    #[test]
    fn a_room_has_at_most_as_many_keys_and_bytes_as_the_limits_allow() {
        let rules = Rules { numbers: Numbers::ByValue, limits: Limits { keys: 2, bytes: 20 } };
        let key = |json: &str| RoomKey::new(&RawValue::from_string(json.to_owned()).unwrap(), rules);
        assert!(key(r#"{"a":1,"b":2}"#).is_ok());
        assert!(key(r#"{"a":1, "b":2, "a":3}"#).is_ok(), "a duplicate key is one key");
        assert_eq!(key(r#"{"a":1,"b":2,"c":3}"#), Err(Error::TooManyKeys(2)));
        // 20 bytes as canonical text, however it is spelled.
        assert_eq!(key(r#"{ "a" : "\u0078xxxxxxxxxxx" }"#).unwrap().as_str().len(), 20);
        assert_eq!(key(r#"{"a":"xxxxxxxxxxxxx"}"#), Err(Error::TooLong(20)));
        assert_eq!(key(r#"{"a":[[["xxxxxxxxxxxxxxxxxxx"]]]}"#), Err(Error::TooLong(20)));
        assert_eq!(key(r#"{"xxxxxxxxxxxxxxx":1}"#), Err(Error::TooLong(20)));
        assert_eq!(key(&format!(r#"{{"a":{}}}"#, "9".repeat(100))), Err(Error::TooLong(20)));
        let list = RawValue::from_string(r#"[{"a":1},{"a":"xxxxxxxxxxxxx"}]"#.to_owned()).unwrap();
        assert_eq!(RoomKey::list(&list, rules), Err(Error::TooLong(20)));
    }

    #[test]
    fn only_a_whole_top_level_value_is_a_wildcard() {
        let room = key(r#"{"a":"*","b":["*"],"c":"**","*":1,"d":"\u002a"}"#).unwrap();
        assert_eq!(room.wildcards().positions().collect::<Vec<_>>(), [1, 4]); // the keys sort as * a b c d
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_filter_map("finite", |n| n.is_finite().then(|| json!(n))),
            ".{0,6}".prop_map(Value::from),
            Just(json!("*")),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c\"\\\\]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_canonical_text_is_json_of_the_same_value(
            map in prop::collection::btree_map(".{0,4}", any_json(), 0..5)
        ) {
            let value = Value::Object(map.into_iter().collect());
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let room = key(&text).unwrap();
                let again = key(room.as_str()).unwrap();
                prop_assert_eq!(&again, &room);
                prop_assert_eq!(without_float_spelling(&serde_json::from_str(room.as_str()).unwrap()),
                    without_float_spelling(&value));
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,64}") {
            if let Ok(raw) = RawValue::from_string(text) {
                let _ = RoomKey::new(&raw, Numbers::ByType);
            }
        }
    }

    fn without_float_spelling(value: &Value) -> Value {
        match value {
            Value::Number(number) => json!(number.as_f64()),
            Value::Array(values) => values.iter().map(without_float_spelling).collect(),
            Value::Object(map) => {
                Value::Object(map.iter().map(|(k, v)| (k.clone(), without_float_spelling(v))).collect())
            }
            other => other.clone(),
        }
    }
}
