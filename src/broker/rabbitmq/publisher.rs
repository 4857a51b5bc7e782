//! Publishing to RabbitMQ with confirms.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{Error, Kind, Publishing, State},
    line::{Failure, Line, Sent},
    routing_key,
    shared::Shared,
    sizes::Sizes,
    upkeep::Upkeep,
};
use crate::{config, metrics::Metrics};

/// How long the broker may take to confirm.
pub(super) const CONFIRM_DEADLINE: Duration = Duration::from_secs(10);
/// How long publishing waits for its connection.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Publishes to RabbitMQ. Cheap to clone.
#[derive(Debug, Clone)]
pub(in super::super) struct Publisher {
    lines: watch::Receiver<Option<Lines>>,
    sizes: Arc<Sizes>,
    shared: Arc<Shared>,
}

/// The channels to publish on.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    /// For messages of a size that RabbitMQ is known to take.
    pub common: Line,
    /// For all others, one by one: RabbitMQ ends the channel of one that is too large.
    pub careful: Line,
}

impl Lines {
    /// The channel for a message whose size RabbitMQ `is_known` to take.
    fn line(&self, is_known: bool) -> &Line {
        if is_known { &self.common } else { &self.careful }
    }
}

/// The publisher, and what keeps its connection until `stop`.
pub(super) fn open(
    config: config::Rabbitmq,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> (Publisher, impl Future<Output = ()> + Send) {
    let (sender, lines) = watch::channel(None);
    let sizes = Arc::new(Sizes::default());
    let publisher = Publisher { lines, sizes: sizes.clone(), shared: shared.clone() };
    let upkeep = Upkeep::new(config, shared, metrics, sizes, sender).run(stop);
    (publisher, upkeep)
}

impl Publisher {
    pub(in super::super) async fn publish(&self, kind: Kind, body: Bytes) -> Result<(), Error> {
        let deadline = Instant::now() + CONFIRM_DEADLINE;
        let usable_until = Instant::now() + CATCH_UP;
        loop {
            let is_known = self.is_size_known(&body)?;
            let outcome = match self.send(kind, &body, is_known, deadline).await {
                Ok(sent) => self.outcome(sent, deadline).await,
                Err(error) => Err(error),
            };
            match outcome {
                // The connection ended before the message had its turn: nothing was published, and the next one is tried.
                Err(Error::NotSent) if Instant::now() < usable_until => {}
                outcome => return outcome,
            }
        }
    }

    pub(in super::super) async fn publish_all(&self, bodies: Vec<Bytes>) -> Vec<Result<(), Error>> {
        let deadline = Instant::now() + CONFIRM_DEADLINE; // for all of them
        let mut outcomes = Vec::with_capacity(bodies.len());
        let mut sent = Vec::new();
        for body in bodies {
            // One after the other on one channel, which gives them their order; what is waited for at once is the confirmation.
            // A message on the other channel waits for those before it, and those behind it wait for it.
            let is_known = self.is_size_known(&body);
            let is_common = matches!(is_known, Ok(true));
            if !is_common {
                self.settle(&mut sent, &mut outcomes, deadline).await;
            }
            sent.push(match is_known {
                Ok(is_known) => self.send(Kind::Trigger, &body, is_known, deadline).await,
                Err(error) => Err(error),
            });
            if !is_common {
                self.settle(&mut sent, &mut outcomes, deadline).await;
            }
        }
        self.settle(&mut sent, &mut outcomes, deadline).await;
        outcomes
    }

    /// Whether RabbitMQ is known to take a message of this size.
    fn is_size_known(&self, body: &Bytes) -> Result<bool, Error> {
        self.sizes.check(body.len()).map_err(Error::TooLarge)
    }

    async fn send(&self, kind: Kind, body: &Bytes, is_known: bool, deadline: Instant) -> Result<Sent, Error> {
        let lines = self.usable_lines().await?;
        let writer = matches!(kind, Kind::Instance | Kind::Channelstream).then_some(self.shared.instance);
        let sending = lines.line(is_known).send(routing_key(kind), writer, body.clone());
        // Until its turn has come nothing is published.
        timeout_at(deadline, sending).await.map_err(|_| Error::Away)?.map_err(Error::from)
    }

    /// The channels, where the broker takes what is published and this instance gets it: at once, or, where there is a log,
    /// when it is there again.
    async fn usable_lines(&self) -> Result<Lines, Error> {
        if !self.shared.follows_log() && *self.shared.state.borrow() != State::Current {
            return Err(Error::Away);
        }
        if *self.shared.is_overdue.borrow() {
            return Err(Error::Unbound);
        }
        if *self.shared.publishing.borrow() == Publishing::Blocked {
            return Err(Error::Blocked);
        }
        let mut lines = self.lines.clone();
        // There are others in a moment where the broker has come back, or another one of the list is there.
        let are_open = |lines: &Option<Lines>| lines.as_ref().is_some_and(|lines| !lines.common.is_closed());
        let lines = timeout(CATCH_UP, lines.wait_for(are_open)).await;
        lines.ok().and_then(Result::ok).and_then(|lines| lines.clone()).ok_or(Error::Away)
    }

    /// Adds the outcomes of all that was `sent`, in their order.
    async fn settle(
        &self,
        sent: &mut Vec<Result<Sent, Error>>,
        outcomes: &mut Vec<Result<(), Error>>,
        deadline: Instant,
    ) {
        for sent in sent.drain(..) {
            outcomes.push(match sent {
                Ok(sent) => self.outcome(sent, deadline).await,
                Err(error) => Err(error),
            });
        }
    }

    async fn outcome(&self, sent: Sent, deadline: Instant) -> Result<(), Error> {
        let outcome = match timeout_at(deadline, sent.outcome()).await {
            Ok(outcome) => outcome.map_err(Error::from),
            Err(_) => Err(Error::TimedOut(CONFIRM_DEADLINE)),
        };
        if matches!(outcome, Err(Error::Unbound)) {
            self.shared.unbound.send_modify(|count| *count += 1); // the exchange is bound again at once
        }
        outcome
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotSent => Self::NotSent,
            Failure::Returned => Self::Unbound,
            Failure::TooLarge(limit) => Self::TooLarge(limit),
            Failure::Refused(error) => Self::Refused(error),
        }
    }
}
