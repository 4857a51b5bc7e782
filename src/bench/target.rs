//! An address that is connected to, out of a URL.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};

use http::Uri;

/// Connections from one source address; a pair of addresses has some 28,000 ports.
const PER_SOURCE: u32 = 2000;

/// Why a URL cannot be connected to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("must be a URL such as {0}://127.0.0.1:8000/")]
    NoUrl(&'static str),
    #[error("must begin with {0}://: point it at the instance itself, not at the proxy that speaks TLS before it")]
    Tls(&'static str),
    #[error("names {host}, which is not known")]
    Unknown {
        host: String,
        #[source]
        source: std::io::Error,
    },
    #[error("names {0}, which has no address")]
    NoAddress(String),
}

/// Where to connect, and what to ask for there.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) address: SocketAddr,
    /// For the header `Host`.
    pub(super) authority: String,
    /// Path and query.
    pub(super) path: String,
}

impl Target {
    /// Reads a URL with this scheme, and looks up its host.
    ///
    /// # Errors
    /// Says what is wrong with it; the option's name belongs in front.
    pub(super) fn parse(url: &str, scheme: &'static str) -> Result<Self, Error> {
        let uri: Uri = url.parse().map_err(|_| Error::NoUrl(scheme))?;
        match uri.scheme_str() {
            Some(found) if found == scheme => {}
            Some("wss" | "https") => return Err(Error::Tls(scheme)),
            _ => return Err(Error::NoUrl(scheme)),
        }
        let host = uri.host().ok_or(Error::NoUrl(scheme))?.trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(80);
        let mut found = (host, port)
            .to_socket_addrs()
            .map_err(|source| Error::Unknown { host: host.to_owned(), source })?
            .collect::<Vec<_>>();
        // A name with both kinds of address is mostly listened to at the older one.
        found.sort_by_key(|address| !address.is_ipv4());
        let address = *found.first().ok_or_else(|| Error::NoAddress(host.to_owned()))?;
        let authority = uri.port_u16().map_or(host.to_owned(), |port| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { url: url.to_owned(), address, authority, path })
    }

    /// The address that connection `number` comes from; `None` leaves it to the system. On the loopback all of
    /// `127.0.0.0/8` is ours, and thousands of connections from one address would use up its ports.
    pub(super) fn source(&self, number: u32) -> Option<SocketAddr> {
        match self.address {
            SocketAddr::V4(address) if address.ip().is_loopback() => {
                let first = u32::from(Ipv4Addr::new(127, 0, 0, 2));
                Some(SocketAddr::from((Ipv4Addr::from(first + number / PER_SOURCE), 0)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_becomes_an_address_and_what_to_ask_for() {
        let target = Target::parse("ws://127.0.0.1:8000/ws/?token=a", "ws").unwrap();
        assert_eq!(target.address, "127.0.0.1:8000".parse().unwrap());
        assert_eq!((target.authority.as_str(), target.path.as_str()), ("127.0.0.1:8000", "/ws/?token=a"));
        let target = Target::parse("http://[::1]:8002/trigger/", "http").unwrap();
        assert_eq!((target.authority.as_str(), target.source(5)), ("[::1]:8002", None));
    }

    #[test]
    fn on_the_loopback_every_two_thousand_connections_come_from_another_address() {
        let target = Target::parse("ws://127.0.0.1:8000/ws/", "ws").unwrap();
        let source = |number| target.source(number).unwrap().ip().to_string();
        assert_eq!([source(0), source(1999), source(2000)], ["127.0.0.2", "127.0.0.2", "127.0.0.3"]);
        assert_eq!(source(2000 * 254), "127.0.1.0");
    }
}
