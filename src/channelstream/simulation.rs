//! Several instances and one log, all chosen at random: whatever happens in whatever order, all copies are the same in the end,
//! and who polls gets everything once.

use std::collections::{BTreeMap, HashMap, HashSet};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use tokio::time::advance;

use super::{
    command::{By, Command, Order},
    replica::Replica,
    state::{Done, Effect, Room},
    *,
};
use crate::protocol::channelstream::requests::{Connect, Delete, Edit, Message as Item, Subscribe, UserState};

const SEEDS: u64 = 150;
const STEPS: usize = 250;
const CHANNELS: [&str; 3] = ["a", "b", "c"];
const USERS: [&str; 3] = ["alice", "bob", "carol"];

/// A poll at an instance.
struct Poll {
    connection: Uuid,
    rooms: HashSet<Room>,
    got: Vec<Uuid>,
    /// The command that ends it, once that has been ordered.
    detaching: Option<Uuid>,
}

struct Instance {
    id: Uuid,
    replica: Replica,
    /// Entries of the log that it has read.
    read: usize,
    polls: HashMap<Uuid, Poll>,
}

struct World {
    rng: StdRng,
    log: Vec<(Uuid, Command)>,
    instances: Vec<Instance>,
    connections: Vec<Uuid>,
    /// What clients have got by polls that were answered.
    got: BTreeMap<Uuid, Vec<Uuid>>,
    answered: usize,
    given_up: usize,
    begun: usize,
}

impl Instance {
    fn new(read: usize) -> Self {
        let id = Uuid::new_v4();
        Self { id, replica: Replica::new(id), read, polls: HashMap::new() }
    }
}

fn uuid_of(frame: &[u8]) -> Option<Uuid> {
    let frame: Value = serde_json::from_slice(frame).unwrap();
    (frame["type"] == "message").then(|| frame["uuid"].as_str().unwrap().parse().unwrap())
}

fn parse<T>(parse: impl Fn(&[u8]) -> Result<T, crate::protocol::channelstream::Bad>, body: &Value) -> T {
    parse(body.to_string().as_bytes()).unwrap_or_else(|bad| panic!("{body}: {bad:?}"))
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            log: Vec::new(),
            instances: (0..3).map(|_| Instance::new(0)).collect(),
            connections: Vec::new(),
            got: BTreeMap::new(),
            answered: 0,
            given_up: 0,
            begun: 0,
        }
    }

    fn order(&mut self, at: usize, order: Order) -> Uuid {
        let command = Command::new(order);
        let id = command.id;
        // As it stands in the log.
        let command = serde_json::from_str(&serde_json::to_string(&command).unwrap()).unwrap();
        self.log.push((self.instances[at].id, command));
        id
    }

    /// An instance reads the next entry of the log. Whether there was one.
    fn read(&mut self, at: usize) -> bool {
        let instance = &mut self.instances[at];
        let Some((from, command)) = self.log.get(instance.read).cloned() else { return false };
        instance.read += 1;
        let (mut effects, mut orders) = (Vec::new(), Vec::new());
        let id = command.id;
        let was_known = instance.replica.state().is_some();
        let outcome = instance.replica.take(from, command, &mut effects, &mut orders);
        match (was_known, instance.replica.state().is_some()) {
            (false, true) => self.begun += 1,
            (true, false) => instance.polls.clear(),
            _ => {}
        }
        for effect in effects {
            match effect {
                Effect::Publish { room, text, only, exclude } => {
                    for (link, poll) in &mut instance.polls {
                        let is_for = !exclude.contains(link) && only.as_ref().is_none_or(|only| only.contains(link));
                        if poll.rooms.contains(&room) && is_for {
                            poll.got.extend(uuid_of(&text));
                        }
                    }
                }
                Effect::Join { link, room } => {
                    if let Some(poll) = instance.polls.get_mut(&link) {
                        poll.rooms.insert(room);
                    }
                }
                Effect::Leave { link, room } => {
                    if let Some(poll) = instance.polls.get_mut(&link) {
                        poll.rooms.remove(&room);
                    }
                }
                Effect::Attached { link, frames, rooms } => {
                    if let Some(poll) = instance.polls.get_mut(&link) {
                        poll.got.extend(frames.iter().filter_map(|frame| uuid_of(frame)));
                        poll.rooms.extend(rooms);
                    }
                }
                Effect::Ended { link } => {
                    let ended = instance.polls.remove(&link);
                    if let (Some(poll), Some(Ok(Done::Was(true)))) = (ended, &outcome)
                        && poll.detaching == Some(id)
                    {
                        self.answered += 1;
                        self.got.entry(poll.connection).or_default().extend(poll.got);
                    }
                }
            }
        }
        for order in orders {
            self.order(at, order);
        }
        true
    }

    fn read_all(&mut self) {
        while (0..self.instances.len()).map(|at| self.read(at)).fold(false, |any, more| any | more) {}
    }

    async fn until_known(&mut self) {
        for _ in 0..400 {
            self.read_all();
            if self.instances.iter().all(|instance| instance.replica.state().is_some()) {
                return;
            }
            advance(Duration::from_millis(100)).await;
            for at in 0..self.instances.len() {
                let orders = self.instances[at].replica.begin(false);
                for order in orders {
                    self.order(at, order);
                }
            }
        }
        panic!("nobody knows anything");
    }

    fn some<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        all.choose(&mut self.rng).copied()
    }

    async fn step(&mut self) {
        let at = self.rng.random_range(0..self.instances.len());
        match self.rng.random_range(0..100) {
            0..50 => {
                for _ in 0..self.rng.random_range(1..6) {
                    self.read(at);
                }
            }
            50..98 if self.instances[at].replica.state().is_some() => self.act(at),
            50..98 => {
                advance(Duration::from_millis(200)).await;
                let orders = self.instances[at].replica.begin(false);
                for order in orders {
                    self.order(at, order);
                }
            }
            98 => {
                // It has missed something, and reads from further on, or from further back.
                self.instances[at].replica.lose();
                self.instances[at].polls.clear();
                self.instances[at].read = self.rng.random_range(0..=self.log.len());
            }
            _ => {
                let dead = std::mem::replace(&mut self.instances[at], Instance::new(0)).id;
                self.instances[at].read = self.rng.random_range(0..=self.log.len());
                let other = (at + 1) % self.instances.len();
                self.order(other, Order::Gone { instance: dead });
            }
        }
    }

    fn act(&mut self, at: usize) {
        let connections = self.connections.clone();
        let connection = self.some(&connections);
        let channel = self.some(&CHANNELS).unwrap();
        let user = self.some(&USERS).unwrap();
        let order = match (self.rng.random_range(0..20), connection) {
            (0..2, _) if connections.len() < 6 => {
                let id = Uuid::new_v4();
                self.connections.push(id);
                let configs = json!({channel: {"store_history": true, "notify_presence": true}});
                let body = json!({"username": user, "conn_id": id, "channels": [channel], "channel_configs": configs});
                Order::Call(Call::Connect(parse(Connect::parse, &body)))
            }
            (2, Some(id)) => {
                let body = json!({"conn_id": id, "channels": [channel]});
                Order::Call(Call::Subscribe(parse(|body| Subscribe::parse(body, None), &body)))
            }
            (3, Some(id)) => {
                let body = json!({"conn_id": id, "channels": [channel]});
                Order::Call(Call::Unsubscribe(parse(|body| Subscribe::parse(body, None), &body)))
            }
            (4, _) => {
                let number: u8 = self.rng.random();
                let body = json!({"user": user, "user_state": {"n": number}, "state_public_keys": ["n"]});
                Order::Call(Call::UserState(parse(UserState::parse, &body)))
            }
            (5..11, _) => {
                let body = match self.rng.random_range(0..4) {
                    0 => json!([{"user": user, "pm_users": [user], "message": {}}]),
                    1 => json!([{"user": user, "channel": channel, "exclude_users": [user], "message": {}}]),
                    _ => json!([{"user": user, "channel": channel, "message": {}}]),
                };
                Order::Call(Call::Message(parse(Item::parse_all, &body)))
            }
            (11, _) => {
                let uuid = self.log.iter().rev().find_map(|(_, command)| match &command.order {
                    Order::Call(Call::Message(items)) => Some(items[0].uuid),
                    _ => None,
                });
                let Some(uuid) = uuid else { return };
                let body = json!([{"uuid": uuid, "channel": channel, "message": {"edited": true}}]);
                Order::Call(Call::Edit(parse(Edit::parse_all, &body)))
            }
            (12, _) => {
                let body = json!([{"uuid": Uuid::new_v4(), "channel": channel}]);
                Order::Call(Call::Delete(parse(Delete::parse_all, &body)))
            }
            (13..17, Some(connection)) => {
                let link = Uuid::new_v4();
                let poll = Poll { connection, rooms: HashSet::new(), got: Vec::new(), detaching: None };
                self.instances[at].polls.insert(link, poll);
                Order::Attach { connection, link, by: By::Poll, since: 0 }
            }
            (17.., _) => {
                let polls: Vec<_> =
                    self.instances[at].polls.iter().map(|(link, poll)| (*link, poll.connection)).collect();
                let Some((link, connection)) = self.some(&polls) else { return };
                let is_unanswered = self.instances[at].polls[&link].detaching.is_none();
                if is_unanswered && self.rng.random_ratio(1, 3) {
                    // Its client goes away: what it has collected comes again.
                    self.instances[at].polls.remove(&link);
                    self.given_up += 1;
                    self.order(at, Order::Detach { connection, link, has_got: false });
                    return;
                }
                let id = self.order(at, Order::Detach { connection, link, has_got: true });
                let poll = self.instances[at].polls.get_mut(&link).unwrap();
                poll.detaching.get_or_insert(id);
                return;
            }
            _ => return,
        };
        self.order(at, order);
    }

    /// The state of an instance, without what each tells by its own clock.
    fn state(&self, at: usize) -> Value {
        fn strip(value: &mut Value) {
            match value {
                Value::Object(map) => {
                    map.remove("age");
                    map.values_mut().for_each(strip);
                }
                Value::Array(list) => list.iter_mut().for_each(strip),
                _ => {}
            }
        }
        let mut state = serde_json::to_value(self.instances[at].replica.state()).unwrap();
        strip(&mut state);
        state
    }
}

/// Where two values differ first.
fn difference(one: &Value, other: &Value) -> Option<String> {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) if one.keys().eq(other.keys()) => one
            .iter()
            .find_map(|(key, value)| difference(value, &other[key]).map(|difference| format!("{key}.{difference}"))),
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let mut pairs = one.iter().zip(other).enumerate();
            pairs.find_map(|(at, (one, other))| difference(one, other).map(|difference| format!("{at}.{difference}")))
        }
        _ => (one != other).then(|| format!(" {one} / {other}")),
    }
}

/// What each connection is to get, by what stands in the log.
fn expected(log: &[(Uuid, Command)]) -> BTreeMap<Uuid, Vec<Uuid>> {
    let mut users: HashMap<Uuid, &str> = HashMap::new();
    let mut members: HashMap<Uuid, HashSet<&str>> = HashMap::new();
    let mut channels: HashSet<&str> = HashSet::new();
    let mut due: BTreeMap<Uuid, Vec<Uuid>> = BTreeMap::new();
    for (_, command) in log {
        match &command.order {
            Order::Call(Call::Connect(request)) => {
                users.insert(request.conn_id, &request.username);
                let names = request.channels.iter().map(String::as_str);
                channels.extend(names.clone());
                members.entry(request.conn_id).or_default().extend(names);
            }
            Order::Call(Call::Subscribe(request)) => {
                if let Some(member) = members.get_mut(&request.conn_id) {
                    channels.extend(request.channels.iter().map(String::as_str));
                    member.extend(request.channels.iter().map(String::as_str));
                }
            }
            Order::Call(Call::Message(items)) => {
                for item in items {
                    for (id, user) in &users {
                        let is_member = |name: &String| members[id].contains(name.as_str());
                        let is_named = |users: &[String]| users.iter().any(|other| other == user);
                        let is_for = match &item.to.channel {
                            Some(name) => is_member(name) && !is_named(&item.to.exclude_users),
                            None => is_named(&item.to.pm_users),
                        };
                        if is_for {
                            due.entry(*id).or_default().push(item.uuid);
                        }
                    }
                }
            }
            _ => {}
        }
    }
    due
}

/// Runs one world to its end.
async fn run(seed: u64) -> (usize, usize) {
    let mut world = World::new(seed);
    world.until_known().await;
    for _ in 0..STEPS {
        world.step().await;
    }
    world.until_known().await;
    for at in 0..world.instances.len() {
        let beat = world.instances[at].replica.beat();
        world.order(at, beat);
    }
    world.until_known().await; // one that has begun beside the others has noticed
    let [one, others @ ..] = &[0, 1, 2].map(|at| world.state(at));
    others.iter().for_each(|other| assert_eq!(difference(one, other), None, "seed {seed}"));
    (world.answered, world.begun)
}

#[tokio::test(start_paused = true)]
async fn all_copies_are_the_same_whatever_happens() {
    let (mut answered, mut begun) = (0, 0);
    for seed in 0..SEEDS {
        let outcome = run(seed).await;
        (answered, begun) = (answered + outcome.0, begun + outcome.1);
    }
    assert!(answered > 100 && begun > 3 * SEEDS as usize, "this shows nothing: {answered} {begun}");
}

/// Nothing is lost or doubled by polls that end, are given up, overlap, and move from instance to instance, as long as no
/// instance dies and nobody leaves a channel.
#[tokio::test(start_paused = true)]
async fn who_polls_gets_everything_once() {
    let (mut shown, mut given_up) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        world.until_known().await;
        for _ in 0..STEPS {
            let at = world.rng.random_range(0..3);
            if world.rng.random_bool(0.5) {
                world.read(at);
            } else {
                let before = world.log.len();
                world.act(at);
                let is_leaving = |(_, command): &(Uuid, Command)| {
                    matches!(command.order, Order::Call(Call::Subscribe(_)) | Order::Call(Call::Unsubscribe(_)))
                };
                if world.log[before..].iter().any(is_leaving) {
                    world.log.truncate(before);
                }
            }
        }
        world.read_all();
        given_up += world.given_up;
        for connection in world.connections.clone() {
            let link = Uuid::new_v4();
            let poll = Poll { connection, rooms: HashSet::new(), got: Vec::new(), detaching: None };
            world.instances[0].polls.insert(link, poll);
            world.order(0, Order::Attach { connection, link, by: By::Poll, since: 0 });
            let id = world.order(0, Order::Detach { connection, link, has_got: true });
            world.instances[0].polls.get_mut(&link).unwrap().detaching = Some(id);
            world.read_all();
        }
        for (connection, mut due) in expected(&world.log) {
            let mut got = world.got.remove(&connection).unwrap_or_default();
            shown += got.len();
            due.sort();
            got.sort(); // across channels, what was missed does not come in the order of time
            assert_eq!(got, due, "seed {seed}, connection {connection}");
        }
    }
    assert!(shown > 1000 && given_up > 300, "this shows nothing: {shown} {given_up}");
}
