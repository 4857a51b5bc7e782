//! The environment: raw variables in, a checked configuration or every problem at once out.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{
    AmqpLog, Broker, Config, Connection, Embedded, History, Internal, Limits, Listen, Log, Note, Origins, Rabbitmq,
    Reauthorize, Resume, Secret, Uris,
    backend::{self, backend, hooks},
    channelstream::{self, Applied},
    env_file, files,
    legacy::{self, Legacy},
    log_filter,
    networks::Networks,
    origins::origins,
    problems::{Error, Problems, numbers},
    values::{choice, count, duration, optional_count, optional_duration, size, size_within},
};
use crate::{hub::WildcardDispatch, room};

macro_rules! env {
    ($($(#[doc = $doc:literal])+ $name:ident: $variable:literal,)+) => {
        /// The variables as they stand, not yet looked at.
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        pub(super) struct Env {
            $($(#[doc = $doc])+ pub(super) $name: Option<String>,)+
        }

        /// Every variable that is read.
        pub const VARIABLES: &[&str] = &[$($variable,)+ "ENV_FILE"];
    };
}

env! {
    /// Where clients connect: `ADDRESS:PORT` or `unix:/path`.
    listen: "LISTEN",
    /// Where triggers and health checks are served: `ADDRESS:PORT` or `unix:/path`.
    internal_listen: "INTERNAL_LISTEN",
    /// Bearer token for the internal listener; needed when it is not local.
    internal_token: "INTERNAL_TOKEN",
    /// Base of every request to the backend. Required.
    api_url: "API_URL",
    /// Unix socket by which the backend is reached.
    api_socket: "API_SOCKET",
    /// How long the backend may take to answer.
    api_timeout: "API_TIMEOUT",
    /// Calls to the backend at once.
    api_concurrency: "API_CONCURRENCY",
    /// Calls that may wait for their turn.
    api_queue: "API_QUEUE",
    /// How long a client may wait for its turn. At least 1 s.
    api_queue_timeout: "API_QUEUE_TIMEOUT",
    /// How long a bootstrap answer is used again for the same forwarded input, or `off`.
    auth_cache: "AUTH_CACHE",
    /// Bytes of answers kept for that. At least 64 KiB.
    auth_cache_limit: "AUTH_CACHE_LIMIT",
    /// Time between two checks of a connected client's permissions, or `off`.
    reauthorize_interval: "REAUTHORIZE_INTERVAL",
    /// How long clients keep their permissions while they cannot be checked.
    reauthorize_grace: "REAUTHORIZE_GRACE",
    /// Signs resume tickets and seals what instances tell each other of their clients; the same on every instance.
    resume_secret: "RESUME_SECRET",
    /// How long a resume ticket counts. At least 1 s.
    resume_ttl: "RESUME_TTL",
    /// Connections in all.
    max_connections: "MAX_CONNECTIONS",
    /// Connections of one user.
    max_connections_per_user: "MAX_CONNECTIONS_PER_USER",
    /// Connections from one address.
    max_connections_per_address: "MAX_CONNECTIONS_PER_ADDRESS",
    /// Subscriptions of one connection.
    max_subscriptions: "MAX_SUBSCRIPTIONS",
    /// Distinct combinations of wildcards among the subscriptions of one connection.
    max_masks: "MAX_MASKS",
    /// Keys of one room. At most 1024.
    max_room_keys: "MAX_ROOM_KEYS",
    /// Bytes of one room as canonical JSON. 256 bytes to 1 MiB.
    room_limit: "ROOM_LIMIT",
    /// Bytes kept for one connection, its outbox excluded. At least `MESSAGE_LIMIT` and 64 KiB more.
    connection_memory: "CONNECTION_MEMORY",
    /// Messages of one client a second, in the mean.
    message_rate: "MESSAGE_RATE",
    /// How long a client may wait for its welcome. At least 1 s.
    handshake_timeout: "HANDSHAKE_TIMEOUT",
    /// Addresses whose `X-Real-IP` is believed, comma-separated.
    trusted_proxies: "TRUSTED_PROXIES",
    /// How long a connection is kept for a next HTTP request. At least 1 s.
    keep_alive: "KEEP_ALIVE",
    /// The largest headers of a request. At least 1 KiB.
    header_limit: "HEADER_LIMIT",
    /// The longest path and query of a request. At least 256 bytes.
    url_limit: "URL_LIMIT",
    /// Further headers for the backend: a JSON object from name to template.
    api_headers: "API_HEADERS",
    /// Where in the bootstrap answer the user's id is, keys joined by dots.
    user_id_path: "USER_ID_PATH",
    /// Path posted to when a client has been authorised, or `off`.
    hook_connect: "HOOK_CONNECT",
    /// Path posted to when a client sends `ping`, at most once in `PING_INTERVAL`, or `off`.
    hook_ping: "HOOK_PING",
    /// Path posted to when a client has gone, or `off`.
    hook_disconnect: "HOOK_DISCONNECT",
    /// RabbitMQ: a comma-separated list of URLs. Unset: the embedded broker.
    amqp_url: "AMQP_URL",
    /// The exchange that triggers are published to.
    amqp_exchange: "AMQP_EXCHANGE",
    /// `auto`, `stream` or `off`: whether RabbitMQ keeps a log of the triggers.
    amqp_log: "AMQP_LOG",
    /// How long RabbitMQ keeps it. At least 1 min.
    amqp_log_max_age: "AMQP_LOG_MAX_AGE",
    /// How much of it RabbitMQ keeps. At least 1 MiB.
    amqp_log_max_bytes: "AMQP_LOG_MAX_BYTES",
    /// The file of the embedded broker's log. Unset: in memory.
    embedded_log: "EMBEDDED_LOG",
    /// How long triggers are kept for clients that come back. At least 1 s.
    history: "HISTORY",
    /// How much is kept for them. At least 64 KiB.
    history_limit: "HISTORY_LIMIT",
    /// The largest trigger, posted or published. At least 1 KiB.
    trigger_limit: "TRIGGER_LIMIT",
    /// How long the ids of triggers are remembered. At least 1 s.
    trigger_id_ttl: "TRIGGER_ID_TTL",
    /// `both`, `subscriptions` or `exact`.
    wildcard_dispatch: "WILDCARD_DISPATCH",
    /// `close` or `ignore`: what becomes of clients when triggers may have been missed.
    on_gap: "ON_GAP",
    /// Silence after which a client is closed. At least 1 s.
    idle_timeout: "IDLE_TIMEOUT",
    /// Time between two pings of the server's. At least 1 s.
    ping_interval: "PING_INTERVAL",
    /// Unsent bytes kept for a client. At least 4 KiB.
    outbox_limit: "OUTBOX_LIMIT",
    /// The largest message a client may send. At least 1 KiB.
    message_limit: "MESSAGE_LIMIT",
    /// Origins that may connect, comma-separated, or `*`. Unset: those of the same host.
    allowed_origins: "ALLOWED_ORIGINS",
    /// How long a stop may take.
    drain: "DRAIN",
    /// Log filter.
    log: "LOG",
    /// `text` or `json`.
    log_format: "LOG_FORMAT",
    /// Signs calls of Channelstream's API, which is spoken only if this or `CHANNELSTREAM_INI` is set.
    channelstream_secret: "CHANNELSTREAM_SECRET",
    /// Channelstream's INI file; variables that are keys of it are then not read.
    channelstream_ini: "CHANNELSTREAM_INI",
    /// `true` or `false`: whether signed calls are taken on the public listener, too.
    channelstream_public: "CHANNELSTREAM_PUBLIC",
    /// Who may sign in to Channelstream's admin pages.
    channelstream_admin_user: "CHANNELSTREAM_ADMIN_USER",
    /// With which password; unset, nobody can.
    channelstream_admin_secret: "CHANNELSTREAM_ADMIN_SECRET",
    /// Signs the cookie of who has signed in. Unset: `CHANNELSTREAM_SECRET` does.
    channelstream_cookie_secret: "CHANNELSTREAM_COOKIE_SECRET",
    /// Addresses signed calls may come from, comma-separated; with `0.0.0.0`, any.
    channelstream_allow_posting_from: "CHANNELSTREAM_ALLOW_POSTING_FROM",
    /// Hosts whose pages may use the answers, comma-separated. Unset: all.
    channelstream_allow_cors: "CHANNELSTREAM_ALLOW_CORS",
    /// Whether a signature counts for a minute only.
    channelstream_validate_requests: "CHANNELSTREAM_VALIDATE_REQUESTS",
    /// Whether plain http is refused.
    channelstream_enforce_https: "CHANNELSTREAM_ENFORCE_HTTPS",
    /// `http` or `https`: the scheme of links, whatever the request says.
    channelstream_http_scheme: "CHANNELSTREAM_HTTP_SCHEME",
    /// The Python class that checks signatures; only the built-in one is there.
    channelstream_signature_checker: "CHANNELSTREAM_SIGNATURE_CHECKER",
    /// The address of `LISTEN`, if that is unset.
    channelstream_host: "CHANNELSTREAM_HOST",
    /// The port of `LISTEN`, if that is unset.
    channelstream_port: "CHANNELSTREAM_PORT",
    /// The level of `LOG`, if that is unset.
    channelstream_log_level: "CHANNELSTREAM_LOG_LEVEL",
    /// Has no effect.
    channelstream_debug: "CHANNELSTREAM_DEBUG",
    /// 3.1: host of RabbitMQ, with `:port` and `/vhost` if need be.
    rabbitmq_host: "RABBITMQ_HOST",
    /// 3.1: user at RabbitMQ.
    rabbitmq_username: "RABBITMQ_USERNAME",
    /// 3.1: password at RabbitMQ.
    rabbitmq_password: "RABBITMQ_PASSWORD",
    /// 3.1: `API_URL`.
    binder_internal: "BINDER_INTERNAL",
    /// 3.1: `API_SOCKET`.
    binder_socket: "BINDER_SOCKET",
    /// 3.1: `API_URL`, when `BINDER_INTERNAL` is unset.
    cy_binder_internal: "CY_BINDER_INTERNAL",
    /// 3.1: `API_SOCKET`, when `BINDER_SOCKET` is unset.
    cy_binder_socket: "CY_BINDER_SOCKET",
    /// 3.1: public base of the application; the API is `/api/` below it.
    app_url: "APP_URL",
}

/// Reads the process's environment, and the file that `ENV_FILE` names below it.
///
/// # Errors
/// Names every variable that is missing or wrong, not just the first.
pub fn from_environment() -> Result<Config, Error> {
    let mut problems = Problems::default();
    let mut vars = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue }; // none of ours
        match value.into_string() {
            Ok(value) => _ = vars.insert(name, value),
            Err(_) if VARIABLES.contains(&name.as_str()) => {
                problems.add(&name, "is not UTF-8");
                problems.is_partial = true;
            }
            Err(_) => {}
        }
    }
    let file = vars.get("ENV_FILE").filter(|path| !path.is_empty()).cloned();
    if let Some(path) = &file {
        vars.retain(|_, value| !value.is_empty());
        for (name, value) in read_file(path, &mut problems) {
            vars.entry(name).or_insert(value);
        }
    }
    let mut config = read(vars.into_iter(), problems)?;
    if let Some(path) = file {
        config.notes.insert(0, Note::Taken(format!("variables not set in the environment are read from {path}")));
    }
    Ok(config)
}

/// The variables of the file at `path`. Of one that is there several times, the last value counts.
fn read_file(path: &str, problems: &mut Problems) -> BTreeMap<String, String> {
    let Some(text) = problems.ok("ENV_FILE", files::read(path)) else {
        problems.is_partial = true;
        return BTreeMap::new();
    };
    let lines = env_file::parse(&text);
    if !lines.wrong.is_empty() {
        // The line itself may hold a password.
        problems.add("ENV_FILE", &format!("{path} has no NAME=value in {}", numbers(&lines.wrong)));
        problems.is_partial = true;
    }
    lines.variables.into_iter().collect()
}

/// The configuration that `vars` describe; empty ones count as unset, unknown ones are left alone.
///
/// # Errors
/// Names every variable that is missing or out of range, not just the first:
/// `API_URL is not set; IDLE_TIMEOUT must be at least 1s`.
pub fn from_vars(vars: impl Iterator<Item = (String, String)>) -> Result<Config, Error> {
    read(vars, Problems::default())
}

fn read(vars: impl Iterator<Item = (String, String)>, mut problems: Problems) -> Result<Config, Error> {
    let ours = vars.filter(|(name, value)| !value.is_empty() && VARIABLES.contains(&name.as_str()));
    let mut env: Env = envy::from_iter(ours).map_err(|error| Error(vec![error.to_string()]))?;
    let legacy = legacy::apply(&mut env, &mut problems);
    let channelstream = channelstream::apply(&mut env, &mut problems);
    let config = check(&env, legacy, channelstream, &mut problems);
    match config {
        Some(config) if problems.all.is_empty() => Ok(config),
        _ => Err(Error(problems.all)),
    }
}

/// `None` only together with a problem. Looks at every setting before it gives up.
fn check(env: &Env, legacy: Legacy, channelstream: Applied, problems: &mut Problems) -> Option<Config> {
    let mut notes = legacy.notes;
    notes.extend(channelstream.notes);
    let origins_are_ours = legacy.broker.is_none();
    let resume_ttl = duration("RESUME_TTL", env.resume_ttl.as_deref(), 120, 1, problems);
    let resume = env.resume_secret.as_deref().map(|secret| {
        if secret.len() < SHORTEST_SECRET {
            problems.add("RESUME_SECRET", &format!("must have at least {SHORTEST_SECRET} bytes"));
        }
        Resume { secret: Secret::new(secret), ttl: resume_ttl }
    });
    let listen = listen("LISTEN", env.listen.as_deref().unwrap_or("127.0.0.1:8000"), problems);
    let resume_age = resume.as_ref().map_or(Duration::ZERO, |resume| resume.ttl);
    let connection = connection(env, resume, problems);
    let internal = internal(env, problems);
    let url = backend::url(env, problems);
    let hooks = hooks(env, url.as_ref(), connection.ping_interval, problems);
    let backend = backend(env, url, &legacy.headers, connection.limits.room, problems);
    let history = History {
        age: duration("HISTORY", env.history.as_deref(), 300, 1, problems),
        limit_bytes: size("HISTORY_LIMIT", env.history_limit.as_deref(), 64 << 20, 64 << 10, problems),
    };
    let trigger_limit_bytes = size("TRIGGER_LIMIT", env.trigger_limit.as_deref(), 16 << 20, 1024, problems);
    let trigger_id_ttl = duration("TRIGGER_ID_TTL", env.trigger_id_ttl.as_deref(), 300, 1, problems);
    let read_back = history.age.max(trigger_id_ttl).max(resume_age);
    let broker = broker(env, legacy.broker, &history, read_back, problems);
    if channelstream.config.is_some() && matches!(&broker, Some(Broker::Rabbitmq(it)) if it.log == AmqpLog::Off) {
        problems.add("AMQP_LOG", "is off, but Channelstream needs a log");
    }
    let dispatch = choice(
        "WILDCARD_DISPATCH",
        env.wildcard_dispatch.as_deref().unwrap_or("both"),
        &[
            ("both", WildcardDispatch::Both),
            ("subscriptions", WildcardDispatch::Subscriptions),
            ("exact", WildcardDispatch::Exact),
        ],
        problems,
    );
    let origins = origins(env.allowed_origins.as_deref(), problems);
    let log_format = env.log_format.as_deref().unwrap_or("text");
    let is_json = choice("LOG_FORMAT", log_format, &[("text", false), ("json", true)], problems);
    let filter = env.log.clone().unwrap_or_else(|| "info".to_owned());
    problems.ok("LOG", log_filter::check(&filter));
    let keep_alive = duration("KEEP_ALIVE", env.keep_alive.as_deref(), 75, 1, problems);
    let drain = duration("DRAIN", env.drain.as_deref(), 10, 0, problems);
    if origins == Some(Origins::Any) && origins_are_ours {
        notes.push(Note::Weak("ALLOWED_ORIGINS is *: any page may connect with its visitor's cookies".to_owned()));
    }
    Some(Config {
        listen: listen?,
        internal: internal?,
        backend: backend?,
        has_api: !channelstream.is_alone,
        hooks: hooks?,
        broker: broker?,
        history,
        trigger_limit_bytes,
        trigger_id_ttl,
        dispatch: dispatch?,
        connection,
        origins: origins?,
        channelstream: channelstream.config,
        keep_alive,
        drain,
        log: Log { filter, is_json: is_json? },
        notes,
    })
}

fn listen(variable: &str, text: &str, problems: &mut Problems) -> Option<Listen> {
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Some(Listen::Unix(PathBuf::from(path)));
    }
    let address = text.parse().map_err(|_| "must be ADDRESS:PORT or unix:/path, like 127.0.0.1:8000".to_owned());
    problems.ok(variable, address).map(Listen::Tcp)
}

fn internal(env: &Env, problems: &mut Problems) -> Option<Internal> {
    let listen = listen("INTERNAL_LISTEN", env.internal_listen.as_deref().unwrap_or("127.0.0.1:8002"), problems)?;
    let token = env.internal_token.as_deref().map(Secret::new);
    if !listen.is_local() && token.is_none() {
        problems.add_missing("INTERNAL_TOKEN", "is not set, but INTERNAL_LISTEN can be reached from other machines");
    }
    Some(Internal { listen, token, connections: None })
}

/// A room with more keys is of no use, and costs every comparison.
const MOST_ROOM_KEYS: usize = 1024;

/// A shorter secret can be guessed.
const SHORTEST_SECRET: usize = 16;

fn connection(env: &Env, resume: Option<Resume>, problems: &mut Problems) -> Connection {
    let on_gap = env.on_gap.as_deref().unwrap_or("close");
    let on_gap = choice("ON_GAP", on_gap, &[("close", true), ("ignore", false)], problems);
    let message_limit_bytes = size("MESSAGE_LIMIT", env.message_limit.as_deref(), 1 << 20, 1024, problems);
    Connection {
        idle_timeout: duration("IDLE_TIMEOUT", env.idle_timeout.as_deref(), 300, 1, problems),
        ping_interval: duration("PING_INTERVAL", env.ping_interval.as_deref(), 25, 1, problems),
        outbox_limit_bytes: size("OUTBOX_LIMIT", env.outbox_limit.as_deref(), 1 << 20, 4096, problems),
        message_limit_bytes,
        closes_on_gap: on_gap.unwrap_or(true),
        handshake_timeout: duration("HANDSHAKE_TIMEOUT", env.handshake_timeout.as_deref(), 120, 1, problems),
        reauthorize: Reauthorize {
            interval: optional_duration("REAUTHORIZE_INTERVAL", env.reauthorize_interval.as_deref(), 1, problems),
            grace: duration("REAUTHORIZE_GRACE", env.reauthorize_grace.as_deref(), 300, 0, problems),
        },
        resume,
        limits: limits(env, message_limit_bytes, problems),
    }
}

/// What a connection may keep beside a message that it has not finished, unless configured otherwise.
const MEMORY_BYTES: usize = 7 << 20;
/// The least of that: some subscriptions.
const LEAST_MEMORY_BYTES: usize = 64 << 10;

fn limits(env: &Env, message_limit_bytes: usize, problems: &mut Problems) -> Limits {
    let memory = env.connection_memory.as_deref();
    let (default, least) = (message_limit_bytes + MEMORY_BYTES, message_limit_bytes + LEAST_MEMORY_BYTES);
    let keys = count("MAX_ROOM_KEYS", env.max_room_keys.as_deref(), room::Limits::default().keys, problems);
    if keys > MOST_ROOM_KEYS {
        problems.add("MAX_ROOM_KEYS", &format!("must not be more than {MOST_ROOM_KEYS}"));
    }
    let room_limit = env.room_limit.as_deref();
    let room_bytes = size_within("ROOM_LIMIT", room_limit, room::Limits::default().bytes, 256..=1 << 20, problems);
    let per_user = env.max_connections_per_user.as_deref();
    let per_address = env.max_connections_per_address.as_deref();
    let proxies = env.trusted_proxies.as_deref().unwrap_or("127.0.0.0/8,::1");
    Limits {
        connections: optional_count("MAX_CONNECTIONS", env.max_connections.as_deref(), problems),
        per_user: optional_count("MAX_CONNECTIONS_PER_USER", per_user, problems),
        per_address: optional_count("MAX_CONNECTIONS_PER_ADDRESS", per_address, problems),
        subscriptions: count("MAX_SUBSCRIPTIONS", env.max_subscriptions.as_deref(), 10_000, problems),
        masks: count("MAX_MASKS", env.max_masks.as_deref(), 64, problems),
        room: room::Limits { keys, bytes: room_bytes },
        memory_bytes: size_within("CONNECTION_MEMORY", memory, default, least..=2 << 30, problems),
        messages_a_second: count("MESSAGE_RATE", env.message_rate.as_deref(), 1000, problems),
        trusted_proxies: problems.ok("TRUSTED_PROXIES", Networks::parse(proxies)).unwrap_or_default(),
        header_bytes: size("HEADER_LIMIT", env.header_limit.as_deref(), 64 << 10, 1024, problems),
        url_bytes: size_within("URL_LIMIT", env.url_limit.as_deref(), 8 << 10, 256..=65_000, problems),
    }
}

fn broker(
    env: &Env,
    legacy: Option<Uris>,
    history: &History,
    read_back: Duration,
    problems: &mut Problems,
) -> Option<Broker> {
    let is_rabbitmq = env.amqp_url.is_some() || legacy.is_some();
    let uris = match env.amqp_url.as_deref() {
        Some(list) => problems.ok("AMQP_URL", Uris::parse(list)),
        None => legacy,
    };
    let exchange = env.amqp_exchange.clone().unwrap_or_else(|| "hightemplar".to_owned());
    if exchange.len() > LONGEST_EXCHANGE {
        problems.add("AMQP_EXCHANGE", &format!("must not be longer than {LONGEST_EXCHANGE} bytes"));
    }
    let log = env.amqp_log.as_deref().unwrap_or("auto");
    let choices = [("auto", AmqpLog::Auto), ("stream", AmqpLog::Stream), ("off", AmqpLog::Off)];
    let log = choice("AMQP_LOG", log, &choices, problems);
    let log_max_age = duration("AMQP_LOG_MAX_AGE", env.amqp_log_max_age.as_deref(), 3600, 60, problems);
    let log_max_bytes = env.amqp_log_max_bytes.as_deref();
    let log_max_bytes = size_within("AMQP_LOG_MAX_BYTES", log_max_bytes, 1 << 30, 1 << 20..=1 << 40, problems);
    if is_rabbitmq && log != Some(AmqpLog::Off) && log_max_age < read_back {
        problems.add("AMQP_LOG_MAX_AGE", "must not be less than HISTORY, TRIGGER_ID_TTL or RESUME_TTL");
    }
    let embedded_log = env.embedded_log.as_ref().map(PathBuf::from);
    if let Some(path) = &embedded_log {
        problems.ok("EMBEDDED_LOG", files::check_regular(path));
        if is_rabbitmq {
            problems.add("EMBEDDED_LOG", "is of no use with RabbitMQ");
        }
    }
    Some(match is_rabbitmq {
        true => Broker::Rabbitmq(Rabbitmq {
            uris: uris?,
            exchange,
            log: log?,
            log_max_age,
            log_max_bytes: log_max_bytes as u64,
            read_back,
        }),
        false => Broker::Embedded(Embedded { log: embedded_log, history: history.clone() }),
    })
}

/// So that a name for the log can be made of it: names in AMQP have up to 255 bytes.
const LONGEST_EXCHANGE: usize = 240;
