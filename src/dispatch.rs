//! From a delivery to the outboxes: the only way data enters the hub.
//!
//! What a client sees first is decided when a frame comes to its outbox, and so one trigger is in all its outboxes before
//! the next one is looked at. When they are written is another matter: the last trigger of a batch at once, those before
//! it together with it.

mod repeats;
mod spread;
#[cfg(test)]
mod tests;
mod writers;

use std::{num::NonZero, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{task::yield_now, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{repeats::Repeats, spread::Spread, writers::Writers};
use crate::{
    broker::{Batch, Consumer, Delivery, Unusable},
    channelstream::{Channelstream, Deed},
    connection::Connections,
    hub::{Audience, Hub, Outbox, Pace, Publication, Tally},
    instances::Instances,
    logging::{chain, limited},
    metrics::Metrics,
    protocol::{control::Control, trigger::Trigger},
    room::RoomKey,
};

/// The word for triggers beyond `TRIGGER_LIMIT`, as publishers over HTTP are told.
const TOO_LARGE: &str = "too-large";
/// Look-ups for the rooms of a trigger before anything else has its turn: well under a millisecond.
const LOOKED_UP_AT_ONCE: u64 = 1024;
/// Subscriptions that are written to, one after the other, before anything else has its turn: about a millisecond.
const WRITTEN_AT_ONCE: usize = 256;
/// As many take about as long to be put into their outboxes only.
const QUEUED_AT_ONCE: usize = 8192;
/// Frames queued after which writing begins, even in the middle of a batch.
const QUEUED: u64 = 65_536;
/// Frames queued after which everything has to be written before more is queued.
const BACKLOG: u64 = 1 << 20;

/// What the consumer had next.
type Ready = Result<Batch, Unusable>;

/// What a trigger may be.
#[derive(Debug, Clone, Copy)]
pub struct Triggers {
    /// How long its id counts.
    pub id_ttl: Duration,
    /// The largest one.
    pub limit_bytes: usize,
}

/// Takes batches from the broker and fans them out.
#[derive(Debug)]
pub struct Dispatch {
    hub: Arc<Hub>,
    connections: Arc<Connections>,
    instances: Option<Arc<Instances>>,
    channelstream: Option<Arc<Channelstream>>,
    metrics: Arc<Metrics>,
    repeats: Repeats,
    trigger_limit_bytes: usize,
    writers: Writers,
    workers: usize,
    /// Of audiences that were small enough to be published to in passing.
    small: Tally,
    /// Of those that were spread over the workers.
    large: Tally,
    /// Queued since the writers had nothing left to do.
    backlog: u64,
    /// Look-ups for rooms that are not counted yet.
    look_ups: u64,
}

impl Dispatch {
    /// Returns a dispatch of `triggers` to `connections`, by their hub, and to who listens to other instances.
    pub fn new(
        connections: Arc<Connections>,
        instances: Option<Arc<Instances>>,
        channelstream: Option<Arc<Channelstream>>,
        triggers: Triggers,
    ) -> Self {
        let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
        let (small, large) = Default::default();
        Self {
            hub: connections.hub.clone(),
            metrics: connections.metrics.clone(),
            connections,
            instances,
            channelstream,
            repeats: Repeats::new(triggers.id_ttl),
            trigger_limit_bytes: triggers.limit_bytes,
            writers: Writers::new(workers),
            workers,
            small,
            large,
            backlog: 0,
            look_ups: 0,
        }
    }

    /// Fans out what `consumer` yields until `stop`; what is in hand then is finished.
    ///
    /// # Errors
    /// When the broker cannot be used.
    pub async fn run(mut self, mut consumer: Consumer, stop: CancellationToken) -> Result<(), Unusable> {
        let mut ready = None;
        let outcome = loop {
            let batch = match ready.take() {
                Some(batch) => batch,
                None => tokio::select! {
                    biased;
                    () = stop.cancelled() => break Ok(()),
                    batch = consumer.next() => batch,
                },
            };
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => break Err(error),
            };
            let more = (!stop.is_cancelled()).then_some(&mut consumer);
            self.metrics.dispatch_busy_seconds.begin(batch.deliveries.len());
            ready = self.fan_out(&batch.deliveries, more).await;
            self.metrics.dispatch_busy_seconds.end();
            self.metrics.dispatch_batches.inc();
            consumer.acknowledge(batch).await;
            // A broker that always has more ready must not keep this worker from its other tasks.
            tokio::task::consume_budget().await;
        };
        let left = consumer.close().await;
        self.fan_out(&left, None).await;
        self.writers.finish().await;
        outcome
    }

    /// Publishes `deliveries`. A batch that `consumer` had ready before all of it was done is given back.
    async fn fan_out(&mut self, deliveries: &[Delivery], mut consumer: Option<&mut Consumer>) -> Option<Ready> {
        let mut ready = None;
        let mut triggers = 0;
        for (left, delivery) in (0..deliveries.len()).rev().zip(deliveries) {
            let prepared = match delivery {
                Delivery::Trigger { body, offset, is_recalled } => {
                    triggers += 1;
                    self.prepare(body, *offset, *is_recalled)
                }
                Delivery::Control { body, offset, is_recalled } => {
                    self.control(body, *offset, *is_recalled).await;
                    None
                }
                Delivery::Instance { body, offset } => {
                    if let Some(instances) = &self.instances {
                        instances.take_note(body);
                    }
                    self.pass(*offset);
                    None
                }
                Delivery::Channelstream { body, offset, is_recalled } => {
                    self.pass(*offset);
                    self.carry_out(body, offset.is_some(), *is_recalled).await;
                    None
                }
                told => {
                    self.take_note(told);
                    None
                }
            };
            let Some(publication) = prepared else { continue };
            let audience = self.audience(&publication.rooms).await;
            let pace = if left == 0 && deliveries.len() == 1 { Pace::AtOnce } else { Pace::Later };
            let consumer = consumer.as_deref_mut().filter(|_| left == 0 && ready.is_none());
            ready = self.publish(publication, audience, pace, consumer).await.or(ready);
        }
        self.settle().await;
        // Counted when they are in the outboxes: who sees the number knows that whoever joins now is too late for them.
        self.metrics.triggers.inc_by(triggers);
        ready
    }

    /// Puts a publication into the outboxes of its audience. A batch that `consumer` had ready before that was done is given
    /// back.
    async fn publish(
        &mut self,
        publication: Arc<Publication>,
        audience: Audience,
        pace: Pace,
        consumer: Option<&mut Consumer>,
    ) -> Option<Ready> {
        let inline = match pace {
            Pace::AtOnce => WRITTEN_AT_ONCE,
            Pace::Later => QUEUED_AT_ONCE,
        };
        let mut ready = None;
        if audience.members() <= inline {
            audience.publish(&publication, pace, &mut self.small);
        } else {
            ready = self.spread(audience, publication, pace, consumer).await;
        }
        if self.small.queued + self.large.queued >= QUEUED {
            self.settle().await;
        }
        ready
    }

    /// Does what Channelstream's commands come to, in their order: what is published before somebody joins is not for that one.
    async fn carry_out(&mut self, body: &Bytes, has_log: bool, is_recalled: bool) {
        let Some(channelstream) = self.channelstream.clone() else { return };
        for deed in channelstream.take(body, has_log, is_recalled) {
            match deed {
                Deed::Publish(publication) => {
                    let publication = self.hub.record(publication, None);
                    let audience = self.audience(&publication.rooms).await;
                    self.publish(publication, audience, Pace::Later, None).await;
                }
                Deed::Perform(performed) => channelstream.perform(performed),
            }
        }
    }

    /// Something about the log.
    fn take_note(&mut self, delivery: &Delivery) {
        match delivery {
            Delivery::Trigger { .. }
            | Delivery::Control { .. }
            | Delivery::Instance { .. }
            | Delivery::Channelstream { .. } => {}
            Delivery::Epoch { epoch, offset } => {
                self.connections.backend.changes.begin_epoch(*epoch, *offset);
                self.hub.begin_epoch(*epoch, *offset);
            }
            Delivery::Restart { is_read_back } => {
                if *is_read_back {
                    self.repeats.clear(); // among them may be ids of triggers that the log has lost, and may get again
                }
                if let Some(channelstream) = &self.channelstream {
                    channelstream.lose();
                }
                self.connections.restart(*is_read_back);
            }
            Delivery::Recalled => self.connections.end_recall(),
            Delivery::Missed => {
                let clients = self.connections.missed();
                if clients > 0 {
                    self.metrics.gaps.inc();
                    warn!(clients, "triggers may have been missed: the clients are told");
                }
            }
        }
    }

    /// Has the connections do what a control message wants, before what follows it is published.
    async fn control(&self, body: &Bytes, offset: Option<u64>, is_recalled: bool) {
        match Control::parse(body, self.connections.room_rules()) {
            Ok(control) => self.connections.control(&control, offset, is_recalled).await,
            Err(error) => {
                self.metrics.controls.inc(error.word());
                let reason = chain(&error);
                limited!(warn[error.kind()], "control message dropped", reason, bytes = body.len(), offset);
            }
        }
        self.pass(offset);
    }

    /// What the trigger in `body` publishes; `None` when it is for nobody, or no trigger.
    fn prepare(&mut self, body: &Bytes, offset: Option<u64>, is_recalled: bool) -> Option<Arc<Publication>> {
        if body.len() > self.trigger_limit_bytes {
            if !is_recalled {
                self.metrics.triggers_dropped.inc(TOO_LARGE);
                let reason = format!("it has more than {} bytes: see TRIGGER_LIMIT", self.trigger_limit_bytes);
                limited!(warn[TOO_LARGE], "trigger dropped", reason, bytes = body.len(), offset);
            }
            self.pass(offset);
            return None;
        }
        let trigger = match Trigger::parse(body, self.connections.room_rules()) {
            Ok(trigger) => trigger,
            Err(error) => {
                if !is_recalled {
                    self.metrics.triggers_dropped.inc(error.word());
                    let reason = chain(&error);
                    limited!(warn[error.kind()], "trigger dropped", reason, bytes = body.len(), offset);
                }
                self.pass(offset);
                return None;
            }
        };
        if let Some(id) = trigger.id
            && self.repeats.is_repeat(id, Instant::now())
        {
            self.metrics.triggers_repeated.inc();
            self.pass(offset);
            return None;
        }
        tracing::trace!(rooms = trigger.rooms.len(), bytes = body.len(), "trigger");
        let data = body.slice_ref(trigger.data.get().as_bytes());
        let publication = self.hub.record(Publication::new(trigger.rooms, data, trigger.exclude), offset);
        (!is_recalled).then_some(publication)
    }

    /// Who gets a trigger for `rooms`. Others have their turn in between where that takes long.
    async fn audience(&mut self, rooms: &[RoomKey]) -> Audience {
        let mut search = self.hub.search(rooms);
        while search.step(LOOKED_UP_AT_ONCE) {
            yield_now().await;
        }
        self.look_ups += search.look_ups();
        search.finish()
    }

    /// Something stands at `offset` that is published to nobody.
    fn pass(&self, offset: Option<u64>) {
        if let Some(offset) = offset {
            self.hub.pass(offset);
        }
    }

    /// Publishes to many by all workers. As soon as `consumer` has something ready, the rest is only queued.
    async fn spread(
        &mut self,
        audience: Audience,
        publication: Arc<Publication>,
        pace: Pace,
        consumer: Option<&mut Consumer>,
    ) -> Option<Ready> {
        let mut spread = Spread::start(audience, publication, pace, self.workers);
        let ready = match consumer {
            Some(consumer) => tokio::select! {
                biased;
                () = spread.finished(&mut self.large) => return None,
                batch = consumer.next() => Some(batch),
            },
            None => None,
        };
        spread.hurry();
        spread.finished(&mut self.large).await;
        ready
    }

    /// Has written what waits: little at once, much by the writers beside what comes next.
    async fn settle(&mut self) {
        self.metrics.room_look_ups.inc_by(std::mem::take(&mut self.look_ups));
        if self.writers.are_idle() {
            self.backlog = 0;
        }
        // Whoever is in a small room does not wait for all of a large one.
        for tally in [&mut self.small, &mut self.large] {
            self.backlog += tally.queued;
            let dirty = tally.settle(&self.metrics);
            if dirty.len() <= WRITTEN_AT_ONCE {
                Outbox::flush_all(dirty.iter().map(Arc::as_ref));
            } else {
                self.writers.add(dirty);
            }
        }
        if self.backlog > BACKLOG {
            self.writers.finish().await;
            self.backlog = 0;
        }
    }
}
