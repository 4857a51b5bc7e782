//! The way of triggers from publishers to every instance.
//!
//! Two backends keep one contract, which one suite of tests holds them to: what [`Publisher::publish`] has confirmed
//! is delivered to every instance that is consuming, once, byte for byte, and everywhere in the same order.

mod embedded;
mod rabbitmq;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

pub use embedded::{LogFailed, check_log};
pub use rabbitmq::{Check, Step, probe};

use crate::{config, metrics::Metrics, protocol::Epoch};

/// What is published, each by a routing key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// For clients.
    Trigger,
    /// For the instances: what they are to do to connections.
    Control,
    /// What instances tell each other.
    Instance,
    /// What becomes of Channelstream's users, channels and connections.
    Channelstream,
}

/// What the broker hands over, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// A trigger, not yet looked at.
    Trigger {
        /// The body, as the publisher wrote it.
        body: Bytes,
        /// Its place in the log, if there is one: higher than all before it.
        offset: Option<u64>,
        /// It is from before this instance was there: to be known, but not to be delivered.
        is_recalled: bool,
    },
    /// A control message, not yet looked at; the fields are as a trigger's.
    Control {
        /// The body, as the publisher wrote it.
        body: Bytes,
        /// Its place in the log, if there is one.
        offset: Option<u64>,
        /// It is from before this instance was there.
        is_recalled: bool,
    },
    /// What an instance tells the others.
    Instance {
        /// The body, as that one wrote it.
        body: Bytes,
        /// Its place in the log, if there is one.
        offset: Option<u64>,
    },
    /// What an instance has to say about Channelstream's users, channels and connections; the fields are as a trigger's.
    Channelstream {
        /// The body, as that one wrote it.
        body: Bytes,
        /// Its place in the log, if there is one.
        offset: Option<u64>,
        /// It is from before this instance was there.
        is_recalled: bool,
    },
    /// Positions from here on are of another epoch.
    Epoch {
        /// The epoch.
        epoch: Epoch,
        /// Its own place in the log.
        offset: u64,
    },
    /// What follows does not go on where the log ended.
    Restart {
        /// All that the log holds comes next, and may have other entries where some were that have been handed over.
        is_read_back: bool,
    },
    /// All that was published before this instance was there has been recalled.
    Recalled,
    /// Triggers may have been missed before this.
    Missed,
}

/// What was ready at once, in the broker's order. To be given back through [`Consumer::acknowledge`].
#[derive(Debug)]
pub struct Batch {
    /// None where only the state changes.
    pub deliveries: Vec<Delivery>,
    tag: Option<rabbitmq::Tag>,
}

/// How far a consumer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The broker is there since this moment; the log is not read to its end yet, or what is published does not come back.
    Behind(Instant),
    /// What is published now comes here, and all before it has.
    Current,
    /// The broker is away.
    Away,
}

/// Whether the broker takes what is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publishing {
    /// There is no connection to publish on, for this reason where it is known.
    Away(Option<Arc<str>>),
    /// It does.
    Open,
    /// The broker takes nothing from any publisher: it is short of memory or disk.
    Blocked,
}

/// The broker cannot be used as it is configured, and trying again will not help.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// Why a message was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker is away. Nothing was published.
    #[error("the broker is away")]
    Away,
    /// The connection ended before the message had its turn. Nothing was published.
    #[error("the connection to the broker ended")]
    NotSent,
    /// The broker takes nothing at present. Nothing was published.
    #[error("the broker blocks publishers, short of memory or disk")]
    Blocked,
    /// What is published does not come to the instances. The message has come to none.
    #[error("the exchange does not pass messages on to the instances")]
    Unbound,
    /// The message is larger than the broker takes, in bytes. Nothing was published.
    #[error("the message is larger than the {0} bytes that the broker takes")]
    TooLarge(usize),
    /// The broker did not confirm in time; it may have the message all the same.
    #[error("the broker did not confirm within {0:?}")]
    TimedOut(Duration),
    /// The broker refused the message or broke the connection over it; it may have the message all the same.
    #[error("the broker did not take the message")]
    Refused(#[source] Option<lapin::Error>),
}

/// Gives triggers to the broker.
#[derive(Debug, Clone)]
pub struct Publisher(PublisherBackend);

#[derive(Debug, Clone)]
enum PublisherBackend {
    Embedded(embedded::Publisher),
    Rabbitmq(rabbitmq::Publisher),
}

/// Takes triggers from the broker, and reconnects for ever.
#[derive(Debug)]
pub struct Consumer(ConsumerBackend);

#[derive(Debug)]
enum ConsumerBackend {
    Embedded(embedded::Consumer),
    Rabbitmq(Box<rabbitmq::Consumer>),
}

/// Work that has to run as long as the broker is used.
pub type Upkeep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Both ends of a broker, and what keeps them going until `stop`.
///
/// Does not wait: a broker that is away is tried again and again.
///
/// # Errors
/// When the embedded broker's log cannot be used.
pub fn open(
    config: &config::Broker,
    metrics: &Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(Publisher, Consumer, Upkeep), LogFailed> {
    match config {
        config::Broker::Embedded(config) => {
            let (publisher, consumer, upkeep) = embedded::open(config, metrics.clone(), stop)?;
            let (publisher, consumer) = (PublisherBackend::Embedded(publisher), ConsumerBackend::Embedded(consumer));
            Ok((Publisher(publisher), Consumer(consumer), upkeep))
        }
        config::Broker::Rabbitmq(config) => {
            let (publisher, consumer, upkeep) = rabbitmq::open(config.clone(), metrics.clone(), stop);
            let (publisher, consumer) =
                (PublisherBackend::Rabbitmq(publisher), ConsumerBackend::Rabbitmq(Box::new(consumer)));
            Ok((Publisher(publisher), Consumer(consumer), Box::pin(upkeep)))
        }
    }
}

impl Delivery {
    /// What was published as `kind`.
    fn of(kind: Kind, body: Bytes, offset: Option<u64>, is_recalled: bool) -> Self {
        match kind {
            Kind::Trigger => Self::Trigger { body, offset, is_recalled },
            Kind::Control => Self::Control { body, offset, is_recalled },
            Kind::Instance => Self::Instance { body, offset },
            Kind::Channelstream => Self::Channelstream { body, offset, is_recalled },
        }
    }
}

impl Publisher {
    /// Publishes `body` to every instance, this one included; waits for the broker to confirm, up to 10 s.
    ///
    /// # Errors
    /// When the broker did not confirm. The message has then not been accepted, though after
    /// [`TimedOut`](Error::TimedOut) or [`Refused`](Error::Refused) it may still be delivered.
    pub async fn publish(&self, kind: Kind, body: Bytes) -> Result<(), Error> {
        match &self.0 {
            PublisherBackend::Embedded(publisher) => publisher.publish(kind, body).await,
            PublisherBackend::Rabbitmq(publisher) => publisher.publish(kind, body).await,
        }
    }

    /// As [`publish`](Self::publish), for several triggers in their order; one outcome for each. One that was not accepted does
    /// not keep those behind it back.
    pub async fn publish_all(&self, bodies: Vec<Bytes>) -> Vec<Result<(), Error>> {
        match &self.0 {
            PublisherBackend::Embedded(publisher) => publisher.publish_all(bodies).await,
            PublisherBackend::Rabbitmq(publisher) => publisher.publish_all(bodies).await,
        }
    }
}

impl Consumer {
    /// Waits for the next deliveries, however long it takes and however often the broker goes away meanwhile.
    ///
    /// # Errors
    /// When no waiting will help.
    pub async fn next(&mut self) -> Result<Batch, Unusable> {
        match &mut self.0 {
            ConsumerBackend::Embedded(consumer) => Ok(consumer.next().await),
            ConsumerBackend::Rabbitmq(consumer) => consumer.next().await,
        }
    }

    /// Tells the broker that `batch` has been taken over.
    pub async fn acknowledge(&mut self, batch: Batch) {
        match (&mut self.0, batch.tag) {
            (ConsumerBackend::Rabbitmq(consumer), Some(tag)) => consumer.acknowledge(tag).await,
            (ConsumerBackend::Embedded(consumer), _) => consumer.acknowledge(),
            (ConsumerBackend::Rabbitmq(_), None) => {}
        }
    }

    /// Leaves the broker in good order. What had been accepted for this instance alone comes back, to be delivered.
    pub async fn close(self) -> Vec<Delivery> {
        match self.0 {
            ConsumerBackend::Embedded(consumer) => consumer.close(),
            ConsumerBackend::Rabbitmq(consumer) => {
                consumer.close().await;
                Vec::new()
            }
        }
    }

    /// Whether what is published is taken.
    pub fn publishing(&self) -> watch::Receiver<Publishing> {
        match &self.0 {
            ConsumerBackend::Embedded(consumer) => consumer.publishing(),
            ConsumerBackend::Rabbitmq(consumer) => consumer.publishing(),
        }
    }

    /// How far it is.
    pub fn state(&self) -> watch::Receiver<State> {
        match &self.0 {
            ConsumerBackend::Embedded(consumer) => consumer.state(),
            ConsumerBackend::Rabbitmq(consumer) => consumer.state(),
        }
    }

    /// Whether this instance follows a log, once that is known.
    pub fn log(&self) -> watch::Receiver<Option<bool>> {
        match &self.0 {
            ConsumerBackend::Embedded(_) => watch::Sender::new(Some(true)).subscribe(), // in a file or in memory
            ConsumerBackend::Rabbitmq(consumer) => consumer.log(),
        }
    }
}
