//! RabbitMQ, with the topology of high-templar 3.1, so that publishers need not change and old and new instances can run
//! side by side; and, beside it, the log.
//!
//! A direct exchange that is neither durable nor auto-deleted, and bound to it with the literal key `*` either one stream
//! that all instances read, or an exclusive queue for each instance. Consuming and publishing have a connection each, so
//! that a publisher that RabbitMQ blocks does not hold up deliveries
//! (<https://www.rabbitmq.com/docs/connections#flow-control>).

mod consumer;
mod follower;
mod line;
mod marker;
mod members;
mod poison;
mod probe;
mod progress;
mod proof;
mod publisher;
mod retry;
mod session;
mod shared;
mod sizes;
mod stream;
mod topology;
mod upkeep;

use std::{sync::Arc, time::Duration};

use lapin::{Connection, ConnectionProperties, uri::AMQPUri};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub(super) use consumer::{Consumer, Tag};
pub use probe::{Check, Step, probe};
pub(super) use publisher::Publisher;
use retry::Retry;
use shared::Shared;
use topology::{Log, Topology};

use crate::{config, metrics::Metrics};

/// The binding key of triggers; on a direct exchange it is no wildcard.
const ROUTING_KEY: &str = "*";
/// The binding key of control messages.
const CONTROL_KEY: &str = "control";
/// The binding key of what instances tell each other.
const INSTANCE_KEY: &str = "instance";
/// The binding key of what they tell each other about Channelstream.
const CHANNELSTREAM_KEY: &str = "channelstream";
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
    let shared = Arc::new(Shared::new());
    let consumer = Consumer::new(config.clone(), shared.clone(), metrics.clone());
    let (publisher, upkeep) = publisher::open(config, shared, metrics, stop);
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
    /// The broker does not know the user, or another password.
    #[error("RabbitMQ at {host} refused the login; see user and password in AMQP_URL")]
    Login {
        /// Host and port.
        host: String,
        /// What it said.
        #[source]
        source: lapin::Error,
    },
    /// The broker refused one of the steps that a server has to take.
    #[error("RabbitMQ at {host}: cannot {}, which needs {}", step.what, step.needs)]
    Step {
        /// Host and port.
        host: String,
        /// Which one.
        step: &'static Step,
        /// What the broker said.
        #[source]
        source: lapin::Error,
    },
    /// A marker was published, but did not come back.
    #[error(
        "RabbitMQ at {host} {what} a marker, which did not reach the log: look for a policy with an alternate exchange, and \
         whether all brokers of AMQP_URL are one cluster"
    )]
    NotPassedOn {
        /// Host and port.
        host: String,
        /// What the broker did with it.
        what: &'static str,
    },
    /// The broker takes nothing from any publisher.
    #[error(
        "RabbitMQ at {host} takes no messages, short of memory or disk: the connection is `blocked` until its alarm ends"
    )]
    Blocked {
        /// Host and port.
        host: String,
    },
    /// The broker did not answer.
    #[error("RabbitMQ at {host} did not answer within {CONNECT_DEADLINE:?}")]
    TimedOut {
        /// Host and port.
        host: String,
    },
    /// The broker has no streams, or something else by the log's name.
    #[error("RabbitMQ at {host} cannot keep a log: {reason}")]
    NoLog {
        /// Host and port.
        host: String,
        /// Why.
        reason: String,
    },
    /// The broker has a log, but cannot get at it.
    #[error("RabbitMQ at {host} cannot get at the log: {reason}")]
    Unavailable {
        /// Host and port.
        host: String,
        /// Why.
        reason: String,
    },
}

/// The routing key of what is published as `kind`.
fn routing_key(kind: super::Kind) -> &'static str {
    match kind {
        super::Kind::Trigger => ROUTING_KEY,
        super::Kind::Control => CONTROL_KEY,
        super::Kind::Instance => INSTANCE_KEY,
        super::Kind::Channelstream => CHANNELSTREAM_KEY,
    }
}

/// What is published with `key`; as in 3.1, all that we do not know is a trigger.
fn kind_of(key: &str) -> super::Kind {
    match key {
        CONTROL_KEY => super::Kind::Control,
        INSTANCE_KEY => super::Kind::Instance,
        CHANNELSTREAM_KEY => super::Kind::Channelstream,
        _ => super::Kind::Trigger,
    }
}

async fn connect(uri: &AMQPUri, purpose: &str) -> Result<Connection, Error> {
    let mut wanted = uri.clone();
    wanted.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    let name = format!("high-templar {purpose}");
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connecting = within_deadline(uri, stream::connect(wanted, properties)).await?;
    let connection = connecting.map_err(|error| match error {
        // At this point RabbitMQ says so of a user or password only.
        Error::Failed { host, source } if source.to_string().contains("ACCESS_REFUSED") => {
            Error::Login { host, source }
        }
        error => error,
    })?;
    debug!(host = %host(uri), "connected");
    Ok(connection)
}

/// What `work` comes to, with lapin's errors as ours; it may take as long as a connection.
async fn within_deadline<T, E: Into<lapin::Error>>(
    uri: &AMQPUri,
    work: impl Future<Output = Result<T, E>>,
) -> Result<Result<T, Error>, Error> {
    match timeout(CONNECT_DEADLINE, work).await {
        Ok(outcome) => Ok(outcome.map_err(|source| Error::Failed { host: host(uri), source: source.into() })),
        Err(_) => Err(Error::TimedOut { host: host(uri) }),
    }
}

fn host(uri: &AMQPUri) -> String {
    format!("{}:{}", uri.authority.host, uri.authority.port)
}

async fn close(connection: &Connection) {
    // A broker that is gone already has nothing to be told.
    let _ = timeout(CLOSE_DEADLINE, connection.close(200, "bye".into())).await;
}
