//! Places in the log of triggers.

use std::{fmt, str::FromStr};

use rand::Rng;

/// One life of the log: its name says which offsets belong together.
///
/// On the wire 12 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

/// Digits of an epoch.
const DIGITS: usize = 12;

impl Epoch {
    /// One that nobody has had before.
    pub fn random() -> Self {
        Self::from_low_bits(rand::rng().random())
    }

    /// The one that these bits stand for, as far as there is room for them.
    pub fn from_low_bits(bits: u64) -> Self {
        Self(bits & ((1 << (4 * DIGITS)) - 1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0DIGITS$x}", self.0)
    }
}

impl FromStr for Epoch {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let epoch = u64::from_str_radix(text, 16).map(Self).map_err(|_| NoPosition)?;
        if epoch.to_string() == text { Ok(epoch) } else { Err(NoPosition) }
    }
}

/// A place in the log, the same on every instance: `EPOCH:OFFSET`. Clients compare it for equality only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The life of the log that the offset belongs to.
    pub epoch: Epoch,
    /// Counts up within that life, not always by one.
    pub offset: u64,
}

impl Position {
    /// The length of the longest text of a position, in bytes.
    pub const LONGEST_TEXT: usize = DIGITS + 1 + u64::MAX.ilog10() as usize + 1;
}

/// The text is not one that was ever given out as a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no position")]
pub struct NoPosition;

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let (epoch, digits) = text.split_once(':').ok_or(NoPosition)?;
        if text.len() > Self::LONGEST_TEXT {
            return Err(NoPosition);
        }
        let offset: u64 = digits.parse().map_err(|_| NoPosition)?;
        let position = Self { epoch: epoch.parse()?, offset };
        if position.to_string() == text { Ok(position) } else { Err(NoPosition) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_was_given_out_is_taken_back() {
        assert_eq!("00000000002a:18".parse(), Ok(Position { epoch: Epoch(42), offset: 18 }));
        for wrong in [
            "",
            ":",
            "2a:18",
            "00000000002a:",
            "00000000002a:018",
            "00000000002A:18",
            "00000000002a:+1",
            "e:17",
            "0:0:0",
        ] {
            assert_eq!(wrong.parse::<Position>(), Err(NoPosition), "{wrong}");
        }
        assert_eq!("+0000000002a".parse::<Epoch>(), Err(NoPosition));
    }

    proptest! {
        #[test]
        fn a_position_is_read_as_it_was_written(epoch in 0_u64..1 << 48, offset: u64) {
            let position = Position { epoch: Epoch(epoch), offset };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
            prop_assert!(position.to_string().len() <= Position::LONGEST_TEXT);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = text.parse::<Position>();
        }
    }
}
