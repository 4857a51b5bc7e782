//! Long polling: one request after the other, each answered with what has come since the one before.
//!
//! A poll is an outbox whose wire keeps what is written, and is read once, by the answer.

use std::{
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    backend::Identity,
    channelstream::{Attached, By, Channelstream},
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

/// Polls for `connection`: the frames that have come, as a JSON list. Waits up to 7 seconds, and for the log. `None` when
/// there is no such connection. Whoever drops this before it is ready has not got them, and gets them by the next poll.
pub async fn poll(
    connection: Uuid,
    place: Place,
    channelstream: &Arc<Channelstream>,
    connections: &Arc<Connections>,
    stop: &CancellationToken,
) -> Option<String> {
    let begun = Instant::now();
    let answer = Answer::new(connections.config.outbox_limit_bytes);
    let address = place.address();
    let (outbox, link) = connections.register(answer, Version::V3, Identity::nobody(), place);
    let since = channelstream.sequence();
    let nothing = async |until: Instant| {
        stop.run_until_cancelled(sleep_until(until)).await;
        Some("[]".to_owned())
    };
    let listening = match channelstream.attach(connection, By::Poll, link.outbox().clone(), since, address).await {
        Ok(Attached::Listening(listening)) => listening,
        Ok(Attached::Unknown) => return None,
        Ok(Attached::Occupied) => return nothing(begun + PATIENCE).await,
        // A client that is told of an error would not come again.
        Err(_) => return nothing(Instant::now() + UNAVAILABLE).await,
    };
    tokio::select! {
        biased;
        () = listening.ended() => {
            // Whoever has taken over is answered; were this one at once, the two would chase each other.
            let until = if listening.is_for_somebody() { begun + PATIENCE } else { begun };
            return nothing(until).await;
        }
        // What has come is there for the next poll, at another instance.
        () = stop.cancelled() => return nothing(begun).await,
        () = collect(&outbox) => {}
    }
    // From here on everything that comes is for this poll, however much it is until that is known everywhere.
    outbox.wire().is_last.store(true, Ordering::Relaxed);
    link.outbox().resume();
    if link.outbox().is_closing() {
        return nothing(begun).await; // too much came at once; all of it is there for the next poll
    }
    let is_for_this_one = listening.detach().await.unwrap_or(true); // better twice than never
    link.outbox().flush(); // what was put there lately, and is to be written by somebody who has not come to it yet
    Some(if is_for_this_one { outbox.wire().take() } else { "[]".to_owned() })
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

/// The wire of a poll: what is to be answered, each frame with a comma behind it.
#[derive(Debug)]
struct Answer {
    text: Mutex<Vec<u8>>,
    written: Notify,
    limit_bytes: usize,
    /// The answer is about to be given: everything has to fit.
    is_last: AtomicBool,
}

impl Answer {
    fn new(limit_bytes: usize) -> Self {
        Self { text: Mutex::default(), written: Notify::new(), limit_bytes, is_last: AtomicBool::new(false) }
    }

    /// The list of what has come.
    fn take(&self) -> String {
        let mut text = std::mem::take(&mut *self.text.lock());
        text.pop();
        // Frames are text, every one of them.
        format!("[{}]", String::from_utf8_lossy(&text))
    }
}

impl Wire for Answer {
    fn transport(&self) -> &'static str {
        "long-polling"
    }

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
        if text.len() >= self.limit_bytes && !self.is_last.load(Ordering::Relaxed) {
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
        Content::Text(list, _) | Content::Sealed(list) => list.strip_prefix(b"[")?.strip_suffix(b"]"),
        Content::Publication(publication, ..) => Some(&publication.data),
        Content::Ping | Content::Pong(_) | Content::Close(..) => None,
    }
}
