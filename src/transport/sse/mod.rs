//! Server-sent events: an endless response that carries the frames of a version 4 WebSocket.
//!
//! A client cannot send frames. Its request is treated as one `subscribe` message.

mod marks;
mod serve;
mod wire;

use std::{fmt::Write, sync::Arc};

use serde_json::value::RawValue;

use self::{marks::Marks, serve::Client, wire::EventStream};
pub use self::{
    marks::{Since, TooLong, read_all},
    wire::opening,
};
use super::socket::Socket;
use crate::{
    backend::Identity,
    connection::{Connections, Place, Refused},
    protocol::Version,
    room::RoomKey,
};

/// A room that a client wants to hear.
#[derive(Debug)]
pub struct Wanted {
    /// As the client wrote it.
    pub room: Box<RawValue>,
    /// The same, for its permissions.
    pub key: RoomKey,
    /// The position from which on it wants to hear it.
    pub since: Option<Since>,
}

/// The most rooms of one stream. Each event has an `id`, which may hold a position for each of them.
pub const MOST_ROOMS: usize = 128;

/// Admits a client that wants to hear rooms, and returns what serves it once the head of its response has been written. Waits until
/// it is authorised.
///
/// # Errors
/// When it may not, or not now.
pub async fn open(
    wanted: &[Wanted],
    is_chunked: bool,
    identity: Identity,
    place: Place,
    connections: &Arc<Connections>,
) -> Result<impl FnOnce(Socket, Vec<u8>) + Send + use<>, Refused> {
    let wire = EventStream::new(Marks::new(wanted.iter().map(|wanted| wanted.since)), is_chunked);
    let (stream, link) = connections.register(wire, Version::V4, identity, place);
    let rooms: Vec<_> = wanted.iter().map(|wanted| &wanted.key).collect();
    let closing = async {
        while !link.outbox().is_closing() {
            link.outbox().needs_task().await;
        }
    };
    let mut connection = tokio::select! {
        biased;
        admitted = link.authenticate(None, &rooms, None) => admitted?,
        () = closing => return Err(Refused::Gone), // the server is stopping, or has been told to end it
    };
    // Over the limit the outbox closes itself, which the client is told.
    let _ = connection.on_long_message(&request(wanted)).await;
    Ok(move |socket, _ahead| {
        link.keep_connection();
        let tasks = link.connections().tasks.clone();
        tasks.spawn(Client { stream, connection, link }.serve(socket));
    })
}

/// What a client with a socket would say.
fn request(wanted: &[Wanted]) -> String {
    let mut text = String::from(r#"{"type":"subscribe","subscriptions":["#);
    for (number, Wanted { room, since, .. }) in wanted.iter().enumerate() {
        let comma = if number > 0 { "," } else { "" };
        let _ = write!(text, r#"{comma}{{"requestId":"{number}","room":{room}"#); // a text takes everything
        if let Some(since) = since {
            let _ = write!(text, r#","since":"{since}""#);
        }
        text.push('}');
    }
    text + "]}"
}
