//! The broker inside the process: for a single instance, and for trying things out.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};

use super::{Batch, Delivery, Error};

/// Triggers accepted and not yet consumed; a publisher waits when there are more.
const CAPACITY: usize = 4096;
/// The most deliveries handed over at once.
const BATCH: usize = 256;
/// How long a publisher waits for a place.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) fn open() -> (Publisher, Consumer) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    (
        Publisher { sender },
        Consumer { receiver, taken: Vec::new(), consuming: watch::Sender::new(true), gaps: watch::Sender::new(0) },
    )
}

#[derive(Debug, Clone)]
pub(super) struct Publisher {
    sender: mpsc::Sender<Bytes>,
}

impl Publisher {
    pub(super) async fn publish(&self, body: Bytes) -> Result<(), Error> {
        self.publish_until(Instant::now() + DEADLINE, body).await
    }

    pub(super) async fn publish_all(&self, bodies: Vec<Bytes>) -> Vec<Result<(), Error>> {
        let deadline = Instant::now() + DEADLINE; // for all of them
        let mut outcomes = Vec::with_capacity(bodies.len());
        for body in bodies {
            outcomes.push(self.publish_until(deadline, body).await);
        }
        outcomes
    }

    async fn publish_until(&self, deadline: Instant, body: Bytes) -> Result<(), Error> {
        match timeout_at(deadline, self.sender.send(body)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::Away),
            Err(_) => Err(Error::TimedOut(DEADLINE)),
        }
    }
}

#[derive(Debug)]
pub(super) struct Consumer {
    receiver: mpsc::Receiver<Bytes>,
    /// Taken from the receiver and not yet handed over.
    taken: Vec<Delivery>,
    consuming: watch::Sender<bool>,
    gaps: watch::Sender<u64>,
}

impl Consumer {
    /// Loses nothing when it is dropped while it waits.
    pub(super) async fn next(&mut self) -> Batch {
        if self.taken.is_empty() {
            let Some(first) = self.receiver.recv().await else {
                // Every publisher is gone: nothing will ever come.
                return std::future::pending().await;
            };
            self.taken.push(Delivery { body: first });
        }
        // Under load others are about to publish, too; what is handed over together is written together.
        tokio::task::yield_now().await;
        while self.taken.len() < BATCH
            && let Ok(body) = self.receiver.try_recv()
        {
            self.taken.push(Delivery { body });
        }
        Batch { deliveries: std::mem::take(&mut self.taken), tag: None }
    }

    /// Takes nothing more; what was taken and not handed over.
    pub(super) fn close(mut self) -> Vec<Delivery> {
        self.receiver.close();
        while let Ok(body) = self.receiver.try_recv() {
            self.taken.push(Delivery { body });
        }
        self.taken
    }

    pub(super) fn gaps(&self) -> watch::Receiver<u64> {
        self.gaps.subscribe()
    }

    pub(super) fn is_consuming(&self) -> watch::Receiver<bool> {
        self.consuming.subscribe()
    }
}
