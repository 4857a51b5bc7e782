//! `GET /position`: where the log is, for a page that embeds a snapshot and subscribes `since` it.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;
use warp::{Filter, Rejection, reply::Response};

use super::{methods::get, reply};
use crate::hub::Hub;

pub(super) fn route(hub: Arc<Hub>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path!("position").and(get()).map(move || {
        let position = hub.position().map(|position| position.to_string());
        reply::json(StatusCode::OK, &json!({"position": position}))
    })
}
