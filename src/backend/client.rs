//! The HTTP client that calls to the API are made with.
//!
//! A server closes a kept connection after some silence, and at times just when the next request goes out. That request has
//! not been answered, though nothing is wrong. RFC 9112 section 9.3.1 lets a client send it once more if it changes nothing; a
//! request on a connection that was opened for it is not repeated, because its end says something about the server.

use std::{
    error::Error as _,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::Inspect};
use http::HeaderMap;
use reqwest::{Error, RequestBuilder, Response, Url, redirect::Policy};
use tower_layer::Layer;
use tower_service::Service;

use crate::{config, metrics::Metrics};

/// How long an unused connection is kept: less than the servers that APIs run on keep it, such as gunicorn 2 s, Node and
/// uvicorn 5 s, so that few of them close one that is about to be used.
const POOL_IDLE: Duration = Duration::from_millis(1500);

tokio::task_local! {
    /// Whether a connection has been opened for the request.
    static OPENS: Arc<AtomicBool>;
}

/// Makes requests on kept connections, and where need be on new ones.
#[derive(Debug)]
pub(super) struct Client {
    kept: reqwest::Client,
    fresh: reqwest::Client,
    metrics: Arc<Metrics>,
}

/// Which connections a request may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Any.
    Kept,
    /// One of its own: what a client did to another one says nothing about the backend.
    Fresh,
}

/// The answer to a request, or why there is none.
pub(super) struct Outcome {
    pub(super) answer: Result<Response, Error>,
    /// Its connection was kept from earlier requests and ended before any answer.
    pub(super) is_stale: bool,
}

impl Client {
    /// A client of the backend of `config`; nothing is sent yet.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn new(config: &config::Backend, metrics: Arc<Metrics>) -> Result<Self, Error> {
        let kept = builder(config).pool_idle_timeout(POOL_IDLE).connector_layer(NoteOpening).build()?;
        let fresh = builder(config).pool_max_idle_per_host(0).build()?;
        Ok(Self { kept, fresh, metrics })
    }

    /// Gets `url`, if need be once more.
    ///
    /// # Errors
    /// When there is no answer.
    pub(super) async fn get(&self, url: &Url, headers: &HeaderMap, which: Use) -> Result<Response, Error> {
        let request = |client: &reqwest::Client| client.get(url.clone()).headers(headers.clone());
        if which == Use::Kept {
            let outcome = send(request(&self.kept)).await;
            if !outcome.is_stale {
                return outcome.answer;
            }
            self.metrics.api_requests_repeated.inc();
        }
        request(&self.fresh).send().await
    }

    /// Posts `body` to `url`. The request is not repeated: the backend may have carried it out.
    pub(super) async fn post(&self, url: Url, headers: HeaderMap, body: Option<String>) -> Outcome {
        let request = self.kept.post(url).headers(headers);
        send(match body {
            Some(json) => request.header(http::header::CONTENT_TYPE, "application/json").body(json),
            None => request.header(http::header::CONTENT_LENGTH, 0),
        })
        .await
    }
}

/// Sends a request of the client that keeps connections.
async fn send(request: RequestBuilder) -> Outcome {
    let opens = Arc::new(AtomicBool::new(false));
    let answer = OPENS.scope(opens.clone(), request.send()).await;
    let is_stale = !opens.load(Relaxed) && answer.as_ref().is_err_and(is_unanswered);
    Outcome { answer, is_stale }
}

/// Whether the connection ended before an answer.
fn is_unanswered(error: &Error) -> bool {
    let ended = |error: &(dyn std::error::Error + 'static)| {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message)
            || matches!(kind, Some(BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof))
    };
    let mut source = error.source();
    while let Some(error) = source {
        if ended(error) {
            return true;
        }
        source = error.source();
    }
    false
}

/// What both kinds of client have in common.
fn builder(config: &config::Backend) -> reqwest::ClientBuilder {
    let mut http = reqwest::Client::builder()
        .user_agent(concat!("high-templar/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none()) // cookies must not go elsewhere
        .no_proxy()
        .http1_only()
        .tcp_nodelay(true);
    if config.url.scheme() == "http" {
        http = http.tls_certs_only([]); // a machine without certificates can do without
    }
    if let Some(path) = &config.socket {
        http = http.unix_socket(path.clone());
    }
    http
}

/// Notes in [`OPENS`] that a request has opened its connection, which reqwest does not tell.
///
/// While a connection is being opened for a request, another one may become free and serve it. The new one is then completed by
/// a task of its own, where no request is told of it.
#[derive(Debug, Clone, Copy)]
struct NoteOpening;

impl<S> Layer<S> for NoteOpening {
    type Service = Noting<S>;

    fn layer(&self, connector: S) -> Noting<S> {
        Noting(connector)
    }
}

#[derive(Debug, Clone)]
struct Noting<S>(S);

impl<S: Service<R>, R> Service<R> for Noting<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Inspect<S::Future, fn(&Result<S::Response, S::Error>)>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, target: R) -> Self::Future {
        self.0.call(target).inspect(|_| _ = OPENS.try_with(|opens| opens.store(true, Relaxed)))
    }
}
