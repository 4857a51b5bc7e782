//! high-templar: realtime WebSockets beside an existing stateless HTTP API.
//!
//! The program is in [`cli`]; [`server::Server`] is the same thing as a library, for tests and for embedding.

pub mod backend;
mod bench;
pub mod broker;
pub mod channelstream;
pub mod cli;
pub mod config;
pub mod connection;
pub mod dispatch;
pub mod http;
pub mod hub;
pub mod instances;
pub mod logging;
pub mod metrics;
pub mod protocol;
pub mod room;
pub mod server;
pub mod transport;
