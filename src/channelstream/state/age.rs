//! How long ago something was.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

/// The time since it was made, by this instance's own clock; milliseconds in a snapshot.
#[derive(Debug, Clone, Copy)]
pub(in crate::channelstream) struct Age(Instant);

impl Age {
    /// Whether that is longer than `within`.
    pub(super) fn is_over(self, within: Duration) -> bool {
        self.0.elapsed() > within
    }
}

impl Default for Age {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Serialize for Age {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let age = Duration::from_millis(u64::deserialize(deserializer)?);
        // A machine may not have run for so long.
        Ok(Self(Instant::now().checked_sub(age).unwrap_or_else(Instant::now)))
    }
}
