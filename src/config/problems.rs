//! What is wrong with the configuration, all of it at once.

use std::fmt;

/// Everything that is wrong, by the name of the variable.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error(pub(super) Vec<String>);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(super) struct Problems {
    pub(super) all: Vec<String>,
    /// Some variables could not be read: what seems to be missing may be among them.
    pub(super) is_partial: bool,
}

impl Problems {
    pub(super) fn add(&mut self, variable: &str, what: &str) {
        self.all.push(format!("{variable} {what}"));
    }

    /// Adds that `variable` is missing.
    pub(super) fn add_missing(&mut self, variable: &str, what: &str) {
        if !self.is_partial {
            self.add(variable, what);
        }
    }

    pub(super) fn ok<T>(&mut self, variable: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|what| self.add(variable, &what)).ok()
    }
}

/// Names lines of a file by their numbers; not all, if there are many.
pub(super) fn numbers(lines: &[usize]) -> String {
    const MOST: usize = 10;
    let listed: Vec<_> = lines.iter().take(MOST).map(usize::to_string).collect();
    let more = if lines.len() > MOST { " and others" } else { "" };
    format!("{} {}{more}", if lines.len() == 1 { "line" } else { "lines" }, listed.join(", "))
}
