//! A value in a user's state.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A string, number, boolean or null, as the caller wrote it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scalar(pub Arc<RawValue>);

impl Scalar {
    /// `null`.
    pub fn null() -> Self {
        Self(Arc::from(RawValue::NULL.to_owned()))
    }

    /// `raw`, if it is neither an array nor an object.
    pub fn new(raw: &RawValue) -> Option<Self> {
        let is_scalar = !raw.get().starts_with(['[', '{']);
        is_scalar.then(|| Self(Arc::from(raw.to_owned())))
    }
}

impl PartialEq for Scalar {
    /// As Python compares: `true`, `1` and `1.0` are the same.
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get() || Meaning::of(&self.0) == Meaning::of(&other.0)
    }
}

/// What a value is to Python.
#[derive(Debug, PartialEq)]
pub(super) enum Meaning<'a> {
    /// `null`.
    Null,
    /// A number without point and exponent, or a boolean: its digits, of any length.
    Integer(Cow<'a, str>),
    /// A number that is no integer, or too large to be any.
    Float(f64),
    /// A string; the escaped text, if it cannot be decoded.
    Text(String),
    /// An array or object.
    Other(&'a str),
}

impl<'a> Meaning<'a> {
    pub(super) fn of(raw: &'a RawValue) -> Self {
        let text = raw.get();
        match text {
            "null" => Self::Null,
            "true" => Self::Integer("1".into()),
            "false" | "-0" => Self::Integer("0".into()),
            _ if text.starts_with('"') => Self::Text(decoded(raw).unwrap_or_else(|| text.to_owned())),
            _ if text.starts_with(['{', '[']) => Self::Other(text),
            _ if text.contains(['.', 'e', 'E']) => float(text),
            _ => Self::Integer(text.into()),
        }
    }

    /// Whether it is the same as this small number.
    pub(super) fn is(&self, number: u8) -> bool {
        *self == Meaning::Integer(number.to_string().into())
    }
}

/// A double that is an integer is that integer: no two of them look different then.
fn float<'a>(text: &'a str) -> Meaning<'a> {
    let number: f64 = text.parse().unwrap_or(f64::NAN);
    match number {
        0.0 => Meaning::Integer("0".into()),
        _ if number.is_finite() && number.fract() == 0.0 => Meaning::Integer(format!("{number:.0}").into()),
        _ => Meaning::Float(number),
    }
}

/// The string that `raw` is; `None` if it is no string, or half a surrogate pair is in it.
pub(super) fn decoded(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scalar(text: &str) -> Scalar {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn values_are_the_same_where_they_are_to_python() {
        for group in [
            &["true", "1", "1.0", "1e0", "10E-1"][..],
            &["false", "0", "-0", "0.0", "-0.0", "0e9"],
            &["null"],
            &[r#""A""#, r#""\u0041""#],
            &[r#""1""#],
            &[r#""true""#],
            &[r#""""#],
            &["1.5", "15e-1", "1.50"],
            &["0.1", "0.10000000000000000001"],
            &["100000000000000000000000", "100000000000000000000000"],
            &["1e23", "99999999999999991611392", "1.0E23"],
            &["99999999999999991611393"],
            &["9007199254740993"],
            &["9007199254740992", "9007199254740992.0", "9007199254740993.0"],
            &["1e999", "1e400"],
            &["-1e999"],
            &[r#""\ud800""#],
        ] {
            for a in group {
                for b in group {
                    assert_eq!(scalar(a), scalar(b), "{a} {b}");
                }
            }
        }
        let different = ["true", "0", "null", "\"1\"", "\"\"", "1.5", "2", "1e23", "100000000000000000000000", "1e999"];
        for (at, a) in different.iter().enumerate() {
            for b in &different[at + 1..] {
                assert_ne!(scalar(a), scalar(b), "{a} {b}");
            }
        }
    }

    #[test]
    fn a_value_is_written_as_the_caller_did() {
        for text in ["1.0", "1E5", "\"\\u0041\"", "123456789012345678901234567890", "null", "-0"] {
            assert_eq!(serde_json::to_string(&scalar(text)).unwrap(), text);
        }
        assert_eq!(serde_json::to_string(&Scalar::null()).unwrap(), "null");
        assert_eq!(Scalar::null(), scalar(" null "));
    }

    #[test]
    fn arrays_and_objects_are_none() {
        for text in ["[]", "{}", "[1]"] {
            assert_eq!(Scalar::new(serde_json::from_str::<&RawValue>(text).unwrap()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn numbers_are_the_same_as_doubles_are(a in any::<f64>(), b in -1000_i32..1000) {
            prop_assume!(a.is_finite());
            let (whole, float) = (scalar(&b.to_string()), scalar(&format!("{:?}", f64::from(b))));
            prop_assert_eq!(&whole, &float);
            prop_assert_eq!(scalar(&format!("{a:?}")) == whole, a == f64::from(b));
        }

        #[test]
        fn strings_are_the_same_as_they_are_decoded(a in "\\PC{0,3}", b in "\\PC{0,3}") {
            let written = |text: &str| scalar(&serde_json::to_string(text).unwrap());
            let escaped: String = a.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            prop_assert_eq!(scalar(&format!("\"{escaped}\"")), written(&a));
            prop_assert_eq!(written(&a) == written(&b), a == b);
        }
    }
}
