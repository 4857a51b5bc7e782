//! Puts the parts together, and takes them apart again in the right order.

mod parts;

use std::{io, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

pub use self::parts::{Cause, EndedEarly};

use self::parts::Parts;
use crate::{
    backend::{self, Backend, Changes, Hooks},
    broker::{self, Consumer, LogFailed, Publisher, Upkeep},
    channelstream::Channelstream,
    config::{self, Broker, Config, Listen},
    connection::Connections,
    dispatch::{Dispatch, Triggers},
    http::{
        self, Readiness,
        listener::{BindError, Listener, Room, Terms},
    },
    hub::Hub,
    instances::Instances,
    logging,
    metrics::Metrics,
};

/// What stands around paths and headers in the head of a request; a head that is larger than all of it is not read.
const HEAD_FRAMING_BYTES: usize = 16 << 10;
/// So often what Channelstream knows stands in what an instance reads back when it starts.
const SNAPSHOTS: u32 = 3;

/// Why the server is not running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("{setting} cannot be used")]
    Bind {
        /// The setting that names it.
        setting: &'static str,
        /// Why.
        #[source]
        source: BindError,
    },
    /// The address that is listened on cannot be told.
    #[error("no address to listen on")]
    Address(#[source] io::Error),
    /// The client of the backend cannot be built.
    #[error(transparent)]
    Backend(#[from] backend::BuildError),
    /// The embedded broker's log cannot be used.
    #[error(transparent)]
    Log(#[from] LogFailed),
    /// A part of the server ended that should still be running.
    #[error(transparent)]
    EndedEarly(#[from] EndedEarly),
}

/// What a clean stop has left undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Connections cut off at the deadline.
    pub connections: usize,
    /// Connections whose hooks were not all posted.
    pub hooks: usize,
}

/// A server that listens already and serves as soon as it [runs](Self::run).
pub struct Server {
    public: Listener,
    internal: Listener,
    config: Config,
    connections: Arc<Connections>,
    instances: Option<Arc<Instances>>,
    channelstream: Option<Arc<Channelstream>>,
    readiness: Readiness,
    publisher: Publisher,
    consumer: Consumer,
    dispatch: Dispatch,
    upkeep: Upkeep,
    /// Ends what comes in: clients, triggers.
    stop_intake: CancellationToken,
    /// Ends what others still need while the clients leave.
    stop_rest: CancellationToken,
}

impl Server {
    /// Listens as `config` says. The broker and the backend need not be there yet.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let metrics = Arc::new(Metrics::default());
        let bind =
            async |setting, listen| Listener::bind(listen).await.map_err(|source| Error::Bind { setting, source });
        let public = bind("LISTEN", &config.listen).await?;
        let internal = bind("INTERNAL_LISTEN", &config.internal.listen).await?;
        let (stop_intake, stop_rest) = (CancellationToken::new(), CancellationToken::new());
        let (publisher, consumer, upkeep) = broker::open(&config.broker, &metrics, stop_rest.clone())?;
        let hub = Arc::new(Hub::new(config.dispatch, config.history.clone(), metrics.clone()));
        let readiness = readiness(&config.broker, &consumer, &metrics);
        let changes = Changes::new(longest_lived(&config));
        let backend = Backend::new(config.backend.clone(), changes, metrics.clone())?;
        let secret = config.connection.resume.as_ref().map(|resume| &resume.secret);
        let has_log = match &config.broker {
            Broker::Rabbitmq(broker) => broker.log != config::AmqpLog::Off,
            Broker::Embedded(broker) => broker.log.is_some(), // else there is nobody to be told
        };
        let hooks = Arc::new(Hooks::new(backend.clone(), config.hooks.clone(), has_log && secret.is_some()));
        let instances = Instances::new(hooks.clone(), metrics.clone(), secret, consumer.state(), config.history.age);
        let (connection, state) = (config.connection.clone(), consumer.state());
        let connections = Arc::new(Connections::new(hub, backend, hooks, metrics, connection, state));
        let channelstream = config.channelstream.as_ref().map(|_| {
            let is_kept = !matches!(&config.broker, Broker::Embedded(broker) if broker.log.is_none());
            let snapshots_every = is_kept.then_some(config.history.age / SNAPSHOTS);
            let (hub, metrics) = (connections.hub.clone(), connections.metrics.clone());
            Channelstream::new(hub, metrics, consumer.state(), snapshots_every, stop_intake.clone())
        });
        let triggers = Triggers { id_ttl: config.trigger_id_ttl, limit_bytes: config.trigger_limit_bytes };
        let dispatch = Dispatch::new(connections.clone(), instances.clone(), channelstream.clone(), triggers);
        Ok(Self {
            public,
            internal,
            config,
            connections,
            instances,
            channelstream,
            readiness,
            publisher,
            consumer,
            dispatch,
            upkeep,
            stop_intake,
            stop_rest,
        })
    }

    /// Where clients connect.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn public_address(&self) -> Result<Listen, Error> {
        self.public.address().map_err(Error::Address)
    }

    /// Where triggers are posted.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn internal_address(&self) -> Result<Listen, Error> {
        self.internal.address().map_err(Error::Address)
    }

    /// Serves until `stop`, then stops cleanly: not ready; no new clients or triggers; the delivery in hand fanned out; all
    /// clients told and gone, or `DRAIN` over; hooks posted.
    ///
    /// # Errors
    /// When a part of the server ends by itself.
    pub async fn run(self, stop: CancellationToken) -> Result<Report, Error> {
        let (http_tasks, publisher) = (TaskTracker::new(), self.publisher);
        let metrics = self.connections.metrics.clone();
        let limits = &self.config.connection.limits;
        let head_limit_bytes = limits.header_bytes + limits.url_bytes + HEAD_FRAMING_BYTES;
        let peer_timeout = 2 * self.config.connection.ping_interval;
        let room = Room::Public(self.connections.clone());
        let keep_alive = self.config.keep_alive;
        let terms = Terms { peer_timeout, keep_alive, head_limit_bytes, metrics, room };
        let internal_terms = Terms { room: Room::internal(self.config.internal.connections), ..terms.clone() };
        let channelstream = self.channelstream.clone().zip(self.config.channelstream);
        let channelstream = channelstream.map(|(channelstream, config)| {
            let (connections, limit_bytes) = (self.connections.clone(), self.config.trigger_limit_bytes);
            let stop = self.stop_intake.clone();
            Arc::new(http::channelstream::Api::new(channelstream, config, connections, limit_bytes, stop))
        });
        let public = http::public(self.connections.clone(), self.config.origins, channelstream.clone());
        let internal = http::internal(
            &self.config.internal,
            self.config.trigger_limit_bytes,
            publisher.clone(),
            self.connections.clone(),
            self.readiness.clone(),
            channelstream,
        );
        let mut intake = Parts::default();
        let mut rest = Parts::default();
        if self.config.connection.closes_on_gap {
            let closing = self.connections.clone().close_at_gaps(self.stop_intake.clone());
            rest.spawn("closing of clients at gaps", closing);
        }
        if let Some(instances) = &self.instances {
            rest.spawn("membership of instances", instances.clone().run(publisher.clone(), self.stop_rest.clone()));
        }
        if let Some(channelstream) = &self.channelstream {
            rest.spawn("Channelstream", channelstream.clone().run(publisher.clone(), self.stop_rest.clone()));
        }
        rest.spawn("re-checks of permissions", self.connections.clone().recheck(self.stop_intake.clone()));
        let forgetting = self.connections.clone().tell_forgotten(publisher.clone(), self.stop_rest.clone());
        rest.spawn("messages about forgotten users", forgetting);
        rest.spawn("gate of the API", self.connections.backend.clone().keep(self.stop_rest.clone()));
        rest.spawn("reports of suppressed log lines", logging::report_suppressed(self.stop_rest.clone()));
        intake.try_spawn("dispatch", self.dispatch.run(self.consumer, self.stop_intake.clone()));
        let serving = self.public.serve(public, terms, http_tasks.clone(), self.stop_intake.clone());
        intake.spawn("public listener", serving);
        let serving = self.internal.serve(internal, internal_terms, http_tasks.clone(), self.stop_rest.clone());
        rest.spawn("internal listener", serving);
        rest.spawn("upkeep of the broker", self.upkeep);
        let outcome = tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = intake.ended_early() => Err(ended),
            ended = rest.ended_early() => Err(ended),
        };
        info!(connections = self.connections.count(), "stopping");
        let deadline = Instant::now() + self.config.drain;
        self.readiness.stop();
        self.stop_intake.cancel();
        let outcome = outcome.and(intake.finish().await);
        let connections = &self.connections;
        connections.tasks.close();
        let drained = async {
            connections.close_all(self.config.drain).await;
            connections.tasks.wait().await;
            connections.hooks.finish().await; // as long as the backend is looked after
            if let Some(instances) = &self.instances {
                instances.say_goodbye(&publisher).await;
            }
            if let Some(channelstream) = &self.channelstream {
                channelstream.say_goodbye().await;
            }
            self.stop_rest.cancel();
            http_tasks.close();
            http_tasks.wait().await;
            connections.tasks.wait().await; // a handshake that was finished meanwhile
            connections.hooks.finish().await;
        };
        let is_drained = timeout_at(deadline, drained).await.is_ok();
        self.stop_rest.cancel();
        let outcome = outcome.and(rest.finish().await);
        let report = Report { connections: connections.count(), hooks: connections.hooks.unfinished() };
        if is_drained {
            info!("stopped");
        } else {
            warn!(
                connections = report.connections,
                hooks = report.hooks,
                "the drain deadline has passed, stopping all the same"
            );
        }
        outcome.map(|()| report).map_err(Error::EndedEarly)
    }
}

/// How old permissions may become that somebody goes by.
fn longest_lived(config: &Config) -> Duration {
    let Config { backend, connection, .. } = config;
    let ticket = connection.resume.as_ref().map(|resume| resume.ttl);
    let history = Some(config.history.age); // what a client may be given of the time before a change
    let others = [ticket, backend.cache, Some(connection.reauthorize.grace), history].into_iter().flatten();
    others.fold(backend.timeout, Duration::max)
}

fn readiness(broker: &config::Broker, consumer: &Consumer, metrics: &Arc<Metrics>) -> Readiness {
    let kind = match broker {
        Broker::Embedded(_) => "embedded",
        Broker::Rabbitmq(_) => "rabbitmq",
    };
    Readiness::new(consumer, kind, metrics.clone())
}
