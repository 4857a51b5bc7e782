//! A client's side of listening for a connection.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Channelstream, Unavailable, command::Order, state::Done, throttle::Turn};

/// What came of wanting to listen.
#[derive(Debug)]
pub enum Attached {
    /// What comes for the connection goes into the outbox.
    Listening(Listening),
    /// There is no such connection.
    Unknown,
    /// A socket listens for it already, and a poll does not take its place; or a newer client is about to.
    Occupied,
}

/// Whether the log says that a client listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    No,
    /// The command is on its way.
    Perhaps,
    Yes,
}

/// A client that listens for a connection; it does not any more when this is dropped.
#[derive(Debug)]
pub struct Listening {
    pub(super) channelstream: Arc<Channelstream>,
    pub(super) connection: Uuid,
    pub(super) link: Uuid,
    pub(super) ended: CancellationToken,
    pub(super) is_noted: Noted,
    pub(super) turn: Turn,
}

impl Listening {
    /// Whether the connection that is listened for is still there.
    pub fn is_for_somebody(&self) -> bool {
        self.channelstream.replica.lock().state().is_some_and(|state| state.has_connection(self.connection))
    }

    /// Waits until the outbox gets nothing any more: the connection is gone, or another client listens for it.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Does not listen any more. What came before is in the outbox when this returns; what comes after is kept for later.
    /// `false` when another client has taken over, which is given all of it.
    ///
    /// # Errors
    /// As [`Channelstream::call`]; it is not known then whether what is in the outbox comes again.
    pub async fn detach(mut self) -> Result<bool, Unavailable> {
        let order = Order::Detach { connection: self.connection, link: self.link, has_got: true };
        self.is_noted = Noted::No; // what becomes of the order is not known if it fails, and it comes to the same in the end
        let carried = self.channelstream.carry(order).await?;
        let is_for_this_one = matches!(carried.outcome, Ok(Done::Was(true)));
        if is_for_this_one {
            self.turn.answered();
        }
        Ok(is_for_this_one)
    }

    /// Whether the other instances have to be told that this client does not listen any more. They know already if, at some
    /// place in the log, another client has taken over or the connection has gone: a link that has ended never counts again.
    fn is_to_be_told(&self) -> bool {
        match self.is_noted {
            Noted::No => false,
            Noted::Perhaps => true,
            Noted::Yes => {
                let replica = self.channelstream.replica.lock();
                replica.state().is_none_or(|state| state.is_listened_for(self.connection, self.link))
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.channelstream.links.remove(self.link);
        if self.is_to_be_told() {
            let order = Order::Detach { connection: self.connection, link: self.link, has_got: false };
            self.channelstream.order([order]);
        }
    }
}
