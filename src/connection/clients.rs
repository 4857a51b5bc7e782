//! Who is connected: found by the connection's id, or by the user.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::SystemTime,
};

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use uuid::Uuid;

use super::{places::Place, session::Session};
use crate::{
    backend::{Credentials, Identity},
    hub::Outbox,
    protocol::{CloseCode, Version},
};

/// One client, authorised or not.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) outbox: Arc<Outbox>,
    pub(super) version: Version,
    /// What is forwarded to the backend. Changes under the lock of the session; no other lock is taken while it is held.
    credentials: Mutex<Credentials>,
    pub(super) opened: SystemTime,
    place: Place,
    /// When it is checked from time to time, as one of so many parts.
    part: AtomicU8,
    /// There as long as it is authorised. Locked before anything of the hub's.
    session: Mutex<Option<Session>>,
}

impl Client {
    pub(super) fn new(outbox: Arc<Outbox>, version: Version, credentials: Credentials, part: u8, place: Place) -> Self {
        let (credentials, part) = (Mutex::new(credentials), AtomicU8::new(part));
        Self { outbox, version, credentials, opened: SystemTime::now(), place, part, session: Mutex::default() }
    }

    /// Returns the headers that are forwarded to the backend at present.
    pub(super) fn identity(&self) -> Identity {
        self.credentials.lock().identity.clone()
    }

    /// Returns what is forwarded to the backend, and what it takes to renew that.
    pub(super) fn credentials(&self) -> Credentials {
        self.credentials.lock().clone()
    }

    /// Forwards `credentials` from now on. Returns whether that makes a difference.
    pub(super) fn renew(&self, credentials: Credentials) -> bool {
        let mut known = self.credentials.lock();
        let is_other = known.identity != credentials.identity;
        *known = credentials;
        is_other
    }

    /// Returns the part in which the client is checked from time to time.
    pub(super) fn part(&self) -> u8 {
        self.part.load(Relaxed)
    }

    /// Has the client checked in another part from now on.
    pub(super) fn move_to_part(&self, part: u8) {
        self.part.store(part, Relaxed);
    }

    pub(super) fn id(&self) -> Uuid {
        self.outbox.connection()
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        self.place.address()
    }

    /// The connection outlives its HTTP request.
    pub(super) fn keep_connection(&self) {
        self.place.keep_connection();
    }

    /// Its subscriptions and permissions.
    pub(super) fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock()
    }

    pub(super) fn close(&self, code: CloseCode, reason: &'static str) {
        self.outbox.close(code, reason);
    }
}

/// The clients there are.
#[derive(Debug, Default)]
pub(super) struct Clients(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    all: HashMap<Uuid, Arc<Client>>,
    users: HashMap<Arc<str>, SmallVec<[Arc<Client>; 1]>>,
    /// The server is stopping: who comes now is sent away again.
    is_over: bool,
}

/// The user has as many connections as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany;

impl Clients {
    /// Adds one; `false` when the server is stopping.
    pub(super) fn add(&self, client: &Arc<Client>) -> bool {
        let mut known = self.0.lock();
        known.all.insert(client.id(), client.clone());
        !known.is_over
    }

    /// It is a connection of `user` from here on, unless that one has `most` already.
    pub(super) fn assign(&self, client: &Arc<Client>, user: &Arc<str>, most: Option<usize>) -> Result<(), TooMany> {
        let mut known = self.0.lock();
        let clients = known.users.entry(user.clone()).or_default();
        if most.is_some_and(|most| clients.len() >= most) {
            return Err(TooMany); // there is at least one, and so the entry was there
        }
        clients.push(client.clone());
        Ok(())
    }

    /// It is no connection of `user` any more.
    pub(super) fn unassign(&self, client: &Client, user: &Arc<str>) {
        let mut known = self.0.lock();
        if let Some(clients) = known.users.get_mut(user) {
            clients.retain(|other| other.id() != client.id());
            if clients.is_empty() {
                known.users.remove(user);
            }
        }
    }

    pub(super) fn remove(&self, client: &Client) {
        self.0.lock().all.remove(&client.id());
    }

    /// Nobody is let in from here on; all there are.
    pub(super) fn end(&self) -> Vec<Arc<Client>> {
        let mut known = self.0.lock();
        known.is_over = true;
        known.all.values().cloned().collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.lock().all.len()
    }

    pub(super) fn get(&self, id: Uuid) -> Option<Arc<Client>> {
        self.0.lock().all.get(&id).cloned()
    }

    /// The authorised ones of `user`.
    pub(super) fn of(&self, user: &str) -> Vec<Arc<Client>> {
        self.0.lock().users.get(user).into_iter().flatten().cloned().collect()
    }

    /// The authorised one with this id.
    pub(super) fn authorized_one(&self, id: Uuid) -> Option<Arc<Client>> {
        self.get(id).filter(|client| client.session().is_some())
    }

    /// The authorised ones that `are_wanted`, those included that are being told so.
    pub(super) fn authorized(&self, are_wanted: impl Fn(&Client) -> bool) -> Vec<Arc<Client>> {
        let mut clients: Vec<_> = self.0.lock().all.values().filter(|client| are_wanted(client)).cloned().collect();
        clients.retain(|client| client.session().is_some());
        clients
    }
}
