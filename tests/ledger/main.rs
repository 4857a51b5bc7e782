//! The ledger: publishers number their triggers and clients check every number, while RabbitMQ, instances, clients and
//! publishers meet one fault after the other. `cargo test --test ledger -- --help`.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::unwrap_used, reason = "this is how a test fails")]

mod absence;
mod books;
mod client;
mod faults;
mod gaps;
mod instance;
mod operator;
mod options;
mod page;
mod publisher;
mod schedule;
mod stderr;
#[path = "../it/support/mod.rs"]
#[expect(dead_code, unused_imports, clippy::expect_used, clippy::panic, reason = "written for tests/it")]
mod support;

use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    absence::Absence,
    books::Books,
    client::Client,
    faults::Faults,
    instance::Instance,
    options::Wanted,
    page::{PUBLISHERS, ROOMS},
    publisher::{Publisher, Way},
    schedule::{Kinds, Schedule},
    support::{Node, Proxy, StubBackend},
};

const CLIENTS: usize = 200;
/// Publishers that publish straight to RabbitMQ; the others post to the instances.
const AMQP_PUBLISHERS: usize = 2;
/// How long everything may take to be there.
const READY: Duration = Duration::from_secs(60);
/// How long the last numbers may take to come to everybody.
const SETTLED: Duration = Duration::from_secs(60);

/// What the parts of the test share.
pub struct World {
    seed: u64,
    books: Books,
    node: Arc<Node>,
    node_absence: Mutex<Absence>,
    /// While the end of the log is being lost: the processes of the instances that had read it.
    witnesses: Mutex<Option<[Option<u64>; 2]>>,
    instances: [Instance; 2],
    /// The way to RabbitMQ of each instance.
    proxies: [Proxy; 2],
    /// Kinds of load that are asked for.
    loads: AtomicUsize,
    /// How many of the next triggers have a property that is not UTF-8.
    unreadable: AtomicUsize,
    /// Whether publishers do not ask RabbitMQ to return what no queue takes.
    is_careless: AtomicBool,
    /// Whether RabbitMQ takes nothing from anybody.
    is_blocked: AtomicBool,
    /// Whether publishers wait before they offer a trigger.
    is_quiet: AtomicBool,
    /// A permit for each subscription that is there for the first time.
    subscribed: Semaphore,
    faults_over: CancellationToken,
    /// Whether all that will be accepted has been.
    all_accepted: watch::Receiver<bool>,
    /// A permit for each client that has everything.
    done: Semaphore,
    over: CancellationToken,
}

impl World {
    fn is_loaded(&self) -> bool {
        self.loads.load(Ordering::Relaxed) > 0
    }

    fn load(&self, is_wanted: bool) {
        match is_wanted {
            true => self.loads.fetch_add(1, Ordering::Relaxed),
            false => self.loads.fetch_sub(1, Ordering::Relaxed),
        };
    }

    /// Whether the next trigger has a property that is not UTF-8.
    fn take_unreadable(&self) -> bool {
        let take = |count: usize| count.checked_sub(1);
        self.unreadable.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// What is done to the node takes its time.
    async fn with_node(&self, work: impl FnOnce(&Node) + Send + 'static) {
        let node = self.node.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || work(&node)).await {
            self.books.error(format!("the node cannot be handled: {error}"));
        }
    }

    /// Whether the end of the log is being lost, and `which` is the only instance left that had read it.
    fn is_last_witness(&self, which: usize) -> bool {
        let Some(lives) = *self.witnesses.lock() else { return false };
        let is_witness = |one: usize| lives[one].is_some() && self.instances[one].life() == lives[one];
        is_witness(which) && !is_witness(1 - which)
    }

    fn is_careless(&self) -> bool {
        self.is_careless.load(Ordering::Relaxed)
    }
}

fn main() -> ExitCode {
    let (seed, faults_for, kinds) = match Wanted::parse(std::env::args().skip(1)) {
        Ok(Wanted::Run { seed, faults_for, kinds }) => (seed, faults_for, kinds),
        Ok(Wanted::Help) => {
            println!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Wanted::List) => {
            println!("ledger: test");
            return ExitCode::SUCCESS;
        }
        Ok(Wanted::Nothing) => {
            println!("ledger: other tests are wanted, nothing is run");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let again = format!("--seed {seed} --seconds {} --faults {kinds}", faults_for.as_secs());
    println!("ledger: {again}, {CLIENTS} clients, {PUBLISHERS} publishers");
    let folder = tempfile::Builder::new().prefix("ht-ledger-").tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let is_right = runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt()).unwrap(), signal(SignalKind::terminate()).unwrap());
        tokio::select! {
            is_right = run(seed, faults_for, &kinds, folder.path()) => is_right,
            _ = interrupt.recv() => false,
            _ = terminate.recv() => false,
        }
    });
    drop(runtime); // with all tasks and what they started
    if is_right {
        return ExitCode::SUCCESS;
    }
    println!("logs: {}", folder.keep().display());
    println!("again: cargo test --test ledger -- {again}");
    ExitCode::FAILURE
}

/// Whether all was right.
async fn run(seed: u64, faults_for: Duration, kinds: &Kinds, folder: &Path) -> bool {
    let backend = StubBackend::allowing(json!([client::room(None)])).await;
    let node = Arc::new(Node::start().await);
    let vars = [
        ("API_URL", backend.url()),
        ("AMQP_LOG", "stream".to_owned()),
        ("OUTBOX_LIMIT", "128KiB".to_owned()),
        ("HISTORY", "2m".to_owned()),
        ("TRIGGER_ID_TTL", "3m".to_owned()),
        ("PING_INTERVAL", "5s".to_owned()),
        ("LOG", std::env::var("LEDGER_LOG").unwrap_or_else(|_| "info".to_owned())),
    ];
    let proxies = [Proxy::before(&node.url).await, Proxy::before(&node.url).await];
    let instance = |name: usize| {
        let vars = [&vars[..], &[("AMQP_URL", proxies[name].url.clone())]].concat();
        Instance::new(name, vars, folder.join(format!("instance-{name}.log")))
    };
    let (tell_accepted, all_accepted) = watch::channel(false);
    let world = Arc::new(World {
        seed,
        books: Books::new(),
        node,
        node_absence: Mutex::default(),
        witnesses: Mutex::default(),
        instances: [instance(0), instance(1)],
        proxies,
        loads: AtomicUsize::new(0),
        unreadable: AtomicUsize::new(0),
        is_careless: AtomicBool::new(false),
        is_blocked: AtomicBool::new(false),
        is_quiet: AtomicBool::new(false),
        subscribed: Semaphore::new(0),
        faults_over: CancellationToken::new(),
        all_accepted,
        done: Semaphore::new(0),
        over: CancellationToken::new(),
    });
    let mut watches = JoinSet::new();
    for which in 0..world.instances.len() {
        world.instances[which].start();
        let world = world.clone();
        watches.spawn(async move {
            let died = |status| world.books.error(format!("instance {which} ended by itself: {status}"));
            world.instances[which].watch(died).await;
        });
    }
    ready(&world).await;

    let (mut clients, mut orders, mut subscriptions) = (JoinSet::new(), Vec::new(), 0);
    for name in 0..CLIENTS {
        let rooms = match name % 10 {
            0 | 1 => vec![None],
            2 => vec![Some(name % ROOMS), None],
            3 | 4 => vec![Some(name % ROOMS), Some((name + 1) % ROOMS)],
            _ => vec![Some(name % ROOMS)],
        };
        subscriptions += rooms.len();
        let (order, ordered) = mpsc::channel(1);
        orders.push(order);
        clients.spawn(Client::new(world.clone(), name, &rooms).run(ordered));
    }
    let all = u32::try_from(subscriptions).unwrap();
    if timeout(READY, world.subscribed.acquire_many(all)).await.is_err() {
        world.books.error("not all clients could subscribe");
        return world.books.close();
    }

    world.books.start();
    world.books.tell(format_args!("{CLIENTS} clients with {subscriptions} subscriptions"));
    let mut publishers = JoinSet::new();
    let url = format!("{}?heartbeat=5", world.node.url);
    for name in 0..PUBLISHERS {
        let way = match name < AMQP_PUBLISHERS {
            true => Way::Amqp { url: url.clone(), open: None },
            false => Way::Http(name % 2),
        };
        publishers.spawn(Publisher::new(world.clone(), name, way).run());
    }
    let mut lanes = JoinSet::new();
    for lane in Schedule::new(seed, faults_for, kinds).lanes {
        lanes.spawn(Faults { world: world.clone(), clients: orders.clone(), time: faults_for }.run(lane));
    }
    sleep(faults_for).await;
    join(&world, lanes).await;
    world.books.tell("no more faults");
    ready(&world).await;
    world.faults_over.cancel();
    join(&world, publishers).await;
    world.books.tell("no more triggers");
    tell_accepted.send_replace(true);
    let waiting = Instant::now();
    let all = u32::try_from(CLIENTS).unwrap();
    if timeout(SETTLED, world.done.acquire_many(all)).await.is_err() {
        let done = world.done.available_permits();
        world.books.error(format!("{done} of {CLIENTS} clients have everything {SETTLED:?} after the last trigger"));
    }
    world.books.tell(format_args!("all clients were waited for {:.1} s", waiting.elapsed().as_secs_f64()));
    sleep(Duration::from_secs(1)).await; // for what comes twice
    world.over.cancel();
    join(&world, clients).await;
    watches.shutdown().await;
    for instance in &world.instances {
        let ended = instance.stop().await;
        if ended.and_then(|status| status.code()) != Some(0) {
            world.books.error(format!("instance {} was asked to stop: {ended:?}", instance.name));
        }
    }
    world.books.close()
}

async fn ready(world: &World) {
    let deadline = Instant::now() + READY;
    while !world.instances.iter().all(Instance::is_ready) {
        if Instant::now() > deadline {
            return world.books.error(format!("an instance was not ready after {READY:?}"));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for all of them. One that panicked has said why.
async fn join(world: &World, mut tasks: JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            world.books.error(format!("the test itself failed: {error}"));
        }
    }
}
