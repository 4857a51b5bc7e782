//! Headers of a request, however many lines they come in.
//!
//! A client or a proxy may split a list over several lines (RFC 9110 section 5.3), and HTTP/2 splits `Cookie` (RFC 9113 section
//! 8.2.3). Reading the first line alone loses the rest, or believes a line that a client has put above the proxy's.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, COOKIE, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION},
};

/// Headers that hold one value and no list. If one is repeated, two servers on the path may each believe a different line.
static SINGLE: [HeaderName; 9] = [
    AUTHORIZATION,
    ORIGIN,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION,
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("sec-fetch-dest"),
    HeaderName::from_static("sec-fetch-mode"),
    HeaderName::from_static("sec-fetch-site"),
    HeaderName::from_static("x-channelstream-secret"),
];

/// Returns the name of a header that is there more than once although it holds one value.
pub fn repeated(headers: &HeaderMap) -> Option<&'static str> {
    SINGLE.iter().find(|name| headers.get_all(*name).iter().nth(1).is_some()).map(HeaderName::as_str)
}

/// Returns all lines of a header as one value: cookies separated by `; ` (RFC 6265bis section 5.7), anything else by `, `. Empty
/// lines do not count; `None` if there is no other one.
pub fn joined<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, [u8]>> {
    let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes).filter(|line| !line.is_empty());
    let first = lines.next()?;
    let Some(second) = lines.next() else { return Some(Cow::Borrowed(first)) };
    let separator: &[u8] = if name == COOKIE { b"; " } else { b", " };
    let mut value = first.to_vec();
    for line in std::iter::once(second).chain(lines) {
        value.extend_from_slice(separator);
        value.extend_from_slice(line);
    }
    Some(Cow::Owned(value))
}

/// Returns the entries of a list, of all its lines, without the space around them; empty ones do not count.
pub fn entries<'h>(headers: &'h HeaderMap, name: &str) -> impl DoubleEndedIterator<Item = &'h [u8]> + use<'h> {
    let lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let entries = lines.flat_map(|line| line.split(|byte| *byte == b','));
    entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty())
}

/// Returns the last line of a header that a proxy adds below those of its client.
pub fn last<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h HeaderValue> {
    headers.get_all(name).iter().next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn lines_of_a_header_are_one_value_in_their_order() {
        let headers = headers(&[
            ("cookie", "theme=dark"),
            ("x-forwarded-for", "9.9.9.9"),
            ("cookie", ""),
            ("cookie", "sessionid=s"),
            ("x-forwarded-for", " 10.0.0.1,10.0.0.2"),
            ("x-empty", ""),
            ("accept", "text/html"),
        ]);
        let joined = |name: &str| joined(&headers, &name.parse().unwrap()).map(Cow::into_owned);
        assert_eq!(joined("cookie").as_deref(), Some(&b"theme=dark; sessionid=s"[..]));
        assert_eq!(joined("x-forwarded-for").as_deref(), Some(&b"9.9.9.9,  10.0.0.1,10.0.0.2"[..]));
        assert_eq!(joined("accept").as_deref(), Some(&b"text/html"[..]));
        assert_eq!((joined("x-empty"), joined("x-absent")), (None, None));
        let entries: Vec<_> = entries(&headers, "x-forwarded-for").rev().collect();
        assert_eq!(entries, [&b"10.0.0.2"[..], b"10.0.0.1", b"9.9.9.9"]);
        assert_eq!(last(&headers, "cookie").map(HeaderValue::as_bytes), Some(&b"sessionid=s"[..]));
    }

    #[test]
    fn a_value_that_is_no_list_has_one_line() {
        for name in &SINGLE {
            let name = name.as_str();
            assert_eq!(repeated(&headers(&[(name, "a")])), None);
            assert_eq!(repeated(&headers(&[(name, "a"), ("cookie", "b"), (name, "a")])), Some(name));
        }
        let lists = ["cookie", "x-forwarded-for", "upgrade", "connection", "sec-websocket-protocol", "accept"];
        for name in lists {
            assert_eq!(repeated(&headers(&[(name, "a"), (name, "b")])), None, "{name}");
        }
    }
}
