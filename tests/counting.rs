//! What a delivery and an idle client cost, counted: allocations, bytes and writes, which unlike seconds are the same
//! on every machine. Who makes one of these numbers smaller writes the smaller one down here.

#![expect(clippy::unwrap_used, reason = "this is how a test fails")]

use std::{
    alloc::System,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use high_templar::{
    config::{self, Listen},
    hub::{Outbox, Pace, Tally},
    room::RoomKey,
    server::Server,
};
use parking_lot::Mutex;
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use tokio_util::sync::CancellationToken;

#[path = "../benches/support/mod.rs"]
mod support;

use support::World;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts for the whole process, so one test at a time.
static ALONE: Mutex<()> = parking_lot::const_mutex(());

/// What `work` allocates.
fn counted(work: impl FnOnce()) -> Stats {
    let region = Region::new(ALLOCATOR);
    work();
    region.change()
}

/// Publishes to `room` `count` times at `pace`, then flushes.
fn publish(world: &World, room: &RoomKey, count: usize, pace: Pace) {
    let publication = support::publication(128);
    let mut tally = Tally::default();
    for _ in 0..count {
        world.hub.audience(std::slice::from_ref(room)).publish(&publication, pace, &mut tally);
    }
    Outbox::flush_all(tally.settle(&world.metrics).iter().map(Arc::as_ref));
}

fn take_writes(world: &World) -> u64 {
    world.sink.0.swap(0, Ordering::Relaxed)
}

#[test]
fn a_publication_to_a_thousand_idle_clients_is_a_write_each_and_allocates_nothing_for_any_of_them() {
    let _alone = ALONE.lock();
    let (world, room) = (World::with_members(1000), support::key(&support::room(0)));
    publish(&world, &room, 1, Pace::AtOnce); // buffers that are kept
    take_writes(&world);
    let stats = counted(|| publish(&world, &room, 1, Pace::AtOnce));
    assert_eq!(take_writes(&world), 1000);
    assert!(stats.allocations <= 4, "{stats:?}"); // the publication and its text
}

#[test]
fn publications_of_one_batch_are_one_write_for_each_client() {
    let _alone = ALONE.lock();
    let (world, room) = (World::with_members(1000), support::key(&support::room(0)));
    publish(&world, &room, 16, Pace::Later);
    take_writes(&world);
    let stats = counted(|| publish(&world, &room, 16, Pace::Later));
    assert_eq!(take_writes(&world), 1000);
    // A queue of 16 frames grows three times.
    assert!(stats.allocations + stats.reallocations <= 1000 * 3 + 20, "{stats:?}");
}

#[test]
fn a_trigger_to_one_client_takes_few_allocations_from_its_body_to_the_socket() {
    const TRIGGERS: usize = 1000;
    let _alone = ALONE.lock();
    let world = World::with_members(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let run = |count: usize| {
        let body = bytes::Bytes::from(json!({"rooms": [support::room(0)], "data": {"text": "hello"}}).to_string());
        runtime.block_on(world.pass_through(std::iter::repeat_n(&body, count)));
    };
    run(TRIGGERS);
    take_writes(&world);
    let stats = counted(|| run(TRIGGERS));
    let each = (stats.allocations + stats.reallocations) as f64 / TRIGGERS as f64;
    assert!(each <= 5.2, "{each} a trigger: {stats:?}");
}

/// A backend that allows everybody one room, without allocating for it.
fn backend() -> SocketAddr {
    const BODY: &str = r#"{"allowed_rooms":[{"target":"message"}]}"#;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let mut request = [0; 4096];
                while stream.read(&mut request).is_ok_and(|count| count > 0) {
                    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
                    stream.write_all(format!("{head}{}\r\n\r\n{BODY}", BODY.len()).as_bytes()).unwrap();
                }
            });
        }
    });
    address
}

/// A client that is subscribed to `{"target":"message"}`.
fn client(address: SocketAddr) -> TcpStream {
    const SUBSCRIBE: &[u8] = br#"{"type":"subscribe","requestId":"1","room":{"target":"message"}}"#;
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
        .write_all(
            b"GET /ws/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .unwrap();
    until(&mut stream, b"is_authorized\":true");
    // With a mask of zeros the payload stays as it is (RFC 6455 section 5.3).
    let head = [0x81, 0x80 | u8::try_from(SUBSCRIBE.len()).unwrap(), 0, 0, 0, 0];
    stream.write_all(&[&head[..], SUBSCRIBE].concat()).unwrap();
    until(&mut stream, b"success");
    stream
}

/// Reads until `wanted` has come.
fn until(stream: &mut TcpStream, wanted: &[u8]) {
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    while !received.windows(wanted.len()).any(|window| window == wanted) {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "the server has ended the connection");
        received.extend_from_slice(&piece[..count]);
    }
}

/// Publishes 16 KiB to all `clients`, and waits until they have it.
fn broadcast(internal: SocketAddr, clients: &mut [TcpStream]) {
    let data = "x".repeat(16 * 1024);
    let body = format!(r#"{{"rooms":[{{"target":"message"}}],"data":"{data}"}}"#);
    let mut publisher = TcpStream::connect(internal).unwrap();
    let head = format!("POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    publisher.write_all(head.as_bytes()).unwrap();
    publisher.write_all(body.as_bytes()).unwrap();
    until(&mut publisher, b"success");
    clients.iter_mut().for_each(|client| until(client, br#","requestId":"1"}"#));
}

/// Bytes in use, once they no longer change.
fn settled(region: &Region<'_, System>) -> isize {
    let in_use = || {
        let stats = region.change();
        stats.bytes_allocated as isize - stats.bytes_deallocated as isize
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut last = in_use();
    loop {
        thread::sleep(Duration::from_millis(100));
        let now = in_use();
        if now == last || Instant::now() > deadline {
            return now;
        }
        last = now;
    }
}

#[test]
fn an_idle_client_takes_little_memory_and_no_more_after_a_large_broadcast() {
    const CLIENTS: usize = 500;
    /// The budget is 3 KB with what the allocator adds.
    const EACH: isize = 2390;
    /// The second broadcast, once, for clients that come back.
    const KEPT: isize = 18 * 1024;
    let _alone = ALONE.lock();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let vars = [("API_URL", format!("http://{}/", backend())), ("LISTEN", "127.0.0.1:0".into())];
    let vars = vars.into_iter().chain([("INTERNAL_LISTEN", "127.0.0.1:0".to_owned())]);
    let config = config::from_vars(vars.map(|(name, value)| (name.to_owned(), value))).unwrap();
    let server = runtime.block_on(Server::bind(config)).unwrap();
    let (Listen::Tcp(public), Listen::Tcp(internal)) =
        (server.public_address().unwrap(), server.internal_address().unwrap())
    else {
        unreachable!("both were asked to be TCP")
    };
    let stop = CancellationToken::new();
    let running = runtime.spawn(server.run(stop.clone()));
    // What is made once for all, tables that have room for some more included.
    let mut clients: Vec<TcpStream> = (0..100).map(|_| client(public)).collect();
    clients.reserve(CLIENTS);
    broadcast(internal, &mut clients);
    let region = Region::new(ALLOCATOR);
    let before = settled(&region);
    clients.extend((0..CLIENTS).map(|_| client(public)));
    let idle = settled(&region) - before;
    let each = idle / CLIENTS as isize;
    assert!(each <= EACH, "{each} bytes for an idle client");

    broadcast(internal, &mut clients);
    let after = settled(&region) - before - KEPT;
    assert!(after <= idle + CLIENTS as isize * 16, "{idle} bytes before the broadcast, {after} after it");

    drop(clients);
    let gone = settled(&region) - before - KEPT;
    assert!(gone <= 0, "{gone} bytes are left of {CLIENTS} clients that are gone");
    stop.cancel();
    runtime.block_on(running).unwrap().unwrap();
}
