//! JSON objects as text, with what callers wrote left as they wrote it: no number is rounded on its way through.

use serde::Serialize;

/// An object that is being written.
#[derive(Debug)]
pub(super) struct Object(String);

impl Object {
    pub(super) fn new() -> Self {
        Self("{".to_owned())
    }

    /// With one more member.
    pub(super) fn with(mut self, key: &str, value: &(impl Serialize + ?Sized)) -> Self {
        // Neither texts nor numbers nor lists of them can fail to be written.
        let (key, value) = (serde_json::to_string(key), serde_json::to_string(value));
        if let (Ok(key), Ok(value)) = (key, value) {
            if self.0.len() > 1 {
                self.0.push(',');
            }
            self.0.extend([&key, ":", &value]);
        }
        self
    }

    /// What there is of it, so that members can be added as text.
    pub(super) fn open(self) -> String {
        self.0
    }

    /// The whole.
    pub(super) fn close(mut self) -> String {
        self.0.push('}');
        self.0
    }
}
