//! From what went wrong to what is answered.

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use rand::Rng;
use serde::Serialize;
use serde_json::json;
use warp::{Filter, Rejection, Reply, path::FullPath, reply::Response};

use super::{Origination, refusals};
use crate::{
    config::{Limits, Secret},
    connection::TooMany,
    metrics::Metrics,
    transport::origin::is_of_another_site,
};

/// `{"code":"success"}`.
pub(super) fn success() -> Response {
    json(StatusCode::OK, &json!({"code": "success"}))
}

/// `{"code":"error","message":…,"detail":…}`: `message` is one word for programs, from a fixed list, `detail` is for people. Both
/// are logged.
pub(super) fn error(status: StatusCode, message: &str, detail: &str) -> Response {
    let response = json(status, &json!({"code": "error", "message": message, "detail": detail}));
    refusals::logged_as(response, message, detail)
}

/// Header lines of a request that hyper reads.
const MOST_HEADER_LINES: usize = 100;

/// The body of an answer with this status to a request whose head cannot be read.
pub(super) fn unread(status: u16) -> String {
    let (message, detail) = match status {
        431 => {
            let detail =
                format!("a request may have up to {MOST_HEADER_LINES} header lines, and HEADER_LIMIT bytes of them");
            ("headers-too-large", detail)
        }
        414 => ("url-too-long", "the path and query are longer than URL_LIMIT can be".to_owned()),
        _ => {
            let detail = "the head is not HTTP/1.1; in a URL, spaces, quotation marks and control characters have to be \
                          percent-encoded";
            ("malformed-request", detail.to_owned())
        }
    };
    json!({"code": "error", "message": message, "detail": detail}).to_string()
}

/// `body` as JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    warp::reply::with_status(warp::reply::json(body), status).into_response()
}

/// `response` with these headers.
pub(super) fn with_headers(mut response: Response, headers: &[(HeaderName, &'static str)]) -> Response {
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// When a caller should try again after the broker was away, in seconds.
const RETRY_AFTER: u32 = 1;

/// 503: the broker is away, or has too much to do.
pub(super) fn try_later(detail: &str) -> Response {
    with_retry_after(error(StatusCode::SERVICE_UNAVAILABLE, "try-later", detail))
}

/// Says when to come again, if that is what the caller has to do.
pub(super) fn with_retry_after(mut response: Response) -> Response {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER.into());
    }
    response
}

/// When to come back, in seconds, to a server that has as many connections as it may have.
const FULL_SECONDS: std::ops::Range<u32> = 10..60;

/// There are too many connections.
pub(super) fn too_many(limit: TooMany) -> Response {
    let status = match limit {
        TooMany::InAll => StatusCode::SERVICE_UNAVAILABLE,
        TooMany::FromAddress => StatusCode::TOO_MANY_REQUESTS,
    };
    let response = error(status, "too-many-connections", &limit.to_string());
    let mut response = refusals::logged_as(response, limit.word(), &format!("{limit}: see {}", limit.setting()));
    let seconds = rand::rng().random_range(FULL_SECONDS);
    response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    response
}

/// A request that is refused before it reaches its route.
#[derive(Debug, Clone, Copy)]
enum Refused {
    Token,
    ForeignPage,
    LongUrl(usize),
    LongHeaders(usize),
}

/// Lets pass what is no larger than `limits` say.
pub(super) fn limits(
    limits: &Limits,
    metrics: Arc<Metrics>,
) -> impl Filter<Extract = (), Error = Rejection> + Clone + use<> {
    let (url_bytes, header_bytes) = (limits.url_bytes, limits.header_bytes);
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::path::full()
        .and(query)
        .and(warp::header::headers_cloned())
        .and_then(move |path: FullPath, query: String, headers: HeaderMap| {
            let headers: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            let outcome = if path.as_str().len() + query.len() > url_bytes {
                metrics.limited.inc("url");
                Err(Refused::LongUrl(url_bytes))
            } else if headers > header_bytes {
                metrics.limited.inc("headers");
                Err(Refused::LongHeaders(header_bytes))
            } else {
                Ok(())
            };
            std::future::ready(outcome.map_err(warp::reject::custom))
        })
        .untuple_one()
}

impl warp::reject::Reject for Refused {}

/// Lets pass who shows the token, where there is one; and no page of another host, which a browser on the same machine
/// could otherwise be made to post from.
pub(super) fn guard(token: Option<Secret>) -> impl Filter<Extract = (), Error = Rejection> + Clone {
    warp::method()
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Origination>())
        .and_then(move |method: Method, headers: HeaderMap, from: Origination| {
            let outcome = check(&method, &headers, from, token.as_ref()).map_err(warp::reject::custom);
            std::future::ready(outcome)
        })
        .untuple_one()
}

fn check(method: &Method, headers: &HeaderMap, from: Origination, token: Option<&Secret>) -> Result<(), Refused> {
    let Some(token) = token else {
        // Without a Host, which only HTTP/1.0 allows, it is no browser.
        let is_here = headers.get(header::HOST).is_none_or(|host| is_this_machine(host.as_bytes()));
        let host = headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
        let page = headers.get(header::ORIGIN).map(HeaderValue::as_bytes);
        let is_own = |page: &[u8]| page.strip_prefix(b"http://").is_some_and(|page| page == host);
        let is_unix_socket = from.peer.is_none(); // which no browser can be pointed at
        let is_of_a_page = page.is_some_and(|page| !is_own(page)) || is_embedded(method, headers);
        return if (is_unix_socket || is_here) && !is_of_a_page { Ok(()) } else { Err(Refused::ForeignPage) };
    };
    let shown = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).and_then(bearer);
    if token.matches(shown.unwrap_or_default()) { Ok(()) } else { Err(Refused::Token) }
}

/// Whether a page of another site has a browser fetch this, be it without an `Origin`, as for an image. A link that somebody
/// follows is no such thing: the page that it is on learns nothing. A form that it posts is one.
fn is_embedded(method: &Method, headers: &HeaderMap) -> bool {
    let says = |name: &str, word: &str| headers.get(name).is_some_and(|value| value == word);
    let is_link = method == Method::GET && says("sec-fetch-mode", "navigate") && says("sec-fetch-dest", "document");
    is_of_another_site(headers) && !is_link
}

/// Whether a `Host` names this machine and not a name that somebody else may point here (DNS rebinding).
fn is_this_machine(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let is_loopback = |address: &str, is_ip: fn(&IpAddr) -> bool| {
        address.parse().is_ok_and(|address: IpAddr| is_ip(&address) && address.is_loopback())
    };
    let (is_ours, port) = match host.strip_prefix('[').map(|host| host.split_once(']')) {
        Some(Some((address, rest))) => (is_loopback(address, IpAddr::is_ipv6), rest),
        Some(None) => return false,
        None => {
            let (name, rest) = host.split_at(host.find(':').unwrap_or(host.len()));
            (name.eq_ignore_ascii_case("localhost") || is_loopback(name, IpAddr::is_ipv4), rest)
        }
    };
    let is_port = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_ours && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// The token of `Bearer TOKEN` (RFC 6750 section 2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// What is answered where no route did.
pub(super) async fn rejected(rejection: Rejection) -> Result<Response, Infallible> {
    let mut response = if let Some(refused) = rejection.find::<Refused>() {
        match refused {
            Refused::Token => {
                error(StatusCode::UNAUTHORIZED, "not-authorized", "show INTERNAL_TOKEN as a bearer token")
            }
            Refused::ForeignPage => error(
                StatusCode::FORBIDDEN,
                "foreign-page",
                "without INTERNAL_TOKEN only this machine may call this, by the name localhost or its address",
            ),
            Refused::LongUrl(most) => {
                let detail = format!("path and query may have up to {most} bytes (URL_LIMIT)");
                error(StatusCode::URI_TOO_LONG, "url-too-long", &detail)
            }
            Refused::LongHeaders(most) => {
                let detail = format!("the headers may have up to {most} bytes (HEADER_LIMIT)");
                error(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers-too-large", &detail)
            }
        }
    } else if rejection.is_not_found() {
        error(StatusCode::NOT_FOUND, "not-found", "there is nothing at this path")
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        error(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "this path knows another method")
    } else {
        error(StatusCode::BAD_REQUEST, "bad-request", "the request could not be read")
    };
    // The body, if there is one, has not been read: nothing else can follow on this connection.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_localhost_or_a_loopback_address_with_or_without_a_port_and_nothing_else() {
        for host in ["localhost", "LOCALHOST:8002", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::1]:8002"] {
            assert!(is_this_machine(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            ":80",
            "localhost:",
            "localhost:80.evil.example",
            "localhost.evil.example",
            "localhost:+80",
            "[::1].evil.example",
            "[::1]80",
            "[::1",
            "[::1]:",
            "[127.0.0.1]",
            "[localhost]",
            "::1",
            "127.0.0.1.evil.example",
            "127.0.0.1:80:80",
            "10.0.0.1",
            "[::2]",
        ] {
            assert!(!is_this_machine(host.as_bytes()), "{host}");
        }
    }
}
