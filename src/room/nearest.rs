//! Why a room is not allowed, for people.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{RoomKey, key::WILDCARD};

/// Allowed rooms that are looked at.
const LOOKED_AT: usize = 256;
/// The longest text of a room that is shown.
const SHOWN_BYTES: usize = 512;

type Members<'a> = BTreeMap<std::borrow::Cow<'a, str>, &'a RawValue>;

/// Which of `allowed`, texts of rooms, comes nearest to `wanted`, and in what it differs.
pub(super) fn nearest<'a>(allowed: impl Iterator<Item = &'a str>, wanted: &RoomKey) -> String {
    let Ok(wanted) = serde_json::from_str::<Members<'_>>(wanted.as_str()) else { return String::new() };
    let compare = |text: &'a str| {
        let allowed: Members<'a> = serde_json::from_str(text).ok()?;
        Some((text, differences(&allowed, &wanted)))
    };
    let nearest = allowed.take(LOOKED_AT).filter_map(compare).min_by_key(|(_, differences)| differences.len());
    let Some((text, differences)) = nearest else { return "no room is allowed".to_owned() };
    let text = match text.len() {
        0..=SHOWN_BYTES => text,
        _ => "one that is too long to be shown",
    };
    format!("the nearest allowed room is {text}: {}", differences.join(", "))
}

fn differences(allowed: &Members<'_>, wanted: &Members<'_>) -> Vec<String> {
    let name = |key: &str| serde_json::json!(key).to_string();
    let value = allowed.iter().filter_map(|(key, value)| match wanted.get(key) {
        Some(wanted) if value.get() == WILDCARD || value.get() == wanted.get() => None,
        Some(_) => Some(format!("{} has another value", name(key))),
        None => Some(format!("{} is missing", name(key))),
    });
    let more = wanted.keys().filter(|key| !allowed.contains_key(*key));
    value.chain(more.map(|key| format!("{} is no key of it", name(key)))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::{super::Numbers, *};

    fn told(allowed: &[Value], wanted: &Value) -> String {
        let texts: Vec<_> = allowed.iter().map(Value::to_string).collect();
        let wanted = RoomKey::new(&to_raw_value(wanted).unwrap(), Numbers::ByValue).unwrap();
        nearest(texts.iter().map(String::as_str), &wanted)
    }

    #[test]
    fn the_nearest_room_is_named_with_what_differs() {
        let allowed = [json!({"target": "message", "customer": "7"}), json!({"other": 1})];
        assert_eq!(
            told(&allowed, &json!({"target": "message", "customer": "8"})),
            r#"the nearest allowed room is {"customer":"7","target":"message"}: "customer" has another value"#
        );
        assert_eq!(
            told(&allowed, &json!({"target": "message"})),
            r#"the nearest allowed room is {"customer":"7","target":"message"}: "customer" is missing"#
        );
        assert_eq!(
            told(&allowed, &json!({"other": 1, "more": 2})),
            r#"the nearest allowed room is {"other":1}: "more" is no key of it"#
        );
        assert_eq!(told(&[], &json!({})), "no room is allowed");
    }

    #[test]
    fn a_long_room_is_not_shown() {
        let told = told(&[json!({"a": "x".repeat(1000)})], &json!({"a": 1}));
        assert_eq!(told, r#"the nearest allowed room is one that is too long to be shown: "a" has another value"#);
    }
}
