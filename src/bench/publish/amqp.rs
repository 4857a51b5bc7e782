//! Publishing to RabbitMQ: confirmed, but without waiting for one trigger's confirmation before the next.

use std::future::pending;

use futures::{StreamExt, stream::FuturesOrdered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};

use super::Error;
use crate::config::Uris;

/// Triggers that may wait for their confirmation at once.
const UNCONFIRMED: usize = 1024;
/// The routing key that high-templar binds its queues with.
const ROUTING_KEY: &str = "*";

/// A connection to RabbitMQ with one channel, on which triggers keep their order.
pub(super) struct Sender {
    host: String,
    exchange: String,
    channel: Channel,
    /// Kept, for it ends when it is dropped.
    _connection: Connection,
    unconfirmed: FuturesOrdered<PublisherConfirm>,
}

impl Sender {
    pub(super) async fn open(uris: &Uris, exchange: &str) -> Result<Self, Error> {
        let uri = uris.at(0);
        let host = uri.host();
        let failed = |source| Error::Rabbitmq { host: host.clone(), source };
        let properties = ConnectionProperties::default().with_connection_name("high-templar bench".into());
        let connection = Connection::connect_uri(uri.amqp().clone(), properties).await.map_err(failed)?;
        let channel = connection.create_channel().await.map_err(failed)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
        let (exchange, unconfirmed) = (exchange.to_owned(), FuturesOrdered::new());
        Ok(Self { host, exchange, channel, _connection: connection, unconfirmed })
    }

    pub(super) async fn publish(&mut self, body: &[u8]) -> Result<(), Error> {
        let (exchange, key) = (self.exchange.as_str().into(), ROUTING_KEY.into());
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let publishing = self.channel.basic_publish(exchange, key, options, body, BasicProperties::default()).await;
        let confirm = publishing.map_err(|source| Error::Rabbitmq { host: self.host.clone(), source })?;
        self.unconfirmed.push_back(confirm);
        while self.unconfirmed.len() > UNCONFIRMED {
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits for the next confirmation; for ever if there is none to come. Nothing is lost when it is given up.
    pub(super) async fn settle(&mut self) -> Result<(), Error> {
        match self.unconfirmed.next().await {
            // A message that comes back was not routed: nobody has bound a queue.
            Some(Ok(Confirmation::Ack(None))) => Ok(()),
            Some(Ok(_)) => Err(Error::NotConfirmed(self.host.clone())),
            Some(Err(source)) => Err(Error::Rabbitmq { host: self.host.clone(), source }),
            None => pending().await,
        }
    }

    /// Waits until everything is confirmed.
    pub(super) async fn finish(mut self) -> Result<(), Error> {
        while !self.unconfirmed.is_empty() {
            self.settle().await?;
        }
        Ok(())
    }
}
