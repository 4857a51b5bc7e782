//! From a delivery to the outboxes: the only way data enters the hub.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    broker::{Consumer, Delivery},
    hub::{Flush, Hub, Outbox, Publication},
    metrics::Metrics,
    protocol::{server, trigger::Trigger},
};

/// Pieces of large rooms that may wait to be written.
const JOBS: usize = 256;

/// Frames put into outboxes after which they are written, even in the middle of a batch.
const QUEUED: u64 = 65_536;

/// Takes batches from the broker and fans them out.
#[derive(Debug)]
pub struct Dispatch {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
}

impl Dispatch {
    /// A dispatch to `hub`.
    pub fn new(hub: Arc<Hub>, metrics: Arc<Metrics>) -> Self {
        Self { hub, metrics }
    }

    /// Fans out what `consumer` yields until `stop`; what is in hand then is finished.
    pub async fn run(self, mut consumer: Consumer, stop: CancellationToken) {
        let mut flush = Flush::default();
        let mut jobs = JoinSet::new();
        let mut queued = 0;
        loop {
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                batch = consumer.next() => batch,
            };
            for (left, delivery) in (0..batch.deliveries.len()).rev().zip(&batch.deliveries) {
                flush.last(left == 0);
                queued += self.publish(delivery, &mut flush);
                if left > 0 && queued < QUEUED {
                    continue;
                }
                queued = 0;
                for outboxes in flush.finish() {
                    // Large rooms are written beside what comes next, but never fall behind by more than this.
                    if jobs.len() >= JOBS {
                        jobs.join_next().await;
                    }
                    jobs.spawn(async move { Outbox::flush_all(outboxes.iter().map(Arc::as_ref)) });
                }
            }
            // Counted when they are in the outboxes: who sees the number knows that whoever joins now is too late for them.
            self.metrics.triggers.inc_by(batch.deliveries.len() as u64);
            while jobs.try_join_next().is_some() {}
            consumer.acknowledge(batch).await;
            // A broker that always has more ready must not keep this worker from its other tasks.
            tokio::task::consume_budget().await;
        }
        for delivery in consumer.close().await {
            self.metrics.triggers.inc();
            self.publish(&delivery, &mut flush);
        }
        for outboxes in flush.finish() {
            jobs.spawn(async move { Outbox::flush_all(outboxes.iter().map(Arc::as_ref)) });
        }
        while jobs.join_next().await.is_some() {}
    }

    /// How many outboxes it went into.
    fn publish(&self, delivery: &Delivery, flush: &mut Flush) -> u64 {
        let trigger = match Trigger::parse(&delivery.body, self.hub.dispatch().numbers()) {
            Ok(trigger) => trigger,
            Err(error) => {
                self.metrics.triggers_dropped.inc(error.word());
                warn!(%error, bytes = delivery.body.len(), "trigger dropped");
                return 0;
            }
        };
        let publication = Arc::new(Publication { shared: server::publication(trigger.data).into() });
        let members = self.hub.publish(&trigger.rooms, &publication, flush);
        tracing::trace!(rooms = trigger.rooms.len(), members, bytes = delivery.body.len(), "trigger dispatched");
        members
    }
}
