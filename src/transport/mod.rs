//! The ways to a client. Each one turns its own form of talk into a [`Connection`](crate::connection::Connection) and an
//! outbox's frames into bytes.

pub mod inbound;
pub mod long_polling;
pub mod origin;
pub mod socket;
pub mod sse;
pub mod takeover;
pub mod websocket;
