//! What is wrong with a body, said for each field.
//!
//! [`Fields`] reads an object and collects what is wrong. The messages are those of Channelstream.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};

/// The body of a 422: an object that mirrors the input, with a list of messages for each field that is wrong.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Invalid(pub Map<String, Value>);

impl Invalid {
    /// One field, one message: `{"conn_id": ["Unknown connection"]}`.
    pub fn one(field: &str, message: &str) -> Self {
        Self(Map::from_iter([(field.to_owned(), said(message))]))
    }

    /// The whole is of the wrong kind.
    fn kind() -> Self {
        Self::one("_schema", "Invalid input type.")
    }
}

impl From<Invalid> for Value {
    fn from(invalid: Invalid) -> Self {
        Self::Object(invalid.0)
    }
}

/// Why a body cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Bad {
    /// It is no JSON in UTF-8, or nested deeper than 127 levels.
    #[error("body is not JSON")]
    NotJson,
    /// Fields of it are wrong.
    #[error("body is not valid")]
    Invalid(Invalid),
}

impl From<Invalid> for Bad {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

/// What a reader says of a value that is there: what it is, or what is wrong with it, which is a list of messages, or an object
/// that mirrors the value.
pub(super) type Read<T> = Result<T, Value>;

/// One message.
pub(super) fn said(message: &str) -> Value {
    json!([message])
}

/// The JSON that `body` is.
pub(super) fn json(body: &[u8]) -> Result<&RawValue, Bad> {
    let raw: &RawValue = serde_json::from_slice(body).map_err(|_| Bad::NotJson)?;
    if depth(raw.get()) > DEEPEST { Err(Bad::NotJson) } else { Ok(raw) }
}

/// As deep as serde_json goes into values that are not kept raw, so that whoever gets a part of it can read it.
const DEEPEST: usize = 127;

/// How many arrays and objects are inside one another.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut is_text, mut is_escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_text,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => depth += 1,
            b']' | b'}' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The fields of an object, and what is wrong with those that have been read.
#[derive(Default)]
pub(super) struct Fields<'a> {
    unread: BTreeMap<String, &'a RawValue>,
    wrong: Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Of a name that is there twice, the last counts.
    pub(super) fn of(raw: &'a RawValue) -> Result<Self, Invalid> {
        let unread = serde_json::from_str(raw.get()).map_err(|_| Invalid::kind())?;
        Ok(Self { unread, ..Self::default() })
    }

    /// `null` is wrong, and so is nothing.
    pub(super) fn required<T>(&mut self, name: &str, read: impl Fn(&RawValue) -> Read<T>) -> Option<T> {
        if !self.unread.contains_key(name) {
            self.wrong(name, said("Missing data for required field."));
        }
        self.optional(name, read)
    }

    /// `null` is wrong; `None` if it was left out or is wrong.
    pub(super) fn optional<T>(&mut self, name: &str, read: impl Fn(&RawValue) -> Read<T>) -> Option<T> {
        let raw = self.unread.remove(name)?;
        filled(raw, read).map_err(|wrong| self.wrong(name, wrong)).ok()
    }

    /// `null` is as if it was left out.
    pub(super) fn nullable<T>(&mut self, name: &str, read: impl Fn(&RawValue) -> Read<T>) -> Option<T> {
        if self.unread.get(name).is_some_and(|raw| is_null(raw)) {
            self.unread.remove(name);
        }
        self.optional(name, read)
    }

    /// Adds what is wrong with `name`.
    pub(super) fn wrong(&mut self, name: &str, what: Value) {
        self.wrong.insert(name.to_owned(), what);
    }

    /// Whether `name` is there and has not been read.
    pub(super) fn has(&self, name: &str) -> bool {
        self.unread.contains_key(name)
    }

    /// What has not been read, except `names`.
    pub(super) fn rest(&mut self, names: &[&str]) -> BTreeMap<String, Arc<RawValue>> {
        let rest = std::mem::take(&mut self.unread).into_iter();
        rest.filter(|(name, _)| !names.contains(&name.as_str()))
            .map(|(name, raw)| (name, Arc::from(raw.to_owned())))
            .collect()
    }

    /// All that has not been read.
    pub(super) fn into_unread(self) -> BTreeMap<String, &'a RawValue> {
        self.unread
    }

    /// What was made of the fields, which is `None` only if a required one is wrong.
    pub(super) fn finish<T>(self, made: Option<T>) -> Result<T, Invalid> {
        made.filter(|_| self.wrong.is_empty()).ok_or(Invalid(self.wrong))
    }
}

fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

/// Anything but `null`.
pub(super) fn filled<T>(raw: &RawValue, read: impl Fn(&RawValue) -> Read<T>) -> Read<T> {
    if is_null(raw) { Err(said("Field may not be null.")) } else { read(raw) }
}

/// All of `items`, or what is wrong with each.
pub(super) fn items_of<T>(items: &[&RawValue], read: impl Fn(&RawValue) -> Read<T>) -> Result<Vec<T>, Invalid> {
    let mut wrong = Map::new();
    let (mut good, places) = (Vec::with_capacity(items.len()), 0_usize..);
    for (place, raw) in places.zip(items) {
        match read(raw) {
            Ok(item) => good.push(item),
            Err(what) => drop(wrong.insert(place.to_string(), what)),
        }
    }
    if wrong.is_empty() { Ok(good) } else { Err(Invalid(wrong)) }
}

/// A body that is an array of objects.
pub(super) fn objects<T>(body: &[u8], read: impl Fn(&RawValue) -> Result<T, Invalid>) -> Result<Vec<T>, Bad> {
    let items: Vec<&RawValue> = serde_json::from_str(json(body)?.get()).map_err(|_| Invalid::kind())?;
    Ok(items_of(&items, |raw| read(raw).map_err(Value::from))?)
}
