//! From a trigger's room to the rooms that are subscribed to, and from a wanted room to whether it is allowed.

#![allow(missing_docs, clippy::expect_used, reason = "a benchmark")]

mod support;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use high_templar::room::{Allowed, RoomKey};
use serde_json::json;
use support::{World, key, room, sized, sizes};

fn audience(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("audience");
    for rooms in sizes([1, 1000, 1_000_000]) {
        let mut world = World::with_rooms(rooms);
        let plain = [key(&room(rooms / 2))];
        group.bench_function(format!("plain, {rooms} rooms"), |bencher| {
            bencher.iter(|| world.hub.audience(black_box(&plain)));
        });
        for wildcards in [json!({"target": "*", "customer": "x"}), json!({"target": "x", "customer": "*"})] {
            world.join(&wildcards);
        }
        group.bench_function(format!("subscriptions with 2 combinations of wildcards, {rooms} rooms"), |bencher| {
            bencher.iter(|| world.hub.audience(black_box(&plain)));
        });
        let wildcard = [key(&json!({"target": "*", "customer": (rooms / 2).to_string()}))];
        group.bench_function(format!("trigger with a wildcard, {rooms} rooms"), |bencher| {
            bencher.iter(|| world.hub.audience(black_box(&wildcard)));
        });
    }
    group.finish();
}

fn membership(criterion: &mut Criterion) {
    let mut world = World::with_rooms(sized(1_000_000));
    let key = key(&json!({"target": "message", "customer": "another"}));
    criterion.bench_function("join and leave a room of one's own, 1000000 rooms", |bencher| {
        bencher.iter(|| world.join_and_leave(black_box(&key)));
    });
}

fn allowed(criterion: &mut Criterion) {
    let rooms: Vec<RoomKey> = (0..sized(10_000)).map(|number| key(&room(number))).collect();
    let allowed: Allowed = rooms.iter().collect();
    let (wanted, other) = (key(&room(rooms.len() / 2)), key(&room(rooms.len())));
    criterion.bench_function("allowed, of 10000 rooms", |bencher| {
        bencher.iter(|| black_box(&allowed).covers(&wanted) && !allowed.covers(&other));
    });
}

criterion_group!(benches, audience, membership, allowed);
criterion_main!(benches);
