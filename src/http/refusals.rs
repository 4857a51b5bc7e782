//! Refused requests in the log: at one place, so that none is answered without a line that says why.
//!
//! Nothing of a body, a query or a header is logged, except `Origin` and `Host` where the origin is what was refused.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use smol_str::SmolStr;
use warp::{Filter, Rejection, filters::BoxedFilter, path::FullPath, reply::Response};

use super::{Origination, methods, reply};
use crate::logging::limited;

/// Characters of a request's own words that are logged.
const LONGEST: usize = 100;

/// Why a request is refused, in the extensions of its answer until it is logged.
#[derive(Debug, Clone)]
struct Refusal {
    /// From a fixed list: lines are limited by it.
    kind: SmolStr,
    detail: Box<str>,
}

/// A listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// For clients.
    Public,
    /// For publishers and operators.
    Internal,
}

/// Has `response` logged as a refusal of this kind, from a fixed list, instead of what was to be logged of it before. `detail`
/// names the setting to look at, and holds no secrets.
pub(super) fn logged_as(mut response: Response, kind: &str, detail: &str) -> Response {
    response.extensions_mut().insert(Refusal { kind: kind.into(), detail: detail.into() });
    response
}

/// Has nothing logged of `response`: another line tells more, or it is what is to be expected.
pub(super) fn unlogged(mut response: Response) -> Response {
    response.extensions_mut().remove::<Refusal>();
    response
}

/// The page that is refused, and the host that it wants to connect to, with the scheme where a trusted proxy says that it is https.
pub(super) fn page(headers: &HeaderMap, is_https: bool) -> String {
    let value = |name| headers.get(name).map_or(Cow::Borrowed(""), |value| String::from_utf8_lossy(value.as_bytes()));
    let (origin, host) = (value(header::ORIGIN), value(header::HOST));
    let scheme = if is_https { ", reached by https" } else { "" };
    format!("Origin {}, Host {}{scheme}", Short(&origin), Short(&host))
}

/// `routes`, with an answer to what they reject, with `Allow` where that was the method, and with all their refusals in the log.
pub(super) fn log(
    side: Side,
    routes: impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static,
) -> BoxedFilter<(Response,)> {
    let request = warp::method().and(warp::path::full()).and(warp::ext::optional::<Origination>());
    let write = move |method: Method, path: FullPath, from: Option<Origination>, mut response: Response| {
        if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
            write(side, &method, path.as_str(), from, response.status().as_u16(), &refusal);
        }
        if response.status() == StatusCode::METHOD_NOT_ALLOWED
            && let Some(methods) = methods::allowed(side, path.as_str())
        {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        response
    };
    request.and(routes.recover(reply::rejected).unify()).map(write).boxed()
}

fn write(side: Side, method: &Method, path: &str, from: Option<Origination>, status: u16, refusal: &Refusal) {
    let Refusal { kind, detail } = refusal;
    let (method, path) = (Short(method.as_str()), Short(path));
    match side {
        // Where visitors come from is for the proxy's log.
        Side::Public => limited!(warn[kind], "client refused", status, %method, %path, %detail),
        Side::Internal => {
            let peer = from.and_then(|from| from.peer).map(tracing::field::display);
            limited!(warn[kind], "request refused", status, %method, %path, peer, %detail);
        }
    }
}

/// The beginning of a text that a stranger has written, with nothing in it that could pass for another line.
struct Short<'t>(&'t str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.char_indices().nth(LONGEST).map(|(end, _)| end);
        let text = &self.0[..end.unwrap_or(self.0.len())];
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        if is_plain {
            f.write_str(text)?
        } else {
            fmt::Debug::fmt(text, f)?
        }
        if end.is_some() { f.write_str("…") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_has_written_is_short_and_on_one_line() {
        assert_eq!(Short("/trigger/").to_string(), "/trigger/");
        assert_eq!(Short("a\nWARN b\u{1b}[0m").to_string(), r#""a\nWARN b\u{1b}[0m""#);
        assert_eq!(Short(&"é".repeat(200)).to_string(), format!("{:?}…", "é".repeat(100)));
    }

    #[test]
    fn a_page_is_named_by_its_origin() {
        let headers =
            [(header::ORIGIN, "https://evil.example"), (header::HOST, "app.example.org"), (header::COOKIE, "s=1")];
        let headers = headers.map(|(name, value)| (name, value.parse().unwrap())).into_iter().collect();
        assert_eq!(page(&headers, false), "Origin https://evil.example, Host app.example.org");
        assert_eq!(page(&headers, true), "Origin https://evil.example, Host app.example.org, reached by https");
    }
}
