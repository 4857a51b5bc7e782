//! Methods that can contain a publisher's strings, and methods that describe the broker.

/// Class id and method id.
pub(super) type Method = (u16, u16);

pub(super) const CONNECTION_TUNE: Method = (10, 30);
const CONNECTION_CLOSE: Method = (10, 50);
const CONNECTION_BLOCKED: Method = (10, 60);
const CHANNEL_CLOSE: Method = (20, 40);
const BASIC_RETURN: Method = (60, 50);
const BASIC_DELIVER: Method = (60, 60);
const BASIC_GET_OK: Method = (60, 71);

/// Argument of a method.
#[derive(Debug, Clone, Copy)]
enum Argument {
    /// Numbers and flags of this many bytes.
    Bytes(usize),
    ShortString,
}

/// Returns the arguments up to the last string that a publisher can choose; `None` if a publisher can choose none.
fn arguments(method: Method) -> Option<&'static [Argument]> {
    use Argument::{Bytes, ShortString};
    Some(match method {
        // Consumer tag, delivery tag and redelivered flag, exchange, routing key.
        BASIC_DELIVER => &[ShortString, Bytes(9), ShortString, ShortString],
        // Code, text, exchange, routing key.
        BASIC_RETURN => &[Bytes(2), ShortString, ShortString, ShortString],
        // Delivery tag and redelivered flag, exchange, routing key.
        BASIC_GET_OK => &[Bytes(9), ShortString, ShortString],
        // Code, text. RabbitMQ quotes names and arguments in the text, and truncates it to 255 bytes, even within a
        // character.
        CONNECTION_CLOSE | CHANNEL_CLOSE => &[Bytes(2), ShortString],
        CONNECTION_BLOCKED => &[ShortString],
        _ => return None,
    })
}

/// Returns whether a publisher can choose strings in `method`.
pub(super) fn has_publisher_strings(method: Method) -> bool {
    arguments(method).is_some()
}

/// Replaces each byte that is not UTF-8 by `?` in the strings among the arguments of `method`.
pub(super) fn repair(method: Method, bytes: &mut [u8]) {
    // lapin reports arguments that end early.
    let _ = repair_strings(arguments(method).unwrap_or_default(), bytes);
}

fn repair_strings(arguments: &[Argument], mut bytes: &mut [u8]) -> Option<()> {
    for argument in arguments {
        match *argument {
            Argument::Bytes(length) => {
                bytes.split_off_mut(..length)?;
            }
            Argument::ShortString => {
                let length = usize::from(*bytes.split_off_first_mut()?);
                repair_string(bytes.split_off_mut(..length)?);
            }
        }
    }
    Some(())
}

fn repair_string(mut bytes: &mut [u8]) {
    while let Err(error) = str::from_utf8(bytes) {
        let (_, rest) = bytes.split_at_mut(error.valid_up_to());
        let (invalid, rest) = rest.split_at_mut(error.error_len().unwrap_or(rest.len()));
        invalid.fill(b'?');
        bytes = rest;
    }
}

/// Returns the largest frame that the broker allows, from the arguments of `connection.tune`; `None` for no limit.
pub(super) fn frame_max(tune: &[u8]) -> Option<u32> {
    // `channel_max` precedes it.
    let bytes = tune.get(2..6)?.try_into().ok()?;
    Some(u32::from_be_bytes(bytes)).filter(|frame_max| *frame_max != 0)
}
