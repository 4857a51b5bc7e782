//! What a request says about itself and about the proxy before us.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderMap, HeaderValue, Method, header};

use super::super::Origination;
use crate::{config::Networks, protocol::header_lines::last, transport::origin::is_https};

/// A request without its body.
///
/// It is never printed: its query and headers can hold secrets.
pub(super) struct Asked {
    pub(super) method: Method,
    /// Without the prefix that a proxy has put before it.
    pub(super) path: String,
    /// Still encoded; empty, if there is none.
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    /// The other end of the connection; `None` on a unix socket.
    pub(super) peer: Option<SocketAddr>,
    /// Its address; this machine for one on a unix socket.
    pub(super) address: IpAddr,
    /// Whether the client came by https, as a proxy says that may say so.
    pub(super) is_https: bool,
    pub(super) links: Links,
}

impl Asked {
    /// A request for `path`, as it came; `proxies` may tell the scheme, and `scheme` is that of links, whoever says what.
    pub(super) fn new(
        method: Method,
        path: &str,
        query: String,
        headers: HeaderMap,
        from: Origination,
        proxies: &Networks,
        scheme: Option<&'static str>,
    ) -> Self {
        let is_https = is_https(&headers, from.peer, proxies);
        let links = Links::new(&headers, is_https, scheme);
        let stripped = path.strip_prefix(&links.script).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let path = stripped.unwrap_or(path).to_owned();
        let address = from.peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.ip().to_canonical());
        Self { method, path, query, headers, peer: from.peer, address, is_https, links }
    }

    /// A parameter of the query, decoded. Of several, the last counts.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.filter(|(known, _)| known == name).last().map(|(_, value)| value.into_owned())
    }

    /// Whether a page of another host has a browser send it.
    pub(super) fn is_cross_site(&self) -> bool {
        let Some(origin) = self.headers.get(header::ORIGIN).map(HeaderValue::as_bytes) else { return false };
        let host = self.headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
        let own = [b"http://".as_slice(), b"https://"].into_iter().find_map(|scheme| origin.strip_prefix(scheme));
        !own.is_some_and(|own| own.eq_ignore_ascii_case(host))
    }

    /// Whether there is something to read after the head.
    pub(super) fn has_body(&self) -> bool {
        let length = self.headers.get(header::CONTENT_LENGTH);
        self.headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
    }
}

/// How our own addresses look from outside.
pub(super) struct Links {
    pub(super) scheme: &'static str,
    /// Name and port that were asked for, if they can stand in a link.
    host: Option<String>,
    /// What a proxy puts before our paths: empty, or `/pre`.
    pub(super) script: String,
}

impl Links {
    fn new(headers: &HeaderMap, is_https: bool, forced: Option<&'static str>) -> Self {
        let text = |name: &str| last(headers, name).and_then(|value| value.to_str().ok());
        let told = |name: &str| ["http", "https"].into_iter().find(|scheme| text(name) == Some(*scheme));
        let scheme = forced.or_else(|| told("x-url-scheme")).or_else(|| told("x-scheme"));
        let host = text("host").filter(|host| is_made_of(host, b".-_:[]"));
        let script = text("x-script-name").map(|script| script.trim_end_matches('/'));
        let script = script.filter(|script| is_made_of(script, b"/.-_~") && script.starts_with('/'));
        let script = script.filter(|script| !script.contains("//") && !script.contains(".."));
        Self {
            scheme: scheme.unwrap_or(if is_https { "https" } else { "http" }),
            host: host.map(str::to_owned),
            script: script.unwrap_or_default().to_owned(),
        }
    }

    /// A link to one of our paths, with everything that can be told.
    pub(super) fn to(&self, path: &str) -> String {
        let Self { scheme, host, script } = self;
        host.as_ref().map_or_else(|| format!("{script}{path}"), |host| format!("{scheme}://{host}{script}{path}"))
    }
}

fn is_made_of(text: &str, others: &[u8]) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str, headers: &[(&'static str, &str)], peer: Option<&str>) -> Asked {
        let config = crate::config::from_vars(
            [("API_URL", "http://a/"), ("TRUSTED_PROXIES", "10.0.0.0/8")]
                .map(|(k, v)| (k.into(), v.into()))
                .into_iter(),
        );
        let lines = headers.iter().map(|(k, v)| (k.parse::<http::HeaderName>().unwrap(), v.parse().unwrap()));
        let mut headers = HeaderMap::new();
        lines.for_each(|(name, value)| _ = headers.append(name, value));
        let from = Origination { peer: peer.map(|peer| peer.parse().unwrap()), version: http::Version::HTTP_11 };
        let proxies = config.unwrap().connection.limits.trusted_proxies;
        Asked::new(Method::GET, path, "a=1&a=%26&b=x+y".to_owned(), headers, from, &proxies, None)
    }

    #[test]
    fn links_have_the_proxys_prefix_and_scheme() {
        for (headers, link) in [
            (&[("host", "a.b:80")][..], "http://a.b:80/admin"),
            (&[("host", "a.b"), ("x-script-name", "/pre"), ("x-scheme", "https")], "https://a.b/pre/admin"),
            (&[("host", "a.b"), ("x-url-scheme", "http"), ("x-scheme", "https")], "http://a.b/admin"),
            (&[("host", "a.b"), ("x-scheme", "javascript")], "http://a.b/admin"),
            (&[("x-script-name", "/a/b/")], "/a/b/admin"),
            (&[("x-script-name", "//evil.net")], "/admin"),
            (&[("x-script-name", "/\"><b>")], "/admin"),
            (&[("x-script-name", "pre")], "/admin"),
            (&[("host", "a b")], "/admin"),
            (&[("host", "a.b"), ("x-script-name", "/forged"), ("x-script-name", "/pre")], "http://a.b/pre/admin"),
            (&[("host", "a.b"), ("x-scheme", "http"), ("x-scheme", "https")], "https://a.b/admin"),
        ] {
            assert_eq!(asked("/x", headers, None).links.to("/admin"), link, "{headers:?}");
        }
    }

    #[test]
    fn the_prefix_is_taken_off_where_it_is_a_prefix_of_whole_names() {
        for (path, script, rest) in [
            ("/pre/info", "/pre", "/info"),
            ("/info", "/pre", "/info"),
            ("/prefix/info", "/pre", "/prefix/info"),
            ("/pre", "/pre", ""),
        ] {
            assert_eq!(asked(path, &[("x-script-name", script)], None).path, rest, "{path}");
        }
    }

    #[test]
    fn https_counts_when_a_trusted_proxy_says_so_and_nothing_contradicts() {
        let https = &[("x-forwarded-proto", "https")][..];
        assert!(asked("/", https, Some("10.1.2.3:4")).is_https);
        assert!(asked("/", https, None).is_https, "a unix socket");
        assert!(asked("/", &[("x-scheme", "HTTPS")], Some("10.1.2.3:4")).is_https);
        assert!(!asked("/", https, Some("9.1.2.3:4")).is_https);
        assert!(!asked("/", &[], Some("10.1.2.3:4")).is_https);
        let added = &[("x-forwarded-proto", "http"), ("x-scheme", "https")];
        assert!(!asked("/", added, Some("10.1.2.3:4")).is_https);
        assert!(!asked("/", &[("x-forwarded-proto", "https, http")], Some("10.1.2.3:4")).is_https);
        assert!(asked("/", &[("x-forwarded-proto", "https, https")], Some("10.1.2.3:4")).is_https, "two proxies");
    }

    #[test]
    fn a_peer_without_an_address_is_this_machine_and_ipv4_is_never_in_disguise() {
        assert_eq!(asked("/", &[], None).address.to_string(), "127.0.0.1");
        assert_eq!(asked("/", &[], Some("[::ffff:10.0.0.1]:5")).address.to_string(), "10.0.0.1");
    }

    #[test]
    fn parameters_are_decoded_and_the_last_one_counts() {
        let asked = asked("/", &[], None);
        assert_eq!(asked.parameter("a").as_deref(), Some("&"));
        assert_eq!(asked.parameter("b").as_deref(), Some("x y"));
        assert_eq!(asked.parameter("c"), None);
    }

    #[test]
    fn a_page_of_another_host_is_told_from_our_own() {
        for (origin, is_cross_site) in
            [("https://a.b:1", false), ("http://A.b:1", false), ("http://a.b", true), ("null", true), ("a.b:1", true)]
        {
            let asked = asked("/", &[("host", "a.b:1"), ("origin", origin)], None);
            assert_eq!(asked.is_cross_site(), is_cross_site, "{origin}");
        }
        assert!(!asked("/", &[("host", "a.b:1")], None).is_cross_site());
    }
}
