//! What a room is: its canonical form, its wildcards, and which rooms a client may join.
//!
//! Pure: no I/O, no clock, nothing of the wire beyond JSON text.

mod allowed;
mod json;
mod key;
mod nearest;
mod number;
mod pattern;
mod pool;

pub use allowed::{Allowed, Interner};
pub use key::{Error, Limits, Numbers, RoomKey, Rules};
pub use pattern::Mask;

pub(crate) use json::canonical_scalar;
pub(crate) use key::{WILDCARD, with_scratch};
