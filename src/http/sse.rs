//! `GET /sse/?room={…}&room={…}`: publications as server-sent events, for where no WebSocket gets through.

use std::{
    borrow::Cow,
    iter,
    sync::Arc,
    time::{Duration, SystemTime},
};

use headers::HeaderMapExt;
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use serde_json::{json, value::RawValue};
use warp::{Filter, Rejection, filters::BoxedFilter, reply::Response};

use super::{Origination, admin::typed, refusals, reply};
use crate::{
    backend::Handshake,
    config::Origins,
    connection::{Connections, Refused},
    room::{Numbers, RoomKey, Rules},
    transport::{
        origin::{is_https, may_ask, may_connect},
        sse::{self, Since, Wanted},
        takeover::Takeover,
    },
};

/// Header in which an `EventSource` shows the last `id` when it reconnects.
const LAST_EVENT_ID: &str = "last-event-id";
/// Query parameter in which event-source-polyfill does, which has to do without own headers on other origins.
const LAST_EVENT_ID_PARAMETER: &str = "lastEventId";

/// What is answered to who is not served.
type Refusal = Box<Response>;

/// `/sse/`, with or without the slash. Whatever is answered, pages that may connect can read it.
pub(super) fn route(
    connections: Arc<Connections>,
    origins: Arc<Origins>,
    within_limits: impl Filter<Extract = (), Error = Rejection> + Clone + Send + Sync + 'static,
) -> BoxedFilter<(Response,)> {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let allowed = origins.clone();
    let proxies = connections.config.limits.trusted_proxies.clone();
    let answered = within_limits
        .and(warp::path::end())
        .and(warp::get())
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::ext::get::<Origination>())
        .then(move |headers, query, from| answer(headers, query, from, connections.clone(), allowed.clone()))
        .recover(reply::rejected)
        .unify();
    warp::path("sse")
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Origination>())
        .and(answered)
        .map(move |headers: HeaderMap, from: Origination, response| {
            let is_https = is_https(&headers, from.peer, &proxies);
            readable(response, &headers, &origins, is_https)
        })
        .boxed()
}

/// The events, or why there are none.
async fn answer(
    headers: HeaderMap,
    query: String,
    from: Origination,
    connections: Arc<Connections>,
    origins: Arc<Origins>,
) -> Response {
    let is_https = is_https(&headers, from.peer, &connections.config.limits.trusted_proxies);
    if may_ask(&origins, &headers, is_https) {
        return open(&headers, &query, from, &connections).await.unwrap_or_else(|refusal| *refusal);
    }
    connections.metrics.connections_refused.inc("origin");
    let detail = "the page's Origin may not connect: see ALLOWED_ORIGINS";
    let response = reply::error(StatusCode::FORBIDDEN, "origin-not-allowed", detail);
    refusals::logged_as(response, "origin", &format!("{detail} ({})", refusals::page(&headers, is_https)))
}

/// `response`, to be read by the page that asked if it may, and kept by nobody.
fn readable(mut response: Response, headers: &HeaderMap, origins: &Origins, is_https: bool) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = headers.get(header::ORIGIN).filter(|_| may_connect(origins, headers, is_https)) {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After"));
    }
    response
}

async fn open(
    headers: &HeaderMap,
    query: &str,
    from: Origination,
    connections: &Arc<Connections>,
) -> Result<Response, Refusal> {
    let count = |reason: &'static str| connections.metrics.connections_refused.inc(reason);
    let wanted = wanted(headers, query, connections).inspect_err(|_| count("request"))?;
    let handshake = Handshake { headers, query, peer: from.peer };
    let identity = connections.backend.identify(&handshake).map_err(|error| {
        count("header");
        refusal(StatusCode::BAD_REQUEST, "malformed-header", &error.to_string())
    })?;
    let place = connections.place(from.peer, headers).map_err(|limit| {
        count("limit");
        Box::new(reply::too_many(limit))
    })?;
    let is_chunked = from.version >= Version::HTTP_11;
    let begin = sse::open(&wanted, is_chunked, identity, place, connections).await.map_err(|refused| {
        // What the API says of clients is logged where it is asked.
        Box::new(refusals::unlogged(*refused_stream(&refused)))
    })?;
    let mut response = typed(warp::reply::reply(), "text/event-stream");
    let headers = response.headers_mut();
    // A proxy that keeps the events until it has enough of them would keep them for ever.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.typed_insert(headers::Date::from(SystemTime::now()));
    headers.remove(header::CONTENT_LENGTH);
    if is_chunked {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    Takeover::attach(&mut response, sse::opening(is_chunked), begin);
    Ok(response)
}

/// The rooms of the query, each with the position from which on it is wanted.
fn wanted(headers: &HeaderMap, query: &str, connections: &Connections) -> Result<Vec<Wanted>, Refusal> {
    let all = |wanted: &'static str| {
        let parameters = url::form_urlencoded::parse(query.as_bytes());
        parameters.filter(move |(name, _)| name == wanted).map(|(_, value)| value)
    };
    let count = all("room").count();
    if count == 0 {
        return Err(refusal(StatusCode::BAD_REQUEST, "no-room", "name the rooms: /sse/?room={\"target\":\"message\"}"));
    }
    let limits = &connections.config.limits;
    if count > limits.subscriptions.min(sse::MOST_ROOMS) {
        connections.metrics.limited.inc("subscriptions");
        return Err(too_many_rooms(limits.subscriptions));
    }
    // The `since` of a browser that reconnects is still that of the first time.
    let last = headers.get(LAST_EVENT_ID).and_then(|last| last.to_str().ok());
    let last = last.map(Cow::Borrowed).or_else(|| all(LAST_EVENT_ID_PARAMETER).last());
    let since = match last {
        Some(last) => since(iter::once(last), count),
        None => since(all("since"), count),
    };
    let since = since.map_err(|detail| refusal(StatusCode::BAD_REQUEST, "malformed-since", detail))?;
    let rules = Rules { numbers: Numbers::ByValue, limits: limits.room };
    let room = |(number, (text, since)): (usize, (Cow<'_, str>, Option<Since>))| {
        let room = RawValue::from_string(text.into_owned()).map_err(|_| no_room(number, "a room is a JSON object"))?;
        let key = RoomKey::new(&room, rules).map_err(|error| {
            if error.is_beyond_limits() {
                connections.metrics.limited.inc("room");
            }
            no_room(number, &error.to_string())
        })?;
        Ok(Wanted { room, key, since })
    };
    all("room").zip(since).enumerate().map(room).collect()
}

/// What a client shows to go on from, for each of its rooms: one text for all of them, be it a position or an event's `id`, or one
/// for each.
fn since<'a>(shown: impl Iterator<Item = Cow<'a, str>>, rooms: usize) -> Result<Vec<Option<Since>>, &'static str> {
    let mut shown = shown.peekable();
    let Some(first) = shown.next() else { return Ok(vec![None; rooms]) };
    if shown.peek().is_none() {
        let too_long = "Last-Event-ID or since is longer than the id of an event of so many rooms can be";
        return sse::read_all(&first, rooms).map_err(|sse::TooLong| too_long);
    }
    let each: Vec<_> = iter::once(first).chain(shown).map(|since| Since::read(&since)).collect();
    if each.len() == rooms {
        Ok(each)
    } else {
        Err("since stands there once for all rooms, or once for each room, in their order")
    }
}

/// A stream may not have so many rooms. Says how many it may have, also for programs.
fn too_many_rooms(subscriptions: usize) -> Refusal {
    let most = subscriptions.min(sse::MOST_ROOMS);
    let detail = if most < sse::MOST_ROOMS {
        format!("a connection may have {most} subscriptions (MAX_SUBSCRIPTIONS)")
    } else {
        format!("an event stream may have {most} rooms")
    };
    let word = "too-many-subscriptions";
    let body = json!({"code": "error", "message": word, "detail": detail, "limit": most});
    Box::new(refusals::logged_as(reply::json(StatusCode::BAD_REQUEST, &body), word, &detail))
}

fn refused_stream(refused: &Refused) -> Refusal {
    let later = |status, word, detail, retry_after: Duration| {
        let mut response = refusal(status, word, detail);
        let seconds = retry_after.as_secs_f64().ceil() as u64;
        response.headers_mut().insert(header::RETRY_AFTER, seconds.max(1).into());
        response
    };
    match refused {
        Refused::NotAuthorized => {
            refusal(StatusCode::UNAUTHORIZED, "not-authorized", "the API does not let this client in")
        }
        Refused::TryLater { retry_after } => {
            let detail = "the API cannot be asked who this client is";
            later(StatusCode::SERVICE_UNAVAILABLE, "try-later", detail, *retry_after)
        }
        Refused::TooMany { retry_after } => {
            let detail = "the user has as many connections as it may have";
            later(StatusCode::TOO_MANY_REQUESTS, "too-many-connections", detail, *retry_after)
        }
        Refused::Room { number, detail } => no_room(*number, detail),
        Refused::Gone => {
            let detail = "the server is stopping, or was told to end this";
            later(StatusCode::SERVICE_UNAVAILABLE, "try-later", detail, Duration::from_secs(1))
        }
    }
}

/// Room `number` cannot be heard.
fn no_room(number: usize, detail: &str) -> Refusal {
    let word = "room-not-found";
    let body = json!({"code": "error", "message": word, "detail": detail, "requestId": number.to_string()});
    Box::new(reply::json(StatusCode::FORBIDDEN, &body))
}

fn refusal(status: StatusCode, word: &str, detail: &str) -> Refusal {
    Box::new(reply::error(status, word, detail))
}
