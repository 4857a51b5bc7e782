//! Every order of events that a seed comes up with, against a simple model of who may receive what: the backend changes
//! its mind and says so or not yet, answers and tickets come late, control messages come in between, time passes, the clock is
//! set, clients subscribe, unsubscribe, show other credentials, take nothing for a while, go and come back.
//!
//! No client is ever sent what its permissions did not allow when it was queued, nor anything while it is on hold, nor what was
//! published before it could join the room; no ticket counts for longer than it should; and nothing else is lost. The parts are
//! the real ones; only the calls to the backend, the clocks and the network are not.
//!
//!     SIMULATION_SEED=17 cargo test permissions_simulation     # one order again
//!     SIMULATION_RUNS=100000 cargo test permissions_simulation # many more

mod checks;
mod clients;
mod log;
mod model;

use std::collections::{BTreeSet, HashMap};

use http::{HeaderMap, StatusCode};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json, value::to_raw_value};

use self::{
    checks::Check,
    model::{Log, Rights, Visit},
};
use super::{
    recheck::Group,
    session::{Provenance, Session},
    simulated::{Network, connections, each_seed},
    *,
};
use crate::{
    backend::{Admission, Error, Identity, Moment},
    hub::{Portion, Publication, Tally},
    protocol::control::Action,
};

/// Events of one run.
const EVENTS: usize = 250;
/// Runs, if not said otherwise.
const RUNS: u64 = 500;
/// Identities, which is what the backend knows somebody by.
const IDENTITIES: usize = 3;
/// Accounts; the first is nobody's, and has no id.
const ACCOUNTS: usize = 3;
const PEERS: usize = 5;
/// Subscriptions of one connection, connections of one user, connections in all.
const SUBSCRIPTIONS: usize = 4;
const PER_USER: usize = 2;
const PLACES: usize = 8;
/// After which everything that waits for a time has its turn.
const LONG: Duration = Duration::from_secs(31);
/// Milliseconds that a ticket counts; that some runs have between two checks; that a hold may last.
const TTL: u64 = 60_000;
const INTERVAL: u64 = 45_000;
const API_TIMEOUT: u64 = 10_000;

/// What the backend says.
#[derive(Clone)]
enum Says {
    May(Rights),
    Unknown,
    Nothing,
}

/// A call to the backend, or the reading of a ticket.
struct Call {
    begun: u64,
    /// The same by the clock.
    at: u64,
    asked: Moment,
    says: Says,
    resumed: Option<(Provenance, model::Ticket)>,
}

/// A connection, from its handshake to its end.
struct Connected {
    connection: Option<Connection>,
    link: Link,
    network: Network,
    call: Option<Call>,
    visit: Visit,
}

/// Somebody who comes and goes.
struct Peer {
    identity: usize,
    version: Version,
    connected: Option<Connected>,
    /// Tickets, each with the rights it stands for and when it was queued.
    tickets: Vec<model::Ticket>,
    positions: Vec<String>,
}

struct UnderWay {
    publication: Arc<Publication>,
    portions: Option<Vec<Portion>>,
}

struct World {
    rng: StdRng,
    connections: Arc<Connections>,
    /// What the accounts may join, and whose account each identity is; `None` for one that is not known any more.
    rooms: Vec<Vec<Value>>,
    accounts: Vec<Option<usize>>,
    /// Accounts that have changed, though the application has not said so yet.
    untold: BTreeSet<usize>,
    log: Log,
    offset: u64,
    under_way: Option<UnderWay>,
    tally: Tally,
    checks: Vec<Check>,
    peers: Vec<Peer>,
    start: Instant,
    /// Whether the time of day is nobody's to set in this run.
    is_steady: bool,
    /// Publications that were received, answers and tickets that counted, positions that did not because the room was another's
    /// then, credentials that were confirmed, and tried because those before were refused.
    received: usize,
    applied: usize,
    resumed: usize,
    denied: usize,
    confirmed: usize,
    tried_again: usize,
}

fn user(account: usize) -> Option<String> {
    (account > 0).then(|| account.to_string())
}

fn identity(number: usize) -> Identity {
    Identity::from_bytes(format!("authorization:Token {number}\n").as_bytes())
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let interval = if rng.random_bool(0.5) { "off".to_owned() } else { (INTERVAL / 1000).to_string() };
        let vars = [
            ("RESUME_SECRET", "0123456789abcdef0123456789abcdef"),
            ("RESUME_TTL", &(TTL / 1000).to_string()),
            ("REAUTHORIZE_INTERVAL", &interval),
            ("API_TIMEOUT", &(API_TIMEOUT / 1000).to_string()),
            ("REAUTHORIZE_GRACE", "30000"),
            ("MAX_SUBSCRIPTIONS", &SUBSCRIPTIONS.to_string()),
            ("MAX_CONNECTIONS_PER_USER", &PER_USER.to_string()),
            ("MAX_CONNECTIONS", &PLACES.to_string()),
        ];
        let history = config::History { age: Duration::from_secs(1_000_000), limit_bytes: 64 << 20 };
        let connections = connections(&vars, history);
        let mut peer = || Peer {
            identity: rng.random_range(0..IDENTITIES),
            version: if rng.random_bool(0.75) { Version::V4 } else { Version::V3 },
            connected: None,
            tickets: Vec::new(),
            positions: vec!["0123456789ab:5".to_owned()],
        };
        let peers = (0..PEERS).map(|_| peer()).collect();
        let is_steady = rng.random_bool(0.5);
        let accounts = (0..IDENTITIES).map(|number| Some(number % ACCOUNTS)).collect();
        let mut world = Self {
            rng,
            connections,
            rooms: Vec::new(),
            accounts,
            untold: BTreeSet::new(),
            log: Log::checked_every((interval != "off").then_some(INTERVAL)),
            offset: 0,
            under_way: None,
            tally: Tally::default(),
            checks: Vec::new(),
            peers,
            start: Instant::now(),
            is_steady,
            received: 0,
            applied: 0,
            resumed: 0,
            denied: 0,
            confirmed: 0,
            tried_again: 0,
        };
        world.rooms = (0..ACCOUNTS).map(|_| world.some_rooms()).collect();
        world.begin_epoch();
        world
    }

    fn room(&mut self) -> Value {
        match self.rng.random_range(0..7) {
            0 | 1 => json!({"a": 1}),
            2 => json!({"a": 2}),
            3 => json!({"a": "*"}),
            4 => json!({"a": 1, "b": 1}),
            5 => json!({"a": "*", "b": 1}),
            _ => json!({"a": "*", "b": "*"}),
        }
    }

    fn some_rooms(&mut self) -> Vec<Value> {
        let mut rooms = Vec::new();
        for _ in 0..self.rng.random_range(0..8) {
            let room = self.room();
            if !rooms.contains(&room) {
                rooms.push(room);
            }
        }
        rooms
    }

    /// Time passes.
    pub(super) async fn wait(&mut self, time: Duration) {
        tokio::time::advance(time).await;
        self.log.time = u64::try_from(self.start.elapsed().as_millis()).unwrap();
    }

    /// Somebody sets the time of day.
    fn set_clock(&mut self) {
        let most = i64::try_from(3 * TTL / 2).unwrap();
        let ahead = if self.rng.random_bool(0.6) { 0 } else { self.rng.random_range(-most..most) };
        if let Some(tickets) = self.connections.tickets.as_ref().filter(|_| !self.is_steady) {
            tickets.clock.set_ahead(ahead);
            self.log.ahead = ahead;
        }
    }

    async fn event(&mut self) {
        self.log.now += 1;
        let peer = self.rng.random_range(0..PEERS);
        match self.rng.random_range(0..1000) {
            0..250 => self.dispatch(),
            250..290 => self.change(),
            290..335 => self.control(),
            335..340 => drop(self.tell_forgotten()),
            340..345 => self.note_gap(),
            345..480 => self.go_on_checking(),
            480..630 => self.enter(peer),
            630..650 => self.show_credentials(peer),
            650..800 => self.speak(peer).await,
            800..840 => self.leave(peer).await,
            840..850 => self.give_ticket(peer),
            850..910 => self.catch_up(peer).await,
            910..970 => {
                let room = self.rng.random_range(0..3000);
                self.receive(peer, room);
            }
            970..975 => self.set_clock(),
            975..990 => {
                let seconds = self.rng.random_range(1..12);
                self.wait(Duration::from_secs(seconds)).await;
            }
            990..995 => self.wait(LONG).await,
            _ => self.come_and_go(peer).await,
        }
        self.check();
    }

    /// The backend says something else of somebody from now on; the application tells so later.
    fn change(&mut self) {
        let number = self.rng.random_range(0..IDENTITIES);
        let rooms = self.some_rooms();
        match (self.accounts[number], self.rng.random_range(0..10)) {
            (Some(account), 0..7) => {
                self.rooms[account] = rooms;
                self.untold.insert(account);
            }
            (Some(account), 7..) if self.rng.random_bool(0.6) => {
                self.accounts[number] = None;
                self.untold.insert(account);
            }
            (before, _) => {
                self.untold.extend(before);
                self.accounts[number] = Some(self.rng.random_range(0..ACCOUNTS));
            }
        }
    }

    fn says(&self, number: usize) -> Says {
        match self.accounts[number] {
            Some(account) => Says::May(Rights::new(user(account), self.rooms[account].clone())),
            None => Says::Unknown,
        }
    }

    fn begin(&mut self, number: usize, fails: f64) -> Call {
        let fails = self.rng.random_bool(fails);
        let says = if fails { Says::Nothing } else { self.says(number) };
        let asked = self.connections.backend.changes.now();
        Call { begun: self.log.now, at: self.log.time, asked, says, resumed: None }
    }

    fn admission(&self, rights: &Rights) -> Admission {
        let rooms = rights.rooms.iter().map(|room| to_raw_value(room).unwrap()).collect();
        self.connections.backend.admission(rooms, rights.user.as_deref()).unwrap()
    }
}

impl World {
    /// What there is agrees with the model.
    pub(super) fn check(&mut self) {
        let mut users: HashMap<String, BTreeSet<Uuid>> = HashMap::new();
        let due: BTreeSet<Uuid> = {
            let due = self.connections.rechecks.due.lock();
            let taken = self.checks.iter().map(|check| &check.group);
            due.groups.values().chain(taken).flat_map(members).collect()
        };
        for number in 0..PEERS {
            self.note_queued(number);
            let Some(Connected { link, visit, .. }) = &self.peers[number].connected else { continue };
            assert_eq!(link.outbox().close_code().map(CloseCode::number), visit.closing);
            let is_on_hold = link.outbox().on_hold_for().is_some();
            assert_eq!(is_on_hold, visit.held_since.is_some() && visit.closing.is_none(), "on hold");
            assert!(!is_on_hold || due.contains(&visit.connection), "on hold for ever");
            assert!(!visit.is_due || visit.closing.is_some() || due.contains(&visit.connection), "is not asked for");
            let session = link.client.session();
            let of = |session: &Session| session.user().map(|user| user.to_string());
            let keys = |session: &Session| session.allowed().rooms().map(str::to_owned).collect::<BTreeSet<_>>();
            let real = session.as_ref().map(|session| (of(session), keys(session), session.subscriptions()));
            let rights = visit.rights.as_ref();
            assert_eq!(real, rights.map(|rights| (rights.user.clone(), rights.keys.clone(), visit.places())));
            if let Some(user) = rights.and_then(|rights| rights.user.clone()) {
                users.entry(user).or_default().insert(visit.connection);
            }
        }
        for user in (1..=ACCOUNTS).map(|account| account.to_string()) {
            let clients = self.connections.clients.of(&user);
            assert_eq!(clients.len(), users.get(&user).map_or(0, BTreeSet::len), "of {user}");
            assert!(clients.iter().all(|client| users[&user].contains(&client.id())));
        }
    }

    /// Everything comes to rest: what has changed is told, all are asked for, and all is taken. What has been shown.
    async fn end(mut self) -> [usize; 8] {
        self.finish_trigger();
        self.check();
        for number in 0..PEERS {
            let Some(Connected { visit, .. }) = &self.peers[number].connected else { continue };
            let connection = Some(visit.connection).filter(|_| !visit.credentials.are_confirmed());
            if connection.is_some() {
                self.log.now += 1;
                self.apply_control(Action::Reauthorize, None, connection, None, false);
                self.check();
            }
        }
        for account in std::mem::take(&mut self.untold) {
            self.log.now += 1;
            self.apply_control(Action::Reauthorize, user(account), None, None, false);
            self.check();
        }
        let mut quiet = 0;
        while quiet < 10 {
            self.log.now += 1;
            (0..PEERS).for_each(|number| self.enter(number));
            self.go_on_checking();
            self.check();
            quiet = if self.checks.is_empty() && !self.tell_forgotten() { quiet + 1 } else { 0 };
            self.wait(LONG).await;
        }
        for number in 0..PEERS {
            self.receive(number, usize::MAX);
            while self.peers[number].connected.as_ref().is_some_and(Connected::is_behind) {
                self.catch_up(number).await;
                self.receive(number, usize::MAX);
                tokio::time::advance(LONG).await;
            }
            let says = self.says(self.peers[number].identity);
            let Some(Connected { connection, visit, .. }) = self.peers[number].connected.take() else { continue };
            match (&says, &visit.rights) {
                _ if visit.closing.is_some() => {}
                (Says::May(says), Some(rights)) => assert_eq!((&says.user, &says.keys), (&rights.user, &rights.keys)),
                (_, rights) => panic!("{rights:?} in the end"),
            }
            self.note_gone(&visit);
            visit.end(&self.log);
            drop(connection);
        }
        let Connections { hub, metrics, clients, .. } = &*self.connections;
        assert_eq!((metrics.subscriptions.get(), metrics.rooms.get(), metrics.connections.get()), (0, 0, 0));
        assert_eq!((hub.rooms(), clients.len()), (0, 0));
        assert!((1..=ACCOUNTS).all(|account| clients.of(&account.to_string()).is_empty()));
        let place = || self.connections.place(None, &HeaderMap::new());
        let places: Vec<_> = (0..PLACES).map(|_| place().unwrap()).collect();
        assert!(place().is_err());
        drop(places);
        let count = |counter: u64| usize::try_from(counter).unwrap();
        let held = count(metrics.publications_held.get());
        let withheld = count(metrics.publications_withheld.get());
        let Self { received, applied, resumed, denied, confirmed, tried_again, .. } = self;
        [received, applied, resumed, denied, held, withheld, confirmed, tried_again]
    }

    /// Counts what was shown by a connection that is over.
    fn note_gone(&mut self, visit: &Visit) {
        self.received += visit.received;
        self.denied += visit.denied;
        self.confirmed += visit.credentials.confirmed;
        self.tried_again += visit.credentials.tried_again;
    }
}

fn members(group: &Group) -> impl Iterator<Item = Uuid> {
    group.clients.values().filter_map(|client| Some(client.upgrade()?.id()))
}

fn not_known(asked: Moment) -> Error {
    Error::Refused { status: StatusCode::UNAUTHORIZED, retry_after: None, asked }
}

#[tokio::test(start_paused = true)]
async fn permissions_simulation() {
    let shown = each_seed(RUNS, async |seed| {
        let mut world = World::new(seed);
        for _ in 0..EVENTS {
            world.event().await;
        }
        world.end().await
    });
    let shown = shown.await;
    let kinds = [
        "publications",
        "answers",
        "tickets",
        "positions denied",
        "publications held",
        "publications withheld",
        "credentials confirmed",
        "credentials tried because those before were refused",
    ];
    for (of, kind) in kinds.into_iter().enumerate() {
        let sum: usize = shown.iter().map(|shown| shown[of]).sum();
        assert!(sum >= shown.len() / 50, "{sum} {kind}: this shows nothing");
        println!("{sum} {kind}");
    }
}
