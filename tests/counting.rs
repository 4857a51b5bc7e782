//! What a delivery and an idle client cost, counted: allocations, bytes and writes, which unlike seconds are the same
//! on every machine. Who makes one of these numbers smaller writes the smaller one down here.

#![expect(clippy::unwrap_used, reason = "this is how a test fails")]

use std::{
    alloc::System,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use high_templar::{
    config::{self, Listen},
    hub::{Budget, Hub, Outbox, Pace, Publication, Resumption, Step, Tally, WildcardDispatch},
    metrics::Metrics,
    protocol::Position,
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

/// What `work` allocates at least, of a few times: beside it, the test harness begins and ends other tests.
fn least(mut work: impl FnMut()) -> Stats {
    (0..5).map(|_| counted(&mut work)).min_by_key(|stats| stats.allocations).unwrap()
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
    let stats = least(|| publish(&world, &room, 1, Pace::AtOnce));
    assert_eq!(take_writes(&world), 5 * 1000);
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

/// A backend that allows everybody `rooms`, a JSON list, without allocating for it.
fn backend(rooms: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let mut request = [0; 4096];
                while stream.read(&mut request).is_ok_and(|count| count > 0) {
                    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
                    let body = format!(r#"{{"allowed_rooms":{rooms}}}"#);
                    stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
                }
            });
        }
    });
    address
}

/// A client that is connected, with these headers beside the needed ones.
fn connected(address: SocketAddr, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let handshake = "GET /ws/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    stream.write_all(format!("{handshake}{headers}\r\n").as_bytes()).unwrap();
    until(&mut stream, b"is_authorized\":true");
    stream
}

/// A client that is subscribed to `{"target":"message"}`, in 3.1's protocol.
fn client(address: SocketAddr) -> TcpStream {
    subscribed(address, "")
}

/// The same in version 4.
fn client_v4(address: SocketAddr) -> TcpStream {
    subscribed(address, V4)
}

fn subscribed(address: SocketAddr, headers: &str) -> TcpStream {
    let mut stream = connected(address, headers);
    send(&mut stream, r#"{"type":"subscribe","requestId":"1","room":{"target":"message"}}"#);
    until(&mut stream, b"success");
    stream
}

/// Sends `text` as one message.
fn send(stream: &mut TcpStream, text: &str) {
    let mut frame = vec![0x81];
    match text.len() {
        len @ 0..=125 => frame.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..=0xFFFF => {
            frame.push(0xFE);
            frame.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            frame.push(0xFF);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]); // with a mask of zeros the payload stays as it is (RFC 6455 section 5.3)
    frame.extend_from_slice(text.as_bytes());
    stream.write_all(&frame).unwrap();
}

/// Reads until `wanted` has come, and what has come with it.
fn until(stream: &mut TcpStream, wanted: &[u8]) -> String {
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    while !received.windows(wanted.len()).any(|window| window == wanted) {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "the server has ended the connection");
        received.extend_from_slice(&piece[..count]);
    }
    String::from_utf8_lossy(&received).into_owned()
}

/// A client that listens to the same room by server-sent events.
fn event_stream(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let request = "GET /sse/?room=%7B%22target%22:%22message%22%7D HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    until(&mut stream, b"success");
    stream
}

/// Publishes 16 KiB to all `clients`, and waits until they have it, of which the frame ends with `end`.
fn broadcast(internal: SocketAddr, clients: &mut [TcpStream], end: &[u8]) {
    let data = "x".repeat(16 * 1024);
    let body = format!(r#"{{"rooms":[{{"target":"message"}}],"data":"{data}"}}"#);
    let mut publisher = TcpStream::connect(internal).unwrap();
    let head = format!("POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    publisher.write_all(head.as_bytes()).unwrap();
    publisher.write_all(body.as_bytes()).unwrap();
    until(&mut publisher, b"success");
    for client in clients {
        until(client, end);
    }
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

/// Asserts that an idle one of the clients that `connect` makes takes up to `most` bytes, and no more after a large broadcast.
fn assert_idle(connect: fn(SocketAddr) -> TcpStream, end: &[u8], most: isize) {
    const CLIENTS: usize = 500;
    /// The second broadcast, once, for clients that reconnect.
    const KEPT: isize = 18 * 1024;
    let _alone = ALONE.lock();
    let server = Running::start(r#"[{"target":"message"}]"#, &[]);
    let (public, internal) = (server.public, server.internal);
    // What is made once for all, tables that have room for some more included.
    let mut clients: Vec<TcpStream> = (0..100).map(|_| connect(public)).collect();
    clients.reserve(CLIENTS);
    broadcast(internal, &mut clients, end);
    let region = Region::new(ALLOCATOR);
    let before = settled(&region);
    clients.extend((0..CLIENTS).map(|_| connect(public)));
    let idle = settled(&region) - before;
    let each = idle / CLIENTS as isize;
    assert!(each <= most, "{each} bytes for an idle client");

    broadcast(internal, &mut clients, end);
    let after = settled(&region) - before - KEPT;
    assert!(after <= idle + CLIENTS as isize * 16, "{idle} bytes before the broadcast, {after} after it");

    drop(clients);
    let gone = settled(&region) - before - KEPT;
    assert!(gone <= 0, "{gone} bytes are left of {CLIENTS} clients that are gone");
    server.stop();
}

#[test]
fn an_idle_client_takes_little_memory_and_no_more_after_a_large_broadcast() {
    // The budget is 3 KB with what the allocator adds.
    assert_idle(client, br#","requestId":"1"}"#, 2390);
}

#[test]
fn an_idle_client_of_version_4_takes_little_memory_and_no_more_after_a_large_broadcast() {
    assert_idle(client_v4, b"\"}", 2700);
}

#[test]
fn an_idle_event_stream_takes_little_memory_and_no_more_after_a_large_broadcast() {
    // The budget is 4 KB with what the allocator adds.
    assert_idle(event_stream, b"\"}\n\n", 2700);
}

#[test]
fn an_event_allocates_nothing_for_any_of_the_streams() {
    const CLIENTS: usize = 400;
    let _alone = ALONE.lock();
    let server = Running::start(r#"[{"target":"message"}]"#, &[]);
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| event_stream(server.public)).collect();
    let mut publisher = TcpStream::connect(server.internal).unwrap();
    let body = r#"{"rooms":[{"target":"message"}],"data":"hello"}"#;
    let request = format!("POST /trigger/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut publish = || {
        let mut piece = [0; 1024];
        publisher.write_all(request.as_bytes()).unwrap();
        let _ = publisher.read(&mut piece).unwrap();
        for client in &mut clients {
            let count = client.read(&mut piece).unwrap();
            let event = &piece[..count];
            assert!(event.ends_with(b"\"}\n\n\r\n"), "in one piece: {}", String::from_utf8_lossy(event));
        }
    };
    publish();
    let stats = counted(publish);
    assert!(stats.allocations < CLIENTS / 4, "{stats:?}");
    server.stop();
}

#[test]
fn what_is_kept_for_clients_that_come_back_takes_no_more_than_is_counted_their_index_included() {
    const LIMIT: usize = 8 << 20;
    let _alone = ALONE.lock();
    for keys in [1, 3, 12] {
        let metrics = Arc::new(Metrics::default());
        let outbox: Arc<Outbox> = World::new().outbox();
        let region = Region::new(ALLOCATOR);
        let history = config::History { limit_bytes: LIMIT, ..config::History::default() };
        let hub = Hub::new(WildcardDispatch::Both, history, metrics.clone());
        let start: Position = "00000000000e:0".parse().unwrap();
        hub.begin_epoch(start.epoch, start.offset);
        let room = |number: u64| -> serde_json::Value {
            let value = |key: u64| if key == 0 { json!(number) } else { json!(number % (key + 1)) };
            (0..keys).map(|key| (format!("key{key}"), value(key))).collect::<serde_json::Map<_, _>>().into()
        };
        for number in 1..=30_000 {
            let body = bytes::Bytes::from(json!({"rooms": [room(number)], "data": "hello"}).to_string());
            let data = body.slice(body.len() - 8..body.len() - 1); // which keeps the whole body, as a trigger's does
            hub.record(Publication::new(vec![support::key(&room(number))], data, Vec::new()), Some(number));
        }
        let wanted: serde_json::Value =
            (0..keys).map(|key| (format!("key{key}"), json!("no"))).collect::<serde_json::Map<_, _>>().into();
        // From the oldest position that is known, through all that is kept.
        let since = (1..).find_map(|offset| {
            let since = Position { epoch: start.epoch, offset };
            match hub.resume(&Arc::new(support::key(&wanted)), &support::request_id(), since) {
                Resumption::Possible(recovery) => Some(recovery),
                _ => None,
            }
        });
        let step = hub.recover(&mut since.unwrap(), &outbox, 1 << 20, &mut Budget::new(u64::MAX)).unwrap();
        let Step::Joined(seat) = step else { panic!("{step:?}") };
        hub.leave([seat], || {});
        let stats = region.change();
        let (taken, counted) = (stats.bytes_allocated - stats.bytes_deallocated, metrics.history_bytes.get());
        eprintln!("{keys} keys: {taken} bytes are taken, {counted} counted");
        assert!(counted <= i64::try_from(LIMIT).unwrap() * 9 / 8, "{counted} bytes counted");
        assert!(i64::try_from(taken).unwrap() <= counted, "{taken} bytes are taken, {counted} counted");
    }
}

/// A whole server in this process.
struct Running {
    runtime: tokio::runtime::Runtime,
    public: SocketAddr,
    internal: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<high_templar::server::Report, high_templar::server::Error>>,
}

impl Running {
    fn start(rooms: &'static str, vars: &[(&str, &str)]) -> Self {
        Self::before(backend(rooms), vars)
    }

    /// One whose backend is at `address`.
    fn before(address: SocketAddr, vars: &[(&str, &str)]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let api = format!("http://{address}/");
        let own = [("API_URL", api.as_str()), ("LISTEN", "127.0.0.1:0"), ("INTERNAL_LISTEN", "127.0.0.1:0")];
        let vars = own.iter().chain(vars).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = config::from_vars(vars).unwrap();
        let server = runtime.block_on(Server::bind(config)).unwrap();
        let (Listen::Tcp(public), Listen::Tcp(internal)) =
            (server.public_address().unwrap(), server.internal_address().unwrap())
        else {
            unreachable!("both were asked to be TCP")
        };
        let stop = CancellationToken::new();
        let task = runtime.spawn(server.run(stop.clone()));
        Self { runtime, public, internal, stop, task }
    }

    fn stop(self) {
        self.stop.cancel();
        self.runtime.block_on(self.task).unwrap().unwrap();
    }
}

const V4: &str = "Sec-WebSocket-Protocol: high-templar.v4\r\n";

/// Bytes that one client can have the server keep, with a client that asks for `wanted`, a list of subscriptions for each number,
/// until it is refused.
fn kept(server: &Running, wanted: impl Fn(usize) -> String) -> (isize, usize) {
    let mut stream = connected(server.public, V4);
    let region = Region::new(ALLOCATOR);
    let before = settled(&region);
    let mut taken = 0;
    for number in 0.. {
        send(&mut stream, &wanted(number));
        let reply = until(&mut stream, b"\"type\":\"reply\"");
        if !reply.contains("\"success\"") {
            assert!(reply.contains("too-much-memory"), "{reply}");
            break;
        }
        taken += 1;
    }
    (settled(&region) - before, taken)
}

#[test]
fn a_client_has_the_server_keep_no_more_than_its_memory_whatever_it_asks_for() {
    const MEMORY: isize = 1088 << 10;
    let _alone = ALONE.lock();
    // The largest message is set apart from what subscriptions may take.
    let vars = [("CONNECTION_MEMORY", "1088KiB"), ("MESSAGE_LIMIT", "64KiB"), ("MAX_SUBSCRIPTIONS", "100000")];
    let server = Running::start(r#"[{"a":"*"},{"a":"*","b":"*","c":"*","d":"*"}]"#, &vars);
    let subscribe = |id: &str, room: &str| format!(r#"{{"type":"subscribe","requestId":"{id}","room":{room}}}"#);
    let long = "x".repeat(8000);
    let kinds: [(&str, &dyn Fn(usize) -> String); 5] = [
        ("small", &|n| subscribe(&n.to_string(), &format!(r#"{{"a":{n}}}"#))),
        ("many keys", &|n| subscribe(&n.to_string(), &format!(r#"{{"a":{n},"b":"*","c":3,"d":"*"}}"#))),
        ("long rooms", &|n| subscribe(&n.to_string(), &format!(r#"{{"a":"{n}{long}"}}"#))),
        ("long ids", &|n| subscribe(&format!("{n:0255}"), &format!(r#"{{"a":{n}}}"#))),
        ("escaped ids", &|n| subscribe(&format!("\\u0030{n:0240}"), &format!(r#"{{"a":{n}}}"#))),
    ];
    for (kind, wanted) in kinds {
        let (bytes, taken) = kept(&server, wanted);
        eprintln!("{kind}: {taken} subscriptions, {bytes} bytes, {} each", bytes / taken as isize);
        assert!(bytes <= MEMORY, "{kind}: {bytes} bytes for {taken} subscriptions");
        assert!(bytes >= MEMORY / 4, "{kind}: {bytes} bytes for {taken} subscriptions: too much is counted");
    }
    server.stop();
}

/// A client that announces a ticket and sends a megabyte is kept as little of as any other while the API is asked.
#[test]
fn a_first_message_that_is_no_ticket_is_not_kept_whole_while_the_api_is_asked() {
    const CLIENTS: usize = 20;
    const KEPT: isize = 200 << 10;
    let _alone = ALONE.lock();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap(); // takes connections, and never answers
    let server = Running::before(silent.local_addr().unwrap(), &[("RESUME_SECRET", "0123456789abcdef")]);
    let payload = format!(r#"{{"type":"{}"}}"#, "x".repeat(1_000_000));
    let head = [&[0x81, 0xFF][..], &(payload.len() as u64).to_be_bytes(), &[0; 4]].concat();
    let message: Arc<[u8]> = [head.as_slice(), payload.as_bytes()].concat().into();
    let region = Region::new(ALLOCATOR);
    let before = settled(&region);
    let connect = || {
        let mut stream = TcpStream::connect(server.public).unwrap();
        let handshake = "GET /ws/?resume HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        stream.write_all(format!("{handshake}{V4}\r\n").as_bytes()).unwrap();
        until(&mut stream, b"\r\n\r\n");
        stream
    };
    let clients: Vec<_> = (0..CLIENTS).map(|_| connect()).collect();
    for client in &clients {
        let mut stream = client.try_clone().unwrap();
        let message = message.clone();
        thread::spawn(move || drop(stream.write_all(&message))); // the server may not read all of it
    }
    let bytes = (settled(&region) - before) / CLIENTS as isize;
    eprintln!("{bytes} bytes for each");
    assert!(bytes <= KEPT, "{bytes} bytes for each");
    clients.iter().for_each(|client| client.shutdown(Shutdown::Both).unwrap());
    server.stop();
}

#[test]
fn labels_and_rooms_of_a_megabyte_are_refused_and_nothing_is_kept_of_them() {
    const ATTEMPTS: usize = 300;
    let _alone = ALONE.lock();
    let server = Running::start(r#"[{"a":"*"}]"#, &[]);
    let mut stream = connected(server.public, V4);
    let long = "x".repeat(1_000_000);
    let region = Region::new(ALLOCATOR);
    let before = settled(&region);
    for number in 0..ATTEMPTS {
        send(&mut stream, &format!(r#"{{"type":"subscribe","requestId":"{number}{long}","room":{{"a":{number}}}}}"#));
        until(&mut stream, b"no-request-id");
        send(&mut stream, &format!(r#"{{"type":"subscribe","requestId":"{number}","room":{{"a":"{number}{long}"}}}}"#));
        until(&mut stream, b"room-not-found");
    }
    let kept = settled(&region) - before;
    assert!(kept <= 64 << 10, "{kept} bytes are kept of {ATTEMPTS} attempts");
    server.stop();
}
