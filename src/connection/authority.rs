//! Permissions that stay true: what the application has us do to connections, and what the backend says when it is asked
//! again.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde_json::json;
use tokio::{task::yield_now, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use uuid::Uuid;

use super::{
    Connections,
    clients::Client,
    recheck::LOOKED_AT_ONCE,
    session::{Applied, Session},
};
use crate::{
    backend::{Answer, Identity, Moment, Urgency, Whom},
    broker::{Kind, Publisher},
    hub::Full,
    logging::{chain, limited},
    protocol::{
        CloseCode,
        control::{Action, Control, Target},
    },
    room::RoomKey,
};

/// How long to wait before the broker is given again what it has not taken.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// What a client is told whose connection the application has ended.
const BY_APPLICATION: &str = "disconnected by the application";
/// What a client is told that the backend refuses, or that has lost a room and speaks 3.1's protocol, which has no frame for that.
const PERMISSIONS_CHANGED: &str = "permissions changed";

impl Connections {
    /// Does what the application wants to those it is about, between what was published before and after it. What is
    /// `is_recalled` is read again, from before this instance was there perhaps: whom it names by a user may have come since, and
    /// is only checked again. Others have their turn in between where the clients have many subscriptions.
    pub async fn control(&self, control: &Control, offset: Option<u64>, is_recalled: bool) {
        let Control { action, target } = control;
        let changed = match (&target.user, target.connection) {
            (_, Some(connection)) => Some(Whom::Connection(connection)),
            (Some(user), None) => Some(Whom::User(user)),
            // Out of a room, whoever they are, they may come back.
            (None, None) if *action == Action::Unsubscribe => None,
            (None, None) => Some(Whom::All),
        };
        let is_by_room = changed == Some(Whom::All) && target.room.is_some();
        let vouched = if is_by_room { self.unchanged() } else { Vec::new() };
        // Before all else: who is on the way in learns of it there.
        if let Some(changed) = changed {
            self.backend.changes.note(changed, offset);
        }
        let clients = self.targets(target);
        let connections = clients.len();
        self.look_after_others(target, &clients, vouched);
        let mut looked_at = 0;
        for client in clients {
            if looked_at >= LOOKED_AT_ONCE {
                looked_at = 0;
                yield_now().await;
            }
            if let Some(session) = client.session().as_mut() {
                looked_at += session.subscriptions();
                if changed.is_some() {
                    session.lose_ticket();
                }
            }
            match action {
                // By its id nobody else can be meant, whenever that was.
                Action::Disconnect if target.connection.is_some() => {
                    client.close(CloseCode::Disconnected, BY_APPLICATION);
                }
                Action::Forget => self.rechecks.add(&client, Urgency::Background),
                Action::Reauthorize => self.check_on_hold(&client),
                _ if is_recalled => self.check_on_hold(&client),
                Action::Disconnect => client.close(CloseCode::Disconnected, BY_APPLICATION),
                Action::Unsubscribe => {
                    let Some(room) = &target.room else { continue };
                    let outcome = client.session().as_mut().map(|session| session.leave_room(room, self));
                    self.settle(&client, outcome);
                }
            }
        }
        if !is_recalled {
            self.metrics.controls.inc(action.word());
            debug!(action = action.word(), connections, "control message applied");
        }
    }

    /// Asks the backend what `client` may do before anything that is published from now on reaches it.
    fn check_on_hold(&self, client: &Arc<Client>) {
        // A client that is not authorised yet is in no room. Under the lock, so that a step of catching up is over.
        let session = client.session();
        if session.is_some() {
            client.outbox.hold();
        }
        drop(session);
        self.rechecks.add(client, Urgency::Urgent);
    }

    /// Those for whom nothing has changed since the backend was asked, with the moment when it was.
    fn unchanged(&self) -> Vec<(Arc<Client>, Moment)> {
        let asked = |client: Arc<Client>| {
            let asked = client.session().as_ref().map(Session::asked)?;
            (!self.has_changed(&client, asked)).then_some((client, asked))
        };
        self.clients.authorized(|_| true).into_iter().filter_map(asked).collect()
    }

    /// A change was noted for more connections than the message is about: for all of a user's, or for everybody. That is for
    /// those on their way in; of the others it is known, or asked in good time, that what they may do holds.
    fn look_after_others(&self, target: &Target, meant: &[Arc<Client>], vouched: Vec<(Arc<Client>, Moment)>) {
        let meant: HashSet<Uuid> = meant.iter().map(|client| client.id()).collect();
        let now = self.backend.changes.now();
        for (client, asked) in vouched.into_iter().filter(|(client, _)| !meant.contains(&client.id())) {
            if let Some(session) = client.session().as_mut().filter(|session| session.asked() == asked) {
                session.vouch(now);
            }
        }
        if let (Some(user), None, Some(_)) = (&target.user, target.connection, &target.room) {
            for client in self.clients.of(user) {
                if let Some(session) = client.session().as_mut() {
                    session.lose_ticket();
                }
                self.rechecks.add(&client, Urgency::Background);
            }
        }
    }

    /// Whom a control message is about, as far as they are connected here.
    fn targets(&self, target: &Target) -> Vec<Arc<Client>> {
        let mut clients = match (&target.connection, &target.user) {
            (Some(id), _) => self.clients.get(*id).into_iter().collect(),
            (None, Some(user)) => self.clients.of(user),
            (None, None) => self.clients.authorized(|_| true),
        };
        let dispatch = self.hub.dispatch();
        clients.retain(|client| {
            let session = client.session();
            let is_user =
                |wanted: &String| session.as_ref().and_then(Session::user).is_some_and(|user| **user == **wanted);
            let is_in = |room: &RoomKey| session.as_ref().is_some_and(|session| session.is_reached(room, dispatch));
            target.user.as_ref().is_none_or(is_user) && target.room.as_ref().is_none_or(is_in)
        });
        clients
    }

    /// The backend, asked with `identity`, has said what `client` may do. Whether that holds still; if not, it has to be asked again.
    pub(super) fn apply(&self, client: &Arc<Client>, answer: &Answer, identity: &Identity) -> bool {
        let Answer { admission, asked, at } = answer;
        let mut session = client.session();
        let Some(known) = session.as_mut() else { return true };
        let before = known.user().cloned();
        let is_current = client.identity() == *identity;
        let is_renewed = is_current && !known.has_confirmed_credentials();
        let user = admission.user.as_ref().filter(|user| before.as_ref() != Some(user));
        // In this order, as for who comes in: who changes the new user's permissions finds it from here on.
        if let Some(user) = user {
            let _ = self.clients.assign(client, user, None); // it is here already
        }
        if !self.backend.changes.none_since(*asked, admission.user.as_deref(), Some(client.id()))
            || !self.backend.changes.none_since(*asked, before.as_deref(), None)
        {
            if let Some(user) = user {
                self.clients.unassign(client, user);
            }
            return false;
        }
        if is_renewed && before != admission.user {
            // With the credentials of somebody else it comes in as a new client does: by the limits and hooks of that user.
            if let Some(user) = user {
                self.clients.unassign(client, user);
            }
            client.close(CloseCode::PermissionsChanged, PERMISSIONS_CHANGED);
            self.metrics.rechecks.inc("changed");
            debug!(connection = %client.id(), "shows the credentials of another user");
            return true;
        }
        if is_renewed {
            client.move_to_part(self.rechecks.part(identity)); // within an interval it is checked again
        }
        let outcome = known.apply(admission, (*asked, *at), (identity, is_current), self);
        if matches!(outcome, Ok(Applied::Unchanged | Applied::Changed)) {
            client.outbox.release(); // of what it has lost, nothing is left there
            client.outbox.flush();
        }
        if let Some(before) = before.filter(|before| admission.user.as_ref() != Some(before)) {
            self.clients.unassign(client, &before);
            self.forget(Some(&before)); // with whose tickets it could go on, whatever becomes of this user
        }
        drop(session);
        if matches!(outcome, Ok(Applied::Unchanged)) {
            self.metrics.rechecks.inc("unchanged");
        } else {
            self.metrics.rechecks.inc("changed");
            self.forget(admission.user.as_deref());
        }
        self.settle(client, Some(outcome));
        self.renew_ticket(client);
        true
    }

    /// Nothing that the backend has said of `user` before is to count any more, on any instance.
    pub(super) fn forget(&self, user: Option<&str>) {
        if let Some(user) = user.filter(|_| self.tickets.is_some() || self.backend.has_cache()) {
            self.forgotten.lock().insert(user.into());
            self.has_forgotten.notify_one();
        }
    }

    /// Those for whom a check has come to something else than before, since the last call.
    pub(super) fn take_forgotten(&self) -> HashSet<Box<str>> {
        std::mem::take(&mut self.forgotten.lock())
    }

    /// Tells all instances of them, until `stop`: a ticket, or an answer in memory, must not outlive what a check has found.
    pub async fn tell_forgotten(self: Arc<Self>, publisher: Publisher, stop: CancellationToken) {
        let telling = async {
            loop {
                self.has_forgotten.notified().await;
                for user in self.take_forgotten() {
                    let body = json!({"action": Action::Forget.word(), "user": user}).to_string();
                    while let Err(error) = publisher.publish(Kind::Control, body.clone().into()).await {
                        limited!(warn, "the instances cannot be told of a change, trying again", error = chain(&error));
                        sleep(TELL_AGAIN).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(telling).await;
    }

    /// Whether something has changed for `client` since `asked`.
    pub(super) fn has_changed(&self, client: &Client, asked: Moment) -> bool {
        let user = client.session().as_ref().and_then(Session::user).cloned();
        !self.backend.changes.none_since(asked, user.as_deref(), Some(client.id()))
    }

    /// Ends the connection of a client that could not be told.
    fn settle(&self, client: &Client, outcome: Option<Result<Applied, Full>>) {
        if matches!(outcome, Some(Ok(Applied::Untold))) {
            client.close(CloseCode::PermissionsChanged, PERMISSIONS_CHANGED);
        }
    }

    /// The backend, asked with `identity` at the moment `asked`, does not know `client` any more. Whether that holds; if not, it has
    /// to be asked again.
    ///
    /// The client may come back once with what it can show by now: its next handshake is accepted, or refused for good.
    pub(super) fn turn_out(&self, client: &Client, identity: &Identity, asked: Option<Moment>) -> bool {
        let mut session = client.session(); // under which a client shows other credentials
        let user = session.as_ref().and_then(Session::user).cloned();
        let has_changed = |asked| !self.backend.changes.none_since(asked, user.as_deref(), Some(client.id()));
        if asked.is_some_and(has_changed) {
            return false;
        }
        if client.identity() != *identity && session.as_mut().is_some_and(Session::has_another_try) {
            return false;
        }
        self.forget(user.as_deref());
        client.close(CloseCode::PermissionsChanged, PERMISSIONS_CHANGED);
        drop(session);
        self.metrics.rechecks.inc("refused");
        debug!(connection = %client.id(), "not authorised any more");
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, IoSlice},
        sync::mpsc::{Receiver, channel},
        thread::{self, JoinHandle},
    };

    use futures::FutureExt;
    use http::HeaderMap;
    use parking_lot::Mutex;
    use serde_json::value::RawValue;
    use tokio::time::Instant;

    use super::{
        super::{Link, link::Source, simulated::connections},
        *,
    };
    use crate::{
        config,
        hub::{Content, Encoder, Outbox, Wire},
        protocol::Version,
    };

    /// Does something the first time that a frame is queued: what another thread may do at this moment.
    struct Meanwhile(Mutex<Option<Box<dyn FnOnce() + Send>>>);

    impl Wire for Meanwhile {
        fn transport(&self) -> &'static str {
            "none"
        }

        fn encoded_len(&self, content: Content<'_>) -> usize {
            let work = self.0.lock().take();
            work.into_iter().for_each(|work| work());
            content.payload_len(Version::V4)
        }

        fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>) {
            content.put_payload(Version::V4, out);
        }

        fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            Ok(slices.iter().map(|slice| slice.len()).sum())
        }
    }

    fn register(connections: &Arc<Connections>) -> (Arc<Outbox<Meanwhile>>, Link) {
        let place = connections.place(None, &HeaderMap::new()).unwrap();
        let identity = Identity::from_bytes(b"x:y\n");
        connections.register(Meanwhile(Mutex::new(None)), Version::V4, identity, place)
    }

    fn reauthorize(user: Option<&str>) -> Control {
        let target = Target { user: user.map(str::to_owned), ..Target::default() };
        Control { action: Action::Reauthorize, target }
    }

    /// Has another thread carry out a message about `user` as soon as the next frame is queued; the frame waits until it has begun.
    fn reauthorize_meanwhile(
        connections: &Arc<Connections>,
        outbox: &Outbox<Meanwhile>,
        user: Option<&'static str>,
    ) -> Receiver<JoinHandle<()>> {
        let (other, (started, threads)) = (connections.clone(), channel());
        *outbox.wire().0.lock() = Some(Box::new(move || {
            let (before, connections) = (other.backend.changes.now(), other.clone());
            let control = move || connections.control(&reauthorize(user), Some(1), false).now_or_never().unwrap();
            started.send(thread::spawn(control)).unwrap();
            while other.backend.changes.now() == before {
                thread::yield_now();
            }
        }));
        threads
    }

    #[test]
    fn who_is_just_being_welcomed_is_asked_for_again() {
        let connections = connections(&[], config::History::default());
        let (outbox, link) = register(&connections);
        let threads = reauthorize_meanwhile(&connections, &outbox, None);
        let admission = connections.backend.admission(Vec::new(), None).unwrap();
        let asked = connections.backend.changes.now();
        let _connection = link.admit(&admission, asked, Source::Backend { at: Instant::now() }).unwrap();
        threads.recv().unwrap().join().unwrap();
        assert_eq!(connections.rechecks.due.lock().groups.len(), 1);
        assert!(link.outbox().on_hold_for().is_some());
    }

    #[test]
    fn a_client_that_is_admitted_at_the_second_attempt_is_not_on_hold_from_the_first_one() {
        let connections = connections(&[], config::History::default());
        let (_, link) = register(&connections);
        link.outbox().hold();
        let admission = connections.backend.admission(Vec::new(), None).unwrap();
        let asked = connections.backend.changes.now();
        let _connection = link.admit(&admission, asked, Source::Backend { at: Instant::now() }).unwrap();
        assert_eq!(link.outbox().on_hold_for(), None);
    }

    #[test]
    fn who_is_just_becoming_somebody_else_is_asked_for_again() {
        let connections = connections(&[], config::History::default());
        let (outbox, link) = register(&connections);
        let room = RawValue::from_string(r#"{"a":1}"#.to_owned()).unwrap();
        let [one, two] = [("1", Vec::new()), ("2", vec![room])]
            .map(|(user, rooms)| connections.backend.admission(rooms, Some(user)).unwrap());
        let asked = connections.backend.changes.now();
        let _connection = link.admit(&one, asked, Source::Backend { at: Instant::now() }).unwrap();
        let threads = reauthorize_meanwhile(&connections, &outbox, Some("2"));
        let answer = Answer { admission: two, asked, at: Instant::now() };
        assert!(connections.apply(&link.client, &answer, &link.client.identity()));
        threads.recv().unwrap().join().unwrap();
        assert_eq!(connections.rechecks.due.lock().groups.len(), 1);
        assert!(link.outbox().on_hold_for().is_some());
    }
}
