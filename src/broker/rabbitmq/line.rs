//! One channel to publish on: messages in their order, each with its own outcome.
//!
//! lapin takes a message's delivery tag and queues its frames without a common lock, and gives a returned message to the next
//! confirm, whichever that is. So one task publishes, and each message carries an id of its own by which a returned one is
//! told apart.

use std::{collections::HashSet, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use uuid::Uuid;

use super::{CONNECT_DEADLINE, sizes::Sizes, topology};
use crate::logging::chain;

/// The header that names the instance that published an entry.
pub(super) const INSTANCE_HEADER: &str = "x-high-templar-instance";
/// Messages that wait for their turn; who publishes more waits, too.
const WAITING: usize = 256;
/// Messages on their way at once.
const IN_FLIGHT: usize = 2048;

/// Why a message was not published.
#[derive(Debug)]
pub(super) enum Failure {
    /// RabbitMQ was not given it.
    NotSent,
    /// No queue took it.
    Returned,
    /// It is larger than RabbitMQ takes.
    TooLarge(usize),
    /// RabbitMQ refused it, or the connection ended; RabbitMQ may have it all the same.
    Refused(Option<lapin::Error>),
}

/// Publishes on one channel. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Line(mpsc::Sender<Order>);

/// A message to be published.
#[derive(Debug)]
struct Order {
    key: ShortString,
    writer: Option<Uuid>,
    body: Bytes,
    outcome: oneshot::Sender<Result<(), Failure>>,
}

/// A message that has its place in the order.
#[derive(Debug)]
pub(super) struct Sent(oneshot::Receiver<Result<(), Failure>>);

impl Sent {
    /// Waits for its outcome.
    pub(super) async fn outcome(self) -> Result<(), Failure> {
        self.0.await.unwrap_or(Err(Failure::Refused(None)))
    }
}

impl Line {
    /// Whether its channel has ended, so that every message is refused.
    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Gives `body` its place behind all messages given before. An instance names itself as the `writer` of what is for
    /// instances only.
    pub(super) async fn send(&self, key: &str, writer: Option<Uuid>, body: Bytes) -> Result<Sent, Failure> {
        let (outcome, told) = oneshot::channel();
        let order = Order { key: key.into(), writer, body, outcome };
        self.0.send(order).await.map_err(|_| Failure::NotSent)?;
        Ok(Sent(told))
    }
}

/// Carries the messages of a [`Line`].
pub(super) struct Carrier {
    connection: Arc<Connection>,
    channel: Channel,
    exchange: ShortString,
    sizes: Arc<Sizes>,
    orders: mpsc::Receiver<Order>,
    in_flight: InFlight,
    /// At most so many at once.
    most: usize,
    count: u64,
    /// What RabbitMQ had against a message, where that was not its size.
    ended_by: Option<lapin::Error>,
}

/// Messages on their way.
type InFlight = FuturesUnordered<Pin<Box<dyn Future<Output = Outcome> + Send>>>;

/// What has become of one message.
struct Outcome {
    id: String,
    length: usize,
    result: lapin::Result<Confirmation>,
    told: oneshot::Sender<Result<(), Failure>>,
}

impl Carrier {
    /// A channel of `connection` for messages to `exchange`: many at once, or, where RabbitMQ may end the channel over their
    /// size, one by one.
    pub(super) async fn open(
        connection: Arc<Connection>,
        exchange: &str,
        sizes: Arc<Sizes>,
        is_careful: bool,
    ) -> lapin::Result<(Line, Self)> {
        let channel = open_channel(&connection).await?;
        let (sender, orders) = mpsc::channel(WAITING);
        let most = if is_careful { 1 } else { IN_FLIGHT };
        let (in_flight, exchange) = (FuturesUnordered::new(), exchange.into());
        Ok((
            Line(sender),
            Self { connection, channel, exchange, sizes, orders, in_flight, most, count: 0, ended_by: None },
        ))
    }

    /// Publishes until `stop`, which it sets itself when the channel ends, and returns why that did. Every message that is left
    /// gets an outcome, those on their way when the connection ends.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> Option<lapin::Error> {
        let _stop = stop.clone().drop_guard();
        loop {
            let has_ended = !self.channel.status().connected();
            tokio::select! {
                biased;
                Some(first) = self.in_flight.next() => self.settle(first).await,
                () = stop.cancelled() => break,
                order = self.orders.recv(), if !has_ended && self.in_flight.len() < self.most => match order {
                    Some(order) => self.publish(order),
                    None => break,
                },
                () = std::future::ready(()), if has_ended && self.in_flight.is_empty() => break,
            }
        }
        stop.cancel();
        self.orders.close();
        while let Ok(order) = self.orders.try_recv() {
            let _ = order.outcome.send(Err(Failure::NotSent));
        }
        while let Some(first) = self.in_flight.next().await {
            self.settle(first).await;
        }
        self.ended_by
    }

    /// Hands a message over to lapin, which gives it its delivery tag and queues its frames before this returns.
    fn publish(&mut self, order: Order) {
        if order.outcome.is_closed() {
            return; // its publisher has been told that it was not accepted
        }
        if !self.channel.status().connected() {
            let _ = order.outcome.send(Err(Failure::NotSent));
            return;
        }
        self.count += 1;
        let id = self.count.to_string();
        let Order { key, writer, body, outcome: told } = order;
        let mut properties = BasicProperties::default().with_message_id(id.as_str().into());
        if let Some(writer) = writer {
            let mut headers = FieldTable::default();
            headers.insert(INSTANCE_HEADER.into(), AMQPValue::LongString(writer.to_string().into()));
            properties = properties.with_headers(headers);
        }
        let (channel, exchange) = (self.channel.clone(), self.exchange.clone());
        let mut publishing: Pin<Box<dyn Future<Output = Outcome> + Send>> = Box::pin(async move {
            // Mandatory: a message that no queue takes comes back instead of being confirmed into the void.
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let result = match channel.basic_publish(exchange, key, options, &body, properties).await {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            };
            Outcome { id, length: body.len(), result, told }
        });
        match publishing.as_mut().now_or_never() {
            None => self.in_flight.push(publishing),
            Some(outcome) => self.in_flight.push(Box::pin(std::future::ready(outcome))),
        }
    }

    /// Tells the outcomes of all messages that have one.
    async fn settle(&mut self, first: Outcome) {
        let (outcomes, returned) = settled(first, &mut self.in_flight).await;
        for Outcome { id, length, result, told } in outcomes {
            let outcome = match result {
                Ok(Confirmation::Ack(_)) if returned.contains(&id) => Err(Failure::Returned),
                Ok(Confirmation::Ack(_)) => {
                    self.sizes.taken(length);
                    Ok(())
                }
                Ok(_) => Err(Failure::Refused(None)),
                Err(error) => Err(self.failed(error, length).await),
            };
            let _ = told.send(outcome); // a publisher that has given up waiting has been told
        }
    }

    /// What an error means for its message of `length` bytes. A channel that RabbitMQ has ended because of a message's size is
    /// replaced.
    async fn failed(&mut self, error: lapin::Error, length: usize) -> Failure {
        let Some(limit) = topology::message_size_limit(&error) else {
            self.ended_by.get_or_insert_with(|| error.clone());
            return Failure::Refused(Some(error));
        };
        if self.sizes.refused(limit) {
            info!(limit, "RabbitMQ takes no messages larger than this limit in bytes (max_message_size)");
        }
        // All others that were on their way have the same outcome.
        if !self.channel.status().connected() {
            match timeout(CONNECT_DEADLINE, open_channel(&self.connection)).await {
                Ok(Ok(channel)) => self.channel = channel,
                Ok(Err(error)) => debug!(error = chain(&error), "no new channel to publish on"),
                Err(_) => debug!("no new channel to publish on within {CONNECT_DEADLINE:?}"),
            }
        }
        // Others that were on the same channel may be in the log or not.
        if length > limit { Failure::TooLarge(limit) } else { Failure::Refused(Some(error)) }
    }
}

/// The outcomes of `first` and of all others of `in_flight` that have one, and the ids of those that were returned.
///
/// lapin hands a returned message to the confirm that completes next, before the message's own or after it. So a confirm that
/// carries one says nothing about its own message: all returned messages are known only when none is in flight.
async fn settled(first: Outcome, in_flight: &mut InFlight) -> (Vec<Outcome>, HashSet<String>) {
    let (mut outcomes, mut returned, mut next) = (Vec::new(), HashSet::new(), Some(first));
    while let Some(mut outcome) = next {
        if let Ok(Confirmation::Ack(message) | Confirmation::Nack(message)) = &mut outcome.result
            && let Some(message) = message.take()
        {
            returned.extend(message.delivery.properties.message_id().as_ref().map(ToString::to_string));
        }
        outcomes.push(outcome);
        next = match returned.is_empty() {
            true => in_flight.next().now_or_never().flatten(),
            false => in_flight.next().await,
        };
    }
    (outcomes, returned)
}

async fn open_channel(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

#[cfg(test)]
mod tests {
    use lapin::message::{BasicReturnMessage, Delivery};

    use super::*;

    /// A message that is confirmed, with the `returned` one.
    fn confirmed(id: &str, returned: Option<&str>) -> Outcome {
        let returned = returned.map(|id| {
            let mut delivery = Delivery::mock(0, "".into(), "".into(), false, Vec::new());
            delivery.properties = BasicProperties::default().with_message_id(id.into());
            BasicReturnMessage { delivery, reply_code: 312, reply_text: "NO_ROUTE".into() }
        });
        let (told, _) = oneshot::channel();
        Outcome { id: id.to_owned(), length: 1, result: Ok(Confirmation::Ack(returned)), told }
    }

    #[tokio::test]
    async fn a_returned_message_is_told_apart_whichever_confirm_it_comes_with() {
        let (later, comes) = oneshot::channel();
        let mut in_flight = InFlight::new();
        in_flight.push(Box::pin(async { comes.await.unwrap() }));
        let settling = settled(confirmed("7", Some("1")), &mut in_flight);
        tokio::pin!(settling);
        assert!(settling.as_mut().now_or_never().is_none(), "the return of 7 may come with another confirm");
        assert!(later.send(confirmed("1", Some("7"))).is_ok());
        let (outcomes, returned) = settling.await;
        assert_eq!(outcomes.len(), 2);
        assert_eq!(returned, ["1", "7"].map(str::to_owned).into());
    }

    #[tokio::test]
    async fn what_is_confirmed_waits_for_nobody() {
        let mut in_flight = InFlight::new();
        in_flight.push(Box::pin(std::future::pending()));
        in_flight.push(Box::pin(std::future::ready(confirmed("2", None))));
        let (outcomes, returned) = settled(confirmed("1", None), &mut in_flight).now_or_never().unwrap();
        assert_eq!((outcomes.len(), returned.len(), in_flight.len()), (2, 0, 1));
    }
}
