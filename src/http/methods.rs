//! The methods of each path: `HEAD` and `OPTIONS`, what a browser asks before a request to another origin, and `Allow`.

use std::{future::ready, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{self, HeaderName},
};
use warp::{Filter, Rejection, Reply, path::FullPath, reply::Response};

use super::{Origination, is_own, refusals, refusals::Side, reply};
use crate::{
    config::Origins,
    connection::Connections,
    protocol::header_lines::joined,
    transport::{
        origin::{is_https, may_connect},
        websocket::Refused,
    },
};

/// Methods of a path that is read.
const READ: &str = "GET, HEAD, OPTIONS";
/// Methods of a path that is posted to.
const POSTED_TO: &str = "POST, OPTIONS";
/// Methods of the public listener itself.
const OPTIONS_ONLY: &str = "OPTIONS";

/// Methods that a page of another origin may use on `/ws/` and `/sse/`.
const CROSS_ORIGIN_METHODS: HeaderValue = HeaderValue::from_static("GET");
/// Headers that such a page may send if it does not say which ones it wants to send.
const CROSS_ORIGIN_HEADERS: HeaderValue =
    HeaderValue::from_static("accept, authorization, cache-control, content-type, last-event-id, x-requested-with");
/// How long a browser may remember that, in seconds; Chromium takes two hours at most.
const CROSS_ORIGIN_MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// Matches `GET` and `HEAD`; hyper omits the body of the response to `HEAD`.
pub(super) fn get() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    warp::get().or(warp::head()).unify()
}

/// Returns the methods of a path of ours, for `Allow`.
pub(super) fn allowed(side: Side, path: &str) -> Option<&'static str> {
    if path == "/" && side == Side::Public {
        return Some(OPTIONS_ONLY);
    }
    let name = path.strip_prefix('/')?;
    let name = name.strip_suffix('/').unwrap_or(name);
    match (side, name) {
        (Side::Public, name) if is_client(name) => Some(READ),
        (Side::Internal, "trigger" | "control") => Some(POSTED_TO),
        (Side::Internal, name) if is_own(name) => Some(READ),
        _ => None,
    }
}

/// Returns whether clients connect to the path of this name, which is without slashes at its ends.
fn is_client(name: &str) -> bool {
    matches!(name, "ws" | "sse")
}

/// Answers `OPTIONS` on every path of the internal listener, without a token: the answer is the same for everybody.
pub(super) fn internal() -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::method().and(warp::path::full()).and_then(|method: Method, path: FullPath| {
        let methods = allowed(Side::Internal, path.as_str()).filter(|_| method == Method::OPTIONS);
        ready(methods.map(no_content).ok_or_else(warp::reject::not_found))
    })
}

/// Answers `OPTIONS /`, which load balancers send to see whether the public listener is there.
pub(super) fn public_root() -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::method().and(warp::path::full()).and_then(|method: Method, path: FullPath| {
        let is_check = method == Method::OPTIONS && path.as_str() == "/";
        ready(if is_check { Ok(no_content(OPTIONS_ONLY)) } else { Err(warp::reject::not_found()) })
    })
}

/// Answers `HEAD` and `OPTIONS` on `/ws/` and `/sse/` without opening anything or asking the API: a load balancer wants to know
/// whether the listener is there, and a browser whether a page of another origin may send a request.
pub(super) fn public(
    connections: Arc<Connections>,
    origins: Arc<Origins>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::method()
        .and(warp::path::full())
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Origination>())
        .and_then(move |method: Method, path: FullPath, headers: HeaderMap, from: Origination| {
            let is_client_path = allowed(Side::Public, path.as_str()) == Some(READ);
            ready(match method {
                Method::HEAD if is_client_path => Ok(nothing()),
                Method::OPTIONS if is_client_path => Ok(options(&headers, from, &connections, &origins)),
                _ => Err(warp::reject::not_found()),
            })
        })
}

fn no_content(methods: &'static str) -> Response {
    reply::with_headers(StatusCode::NO_CONTENT.into_response(), &[(header::ALLOW, methods)])
}

fn nothing() -> Response {
    reply::with_headers(StatusCode::OK.into_response(), &[(header::CACHE_CONTROL, "no-store")])
}

/// 204; with what a page may do (<https://fetch.spec.whatwg.org/#http-cors-protocol>) if its origin may connect.
fn options(headers: &HeaderMap, from: Origination, connections: &Connections, origins: &Origins) -> Response {
    const REQUEST_METHOD: HeaderName = header::ACCESS_CONTROL_REQUEST_METHOD;
    const REQUEST_HEADERS: HeaderName = header::ACCESS_CONTROL_REQUEST_HEADERS;
    let is_https = is_https(headers, from.peer, &connections.config.limits.trusted_proxies);
    let may_connect = may_connect(origins, headers, is_https);
    if !may_connect && headers.contains_key(REQUEST_METHOD) {
        // The browser tells the page's author nothing but that it failed, so the log has to say why.
        connections.metrics.connections_refused.inc(Refused::Origin.word());
        let detail = Refused::Origin.to_string();
        let response = reply::error(StatusCode::FORBIDDEN, "origin-not-allowed", &detail);
        let detail = format!("{detail} ({})", refusals::page(headers, is_https));
        return varying(refusals::logged_as(response, Refused::Origin.word(), &detail));
    }
    let mut response = varying(no_content(READ));
    if let Some(origin) = headers.get(header::ORIGIN).filter(|_| may_connect) {
        // Headers that the server does not read harm nothing, and API_HEADERS may read any.
        let wanted = joined(headers, &REQUEST_HEADERS).and_then(|wanted| HeaderValue::from_bytes(&wanted).ok());
        let response = response.headers_mut();
        response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        response.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        response.insert(header::ACCESS_CONTROL_ALLOW_METHODS, CROSS_ORIGIN_METHODS);
        response.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.unwrap_or(CROSS_ORIGIN_HEADERS));
        response.insert(header::ACCESS_CONTROL_MAX_AGE, CROSS_ORIGIN_MAX_AGE);
    }
    response
}

/// `response`, which differs by what the browser asks.
fn varying(response: Response) -> Response {
    let vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
    reply::with_headers(response, &[(header::VARY, vary)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::OWN_PATHS;

    #[test]
    fn every_path_of_ours_has_methods_with_and_without_a_slash_at_its_end() {
        for name in OWN_PATHS {
            let methods = allowed(Side::Internal, &format!("/{name}"));
            assert!(methods.is_some_and(|methods| methods.ends_with("OPTIONS")), "{name}");
            assert_eq!(allowed(Side::Internal, &format!("/{name}/")), methods);
            assert_eq!(methods == Some(POSTED_TO), matches!(name, "trigger" | "control"), "{name}");
        }
        for path in ["/ws", "/ws/", "/sse", "/sse/"] {
            assert_eq!((allowed(Side::Public, path), allowed(Side::Internal, path)), (Some(READ), None));
        }
        for path in ["/wss", "/ws/x", "/nothing", "*", "", "//", "//ws/", "/ws//", "/metrics"] {
            assert_eq!(allowed(Side::Public, path), None, "{path}");
        }
    }
}
