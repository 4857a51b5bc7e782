//! Subscriptions that are being given what they have missed.

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{super::Connections, Seats, Session};
use crate::{
    hub::{Frame, Full, Recovery, Resumption, Step},
    protocol::{Position, RequestId, server::v4},
    room::RoomKey,
};

/// How long a position may be unknown that another instance may have given out just now.
const UNKNOWN: Duration = Duration::from_secs(1);
/// For how long that does not count, because this instance is behind: it does not follow the log, or the position is of a
/// time that is still to come here.
const BEHIND: Duration = Duration::from_secs(10);
/// What is queued for a client at once.
const QUEUED_BYTES: usize = 32 * 1024;

/// One subscription with `since`.
#[derive(Debug)]
pub(super) enum Recovering {
    /// Nothing is known of its position yet; nor has it been answered.
    Waiting { key: RoomKey, request_id: RequestId, since: Position, asked: Instant, until: Instant },
    /// It has been answered, and is given one publication after the other.
    Reading(Box<Recovery>),
}

/// What there is to do for the subscriptions that have not caught up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CatchUp {
    /// Nothing.
    Done,
    /// To look again in a moment.
    Waiting,
    /// More, when others have had their turn.
    More,
    /// More, when the client has taken what waits for it.
    Full,
}

impl Recovering {
    fn request_id(&self) -> &RequestId {
        match self {
            Self::Waiting { request_id, .. } => request_id,
            Self::Reading(recovery) => recovery.request_id(),
        }
    }
}

impl Session {
    /// Subscribes to what was published after `since`.
    pub(super) fn resume(
        &mut self,
        key: RoomKey,
        request_id: RequestId,
        since: &RawValue,
        connections: &Connections,
    ) -> Result<(), Full> {
        let since = serde_json::from_str::<String>(since.get()).ok().and_then(|since| since.parse().ok());
        let Some(since) = since else { return self.start_over(&key, request_id, connections) };
        self.subscriptions.insert(request_id.clone(), Seats::Recovering);
        let asked = Instant::now();
        let waiting = Recovering::Waiting { key, request_id, since, asked, until: asked + UNKNOWN };
        if let Some(next) = self.step(waiting, connections)?.1 {
            self.recovering.get_or_insert_default().push(next);
        }
        Ok(())
    }

    /// Whether some have not caught up.
    pub(in super::super) fn is_behind(&self) -> bool {
        self.recovering.is_some()
    }

    /// Goes on with the subscriptions that have not caught up, as soon as what waits in the outbox is written; it is flushed
    /// afterwards.
    ///
    /// # Errors
    /// When the outbox takes no more; the connection is ending then.
    pub(in super::super) fn catch_up(&mut self, connections: &Connections) -> Result<CatchUp, Full> {
        self.outbox.resume();
        if self.outbox.blocked_for().is_some() {
            return Ok(CatchUp::Full);
        }
        let Some(mut waiting) = self.recovering.take() else { return Ok(CatchUp::Done) };
        let mut left = Vec::new();
        let mut outcome = CatchUp::Done;
        let mut all = waiting.drain(..);
        for recovering in all.by_ref() {
            let (progress, next) = self.step(recovering, connections)?;
            left.extend(next);
            outcome = outcome.max(progress);
            if progress == CatchUp::Full {
                break;
            }
        }
        // Those that had no turn have theirs first.
        let left: Vec<Recovering> = all.chain(left).collect();
        if !left.is_empty() {
            self.recovering = Some(Box::new(left));
        }
        self.outbox.flush();
        Ok(outcome)
    }

    pub(super) fn stop_recovering(&mut self, request_id: &RequestId) {
        if let Some(all) = &mut self.recovering {
            all.retain(|recovering| recovering.request_id() != request_id);
        }
    }

    /// One step for one of them, and what is left of it.
    fn step(
        &mut self,
        recovering: Recovering,
        connections: &Connections,
    ) -> Result<(CatchUp, Option<Recovering>), Full> {
        let hub = &connections.hub;
        match recovering {
            Recovering::Waiting { key, request_id, since, asked, mut until } => {
                // Nobody who joins while the log is read back is given what is still to be read.
                let resumption = match connections.is_reading_back() {
                    true => Resumption::Unknown,
                    false => hub.resume(&key, &request_id, since),
                };
                let now = Instant::now();
                let is_behind = matches!(resumption, Resumption::Ahead) || !connections.follows_log();
                if is_behind && now < asked + BEHIND {
                    until = now + UNKNOWN;
                }
                match resumption {
                    Resumption::Possible(recovery) => {
                        connections.metrics.recoveries.inc("recovered");
                        self.reply(Frame::Text(v4::success(&request_id, Some(since), Some(true)).into()))?;
                        Ok((CatchUp::More, Some(Recovering::Reading(Box::new(recovery)))))
                    }
                    Resumption::Ahead | Resumption::Unknown if now < until => {
                        let waiting = Recovering::Waiting { key, request_id, since, asked, until };
                        Ok((CatchUp::Waiting, Some(waiting)))
                    }
                    Resumption::Ahead | Resumption::Unknown | Resumption::Impossible => {
                        self.start_over(&key, request_id, connections)?;
                        Ok((CatchUp::Done, None))
                    }
                }
            }
            Recovering::Reading(mut recovery) => {
                let waiting_bytes = QUEUED_BYTES.min(self.outbox.limit_bytes() / 4);
                match hub.recover(&mut recovery, &self.outbox, waiting_bytes)? {
                    Step::More => Ok((CatchUp::More, Some(Recovering::Reading(recovery)))),
                    Step::Full => Ok((CatchUp::Full, Some(Recovering::Reading(recovery)))),
                    Step::Joined(seat) => {
                        self.subscriptions.insert(recovery.request_id().clone(), Seats::One(seat));
                        Ok((CatchUp::Done, None))
                    }
                    Step::Lost(seat) => {
                        // It was told that it would get everything.
                        connections.metrics.recoveries.inc("lost");
                        self.subscriptions.insert(recovery.request_id().clone(), Seats::One(seat));
                        self.reply(Frame::Text(v4::resync(hub.position()).into()))?;
                        Ok((CatchUp::Done, None))
                    }
                }
            }
        }
    }

    /// Subscribes from now on: what was published before cannot be vouched for.
    fn start_over(&mut self, key: &RoomKey, request_id: RequestId, connections: &Connections) -> Result<(), Full> {
        connections.metrics.recoveries.inc("not-recovered");
        self.join_after(key, request_id, Some(false), &connections.hub)
    }
}
