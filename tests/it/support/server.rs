//! A server of the test's own, on ports of its own.

use std::collections::BTreeMap;

use high_templar::{
    config::{self, Listen},
    server::{Report, Server},
};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use super::{
    Client, PATIENCE, StubBackend,
    backend::Address,
    client::Refused,
    eventually,
    http::{self, Reply},
};

/// A running server. Stopped when dropped.
pub struct TestServer {
    pub public: Listen,
    pub internal: Listen,
    pub backend: StubBackend,
    stop: CancellationToken,
    running: Option<JoinHandle<Report>>,
}

impl TestServer {
    /// On the embedded broker, allowing every client the room `{"target":"message"}` and any `{"customer":…}`.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same with further variables.
    pub async fn with(vars: &[(&str, &str)]) -> Self {
        let backend = StubBackend::allowing(json!([{"target": "message"}, {"customer": "*"}])).await;
        Self::before(backend, vars).await
    }

    /// In front of `backend`.
    pub async fn before(backend: StubBackend, vars: &[(&str, &str)]) -> Self {
        let server = Self::starting_before(backend, vars).await;
        server.until_ready().await;
        server
    }

    /// As [`with`](Self::with), perhaps not ready yet.
    pub async fn starting(vars: &[(&str, &str)]) -> Self {
        let backend = StubBackend::allowing(json!([{"target": "message"}, {"customer": "*"}])).await;
        Self::starting_before(backend, vars).await
    }

    /// Why a server with these variables ends by itself.
    pub async fn fails(vars: &[(&str, &str)]) -> String {
        let backend = StubBackend::allowing(json!([])).await;
        let server = Self::bind(&backend, vars).await;
        let error = timeout(PATIENCE, server.run(CancellationToken::new())).await.expect("an end").unwrap_err();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            text.push_str(&format!(": {error}"));
            source = error.source();
        }
        text
    }

    async fn bind(backend: &StubBackend, vars: &[(&str, &str)]) -> Server {
        // For whoever wonders why a test fails: TEST_LOG=high_templar=debug ./test NAME
        if let Some(filter) = std::env::var("TEST_LOG").ok().and_then(|filter| filter.parse::<Targets>().ok()) {
            let _ =
                tracing_subscriber::registry().with(tracing_subscriber::fmt::layer().with_filter(filter)).try_init();
        }
        let url = backend.url();
        let mut all =
            BTreeMap::from([("API_URL", url.as_str()), ("LISTEN", "127.0.0.1:0"), ("INTERNAL_LISTEN", "127.0.0.1:0")]);
        let socket = match &backend.address {
            Address::Unix(path) => path.to_string_lossy().into_owned(),
            Address::Tcp(_) => String::new(),
        };
        all.insert("API_SOCKET", &socket);
        all.extend(vars.iter().copied());
        let all = all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Server::bind(config::from_vars(all).unwrap()).await.unwrap()
    }

    async fn starting_before(backend: StubBackend, vars: &[(&str, &str)]) -> Self {
        let server = Self::bind(&backend, vars).await;
        let (public, internal) = (server.public_address().unwrap(), server.internal_address().unwrap());
        let stop = CancellationToken::new();
        let running = tokio::spawn(server.run(stop.clone()));
        let running = Some(tokio::spawn(async { running.await.unwrap().unwrap() }));
        Self { public, internal, backend, stop, running }
    }

    pub async fn until_ready(&self) {
        eventually("the server is ready", async || self.get("/readyz").await.status == 200).await;
    }

    /// An authorised client; its first frame has been read.
    pub async fn connect(&self) -> Client {
        let mut client = Client::connect(&self.public, "/ws/", &[]).await;
        let welcome = client.next().await;
        assert_eq!(welcome["is_authorized"], json!(true), "{welcome}");
        client
    }

    /// An authorised client that speaks version 4, and its welcome.
    pub async fn connect_v4(&self) -> (Client, Value) {
        let mut client = Client::connect(&self.public, "/ws/", &[("Sec-WebSocket-Protocol", "high-templar.v4")]).await;
        let welcome = client.next().await;
        assert_eq!(welcome["type"], json!("welcome"), "{welcome}");
        (client, welcome)
    }

    /// A client of 3.1's protocol with the cookie of `user`; nothing has been read.
    pub async fn dial(&self, user: &str) -> Client {
        Client::connect(&self.public, "/ws/", &[("Cookie", &format!("user={user}"))]).await
    }

    /// The same, or how its handshake was refused, in a task of its own: the handshake waits for the API.
    pub fn dialing(&self, user: &str) -> JoinHandle<Result<Client, Refused>> {
        let (public, cookie) = (self.public.clone(), format!("user={user}"));
        tokio::spawn(async move { Client::dial(&public, "/ws/", &[("Cookie", &cookie)]).await })
    }

    /// The same of version 4.
    pub async fn dial_v4(&self, user: &str) -> Client {
        let headers = [("Sec-WebSocket-Protocol", "high-templar.v4"), ("Cookie", &format!("user={user}"))];
        Client::connect(&self.public, "/ws/", &headers).await
    }

    /// A client of 3.1's protocol with the cookie of `user` and subscriptions, by `requestId`.
    pub async fn member(&self, user: &str, rooms: &[(&str, Value)]) -> Client {
        let mut client = self.dial(user).await;
        assert_eq!(client.next().await["is_authorized"], json!(true));
        for (id, room) in rooms {
            client.subscribe(id, room.clone()).await;
        }
        client
    }

    /// The same of version 4; and its connection's id.
    pub async fn member_v4(&self, user: &str, rooms: &[(&str, Value)]) -> (Client, String) {
        let mut client = self.dial_v4(user).await;
        let welcome = client.next().await;
        assert_eq!(welcome["is_authorized"], json!(true), "{welcome}");
        for (id, room) in rooms {
            let reply = client.ask(json!({"type": "subscribe", "requestId": id, "room": room})).await;
            assert_eq!(reply["code"], json!("success"), "{reply}");
        }
        (client, welcome["connection"].as_str().unwrap().to_owned())
    }

    /// An authorised client with subscriptions, by `requestId`.
    pub async fn subscriber(&self, rooms: &[(&str, Value)]) -> Client {
        let mut client = self.connect().await;
        for (id, room) in rooms {
            client.subscribe(id, room.clone()).await;
        }
        client
    }

    /// Posts a trigger that must be accepted.
    pub async fn trigger(&self, trigger: Value) {
        let reply = self.post("/trigger/", &trigger.to_string()).await;
        assert_eq!((reply.status, reply.json()), (200, json!({"code": "success"})));
    }

    /// Posts a control message that must be accepted.
    pub async fn control(&self, message: Value) {
        let reply = self.post("/control/", &message.to_string()).await;
        assert_eq!((reply.status, reply.json()), (200, json!({"code": "success"})));
    }

    pub async fn post(&self, path: &str, body: &str) -> Reply {
        http::send(&self.internal, "POST", path, &[], body.as_bytes()).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        http::send(&self.internal, "GET", path, &[], b"").await
    }

    /// The numbers of the status frame.
    pub async fn numbers(&self) -> Value {
        self.get("/status").await.json()["clients"].clone()
    }

    /// A number of `/metrics`, as `limited_total{reason="url"}`; 0 where it is not named.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.body;
        let line =
            text.lines().find_map(|line| line.strip_prefix("high_templar_")?.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |number| number.parse().unwrap())
    }

    /// Waits until a number of `/metrics` is `wanted`.
    pub async fn until_metric(&self, name: &str, wanted: u64) {
        eventually(&format!("{name} is {wanted}"), async || self.metric(name).await == wanted).await;
    }

    /// Waits until a number of the status frame is `wanted`.
    pub async fn until_number(&self, name: &str, wanted: u64) {
        eventually(&format!("{name} is {wanted}"), async || self.numbers().await[name] == json!(wanted)).await;
    }

    /// Stops the server and waits for its end.
    pub async fn stop(mut self) -> Report {
        self.stop.cancel();
        self.running.take().unwrap().await.unwrap()
    }

    /// Begins to stop it.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
