//! Consuming from RabbitMQ, for ever.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use lapin::types::AMQPValue;
use rand::Rng;
use tokio::{
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval},
};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    super::{Batch, Delivery, State, Unusable},
    Error, Log, Retry, Topology,
    follower::Follower,
    kind_of,
    session::{Opening, Session},
};
use crate::{
    config::{self, AmqpLog},
    metrics::Metrics,
};

/// How often is looked whether a marker is due.
const LOOK: Duration = Duration::from_secs(1);
/// How long RabbitMQ may take to get at the log, as after a crash, before it is done without.
const UNAVAILABLE: Duration = Duration::from_secs(60);
/// How long RabbitMQ may take to hand over what is there.
const PROOF_DEADLINE: Duration = Duration::from_secs(5);
/// Entries in the log after which there is to be another marker: so many are read again in a new session.
const UNMARKED: u64 = 4096;
/// Behind one name there may be several brokers: so often is asked at least.
const ASKED: usize = 2;
/// The part of what is read back after which there is to be another marker.
const MARK_AGE: u32 = 4;

/// What the consumer and the publisher tell each other.
#[derive(Debug)]
pub(super) struct Shared {
    /// The name of this process in the log.
    pub instance: Uuid,
    /// Whether there is a log, once that is known.
    pub has_log: watch::Sender<Option<bool>>,
    /// The markers that are wanted.
    pub wanted: watch::Sender<Wanted>,
    /// The number of the last marker that RabbitMQ has confirmed.
    pub confirmed: watch::Sender<u64>,
    /// How far the consumer is.
    pub state: watch::Sender<State>,
}

/// A marker to be written.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    /// Counts them.
    pub number: u64,
    /// Of the consumer, at present.
    pub session: u64,
}

#[derive(Debug)]
pub(in super::super) struct Consumer {
    topology: Topology,
    log: AmqpLog,
    read_back: Duration,
    retry: Retry,
    shared: Arc<Shared>,
    session: Option<Session>,
    sessions: u64,
    follower: Follower,
    /// To be handed over next.
    pending: Vec<Delivery>,
    /// Without a log: triggers may have passed by since the last delivery.
    has_missed: bool,
    /// Since when RabbitMQ cannot get at the log.
    unavailable_since: Option<Instant>,
    /// Brokers, one after the other, that did not hand over what was read last.
    doubtful: usize,
    /// When the last marker came, or was wanted.
    marked: Instant,
    /// After which another one is wanted, if nobody else writes one; not the same for all instances.
    mark_after: Duration,
    look: Interval,
    metrics: Arc<Metrics>,
}

/// The last delivery of a batch, on the session it came by.
#[derive(Debug)]
pub(in super::super) struct Tag {
    session: u64,
    last: u64,
    count: usize,
    /// With it, all is known that was there when the session began.
    is_current: bool,
}

impl Consumer {
    pub(super) fn new(config: config::Rabbitmq, metrics: Arc<Metrics>) -> Self {
        let instance = Uuid::new_v4();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            topology: Topology::new(&config),
            log: config.log,
            read_back: config.read_back,
            retry: Retry::new(config.uris),
            shared: Arc::new(Shared {
                instance,
                has_log: watch::Sender::new(None),
                wanted: watch::Sender::default(),
                confirmed: watch::Sender::new(0),
                state: watch::Sender::new(State::Behind),
            }),
            session: None,
            sessions: 0,
            follower: Follower::new(instance),
            pending: Vec::new(),
            has_missed: false,
            unavailable_since: None,
            doubtful: 0,
            marked: Instant::now(),
            mark_after: (config.read_back / MARK_AGE).mul_f64(rand::rng().random_range(1.0..1.5)),
            look,
            metrics,
        }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub(in super::super) fn state(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    pub(in super::super) async fn next(&mut self) -> Result<Batch, Unusable> {
        loop {
            if !self.pending.is_empty() {
                return Ok(Batch { deliveries: std::mem::take(&mut self.pending), tag: None });
            }
            let Some(session) = &mut self.session else {
                self.connect().await?;
                continue;
            };
            if let Some(error) = session.broken.take() {
                self.lost(Some(&error)).await;
                continue;
            }
            let ready = tokio::select! {
                biased;
                ready = session.deliveries.next() => ready,
                () = &mut session.due, if session.unacknowledged > 0 => {
                    session.acknowledge().await;
                    continue;
                }
                _ = self.look.tick(), if session.follows_log => {
                    self.look_after_markers().await;
                    continue;
                }
            };
            let Some(ready) = ready else {
                self.lost(None).await;
                continue;
            };
            if let Some(batch) = self.hand_over(ready).await {
                return Ok(batch);
            }
        }
    }

    pub(in super::super) async fn acknowledge(&mut self, tag: Tag) {
        let Some(session) = self.session.as_mut().filter(|_| tag.session == self.sessions) else { return };
        session.done(tag.last, tag.count).await;
        if tag.is_current && *self.shared.state.borrow() != State::Current {
            info!("the log is read up to now");
            self.tell(State::Current);
        }
    }

    pub(in super::super) async fn close(self) {
        if let Some(session) = self.session {
            session.close().await;
        }
    }

    /// What is in `ready`, if anything is new to the instance.
    async fn hand_over(&mut self, ready: Vec<lapin::Result<lapin::message::Delivery>>) -> Option<Batch> {
        let session = self.session.as_mut()?;
        let (mut deliveries, mut last, mut count) = (Vec::with_capacity(ready.len()), 0, 0);
        for ready in ready {
            let delivery = match ready {
                Ok(delivery) => delivery,
                Err(error) => {
                    // What came before it is here, and is delivered first.
                    session.broken = Some(error);
                    continue;
                }
            };
            (last, count) = (delivery.delivery_tag, count + 1);
            let offset = offset(&delivery);
            let body = Bytes::from(delivery.data);
            if !session.follows_log {
                deliveries.push(Delivery::of(kind_of(delivery.routing_key.as_str()), body, None, false));
                continue;
            }
            let Some(offset) = offset else {
                // A broker that knows nothing of streams, and has made a queue of it.
                warn!(queue = self.topology.queue(), "the log is no stream: delete it, and set AMQP_LOG=off");
                self.start_over(deliveries, AmqpLog::Off).await;
                return None;
            };
            if self.follower.take(offset, delivery.routing_key.as_str(), body, &mut deliveries).is_err() {
                warn!(
                    offset,
                    "the log is another one, or has lost what was to come next: triggers may have been missed"
                );
                self.start_over(deliveries, self.log).await;
                return None;
            }
        }
        if count == 0 {
            return None;
        }
        if deliveries.iter().any(|delivery| matches!(delivery, Delivery::Epoch { .. })) {
            self.marked = Instant::now();
        }
        if deliveries.is_empty() {
            session.done(last, count).await;
            return None;
        }
        let is_current = session.follows_log && self.follower.is_current();
        let tag = Tag { session: self.sessions, last, count, is_current };
        Some(Batch { deliveries, tag: Some(tag) })
    }

    /// Hands over `deliveries`, then forgets the log, and consumes anew as `log` says.
    async fn start_over(&mut self, deliveries: Vec<Delivery>, log: AmqpLog) {
        self.pending = deliveries; // before anything is waited for: the caller may give up waiting
        self.follower.start_over(&mut self.pending);
        (self.log, self.has_missed) = (log, true);
        self.end_session().await;
    }

    async fn look_after_markers(&mut self) {
        let (waited, is_confirmed) = (self.marked.elapsed(), *self.shared.confirmed.borrow() == self.number());
        if self.follower.is_proving() {
            // The stream holds a marker of now. If it were the same, the old one would have come long since.
            if is_confirmed && waited > PROOF_DEADLINE {
                self.doubt().await;
            }
            return;
        }
        self.doubtful = 0;
        let is_due = self.follower.unmarked() >= UNMARKED || waited > self.mark_after;
        if is_due && is_confirmed && waited > LOOK {
            self.want_marker();
        }
    }

    /// The broker does not hand over what was read last. One node of a cluster may lag behind; where no broker of the list
    /// does, the log has lost it.
    async fn doubt(&mut self) {
        self.doubtful += 1;
        if self.doubtful < self.retry.brokers().max(ASKED) {
            warn!("the log does not hold what was read last, trying the next broker");
            self.retry.pass_over();
            self.end_session().await;
        } else {
            warn!("the log does not hold what was read last: triggers may have been missed");
            self.doubtful = 0;
            self.start_over(Vec::new(), self.log).await;
        }
    }

    fn want_marker(&mut self) {
        self.marked = Instant::now();
        self.shared.wanted.send_modify(|wanted| {
            wanted.number += 1;
            wanted.session = self.sessions;
        });
    }

    /// Of the last marker that was wanted.
    fn number(&self) -> u64 {
        self.shared.wanted.borrow().number
    }

    async fn connect(&mut self) -> Result<(), Unusable> {
        let uri = self.retry.next().await.clone();
        let topology = self.topology.clone();
        let opened = match Opening::begin(&uri, &topology, self.log).await {
            Ok(opening) => {
                self.sessions += 1;
                match (&opening.log, self.log) {
                    (Log::Stream { adopted }, _) => {
                        if let Some(how) = adopted {
                            warn!(
                                queue = self.topology.queue(),
                                how, "the log is kept as it was declared earlier; to change that, delete it"
                            );
                        }
                        let start = self.follower.begin(self.sessions);
                        // From somewhat earlier, as what comes before the first marker is of no use.
                        opening.follow(start, self.read_back + self.read_back / MARK_AGE * 2).await
                    }
                    (Log::None(reason), AmqpLog::Stream) => {
                        let reason = reason.clone();
                        opening.close().await;
                        return Err(Unusable(format!("AMQP_LOG is stream, but RabbitMQ cannot keep a log: {reason}")));
                    }
                    (Log::Unavailable(reason), log)
                        if log == AmqpLog::Stream || self.unavailable_since().elapsed() < UNAVAILABLE =>
                    {
                        let error = Error::Unavailable { host: super::host(&uri), reason: reason.clone() };
                        opening.close().await;
                        Err(error)
                    }
                    (Log::None(reason) | Log::Unavailable(reason), _) => {
                        if self.log == AmqpLog::Auto {
                            warn!(reason, "RabbitMQ keeps no log: what is published while it is away is lost");
                        }
                        opening.queue().await
                    }
                }
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok(session) => {
                info!(
                    host = %uri.authority.host, port = uri.authority.port, exchange = self.topology.exchange_name(),
                    log = session.follows_log, "consuming from RabbitMQ"
                );
                self.retry.succeeded();
                self.shared.has_log.send_replace(Some(session.follows_log));
                self.unavailable_since = None;
                if session.follows_log {
                    self.tell(State::Behind);
                    self.want_marker();
                } else {
                    if std::mem::take(&mut self.has_missed) {
                        // Nor does anything go on from a log that there was before, or will be again.
                        self.follower.start_over(&mut self.pending);
                        self.pending.push(Delivery::Missed);
                    }
                    self.tell(State::Current);
                }
                self.session = Some(session);
            }
            Err(error @ Error::NoLog { .. }) if self.log == AmqpLog::Stream => {
                return Err(Unusable(format!("AMQP_LOG is stream, but {error}")));
            }
            Err(error) => {
                if matches!(error, Error::NoLog { .. }) {
                    self.log = AmqpLog::Off;
                }
                self.has_missed = true;
                self.tell(State::Away);
                self.metrics.broker_failures.inc();
                self.retry.failed(&error);
                warn!(error = &error as &dyn std::error::Error, "cannot consume from RabbitMQ, trying again");
            }
        }
        Ok(())
    }

    /// Since when RabbitMQ cannot get at the log.
    fn unavailable_since(&mut self) -> Instant {
        *self.unavailable_since.get_or_insert_with(Instant::now)
    }

    async fn lost(&mut self, error: Option<&lapin::Error>) {
        self.has_missed = true;
        self.metrics.broker_failures.inc();
        let follows_log = self.session.as_ref().is_some_and(|session| session.follows_log);
        let what = match follows_log {
            true => "triggers published meanwhile arrive later",
            false => "triggers published meanwhile do not arrive",
        };
        match error {
            Some(error) => warn!(%error, "lost RabbitMQ: {what}"),
            None => warn!("RabbitMQ ended the consumer: {what}"),
        }
        self.end_session().await;
    }

    async fn end_session(&mut self) {
        self.tell(State::Away);
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    fn tell(&self, state: State) {
        self.shared.state.send_replace(state);
        self.metrics.broker_consuming.set((state == State::Current).into());
    }
}

/// Where in the log it stands.
fn offset(delivery: &lapin::message::Delivery) -> Option<u64> {
    let headers = delivery.properties.headers().as_ref()?;
    match headers.inner().get("x-stream-offset")? {
        AMQPValue::LongLongInt(offset) => u64::try_from(*offset).ok(),
        AMQPValue::LongInt(offset) => u64::try_from(*offset).ok(),
        AMQPValue::LongUInt(offset) => Some(u64::from(*offset)),
        AMQPValue::Timestamp(offset) => Some(*offset),
        _ => None,
    }
}
