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
