//! What comes by the log, one after the other: triggers, control messages, gaps.

use std::sync::Arc;

use futures::FutureExt;
use rand::{Rng, seq::IndexedRandom};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    super::simulated::{key, reaches},
    ACCOUNTS, PEERS, UnderWay, World,
    model::{Entry, Visit},
    user as user_of,
};
use crate::{
    hub::{Outbox, Pace, Publication},
    protocol::{
        Epoch,
        control::{Action, Control, Target},
    },
};

impl World {
    /// What comes next in the log has a place of its own, which from here on stands for all before it.
    fn note_position(&mut self) {
        let position = self.connections.hub.position().unwrap().to_string();
        self.log.positions.insert(position, (self.log.entries.len(), self.log.life));
    }

    pub(super) fn begin_epoch(&mut self) {
        self.offset += 1;
        let epoch = Epoch::random();
        self.connections.backend.changes.begin_epoch(epoch, self.offset);
        self.connections.hub.begin_epoch(epoch, self.offset);
        self.note_position();
    }

    /// One step of the trigger that is under way, or a new one.
    pub(super) fn dispatch(&mut self) {
        let Some(mut under_way) = self.under_way.take() else { return self.publish() };
        let audience = self.connections.hub.audience(&under_way.publication.rooms);
        let portions = under_way.portions.get_or_insert_with(|| audience.into_portions());
        let pace = if self.rng.random_bool(0.5) { Pace::AtOnce } else { Pace::Later };
        match portions.pop() {
            Some(mut portion) => {
                while portion.publish(&under_way.publication, pace, &mut self.tally) {}
                self.under_way = Some(under_way);
            }
            None => {
                self.log.fanned_out = self.log.entries.len();
                let dirty = self.tally.settle(&self.connections.metrics);
                Outbox::flush_all(dirty.iter().map(Arc::as_ref));
            }
        }
    }

    fn publish(&mut self) {
        let rooms: Vec<Value> = (0..self.rng.random_range(1..3)).map(|_| self.room()).collect();
        let mut exclude = Vec::new();
        if self.rng.random_bool(0.1) {
            exclude.extend(self.peers[0].connected.as_ref().map(|connected| connected.link.client.id()));
        }
        self.offset += self.rng.random_range(1..3);
        let data = json!([self.log.entries.len(), "x".repeat(self.rng.random_range(0..100))]).to_string();
        let publication = Publication::new(rooms.iter().map(key).collect(), data.into(), exclude.clone());
        let publication = self.connections.hub.record(publication, Some(self.offset));
        self.log.entries.push(Entry { rooms, exclude });
        self.note_position();
        self.under_way = Some(UnderWay { publication, portions: None });
    }

    pub(super) fn finish_trigger(&mut self) {
        while self.under_way.is_some() {
            self.dispatch();
        }
    }

    /// A control message in its place in the log.
    pub(super) fn control(&mut self) {
        let action = *[
            Action::Reauthorize,
            Action::Reauthorize,
            Action::Reauthorize,
            Action::Unsubscribe,
            Action::Disconnect,
            Action::Forget,
        ]
        .choose(&mut self.rng)
        .unwrap();
        let peer = self.rng.random_range(0..PEERS);
        let connection = self.peers[peer].connected.as_ref().map(|connected| connected.link.client.id());
        let some_user = self.rng.random_range(1..=ACCOUNTS).to_string();
        let (user, connection) = match self.rng.random_range(0..10) {
            0..5 => (Some(some_user), None),
            5..8 => (None, connection),
            8 => (Some(some_user), connection),
            _ => (None, None),
        };
        let has_room = action == Action::Unsubscribe || self.rng.random_bool(0.05);
        let room = if has_room { Some(self.room()) } else { None };
        let is_recalled = self.rng.random_bool(0.15);
        self.apply_control(action, user, connection, room, is_recalled);
    }

    pub(super) fn apply_control(
        &mut self,
        action: Action,
        user: Option<String>,
        connection: Option<Uuid>,
        room: Option<Value>,
        is_recalled: bool,
    ) {
        self.finish_trigger();
        for number in 0..PEERS {
            self.note_queued(number); // what was published before
        }
        self.offset += self.rng.random_range(1..3);
        let is_for_all = user.is_none() && connection.is_none();
        let sure: Vec<Uuid> =
            self.visits().filter(|visit| visit.is_current_now(&self.log)).map(|visit| visit.connection).collect();
        if !(is_for_all && action == Action::Unsubscribe) {
            self.log.note_control(user.as_deref(), connection);
        }
        let target = Target { user: user.clone(), connection, room: room.as_ref().map(key) };
        let control = Control { action, target };
        self.connections.control(&control, Some(self.offset), is_recalled).now_or_never().unwrap();
        self.connections.hub.pass(self.offset);
        self.note_position();
        if connection.is_none() && room.is_none() && (is_recalled || action == Action::Reauthorize) {
            self.untold.retain(|account| user.is_some() && user != user_of(*account));
        }
        for connected in self.peers.iter_mut().filter_map(|peer| peer.connected.as_mut()) {
            let visit = &mut connected.visit;
            let is_there = visit.rights.is_some() || connection.is_some() && user.is_none() && room.is_none();
            let of_user =
                |user: &String| visit.rights.as_ref().is_some_and(|rights| rights.user.as_ref() == Some(user));
            let reached = |subscribed: &Value| room.as_ref().is_none_or(|room| reaches(room, subscribed));
            let is_meant = is_there
                && connection.is_none_or(|id| id == visit.connection)
                && user.as_ref().is_none_or(of_user)
                && (room.is_none() || visit.has_live(reached));
            let is_of_user = user.as_ref().is_some_and(of_user) && connection.is_none();
            match action {
                // Of the others it is known that nothing has changed, or their user is asked for.
                _ if !is_meant && is_for_all && room.is_some() && sure.contains(&visit.connection) => {
                    visit.vouch(self.log.now);
                }
                _ if !is_meant => visit.is_due |= is_of_user && room.is_some(),
                Action::Disconnect if connection.is_some() => visit.close(3501),
                Action::Forget => visit.is_due = visit.rights.is_some(),
                _ if is_recalled || action == Action::Reauthorize => {
                    visit.is_due = visit.rights.is_some();
                    if visit.is_due && visit.closing.is_none() {
                        visit.held_since.get_or_insert(self.log.time);
                    }
                }
                Action::Disconnect => visit.close(3501),
                Action::Reauthorize => {}
                Action::Unsubscribe => {
                    visit.lose(reached, "by-application", &self.log);
                    visit.is_due |= is_of_user;
                }
            }
        }
    }

    /// What the checks have found is said in the log. Whether there was anything.
    pub(super) fn tell_forgotten(&mut self) -> bool {
        let mut users: Vec<_> = self.connections.take_forgotten().into_iter().collect();
        users.sort();
        for user in &users {
            self.log.now += 1;
            self.apply_control(Action::Forget, Some(user.to_string()), None, None, false);
        }
        !users.is_empty()
    }

    fn visits(&self) -> impl Iterator<Item = &Visit> {
        self.peers.iter().filter_map(|peer| Some(&peer.connected.as_ref()?.visit))
    }

    /// Something of the log is lost, perhaps a control message, or it begins anew.
    pub(super) fn note_gap(&mut self) {
        self.finish_trigger();
        if self.rng.random_bool(0.5) {
            self.connections.restart(true);
            self.log.life += 1;
            self.untold.clear(); // everybody is asked for again, and no ticket counts any more
            if self.rng.random_bool(0.3) {
                self.offset = 0;
            }
            for connected in self.peers.iter_mut().filter_map(|peer| peer.connected.as_mut()) {
                connected.visit.note_restart();
            }
        }
        self.begin_epoch();
        self.log.note_gap();
        self.connections.missed();
        for connected in self.peers.iter_mut().filter_map(|peer| peer.connected.as_mut()) {
            connected.visit.is_due = connected.visit.rights.is_some();
        }
    }
}
