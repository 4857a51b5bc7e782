//! The HTTP face of Channelstream's API: signed calls, what browsers ask for unsigned, and the pages of the admin.
//!
//! Who signs a call is known by the signature and by the address it comes from; high-templar's own token and its guard
//! against foreign pages have no say here, and nothing else is served here that they are to guard. What the calls do is
//! [`Channelstream`]'s business.

mod admin;
mod asked;
mod calls;
mod cookie;
mod cors;
mod html;
mod listen;
mod pages;
mod refusal;
mod route;
mod sign_ins;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Buf;
use futures::Stream;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use warp::{Filter, Rejection, path::FullPath, reply::Response};

use super::{Origination, is_own, refusals, reply};
use crate::{
    channelstream::Channelstream,
    config::{self, Networks},
    connection::Connections,
    metrics::Metrics,
    protocol::channelstream::Signer,
};
pub(super) use listen::open_socket;

use asked::Asked;
use cookie::Cookies;
use cors::Cors;
use refusal::Refusal;
use route::{Access, Endpoint};
use sign_ins::SignIns;

/// How old a signature may be.
const SIGNATURE_AGE: Duration = Duration::from_secs(60);
/// The header that a request is signed with; the parameter `secret` of the query does as well.
const SIGNATURE: &str = "x-channelstream-secret";

/// Channelstream's API over HTTP.
pub struct Api {
    channelstream: Arc<Channelstream>,
    connections: Arc<Connections>,
    /// Answers polls that wait.
    stop: CancellationToken,
    config: config::Channelstream,
    /// Who may tell the scheme of a request.
    proxies: Networks,
    body_limit_bytes: usize,
    signer: Signer,
    cookies: Cookies,
    cors: Cors,
    /// What bodies may take in all, in KiB.
    in_flight: Arc<Semaphore>,
    sign_ins: SignIns,
    metrics: Arc<Metrics>,
}

/// A listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// For browsers.
    Public,
    /// For the backend and operators.
    Internal,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nobody in particular.
    Nobody,
    /// An admin who has signed in.
    Admin,
    /// Who can sign, from an address that may.
    Signed,
}

impl Api {
    /// The API of `channelstream`, with the terms of `config`. A body has up to `body_limit_bytes`. Polls are answered at `stop`.
    pub fn new(
        channelstream: Arc<Channelstream>,
        config: config::Channelstream,
        connections: Arc<Connections>,
        body_limit_bytes: usize,
        stop: CancellationToken,
    ) -> Self {
        Self {
            channelstream,
            proxies: connections.config.limits.trusted_proxies.clone(),
            metrics: connections.metrics.clone(),
            connections,
            stop,
            body_limit_bytes,
            signer: Signer::new(&config.secret, config.validate_requests.then_some(SIGNATURE_AGE)),
            cookies: Cookies::new(&config),
            cors: Cors::new(&config.allow_cors),
            in_flight: Arc::new(Semaphore::new(super::trigger::in_flight_kib(body_limit_bytes))),
            sign_ins: SignIns::default(),
            config,
        }
    }

    /// Whether this request of a listener is ours; its own stay its own.
    fn claims(&self, side: Side, path: &str, asked: &Asked) -> bool {
        let name = path.strip_prefix('/').map_or(path, |path| path.strip_suffix('/').unwrap_or(path));
        match side {
            // The document is Channelstream's for who comes as its caller, and high-templar's for all others.
            Side::Internal if path == "/openapi.json" => self.standing(asked) != Ok(Standing::Nobody),
            Side::Internal => !is_own(name),
            Side::Public if self.config.is_public => name != "ws",
            Side::Public => matches!(asked.path.as_str(), "/disconnect" | "/listen"),
        }
    }

    async fn serve<B: Buf>(&self, asked: Asked, body: impl Stream<Item = Result<B, warp::Error>>) -> Response {
        let endpoint = route::route(&asked.method, &asked.path);
        let admitted = self.admit(&asked, endpoint);
        let is_unread = admitted.is_err() && asked.has_body();
        let outcome = match admitted {
            Ok(endpoint) => self.answer(endpoint, &asked, body).await,
            Err(refusal) => Err(refusal),
        };
        self.metrics.channelstream_requests.inc(outcome.as_ref().map_or_else(Refusal::word, |_| "done"));
        let mut response = outcome.unwrap_or_else(|refusal| match refusal.hint() {
            Some(hint) => refusals::logged_as(refusal.response(&asked), refusal.word(), hint),
            None => refusal.response(&asked),
        });
        if is_unread {
            // Nothing else can follow on this connection.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if endpoint.is_none_or(Endpoint::is_for_other_hosts) && !response.status().is_redirection() {
            self.cors.add(&asked.headers, response.headers_mut());
        }
        response
    }

    /// The endpoint, if the caller may use it. The order in which things are found wrong is Channelstream's.
    fn admit(&self, asked: &Asked, endpoint: Option<Endpoint>) -> Result<Endpoint, Refusal> {
        if self.config.enforce_https && !asked.is_https {
            return Err(Refusal::Insecure);
        }
        let standing = self.standing(asked)?;
        let endpoint = endpoint.ok_or(Refusal::NotFound)?;
        match (endpoint.access(), standing) {
            (Access::Anyone, _)
            | (Access::Signed, Standing::Signed)
            | (Access::Admin, Standing::Admin | Standing::Signed) => Ok(endpoint),
            (Access::Admin, Standing::Nobody) if endpoint != Endpoint::OpenApi => Err(Refusal::SignIn),
            _ => Err(Refusal::Forbidden),
        }
    }

    /// Who asks. A signature from an address that may not sign is not looked at, nor is a bad one of an admin who has signed
    /// in.
    fn standing(&self, asked: &Asked) -> Result<Standing, Refusal> {
        let now = SystemTime::now();
        let shown = match asked.headers.get(SIGNATURE) {
            Some(header) => Some(String::from_utf8_lossy(header.as_bytes()).into_owned()),
            None => asked.parameter("secret"),
        };
        let shown = shown.filter(|token| !token.is_empty() && self.may_sign(asked.address));
        let is_signed = shown.as_deref().map(|token| self.signer.verify(token, now));
        match is_signed {
            Some(true) => Ok(Standing::Signed),
            _ if self.cookies.is_shown(&asked.headers, now) => Ok(Standing::Admin),
            Some(false) => Err(Refusal::BadSignature),
            None => Ok(Standing::Nobody),
        }
    }

    fn may_sign(&self, address: IpAddr) -> bool {
        self.config.allow_posting_from.as_ref().is_none_or(|allowed| allowed.contains(&address))
    }
}

/// What of `side` is Channelstream's; the rest is left to the filters that follow.
pub(super) fn routes(
    api: Arc<Api>,
    side: Side,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let claiming = api.clone();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Origination>())
        .and_then(move |method: Method, path: FullPath, query: String, headers: HeaderMap, from: Origination| {
            let (proxies, scheme) = (&claiming.proxies, claiming.config.http_scheme);
            let asked = Asked::new(method, path.as_str(), query, headers, from, proxies, scheme);
            let is_ours = claiming.claims(side, path.as_str(), &asked);
            std::future::ready(if is_ours { Ok(asked) } else { Err(warp::reject::not_found()) })
        })
        .and(warp::body::stream())
        .then(move |asked, body| {
            let api = api.clone();
            async move { api.serve(asked, body).await }
        })
}

/// Detail of the 404 for signed calls that are sent to the public listener.
const ELSEWHERE: &str = "signed calls and admin pages of Channelstream are served at INTERNAL_LISTEN, and here with CHANNELSTREAM_PUBLIC=true";

/// Tells callers of the public listener where their calls are taken.
pub(super) fn elsewhere() -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    warp::path::full().and_then(|path: FullPath| {
        let is_call = route::is_for_callers(path.as_str());
        std::future::ready(if is_call { Ok(not_here()) } else { Err(warp::reject::not_found()) })
    })
}

fn not_here() -> Response {
    let response = reply::error(StatusCode::NOT_FOUND, "not-found", ELSEWHERE);
    refusals::logged_as(response, "channelstream-elsewhere", ELSEWHERE)
}

#[cfg(test)]
mod tests;
