//! `/status`: the state and the numbers of this instance, for the [page](super::page) and whoever else asks.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};
use warp::{Filter, Rejection, reply::Response};

use super::{admin::Readiness, methods::get, reply};
use crate::{
    broker::{Publishing, State},
    connection::Connections,
    metrics::Metrics,
    protocol::server,
};

pub(super) fn route(
    readiness: Readiness,
    connections: Arc<Connections>,
    speaks_channelstream: bool,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let outbox_limit_bytes = connections.config.outbox_limit_bytes;
    warp::path!("status").and(get()).map(move || {
        let metrics = readiness.metrics();
        let channelstream = speaks_channelstream.then(|| channelstream(metrics));
        reply::json(
            StatusCode::OK,
            &json!({
                "version": env!("CARGO_PKG_VERSION"),
                "uptime": metrics.uptime().as_secs(),
                "ready": readiness.obstacle().is_none(),
                "message": readiness.obstacle(),
                "broker": broker(&readiness),
                "dispatch": dispatch(metrics),
                "subscriptions": metrics.subscriptions.get(),
                "connections": {
                    "opened": metrics.connections_opened.get(),
                    "closed": metrics.connections_closed.counts(),
                    "refused": metrics.connections_refused.counts(),
                    "outbox_limit": outbox_limit_bytes,
                },
                "api": api(metrics),
                "channelstream": channelstream,
                "clients": server::Status::now(metrics),
            }),
        )
    })
}

fn broker(readiness: &Readiness) -> Value {
    let metrics = readiness.metrics();
    json!({
        "kind": readiness.broker(),
        "log": readiness.log(),
        "consuming": readiness.state() == State::Current,
        "state": match readiness.state() {
            State::Behind(_) => "behind",
            State::Current => "current",
            State::Away => "away",
        },
        "publishing": match readiness.publishing() {
            Publishing::Open => "open",
            Publishing::Blocked => "blocked",
            Publishing::Away(_) => "away",
        },
        "detail": match readiness.publishing() {
            Publishing::Away(reason) => reason,
            Publishing::Open | Publishing::Blocked => None,
        },
        "failures": metrics.broker_failures.get(),
        "gaps": metrics.gaps.get(),
        "history_bytes": metrics.history_bytes.get(),
    })
}

fn dispatch(metrics: &Metrics) -> Value {
    let progress = metrics.dispatch_busy_seconds.progress();
    json!({
        "in_hand": progress.in_hand,
        "age": progress.age.as_secs_f64(),
        "since_last": progress.since_last.map(|since| since.as_secs_f64()),
        "batches": metrics.dispatch_batches.get(),
        "busy_seconds": progress.busy.as_secs_f64(),
        "dropped": metrics.triggers_dropped.counts(),
        "repeated": metrics.triggers_repeated.get(),
    })
}

fn api(metrics: &Metrics) -> Value {
    json!({
        "calls": metrics.api_calls.get(),
        "waiting": metrics.api_waiting.get(),
        "paused": metrics.api_paused.get() > 0,
        "pauses": metrics.api_pauses.get(),
        "bootstraps": metrics.bootstraps.counts(),
        "bootstraps_shared": metrics.bootstraps_shared.get(),
        "bootstraps_cached": metrics.bootstraps_cached.get(),
        "hooks": metrics.hooks.counts(),
        "hooks_given_up": metrics.hooks_given_up.get(),
    })
}

fn channelstream(metrics: &Metrics) -> Value {
    json!({
        "users": metrics.channelstream_users.get(),
        "connections": metrics.channelstream_connections.get(),
        "channels": metrics.channelstream_channels.get(),
    })
}
