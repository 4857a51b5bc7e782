//! Who is where: rooms, their members, the outboxes that frames for them go into, and what was published lately.
//!
//! Passive: every call returns at once. Knows no sockets, no HTTP and no broker.

mod fanout;
mod history;
mod index;
mod masks;
mod members;
mod outbox;
mod publication;
mod recovery;
mod shape;
mod wildcards;

pub use fanout::{Audience, Pace, Portion, Tally};
pub use index::{Hub, Search};
pub use members::Seat;
pub use outbox::{Content, Encoder, Frame, Full, Mark, Outbox, Sealed, Wire};
pub use publication::Publication;
pub use recovery::{Budget, Recovery, Resumption, Step};
pub use wildcards::WildcardDispatch;

#[cfg(test)]
pub(crate) use outbox::Published;

#[cfg(test)]
mod tests;
