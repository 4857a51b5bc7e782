//! The environment: raw variables in, a checked configuration or every problem at once out.

use std::{collections::HashSet, fmt, ops::RangeInclusive, path::PathBuf, time::Duration};

use reqwest::Url;
use serde::Deserialize;

use super::{
    AmqpLog, Backend, Broker, Config, Connection, Embedded, History, Hooks, Internal, Listen, Log, Note, Origins,
    Rabbitmq, Secret, Template, Uris, env_file,
    legacy::{self, Legacy},
    units,
};
use crate::hub::WildcardDispatch;

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
    /// Further headers for the backend: a JSON object from name to template.
    api_headers: "API_HEADERS",
    /// Where in the bootstrap answer the user's id is, keys joined by dots.
    user_id_path: "USER_ID_PATH",
    /// Path posted to when a client has been authorised, or `off`.
    hook_connect: "HOOK_CONNECT",
    /// Path posted to at each `ping` of a client, or `off`.
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

/// Everything that is wrong, by the name of the variable.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error(Vec<String>);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<String>);

impl Problems {
    pub(super) fn add(&mut self, variable: &str, what: &str) {
        self.0.push(format!("{variable} {what}"));
    }

    fn ok<T>(&mut self, variable: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|what| self.add(variable, &what)).ok()
    }
}

/// Reads the process's environment, and the file that `ENV_FILE` names below it.
///
/// # Errors
/// Names every variable that is missing or wrong, not just the first.
pub fn from_environment() -> Result<Config, Error> {
    // A variable that is not Unicode cannot be one of ours.
    let mut vars: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let file = vars.iter().find(|(name, value)| name == "ENV_FILE" && !value.is_empty()).map(|(_, path)| path.clone());
    if let Some(path) = &file {
        let set: HashSet<String> =
            vars.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.clone()).collect();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error(vec![format!("ENV_FILE {path} cannot be read: {error}")]))?;
        let lines = env_file::parse(&text).map_err(|line| {
            // The line itself may hold a password.
            Error(vec![format!("ENV_FILE {path} has no NAME=value in line {line}")])
        })?;
        vars.extend(lines.into_iter().filter(|(name, _)| !set.contains(name)));
    }
    let mut config = from_vars(vars.into_iter())?;
    if let Some(path) = file {
        config.notes.insert(0, Note::Taken(format!("variables not set in the environment are read from {path}")));
    }
    Ok(config)
}

/// The configuration that `vars` describe; empty ones count as unset, unknown ones are left alone.
///
/// # Errors
/// Names every variable that is missing or out of range, not just the first:
/// `API_URL is not set; IDLE_TIMEOUT must be at least 1s`.
pub fn from_vars(vars: impl Iterator<Item = (String, String)>) -> Result<Config, Error> {
    let readable = vars.filter(|(_, value)| !value.is_empty());
    let mut env: Env = envy::from_iter(readable).map_err(|error| Error(vec![error.to_string()]))?;
    let mut problems = Problems::default();
    let legacy = legacy::apply(&mut env, &mut problems);
    let config = check(&env, legacy, &mut problems);
    match config {
        Some(config) if problems.0.is_empty() => Ok(config),
        _ => Err(Error(problems.0)),
    }
}

/// `None` only together with a problem.
fn check(env: &Env, legacy: Legacy, problems: &mut Problems) -> Option<Config> {
    let mut notes = legacy.notes;
    let origins_are_ours = legacy.broker.is_none();
    let listen = listen("LISTEN", env.listen.as_deref().unwrap_or("127.0.0.1:8000"), problems);
    let connection = connection(env, problems);
    let internal = internal(env, connection.message_limit_bytes, problems);
    let backend = backend(env, &legacy.headers, problems);
    let hooks = hooks(env, backend.as_ref(), problems);
    let history = History {
        age: duration("HISTORY", env.history.as_deref(), 300, 1, problems),
        limit_bytes: size("HISTORY_LIMIT", env.history_limit.as_deref(), 64 << 20, 64 << 10, problems),
    };
    let trigger_id_ttl = duration("TRIGGER_ID_TTL", env.trigger_id_ttl.as_deref(), 300, 1, problems);
    let broker = broker(env, legacy.broker, &history, trigger_id_ttl, problems);
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
    if filter.parse::<tracing_subscriber::filter::Targets>().is_err() {
        problems.add("LOG", "must be a level or a list like info,high_templar=debug");
    }
    if origins == Some(Origins::Any) && origins_are_ours {
        notes.push(Note::Weak("ALLOWED_ORIGINS is *: any page may connect with its visitor's cookies".to_owned()));
    }
    Some(Config {
        listen: listen?,
        internal: internal?,
        backend: backend?,
        hooks: hooks?,
        broker: broker?,
        history,
        trigger_id_ttl,
        dispatch: dispatch?,
        connection,
        origins: origins?,
        drain: duration("DRAIN", env.drain.as_deref(), 10, 0, problems),
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

fn internal(env: &Env, body_limit_bytes: usize, problems: &mut Problems) -> Option<Internal> {
    let listen = listen("INTERNAL_LISTEN", env.internal_listen.as_deref().unwrap_or("127.0.0.1:8002"), problems)?;
    let token = env.internal_token.as_deref().map(Secret::new);
    if !listen.is_local() && token.is_none() {
        problems.add("INTERNAL_TOKEN", "is not set, but INTERNAL_LISTEN can be reached from other machines");
    }
    Some(Internal { listen, token, body_limit_bytes })
}

fn connection(env: &Env, problems: &mut Problems) -> Connection {
    let on_gap = env.on_gap.as_deref().unwrap_or("close");
    let on_gap = choice("ON_GAP", on_gap, &[("close", true), ("ignore", false)], problems);
    Connection {
        idle_timeout: duration("IDLE_TIMEOUT", env.idle_timeout.as_deref(), 300, 1, problems),
        ping_interval: duration("PING_INTERVAL", env.ping_interval.as_deref(), 25, 1, problems),
        outbox_limit_bytes: size("OUTBOX_LIMIT", env.outbox_limit.as_deref(), 1 << 20, 4096, problems),
        message_limit_bytes: size("MESSAGE_LIMIT", env.message_limit.as_deref(), 1 << 20, 1024, problems),
        closes_on_gap: on_gap.unwrap_or(true),
    }
}

fn backend(env: &Env, legacy_headers: &[(&'static str, String)], problems: &mut Problems) -> Option<Backend> {
    let url = match env.api_url.as_deref() {
        Some(url) => problems.ok("API_URL", api_url(url)),
        None => {
            problems.add("API_URL", "is not set");
            None
        }
    };
    if env.api_socket.is_some() && url.as_ref().is_some_and(|url| url.scheme() != "http") {
        problems.add("API_SOCKET", "needs an API_URL that begins with http://");
    }
    let timeout = duration("API_TIMEOUT", env.api_timeout.as_deref(), 10, 1, problems);
    let headers = problems.ok("API_HEADERS", headers(env.api_headers.as_deref(), legacy_headers));
    let user_id_path = env.user_id_path.as_deref().unwrap_or("user.data.id").split('.').map(str::to_owned).collect();
    Some(Backend {
        url: url?,
        socket: env.api_socket.as_ref().map(PathBuf::from),
        timeout,
        headers: headers?,
        user_id_path,
    })
}

fn api_url(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or("must be a URL like http://127.0.0.1:8080/api/")?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not have a query or fragment".to_owned());
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

/// What is sent to the backend unless configured otherwise.
const DEFAULT_HEADERS: [(&str, &str); 5] = [
    ("Cookie", "{header:Cookie}"),
    ("User-Agent", "{header:User-Agent}"),
    ("X-Real-IP", "{header:X-Real-IP}"),
    ("X-CSRFToken", "{cookie:csrftoken}"),
    ("Authorization", "Token {param:token}"),
];

/// Headers that belong to one hop (RFC 9110 section 7.6.1) or to the message itself, and are therefore ours to set.
const NOT_FORWARDED: [&str; 12] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "expect",
];

fn headers(
    configured: Option<&str>,
    legacy: &[(&'static str, String)],
) -> Result<Vec<(http::HeaderName, Template)>, String> {
    let configured: std::collections::BTreeMap<String, String> = match configured {
        Some(json) => serde_json::from_str(json).map_err(
            |_| "must be a JSON object from header name to template, like {\"X-Tenant\":\"{param:tenant}\"}",
        )?,
        None => Default::default(),
    };
    let defaults = DEFAULT_HEADERS.iter().map(|(name, template)| (*name, *template));
    let legacy = legacy.iter().map(|(name, template)| (*name, template.as_str()));
    let configured = configured.iter().map(|(name, template)| (name.as_str(), template.as_str()));
    let mut headers: Vec<(http::HeaderName, Template)> = Vec::new();
    for (name, template) in defaults.chain(legacy).chain(configured) {
        let header: http::HeaderName = name.parse().map_err(|_| format!("has a name that is no header: {name}"))?;
        if NOT_FORWARDED.contains(&header.as_str()) {
            return Err(format!("must not set {name}"));
        }
        headers.retain(|(known, _)| *known != header);
        let template = Template::parse(template).map_err(|what| format!("for {name} {what}"))?;
        if !template.parts.is_empty() {
            headers.push((header, template));
        }
    }
    Ok(headers)
}

fn hooks(env: &Env, backend: Option<&Backend>, problems: &mut Problems) -> Option<Hooks> {
    let mut hook = |variable: &str, path: &Option<String>| match path.as_deref() {
        None | Some("off") => None,
        Some(path) => {
            let url = backend?.url.join(path.trim_start_matches('/')).ok();
            let below = url.filter(|url| backend.is_some_and(|backend| url.as_str().starts_with(backend.url.as_str())));
            problems
                .ok(variable, below.ok_or_else(|| "must be a path below API_URL, like user/notify_online/".to_owned()))
        }
    };
    Some(Hooks {
        connect: hook("HOOK_CONNECT", &env.hook_connect),
        ping: hook("HOOK_PING", &env.hook_ping),
        disconnect: hook("HOOK_DISCONNECT", &env.hook_disconnect),
    })
}

fn broker(
    env: &Env,
    legacy: Option<Uris>,
    history: &History,
    trigger_id_ttl: Duration,
    problems: &mut Problems,
) -> Option<Broker> {
    let uris = match env.amqp_url.as_deref() {
        Some(list) => Some(problems.ok("AMQP_URL", Uris::parse(list))?),
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
    let read_back = history.age.max(trigger_id_ttl);
    if uris.is_some() && log != Some(AmqpLog::Off) && log_max_age < read_back {
        problems.add("AMQP_LOG_MAX_AGE", "must not be less than HISTORY or TRIGGER_ID_TTL");
    }
    let embedded_log = env.embedded_log.as_ref().map(PathBuf::from);
    if uris.is_some() && embedded_log.is_some() {
        problems.add("EMBEDDED_LOG", "is of no use with RabbitMQ");
    }
    Some(match uris {
        Some(uris) => Broker::Rabbitmq(Rabbitmq {
            uris,
            exchange,
            log: log?,
            log_max_age,
            log_max_bytes: log_max_bytes as u64,
            read_back,
        }),
        None => Broker::Embedded(Embedded { log: embedded_log, history: history.clone() }),
    })
}

/// So that a name for the log can be made of it: names in AMQP have up to 255 bytes.
const LONGEST_EXCHANGE: usize = 240;

fn origins(list: Option<&str>, problems: &mut Problems) -> Option<Origins> {
    let Some(list) = list else { return Some(Origins::SameHost) };
    let origins: HashSet<String> = list
        .split(',')
        .map(|origin| origin.trim().trim_end_matches('/').to_ascii_lowercase())
        .filter(|o| !o.is_empty())
        .collect();
    if origins.contains("*") {
        return Some(Origins::Any);
    }
    let is_origin = |origin: &String| {
        origin == "null"
            || Url::parse(origin)
                .is_ok_and(|url| url.has_host() && matches!(url.path(), "" | "/") && url.query().is_none())
    };
    if origins.is_empty() || !origins.iter().all(is_origin) {
        problems.add("ALLOWED_ORIGINS", "must be * or a list like https://app.example.org,https://other.example.org");
        return None;
    }
    Some(Origins::Listed(origins))
}

fn choice<T: Copy>(variable: &str, text: &str, choices: &[(&str, T)], problems: &mut Problems) -> Option<T> {
    let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if chosen.is_none() {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        problems.add(variable, &format!("must be one of {}", names.join(", ")));
    }
    chosen
}

fn duration(variable: &str, text: Option<&str>, default: u64, least: u64, problems: &mut Problems) -> Duration {
    let (default, least) = (Duration::from_secs(default), Duration::from_secs(least));
    match text.map(units::duration) {
        None => default,
        Some(Some(value)) if value >= least && value <= LONGEST => value,
        Some(Some(_)) => {
            problems.add(
                variable,
                &format!("must be at least {}s and at most {}h", least.as_secs(), LONGEST.as_secs() / 3600),
            );
            default
        }
        Some(None) => {
            problems.add(variable, "must be a duration like 300, 300s or 5m");
            default
        }
    }
}

/// No duration that is set may be longer; a timer never overflows so.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

fn size(variable: &str, text: Option<&str>, default: usize, least: usize, problems: &mut Problems) -> usize {
    size_within(variable, text, default, least..=1 << 30, problems)
}

fn size_within(
    variable: &str,
    text: Option<&str>,
    default: usize,
    range: RangeInclusive<usize>,
    problems: &mut Problems,
) -> usize {
    match text.map(units::size) {
        None => default,
        Some(Some(value)) if range.contains(&value) => value,
        Some(Some(_)) => {
            let (least, most) = (range.start(), range.end() >> 30);
            problems.add(variable, &format!("must be at least {least} bytes and at most {most}GiB"));
            default
        }
        Some(None) => {
            problems.add(variable, "must be a size like 65536 or 64KiB");
            default
        }
    }
}
