//! Coming back with a ticket, and being given the next one.

use std::sync::Arc;

use super::{
    Connections,
    clients::Client,
    session::{Confirmation, Earlier, Provenance, Session},
    ticket::Contents,
};
use crate::{
    backend::{Admission, Moment},
    broker::State,
    hub::Frame,
    protocol::{Version, server::v4},
};

/// What a ticket comes to that counts.
#[derive(Debug)]
pub(super) struct Resumed {
    pub(super) admission: Admission,
    /// As of this moment nothing has changed since the ticket was given.
    pub(super) asked: Moment,
    pub(super) provenance: Provenance,
}

impl Connections {
    /// What `ticket` comes to, if it counts for `client`.
    pub(super) fn redeem(&self, client: &Client, ticket: &str) -> Option<Resumed> {
        let tickets = self.tickets.as_ref()?;
        let asked = self.backend.changes.now();
        let holder = match tickets.redeem(ticket, &client.identity(), &self.backend) {
            Ok(holder) => holder,
            Err(refused) => {
                self.metrics.tickets.inc(refused.word());
                return None;
            }
        };
        let user = holder.admission.user.as_deref();
        let is_unchanged = self.backend.changes.none_since_position(holder.position, user, holder.connection);
        // An instance that does not follow the log does not know what has changed.
        if !is_unchanged || *self.state.borrow() != State::Current {
            self.metrics.tickets.inc("stale");
            return None;
        }
        self.metrics.tickets.inc("accepted");
        let earlier = holder.earlier.into_iter().map(|(offset, allowed)| {
            // An offset that is still to come here has no number yet: no publication is known to lie behind it.
            let until = self.hub.number_at(offset).unwrap_or(u64::MAX);
            Earlier { until, offset: Some(offset), allowed }
        });
        let provenance = Provenance { confirmation: Some(holder.confirmation), earlier: earlier.collect() };
        Some(Resumed { admission: holder.admission, asked, provenance })
    }

    /// Has the backend asked about a client that has come back, where it has not confirmed its permissions for long.
    pub(super) fn check_resumed(&self, client: &Arc<Client>) {
        let Some(tickets) = &self.tickets else { return };
        let session = client.session();
        let Some(session) = session.as_ref() else { return };
        let (Some(confirmation), Some(user)) = (session.confirmation(), session.user()) else { return };
        if tickets.is_old(confirmation) {
            self.rechecks.add_resumed(client, user, session.allowed());
        }
    }

    /// Where permissions come from that the backend, asked at `confirmation`, gives `user`.
    pub(super) fn provenance(
        &self,
        version: Version,
        user: Option<&str>,
        confirmation: Confirmation,
    ) -> Option<Box<Provenance>> {
        if version == Version::V3 {
            return None; // which knows neither positions nor tickets
        }
        let confirmation = self.tickets.as_ref().map(|_| confirmation);
        let mut provenance = Provenance { confirmation, ..Provenance::default() };
        let changed = user.map_or(0, |user| self.backend.changes.last_of(user));
        if changed > 0 {
            // The log comes to a control message when that has been carried out; what follows it has no number yet.
            let until = self.hub.number_at(changed).unwrap_or_else(|| self.hub.reached().0);
            if until > self.hub.oldest() {
                provenance.earlier.push(Earlier { until, offset: Some(changed), allowed: Arc::default() });
            }
        }
        let is_empty = provenance.confirmation.is_none() && provenance.earlier.is_empty();
        (!is_empty).then(|| Box::new(provenance))
    }

    /// A ticket for an authorised client of a user, if there are tickets, and it is known that its permissions hold.
    pub(super) fn ticket(&self, client: &Client) -> Option<String> {
        let is_due = client.version == Version::V4 && self.follows_log();
        let tickets = self.tickets.as_ref().filter(|_| is_due)?;
        let position = self.hub.position()?; // before looking at the changes
        let mut session = client.session();
        let session = session.as_mut()?;
        let user: &str = session.user()?; // by whom a ticket can be called back
        if !session.has_confirmed_credentials() {
            return None; // a ticket is bound to them, and says what the backend allows their owner
        }
        if !self.backend.changes.none_since(session.asked(), Some(user), Some(client.id())) {
            return None;
        }
        let confirmation = session.confirmation()?;
        let end = tickets.end(confirmation)?;
        let oldest = self.hub.oldest();
        let earlier: Vec<Earlier> =
            session.earlier().iter().filter(|earlier| earlier.until > oldest).cloned().collect();
        let ticket = tickets.issue(&Contents {
            connection: client.id(),
            identity: &client.identity(),
            user: Some(user),
            allowed: session.allowed(),
            earlier: &earlier,
            position,
            confirmed: confirmation.at,
            end,
        });
        session.note_ticket(end);
        ticket
    }

    /// Gives an authorised client another ticket.
    pub(super) fn give_ticket(&self, client: &Client) {
        if let Some(ticket) = self.ticket(client) {
            // Over the limit the outbox closes itself, and the client comes back with the ticket before.
            let _ = client.outbox.push(Frame::Text(v4::ticket(&ticket).into()));
            client.outbox.flush();
        }
    }

    /// The same where the last one has lost half of its time, or will have when it is next looked at, and another one ends later.
    pub(super) fn renew_ticket(&self, client: &Client) {
        let Some(tickets) = &self.tickets else { return };
        let session = client.session();
        let confirmation = session.as_ref().and_then(Session::confirmation).copied();
        drop(session);
        let Some(confirmation) = confirmation else { return };
        let Some(end) = tickets.end(&confirmation) else { return };
        let is_better = |given| tickets.is_better(end, given, self.config.ping_interval);
        if confirmation.given_until.is_none_or(is_better) {
            self.give_ticket(client);
        }
    }
}
