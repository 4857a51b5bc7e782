//! The shapes on the wire: what clients send and get, what a trigger looks like, why connections are closed.
//!
//! No I/O, no state. What a client may be told is listed here and nowhere else.

pub mod address;
pub mod channelstream;
pub mod client;
mod close;
pub mod control;
mod fields;
pub mod header_lines;
pub mod params;
mod position;
mod request_id;
pub mod server;
pub mod trigger;
mod unreadable;
mod version;

pub use close::CloseCode;
pub(crate) use fields::fields;
pub use position::{Epoch, NoPosition, Position};
pub use request_id::RequestId;
pub use unreadable::{Unreadable, elements};
pub use version::{Dialect, Version};
