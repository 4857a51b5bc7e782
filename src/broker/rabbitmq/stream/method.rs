//! Methods that quote a publisher, or say something of the broker.

use super::{ServerProperties, content::Width};

/// Ids of class and method, as a method's payload begins with them.
pub(super) type Method = (u16, u16);

pub(super) const CONNECTION_START: Method = (10, 10);
pub(super) const CONNECTION_TUNE: Method = (10, 30);
const CONNECTION_CLOSE: Method = (10, 50);
const CONNECTION_BLOCKED: Method = (10, 60);
const CHANNEL_CLOSE: Method = (20, 40);
const BASIC_RETURN: Method = (60, 50);
const BASIC_DELIVER: Method = (60, 60);
const BASIC_GET_OK: Method = (60, 71);

/// An argument of a method.
#[derive(Debug, Clone, Copy)]
enum Argument {
    /// So many bytes.
    Bytes(usize),
    ShortString,
}

/// The arguments of a method up to the last one that can quote a publisher; `None` for a method that quotes nobody.
fn arguments(method: Method) -> Option<&'static [Argument]> {
    use Argument::{Bytes, ShortString};
    Some(match method {
        // Consumer tag, delivery tag and whether it is redelivered, exchange, routing key.
        BASIC_DELIVER => &[ShortString, Bytes(9), ShortString, ShortString],
        // Code, text, exchange, routing key.
        BASIC_RETURN => &[Bytes(2), ShortString, ShortString, ShortString],
        // Delivery tag and whether it is redelivered, exchange, routing key.
        BASIC_GET_OK => &[Bytes(9), ShortString, ShortString],
        // Code and text. RabbitMQ quotes names and arguments in it, and cuts it after 255 bytes, within a character too.
        CONNECTION_CLOSE | CHANNEL_CLOSE => &[Bytes(2), ShortString],
        CONNECTION_BLOCKED => &[ShortString],
        _ => return None,
    })
}

/// Whether `method` can quote a publisher.
pub(super) fn has_foreign_strings(method: Method) -> bool {
    arguments(method).is_some()
}

/// Makes the strings that `method` quotes UTF-8, in the bytes of its arguments. Their lengths stay as they are.
pub(super) fn repair(method: Method, bytes: &mut [u8]) {
    // What ends early is no method; lapin says so.
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

/// Replaces each byte that is not UTF-8 by a question mark.
fn repair_string(mut bytes: &mut [u8]) {
    while let Err(error) = str::from_utf8(bytes) {
        let (_, rest) = bytes.split_at_mut(error.valid_up_to());
        let (invalid, rest) = rest.split_at_mut(error.error_len().unwrap_or(rest.len()));
        invalid.fill(b'?');
        bytes = rest;
    }
}

/// Returns what the broker says of itself in the arguments of `connection.start`.
pub(super) fn server_properties(start: &[u8]) -> ServerProperties {
    // After the two bytes of the version.
    let name = start.get(2..).and_then(|table| find_string(table, b"cluster_name"));
    ServerProperties { cluster_name: name.map(|name| String::from_utf8_lossy(name).into_owned()) }
}

/// Returns the string called `name` in the table that `bytes` begin with.
fn find_string<'a>(mut bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut table = split_counted(&mut bytes)?;
    loop {
        let length = *table.split_off_first()?;
        let entry = table.split_off(..length.into())?;
        let kind = *table.split_off_first()?;
        let value = match Width::of(kind)? {
            Width::Bytes(length) => table.split_off(..length)?,
            Width::Counted => split_counted(&mut table)?,
        };
        if entry == name && kind == b'S' {
            return Some(value);
        }
    }
}

fn split_counted<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = bytes.split_off(..4)?.try_into().ok()?;
    bytes.split_off(..usize::try_from(u32::from_be_bytes(length)).ok()?)
}

/// Returns the largest frame that the broker wants, from the arguments of `connection.tune`; `None` for any.
pub(super) fn frame_max(tune: &[u8]) -> Option<u32> {
    // After the largest number of a channel.
    let bytes = tune.get(2..6)?.try_into().ok()?;
    Some(u32::from_be_bytes(bytes)).filter(|frame_max| *frame_max != 0)
}
