use serde_json::{Value, json};

use super::*;
use crate::{
    channelstream::By,
    protocol::channelstream::{
        Bad,
        requests::{Connect, Edit, Message, Subscribe},
    },
};

const ME: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);

struct Log {
    state: State,
    effects: Vec<Effect>,
}

fn parse<T>(parse: impl Fn(&[u8]) -> Result<T, Bad>, body: &Value) -> T {
    parse(body.to_string().as_bytes()).unwrap_or_else(|bad| panic!("{body}: {bad:?}"))
}

fn connect(body: &Value) -> Order {
    Order::Call(Call::Connect(parse(Connect::parse, body)))
}

fn post(body: &Value) -> Order {
    Order::Call(Call::Message(parse(Message::parse_all, body)))
}

impl Log {
    fn new() -> Self {
        Self { state: State::new(Era::new()), effects: Vec::new() }
    }

    fn order(&mut self, order: Order) -> Result<Done, Invalid> {
        self.effects.clear();
        self.state.apply(ME, &Command::new(order), ME, &mut self.effects)
    }

    fn text(&self) -> String {
        let mut state = serde_json::to_value(&self.state).unwrap();
        for connection in state["connections"].as_object_mut().unwrap().values_mut() {
            connection["age"] = Value::Null;
        }
        for user in state["users"].as_object_mut().unwrap().values_mut() {
            user["age"] = Value::Null;
        }
        state.to_string()
    }

    /// The frames that are published, with those who get them or do not.
    fn published(&self) -> Vec<(Value, Option<Vec<Uuid>>, Vec<Uuid>)> {
        let published = self.effects.iter().filter_map(|effect| match effect {
            Effect::Publish { text, only, exclude, .. } => {
                Some((serde_json::from_slice(text).unwrap(), only.clone(), exclude.clone()))
            }
            _ => None,
        });
        published.collect()
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut log = Log::new();
    let id = Uuid::new_v4();
    log.order(connect(&json!({"username": "alice", "conn_id": id, "channels": ["a"]}))).unwrap();
    let before = log.text();
    let other = json!({"username": "bob", "conn_id": id, "channels": ["b"], "fresh_user_state": {"x": 1}});
    assert!(log.order(connect(&other)).is_err());
    let unknown = json!({"conn_id": Uuid::new_v4(), "channels": ["b"]});
    let subscribe = parse(|body| Subscribe::parse(body, None), &unknown);
    assert!(log.order(Order::Call(Call::Subscribe(subscribe.clone()))).is_err());
    assert!(log.order(Order::Call(Call::Unsubscribe(subscribe))).is_err());
    assert_eq!(log.text(), before);
    assert!(log.effects.is_empty());
}

#[test]
fn what_is_kept_of_a_channel_is_bounded_in_count_and_bytes() {
    let mut log = Log::new();
    let configs = json!({"a": {"store_history": true, "history_size": 0}});
    let body = json!({"username": "alice", "channels": ["a"], "channel_configs": configs});
    log.order(connect(&body)).unwrap();
    for _ in 0..10_100 {
        log.order(post(&json!([{"user": "alice", "channel": "a", "message": {}}]))).unwrap();
    }
    let sizes = |log: &Log| {
        let channel = &log.state.channels["a"];
        (channel.history.iter().count(), channel.frames.after(0, "alice").count())
    };
    assert_eq!(sizes(&log), (10_000, 100));
    let large = "x".repeat(200_000);
    for _ in 0..100 {
        log.order(post(&json!([{"user": "alice", "channel": "a", "message": {"text": large}}]))).unwrap();
    }
    let (history, frames) = sizes(&log);
    assert!((70..90).contains(&history) && frames == 5, "{history} {frames}");
    let larger = "x".repeat(20_000_000);
    log.order(post(&json!([{"user": "alice", "channel": "a", "message": {"text": larger}}]))).unwrap();
    assert_eq!(sizes(&log), (1, 1), "the newest one stays");
}

#[test]
fn a_message_for_some_names_the_links_of_those_only() {
    let mut log = Log::new();
    let mut links = Vec::new();
    for user in ["alice", "bob", "carol"] {
        let id = Uuid::new_v4();
        log.order(connect(&json!({"username": user, "conn_id": id, "channels": ["a"]}))).unwrap();
        links.push(Uuid::new_v4());
        log.order(Order::Attach { connection: id, link: links[links.len() - 1], by: By::Socket, since: 0 }).unwrap();
    }
    let message = |more: Value| {
        let mut item = json!({"user": "alice", "channel": "a", "message": {}});
        item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        post(&json!([item]))
    };
    log.order(message(json!({"pm_users": ["bob", "carol", "bob"], "exclude_users": ["carol"]}))).unwrap();
    assert_eq!(log.published()[0].1, Some(vec![links[1]]));
    log.order(message(json!({"exclude_users": ["alice"]}))).unwrap();
    assert_eq!((&log.published()[0].1, &log.published()[0].2), (&None, &vec![links[0]]));
    log.order(message(json!({"pm_users": ["nobody"]}))).unwrap();
    assert!(log.published().is_empty());
    assert_eq!((log.state.total_messages, log.state.total_unique_messages), (1 + 2, 3));
}

#[test]
fn an_edit_changes_what_is_kept_everywhere_and_adds_nothing() {
    let mut log = Log::new();
    let configs = json!({"a": {"store_history": true}});
    let body = json!({"username": "alice", "channels": ["a"], "channel_configs": configs});
    log.order(connect(&body)).unwrap();
    let uuid = Uuid::new_v4();
    log.order(post(&json!([{"uuid": uuid, "user": "alice", "channel": "a", "message": {"text": "hi"}}]))).unwrap();
    let edit = json!([{"uuid": uuid, "channel": "a", "message": {"text": "ho"}}]);
    log.order(Order::Call(Call::Edit(parse(Edit::parse_all, &edit)))).unwrap();
    let (frame, ..) = log.published().remove(0);
    assert_eq!((&frame["type"], frame.get("catchup")), (&json!("message:edit"), None));
    let channel = &log.state.channels["a"];
    let frames: Vec<Value> =
        channel.frames.after(0, "bob").map(|frame| serde_json::from_slice(&frame).unwrap()).collect();
    assert_eq!(frames.len(), 2);
    assert_eq!((&frames[0]["message"]["text"], &frames[0]["catchup"]), (&json!("ho"), &json!(true)));
    assert_eq!((&frames[1]["type"], &frames[1]["catchup"]), (&json!("message:edit"), &json!(true)));
    assert_eq!(channel.history.iter().count(), 1);
}

#[test]
fn a_poll_takes_the_place_of_a_poll_and_not_of_a_socket() {
    let mut log = Log::new();
    let id = Uuid::new_v4();
    log.order(connect(&json!({"username": "alice", "conn_id": id, "channels": ["a"]}))).unwrap();
    let attach = |link, by| Order::Attach { connection: id, link: Uuid::from_u128(link), by, since: 1 };
    assert!(matches!(log.order(attach(1, By::Poll)), Ok(Done::Attached)));
    log.order(post(&json!([{"user": "bob", "channel": "a", "message": {}}]))).unwrap();
    assert!(matches!(log.order(attach(2, By::Poll)), Ok(Done::Attached)));
    let missed = |log: &Log| {
        log.effects.iter().find_map(|effect| match effect {
            Effect::Attached { frames, .. } => Some(frames.len()),
            _ => None,
        })
    };
    assert_eq!(missed(&log), Some(1), "the first poll is not answered with it");
    assert!(matches!(log.order(attach(3, By::Socket)), Ok(Done::Attached)));
    assert_eq!(missed(&log), Some(1));
    assert!(matches!(log.order(attach(4, By::Poll)), Ok(Done::Occupied)));
    assert!(matches!(log.order(attach(5, By::Socket)), Ok(Done::Attached)));
    assert_eq!(missed(&log), Some(0), "the first socket was sent it");
    log.order(post(&json!([{"user": "bob", "channel": "a", "message": {}}]))).unwrap();
    assert!(matches!(log.order(attach(6, By::Socket)), Ok(Done::Attached)));
    assert_eq!(missed(&log), Some(1), "it has come since the socket was opened");
    log.order(Order::Gone { instance: OTHER }).unwrap();
    assert_eq!(log.state.connections.len(), 1);
    log.order(Order::Gone { instance: ME }).unwrap();
    assert_eq!(log.state.connections.len(), 0);
}
