//! Who is where: rooms, their members, and the outboxes that frames for them go into.
//!
//! Passive: every call returns at once. Knows no sockets, no HTTP and no broker.

mod fanout;
mod index;
mod members;
mod outbox;
mod shape;

pub use fanout::{Audience, Pace, Portion, Tally};
pub use index::{Hub, WildcardDispatch};
pub use members::Seat;
pub use outbox::{Content, Encoder, Frame, Full, Outbox, Publication, Wire};

#[cfg(test)]
pub(crate) use outbox::Published;

#[cfg(test)]
mod tests;
