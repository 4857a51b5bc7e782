//! Origins of pages, as browsers write them.

use reqwest::Url;
use url::Origin;

use super::{Origins, problems::Problems};

/// What a page sends that was loaded from a file by Cordova or another WebView.
const FILE: &str = "file://";

/// Reads `ALLOWED_ORIGINS`. Each entry that cannot match is a problem of its own.
pub(super) fn origins(list: Option<&str>, problems: &mut Problems) -> Option<Origins> {
    const NAME: &str = "ALLOWED_ORIGINS";
    let Some(list) = list else { return Some(Origins::SameHost) };
    let entries: Vec<_> = list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    if entries == ["*"] {
        return Some(Origins::Any);
    }
    if entries.is_empty() {
        problems.add(NAME, "must be * or a list like https://app.example.org,https://other.example.org");
    }
    let origins = entries.iter().map(|entry| problems.ok(NAME, serialized(entry))).collect::<Vec<_>>();
    let origins = origins.into_iter().collect::<Option<_>>()?;
    (!entries.is_empty()).then_some(Origins::Listed(origins))
}

/// Returns an origin as a browser sends it: in lower case, without the scheme's own port, and with its name in ASCII
/// (<https://html.spec.whatwg.org/multipage/browsers.html#ascii-serialisation-of-an-origin>).
fn serialized(entry: &str) -> Result<String, String> {
    if entry.contains('*') {
        return Err(format!("has {entry}, which contains a wildcard: list each origin, or * alone for any"));
    }
    let plain = entry.trim_end_matches('/').to_ascii_lowercase();
    if plain == "null" {
        return Ok(plain);
    }
    if plain == "file:" {
        return Ok(FILE.to_owned());
    }
    let none = || format!("has {entry}, which is no origin like https://app.example.org");
    let url = Url::parse(&plain).map_err(|_| none())?;
    let has_more = !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some();
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(none)?;
    if has_more || !url.username().is_empty() || url.password().is_some() {
        return Err(none());
    }
    Ok(match url.origin() {
        origin @ Origin::Tuple(..) => origin.ascii_serialization(),
        // Extensions and apps have schemes of their own: capacitor://localhost.
        Origin::Opaque(_) => {
            let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
            format!("{}://{host}{port}", url.scheme())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_kept_as_browsers_write_it() {
        for (entry, origin) in [
            ("https://app.example.org", "https://app.example.org"),
            ("HTTPS://App.Example.org/", "https://app.example.org"),
            ("https://app.example.org:443", "https://app.example.org"),
            ("http://app.example.org:80/", "http://app.example.org"),
            ("http://app.example.org:443", "http://app.example.org:443"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("https://BÜCHER.example:8443", "https://xn--bcher-kva.example:8443"),
            ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
            ("http://[2001:DB8:0:0::1]:80", "http://[2001:db8::1]"),
            ("file://", "file://"),
            ("file:///", "file://"),
            ("null", "null"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("chrome-extension://Abcdef", "chrome-extension://abcdef"),
        ] {
            assert_eq!(serialized(entry).as_deref(), Ok(origin), "{entry}");
        }
    }

    #[test]
    fn an_entry_that_cannot_match_is_named() {
        for entry in [
            "app.example.org",
            "localhost:3000",
            "https://",
            "https://a.example/path",
            "https://a.example/?x",
            "https://a.example/#x",
            "https://user@a.example",
            "file:///sdcard/index.html",
            "https://a.example:99999",
        ] {
            assert!(serialized(entry).unwrap_err().starts_with(&format!("has {entry}, which is no origin")), "{entry}");
        }
        for entry in ["https://*.example.org", "*.example.org", "https://*", "http://localhost:*"] {
            let wrong = serialized(entry).unwrap_err();
            assert!(wrong.contains(entry) && wrong.contains("wildcard: list each origin"), "{wrong}");
        }
        let mut problems = Problems::default();
        assert_eq!(origins(Some("https://ok.example, a, https://*.b"), &mut problems), None);
        assert_eq!(problems.all.len(), 2, "{problems:?}");
        assert_eq!(origins(Some(" , "), &mut problems), None);
        assert_eq!(origins(Some("https://ok.example,*"), &mut problems), None, "a wildcard stands alone");
        assert_eq!(problems.all.len(), 4);
        assert_eq!(origins(Some("*"), &mut problems), Some(Origins::Any));
    }
}
