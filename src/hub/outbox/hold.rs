//! A pause in what a client is sent: publications wait until it is known whether the client may still have them.
//!
//! Replies and all other frames go out meanwhile. An outbox that is not on hold keeps one empty pointer for this.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{Frame, Full, Outbox, Queue};
use crate::protocol::{CloseCode, RequestId};

/// Reason of the close when a hold would take more than the outbox may keep.
const TOO_MUCH: &str = "too much was published while permissions were checked";

/// Frames that wait for the end of a hold, in the order of the log.
#[derive(Debug)]
pub(super) struct Hold {
    since: Instant,
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Hold {
    pub(super) fn publications(&self) -> u64 {
        self.frames.iter().filter(|frame| frame.is_publication()).count() as u64
    }
}

impl Outbox {
    /// Makes publications wait from now on, until [`release`](Self::release). Has no effect on an outbox that is closing or on
    /// hold already.
    pub fn hold(&self) {
        let mut queue = self.queue.lock();
        if queue.end.is_none() && queue.hold.is_none() {
            queue.hold = Some(Box::new(Hold { since: Instant::now(), frames: VecDeque::new(), bytes: 0 }));
            self.metrics.connections_on_hold.inc();
        }
    }

    /// How long publications have been waiting for a [`release`](Self::release); `None` if they are not.
    pub fn on_hold_for(&self) -> Option<Duration> {
        self.queue.lock().hold.as_ref().map(|hold| hold.since.elapsed())
    }

    /// Bytes that wait for a [`release`](Self::release).
    pub fn bytes_on_hold(&self) -> usize {
        self.queue.lock().hold.as_ref().map_or(0, |hold| hold.bytes)
    }

    /// Ends a hold and queues what waited, in its order; to be flushed by the caller.
    pub fn release(&self) {
        let mut queue = self.queue.lock();
        let Some(hold) = self.end_hold(&mut queue) else { return };
        let mut left = hold.publications();
        for frame in hold.frames {
            let is_publication = frame.is_publication();
            if self.admit(&mut queue, frame).is_err() {
                self.metrics.publications_failed.inc_by(left);
                return;
            }
            left -= u64::from(is_publication);
        }
    }

    /// Drops the publications on hold that are for the subscription `request_id`.
    pub fn withhold(&self, request_id: &RequestId) {
        let mut queue = self.queue.lock();
        let Some(hold) = &mut queue.hold else { return };
        let before = hold.frames.len();
        hold.frames.retain(|frame| !matches!(frame, Frame::Publication(_, id) if id == request_id));
        let dropped = (before - hold.frames.len()) as u64;
        if dropped > 0 {
            hold.bytes = hold.frames.iter().map(|frame| self.wire.encoded_len(frame.content())).sum();
            self.metrics.publications_withheld.inc_by(dropped);
            self.metrics.publications_failed.inc_by(dropped);
        }
    }

    /// Queues `frame` as [`push`](Self::push) does, behind all publications so far, those on hold included.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_in_order(&self, frame: Frame) -> Result<(), Full> {
        let mut queue = self.queue.lock();
        if queue.hold.is_some() { self.keep_on_hold(&mut queue, frame) } else { self.admit(&mut queue, frame) }
    }

    /// Adds `frame` to what waits for the release.
    pub(super) fn keep_on_hold(&self, queue: &mut Queue, frame: Frame) -> Result<(), Full> {
        let weight = self.wire.encoded_len(frame.content());
        let queued = queue.bytes;
        let Some(hold) = queue.hold.as_mut().filter(|_| queue.end.is_none()) else { return Err(Full) };
        if queued + hold.bytes + weight > self.limit_bytes && !hold.frames.is_empty() {
            if frame.is_publication() {
                self.metrics.publications_queued.inc();
                self.metrics.publications_failed.inc();
            }
            self.end(queue, CloseCode::TooSlow, TOO_MUCH.into());
            return Err(Full);
        }
        hold.bytes += weight;
        self.metrics.publications_held.inc_by(u64::from(frame.is_publication()));
        hold.frames.push_back(frame);
        Ok(())
    }

    /// Takes the outbox off hold without a word. What waited is the caller's.
    pub(super) fn end_hold(&self, queue: &mut Queue) -> Option<Hold> {
        let hold = queue.hold.take()?;
        self.metrics.connections_on_hold.dec();
        Some(*hold)
    }

    /// Drops what is on hold: the connection ends.
    pub(super) fn drop_hold(&self, queue: &mut Queue) {
        if let Some(hold) = self.end_hold(queue) {
            self.metrics.publications_failed.inc_by(hold.publications());
        }
    }
}
