//! Permissions that change all the time, as clients see it: what a room was taken away for never comes, all else does.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::support::{
    Client, StubBackend, TestServer,
    backend::{Answer, Asked},
    client::End,
    eventually,
};

const USERS: usize = 3;
const CLIENTS: usize = 6;
/// Steps between two moments at which everything has come to rest, and how long new ones are begun.
const STEPS: usize = 60;
const LASTS: Duration = Duration::from_secs(3);

/// What the users may join, as the backend says at the moment.
type Allowed = Arc<Mutex<Vec<Vec<Value>>>>;

struct Subscription {
    room: Value,
    /// The first trigger that has to come, known behind the reply.
    first: Option<usize>,
    /// The last one that has come.
    last: Option<usize>,
    /// From this one on it may have been taken away.
    sure: usize,
}

struct Visitor {
    user: usize,
    is_v4: bool,
    client: Client,
    connection: Option<String>,
    /// As it was told last.
    allowed: Vec<Value>,
    subscriptions: BTreeMap<String, Subscription>,
    names: usize,
    end: Option<End>,
}

struct World {
    rng: StdRng,
    server: TestServer,
    allowed: Allowed,
    visitors: Vec<Visitor>,
    /// Whether something is under way that may take rooms from these users.
    in_doubt: [bool; USERS],
    /// The rooms of each trigger, which has its number for data.
    triggers: Vec<Vec<Value>>,
    received: usize,
    taken: usize,
}

fn pool() -> Vec<Value> {
    vec![json!({"a": 1}), json!({"a": 2}), json!({"a": "*"}), json!({"a": 1, "b": 1}), json!({"a": "*", "b": 1})]
}

fn agree(one: &Value, other: &Value, values: impl Fn(&Value, &Value) -> bool) -> bool {
    let (one, other) = (one.as_object().unwrap(), other.as_object().unwrap());
    one.len() == other.len() && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| values(value, other)))
}

fn reaches(published: &Value, subscribed: &Value) -> bool {
    agree(published, subscribed, |value, other| value == other || value == "*" || other == "*")
}

fn cover(allowed: &[Value], wanted: &Value) -> bool {
    allowed.iter().any(|room| agree(room, wanted, |value, other| value == other || value == "*"))
}

impl Visitor {
    async fn connect(server: &TestServer, user: usize, is_v4: bool) -> Self {
        let cookie = format!("sessionid={user}");
        let mut headers = vec![("Cookie", cookie.as_str())];
        headers.extend(is_v4.then_some(("Sec-WebSocket-Protocol", "high-templar.v4")));
        let mut client = Client::connect(&server.public, "/ws/", &headers).await;
        let welcome = client.next().await;
        assert_eq!(welcome["is_authorized"], json!(true), "{welcome}");
        let allowed = welcome["allowed_rooms"].as_array().unwrap().clone();
        let connection = welcome["connection"].as_str().map(str::to_owned);
        let subscriptions = BTreeMap::new();
        Self { user, is_v4, client, connection, allowed, subscriptions, names: 0, end: None }
    }

    /// Reads up to the first frame that is the answer to what was asked last; `None` when the connection has ended.
    async fn answer(&mut self, triggers: &[Vec<Value>]) -> Option<Value> {
        while self.end.is_none() {
            let frame = match self.client.next_or_end().await {
                Ok(frame) => frame,
                Err(end) => {
                    self.end = Some(end);
                    break;
                }
            };
            let id = frame["requestId"].as_str().unwrap_or_default();
            match frame["type"].as_str() {
                Some("publish") => self.take(id, &frame, triggers),
                Some("unsubscribed") => self.finish(id, triggers),
                Some("allowed_rooms") => {
                    self.allowed = frame["allowed_rooms"].as_array().unwrap().clone();
                    let mut kept = self.subscriptions.values().filter(|kept| kept.first.is_some());
                    assert!(kept.all(|kept| cover(&self.allowed, &kept.room)), "kept what it may not have: {frame}");
                }
                _ => return Some(frame),
            }
        }
        None
    }

    fn take(&mut self, id: &str, frame: &Value, triggers: &[Vec<Value>]) {
        let number = usize::try_from(frame["data"].as_u64().unwrap()).unwrap();
        let subscription = self.subscriptions.get_mut(id).unwrap_or_else(|| panic!("behind the end: {frame}"));
        assert!(!self.is_v4 || cover(&self.allowed, &subscription.room), "not allowed: {frame}");
        assert!(triggers[number].iter().any(|room| reaches(room, &subscription.room)), "not for this one: {frame}");
        assert!(subscription.last.is_none_or(|last| last < number), "again, or out of order: {frame}");
        subscription.pass(number, triggers);
        subscription.last = Some(number);
    }

    /// The subscription has ended: what was published before anybody could have taken it away has come.
    fn finish(&mut self, id: &str, triggers: &[Vec<Value>]) {
        let mut over = self.subscriptions.remove(id).unwrap_or_else(|| panic!("no subscription {id}"));
        over.pass(over.sure, triggers);
    }
}

impl Subscription {
    /// Everything before `number` has come.
    fn pass(&mut self, number: usize, triggers: &[Vec<Value>]) {
        let Some(first) = self.first else { panic!("before the reply") };
        let next = self.last.map_or(first, |last| first.max(last + 1));
        let is_missing = |rooms: &&Vec<Value>| rooms.iter().any(|room| reaches(room, &self.room));
        let missing = triggers.iter().take(number).skip(next).filter(is_missing).count();
        assert_eq!(missing, 0, "triggers from {next} to {number} never came to {}", self.room);
    }
}

impl World {
    async fn new(seed: u64) -> Self {
        let allowed: Allowed = Arc::new(Mutex::new(vec![pool(); USERS]));
        let says = allowed.clone();
        let bootstrap = move |asked: &Asked| {
            let cookie = asked.header("cookie").and_then(|cookie| cookie.strip_prefix("sessionid="));
            let user: usize = cookie.and_then(|user| user.parse().ok()).unwrap();
            let rooms = says.lock()[user].clone();
            Answer::Reply(200, json!({"allowed_rooms": rooms, "user": {"data": {"id": user}}}).to_string())
        };
        let server = TestServer::before(StubBackend::answering(bootstrap).await, &[]).await;
        let mut visitors = Vec::new();
        for number in 0..CLIENTS {
            visitors.push(Visitor::connect(&server, number % USERS, number % 3 != 0 || number == 0).await);
        }
        let rng = StdRng::seed_from_u64(seed);
        let in_doubt = [false; USERS];
        Self { rng, server, allowed, visitors, in_doubt, triggers: Vec::new(), received: 0, taken: 0 }
    }

    fn some_room(&mut self) -> Value {
        pool().choose(&mut self.rng).unwrap().clone()
    }

    async fn step(&mut self) {
        let number = self.rng.random_range(0..CLIENTS);
        match self.rng.random_range(0..20) {
            0..7 => {
                let rooms = (0..self.rng.random_range(1..3)).map(|_| self.some_room()).collect();
                self.trigger(rooms).await;
            }
            7..9 => self.change().await,
            9..12 => self.control().await,
            12..17 => self.subscribe(number).await,
            17 => self.unsubscribe(number).await,
            _ => self.read(number).await,
        }
    }

    async fn trigger(&mut self, rooms: Vec<Value>) {
        let number = self.triggers.len();
        self.server.trigger(json!({"rooms": rooms, "data": number})).await;
        self.triggers.push(rooms);
    }

    /// What was triggered is in the outboxes.
    async fn until_published(&self) {
        self.server.until_number("rabbitmq_messages_received", self.triggers.len() as u64).await;
    }

    async fn change(&mut self) {
        // A check may be under way that is answered with what is set here, and what is published waits for no check.
        self.until_published().await;
        let user = self.rng.random_range(0..USERS);
        let rooms: Vec<Value> = pool().into_iter().filter(|_| self.rng.random_bool(0.5)).collect();
        self.allowed.lock()[user] = rooms.clone();
        self.in_doubt[user] = true;
        self.doubt(|visitor, room| visitor.user == user && !cover(&rooms, room));
    }

    /// From here on these subscriptions may be taken away.
    fn doubt(&mut self, are_meant: impl Fn(&Visitor, &Value) -> bool) {
        let now = self.triggers.len();
        for visitor in &mut self.visitors {
            let mut subscriptions = std::mem::take(&mut visitor.subscriptions);
            for subscription in subscriptions.values_mut().filter(|other| are_meant(visitor, &other.room)) {
                subscription.sure = subscription.sure.min(now);
            }
            visitor.subscriptions = subscriptions;
        }
    }

    async fn control(&mut self) {
        let user = self.rng.random_range(0..USERS);
        let id = self.visitors.choose(&mut self.rng).unwrap().connection.clone();
        let control = match (self.rng.random_range(0..10), id) {
            (0, Some(id)) => {
                self.doubt(|visitor, _| visitor.connection.as_ref() == Some(&id));
                json!({"action": "disconnect", "connection": id})
            }
            (1, Some(id)) => json!({"action": "reauthorize", "connection": id}),
            (2..4, _) => {
                let room = self.some_room();
                self.in_doubt[user] = true;
                self.doubt(|visitor, other| visitor.user == user && reaches(&room, other));
                json!({"action": "unsubscribe", "user": user, "room": room})
            }
            (4, _) => json!({"action": "reauthorize", "all": true}),
            _ => json!({"action": "reauthorize", "user": user}),
        };
        assert_eq!(self.server.post("/control/", &control.to_string()).await.status, 200, "{control}");
    }

    async fn subscribe(&mut self, number: usize) {
        let room = self.some_room();
        let visitor = &mut self.visitors[number];
        let name = visitor.names.to_string();
        visitor.names += 1;
        let request = json!({"type": "subscribe", "requestId": name, "room": room}).to_string();
        visitor.client.try_send(&request).await;
        let subscription = Subscription { room, first: None, last: None, sure: 0 };
        visitor.subscriptions.insert(name.clone(), subscription);
        let Some(reply) = visitor.answer(&self.triggers).await else { return self.come_back(number).await };
        let Some(subscription) = visitor.subscriptions.get_mut(&name) else { return };
        if reply["code"] == "success" {
            subscription.first = Some(self.triggers.len());
            subscription.sure = if self.in_doubt[visitor.user] { 0 } else { usize::MAX };
        } else {
            assert_eq!(reply["message"], json!("room-not-found"), "{reply}");
            visitor.subscriptions.remove(&name);
        }
    }

    async fn unsubscribe(&mut self, number: usize) {
        let visitor = &mut self.visitors[number];
        let names: Vec<String> = visitor.subscriptions.keys().cloned().collect();
        let Some(name) = names.choose(&mut self.rng) else { return };
        visitor.client.try_send(&json!({"type": "unsubscribe", "requestId": name}).to_string()).await;
        let Some(reply) = visitor.answer(&self.triggers).await else { return self.come_back(number).await };
        if reply["code"] == "success" {
            visitor.subscriptions.remove(name); // what was on its way is not waited for
        } else {
            assert!(!visitor.subscriptions.contains_key(name), "{reply}");
        }
    }

    /// The client looks at all that has come.
    async fn read(&mut self, number: usize) {
        let visitor = &mut self.visitors[number];
        visitor.client.try_send("ping").await;
        match visitor.answer(&self.triggers).await {
            Some(answer) => assert_eq!(answer, json!("pong")),
            None => self.come_back(number).await,
        }
    }

    /// The connection has ended, as it may; there is another one.
    async fn come_back(&mut self, number: usize) {
        let Visitor { user, is_v4, end, .. } = &self.visitors[number];
        let code = if let Some(End::Closed(code, _)) = end { *code } else { panic!("{end:?}") };
        assert!(code == 3501 || code == 3502 && !is_v4, "{code}");
        self.taken += 1;
        self.visitors[number] = Visitor::connect(&self.server, *user, *is_v4).await;
    }

    /// The application tells that everybody may have changed; when that is through, everybody gets exactly what it may.
    async fn rest(&mut self) {
        assert_eq!(self.server.post("/control/", r#"{"action":"reauthorize","all":true}"#).await.status, 200);
        let (server, allowed) = (&self.server, self.allowed.lock().clone());
        eventually("all have what the backend says", async || {
            for (user, rooms) in allowed.iter().enumerate() {
                let list = server.get(&format!("/connections?user={user}")).await.json();
                for connection in list["connections"].as_array().unwrap() {
                    for room in pool() {
                        let id = connection["connection"].as_str().unwrap();
                        let asked = format!("/explain?connection={id}&room={}", escaped(&room.to_string()));
                        let explained = server.get(&asked).await.json();
                        if explained["is_allowed"].as_bool().is_some_and(|is_allowed| is_allowed != cover(rooms, &room))
                        {
                            return false;
                        }
                    }
                }
            }
            true
        })
        .await;
        self.trigger(pool()).await;
        let last = self.triggers.len() - 1;
        self.until_published().await;
        for number in 0..CLIENTS {
            self.read(number).await;
            let visitor = &self.visitors[number];
            let rooms = &allowed[visitor.user];
            let keys = |rooms: &[Value]| rooms.iter().map(Value::to_string).collect::<Vec<_>>();
            assert!(!visitor.is_v4 || keys(&visitor.allowed) == keys(rooms), "{:?} is not told", visitor.allowed);
            for subscription in self.visitors[number].subscriptions.values_mut() {
                assert!(cover(rooms, &subscription.room), "{} is left", subscription.room);
                assert_eq!(subscription.last, Some(last), "{}", subscription.room);
                subscription.sure = usize::MAX;
                self.received += 1;
            }
        }
        self.in_doubt = [false; USERS];
    }
}

fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        let _ = write!(all, "%{byte:02X}");
        all
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_hold_whatever_changes_in_whatever_order() {
    let seed = std::env::var("SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let run = async {
        let mut world = World::new(seed).await;
        let begun = Instant::now();
        while begun.elapsed() < LASTS {
            for _ in 0..STEPS {
                world.step().await;
            }
            world.rest().await;
        }
        assert!(world.received > 0 && world.taken > 0, "this shows nothing");
    };
    let outcome = AssertUnwindSafe(run).catch_unwind().await;
    assert!(outcome.is_ok(), "SIMULATION_SEED={seed} began it; the rest is up to the threads");
}
