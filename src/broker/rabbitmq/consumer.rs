//! Consuming from RabbitMQ, for ever.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream::ReadyChunks};
use lapin::{
    Channel, Connection,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep, timeout},
};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    super::{Batch, Delivery},
    CLOSE_DEADLINE, CONNECT_DEADLINE, Error, ROUTING_KEY, Retry, close, connect,
};
use crate::{config, metrics::Metrics};

/// Deliveries in hand at once.
const PREFETCH: u16 = 2048;
/// The most deliveries handed over at once.
const BATCH: usize = 512;
/// Deliveries that are acknowledged together under load: each acknowledgement is a write for us and work for the broker.
const ACKNOWLEDGED: usize = PREFETCH as usize / 4;
/// After this long fewer are, so that nobody who looks at the queue wonders.
const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(in super::super) struct Consumer {
    exchange: String,
    retry: Retry,
    session: Option<Session>,
    sessions: u64,
    consuming: watch::Sender<bool>,
    /// Triggers may have passed by since the last delivery.
    has_missed: bool,
    gaps: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Session {
    connection: Connection,
    channel: Channel,
    deliveries: ReadyChunks<lapin::Consumer>,
    /// Why nothing more comes.
    broken: Option<lapin::Error>,
    /// The tag of the last delivery that is done with.
    done: u64,
    /// So many of those are not acknowledged yet.
    unacknowledged: usize,
    /// When they are acknowledged at the latest.
    due: Pin<Box<Sleep>>,
}

/// The last delivery of a batch, on the session it came by.
#[derive(Debug)]
pub(in super::super) struct Tag {
    session: u64,
    last: u64,
    count: usize,
}

impl Consumer {
    pub(super) fn new(config: config::Rabbitmq, metrics: Arc<Metrics>) -> Self {
        Self {
            retry: Retry::new(config.uris),
            exchange: config.exchange,
            session: None,
            sessions: 0,
            consuming: watch::Sender::new(false),
            has_missed: false,
            gaps: watch::Sender::new(0),
            metrics,
        }
    }

    pub(in super::super) fn is_consuming(&self) -> watch::Receiver<bool> {
        self.consuming.subscribe()
    }

    pub(in super::super) fn gaps(&self) -> watch::Receiver<u64> {
        self.gaps.subscribe()
    }

    pub(in super::super) async fn next(&mut self) -> Batch {
        loop {
            let Some(session) = &mut self.session else {
                self.connect().await;
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
            };
            let Some(ready) = ready else {
                self.lost(None).await;
                continue;
            };
            let (mut deliveries, mut last) = (Vec::with_capacity(ready.len()), 0);
            for ready in ready {
                match ready {
                    Ok(delivery) => {
                        last = delivery.delivery_tag;
                        deliveries.push(Delivery { body: Bytes::from(delivery.data) });
                    }
                    // What came before it is here, and is delivered first.
                    Err(error) => session.broken = Some(error),
                }
            }
            if !deliveries.is_empty() {
                let tag = Tag { session: self.sessions, last, count: deliveries.len() };
                return Batch { deliveries, tag: Some(tag) };
            }
        }
    }

    pub(in super::super) async fn acknowledge(&mut self, tag: Tag) {
        let Some(session) = self.session.as_mut().filter(|_| tag.session == self.sessions) else { return };
        if session.unacknowledged == 0 {
            session.due.as_mut().reset(Instant::now() + ACKNOWLEDGE_AFTER);
        }
        session.done = tag.last;
        session.unacknowledged += tag.count;
        if session.unacknowledged >= ACKNOWLEDGED {
            session.acknowledge().await;
        }
    }

    pub(in super::super) async fn close(self) {
        if let Some(session) = self.session {
            close(&session.connection).await;
        }
    }

    async fn connect(&mut self) {
        let uri = self.retry.next().await;
        match Session::open(uri, &self.exchange).await {
            Ok(session) => {
                info!(host = %uri.authority.host, port = uri.authority.port, exchange = self.exchange, "consuming from RabbitMQ");
                self.retry.succeeded();
                self.session = Some(session);
                self.sessions += 1;
                if std::mem::take(&mut self.has_missed) {
                    self.metrics.gaps.inc();
                    self.gaps.send_modify(|gaps| *gaps += 1);
                }
                self.tell(true);
            }
            Err(error) => {
                self.has_missed = true;
                self.metrics.broker_failures.inc();
                self.retry.failed(&error);
                warn!(error = &error as &dyn std::error::Error, "cannot consume from RabbitMQ, trying again");
            }
        }
    }

    async fn lost(&mut self, error: Option<&lapin::Error>) {
        self.tell(false);
        self.has_missed = true;
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
    async fn open(uri: &lapin::uri::AMQPUri, exchange: &str) -> Result<Self, Error> {
        let (connection, channel) = connect(uri, exchange, "consumer").await?;
        let host = format!("{}:{}", uri.authority.host, uri.authority.port);
        match timeout(CONNECT_DEADLINE, consume(&channel, exchange)).await {
            Ok(Ok(consumer)) => {
                let deliveries = consumer.ready_chunks(BATCH);
                let due = Box::pin(sleep(ACKNOWLEDGE_AFTER));
                Ok(Self { connection, channel, deliveries, broken: None, done: 0, unacknowledged: 0, due })
            }
            Ok(Err(source)) => {
                close(&connection).await;
                Err(Error::Failed { host, source })
            }
            Err(_) => Err(Error::TimedOut { host }),
        }
    }
}

impl Session {
    async fn acknowledge(&mut self) {
        self.unacknowledged = 0;
        let acknowledging = self.channel.basic_ack(self.done, BasicAckOptions { multiple: true });
        if let Ok(Err(error)) = timeout(CLOSE_DEADLINE, acknowledging).await {
            debug!(%error, "acknowledgement failed"); // the stream of deliveries tells the rest
        }
    }
}

async fn consume(channel: &Channel, exchange: &str) -> Result<lapin::Consumer, lapin::Error> {
    // A new name each time: the broker may hold on to the last one for as long as it thinks us there.
    let queue = ShortString::from(format!("hightemplar_{}", Uuid::new_v4()));
    let none = FieldTable::default;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.clone(), exclusive, none()).await?;
    let bind = QueueBindOptions::default();
    channel.queue_bind(queue.clone(), exchange.into(), ROUTING_KEY.into(), bind, none()).await?;
    channel.basic_consume(queue, ShortString::default(), BasicConsumeOptions::default(), none()).await
}
