//! Telling the backend that clients come, ping and go, without ever keeping a client waiting.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use http::HeaderMap;
use parking_lot::Mutex;
use reqwest::Url;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::Backend;
use crate::{config, metrics::Outcome};

/// Hooks under way at once.
const AT_ONCE: usize = 64;
/// Connections with a hook under way or waiting; a connection beyond that is not reported at all.
const WAITING: usize = 20_000;

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
    permits: Semaphore,
    waiting: AtomicUsize,
    tasks: TaskTracker,
}

impl Hooks {
    /// Hooks that go to `backend`.
    pub fn new(backend: Arc<Backend>, config: config::Hooks) -> Self {
        let tasks = TaskTracker::new();
        Self { backend, config, permits: Semaphore::new(AT_ONCE), waiting: AtomicUsize::new(0), tasks }
    }

    /// The hooks of one connection, which is reported as connected by this call and as gone when the result is dropped.
    ///
    /// `None` when no hook is configured, or when too many connections wait to be reported: such a connection is counted
    /// as dropped and never reported at all, so that the backend hears of an end only where it heard of a beginning.
    pub fn connected(self: &Arc<Self>, headers: &HeaderMap) -> Option<Notifier> {
        if self.config.is_empty() {
            return None;
        }
        if self.waiting.load(Relaxed) >= WAITING {
            self.backend.metrics.hooks.inc(Outcome::Dropped);
            warn!(waiting = WAITING, "too many hooks are waiting: a connection is not reported to the backend");
            return None;
        }
        let notifier = Notifier {
            shared: Arc::new(Shared { hooks: self.clone(), headers: headers.clone(), state: Mutex::default() }),
        };
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
        self.waiting.load(Relaxed)
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
struct Shared {
    hooks: Arc<Hooks>,
    headers: HeaderMap,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_busy: bool,
    connect: bool,
    /// Any number of pings while a hook is under way become one.
    ping: bool,
    disconnect: bool,
}

impl Notifier {
    /// Posts the hook of `event` as soon as the ones before it are done. Returns at once.
    pub fn notify(&self, event: Event) {
        let shared = &self.shared;
        if shared.hooks.url(event).is_none() {
            return;
        }
        let mut state = shared.state.lock();
        match event {
            Event::Connect => state.connect = true,
            Event::Ping => state.ping = true,
            Event::Disconnect => state.disconnect = true,
        }
        if !state.is_busy {
            state.is_busy = true;
            shared.hooks.waiting.fetch_add(1, Relaxed);
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
            let Ok(_permit) = self.hooks.permits.acquire().await else { break };
            let Some(url) = self.hooks.url(event).cloned() else { continue };
            let backend = &self.hooks.backend;
            let outcome = match Box::pin(backend.post(url, self.headers.clone())).await {
                Ok(()) => Outcome::Ok,
                Err(error) => {
                    debug!(error = &error as &dyn std::error::Error, ?event, "hook failed");
                    error.outcome()
                }
            };
            backend.metrics.hooks.inc(outcome);
        }
        self.hooks.waiting.fetch_sub(1, Relaxed);
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
