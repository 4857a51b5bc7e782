//! `LOG`: a level, or levels by target.

use tracing_subscriber::filter::{LevelFilter, Targets};

/// Crates that log: this program, and those of its libraries that do.
const CRATES: [&str; 13] = [
    "high_templar",
    "amq_protocol",
    "amq_protocol_tcp",
    "h2",
    "hyper",
    "hyper_util",
    "lapin",
    "reqwest",
    "rustls",
    "rustls_connector",
    "rustls_platform_verifier",
    "tokio",
    "warp",
];

/// Returns what is wrong with a filter. A word that is no level would be taken for a target without one, and a target that
/// nothing logs under for one: either would silence the server without a word.
pub(super) fn check(filter: &str) -> Result<(), String> {
    for directive in filter.split(',') {
        let is_level = |level: &str| !level.is_empty() && level.parse::<LevelFilter>().is_ok();
        let is_known = |target: &str| CRATES.contains(&target.split("::").next().unwrap_or_default());
        let is_right = match directive.split_once('=') {
            None => is_level(directive),
            Some((target, level)) => is_known(target) && is_level(level),
        };
        if !is_right {
            return Err(format!(
                "must be a level (error, warn, info, debug, trace, off) or a list like info,high_templar=debug: \
                 {directive:?} is neither a level nor a target of high_templar or a library with a level"
            ));
        }
    }
    match filter.parse::<Targets>() {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_silence_the_server_is_refused() {
        for filter in ["info", "WARN", "off", "3", "info,high_templar=debug", "high_templar::broker=trace,hyper=warn"] {
            assert_eq!(check(filter), Ok(()), "{filter}");
        }
        let wrong = [
            "verbose",
            "high_templar",
            "info,",
            "",
            "=",
            "info,verbose=debug",
            "high_templar=loud",
            "info;debug",
            "info, hyper=warn",
        ];
        for filter in wrong {
            assert!(check(filter).is_err(), "{filter}");
        }
        assert!(check("info,verbose").unwrap_err().contains("\"verbose\" is neither"));
    }
}
