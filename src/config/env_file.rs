//! Files with variables: lines `NAME=value`, as systemd and Python's dotenv read them, with nothing expanded.

/// The variables of `text` in order.
///
/// Empty lines and those that begin with `#` or `;` say nothing; `export ` in front of a name is let pass. A value may
/// stand in single or double quotes, which are taken off; one without quotes ends before ` #`.
///
/// # Errors
/// The number of the first line, counted from 1, that is none of this.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, usize> {
    let mut variables = Vec::new();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or(number)?;
        let name = name.trim();
        if name.is_empty() || name.contains(|c: char| c.is_whitespace()) {
            return Err(number);
        }
        variables.push((name.to_owned(), read(value.trim())));
    }
    Ok(variables)
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
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn a_line_that_is_none_is_told_by_its_number() {
        assert_eq!(parse("A=1\nnonsense"), Err(2));
        assert_eq!(parse("=1"), Err(1));
        assert_eq!(parse("A B=1"), Err(1));
    }
}
