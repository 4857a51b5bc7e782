//! Where RabbitMQ is, without ever printing its password.

use std::{fmt, sync::Arc};

use lapin::uri::{AMQPAuthority, AMQPScheme, AMQPUri, AMQPUserInfo};

/// One broker's address and credentials. Prints as host and port.
#[derive(Clone, PartialEq, Eq)]
pub struct Uri(AMQPUri);

impl Uri {
    /// As the AMQP library wants it.
    pub fn amqp(&self) -> &AMQPUri {
        &self.0
    }

    /// Host and port.
    pub fn host(&self) -> String {
        format!("{}:{}", self.0.authority.host, self.0.authority.port)
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host())
    }
}

/// Brokers to try in turn; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uris {
    first: Uri,
    others: Arc<[Uri]>,
}

impl Uris {
    /// Reads a comma-separated list of `amqp://` and `amqps://` URLs.
    ///
    /// # Errors
    /// Says what is wrong without repeating what was written: it may hold a password.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut uris = list.split(',').map(str::trim).filter(|uri| !uri.is_empty()).map(|uri| {
            uri.parse()
                .map(with_default_vhost)
                .map_err(|_| "must be a list of URLs like amqp://user:password@host:5672/vhost".to_owned())
        });
        let first = uris.next().ok_or("must name at least one broker")??;
        Ok(Self { first, others: uris.collect::<Result<_, _>>()? })
    }

    /// The single broker of 3.1's variables: `host` may carry `:port` and `/vhost`; the password may be anything.
    pub(super) fn legacy(username: &str, password: &str, host: &str) -> Result<Self, String> {
        let (address, vhost) = host.split_once('/').unwrap_or((host, ""));
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| "must be host, host:port or host:port/vhost".to_owned())?)
            }
            _ => (address, 5672),
        };
        let vhost = if vhost.is_empty() || vhost.eq_ignore_ascii_case("%2f") { "/" } else { vhost };
        let userinfo = AMQPUserInfo { username: username.to_owned(), password: password.to_owned() };
        let authority = AMQPAuthority { userinfo, host: host.to_owned(), port };
        let uri = AMQPUri { scheme: AMQPScheme::AMQP, authority, vhost: vhost.to_owned(), query: Default::default() };
        Ok(Self { first: Uri(uri), others: Arc::new([]) })
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = &Uri> {
        std::iter::once(&self.first).chain(self.others.iter())
    }

    /// The one to try at the `attempt`th attempt, counted from 0.
    pub fn at(&self, attempt: usize) -> &Uri {
        match attempt % (self.others.len() + 1) {
            0 => &self.first,
            other => self.others.get(other - 1).unwrap_or(&self.first),
        }
    }
}

/// A URL that ends with a bare `/` names the default virtual host, as for pika; by the specification of the URLs it would be one
/// without a name, which nobody has.
fn with_default_vhost(mut uri: AMQPUri) -> Uri {
    if uri.vhost.is_empty() {
        uri.vhost = "/".to_owned();
    }
    Uri(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_point_ones_host_may_carry_port_and_vhost_and_any_password() {
        let uris = Uris::legacy("us/er", "p@ss:w/rd%", "rabbit:5673/my/vhost").unwrap();
        let uri = uris.first.amqp();
        assert_eq!((uri.authority.host.as_str(), uri.authority.port, uri.vhost.as_str()), ("rabbit", 5673, "my/vhost"));
        assert_eq!(uri.authority.userinfo.password, "p@ss:w/rd%");
        let uris = Uris::legacy("u", "p", "localhost").unwrap();
        assert_eq!((uris.first.host().as_str(), uris.first.amqp().vhost.as_str()), ("localhost:5672", "/"));
        assert!(Uris::legacy("u", "p", "host:port").is_err());
    }

    #[test]
    fn a_url_without_a_virtual_host_or_with_an_empty_one_names_the_default_one() {
        for (end, vhost) in [("", "/"), ("/", "/"), ("/%2f", "/"), ("/?heartbeat=5", "/"), ("/app", "app")] {
            let uris = Uris::parse(&format!("amqp://u:p@host:5672{end}")).unwrap();
            assert_eq!(uris.first.amqp().vhost, vhost, "{end}");
        }
    }

    #[test]
    fn a_list_is_walked_in_turn_and_never_printed_with_its_passwords() {
        let uris = Uris::parse("amqp://u:secret@one/%2f, amqps://u:secret@two:5671").unwrap();
        assert_eq!([uris.at(0).host(), uris.at(1).host(), uris.at(2).host()], ["one:5672", "two:5671", "one:5672"]);
        assert!(!format!("{uris:?}").contains("secret"));
        assert!(!Uris::parse("http://u:secret@x").unwrap_err().contains("secret"));
        assert!(Uris::parse(" , ").is_err());
    }
}
