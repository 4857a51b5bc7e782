//! The publisher's connection: sets the exchange up, writes the markers that the consumer wants, and reconnects for ever.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use lapin::{Channel, Connection, uri::AMQPUri};
use tokio::{
    sync::watch,
    time::{Instant, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    super::Publishing,
    CLOSE_DEADLINE, CONNECT_DEADLINE, Error, Log, Retry, Topology, close, connect, host,
    line::{Carrier, Failure, Line},
    marker::{MARKER_KEY, Marker, Wanted},
    proof::{PROVEN_KEYS, Proof},
    publisher::{CONFIRM_DEADLINE, Lines},
    shared::{Complaint, Confirmed, Shared},
    sizes::Sizes,
    topology::is_not_found,
    within_deadline,
};
use crate::{
    config::{self, AmqpLog},
    logging::{chain, limited},
    metrics::Metrics,
};

/// How often the connection is looked at while nothing happens on it.
const LOOK: Duration = Duration::from_millis(500);
/// Time between two markers that prove that the log is bound for all keys.
const PROOFS_EVERY: Duration = Duration::from_secs(20);
/// How long the broker may take to confirm a marker: as long as anything else that is published.
const MARK_DEADLINE: Duration = CONFIRM_DEADLINE;

/// Keeps the publisher's connection.
pub(super) struct Upkeep {
    topology: Topology,
    log: AmqpLog,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    sizes: Arc<Sizes>,
    lines: watch::Sender<Option<Lines>>,
    retry: Retry,
    complaint: Complaint,
    /// The exchange has passed nothing on to the log, and the log does not say so yet: a number for that.
    unbound: Option<u64>,
}

/// What has become of a marker.
#[derive(Debug)]
enum Marked {
    /// RabbitMQ has passed the one with this sequence number on to some queue.
    Accepted(u64),
    /// No queue took it.
    Returned,
    /// RabbitMQ did not take it, and says why.
    Refused(lapin::Error),
    /// It may be in the log or not, for this reason.
    Unknown(&'static str),
}

impl Upkeep {
    pub(super) fn new(
        config: config::Rabbitmq,
        shared: Arc<Shared>,
        metrics: Arc<Metrics>,
        sizes: Arc<Sizes>,
        lines: watch::Sender<Option<Lines>>,
    ) -> Self {
        Self {
            topology: Topology::new(&config),
            log: config.log,
            shared,
            metrics,
            sizes,
            lines,
            retry: Retry::new(config.uris),
            complaint: Complaint::default(),
            unbound: None,
        }
    }

    /// Runs until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        stop.clone().run_until_cancelled(self.run_for_ever(&stop)).await;
        self.lines.send_replace(None);
    }

    async fn run_for_ever(&mut self, stop: &CancellationToken) {
        // The consumer finds out whether there is a log.
        let mut has_log = self.shared.has_log.subscribe();
        if has_log.wait_for(Option::is_some).await.is_err() {
            return;
        }
        loop {
            let uri = self.retry.next().await.clone();
            let outcome = Box::pin(self.live(&uri, stop)).await; // large, and seldom made
            self.lines.send_replace(None);
            self.metrics.broker_failures.inc();
            let reason = match outcome {
                Err(error) => {
                    self.retry.failed(&error);
                    chain(&error)
                }
                Ok(()) => "the connection ended".to_owned(),
            };
            self.complaint.tell("cannot publish to RabbitMQ", &reason);
            self.tell(Publishing::Away(Some(reason.into())));
        }
    }

    /// One life of the connection.
    async fn live(&mut self, uri: &AMQPUri, stop: &CancellationToken) -> Result<(), Error> {
        let connection = Arc::new(connect(uri, "publisher").await?);
        let outcome = self.publish_on(uri, &connection, stop).await;
        close(&connection).await;
        outcome
    }

    async fn publish_on(
        &mut self,
        uri: &AMQPUri,
        connection: &Arc<Connection>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        self.sizes.forget();
        let (exchange, sizes) = (self.topology.exchange_name().to_owned(), &self.sizes);
        let open = |is_careful| Carrier::open(connection.clone(), &exchange, sizes.clone(), is_careful);
        let opening = async { tokio::try_join!(biased; open(false), open(true)) };
        let ((common, carrier), (careful, careful_carrier)) = within_deadline(uri, opening).await??;
        let lines = Lines { common, careful };
        let stop = stop.child_token();
        let carrying = async { tokio::join!(carrier.run(&stop), careful_carrier.run(&stop)) };
        tokio::pin!(carrying);
        let outcome = tokio::select! {
            outcome = self.keep(uri, connection, &lines) => {
                stop.cancel();
                outcome
            }
            (common, careful) = &mut carrying => {
                return match common.or(careful) {
                    Some(source) => Err(Error::Failed { host: host(uri), source }),
                    None => Ok(()),
                };
            }
        };
        // What was not sent is told so, and what was has its outcome as soon as the connection has ended.
        close(connection).await;
        let ended = timeout(CLOSE_DEADLINE, carrying).await.ok();
        match (outcome, ended.and_then(|(common, careful)| common.or(careful))) {
            (Ok(()), Some(source)) => Err(Error::Failed { host: host(uri), source }),
            (outcome, _) => outcome,
        }
    }

    /// Sets the exchange up, hands the channels out, and writes markers, until the connection ends.
    async fn keep(&mut self, uri: &AMQPUri, connection: &Connection, lines: &Lines) -> Result<(), Error> {
        let mut wanted = self.shared.wanted.subscribe();
        let mut unbound = self.shared.unbound.subscribe();
        let mut events = connection.events_listener();
        let mut look = interval(LOOK);
        let (mut is_set_up, mut is_returned, mut proven) = (false, false, None);
        while connection.status().connected() {
            let is_blocked = connection.status().blocked();
            // Before any marker is written: one that goes another way than the log would be waited for.
            if unbound.has_changed().unwrap_or_default() && self.shared.follows_log() {
                unbound.mark_unchanged();
                is_set_up = false;
            }
            if !is_set_up && !is_blocked {
                self.set_up(uri, connection, &lines.common).await?;
                is_set_up = true;
                if self.lines.send_replace(Some(lines.clone())).is_none() {
                    info!("publishing to RabbitMQ");
                }
                self.retry.succeeded();
            }
            self.tell(if is_blocked { Publishing::Blocked } else { Publishing::Open });
            let want = *wanted.borrow_and_update();
            if !is_blocked && self.shared.confirmed.borrow().request < want.request {
                let proves = self.shared.follows_log() && proven.is_none_or(|at: Instant| at.elapsed() > PROOFS_EVERY);
                match self.mark(connection, &lines.common, &want, proves).await {
                    Marked::Accepted(number) => {
                        is_returned = false;
                        if proves {
                            proven = Some(Instant::now());
                        }
                        self.complaint.settle();
                        let confirmed = Confirmed { request: want.request, number, at: Instant::now() };
                        self.shared.confirmed.send_replace(confirmed);
                    }
                    Marked::Returned if self.shared.follows_log() => {
                        limited!(warn, "the exchange does not pass messages on to the log: the log is bound again");
                        is_set_up = false;
                        // At once, but not again and again.
                        if !std::mem::replace(&mut is_returned, true) {
                            continue;
                        }
                    }
                    // The consumer binds its queue anew.
                    Marked::Returned => self.shared.unbound.send_modify(|count| *count += 1),
                    Marked::Refused(source) => return Err(Error::Failed { host: host(uri), source }),
                    Marked::Unknown(reason) => self.complaint.tell("RabbitMQ does not take a marker", reason),
                }
            }
            tokio::select! {
                _ = look.tick() => {}
                Some(_) = events.next() => {} // perhaps its end
                _ = wanted.changed() => {}
                _ = unbound.changed(), if self.shared.follows_log() => is_set_up = false,
            }
        }
        Ok(())
    }

    /// Makes sure that the exchange is there and passes on to the log what is published.
    ///
    /// The exchange that 3.1 declares is gone when RabbitMQ is restarted. A publisher that declares it before an instance has
    /// bound the log publishes to nobody. So an exchange that is found gets a marker before it is bound: where that marker does
    /// not come to the log, triggers may not have come either, and the next one says so. One that is not there is declared only
    /// when the log is there, and bound in the same breath, while no other instance looks.
    async fn set_up(&mut self, uri: &AMQPUri, connection: &Connection, line: &Line) -> Result<(), Error> {
        if !self.shared.follows_log() {
            return within_deadline(uri, async { self.topology.exchange(connection).await.map(drop) }).await?;
        }
        match within_deadline(uri, self.topology.log(connection, self.log)).await?? {
            Log::Stream { .. } => {}
            Log::None(reason) => return Err(Error::NoLog { host: host(uri), reason }),
            Log::Unavailable(reason) => return Err(Error::Unavailable { host: host(uri), reason }),
        }
        let lock = within_deadline(uri, self.topology.lock(connection)).await??;
        let outcome = self.declare(uri, connection, line).await;
        if let Some(lock) = lock {
            let _ = timeout(CLOSE_DEADLINE, lock.release()).await;
        }
        outcome
    }

    async fn declare(&mut self, uri: &AMQPUri, connection: &Connection, line: &Line) -> Result<(), Error> {
        let channel: Channel = within_deadline(uri, connection.create_channel()).await??;
        let found = timeout(CONNECT_DEADLINE, self.topology.find_exchange(&channel)).await;
        let found = found.map_err(|_| Error::TimedOut { host: host(uri) })?;
        match found {
            Ok(()) => {
                let is_bound = self.mark_set_up(uri, connection, line).await?;
                self.unbound = (!is_bound).then(|| self.shared.next_number());
                within_deadline(uri, self.topology.bind(&channel)).await??;
                let _ = timeout(CLOSE_DEADLINE, channel.close(200, "done".into())).await;
                if is_bound {
                    return Ok(());
                }
            }
            Err(error) if is_not_found(&error) => {
                let declaring = async {
                    let channel = connection.create_channel().await?; // the first one has ended with the error
                    self.topology.declare_bound(&channel).await?;
                    channel.close(200, "done".into()).await
                };
                within_deadline(uri, declaring).await??;
            }
            Err(error) => return Err(Error::Failed { host: host(uri), source: error }),
        }
        if self.mark_set_up(uri, connection, line).await? {
            self.unbound = None;
        }
        Ok(())
    }

    /// Writes a marker that shows how far this instance has read, and says what it owes. Whether it has come to the log, as far
    /// as RabbitMQ says.
    async fn mark_set_up(&self, uri: &AMQPUri, connection: &Connection, line: &Line) -> Result<bool, Error> {
        let owed = Wanted {
            request: 0,
            begins_epoch: false,
            is_after_gap: false,
            unbound: self.unbound,
            ..*self.shared.wanted.borrow()
        };
        match self.mark(connection, line, &owed, false).await {
            Marked::Accepted(_) => Ok(true),
            Marked::Returned => Ok(false),
            Marked::Refused(source) => Err(Error::Failed { host: host(uri), source }),
            Marked::Unknown(_) => Err(Error::TimedOut { host: host(uri) }),
        }
    }

    /// Writes a marker, and waits until it is known what has become of it: as long as RabbitMQ takes nothing, that is not known.
    /// Proofs go before it where it `proves` that the log is bound for all keys.
    async fn mark(&self, connection: &Connection, line: &Line, wanted: &Wanted, proves: bool) -> Marked {
        let number = self.shared.next_number();
        let progress = self.shared.progress.lock().clone();
        let mut marker = Marker::new(self.shared.instance, number, progress, wanted);
        marker.has_proofs = proves;
        let own_key = self.topology.marker_key(self.shared.instance);
        let key = if self.shared.follows_log() { MARKER_KEY } else { own_key.as_str() };
        let sending = async {
            // Whether they are returned or not, they are missing before the marker or not, which is what tells. A message that
            // nobody waits for is not published.
            let mut proofs = Vec::new();
            if proves {
                let proof = Bytes::from(Proof { instance: self.shared.instance, number }.body());
                for key in PROVEN_KEYS {
                    proofs.push(line.send(key, None, proof.clone()).await?);
                }
            }
            match line.send(key, None, marker.body().into()).await {
                Ok(sent) => sent.outcome().await,
                Err(failure) => Err(failure),
            }
        };
        tokio::pin!(sending);
        let mut since = Instant::now();
        let outcome = loop {
            match timeout(LOOK, &mut sending).await {
                Ok(outcome) => break outcome,
                Err(_) if connection.status().blocked() => {
                    self.tell(Publishing::Blocked);
                    since = Instant::now();
                }
                Err(_) if since.elapsed() < MARK_DEADLINE => {}
                Err(_) => return Marked::Unknown("no confirmation in time"),
            }
        };
        match outcome {
            Ok(()) => {
                self.shared.accepted.lock().insert(number);
                Marked::Accepted(number)
            }
            Err(Failure::Returned) => {
                self.shared.accepted.lock().insert(number);
                Marked::Returned
            }
            Err(Failure::Refused(Some(error))) => Marked::Refused(error),
            Err(Failure::Refused(None)) => Marked::Unknown("RabbitMQ did not accept it"),
            Err(Failure::NotSent) => Marked::Unknown("the connection ended"),
            Err(Failure::TooLarge(_)) => Marked::Unknown("it is larger than RabbitMQ takes"),
        }
    }

    fn tell(&self, publishing: Publishing) {
        let before = self.shared.publishing.send_replace(publishing.clone());
        let is_blocked = publishing == Publishing::Blocked;
        if is_blocked != (before == Publishing::Blocked) {
            self.metrics.broker_publishing_blocked.set(is_blocked.into());
            if is_blocked {
                warn!("RabbitMQ blocks publishers, short of memory or disk: triggers are refused until its alarm ends");
            } else {
                info!("RabbitMQ no longer blocks publishers");
            }
        }
    }
}
