//! What becomes of a client's subscriptions when it may do less than before.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    super::Connections,
    Session,
    provenance::{Confirmation, Earlier},
    recovering::{Behind, Unanswered},
};
use crate::{
    backend::{Admission, Identity, Moment},
    hub::{Frame, Full, Mark, WildcardDispatch},
    protocol::{
        RequestId, Version,
        server::{Ended, Refusal, v4},
    },
    room::{Allowed, Limits, Numbers, RoomKey, Rules},
};

/// What came of other permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Applied {
    /// They are the same.
    Unchanged,
    /// The client has been told what it has lost, if anything.
    Changed,
    /// It has lost a subscription, and there is no frame in its protocol to tell it so.
    Untold,
}

impl Session {
    /// Whether a trigger to `room` would reach a subscription.
    pub(in super::super) fn is_reached(&self, room: &RoomKey, dispatch: WildcardDispatch) -> bool {
        let reaches = |key: &RoomKey| dispatch.deliveries(std::slice::from_ref(room), key) > 0;
        self.subscriptions.values().any(|seats| seats.all_rooms().any(reaches))
    }

    /// The subscriptions to rooms that `are_meant`, by their `requestId`.
    pub(in super::super) fn subscribed_to(&self, are_meant: impl Fn(&RoomKey) -> bool) -> Vec<RequestId> {
        let live = self.subscriptions.iter().filter(|(_, seats)| seats.rooms().any(&are_meant));
        live.map(|(id, _)| id.clone()).collect()
    }

    /// How many subscriptions there are.
    pub(in super::super) fn subscriptions(&self) -> usize {
        self.account.subscriptions()
    }

    /// What the client may join.
    pub(in super::super) fn allowed(&self) -> &Arc<Allowed> {
        &self.allowed
    }

    /// When the backend was asked for that.
    pub(in super::super) fn asked(&self) -> Moment {
        self.asked
    }

    /// What was said then holds now.
    pub(in super::super) fn vouch(&mut self, now: Moment) {
        self.asked = now;
    }

    /// When the backend confirmed that last, for a client that is given tickets.
    pub(in super::super) fn confirmation(&self) -> Option<&Confirmation> {
        self.provenance.as_ref()?.confirmation.as_ref()
    }

    /// What the client could join before, in the order of time.
    pub(in super::super) fn earlier(&self) -> &[Earlier] {
        self.provenance.as_ref().map_or(&[], |provenance| &provenance.earlier)
    }

    /// Whether the client could join the room of `key` all the time since publication `number`, as far as is known.
    pub(super) fn has_been_allowed_since(&self, number: u64, key: &RoomKey, numbers: Numbers) -> bool {
        let Some(provenance) = self.provenance.as_ref().filter(|provenance| !provenance.earlier.is_empty()) else {
            return true;
        };
        match numbers {
            Numbers::ByValue => provenance.covers_since(number, key),
            Numbers::ByType => by_value(key).is_some_and(|key| provenance.covers_since(number, &key)),
        }
    }

    /// The client is given a ticket that ends at `end`.
    pub(in super::super) fn note_ticket(&mut self, end: Instant) {
        if let Some(confirmation) = self.confirmation_mut() {
            confirmation.given_until = Some(end);
        }
    }

    /// The ticket that the client was given counts no more.
    pub(in super::super) fn lose_ticket(&mut self) {
        if let Some(confirmation) = self.confirmation_mut() {
            confirmation.given_until = None;
        }
    }

    fn confirmation_mut(&mut self) -> Option<&mut Confirmation> {
        self.provenance.as_mut()?.confirmation.as_mut()
    }

    /// The client is to leave the subscriptions that a trigger to `room` would reach.
    pub(in super::super) fn leave_room(&mut self, room: &RoomKey, connections: &Connections) -> Result<Applied, Full> {
        let dispatch = connections.hub.dispatch();
        let is_meant = |key: &RoomKey| dispatch.deliveries(std::slice::from_ref(room), key) > 0;
        let outcome = self.end(is_meant, Ended::ByApplication, connections);
        self.outbox.flush();
        outcome
    }

    /// The client may join what `admission` says, and no more, from here on. The backend was asked at `asked` with `identity`, which
    /// is what the client has shown last if that `is_current`.
    pub(in super::super) fn apply(
        &mut self,
        admission: &Admission,
        (asked, at): (Moment, Instant),
        (identity, is_current): (&Identity, bool),
        connections: &Connections,
    ) -> Result<Applied, Full> {
        self.asked = self.asked.max(asked);
        self.confirm(identity, is_current);
        if let Some(confirmation) = self.confirmation_mut().filter(|_| is_current) {
            confirmation.renew(at);
        }
        self.user = admission.user.clone();
        if Arc::ptr_eq(&self.allowed, &admission.allowed) {
            return Ok(Applied::Unchanged); // equal ones are shared
        }
        let before = std::mem::replace(&mut self.allowed, admission.allowed.clone());
        if self.version == Version::V4 {
            self.provenance.get_or_insert_default().supersede(before, &connections.hub);
        }
        let (allowed, numbers) = (admission.allowed.clone(), connections.hub.dispatch().numbers());
        let is_lost = |key: &RoomKey| match numbers {
            Numbers::ByValue => !allowed.covers(key),
            Numbers::ByType => !by_value(key).is_some_and(|key| allowed.covers(&key)),
        };
        let outcome = self.end(is_lost, Ended::NoLongerAllowed, connections)?;
        if self.version == Version::V4 {
            self.outbox.push(Frame::Text(v4::allowed_rooms(&admission.rooms).into()))?;
            self.outbox.flush();
        }
        Ok(if outcome == Applied::Untold { outcome } else { Applied::Changed })
    }

    /// Ends the subscriptions to rooms that `are_meant`: nothing more is delivered to them, and the client is told so.
    fn end(
        &mut self,
        are_meant: impl Fn(&RoomKey) -> bool,
        why: Ended,
        connections: &Connections,
    ) -> Result<Applied, Full> {
        let ending = self.subscribed_to(&are_meant);
        if self.version == Version::V3 {
            return Ok(if ending.is_empty() { Applied::Unchanged } else { Applied::Untold });
        }
        let mut outcome = Ok(());
        let mut applied = if ending.is_empty() { Applied::Unchanged } else { Applied::Changed };
        for id in ending {
            let Some(seats) = self.take_out(&id) else { continue };
            let mut all = Vec::new();
            seats.append_to(&mut all);
            let told = unsubscribed(&id, why);
            connections.hub.leave(all, || {
                self.outbox.withhold(&id);
                outcome = outcome.and(self.outbox.push(told));
            });
        }
        let Some(behind) = &mut self.behind else { return outcome.map(|()| applied) };
        let is_wanted = |key: &Arc<RoomKey>, id: &RequestId| {
            self.subscriptions.get(id).is_some_and(|seats| seats.is_waiting_for(key)) && are_meant(key)
        };
        let (refused, bytes) = behind.refuse(is_wanted, why);
        let stopped = behind.stop_reading(&are_meant);
        let _ = self.account.keep(bytes, &connections.config); // less than the subscriptions took
        for id in refused {
            self.take_out(&id);
            applied = Applied::Changed;
        }
        for id in stopped {
            self.take_out(&id);
            applied = Applied::Changed;
            outcome = outcome.and(self.outbox.push(unsubscribed(&id, why)));
        }
        outcome.map(|()| applied)
    }
}

impl Behind {
    /// Has requests that `are_meant` be refused when it is their turn. Whose these are, and the bytes of the refusals.
    fn refuse(&mut self, are_meant: impl Fn(&Arc<RoomKey>, &RequestId) -> bool, why: Ended) -> (Vec<RequestId>, usize) {
        let (mut refused, mut bytes) = (Vec::new(), 0);
        for request in &mut self.unanswered {
            let id = match request {
                Unanswered::Since { key, request_id, .. } | Unanswered::Fresh { key, request_id, .. }
                    if are_meant(key, request_id) =>
                {
                    request_id.clone()
                }
                _ => continue,
            };
            let answer = v4::refused(Some(&id), Refusal::RoomNotFound, why.word());
            let (answer, more) = Unanswered::refused(Frame::marked(answer, Mark::Ended(id.clone())));
            *request = answer;
            bytes += more;
            refused.push(id);
        }
        (refused, bytes)
    }

    /// Gives those in rooms that `are_meant` no more of what they have missed. Whose these are.
    fn stop_reading(&mut self, are_meant: impl Fn(&RoomKey) -> bool) -> Vec<RequestId> {
        let mut stopped = Vec::new();
        self.reading.retain(|recovery| {
            let is_meant = are_meant(recovery.room());
            if is_meant {
                stopped.push(recovery.request_id().clone());
            }
            !is_meant
        });
        stopped
    }
}

/// Tells the client that its subscription `id` is over.
fn unsubscribed(id: &RequestId, why: Ended) -> Frame {
    Frame::marked(v4::unsubscribed(id, why), Mark::Ended(id.clone()))
}

/// The same room with its numbers compared by value, as permissions are.
fn by_value(key: &RoomKey) -> Option<RoomKey> {
    // One that was within the limits, though another spelling of its numbers may be longer.
    let rules = Rules { numbers: Numbers::ByValue, limits: Limits::NONE };
    RoomKey::new(&RawValue::from_string(key.as_str().to_owned()).ok()?, rules).ok()
}
