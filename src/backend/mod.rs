//! The client of the HTTP API behind us: who is this client, and what it wants to know of them.
//!
//! It is protected: however many clients come at once, it is asked by a bounded number of calls, once for those who are
//! the same, and not at all while it fails.

mod answer;
mod books;
mod cache;
mod changes;
mod error;
mod gate;
mod headers;
mod hooks;
mod reports;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use http::StatusCode;
use parking_lot::Mutex;
use reqwest::{Response, Url, redirect::Policy};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

pub use answer::{Admission, Malformed};
pub use books::{Books, News, Reported};
pub use changes::{Changes, Moment, Whom};
pub use error::Error;
pub use gate::{Patience, Urgency};
pub use headers::{Handshake, Identity, InvalidHeader};
pub use hooks::{Event, Hooks, Notifier};

use self::{
    cache::Cache,
    gate::{Gate, Verdict},
    reports::Reports,
};
use crate::{
    config,
    metrics::{Metrics, Outcome},
    room::{self, Interner},
};

/// The largest bootstrap answer that is read.
const ANSWER_LIMIT_BYTES: usize = 16 << 20;
/// How long an unused connection to the backend is kept.
const POOL_IDLE: Duration = Duration::from_secs(30);

/// What the backend said, and when it was asked.
#[derive(Debug)]
pub struct Answer {
    /// Who it is, and what it may.
    pub admission: Admission,
    /// When the call began: of changes after that it may not know.
    pub asked: Moment,
}

type Outcomes = Result<Arc<Answer>, Arc<Error>>;
type Call = BoxFuture<'static, Outcomes>;

/// Calls under way. Who is urgent does not wait with somebody who is not.
#[derive(Debug, Default)]
struct Calls {
    known: HashMap<(Identity, Urgency), (u64, WeakShared<Call>)>,
    count: u64,
}

/// The client could not even be built.
#[derive(Debug, thiserror::Error)]
#[error("TLS to the backend cannot be set up; are the certificates of authorities installed (ca-certificates)?")]
pub struct BuildError(#[source] reqwest::Error);

/// The HTTP API behind us. Connections to it are pooled.
#[derive(Debug)]
pub struct Backend {
    http: reqwest::Client,
    bootstrap: Url,
    config: config::Backend,
    interner: Interner,
    metrics: Arc<Metrics>,
    gate: Gate,
    /// Calls under way, by what they forward.
    calls: Mutex<Calls>,
    cache: Option<Cache>,
    hasher: RandomState,
    reports: Reports,
    /// Whose permissions have changed: who learns of a change notes it here.
    pub changes: Changes,
    me: Weak<Self>,
}

impl Backend {
    /// A client of the backend at `config.url`; nothing is sent yet.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(config: config::Backend, changes: Changes, metrics: Arc<Metrics>) -> Result<Arc<Self>, BuildError> {
        provide_cryptography();
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("high-templar/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none()) // cookies must not go elsewhere
            .no_proxy()
            .http1_only()
            .pool_idle_timeout(POOL_IDLE)
            .tcp_nodelay(true);
        if config.url.scheme() == "http" {
            http = http.tls_certs_only([]); // a machine without certificates can do without
        }
        if let Some(path) = &config.socket {
            http = http.unix_socket(path.clone());
        }
        let http = http.build().map_err(BuildError)?;
        let mut bootstrap = config.url.clone();
        bootstrap.set_path(&format!("{}bootstrap/", config.url.path()));
        let gate = Gate::new(&config, metrics.clone());
        let (interner, calls, cache) = (Interner::default(), Mutex::default(), config.cache.map(Cache::new));
        let (hasher, reports) = (RandomState::new(), Reports::default());
        Ok(Arc::new_cyclic(|me| {
            let me = me.clone();
            Self { http, bootstrap, config, interner, metrics, gate, calls, cache, hasher, reports, changes, me }
        }))
    }

    /// Looks after a backend that fails, until `stop`: when it has been left alone for long enough, it is asked again.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        self.gate.keep(stop).await;
    }

    /// What is passed on of a client's handshake.
    ///
    /// # Errors
    /// When a value could not be sent as a header.
    pub fn identify(&self, handshake: &Handshake<'_>) -> Result<Identity, InvalidHeader> {
        Identity::of(&self.config.headers, handshake)
    }

    /// Whether answers are used again for a while.
    pub fn has_cache(&self) -> bool {
        self.cache.is_some()
    }

    /// What the backend would have said of `user`, who may join `rooms`.
    ///
    /// # Errors
    /// When one of them is no room.
    pub fn admission(&self, rooms: Vec<Box<RawValue>>, user: Option<&str>) -> Result<Admission, room::Error> {
        Admission::of(rooms.iter().map(Box::as_ref), user.map(Into::into), &self.interner)
    }

    /// Asks the backend which rooms a client may join, or somebody who has asked it lately. Waits for its turn as long as
    /// `patience` says, and for the answer up to `API_TIMEOUT`.
    ///
    /// # Errors
    /// When there was no turn, or when the answer is anything but a 200 with a readable bootstrap.
    pub async fn authenticate(&self, identity: &Identity, patience: Patience) -> Outcomes {
        if let Some(cache) = &self.cache
            && let Some(answer) = cache.get(identity, &self.changes)
        {
            self.metrics.bootstraps_cached.inc();
            return Ok(answer);
        }
        let answer = self.ask(identity, Urgency::Client, patience).await?;
        if let Some(cache) = &self.cache {
            cache.put(identity, &answer);
        }
        Ok(answer)
    }

    /// As [`authenticate`](Self::authenticate), for a client that is connected; what was said before does not count. Waits for its
    /// turn, though not while the backend is being left alone.
    ///
    /// # Errors
    /// As [`authenticate`](Self::authenticate).
    pub async fn check(&self, identity: &Identity, urgency: Urgency) -> Outcomes {
        let outcome = self.ask(identity, urgency, Patience::UnlessPaused).await;
        if let Some(cache) = &self.cache {
            match &outcome {
                Ok(answer) => cache.put(identity, answer),
                Err(error) if error.is_final() => cache.remove(identity),
                Err(_) => {}
            }
        }
        outcome
    }

    /// Makes a call, or waits for one that is under way for the same identity.
    async fn ask(&self, identity: &Identity, urgency: Urgency, patience: Patience) -> Outcomes {
        let deadline = match patience {
            Patience::Until(deadline) => deadline + self.config.timeout,
            Patience::Short => Instant::now() + self.config.queue_timeout + self.config.timeout,
            Patience::UnlessPaused | Patience::Endless => {
                return self.call(identity, urgency, patience).await;
            }
        };
        // Somebody else's call may be more patient.
        match timeout_at(deadline, self.call(identity, urgency, patience)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Arc::new(Error::TimedOut(self.config.timeout))),
        }
    }

    fn call(&self, identity: &Identity, urgency: Urgency, patience: Patience) -> Shared<Call> {
        let mut calls = self.calls.lock();
        let of = (identity.clone(), urgency);
        if let Some(call) = calls.known.get(&of).and_then(|(_, call)| call.upgrade()) {
            self.metrics.bootstraps_shared.inc();
            return call;
        }
        calls.count += 1;
        let number = calls.count;
        let listed = Listed { backend: self.me.clone(), of: of.clone(), number };
        let call = async move {
            let Some(backend) = listed.backend.upgrade() else {
                return Err(Arc::new(Error::Busy { retry_after: Duration::ZERO })); // nobody is there to hear it
            };
            backend.carry_out(&listed.of.0, urgency, patience).await.map(Arc::new).map_err(Arc::new)
        };
        let call = call.boxed().shared();
        if let Some(weak) = call.downgrade() {
            calls.known.insert(of, (number, weak));
        }
        call
    }

    async fn carry_out(&self, identity: &Identity, urgency: Urgency, patience: Patience) -> Result<Answer, Error> {
        let outcome = match self.gate.turn(urgency, patience).await {
            Err(busy) => Err(Error::Busy { retry_after: busy.retry_after }),
            Ok(turn) => {
                let (asked, within) = (self.changes.now(), self.config.timeout);
                let outcome = match timeout(within, self.bootstrap(identity, asked)).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(Error::TimedOut(within)),
                };
                let verdict = |error: &Error| error.verdict(self.hasher.hash_one(identity));
                turn.end(outcome.as_ref().map_or_else(verdict, |_| Verdict::Fine));
                outcome.map(|admission| Answer { admission, asked })
            }
        };
        self.metrics.bootstraps.inc(outcome.as_ref().map_or_else(Error::outcome, |_| Outcome::Ok));
        if let Err(error) = &outcome {
            self.reports.report(error);
        }
        outcome
    }

    async fn bootstrap(&self, identity: &Identity, asked: Moment) -> Result<Admission, Error> {
        // The URL may hold credentials; it stays out of what is logged.
        let unreachable = |error: reqwest::Error| Error::Unreachable(error.without_url());
        let request = self.http.get(self.bootstrap.clone()).headers(identity.headers());
        let mut response = request.send().await.map_err(unreachable)?;
        if response.status() != StatusCode::OK {
            return Err(refused(&response, asked));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > ANSWER_LIMIT_BYTES {
                return Err(Error::Malformed(Malformed::TooLarge));
            }
            body.extend_from_slice(&chunk);
        }
        let admission = Admission::parse(&body, &self.config.user_id_path, &self.interner);
        admission.map_err(|malformed| {
            let is_page = answer::is_page(response.headers().get(http::header::CONTENT_TYPE), &body);
            if is_page { Error::Page { asked } } else { Error::Malformed(malformed) }
        })
    }

    /// Posts to `url` on behalf of a client, when it is its turn. The answer is not looked at beyond its status.
    async fn post(&self, url: Url, identity: &Identity, body: Option<String>) -> Result<(), Error> {
        let Ok(turn) = self.gate.turn(Urgency::Background, Patience::Endless).await else { return Ok(()) };
        let within = self.config.timeout;
        let request = self.http.post(url).headers(identity.headers());
        let request = match body {
            Some(json) => request.header(http::header::CONTENT_TYPE, "application/json").body(json),
            None => request.header(http::header::CONTENT_LENGTH, 0),
        };
        let outcome = match timeout(within, request.send()).await {
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => Err(refused(&response, self.changes.now())),
            Ok(Err(error)) => Err(Error::Unreachable(error.without_url())),
            Err(_) => Err(Error::TimedOut(within)),
        };
        // A hook that does not work is no reason to refuse clients, nor a sign that the backend works; one that asks for a pause,
        // or cannot be reached, is.
        match &outcome {
            Ok(()) => turn.end(Verdict::Fine),
            Err(error @ (Error::Unreachable(_) | Error::Refused { retry_after: Some(_), .. })) => {
                turn.end(error.verdict(self.hasher.hash_one(identity)));
            }
            Err(_) => drop(turn),
        }
        outcome
    }
}

/// One cryptography for all TLS of the process, the broker's included; without one there is no HTTP client either.
pub(crate) fn provide_cryptography() {
    let _ = rustls::crypto::ring::default_provider().install_default(); // fails only when there is one already
}

/// A call that others may wait for, until it is over or nobody does.
struct Listed {
    backend: Weak<Backend>,
    of: (Identity, Urgency),
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let Some(backend) = self.backend.upgrade() else { return };
        let mut calls = backend.calls.lock();
        // There may be another one by now, if nobody waited for this one any more.
        if calls.known.get(&self.of).is_some_and(|(number, _)| *number == self.number) {
            calls.known.remove(&self.of);
        }
    }
}

fn refused(response: &Response, asked: Moment) -> Error {
    let retry_after = error::retry_after(response.headers(), SystemTime::now());
    Error::Refused { status: response.status(), retry_after, asked }
}
