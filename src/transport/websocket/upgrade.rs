//! The opening handshake (RFC 6455 section 4.2).

use headers::{HeaderMapExt, SecWebsocketAccept, SecWebsocketKey};
use http::{HeaderMap, Response, StatusCode, header};

use crate::{
    config::Origins,
    protocol::{Version, header_lines::entries},
    transport::origin::may_connect,
};

/// What a client asked for.
#[derive(Debug)]
pub struct Request<'a> {
    /// Of the request line.
    pub version: http::Version,
    /// Of the request.
    pub headers: &'a HeaderMap,
    /// Whether it came by https.
    pub is_https: bool,
}

/// Why there is no WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a WebSocket handshake at all.
    #[error("this address speaks WebSocket: connect with an upgrade request")]
    NotAnUpgrade,
    /// Another version than 13.
    #[error("only version 13 of WebSocket is spoken here")]
    Version,
    /// A handshake with something missing or wrong.
    #[error("the WebSocket handshake has no valid Sec-WebSocket-Key")]
    Key,
    /// The page may not connect.
    #[error("the page's Origin may not connect: see ALLOWED_ORIGINS")]
    Origin,
}

impl Refused {
    /// The status it is told with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NotAnUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Key => StatusCode::BAD_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
        }
    }

    /// The word it is counted under.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotAnUpgrade => "not-an-upgrade",
            Self::Version => "version",
            Self::Key => "key",
            Self::Origin => "origin",
        }
    }
}

/// The answer that makes a WebSocket of the connection, and what is spoken on it then.
///
/// # Errors
/// When it cannot be one, or when its page may not connect.
pub fn accept(request: &Request<'_>, origins: &Origins) -> Result<(Response<()>, Version), Refused> {
    let headers = request.headers;
    if request.version != http::Version::HTTP_11
        || !has_token(headers, &header::CONNECTION, "upgrade")
        || !has_token(headers, &header::UPGRADE, "websocket")
    {
        return Err(Refused::NotAnUpgrade);
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refused::Version);
    }
    let key: SecWebsocketKey = headers.typed_try_get().ok().flatten().ok_or(Refused::Key)?;
    if !is_nonce(headers) {
        return Err(Refused::Key);
    }
    if !may_connect(origins, headers, request.is_https) {
        return Err(Refused::Origin);
    }
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().typed_insert(headers::Connection::upgrade());
    response.headers_mut().typed_insert(headers::Upgrade::websocket());
    response.headers_mut().typed_insert(SecWebsocketAccept::from(key));
    // Names of subprotocols have a case: a browser takes no other spelling than the one it has offered.
    let mut offered = entries(headers, header::SEC_WEBSOCKET_PROTOCOL.as_str());
    if offered.any(|name| name == Version::SUBPROTOCOL.as_bytes()) {
        let chosen = header::HeaderValue::from_static(Version::SUBPROTOCOL);
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, chosen);
        return Ok((response, Version::V4));
    }
    Ok((response, Version::V3))
}

/// Whether the key is 16 bytes in base64.
fn is_nonce(headers: &HeaderMap) -> bool {
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else { return false };
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    matches!(key.as_bytes(), [digits @ .., b'=', b'='] if digits.len() == 22 && digits.iter().all(is_base64))
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    entries(headers, name.as_str()).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake(changes: &[(&str, Option<&str>)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "app.example.org"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        for (name, value) in changes {
            let name: header::HeaderName = name.parse().unwrap();
            match value {
                Some(value) => headers.insert(name, value.parse().unwrap()),
                None => headers.remove(name),
            };
        }
        headers
    }

    fn outcome(headers: &HeaderMap, origins: &Origins) -> Option<Refused> {
        accept(&Request { version: http::Version::HTTP_11, headers, is_https: false }, origins).err()
    }

    #[test]
    fn the_accept_header_is_the_one_of_the_rfc() {
        let headers = handshake(&[]);
        let request = Request { version: http::Version::HTTP_11, headers: &headers, is_https: false };
        let (response, version) = accept(&request, &Origins::SameHost).unwrap();
        assert_eq!((version, response.headers().get("sec-websocket-protocol")), (Version::V3, None));
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_subprotocol_chooses_the_version_and_an_unknown_one_is_not_echoed() {
        for (offered, version) in [
            ("high-templar.v4", Version::V4),
            ("soap, high-templar.v4", Version::V4),
            ("soap", Version::V3),
            ("high-templar.v40", Version::V3),
            ("HIGH-TEMPLAR.V4", Version::V3),
            ("High-Templar.V4, high-templar.v4", Version::V4),
        ] {
            let headers = handshake(&[("sec-websocket-protocol", Some(offered))]);
            let request = Request { version: http::Version::HTTP_11, headers: &headers, is_https: false };
            let (response, chosen) = accept(&request, &Origins::SameHost).unwrap();
            let echoed = response.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap());
            assert_eq!((chosen, echoed), (version, (version == Version::V4).then_some("high-templar.v4")), "{offered}");
        }
    }

    #[test]
    fn a_wrong_handshake_is_told_what_is_wrong() {
        let any = Origins::Any;
        for (changes, refused) in [
            (("connection", None), Refused::NotAnUpgrade),
            (("upgrade", Some("h2c")), Refused::NotAnUpgrade),
            (("sec-websocket-version", Some("8")), Refused::Version),
            (("sec-websocket-key", None), Refused::Key),
            (("sec-websocket-key", Some("short==")), Refused::Key),
        ] {
            assert_eq!(outcome(&handshake(&[changes]), &any), Some(refused), "{changes:?}");
        }
        let headers = handshake(&[]);
        let old = Request { version: http::Version::HTTP_10, headers: &headers, is_https: false };
        assert_eq!(accept(&old, &any).err(), Some(Refused::NotAnUpgrade));
    }
}
