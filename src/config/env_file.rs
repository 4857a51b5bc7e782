//! Files with variables: lines `NAME=value`, as systemd and Python's dotenv read them, with nothing expanded.

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    /// Names and values, in order.
    pub(super) variables: Vec<(String, String)>,
    /// Numbers of the lines, counted from 1, that are none.
    pub(super) wrong: Vec<usize>,
}

/// Reads `text`.
///
/// Empty lines and those that begin with `#` or `;` say nothing; `export ` in front of a name is let pass. A value may
/// stand in single or double quotes, which are taken off; one without quotes ends before ` #`.
pub(super) fn parse(text: &str) -> Lines {
    let mut lines = Lines::default();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let variable = line.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        match variable {
            Some((name, value)) if !name.is_empty() && !name.contains(char::is_whitespace) => {
                lines.variables.push((name.to_owned(), read(value)));
            }
            _ => lines.wrong.push(number),
        }
    }
    lines
}

fn read(value: &str) -> String {
    for quote in ['\'', '"'] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote)) {
            return match quote {
                '"' => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
                _ => inner.to_owned(),
            };
        }
    }
    let end = value.find(" #").unwrap_or(value.len());
    value[..end].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_as_they_stand() {
        let text = "# comment\n\n A=1 \nexport B='a b'\nC=\"say \\\"x\\\"\"\nD=p$a${b}ss w#rd # note\nE={\"X\":\"{param:x}\"}\nF=\nG=a=b";
        let expected = [
            ("A", "1"),
            ("B", "a b"),
            ("C", "say \"x\""),
            ("D", "p$a${b}ss w#rd"),
            ("E", "{\"X\":\"{param:x}\"}"),
            ("F", ""),
            ("G", "a=b"),
        ];
        let expected: Vec<_> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(parse(text), Lines { variables: expected, wrong: Vec::new() });
    }

    #[test]
    fn lines_that_are_none_are_told_by_their_numbers_and_the_others_count() {
        let lines = parse("A=1\nnonsense\n=1\nB C=1\nD=2");
        assert_eq!(lines.wrong, [2, 3, 4]);
        assert_eq!(lines.variables, [("A".to_owned(), "1".to_owned()), ("D".to_owned(), "2".to_owned())]);
    }
}
