//! What is passed on of a client's handshake, and nothing else.

use std::{borrow::Cow, fmt, net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{
    config::{Part, Source, Template},
    protocol::{
        address::{X_REAL_IP, real_ip},
        header_lines::{joined, last},
    },
};

/// What a client's handshake says about it.
#[derive(Debug)]
pub struct Handshake<'a> {
    /// Its request headers.
    pub headers: &'a HeaderMap,
    /// Its query, without the question mark.
    pub query: &'a str,
    /// Its address; `None` on a unix socket.
    pub peer: Option<SocketAddr>,
}

/// A value for the backend holds a line break or another control character.
#[derive(Debug, thiserror::Error)]
#[error("the client's value for {0} cannot be sent as a header")]
pub struct InvalidHeader(HeaderName);

/// All that is passed on of a client's handshake: to the backend, clients with the same are the same.
///
/// Holds cookies and tokens, and so is never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity(Arc<[u8]>);

impl Identity {
    /// Of somebody whom the backend is never asked about.
    pub fn nobody() -> Self {
        Self::from_bytes(&[])
    }

    /// What `wanted` says is to be passed on of `handshake`.
    ///
    /// # Errors
    /// When a value could not be sent as a header.
    pub(super) fn of(wanted: &[(HeaderName, Template)], handshake: &Handshake<'_>) -> Result<Self, InvalidHeader> {
        // As on the wire, in one piece: as many of them are kept as there are clients.
        let mut lines = Vec::new();
        for (name, template) in wanted {
            push_line(&mut lines, name, fill(template, |source| handshake.find(source)))?;
        }
        Ok(Self(lines.into()))
    }

    /// What of `wanted` is the same for all clients.
    pub(super) fn fixed(wanted: &[(HeaderName, Template)]) -> Result<Self, InvalidHeader> {
        let is_fixed = |template: &Template| template.parts.iter().all(|part| matches!(part, Part::Fixed(_)));
        let fixed: Vec<_> = wanted.iter().filter(|(_, template)| is_fixed(template)).cloned().collect();
        Self::of(&fixed, &Handshake { headers: &HeaderMap::new(), query: "", peer: None })
    }

    /// What [`as_bytes`](Self::as_bytes) gave, perhaps on another instance.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// All of it.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The headers to send.
    pub(super) fn headers(&self) -> HeaderMap {
        let headers = self.lines().filter_map(|(name, value)| {
            let mut value = HeaderValue::from_bytes(value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name).ok()?, value))
        });
        headers.collect()
    }

    /// Returns the value of the header called `name`.
    pub(super) fn value(&self, name: &HeaderName) -> Option<&[u8]> {
        self.lines().find_map(|(found, value)| (found == name.as_str().as_bytes()).then_some(value))
    }

    /// Names and values.
    fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.split(|byte| *byte == b'\n').filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], &line[colon + 1..]))
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Appends a header to the lines of an [`Identity`], if it has a value.
///
/// # Errors
/// When the value could not be sent.
pub(super) fn push_line(lines: &mut Vec<u8>, name: &HeaderName, value: Option<Vec<u8>>) -> Result<(), InvalidHeader> {
    let Some(value) = value else { return Ok(()) };
    HeaderValue::from_bytes(&value).map_err(|_| InvalidHeader(name.clone()))?;
    lines.extend_from_slice(name.as_str().as_bytes());
    lines.push(b':');
    lines.extend_from_slice(&value);
    lines.push(b'\n'); // which no value holds
    Ok(())
}

/// Fills in what `find` returns for the template's sources; `None` when any of them is absent.
pub(super) fn fill<'a>(template: &Template, find: impl Fn(&Source) -> Option<Cow<'a, [u8]>>) -> Option<Vec<u8>> {
    let mut value = Vec::new();
    for part in &template.parts {
        match part {
            Part::Fixed(text) => value.extend_from_slice(text.as_bytes()),
            Part::From(source) => value.extend_from_slice(&find(source)?),
        }
    }
    Some(value)
}

impl Handshake<'_> {
    /// Returns the value of `source`, if the handshake has one.
    pub(super) fn find(&self, source: &Source) -> Option<Cow<'_, [u8]>> {
        match source {
            Source::Header(name) if *name == X_REAL_IP => self.real_ip(),
            Source::Header(name) => joined(self.headers, name),
            Source::Cookie(name) => match joined(self.headers, &header::COOKIE)? {
                Cow::Borrowed(cookies) => cookie(cookies, name.as_bytes()),
                Cow::Owned(cookies) => cookie(&cookies, name.as_bytes()).map(|value| Cow::Owned(value.into_owned())),
            },
            Source::Param(name) => param(self.query, name).map(|value| Cow::Owned(value.into_bytes())),
            Source::Peer => Some(match self.peer {
                Some(peer) => Cow::Owned(peer.ip().to_canonical().to_string().into_bytes()),
                None => Cow::Borrowed(b"<local>"),
            }),
        }
    }

    /// The same address that the limits count by, and, as in 3.1, whoever tells it; if it cannot be read, the line as it is.
    fn real_ip(&self) -> Option<Cow<'_, [u8]>> {
        match real_ip(self.headers) {
            Ok(address) => address.map(|address| Cow::Owned(address.to_string().into_bytes())),
            Err(_) => last(self.headers, X_REAL_IP).map(|line| Cow::Borrowed(line.as_bytes())),
        }
    }
}

/// The value of the first cookie called `name`, absent when empty.
fn cookie<'a>(header: &'a [u8], name: &[u8]) -> Option<Cow<'a, [u8]>> {
    let value = header.split(|byte| *byte == b';').find_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        (pair[..equals].trim_ascii() == name).then(|| pair[equals + 1..].trim_ascii())
    })?;
    let value = unquoted(value);
    (!value.is_empty()).then_some(value)
}

/// Undoes the quoting of Python's cookies: `"a\054b"` is `a,b`.
fn unquoted(value: &[u8]) -> Cow<'_, [u8]> {
    let Some(inner) = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")) else {
        return Cow::Borrowed(value);
    };
    let mut plain = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                after
            }
            (b'\\', [escaped, after @ ..]) => {
                plain.push(*escaped);
                after
            }
            _ => {
                plain.push(*first);
                after
            }
        };
    }
    Cow::Owned(plain)
}

/// The value of the first query parameter called `name`, absent when empty.
fn param(query: &str, name: &str) -> Option<String> {
    let (_, value) = url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name)?;
    (!value.is_empty()).then(|| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn send(headers: &[(&str, &[u8])], query: &str) -> Result<Vec<(String, String)>, InvalidHeader> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        let vars = [
            ("API_URL", "http://api/"),
            ("API_HEADERS", r#"{"X-Two":"{param:a}/{cookie:b}","X-Fixed":"{{1}}","X-Peer":"{peer}"}"#),
        ];
        let config = config::from_vars(vars.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter()).unwrap();
        let handshake = Handshake { headers: &map, query, peer: None };
        let mut sent: Vec<_> = Identity::of(&config.backend.headers, &handshake)?
            .headers()
            .iter()
            .filter(|(name, _)| !["x-fixed", "x-peer"].contains(&name.as_str()))
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        sent.sort();
        Ok(sent)
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn nothing_but_what_is_mapped_is_passed_on() {
        let client: &[(&str, &[u8])] = &[
            ("Cookie", b"a=1;  csrftoken = \"t\\054x\" ;csrftoken=2"),
            ("User-Agent", b"browser"),
            ("X-Real-IP", b"10.0.0.1"),
            ("X-Real-IP", b"10.0.0.2"),
            ("Authorization", b"Basic x"),
            ("Host", b"evil"),
            ("Connection", b"upgrade"),
            ("X-Forwarded-For", b"1.1.1.1"),
        ];
        let expected = [
            ("authorization", "Token a b"),
            ("cookie", "a=1;  csrftoken = \"t\\054x\" ;csrftoken=2"),
            ("user-agent", "browser"),
            ("x-csrftoken", "t,x"),
            ("x-real-ip", "10.0.0.2"),
        ];
        assert_eq!(send(client, "x=1&token=a+%62&token=c").unwrap(), pairs(&expected));
    }

    #[test]
    fn lines_of_a_header_are_passed_on_as_one_value() {
        let client: &[(&str, &[u8])] = &[
            ("Cookie", b"theme=dark"),
            ("User-Agent", b"a"),
            ("X-Real-IP", b"9.9.9.9"),
            ("Cookie", b"sessionid=s; b=2"),
            ("Cookie", b"csrftoken=t"),
            ("User-Agent", b"b"),
            ("X-Real-IP", b"1.1.1.1, [::ffff:203.0.113.7]:40123"),
        ];
        let expected = [
            ("cookie", "theme=dark; sessionid=s; b=2; csrftoken=t"),
            ("user-agent", "a, b"),
            ("x-csrftoken", "t"),
            ("x-real-ip", "203.0.113.7"),
            ("x-two", "1/2"),
        ];
        assert_eq!(send(client, "a=1").unwrap(), pairs(&expected));
    }

    #[test]
    fn an_address_that_cannot_be_read_is_passed_on_as_it_is() {
        let client: &[(&str, &[u8])] = &[("X-Real-IP", b"1.1.1.1"), ("X-Real-IP", b"unknown")];
        assert_eq!(send(client, "").unwrap(), pairs(&[("x-real-ip", "unknown")]));
    }

    #[test]
    fn a_peer_is_named_by_its_address_without_mapping() {
        let wanted = [("x-peer".parse().unwrap(), Template::parse("{peer}").unwrap())];
        let handshake =
            Handshake { headers: &HeaderMap::new(), query: "", peer: "[::ffff:203.0.113.7]:80".parse().ok() };
        let identity = Identity::of(&wanted, &handshake).unwrap();
        assert_eq!(identity.headers()["x-peer"], "203.0.113.7");
    }

    #[test]
    fn an_absent_or_empty_source_sends_no_header() {
        assert_eq!(send(&[], "").unwrap(), []);
        assert_eq!(send(&[("Cookie", b"csrftoken=")], "token=&token=x").unwrap(), pairs(&[("cookie", "csrftoken=")]));
        assert_eq!(send(&[("User-Agent", b"")], "Token=x").unwrap(), []);
        assert_eq!(send(&[("Cookie", b"b=2")], "a=1").unwrap(), pairs(&[("cookie", "b=2"), ("x-two", "1/2")]));
        assert_eq!(send(&[("Cookie", b"B=2")], "a=1").unwrap(), pairs(&[("cookie", "B=2")]));
    }

    #[test]
    fn a_line_break_never_reaches_the_wire() {
        for query in ["token=a%0d%0aX-Evil:1", "token=%00", "token=a%0ab"] {
            assert!(send(&[], query).is_err(), "{query}");
        }
    }

    #[test]
    fn odd_cookie_bytes_stay_as_they_are() {
        let odd: &[u8] = b"=;;\xff\"a; b =\"";
        let mut map = HeaderMap::new();
        map.insert(header::COOKIE, HeaderValue::from_bytes(odd).unwrap());
        let wanted = [(header::COOKIE, Template::parse("{header:cookie}").unwrap())];
        let handshake = Handshake { headers: &map, query: "", peer: None };
        let identity = Identity::of(&wanted, &handshake).unwrap();
        assert_eq!(identity.headers()[header::COOKIE].as_bytes(), odd);
        assert_eq!(format!("{identity:?}"), "***");
    }
}
