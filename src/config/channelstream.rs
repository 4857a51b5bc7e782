//! Channelstream's settings, from its variables or from its INI file.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::{
    Channelstream, Note, Secret,
    env::Env,
    files, ini,
    problems::{Problems, numbers},
    values::choice,
};

/// What was made of the settings.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// `None` if Channelstream is not spoken, or something is wrong.
    pub(super) config: Option<Channelstream>,
    /// There is no API beside it.
    pub(super) is_alone: bool,
    pub(super) notes: Vec<Note>,
}

/// Stands for an API where there is none: a name that nobody has (RFC 2606).
const NO_API: &str = "http://api.invalid/";

/// Reads the settings; fills in `LISTEN`, `LOG` and `API_URL` of `env` from them where those are unset.
pub(super) fn apply(env: &mut Env, problems: &mut Problems) -> Applied {
    let mut notes = Vec::new();
    let public = env.channelstream_public.as_deref().unwrap_or("false");
    let is_public = choice("CHANNELSTREAM_PUBLIC", public, &[("true", true), ("false", false)], problems);
    let Some(settings) = Settings::of(env, &mut notes, problems) else {
        return Applied { notes, ..Applied::default() };
    };
    listen(env, &settings, &mut notes, problems);
    log(env, &settings, &mut notes, problems);
    let is_alone = env.api_url.is_none();
    if is_alone {
        env.api_url = Some(NO_API.to_owned());
        notes.push(Note::Taken("API_URL is not set: only Channelstream's clients are served".to_owned()));
    }
    let config = settings.check(is_public.unwrap_or_default(), &mut notes, problems);
    Applied { config, is_alone, notes }
}

/// The values that are set, by their keys in the INI file.
struct Settings {
    values: BTreeMap<String, String>,
    is_file: bool,
}

impl Settings {
    /// `None` if Channelstream is not spoken. What cannot be read counts as unset, together with a problem, so that the rest is
    /// checked all the same.
    fn of(env: &Env, notes: &mut Vec<Note>, problems: &mut Problems) -> Option<Self> {
        let set: Vec<(&str, &str)> =
            variables(env).into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?))).collect();
        if let Some(path) = env.channelstream_ini.as_deref() {
            let ignored: Vec<String> = set.iter().map(|(key, _)| variable(key)).collect();
            let ignored = match ignored.is_empty() {
                true => String::new(),
                false => format!("; not read: {}", ignored.join(", ")),
            };
            notes.push(Note::Taken(format!("Channelstream's settings are taken from {path}{ignored}")));
            return Some(Self::read(path, problems));
        }
        if env.channelstream_secret.is_none() {
            let other = set.first().map(|(key, _)| variable(key));
            let other = other.or_else(|| env.channelstream_public.as_ref().map(|_| variable("public")))?;
            problems.add_missing("CHANNELSTREAM_SECRET", &format!("is not set, but {other} is"));
        }
        let values = set.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Some(Self { values, is_file: false })
    }

    fn read(path: &str, problems: &mut Problems) -> Self {
        let text = problems.ok("CHANNELSTREAM_INI", files::read(path));
        let section = text
            .map(|text| ini::section(&text, "channelstream"))
            .unwrap_or_else(|| ini::Section { values: Some(BTreeMap::new()), wrong: Vec::new() });
        if !section.wrong.is_empty() {
            // The line itself may hold a secret.
            problems.add("CHANNELSTREAM_INI", &format!("{path} has no `key = value` in {}", numbers(&section.wrong)));
        } else if section.values.is_none() {
            problems.add("CHANNELSTREAM_INI", &format!("{path} has no section [channelstream]"));
        }
        let values = section.values.unwrap_or_default();
        let mut settings = Self { values: BTreeMap::new(), is_file: true };
        for (key, _) in variables(&Env::default()) {
            let Some(value) = values.get(key) else { continue };
            let value = ini::unescape(value).ok_or_else(|| "has a % that is not written %%".to_owned());
            if let Some(value) = problems.ok(&settings.name(key), value) {
                settings.values.insert(key.to_owned(), value);
            }
        }
        if settings.values.get("secret").is_some_and(String::is_empty) {
            problems.add(&settings.name("secret"), "must not be empty");
        }
        settings.values.retain(|_, value| !value.is_empty());
        settings
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// How an operator knows `key`.
    fn name(&self, key: &str) -> String {
        if self.is_file { format!("CHANNELSTREAM_INI: {key}") } else { variable(key) }
    }

    /// As Channelstream reads booleans: what is not true is false.
    fn is(&self, key: &str, default: bool) -> bool {
        let truths = ["t", "true", "y", "yes", "on", "1"];
        self.get(key).map_or(default, |value| truths.contains(&value.trim().to_ascii_lowercase().as_str()))
    }

    /// What is between commas and line breaks.
    fn list(&self, key: &str) -> impl Iterator<Item = &str> {
        let list = self.get(key).unwrap_or_default().split([',', '\n']);
        list.map(str::trim).filter(|entry| !entry.is_empty())
    }

    /// The secret of `key`, and a note if it can be guessed.
    fn secret(&self, key: &str, default: &str, notes: &mut Vec<Note>) -> Option<Secret> {
        let secret = self.get(key)?;
        let name = self.name(key);
        if secret == default {
            notes.push(Note::Weak(format!("{name} is Channelstream's default, which everybody knows")));
        } else if secret.len() < LEAST_BYTES {
            notes.push(Note::Weak(format!("{name} has fewer than {LEAST_BYTES} bytes, and may be guessed")));
        }
        Some(Secret::new(secret))
    }

    fn check(&self, is_public: bool, notes: &mut Vec<Note>, problems: &mut Problems) -> Option<Channelstream> {
        let checker = self.get("signature_checker").map(str::trim);
        if checker.is_some_and(|checker| checker != BUILT_IN_CHECKER) {
            problems
                .add(&self.name("signature_checker"), "names a Python class, which cannot be used here: leave it out");
        }
        let secret = self.secret("secret", DEFAULT_SECRET, notes).unwrap_or_else(|| {
            let name = self.name("secret");
            notes.push(Note::Weak(format!("{name} is not set, and so Channelstream's default, which everybody knows")));
            Secret::new(DEFAULT_SECRET)
        });
        let validate_requests = self.is("validate_requests", true);
        if !validate_requests {
            let name = self.name("validate_requests");
            notes.push(Note::Weak(format!("{name} is off: a signature counts for ever")));
        }
        let http_scheme = match self.get("http_scheme").map(str::trim) {
            Some("http") => Some("http"),
            Some("https") => Some("https"),
            Some(_) => {
                let name = self.name("http_scheme");
                notes.push(Note::Weak(format!("{name} is neither http nor https, and has no effect")));
                None
            }
            None => None,
        };
        Some(Channelstream {
            cookie_secret: self.secret("cookie_secret", "", notes).unwrap_or_else(|| secret.clone()),
            secret,
            admin_user: self.get("admin_user").map_or("admin", str::trim).to_owned(),
            admin_secret: self.secret("admin_secret", "admin_secret", notes),
            allow_posting_from: self.posting_from(problems)?,
            allow_cors: self.list("allow_cors").map(str::to_owned).collect(),
            validate_requests,
            enforce_https: self.is("enforce_https", false),
            http_scheme,
            is_public,
        })
    }

    /// `Some(None)` is anywhere.
    fn posting_from(&self, problems: &mut Problems) -> Option<Option<HashSet<IpAddr>>> {
        if self.get("allow_posting_from").is_none() {
            return Some(Some(HashSet::from([IpAddr::V4(Ipv4Addr::LOCALHOST)])));
        }
        let addresses = self.list("allow_posting_from").map(|text| {
            let address: Result<IpAddr, _> = text.parse();
            address.map(|address| address.to_canonical()).map_err(|_| format!("has {text}, which is no IP address"))
        });
        let addresses = addresses.collect::<Result<HashSet<_>, _>>();
        let addresses = problems.ok(&self.name("allow_posting_from"), addresses)?;
        let anywhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Some(if addresses.contains(&anywhere) { None } else { Some(addresses) })
    }
}

/// What Channelstream has when nothing is set.
const DEFAULT_SECRET: &str = "secret";

/// The class that Channelstream checks signatures with by itself.
const BUILT_IN_CHECKER: &str = "channelstream.utils.DefaultSigner";

/// A shorter secret may be guessed.
const LEAST_BYTES: usize = 16;

/// The variables that are keys of the INI file, too.
fn variables(env: &Env) -> [(&'static str, &Option<String>); 14] {
    [
        ("secret", &env.channelstream_secret),
        ("admin_user", &env.channelstream_admin_user),
        ("admin_secret", &env.channelstream_admin_secret),
        ("cookie_secret", &env.channelstream_cookie_secret),
        ("allow_posting_from", &env.channelstream_allow_posting_from),
        ("allow_cors", &env.channelstream_allow_cors),
        ("validate_requests", &env.channelstream_validate_requests),
        ("enforce_https", &env.channelstream_enforce_https),
        ("http_scheme", &env.channelstream_http_scheme),
        ("signature_checker", &env.channelstream_signature_checker),
        ("host", &env.channelstream_host),
        ("port", &env.channelstream_port),
        ("log_level", &env.channelstream_log_level),
        ("debug", &env.channelstream_debug),
    ]
}

fn variable(key: &str) -> String {
    format!("CHANNELSTREAM_{}", key.to_ascii_uppercase())
}

/// `host` and `port` are for `LISTEN`, if that is unset.
fn listen(env: &mut Env, settings: &Settings, notes: &mut Vec<Note>, problems: &mut Problems) {
    let (host, port) = (settings.get("host").map(str::trim), settings.get("port").map(str::trim));
    let names: Vec<String> = [("host", host), ("port", port)]
        .into_iter()
        .filter_map(|(key, value)| value.map(|_| settings.name(key)))
        .collect();
    let names = names.join(" and ");
    if host.is_none() && settings.is_file && env.listen.is_none() {
        let name = settings.name("host");
        notes.push(Note::Weak(format!(
            "{name} is not set: only this machine can connect, where Channelstream listens on all addresses; set it to 0.0.0.0, \
             or LISTEN"
        )));
    }
    if names.is_empty() {
        return;
    }
    if env.listen.is_some() {
        notes.push(Note::Taken(format!("LISTEN is set: not read: {names}")));
        return;
    }
    let host = match host.unwrap_or("127.0.0.1") {
        "localhost" => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        host => host.parse().map_err(|_| "must be an IP address".to_owned()),
    };
    let port = port.unwrap_or("8000").parse().map_err(|_| "must be a number up to 65535".to_owned());
    let host = problems.ok(&settings.name("host"), host);
    let port = problems.ok(&settings.name("port"), port);
    if let Some((host, port)) = host.zip(port) {
        let address = SocketAddr::new(host, port).to_string();
        notes.push(Note::Taken(format!("LISTEN is {address}, taken from {names}")));
        env.listen = Some(address);
    }
}

/// `log_level` is for `LOG`, if that is unset.
fn log(env: &mut Env, settings: &Settings, notes: &mut Vec<Note>, problems: &mut Problems) {
    let Some(level) = settings.get("log_level").map(|level| level.trim().to_ascii_uppercase()) else { return };
    let name = settings.name("log_level");
    let level = match level.as_str() {
        "NOTSET" => "trace",
        "DEBUG" => "debug",
        "INFO" => "info",
        "WARNING" | "WARN" => "warn",
        "ERROR" | "CRITICAL" | "FATAL" => "error",
        _ => return problems.add(&name, "must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
    };
    if env.log.is_some() {
        return notes.push(Note::Taken(format!("LOG is set: not read: {name}")));
    }
    notes.push(Note::Taken(format!("LOG is {level}, taken from {name}")));
    env.log = Some(level.to_owned());
}

#[cfg(test)]
mod tests;
