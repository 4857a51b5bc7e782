//! When outboxes that have got something are written.
//!
//! What a client sees first is decided when a frame is put into its outbox. Writing keeps that order whoever does it, and so
//! it can be put off to the end of a batch, where one system call takes all of it, or be spread over the workers.

use std::sync::Arc;

use super::Outbox;

/// Receivers up to which a publication is written by whoever publishes it.
const SMALL: usize = 2048;
/// Outboxes that one worker writes before it looks at its other tasks.
const JOB: usize = 512;

/// Outboxes that have to be flushed.
#[derive(Debug, Default)]
pub struct Flush {
    waiting: Vec<Arc<Outbox>>,
    /// Nothing more follows in this batch: groups are written as soon as they end.
    is_last: bool,
    is_small: bool,
}

impl Flush {
    /// The publications from here on are the last of their batch, or (`false`) are not.
    pub fn last(&mut self, is_last: bool) {
        self.is_last = is_last;
    }

    /// What has to be written by others, in pieces of some milliseconds each; what is left after that was little and is
    /// written. Empty unless somebody published to many.
    pub fn finish(&mut self) -> Vec<Vec<Arc<Outbox>>> {
        if self.waiting.len() <= SMALL {
            self.write();
            return Vec::new();
        }
        let mut jobs = Vec::with_capacity(self.waiting.len() / JOB + 1);
        while self.waiting.len() > JOB {
            jobs.push(self.waiting.split_off(self.waiting.len() - JOB));
        }
        jobs.push(std::mem::take(&mut self.waiting));
        jobs
    }

    /// A publication for this many receivers comes.
    pub(super) fn expect(&mut self, receivers: usize) {
        self.is_small = receivers <= SMALL;
    }

    pub(super) fn add(&mut self, outbox: &Arc<Outbox>) {
        self.waiting.push(outbox.clone());
    }

    pub(super) fn group_ends(&mut self) {
        if self.is_last && self.is_small && self.waiting.len() <= SMALL {
            self.write();
        }
    }

    fn write(&mut self) {
        Outbox::flush_all(self.waiting.iter().map(Arc::as_ref));
        self.waiting.clear();
        if self.waiting.capacity() > 2 * SMALL {
            self.waiting = Vec::new();
        }
    }
}
