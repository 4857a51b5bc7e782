//! `high-templar explain`: why may this connection not join this room?

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Args;
use reqwest::{Client, Url};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::local;
use crate::{config::Internal, logging::chain};

/// How long the server may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Connections of one user that are explained.
const MOST: usize = 100;

/// Ask the running server why a connection may, or may not, join a room
///
/// Asks at INTERNAL_LISTEN, with INTERNAL_TOKEN, as they are configured; it is the instance there that is asked. Exits with 1
/// where the room is not allowed.
#[derive(Debug, Clone, Args)]
pub(super) struct Options {
    /// The connection, by the id that its welcome and /connections tell
    #[arg(long, required_unless_present = "user")]
    connection: Option<Uuid>,
    /// All connections of this user instead
    #[arg(long, conflicts_with = "connection")]
    user: Option<String>,
    /// The room, as JSON: {"target":"message"}
    room: String,
}

#[derive(Debug, Deserialize)]
struct Listed {
    connections: Vec<One>,
}

#[derive(Debug, Deserialize)]
struct One {
    connection: Uuid,
}

/// What the server says of a connection.
#[derive(Debug, Deserialize)]
struct Explanation {
    connection: Uuid,
    user: Option<String>,
    is_allowed: bool,
    detail: String,
    subscriptions: Vec<Box<RawValue>>,
}

/// What the server says when there is nothing to explain.
#[derive(Debug, Deserialize)]
struct Refusal {
    message: String,
    detail: String,
}

/// Writes one line for each connection. Whether all of them may join the room.
pub(super) async fn run(config: &Internal, options: &Options, out: &mut impl Write) -> Result<bool, String> {
    let server = Server::new(config)?;
    let connections = match (&options.connection, &options.user) {
        (Some(connection), _) => vec![*connection],
        (None, user) => {
            let user = user.as_deref().unwrap_or_default();
            let listed: Listed = server.get("connections", &[("user", user), ("limit", &MOST.to_string())]).await?;
            listed.connections.into_iter().map(|one| one.connection).collect()
        }
    };
    if connections.is_empty() {
        return Err("the user has no connection on this instance".to_owned());
    }
    let mut is_allowed = true;
    for connection in connections {
        let query = [("connection", &*connection.to_string()), ("room", &options.room)];
        let explanation: Explanation = server.get("explain", &query).await?;
        is_allowed &= explanation.is_allowed;
        write(&explanation, out).map_err(|error| error.to_string())?;
    }
    Ok(is_allowed)
}

fn write(explanation: &Explanation, out: &mut impl Write) -> io::Result<()> {
    let Explanation { connection, user, is_allowed, detail, subscriptions } = explanation;
    let user = user.as_deref().map_or_else(|| "no user".to_owned(), |user| format!("user {user}"));
    let outcome = if *is_allowed { "allowed" } else { "not allowed" };
    writeln!(out, "{connection} ({user}): {outcome}: {detail}")?;
    if !subscriptions.is_empty() {
        let ids: Vec<_> = subscriptions.iter().map(|id| id.get()).collect();
        writeln!(out, "  a trigger to it reaches the subscriptions {}", ids.join(", "))?;
    }
    Ok(())
}

/// The internal listener of the server.
struct Server<'a> {
    http: Client,
    base: Url,
    config: &'a Internal,
}

impl<'a> Server<'a> {
    fn new(config: &'a Internal) -> Result<Self, String> {
        let (http, base) = local::client(&config.listen, DEADLINE)?;
        Ok(Self { http, base, config })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, String> {
        let mut url = self.base.clone();
        url.set_path(path);
        url.query_pairs_mut().extend_pairs(query);
        let mut request = self.http.get(url);
        if let Some(token) = &self.config.token {
            request = request.header("authorization", [b"Bearer ", token.as_bytes()].concat());
        }
        let listen = &self.config.listen;
        let unreachable = |error: reqwest::Error| {
            format!("no server answers at {listen} (INTERNAL_LISTEN): {}", chain(&error.without_url()))
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let body = response.bytes().await.map_err(unreachable)?;
        if !status.is_success() {
            let Ok(Refusal { message, detail }) = serde_json::from_slice(&body) else {
                return Err(format!("what answers at {listen} is no high-templar: {status}"));
            };
            return Err(format!("{message}: {detail}"));
        }
        serde_json::from_slice(&body).map_err(|_| format!("what answers at {listen} is no high-templar"))
    }
}
