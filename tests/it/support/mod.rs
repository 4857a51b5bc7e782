//! What the tests stand on.

pub mod backend;
pub mod channelstream;
pub mod client;
pub mod events;
pub mod http;
pub mod process;
pub mod proxy;
pub mod rabbitmq;
pub mod raw_amqp;
pub mod server;
pub mod tls;
pub mod users;

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};

pub use self::{
    backend::StubBackend,
    client::Client,
    proxy::Proxy,
    rabbitmq::{Cluster, Node},
    server::TestServer,
    users::Users,
};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
