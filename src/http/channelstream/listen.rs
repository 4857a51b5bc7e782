//! `GET /listen?conn_id=…`, a long poll, and `GET /ws?conn_id=…`, a socket: what comes for a connection.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::json;
use uuid::Uuid;
use warp::reply::Response;

use super::{
    super::{Origination, admin::typed, refused_websocket, reply},
    Api,
    asked::Asked,
    refusal::Refusal,
};
use crate::{
    config::Origins,
    transport::{
        long_polling,
        takeover::Takeover,
        websocket::{self, Refused},
    },
};

/// The longest name of a function that frames are wrapped in.
const LONGEST_CALLBACK: usize = 128;

/// What has come for the connection, as soon as something has.
pub(super) async fn answer(api: &Api, asked: &Asked) -> Result<Response, Refusal> {
    let connection = asked.parameter("conn_id").and_then(|id| Uuid::try_parse(&id).ok());
    let Some(connection) = connection else {
        return Ok(reply::json(StatusCode::UNPROCESSABLE_ENTITY, &json!(["Wrong UUID format"])));
    };
    if asked.method == Method::HEAD {
        return Ok(response(String::new(), None)); // the frames would be lost
    }
    let connections = &api.connections;
    let place = match connections.place(asked.peer, &asked.headers) {
        Ok(place) => place,
        Err(limit) => return Ok(reply::too_many(limit)),
    };
    let polling = long_polling::poll(connection, place, &api.channelstream, connections, &api.stop);
    let frames = polling.await.ok_or(Refusal::UnknownConnection)?;
    Ok(response(frames, asked.parameter("callback").as_deref()))
}

/// Has the client served, and answers its handshake; `Err` is an answer, too.
pub(in crate::http) fn open_socket(
    api: &Api,
    headers: &HeaderMap,
    connection: &str,
    from: Origination,
) -> Result<Response, Box<Response>> {
    let (connections, channelstream) = (&api.connections, &api.channelstream);
    let request = websocket::Request { version: from.version, headers, is_https: false }; // no origin is asked for
    let refused = |refused: Refused| refused_websocket(connections, headers, false, refused);
    // Whoever knows the id of a connection may listen for it, from wherever the page is.
    let (mut response, _) = websocket::accept(&request, &Origins::Any).map_err(refused)?;
    response.headers_mut().remove(header::SEC_WEBSOCKET_PROTOCOL);
    let Ok(connection) = Uuid::try_parse(connection) else {
        connections.metrics.connections_refused.inc("connection-id");
        let detail = "conn_id must be the UUID of a connection";
        return Err(Box::new(reply::error(StatusCode::BAD_REQUEST, "malformed-connection", detail)));
    };
    let place = connections.place(from.peer, headers).map_err(|limit| {
        connections.metrics.connections_refused.inc("limit");
        Box::new(reply::too_many(limit))
    })?;
    let since = channelstream.sequence(); // before the client knows that it is heard
    let mut response = response.map(|()| Response::default().into_body());
    let (connections, channelstream) = (connections.clone(), channelstream.clone());
    Takeover::attach(&mut response, Bytes::new(), move |socket, received| {
        place.keep_connection();
        let arrival = websocket::ListenerArrival { connection, since, place };
        let tasks = connections.tasks.clone();
        tasks.spawn(websocket::listen(socket, received, arrival, channelstream, connections));
    });
    Ok(response)
}

/// `frames`, wrapped in a call of the function `callback` if that can be the name of one.
fn response(frames: String, callback: Option<&str>) -> Response {
    let is_name = |name: &&str| {
        let mut bytes = name.bytes();
        (1..=LONGEST_CALLBACK).contains(&name.len())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.$".contains(&byte))
    };
    let mut response = match callback.filter(is_name) {
        Some(callback) => typed(format!("{callback}({frames})"), "text/javascript; charset=utf-8"),
        None => typed(frames, "application/json"),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_wrapped_in_a_function_that_has_a_name() {
        for (callback, expected) in [
            (None, "[]"),
            (Some("a.b_$1"), "a.b_$1([])"),
            (Some(""), "[]"),
            (Some("alert(1)//"), "[]"),
            (Some("é"), "[]"),
        ] {
            let text = super::super::tests::text(response("[]".to_owned(), callback)).await;
            assert_eq!(text, expected, "{callback:?}");
        }
    }
}
