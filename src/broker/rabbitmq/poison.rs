//! Entries of the log that end every connection that reads them. Pure.
//!
//! What RabbitMQ hands over is [repaired](super::stream) before lapin parses it, so that none is known. Should there be one all
//! the same, it must not stop an instance for good.

use std::io;

use lapin::{Error, ErrorKind};

/// What a reader of the broker's bytes says that cannot make sense of them: frame error, syntax error, unexpected frame (AMQP
/// 0-9-1, reply codes).
const UNREADABLE: [u16; 3] = [501, 502, 505];

/// Remembers where the connection ended because of what it carried.
#[derive(Debug, Default)]
pub(super) struct Poison {
    /// The last entry before.
    last: Option<Option<u64>>,
}

impl Poison {
    /// Whether the entry behind the `last` one that was read has ended the connection with this `error` for the second time.
    pub(super) fn is_in_the_way(&mut self, error: &Error, last: Option<u64>) -> bool {
        if !is_unreadable(error) {
            return false;
        }
        let is_again = self.last == Some(last);
        self.last = (!is_again).then_some(last);
        is_again
    }
}

/// Whether `error` is about what the broker sent, and not about the connection.
fn is_unreadable(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::ParsingError(_) => true,
        ErrorKind::ProtocolError(error) => UNREADABLE.contains(&error.get_id()),
        ErrorKind::IOError(error) => error.kind() == io::ErrorKind::InvalidData,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_in_the_way_when_it_ends_the_connection_twice() {
        let mut poison = Poison::default();
        let unreadable = || Error::from(io::Error::from(io::ErrorKind::InvalidData));
        let cut = || Error::from(io::Error::from(io::ErrorKind::ConnectionReset));
        assert!(!poison.is_in_the_way(&unreadable(), Some(7)));
        assert!(!poison.is_in_the_way(&cut(), Some(7)));
        assert!(!poison.is_in_the_way(&unreadable(), Some(8)), "it got further");
        assert!(poison.is_in_the_way(&unreadable(), Some(8)));
        assert!(!poison.is_in_the_way(&unreadable(), Some(8)), "it was passed over");
        assert!(!poison.is_in_the_way(&unreadable(), None));
        assert!(poison.is_in_the_way(&unreadable(), None));
    }
}
