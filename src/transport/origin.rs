//! Which pages may connect.

use http::{HeaderMap, header};

use crate::config::Origins;

/// Whether a request's `Origin` (RFC 6454 section 7) is one that may connect. A handshake without one does not come from a page.
pub fn may_connect(origins: &Origins, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return *origins == Origins::Any };
    let origin = origin.to_ascii_lowercase();
    match origins {
        Origins::Any => true,
        Origins::Listed(listed) => listed.contains(&origin),
        Origins::SameHost => {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
            host.is_some_and(|host| is_same_host(&origin, &host.to_ascii_lowercase()))
        }
    }
}

/// The same for a plain request, which a browser may also send without an `Origin`: for an image, say. It then tells by
/// `Sec-Fetch-Site` (<https://www.w3.org/TR/fetch-metadata/>) that another site's page wants it.
pub fn may_ask(origins: &Origins, headers: &HeaderMap) -> bool {
    let is_foreign = headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none");
    let is_hidden = is_foreign && !headers.contains_key(header::ORIGIN);
    may_connect(origins, headers) && (!is_hidden || *origins == Origins::Any)
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
        may_connect(origins, &headers)
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
    fn what_another_site_has_a_browser_fetch_is_not_served() {
        let listed = Origins::Listed(["https://other.example".to_owned()].into());
        let may = |site: &str, origin: Option<&str>, origins: &Origins| {
            let mut headers = HeaderMap::from_iter([(header::HOST, "app.example.org".parse().unwrap())]);
            headers.insert("sec-fetch-site", site.parse().unwrap());
            headers.extend(origin.map(|origin| (header::ORIGIN, origin.parse().unwrap())));
            may_ask(origins, &headers)
        };
        for site in ["cross-site", "same-site"] {
            assert!(!may(site, None, &Origins::SameHost) && !may(site, None, &listed), "{site}");
            assert!(may(site, Some("https://other.example"), &listed) && may(site, None, &Origins::Any), "{site}");
        }
        assert!(may("same-origin", None, &Origins::SameHost) && may("none", None, &Origins::SameHost));
        assert!(may_ask(&Origins::SameHost, &HeaderMap::new()), "no browser");
    }

    #[test]
    fn a_list_admits_those_on_it_and_no_other() {
        let listed = Origins::Listed(["https://other.example".to_owned()].into());
        assert!(may(Some("https://other.example"), "app.example.org", &listed));
        assert!(!may(Some("https://app.example.org"), "app.example.org", &listed));
    }
}
