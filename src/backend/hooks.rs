//! Telling the backend that clients come, ping and go, without ever keeping a client waiting.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rand::Rng;
use reqwest::Url;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;
use tracing::debug;
use uuid::Uuid;

use super::{
    Backend, Caller, Error, Identity,
    books::{Books, Reported},
};
use crate::{
    config,
    logging::{chain, limited},
    metrics::Outcome,
};

/// How often a hook is tried that the backend may take the next time.
const ATTEMPTS: u32 = 5;
/// The wait before the second attempt, at most; twice as long before each one after it.
const WAIT: Duration = Duration::from_secs(2);
/// The longest wait that the backend can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Connections with a hook under way or waiting; a connection beyond that is not reported at all.
const WAITING: usize = 20_000;
/// Part of them that one account may have: a client that comes and goes again and again leaves room for the others.
const SHARE: usize = 4;

/// What happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It was authorised.
    Connect,
    /// Its client sent `ping`.
    Ping,
    /// It is gone.
    Disconnect,
}

/// Posts hooks for all connections.
#[derive(Debug)]
pub struct Hooks {
    backend: Arc<Backend>,
    config: config::Hooks,
    waiting: Mutex<Waiting>,
    tasks: TaskTracker,
    /// Kept where other instances are told.
    books: Option<Mutex<Books>>,
}

/// Connections with a hook under way or waiting.
#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    by_caller: HashMap<Caller, usize>,
}

impl Waiting {
    fn is_full_for(&self, caller: Caller) -> bool {
        self.all >= WAITING || self.by_caller.get(&caller).is_some_and(|own| *own >= WAITING / SHARE)
    }

    fn add(&mut self, caller: Caller) {
        self.all += 1;
        *self.by_caller.entry(caller).or_default() += 1;
    }

    fn remove(&mut self, caller: Caller) {
        self.all -= 1;
        if let Entry::Occupied(mut own) = self.by_caller.entry(caller) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

impl Hooks {
    /// Hooks that go to `backend`. With `keeps_books`, it is known whose end has not been reported.
    pub fn new(backend: Arc<Backend>, config: config::Hooks, keeps_books: bool) -> Self {
        let books = (keeps_books && config.disconnect.is_some()).then(Mutex::default);
        Self { backend, config, waiting: Mutex::default(), tasks: TaskTracker::new(), books }
    }

    /// The hooks of one connection, which is reported as connected by this call and as gone when the result is dropped.
    ///
    /// `None` when no hook is configured, or when too many connections, or too many of this address, wait to be reported: such
    /// a connection is counted as dropped and never reported at all, so that the backend hears of an end only where it heard of
    /// a beginning.
    pub fn connected(
        self: &Arc<Self>,
        id: Uuid,
        user: Option<&Arc<str>>,
        identity: &Identity,
        address: Option<IpAddr>,
    ) -> Option<Notifier> {
        if self.config.is_empty() {
            return None;
        }
        let caller = self.backend.caller(identity, address);
        if self.waiting.lock().is_full_for(caller) {
            self.backend.metrics.hooks.inc(Outcome::Dropped);
            let most_per_address = WAITING / SHARE;
            limited!(
                warn,
                "too many hooks wait: a connection is not reported to the API",
                most = WAITING,
                most_per_address
            );
            return None;
        }
        let (hooks, state) = (self.clone(), Mutex::default());
        let shared = Arc::new(Shared { id, hooks, identity: Mutex::new(identity.clone()), caller, state });
        if let Some(books) = &self.books {
            let reported = Reported { user: user.cloned(), identity: identity.clone() };
            books.lock().open(id, reported, Arc::downgrade(&shared));
        }
        let notifier = Notifier { shared };
        notifier.notify(Event::Connect);
        Some(notifier)
    }

    /// Waits until all that was to be posted is posted, or given up.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Connections with a hook under way or waiting.
    pub fn unfinished(&self) -> usize {
        self.waiting.lock().all
    }

    /// Whether it is known whose end has not been reported.
    pub fn books(&self) -> Option<&Mutex<Books>> {
        self.books.as_ref()
    }

    /// Reports connections of another instance as gone, one hook for each user, in whose name it is posted like all hooks.
    /// Those that the [`Books`] do not name as adopted any more when it is their turn are passed over.
    pub fn report_adopted(self: &Arc<Self>) {
        let Some(books) = &self.books else { return };
        for (user, ids) in books.lock().adopted_by_user() {
            let hooks = self.clone();
            self.waiting.lock().all += 1;
            self.tasks.spawn(async move {
                Box::pin(hooks.report_one(user, ids)).await;
                hooks.waiting.lock().all -= 1;
            });
        }
    }

    async fn report_one(&self, user: Option<Arc<str>>, mut ids: Vec<Uuid>) {
        let (Some(books), Some(url)) = (&self.books, &self.config.disconnect) else { return };
        let identity = {
            let books = books.lock();
            ids.retain(|id| books.is_adopted(id));
            ids.first().and_then(|id| books.identity(id))
        };
        let Some(identity) = identity else { return };
        let body = json!({"user": user.as_deref(), "connections": ids, "reason": "instance-lost"}).to_string();
        // Once one of them is known to live, the others are reported all the same: they were said to be gone before.
        let caller = self.backend.caller(&identity, None);
        self.deliver(url, &identity, caller, Some(body), || ids.iter().any(|id| books.lock().is_adopted(id))).await;
        self.backend.metrics.connections_adopted.inc_by(ids.len() as u64);
        books.lock().note_reported(&ids);
    }

    /// Posts a hook, and tries again where that may help, as long as it `is_wanted`.
    async fn deliver(
        &self,
        url: &Url,
        identity: &Identity,
        caller: Caller,
        body: Option<String>,
        is_wanted: impl Fn() -> bool,
    ) {
        let mut wait = WAIT;
        for attempt in 1..=ATTEMPTS {
            let outcome = self.backend.post(url.clone(), identity, caller, body.clone()).await;
            let metrics = &self.backend.metrics;
            metrics.hooks.inc(outcome.as_ref().map_or_else(Error::outcome, |()| Outcome::Ok));
            let Err(error) = outcome else { return };
            debug!(error = chain(&error), attempt, "hook failed");
            if error.is_final() || attempt == ATTEMPTS || !is_wanted() {
                limited!(
                    warn[error.outcome().word()],
                    "hook given up",
                    path = url.path(),
                    attempt,
                    error = chain(&error)
                );
                break;
            }
            let part = rand::rng().random_range(0.5..1.0);
            let asked = error.retry_after().unwrap_or_default().min(LONGEST_WAIT);
            sleep(wait.mul_f64(part).max(asked)).await;
            wait *= 2;
        }
        self.backend.metrics.hooks_given_up.inc();
    }

    fn url(&self, event: Event) -> Option<&Url> {
        match event {
            Event::Connect => self.config.connect.as_ref(),
            Event::Ping => self.config.ping.as_ref(),
            Event::Disconnect => self.config.disconnect.as_ref(),
        }
    }
}

/// The hooks of one connection.
#[derive(Debug)]
pub struct Notifier {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    id: Uuid,
    hooks: Arc<Hooks>,
    /// In whose name the next hook is posted.
    identity: Mutex<Identity>,
    /// On whose account hooks are posted and wait, as long as the connection lasts.
    caller: Caller,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_busy: bool,
    connect: bool,
    /// Any number of pings while a hook is under way become one.
    ping: bool,
    disconnect: bool,
    /// It is gone: nothing but that is to be posted any more.
    is_over: bool,
    /// When the next ping hook is due.
    next_ping: Option<Instant>,
}

impl State {
    /// Whether something is to be posted.
    fn is_due(&self) -> bool {
        self.connect || self.ping || self.disconnect
    }

    /// Notes a ping of the client. One in each `interval` counts: a client chooses how often it pings, and each hook is a
    /// request to the backend.
    fn note_ping(&mut self, interval: Duration, now: Instant) {
        // Pings that come once in each interval come a little early at times.
        if self.next_ping.is_some_and(|next| now + interval / 4 < next) {
            return;
        }
        self.ping = true;
        let next = self.next_ping.unwrap_or(now) + interval;
        self.next_ping = Some(if next > now { next } else { now + interval });
    }
}

impl Notifier {
    /// Posts the hook of `event` as soon as the ones before it are done. Returns at once.
    pub fn notify(&self, event: Event) {
        Shared::notify(&self.shared, event);
    }

    /// Posts the following hooks with `identity`, and has other instances do so should this one die.
    pub fn renew(&self, identity: &Identity) {
        *self.shared.identity.lock() = identity.clone();
        if let Some(books) = &self.shared.hooks.books {
            books.lock().renew(&self.shared.id, identity);
        }
    }
}

impl Shared {
    pub(super) fn notify(shared: &Arc<Self>, event: Event) {
        if shared.hooks.url(event).is_none() {
            return;
        }
        let mut state = shared.state.lock();
        match event {
            _ if state.is_over => return,
            Event::Connect => state.connect = true,
            Event::Ping => state.note_ping(shared.hooks.config.ping_interval, Instant::now()),
            Event::Disconnect => (state.disconnect, state.is_over) = (true, true),
        }
        if !state.is_busy && state.is_due() {
            state.is_busy = true;
            shared.hooks.waiting.lock().add(shared.caller);
            shared.hooks.tasks.spawn(shared.clone().work());
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.notify(Event::Disconnect);
    }
}

impl Shared {
    async fn work(self: Arc<Self>) {
        while let Some(event) = self.next() {
            let Some(url) = self.hooks.url(event) else { continue };
            let is_wanted = || match event {
                Event::Connect => !self.state.lock().disconnect,
                Event::Ping => false, // there will be another one
                Event::Disconnect => true,
            };
            let identity = self.identity.lock().clone();
            Box::pin(self.hooks.deliver(url, &identity, self.caller, None, is_wanted)).await;
            if let (Event::Disconnect, Some(books)) = (event, &self.hooks.books) {
                books.lock().close(&self.id);
            }
        }
        self.hooks.waiting.lock().remove(self.caller);
    }

    /// The event to post next; when there is none, the connection is no longer busy.
    fn next(&self) -> Option<Event> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.connect) {
            return Some(Event::Connect);
        }
        if state.disconnect {
            state.ping = false; // a client that is gone is not there
        }
        if std::mem::take(&mut state.ping) {
            return Some(Event::Ping);
        }
        if std::mem::take(&mut state.disconnect) {
            return Some(Event::Disconnect);
        }
        state.is_busy = false;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Changes, *};
    use crate::metrics::Metrics;

    #[test]
    fn a_connection_causes_one_ping_hook_an_interval_however_often_its_client_pings() {
        let (start, interval) = (Instant::now(), Duration::from_secs(25));
        let hooks = |every: Duration, count: u32| {
            let mut state = State::default();
            let is_posted = |number: &u32| {
                state.note_ping(interval, start + every * *number);
                std::mem::take(&mut state.ping)
            };
            (0..count).filter(is_posted).count()
        };
        assert_eq!(hooks(Duration::from_millis(1), 100_000), 100 / 25 + 1);
        assert_eq!(hooks(Duration::from_secs(1), 1000), 1000 / 25 + 1);
        assert_eq!(hooks(Duration::from_secs(20), 1000), 20 * 1000 / 25);
        assert_eq!(hooks(Duration::from_millis(24_990), 100), 100, "its clock is a little fast");
        assert_eq!(hooks(Duration::from_secs(30), 100), 100);
        assert_eq!(hooks(Duration::from_secs(3600), 100), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_last_word_that_nobody_takes_is_tried_five_times_and_given_up_within_half_a_minute() {
        let vars = [
            ("API_URL", "http://api/"),
            ("API_SOCKET", "/nowhere/api.sock"),
            ("HOOK_DISCONNECT", "user/notify_offline/"),
        ];
        let config =
            config::from_vars(vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter()).unwrap();
        let metrics: Arc<Metrics> = Arc::default();
        let backend = Backend::new(config.backend, Changes::new(Duration::ZERO), metrics.clone()).unwrap();
        let hooks = Arc::new(Hooks::new(backend, config.hooks, false));
        let start = Instant::now();
        drop(hooks.connected(Uuid::nil(), None, &Identity::from_bytes(b"cookie:a=1\n"), None));
        assert_eq!(hooks.unfinished(), 1);
        hooks.finish().await;
        let (text, taken) = (metrics.text().unwrap(), start.elapsed());
        assert!(text.contains("high_templar_hooks_total{outcome=\"Unreachable\"} 5\n"), "{text}");
        assert!((15..=30).contains(&taken.as_secs()), "{taken:?}");
        assert_eq!((metrics.hooks_given_up.get(), hooks.unfinished()), (1, 0));
    }
}
