//! What operators, policies, crashes and other clusters do to RabbitMQ: what was confirmed arrives, or the clients are told.

mod blocked;
mod check;
mod federation;
mod lost_tail;
mod notices;
mod publishing;
mod restarts;
mod rights;
mod unbound;

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions},
    types::FieldTable,
};
use serde_json::{Value, json};

use crate::support::{Client, TestServer, eventually, rabbitmq};

/// The exchange of a server that is not told another one.
const EXCHANGE: &str = "hightemplar";

fn room() -> Value {
    json!({"target": "message"})
}

/// A client of version 4 in the [room].
async fn member(server: &TestServer) -> Client {
    server.member_v4("x", &[("1", room())]).await.0
}

/// Posts a trigger again and again until it is accepted.
async fn trigger(server: &TestServer, data: Value) {
    let body = json!({"rooms": [room()], "data": data}).to_string();
    eventually("a trigger is accepted", async || server.post("/trigger/", &body).await.status == 200).await;
}

/// Subscribes anew with a position from before; the reply.
async fn resume(server: &TestServer, position: &Value) -> (Client, Value) {
    let mut client = server.connect_v4().await.0;
    let wanted = json!({"type": "subscribe", "requestId": "1", "room": room(), "since": position});
    let reply = client.ask(wanted).await;
    (client, reply)
}

/// Deletes the exchange and declares it as 3.1 does, bound to nothing.
async fn redeclare_exchange(url: &str) {
    let channel = rabbitmq::channel_at(url).await;
    channel.exchange_delete(EXCHANGE.into(), ExchangeDeleteOptions::default()).await.unwrap();
    declare_exchange(url).await;
}

/// Declares the exchange as 3.1 does.
async fn declare_exchange(url: &str) {
    let channel = rabbitmq::channel_at(url).await;
    let options = ExchangeDeclareOptions::default();
    channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Direct, options, FieldTable::default()).await.unwrap();
}
