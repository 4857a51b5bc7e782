//! Publishing to RabbitMQ with confirms.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::{
    sync::watch,
    time::{Instant, interval, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{super::Error, ROUTING_KEY, Retry, close, connect};
use crate::config;

/// How long the broker may take to confirm.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(10);
/// How long publishing waits for its connection while the consumer has one.
const CATCH_UP: Duration = Duration::from_secs(1);
/// How often an unused connection is looked at.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub(in super::super) struct Publisher {
    exchange: String,
    channel: watch::Receiver<Option<Channel>>,
    /// Whether RabbitMQ takes nothing at present, short of memory or disk.
    is_blocked: watch::Receiver<bool>,
    /// Whether this instance would receive what it publishes.
    consuming: watch::Receiver<bool>,
}

/// The publisher, and what keeps its connection until `stop`.
pub(super) fn open(
    config: config::Rabbitmq,
    consuming: watch::Receiver<bool>,
    stop: CancellationToken,
) -> (Publisher, impl Future<Output = ()> + Send) {
    let (sender, channel) = watch::channel(None);
    let (block, is_blocked) = watch::channel(false);
    let exchange = config.exchange.clone();
    let upkeep = async move {
        let mut retry = Retry::new(config.uris);
        while !stop.is_cancelled() {
            keep(&mut retry, &config.exchange, &sender, &block, &stop).await;
        }
    };
    (Publisher { exchange, channel, is_blocked, consuming }, upkeep)
}

/// One life of the connection.
async fn keep(
    retry: &mut Retry,
    exchange: &str,
    sender: &watch::Sender<Option<Channel>>,
    block: &watch::Sender<bool>,
    stop: &CancellationToken,
) {
    let prepared = tokio::select! {
        () = stop.cancelled() => return,
        prepared = prepare(retry, exchange) => prepared,
    };
    let connection = match prepared {
        Ok((connection, channel)) => {
            sender.send_replace(Some(channel));
            connection
        }
        Err(error) => {
            // The consumer's own attempt has said so where it is seen.
            debug!(error = &*error, "cannot publish to RabbitMQ, trying again");
            return;
        }
    };
    retry.succeeded();
    let mut look = interval(LOOK);
    while is_alive(&connection, sender) {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => {
                block.send_replace(connection.status().blocked());
            }
        }
    }
    sender.send_replace(None);
    block.send_replace(false);
    close(&connection).await;
}

fn is_alive(connection: &Connection, sender: &watch::Sender<Option<Channel>>) -> bool {
    connection.status().connected() && sender.borrow().as_ref().is_some_and(|channel| channel.status().connected())
}

async fn prepare(
    retry: &mut Retry,
    exchange: &str,
) -> Result<(Connection, Channel), Box<dyn std::error::Error + Send + Sync>> {
    let uri = retry.next().await;
    let connected = connect(uri, exchange, "publisher").await;
    let (connection, channel) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            retry.failed(&error);
            return Err(error.into());
        }
    };
    timeout(CONFIRM_DEADLINE, channel.confirm_select(ConfirmSelectOptions::default())).await??;
    info!("publishing to RabbitMQ");
    Ok((connection, channel))
}

impl Publisher {
    /// The channel; where the broker is there, its connection may be a moment behind the consumer's.
    async fn channel(&self) -> Option<Channel> {
        let mut channel = self.channel.clone();
        timeout(CATCH_UP, channel.wait_for(Option::is_some)).await.ok()?.ok()?.clone()
    }

    pub(in super::super) async fn publish(&self, body: Bytes) -> Result<(), Error> {
        let channel = self.usable_channel().await.ok_or(Error::Away)?;
        let deadline = Instant::now() + CONFIRM_DEADLINE;
        confirmed(self.send(&channel, &body, deadline).await?, deadline).await
    }

    pub(in super::super) async fn publish_all(&self, bodies: Vec<Bytes>) -> Vec<Result<(), Error>> {
        let channel = self.usable_channel().await;
        let deadline = Instant::now() + CONFIRM_DEADLINE; // for all of them
        let mut sent = Vec::with_capacity(bodies.len());
        for body in bodies {
            // One after the other, which gives them their order; what is waited for all at once is the confirmation.
            sent.push(match &channel {
                Some(channel) => self.send(channel, &body, deadline).await,
                None => Err(Error::Away),
            });
        }
        let confirmed = sent.into_iter().map(|sent| async { confirmed(sent?, deadline).await });
        join_all(confirmed).await
    }

    /// The channel, where what it takes would be taken by the broker and come back to this instance.
    async fn usable_channel(&self) -> Option<Channel> {
        if !*self.consuming.borrow() {
            return None;
        }
        let channel = self.channel().await?;
        (!*self.is_blocked.borrow()).then_some(channel)
    }

    async fn send(&self, channel: &Channel, body: &[u8], deadline: Instant) -> Result<PublisherConfirm, Error> {
        // Mandatory: a trigger that no queue takes comes back instead of being confirmed into the void.
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let exchange = self.exchange.as_str().into();
        let sending = channel.basic_publish(exchange, ROUTING_KEY.into(), options, body, BasicProperties::default());
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
