//! Consuming from RabbitMQ, for ever.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream::ReadyChunks};
use lapin::{
    Channel, Connection,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use tokio::{sync::watch, time::timeout};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    super::{Batch, Delivery},
    CONNECT_DEADLINE, Error, ROUTING_KEY, Retry, close, connect,
};
use crate::{config, metrics::Metrics};

/// Deliveries in hand at once.
const PREFETCH: u16 = 2048;
/// The most deliveries handed over at once.
const BATCH: usize = 512;

#[derive(Debug)]
pub(in super::super) struct Consumer {
    exchange: String,
    /// One name for the life of the process; the queue itself lives as long as a connection.
    queue: String,
    retry: Retry,
    session: Option<Session>,
    sessions: u64,
    consuming: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Session {
    connection: Connection,
    channel: Channel,
    deliveries: ReadyChunks<lapin::Consumer>,
}

/// The last delivery of a batch, on the session it came by.
#[derive(Debug)]
pub(in super::super) struct Tag {
    session: u64,
    last: u64,
}

impl Consumer {
    pub(super) fn new(config: config::Rabbitmq, metrics: Arc<Metrics>) -> Self {
        Self {
            queue: format!("hightemplar_{}", Uuid::new_v4()),
            retry: Retry::new(config.uris),
            exchange: config.exchange,
            session: None,
            sessions: 0,
            consuming: watch::Sender::new(false),
            metrics,
        }
    }

    pub(in super::super) fn is_consuming(&self) -> watch::Receiver<bool> {
        self.consuming.subscribe()
    }

    pub(in super::super) async fn next(&mut self) -> Batch {
        loop {
            let Some(session) = &mut self.session else {
                self.connect().await;
                continue;
            };
            match session.deliveries.next().await.map(|ready| ready.into_iter().collect::<Result<Vec<_>, _>>()) {
                Some(Ok(ready)) if !ready.is_empty() => {
                    let last = ready.last().map_or(0, |delivery| delivery.delivery_tag);
                    let deliveries = ready.into_iter().map(|ready| Delivery { body: Bytes::from(ready.data) });
                    let tag = Some(Tag { session: self.sessions, last });
                    return Batch { deliveries: deliveries.collect(), tag };
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => self.lost(Some(&error)).await,
                None => self.lost(None).await,
            }
        }
    }

    pub(in super::super) async fn acknowledge(&mut self, tag: Tag) {
        let Some(session) = self.session.as_ref().filter(|_| tag.session == self.sessions) else { return };
        if let Err(error) = session.channel.basic_ack(tag.last, BasicAckOptions { multiple: true }).await {
            debug!(%error, "acknowledgement failed"); // the stream of deliveries tells the rest
        }
    }

    pub(in super::super) async fn close(self) {
        if let Some(session) = self.session {
            close(&session.connection).await;
        }
    }

    async fn connect(&mut self) {
        let uri = self.retry.next().await;
        match Session::open(uri, &self.exchange, &self.queue).await {
            Ok(session) => {
                info!(host = %uri.authority.host, port = uri.authority.port, exchange = self.exchange, "consuming from RabbitMQ");
                self.retry.succeeded();
                self.session = Some(session);
                self.sessions += 1;
                self.tell(true);
            }
            Err(error) => {
                self.metrics.broker_failures.inc();
                warn!(error = &error as &dyn std::error::Error, "cannot consume from RabbitMQ, trying again");
            }
        }
    }

    async fn lost(&mut self, error: Option<&lapin::Error>) {
        self.tell(false);
        self.metrics.broker_failures.inc();
        match error {
            Some(error) => warn!(%error, "lost RabbitMQ: triggers published meanwhile do not arrive"),
            None => warn!("RabbitMQ ended the consumer: triggers published meanwhile do not arrive"),
        }
        if let Some(session) = self.session.take() {
            close(&session.connection).await;
        }
    }

    fn tell(&self, is_consuming: bool) {
        self.consuming.send_replace(is_consuming);
        self.metrics.broker_consuming.set(is_consuming.into());
    }
}

impl Session {
    async fn open(uri: &lapin::uri::AMQPUri, exchange: &str, queue: &str) -> Result<Self, Error> {
        let (connection, channel) = connect(uri, exchange, "consumer").await?;
        let host = format!("{}:{}", uri.authority.host, uri.authority.port);
        match timeout(CONNECT_DEADLINE, consume(&channel, exchange, queue)).await {
            Ok(Ok(consumer)) => Ok(Self { connection, channel, deliveries: consumer.ready_chunks(BATCH) }),
            Ok(Err(source)) => {
                close(&connection).await;
                Err(Error::Failed { host, source })
            }
            Err(_) => Err(Error::TimedOut { host }),
        }
    }
}

async fn consume(channel: &Channel, exchange: &str, queue: &str) -> Result<lapin::Consumer, lapin::Error> {
    let queue = ShortString::from(queue);
    let none = FieldTable::default;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.clone(), exclusive, none()).await?;
    let bind = QueueBindOptions::default();
    channel.queue_bind(queue.clone(), exchange.into(), ROUTING_KEY.into(), bind, none()).await?;
    channel.basic_consume(queue, ShortString::default(), BasicConsumeOptions::default(), none()).await
}
