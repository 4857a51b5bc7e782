//! A small HTTP API to stand behind the sidecar: a login cookie, the rooms a user may join, and a way to publish.
//!
//! It shows all that an API has to do for the sidecar: answer `bootstrap/`, and post a trigger when something has
//! happened. It knows nothing of WebSockets nor of who is connected.

mod api;
mod sessions;

use std::{env, io, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use reqwest::Url;
use tokio::{
    net::TcpListener,
    pin, select,
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use api::Api;

/// How long requests under way may take once it has been told to stop.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long the sidecar may take to accept a trigger.
const TRIGGER_DEADLINE: Duration = Duration::from_secs(10);

/// What the environment says.
struct Settings {
    /// `SAMPLE_LISTEN`: where to listen.
    listen: SocketAddr,
    /// `SIDECAR_WS`: where the page finds the sidecar, as a URL or, on the page's own host, as `:PORT/PATH`.
    websocket: String,
    /// `TRIGGER_URL`: where triggers are posted.
    trigger: Url,
    /// `INTERNAL_TOKEN`: what the sidecar wants to be shown with a trigger, if anything.
    token: Option<String>,
}

/// Why it does not serve.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0} must be {1}")]
    Setting(&'static str, &'static str),
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("cannot wait for signals")]
    Signal(#[source] io::Error),
    #[error("no HTTP client for triggers")]
    Client(#[source] reqwest::Error),
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).with_target(false).init();
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "the sample API cannot serve");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Error> {
    let settings = settings()?;
    // The HTTP client asks for one, although it speaks plain HTTP here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TRIGGER_DEADLINE)
        .build()
        .map_err(Error::Client)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    let listener = TcpListener::bind(settings.listen).await.map_err(|error| Error::Listen(settings.listen, error))?;
    info!(listen = %settings.listen, trigger = %settings.trigger, "the sample API is serving");
    let routes = api::routes(Arc::new(Api::new(client, settings.trigger, settings.token)), settings.websocket);
    let stop = CancellationToken::new();
    let serving = warp::serve(routes).incoming(listener).graceful(stop.clone().cancelled_owned()).run();
    pin!(serving);
    select! {
        () = &mut serving => return Ok(()),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    // A browser keeps connections open that it does not use; nothing is lost with those.
    let _ = timeout(GOODBYE, serving).await;
    Ok(())
}

fn settings() -> Result<Settings, Error> {
    let listen = variable("SAMPLE_LISTEN").unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let websocket = variable("SIDECAR_WS").unwrap_or_else(|| ":8000/ws/".to_owned());
    let trigger = variable("TRIGGER_URL").unwrap_or_else(|| "http://127.0.0.1:8002/trigger/".to_owned());
    if !["ws://", "wss://", ":"].iter().any(|start| websocket.starts_with(start)) {
        return Err(Error::Setting("SIDECAR_WS", "a URL like ws://127.0.0.1:8000/ws/, or :8000/ws/"));
    }
    let trigger = Url::parse(&trigger).ok().filter(|url| url.scheme() == "http");
    Ok(Settings {
        listen: listen.parse().map_err(|_| Error::Setting("SAMPLE_LISTEN", "ADDRESS:PORT, like 127.0.0.1:8080"))?,
        websocket,
        trigger: trigger.ok_or(Error::Setting("TRIGGER_URL", "a URL like http://127.0.0.1:8002/trigger/"))?,
        token: variable("INTERNAL_TOKEN"),
    })
}

/// A variable of the environment; an empty one counts as unset.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
