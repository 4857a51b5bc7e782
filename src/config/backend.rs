//! The settings of the API behind us.

use std::{path::PathBuf, time::Duration};

use reqwest::Url;

use super::{
    Backend, Hooks, Template,
    env::{Env, Problems},
    values::{count, duration, optional_duration},
};

/// More calls at once than that are of no use to anybody.
const MOST_AT_ONCE: usize = 10_000;

pub(super) fn backend(
    env: &Env,
    legacy_headers: &[(&'static str, String)],
    problems: &mut Problems,
) -> Option<Backend> {
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
        concurrency: count("API_CONCURRENCY", env.api_concurrency.as_deref(), 32, problems).min(MOST_AT_ONCE),
        queue: count("API_QUEUE", env.api_queue.as_deref(), 1000, problems),
        queue_timeout: duration("API_QUEUE_TIMEOUT", env.api_queue_timeout.as_deref(), 10, 1, problems),
        cache: optional_duration("AUTH_CACHE", env.auth_cache.as_deref(), 1, problems),
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

pub(super) fn hooks(
    env: &Env,
    backend: Option<&Backend>,
    ping_interval: Duration,
    problems: &mut Problems,
) -> Option<Hooks> {
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
        ping_interval,
    })
}
