//! Publishing to RabbitMQ with confirms.

use std::time::Duration;

use bytes::Bytes;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use tokio::{
    sync::watch,
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{super::Error, ROUTING_KEY, Retry, close, connect};
use crate::config;

/// How long the broker may take to confirm.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(10);
/// How often an unused connection is looked at.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub(in super::super) struct Publisher {
    exchange: String,
    channel: watch::Receiver<Option<Channel>>,
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
    let exchange = config.exchange.clone();
    let upkeep = async move {
        let mut retry = Retry::new(config.uris);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = keep(&mut retry, &config.exchange, &sender, &stop) => {}
            }
        }
    };
    (Publisher { exchange, channel, consuming }, upkeep)
}

/// One life of the connection.
async fn keep(retry: &mut Retry, exchange: &str, sender: &watch::Sender<Option<Channel>>, stop: &CancellationToken) {
    let uri = retry.next().await;
    let connection = match prepare(uri, exchange).await {
        Ok((connection, channel)) => {
            info!(host = %uri.authority.host, port = uri.authority.port, "publishing to RabbitMQ");
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
            _ = look.tick() => {}
        }
    }
    sender.send_replace(None);
    close(&connection).await;
}

fn is_alive(connection: &Connection, sender: &watch::Sender<Option<Channel>>) -> bool {
    connection.status().connected() && sender.borrow().as_ref().is_some_and(|channel| channel.status().connected())
}

async fn prepare(
    uri: &lapin::uri::AMQPUri,
    exchange: &str,
) -> Result<(Connection, Channel), Box<dyn std::error::Error + Send + Sync>> {
    let (connection, channel) = connect(uri, exchange, "publisher").await?;
    timeout(CONFIRM_DEADLINE, channel.confirm_select(ConfirmSelectOptions::default())).await??;
    Ok((connection, channel))
}

impl Publisher {
    pub(in super::super) async fn publish(&self, body: Bytes) -> Result<(), Error> {
        let channel = self.channel.borrow().clone();
        let Some(channel) = channel.filter(|_| *self.consuming.borrow()) else { return Err(Error::Away) };
        let sending = async {
            // Mandatory: a trigger that no queue takes comes back instead of being confirmed into the void.
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let exchange = self.exchange.as_str().into();
            let properties = BasicProperties::default();
            channel.basic_publish(exchange, ROUTING_KEY.into(), options, &body, properties).await?.await
        };
        match timeout(CONFIRM_DEADLINE, sending).await {
            Ok(Ok(Confirmation::Ack(None))) => Ok(()),
            Ok(Ok(Confirmation::Ack(Some(_)))) => Err(Error::Away),
            Ok(Ok(_)) => Err(Error::Refused(None)),
            Ok(Err(error)) => Err(Error::Refused(Some(error))),
            Err(_) => Err(Error::TimedOut(CONFIRM_DEADLINE)),
        }
    }
}
