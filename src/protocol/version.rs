//! Which protocol a client speaks.

/// The protocols there are. A client chooses by the WebSocket subprotocol it offers (RFC 6455 section 1.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// That of high-templar 3.1, frame for frame: for who offers nothing that is known.
    V3,
    /// `high-templar.v4`: with positions, recovery and replies that name their request.
    V4,
}

impl Version {
    /// The subprotocol that stands for [`V4`](Self::V4).
    pub const SUBPROTOCOL: &str = "high-templar.v4";
}

/// In which form a client is sent what is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// As an answer to a subscription.
    Session(Version),
    /// Channelstream's: in a list, and by itself.
    Channelstream,
}

impl From<Version> for Dialect {
    fn from(version: Version) -> Self {
        Self::Session(version)
    }
}
