//! Every setting, with its unit, default and check.
//!
//! The only place that reads the environment. Each part of the program receives its own piece.

mod backend;
mod channelstream;
mod env;
mod env_file;
mod files;
mod ini;
mod legacy;
mod log_filter;
mod networks;
mod origins;
mod problems;
mod templates;
mod units;
mod uris;
mod values;

use std::{collections::HashSet, fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use reqwest::Url;

pub use env::{VARIABLES, from_environment, from_vars};
pub use networks::Networks;
pub use problems::Error;
pub use templates::{Part, Source, Template};
pub use uris::{Uri, Uris};

use crate::{hub::WildcardDispatch, room};

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect.
    pub listen: Listen,
    /// The trigger and admin side.
    pub internal: Internal,
    /// The HTTP API behind us.
    pub backend: Backend,
    /// Whether there is one: Channelstream's clients need none.
    pub has_api: bool,
    /// What the backend is told about connections.
    pub hooks: Hooks,
    /// The way of triggers.
    pub broker: Broker,
    /// What is kept for clients that come back.
    pub history: History,
    /// The largest trigger, whichever way it comes.
    pub trigger_limit_bytes: usize,
    /// How long the ids of triggers are remembered.
    pub trigger_id_ttl: Duration,
    /// How wildcards are delivered.
    pub dispatch: WildcardDispatch,
    /// The life of a client's connection.
    pub connection: Connection,
    /// Which pages may connect.
    pub origins: Origins,
    /// Channelstream's API, if it is spoken.
    pub channelstream: Option<Channelstream>,
    /// How long a connection is kept for a next HTTP request, as its peer is told.
    pub keep_alive: Duration,
    /// How long a stop may take.
    pub drain: Duration,
    /// What is logged, and how.
    pub log: Log,
    /// What an operator should know about where the settings came from; for the start-up log.
    pub notes: Vec<Note>,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `127.0.0.1:8000`.
    Tcp(SocketAddr),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl Listen {
    /// Whether only this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The internal listener.
#[derive(Debug, Clone)]
pub struct Internal {
    /// Its address.
    pub listen: Listen,
    /// What callers have to show; always there when others than this machine can connect.
    pub token: Option<Secret>,
    /// Connections in all, if that is limited.
    pub connections: Option<usize>,
}

/// The HTTP API behind us.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Base of every request; ends in a slash.
    pub url: Url,
    /// The unix socket to reach it by.
    pub socket: Option<PathBuf>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Calls at once.
    pub concurrency: usize,
    /// Calls that may wait for their turn.
    pub queue: usize,
    /// How long a client may wait for its turn.
    pub queue_timeout: Duration,
    /// How long an answer is used again.
    pub cache: Option<Duration>,
    /// Bytes of answers kept for that.
    pub cache_limit_bytes: usize,
    /// What is sent along, by header name.
    pub headers: Vec<(http::HeaderName, Template)>,
    /// Where in its answer the user's id is found.
    pub user_id_path: Vec<String>,
    /// Largest room that it can allow.
    pub rooms: room::Limits,
}

/// Paths, relative to the API's base, that are posted to.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// When a client has been authorised.
    pub connect: Option<Url>,
    /// At its `ping`s.
    pub ping: Option<Url>,
    /// When it has gone.
    pub disconnect: Option<Url>,
    /// Time in which one connection causes at most one ping hook.
    pub ping_interval: Duration,
}

impl Hooks {
    /// Whether nothing is ever posted.
    pub fn is_empty(&self) -> bool {
        self.connect.is_none() && self.ping.is_none() && self.disconnect.is_none()
    }
}

/// Channelstream's API.
#[derive(Debug, Clone)]
pub struct Channelstream {
    /// What calls are signed with.
    pub secret: Secret,
    /// Who may sign in to the admin pages.
    pub admin_user: String,
    /// With which password; without one nobody can.
    pub admin_secret: Option<Secret>,
    /// What the cookie of who has signed in is signed with.
    pub cookie_secret: Secret,
    /// From where signed calls may come; `None` is anywhere.
    pub allow_posting_from: Option<HashSet<std::net::IpAddr>>,
    /// Pages of which hosts may use the answers; all, when there are none.
    pub allow_cors: Vec<String>,
    /// Whether a signature counts for a minute only.
    pub validate_requests: bool,
    /// Whether plain http is refused.
    pub enforce_https: bool,
    /// The scheme of links, whatever the request says.
    pub http_scheme: Option<&'static str>,
    /// Whether signed calls are taken on the public listener, too.
    pub is_public: bool,
}

/// Which broker.
#[derive(Debug, Clone)]
pub enum Broker {
    /// The one inside the process.
    Embedded(Embedded),
    /// RabbitMQ.
    Rabbitmq(Rabbitmq),
}

/// How the broker inside the process works.
#[derive(Debug, Clone, Default)]
pub struct Embedded {
    /// The file its log is in; without one it is in memory.
    pub log: Option<PathBuf>,
    /// What is read back at the start, and kept in the file.
    pub history: History,
}

/// How RabbitMQ is used.
#[derive(Debug, Clone)]
pub struct Rabbitmq {
    /// Brokers, tried in turn.
    pub uris: Uris,
    /// The exchange that triggers are published to.
    pub exchange: String,
    /// Whether there is a log.
    pub log: AmqpLog,
    /// How long RabbitMQ keeps it.
    pub log_max_age: Duration,
    /// How much of it RabbitMQ keeps.
    pub log_max_bytes: u64,
    /// From how long ago it is read back at the start.
    pub read_back: Duration,
}

/// Whether RabbitMQ keeps a log of the triggers: a stream (<https://www.rabbitmq.com/docs/streams>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmqpLog {
    /// If it can.
    Auto,
    /// It has to.
    Stream,
    /// No: a queue for each instance, as in 3.1.
    Off,
}

/// What is kept for clients that come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// For how long.
    pub age: Duration,
    /// How much at most.
    pub limit_bytes: usize,
}

impl Default for History {
    fn default() -> Self {
        Self { age: Duration::from_secs(300), limit_bytes: 64 << 20 }
    }
}

/// The life of a client's connection.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Silence after which a client is closed.
    pub idle_timeout: Duration,
    /// Time between two pings of the server's.
    pub ping_interval: Duration,
    /// Unsent frames kept for a client.
    pub outbox_limit_bytes: usize,
    /// The largest message a client may send.
    pub message_limit_bytes: usize,
    /// Whether clients are closed when triggers may have been missed, so that they fetch again.
    pub closes_on_gap: bool,
    /// How long a client may wait for its welcome.
    pub handshake_timeout: Duration,
    /// When permissions are checked again.
    pub reauthorize: Reauthorize,
    /// Tickets with which clients come back; none are given out without.
    pub resume: Option<Resume>,
    /// What is too much.
    pub limits: Limits,
}

/// When the permissions of connected clients are checked again.
#[derive(Debug, Clone)]
pub struct Reauthorize {
    /// Time between two checks; never, unless asked for, without.
    pub interval: Option<Duration>,
    /// How long clients keep what they have while the backend cannot be asked.
    pub grace: Duration,
}

/// Tickets with which clients come back without a call to the backend.
#[derive(Debug, Clone)]
pub struct Resume {
    /// What they are signed with, on every instance.
    pub secret: Secret,
    /// How long they count.
    pub ttl: Duration,
}

/// What is too much.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections in all.
    pub connections: Option<usize>,
    /// Connections of one user.
    pub per_user: Option<usize>,
    /// Connections from one address; of IPv6, from one network of 64 bits.
    pub per_address: Option<usize>,
    /// Subscriptions of one connection.
    pub subscriptions: usize,
    /// Distinct combinations of wildcards among the subscriptions of one connection.
    pub masks: usize,
    /// Largest room.
    pub room: room::Limits,
    /// Bytes kept for one connection, the largest message it may send included and its outbox excluded.
    pub memory_bytes: usize,
    /// Messages of one client a second, in the mean of ten seconds.
    pub messages_a_second: usize,
    /// Whose `X-Real-IP` is believed.
    pub trusted_proxies: Networks,
    /// Headers of a request.
    pub header_bytes: usize,
    /// Path and query of a request.
    pub url_bytes: usize,
}

/// Which pages may connect, by the `Origin` a browser sends (RFC 6455 section 10.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Those of the host that was connected to.
    SameHost,
    /// Those of the list, and of no other.
    Listed(HashSet<String>),
    /// All.
    Any,
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct Log {
    /// Filter directives, such as `info` or `high_templar=debug`.
    pub filter: String,
    /// One JSON object a line instead of text.
    pub is_json: bool,
}

/// Something an operator should know about the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Where a value came from.
    Taken(String),
    /// Something that is weaker than it could be.
    Weak(String),
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: &str) -> Self {
        Self(value.into())
    }

    /// For keys that are made of it.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether `other` is the secret, in a time that does not tell how much of it is right.
    pub fn matches(&self, other: &[u8]) -> bool {
        use subtle::ConstantTimeEq;
        self.0.as_bytes().ct_eq(other).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests;
