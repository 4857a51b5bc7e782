//! What operators and their machines ask: is it alive, is it ready, what are its numbers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use tokio::sync::watch;
use warp::{Filter, Rejection, Reply, reply::Response};

use super::reply;
use crate::{
    broker::{Consumer, Publishing, State},
    metrics::Metrics,
};

/// The paths of the internal listener, for machines.
const OPENAPI: &str = include_str!("openapi.json");

/// Whether this instance should be sent clients.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: watch::Receiver<State>,
    publishing: watch::Receiver<Publishing>,
    is_stopping: Arc<AtomicBool>,
    /// `rabbitmq` or `embedded`.
    broker: &'static str,
    metrics: Arc<Metrics>,
}

impl Readiness {
    /// Ready as long as `consumer` is current and nobody has called [`stop`](Self::stop).
    pub fn new(consumer: &Consumer, broker: &'static str, metrics: Arc<Metrics>) -> Self {
        let (state, publishing) = (consumer.state(), consumer.publishing());
        Self { state, publishing, is_stopping: Arc::default(), broker, metrics }
    }

    /// Not ready from now on.
    pub fn stop(&self) {
        self.is_stopping.store(true, Relaxed);
    }

    /// All numbers.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// `rabbitmq` or `embedded`.
    pub(super) fn broker(&self) -> &'static str {
        self.broker
    }

    /// How far the consumer is.
    pub(super) fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Why this instance should not be sent clients.
    pub(super) fn obstacle(&self) -> Option<&'static str> {
        if self.is_stopping.load(Relaxed) {
            return Some("stopping");
        }
        match (self.state(), self.publishing()) {
            (State::Current, _) => None,
            (State::Away, _) => Some("broker-away"),
            (State::Behind(_), Publishing::Away(_)) => Some("cannot-publish"),
            (State::Behind(_), Publishing::Open | Publishing::Blocked) => Some("reading-log"),
        }
    }

    /// Whether the broker takes what is published.
    pub(super) fn publishing(&self) -> Publishing {
        self.publishing.borrow().clone()
    }
}

/// `/healthz` and `/readyz`, which need no token: they tell nothing but yes or no.
pub(super) fn health(readiness: Readiness) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let looks = || warp::get().or(warp::head()).unify();
    let alive = warp::path!("healthz").and(looks()).map(|| reply::json(StatusCode::OK, &json!({"alive": true})));
    let ready = warp::path!("readyz").and(looks()).map(move || match readiness.obstacle() {
        None => reply::json(StatusCode::OK, &json!({"ready": true})),
        Some(obstacle) => reply::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"ready": false, "message": obstacle})),
    });
    alive.or(ready).unify()
}

/// `/metrics` and `/openapi.json`.
pub(super) fn routes(metrics: Arc<Metrics>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let metrics = warp::path!("metrics").and(warp::get()).map(move || match metrics.text() {
        Ok(text) => typed(text, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        Err(_) => reply::error(StatusCode::INTERNAL_SERVER_ERROR, "no-metrics", "the numbers could not be written"),
    });
    let openapi = warp::path!("openapi.json").and(warp::get()).map(|| typed(OPENAPI, "application/json"));
    metrics.or(openapi).unify()
}

/// `body` of this type.
pub(super) fn typed(body: impl Reply, content_type: &'static str) -> Response {
    let mut response = body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_openapi_document_names_the_routes_there_are() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let paths: Vec<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let routes = [
            "/",
            "/connections",
            "/control/",
            "/explain",
            "/healthz",
            "/metrics",
            "/openapi.json",
            "/page/{file}",
            "/position",
            "/readyz",
            "/rooms",
            "/status",
            "/trigger/",
        ];
        assert_eq!(paths, routes);
        assert!(paths.iter().all(|path| super::super::is_own(path.trim_matches('/'))), "{paths:?}");
        assert_eq!(super::super::OWN_PATHS.len() + 1, paths.len()); // and the page's files
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
