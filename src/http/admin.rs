//! Health, readiness and metrics endpoints of the internal listener.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;
use tokio::sync::watch;
use warp::{Filter, Rejection, Reply, reply::Response};

use super::{accept::preference, methods::get, reply};
use crate::{
    broker::{Consumer, Publishing, State},
    metrics::{Metrics, TextFormat},
};

/// The paths of the internal listener, for machines.
const OPENAPI: &str = include_str!("openapi.json");

/// Whether this instance should be sent clients.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: watch::Receiver<State>,
    publishing: watch::Receiver<Publishing>,
    log: watch::Receiver<Option<bool>>,
    is_stopping: Arc<AtomicBool>,
    /// `rabbitmq` or `embedded`.
    broker: &'static str,
    metrics: Arc<Metrics>,
}

impl Readiness {
    /// Ready as long as `consumer` is current and nobody has called [`stop`](Self::stop).
    pub fn new(consumer: &Consumer, broker: &'static str, metrics: Arc<Metrics>) -> Self {
        let (state, publishing) = (consumer.state(), consumer.publishing());
        Self { state, publishing, log: consumer.log(), is_stopping: Arc::default(), broker, metrics }
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

    /// Whether this instance follows a log, once that is known.
    pub(super) fn log(&self) -> Option<bool> {
        *self.log.borrow()
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
    let alive = warp::path!("healthz").and(get()).map(|| reply::json(StatusCode::OK, &json!({"alive": true})));
    let ready = warp::path!("readyz").and(get()).map(move || match readiness.obstacle() {
        None => reply::json(StatusCode::OK, &json!({"ready": true})),
        Some(obstacle) => reply::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"ready": false, "message": obstacle})),
    });
    alive.or(ready).unify()
}

/// `/metrics` and `/openapi.json`.
pub(super) fn routes(numbers: Arc<Metrics>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let metrics = warp::path!("metrics").and(get()).and(warp::header::headers_cloned());
    let metrics = metrics.map(move |headers: HeaderMap| {
        let format = text_format(&headers);
        let Ok(text) = numbers.text_in(format) else {
            let detail = "the numbers could not be written";
            return reply::error(StatusCode::INTERNAL_SERVER_ERROR, "no-metrics", detail);
        };
        reply::with_headers(typed(text, format.content_type()), &[(header::VARY, "Accept")])
    });
    let openapi = warp::path!("openapi.json").and(get()).map(|| typed(OPENAPI, "application/json"));
    metrics.or(openapi).unify()
}

/// The format that a scraper prefers. Without a preference it is the older one, as with every Prometheus client library: whoever
/// reads OpenMetrics asks for it.
fn text_format(headers: &HeaderMap) -> TextFormat {
    let openmetrics = preference(headers, "application", "openmetrics-text");
    if openmetrics > preference(headers, "text", "plain") { TextFormat::OpenMetrics } else { TextFormat::Prometheus }
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
    fn numbers_are_written_in_the_format_that_is_asked_for() {
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                            application/openmetrics-text;version=0.0.1;q=0.5,\
                            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            (None, TextFormat::Prometheus),
            (Some(""), TextFormat::Prometheus),
            (Some("*/*"), TextFormat::Prometheus),
            (Some("text/plain"), TextFormat::Prometheus),
            (Some("text/*"), TextFormat::Prometheus),
            (Some("text/plain;version=0.0.4"), TextFormat::Prometheus),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), TextFormat::Prometheus),
            (Some("application/json"), TextFormat::Prometheus),
            (Some("application/openmetrics-text"), TextFormat::OpenMetrics),
            (Some("Application/OpenMetrics-Text; version=1.0.0; charset=utf-8"), TextFormat::OpenMetrics),
            (Some("application/openmetrics-text;q=0.5, text/plain;q=0.2"), TextFormat::OpenMetrics),
            (Some("application/openmetrics-text;q=0.2, text/plain;q=0.5"), TextFormat::Prometheus),
            (Some("application/openmetrics-text;q=0, */*"), TextFormat::Prometheus),
            (Some("text/plain;q=0, */*"), TextFormat::OpenMetrics),
            (Some(prometheus_3), TextFormat::OpenMetrics),
        ] {
            let headers = accept.map(|accept| (header::ACCEPT, HeaderValue::from_static(accept)));
            assert_eq!(text_format(&headers.into_iter().collect()), expected, "{accept:?}");
        }
    }

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
