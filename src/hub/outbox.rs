//! The frames that wait for one client.
//!
//! Producers push a frame and flush it themselves. The connection's task wakes only when the socket would block or the connection
//! is closing.

use std::{
    borrow::Cow,
    collections::VecDeque,
    fmt,
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use super::{Pace, Publication};
use crate::{
    metrics::Metrics,
    protocol::{CloseCode, RequestId},
};

mod encode;
mod frame;
mod hold;

pub use encode::Encoder;
pub use frame::{Content, Frame, Mark, Sealed};

use self::hold::Hold;

/// An empty queue keeps no more places than this.
const KEPT_PLACES: usize = 4;

/// The way from an outbox to its client.
pub trait Wire: Send + Sync {
    /// What operators know it by: `websocket`.
    fn transport(&self) -> &'static str;

    /// How many bytes [`encode`](Self::encode) gives for `content`.
    fn encoded_len(&self, content: Content<'_>) -> usize;

    /// Writes `content` in the transport's form. The same content must always give the same bytes.
    fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>);

    /// Returns what is queued of a frame whose bytes depend on the frames before it, or cost too much to be made twice. Called once
    /// for each frame, in the order in which they are written.
    fn seal(&self, content: Content<'_>) -> Sealed {
        let _ = content;
        Sealed::AsIs
    }

    /// Writes what it can without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when the client takes nothing at present; anything else means that it is gone.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// The outbox did not take the frame: it has closed, or has closed itself because of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client's outbox takes no more")]
pub struct Full;

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    /// It is with the client's kernel.
    Written,
    /// It waits. The caller is, or is not, the one who has to flush.
    Queued { must_flush: bool },
}

/// Frames waiting for one client, bounded by bytes.
pub struct Outbox<W: ?Sized = dyn Wire> {
    queue: Mutex<Queue>,
    /// Wakes the connection's task when the wire is blocked or the outbox is closing.
    wake: Notify,
    connection: Uuid,
    limit_bytes: usize,
    /// Whether it has ever been in a room.
    has_joined: AtomicBool,
    metrics: Arc<Metrics>,
    /// In the same piece of memory: a fan-out needs both.
    wire: W,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Bytes of the first frame that have been written.
    written: usize,
    /// Somebody has promised to flush.
    is_promised: bool,
    /// Where the last pong waits: its place among the frames, counted from 1; 0 if none waits.
    pong: u32,
    /// Since when the wire has taken nothing.
    blocked_since: Option<Instant>,
    /// Publications wait here while there is a hold.
    hold: Option<Box<Hold>>,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The close frame is the last one queued.
    Closing(CloseCode),
    /// The client is gone; nothing can be written.
    Gone,
}

impl<W> Outbox<W> {
    /// An empty outbox of `connection` that holds up to `limit_bytes` of unsent frames.
    pub fn new(connection: Uuid, wire: W, limit_bytes: usize, metrics: Arc<Metrics>) -> Self {
        let (queue, wake, has_joined) = (Mutex::default(), Notify::new(), AtomicBool::new(false));
        Self { queue, wake, connection, limit_bytes, has_joined, metrics, wire }
    }

    /// What it writes to.
    pub fn wire(&self) -> &W {
        &self.wire
    }
}

impl Outbox {
    /// The id of the connection whose frames these are.
    pub fn connection(&self) -> Uuid {
        self.connection
    }

    /// The way to the client, as operators know it.
    pub fn transport(&self) -> &'static str {
        self.wire.transport()
    }

    /// It is in a room.
    pub fn note_join(&self) {
        self.has_joined.store(true, Ordering::Relaxed);
    }

    /// Whether it has ever been in a room. Who asks behind the recording of a publication knows of all that joined before it.
    pub fn has_joined(&self) -> bool {
        self.has_joined.load(Ordering::Relaxed)
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.queue.lock().bytes
    }

    /// The most that may wait.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Queues `frame` for the client, without waiting and without writing: [`flush`](Self::flush) does that.
    ///
    /// # Errors
    /// [`Full`] if the outbox is closed, or if the unsent frames would pass the limit; it has then closed itself as slow.
    pub fn push(&self, frame: Frame) -> Result<(), Full> {
        self.admit(&mut self.queue.lock(), frame)
    }

    /// Writes a publication, or queues it.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub(crate) fn publish(
        &self,
        publication: &Arc<Publication>,
        request_id: &RequestId,
        pace: Pace,
    ) -> Result<Published, Full> {
        let mut queue = self.queue.lock();
        let frame = || Frame::publication(publication, request_id, None);
        if queue.hold.is_some() {
            self.keep_on_hold(&mut queue, frame())?;
            return Ok(Published::Queued { must_flush: false });
        }
        if pace == Pace::AtOnce && queue.is_idle() {
            let id = match self.wire.seal(Content::Publication(publication, request_id, None)) {
                Sealed::WithId(id) => Some(id),
                Sealed::AsIs | Sealed::Whole(_) => None, // no wire makes a copy of a publication
            };
            match encode::write_one(&self.wire, Content::Publication(publication, request_id, id.as_deref())) {
                Ok((written, length)) if written == length => return Ok(Published::Written),
                Ok((written, length)) => {
                    // The rest finds the wire blocked, most likely, and calls for the connection's task.
                    (queue.written, queue.bytes) = (written, length);
                    queue.frames.push_back(Frame::publication(publication, request_id, id));
                }
                // Blocked or broken: tried again as any other frame, which tells the two apart.
                Err(_) => self.enqueue(&mut queue, Frame::publication(publication, request_id, id))?,
            }
            let sent = self.write(&mut queue);
            self.metrics.publications_sent.inc_by(sent);
            return Ok(Published::Queued { must_flush: false });
        }
        self.admit(&mut queue, frame())?;
        let must_flush = !queue.is_promised && queue.blocked_since.is_none();
        queue.is_promised |= must_flush;
        Ok(Published::Queued { must_flush })
    }

    /// Writes what the wire takes now. What it does not take stays, and the connection's task is woken to go on with it.
    pub fn flush(&self) {
        Self::flush_all([self]);
    }

    /// Flushes many outboxes, and counts what was sent only once.
    pub fn flush_all<'a>(outboxes: impl IntoIterator<Item = &'a Self>) {
        let mut sent = 0;
        let mut metrics = None;
        for outbox in outboxes {
            let mut queue = outbox.queue.lock();
            queue.is_promised = false;
            if queue.blocked_since.is_none() {
                sent += outbox.write(&mut queue);
            }
            metrics = Some(&outbox.metrics);
        }
        if let (Some(metrics), 1..) = (metrics, sent) {
            metrics.publications_sent.inc_by(sent);
        }
    }

    /// As [`flush`](Self::flush), for the connection's task when the wire can be written to again.
    pub fn resume(&self) {
        let sent = self.write(&mut self.queue.lock());
        self.metrics.publications_sent.inc_by(sent);
    }

    /// Ends the connection after what is queued: `code` and `reason` are told last. The first reason given stands.
    pub fn close(&self, code: CloseCode, reason: impl Into<Cow<'static, str>>) {
        let mut queue = self.queue.lock();
        self.end(&mut queue, code, reason.into());
        drop(queue);
        self.flush();
    }

    /// Forgets what is queued: there is nobody to send it to.
    pub fn abandon(&self) {
        self.drop_all(&mut self.queue.lock());
    }

    /// Whether the connection is ending: nothing more is taken.
    pub fn is_closing(&self) -> bool {
        self.queue.lock().end.is_some()
    }

    /// The code the connection is closed with, once that is decided.
    pub fn close_code(&self) -> Option<CloseCode> {
        match self.queue.lock().end {
            Some(End::Closing(code)) => Some(code),
            _ => None,
        }
    }

    /// Whether nothing is waiting, be it that all is written or that the client is gone.
    pub fn is_empty(&self) -> bool {
        self.queue.lock().frames.is_empty()
    }

    /// For how long the wire has taken nothing although something is waiting.
    pub fn blocked_for(&self) -> Option<Duration> {
        self.queue.lock().blocked_since.map(|since| since.elapsed())
    }

    /// Waits until the connection's task is needed: the wire is blocked, or the outbox is closing.
    pub async fn needs_task(&self) {
        self.wake.notified().await;
    }

    fn admit(&self, queue: &mut Queue, frame: Frame) -> Result<(), Full> {
        if queue.end.is_some() {
            return Err(Full);
        }
        self.enqueue(queue, self.sealed(frame))
    }

    /// Returns `frame` as it is queued.
    fn sealed(&self, frame: Frame) -> Frame {
        match (self.wire.seal(frame.content()), frame) {
            (Sealed::AsIs, frame) => frame,
            (Sealed::Whole(bytes), _) => Frame::Sealed(bytes),
            (Sealed::WithId(id), Frame::Publication(publication, request_id)) => {
                Frame::PublicationWithId(publication, request_id, id)
            }
            (Sealed::WithId(_), frame) => frame, // no other frame has an `id`
        }
    }

    /// As [`admit`](Self::admit), for a frame that has been sealed, of an outbox that is not closing.
    fn enqueue(&self, queue: &mut Queue, frame: Frame) -> Result<(), Full> {
        let weight = self.wire.encoded_len(frame.content());
        let is_pong = matches!(frame, Frame::Pong(_));
        if is_pong && let Some(waiting) = queue.waiting_pong() {
            // Of several pings only the last has to be answered (RFC 6455 section 5.5.3), so a client that pings and does not
            // read makes us keep one pong.
            let replaced = self.wire.encoded_len(waiting.content());
            *waiting = frame;
            queue.bytes = (queue.bytes + weight).saturating_sub(replaced);
            return Ok(());
        }
        if queue.bytes + weight > self.limit_bytes && queue.blocked_since.is_none() {
            // Frames that merely wait for the end of a batch are no sign of a slow client.
            let sent = self.write(queue);
            self.metrics.publications_sent.inc_by(sent);
        }
        // Nor is a large frame that is under way: only what waits behind the first one counts.
        let first = queue.frames.front().map_or(weight, |first| self.wire.encoded_len(first.content()));
        if queue.bytes + weight - first > self.limit_bytes {
            self.drop_unwritten(queue);
            if frame.is_publication() {
                self.metrics.publications_queued.inc();
                self.metrics.publications_failed.inc();
            }
            self.end(queue, CloseCode::TooSlow, Cow::Borrowed("too slow"));
            return Err(Full);
        }
        if queue.end.is_some() {
            return Err(Full);
        }
        queue.bytes += weight;
        queue.frames.push_back(frame);
        if is_pong {
            queue.pong = u32::try_from(queue.frames.len()).unwrap_or(0);
        }
        Ok(())
    }

    fn end(&self, queue: &mut Queue, code: CloseCode, reason: Cow<'static, str>) {
        if queue.end.is_none() {
            self.drop_hold(queue);
            let frame = self.sealed(Frame::Close(code, reason));
            queue.bytes += self.wire.encoded_len(frame.content());
            queue.frames.push_back(frame);
            queue.end = Some(End::Closing(code));
            self.wake.notify_one();
        }
    }

    /// Writes as much as the wire takes. How many publications were completed.
    fn write(&self, queue: &mut Queue) -> u64 {
        let mut sent = 0;
        while !queue.frames.is_empty() {
            match encode::write(&self.wire, &queue.frames, queue.written) {
                Ok(count @ 1..) => {
                    queue.blocked_since = None;
                    sent += self.advance(queue, count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    queue.blocked_since.get_or_insert_with(Instant::now);
                    self.wake.notify_one();
                    return sent;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => self.drop_all(queue),
            }
        }
        queue.blocked_since = None;
        sent
    }

    /// Forgets `count` bytes at the front: they are written. How many publications were completed by them.
    fn advance(&self, queue: &mut Queue, count: usize) -> u64 {
        let mut count = count + queue.written;
        let mut sent = 0;
        while let Some(frame) = queue.frames.front() {
            let length = self.wire.encoded_len(frame.content());
            if count < length {
                break;
            }
            count -= length;
            sent += u64::from(frame.is_publication());
            queue.bytes = queue.bytes.saturating_sub(length);
            queue.frames.pop_front();
            queue.pong = queue.pong.saturating_sub(1);
        }
        queue.written = count;
        queue.give_memory_back();
        sent
    }

    /// Drops all but a frame that has been written in part.
    fn drop_unwritten(&self, queue: &mut Queue) {
        let kept = usize::from(queue.written > 0);
        let dropped = queue.frames.drain(kept..).filter(Frame::is_publication).count();
        self.metrics.publications_failed.inc_by(dropped as u64);
        queue.bytes = queue.frames.iter().map(|frame| self.wire.encoded_len(frame.content())).sum();
        queue.pong = 0;
        queue.give_memory_back();
    }

    fn drop_all(&self, queue: &mut Queue) {
        queue.written = 0;
        self.drop_hold(queue);
        self.drop_unwritten(queue);
        queue.blocked_since = None;
        queue.end = Some(End::Gone);
        self.wake.notify_one();
    }
}

impl Queue {
    /// Returns the pong that waits, unless some of it has been written.
    fn waiting_pong(&mut self) -> Option<&mut Frame> {
        let place = usize::try_from(self.pong).ok()?.checked_sub(1)?;
        let is_begun = place == 0 && self.written > 0;
        self.frames.get_mut(place).filter(|frame| !is_begun && matches!(frame, Frame::Pong(_)))
    }

    /// Whether what comes now may be written at once.
    fn is_idle(&self) -> bool {
        self.frames.is_empty() && self.blocked_since.is_none() && self.end.is_none()
    }

    fn give_memory_back(&mut self) {
        if self.frames.is_empty() && self.frames.capacity() > KEPT_PLACES {
            self.frames = VecDeque::new();
        }
    }
}

impl<W: ?Sized> Drop for Outbox<W> {
    fn drop(&mut self) {
        let queue = self.queue.get_mut();
        let mut lost = queue.frames.iter().filter(|frame| frame.is_publication()).count() as u64;
        if let Some(hold) = &queue.hold {
            lost += hold.publications();
            self.metrics.connections_on_hold.dec();
        }
        self.metrics.publications_failed.inc_by(lost);
    }
}

impl<W: ?Sized> fmt::Debug for Outbox<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("limit_bytes", &self.limit_bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
