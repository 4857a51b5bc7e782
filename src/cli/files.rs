//! Who may have how many file descriptors.

use crate::{config::Config, connection::REFUSED_CONNECTIONS};

/// Descriptors for everything that is neither a client, a caller, nor a call to the API: the broker's connections, the log
/// and its file, the listeners, the runtime.
const OTHERS: usize = 64;
/// The least that are kept for connections to the internal listener.
const LEAST_INTERNAL: usize = 128;
/// The part of all descriptors that is kept for them where that is more.
const INTERNAL_PART: usize = 16;

/// Limits the connections to both listeners, as far as that is not configured, so that `files` descriptors are enough for
/// everything. Returns what is too much, for the operator.
pub(super) fn divide(files: usize, config: &mut Config) -> Option<String> {
    let calls = config.backend.concurrency;
    let kept = OTHERS + REFUSED_CONNECTIONS + calls + LEAST_INTERNAL.max(files / INTERNAL_PART);
    let clients = &mut config.connection.limits.connections;
    let is_configured = clients.is_some();
    let most = *clients.get_or_insert_with(|| files.saturating_sub(kept).max(files / 2));
    let left = files.saturating_sub(most + REFUSED_CONNECTIONS + calls + OTHERS);
    config.internal.connections = Some(left.max(LEAST_INTERNAL / 4));
    let needed = most + REFUSED_CONNECTIONS + calls + OTHERS + LEAST_INTERNAL;
    (needed > files).then(|| {
        let whose = if is_configured { "MAX_CONNECTIONS" } else { "clients, who get half of them," };
        let remedy = format!("raise LimitNOFILE (ulimit -n) to {needed}");
        format!("{files} file descriptors are too few for {whose} and API_CONCURRENCY: {remedy}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn divided(files: usize, vars: &[(&str, &str)]) -> (Option<usize>, Option<usize>, Option<String>) {
        let api = [("API_URL", "http://api/")];
        let vars = api.iter().chain(vars).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut config = config::from_vars(vars).unwrap();
        let warning = divide(files, &mut config);
        (config.connection.limits.connections, config.internal.connections, warning)
    }

    #[test]
    fn clients_leave_enough_for_callers_for_calls_and_for_the_broker() {
        assert_eq!(divided(1024, &[]), (Some(768), Some(128), None));
        assert_eq!(divided(1024, &[("API_CONCURRENCY", "232")]), (Some(568), Some(128), None));
        assert_eq!(divided(1 << 20, &[]), (Some((1 << 20) - 128 - (1 << 16)), Some(1 << 16), None));
        assert_eq!(divided(1024, &[("MAX_CONNECTIONS", "500")]), (Some(500), Some(396), None));
    }

    #[test]
    fn too_few_descriptors_are_told() {
        let (clients, internal, warning) = divided(256, &[]);
        assert_eq!((clients, internal), (Some(128), Some(32)));
        assert!(warning.unwrap().contains("256 file descriptors are too few"), "half of them for clients");
        let (clients, internal, warning) = divided(1024, &[("MAX_CONNECTIONS", "1000")]);
        assert_eq!((clients, internal), (Some(1000), Some(32)));
        assert!(
            warning
                .unwrap()
                .ends_with("for MAX_CONNECTIONS and API_CONCURRENCY: raise LimitNOFILE (ulimit -n) to 1256")
        );
    }
}
