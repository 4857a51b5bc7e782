//! How far a run is, on standard error: one line that is written over on a terminal, else a line now and then.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// How often the line on a terminal is written over.
const ON_TERMINAL: Duration = Duration::from_millis(500);
/// How often there is a line elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(5);

/// The line. It is wiped when this is dropped.
pub(super) struct Progress {
    is_terminal: bool,
    last: Instant,
    width: usize,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), last: Instant::now(), width: 0 }
    }

    /// Shows what `line` says, if it is time to.
    pub(super) fn show(&mut self, line: impl FnOnce() -> String) {
        let interval = if self.is_terminal { ON_TERMINAL } else { ELSEWHERE };
        if self.last.elapsed() < interval {
            return;
        }
        self.last = Instant::now();
        let line = line();
        let width = line.chars().count();
        // With nowhere to say it, it is not said.
        let _ = match self.is_terminal {
            true => write!(io::stderr(), "\r{line:<before$}", before = self.width),
            false => writeln!(io::stderr(), "{line}"),
        };
        self.width = width;
    }

    /// Wipes the line.
    pub(super) fn clear(&mut self) {
        if self.is_terminal && self.width > 0 {
            let _ = write!(io::stderr(), "\r{:width$}\r", "", width = self.width);
            self.width = 0;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
