//! A pause in what a client is sent: publications wait until it is known whether the client may still have them.
//!
//! Replies and all other frames go out meanwhile. An outbox that is not on hold keeps one empty pointer for this.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

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
    /// Frames that were ever added: the last one has the number before this.
    added: u64,
    /// What waits for each subscription.
    waiting: HashMap<RequestId, Waiting>,
    /// The subscriptions whose publications up to this number are dropped. They are taken out when there are many, so that a
    /// client that ends its subscriptions one by one does not have the whole walked each time.
    dropped: HashMap<RequestId, u64>,
    dropped_frames: usize,
    bytes: usize,
}

/// What waits for one subscription.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Waiting {
    publications: usize,
    bytes: usize,
}

impl Hold {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            frames: VecDeque::new(),
            added: 0,
            waiting: HashMap::new(),
            dropped: HashMap::new(),
            dropped_frames: 0,
            bytes: 0,
        }
    }

    /// Publications that wait.
    pub(super) fn publications(&self) -> u64 {
        self.waiting.values().map(|waiting| waiting.publications as u64).sum()
    }

    fn add(&mut self, frame: Frame, bytes: usize) {
        if let Frame::Publication(_, id) = &frame {
            let waiting = self.waiting.entry(id.clone()).or_default();
            *waiting = Waiting { publications: waiting.publications + 1, bytes: waiting.bytes + bytes };
        }
        self.bytes += bytes;
        self.added += 1;
        self.frames.push_back(frame);
    }

    /// Drops the publications for the subscription `id`. How many that are, and how many frames were looked at.
    fn drop_all_for(&mut self, id: &RequestId) -> (usize, usize) {
        let Some(Waiting { publications, bytes }) = self.waiting.remove(id) else { return (0, 0) };
        self.bytes -= bytes;
        self.dropped.insert(id.clone(), self.added);
        self.dropped_frames += publications;
        let looked_at = if self.dropped_frames > self.frames.len() / 2 { self.take_out_dropped() } else { 0 };
        (publications, looked_at)
    }

    /// Returns how many frames were looked at.
    fn take_out_dropped(&mut self) -> usize {
        let looked_at = self.frames.len();
        let mut number = self.added - looked_at as u64;
        let dropped = std::mem::take(&mut self.dropped);
        self.frames.retain(|frame| {
            number += 1;
            !matches!(frame, Frame::Publication(_, id) if dropped.get(id).is_some_and(|until| number <= *until))
        });
        self.dropped_frames = 0;
        looked_at
    }

    /// Returns what waits, in its order.
    fn into_frames(mut self) -> VecDeque<Frame> {
        if self.dropped_frames > 0 {
            self.take_out_dropped();
        }
        self.frames
    }
}

impl Outbox {
    /// Makes publications wait from now on, until [`release`](Self::release). Has no effect on an outbox that is closing or on
    /// hold already.
    pub fn hold(&self) {
        let mut queue = self.queue.lock();
        if queue.end.is_none() && queue.hold.is_none() {
            queue.hold = Some(Box::new(Hold::new()));
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
        for frame in hold.into_frames() {
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
        let (dropped, _) = hold.drop_all_for(request_id);
        self.metrics.publications_withheld.inc_by(dropped as u64);
        self.metrics.publications_failed.inc_by(dropped as u64);
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
        if queued + hold.bytes + weight > self.limit_bytes && hold.bytes > 0 {
            if frame.is_publication() {
                self.metrics.publications_queued.inc();
                self.metrics.publications_failed.inc();
            }
            self.end(queue, CloseCode::TooSlow, TOO_MUCH.into());
            return Err(Full);
        }
        self.metrics.publications_held.inc_by(u64::from(frame.is_publication()));
        hold.add(frame, weight);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::value::to_raw_value;

    use super::*;
    use crate::hub::Publication;

    fn id(number: usize) -> RequestId {
        RequestId::new(&to_raw_value(&number).unwrap()).unwrap()
    }

    fn publication(to: usize) -> Frame {
        Frame::Publication(Arc::new(Publication::new(Vec::new(), "1".into(), Vec::new())), id(to))
    }

    fn kept(hold: Hold) -> Vec<String> {
        let name = |frame: Frame| match frame {
            Frame::Publication(_, id) => id.as_json().to_owned(),
            _ => "other".to_owned(),
        };
        hold.into_frames().into_iter().map(name).collect()
    }

    #[test]
    fn what_is_dropped_for_a_subscription_is_what_was_there_by_then() {
        let mut hold = Hold::new();
        for to in [1, 2, 1, 3] {
            hold.add(publication(to), 10);
        }
        hold.add(Frame::Fixed("{}"), 5);
        assert_eq!(hold.drop_all_for(&id(1)), (2, 0));
        assert_eq!((hold.bytes, hold.publications()), (25, 2));
        hold.add(publication(1), 10);
        assert_eq!(hold.drop_all_for(&id(4)), (0, 0));
        assert_eq!(hold.drop_all_for(&id(3)), (1, 0));
        assert_eq!(hold.bytes, 25);
        assert_eq!(kept(hold), ["2", "other", "1"]);
    }

    #[test]
    fn ending_all_subscriptions_one_by_one_looks_at_each_frame_a_few_times() {
        const SUBSCRIPTIONS: usize = 1000;
        let mut hold = Hold::new();
        for to in (0..SUBSCRIPTIONS).chain(0..SUBSCRIPTIONS) {
            hold.add(publication(to), 10);
        }
        let looked_at: usize = (0..SUBSCRIPTIONS).map(|to| hold.drop_all_for(&id(to)).1).sum();
        assert!(looked_at <= 4 * SUBSCRIPTIONS, "{looked_at}");
        assert_eq!((hold.bytes, hold.publications(), hold.frames.len()), (0, 0, 0));
        // Again and again under new names, they keep no more than what waits.
        for to in 0..SUBSCRIPTIONS {
            hold.add(publication(to), 10);
            hold.drop_all_for(&id(to));
            assert!(hold.frames.len() + hold.dropped.len() <= 1, "{to}");
        }
    }
}
