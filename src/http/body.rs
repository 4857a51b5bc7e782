//! Reading a request's body, no further than is wanted.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tokio::time::timeout;

/// How long a caller may take to send its body.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// How much beyond the limit is read and thrown away.
const DISCARDED_BYTES: usize = 8 << 20;

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// There is more of it than the limit.
    TooLarge,
    /// It did not come whole, or not within [`DEADLINE`].
    Incomplete,
    /// There is no memory for it at present.
    Busy,
}

/// The whole body, as long as it has no more than `limit_bytes`, and `has_room` says so of its length so far. Somewhat more
/// is read all the same: a caller that is still sending would not see the answer.
pub(super) async fn read(
    body: impl Stream<Item = Result<impl Buf, warp::Error>>,
    limit_bytes: usize,
    mut has_room: impl FnMut(usize) -> bool,
) -> Result<Bytes, Unread> {
    let reading = async {
        let mut body = std::pin::pin!(body);
        let (mut whole, mut length) = (BytesMut::new(), 0_usize);
        while let Some(piece) = body.next().await {
            let mut piece = piece.map_err(|_| Unread::Incomplete)?;
            length = length.saturating_add(piece.remaining());
            if length <= limit_bytes {
                if !has_room(length) {
                    return Err(Unread::Busy);
                }
                whole.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
            } else if length - limit_bytes > DISCARDED_BYTES {
                break;
            }
        }
        if length > limit_bytes {
            return Err(Unread::TooLarge);
        }
        // A body is kept for clients that come back: without the room in which it grew, which is as much again at worst.
        Ok(Vec::from(whole).into_boxed_slice().into())
    };
    timeout(DEADLINE, reading).await.unwrap_or(Err(Unread::Incomplete))
}
