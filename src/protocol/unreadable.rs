//! Why a body is not a JSON object in UTF-8: what it is instead, or where it goes wrong.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::{error::Category, value::RawValue};

use super::fields;

/// The reason why a body cannot be read. Its text never holds anything of the body; bytes are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    kind: Kind,
    /// Where the reason stands in the body, if it stands anywhere.
    at: Option<usize>,
    /// The parser's own words.
    detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Empty,
    ByteOrderMark,
    Utf16,
    Utf32,
    Gzip,
    Zlib,
    Zstandard,
    Pickle,
    NotUtf8,
    NotAnObject(&'static str),
    NoNumber(&'static str),
    EndsEarly,
    TrailingData,
    NotJson,
}

/// What another kind of body begins with. The order counts: the mark of UTF-32 begins with that of UTF-16.
const MARKS: [(&[u8], Kind); 13] = [
    (b"\x1f\x8b", Kind::Gzip),
    (b"\x28\xb5\x2f\xfd", Kind::Zstandard),
    (b"\xef\xbb\xbf", Kind::ByteOrderMark),
    (b"\xff\xfe\0\0", Kind::Utf32),
    (b"\0\0\xfe\xff", Kind::Utf32),
    (b"\xff\xfe", Kind::Utf16),
    (b"\xfe\xff", Kind::Utf16),
    (b"{\0\0\0", Kind::Utf32),
    (b"\0\0\0{", Kind::Utf32),
    (b"{\0", Kind::Utf16),
    (b"\0{", Kind::Utf16),
    // Python's pickle, protocols 0 and 1; all later ones begin with 0x80 and their number.
    (b"(dp", Kind::Pickle),
    (b"}q", Kind::Pickle),
];
/// Numbers that Python and JavaScript have, and JSON does not.
const NO_NUMBERS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];
/// The newest protocol of pickle.
const NEWEST_PICKLE: u8 = 5;

impl Unreadable {
    /// One or two words, from a fixed list.
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Empty => "empty",
            Kind::ByteOrderMark => "byte order mark",
            Kind::Utf16 => "UTF-16",
            Kind::Utf32 => "UTF-32",
            Kind::Gzip => "gzip",
            Kind::Zlib => "zlib",
            Kind::Zstandard => "zstd",
            Kind::Pickle => "pickle",
            Kind::NotUtf8 => "not UTF-8",
            Kind::NotAnObject(_) => "not an object",
            Kind::NoNumber(number) => number,
            Kind::EndsEarly => "ends early",
            Kind::TrailingData => "trailing data",
            Kind::NotJson => "not JSON",
        }
    }

    fn new(kind: Kind, at: Option<usize>) -> Self {
        Self { kind, at, detail: None }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        if let Some(at) = self.at {
            write!(f, " at byte {at}")?;
        }
        match self.kind {
            Kind::ByteOrderMark => f.write_str(": send UTF-8 without it"),
            Kind::Utf16 | Kind::Utf32 => f.write_str(": send UTF-8"),
            Kind::Gzip | Kind::Zlib | Kind::Zstandard => f.write_str(": send the body uncompressed"),
            Kind::Pickle => f.write_str(": send JSON"),
            Kind::NotAnObject(found) => write!(f, ": found {found}"),
            Kind::NoNumber(_) => f.write_str(": JSON has no such number"),
            _ => self.detail.iter().try_for_each(|detail| write!(f, ": {detail}")),
        }
    }
}

impl std::error::Error for Unreadable {}

/// The raw values of the members called `names` of the object that `body` is; of duplicate members the last one counts.
///
/// # Errors
/// When `body` is anything else than a JSON object in UTF-8.
pub(super) fn members<'a, const N: usize>(
    body: &'a [u8],
    names: [&str; N],
) -> Result<[Option<&'a RawValue>; N], Unreadable> {
    let text = text(body)?;
    fields(text, names).map_err(|error| reason(text, &error))
}

/// The elements of the JSON array that `body` is: all of them, or the first `most` and one more where there are more.
///
/// # Errors
/// When `body` is anything else than a JSON array in UTF-8.
pub fn elements(body: &[u8], most: usize) -> Result<Vec<&RawValue>, Unreadable> {
    let text = text(body)?;
    let mut parser = serde_json::Deserializer::from_str(text);
    let list = First(most.saturating_add(1)).deserialize(&mut parser);
    list.and_then(|list| parser.end().map(|()| list)).map_err(|error| reason(text, &error))
}

/// So many elements of a list, of which all are looked at.
struct First(usize);

impl<'de> DeserializeSeed<'de> for First {
    type Value = Vec<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for First {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut first = Vec::new();
        while let Some(element) = list.next_element()? {
            if first.len() < self.0 {
                first.push(element);
            }
        }
        Ok(first)
    }
}

/// `body` as text, unless it is recognised as something else.
fn text(body: &[u8]) -> Result<&str, Unreadable> {
    // What is good is not searched for what is bad.
    if body.first() == Some(&b'{') && body.get(1) != Some(&0) {
        return std::str::from_utf8(body).map_err(|error| Unreadable::new(Kind::NotUtf8, Some(error.valid_up_to())));
    }
    if body.trim_ascii().is_empty() {
        return Err(Unreadable::new(Kind::Empty, None));
    }
    let mark = MARKS.iter().find(|(mark, _)| body.starts_with(mark)).map(|(_, kind)| *kind);
    let mark = mark.or(match body {
        [0x80, 2..=NEWEST_PICKLE, ..] => Some(Kind::Pickle),
        // RFC 1950: method 8 with a window of 32 KiB, and a checksum of both bytes.
        [method @ 0x78, flags, ..] if u16::from_be_bytes([*method, *flags]) % 31 == 0 => Some(Kind::Zlib),
        _ => None,
    });
    if let Some(kind) = mark {
        return Err(Unreadable::new(kind, None));
    }
    std::str::from_utf8(body).map_err(|error| Unreadable::new(Kind::NotUtf8, Some(error.valid_up_to())))
}

/// What the parser's `error` about `text` means.
fn reason(text: &str, error: &serde_json::Error) -> Unreadable {
    let at = position(text, error);
    let data = |found| Unreadable::new(Kind::NotAnObject(found), None);
    match error.classify() {
        // Its words quote the value.
        Category::Data => data(match text.trim_ascii_start().as_bytes().first() {
            Some(b'[') => "an array",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            _ => "a number",
        }),
        Category::Eof | Category::Io => Unreadable::new(Kind::EndsEarly, Some(text.len())),
        Category::Syntax => {
            let words = error.to_string();
            let words = words.split(" at line ").next().unwrap_or_default();
            if words == "trailing characters" {
                return Unreadable::new(Kind::TrailingData, Some(at));
            }
            // The parser stops behind a sign.
            let number = [at.saturating_sub(1), at].into_iter().find_map(|at| {
                let number =
                    NO_NUMBERS.iter().find(|number| text.get(at..).is_some_and(|rest| rest.starts_with(*number)));
                number.map(|number| Unreadable::new(Kind::NoNumber(number), Some(at)))
            });
            let other = || Unreadable { kind: Kind::NotJson, at: Some(at), detail: Some(words.to_owned()) };
            number.unwrap_or_else(other)
        }
    }
}

/// The offset of the byte that the parser's `error` is about.
fn position(text: &str, error: &serde_json::Error) -> usize {
    let ends = memchr::memchr_iter(b'\n', text.as_bytes());
    let start = error.line().checked_sub(2).and_then(|line| ends.map(|end| end + 1).nth(line)).unwrap_or(0);
    (start + error.column().saturating_sub(1)).min(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(body: &[u8]) -> (&'static str, String) {
        let error = members(body, ["rooms"]).unwrap_err();
        (error.kind(), error.to_string())
    }

    #[test]
    fn every_reason_has_its_kind_and_place() {
        let utf16: Vec<u8> = r#"{"rooms":[]}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = r#"{"rooms":[]}"#.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let utf32: Vec<u8> = r#"{"rooms":[]}"#.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        let cases: [(&[u8], &str, &str); 34] = [
            (br#"{"rooms":[{"a":"1"}],"data":{"x":NaN}}"#, "NaN", "NaN at byte 33: JSON has no such number"),
            (b"{\n \"rooms\":[],\n \"data\":NaN}", "NaN", "NaN at byte 23: JSON has no such number"),
            (br#"{"a":Infinity}"#, "Infinity", "Infinity at byte 5: JSON has no such number"),
            (br#"{"a":-Infinity}"#, "-Infinity", "-Infinity at byte 5: JSON has no such number"),
            (br#"{"rooms":NaN}"#, "NaN", "NaN at byte 9: JSON has no such number"),
            (br#"{"rooms":[1,-Infinity]}"#, "-Infinity", "-Infinity at byte 12: JSON has no such number"),
            (b"", "empty", "empty"),
            (b" \r\n", "empty", "empty"),
            (b"\x1f\x8b\x08\0\0\0\0\0", "gzip", "gzip: send the body uncompressed"),
            (b"\x78\x9c\xab\x56", "zlib", "zlib: send the body uncompressed"),
            (b"\x28\xb5\x2f\xfd\x04", "zstd", "zstd: send the body uncompressed"),
            (b"\xef\xbb\xbf{\"rooms\":[]}", "byte order mark", "byte order mark: send UTF-8 without it"),
            (&[b"\xff\xfe", &*utf16].concat(), "UTF-16", "UTF-16: send UTF-8"),
            (&[b"\xfe\xff", &*big].concat(), "UTF-16", "UTF-16: send UTF-8"),
            (&utf16, "UTF-16", "UTF-16: send UTF-8"),
            (&big, "UTF-16", "UTF-16: send UTF-8"),
            (&utf32, "UTF-32", "UTF-32: send UTF-8"),
            (b"\x80\x04\x95\x1d\0\0\0", "pickle", "pickle: send JSON"),
            (b"\x80\x02}q\0", "pickle", "pickle: send JSON"),
            (b"(dp0\nVrooms\n", "pickle", "pickle: send JSON"),
            (b"}q\0(X\x05", "pickle", "pickle: send JSON"),
            (b"{\"rooms\":[],\"data\":\"\xe4\"}", "not UTF-8", "not UTF-8 at byte 20"),
            (b"\x81\xa5rooms", "not UTF-8", "not UTF-8 at byte 0"),
            (br#"["s3cret"]"#, "not an object", "not an object: found an array"),
            (br#" "s3cret""#, "not an object", "not an object: found a string"),
            (b"17", "not an object", "not an object: found a number"),
            (b"null", "not an object", "not an object: found null"),
            (b"true", "not an object", "not an object: found a boolean"),
            (br#"{"rooms":["#, "ends early", "ends early at byte 10"),
            (br#"{"rooms":[]} {"rooms":[]}"#, "trailing data", "trailing data at byte 13"),
            (b"{'rooms': []}", "not JSON", "not JSON at byte 1: key must be a string"),
            (br#"{"rooms":[],}"#, "not JSON", "not JSON at byte 12: trailing comma"),
            (br#"{"rooms":s3cret}"#, "not JSON", "not JSON at byte 9: expected value"),
            (b"rooms=s3cret", "not JSON", "not JSON at byte 0: expected value"),
        ];
        for (body, kind, text) in cases {
            assert_eq!(said(body), (kind, text.to_owned()), "{}", String::from_utf8_lossy(body));
        }
        members(b" {\"rooms\":[]}\n", ["rooms"]).unwrap();
    }

    #[test]
    fn nothing_of_the_body_is_in_the_reason() {
        for body in [
            "\"s3cret\"",
            "s3cret",
            "{\"s3cret\"}",
            "{\"a\":\"s3cret\n\"}",
            "[{\"a\":s3cret}]",
            "{\"a\":\"\\ud800s3cret\"}",
        ] {
            let _ =
                members(body.as_bytes(), ["a"]).map_err(|error| assert!(!error.to_string().contains("s3c"), "{error}"));
            let _ =
                elements(body.as_bytes(), 1).map_err(|error| assert!(!error.to_string().contains("s3c"), "{error}"));
        }
    }
}
