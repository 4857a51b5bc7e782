//! Which pages may connect.

use std::net::SocketAddr;

use http::{HeaderMap, header};

use crate::{
    config::{Networks, Origins},
    protocol::header_lines::entries,
};

/// Whether a request came by https: a proxy of `proxies`, or one at a unix socket, says so and nothing contradicts it. A
/// client may have added a header, so one of several that says so is not enough.
pub fn is_https(headers: &HeaderMap, peer: Option<SocketAddr>, proxies: &Networks) -> bool {
    let names = ["x-forwarded-proto", "x-scheme", "x-url-scheme"];
    let mut said = names.iter().flat_map(|name| entries(headers, name)).peekable();
    peer.is_none_or(|peer| proxies.contain(peer.ip()))
        && said.peek().is_some()
        && said.all(|scheme| scheme.eq_ignore_ascii_case(b"https"))
}

/// Whether a request's `Origin` (RFC 6454 section 7) is one that may connect. A handshake without one does not come from a page.
///
/// With `is_https`, a page of the same host that was itself loaded by plain http is another origin: whoever is between it
/// and its server can put a script into it.
pub fn may_connect(origins: &Origins, headers: &HeaderMap, is_https: bool) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return *origins == Origins::Any };
    let origin = origin.to_ascii_lowercase();
    match origins {
        Origins::Any => true,
        Origins::Listed(listed) => listed.contains(&origin),
        Origins::SameHost => {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            let is_downgraded = is_https && origin.starts_with("http:");
            !is_downgraded && host.is_some_and(|host| is_same_host(&origin, &host.to_ascii_lowercase()))
        }
    }
}

/// The same for a plain request, which a browser may also send without an `Origin`: for an image, say. It then tells by
/// `Sec-Fetch-Site` (<https://www.w3.org/TR/fetch-metadata/>) that another site's page wants it.
pub fn may_ask(origins: &Origins, headers: &HeaderMap, is_https: bool) -> bool {
    let is_hidden = is_of_another_site(headers) && !headers.contains_key(header::ORIGIN);
    may_connect(origins, headers, is_https) && (!is_hidden || *origins == Origins::Any)
}

/// Whether a browser says that a page of another site, or of another origin of the same one, wants it to send this.
pub fn is_of_another_site(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
}

/// Whether `origin` (`https://app.example.org`) is a page of `host` (`app.example.org` or `app.example.org:443`).
fn is_same_host(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let plain = |authority: &str| authority.strip_suffix(default_port).unwrap_or(authority).to_owned();
    !host.is_empty() && plain(authority) == plain(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(origin: Option<&str>, host: &str, origins: &Origins) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        may_connect(origins, &headers, false)
    }

    #[test]
    fn by_default_only_pages_of_the_same_host_may_connect() {
        let same = |origin: Option<&str>, host: &str| may(origin, host, &Origins::SameHost);
        assert!(same(None, "app.example.org"));
        assert!(same(Some("https://app.example.org"), "app.example.org"));
        assert!(same(Some("https://APP.example.org"), "app.example.org:443"));
        assert!(same(Some("http://localhost:8000"), "localhost:8000"));
        for origin in
            ["https://evil.example", "https://app.example.org.evil.example", "null", "https://app.example.org:8443", ""]
        {
            assert!(!same(Some(origin), "app.example.org"), "{origin}");
        }
    }

    #[test]
    fn a_page_that_came_by_http_is_another_one_where_the_server_is_reached_by_https() {
        let may = |origin: &str, is_https, origins: &Origins| {
            let headers =
                [(header::HOST, "app.example.org".parse().unwrap()), (header::ORIGIN, origin.parse().unwrap())];
            may_connect(origins, &HeaderMap::from_iter(headers), is_https)
        };
        let same = &Origins::SameHost;
        assert!(may("https://app.example.org", true, same) && may("https://app.example.org", false, same));
        assert!(may("http://app.example.org", false, same) && !may("http://app.example.org", true, same));
        let listed = Origins::Listed(["http://app.example.org".to_owned()].into());
        assert!(may("http://app.example.org", true, &listed) && may("http://x.example", true, &Origins::Any));
    }

    #[test]
    fn what_another_site_has_a_browser_fetch_is_not_served() {
        let listed = Origins::Listed(["https://other.example".to_owned()].into());
        let may = |site: &str, origin: Option<&str>, origins: &Origins| {
            let mut headers = HeaderMap::from_iter([(header::HOST, "app.example.org".parse().unwrap())]);
            headers.insert("sec-fetch-site", site.parse().unwrap());
            headers.extend(origin.map(|origin| (header::ORIGIN, origin.parse().unwrap())));
            may_ask(origins, &headers, false)
        };
        for site in ["cross-site", "same-site"] {
            assert!(!may(site, None, &Origins::SameHost) && !may(site, None, &listed), "{site}");
            assert!(may(site, Some("https://other.example"), &listed) && may(site, None, &Origins::Any), "{site}");
        }
        assert!(may("same-origin", None, &Origins::SameHost) && may("none", None, &Origins::SameHost));
        assert!(may_ask(&Origins::SameHost, &HeaderMap::new(), false), "no browser");
    }

    #[test]
    fn a_list_admits_those_on_it_and_no_other() {
        let listed = Origins::Listed(["https://other.example".to_owned()].into());
        assert!(may(Some("https://other.example"), "app.example.org", &listed));
        assert!(!may(Some("https://app.example.org"), "app.example.org", &listed));
    }
}
