//! Channelstream's API as its callers use it: signed calls, sockets and polls, of one instance or of several.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::future::join_all;
use high_templar::config::Listen;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use ring::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, digest},
    hmac::{self, HMAC_SHA1_FOR_LEGACY_USE_ONLY},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpSocket,
    time::{Instant, timeout},
};
use uuid::Uuid;

use super::{
    Client, PATIENCE, TestServer,
    client::End,
    eventually,
    http::{self, Reply},
    process::Running,
    rabbitmq,
};

/// For what takes many polls.
const LONG: Duration = Duration::from_secs(60);

pub const SECRET: &str = "cs-test-secret";
pub const ADMIN: (&str, &str) = ("admin", "admin-secret");
pub const VARS: [(&str, &str); 5] = [
    ("CHANNELSTREAM_SECRET", SECRET),
    ("CHANNELSTREAM_ADMIN_USER", ADMIN.0),
    ("CHANNELSTREAM_ADMIN_SECRET", ADMIN.1),
    ("CHANNELSTREAM_ALLOW_POSTING_FROM", "127.0.0.1"),
    ("CHANNELSTREAM_PUBLIC", "true"),
];

/// What itsdangerous' `TimestampSigner` makes of `value` at a second of the epoch.
pub fn sign(secret: &str, value: &str, second: u64) -> String {
    let key = digest(&SHA1_FOR_LEGACY_USE_ONLY, ["itsdangerous.Signer", "signer", secret].concat().as_bytes());
    let second: Vec<u8> = second.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    let payload = format!("{value}.{}", URL_SAFE_NO_PAD.encode(second));
    let key = hmac::Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_ref());
    format!("{payload}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, payload.as_bytes())))
}

/// The present second.
pub fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// A signature that is good at present.
pub fn signature() -> String {
    sign(SECRET, "channelstream", now())
}

/// Where an instance listens.
#[derive(Debug, Clone)]
pub struct Place {
    pub public: Listen,
    pub internal: Listen,
}

impl From<&TestServer> for Place {
    fn from(server: &TestServer) -> Self {
        Self { public: server.public.clone(), internal: server.internal.clone() }
    }
}

impl From<&Running> for Place {
    fn from(running: &Running) -> Self {
        Self { public: running.public.clone(), internal: running.internal.clone() }
    }
}

/// One instance, or several that are to be as one: each call, poll and socket goes to any of them.
pub struct Site {
    pub places: Vec<Place>,
    /// Kept running for as long as somebody calls.
    servers: Arc<Vec<TestServer>>,
    is_public: bool,
    seed: u64,
    chance: Mutex<StdRng>,
}

impl Site {
    /// On the embedded broker.
    ///
    /// With `TEST_CHANNELSTREAM=127.0.0.1:8000`, the server that runs there, as the original: it has to have the secret,
    /// the administrator and the addresses of [`VARS`], and to be fresh.
    pub async fn one(vars: &[(&str, &str)]) -> Self {
        if let Ok(address) = std::env::var("TEST_CHANNELSTREAM") {
            let listen = Listen::Tcp(address.parse().unwrap());
            return Self::at(vec![Place { public: listen.clone(), internal: listen }]);
        }
        Self::of(vec![TestServer::with(&[&VARS, vars].concat()).await]).await
    }

    /// Three that share an exchange of their own at the test run's RabbitMQ.
    pub async fn three(vars: &[(&str, &str)]) -> Self {
        let (url, exchange) = (rabbitmq::shared(), format!("test-{}", Uuid::new_v4()));
        let vars = [&VARS[..], &[("AMQP_URL", &url), ("AMQP_EXCHANGE", &exchange)], vars].concat();
        Self::of(join_all((0..3).map(|_| TestServer::with(&vars))).await).await
    }

    async fn of(servers: Vec<TestServer>) -> Self {
        let places = servers.iter().map(Place::from).collect();
        let site = Self { servers: Arc::new(servers), ..Self::at(places) };
        site.until_answered().await;
        site
    }

    /// What runs at these places, started by somebody else.
    pub fn at(places: Vec<Place>) -> Self {
        let seed = std::env::var("TEST_SEED").map_or_else(|_| rand::rng().random(), |seed| seed.parse().unwrap());
        if places.len() > 1 {
            println!("TEST_SEED={seed}");
        }
        let chance = Mutex::new(StdRng::seed_from_u64(seed));
        Self { places, servers: Arc::default(), is_public: true, seed, chance }
    }

    /// Signed calls go to the internal listeners only.
    pub fn without_public_calls(self) -> Self {
        Self { is_public: false, ..self }
    }

    /// The same site, with a chance of its own that depends on nothing but the seed and the name.
    pub fn branch(&self, name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let seed = self.seed ^ hasher.finish();
        let chance = Mutex::new(StdRng::seed_from_u64(seed));
        let (places, servers) = (self.places.clone(), Arc::clone(&self.servers));
        Self { places, servers, is_public: self.is_public, seed: self.seed, chance }
    }

    /// Waits until every instance answers calls.
    pub async fn until_answered(&self) {
        for place in &self.places {
            eventually("calls are answered", async || {
                let signature = signature();
                let headers = [("x-channelstream-secret", signature.as_str())];
                http::send(&place.internal, "GET", "/info", &headers, b"").await.status == 200
            })
            .await;
        }
    }

    fn any(&self) -> (&Place, bool) {
        let mut chance = self.chance.lock();
        (&self.places[chance.random_range(0..self.places.len())], chance.random())
    }

    /// Where clients connect.
    pub fn public(&self) -> &Listen {
        &self.any().0.public
    }

    /// Where signed calls may go.
    pub fn signed(&self) -> &Listen {
        match self.any() {
            (place, true) if self.is_public => &place.public,
            (place, _) => &place.internal,
        }
    }

    /// A request without a signature, to where signed ones go.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        http::send(self.signed(), method, path, headers, body.as_bytes()).await
    }

    /// The same from an address that is not on the list.
    pub async fn send_from_elsewhere(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let Listen::Tcp(address) = self.signed() else { panic!("not on TCP") };
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let stream = socket.connect(*address).await.unwrap();
        http::exchange_on(stream, &http::request(method, path, headers, body.as_bytes())).await
    }

    /// A signed request.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> Reply {
        self.send(method, path, &[("x-channelstream-secret", &signature())], body).await
    }

    /// A signed request that must be carried out; its answer.
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let reply = self.call(method, path, &body.to_string()).await;
        assert_eq!(reply.status, 200, "{method} {path} {body}: {reply:?}");
        reply.json()
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.ask("POST", path, &body).await
    }

    /// A signed request that must be refused as invalid; what is said to be wrong.
    pub async fn refused(&self, method: &str, path: &str, body: &Value) -> Value {
        let reply = self.call(method, path, &body.to_string()).await;
        assert_eq!(reply.status, 422, "{method} {path} {body:.200}: {reply:?}");
        reply.json()
    }

    /// A connection of `user`; its id.
    pub async fn connect(&self, user: &str, channels: &[&str]) -> String {
        let reply = self.post("/connect", json!({"username": user, "channels": channels})).await;
        reply["conn_id"].as_str().unwrap().to_owned()
    }

    /// The same, and its socket.
    pub async fn join(&self, user: &str, channels: &[&str]) -> (String, Socket) {
        let id = self.connect(user, channels).await;
        let socket = self.socket(&id).await;
        (id, socket)
    }

    /// Creates a channel, or changes it.
    pub async fn configure(&self, channel: &str, settings: Value) {
        self.post("/channel_config", json!({channel: settings})).await;
    }

    /// Posts one message; the item of the reply.
    pub async fn say(&self, message: Value) -> Value {
        self.post("/message", json!([message])).await[0].take()
    }

    /// `/info` about these channels.
    pub async fn info(&self, channels: &[&str]) -> Value {
        self.post("/info", json!({"info": {"channels": channels}})).await
    }

    /// What `/info` says about one channel.
    pub async fn channel(&self, name: &str) -> Value {
        self.info(&[name]).await["channels"][name].take()
    }

    /// The texts of the messages in a channel's history.
    pub async fn history(&self, channel: &str) -> Vec<Value> {
        let channel = self.channel(channel).await;
        channel["history"].as_array().unwrap().iter().map(|entry| entry["message"]["text"].clone()).collect()
    }

    /// Whether the connection is known: changing nothing, it asks to leave a channel that nobody has heard of.
    pub async fn knows(&self, id: &str) -> bool {
        let body = json!({"conn_id": id, "channels": ["nobody has heard of it"]}).to_string();
        let reply = self.call("POST", "/unsubscribe", &body).await;
        assert!(matches!(reply.status, 200 | 422), "{reply:?}");
        reply.status == 200
    }

    /// Waits until it is unknown.
    pub async fn until_unknown(&self, id: &str) {
        eventually("the connection is collected", async || !self.knows(id).await).await;
    }

    /// A socket of the connection.
    pub async fn socket(&self, id: &str) -> Socket {
        Socket {
            client: Client::connect(self.public(), &format!("/ws?conn_id={id}"), &[]).await,
            frames: VecDeque::new(),
        }
    }

    /// A poll, as it was answered.
    pub async fn listen(&self, id: &str) -> Reply {
        http::send(self.public(), "GET", &format!("/listen?conn_id={id}"), &[], b"").await
    }

    /// The frames of one poll.
    pub async fn poll(&self, id: &str) -> Vec<Value> {
        let reply = self.listen(id).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        serde_json::from_str(&reply.body).unwrap_or_else(|error| panic!("{error}: {reply:?}"))
    }

    /// Polls until `count` frames have come; not more than that.
    pub async fn polls(&self, id: &str, count: usize) -> Vec<Value> {
        let (mut frames, deadline) = (Vec::new(), Instant::now() + LONG);
        while frames.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} frames: {frames:?}", frames.len());
            frames.extend(self.poll(id).await);
        }
        assert_eq!(frames.len(), count, "{frames:?}");
        frames
    }

    /// What `/disconnect` says.
    pub async fn disconnect(&self, id: &str) -> Value {
        let reply = self.send("POST", "/disconnect", &[], &json!({"conn_id": id}).to_string()).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    }
}

/// A connection's socket.
pub struct Socket {
    pub client: Client,
    frames: VecDeque<Value>,
}

impl Socket {
    /// The next frame; heartbeats before it are passed over.
    pub async fn next(&mut self) -> Value {
        let next = async {
            loop {
                match self.frames.pop_front() {
                    Some(frame) => return frame,
                    None => self.read().await,
                }
            }
        };
        // Heartbeats come for ever.
        timeout(PATIENCE, next).await.expect("a frame in time")
    }

    async fn read(&mut self) {
        let Value::Array(frames) = self.client.next().await else { panic!("not an array") };
        self.frames.extend(frames);
    }

    /// So many frames.
    pub async fn take(&mut self, count: usize) -> Vec<Value> {
        let mut frames = Vec::new();
        while frames.len() < count {
            frames.push(self.next().await);
        }
        frames
    }

    /// Waits for a heartbeat, before which nothing else may come.
    pub async fn heartbeat(&mut self) {
        assert!(self.frames.is_empty(), "{:?}", self.frames);
        assert_eq!(self.client.next().await, json!([]));
    }

    /// Checks that nothing was sent to `user` that has not been read: what is said now comes first.
    pub async fn expect_silence(&mut self, site: &Site, user: &str) {
        let mark = Uuid::new_v4().to_string();
        site.say(json!({"user": "nobody", "pm_users": [user], "message": {"mark": mark}})).await;
        let frame = self.next().await;
        assert_eq!(frame["message"], json!({"mark": mark}), "{frame}");
    }

    /// Reads to the end; the frames on the way, and how it ended.
    pub async fn end(&mut self) -> (Vec<Value>, End) {
        let (texts, end) = self.client.end().await;
        let mut frames: Vec<Value> = self.frames.drain(..).collect();
        for text in texts {
            frames.extend(serde_json::from_str::<Vec<Value>>(&text).unwrap());
        }
        (frames, end)
    }
}

/// `value` without these keys, which must be there.
pub fn without(mut value: Value, keys: &[&str]) -> Value {
    for key in keys {
        assert!(value.as_object_mut().unwrap().remove(*key).is_some(), "no {key}: {value}");
    }
    value
}

/// Whether it is a time that the server has made: `2026-11-20T20:22:14.526422`, within the last minute.
pub fn is_server_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "000000"));
    let Ok(time) = whole.parse::<jiff::civil::DateTime>() else { return false };
    let Ok(time) = time.to_zoned(jiff::tz::TimeZone::UTC) else { return false };
    let age = now().abs_diff(u64::try_from(time.timestamp().as_second()).unwrap_or_default());
    whole.len() == 19 && fraction.len() == 6 && fraction.bytes().all(|byte| byte.is_ascii_digit()) && age < 60
}

/// Whether it is a UUID as the server writes them.
pub fn is_uuid(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.parse::<Uuid>().is_ok_and(|uuid| uuid.to_string() == text))
}

/// Soon, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(4);

#[test]
fn the_tests_sign_as_channelstream_does() {
    for (secret, value, token) in VECTORS {
        assert_eq!(sign(secret, value, 1_700_000_000), token);
    }
}

/// Signatures of the second 1700000000: secret, value, token.
pub const VECTORS: [(&str, &str, &str); 3] = [
    ("secret", "channelstream", "channelstream.ZVPxAA.UB9ITnnv9UITu0ka92WJCn1VFsQ"),
    (SECRET, "/connect", "/connect.ZVPxAA.Lfl_5PEqqiNStCZZsuMwNad72sk"),
    ("zażółć", "/message", "/message.ZVPxAA.lpWsqYWYrcmdSmk2SJaK7-iOzyI"),
];
