//! The cost of resuming a subscription, by the number of kept publications that are for other rooms.

#![allow(missing_docs, clippy::expect_used, clippy::panic, reason = "a benchmark")]

mod support;

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use high_templar::{
    config,
    hub::{Budget, Hub, Outbox, Publication, Resumption, Step, WildcardDispatch},
    metrics::Metrics,
    protocol::Position,
};
use serde_json::json;
use support::{World, key, request_id, sizes};

/// A hub that keeps `publications`, each to a room of its own, and the position before the first.
fn kept(publications: usize) -> (Hub, Position) {
    let history = config::History { limit_bytes: 512 << 20, ..config::History::default() };
    let hub = Hub::new(WildcardDispatch::Both, history, Arc::new(Metrics::default()));
    let start: Position = "00000000000e:0".parse().expect("a position");
    hub.begin_epoch(start.epoch, start.offset);
    for number in 1..=publications {
        let rooms = vec![key(&json!({"customer": number, "topic": number % 7, "kind": "a"}))];
        hub.record(Publication::new(rooms, "{}".into(), Vec::new()), Some(number as u64));
    }
    (hub, start)
}

/// Has a subscription catch up, and takes it out again.
fn catch_up(hub: &Hub, room: &serde_json::Value, since: Position, outbox: &Arc<Outbox>) {
    let room = Arc::new(key(room));
    let Resumption::Possible(mut recovery) = hub.resume(&room, &request_id(), since) else {
        panic!("the position is kept")
    };
    loop {
        match hub.recover(&mut recovery, outbox, 1 << 20, &mut Budget::new(u64::MAX)).expect("an open outbox") {
            Step::Joined(seat) | Step::Lost(seat) => return hub.leave([seat], || {}),
            Step::More | Step::Full => outbox.flush(),
        }
    }
}

fn recovery(criterion: &mut Criterion) {
    let outbox: Arc<Outbox> = World::new().outbox();
    let mut group = criterion.benchmark_group("a room with wildcards since the oldest position");
    for publications in sizes([1000, 10_000, 100_000]) {
        let (hub, since) = kept(publications);
        for (what, room) in [
            ("nothing", json!({"customer": "*", "topic": "nothing", "kind": "*"})),
            ("one", json!({"customer": publications / 2, "topic": "*", "kind": "*"})),
        ] {
            group.bench_function(format!("{what} of {publications}"), |bencher| {
                bencher.iter(|| catch_up(&hub, black_box(&room), since, &outbox));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, recovery);
criterion_main!(benches);
