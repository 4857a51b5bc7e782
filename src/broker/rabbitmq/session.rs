//! One connection that consumes, from the log or from a queue of its own.

use std::{
    pin::Pin,
    time::{Duration, SystemTime},
};

use futures::{StreamExt, stream::ReadyChunks};
use lapin::{
    Channel, Connection,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
    uri::AMQPUri,
};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tracing::debug;
use uuid::Uuid;

use super::{CLOSE_DEADLINE, Error, Log, Topology, close, connect, follower::Start, host, topology, within_deadline};
use crate::{config::AmqpLog, logging::chain};

/// Deliveries in hand at once.
const PREFETCH: u16 = 2048;
/// The most deliveries handed over at once.
const BATCH: usize = 512;
/// Deliveries that are acknowledged together under load: each acknowledgement is a write for us and work for the broker.
const ACKNOWLEDGED: usize = PREFETCH as usize / 4;
/// After this long fewer are, so that nobody who looks at the queue wonders.
const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(200);

/// How long RabbitMQ may take to hand over the last entries of the log.
const END_DEADLINE: Duration = Duration::from_secs(2);

/// A connection that consumes.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    channel: Channel,
    pub deliveries: ReadyChunks<lapin::Consumer>,
    /// Whether it consumes from the log.
    pub follows_log: bool,
    /// Why nothing more comes.
    pub broken: Option<lapin::Error>,
    /// The tag of the last delivery that is done with.
    done: u64,
    /// So many of those are not acknowledged yet.
    pub unacknowledged: usize,
    /// When they are acknowledged at the latest.
    pub due: Pin<Box<Sleep>>,
}

/// A connection, and what it can consume from.
#[derive(Debug)]
pub(super) struct Opening<'a> {
    uri: &'a AMQPUri,
    topology: &'a Topology,
    connection: Connection,
    /// Whether there is a log.
    pub log: Log,
}

impl<'a> Opening<'a> {
    /// Connects and looks for the log, if there is to be one.
    pub(super) async fn begin(uri: &'a AMQPUri, topology: &'a Topology, wanted: AmqpLog) -> Result<Self, Error> {
        let connection = connect(uri, "consumer").await?;
        match within_deadline(uri, topology.log(&connection, wanted)).await.and_then(|outcome| outcome) {
            Ok(log) => Ok(Self { uri, topology, connection, log }),
            Err(error) => {
                close(&connection).await;
                Err(error)
            }
        }
    }

    /// Consumes from the log.
    pub(super) async fn follow(self, start: Start, read_back: Duration) -> Result<Session, Error> {
        let offset = match start {
            Start::Next => AMQPValue::LongString("next".into()),
            Start::At(offset) => AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(i64::MAX)),
            Start::ReadBack => {
                let since = SystemTime::now() - read_back;
                let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                AMQPValue::Timestamp(since.as_secs())
            }
        };
        let queue = self.topology.queue().into();
        let consuming = async {
            let channel = self.connection.create_channel().await?;
            let mut arguments = FieldTable::default();
            arguments.insert("x-stream-offset".into(), offset);
            consume(channel, queue, arguments).await
        };
        let outcome = within_deadline(self.uri, consuming).await;
        let no_log = |reason| Error::NoLog { host: host(self.uri), reason };
        let outcome = outcome.map(|outcome| {
            outcome.map_err(|error| match &error {
                Error::Failed { source, .. } if topology::is_no_stream(source) => {
                    no_log(format!("there is a queue {} that is no stream; delete it", self.topology.queue()))
                }
                _ => error,
            })
        });
        self.finish(outcome, true).await
    }

    /// Consumes from a queue of this instance's own, to which the markers with `marker_key` come, too.
    pub(super) async fn queue(self, marker_key: &str) -> Result<Session, Error> {
        let consuming = async {
            let (channel, _) = self.topology.exchange(&self.connection).await?;
            // A new name each time: the broker may hold on to the last one for as long as it thinks us there.
            let queue = ShortString::from(format!("hightemplar_{}", Uuid::new_v4()));
            let none = FieldTable::default;
            let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.clone(), exclusive, none()).await?;
            self.topology.bind_queue(&channel, queue.as_str(), marker_key).await?;
            consume(channel, queue, none()).await
        };
        let outcome = within_deadline(self.uri, consuming).await;
        self.finish(outcome, false).await
    }

    async fn finish(
        self,
        outcome: Result<Result<(Channel, lapin::Consumer), Error>, Error>,
        follows_log: bool,
    ) -> Result<Session, Error> {
        match outcome.and_then(|outcome| outcome) {
            Ok((channel, consumer)) => Ok(Session {
                connection: self.connection,
                channel,
                deliveries: consumer.ready_chunks(BATCH),
                follows_log,
                broken: None,
                done: 0,
                unacknowledged: 0,
                due: Box::pin(sleep(ACKNOWLEDGE_AFTER)),
            }),
            Err(error) => {
                self.close().await;
                Err(error)
            }
        }
    }

    pub(super) async fn close(self) {
        close(&self.connection).await;
    }
}

async fn consume(
    channel: Channel,
    queue: ShortString,
    arguments: FieldTable,
) -> lapin::Result<(Channel, lapin::Consumer)> {
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue, ShortString::default(), options, arguments).await?;
    Ok((channel, consumer))
}

impl Session {
    /// Returns the offset of the first entry of the log's last chunk, which stands at its last entry or before that; `None` where
    /// RabbitMQ counts no entries.
    ///
    /// # Errors
    /// Also when RabbitMQ does not hand it over in time.
    pub(super) async fn end(&self, queue: &str) -> Result<Option<u64>, String> {
        let looking = async {
            let channel = self.connection.create_channel().await?;
            let mut arguments = FieldTable::default();
            arguments.insert("x-stream-offset".into(), AMQPValue::LongString("last".into()));
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            if channel.queue_declare(queue.into(), passive, FieldTable::default()).await?.message_count() == 0 {
                return Ok(None);
            }
            let (channel, mut deliveries) = consume(channel, queue.into(), arguments).await?;
            let first = deliveries.next().await.transpose()?;
            let _ = timeout(CLOSE_DEADLINE, channel.close(200, "done".into())).await;
            Ok(Some(first.as_ref().and_then(super::consumer::offset)))
        };
        match timeout(END_DEADLINE, looking).await {
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(Some(offset)))) => Ok(Some(offset)),
            Ok(Ok(Some(None))) => Err("no entry came".to_owned()),
            Ok(Err(error)) => Err(chain(&error as &lapin::Error)),
            Err(_) => Err(format!("RabbitMQ handed over no entry within {END_DEADLINE:?}")),
        }
    }

    /// `count` deliveries up to the one with the tag `last` are done with.
    pub(super) async fn done(&mut self, last: u64, count: usize) {
        if self.unacknowledged == 0 {
            self.due.as_mut().reset(Instant::now() + ACKNOWLEDGE_AFTER);
        }
        self.done = last;
        self.unacknowledged += count;
        if self.unacknowledged >= ACKNOWLEDGED {
            self.acknowledge().await;
        }
    }

    pub(super) async fn acknowledge(&mut self) {
        self.unacknowledged = 0;
        let acknowledging = self.channel.basic_ack(self.done, BasicAckOptions { multiple: true });
        if let Ok(Err(error)) = timeout(CLOSE_DEADLINE, acknowledging).await {
            debug!(error = chain(&error), "acknowledgement failed"); // the stream of deliveries tells the rest
        }
    }

    pub(super) async fn close(self) {
        close(&self.connection).await;
    }
}
