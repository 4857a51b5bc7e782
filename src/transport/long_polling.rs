//! Long polling: one request after the other, each answered with what has come since the one before.
//!
//! A poll is an outbox whose wire keeps what is written, and is read once, by the answer.

use std::{
    io::{self, IoSlice},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    backend::Identity,
    channelstream::{Attached, By, Channelstream, Listening},
    connection::{Connections, Place},
    hub::{Content, Encoder, Outbox, Wire},
    protocol::Version,
};

/// How long a poll waits for something to come.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long for more, once something has.
const MORE: Duration = Duration::from_millis(250);
/// How long in all after that, however much comes.
const LONGEST: Duration = Duration::from_secs(2);
/// Bytes after which the answer does not wait for more.
const ENOUGH_BYTES: usize = 64 << 10;
/// How long a client waits before it asks again whose connection cannot be looked up at present.
const UNAVAILABLE: Duration = Duration::from_secs(1);

/// Polls for `connection`: the frames that have come, as a JSON list. Waits up to 7 seconds. `None` when there is no such
/// connection. Whoever drops this has not got them, and gets them by the next poll.
pub async fn poll(
    connection: Uuid,
    place: Place,
    channelstream: &Arc<Channelstream>,
    connections: &Arc<Connections>,
    stop: &CancellationToken,
) -> Option<String> {
    let answer =
        Answer { text: Mutex::default(), written: Notify::new(), limit_bytes: connections.config.outbox_limit_bytes };
    let (outbox, link) = connections.register(answer, Version::V3, Identity::nobody(), place);
    let since = channelstream.sequence();
    let listening = match channelstream.attach(connection, By::Poll, link.outbox().clone(), since).await {
        Ok(Attached::Listening(listening)) => listening,
        Ok(Attached::Unknown) => return None,
        Ok(Attached::Occupied) => {
            stop.run_until_cancelled(sleep(PATIENCE)).await;
            return Some("[]".to_owned());
        }
        Err(_) => {
            // A client that is told of an error would not come again.
            stop.run_until_cancelled(sleep(UNAVAILABLE)).await;
            return Some("[]".to_owned());
        }
    };
    let is_its_turn = tokio::select! {
        biased;
        () = listening.ended() => false, // another one is answered, or the connection is gone
        () = stop.cancelled() => true,
        () = collect(&outbox) => true,
    };
    // What did not fit is there for the next poll, together with what did.
    let has_overflowed = link.outbox().is_closing() && !stop.is_cancelled();
    if !is_its_turn || has_overflowed || !leave(listening, stop).await {
        return Some("[]".to_owned());
    }
    Some(outbox.wire().take())
}

/// Waits until enough has come.
async fn collect(outbox: &Outbox<Answer>) {
    let answer = outbox.wire();
    let first = timeout_at(Instant::now() + PATIENCE, answer.written.notified()).await;
    let end = Instant::now() + LONGEST;
    let mut more = first.is_ok();
    while more && answer.text.lock().len() < ENOUGH_BYTES {
        more = timeout_at(end.min(Instant::now() + MORE), answer.written.notified()).await.is_ok();
    }
}

/// Does not listen any more, but for what comes until that is known everywhere. Whether what has come is for this poll.
async fn leave(listening: Listening, stop: &CancellationToken) -> bool {
    if stop.is_cancelled() {
        listening.give_up();
        return true;
    }
    // If that fails, what is answered now comes again: better twice than never.
    listening.detach().await.unwrap_or(true)
}

/// The wire of a poll: what is to be answered, each frame with a comma behind it.
#[derive(Debug)]
struct Answer {
    text: Mutex<Vec<u8>>,
    written: Notify,
    limit_bytes: usize,
}

impl Answer {
    /// The list of what has come.
    fn take(&self) -> String {
        let mut text = std::mem::take(&mut *self.text.lock());
        text.pop();
        // Frames are text, every one of them.
        format!("[{}]", String::from_utf8_lossy(&text))
    }
}

impl Wire for Answer {
    fn encoded_len(&self, content: Content<'_>) -> usize {
        frames(content).map_or(0, |frames| frames.len() + 1)
    }

    fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>) {
        if let Some(frames) = frames(content) {
            out.put(frames);
            out.put(b",");
        }
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut text = self.text.lock();
        if text.len() >= self.limit_bytes {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        slices.iter().for_each(|slice| text.extend_from_slice(slice));
        self.written.notify_one();
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }
}

/// The frames of a message, without what makes a list of them.
fn frames(content: Content<'_>) -> Option<&[u8]> {
    match content {
        Content::Text(list) => list.strip_prefix(b"[")?.strip_suffix(b"]"),
        Content::Publication(publication, _) => Some(&publication.data),
        Content::Ping | Content::Pong(_) | Content::Close(..) => None,
    }
}
