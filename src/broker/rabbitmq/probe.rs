//! Does for `high-templar check` all that a server does with RabbitMQ, up to reading its own marker back.
//!
//! Nothing that lasts is declared: where the exchange or the log is not there yet, they are tried under names of their own,
//! and deleted again.

use std::time::Duration;

use futures::StreamExt;
use lapin::{
    Channel, Confirmation, Connection,
    options::{
        BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, ExchangeDeleteOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
    uri::AMQPUri,
};
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use super::{
    Error, Log, Topology, close, connect, host,
    marker::{MARKER_KEY, Marker, Wanted},
    progress::Progress,
    topology::is_not_found,
};
use crate::config::{self, AmqpLog};

/// How long one step may take.
const STEP_DEADLINE: Duration = Duration::from_secs(10);
/// How long a marker may take to come back.
const MARKER_DEADLINE: Duration = Duration::from_secs(5);

/// Something that a server has to do with RabbitMQ.
#[derive(Debug)]
pub struct Step {
    /// What it is, for people.
    pub what: &'static str,
    /// The rights and limits that it needs, for people.
    pub needs: &'static str,
}

const CONNECT: Step =
    Step { what: "connect twice", needs: "the right to the virtual host, and two connections of the user" };
const CHANNEL: Step = Step { what: "open a channel", needs: "four channels a connection" };
const LOOK: Step = Step { what: "look for the exchange and the log", needs: "the virtual host" };
const LOCK: Step = Step {
    what: "declare a queue for itself",
    needs: "the configure right on queues that begin with the exchange's name",
};
const DECLARE: Step = Step { what: "declare the exchange and the log", needs: "the configure right on both" };
const BIND: Step =
    Step { what: "bind the log", needs: "the write right on the log, and the read right on the exchange" };
const CONSUME: Step = Step { what: "consume from the log", needs: "the read right on it" };
const PUBLISH: Step = Step { what: "publish to the exchange", needs: "the write right on it" };

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check(String);

impl std::fmt::Display for Check {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Tries the brokers of the list in their order, until one works.
///
/// # Errors
/// Says for each broker of the list why it will not do, when none does.
pub async fn probe(config: &config::Rabbitmq) -> Result<Check, Vec<Error>> {
    let topology = Topology::new(config);
    let mut errors = Vec::new();
    for uri in config.uris.iter() {
        match look(uri.amqp(), &topology, config.log).await {
            Ok(what) => return Ok(Check(format!("RabbitMQ at {}, {what}", uri.host()))),
            Err(error) => errors.push(error),
        }
    }
    Err(errors)
}

async fn look(uri: &AMQPUri, topology: &Topology, log: AmqpLog) -> Result<String, Error> {
    let connecting = |purpose| connect(uri, purpose);
    let consuming = connecting("check, consumer").await?;
    let publishing = match connecting("check, publisher").await {
        Ok(publishing) => publishing,
        Err(Error::Failed { source, .. }) => {
            close(&consuming).await;
            return Err(failed(uri, &CONNECT, source));
        }
        Err(error) => return Err(error),
    };
    let outcome = Trial { uri, consuming: &consuming, publishing: &publishing }.run(topology, log).await;
    close(&publishing).await;
    close(&consuming).await;
    outcome
}

fn failed(uri: &AMQPUri, step: &'static Step, source: lapin::Error) -> Error {
    Error::Step { host: host(uri), step, source }
}

/// The connections of a server.
struct Trial<'a> {
    uri: &'a AMQPUri,
    consuming: &'a Connection,
    publishing: &'a Connection,
}

impl Trial<'_> {
    async fn run(&self, topology: &Topology, log: AmqpLog) -> Result<String, Error> {
        let has_exchange = self.finds(&LOOK, async |channel| topology.find_exchange(channel).await).await?;
        let wants_log = log != AmqpLog::Off;
        let has_log = wants_log && self.finds(&LOOK, async |channel| topology.find_log(channel).await).await?;
        let is_there = has_exchange && (has_log || !wants_log);
        let scratch = topology.scratch(&Uuid::new_v4().simple().to_string()[..8]);
        let used = if is_there { topology } else { &scratch };
        let outcome = self.try_out(used, log, !is_there).await;
        if !is_there {
            self.delete(&scratch).await;
        }
        let found = outcome?;
        let exchange = match has_exchange {
            true => format!("exchange {} found", topology.exchange_name()),
            false => format!("exchange {} not there yet, the server declares it", topology.exchange_name()),
        };
        Ok(format!("{exchange}, {found}; a marker was published and read back"))
    }

    /// Every step, with names as in `topology`.
    async fn try_out(&self, topology: &Topology, log: AmqpLog, declares: bool) -> Result<String, Error> {
        let lock = self.step(&LOCK, topology.lock(self.publishing)).await?;
        let outcome = self.set_up_and_read(topology, log, declares).await;
        if let Some(lock) = lock {
            let _ = timeout(STEP_DEADLINE, lock.release()).await;
        }
        outcome
    }

    async fn set_up_and_read(&self, topology: &Topology, log: AmqpLog, declares: bool) -> Result<String, Error> {
        let (queue, found) = match self.step(&DECLARE, topology.log(self.publishing, log)).await? {
            Log::Stream { adopted: None } => (topology.queue().to_owned(), "log in a stream".to_owned()),
            Log::Stream { adopted: Some(how) } => {
                (topology.queue().to_owned(), format!("log in a stream as it was declared earlier: {how}"))
            }
            Log::None(reason) if log == AmqpLog::Stream => {
                return Err(Error::NoLog { host: host(self.uri), reason });
            }
            Log::Unavailable(reason) => return Err(Error::Unavailable { host: host(self.uri), reason }),
            Log::None(reason) => (String::new(), format!("no log: {reason}")),
        };
        let channel = self.step(&CHANNEL, self.publishing.create_channel()).await?;
        let is_stream = !queue.is_empty();
        let instance = Uuid::new_v4();
        let own_key = topology.marker_key(instance);
        let key = if is_stream { MARKER_KEY } else { &own_key };
        let reading = self.step(&CHANNEL, self.consuming.create_channel()).await?;
        let queue = if is_stream { queue } else { self.step(&DECLARE, own_queue(&reading, topology)).await? };
        if declares {
            self.step(&DECLARE, topology.declare_exchange(&channel, false)).await?;
        }
        match is_stream {
            true => self.step(&BIND, topology.bind(&channel)).await?,
            false => self.step(&BIND, topology.bind_queue(&reading, &queue, &own_key)).await?,
        }
        let mut deliveries = self.step(&CONSUME, consume(&reading, &queue, is_stream)).await?;
        // It is the first and only marker of an instance that nobody else will hear of again.
        let marker = Marker::new(instance, 1, Progress::default(), &Wanted::default());
        let confirmation = self.step(&PUBLISH, publish(&channel, topology, key, &marker)).await?;
        let came_back = async {
            while let Some(Ok(delivery)) = deliveries.next().await {
                if Marker::parse(&delivery.data).as_ref() == Some(&marker) {
                    return true;
                }
            }
            false
        };
        if !matches!(confirmation, Confirmation::Ack(None)) {
            return Err(Error::NotPassedOn { host: host(self.uri), what: "returned" });
        }
        match timeout_at(Instant::now() + MARKER_DEADLINE, came_back).await {
            Ok(true) => Ok(found),
            _ => Err(Error::NotPassedOn { host: host(self.uri), what: "accepted" }),
        }
    }

    /// Whether something is there that is asked for on a channel of its own, which ends where it is not.
    async fn finds(
        &self,
        step: &'static Step,
        find: impl AsyncFnOnce(&Channel) -> lapin::Result<()>,
    ) -> Result<bool, Error> {
        let channel = self.step(&CHANNEL, self.publishing.create_channel()).await?;
        match timeout(STEP_DEADLINE, find(&channel)).await {
            Ok(Ok(())) => {
                let _ = channel.close(200, "done".into()).await;
                Ok(true)
            }
            Ok(Err(error)) if is_not_found(&error) => Ok(false),
            Ok(Err(error)) => Err(failed(self.uri, step, error)),
            Err(_) => Err(Error::TimedOut { host: host(self.uri) }),
        }
    }

    async fn step<T>(&self, step: &'static Step, work: impl Future<Output = lapin::Result<T>>) -> Result<T, Error> {
        match timeout(STEP_DEADLINE, work).await {
            Ok(outcome) => outcome.map_err(|source| failed(self.uri, step, source)),
            Err(_) => Err(Error::TimedOut { host: host(self.uri) }),
        }
    }

    /// Deletes what was declared under names of its own.
    async fn delete(&self, scratch: &Topology) {
        let deleting = async {
            let channel = self.publishing.create_channel().await?;
            channel.exchange_delete(scratch.exchange_name().into(), ExchangeDeleteOptions::default()).await?;
            channel.queue_delete(scratch.queue().into(), QueueDeleteOptions::default()).await
        };
        let _ = timeout(STEP_DEADLINE, deleting).await; // a queue of its own is gone with the connection
    }
}

async fn own_queue(channel: &Channel, topology: &Topology) -> lapin::Result<String> {
    let queue = format!("{}_{}", topology.exchange_name(), Uuid::new_v4());
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await?;
    Ok(queue)
}

async fn consume(channel: &Channel, queue: &str, is_stream: bool) -> lapin::Result<lapin::Consumer> {
    let mut arguments = FieldTable::default();
    if is_stream {
        arguments.insert("x-stream-offset".into(), AMQPValue::LongString("next".into()));
    }
    channel.basic_qos(64, BasicQosOptions::default()).await?;
    channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), arguments).await
}

async fn publish(channel: &Channel, topology: &Topology, key: &str, marker: &Marker) -> lapin::Result<Confirmation> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let exchange = topology.exchange_name().into();
    channel.basic_publish(exchange, key.into(), options, &marker.body(), Default::default()).await?.await
}
