//! Addresses as proxies write them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::HeaderMap;

use super::header_lines::entries;

/// The header by which a proxy tells the address of its client.
pub const X_REAL_IP: &str = "x-real-ip";

/// A value that should be an address and is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an IP address")]
pub struct NoAddress;

/// Returns the address that `X-Real-IP` tells. Of several lines and of a list it is the last entry: a proxy that does not replace
/// what its client has sent adds its own behind that.
///
/// # Errors
/// When that entry is no address.
pub fn real_ip(headers: &HeaderMap) -> Result<Option<IpAddr>, NoAddress> {
    entries(headers, X_REAL_IP).next_back().map(|entry| parse(entry).ok_or(NoAddress)).transpose()
}

/// Reads an address with or without a port, brackets and zone; an IPv4 address that is mapped to IPv6 is one of IPv4.
fn parse(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let address = text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    let address = address.ok().or_else(|| {
        let (inner, rest) = text.strip_prefix('[').and_then(|text| text.split_once(']')).unwrap_or((text, ""));
        let inner = inner.split_once('%').map_or(inner, |(address, _)| address);
        let has_port = rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        inner.parse::<Ipv6Addr>().ok().filter(|_| rest.is_empty() || has_port).map(IpAddr::V6)
    });
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_every_form_that_proxies_write() {
        for (text, address) in [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7:40123", "203.0.113.7"),
            ("2001:DB8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:40123", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%25eth0]:80", "fe80::1"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("[::ffff:203.0.113.7]:40123", "203.0.113.7"),
        ] {
            assert_eq!(parse(text.as_bytes()).map(|it| it.to_string()).as_deref(), Some(address), "{text}");
        }
        for text in ["", "x", "unknown", "203.0.113", "203.0.113.7:", "203.0.113.7:99999", "[203.0.113.7]", "[::1"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_last_entry_counts() {
        let told = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            lines.iter().for_each(|line| _ = headers.append(X_REAL_IP, line.parse().unwrap()));
            real_ip(&headers).map(|address| address.map(|address| address.to_string()))
        };
        for (lines, address) in [
            (&[][..], None),
            (&[""], None),
            (&["1.1.1.1"], Some("1.1.1.1")),
            (&["9.9.9.9", "1.1.1.1"], Some("1.1.1.1")), // the proxy's stands below the client's own
            (&["9.9.9.9, 1.1.1.1"], Some("1.1.1.1")),
            (&["9.9.9.9, 8.8.8.8", "7.7.7.7,[::1]:80 ,"], Some("::1")),
            (&["x, 1.1.1.1"], Some("1.1.1.1")),
        ] {
            assert_eq!(told(lines), Ok(address.map(str::to_owned)), "{lines:?}");
        }
        for lines in [&["x"][..], &["1.1.1.1", "x"], &["1.1.1.1, x"]] {
            assert_eq!(told(lines), Err(NoAddress), "{lines:?}");
        }
    }
}
