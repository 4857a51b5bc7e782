//! Channelstream's users, channels and connections, the same on every instance.
//!
//! Whatever is to change them is a command in the log, which each instance carries out in the log's order; whoever gave it is
//! answered when its own instance has done so. A channel is a room of the hub, in which those sit that listen here.

mod call;
mod command;
mod keeper;
mod links;
mod listening;
mod object;
mod replica;
#[cfg(test)]
mod simulation;
mod state;
#[cfg(test)]
mod tests;
mod throttle;
mod writer;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use self::{
    command::{Command, Message, Order},
    links::Links,
    replica::Replica,
    state::{Done, Effect, State},
    throttle::{Refused, Throttle},
    writer::{Ordered, Writer},
};
use crate::{
    broker::State as BrokerState,
    hub::{Hub, Outbox, Publication},
    logging::limited,
    metrics::Metrics,
    protocol::channelstream::Invalid,
};

pub use call::{Answer, Call};
pub use command::By;
use listening::Noted;
pub use listening::{Attached, Listening};

/// How long a caller waits for its call to be carried out.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often the log is asked for connections that are not known here.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The call could not be carried out at present, or it is not known whether it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker is away, or this instance does not know yet what the others know")]
pub struct Unavailable;

/// Channelstream on this instance.
#[derive(Debug)]
pub struct Channelstream {
    me: Uuid,
    metrics: Arc<Metrics>,
    replica: Mutex<Replica>,
    links: Links,
    /// Those who have given a command that has not been carried out here.
    waiting: Mutex<HashMap<Uuid, oneshot::Sender<Carried>>>,
    orders: mpsc::UnboundedSender<Ordered>,
    /// When it was last looked for a connection that is not known here.
    looked: tokio::sync::Mutex<Looked>,
    /// Bounds what clients without a signature have written to the log.
    throttle: Arc<Throttle>,
    /// What is ordered is published by this.
    writer: Mutex<Option<Writer>>,
    is_known: watch::Sender<bool>,
    /// What comes from the broker stands in no log.
    has_no_log: AtomicBool,
    /// Ends what waits.
    stop: CancellationToken,
    /// How far the consumer is.
    state: watch::Receiver<BrokerState>,
    /// How often a snapshot stands in the log; `None` where nobody would ever read it.
    snapshots_every: Option<Duration>,
}

/// A look at how far the log is.
#[derive(Debug)]
struct Looked {
    at: Instant,
    has_succeeded: bool,
}

/// A command that has been carried out.
#[derive(Debug)]
struct Carried {
    outcome: Result<Done, Invalid>,
    text: String,
}

/// What the dispatcher has to do.
#[derive(Debug)]
pub enum Deed {
    /// Publish this to the room that it names.
    Publish(Publication),
    /// Nothing but [`Channelstream::perform`].
    Perform(Performed),
}

/// Something that has become of a link, or an answer.
#[derive(Debug)]
pub struct Performed(Inner);

#[derive(Debug)]
enum Inner {
    Effect(Effect),
    Answer(oneshot::Sender<Carried>, Carried),
}

impl Channelstream {
    /// Nobody and nothing, until the log says otherwise. `snapshots_every`: how often what is known is to stand in the log;
    /// `None` where the log is over with the process.
    pub fn new(
        hub: Arc<Hub>,
        metrics: Arc<Metrics>,
        state: watch::Receiver<BrokerState>,
        snapshots_every: Option<Duration>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let me = Uuid::new_v4();
        let (orders, ordered) = mpsc::unbounded_channel(); // bounded: nothing stays for longer than somebody waits for it
        Arc::new(Self {
            me,
            links: Links::new(hub),
            throttle: Arc::new(Throttle::new(metrics.clone())),
            metrics,
            replica: Mutex::new(Replica::new(me)),
            waiting: Mutex::default(),
            orders,
            looked: tokio::sync::Mutex::new(Looked { at: Instant::now(), has_succeeded: true }),
            writer: Mutex::new(Some(Writer::new(me, ordered))),
            is_known: watch::Sender::new(false),
            has_no_log: AtomicBool::new(false),
            stop,
            state,
            snapshots_every,
        })
    }

    /// Carries `call` out on every instance; answers when it has been on this one.
    ///
    /// # Errors
    /// When that did not come about within ten seconds.
    pub async fn call(&self, call: Call) -> Result<Answer, Unavailable> {
        if let Call::Disconnect(connection) = call
            && !self.may_disconnect(connection).await?
        {
            return Ok(Answer::Done(false.to_string()));
        }
        let Carried { outcome, text } = self.carry(Order::Call(call)).await?;
        Ok(match outcome {
            Ok(_) => Answer::Done(text),
            Err(invalid) => Answer::Invalid(invalid),
        })
    }

    /// Waits until `/disconnect` may be written for `connection`. `false` if the connection is not there (any more).
    async fn may_disconnect(&self, connection: Uuid) -> Result<bool, Unavailable> {
        let deadline = Instant::now() + DEADLINE;
        while self.knows(connection).await? {
            // Requests for the same connection wait for the first one, which most likely does it for all of them.
            match self.throttle.disconnect(connection) {
                None => return Ok(true),
                Some(next) if next > deadline => return Err(Unavailable),
                Some(next) => sleep_until(next).await,
            }
        }
        Ok(false)
    }

    /// Whether there is such a connection, as far as anybody knows who has not signed. Asks the log only together with all others
    /// who ask at the same time, and not often: else anybody could fill it.
    async fn knows(&self, connection: Uuid) -> Result<bool, Unavailable> {
        let is_known = || self.replica.lock().state().is_some_and(|state| state.has_connection(connection));
        let asked = Instant::now();
        if is_known() {
            return Ok(true);
        }
        let mut looked = timeout(DEADLINE, self.looked.lock()).await.map_err(|_| Unavailable)?;
        if looked.at <= asked {
            sleep_until(looked.at + LOOK_EVERY).await;
            looked.at = Instant::now();
            looked.has_succeeded = false; // whoever gives up waiting leaves it so
            looked.has_succeeded = self.carry(Order::Look).await.is_ok();
        }
        if !looked.has_succeeded {
            return Err(Unavailable);
        }
        drop(looked);
        Ok(is_known())
    }

    /// Has what comes for `connection` put into `outbox`, starting with what the client has missed, until another client
    /// listens for the connection or it is gone. What has come after the frame `since` is not missed, whoever has listened
    /// before. Waits while listens from this `address` or for this connection come too fast; nothing is written to the log
    /// before that is over.
    ///
    /// # Errors
    /// As [`call`](Self::call), and when the wait takes too long.
    pub async fn attach(
        self: &Arc<Self>,
        connection: Uuid,
        by: By,
        outbox: Arc<Outbox>,
        since: u64,
        address: Option<IpAddr>,
    ) -> Result<Attached, Unavailable> {
        if !self.knows(connection).await? {
            return Ok(Attached::Unknown);
        }
        let turn = match self.throttle.admit(connection, address).await {
            Ok(turn) => turn,
            Err(Refused::Superseded) => return Ok(Attached::Occupied),
            Err(Refused::OutOfTurns) => return Err(Unavailable),
        };
        let ended = self.links.add(outbox.connection(), outbox.clone());
        let mut listening = Listening {
            channelstream: self.clone(),
            connection,
            link: outbox.connection(),
            ended,
            is_noted: Noted::Perhaps,
            turn,
        };
        let order = Order::Attach { connection, link: listening.link, by, since };
        let carried = self.carry(order).await?;
        Ok(match carried.outcome {
            Ok(Done::Attached) => {
                listening.is_noted = Noted::Yes;
                Attached::Listening(listening)
            }
            Ok(Done::Occupied) => {
                listening.is_noted = Noted::No;
                Attached::Occupied
            }
            _ => {
                listening.is_noted = Noted::No;
                Attached::Unknown
            }
        })
    }

    /// The number of the last frame there is.
    pub fn sequence(&self) -> u64 {
        self.replica.lock().state().map_or(0, State::sequence)
    }

    async fn carry(&self, order: Order) -> Result<Carried, Unavailable> {
        if self.has_no_log.load(Ordering::Relaxed) {
            return Err(Unavailable);
        }
        let carrying = async {
            self.is_known.subscribe().wait_for(|is_known| *is_known).await.map_err(|_| Unavailable)?;
            let (sender, carried) = oneshot::channel();
            let command = Command::new(order);
            let forgotten = Forgotten { channelstream: self, id: command.id };
            self.waiting.lock().insert(command.id, sender);
            self.orders.send(Ordered::new(command)).map_err(|_| Unavailable)?;
            let outcome = carried.await.map_err(|_| Unavailable);
            drop(forgotten);
            outcome
        };
        // At a stop nothing is carried out here any more.
        let carrying = self.stop.run_until_cancelled(timeout(DEADLINE, carrying));
        carrying.await.and_then(Result::ok).unwrap_or(Err(Unavailable))
    }

    /// Orders something for which nobody waits.
    fn order(&self, orders: impl IntoIterator<Item = Order>) {
        if self.stop.is_cancelled() && self.snapshots_every.is_none() {
            return; // the log is over, and nobody else is there
        }
        for order in orders {
            let _ = self.orders.send(Ordered::new(Command::new(order))); // when this is over, so is everything
        }
    }

    /// What is to be done, in this order, because of what stands in the log.
    pub fn take(&self, body: &[u8], has_log: bool, is_recalled: bool) -> Vec<Deed> {
        let message: Message = match serde_json::from_slice(body) {
            Ok(message) => message,
            Err(error) => {
                // The parser's words may quote the body.
                let (line, column) = (error.line(), error.column());
                limited!(warn, "message of Channelstream dropped: it cannot be read", bytes = body.len(), line, column);
                return Vec::new();
            }
        };
        if !has_log {
            if !self.has_no_log.swap(true, Ordering::Relaxed) {
                warn!("Channelstream needs a log, and RabbitMQ has none: all calls are answered with 503");
            }
            return Vec::new();
        }
        self.has_no_log.store(false, Ordering::Relaxed);
        let (mut deeds, mut effects, mut orders) = (Vec::new(), Vec::new(), Vec::new());
        self.metrics.channelstream_commands.inc_by(message.commands.len() as u64);
        let mut replica = self.replica.lock();
        for command in message.commands {
            let waiting = (message.instance == self.me).then(|| self.waiting.lock().remove(&command.id)).flatten();
            let order = waiting.is_some().then(|| command.order.clone());
            let was_known = replica.state().is_some();
            let outcome = replica.take(message.instance, command, &mut effects, &mut orders);
            let is_known = replica.state().is_some();
            if is_known != was_known {
                if !is_known {
                    self.links.clear();
                }
                self.is_known.send_replace(is_known);
            }
            if is_recalled {
                effects.retain(|effect| !matches!(effect, Effect::Publish { .. }));
            }
            deeds.extend(effects.drain(..).map(Deed::of));
            if let (Some(waiting), Some(outcome), Some(order), Some(state)) = (waiting, outcome, order, replica.state())
            {
                let text = match (&order, &outcome) {
                    (Order::Call(call), Ok(done)) => state.answer(call, done),
                    _ => String::new(), // of no interest
                };
                deeds.push(Deed::Perform(Performed(Inner::Answer(waiting, Carried { outcome, text }))));
            }
        }
        if let Some(state) = replica.state() {
            self.metrics.count_channelstream(state.counts());
        }
        drop(replica);
        if !is_recalled {
            self.order(orders);
        }
        deeds
    }

    /// Does what is to be done beside publishing.
    pub fn perform(&self, performed: Performed) {
        match performed.0 {
            Inner::Effect(Effect::Join { link, room }) => self.links.join(link, room),
            Inner::Effect(Effect::Leave { link, room }) => self.links.leave(link, &room),
            Inner::Effect(Effect::Attached { link, frames, rooms }) => self.links.attach(link, frames, rooms),
            Inner::Effect(Effect::Ended { link }) => self.links.remove(link),
            Inner::Effect(Effect::Publish { .. }) => {}
            Inner::Answer(waiting, carried) => drop(waiting.send(carried)), // the caller may have given up
        }
    }

    /// Something may have been missed in the log: what is known does not count any more, and who listens has to come back.
    pub fn lose(&self) {
        self.replica.lock().lose();
        self.is_known.send_replace(false);
        self.links.clear();
    }
}

impl Deed {
    fn of(effect: Effect) -> Self {
        match effect {
            Effect::Publish { room, text, only, exclude } => {
                let rooms = room.key().into_iter().collect();
                Self::Publish(Publication::new(rooms, text, exclude).only_for(only))
            }
            effect => Self::Perform(Performed(Inner::Effect(effect))),
        }
    }
}

/// Whoever does not wait any more is forgotten.
struct Forgotten<'c> {
    channelstream: &'c Channelstream,
    id: Uuid,
}

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        self.channelstream.waiting.lock().remove(&self.id);
    }
}
