use std::io::Write;

use tempfile::NamedTempFile;

use super::*;
use crate::config::{Config, Error, Listen, from_vars};

const SECRET: &str = "0123456789abcdef";

fn config(vars: &[(&str, &str)]) -> Result<Config, Error> {
    let api = [("API_URL", "http://127.0.0.1/")];
    from_vars(api.iter().chain(vars).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

/// With a secret and `vars`.
fn from_env(vars: &[(&str, &str)]) -> Config {
    config(&[&[("CHANNELSTREAM_SECRET", SECRET)], vars].concat()).unwrap()
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// With an INI file of `section`, and `vars`.
fn from_file(section: &str, vars: &[(&str, &str)]) -> Result<Config, Error> {
    let file = file(&format!("[channelstream]\n{section}"));
    config(&[&[("CHANNELSTREAM_INI", file.path().to_str().unwrap())], vars].concat())
}

fn says(error: Result<Config, Error>) -> String {
    error.unwrap_err().to_string()
}

fn weak(config: &Config) -> Vec<&str> {
    let notes = config.notes.iter();
    notes.filter_map(|note| if let Note::Weak(text) = note { Some(text.as_str()) } else { None }).collect()
}

fn taken(config: &Config) -> Vec<&str> {
    let notes = config.notes.iter();
    notes.filter_map(|note| if let Note::Taken(text) = note { Some(text.as_str()) } else { None }).collect()
}

fn addresses(list: &[&str]) -> Option<HashSet<IpAddr>> {
    Some(list.iter().map(|address| address.parse().unwrap()).collect())
}

#[test]
fn channelstream_is_not_spoken_unless_it_is_asked_for() {
    let config = config(&[]).unwrap();
    assert!(config.channelstream.is_none() && config.notes.is_empty());
}

#[test]
fn with_a_secret_alone_the_rest_is_safe() {
    let config = from_env(&[]);
    assert_eq!(config.notes, []);
    let channelstream = config.channelstream.unwrap();
    assert!(channelstream.secret.matches(SECRET.as_bytes()));
    assert_eq!(channelstream.admin_user, "admin");
    assert_eq!(channelstream.admin_secret, None);
    assert_eq!(channelstream.allow_posting_from, addresses(&["127.0.0.1"]));
    assert!(channelstream.allow_cors.is_empty());
    assert!(channelstream.validate_requests && !channelstream.enforce_https && !channelstream.is_public);
    assert_eq!(channelstream.http_scheme, None);
    assert_eq!(channelstream.cookie_secret, channelstream.secret, "the same on every instance");
}

#[test]
fn a_file_without_a_host_is_told_that_only_this_machine_can_connect() {
    let notes = |section: &str, vars: &[(&str, &str)]| {
        let config = from_file(&format!("secret = {SECRET}\n{section}"), vars).unwrap();
        weak(&config).iter().filter(|note| note.contains("only this machine can connect")).count()
    };
    assert_eq!((notes("", &[]), notes("port = 8000", &[])), (1, 1));
    assert_eq!((notes("host = 0.0.0.0", &[]), notes("", &[("LISTEN", "0.0.0.0:8000")])), (0, 0));
    assert_eq!(weak(&from_env(&[])), [] as [&str; 0]);
}

#[test]
fn no_api_is_needed_where_channelstream_is_spoken() {
    let vars = [("CHANNELSTREAM_SECRET".to_owned(), SECRET.to_owned())];
    let config = crate::config::from_vars(vars.into_iter()).unwrap();
    assert_eq!((config.backend.url.host_str(), config.has_api), (Some("api.invalid"), false));
    assert!(
        config.notes.contains(&Note::Taken("API_URL is not set: only Channelstream's clients are served".to_owned()))
    );
    assert!(crate::config::from_vars(std::iter::empty()).is_err());
}

#[test]
fn variables_say_the_same_as_the_file() {
    let settings = [
        ("admin_user", "root"),
        ("admin_secret", "0123456789abcdeg"),
        ("cookie_secret", "0123456789abcdeh"),
        ("allow_posting_from", "10.0.0.1, ::1,::ffff:10.0.0.2,"),
        ("allow_cors", "example.org, other.example.org"),
        ("validate_requests", "True"),
        ("enforce_https", "ON"),
        ("http_scheme", "https"),
        ("signature_checker", "channelstream.utils.DefaultSigner"),
        ("host", "127.0.0.1"),
        ("debug", "true"),
    ];
    let names: Vec<_> = settings.iter().map(|(key, _)| variable(key)).collect();
    let vars: Vec<_> = names.iter().map(String::as_str).zip(settings.map(|(_, value)| value)).collect();
    let text: String = settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    let in_file = from_file(&format!("secret = {SECRET}\ndemo = 1\nunknown = %\n{text}"), &[]).unwrap();
    for config in [from_env(&vars), in_file] {
        assert_eq!(weak(&config), [""; 0]);
        let channelstream = config.channelstream.unwrap();
        assert!(channelstream.secret.matches(SECRET.as_bytes()));
        assert_eq!(channelstream.admin_user, "root");
        assert!(channelstream.admin_secret.unwrap().matches(b"0123456789abcdeg"));
        assert!(channelstream.cookie_secret.matches(b"0123456789abcdeh"));
        assert_eq!(channelstream.allow_posting_from, addresses(&["10.0.0.1", "::1", "10.0.0.2"]));
        assert_eq!(channelstream.allow_cors, ["example.org", "other.example.org"]);
        assert!(channelstream.validate_requests && channelstream.enforce_https);
        assert_eq!(channelstream.http_scheme, Some("https"));
    }
}

#[test]
fn nothing_of_channelstream_may_be_set_without_a_secret() {
    for (name, value) in [("CHANNELSTREAM_ADMIN_USER", "root"), ("CHANNELSTREAM_PUBLIC", "false")] {
        assert_eq!(says(config(&[(name, value)])), format!("CHANNELSTREAM_SECRET is not set, but {name} is"));
    }
}

#[test]
fn with_a_file_its_keys_are_not_read_from_the_environment() {
    let vars = [
        ("CHANNELSTREAM_SECRET", "another of 16 bytes"),
        ("CHANNELSTREAM_PUBLIC", "true"),
        ("CHANNELSTREAM_ADMIN_SECRET", "x"),
    ];
    let config = from_file(&format!("secret: {SECRET}"), &vars).unwrap();
    let note = taken(&config).concat();
    assert!(note.ends_with("; not read: CHANNELSTREAM_SECRET, CHANNELSTREAM_ADMIN_SECRET"), "{note}");
    let channelstream = config.channelstream.unwrap();
    assert!(channelstream.secret.matches(SECRET.as_bytes()));
    assert!(channelstream.is_public && channelstream.admin_secret.is_none());
}

#[test]
fn a_file_has_to_be_there_and_to_have_its_section() {
    let missing = config(&[("CHANNELSTREAM_INI", "/nowhere/x.ini")]);
    assert!(says(missing).starts_with("CHANNELSTREAM_INI /nowhere/x.ini cannot be read: "));
    let file = file("[other]\na = 1\n");
    let path = file.path().to_str().unwrap();
    let no_section = config(&[("CHANNELSTREAM_INI", path)]);
    assert_eq!(says(no_section), format!("CHANNELSTREAM_INI {path} has no section [channelstream]"));
    let error = says(from_file("secret = x\nhunter2\n", &[]));
    assert!(error.ends_with("has no `key = value` in line 3") && !error.contains("hunter2"), "{error}");
}

#[test]
fn values_of_the_file_may_go_on_and_have_percent_signs() {
    let config = from_file(
        "secret = 0123456789%%abcdef\n# comment\nallow_posting_from = 127.0.0.1,\n  10.0.0.1,\n  ; comment\n  10.0.0.2\n",
        &[],
    );
    let channelstream = config.unwrap().channelstream.unwrap();
    assert!(channelstream.secret.matches(b"0123456789%abcdef"));
    assert_eq!(channelstream.allow_posting_from, addresses(&["127.0.0.1", "10.0.0.1", "10.0.0.2"]));
    assert_eq!(says(from_file("secret = 50%", &[])), "CHANNELSTREAM_INI: secret has a % that is not written %%");
}

#[test]
fn secrets_that_may_be_guessed_are_told() {
    let file = from_file("host = 127.0.0.1\nadmin_secret = admin_secret", &[]).unwrap();
    assert_eq!(
        weak(&file),
        [
            "CHANNELSTREAM_INI: secret is not set, and so Channelstream's default, which everybody knows",
            "CHANNELSTREAM_INI: admin_secret is Channelstream's default, which everybody knows",
        ]
    );
    let channelstream = file.channelstream.unwrap();
    assert!(channelstream.secret.matches(b"secret") && channelstream.admin_secret.is_some());
    let short = from_env(&[("CHANNELSTREAM_COOKIE_SECRET", "0123456789abcde")]);
    assert_eq!(weak(&short), ["CHANNELSTREAM_COOKIE_SECRET has fewer than 16 bytes, and may be guessed"]);
    let known = config(&[("CHANNELSTREAM_SECRET", "secret")]).unwrap();
    assert_eq!(weak(&known), ["CHANNELSTREAM_SECRET is Channelstream's default, which everybody knows"]);
}

#[test]
fn an_empty_value_in_the_file_is_as_none() {
    let empty = "admin_secret =\ncookie_secret =\nallow_cors =\nallow_posting_from =\nhost =\nlog_level =\n";
    let config = from_file(&format!("secret = {SECRET}\n{empty}"), &[]).unwrap();
    assert_eq!((taken(&config).len(), weak(&config).len()), (1, 1), "the file, and that it has no host");
    let channelstream = config.channelstream.unwrap();
    assert_eq!(channelstream.admin_secret, None);
    assert_eq!(channelstream.allow_posting_from, addresses(&["127.0.0.1"]));
    assert_eq!(says(from_file("secret =", &[])), "CHANNELSTREAM_INI: secret must not be empty");
}

#[test]
fn calls_may_come_from_anywhere_if_the_list_says_so() {
    let posting_from = |list| {
        let vars = [("CHANNELSTREAM_SECRET", SECRET), ("CHANNELSTREAM_ALLOW_POSTING_FROM", list)];
        config(&vars).map(|config| config.channelstream.unwrap().allow_posting_from)
    };
    assert_eq!(posting_from("10.0.0.1,0.0.0.0"), Ok(None));
    assert_eq!(posting_from(","), Ok(addresses(&[])));
    for wrong in ["localhost", "10.0.0.0/8", "*"] {
        let problem = format!("CHANNELSTREAM_ALLOW_POSTING_FROM has {wrong}, which is no IP address");
        assert_eq!(posting_from(wrong).unwrap_err().to_string(), problem);
    }
}

#[test]
fn what_is_not_true_is_false() {
    for (value, is_true) in [("t", true), ("YES", true), ("1", true), ("0", false), ("ture", false)] {
        let config = from_env(&[("CHANNELSTREAM_ENFORCE_HTTPS", value)]);
        assert_eq!(config.channelstream.unwrap().enforce_https, is_true, "{value}");
    }
    let config = from_env(&[("CHANNELSTREAM_VALIDATE_REQUESTS", "off"), ("CHANNELSTREAM_HTTP_SCHEME", "ftp")]);
    assert_eq!(
        weak(&config),
        [
            "CHANNELSTREAM_VALIDATE_REQUESTS is off: a signature counts for ever",
            "CHANNELSTREAM_HTTP_SCHEME is neither http nor https, and has no effect",
        ]
    );
    let channelstream = config.channelstream.unwrap();
    assert!(!channelstream.validate_requests && channelstream.http_scheme.is_none());
    let unclear = config_with_public("yes");
    assert_eq!(says(unclear), "CHANNELSTREAM_PUBLIC must be one of true, false");
}

fn config_with_public(value: &str) -> Result<Config, Error> {
    config(&[("CHANNELSTREAM_SECRET", SECRET), ("CHANNELSTREAM_PUBLIC", value)])
}

#[test]
fn another_checker_of_signatures_is_refused() {
    let error = says(from_file("signature_checker = my.Checker", &[]));
    assert!(error.starts_with("CHANNELSTREAM_INI: signature_checker names a Python class"), "{error}");
}

#[test]
fn host_and_port_are_where_clients_connect_unless_that_is_set() {
    let listen = |config: &Config| match &config.listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(_) => String::new(),
    };
    for (vars, expected) in [
        (&[("CHANNELSTREAM_HOST", "0.0.0.0"), ("CHANNELSTREAM_PORT", "9000")][..], "0.0.0.0:9000"),
        (&[("CHANNELSTREAM_PORT", "9000")], "127.0.0.1:9000"),
        (&[("CHANNELSTREAM_HOST", "::")], "[::]:8000"),
        (&[("CHANNELSTREAM_HOST", "localhost")], "127.0.0.1:8000"),
    ] {
        let config = from_env(vars);
        assert_eq!(listen(&config), expected);
        assert!(taken(&config).concat().starts_with(&format!("LISTEN is {expected}, taken from CHANNELSTREAM_")));
    }
    let file =
        from_file(&format!("secret = {SECRET}\nhost = 127.0.0.2\nport = 1"), &[("LISTEN", "127.0.0.1:7")]).unwrap();
    assert_eq!(listen(&file), "127.0.0.1:7");
    assert_eq!(taken(&file)[1], "LISTEN is set: not read: CHANNELSTREAM_INI: host and CHANNELSTREAM_INI: port");
    assert_eq!(
        says(from_file("host = example.org\nport = x", &[])),
        "CHANNELSTREAM_INI: host must be an IP address; CHANNELSTREAM_INI: port must be a number up to 65535"
    );
}

#[test]
fn the_level_of_the_log_is_taken_unless_that_is_set() {
    let vars = [("DEBUG", "debug"), ("info", "info"), ("WARNING", "warn"), ("ERROR", "error"), ("CRITICAL", "error")];
    for (level, filter) in vars {
        let config = from_env(&[("CHANNELSTREAM_LOG_LEVEL", level)]);
        assert_eq!(config.log.filter, filter);
        assert_eq!(taken(&config), [format!("LOG is {filter}, taken from CHANNELSTREAM_LOG_LEVEL")]);
    }
    let config = from_env(&[("CHANNELSTREAM_LOG_LEVEL", "DEBUG"), ("LOG", "warn")]);
    assert_eq!(config.log.filter, "warn");
    assert_eq!(taken(&config), ["LOG is set: not read: CHANNELSTREAM_LOG_LEVEL"]);
    let error = says(from_file("log_level = loud", &[]));
    assert_eq!(error, "CHANNELSTREAM_INI: log_level must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL");
}

#[test]
fn channelstream_needs_a_log() {
    let with = |log| {
        let vars = [("CHANNELSTREAM_SECRET", SECRET), ("AMQP_URL", "amqp://localhost/"), ("AMQP_LOG", log)];
        config(&vars).map(|_| ())
    };
    assert_eq!(with("off").unwrap_err().to_string(), "AMQP_LOG is off, but Channelstream needs a log");
    assert_eq!((with("auto"), with("stream")), (Ok(()), Ok(())));
    assert!(config(&[("CHANNELSTREAM_SECRET", SECRET), ("AMQP_LOG", "off")]).is_ok());
}
