//! The client of the HTTP API behind us: who is this client, and what it wants to know of them.
//!
//! It is protected: however many clients come at once, it is asked by a bounded number of calls, once for those who are
//! the same, and not at all while it fails.

mod answer;
mod books;
mod cache;
mod caller;
mod changes;
mod client;
mod credentials;
mod error;
mod gate;
mod headers;
mod hooks;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use http::StatusCode;
use parking_lot::Mutex;
use reqwest::{Response, Url};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

pub use answer::{Admission, Malformed};
pub use books::{Books, News, Reported};
pub use changes::{Changes, Moment, Whom};
pub use credentials::{Credentials, NotRenewed};
pub use error::Error;
pub use gate::{Patience, Urgency};
pub use headers::{Handshake, Identity, InvalidHeader};
pub use hooks::{Event, Hooks, Notifier};

use self::{
    cache::Cache,
    caller::Caller,
    client::{Client, Use},
    credentials::Sources,
    gate::{CallId, Gate, Request, Verdict},
};
use crate::{
    config,
    logging::limited,
    metrics::{Metrics, Outcome},
    room::{self, Interner},
};

/// The largest bootstrap answer that is read.
const ANSWER_LIMIT_BYTES: usize = 16 << 20;
/// How often answers that are too old are removed.
const SWEPT_EVERY: Duration = Duration::from_secs(10);

/// What the backend said, and when it was asked.
#[derive(Debug)]
pub struct Answer {
    /// Who it is, and what it may.
    pub admission: Admission,
    /// When the call began: of changes after that it may not know.
    pub asked: Moment,
    /// The same by the clock.
    pub at: Instant,
}

type Outcomes = Result<Arc<Answer>, Arc<Error>>;
type Call = BoxFuture<'static, Outcomes>;

/// Calls under way. Who is urgent does not wait with somebody who is not.
type Calls = HashMap<(Identity, Urgency), (CallId, WeakShared<Call>)>;

/// The client could not even be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// TLS cannot be set up.
    #[error("TLS to the backend cannot be set up; are the certificates of authorities installed (ca-certificates)?")]
    Tls(#[source] reqwest::Error),
    /// A header of `API_HEADERS` cannot be sent.
    #[error("API_HEADERS has a value that cannot be sent")]
    Header(#[source] InvalidHeader),
}

/// The HTTP API behind us. Connections to it are pooled.
#[derive(Debug)]
pub struct Backend {
    http: Client,
    /// What goes with a probe: nothing that a client chose.
    fixed: Identity,
    bootstrap: Url,
    config: config::Backend,
    /// What is kept of handshakes for credentials that are renewed.
    sources: Sources,
    interner: Interner,
    metrics: Arc<Metrics>,
    gate: Gate,
    /// Calls under way, by what they forward.
    calls: Mutex<Calls>,
    cache: Option<Cache>,
    hasher: RandomState,
    /// Whose permissions have changed: who learns of a change notes it here.
    pub changes: Changes,
    me: Weak<Self>,
}

impl Backend {
    /// A client of the backend at `config.url`; nothing is sent yet.
    ///
    /// # Errors
    /// When TLS cannot be set up, or a header cannot be sent.
    pub fn new(config: config::Backend, changes: Changes, metrics: Arc<Metrics>) -> Result<Arc<Self>, BuildError> {
        provide_cryptography();
        let http = Client::new(&config, metrics.clone()).map_err(BuildError::Tls)?;
        let fixed = Identity::fixed(&config.headers).map_err(BuildError::Header)?;
        let mut bootstrap = config.url.clone();
        bootstrap.set_path(&format!("{}bootstrap/", config.url.path()));
        let gate = Gate::new(&config, metrics.clone());
        let cache = config.cache.map(|ttl| Cache::new(ttl, config.cache_limit_bytes, metrics.clone()));
        Ok(Arc::new_cyclic(|me| Self {
            http,
            fixed,
            bootstrap,
            interner: Interner::new(config.rooms),
            sources: Sources::of(&config.headers),
            config,
            metrics,
            gate,
            calls: Mutex::default(),
            cache,
            hasher: RandomState::new(),
            changes,
            me: me.clone(),
        }))
    }

    /// Looks whether the backend works when calls fail, and removes answers that are too old, until `stop`.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let probing = async {
            loop {
                let probe = self.gate.probe().await;
                let outcome = self.fetch(Use::Fresh, &self.fixed, self.changes.now()).await;
                self.metrics.api_probes.inc(outcome.as_ref().map_or_else(Error::outcome, |_| Outcome::Ok));
                probe.end(outcome.map_or_else(|error| error.verdict(), |_| Verdict::Fine));
            }
        };
        let sweeping = async {
            let Some(cache) = &self.cache else { return };
            loop {
                sleep(SWEPT_EVERY).await;
                cache.sweep();
            }
        };
        stop.run_until_cancelled(async { tokio::join!(probing, sweeping) }).await;
    }

    /// What is passed on of a client's handshake.
    ///
    /// # Errors
    /// When a value could not be sent as a header.
    pub fn identify(&self, handshake: &Handshake<'_>) -> Result<Identity, InvalidHeader> {
        Identity::of(&self.config.headers, handshake)
    }

    /// The same, for a client that may renew its credentials.
    ///
    /// # Errors
    /// As [`identify`](Self::identify).
    pub fn credentials(&self, handshake: &Handshake<'_>) -> Result<Credentials, InvalidHeader> {
        Ok(self.sources.credentials(self.identify(handshake)?, handshake))
    }

    /// Returns `credentials` with the `params` that the client shows instead of those of its handshake; what it does not name
    /// stays. Nothing is asked because of that.
    ///
    /// # Errors
    /// When the parameters cannot be read, are too large, or have a value that could not be sent as a header.
    pub fn renew(
        &self,
        credentials: &Credentials,
        params: &RawValue,
        limits: &config::Limits,
    ) -> Result<Credentials, NotRenewed> {
        self.sources.renew(&self.config.headers, credentials, params, limits)
    }

    /// Returns where the backend is asked about a client. A password in it is not shown.
    pub fn bootstrap_url(&self) -> Url {
        let mut url = self.bootstrap.clone();
        if url.password().is_some() {
            let _ = url.set_password(Some("***")); // fails only where there can be none
        }
        url
    }

    /// Returns how long the backend may take to answer.
    pub fn timeout(&self) -> Duration {
        self.config.timeout
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

    /// Asks the backend which rooms a client at `address` may join, or uses an answer that another call has got or gets. Waits
    /// for a turn as long as `patience` says, and for the answer up to `API_TIMEOUT`.
    ///
    /// # Errors
    /// When there was no turn, or when the answer is anything but a 200 with a readable bootstrap.
    pub async fn authenticate(&self, identity: &Identity, address: Option<IpAddr>, patience: Patience) -> Outcomes {
        if let Some(cache) = &self.cache
            && let Some(answer) = cache.get(identity, &self.changes)
        {
            self.metrics.bootstraps_cached.inc();
            return Ok(answer);
        }
        let caller = self.caller(identity, address);
        let answer = self.ask(identity, caller, Urgency::Client, patience).await?;
        if let Some(cache) = &self.cache {
            cache.put(identity, caller, &answer);
        }
        Ok(answer)
    }

    /// As [`authenticate`](Self::authenticate), for a client that is connected; what was said before does not count. Waits for its
    /// turn, though not while the backend is being left alone.
    ///
    /// # Errors
    /// As [`authenticate`](Self::authenticate).
    pub async fn check(&self, identity: &Identity, address: Option<IpAddr>, urgency: Urgency) -> Outcomes {
        let caller = self.caller(identity, address);
        let outcome = self.ask(identity, caller, urgency, Patience::UnlessPaused).await;
        if let Some(cache) = &self.cache {
            match &outcome {
                Ok(answer) => cache.put(identity, caller, answer),
                Err(error) if error.is_final() => cache.remove(identity),
                Err(_) => {}
            }
        }
        outcome
    }

    /// On whose account a client's calls are made.
    fn caller(&self, identity: &Identity, address: Option<IpAddr>) -> Caller {
        address.map_or_else(|| Caller::Identity(self.hasher.hash_one(identity)), Caller::Address)
    }

    /// Makes a call, or waits for one that is under way for the same identity.
    async fn ask(&self, identity: &Identity, caller: Caller, urgency: Urgency, patience: Patience) -> Outcomes {
        let asking = async {
            let (call, is_own) = self.call(identity, caller, urgency, patience);
            match call.await {
                // There was no turn for the account of the client that made the call; there may be one for this one's.
                Err(error) if !is_own && matches!(*error, Error::Busy { .. }) => {
                    self.call(identity, caller, urgency, patience).0.await
                }
                outcome => outcome,
            }
        };
        let deadline = match patience {
            Patience::Until(deadline) => deadline + self.config.timeout,
            Patience::Short => Instant::now() + self.config.queue_timeout + self.config.timeout,
            Patience::UnlessPaused | Patience::Endless => return asking.await,
        };
        // Another one's call may be more patient.
        match timeout_at(deadline, asking).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Arc::new(Error::TimedOut(self.config.timeout))),
        }
    }

    /// A call, and whether it is made here, and not by another client already.
    fn call(&self, identity: &Identity, caller: Caller, urgency: Urgency, patience: Patience) -> (Shared<Call>, bool) {
        let mut calls = self.calls.lock();
        let of = (identity.clone(), urgency);
        if let Some((number, call)) = calls.get(&of).and_then(|(number, call)| Some((*number, call.upgrade()?))) {
            drop(calls);
            self.metrics.bootstraps_shared.inc();
            self.gate.join(number, caller, urgency);
            return (call, false);
        }
        let number = self.gate.number();
        let listed = Listed { backend: self.me.clone(), of: of.clone(), number };
        let request = Request { call: number, caller, urgency, patience };
        let call = async move {
            let Some(backend) = listed.backend.upgrade() else {
                return Err(Arc::new(Error::Busy { retry_after: Duration::ZERO })); // nobody is there to hear it
            };
            backend.carry_out(&listed.of.0, request).await.map(Arc::new).map_err(Arc::new)
        };
        let call = call.boxed().shared();
        if let Some(weak) = call.downgrade() {
            calls.insert(of, (number, weak));
        }
        (call, true)
    }

    async fn carry_out(&self, identity: &Identity, request: Request) -> Result<Answer, Error> {
        let outcome = match self.gate.turn(request).await {
            Err(busy) => Err(Error::Busy { retry_after: busy.retry_after }),
            Ok(turn) => {
                let asked = self.changes.now();
                let at = Instant::now();
                let outcome = self.fetch(Use::Kept, identity, asked).await;
                turn.end(outcome.as_ref().map_or_else(Error::verdict, |_| Verdict::Fine));
                outcome.map(|admission| Answer { admission, asked, at })
            }
        };
        self.metrics.bootstraps.inc(outcome.as_ref().map_or_else(Error::outcome, |_| Outcome::Ok));
        outcome
    }

    /// Requests a bootstrap, for up to `API_TIMEOUT`.
    async fn fetch(&self, which: Use, identity: &Identity, asked: Moment) -> Result<Admission, Error> {
        let within = self.config.timeout;
        let outcome = timeout(within, self.request_bootstrap(which, identity, asked)).await;
        outcome.unwrap_or(Err(Error::TimedOut(within)))
    }

    async fn request_bootstrap(&self, which: Use, identity: &Identity, asked: Moment) -> Result<Admission, Error> {
        // The URL may hold credentials; it stays out of what is logged.
        let unreachable = |error: reqwest::Error| Error::Unreachable(error.without_url());
        let mut response = self.http.get(&self.bootstrap, &identity.headers(), which).await.map_err(unreachable)?;
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
        let admission = admission.map_err(|malformed| {
            let is_page = answer::is_page(response.headers().get(http::header::CONTENT_TYPE), &body);
            if is_page { Error::Page { asked } } else { Error::Malformed(malformed) }
        })?;
        if admission.left_out > 0 {
            self.metrics.limited.inc("room");
            let rooms = admission.left_out;
            limited!(warn, "allowed_rooms that are larger than MAX_ROOM_KEYS or ROOM_LIMIT are left out", rooms);
        }
        Ok(admission)
    }

    /// Posts to `url` on behalf of a client, when it is its turn. The answer is not looked at beyond its status.
    async fn post(&self, url: Url, identity: &Identity, caller: Caller, body: Option<String>) -> Result<(), Error> {
        let (urgency, patience) = (Urgency::Background, Patience::Endless);
        let request = Request { call: self.gate.number(), caller, urgency, patience };
        let Ok(turn) = self.gate.turn(request).await else { return Ok(()) };
        let within = self.config.timeout;
        let answer = timeout(within, self.http.post(url, identity.headers(), body)).await;
        let is_stale = answer.as_ref().is_ok_and(|outcome| outcome.is_stale);
        let outcome = match answer.map(|outcome| outcome.answer) {
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => Err(refused(&response, self.changes.now())),
            Ok(Err(error)) => Err(Error::Unreachable(error.without_url())),
            Err(_) => Err(Error::TimedOut(within)),
        };
        // A hook that does not work says little about the backend, and one whose kept connection has just been closed nothing;
        // one that asks for a pause, or cannot be reached, is a reason to look.
        match &outcome {
            Ok(()) => turn.end(Verdict::Fine),
            Err(_) if is_stale => turn.end(Verdict::Unclear),
            Err(error @ (Error::Unreachable(_) | Error::Refused { retry_after: Some(_), .. })) => {
                turn.end(error.verdict());
            }
            Err(_) => turn.end(Verdict::Unclear),
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
    number: CallId,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let Some(backend) = self.backend.upgrade() else { return };
        let mut calls = backend.calls.lock();
        // There may be another one by now, if nobody waited for this one any more.
        if calls.get(&self.of).is_some_and(|(number, _)| *number == self.number) {
            calls.remove(&self.of);
        }
    }
}

fn refused(response: &Response, asked: Moment) -> Error {
    let retry_after = error::retry_after(response.headers(), SystemTime::now());
    Error::Refused { status: response.status(), retry_after, asked }
}
