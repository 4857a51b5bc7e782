//! All that is wrong is reported at once.

use std::collections::BTreeSet;

use super::{VARIABLES, from_vars};

/// A wrong value for each setting that has one and is read beside the others.
const WRONG: &[(&str, &str)] = &[
    ("LISTEN", "8000"),
    ("INTERNAL_LISTEN", "localhost"),
    ("API_URL", "bad"),
    ("API_SOCKET", "/dev/null"),
    ("API_TIMEOUT", "soon"),
    ("API_CONCURRENCY", "bad"),
    ("API_QUEUE", "0"),
    ("API_QUEUE_TIMEOUT", "500ms"),
    ("AUTH_CACHE", "on"),
    ("AUTH_CACHE_LIMIT", "1KiB"),
    ("API_HEADERS", r#"{"Host":"x","X-A":"{","X-B":"{body}"}"#),
    ("HOOK_CONNECT", "../x"),
    ("HOOK_PING", "../x"),
    ("HOOK_DISCONNECT", "../x"),
    ("REAUTHORIZE_INTERVAL", "0"),
    ("REAUTHORIZE_GRACE", "x"),
    ("RESUME_SECRET", "short"),
    ("RESUME_TTL", "0"),
    ("MAX_CONNECTIONS", "0"),
    ("MAX_CONNECTIONS_PER_USER", "-1"),
    ("MAX_CONNECTIONS_PER_ADDRESS", "many"),
    ("MAX_SUBSCRIPTIONS", "0"),
    ("MAX_MASKS", "0"),
    ("MAX_ROOM_KEYS", "0"),
    ("ROOM_LIMIT", "1"),
    ("CONNECTION_MEMORY", "1"),
    ("MESSAGE_RATE", "0"),
    ("HANDSHAKE_TIMEOUT", "0"),
    ("KEEP_ALIVE", "0"),
    ("TRUSTED_PROXIES", "localhost"),
    ("HEADER_LIMIT", "1"),
    ("URL_LIMIT", "1"),
    ("AMQP_URL", "http://localhost"),
    ("AMQP_LOG", "on"),
    ("AMQP_LOG_MAX_AGE", "1s"),
    ("AMQP_LOG_MAX_BYTES", "1"),
    ("EMBEDDED_LOG", "/dev/full"),
    ("HISTORY", "0"),
    ("HISTORY_LIMIT", "1"),
    ("TRIGGER_ID_TTL", "0"),
    ("WILDCARD_DISPATCH", "all"),
    ("ON_GAP", "x"),
    ("IDLE_TIMEOUT", "0"),
    ("PING_INTERVAL", "0"),
    ("OUTBOX_LIMIT", "1"),
    ("MESSAGE_LIMIT", "1"),
    ("TRIGGER_LIMIT", "1"),
    ("ALLOWED_ORIGINS", "example.org"),
    ("DRAIN", "bad"),
    ("LOG", "high_templar=loud"),
    ("LOG_FORMAT", "xml"),
    ("CHANNELSTREAM_PUBLIC", "yes"),
];

/// The same for what is only read where some of the others are not set.
const WRONG_WITHOUT_OTHERS: &[(&str, &str)] =
    &[("CHANNELSTREAM_INI", "/dev/full"), ("RABBITMQ_HOST", "host:port"), ("DRAIN", "bad")];

const WRONG_OF_CHANNELSTREAM: &[(&str, &str)] = &[
    ("CHANNELSTREAM_ALLOW_POSTING_FROM", "localhost"),
    ("CHANNELSTREAM_SIGNATURE_CHECKER", "my.Checker"),
    ("CHANNELSTREAM_HOST", "example.org"),
    ("CHANNELSTREAM_PORT", "x"),
    ("CHANNELSTREAM_LOG_LEVEL", "loud"),
    ("CHANNELSTREAM_PUBLIC", "yes"),
    ("DRAIN", "bad"),
];

/// Settings of which any value can be used, or, for those of 3.1, that are told by the name of what they stand for.
const NEVER_WRONG: &[&str] = &[
    "USER_ID_PATH",
    "INTERNAL_TOKEN",
    "CHANNELSTREAM_SECRET",
    "CHANNELSTREAM_ADMIN_USER",
    "CHANNELSTREAM_ADMIN_SECRET",
    "CHANNELSTREAM_COOKIE_SECRET",
    "CHANNELSTREAM_ALLOW_CORS",
    "CHANNELSTREAM_VALIDATE_REQUESTS",
    "CHANNELSTREAM_ENFORCE_HTTPS",
    "CHANNELSTREAM_HTTP_SCHEME",
    "CHANNELSTREAM_DEBUG",
    "RABBITMQ_USERNAME",
    "RABBITMQ_PASSWORD",
    "APP_URL",
    "BINDER_INTERNAL",
    "BINDER_SOCKET",
    "CY_BINDER_INTERNAL",
    "CY_BINDER_SOCKET",
    "ENV_FILE", // see `tests/it/command_line.rs`
];

fn problems(vars: &[(&str, &str)]) -> Vec<String> {
    let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    from_vars(vars).unwrap_err().0
}

#[test]
fn every_setting_that_is_wrong_is_told_together_with_all_others() {
    let exchange = "x".repeat(300);
    let first = [WRONG, &[("AMQP_EXCHANGE", exchange.as_str())]].concat();
    for wrong in [&first[..], WRONG_WITHOUT_OTHERS, WRONG_OF_CHANNELSTREAM] {
        let problems = problems(wrong);
        for (name, _) in wrong {
            let key = name.strip_prefix("CHANNELSTREAM_").unwrap_or(name).to_lowercase();
            let in_file = format!("CHANNELSTREAM_INI: {key} ");
            let is_told = |problem: &String| problem.starts_with(&format!("{name} ")) || problem.starts_with(&in_file);
            assert!(problems.iter().any(is_told), "{name}: {problems:#?}");
        }
    }
    let headers = problems(&first).into_iter().find(|problem| problem.starts_with("API_HEADERS ")).unwrap();
    assert!(["Host", "X-A", "X-B"].iter().all(|name| headers.contains(name)), "{headers}");
    // A new setting needs a line above.
    let known: BTreeSet<&str> = [&first[..], WRONG_WITHOUT_OTHERS, WRONG_OF_CHANNELSTREAM]
        .concat()
        .iter()
        .map(|(name, _)| *name)
        .chain(NEVER_WRONG.iter().copied())
        .collect();
    assert_eq!(known, VARIABLES.iter().copied().collect());
}

#[test]
fn names_count_as_they_are_written() {
    let vars = [("API_URL", "http://api/"), ("api_url", "bad"), ("Drain", "bad"), ("log", "=")];
    assert!(from_vars(vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).is_ok());
}
