//! Why a connection is closed.

/// A WebSocket close code (RFC 6455 section 7.4) with the meaning it has here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// 1000: refused or idle, as 3.1 tells it.
    Normal,
    /// 1001: the server is going away; come back.
    GoingAway,
    /// 1002: the client broke the WebSocket protocol.
    ProtocolError,
    /// 1007: a text message was not UTF-8.
    InvalidText,
    /// 1008: the client sent more messages than it may.
    TooMany,
    /// 1009: a message larger than `MESSAGE_LIMIT`.
    TooBig,
    /// 1012: triggers may have been missed; come back and fetch again.
    Gap,
    /// 1013: the client cannot be served now; come back later.
    TryLater,
    /// 3500: not authorised at the handshake, as version 4 tells it.
    NotAuthorized,
    /// 3501: the application has ended the connection.
    Disconnected,
    /// 3502: a check has found that the client may not do any more what it did; come back, with what it holds now.
    PermissionsChanged,
    /// 3503: silent for `IDLE_TIMEOUT`, as version 4 tells it.
    Idle,
    /// 3008: more than `OUTBOX_LIMIT` was waiting for the client, or it took nothing for too long.
    TooSlow,
    /// The client's own code, sent back to it.
    Echo(u16),
    /// 1005: the client gave no code, and is sent none back; never on the wire (RFC 6455 section 7.4.1).
    NoStatus,
}

impl CloseCode {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::ProtocolError => 1002,
            Self::InvalidText => 1007,
            Self::TooMany => 1008,
            Self::TooBig => 1009,
            Self::Gap => 1012,
            Self::TryLater => 1013,
            Self::TooSlow => 3008,
            Self::NotAuthorized => 3500,
            Self::Disconnected => 3501,
            Self::PermissionsChanged => 3502,
            Self::Idle => 3503,
            Self::Echo(code) => code,
            Self::NoStatus => 1005,
        }
    }

    /// Returns whether the client is not to reconnect: nothing but another session or another program would change the outcome.
    pub fn is_final(self) -> bool {
        matches!(self, Self::NotAuthorized | Self::Disconnected)
    }

    /// The word a closed connection is counted under.
    pub fn word(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::GoingAway => "going-away",
            Self::ProtocolError => "protocol-error",
            Self::InvalidText => "invalid-text",
            Self::TooMany => "too-many",
            Self::TooBig => "too-big",
            Self::Gap => "gap",
            Self::TooSlow => "too-slow",
            Self::TryLater => "try-later",
            Self::NotAuthorized => "not-authorized",
            Self::Disconnected => "disconnected",
            Self::PermissionsChanged => "permissions-changed",
            Self::Idle => "idle",
            Self::Echo(_) | Self::NoStatus => "client",
        }
    }
}
