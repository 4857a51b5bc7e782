//! Which pages may read the answers (CORS).

use http::{HeaderMap, HeaderName, HeaderValue, header};
use url::Url;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, OPTIONS, PUT, DELETE, PATCH");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Content-Type, Depth, User-Agent, X-File-Size, X-Requested-With, If-Modified-Since, X-File-Name, Cache-Control, \
     Pragma, Origin, Connection, Referer, Cookie",
);
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");
const XDOMAIN: HeaderName = HeaderName::from_static("xdomainrequestallowed");

/// The pages that may; without a list all.
#[derive(Debug)]
pub(super) struct Cors(Option<Vec<Page>>);

/// Pages of a host and of those under it.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    /// Any, if it was not said.
    scheme: Option<String>,
    host: String,
    /// Any, if it was not said.
    port: Option<u16>,
}

impl Cors {
    /// The pages of `list`, each `example.com`, `example.com:8080` or `https://example.com`.
    pub(super) fn new(list: &[String]) -> Self {
        let entries: Vec<_> = list.iter().map(|entry| entry.trim()).filter(|entry| !entry.is_empty()).collect();
        let is_for_all = entries.is_empty() || entries.contains(&"*");
        Self((!is_for_all).then(|| entries.into_iter().filter_map(Page::parse).collect()))
    }

    /// Adds the headers of an answer to a request with `asked`.
    pub(super) fn add(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        let origin = asked.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
        let may_read = self.0.as_ref().is_none_or(|pages| {
            answer.append(header::VARY, HeaderValue::from_static("Origin"));
            origin.is_some_and(|origin| is_listed(pages, origin))
        });
        if may_read {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        answer.insert(XDOMAIN, HeaderValue::from_static("1"));
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    }
}

fn is_listed(pages: &[Page], origin: &str) -> bool {
    let Ok(origin) = Url::parse(origin) else { return false };
    let Some(host) = origin.host_str() else { return false };
    let port = origin.port_or_known_default();
    pages.iter().any(|page| {
        page.scheme.as_deref().is_none_or(|scheme| scheme == origin.scheme())
            && page.port.is_none_or(|own| port == Some(own))
            && host.strip_suffix(page.host.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

impl Page {
    fn parse(entry: &str) -> Option<Self> {
        if entry.contains("://") {
            let url = Url::parse(entry).ok()?;
            let host = url.host_str()?.to_owned();
            return Some(Self { scheme: Some(url.scheme().to_owned()), host, port: url.port_or_known_default() });
        }
        let with_port = entry.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = with_port.map_or((entry, None), |(host, port)| (host, Some(port)));
        let host = host.strip_prefix("*.").or_else(|| host.strip_prefix('.')).unwrap_or(host);
        let host = Url::parse(&format!("http://{host}/")).ok()?.host_str()?.to_owned(); // as a browser writes it
        Some(Self { scheme: None, host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(list: &[&str], origin: Option<&str>) -> HeaderMap {
        let list: Vec<_> = list.iter().map(|entry| (*entry).to_owned()).collect();
        let asked = origin.map(|origin| (header::ORIGIN, origin.parse().unwrap())).into_iter().collect();
        let mut answer = HeaderMap::new();
        Cors::new(&list).add(&asked, &mut answer);
        answer
    }

    #[test]
    fn without_a_list_every_page_may_read() {
        let answer = answered(&[], None);
        assert_eq!(answer[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(answer["XDomainRequestAllowed"], "1");
        assert_eq!(answer[header::ACCESS_CONTROL_MAX_AGE], "86400");
        assert!(!answer.contains_key(header::VARY));
    }

    #[test]
    fn a_host_admits_itself_and_those_under_it_and_nobody_whose_name_only_looks_like_it() {
        for (entry, origin, may) in [
            ("example.com", "https://example.com", true),
            ("example.com", "http://a.b.example.com:8080", true),
            ("example.com", "http://example.com.evil.net", false),
            ("example.com", "http://notexample.com", false),
            ("example.com", "http://evil.net/example.com", false),
            ("example.com", "null", false),
            ("EXAMPLE.com", "http://example.com", true),
            (".example.com", "http://a.example.com", true),
            ("*.example.com", "http://a.example.com", true),
            ("example.com:8080", "http://example.com:8080", true),
            ("example.com:8080", "http://example.com", false),
            ("example.com:80", "http://example.com", true),
            ("https://example.com", "https://example.com", true),
            ("https://example.com", "https://www.example.com", true),
            ("https://example.com", "http://example.com", false),
            ("https://example.com", "https://example.com:444", false),
            ("https://example.com:444", "https://example.com:444", true),
            ("localhost", "http://localhost:3000", true),
            ("[::1]:80", "http://[::1]", true),
            ("żółw.example", "https://xn--w-uga1v8h.example", true),
            ("*", "http://anything.example", true),
        ] {
            let answer = answered(&[entry, "other.example"], Some(origin));
            assert_eq!(answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), may, "{entry} {origin}");
            assert!(answer.contains_key(header::ACCESS_CONTROL_ALLOW_METHODS));
        }
        assert_eq!(answered(&["example.com"], None)[header::VARY], "Origin");
    }

    #[test]
    fn a_list_in_which_nothing_can_be_read_admits_nobody() {
        let answer = answered(&["a b"], Some("http://a"));
        assert!(!answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }
}
