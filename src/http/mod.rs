//! Everything that is asked for over HTTP: the public side, where clients connect, and the internal side, where the
//! backend posts triggers and operators look.

mod admin;
pub mod listener;
mod position;
mod reply;
mod trigger;

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, Version};
use hyper::upgrade::OnUpgrade;
use warp::{Filter, filters::BoxedFilter, reply::Response};

pub use admin::Readiness;

use crate::{
    backend::Handshake,
    broker::Publisher,
    config::{Internal, Origins},
    connection::Connections,
    hub::Hub,
    transport::websocket::{self, Refused},
};

/// What a request's connection says about it; put into every request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct Origination {
    /// Address of the TCP peer; `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    /// Of the request line.
    pub version: Version,
}

/// The routes of the public listener: `/ws/`, with or without the slash, and nothing else.
pub fn public(connections: Arc<Connections>, origins: Origins) -> BoxedFilter<(Response,)> {
    let origins = Arc::new(origins);
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::path("ws")
        .and(warp::path::end())
        .and(warp::get())
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::ext::get::<Origination>())
        .and(warp::ext::optional::<OnUpgrade>())
        .map(move |headers: HeaderMap, query: String, from: Origination, upgrade: Option<OnUpgrade>| {
            open_websocket(&headers, &query, from, upgrade, &connections, &origins)
        })
        .recover(reply::rejected)
        .unify()
        .boxed()
}

fn open_websocket(
    headers: &HeaderMap,
    query: &str,
    from: Origination,
    upgrade: Option<OnUpgrade>,
    connections: &Arc<Connections>,
    origins: &Origins,
) -> Response {
    let request = websocket::Request { version: from.version, headers };
    let refused = |refused: Refused| {
        connections.metrics.connections_refused.inc(refused.word());
        let mut response = reply::error(refused.status(), "no-websocket", &refused.to_string());
        if refused == Refused::Version {
            response.headers_mut().insert(http::header::SEC_WEBSOCKET_VERSION, http::HeaderValue::from_static("13"));
        }
        response
    };
    let (response, version) = match websocket::accept(&request, origins) {
        Ok(accepted) => accepted,
        Err(reason) => return refused(reason),
    };
    let Some(upgrade) = upgrade else { return refused(Refused::NotAnUpgrade) };
    let forwarded = match connections.backend.forwarded(&Handshake { headers, query, peer: from.peer }) {
        Ok(forwarded) => forwarded,
        Err(error) => {
            connections.metrics.connections_refused.inc("header");
            return reply::error(http::StatusCode::BAD_REQUEST, "malformed-header", &error.to_string());
        }
    };
    connections.tasks.spawn(websocket::serve(upgrade, version, forwarded, connections.clone()));
    response.map(|()| warp::reply::Response::default().into_body())
}

/// The routes of the internal listener.
pub fn internal(
    config: &Internal,
    publisher: Publisher,
    hub: Arc<Hub>,
    readiness: Readiness,
) -> BoxedFilter<(Response,)> {
    let health = admin::health(readiness.clone());
    let private = trigger::route(publisher, config.body_limit_bytes, readiness.metrics().clone())
        .or(admin::routes(readiness))
        .unify()
        .or(position::route(hub))
        .unify();
    let guarded = reply::guard(config.token.clone()).and(private);
    health.or(guarded).unify().recover(reply::rejected).unify().boxed()
}
