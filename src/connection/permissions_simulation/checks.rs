//! Checks of connected clients, from the queue to the answer.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use rand::Rng;
use uuid::Uuid;

use super::{super::recheck::Group, Call, Connected, IDENTITIES, LONG, Says, World, identity, members, not_known};
use crate::backend::{Answer, Error, Identity};

/// A check of connected clients that has left the queue.
pub(super) struct Check {
    pub(super) identity: Identity,
    pub(super) group: Group,
    pub(super) call: Option<Call>,
}

impl Check {
    fn is_refused(&self) -> bool {
        self.call.as_ref().is_some_and(|call| matches!(call.says, Says::Unknown))
    }
}

impl World {
    /// One step of the checks that are due.
    pub(super) fn go_on_checking(&mut self) {
        if self.checks.is_empty() || self.rng.random_bool(0.1) {
            let mut due = self.connections.rechecks.due.lock();
            let next = std::iter::from_fn(|| due.next(0, 0));
            let mut taken: Vec<Check> = next.map(|(identity, group)| Check { identity, group, call: None }).collect();
            taken.sort_by_key(|check| check.identity.as_bytes().to_vec());
            self.checks.append(&mut taken);
        }
        if self.checks.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.checks.len());
        if self.checks[at].call.is_none() {
            let number = (0..IDENTITIES).find(|number| identity(*number) == self.checks[at].identity).unwrap();
            let Check { identity, group, .. } = &mut self.checks[at];
            self.connections.rechecks.redirect(identity, group);
            self.checks[at].call = Some(self.begin(number, 0.3));
            return;
        }
        if self.checks[at].is_refused() && self.rng.random_bool(0.6) {
            return self.show_credentials_meanwhile(at);
        }
        let number = (0..IDENTITIES).find(|number| identity(*number) == self.checks[at].identity).unwrap();
        let Check { identity, group, call: Some(call) } = self.checks.swap_remove(at) else { return };
        let clients: Vec<Uuid> = members(&group).collect();
        for connected in self.peers.iter_mut().filter_map(|peer| peer.connected.as_mut()) {
            if clients.contains(&connected.visit.connection) && connected.visit.conclude(number, &call, &self.log) {
                self.applied += 1;
            }
        }
        let has_timed_out = self.rng.random_bool(0.3);
        let at = self.start + Duration::from_millis(call.at);
        let outcome = match &call.says {
            Says::May(rights) => Ok(Arc::new(Answer { admission: self.admission(rights), asked: call.asked, at })),
            Says::Unknown => Err(Arc::new(not_known(call.asked))),
            Says::Nothing if has_timed_out => Err(Arc::new(Error::TimedOut(LONG))),
            Says::Nothing => Err(Arc::new(Error::Busy { retry_after: Duration::ZERO })),
        };
        let is_urgent = group.is_urgent;
        self.connections.conclude(identity, group, &outcome).now_or_never().unwrap(); // there are few subscriptions
        if let Says::Nothing = &call.says {
            self.note_closed(&clients, is_urgent, has_timed_out);
        }
    }

    /// The backend could not be asked for `clients`, of whom those on hold may have been closed.
    fn note_closed(&mut self, clients: &[Uuid], is_urgent: bool, has_timed_out: bool) {
        for Connected { link, visit, .. } in self.peers.iter_mut().filter_map(|peer| peer.connected.as_mut()) {
            if !clients.contains(&visit.connection) || visit.closing.is_some() {
                continue;
            }
            let is_on_hold = visit.held_since.is_some() && is_urgent;
            let is_closed = link.outbox().is_closing();
            assert!(!is_closed || is_on_hold, "closed, and not on hold");
            assert!(is_closed || !is_on_hold || !has_timed_out, "on hold for too long");
            if is_closed {
                visit.close(1013);
            }
        }
    }
}
