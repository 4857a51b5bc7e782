//! INI files, as Python's `configparser` reads them.

use std::collections::BTreeMap;

/// What a section says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    /// Values by their keys, which are in lower case; `None` where there is no such section.
    pub(super) values: Option<BTreeMap<String, String>>,
    /// Numbers of the file's lines, counted from 1, that are none.
    pub(super) wrong: Vec<usize>,
}

/// Reads section `name`; what `[DEFAULT]` says counts in every section.
///
/// A value goes on in lines that are indented deeper than its key. Lines that begin with `#` or `;` say nothing. `%` is left as it
/// is: see [`unescape`].
pub(super) fn section(text: &str, name: &str) -> Section {
    let mut wrong = Vec::new();
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
        let Some(values) = current.and_then(|current| sections.get_mut(current)) else {
            wrong.push(number);
            continue;
        };
        if let Some((key, _)) = goes_on {
            let value = values.entry(key.clone()).or_default();
            value.push('\n');
            value.push_str(content);
            continue;
        }
        let entry =
            content.split_once(['=', ':']).map(|(key, value)| (key.trim_end().to_lowercase(), value.trim_start()));
        let Some((key, value)) = entry.filter(|(key, _)| !key.is_empty()) else {
            wrong.push(number);
            continue;
        };
        values.insert(key.clone(), value.to_owned());
        open = Some((key, indent));
    }
    let defaults = sections.remove("DEFAULT").unwrap_or_default();
    let values = sections.remove(name).map(|own| defaults.into_iter().chain(own).collect());
    Section { values, wrong }
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
        assert_eq!(section(text, "channelstream"), Section { values: Some(expected), wrong: Vec::new() });
    }

    #[test]
    fn lines_that_are_none_are_told_by_their_numbers_and_the_others_count() {
        let wrong = |text| section(text, "x").wrong;
        assert_eq!(wrong("a = 1"), [1]);
        assert_eq!(wrong("[x]\n\nnonsense"), [3]);
        let both = section("nonsense\n[x]\n = 1\na = 1\nb", "x");
        assert_eq!(both.wrong, [1, 3, 5]);
        assert_eq!(both.values, Some([("a".to_owned(), "1".to_owned())].into()));
        assert_eq!(section("[y]\na = 1", "x"), Section::default());
        assert_eq!(section("", "x"), Section::default());
        assert_eq!(section("[x]", "x").values, Some(BTreeMap::new()));
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
