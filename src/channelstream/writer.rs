//! From orders to messages in the log.

use tokio::sync::{mpsc, oneshot};
use tracing::warn;
use uuid::Uuid;

use super::command::{Command, Message};
use crate::broker::{Kind, Publisher};

/// Commands of one message.
const COMMANDS: usize = 256;
/// A message ends with the command that makes it longer than this: RabbitMQ takes some MiB, and triggers go the same way.
const BYTES: usize = 256 << 10;

/// A command on its way to the log.
#[derive(Debug)]
pub(super) struct Ordered {
    pub(super) command: Command,
    /// Told when it is there.
    pub(super) published: Option<oneshot::Sender<()>>,
}

/// Publishes what is ordered, in its order. What is ordered while a message is on its way goes together in the next one.
#[derive(Debug)]
pub(super) struct Writer {
    me: Uuid,
    ordered: mpsc::UnboundedReceiver<Ordered>,
}

impl Writer {
    pub(super) fn new(me: Uuid, ordered: mpsc::UnboundedReceiver<Ordered>) -> Self {
        Self { me, ordered }
    }

    /// Publishes for ever. `failed` is told of commands that did not come to the log, as
    /// far as is known.
    pub(super) async fn run(&mut self, publisher: &Publisher, failed: impl Fn(&[Uuid])) {
        while let Some(first) = self.ordered.recv().await {
            self.publish(first, publisher, &failed).await;
        }
    }

    async fn publish(&mut self, first: Ordered, publisher: &Publisher, failed: &impl Fn(&[Uuid])) {
        let (mut ids, mut texts, mut bytes, mut told) = (Vec::new(), Vec::new(), 0, Vec::new());
        let mut next = Some(first);
        while let Some(Ordered { command, published }) = next {
            told.extend(published);
            match serde_json::to_string(&command) {
                Ok(text) => {
                    bytes += text.len();
                    ids.push(command.id);
                    texts.push(text);
                }
                Err(_) => failed(&[command.id]),
            }
            let has_room = texts.len() < COMMANDS && bytes < BYTES;
            next = if has_room { self.ordered.try_recv().ok() } else { None };
        }
        let body = Message::text(self.me, &texts);
        match publisher.publish(Kind::Channelstream, body.into()).await {
            Ok(()) => told.into_iter().for_each(|told| {
                let _ = told.send(()); // perhaps nobody waits any more
            }),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, commands = ids.len(), "not accepted by the broker");
                failed(&ids);
            }
        }
    }
}
