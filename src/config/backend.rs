//! The settings of the API behind us.

use std::{path::PathBuf, time::Duration};

use reqwest::Url;

use super::{
    Backend, Hooks, Part, Template,
    env::Env,
    files,
    problems::Problems,
    values::{count, duration, optional_duration, size},
};
use crate::room;
/// More calls at once than that are of no use to anybody.
const MOST_AT_ONCE: usize = 10_000;

/// The base of every request.
pub(super) fn url(env: &Env, problems: &mut Problems) -> Option<Url> {
    match env.api_url.as_deref() {
        Some(url) => problems.ok("API_URL", api_url(url)),
        None => {
            problems.add_missing("API_URL", "is not set");
            None
        }
    }
}

pub(super) fn backend(
    env: &Env,
    url: Option<Url>,
    legacy_headers: &[(&'static str, String)],
    rooms: room::Limits,
    problems: &mut Problems,
) -> Option<Backend> {
    let socket = env.api_socket.as_ref().map(PathBuf::from);
    if let Some(path) = &socket {
        problems.ok("API_SOCKET", files::check_socket(path));
        if url.as_ref().is_some_and(|url| url.scheme() != "http") {
            problems.add("API_SOCKET", "needs an API_URL that begins with http://");
        }
    }
    let timeout = duration("API_TIMEOUT", env.api_timeout.as_deref(), 10, 1, problems);
    let headers = problems.ok("API_HEADERS", headers(env.api_headers.as_deref(), legacy_headers));
    let user_id_path = env.user_id_path.as_deref().unwrap_or("user.data.id").split('.').map(str::to_owned).collect();
    let concurrency = count("API_CONCURRENCY", env.api_concurrency.as_deref(), 32, problems).min(MOST_AT_ONCE);
    let queue = count("API_QUEUE", env.api_queue.as_deref(), 1000, problems);
    let queue_timeout = duration("API_QUEUE_TIMEOUT", env.api_queue_timeout.as_deref(), 10, 1, problems);
    let cache = optional_duration("AUTH_CACHE", env.auth_cache.as_deref(), 1, problems);
    let cache_limit = env.auth_cache_limit.as_deref();
    let cache_limit_bytes = size("AUTH_CACHE_LIMIT", cache_limit, 64 << 20, 64 << 10, problems);
    Some(Backend {
        url: url?, // only here, when all else has been looked at
        socket,
        timeout,
        concurrency,
        queue,
        queue_timeout,
        cache,
        cache_limit_bytes,
        headers: headers?,
        user_id_path,
        rooms,
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
    let mut wrong = Vec::new();
    for (name, template) in defaults.chain(legacy).chain(configured) {
        match header(name, template) {
            Ok((header, template)) => {
                headers.retain(|(known, _)| *known != header);
                if !template.parts.is_empty() {
                    headers.push((header, template));
                }
            }
            Err(what) => wrong.push(what),
        }
    }
    if wrong.is_empty() { Ok(headers) } else { Err(wrong.join(", ")) }
}

fn header(name: &str, template: &str) -> Result<(http::HeaderName, Template), String> {
    let header: http::HeaderName = name.parse().map_err(|_| format!("has a name that is no header: {name}"))?;
    if NOT_FORWARDED.contains(&header.as_str()) {
        return Err(format!("must not set {name}"));
    }
    let template = Template::parse(template).map_err(|what| format!("for {name} {what}"))?;
    // What is fixed is sent with our own requests, too.
    for part in &template.parts {
        if let Part::Fixed(text) = part {
            http::HeaderValue::from_str(text)
                .map_err(|_| format!("for {name} has text that cannot be sent as a header"))?;
        }
    }
    Ok((header, template))
}

/// Where hooks go below `url`; where that is not known, they are checked as if it was any other.
pub(super) fn hooks(env: &Env, url: Option<&Url>, ping_interval: Duration, problems: &mut Problems) -> Option<Hooks> {
    let any = Url::parse("http://api.invalid/api/").ok();
    let base = url.or(any.as_ref())?;
    let mut hook = |variable: &str, path: &Option<String>| match path.as_deref() {
        None | Some("off") => None,
        Some(path) => {
            let url = base.join(path.trim_start_matches('/')).ok();
            let below = url.filter(|url| url.as_str().starts_with(base.as_str()));
            problems
                .ok(variable, below.ok_or_else(|| "must be a path below API_URL, like user/notify_online/".to_owned()))
        }
    };
    Some(Hooks {
        connect: hook("HOOK_CONNECT", &env.hook_connect),
        ping: hook("HOOK_PING", &env.hook_ping),
        disconnect: hook("HOOK_DISCONNECT", &env.hook_disconnect),
        ping_interval,
    })
}
