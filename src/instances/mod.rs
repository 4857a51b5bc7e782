//! What instances know of each other, so that no connection is forgotten whose instance has died.
//!
//! Every instance writes into the log that it is there, and for which connections it answers: those whose beginning the
//! backend has been told of and not their end. When one is silent, another one answers for its connections, which it says in
//! the log, too: so all know who that is, and when that one dies as well, the next takes over.

mod message;

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use self::message::{Message, Seal};
use crate::{
    backend::{Hooks, News, Reported},
    broker::{Kind, Publisher, State},
    config::Secret,
    logging::{chain, limited},
    metrics::Metrics,
};

/// How often an instance says what is new, if anything is.
const LOOK: Duration = Duration::from_secs(1);
/// How often it says that it is there.
const BEAT: Duration = Duration::from_secs(5);
/// How long one may be silent before another one answers for its connections.
const SILENT: Duration = Duration::from_secs(30);
/// How often an adoption is tried again that has not come to the log.
const ADOPT_AGAIN: Duration = Duration::from_secs(5);
/// How large the sealed part of a message may become, about: RabbitMQ takes some MiB, and triggers go the same way.
const PIECE_BYTES: usize = 256 << 10;
/// Whoever has not heard itself for so long does not know whether the others can be heard.
const DEAF: Duration = Duration::from_secs(15);

/// This instance among the others.
#[derive(Debug)]
pub struct Instances {
    me: Uuid,
    seal: Seal,
    hooks: Arc<Hooks>,
    metrics: Arc<Metrics>,
    others: Mutex<HashMap<Uuid, Other>>,
    /// When a message of its own has last come back by the log.
    heard: Mutex<Option<Instant>>,
    /// How far this one is: who does not follow the log hears nobody, and that says nothing of them.
    state: watch::Receiver<State>,
    /// How often all has to be said, so that an instance that starts learns of it from what it reads back.
    all_every: Duration,
}

/// Another instance.
#[derive(Debug, Default)]
struct Other {
    /// For how long it has not been heard, as far as this one could hear.
    silent: Duration,
    connections: HashMap<Uuid, Reported>,
    /// When this one has last said that it adopts them.
    adopting: Option<Instant>,
}

impl Instances {
    /// An instance whose connections `hooks` reports; `None` where that is not to be told to others. `history` is what an
    /// instance reads back when it starts.
    pub fn new(
        hooks: Arc<Hooks>,
        metrics: Arc<Metrics>,
        secret: Option<&Secret>,
        state: watch::Receiver<State>,
        history: Duration,
    ) -> Option<Arc<Self>> {
        hooks.books()?;
        let (seal, others, heard) = (Seal::new(secret?)?, Mutex::default(), Mutex::default());
        let all_every = (history / 3).max(BEAT);
        Some(Arc::new(Self { me: Uuid::new_v4(), seal, hooks, metrics, others, heard, state, all_every }))
    }

    /// Takes note of what an instance has said, in the order of the log.
    pub fn take_note(&self, body: &[u8]) {
        let Ok(message) = serde_json::from_slice::<Message>(body) else {
            return limited!(warn, "message of an instance dropped: it cannot be read", bytes = body.len());
        };
        let Some(books) = self.hooks.books() else { return };
        let mut others = self.others.lock();
        if let Some(dead) = message.adopts {
            let orphans = others.get_mut(&dead).map(|dead| std::mem::take(&mut dead.connections)).unwrap_or_default();
            if let Some(other) = others.get_mut(&dead) {
                other.adopting = None;
            }
            if message.instance == self.me {
                info!(connections = orphans.len(), "answering for the connections of an instance that has died");
                books.lock().adopt(orphans);
                self.hooks.report_adopted();
            } else {
                others.entry(message.instance).or_default().connections.extend(orphans);
            }
        }
        if message.instance == self.me {
            *self.heard.lock() = Some(Instant::now());
            return;
        }
        // Whoever was reported as gone, and is here, was taken for dead while it could not be heard.
        books.lock().correct(&message.went);
        if message.is_last {
            others.remove(&message.instance);
            return;
        }
        let other = others.entry(message.instance).or_default();
        (other.silent, other.adopting) = (Duration::ZERO, None);
        if message.is_all {
            other.connections.clear();
        }
        match message.came.as_deref().map(|came| self.seal.open(message.instance, came)) {
            Some(Some(came)) => {
                books.lock().disown(came.iter().map(|(id, _)| id));
                for other in others.values_mut() {
                    came.iter().for_each(|(id, _)| drop(other.connections.remove(id)));
                }
                others.entry(message.instance).or_default().connections.extend(came);
            }
            Some(None) => {
                limited!(warn, "an instance has another RESUME_SECRET: should it die, its connections are not reported")
            }
            None => {}
        }
        if let Some(other) = others.get_mut(&message.instance) {
            message.went.iter().for_each(|id| drop(other.connections.remove(id)));
        }
    }

    /// Says that this instance is there, and looks after the others, until `stop`.
    pub async fn run(self: Arc<Self>, publisher: Publisher, stop: CancellationToken) {
        stop.run_until_cancelled(self.run_for_ever(&publisher)).await;
    }

    async fn run_for_ever(&self, publisher: &Publisher) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut beat, mut all) = (Instant::now(), Some(Instant::now()));
        let mut last = Instant::now();
        loop {
            looks.tick().await;
            let now = Instant::now();
            if *self.state.borrow() != State::Current {
                (all, last) = (Some(now), now); // what was said may not have come to the log
                continue;
            }
            if now >= beat || self.hooks.books().is_some_and(|books| books.lock().has_news()) {
                beat = now + BEAT;
                let is_all = all.is_some_and(|all| now >= all);
                all = match self.tell(publisher, is_all).await {
                    true if is_all => Some(now + self.all_every),
                    true => all,
                    false => Some(now), // all of it, when it can be said
                };
            }
            // Where nothing can be published, be it that RabbitMQ is short of memory, all are silent.
            if self.heard.lock().is_some_and(|heard| now < heard + DEAF) {
                for dead in self.silent(now - last, now) {
                    let adopts = Message { instance: self.me, adopts: Some(dead), ..Message::default() };
                    self.say(publisher, &adopts).await;
                }
            }
            last = now;
        }
    }

    /// Says what is new, or all. Whether that has come to the log.
    async fn tell(&self, publisher: &Publisher, is_all: bool) -> bool {
        let Some(books) = self.hooks.books() else { return true };
        let News { came, went } = books.lock().news(is_all);
        let mut pieces = message::pieces(came, PIECE_BYTES).into_iter();
        let first = Message {
            instance: self.me,
            is_all,
            came: pieces.next().and_then(|piece| self.seal.close(self.me, &piece)),
            went,
            ..Message::default()
        };
        if !self.say(publisher, &first).await {
            books.lock().take_back(first.went); // who came is said again, together with all the others
            return false;
        }
        for piece in pieces {
            let came = self.seal.close(self.me, &piece);
            if !self.say(publisher, &Message { instance: self.me, came, ..Message::default() }).await {
                return false;
            }
        }
        true
    }

    /// The last word of an instance that has reported the end of all its connections.
    pub async fn say_goodbye(&self, publisher: &Publisher) {
        self.tell(publisher, false).await;
        self.say(publisher, &Message { instance: self.me, is_last: true, ..Message::default() }).await;
    }

    async fn say(&self, publisher: &Publisher, message: &Message) -> bool {
        let Ok(body) = serde_json::to_vec(message) else { return false };
        let outcome = publisher.publish(Kind::Instance, body.into()).await;
        if let Err(error) = &outcome {
            limited!(warn, "the other instances cannot be told", error = chain(error));
        } else {
            self.metrics.instances_told.inc();
        }
        outcome.is_ok()
    }

    /// Those that have been silent for too long, `passed` of it just now, and for which it is up to this one to answer.
    fn silent(&self, passed: Duration, now: Instant) -> Vec<Uuid> {
        let mut others = self.others.lock();
        others.values_mut().for_each(|other| other.silent += passed);
        others.retain(|_, other| other.silent < SILENT || !other.connections.is_empty());
        let first = others.iter().filter(|(_, other)| other.silent < SILENT).map(|(id, _)| *id).min();
        if first.is_some_and(|first| first < self.me) {
            return Vec::new();
        }
        let is_due =
            |other: &Other| other.silent >= SILENT && other.adopting.is_none_or(|since| now >= since + ADOPT_AGAIN);
        let due = others.iter_mut().filter(|(_, other)| is_due(other));
        due.map(|(id, other)| {
            other.adopting = Some(now);
            *id
        })
        .collect()
    }
}
