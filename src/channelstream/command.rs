//! What instances tell each other about Channelstream, as it stands in the log: a list of commands, which each of them
//! carries out in the log's order and to the same effect.

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use uuid::{Builder, Uuid};

use super::{Call, state::Era};
use crate::protocol::channelstream::Timestamp;

/// One message in the log.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    /// Whose it is.
    pub(super) instance: Uuid,
    /// In their order.
    pub(super) commands: Vec<Command>,
}

/// One thing that is to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Command {
    pub(super) id: Uuid,
    /// When it was given, by the clock of who gave it.
    pub(super) at: Timestamp,
    pub(super) order: Order,
}

/// What is to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Order {
    /// What a caller wants.
    Call(Call),
    /// Nothing: who gave it wants to be where the log is.
    Look,
    /// A client listens for what comes for `connection`, by `link`, at the instance that says so.
    Attach {
        connection: Uuid,
        link: Uuid,
        by: By,
        /// The last frame that there was when the client came.
        since: u64,
    },
    /// It does not any more.
    Detach {
        connection: Uuid,
        link: Uuid,
        /// The client has been given what came meanwhile.
        has_got: bool,
    },
    /// Nobody has listened for `connection` for too long.
    Collect {
        connection: Uuid,
        /// Unless there was a sign of life after this one.
        signs: u64,
    },
    /// Nobody has seen `user` for too long.
    Forget {
        user: String,
        /// Unless there was a sign of life after this one.
        signs: u64,
    },
    /// Who says so is there, and knows all of this era.
    Beat { era: Option<Era> },
    /// An instance has died or stopped.
    Gone { instance: Uuid },
    /// From here on, with what the snapshot of this name holds, all is known.
    Mark {
        snapshot: Uuid,
        /// Who is to make it.
        from: Maker,
    },
    /// A piece of it.
    Piece(Piece),
}

/// How a client listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum By {
    /// A socket, which is sent what comes.
    Socket,
    /// A request, which is answered with what comes.
    Poll,
}

/// Who makes a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Maker {
    /// Who says so.
    Myself,
    /// One of those that know all: the how manieth, as they are ordered by their ids.
    Other(usize),
}

/// A piece of a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) snapshot: Uuid,
    /// Counted from 0.
    pub(super) number: usize,
    pub(super) of: usize,
    pub(super) text: String,
}

impl Message {
    /// The text of a message with these commands, which are JSON already.
    pub(super) fn text<'c>(instance: Uuid, commands: impl Iterator<Item = &'c str>) -> String {
        let mut text = format!(r#"{{"instance":"{instance}","commands":["#);
        for (number, command) in commands.enumerate() {
            if number > 0 {
                text.push(',');
            }
            text.push_str(command);
        }
        text.push_str("]}");
        text
    }
}

impl Command {
    pub(super) fn new(order: Order) -> Self {
        Self { id: Uuid::new_v4(), at: Timestamp::now(), order }
    }
}

/// Ids that every instance makes the same of one command.
#[derive(Debug)]
pub(super) struct Ids<'a> {
    command: &'a Command,
    made: u32,
}

impl<'a> Ids<'a> {
    pub(super) fn of(command: &'a Command) -> Self {
        Self { command, made: 0 }
    }

    /// The next one; looks like a random one (RFC 9562 section 5.4).
    pub(super) fn next(&mut self) -> Uuid {
        self.made += 1;
        let bytes = [&self.command.id.as_bytes()[..], &self.made.to_be_bytes()].concat();
        let hash = digest(&SHA256, &bytes);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_ref()[..16]);
        Builder::from_random_bytes(id).into_uuid()
    }
}
