//! What is declared at RabbitMQ: the exchange, and the stream that is the log.

use std::time::Duration;

use futures::future::try_join_all;
use lapin::{
    Channel, Connection, ErrorKind, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{CHANNELSTREAM_KEY, CONTROL_KEY, INSTANCE_KEY, ROUTING_KEY, marker::MARKER_KEY};
use crate::config::{self, AmqpLog};

/// Codes of AMQP 0-9-1.
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
const PRECONDITION_FAILED: u16 = 406;
const NOT_IMPLEMENTED: u16 = 540;
/// How long another instance may take to set the exchange up; after that it is done beside it.
const LOCK_DEADLINE: Duration = Duration::from_secs(3);
/// Time between two questions whether it is done, which RabbitMQ logs each: the first one, and the longest.
const LOCK_LOOKS: std::ops::Range<Duration> = Duration::from_millis(20)..Duration::from_millis(320);
/// RabbitMQ forgets the log by whole segments; there are about this many.
const SEGMENTS: u64 = 16;
/// How large they may be.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 256 << 10..=64 << 20;

/// The names, and how the log is kept.
#[derive(Debug, Clone)]
pub(super) struct Topology {
    exchange: String,
    queue: String,
    max_age: Duration,
    max_bytes: u64,
}

/// Whether there is a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Log {
    /// In a stream. One that was declared otherwise is adopted; RabbitMQ says in what it differs.
    Stream { adopted: Option<String> },
    /// None, for this reason.
    None(String),
    /// There is one, but RabbitMQ cannot get at it, at present perhaps.
    Unavailable(String),
}

impl Topology {
    pub(super) fn new(config: &config::Rabbitmq) -> Self {
        Self {
            exchange: config.exchange.clone(),
            queue: format!("{}.log", config.exchange),
            max_age: config.log_max_age,
            max_bytes: config.log_max_bytes,
        }
    }

    /// The same with other names, to try things out.
    pub(super) fn scratch(&self, name: &str) -> Self {
        let exchange = format!("{}.check-{name}", self.exchange);
        Self { queue: format!("{exchange}.log"), exchange, ..self.clone() }
    }

    /// The name of the exchange.
    pub(super) fn exchange_name(&self) -> &str {
        &self.exchange
    }

    /// The name of the stream.
    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    /// The routing key of an instance's markers where it has a queue of its own.
    pub(super) fn marker_key(&self, instance: Uuid) -> String {
        format!("{MARKER_KEY}.{instance}")
    }

    /// Opens a channel and makes sure that the exchange is there: it is used as it is, or declared as 3.1 does. Returns whether
    /// it was there.
    pub(super) async fn exchange(&self, connection: &Connection) -> lapin::Result<(Channel, bool)> {
        let channel = connection.create_channel().await?;
        match self.find_exchange(&channel).await {
            Ok(()) => return Ok((channel, true)),
            Err(error) if code(&error) != Some(NOT_FOUND) => return Err(error),
            Err(_) => {}
        }
        let channel = connection.create_channel().await?; // the first one has ended with the error
        self.declare_exchange(&channel, false).await?;
        Ok((channel, false))
    }

    /// Asks for the exchange without declaring it.
    ///
    /// # Errors
    /// When it is not there; the channel has ended then.
    pub(super) async fn find_exchange(&self, channel: &Channel) -> lapin::Result<()> {
        self.declare_exchange(channel, true).await
    }

    /// Declares the exchange, or asks for it.
    pub(super) async fn declare_exchange(&self, channel: &Channel, passive: bool) -> lapin::Result<()> {
        // Not durable, not auto-deleted, not internal.
        let options = ExchangeDeclareOptions { passive, ..ExchangeDeclareOptions::default() };
        let exchange = self.exchange.as_str().into();
        channel.exchange_declare(exchange, ExchangeKind::Direct, options, FieldTable::default()).await
    }

    /// Asks for the log without declaring it.
    ///
    /// # Errors
    /// When it is not there; the channel has ended then.
    pub(super) async fn find_log(&self, channel: &Channel) -> lapin::Result<()> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(self.queue.as_str().into(), options, FieldTable::default()).await.map(drop)
    }

    /// Takes the right to set the exchange up, so that no other instance finds it between its declaration and its binding:
    /// a queue that only one connection can have, and that is gone with that connection. Gives up waiting after 3 s.
    pub(super) async fn lock(&self, connection: &Connection) -> lapin::Result<Option<Lock>> {
        let (deadline, mut wait) = (Instant::now() + LOCK_DEADLINE, LOCK_LOOKS.start);
        loop {
            let channel = connection.create_channel().await?;
            let queue = ShortString::from(format!("{}.setup", self.exchange));
            let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
            match channel.queue_declare(queue.clone(), options, FieldTable::default()).await {
                Ok(_) => return Ok(Some(Lock { channel, queue })),
                Err(error) if code(&error) == Some(RESOURCE_LOCKED) => {}
                Err(error) => return Err(error),
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            sleep(wait).await;
            wait = LOCK_LOOKS.end.min(wait * 2);
        }
    }

    /// Declares the stream, if there is to be one; one that is there is adopted.
    pub(super) async fn log(&self, connection: &Connection, wanted: AmqpLog) -> lapin::Result<Log> {
        if wanted == AmqpLog::Off {
            return Ok(Log::None("AMQP_LOG is off".to_owned()));
        }
        let channel = connection.create_channel().await?;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let Err(error) = channel.queue_declare(self.queue.as_str().into(), options, self.arguments()).await else {
            let _ = channel.close(200, "done".into()).await;
            return Ok(Log::Stream { adopted: None });
        };
        let text = error.to_string();
        match code(&error) {
            // Something is there. Whether it is a stream will be seen when it is consumed from.
            Some(PRECONDITION_FAILED) if text.contains("inequivalent") => Ok(Log::Stream { adopted: Some(text) }),
            Some(PRECONDITION_FAILED | NOT_IMPLEMENTED) => Ok(Log::None(format!("{text} (streams need RabbitMQ 3.9)"))),
            Some(NOT_FOUND) => Ok(Log::Unavailable(text)),
            _ => Err(error),
        }
    }

    /// Declares the exchange, which is not there, and binds the stream to it. The requests go out together: between the two a
    /// publisher that does not ask for returns would publish to nobody.
    pub(super) async fn declare_bound(&self, channel: &Channel) -> lapin::Result<()> {
        tokio::try_join!(biased; self.declare_exchange(channel, false), self.bind(channel))?;
        Ok(())
    }

    /// Binds an instance's own `queue` to the exchange.
    pub(super) async fn bind_queue(&self, channel: &Channel, queue: &str, marker_key: &str) -> lapin::Result<()> {
        for key in [ROUTING_KEY, CONTROL_KEY, marker_key] {
            let (queue, exchange) = (queue.into(), self.exchange.as_str().into());
            channel.queue_bind(queue, exchange, key.into(), QueueBindOptions::default(), FieldTable::default()).await?;
        }
        Ok(())
    }

    /// Binds the stream to the exchange, whether or not it is bound already.
    pub(super) async fn bind(&self, channel: &Channel) -> lapin::Result<()> {
        let bind = |key: &'static str| {
            let (queue, exchange) = (self.queue.as_str().into(), self.exchange.as_str().into());
            channel.queue_bind(queue, exchange, key.into(), QueueBindOptions::default(), FieldTable::default())
        };
        try_join_all([ROUTING_KEY, CONTROL_KEY, INSTANCE_KEY, CHANNELSTREAM_KEY, MARKER_KEY].map(bind)).await?;
        Ok(())
    }

    fn arguments(&self) -> FieldTable {
        let segment = (self.max_bytes / SEGMENTS).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        let number = |number: u64| AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX));
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
        arguments.insert("x-max-age".into(), AMQPValue::LongString(format!("{}s", self.max_age.as_secs()).into()));
        arguments.insert("x-max-length-bytes".into(), number(self.max_bytes));
        arguments.insert("x-stream-max-segment-size-bytes".into(), number(segment));
        arguments
    }
}

/// The right to set the exchange up.
#[derive(Debug)]
pub(super) struct Lock {
    channel: Channel,
    queue: ShortString,
}

impl Lock {
    /// Gives it back.
    pub(super) async fn release(self) {
        // Where that fails, it ends with the connection.
        let _ = self.channel.queue_delete(self.queue, QueueDeleteOptions::default()).await;
        let _ = self.channel.close(200, "done".into()).await;
    }
}

/// Whether `error`, which consuming from the log came to, says that what is called so is no stream.
pub(super) fn is_no_stream(error: &lapin::Error) -> bool {
    code(error) == Some(PRECONDITION_FAILED) && error.to_string().contains("x-stream-offset")
}

/// Whether `error` says that something is not there.
pub(super) fn is_not_found(error: &lapin::Error) -> bool {
    code(error) == Some(NOT_FOUND)
}

/// The size limit that `error` names, where RabbitMQ has refused a message as too large (`max_message_size`).
pub(super) fn message_size_limit(error: &lapin::Error) -> Option<usize> {
    if code(error) != Some(PRECONDITION_FAILED) {
        return None;
    }
    // "message size 90000 is larger than configured max size 65536"
    let text = error.to_string();
    let (_, limit) = text.split_once("is larger than configured max size ")?;
    limit.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}
