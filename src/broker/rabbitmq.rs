//! RabbitMQ, with the topology of high-templar 3.1, so that old and new instances can run side by side.
//!
//! A direct exchange that is neither durable nor auto-deleted, and for every instance an exclusive queue bound with the
//! literal key `*`. Consuming and publishing have a connection each, so that a publisher that RabbitMQ blocks does not
//! hold up deliveries (<https://www.rabbitmq.com/docs/connections#flow-control>).

mod consumer;
mod publisher;
mod retry;

use std::{sync::Arc, time::Duration};

use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    options::ExchangeDeclareOptions,
    types::{FieldTable, ShortString},
    uri::AMQPUri,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(super) use consumer::{Consumer, Tag};
pub(super) use publisher::Publisher;
use retry::Retry;

use crate::{config, metrics::Metrics};

/// The binding key; on a direct exchange it is no wildcard.
const ROUTING_KEY: &str = "*";
/// How long the broker may take for a connection and everything declared on it.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long leaving in good order may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);
/// Seconds between heartbeats, unless the URL says otherwise: a broker that stands still is noticed within two.
const HEARTBEAT_SECONDS: u16 = 10;

pub(super) fn open(
    config: config::Rabbitmq,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> (Publisher, Consumer, impl Future<Output = ()> + Send) {
    let consumer = Consumer::new(config.clone(), metrics);
    let (publisher, upkeep) = publisher::open(config, consumer.is_consuming(), stop);
    (publisher, consumer, upkeep)
}

/// Why there is no working connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker refused, or could not be reached.
    #[error("RabbitMQ at {host} failed")]
    Failed {
        /// Host and port.
        host: String,
        /// What it said.
        #[source]
        source: lapin::Error,
    },
    /// The broker did not answer.
    #[error("RabbitMQ at {host} did not answer within {CONNECT_DEADLINE:?}")]
    TimedOut {
        /// Host and port.
        host: String,
    },
}

/// Connects to the first broker of the list and declares the exchange, as the server would.
///
/// # Errors
/// Says for each broker of the list why it will not do, when none does.
pub async fn probe(config: &config::Rabbitmq) -> Result<String, Vec<Error>> {
    let mut errors = Vec::new();
    for uri in config.uris.iter() {
        match connect(uri.amqp(), &config.exchange, "check").await {
            Ok((connection, _)) => {
                close(&connection).await;
                return Ok(uri.host());
            }
            Err(error) => errors.push(error),
        }
    }
    Err(errors)
}

/// A connection with the exchange declared and one channel open.
async fn connect(uri: &AMQPUri, exchange: &str, purpose: &str) -> Result<(Connection, Channel), Error> {
    let host = format!("{}:{}", uri.authority.host, uri.authority.port);
    let mut uri = uri.clone();
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    let name = format!("high-templar {purpose}");
    let connecting = async {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connection = Connection::connect_uri(uri, properties).await?;
        let channel = connection.create_channel().await?;
        let options = ExchangeDeclareOptions::default(); // not durable, not auto-deleted, not internal
        let exchange = ShortString::from(exchange);
        channel.exchange_declare(exchange, ExchangeKind::Direct, options, FieldTable::default()).await?;
        Ok((connection, channel))
    };
    match timeout(CONNECT_DEADLINE, connecting).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(source)) => Err(Error::Failed { host, source }),
        Err(_) => Err(Error::TimedOut { host }),
    }
}

async fn close(connection: &Connection) {
    // A broker that is gone already has nothing to be told.
    let _ = timeout(CLOSE_DEADLINE, connection.close(200, "bye".into())).await;
}
