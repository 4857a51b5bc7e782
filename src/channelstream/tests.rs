//! What one instance does with what comes by the log, chosen command by command.

use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;
use crate::{
    config,
    connection::{Connections, simulated},
    hub::{Pace, Tally},
    protocol::channelstream::{
        Bad,
        requests::{Connect, Message as Item},
    },
    transport::long_polling::poll,
};

struct Log {
    connections: Arc<Connections>,
    channelstream: Arc<Channelstream>,
    ordered: mpsc::UnboundedReceiver<Ordered>,
    /// What waits to be written, as between the batches of the dispatch.
    tally: Tally,
}

fn parse<T>(parse: impl Fn(&[u8]) -> Result<T, Bad>, body: &Value) -> T {
    parse(body.to_string().as_bytes()).unwrap_or_else(|bad| panic!("{body}: {bad:?}"))
}

impl Log {
    fn new() -> Self {
        let history = config::History { age: Duration::from_secs(1), limit_bytes: 1 };
        let connections = simulated::connections(&[], history);
        let (hub, metrics) = (connections.hub.clone(), connections.metrics.clone());
        let state = watch::channel(BrokerState::Current).1;
        let channelstream = Channelstream::new(hub, metrics, state, None, CancellationToken::new());
        let ordered = channelstream.writer.lock().take().unwrap().into_ordered();
        let mut log = Self { connections, channelstream, ordered, tally: Tally::default() };
        while log.channelstream.replica.lock().state().is_none() {
            let orders = log.channelstream.replica.lock().begin(true);
            log.carry_out(orders.into_iter().map(Command::new).collect());
        }
        log
    }

    /// What was ordered next.
    async fn next(&mut self) -> Command {
        self.ordered.recv().await.unwrap().command
    }

    /// Commands as they come in one batch. Nothing is written before [`settle`](Self::settle).
    fn carry_out(&mut self, commands: Vec<Command>) {
        let texts: Vec<_> = commands.iter().map(|command| serde_json::to_string(command).unwrap()).collect();
        let body = Message::text(self.channelstream.me, texts.iter().map(String::as_str));
        for deed in self.channelstream.take(body.as_bytes(), true, false) {
            match deed {
                Deed::Publish(publication) => {
                    let publication = self.connections.hub.record(publication, None);
                    let audience = self.connections.hub.audience(&publication.rooms);
                    audience.publish(&publication, Pace::Later, &mut self.tally);
                }
                Deed::Perform(performed) => self.channelstream.perform(performed),
            }
        }
    }

    fn settle(&mut self) {
        self.tally.settle(&self.connections.metrics).iter().for_each(|outbox| outbox.flush());
    }

    fn connect(&mut self) -> Uuid {
        let id = Uuid::new_v4();
        let body = json!({"username": "ann", "conn_id": id, "channels": ["a"]});
        self.carry_out(vec![Command::new(Order::Call(Call::Connect(parse(Connect::parse, &body))))]);
        id
    }

    fn say(text: &str) -> Command {
        let body = json!([{"user": "bob", "channel": "a", "message": {"text": text}}]);
        Command::new(Order::Call(Call::Message(parse(Item::parse_all, &body))))
    }

    fn poll(&self, id: Uuid) -> tokio::task::JoinHandle<Vec<Value>> {
        let (channelstream, connections) = (self.channelstream.clone(), self.connections.clone());
        let place = connections.place(None, &http::HeaderMap::new()).unwrap();
        tokio::spawn(async move {
            let stop = CancellationToken::new();
            let frames = poll(id, place, &channelstream, &connections, &stop).await.unwrap();
            let frames: Vec<Value> = serde_json::from_str(&frames).unwrap();
            frames.iter().map(|frame| frame["message"]["text"].clone()).collect()
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_poll_is_answered_with_what_came_before_its_end_written_or_not() {
    let mut log = Log::new();
    let id = log.connect();
    let polling = log.poll(id);
    let attach = log.next().await;
    log.carry_out(vec![attach, Log::say("one")]);
    log.settle();
    let detach = log.next().await;
    assert!(matches!(detach.order, Order::Detach { has_got: true, .. }));
    log.carry_out(vec![Log::say("two"), detach, Log::say("three")]);
    assert_eq!(polling.await.unwrap(), ["one", "two"]);
    let polling = log.poll(id);
    let attach = log.next().await;
    log.carry_out(vec![attach]);
    let detach = log.next().await;
    log.carry_out(vec![detach]);
    assert_eq!(polling.await.unwrap(), ["three"]);
}

#[tokio::test(start_paused = true)]
async fn however_much_a_client_has_missed_comes_whole_and_once() {
    let mut log = Log::new();
    let id = log.connect();
    let text = "x".repeat(5000);
    let limit = log.connections.config.outbox_limit_bytes;
    let channels: Vec<String> = (0..3).map(|number| format!("c{number}")).collect();
    let body = json!({"username": "ann", "conn_id": id, "channels": channels});
    log.carry_out(vec![Command::new(Order::Call(Call::Connect(parse(Connect::parse, &body))))]);
    for channel in &channels {
        let item = json!({"user": "bob", "channel": channel, "message": {"text": text}});
        let body = Value::Array(vec![item; 90]);
        log.carry_out(vec![Command::new(Order::Call(Call::Message(parse(Item::parse_all, &body))))]);
    }
    assert!(3 * 90 * text.len() > limit, "this shows nothing");
    let polling = log.poll(id);
    let attach = log.next().await;
    log.carry_out(vec![attach]);
    let detach = log.next().await;
    log.carry_out(vec![detach]);
    assert_eq!(polling.await.unwrap().len(), 3 * 90);
}

#[tokio::test(start_paused = true)]
async fn who_drops_a_poll_gets_its_frames_by_the_next_one() {
    let mut log = Log::new();
    let id = log.connect();
    let polling = log.poll(id);
    let attach = log.next().await;
    log.carry_out(vec![attach, Log::say("one")]);
    log.settle();
    polling.abort();
    assert!(polling.await.is_err());
    let detach = log.next().await;
    assert!(matches!(detach.order, Order::Detach { has_got: false, .. }));
    log.carry_out(vec![detach]);
    let polling = log.poll(id);
    let attach = log.next().await;
    log.carry_out(vec![attach]);
    let detach = log.next().await;
    log.carry_out(vec![detach]);
    assert_eq!(polling.await.unwrap(), ["one"]);
}

#[tokio::test(start_paused = true)]
async fn polls_that_are_given_up_write_no_more_than_their_turns() {
    let mut log = Log::new();
    let id = log.connect();
    let (begun, mut commands) = (Instant::now(), 0);
    for _ in 0..2000 {
        let polling = log.poll(id);
        tokio::task::yield_now().await;
        while let Ok(ordered) = log.ordered.try_recv() {
            commands += 1;
            log.carry_out(vec![ordered.command]);
        }
        polling.abort();
        assert!(polling.await.is_err());
        tokio::time::advance(Duration::from_millis(5)).await;
    }
    let most = 2 * (4 + 2 * begun.elapsed().as_secs());
    assert!((10..=most).contains(&commands), "{commands} commands, of {most}");
    // What was said meanwhile comes to whoever stays, and once.
    log.carry_out(vec![Log::say("one")]);
    let polling = log.poll(id);
    loop {
        let command = log.next().await;
        let is_last = matches!(command.order, Order::Detach { has_got: true, .. });
        log.carry_out(vec![command]);
        log.settle();
        if is_last {
            break;
        }
    }
    assert_eq!(polling.await.unwrap(), ["one"]);
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_another_one_has_ended_writes_nothing() {
    let mut log = Log::new();
    let id = log.connect();
    let older = log.poll(id);
    let attach = log.next().await;
    log.carry_out(vec![attach]);
    let newer = log.poll(id);
    let attach = log.next().await;
    log.carry_out(vec![attach]);
    assert_eq!(older.await.unwrap(), Vec::<Value>::new());
    let detach = log.next().await;
    assert!(matches!(detach.order, Order::Detach { has_got: true, .. }), "{detach:?}");
    log.carry_out(vec![detach]);
    assert_eq!(newer.await.unwrap(), Vec::<Value>::new());
    assert!(log.ordered.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn many_who_disconnect_a_connection_write_one_command() {
    let mut log = Log::new();
    let id = log.connect();
    let ask = || {
        let channelstream = log.channelstream.clone();
        async move { channelstream.call(Call::Disconnect(id)).await }
    };
    let asking = tokio::spawn(futures::future::join_all((0..100).map(|_| ask())));
    let (mut disconnects, mut looks) = (0, 0);
    while !asking.is_finished() {
        tokio::select! {
            command = log.next() => {
                match command.order {
                    Order::Call(Call::Disconnect(_)) => disconnects += 1,
                    Order::Look => looks += 1,
                    order => panic!("{order:?}"),
                }
                log.carry_out(vec![command]);
            }
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
    let answers: Vec<_> = asking.await.unwrap().into_iter().map(|answer| format!("{:?}", answer.unwrap())).collect();
    assert_eq!(answers.iter().filter(|answer| answer.contains("true")).count(), 1, "{answers:?}");
    assert!(disconnects == 1 && looks < 5, "{disconnects} {looks}");
}
