//! A client's side of listening for a connection.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Channelstream, Unavailable, command::Order, state::Done};

/// What came of wanting to listen.
#[derive(Debug)]
pub enum Attached {
    /// What comes for the connection goes into the outbox.
    Listening(Listening),
    /// There is no such connection.
    Unknown,
    /// A socket listens for it already, and a poll does not take its place.
    Occupied,
}

/// A client that listens for a connection; it does not any more when this is dropped.
#[derive(Debug)]
pub struct Listening {
    pub(super) channelstream: Arc<Channelstream>,
    pub(super) connection: Uuid,
    pub(super) link: Uuid,
    pub(super) ended: CancellationToken,
    pub(super) is_attached: bool,
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
        self.is_attached = false; // what becomes of the order is not known if it fails, and it comes to the same in the end
        let carried = self.channelstream.carry(order).await?;
        Ok(matches!(carried.outcome, Ok(Done::Was(true))))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.channelstream.links.remove(self.link);
        if self.is_attached {
            let order = Order::Detach { connection: self.connection, link: self.link, has_got: false };
            self.channelstream.order([order]);
        }
    }
}
