//! Server-sent events: one response that does not end, with the frames that a socket would be sent.
//!
//! The client can say nothing but in its request, which is carried out as one message: a list of subscriptions.

mod events;
mod marks;
mod record;

use std::{convert::Infallible, fmt::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::value::RawValue;
use tokio::time::{interval, sleep, timeout};

pub use self::marks::{Since, TooLong, read_all};
use self::{events::Events, marks::Marks};
use crate::{
    backend::Identity,
    connection::{CatchUp, Connection, Connections, Link, Place, Refused},
    hub::{Frame, Outbox},
    protocol::{CloseCode, Version},
    room::RoomKey,
};

/// How long a client may take nothing of what waits for it.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How long the last events may take to go out.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// When to look again whether a position is known by now.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The largest piece that is handed to the HTTP server, which takes several before it looks whether the client does.
const PIECE_BYTES: usize = 16 << 10;

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

/// Has a client served that wants to hear rooms: the body of the answer. Waits until it is authorised.
///
/// # Errors
/// When it may not, or not now.
pub async fn open(
    wanted: &[Wanted],
    identity: Identity,
    place: Place,
    connections: &Arc<Connections>,
) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + use<>, Refused> {
    let events = Events::new(Marks::new(wanted.iter().map(|wanted| wanted.since)));
    let (events, link) = connections.register(events, Version::V4, identity, place);
    let rooms: Vec<_> = wanted.iter().map(|wanted| &wanted.key).collect();
    let mut connection = tokio::select! {
        admitted = link.authenticate(None, &rooms) => admitted?,
        () = link.outbox().needs_task() => return Err(Refused::Gone), // the server is stopping, or has been told to end it
    };
    // Over the limit the outbox closes itself, which the client is told.
    let _ = connection.on_long_message(&request(wanted)).await;
    let body = Body { events: events.clone(), outbox: link.outbox().clone(), piece: Bytes::new() };
    connections.tasks.spawn(serve(events, connection, link));
    Ok(stream::unfold(body, async |mut body| body.next().await.map(|piece| (Ok(piece), body))))
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

/// Serves an authorised client until its outbox is closing.
async fn serve(events: Arc<Outbox<Events>>, mut connection: Connection, link: Link) {
    let outbox = link.outbox();
    let mut pings = interval(link.connections().config.ping_interval);
    pings.reset();
    let mut is_level = false;
    while !outbox.is_closing() {
        let mut look_again = None;
        if connection.is_behind() {
            match connection.catch_up().await {
                Ok(CatchUp::More) => continue,
                Ok(CatchUp::Full) if outbox.is_empty() => continue,
                Ok(CatchUp::Waiting) => look_again = Some(LOOK_AGAIN),
                Ok(CatchUp::Full | CatchUp::Done) | Err(_) => {} // a full outbox is closing
            }
        }
        if !is_level && !connection.is_behind() && outbox.is_empty() {
            events.wire().level();
            is_level = true;
        }
        tokio::select! {
            () = outbox.needs_task() => {}
            () = events.wire().taken.notified(), if !is_level => {}
            () = sleep(look_again.unwrap_or_default()), if look_again.is_some() => {}
            _ = pings.tick() => match outbox.blocked_for() {
                None => {
                    let _ = outbox.push(Frame::Ping); // as above
                    outbox.flush();
                    connection.is_there();
                    connection.renew_ticket();
                }
                Some(blocked) if blocked.min(events.wire().idle_for()) >= WRITE_DEADLINE => {
                    outbox.close(CloseCode::TooSlow, "too slow");
                }
                Some(_) => {}
            },
        }
    }
    connection.leave().await;
    let finished = async {
        while !events.wire().is_over() {
            events.wire().taken.notified().await;
        }
    };
    if timeout(FLUSH_DEADLINE, finished).await.is_err() {
        events.wire().give_up();
    }
}

/// The client's end of the events.
struct Body {
    events: Arc<Outbox<Events>>,
    /// The same.
    outbox: Arc<Outbox>,
    /// What has been taken, and is still to be handed on.
    piece: Bytes,
}

impl Body {
    /// What comes next, as soon as something does.
    async fn next(&mut self) -> Option<Bytes> {
        self.events.wire().hand_on();
        while self.piece.is_empty() {
            self.piece = self.events.wire().take()?.into();
            if self.piece.is_empty() {
                self.events.wire().written.notified().await;
            } else {
                self.outbox.resume(); // there is room again
            }
        }
        Some(self.piece.split_to(self.piece.len().min(PIECE_BYTES)))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // Whether that was the end, or the client has gone: nobody takes any more.
        if !self.events.wire().is_over() {
            self.outbox.abandon();
            self.events.wire().give_up();
        }
    }
}
