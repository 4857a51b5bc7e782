//! Channelstream's shapes: what its signed calls say, and what is wrong with those that say it badly.
//!
//! A request is parsed once, where it arrives; from there on it is one of these types, which is also how it stands in the log.

mod output;
mod parse;
mod readers;
mod scalar;
mod signature;
mod timestamp;
mod validation;

pub mod requests;

pub use output::{CAUGHT_UP, LIVE, LIVE_CHANGE};
pub use parse::parse_disconnect;
pub use scalar::Scalar;
pub use signature::Signer;
pub use timestamp::Timestamp;
pub use validation::{Bad, Invalid};
