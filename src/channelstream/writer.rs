//! From orders to messages in the log.

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use uuid::Uuid;

use super::{
    DEADLINE,
    command::{Command, Message},
};
use crate::{
    broker::{Kind, Publisher},
    logging::{chain, limited},
};

/// Commands of one message.
const COMMANDS: usize = 256;
/// A longer message has one command only: RabbitMQ takes some MiB, and triggers go the same way.
const BYTES: usize = 256 << 10;

/// A command on its way to the log.
#[derive(Debug)]
pub(super) struct Ordered {
    pub(super) command: Command,
    /// When nobody waits for it any more.
    pub(super) expires: Instant,
    /// Told when it is there.
    pub(super) published: Option<oneshot::Sender<()>>,
}

impl Ordered {
    /// One that is given up if it is not on its way in time.
    pub(super) fn new(command: Command) -> Self {
        Self { command, expires: Instant::now() + DEADLINE, published: None }
    }
}

/// A command as it is written.
#[derive(Debug)]
struct Written {
    id: Uuid,
    text: String,
    published: Option<oneshot::Sender<()>>,
}

/// Publishes what is ordered, in its order. What is ordered while a message is on its way goes together in the next one.
#[derive(Debug)]
pub(super) struct Writer {
    me: Uuid,
    ordered: mpsc::UnboundedReceiver<Ordered>,
    /// What was too large for the last message, and begins the next one.
    next: Option<Written>,
}

impl Writer {
    pub(super) fn new(me: Uuid, ordered: mpsc::UnboundedReceiver<Ordered>) -> Self {
        Self { me, ordered, next: None }
    }

    /// What is ordered, for who does without a broker.
    #[cfg(test)]
    pub(super) fn into_ordered(self) -> mpsc::UnboundedReceiver<Ordered> {
        self.ordered
    }

    /// Publishes for ever. `failed` is told of commands that did not come to the log, as far as is known.
    pub(super) async fn run(&mut self, publisher: &Publisher, failed: impl Fn(&[Uuid])) {
        loop {
            let first = match self.next.take() {
                Some(first) => Some(first),
                None => match self.ordered.recv().await {
                    Some(ordered) => write(ordered, &failed),
                    None => return,
                },
            };
            if let Some(first) = first {
                self.publish(first, publisher, &failed).await;
            }
        }
    }

    async fn publish(&mut self, first: Written, publisher: &Publisher, failed: &impl Fn(&[Uuid])) {
        let mut bytes = first.text.len();
        let mut written = vec![first];
        while written.len() < COMMANDS
            && bytes < BYTES
            && let Ok(ordered) = self.ordered.try_recv()
        {
            let Some(more) = write(ordered, failed) else { continue };
            bytes += more.text.len();
            if bytes > BYTES {
                self.next = Some(more);
                break;
            }
            written.push(more);
        }
        let body = Message::text(self.me, written.iter().map(|written| written.text.as_str()));
        match publisher.publish(Kind::Channelstream, body.into()).await {
            Ok(()) => {
                for told in written.into_iter().filter_map(|written| written.published) {
                    let _ = told.send(()); // perhaps nobody waits any more
                }
            }
            Err(error) => {
                let ids: Vec<_> = written.iter().map(|written| written.id).collect();
                let error = chain(&error);
                limited!(warn, "commands of Channelstream not accepted by the broker", error, commands = ids.len());
                failed(&ids);
            }
        }
    }
}

/// The text of a command, unless nobody waits for it any more: with a broker that takes nothing, there would be more and more.
fn write(ordered: Ordered, failed: &impl Fn(&[Uuid])) -> Option<Written> {
    let Ordered { command, expires, published } = ordered;
    let text = if expires < Instant::now() { None } else { serde_json::to_string(&command).ok() };
    if text.is_none() {
        failed(&[command.id]);
    }
    Some(Written { id: command.id, text: text?, published })
}
