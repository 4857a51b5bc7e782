//! INI files, as Python's `configparser` reads them.

use std::collections::BTreeMap;

/// Why there is nothing to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Error {
    /// The line of this number, counted from 1, is none.
    Line(usize),
    /// There is no such section.
    NoSection,
}

/// The values of section `name` by their keys, which are in lower case; what `[DEFAULT]` says counts in every section.
///
/// A value goes on in lines that are indented deeper than its key. Lines that begin with `#` or `;` say nothing. `%` is left as it
/// is: see [`unescape`].
pub(super) fn section(text: &str, name: &str) -> Result<BTreeMap<String, String>, Error> {
    let mut sections: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    let mut current = None;
    let mut open: Option<(String, usize)> = None;
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let header = content.strip_prefix('[').and_then(|rest| rest.rsplit_once(']'));
        let goes_on = open.as_ref().filter(|(_, least)| indent > *least);
        if let (Some((name, _)), None) = (header, goes_on) {
            sections.entry(name).or_default();
            (current, open) = (Some(name), None);
            continue;
        }
        let values = current.and_then(|current| sections.get_mut(current)).ok_or(Error::Line(number))?;
        if let Some((key, _)) = goes_on {
            let value = values.entry(key.clone()).or_default();
            value.push('\n');
            value.push_str(content);
            continue;
        }
        let (key, value) = content.split_once(['=', ':']).ok_or(Error::Line(number))?;
        let key = key.trim_end().to_lowercase();
        if key.is_empty() {
            return Err(Error::Line(number));
        }
        values.insert(key.clone(), value.trim_start().to_owned());
        open = Some((key, indent));
    }
    let mut values = sections.remove("DEFAULT").unwrap_or_default();
    values.extend(sections.remove(name).ok_or(Error::NoSection)?);
    Ok(values)
}

/// `value` with `%%` as `%`; `None` if there is a single `%`, which would stand for another value.
pub(super) fn unescape(value: &str) -> Option<String> {
    let plain = value.replace("%%", "");
    (!plain.contains('%')).then(|| value.replace("%%", "%"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_section_is_read_as_python_does() {
        let text = "\u{feff}# c\n[DEFAULT]\nport = 1\nhost: h\n[other]\nsecret = no\n[channelstream]\n; c\nSecret = a=b ; c \n\
            list = a,\n   # c\n\n\tb, \n  [x]\nempty =\nport=2\n  next: value\n[last]\nport=3";
        let expected =
            [("empty", ""), ("host", "h"), ("list", "a,\nb,\n[x]"), ("port", "2\nnext: value"), ("secret", "a=b ; c")];
        let expected: BTreeMap<_, _> = expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert_eq!(section(text, "channelstream"), Ok(expected));
    }

    #[test]
    fn what_is_no_such_file_is_told() {
        assert_eq!(section("a = 1", "x"), Err(Error::Line(1)));
        assert_eq!(section("[x]\n\nnonsense", "x"), Err(Error::Line(3)));
        assert_eq!(section("[x]\n = 1", "x"), Err(Error::Line(2)));
        assert_eq!(section("[y]\na = 1", "x"), Err(Error::NoSection));
        assert_eq!(section("", "x"), Err(Error::NoSection));
        assert_eq!(section("[x]", "x"), Ok(BTreeMap::new()));
    }

    #[test]
    fn a_percent_sign_is_written_twice() {
        assert_eq!(unescape("a%%b%%%%").as_deref(), Some("a%b%%"));
        for value in ["%", "50%", "%(port)s", "%%%"] {
            assert_eq!(unescape(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(\\[[x\\]]*|[ \t]{0,2}[a=:#%ą]{0,4}|\\PC{0,9}|\n|\r\n){0,20}") {
            let _ = section(&text, "x");
        }
    }
}
