//! Everything that is asked for over HTTP: the public side, where clients connect, and the internal side, where the
//! backend posts triggers and operators look.

mod accept;
mod admin;
mod answer;
mod body;
pub mod channelstream;
mod control;
mod handshake;
mod inspect;
pub mod listener;
mod methods;
mod page;
mod position;
mod refusals;
mod reply;
mod request;
mod sse;
mod status;
mod trigger;

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::HeaderMap;
use warp::{Filter, filters::BoxedFilter, reply::Response};

pub use admin::Readiness;
use channelstream::Side;

use crate::{
    backend::Handshake,
    broker::Publisher,
    config::{Internal, Origins},
    connection::Connections,
    protocol::Version,
    transport::{
        origin::is_https,
        takeover::Takeover,
        websocket::{self, Refused},
    },
};

/// What a request's connection says about it; put into every request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct Origination {
    /// Address of the TCP peer; `None` on a unix socket and only there.
    pub peer: Option<SocketAddr>,
    /// Of the request line.
    pub version: http::Version,
}

/// What high-templar itself serves on the internal listener, with or without a slash at the end.
const OWN_PATHS: [&str; 12] = [
    "",
    "connections",
    "control",
    "explain",
    "healthz",
    "metrics",
    "openapi.json",
    "position",
    "readyz",
    "rooms",
    "status",
    "trigger",
];

/// Whether `name`, a path without its slashes at both ends, is high-templar's own on the internal listener.
fn is_own(name: &str) -> bool {
    OWN_PATHS.contains(&name) || name.starts_with(page::FOLDER)
}

/// The routes of the public listener: `/ws/` and `/sse/`, with or without the slash, what browsers ask of Channelstream, if that
/// is spoken, and nothing else.
pub fn public(
    connections: Arc<Connections>,
    origins: Origins,
    channelstream: Option<Arc<channelstream::Api>>,
) -> BoxedFilter<(Response,)> {
    let origins = Arc::new(origins);
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let within_limits = reply::limits(&connections.config.limits, connections.metrics.clone());
    let sockets = channelstream.clone();
    let checks = methods::public(connections.clone(), origins.clone());
    let events = sse::route(connections.clone(), origins.clone(), within_limits.clone());
    let request = warp::path::end().and(warp::get()).and(warp::header::headers_cloned()).and(query);
    let from = warp::ext::get::<Origination>();
    let route =
        warp::path("ws").and(request).and(from).then(move |headers: HeaderMap, query: String, from: Origination| {
            let (sockets, connections, origins) = (sockets.clone(), connections.clone(), origins.clone());
            async move {
                let id = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "conn_id");
                let opened = match (&sockets, id) {
                    (Some(api), Some((_, id))) => channelstream::open_socket(api, &headers, &id, from),
                    _ => open_websocket(&headers, &query, from, &connections, &origins).await,
                };
                opened.unwrap_or_else(|refusal| *refusal)
            }
        });
    let route = with_channelstream(channelstream, Side::Public, route.boxed()).or(methods::public_root()).unify();
    let routes = checks.or(events).unify().or(within_limits.and(route)).unify();
    refusals::log(refusals::Side::Public, routes)
}

/// `own`, and what is Channelstream's.
fn with_channelstream(
    channelstream: Option<Arc<channelstream::Api>>,
    side: Side,
    own: BoxedFilter<(Response,)>,
) -> BoxedFilter<(Response,)> {
    match channelstream {
        Some(api) => {
            let routes = channelstream::routes(api, side).or(own).unify();
            match side {
                Side::Public => routes.or(channelstream::elsewhere()).unify().boxed(),
                Side::Internal => routes.boxed(),
            }
        }
        None => own,
    }
}

/// Has the client served if it may be, and answers its handshake; `Err` is an answer, too.
async fn open_websocket(
    headers: &HeaderMap,
    query: &str,
    from: Origination,
    connections: &Arc<Connections>,
    origins: &Origins,
) -> Result<Response, Box<Response>> {
    let is_https = is_https(headers, from.peer, &connections.config.limits.trusted_proxies);
    let request = websocket::Request { version: from.version, headers, is_https };
    let refused = |refused: Refused| refused_websocket(connections, headers, is_https, refused);
    let (response, version) = websocket::accept(&request, origins).map_err(refused)?;
    let shown = Handshake { headers, query, peer: from.peer };
    let credentials = match version {
        Version::V3 => connections.backend.identify(&shown).map(Into::into), // which cannot be renewed
        Version::V4 => connections.backend.credentials(&shown),
    };
    let credentials = credentials.map_err(|error| {
        connections.metrics.connections_refused.inc("header");
        Box::new(reply::error(http::StatusCode::BAD_REQUEST, "malformed-header", &error.to_string()))
    })?;
    let place = connections.place(from.peer, headers).map_err(|limit| {
        connections.metrics.connections_refused.inc("limit");
        Box::new(reply::too_many(limit))
    })?;
    let has_ticket =
        version == Version::V4 && url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "resume");
    let bootstrap = handshake::admission(connections, version, &credentials.identity, &place).await?;
    let arrival = websocket::Arrival { version, has_ticket, credentials, place, bootstrap };
    let mut response = response.map(|()| Response::default().into_body());
    let connections = connections.clone();
    Takeover::attach(&mut response, Bytes::new(), move |socket, received| {
        arrival.place.keep_connection();
        connections.tasks.spawn(websocket::serve(socket, received, arrival, &connections));
    });
    Ok(response)
}

/// The answer to a handshake that makes no WebSocket.
fn refused_websocket(
    connections: &Connections,
    headers: &HeaderMap,
    is_https: bool,
    refused: Refused,
) -> Box<Response> {
    connections.metrics.connections_refused.inc(refused.word());
    let response = reply::error(refused.status(), "no-websocket", &refused.to_string());
    let detail = match refused {
        Refused::Origin => format!("{refused} ({})", refusals::page(headers, is_https)),
        Refused::NotAnUpgrade => format!("{refused}; a proxy has to pass on the headers Upgrade and Connection"),
        Refused::Version | Refused::Key => refused.to_string(),
    };
    let mut response = refusals::logged_as(response, refused.word(), &detail);
    if refused == Refused::Version {
        response.headers_mut().insert(http::header::SEC_WEBSOCKET_VERSION, http::HeaderValue::from_static("13"));
    }
    Box::new(response)
}

/// The routes of the internal listener: high-templar's own, and all others are Channelstream's, if that is spoken.
pub fn internal(
    config: &Internal,
    trigger_limit_bytes: usize,
    publisher: Publisher,
    connections: Arc<Connections>,
    readiness: Readiness,
    channelstream: Option<Arc<channelstream::Api>>,
) -> BoxedFilter<(Response,)> {
    let health = admin::health(readiness.clone());
    let rules = connections.room_rules();
    let private = trigger::route(publisher.clone(), trigger_limit_bytes, rules, readiness.metrics().clone())
        .or(control::route(publisher, rules))
        .unify()
        .or(admin::routes(readiness.metrics().clone()))
        .unify()
        .or(status::route(readiness, connections.clone(), channelstream.is_some()))
        .unify()
        .or(position::route(connections.hub.clone()))
        .unify()
        .or(inspect::routes(connections))
        .unify();
    // A browser shows no token when it opens a page: what has one to check is the page's own requests.
    let page = match &config.token {
        Some(_) => page::routes().boxed(),
        None => reply::guard(None).and(page::routes()).boxed(),
    };
    let guarded = reply::guard(config.token.clone()).and(private);
    let own = methods::internal().or(health).unify().or(page).unify().or(guarded).unify().boxed();
    let routes = with_channelstream(channelstream, Side::Internal, own);
    refusals::log(refusals::Side::Internal, routes)
}
