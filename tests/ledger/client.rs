//! A client that speaks version 4, checks every number, and comes back with its last positions, to either instance.

use std::{ops::RangeInclusive, pin::pin, sync::Arc, time::Duration};

use futures::{SinkExt, StreamExt};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Deserialize;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use crate::{
    World,
    instance::Instance,
    page::{Entry, Page},
};

/// Small, so that a client that does not read is soon felt by the server: its kernel keeps some segments for us, too.
const RECEIVE_BUFFER: u32 = 64 * 1024;
const SEGMENT: u32 = 4 * 1024;
/// How long the first frame may take; longer than the server itself waits for the log.
const WELCOME: Duration = Duration::from_secs(25);
/// Silence after which the connection is given up; the server pings far more often.
const SILENCE: Duration = Duration::from_secs(40);
/// An instance that has been without the broker for so long cannot be waited for: it serves without the log, and whoever
/// comes to it has to fetch again.
const PATIENCE: Duration = Duration::from_secs(9);

/// What a fault has a client do.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    /// Go away in the middle of a frame.
    Cut,
    /// Read nothing for this time.
    Stall(Duration),
}

pub struct Client {
    world: Arc<World>,
    name: usize,
    subscriptions: Vec<Subscription>,
    rng: StdRng,
    /// It has everything.
    is_done: bool,
}

struct Subscription {
    page: Page,
    /// Of the last complete frame.
    position: Option<String>,
    /// There has been a reply on this connection.
    is_answered: bool,
}

#[derive(Deserialize)]
struct Frame<'a> {
    r#type: &'a str,
    #[serde(rename = "requestId")]
    request_id: Option<usize>,
    position: Option<&'a str>,
    code: Option<&'a str>,
    recovered: Option<bool>,
    #[serde(borrow)]
    data: Option<Entry<'a>>,
    is_authorized: Option<bool>,
}

/// How a connection ended.
enum End {
    /// Told by the server to come back, perhaps not at once.
    Told(u16),
    Cut,
    /// The test is over.
    Over,
}

impl Client {
    /// One with these subscriptions; the room `None` is all of them.
    pub fn new(world: Arc<World>, name: usize, rooms: &[Option<usize>]) -> Self {
        let subscription =
            |room: &Option<usize>| Subscription { page: Page::new(*room), position: None, is_answered: false };
        let rng = StdRng::seed_from_u64(world.seed ^ (name as u64) << 32);
        Self { world, name, subscriptions: rooms.iter().map(subscription).collect(), rng, is_done: false }
    }

    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut which = self.name % 2;
        loop {
            let end = self.live(which, &mut orders).await;
            match end {
                End::Over => break,
                End::Told(1001) => self.world.books.count("connections ended: 1001, going away"),
                End::Told(3008) => self.world.books.count("connections ended: 3008, too slow"),
                End::Told(1012) => {
                    self.notified("close code 1012", which, || "at the end of its connection".to_owned());
                    for subscription in &mut self.subscriptions {
                        subscription.position = None;
                    }
                }
                End::Told(code) => self.error(format!("closed with {code}")),
                End::Cut => self.world.books.count("connections ended: cut"),
            }
            // Often to the other one.
            which = if self.rng.random_bool(0.7) { 1 - which } else { which };
            sleep(Duration::from_millis(self.rng.random_range(10..400))).await;
        }
        let accepted = self.world.books.accepted();
        for (id, subscription) in self.subscriptions.iter().enumerate() {
            let (page, behind) = (&subscription.page, subscription.page.behind(&accepted));
            if behind > 0 {
                self.error(format!("{behind} triggers have not come to subscription {id} ({:?})", page.room()));
            }
            for wrong in page.suspended() {
                self.error(format!("{wrong}; this was in a gap, and no notice has come since"));
            }
            if let Some(fault) = self.world.books.unnotified(page.last_notice(), page.room()) {
                self.error(format!(
                    "subscription {id} ({:?}) was never notified that publications are lost: {fault}",
                    page.room()
                ));
            }
        }
    }

    fn error(&self, text: impl std::fmt::Display) {
        self.world.books.error(format!("client {}: {text}", self.name));
    }

    /// One connection.
    async fn live(&mut self, which: usize, orders: &mut mpsc::Receiver<Order>) -> End {
        let world = self.world.clone();
        let instance = &world.instances[which];
        let opening = async { timeout(WELCOME, connect(instance)).await.ok().flatten() };
        let opened = tokio::select! {
            opened = opening => opened,
            () = world.over.cancelled() => return End::Over,
        };
        let Some(mut socket) = opened else {
            world.books.count("connections not made");
            return End::Cut;
        };
        world.books.count("connections made");
        if socket.send(Message::text(self.request().to_string())).await.is_err() {
            return End::Cut;
        }
        let asked = Instant::now();
        let mut published = world.all_accepted.clone();
        let mut silence = pin!(sleep(SILENCE));
        loop {
            tokio::select! {
                biased;
                () = world.over.cancelled() => {
                    let _ = timeout(Duration::from_secs(1), socket.close(None)).await;
                    return End::Over;
                }
                Some(order) = orders.recv() => match order {
                    Order::Cut => {
                        // Whatever is complete among it was never read.
                        let mut some = vec![0; self.rng.random_range(1..3000)];
                        let _ = timeout(Duration::from_secs(1), socket.get_mut().read(&mut some)).await;
                        return End::Cut;
                    }
                    Order::Stall(time) => {
                        sleep(time).await;
                        silence.as_mut().reset(Instant::now() + SILENCE);
                    }
                },
                _ = published.changed(), if !self.is_done => self.look_whether_done(),
                () = &mut silence => {
                    self.error(format!("instance {which} was silent for {SILENCE:?}"));
                    return End::Cut;
                }
                message = socket.next() => {
                    silence.as_mut().reset(Instant::now() + SILENCE);
                    match message {
                        Some(Ok(Message::Text(text))) => self.read(text.as_str(), instance, asked),
                        Some(Ok(Message::Close(Some(frame)))) => {
                            let _ = timeout(Duration::from_secs(1), socket.next()).await; // lets the answer go out
                            return End::Told(frame.code.into());
                        }
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return End::Cut,
                    }
                }
            }
        }
    }

    /// Subscribes to everything, from where it was left.
    fn request(&mut self) -> Value {
        let subscriptions = self.subscriptions.iter_mut().enumerate().map(|(id, subscription)| {
            subscription.is_answered = false;
            let mut request = json!({"requestId": id, "room": room(subscription.page.room())});
            if let Some(position) = &subscription.position {
                request["since"] = json!(position);
            }
            request
        });
        let mut subscriptions: Vec<Value> = subscriptions.collect();
        match subscriptions.len() {
            1 => {
                subscriptions[0]["type"] = json!("subscribe");
                subscriptions.swap_remove(0)
            }
            _ => json!({"type": "subscribe", "subscriptions": subscriptions}),
        }
    }

    fn read(&mut self, text: &str, instance: &Instance, asked: Instant) {
        let Ok(frame) = serde_json::from_str::<Frame<'_>>(text) else {
            return self.error(format!("cannot read {text:.200}"));
        };
        match (frame.r#type, frame.request_id.filter(|id| *id < self.subscriptions.len())) {
            ("publish", Some(id)) => self.enter(id, &frame, instance),
            ("reply", Some(id)) if frame.code == Some("success") => self.answered(id, &frame, instance, asked),
            ("resync", None) => {
                self.notified("resync", instance.name, || format!("{:?} after subscribing", asked.elapsed()));
                for subscription in &mut self.subscriptions {
                    subscription.position = frame.position.map(str::to_owned);
                }
            }
            _ => self.error(format!("unexpected: {text:.200}")),
        }
        if !self.is_done && *self.world.all_accepted.borrow() {
            self.look_whether_done();
        }
    }

    fn enter(&mut self, id: usize, frame: &Frame<'_>, instance: &Instance) {
        let subscription = &mut self.subscriptions[id];
        let Some(entry) = &frame.data else { return self.error("a publication without data") };
        let outcome = match subscription.is_answered {
            true => subscription.page.enter(entry).map_err(|wrong| format!("{wrong:?}")),
            false => Err("before the reply".to_owned()),
        };
        if let Some(position) = frame.position {
            subscription.position = Some(position.to_owned());
        }
        self.world.books.count("deliveries checked");
        instance.delivered(entry.publisher, entry.serial);
        if let Err(wrong) = outcome {
            let (publisher, numbers, position) = (entry.publisher, &entry.numbers, frame.position);
            let wrong = format!(
                "{wrong} at subscription {id}, instance {}: publisher {publisher}, {numbers:?}, position {position:?}",
                instance.name
            );
            match self.world.books.is_in_gap(subscription.page.last_notice()) {
                true => {
                    let time = self.world.books.time().as_secs_f64();
                    subscription.page.suspend(format!("[{time:7.1} s] {wrong}"));
                }
                false => self.error(wrong),
            }
        }
    }

    fn answered(&mut self, id: usize, frame: &Frame<'_>, instance: &Instance, asked: Instant) {
        let subscription = &mut self.subscriptions[id];
        subscription.is_answered = true;
        let since = subscription.position.take();
        subscription.position = frame.position.map(str::to_owned);
        match (frame.recovered, since) {
            (None, None) => {
                // Publications from before this are of no interest to it.
                subscription.page.excuse(self.world.books.time(), &self.world.books.accepted());
                self.world.subscribed.add_permits(1);
            }
            (Some(true), Some(_)) => self.world.books.count("recovered: true"),
            (Some(false), Some(since)) => {
                let position = frame.position;
                self.notified_of(id..=id, "recovered: false", instance.name, || {
                    format!("{:?} after asking since {since}, now {position:?}", asked.elapsed())
                });
            }
            (recovered, since) => self.error(format!("recovered is {recovered:?} for since {since:?}")),
        }
    }

    /// The server has notified the client of a gap in all subscriptions.
    fn notified(&mut self, how: &'static str, which: usize, details: impl FnOnce() -> String) {
        self.notified_of(0..=self.subscriptions.len() - 1, how, which, details);
    }

    /// The same of a gap in some of them.
    fn notified_of(
        &mut self,
        ids: RangeInclusive<usize>,
        how: &'static str,
        which: usize,
        details: impl FnOnce() -> String,
    ) {
        let world = &self.world;
        world.books.count(how);
        let subscriptions = &mut self.subscriptions[ids];
        let is_in_gap = subscriptions.iter().any(|one| world.books.is_in_gap(one.page.last_notice()));
        let (now, accepted) = (world.books.time(), world.books.accepted());
        subscriptions.iter_mut().for_each(|subscription| subscription.page.excuse(now, &accepted));
        let away = world.instances[which].absence().max(world.node_absence.lock().length());
        if is_in_gap {
            world.books.count("gap notices near a fault that may lose something");
        } else if away >= PATIENCE {
            world.books.count("gap notices by an instance that was without the broker for long");
        } else {
            self.error(format!("{how} by instance {which}, without the broker for {away:?}, {}", details()));
        }
    }

    fn look_whether_done(&mut self) {
        let accepted = self.world.books.accepted();
        if self.subscriptions.iter().all(|subscription| subscription.page.behind(&accepted) == 0) {
            self.is_done = true;
            self.world.done.add_permits(1);
        }
    }
}

/// A room by its number, or all.
pub fn room(number: Option<usize>) -> Value {
    match number {
        Some(number) => json!({"ledger": "room", "number": number}),
        None => json!({"ledger": "room", "number": "*"}),
    }
}

/// A connection that has been welcomed.
async fn connect(instance: &Instance) -> Option<WebSocketStream<TcpStream>> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER).ok()?;
    SockRef::from(&socket).set_tcp_mss(SEGMENT).ok()?;
    let stream = socket.connect(instance.public).await.ok()?;
    let mut request = "ws://localhost/ws/".into_client_request().ok()?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("high-templar.v4"));
    let (mut socket, _) = client_async(request, stream).await.ok()?;
    loop {
        match socket.next().await?.ok()? {
            Message::Text(text) => {
                let frame: Frame<'_> = serde_json::from_str(text.as_str()).ok()?;
                return (frame.r#type == "welcome" && frame.is_authorized == Some(true)).then_some(socket);
            }
            Message::Close(_) => return None,
            _ => {}
        }
    }
}
