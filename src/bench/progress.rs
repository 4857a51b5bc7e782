//! How far a run is, on standard error: one line that is written over on a terminal, else a line now and then.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use crate::logging::Writer;

/// How often the line on a terminal is written over.
const ON_TERMINAL: Duration = Duration::from_millis(500);
/// How often there is a line elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(5);

/// The line. It is wiped when this is dropped.
pub(super) struct Progress {
    /// A terminal that is held up must not hold up the measurement. `None` if there is no thread for it.
    writer: Option<Writer>,
    is_terminal: bool,
    last: Instant,
    width: usize,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            writer: Writer::start(io::stderr(), |_| {}).ok(),
            is_terminal: io::stderr().is_terminal(),
            last: Instant::now(),
            width: 0,
        }
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
        self.write(match self.is_terminal {
            true => format!("\r{line:<before$}", before = self.width),
            false => format!("{line}\n"),
        });
        self.width = width;
    }

    fn write(&mut self, text: String) {
        // With nowhere to say it, it is not said.
        let _ = self.writer.as_mut().map(|writer| writer.write_all(text.as_bytes()));
    }

    /// Wipes the line.
    pub(super) fn clear(&mut self) {
        if self.is_terminal && self.width > 0 {
            self.write(format!("\r{:width$}\r", "", width = self.width));
            self.width = 0;
        }
        // What comes next goes to standard output.
        self.writer.iter().for_each(Writer::flush);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
