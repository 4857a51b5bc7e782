//! The client of the HTTP API behind us: who is this client, and what it wants to know of them.

mod answer;
mod headers;
mod hooks;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};
use reqwest::{Url, redirect::Policy};
use tokio::time::timeout;

pub use answer::{Admission, Malformed};
pub use headers::{Handshake, InvalidHeader};
pub use hooks::{Event, Hooks, Notifier};

use crate::{
    config,
    metrics::{Metrics, Outcome},
    room::Interner,
};

/// The largest bootstrap answer that is read.
const ANSWER_LIMIT_BYTES: usize = 16 << 20;
/// How long an unused connection to the backend is kept.
const POOL_IDLE: Duration = Duration::from_secs(30);

/// Why the backend could not say who a client is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It said no, or something that is not yes.
    #[error("backend refused the client with status {0}")]
    Refused(StatusCode),
    /// It took too long.
    #[error("backend did not answer within {0:?}")]
    TimedOut(Duration),
    /// There was no connection, or it broke.
    #[error("backend could not be reached")]
    Unreachable(#[source] reqwest::Error),
    /// It said something else.
    #[error("backend answer is not a bootstrap")]
    Malformed(#[source] Malformed),
}

impl Error {
    /// The word it is counted under.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Refused(_) => Outcome::Refused,
            Self::TimedOut(_) => Outcome::TimedOut,
            Self::Unreachable(_) => Outcome::Unreachable,
            Self::Malformed(_) => Outcome::Malformed,
        }
    }
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
}

impl Backend {
    /// A client of the backend at `config.url`; nothing is sent yet.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(config: config::Backend, metrics: Arc<Metrics>) -> Result<Self, BuildError> {
        // One cryptography for all TLS of the process, the broker's included; fails only when there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
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
        Ok(Self { http, bootstrap, config, interner: Interner::default(), metrics })
    }

    /// What is passed on of a client's handshake.
    ///
    /// # Errors
    /// When a value could not be sent as a header.
    pub fn forwarded(&self, handshake: &Handshake<'_>) -> Result<HeaderMap, InvalidHeader> {
        headers::forwarded(&self.config.headers, handshake)
    }

    /// Asks the backend which rooms the client may join. Waits up to `API_TIMEOUT`.
    ///
    /// # Errors
    /// When the answer is anything but a 200 with a readable bootstrap; the client is then not authorised.
    pub async fn authenticate(&self, headers: HeaderMap) -> Result<Admission, Error> {
        let within = self.config.timeout;
        let outcome = match timeout(within, self.bootstrap(headers)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::TimedOut(within)),
        };
        self.metrics.bootstraps.inc(outcome.as_ref().map_or_else(Error::outcome, |_| Outcome::Ok));
        outcome
    }

    async fn bootstrap(&self, headers: HeaderMap) -> Result<Admission, Error> {
        // The URL may hold credentials; it stays out of what is logged.
        let unreachable = |error: reqwest::Error| Error::Unreachable(error.without_url());
        let mut response = self.http.get(self.bootstrap.clone()).headers(headers).send().await.map_err(unreachable)?;
        if response.status() != StatusCode::OK {
            return Err(Error::Refused(response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > ANSWER_LIMIT_BYTES {
                return Err(Error::Malformed(Malformed::TooLarge));
            }
            body.extend_from_slice(&chunk);
        }
        Admission::parse(&body, &self.config.user_id_path, &self.interner).map_err(Error::Malformed)
    }

    /// Posts to `url` on behalf of a client. The answer is not looked at beyond its status.
    async fn post(&self, url: Url, headers: HeaderMap) -> Result<(), Error> {
        let within = self.config.timeout;
        let request = self.http.post(url).headers(headers).header(http::header::CONTENT_LENGTH, 0).send();
        match timeout(within, request).await {
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => Err(Error::Refused(response.status())),
            Ok(Err(error)) => Err(Error::Unreachable(error.without_url())),
            Err(_) => Err(Error::TimedOut(within)),
        }
    }
}
