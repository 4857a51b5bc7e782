//! From the body of a trigger to the sockets, without the sockets.

#![allow(missing_docs, clippy::expect_used, reason = "a benchmark")]

mod support;

use std::{hint::black_box, sync::Arc, time::Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use high_templar::{
    hub::{Outbox, Pace, Tally},
    protocol::trigger::Trigger,
};
use serde_json::{Value, json};
use support::{World, room, sizes};
use tokio::runtime::Builder;

fn body(room: &Value) -> Bytes {
    json!({"rooms": [room], "data": "x".repeat(100)}).to_string().into()
}

fn parse(criterion: &mut Criterion) {
    let body = body(&room(7));
    criterion.bench_function("parse a trigger", |bencher| {
        bencher.iter(|| {
            let trigger = Trigger::parse(black_box(&body), support::NUMBERS).expect("a trigger");
            (trigger.rooms.len(), trigger.data.get().len())
        });
    });
}

fn fan_out(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan out");
    for members in sizes([1, 1000, 10_000]) {
        let world = World::with_members(members);
        let rooms = [support::key(&room(0))];
        let publication = support::publication(128);
        group.throughput(Throughput::Elements(members as u64));
        for pace in [Pace::AtOnce, Pace::Later] {
            group.bench_function(BenchmarkId::new(format!("{pace:?}"), members), |bencher| {
                bencher.iter(|| {
                    let mut tally = Tally::default();
                    world.hub.audience(black_box(&rooms)).publish(&publication, pace, &mut tally);
                    Outbox::flush_all(tally.settle(&world.metrics).iter().map(Arc::as_ref));
                });
            });
        }
    }
    group.finish();
}

/// Triggers for rooms with one member, published as fast as the embedded broker takes them, all on one core.
fn through_the_embedded_broker(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut group = criterion.benchmark_group("through the embedded broker");
    group.throughput(Throughput::Elements(1));
    for rooms in sizes([1, 1000, 1_000_000]) {
        let mut world = World::with_rooms(rooms);
        world.join(&json!({"target": "*", "customer": "x"}));
        let bodies: Vec<Bytes> = (0..rooms.min(1000)).map(|n| body(&room(n * (rooms / rooms.min(1000))))).collect();
        group.bench_function(format!("one member, {rooms} rooms"), |bencher| {
            bencher.iter_custom(|count| {
                let bodies = bodies.iter().cycle().take(usize::try_from(count).expect("a count"));
                let before = world.metrics.publications_sent.get();
                let start = Instant::now();
                runtime.block_on(world.pass_through(bodies));
                assert_eq!(world.metrics.publications_sent.get() - before, count);
                start.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parse, fan_out, through_the_embedded_broker);
criterion_main!(benches);
