//! Publishing to RabbitMQ with confirms.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, future::join_all};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    uri::AMQPUri,
};
use tokio::{
    sync::watch,
    time::{Instant, interval, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    super::{Error, Kind, State},
    Retry, Topology, close, connect,
    consumer::Shared,
    marker::{MARKER_KEY, Marker},
    routing_key, within_deadline,
};
use crate::config::{self, AmqpLog};

/// How long the broker may take to confirm.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(10);
/// How long publishing waits for its connection.
const CATCH_UP: Duration = Duration::from_secs(1);
/// How often an unused connection is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long the broker may take to confirm a marker.
const MARK_DEADLINE: Duration = Duration::from_secs(2);
/// How long another instance may take to bind the log to an exchange that it has declared.
const BINDING: Duration = Duration::from_millis(300);

#[derive(Debug, Clone)]
pub(in super::super) struct Publisher {
    exchange: String,
    channel: watch::Receiver<Option<Channel>>,
    /// Whether RabbitMQ takes nothing at present, short of memory or disk.
    is_blocked: watch::Receiver<bool>,
    shared: Arc<Shared>,
}

/// Keeps the publisher's connection.
#[derive(Debug)]
struct Upkeep {
    topology: Topology,
    log: AmqpLog,
    shared: Arc<Shared>,
    channel: watch::Sender<Option<Channel>>,
    is_blocked: watch::Sender<bool>,
}

/// The publisher, and what keeps its connection until `stop`.
pub(super) fn open(
    config: config::Rabbitmq,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> (Publisher, impl Future<Output = ()> + Send) {
    let (sender, channel) = watch::channel(None);
    let (block, is_blocked) = watch::channel(false);
    let publisher = Publisher { exchange: config.exchange.clone(), channel, is_blocked, shared: shared.clone() };
    let upkeep =
        Upkeep { topology: Topology::new(&config), log: config.log, shared, channel: sender, is_blocked: block };
    let upkeep = async move {
        let mut retry = Retry::new(config.uris);
        stop.run_until_cancelled(upkeep.run(&mut retry)).await;
        if let Some(channel) = upkeep.channel.send_replace(None) {
            let _ = timeout(super::CLOSE_DEADLINE, channel.close(200, "bye".into())).await;
        }
    };
    (publisher, upkeep)
}

impl Upkeep {
    async fn run(&self, retry: &mut Retry) {
        // The consumer finds out whether there is a log.
        let mut has_log = self.shared.has_log.subscribe();
        if has_log.wait_for(Option::is_some).await.is_err() {
            return;
        }
        loop {
            let uri = retry.next().await.clone();
            let connection = match connect(&uri, "publisher").await {
                Ok(connection) => connection,
                Err(error) => {
                    retry.failed(&error);
                    // The consumer's own attempt has said so where it is seen.
                    debug!(error = &error as &dyn std::error::Error, "cannot publish to RabbitMQ, trying again");
                    continue;
                }
            };
            match self.prepare(&uri, &connection).await {
                Ok(channel) => {
                    info!("publishing to RabbitMQ");
                    retry.succeeded();
                    self.channel.send_replace(Some(channel.clone()));
                    self.keep(&connection, &channel).await;
                    self.channel.send_replace(None);
                    self.is_blocked.send_replace(false);
                }
                Err(error @ super::Error::Exchange(_)) => warn!(%error, "cannot publish to RabbitMQ"),
                Err(error) => {
                    retry.failed(&error);
                    debug!(error = &error as &dyn std::error::Error, "cannot publish to RabbitMQ, trying again");
                }
            }
            close(&connection).await;
        }
    }

    /// One life of the connection: writes the markers that are wanted.
    async fn keep(&self, connection: &Connection, channel: &Channel) {
        let (mut wanted, mut look) = (self.shared.wanted.subscribe(), interval(LOOK));
        let mut events = connection.events_listener();
        wanted.mark_changed(); // what was wanted while there was no connection
        while connection.status().connected() && channel.status().connected() {
            self.is_blocked.send_replace(connection.status().blocked());
            tokio::select! {
                _ = look.tick() => {}
                Some(_) = events.next() => {} // perhaps its end
                changed = wanted.changed() => {
                    let number = wanted.borrow_and_update().number;
                    let is_due = changed.is_ok() && self.has_log() && *self.shared.confirmed.borrow() < number;
                    if !is_due {
                        continue;
                    }
                    // One that does not arrive is wanted again as long as the connection is there. Perhaps the log was deleted,
                    // and is not bound any more.
                    let marking = async { !connection.status().blocked() && matches!(self.bind(channel, true).await, Ok(true)) };
                    if !timeout(MARK_DEADLINE, marking).await.unwrap_or_default() {
                        self.is_blocked.send_replace(connection.status().blocked());
                        sleep(LOOK).await;
                        wanted.mark_changed();
                    }
                }
            }
        }
    }

    fn has_log(&self) -> bool {
        *self.shared.has_log.borrow() == Some(true)
    }

    async fn prepare(&self, uri: &AMQPUri, connection: &Connection) -> Result<Channel, super::Error> {
        within_deadline(uri, async {
            let (channel, was_there) = self.topology.exchange(connection).await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            if !self.has_log() {
                return Ok(Ok(channel));
            }
            self.topology.log(connection, self.log).await?;
            Ok::<_, lapin::Error>(match self.bind(&channel, was_there).await? {
                true => Ok(channel),
                false => Err(super::Error::Exchange(self.topology.exchange_name().to_owned())),
            })
        })
        .await??
    }

    /// Has the exchange pass on to the log what is published, and marks it if that may not have been so all the time.
    /// Whether it does now.
    ///
    /// The exchange that 3.1 declares is gone when RabbitMQ is restarted. A publisher that declares it before we have bound
    /// the log publishes to nobody; who finds the exchange without the binding tells everybody so.
    async fn bind(&self, channel: &Channel, was_there: bool) -> lapin::Result<bool> {
        if self.mark(channel, false).await? {
            return Ok(true);
        }
        if was_there {
            sleep(BINDING).await;
            if self.mark(channel, false).await? {
                return Ok(true);
            }
            warn!("the exchange did not pass on to the log what was published: triggers may have been missed");
        }
        self.topology.bind(channel).await?;
        self.mark(channel, was_there).await
    }

    /// Writes a marker. Whether it has come to the log.
    async fn mark(&self, channel: &Channel, is_after_gap: bool) -> lapin::Result<bool> {
        let wanted = *self.shared.wanted.borrow();
        let marker = Marker::new(self.shared.instance, wanted.session, is_after_gap);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, body) = (self.topology.exchange_name().into(), marker.body());
        let properties = BasicProperties::default();
        let confirm = channel.basic_publish(exchange, MARKER_KEY.into(), options, &body, properties).await?.await?;
        let has_come = matches!(confirm, Confirmation::Ack(None));
        if has_come {
            self.shared.confirmed.send_replace(wanted.number);
        }
        Ok(has_come)
    }
}

impl Publisher {
    /// The channel; there is another one in a moment where the broker has come back, or another one of the list is there.
    async fn channel(&self) -> Option<Channel> {
        let mut channel = self.channel.clone();
        let is_open = |channel: &Option<Channel>| channel.as_ref().is_some_and(|channel| channel.status().connected());
        timeout(CATCH_UP, channel.wait_for(is_open)).await.ok()?.ok()?.clone()
    }

    pub(in super::super) async fn publish(&self, kind: Kind, body: Bytes) -> Result<(), Error> {
        let channel = self.usable_channel().await.ok_or(Error::Away)?;
        let deadline = Instant::now() + CONFIRM_DEADLINE;
        confirmed(self.send(&channel, kind, &body, deadline).await?, deadline).await
    }

    pub(in super::super) async fn publish_all(&self, bodies: Vec<Bytes>) -> Vec<Result<(), Error>> {
        let channel = self.usable_channel().await;
        let deadline = Instant::now() + CONFIRM_DEADLINE; // for all of them
        let mut sent = Vec::with_capacity(bodies.len());
        for body in bodies {
            // One after the other, which gives them their order; what is waited for all at once is the confirmation.
            sent.push(match &channel {
                Some(channel) => self.send(channel, Kind::Trigger, &body, deadline).await,
                None => Err(Error::Away),
            });
        }
        let confirmed = sent.into_iter().map(|sent| async { confirmed(sent?, deadline).await });
        join_all(confirmed).await
    }

    /// The channel, where what it takes would be taken by the broker and come back to this instance: at once, or, where there
    /// is a log, when it is there again.
    async fn usable_channel(&self) -> Option<Channel> {
        let has_log = *self.shared.has_log.borrow() == Some(true);
        if !has_log && *self.shared.state.borrow() != State::Current {
            return None;
        }
        let channel = self.channel().await?;
        (!*self.is_blocked.borrow()).then_some(channel)
    }

    async fn send(
        &self,
        channel: &Channel,
        kind: Kind,
        body: &[u8],
        deadline: Instant,
    ) -> Result<PublisherConfirm, Error> {
        // Mandatory: a trigger that no queue takes comes back instead of being confirmed into the void.
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let exchange = self.exchange.as_str().into();
        let key = routing_key(kind).into();
        let sending = channel.basic_publish(exchange, key, options, body, BasicProperties::default());
        match timeout_at(deadline, sending).await {
            Ok(sent) => sent.map_err(|error| Error::Refused(Some(error))),
            Err(_) => Err(Error::TimedOut(CONFIRM_DEADLINE)),
        }
    }
}

async fn confirmed(sent: PublisherConfirm, deadline: Instant) -> Result<(), Error> {
    match timeout_at(deadline, sent).await {
        Ok(Ok(Confirmation::Ack(None))) => Ok(()),
        Ok(Ok(Confirmation::Ack(Some(_)))) => Err(Error::Away),
        Ok(Ok(_)) => Err(Error::Refused(None)),
        Ok(Err(error)) => Err(Error::Refused(Some(error))),
        Err(_) => Err(Error::TimedOut(CONFIRM_DEADLINE)),
    }
}
