//! Writing what waits in many outboxes, beside what comes next.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::task::{JoinSet, yield_now};

use crate::hub::Outbox;

/// Outboxes that are written before a worker looks at its other tasks: about half a millisecond.
const PIECE: usize = 64;

/// A few tasks that flush outboxes. Each outbox waits here once at most, however much waits in it.
#[derive(Debug)]
pub(super) struct Writers {
    shared: Arc<Mutex<Waiting>>,
    tasks: JoinSet<()>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    outboxes: VecDeque<Arc<Outbox>>,
    /// Tasks that will look here again before they end.
    active: usize,
}

impl Writers {
    /// At most `limit` tasks.
    pub(super) fn new(limit: usize) -> Self {
        Self { shared: Arc::default(), tasks: JoinSet::new(), limit }
    }

    /// Has `outboxes` flushed, after those that wait already.
    pub(super) fn add(&mut self, outboxes: Vec<Arc<Outbox>>) {
        let mut waiting = self.shared.lock();
        waiting.outboxes.extend(outboxes);
        let wanted = self.limit.min(waiting.outboxes.len().div_ceil(PIECE));
        for _ in waiting.active..wanted {
            waiting.active += 1;
            self.tasks.spawn(write(self.shared.clone()));
        }
        drop(waiting);
        while self.tasks.try_join_next().is_some() {}
    }

    /// Whether nothing is left.
    pub(super) fn are_idle(&self) -> bool {
        self.shared.lock().active == 0
    }

    /// Waits until nothing is left.
    pub(super) async fn finish(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn write(shared: Arc<Mutex<Waiting>>) {
    loop {
        let piece: Vec<Arc<Outbox>> = {
            let mut waiting = shared.lock();
            let count = PIECE.min(waiting.outboxes.len());
            if count == 0 {
                waiting.outboxes.shrink_to(PIECE);
                waiting.active -= 1;
                return;
            }
            waiting.outboxes.drain(..count).collect()
        };
        Outbox::flush_all(piece.iter().map(Arc::as_ref));
        yield_now().await;
    }
}
