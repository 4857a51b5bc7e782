//! Consuming from RabbitMQ, for ever.

mod markers;

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
    super::{Batch, Delivery, Publishing, State, Unusable},
    Error, Log, Retry, Topology,
    follower::{Broken, Entry, Follower, Taken},
    host, kind_of,
    line::INSTANCE_HEADER,
    marker::{MARKER_KEY, Marker},
    poison::Poison,
    session::{Opening, Session},
    shared::{Complaint, Shared},
};
use crate::{
    config::{self, AmqpLog},
    logging::{chain, limited},
    metrics::Metrics,
};

/// How often is looked whether a marker is due.
const LOOK: Duration = Duration::from_secs(1);
/// How long RabbitMQ may take to get at the log, as after a crash, before it is done without.
const UNAVAILABLE: Duration = Duration::from_secs(60);
/// The part of what is read back after which there is to be another epoch.
const EPOCH_AGE: u32 = 4;

/// The consequence of a broker that keeps no log, where `AMQP_LOG` is `auto`.
const WITHOUT_LOG: &str =
    "RabbitMQ keeps no log, and the server goes on without one: what is published while RabbitMQ is away is lost";

/// Consumes from RabbitMQ, and reconnects for ever.
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
    poison: Poison,
    /// To be handed over next.
    pending: Vec<Delivery>,
    /// With that, the log is read to its end, though no marker can come.
    is_read_while_blocked: bool,
    /// Without a log: triggers may have passed by since the last delivery.
    has_missed: bool,
    /// Markers still say how far the log was read that this one does not go on with.
    is_witness: bool,
    /// All instances are to be told that triggers may be missing, by the next marker.
    tells_gap: bool,
    /// Since when RabbitMQ cannot get at the log.
    unavailable_since: Option<Instant>,
    /// Brokers, one after the other, that did not hand over what was read last.
    doubtful: usize,
    /// When the last epoch began.
    epoch_began: Instant,
    /// After which another one is due, if no other instance begins one; not the same for all instances.
    epoch_every: Duration,
    /// When the last marker of this instance came, or was wanted.
    marked: Instant,
    /// The sequence number of the last one that came: it may come before RabbitMQ's confirmation.
    own_read: u64,
    /// The last marker of this instance that had been written when a gap was told.
    told_until: u64,
    /// When something came last.
    heard: Instant,
    /// Looks since then.
    quiet_looks: u32,
    /// Of the reasons to believe that the exchange is not bound, those that are known.
    unbound: u64,
    look: Interval,
    complaint: Complaint,
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
    pub(super) fn new(config: config::Rabbitmq, shared: Arc<Shared>, metrics: Arc<Metrics>) -> Self {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            topology: Topology::new(&config),
            log: config.log,
            read_back: config.read_back,
            retry: Retry::new(config.uris),
            session: None,
            sessions: 0,
            follower: Follower::new(shared.instance),
            poison: Poison::default(),
            shared,
            pending: Vec::new(),
            is_read_while_blocked: false,
            has_missed: false,
            is_witness: false,
            tells_gap: false,
            unavailable_since: None,
            doubtful: 0,
            epoch_began: Instant::now(),
            epoch_every: (config.read_back / EPOCH_AGE).mul_f64(rand::rng().random_range(1.0..1.5)),
            marked: Instant::now(),
            own_read: 0,
            told_until: 0,
            heard: Instant::now(),
            quiet_looks: 0,
            unbound: 0,
            look,
            complaint: Complaint::default(),
            metrics,
        }
    }

    pub(in super::super) fn state(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    pub(in super::super) fn publishing(&self) -> watch::Receiver<Publishing> {
        self.shared.publishing.subscribe()
    }

    /// Whether there is a log, once that is known.
    pub(in super::super) fn log(&self) -> watch::Receiver<Option<bool>> {
        self.shared.has_log.subscribe()
    }

    pub(in super::super) async fn next(&mut self) -> Result<Batch, Unusable> {
        loop {
            if !self.pending.is_empty() {
                let tag = Tag { session: self.sessions, last: 0, count: 0, is_current: self.is_read_while_blocked };
                let deliveries = std::mem::take(&mut self.pending);
                return Ok(Batch { deliveries, tag: self.is_read_while_blocked.then_some(tag) });
            }
            let Some(session) = &mut self.session else {
                Box::pin(self.connect()).await?; // large, and seldom made
                continue;
            };
            if let Some(error) = session.broken.take() {
                self.lost(Some(&error)).await;
                continue;
            }
            let ready = tokio::select! {
                biased;
                // First of all: where something is always ready, it is never too late for the rest.
                _ = self.look.tick() => {
                    Box::pin(self.look_after_markers()).await;
                    continue;
                }
                () = &mut session.due, if session.unacknowledged > 0 => {
                    session.acknowledge().await;
                    continue;
                }
                ready = session.deliveries.next() => ready,
            };
            let Some(ready) = ready else {
                self.lost(None).await;
                continue;
            };
            self.heard = Instant::now();
            self.quiet_looks = 0;
            if let Some(batch) = self.hand_over(ready).await {
                return Ok(batch);
            }
        }
    }

    pub(in super::super) async fn acknowledge(&mut self, tag: Tag) {
        let Some(session) = self.session.as_mut().filter(|_| tag.session == self.sessions) else { return };
        if tag.count > 0 {
            session.done(tag.last, tag.count).await;
        }
        if tag.is_current {
            self.become_current();
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
        let mut markers = Vec::new();
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
            let (offset, writer) = (offset(&delivery), writer(&delivery));
            let (key, body) = (delivery.routing_key.as_str(), Bytes::from(delivery.data));
            if !session.follows_log {
                match Marker::parse(&body).filter(|_| key.starts_with(MARKER_KEY)) {
                    Some(marker) if marker.session == self.sessions => {
                        markers.push(Taken { own: Some(marker.number), ..Taken::default() });
                    }
                    Some(_) => {}
                    None => deliveries.push(Delivery::of(kind_of(key), body, None, false)),
                }
                continue;
            }
            let Some(offset) = offset else {
                // A broker that knows nothing of streams, and has made a queue of it.
                warn!(queue = self.topology.queue(), "the log is no stream: delete it, and set AMQP_LOG=off");
                self.start_over(deliveries, AmqpLog::Off).await;
                return None;
            };
            match self.follower.take(Entry { offset, key, body, writer }, &mut deliveries) {
                Ok(taken) => markers.extend((taken != Taken::default()).then_some(taken)),
                Err(broken) => {
                    self.tell_broken(broken, offset);
                    // Where the log is another one, this is for those who come with a position of the last one.
                    self.tells_gap = true;
                    self.start_over(deliveries, self.log).await;
                    return None;
                }
            }
        }
        if count == 0 {
            return None;
        }
        if deliveries.iter().any(|delivery| matches!(delivery, Delivery::Epoch { .. })) {
            self.epoch_began = Instant::now();
        }
        self.metrics.broker_foreign_entries.inc_by(self.follower.take_foreign());
        let follows_log = session.follows_log;
        markers.into_iter().for_each(|taken| self.note_marker(taken));
        if !self.is_witness {
            *self.shared.progress.lock() = self.follower.progress();
        }
        let is_current = follows_log && self.is_current();
        let becomes_current = is_current && *self.shared.state.borrow() != State::Current;
        // What was handed over before is done with only when this is acknowledged, too.
        if deliveries.is_empty() && !becomes_current {
            if let Some(session) = self.session.as_mut() {
                session.done(last, count).await;
            }
            return None;
        }
        let tag = Tag { session: self.sessions, last, count, is_current };
        Some(Batch { deliveries, tag: Some(tag) })
    }

    fn tell_broken(&self, broken: Broken, offset: u64) {
        match broken {
            Broken::Replaced => {
                warn!(offset, "the log is another one, or has lost the next entries: triggers may have been missed")
            }
            Broken::LostTail => warn!(
                offset,
                "the log has lost its end, and other entries stand there now: triggers may have been missed"
            ),
        }
    }

    /// Hands over `deliveries`, then forgets the log, and consumes anew as `log` says.
    async fn start_over(&mut self, deliveries: Vec<Delivery>, log: AmqpLog) {
        self.pending = deliveries; // before anything is waited for: the caller may give up waiting
        self.follower.start_over(&mut self.pending);
        self.is_witness = true;
        self.shared.accepted.lock().clear();
        (self.log, self.has_missed) = (log, true);
        self.end_session().await;
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
                        // From somewhat earlier, as entries before the first epoch are of no use.
                        opening.follow(start, self.read_back + self.read_back / EPOCH_AGE * 2).await
                    }
                    (Log::None(reason), AmqpLog::Stream) => {
                        let reason = reason.clone();
                        opening.close().await;
                        return Err(Unusable(format!("AMQP_LOG is stream, but RabbitMQ cannot keep a log: {reason}")));
                    }
                    (Log::Unavailable(reason), log)
                        if log == AmqpLog::Stream || self.unavailable_since().elapsed() < UNAVAILABLE =>
                    {
                        let error = Error::Unavailable { host: host(&uri), reason: reason.clone() };
                        opening.close().await;
                        Err(error)
                    }
                    (Log::None(reason) | Log::Unavailable(reason), _) => {
                        if self.log == AmqpLog::Auto {
                            warn!(reason, "{WITHOUT_LOG}");
                        }
                        opening.queue(&self.topology.marker_key(self.shared.instance)).await
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
                self.complaint.settle();
                self.heard = Instant::now();
                self.quiet_looks = 0;
                if session.follows_log {
                    self.tell(State::Behind(Instant::now()));
                } else {
                    if std::mem::take(&mut self.has_missed) {
                        // Nor does anything go on from a log that there was before, or will be again.
                        self.follower.start_over(&mut self.pending);
                        self.pending.push(Delivery::Missed);
                    }
                    self.tell(State::Current);
                }
                self.unbound = *self.shared.unbound.borrow();
                self.want_marker();
                self.session = Some(session);
            }
            Err(error @ Error::NoLog { .. }) if self.log == AmqpLog::Stream => {
                return Err(Unusable(format!("AMQP_LOG is stream, but {error}")));
            }
            Err(error) => {
                let reason = chain(&error);
                if matches!(error, Error::NoLog { .. }) {
                    warn!(reason, "{WITHOUT_LOG}");
                    self.log = AmqpLog::Off;
                }
                if self.shared.has_log.borrow().is_none() {
                    // The publisher does not connect before it is known whether there is a log.
                    self.shared.publishing.send_replace(Publishing::Away(Some(reason.as_str().into())));
                }
                self.has_missed = true;
                self.tell(State::Away);
                self.metrics.broker_failures.inc();
                self.retry.failed(&error);
                self.complaint.tell("cannot consume from RabbitMQ", &reason);
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
            Some(error) => warn!(error = chain(error), "lost RabbitMQ: {what}"),
            None => warn!("RabbitMQ ended the consumer: {what}"),
        }
        if let Some(error) = error.filter(|_| follows_log)
            && self.poison.is_in_the_way(error, self.follower.last())
        {
            let offset = self.follower.skip(&mut self.pending);
            self.metrics.broker_entries_skipped.inc();
            limited!(warn, "an entry of the log ends every connection that reads it: it is passed over", offset);
        }
        self.end_session().await;
    }

    async fn end_session(&mut self) {
        self.is_read_while_blocked = false;
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

/// The instance that says it has published it.
fn writer(delivery: &lapin::message::Delivery) -> Option<Uuid> {
    let headers = delivery.properties.headers().as_ref()?;
    match headers.inner().get(INSTANCE_HEADER)? {
        AMQPValue::LongString(writer) => Uuid::try_parse_ascii(writer.as_bytes()).ok(),
        _ => None,
    }
}

/// Where in the log it stands.
pub(super) fn offset(delivery: &lapin::message::Delivery) -> Option<u64> {
    let headers = delivery.properties.headers().as_ref()?;
    match headers.inner().get("x-stream-offset")? {
        AMQPValue::LongLongInt(offset) => u64::try_from(*offset).ok(),
        AMQPValue::LongInt(offset) => u64::try_from(*offset).ok(),
        AMQPValue::LongUInt(offset) => Some(u64::from(*offset)),
        AMQPValue::Timestamp(offset) => Some(*offset),
        _ => None,
    }
}
