//! What the kinds of fields accept.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use serde_json::{Map, json, value::RawValue};
use uuid::Uuid;

use super::{
    Scalar, Timestamp,
    scalar::{Meaning, decoded},
    validation::{Read, filled, items_of, said},
};

/// A string of so many characters.
pub(super) fn string(length: RangeInclusive<usize>) -> impl Fn(&RawValue) -> Read<String> {
    move |raw| {
        let text = decoded(raw).ok_or_else(|| said("Not a valid string."))?;
        if length.contains(&text.chars().count()) {
            return Ok(text);
        }
        Err(said(&format!("Length must be between {} and {}.", length.start(), length.end())))
    }
}

/// A UUID as JSON; see [`uuid_text`].
pub(super) fn uuid(raw: &RawValue) -> Read<Uuid> {
    decoded(raw).map_or_else(|| Err(said(NO_UUID)), |text| uuid_text(&text))
}

/// 32 hexadecimal digits, with hyphens, braces and `urn:uuid:` where Python lets them pass.
pub(super) fn uuid_text(text: &str) -> Read<Uuid> {
    let digits = text.replace("urn:", "").replace("uuid:", "").trim_matches(['{', '}']).replace('-', "");
    let is_plain = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_plain.then(|| u128::from_str_radix(&digits, 16).ok()).flatten();
    number.map(Uuid::from_u128).ok_or_else(|| said(NO_UUID))
}

const NO_UUID: &str = "Not a valid UUID.";

/// A list; what is wrong is told by position.
pub(super) fn list<T>(read: impl Fn(&RawValue) -> Read<T>) -> impl Fn(&RawValue) -> Read<Vec<T>> {
    move |raw| {
        let items: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|_| said("Not a valid list."))?;
        Ok(items_of(&items, |raw| filled(raw, &read))?)
    }
}

/// A list that is not empty.
pub(super) fn some<T>(read: impl Fn(&RawValue) -> Read<Vec<T>>) -> impl Fn(&RawValue) -> Read<Vec<T>> {
    move |raw| {
        let list = read(raw)?;
        if list.is_empty() { Err(said("Shorter than minimum length 1.")) } else { Ok(list) }
    }
}

/// An object with keys of the caller's; what is wrong is told by key, and then `value`.
pub(super) fn map<T>(read: impl Fn(&RawValue) -> Read<T>) -> impl Fn(&RawValue) -> Read<BTreeMap<String, T>> {
    move |raw| {
        let entries: BTreeMap<String, &RawValue> =
            serde_json::from_str(raw.get()).map_err(|_| said("Not a valid mapping type."))?;
        let (mut good, mut wrong) = (BTreeMap::new(), Map::new());
        for (key, raw) in entries {
            match read(raw) {
                Ok(value) => drop(good.insert(key, value)),
                Err(what) => drop(wrong.insert(key, json!({ "value": what }))),
            }
        }
        if wrong.is_empty() { Ok(good) } else { Err(wrong.into()) }
    }
}

/// An object, kept as it is.
pub(super) fn object(raw: &RawValue) -> Read<Arc<RawValue>> {
    let is_object = raw.get().starts_with('{');
    if is_object { Ok(Arc::from(raw.to_owned())) } else { Err(said("Not a valid mapping type.")) }
}

/// A value of a state; may be `null`.
pub(super) fn scalar(raw: &RawValue) -> Read<Scalar> {
    Scalar::new(raw).ok_or_else(|| said("Value is not type of string, integer, boolean or float."))
}

/// `true` and `false`, and the numbers and words that stand for them.
pub(super) fn boolean(raw: &RawValue) -> Read<bool> {
    let meaning = Meaning::of(raw);
    let is = |number, words: &[&str]| match &meaning {
        Meaning::Text(text) => words.contains(&text.as_str()),
        other => other.is(number),
    };
    if is(1, TRUE) {
        Ok(true)
    } else if is(0, FALSE) {
        Ok(false)
    } else {
        Err(said("Not a valid boolean."))
    }
}

const TRUE: &[&str] = &["t", "T", "true", "True", "TRUE", "on", "On", "ON", "y", "Y", "yes", "Yes", "YES", "1"];
const FALSE: &[&str] = &["f", "F", "false", "False", "FALSE", "off", "Off", "OFF", "n", "N", "no", "No", "NO", "0"];

/// A number that is not negative: an integer, what is left of the point, or a string of digits. Larger ones than fit become
/// the largest that does.
pub(super) fn integer(raw: &RawValue) -> Read<u64> {
    let no = || said("Not a valid integer.");
    let digits = match Meaning::of(raw) {
        _ if matches!(raw.get(), "true" | "false") => return Err(no()),
        Meaning::Integer(digits) => digits.into_owned(),
        Meaning::Float(number) if number.is_finite() => format!("{:.0}", number.trunc()),
        Meaning::Text(text) => python_digits(&text).ok_or_else(no)?,
        _ => return Err(no()),
    };
    let is_zero = digits.bytes().all(|byte| matches!(byte, b'-' | b'0'));
    if digits.starts_with('-') && !is_zero {
        return Err(said("Must be greater than or equal to 0."));
    }
    Ok(if is_zero { 0 } else { digits.parse().unwrap_or(u64::MAX) })
}

/// What Python's `int` takes: spaces around, a sign, underscores between digits.
fn python_digits(text: &str) -> Option<String> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let is_number = digits.split('_').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    is_number.then(|| format!("{sign}{}", digits.replace('_', "")))
}

/// A moment.
pub(super) fn datetime(raw: &RawValue) -> Read<Timestamp> {
    decoded(raw).and_then(|text| Timestamp::parse(&text)).ok_or_else(|| said("Not a valid datetime."))
}
