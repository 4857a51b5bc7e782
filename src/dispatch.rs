//! From a delivery to the outboxes: the only way data enters the hub.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    broker::{Consumer, Delivery},
    hub::{Hub, Outbox, Publication},
    metrics::Metrics,
    protocol::{server, trigger::Trigger},
};

/// Takes batches from the broker and fans them out.
#[derive(Debug)]
pub struct Dispatch {
    consumer: Consumer,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
}

impl Dispatch {
    /// A dispatch from `consumer` to `hub`.
    pub fn new(consumer: Consumer, hub: Arc<Hub>, metrics: Arc<Metrics>) -> Self {
        Self { consumer, hub, metrics }
    }

    /// Runs until `stop`; the batch in hand is then finished.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut dirty = Vec::new();
        loop {
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                batch = self.consumer.next() => batch,
            };
            self.metrics.triggers.inc_by(batch.deliveries.len() as u64);
            for delivery in &batch.deliveries {
                self.publish(delivery, &mut dirty);
            }
            for outbox in dirty.drain(..) {
                outbox.flush();
            }
            self.consumer.acknowledge(batch).await;
            // A broker that always has more ready must not keep this worker from its other tasks.
            tokio::task::consume_budget().await;
        }
        self.consumer.close().await;
    }

    fn publish(&self, delivery: &Delivery, dirty: &mut Vec<Arc<Outbox>>) {
        let trigger = match Trigger::parse(&delivery.body, self.hub.dispatch().numbers()) {
            Ok(trigger) => trigger,
            Err(error) => {
                self.metrics.triggers_dropped.inc(error.word());
                warn!(%error, bytes = delivery.body.len(), "trigger dropped");
                return;
            }
        };
        let publication = Arc::new(Publication { shared: server::publication(trigger.data).into() });
        let members = self.hub.publish(&trigger.rooms, &publication, dirty);
        tracing::trace!(rooms = trigger.rooms.len(), members, bytes = delivery.body.len(), "trigger dispatched");
    }
}
