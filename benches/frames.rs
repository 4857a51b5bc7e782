//! WebSocket frames: reading a client's, writing ours.

#![allow(missing_docs, clippy::expect_used, reason = "a benchmark")]

mod support;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use high_templar::{hub::Frame, transport::websocket::frame::Reader};
use support::{World, request_id};

const SIZES: [usize; 4] = [64, 1024, 16 * 1024, 64 * 1024];

/// A client's text frame (RFC 6455 section 5.2).
fn masked(payload: &[u8]) -> Vec<u8> {
    let key = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![0x81];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | u8::try_from(len).expect("a short length")),
        len @ 126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(len).expect("a middle length").to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    for size in SIZES {
        let bytes = masked("x".repeat(size).as_bytes());
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            let mut reader = Reader::new(1 << 20, &[]);
            bencher.iter(|| {
                reader.buffer().extend_from_slice(black_box(&bytes));
                assert!(reader.next_event().expect("a frame").is_some());
                assert!(reader.next_event().expect("no frame").is_none());
            });
        });
    }
    group.finish();
}

fn write(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("write a publication");
    let outbox = World::new().outbox();
    for size in SIZES {
        let publication = support::publication(size);
        let id = request_id();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                outbox.push(Frame::Publication(black_box(&publication).clone(), id.clone())).expect("a place");
                outbox.flush();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, read, write);
criterion_main!(benches);
