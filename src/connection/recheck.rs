//! Asking the backend again what connected clients may do: when the application says that something has changed, and from
//! time to time.
//!
//! Clients with the same identity share one call. Clients whose permissions are said to have changed go first, and never wait
//! behind the others.
//!
//! A `reauthorize` puts its clients on hold: what is published behind it waits in their outboxes until the backend has answered.
//! The time in our own line does not count, since a message about all clients would close most of them otherwise; from the first
//! failed call on they wait for `API_TIMEOUT` at most, and are closed then. Every other check leaves the clients what they have, for
//! `REAUTHORIZE_GRACE`.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use rand::Rng;
use tokio::{
    sync::Notify,
    task::yield_now,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Connections, clients::Client, session::Session};
use crate::{
    backend::{Answer, Error, Identity, Urgency},
    logging::{chain, limited},
    protocol::{CloseCode, server::v4},
    room::Allowed,
};

/// Checks under way at once, of each urgency; the backend's gate is what bounds the calls.
const AT_ONCE: usize = 64;
/// Parts in which the clients are checked from time to time, one after the other: who is in which is random.
const PARTS: u8 = 128;
/// The shortest and the longest wait before the backend is asked again that could not be asked.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Subscriptions that are looked at before others have their turn, though all of a client's are looked at together.
pub(super) const LOOKED_AT_ONCE: usize = 256;
/// When a client may come back that could not be checked for too long, in seconds.
const RETURN_SECONDS: std::ops::Range<f64> = 1.0..30.0;

/// Who is to be asked for.
#[derive(Debug, Default)]
pub(super) struct Rechecks {
    pub(super) due: Mutex<Due>,
    added: Notify,
    hasher: RandomState,
}

#[derive(Debug, Default)]
pub(super) struct Due {
    pub(super) groups: HashMap<Identity, Group>,
    urgent: VecDeque<Identity>,
    routine: VecDeque<Identity>,
    /// Those that could not be asked for, by when to try again.
    later: BTreeMap<(Instant, u64), Identity>,
    count: u64,
}

/// The clients of one identity.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) clients: HashMap<Uuid, Weak<Client>>,
    /// What tickets said with which some of them came back, by user. It is checked whether these are still there or not: a client
    /// that never stays for long must not go on with its tickets.
    resumed: HashMap<Arc<str>, Arc<Allowed>>,
    pub(super) is_urgent: bool,
    failing: Option<Failing>,
    /// End of the wait of its clients on hold, once a call has failed.
    hold_ends: Option<Instant>,
}

/// It is not known what they may do.
#[derive(Debug, Clone, Copy)]
struct Failing {
    since: Instant,
    wait: Duration,
    /// Where it is among those to be tried later.
    at: (Instant, u64),
}

impl Rechecks {
    /// In which part the clients of `identity` are.
    pub(super) fn part(&self, identity: &Identity) -> u8 {
        (self.hasher.hash_one(identity) % u64::from(PARTS)) as u8
    }

    /// `client` is to be asked for.
    pub(super) fn add(&self, client: &Arc<Client>, urgency: Urgency) {
        self.due.lock().add(client, urgency == Urgency::Urgent);
        self.added.notify_one();
    }

    /// Leaves those clients in `group` whose credentials are those of `identity`, and has the others asked for with theirs.
    pub(super) fn redirect(&self, identity: &Identity, group: &mut Group) {
        let (same, others): (Vec<_>, Vec<_>) =
            group.clients.values().filter_map(Weak::upgrade).partition(|client| client.identity() == *identity);
        if others.is_empty() {
            return;
        }
        group.clients = same.iter().map(|client| (client.id(), Arc::downgrade(client))).collect();
        let mut due = self.due.lock();
        others.iter().for_each(|client| due.redirect(client, group));
        drop(due);
        self.added.notify_one();
    }

    /// `client` has come back with a ticket which says that it is `user` and may join the rooms of `allowed`: that is to be checked.
    pub(super) fn add_resumed(&self, client: &Arc<Client>, user: &Arc<str>, allowed: &Arc<Allowed>) {
        self.due.lock().add(client, false).resumed.insert(user.clone(), allowed.clone());
        self.added.notify_one();
    }
}

impl Due {
    fn add(&mut self, client: &Arc<Client>, is_urgent: bool) -> &mut Group {
        let identity = &client.identity();
        let is_new = !self.groups.contains_key(identity);
        let group = self.groups.entry(identity.clone()).or_default();
        group.clients.insert(client.id(), Arc::downgrade(client));
        if is_urgent && !group.is_urgent {
            group.is_urgent = true;
            if let Some(failing) = group.failing {
                self.later.remove(&failing.at);
            }
            self.urgent.push_back(identity.clone()); // where it is among the others, it is passed over
        } else if is_new && !is_urgent {
            self.routine.push_back(identity.clone());
        }
        group
    }

    /// The next group to ask for, if there is one for which there is a place.
    pub(super) fn next(&mut self, urgent: usize, routine: usize) -> Option<(Identity, Group)> {
        let now = Instant::now();
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= now) {
            let identity = entry.remove();
            let is_urgent = self.groups.get(&identity).is_some_and(|group| group.is_urgent);
            if is_urgent { &mut self.urgent } else { &mut self.routine }.push_back(identity);
        }
        let lines = [(&mut self.urgent, urgent, true), (&mut self.routine, routine, false)];
        for (line, running, is_urgent) in lines {
            while running < AT_ONCE
                && let Some(identity) = line.pop_front()
            {
                if self.groups.get(&identity).is_some_and(|group| group.is_urgent == is_urgent)
                    && let Some(group) = self.groups.remove(&identity)
                {
                    return Some((identity, group));
                }
            }
        }
        None
    }

    /// Has a client of `group` asked for next that has shown other credentials since it was added. It has the time that is left to
    /// the group, and does not wait in the line again: one that shows others all the time would never be asked for.
    fn redirect(&mut self, client: &Arc<Client>, group: &Group) {
        let identity = client.identity();
        let other = self.groups.entry(identity.clone()).or_default();
        other.clients.insert(client.id(), Arc::downgrade(client));
        let is_put_off = other.failing.is_some_and(|failing| self.later.contains_key(&failing.at));
        if let Some(failing) = group.failing {
            let own = other.failing.get_or_insert(failing);
            own.since = own.since.min(failing.since);
        }
        other.hold_ends = other.hold_ends.into_iter().chain(group.hold_ends).min();
        let becomes_urgent = group.is_urgent && !other.is_urgent;
        other.is_urgent |= group.is_urgent;
        if is_put_off && !becomes_urgent {
            return; // it is not long ago that the backend could not be asked
        }
        if let Some(failing) = other.failing.filter(|_| is_put_off) {
            self.later.remove(&failing.at);
        }
        // Where it is in the line already, it is passed over.
        if other.is_urgent { &mut self.urgent } else { &mut self.routine }.push_front(identity);
    }

    /// To be tried again.
    fn delay(&mut self, identity: Identity, mut group: Group, since: Instant, wait: Duration, until: Instant) {
        self.count += 1;
        let at = (until, self.count);
        if let Some(known) = self.groups.get_mut(&identity) {
            // It was added again meanwhile, and will be asked for before that.
            let failing = known.failing.get_or_insert(Failing { since, wait, at });
            failing.since = failing.since.min(since);
            known.hold_ends = known.hold_ends.into_iter().chain(group.hold_ends).min();
            known.clients.extend(group.clients);
            known.resumed.extend(group.resumed);
            if group.is_urgent && !known.is_urgent {
                known.is_urgent = true;
                self.urgent.push_back(identity); // where it is among the others, it is passed over
            }
            return;
        }
        group.failing = Some(Failing { since, wait, at });
        self.later.insert(at, identity.clone());
        self.groups.insert(identity, group);
    }
}

pub(super) type Outcome = Result<Arc<Answer>, Arc<Error>>;

impl Connections {
    /// Asks for those who are due, until `stop`.
    pub async fn recheck(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.recheck_for_ever()).await;
    }

    async fn recheck_for_ever(&self) {
        let mut running = FuturesUnordered::new();
        let (mut urgent, mut routine) = (0, 0);
        let every = self.config.reauthorize.interval.map(|whole| whole / u32::from(PARTS));
        let mut parts = interval(every.unwrap_or(Duration::from_secs(3600)).max(Duration::from_millis(1)));
        parts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut part = 0;
        loop {
            let next_time = {
                let mut due = self.rechecks.due.lock();
                while let Some((identity, group)) = due.next(urgent, routine) {
                    *(if group.is_urgent { &mut urgent } else { &mut routine }) += 1;
                    running.push(self.ask(identity, group));
                }
                due.later.first_key_value().map(|((time, _), _)| *time)
            };
            let next_time = next_time.unwrap_or_else(|| Instant::now() + LONGEST_WAIT);
            tokio::select! {
                Some((identity, group, outcome)) = running.next() => {
                    *(if group.is_urgent { &mut urgent } else { &mut routine }) -= 1;
                    self.conclude(identity, group, &outcome).await;
                }
                () = self.rechecks.added.notified() => {}
                () = sleep_until(next_time) => {}
                _ = parts.tick(), if every.is_some() => {
                    part = (part + 1) % PARTS;
                    for client in self.clients.authorized(|client| client.part() == part) {
                        self.rechecks.add(&client, Urgency::Background);
                    }
                }
            }
        }
    }

    async fn ask(&self, identity: Identity, mut group: Group) -> (Identity, Group, Outcome) {
        self.rechecks.redirect(&identity, &mut group);
        let urgency = if group.is_urgent { Urgency::Urgent } else { Urgency::Background };
        let mut clients = group.clients.values().filter_map(Weak::upgrade);
        let client = clients.find(|client| !client.outbox.is_closing()); // the others are on their way out
        if group.resumed.is_empty() && client.is_none() {
            return (identity, group, Err(Arc::new(Error::Busy { retry_after: Duration::ZERO }))); // which nobody hears of
        }
        let check = self.backend.check(&identity, client.and_then(|client| client.address()), urgency);
        let outcome = match group.hold_ends {
            Some(end) => timeout_at(end, check).await.unwrap_or_else(|_| Err(Arc::new(self.timed_out()))),
            None => check.await,
        };
        (identity, group, outcome)
    }

    /// Has those of `group` do from here on what the backend has said, or asks again. Others have their turn between clients.
    pub(super) async fn conclude(&self, identity: Identity, group: Group, outcome: &Outcome) {
        let mut clients: Vec<Arc<Client>> = group.clients.values().filter_map(Weak::upgrade).collect();
        clients.retain(|client| !client.outbox.is_closing()); // it is on its way out
        for (user, allowed) in &group.resumed {
            let is_confirmed = match outcome {
                Ok(answer) => {
                    let Answer { admission, .. } = &**answer;
                    admission.user.as_ref() == Some(user) && Arc::ptr_eq(&admission.allowed, allowed) // equal ones are shared
                }
                Err(error) => !error.is_final(),
            };
            if !is_confirmed {
                self.forget(Some(user));
            }
        }
        match outcome {
            Ok(answer) => {
                let mut looked_at = 0;
                for client in clients {
                    if looked_at >= LOOKED_AT_ONCE {
                        looked_at = 0;
                        yield_now().await; // each client is looked at as of its own moment, so changes may come in between
                    }
                    looked_at += client.session().as_ref().map_or(0, Session::subscriptions);
                    if self.apply(&client, answer, &identity) {
                        continue;
                    }
                    // Something changes all the time. No hold may last for ever because of that.
                    match client.outbox.on_hold_for() {
                        Some(held) if held > self.backend.timeout() => self.give_up(&client),
                        _ => self.rechecks.add(&client, Urgency::Urgent),
                    }
                }
            }
            Err(error) if error.is_final() => {
                for client in clients {
                    if !self.turn_out(&client, &identity, error.asked()) {
                        self.rechecks.add(&client, Urgency::Urgent); // it may be let in by now
                    }
                }
            }
            Err(error) => self.put_off(identity, group, clients, error),
        }
    }

    /// Has `clients`, those of `group`, asked for again later, as far as they can go on waiting.
    fn put_off(&self, identity: Identity, mut group: Group, mut clients: Vec<Arc<Client>>, error: &Error) {
        let now = Instant::now();
        let (since, wait) = group.failing.map_or((now, FIRST_WAIT), |failing| (failing.since, failing.wait));
        let grace_ends = since + self.config.reauthorize.grace;
        // Clients put on hold while a check from time to time was under way have an urgent one of their own.
        let is_on_hold = |client: &Client| group.is_urgent && client.outbox.on_hold_for().is_some();
        if clients.iter().any(|client| is_on_hold(client)) {
            let end = match error {
                Error::TimedOut(_) => now, // all the time there was is gone
                _ => group.hold_ends.unwrap_or(now + self.backend.timeout()),
            };
            group.hold_ends = Some(end);
        }
        let ends = |client: &Client| group.hold_ends.filter(|_| is_on_hold(client)).unwrap_or(grace_ends);
        clients.retain(|client| {
            let can_wait = now < ends(client);
            if !can_wait {
                self.give_up(client);
            }
            can_wait
        });
        let Some(end) = clients.iter().map(|client| ends(client)).min() else { return };
        self.metrics.rechecks.inc("failed");
        limited!(
            warn[error.outcome().word()],
            "cannot check permissions, trying again",
            error = chain(error),
            clients = clients.len()
        );
        let random = wait.mul_f64(rand::rng().random_range(0.5..1.0));
        let until = (now + error.retry_after().unwrap_or_default().max(random)).min(end);
        if !clients.iter().any(|client| is_on_hold(client)) {
            group.hold_ends = None;
        }
        group.clients = clients.iter().map(|client| (client.id(), Arc::downgrade(client))).collect();
        self.rechecks.due.lock().delay(identity, group, since, (wait * 2).min(LONGEST_WAIT), until);
    }

    fn timed_out(&self) -> Error {
        Error::TimedOut(self.backend.timeout())
    }

    /// It was not known for too long what `client` may do.
    fn give_up(&self, client: &Client) {
        let user = client.session().as_ref().and_then(Session::user).cloned();
        self.forget(user.as_deref());
        self.metrics.rechecks.inc("given-up");
        let kind = if client.outbox.on_hold_for().is_some() { "on-hold" } else { "grace" };
        limited!(
            warn[kind],
            "connection closed: its permissions could not be checked in time, see API_TIMEOUT and REAUTHORIZE_GRACE",
            connection = %client.id()
        );
        let later = Duration::from_secs_f64(rand::rng().random_range(RETURN_SECONDS));
        client.outbox.close(CloseCode::TryLater, v4::retry_after(later));
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;
    use http::HeaderMap;
    use serde_json::{json, value::RawValue};

    use super::{
        super::{
            link::{Link, Source},
            simulated::{Network, connections},
        },
        *,
    };
    use crate::{config, protocol::Version};

    #[tokio::test]
    async fn a_ticket_is_checked_even_if_its_holder_has_gone_already_and_nobody_else_is() {
        let connections = connections(&[("RESUME_SECRET", "0123456789abcdef")], config::History::default());
        let admission = connections.backend.admission(Vec::new(), Some("17")).unwrap();
        let user = admission.user.clone().unwrap();
        for is_resumed in [false, true] {
            let place = connections.place(None, &HeaderMap::new()).unwrap();
            let identity = Identity::from_bytes(b"x:y\n");
            let (_, link) = connections.register(Network::new(Version::V4, 0), Version::V4, identity, place);
            match is_resumed {
                true => connections.rechecks.add_resumed(&link.client, &user, &admission.allowed),
                false => connections.rechecks.add(&link.client, Urgency::Background),
            }
            drop(link);
            let (identity, group) = connections.rechecks.due.lock().next(0, 0).unwrap();
            let (identity, group, outcome) = connections.ask(identity, group).await;
            assert_eq!(
                matches!(&outcome, Err(error) if !matches!(**error, Error::Busy { .. })),
                is_resumed,
                "{outcome:?}"
            );
            let refused = Error::Refused {
                status: http::StatusCode::FORBIDDEN,
                retry_after: None,
                asked: connections.backend.changes.now(),
            };
            connections.conclude(identity, group, &Err(Arc::new(refused))).await;
            assert_eq!(connections.take_forgotten().contains(&*user), is_resumed);
        }
    }

    #[tokio::test]
    async fn a_client_that_shows_other_credentials_waits_in_no_line_again_and_has_no_more_time() {
        let connections = connections(&[], config::History::default());
        let token = |number: usize| Identity::from_bytes(format!("authorization:Token {number}\n").as_bytes());
        let come = |number: usize| {
            let place = connections.place(None, &HeaderMap::new()).unwrap();
            connections.register(Network::new(Version::V4, 0), Version::V4, token(number), place).1
        };
        let links: Vec<Link> = (0..5).map(come).collect();
        links.iter().for_each(|link| connections.rechecks.add(&link.client, Urgency::Background));
        let next = || connections.rechecks.due.lock().next(0, 0).unwrap();
        let since = Instant::now();
        for shown in 100..200 {
            let (identity, mut group) = next();
            group.failing = Some(Failing { since, wait: FIRST_WAIT, at: (since, 0) });
            assert!(links[0].client.renew(token(shown).into()));
            connections.rechecks.redirect(&identity, &mut group);
            assert!(group.clients.is_empty());
        }
        let (identity, mut group) = next();
        connections.rechecks.redirect(&identity, &mut group);
        assert!(identity == token(199) && group.clients.len() == 1);
        assert_eq!(group.failing.map(|failing| failing.since), Some(since));
        assert!((1..5).all(|number| next().0 == token(number)), "the others are in their order");
        assert!(connections.rechecks.due.lock().groups.is_empty());
    }

    #[tokio::test]
    async fn an_answer_about_many_subscriptions_lets_others_have_their_turn_between_clients() {
        const CLIENTS: usize = 3;
        let connections = connections(&[("MESSAGE_RATE", "100000")], config::History::default());
        let rooms = vec![RawValue::from_string(r#"{"a":"*"}"#.to_owned()).unwrap()];
        let admission = connections.backend.admission(rooms, Some("17")).unwrap();
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let place = connections.place(None, &HeaderMap::new()).unwrap();
            let identity = Identity::from_bytes(b"x:y\n");
            let (_, link) = connections.register(Network::new(Version::V4, 0), Version::V4, identity, place);
            let asked = connections.backend.changes.now();
            let mut connection = link.admit(&admission, asked, Source::Backend { at: Instant::now() }).unwrap();
            let list: Vec<_> = (0..LOOKED_AT_ONCE).map(|a| json!({"requestId": a, "room": {"a": a}})).collect();
            let message = json!({"type": "subscribe", "subscriptions": list}).to_string();
            connection.on_long_message(&message).await.unwrap();
            connections.rechecks.add(&link.client, Urgency::Background);
            clients.push((link, connection));
        }
        let (identity, group) = connections.rechecks.due.lock().next(0, 0).unwrap();
        let nothing = connections.backend.admission(Vec::new(), Some("17")).unwrap();
        let answer = Answer { admission: nothing, asked: connections.backend.changes.now(), at: Instant::now() };
        let outcome = Ok(Arc::new(answer));
        let mut concluding = pin!(connections.conclude(identity, group, &outcome));
        let left = || {
            let subscriptions =
                |(link, _): &(Link, _)| link.client.session().as_ref().map_or(0, Session::subscriptions);
            clients.iter().filter(|client| subscriptions(client) > 0).count()
        };
        for expected in (0..CLIENTS).rev() {
            assert_eq!(poll!(concluding.as_mut()).is_ready(), expected == 0);
            assert_eq!(left(), expected);
        }
    }
}
