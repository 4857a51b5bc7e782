//! A walk over JSON text that yields its canonical form: keys sorted at every level, the last of duplicate keys,
//! one spelling for every string and number, no white space.
//!
//! serde_json's own tree cannot serve here: it rounds numbers.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{Error, Limits, Numbers, Rules, number};

/// Levels of nesting accepted inside a room.
const MAX_DEPTH: usize = 64;

/// A key, decoded, and its canonical value.
pub(super) type Member<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The canonical form of a JSON scalar, numbers by value; `None` for objects, arrays and anything unreadable.
pub(crate) fn canonical_scalar(json: &str) -> Option<Cow<'_, str>> {
    let json = json.trim_ascii();
    if json.starts_with(['{', '[']) {
        return None;
    }
    Walk::new(json, Rules { numbers: Numbers::ByValue, limits: Limits::NONE }).value(0).ok()
}

/// A few members lie in place: most rooms have no more.
pub(super) type Members<'a> = SmallVec<[Member<'a>; 4]>;

/// The members of the JSON object `json`, sorted by key (decoded), values canonical.
pub(super) fn members(json: &str, rules: Rules) -> Result<Members<'_>, Error> {
    Walk::new(json, rules).room()
}

/// Calls `each` with the members of every object in the JSON array `json`.
pub(super) fn each_members<'a>(
    json: &'a str,
    rules: Rules,
    mut each: impl FnMut(Members<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut walk = Walk::new(json, rules);
    walk.skip_space();
    if walk.peek() != Some(b'[') {
        return Err(Error::NotAnObject);
    }
    walk.open(0)?;
    if walk.closes(b']') {
        return Ok(());
    }
    loop {
        each(walk.room()?)?;
        if !walk.goes_on(b']')? {
            return Ok(());
        }
    }
}

/// Appends `text` as a JSON string.
pub(super) fn write_string(text: &str, out: &mut String) {
    if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        out.push_str(&serde_json::Value::from(text).to_string());
    } else {
        out.push('"');
        out.push_str(text);
        out.push('"');
    }
}

struct Walk<'a> {
    text: &'a str,
    at: usize,
    rules: Rules,
}

impl<'a> Walk<'a> {
    fn new(text: &'a str, rules: Rules) -> Self {
        Self { text, at: 0, rules }
    }

    fn value(&mut self, depth: usize) -> Result<Cow<'a, str>, Error> {
        self.skip_space();
        let value = match self.peek() {
            Some(b'"') => self.string(),
            Some(b'{') => self.object(depth).map(|members| Cow::Owned(write_object(&members))),
            Some(b'[') => self.array(depth).map(Cow::Owned),
            Some(_) => self.number_or_word(),
            None => Err(Error::Malformed),
        }?;
        // At once: each level of nesting copies what it encloses.
        if value.len() > self.rules.limits.bytes {
            return Err(Error::TooLong(self.rules.limits.bytes));
        }
        Ok(value)
    }

    fn room(&mut self) -> Result<Members<'a>, Error> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(0),
            _ => Err(Error::NotAnObject),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Members<'a>, Error> {
        self.open(depth)?;
        let mut members = Members::new();
        if !self.closes(b'}') {
            loop {
                self.skip_space();
                let key = self.decoded()?;
                self.skip_space();
                self.expect(b':')?;
                members.push((key, self.value(depth + 1)?));
                if !self.goes_on(b'}')? {
                    break;
                }
            }
        }
        if !members.is_sorted_by(|(one, _), (other, _)| one < other) {
            members.sort_by(|(one, _), (other, _)| one.cmp(other)); // stable: duplicates keep their order
            members.reverse();
            members.dedup_by(|later, kept| later.0 == kept.0); // so the last one written is the one kept
            members.reverse();
        }
        Ok(members)
    }

    fn array(&mut self, depth: usize) -> Result<String, Error> {
        self.open(depth)?;
        let mut out = String::from("[");
        if !self.closes(b']') {
            loop {
                let value = self.value(depth + 1)?;
                if out.len() > 1 {
                    out.push(',');
                }
                out.push_str(&value);
                if !self.goes_on(b']')? {
                    break;
                }
            }
        }
        out.push(']');
        Ok(out)
    }

    /// A string's canonical text, quotes included.
    fn string(&mut self) -> Result<Cow<'a, str>, Error> {
        let raw = self.quoted()?;
        if !raw.contains('\\') {
            return Ok(Cow::Borrowed(raw));
        }
        let decoded: String = serde_json::from_str(raw).map_err(|_| Error::Text)?;
        let mut out = String::with_capacity(raw.len());
        write_string(&decoded, &mut out);
        Ok(Cow::Owned(out))
    }

    /// A string's meaning, without quotes.
    fn decoded(&mut self) -> Result<Cow<'a, str>, Error> {
        let raw = self.quoted()?;
        if raw.contains('\\') {
            return serde_json::from_str(raw).map(Cow::Owned).map_err(|_| Error::Text);
        }
        Ok(Cow::Borrowed(&raw[1..raw.len() - 1]))
    }

    fn quoted(&mut self) -> Result<&'a str, Error> {
        self.expect(b'"')?;
        let start = self.at - 1;
        let bytes = self.text.as_bytes();
        loop {
            let found = memchr::memchr2(b'"', b'\\', bytes.get(self.at..).ok_or(Error::Malformed)?);
            self.at += found.ok_or(Error::Malformed)? + 1;
            match bytes[self.at - 1] {
                b'"' => return self.text.get(start..self.at).ok_or(Error::Malformed),
                _ => self.at += 1, // whatever a backslash escapes, it does not end the string
            }
        }
    }

    fn number_or_word(&mut self) -> Result<Cow<'a, str>, Error> {
        let rest = &self.text[self.at..];
        let length = rest
            .bytes()
            .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')))
            .unwrap_or(rest.len());
        let word = &rest[..length];
        self.at += length;
        Ok(match (word, self.rules.numbers) {
            ("null" | "true" | "false", _) => Cow::Borrowed(word),
            _ if !word.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
                return Err(Error::Malformed);
            }
            _ if number::is_plain(word) => Cow::Borrowed(word),
            (_, Numbers::ByValue) => Cow::Owned(number::by_value(word)),
            (_, Numbers::ByType) => Cow::Owned(number::by_type(word)),
        })
    }

    fn open(&mut self, depth: usize) -> Result<(), Error> {
        if depth >= MAX_DEPTH {
            return Err(Error::TooDeep);
        }
        self.at += 1;
        Ok(())
    }

    fn closes(&mut self, end: u8) -> bool {
        self.skip_space();
        let closes = self.peek() == Some(end);
        if closes {
            self.at += 1;
        }
        closes
    }

    fn goes_on(&mut self, end: u8) -> Result<bool, Error> {
        if self.closes(end) {
            return Ok(false);
        }
        self.expect(b',').map(|()| true)
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Error> {
        if self.peek() != Some(wanted) {
            return Err(Error::Malformed);
        }
        self.at += 1;
        Ok(())
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

fn write_object(members: &[Member<'_>]) -> String {
    let mut out = String::from("{");
    for (key, value) in members {
        if out.len() > 1 {
            out.push(',');
        }
        write_string(key, &mut out);
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
    out
}
