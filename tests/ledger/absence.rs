//! For how long something has been away.

use std::time::Duration;

use tokio::time::Instant;

/// What a client reads may be so old.
const JUST_NOW: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub struct Absence {
    since: Option<Instant>,
    /// The last one: how long it was, and when it ended.
    last: Option<(Duration, Instant)>,
}

impl Absence {
    /// It is away, if it was not before.
    pub fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// It is there, if it was not before.
    pub fn end(&mut self) {
        if let Some(since) = self.since.take() {
            self.last = Some((since.elapsed(), Instant::now()));
        }
    }

    pub fn is_over(&self) -> bool {
        self.since.is_none()
    }

    /// How long it is, or was where it has ended just now.
    pub fn length(&self) -> Duration {
        let last = self.last.filter(|(_, end)| end.elapsed() < JUST_NOW).map(|(length, _)| length);
        self.since.map(|since| since.elapsed()).max(last).unwrap_or_default()
    }
}
