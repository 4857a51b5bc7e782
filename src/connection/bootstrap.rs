//! Asking the API who a client is, perhaps before there is a connection.

use std::{net::IpAddr, sync::Arc};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::{Connections, Refused, link::random_seconds};
use crate::{
    backend::{self, Answer, Identity, Patience},
    logging::{chain, limited},
    protocol::Version,
};

/// When a client may come back that could not be served, in seconds, where nothing better is known: at random, so that they
/// do not come together.
const TRY_LATER_SECONDS: std::ops::Range<f64> = 1.0..5.0;

/// What the API says.
pub(super) type Outcome = Result<Arc<Answer>, Arc<backend::Error>>;

/// A request about one client, under way or answered. Once all clones are dropped, nobody waits for its turn any more.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    outcome: Shared<BoxFuture<'static, Outcome>>,
    /// End of the time in which the client has to have its first frame.
    pub(super) deadline: Instant,
}

impl Bootstrap {
    /// Returns what the API has said, as soon as it has.
    ///
    /// # Errors
    /// When it does not let the client in, or could not be asked.
    pub async fn outcome(&self) -> Result<Arc<Answer>, Arc<backend::Error>> {
        self.outcome.clone().await
    }
}

impl Connections {
    /// Asks the API about a client at `address` that speaks `version`. It waits until the log is read, for its turn and for the
    /// answer, up to `HANDSHAKE_TIMEOUT` in all.
    pub fn bootstrap(self: &Arc<Self>, version: Version, identity: Identity, address: Option<IpAddr>) -> Bootstrap {
        self.bootstrap_until(Instant::now() + self.config.handshake_timeout, version, identity, address)
    }

    /// The same, up to `deadline`.
    pub(super) fn bootstrap_until(
        self: &Arc<Self>,
        deadline: Instant,
        version: Version,
        identity: Identity,
        address: Option<IpAddr>,
    ) -> Bootstrap {
        let patience = match version {
            // It comes back after two seconds, whatever it is told: so it keeps its turn, unless the API is known to be away.
            Version::V3 => Patience::UnlessPaused,
            Version::V4 => Patience::Short,
        };
        let connections = self.clone();
        let asking = async move {
            connections.until_log_is_read().await;
            let asking = connections.backend.authenticate(&identity, address, patience);
            timeout_at(deadline, asking).await.unwrap_or_else(|_| Err(Arc::new(connections.waited_too_long())))
        };
        Bootstrap { outcome: asking.boxed().shared(), deadline }
    }

    pub(super) fn waited_too_long(&self) -> backend::Error {
        self.metrics.limited.inc("handshake");
        backend::Error::TimedOut(self.config.handshake_timeout)
    }

    /// Returns what a client is told about which the API could not be asked, or which it does not know, and counts that.
    pub fn refusal(&self, error: &backend::Error) -> Refused {
        self.metrics.connections_refused.inc("backend");
        match error {
            // Visitors whose session is over are no news.
            backend::Error::Refused { status, .. } if matches!(status.as_u16(), 401 | 403) => {
                debug!(error = chain(error), "not authorised");
            }
            _ => limited!(
                warn[error.outcome().word()],
                "client not admitted: see API_URL and the API's log",
                error = chain(error)
            ),
        }
        if error.is_final() {
            return Refused::NotAuthorized;
        }
        let retry_after = match error {
            backend::Error::Busy { retry_after } => *retry_after, // spread already, but for clients of 3.1's, which do not read it
            error => match error.retry_after() {
                Some(asked) => asked + random_seconds(1.0..2.0 + asked.as_secs_f64() / 2.0),
                None => random_seconds(TRY_LATER_SECONDS),
            },
        };
        Refused::TryLater { retry_after }
    }
}
