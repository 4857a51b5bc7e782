//! What is refused of a request before it is routed: everything that another server on its way could read in another way.

use http::{
    Method, Request, Version,
    header::{self, HeaderMap, HeaderValue},
    uri::{Authority, Uri},
};

use crate::{
    protocol::header_lines,
    transport::inbound::{Follows, Head},
};

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// A line feed alone.
    #[error("a line of the head does not end with a carriage return and a line feed")]
    LineEnd,
    /// `CONNECT`, `OPTIONS *`, or a target that is neither a path nor a URL.
    #[error("the request's target is neither a path nor an http URL")]
    Target,
    /// A `#`, which a server could as well take for a part of the path.
    #[error("the request's target has a fragment")]
    Fragment,
    /// HTTP/1.1 without a `Host`.
    #[error("the request has no Host")]
    NoHost,
    /// Several of them, or one that is no host.
    #[error("the request has more than one Host, or one that is not a host and port")]
    Host,
    /// A URL of another host than `Host` names.
    #[error("the request's target and its Host name different hosts")]
    OtherHost,
    /// Several lines of a header that holds one value.
    #[error("the request has more than one line of {0}")]
    Repeated(&'static str),
    /// `Content-Length` beside `Transfer-Encoding`.
    #[error("the request has both a Content-Length and a Transfer-Encoding")]
    Length,
    /// `Transfer-Encoding` says anything but `chunked`.
    #[error("the request has a Transfer-Encoding other than chunked")]
    Encoding,
    /// A body behind the handshake of a WebSocket.
    #[error("the handshake of a WebSocket has a body")]
    HandshakeBody,
}

impl Malformed {
    /// The label it is counted under.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::LineEnd => "line-end",
            Self::Target => "target",
            Self::Fragment => "fragment",
            Self::NoHost => "no-host",
            Self::Host => "host",
            Self::OtherHost => "other-host",
            Self::Repeated(_) => "repeated",
            Self::Length => "length",
            Self::Encoding => "encoding",
            Self::HandshakeBody => "handshake-body",
        }
    }
}

/// Checks the head of a request that `follows` is the body of, and leaves nothing but a path in its target. `head` is what hyper
/// does not tell.
///
/// The routing relies on that: it takes a path to begin with a slash, and never looks at a target's host.
///
/// # Errors
/// When the request is to be refused.
pub(super) fn check<B>(request: &mut Request<B>, head: Option<Head>, follows: Follows) -> Result<(), Malformed> {
    let Some(head) = head.filter(|head| !head.has_bare_line_feed) else { return Err(Malformed::LineEnd) };
    if head.has_fragment {
        return Err(Malformed::Fragment);
    }
    body(request.headers(), head, follows)?;
    let host = host(request.headers())?;
    if let Some(name) = header_lines::repeated(request.headers()) {
        return Err(Malformed::Repeated(name));
    }
    let target = request.uri();
    if request.method() == Method::CONNECT || !target.path().starts_with('/') {
        return Err(Malformed::Target);
    }
    match (target.authority(), host) {
        (None, None) if request.version() >= Version::HTTP_11 => return Err(Malformed::NoHost),
        (None, _) => return Ok(()),
        // A URL is what clients send to a proxy, and a server has to take it as well (RFC 9112 section 3.2.2).
        (Some(authority), host) => {
            let named = named(authority, target)?;
            let is_same = |host: &HeaderValue| is_same(named, host.as_bytes(), target.scheme_str());
            if !host.is_none_or(is_same) {
                return Err(Malformed::OtherHost);
            }
            if host.is_none() {
                if request.version() >= Version::HTTP_11 {
                    return Err(Malformed::NoHost);
                }
                let named = HeaderValue::from_str(named).map_err(|_| Malformed::Target)?;
                request.headers_mut().insert(header::HOST, named);
            }
        }
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    // The path of a URL may be empty (RFC 9110 section 4.2.3).
    let path = if path.starts_with('/') { path.parse() } else { format!("/{path}").parse() };
    *request.uri_mut() = path.map_err(|_| Malformed::Target)?;
    Ok(())
}

/// Checks what the head says of the body (RFC 9112 section 6.3).
fn body(headers: &HeaderMap, head: Head, follows: Follows) -> Result<(), Malformed> {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        if head.has_content_length {
            return Err(Malformed::Length);
        }
        if !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") || encodings.next().is_some() {
            return Err(Malformed::Encoding);
        }
    }
    let is_websocket =
        |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().windows(9).any(|w| w == b"websocket");
    if follows != Follows::Bytes(0) && headers.get_all(header::UPGRADE).iter().any(is_websocket) {
        return Err(Malformed::HandshakeBody);
    }
    Ok(())
}

/// The one `Host`, if there is any (RFC 9112 section 3.2).
fn host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Malformed> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    let is_host = |host: &HeaderValue| {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte);
        host.as_bytes().iter().all(is_part)
    };
    if hosts.next().is_some() || !host.is_none_or(is_host) { Err(Malformed::Host) } else { Ok(host) }
}

/// The host that a URL names; without a user, which an http URL cannot have here (RFC 9110 section 4.2.4).
fn named<'a>(authority: &'a Authority, target: &Uri) -> Result<&'a str, Malformed> {
    let is_http = matches!(target.scheme_str(), Some("http" | "https"));
    if is_http && !authority.as_str().contains('@') { Ok(authority.as_str()) } else { Err(Malformed::Target) }
}

/// Whether two hosts are the same, with or without the port that `scheme` has anyway.
fn is_same(one: &str, other: &[u8], scheme: Option<&str>) -> bool {
    let default = if scheme == Some("https") { ":443" } else { ":80" };
    let plain = |host: &[u8]| host.strip_suffix(default.as_bytes()).unwrap_or(host).to_ascii_lowercase();
    plain(one.as_bytes()) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(method: &str, target: &str, version: Version, hosts: &[&str]) -> Result<String, Malformed> {
        let mut request = Request::builder().method(method).uri(target).version(version).body(()).unwrap();
        for host in hosts {
            request.headers_mut().append(header::HOST, host.parse().unwrap());
        }
        check(&mut request, Some(Head::default()), Follows::Bytes(0)).map(|()| request.uri().to_string())
    }

    #[test]
    fn a_path_is_what_is_left_of_a_target() {
        let host = &["app.example.org"][..];
        for (target, hosts, left) in [
            ("/ws/?token=a", host, Ok("/ws/?token=a")),
            ("//other.example/ws/", host, Ok("//other.example/ws/")),
            ("http://app.example.org/ws/?a=b", host, Ok("/ws/?a=b")),
            ("HTTP://APP.example.org:80", host, Ok("/")),
            ("http://app.example.org?a=b", host, Ok("/?a=b")),
            ("https://app.example.org:443/a", host, Ok("/a")),
            ("http://app.example.org:443/a", host, Err(Malformed::OtherHost)),
            ("http://other.example/ws/", host, Err(Malformed::OtherHost)),
            ("http://app.example.org@other.example/ws/", host, Err(Malformed::Target)),
            ("http://user@app.example.org/ws/", host, Err(Malformed::Target)),
            ("ftp://app.example.org/ws/", host, Err(Malformed::Target)),
            ("localhost", host, Err(Malformed::Target)),
            ("app.example.org:80", host, Err(Malformed::Target)),
            ("*", host, Err(Malformed::Target)),
            ("/", &[], Err(Malformed::NoHost)),
            ("http://app.example.org/", &[], Err(Malformed::NoHost)),
            ("/", &["a", "a"], Err(Malformed::Host)),
            ("/", &["a", "b"], Err(Malformed::Host)),
            ("/", &["a b"], Err(Malformed::Host)),
            ("/", &["user@a"], Err(Malformed::Host)),
            ("/", &["a/b"], Err(Malformed::Host)),
            ("/", &[""], Ok("/")),
            ("/", &["[::1]:8000"], Ok("/")),
            ("/", &["%2Frun%2Fht.sock"], Ok("/")), // how some clients name a unix socket
            ("/", &["high_templar"], Ok("/")),
        ] {
            let outcome = outcome("GET", target, Version::HTTP_11, hosts);
            assert_eq!(outcome.as_deref(), left.as_ref().copied(), "{target} {hosts:?}");
        }
        assert_eq!(outcome("CONNECT", "localhost:80", Version::HTTP_11, host), Err(Malformed::Target));
        assert_eq!(outcome("CONNECT", "/", Version::HTTP_11, host), Err(Malformed::Target));
        assert_eq!(outcome("OPTIONS", "*", Version::HTTP_11, host), Err(Malformed::Target));
    }

    #[test]
    fn http_1_0_knows_no_host_and_yet_has_no_two() {
        assert_eq!(outcome("GET", "/", Version::HTTP_10, &[]).as_deref(), Ok("/"));
        assert_eq!(outcome("GET", "/", Version::HTTP_10, &["a", "a"]), Err(Malformed::Host));
        let mut request = Request::builder().uri("http://a/b").version(Version::HTTP_10).body(()).unwrap();
        assert_eq!(check(&mut request, Some(Head::default()), Follows::Bytes(0)), Ok(()));
        assert_eq!((request.headers()[header::HOST].as_bytes(), request.uri().path()), (&b"a"[..], "/b"));
    }

    #[test]
    fn a_head_with_a_bare_line_feed_is_refused_whatever_it_asks_for() {
        let mut request = Request::builder().uri("/ws/").header("host", "a").body(()).unwrap();
        let bare = Head { has_bare_line_feed: true, ..Head::default() };
        for head in [None, Some(bare)] {
            assert_eq!(check(&mut request, head, Follows::Bytes(0)), Err(Malformed::LineEnd));
        }
    }
}
