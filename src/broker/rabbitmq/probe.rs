//! Does for `high-templar check` all that a server does with RabbitMQ, up to reading its own marker back.
//!
//! Each thing that is there is looked at itself. What is not there yet is tried under names of its own, and deleted again.
//! Nothing is declared that lasts, and nothing is bound that a server would find unbound: the server has to tell its clients.
//! Only markers stay in the log.

use std::time::Duration;

use futures::StreamExt;
use lapin::{
    Channel, Confirmation, Connection, ErrorKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, ExchangeDeleteOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
    uri::AMQPUri,
};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{
    Error, Log, Topology, close, connect, host,
    marker::{MARKER_KEY, Marker, Wanted},
    progress::Progress,
    topology::{is_no_stream, is_not_found},
};
use crate::config::{self, AmqpLog};

/// How long one step may take.
const STEP_DEADLINE: Duration = Duration::from_secs(10);
/// How long a marker may take to come back.
const MARKER_DEADLINE: Duration = Duration::from_secs(5);
/// Attempts to be told why the log cannot be bound.
const BIND_ATTEMPTS: usize = 5;
/// How often is looked whether RabbitMQ blocks the publisher.
const BLOCKED_LOOK: Duration = Duration::from_millis(20);

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

/// The log, or the reason why there is none.
struct Kept {
    reading: Option<Reading>,
    how: String,
}

/// A consumer of markers.
struct Reading {
    deliveries: lapin::Consumer,
    /// Closed when dropped.
    _channel: Channel,
}

/// What the exchange does with a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// It reaches the log.
    On,
    /// No queue takes it.
    Nowhere,
    /// Something takes whatever is published, and the log may be bound or not.
    Elsewhere,
}

impl Trial<'_> {
    async fn run(&self, topology: &Topology, log: AmqpLog) -> Result<String, Error> {
        let has_exchange = self.finds(&LOOK, async |channel| topology.find_exchange(channel).await).await?;
        let wants_log = log != AmqpLog::Off;
        let has_log = wants_log && self.finds(&LOOK, async |channel| topology.find_log(channel).await).await?;
        let scratch = topology.scratch(&Uuid::new_v4().simple().to_string()[..8]);
        let outcome = self.try_out(topology, &scratch, log, has_exchange, has_log).await;
        self.delete(&scratch).await;
        Ok(format!("{}; a marker was published and read back", outcome?))
    }

    /// Looks at what is there as a server does, and tries the rest under the names of `scratch`.
    async fn try_out(
        &self,
        topology: &Topology,
        scratch: &Topology,
        log: AmqpLog,
        has_exchange: bool,
        has_log: bool,
    ) -> Result<String, Error> {
        let exchange = topology.exchange_name();
        let not_there = format!("exchange {exchange} not there yet, the server declares it");
        let mut kept = self.log(if has_log { topology } else { scratch }, log).await?;
        let how = std::mem::take(&mut kept.how);
        let Some(mut reading) = kept.reading else {
            let names = if has_exchange { topology } else { scratch };
            self.own_queue_gets_a_marker(names, !has_exchange).await?;
            let found = if has_exchange { format!("exchange {exchange} found") } else { not_there };
            return Ok(format!("{found}, {how}"));
        };
        let found = if has_exchange {
            let lock = self.step(&LOCK, topology.lock(self.consuming)).await?;
            let log = has_log.then_some(&mut reading);
            let outcome = self.look_at_exchange(topology, log).await;
            if let Some(lock) = lock {
                let _ = timeout(STEP_DEADLINE, lock.release()).await;
            }
            match outcome? {
                Passed::On => return Ok(format!("exchange {exchange} found, {how}")),
                passed => format!(
                    "exchange {exchange} found, {}: the server binds it, and tells clients that triggers may be missing",
                    match passed {
                        Passed::Elsewhere =>
                            "not bound to the log as far as can be seen, as something takes every message",
                        _ => "not bound to the log yet",
                    }
                ),
            }
        } else {
            not_there
        };
        let mut reading = match has_log {
            true => self.log(scratch, log).await?.reading.unwrap_or(reading),
            false => reading,
        };
        let lock = self.step(&LOCK, scratch.lock(self.consuming)).await?;
        let outcome = self.scratch_log_gets_a_marker(scratch, &mut reading).await;
        if let Some(lock) = lock {
            let _ = timeout(STEP_DEADLINE, lock.release()).await;
        }
        outcome.map(|()| format!("{found}, {how}"))
    }

    /// Declares the log and consumes from it. A log that is there is adopted.
    async fn log(&self, topology: &Topology, wanted: AmqpLog) -> Result<Kept, Error> {
        let none = |reason: String| match wanted {
            AmqpLog::Stream => Err(Error::NoLog { host: host(self.uri), reason }),
            AmqpLog::Auto | AmqpLog::Off => Ok(Kept { reading: None, how: format!("no log: {reason}") }),
        };
        let how = match self.step(&DECLARE, topology.log(self.publishing, wanted)).await? {
            Log::Stream { adopted: None } => "log in a stream".to_owned(),
            Log::Stream { adopted: Some(how) } => format!("log in a stream as it was declared earlier: {how}"),
            Log::None(reason) => return none(reason),
            Log::Unavailable(reason) => return Err(Error::Unavailable { host: host(self.uri), reason }),
        };
        let channel = self.step(&CHANNEL, self.consuming.create_channel()).await?;
        match self.step(&CONSUME, consume(&channel, topology.queue(), true)).await {
            Ok(deliveries) => Ok(Kept { reading: Some(Reading { deliveries, _channel: channel }), how }),
            Err(Error::Step { source, .. }) if is_no_stream(&source) => {
                none(format!("there is a queue {} that is no stream; delete it", topology.queue()))
            }
            Err(error) => Err(error),
        }
    }

    /// Publishes a marker to the exchange, which is there, before it is bound: a server that finds the exchange unbound has to
    /// tell its clients, and would not know if the log had been bound here. Where the log gets the marker, the log is bound
    /// again, as a server does.
    async fn look_at_exchange(&self, topology: &Topology, log: Option<&mut Reading>) -> Result<Passed, Error> {
        let marker = new_marker();
        if !self.publish(topology, MARKER_KEY, &marker).await? {
            return Ok(Passed::Nowhere);
        }
        let is_read = match log {
            Some(log) => log.gets(&marker).await,
            None => false, // the log is not there yet
        };
        if is_read {
            self.bind(topology).await?;
            return Ok(Passed::On);
        }
        // A key to which nothing is bound: whatever takes this one takes all.
        let marker = new_marker();
        match self.publish(topology, &topology.marker_key(marker.instance), &marker).await? {
            true => Ok(Passed::Elsewhere),
            false => Err(self.not_passed_on("accepted")),
        }
    }

    /// Sets the exchange and the log up and publishes a marker that has to come back.
    async fn scratch_log_gets_a_marker(&self, scratch: &Topology, log: &mut Reading) -> Result<(), Error> {
        let channel = self.step(&CHANNEL, self.publishing.create_channel()).await?;
        self.step(&DECLARE, scratch.declare_exchange(&channel, false)).await?;
        self.bind(scratch).await?;
        let marker = new_marker();
        let is_taken = self.publish(scratch, MARKER_KEY, &marker).await?;
        self.expect(is_taken, log, &marker).await
    }

    /// Binds the log. Several requests go out together: where RabbitMQ refuses one, another one may find the channel closing before
    /// RabbitMQ's words are told.
    async fn bind(&self, topology: &Topology) -> Result<(), Error> {
        let mut attempts = 0;
        loop {
            let channel = self.step(&CHANNEL, self.publishing.create_channel()).await?;
            match self.step(&BIND, topology.bind(&channel)).await {
                Err(Error::Step { source, .. })
                    if attempts < BIND_ATTEMPTS && matches!(source.kind(), ErrorKind::InvalidChannelState(..)) =>
                {
                    attempts += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Without a log: a queue that is gone with the connection gets a marker.
    async fn own_queue_gets_a_marker(&self, topology: &Topology, declares: bool) -> Result<(), Error> {
        let channel = self.step(&CHANNEL, self.consuming.create_channel()).await?;
        let queue = self.step(&DECLARE, own_queue(&channel, topology)).await?;
        if declares {
            self.step(&DECLARE, topology.declare_exchange(&channel, false)).await?;
        }
        let marker = new_marker();
        let key = topology.marker_key(marker.instance);
        self.step(&BIND, topology.bind_queue(&channel, &queue, &key)).await?;
        let deliveries = self.step(&CONSUME, consume(&channel, &queue, false)).await?;
        let mut reading = Reading { deliveries, _channel: channel };
        let is_taken = self.publish(topology, &key, &marker).await?;
        self.expect(is_taken, &mut reading, &marker).await
    }

    async fn expect(&self, is_taken: bool, reading: &mut Reading, marker: &Marker) -> Result<(), Error> {
        if !is_taken {
            return Err(self.not_passed_on("returned"));
        }
        match reading.gets(marker).await {
            true => Ok(()),
            false => Err(self.not_passed_on("accepted")),
        }
    }

    fn not_passed_on(&self, what: &'static str) -> Error {
        Error::NotPassedOn { host: host(self.uri), what }
    }

    /// Publishes a marker; returns whether some queue has taken it. RabbitMQ says that it takes nothing only after the first
    /// message.
    async fn publish(&self, topology: &Topology, key: &str, marker: &Marker) -> Result<bool, Error> {
        let channel = self.step(&CHANNEL, self.publishing.create_channel()).await?;
        let is_blocked = async {
            while !self.publishing.status().blocked() {
                sleep(BLOCKED_LOOK).await;
            }
        };
        let confirmation = tokio::select! {
            biased;
            confirmation = self.step(&PUBLISH, publish(&channel, topology, key, marker)) => confirmation?,
            () = is_blocked => return Err(Error::Blocked { host: host(self.uri) }),
        };
        match confirmation {
            Confirmation::Ack(returned) => Ok(returned.is_none()),
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(self.not_passed_on("did not accept")),
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

    /// Deletes what was declared under names of its own, by the connection that publishes nothing: RabbitMQ does not read from
    /// one that it blocks.
    async fn delete(&self, scratch: &Topology) {
        let deleting = async {
            let channel = self.consuming.create_channel().await?;
            channel.exchange_delete(scratch.exchange_name().into(), ExchangeDeleteOptions::default()).await?;
            channel.queue_delete(scratch.queue().into(), QueueDeleteOptions::default()).await
        };
        let _ = timeout(STEP_DEADLINE, deleting).await; // a queue of its own is gone with the connection
    }
}

impl Reading {
    /// Returns whether `marker` comes in time.
    async fn gets(&mut self, marker: &Marker) -> bool {
        let coming = async {
            while let Some(Ok(delivery)) = self.deliveries.next().await {
                if Marker::parse(&delivery.data).as_ref() == Some(marker) {
                    return true;
                }
            }
            false
        };
        timeout(MARKER_DEADLINE, coming).await.unwrap_or_default()
    }
}

/// The first and only marker of an instance that nobody hears of again.
fn new_marker() -> Marker {
    Marker::new(Uuid::new_v4(), 1, Progress::default(), &Wanted::default())
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
