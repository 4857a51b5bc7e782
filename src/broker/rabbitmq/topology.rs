//! What is declared at RabbitMQ: the exchange, and the stream that is the log.

use std::time::Duration;

use lapin::{
    Channel, Connection, ErrorKind, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{CHANNELSTREAM_KEY, CONTROL_KEY, INSTANCE_KEY, ROUTING_KEY, marker::MARKER_KEY};
use crate::config::{self, AmqpLog};

/// Codes of AMQP 0-9-1.
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
const NOT_IMPLEMENTED: u16 = 540;
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

    /// The name of the exchange.
    pub(super) fn exchange_name(&self) -> &str {
        &self.exchange
    }

    /// The name of the stream.
    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    /// A channel, with the exchange there; it is adopted as it is, or declared as 3.1 does. Whether it was there.
    pub(super) async fn exchange(&self, connection: &Connection) -> lapin::Result<(Channel, bool)> {
        let channel = connection.create_channel().await?;
        let declare = async |channel: &Channel, passive| {
            // Not durable, not auto-deleted, not internal.
            let options = ExchangeDeclareOptions { passive, ..ExchangeDeclareOptions::default() };
            let exchange = self.exchange.as_str().into();
            channel.exchange_declare(exchange, ExchangeKind::Direct, options, FieldTable::default()).await
        };
        match declare(&channel, true).await {
            Ok(()) => return Ok((channel, true)),
            Err(error) if code(&error) != Some(NOT_FOUND) => return Err(error),
            Err(_) => {}
        }
        let channel = connection.create_channel().await?; // the first one has ended with the error
        declare(&channel, false).await?;
        Ok((channel, false))
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

    /// Has the exchange pass on to the stream what is published to it. Markers last: who finds them passed on can rely on the
    /// others.
    pub(super) async fn bind(&self, channel: &Channel) -> lapin::Result<()> {
        for key in [ROUTING_KEY, CONTROL_KEY, INSTANCE_KEY, CHANNELSTREAM_KEY, MARKER_KEY] {
            let (queue, exchange) = (self.queue.as_str().into(), self.exchange.as_str().into());
            channel.queue_bind(queue, exchange, key.into(), QueueBindOptions::default(), FieldTable::default()).await?;
        }
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

/// Whether `error`, which consuming from the log came to, says that what is called so is no stream.
pub(super) fn is_no_stream(error: &lapin::Error) -> bool {
    code(error) == Some(PRECONDITION_FAILED) && error.to_string().contains("x-stream-offset")
}

fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}
