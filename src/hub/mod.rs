//! Who is where: rooms, their members, and the outboxes that frames for them go into.
//!
//! Passive: every call returns at once. Knows no sockets, no HTTP and no broker.

mod flush;
mod index;
mod members;
mod outbox;

pub use flush::Flush;
pub use index::{Hub, WildcardDispatch};
pub use members::Seat;
pub use outbox::{Encoder, Frame, Full, Outbox, Publication, Wire};

#[cfg(test)]
mod tests;
