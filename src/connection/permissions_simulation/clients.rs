//! What clients do: they come, speak, listen, and go.

use std::{collections::BTreeSet, time::Duration};

use http::HeaderMap;
use rand::{Rng, seq::IndexedRandom};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    super::{
        Connection,
        link::{NotAdmitted, Source},
        resume::Resumed,
        simulated::Network,
    },
    Call, Connected, IDENTITIES, LONG, PEERS, PER_USER, Peer, Says, World, identity, members,
    model::{Rights, Visit},
    not_known,
};
use crate::{
    backend::Error,
    protocol::{Version, client::Message},
};

impl World {
    /// One step of somebody's way in.
    pub(super) fn enter(&mut self, number: usize) {
        let Peer { identity: own, version, connected, .. } = &mut self.peers[number];
        let (own, version) = (*own, *version);
        let Some(connected) = connected else {
            let network = Network::new(version, self.rng.random_range(0..5000));
            let place = self.connections.place(None, &HeaderMap::new()).unwrap();
            let (_, link) = self.connections.register(network.clone(), version, identity(own), place);
            let visit = Visit::new(link.client.id(), version, own);
            self.peers[number].connected = Some(Connected { connection: None, link, network, call: None, visit });
            if version == Version::V4 {
                self.redeem(number);
            }
            return;
        };
        if connected.visit.rights.is_some() || connected.visit.closing.is_some() {
            return;
        }
        let Some(call) = connected.call.take() else {
            let call = self.begin(own, 0.1);
            self.peers[number].connected.as_mut().unwrap().call = Some(call);
            return;
        };
        let says = call.says.clone();
        let admission = if let Says::May(rights) = &says { Some(self.admission(rights)) } else { None };
        let visits = self.peers.iter().filter_map(|peer| Some(&peer.connected.as_ref()?.visit));
        let of_user = |user: &String| visits.filter(|visit| visit.is_of(user)).count();
        let has_place = match &says {
            Says::May(Rights { user: Some(user), .. }) => of_user(user) < PER_USER,
            _ => true,
        };
        let connected = self.peers[number].connected.as_mut().unwrap();
        let (link, visit) = (&connected.link, &mut connected.visit);
        let Call { begun, at, asked, says: _, resumed } = call;
        let (source, ticket) = match resumed {
            Some((provenance, ticket)) => (Source::Ticket(provenance), Some(ticket)),
            None => (Source::Backend { at: self.start + Duration::from_millis(at) }, None),
        };
        let (refused, later) = if version == Version::V3 { (1000, 1013) } else { (3500, 1013) };
        match (&says, admission) {
            (Says::May(rights), Some(admission)) => match link.admit(&admission, asked, source) {
                Ok(connection) => {
                    assert!(has_place, "one too many was admitted");
                    assert!(visit.is_current(rights, begun, &self.log), "admitted by what holds no more");
                    self.resumed += usize::from(ticket.is_some());
                    visit.enter(rights, (begun, at), ticket, &self.log);
                    connected.connection = Some(connection);
                    self.connections.check_resumed(&connected.link.client);
                }
                Err(NotAdmitted::Stale) => assert!(!visit.is_current(rights, begun, &self.log), "stale"),
                Err(NotAdmitted::TooMany) => {
                    assert!(!has_place, "too many");
                    link.turn_away(&link.not_admitted(NotAdmitted::TooMany));
                    visit.close(later);
                }
                Err(NotAdmitted::Gone) => panic!("gone"),
            },
            (Says::Unknown, _) => {
                link.turn_away(&self.connections.refusal(&not_known(asked)));
                visit.close(refused);
            }
            _ => {
                link.turn_away(&self.connections.refusal(&Error::TimedOut(LONG)));
                visit.close(later);
            }
        }
    }

    /// Is there for a moment, again and again, with the last ticket each time.
    pub(super) async fn come_and_go(&mut self, number: usize) {
        for _ in 0..self.rng.random_range(1..8) {
            self.log.now += 1;
            self.leave(number).await;
            for _ in 0..3 {
                self.enter(number);
                self.check();
            }
            self.receive(number, 5000);
            let seconds = self.rng.random_range(0..20);
            self.wait(Duration::from_secs(seconds)).await;
            self.check();
        }
    }

    /// Comes with a ticket, perhaps an old one, or somebody else's.
    fn redeem(&mut self, number: usize) {
        let whose = if self.rng.random_bool(0.1) { self.rng.random_range(0..PEERS) } else { number };
        let tickets = &self.peers[whose].tickets;
        let newest = if self.rng.random_bool(0.6) { tickets.last() } else { None };
        let Some(ticket) = newest.or_else(|| tickets.choose(&mut self.rng)).cloned() else { return };
        let is_own = ticket.identity == self.peers[number].identity;
        let connected = self.peers[number].connected.as_mut().unwrap();
        let redeemed = self.connections.redeem(&connected.link.client, &ticket.text);
        assert_eq!(redeemed.is_some(), is_own && self.log.counts(&ticket), "a ticket");
        let Some(Resumed { admission, asked, provenance }) = redeemed else { return };
        assert_eq!(admission.allowed.rooms().map(str::to_owned).collect::<BTreeSet<_>>(), ticket.rights.keys);
        if self.is_steady {
            ticket.assert_in_time(&self.log);
        }
        let says = Says::May(ticket.rights.clone());
        let ticket = ticket.redeemed(&self.log);
        connected.call =
            Some(Call { begun: self.log.now, at: self.log.time, asked, says, resumed: Some((provenance, ticket)) });
    }

    /// The client says something.
    pub(super) async fn speak(&mut self, number: usize) {
        let rights = self.peers[number].connected.as_ref().and_then(|connected| connected.visit.rights.as_ref());
        let allowed = rights.and_then(|rights| rights.rooms.choose(&mut self.rng)).cloned();
        let room = allowed.filter(|_| self.rng.random_bool(0.6)).unwrap_or_else(|| self.room());
        let action = self.rng.random_range(0..10);
        let name = self.rng.random_range(0..8).to_string();
        let known = self.peers[number].positions.choose(&mut self.rng).cloned();
        let is_looked_up = self.under_way.as_ref().is_some_and(|under_way| under_way.portions.is_some());
        let Peer { version, connected: Some(Connected { connection: Some(connection), visit, .. }), .. } =
            &mut self.peers[number]
        else {
            return;
        };
        let version = *version;
        // Whoever comes to 3.1's rooms in the middle of a trigger may get it or not.
        if visit.closing.is_some() || version == Version::V3 && is_looked_up {
            return;
        }
        if action == 0 {
            let name = visit.names().choose(&mut self.rng).cloned().unwrap_or(name);
            visit.unsubscribe(&name, &self.log);
            let text = json!({"type": "unsubscribe", "requestId": name}).to_string();
            return connection.on_message(Message::parse(&text, version)).unwrap();
        }
        let names = visit.names();
        let mut list = vec![(name, room)];
        if action == 9 {
            // One that there is already.
            list.extend(names.choose(&mut self.rng).map(|name| (name.clone(), json!({"a": 1}))));
        }
        let mut requests = Vec::new();
        for (name, room) in list {
            if !visit.is_free(&name) && !names.contains(&name) {
                continue;
            }
            let mut request = json!({"type": "subscribe", "requestId": name, "room": room});
            let since = known.clone().filter(|_| version == Version::V4 && self.rng.random_bool(0.6));
            if let Some(since) = &since {
                request["since"] = json!(since);
            }
            visit.subscribe(&name, &room, since, &self.log);
            requests.push(request);
        }
        if version == Version::V4 && action > 6 {
            let text = json!({"type": "subscribe", "subscriptions": requests}).to_string();
            return connection.on_long_message(&text).await.unwrap();
        }
        for text in requests.iter().map(Value::to_string) {
            connection.on_message(Message::parse(&text, version)).unwrap();
        }
    }

    /// The client shows other credentials, or the same ones again.
    pub(super) fn show_credentials(&mut self, number: usize) {
        self.note_queued(number); // what was said before
        let identity = self.rng.random_range(0..IDENTITIES);
        let Peer { identity: own, version: Version::V4, connected: Some(connected), .. } = &mut self.peers[number]
        else {
            return;
        };
        let Connected { connection: Some(connection), visit, .. } = connected else { return };
        if visit.closing.is_some() {
            return;
        }
        *own = identity;
        visit.credentials.show(identity);
        let params = json!({"token": identity.to_string(), "other": "x"});
        let text = json!({"type": "authenticate", "requestId": "credentials", "params": params}).to_string();
        connection.on_message(Message::parse(&text, Version::V4)).unwrap();
    }

    /// A client does so before the answer to check number `at` is there.
    pub(super) fn show_credentials_meanwhile(&mut self, at: usize) {
        let clients: Vec<Uuid> = members(&self.checks[at].group).collect();
        let is_one =
            |peer: &Peer| peer.connected.as_ref().is_some_and(|other| clients.contains(&other.visit.connection));
        if let Some(number) = self.peers.iter().position(is_one) {
            self.show_credentials(number);
        }
    }

    /// The connection breaks, or its end has been noticed.
    pub(super) async fn leave(&mut self, number: usize) {
        let Some(connected) = &self.peers[number].connected else { return };
        if connected.visit.closing.is_some() {
            self.receive(number, usize::MAX);
            let Some(Connected { connection, visit, .. }) = self.peers[number].connected.take() else { return };
            if let Some(connection) = connection {
                connection.leave().await;
            }
            self.note_gone(&visit);
            visit.end(&self.log);
        } else {
            // What was on its way may come or not.
            let room = if self.rng.random_bool(0.8) { 3000 } else { 0 };
            self.receive(number, room);
            let Some(Connected { visit, .. }) = self.peers[number].connected.take() else { return };
            self.note_gone(&visit);
        }
    }

    pub(super) fn give_ticket(&mut self, number: usize) {
        let Some(Connected { link, visit, .. }) = &self.peers[number].connected else { return };
        if visit.closing.is_some() || visit.rights.is_none() {
            return;
        }
        let is_due = self.peers[number].version == Version::V4
            && visit.is_sure(&self.log)
            && visit.next_ticket(&self.log).is_some();
        self.connections.give_ticket(&link.client);
        assert_eq!(self.note_queued(number), is_due, "a ticket");
    }

    pub(super) async fn catch_up(&mut self, number: usize) {
        let Some(Connected { connection: Some(connection), visit, .. }) = &mut self.peers[number].connected else {
            return;
        };
        if visit.closing.is_none() {
            connection.catch_up().await.unwrap();
        }
    }

    pub(super) fn note_queued(&mut self, number: usize) -> bool {
        let Some(connected) = &mut self.peers[number].connected else { return false };
        let Connected { link, connection, network, visit, .. } = connected;
        let unread = network.received.lock().iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let is_behind = connection.as_ref().is_some_and(Connection::is_behind);
        visit.note_queued(unread, link.outbox().waiting_bytes(), is_behind, &self.log)
    }

    /// The network takes `room` more, and the client looks at what has come.
    pub(super) fn receive(&mut self, number: usize, room: usize) {
        self.note_queued(number);
        let Peer { connected: Some(connected), tickets, positions, .. } = &mut self.peers[number] else { return };
        let mut free = connected.network.room.lock();
        *free = free.saturating_add(room);
        drop(free);
        connected.link.outbox().resume();
        for line in connected.network.take().lines() {
            tickets.extend(connected.visit.read(line, &self.log, positions));
        }
        tickets.drain(..tickets.len().saturating_sub(3));
        positions.drain(1..positions.len().saturating_sub(8).max(1));
    }
}

impl Connected {
    pub(super) fn is_behind(&self) -> bool {
        self.visit.closing.is_none() && self.connection.as_ref().is_some_and(Connection::is_behind)
    }
}
