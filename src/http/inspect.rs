//! What operators ask about single connections and rooms of this instance.

use std::{collections::HashMap, sync::Arc};

use http::StatusCode;
use serde_json::{json, value::RawValue};
use uuid::Uuid;
use warp::{Filter, Rejection, reply::Response};

use super::{methods::get, reply};
use crate::{
    connection::{Connections, Order, Whose},
    room::{RoomKey, Rules},
};

/// Connections or rooms that are listed, unless `limit` asks for another number, and at most.
const LISTED: usize = 100;
const MOST: usize = 10_000;

type Query = HashMap<String, String>;
/// What is answered to a question that makes no sense.
type Refusal = Box<Response>;

/// `/connections`, `/rooms` and `/explain`.
pub(super) fn routes(connections: Arc<Connections>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let query = || warp::query::<Query>();
    let (of_connections, of_rooms) = (connections.clone(), connections.clone());
    let listed = warp::path!("connections")
        .and(get())
        .and(query())
        .map(move |query: Query| list(&of_connections, &query).unwrap_or_else(|wrong| *wrong));
    let rooms = warp::path!("rooms")
        .and(get())
        .and(query())
        .map(move |query: Query| rooms(&of_rooms, &query).unwrap_or_else(|wrong| *wrong));
    let explained = warp::path!("explain")
        .and(get())
        .and(query())
        .map(move |query: Query| explain(&connections, &query).unwrap_or_else(|wrong| *wrong));
    listed.or(rooms).unify().or(explained).unify()
}

/// `/connections?user=17&sort=waiting&limit=100`.
fn list(connections: &Connections, query: &Query) -> Result<Response, Refusal> {
    let whose = match (query.get("connection"), query.get("user")) {
        (Some(_), Some(_)) => return Err(malformed("connection", "ask for a connection or for a user, not for both")),
        (Some(id), None) => Whose::Connection(connection(id)?),
        (None, Some(user)) => Whose::User(user),
        (None, None) => Whose::Anybody,
    };
    let order = match query.get("sort").map(String::as_str) {
        None | Some("age") => Order::Oldest,
        Some("waiting") => Order::Slowest,
        Some(_) => return Err(malformed("sort", "sort must be age or waiting")),
    };
    let (seen, count) = connections.list(whose, order, limit(query)?);
    Ok(reply::json(StatusCode::OK, &json!({"count": count, "connections": seen})))
}

/// `/rooms?room={…}&limit=100`: the largest rooms first, of those that a trigger to `room` would reach.
fn rooms(connections: &Connections, query: &Query) -> Result<Response, Refusal> {
    let hub = &connections.hub;
    let room = query.get("room").map(|room| key(room, connections.room_rules())).transpose()?;
    let (found, count) = hub.list(room.as_ref(), limit(query)?);
    let found: Vec<_> = found
        .into_iter()
        .map(|(room, members)| json!({"room": RawValue::from_string(room).ok(), "subscriptions": members}))
        .collect();
    Ok(reply::json(StatusCode::OK, &json!({"count": count, "rooms": found})))
}

/// `/explain?connection=<uuid>&room={…}`.
fn explain(connections: &Connections, query: &Query) -> Result<Response, Refusal> {
    let id = connection(query.get("connection").map_or("", String::as_str))?;
    let room = query.get("room").ok_or_else(|| malformed("room", "room must be a JSON object"))?;
    let json = RawValue::from_string(room.clone()).map_err(|_| malformed("room", "room must be a JSON object"))?;
    let explained = connections.explain(id, &json).map_err(|error| malformed("room", &error.to_string()))?;
    Ok(match explained {
        Some(explanation) => reply::json(StatusCode::OK, &explanation),
        None => reply::error(
            StatusCode::NOT_FOUND,
            "connection-not-found",
            "no authorised connection of this instance has that id; it may be another instance's",
        ),
    })
}

fn connection(text: &str) -> Result<Uuid, Refusal> {
    text.parse().map_err(|_| malformed("connection", "connection must be the id of a connection"))
}

fn limit(query: &Query) -> Result<usize, Refusal> {
    let Some(text) = query.get("limit") else { return Ok(LISTED) };
    let limit = text.parse().ok().filter(|limit| (1..=MOST).contains(limit));
    limit.ok_or_else(|| malformed("limit", &format!("limit must be a number from 1 to {MOST}")))
}

fn key(text: &str, rules: Rules) -> Result<RoomKey, Refusal> {
    let json = RawValue::from_string(text.to_owned()).map_err(|_| malformed("room", "room must be a JSON object"))?;
    RoomKey::new(&json, rules).map_err(|error| malformed("room", &error.to_string()))
}

fn malformed(what: &str, detail: &str) -> Refusal {
    Box::new(reply::error(StatusCode::BAD_REQUEST, &format!("malformed-{what}"), detail))
}
