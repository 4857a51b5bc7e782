//! The wait of a client of 3.1's protocol for its handshake.
//!
//! 3.1 asked the API first, and answered the handshake with an error when the call failed. Such a client knows one frame for all
//! that can be in the way, which says that it is logged out: so a failure has to be told before the handshake is answered. A client of
//! version 4 is told what is the matter by a frame of its own, and does not wait.

use std::{sync::Arc, time::Duration};

use http::{StatusCode, header};
use tokio::time::sleep;
use warp::reply::Response;

use super::{refusals, reply};
use crate::{
    backend::Identity,
    connection::{Bootstrap, Connections, Place, Refused},
    protocol::Version,
};

/// How long a client waits for its handshake. Then it is answered, so that proxies and clients do not take the server for dead; if the
/// call to the API fails after that, the connection is closed.
const LONGEST: Duration = Duration::from_secs(5);
/// When to come back to another instance, or to this one when it has been started again.
const STOPPING: Duration = Duration::from_secs(1);

/// Asks the API about a client, and waits for the answer as long as its handshake may take; the request goes on if that was not
/// enough. Nobody is asked about a client of version 4. A client that disconnects is waited for by nobody: the listener drops this then.
///
/// # Errors
/// When the API could not be asked: the answer to the handshake.
pub(super) async fn admission(
    connections: &Arc<Connections>,
    version: Version,
    identity: &Identity,
    place: &Place,
) -> Result<Option<Bootstrap>, Box<Response>> {
    if version == Version::V4 {
        return Ok(None);
    }
    let bootstrap = connections.bootstrap(version, identity.clone(), place.address());
    let mut waiting = Waiting { connections, is_over: false };
    let outcome = tokio::select! {
        outcome = bootstrap.outcome() => outcome,
        () = sleep(LONGEST) => {
            waiting.is_over = true;
            return Ok(Some(bootstrap));
        }
        () = connections.ended() => {
            waiting.is_over = true;
            return Err(try_later("the server is stopping", STOPPING));
        }
    };
    waiting.is_over = true;
    match outcome {
        Err(error) if !error.is_final() => {
            let retry_after = match connections.refusal(&error) {
                Refused::TryLater { retry_after } => retry_after,
                _ => STOPPING,
            };
            Err(try_later("the API cannot be asked who this client is", retry_after))
        }
        _ => Ok(Some(bootstrap)),
    }
}

/// Counts a client that is gone before its handshake has been answered.
struct Waiting<'a> {
    connections: &'a Connections,
    is_over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.connections.metrics.connections_refused.inc("gone");
        }
    }
}

/// 503. What the API says of clients is logged where it is asked.
fn try_later(detail: &str, retry_after: Duration) -> Box<Response> {
    let mut response = refusals::unlogged(reply::error(StatusCode::SERVICE_UNAVAILABLE, "try-later", detail));
    let seconds = retry_after.as_secs_f64().ceil() as u64;
    response.headers_mut().insert(header::RETRY_AFTER, seconds.max(1).into());
    Box::new(response)
}
