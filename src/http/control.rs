//! `POST /control/`: has every instance ask again for some connections, end them, or take them out of a room.

use http::StatusCode;
use warp::{Filter, Rejection, reply::Response};

use super::{
    body::{self, Unread},
    refusals, reply,
};
use crate::{
    broker::{Kind, Publisher},
    logging::{chain, limited},
    protocol::control::{Control, Error},
    room::Rules,
};

/// The largest control message.
const LIMIT_BYTES: usize = 64 << 10;
/// What a control message looks like, for whoever got it wrong.
const SHAPE: &str = r#"a control message is {"action":"reauthorize"|"unsubscribe"|"disconnect"|"forget"} with user, connection, room, or "all":true"#;

pub(super) fn route(
    publisher: Publisher,
    rules: Rules,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path("control").and(warp::path::end()).and(warp::post()).and(warp::body::stream()).then(move |body| {
        let publisher = publisher.clone();
        async move {
            let body = match body::read(body, LIMIT_BYTES, |_| true).await {
                Ok(body) => body,
                Err(Unread::TooLarge) => {
                    let detail = format!("a control message may have up to {LIMIT_BYTES} bytes");
                    return reply::error(StatusCode::PAYLOAD_TOO_LARGE, "too-large", &detail);
                }
                Err(Unread::Incomplete | Unread::Busy) => {
                    let detail = format!("the body did not arrive whole within {:?}", body::DEADLINE);
                    return reply::error(StatusCode::REQUEST_TIMEOUT, "incomplete", &detail);
                }
            };
            if let Err(error) = Control::parse(&body, rules) {
                return misunderstood(&error);
            }
            match publisher.publish(Kind::Control, body).await {
                Ok(()) => reply::success(),
                Err(error) => {
                    limited!(warn, "control message not accepted by the broker", error = chain(&error));
                    refusals::unlogged(reply::try_later("the broker did not confirm the control message"))
                }
            }
        }
    })
}

fn misunderstood(error: &Error) -> Response {
    let wrong = chain(error);
    let response = reply::error(StatusCode::BAD_REQUEST, error.word(), &format!("{wrong}; {SHAPE}"));
    refusals::logged_as(response, error.kind(), &wrong)
}
