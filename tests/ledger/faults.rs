//! Carrying out what the schedule says.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::index};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    World,
    client::Order,
    gaps::GapId,
    instance::Instance,
    operator,
    schedule::{Fault, Planned},
    support::Proxy,
};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long the exchange may pass nothing on to the log.
const BIND: Duration = Duration::from_secs(15);
/// The same where the fault itself keeps the instances from noticing.
const BIND_AT_LAST: Duration = Duration::from_secs(60);
/// How long instances may take to follow the log again after a fault.
const FOLLOW: Duration = Duration::from_secs(40);
/// The same of instances that need not wait for RabbitMQ to take anything.
const FOLLOW_BLOCKED: Duration = Duration::from_secs(30);
/// How long instances may take to deliver again when they follow the log.
const SETTLE: Duration = Duration::from_secs(5);
/// How long an instance takes to notice that its connections are cut, and the test to notice that of the instance.
const NOTICE: Duration = Duration::from_secs(1);
/// How long RabbitMQ takes to notice that it is short of memory.
const ALARM: Duration = Duration::from_secs(2);
/// How long triggers in flight may take to be confirmed.
const QUIET: Duration = Duration::from_millis(500);
/// How long a row of cuts may take.
const CUTS: Duration = Duration::from_secs(20);
/// How many messages a connection publishes, at most, before it is cut.
const CUT_AFTER: usize = 8;
/// Warnings that an instance has to write while nobody reads its log.
const WARNINGS: usize = 400;
/// How long nothing may be delivered while nobody reads the log.
const DELIVER: Duration = Duration::from_secs(8);

/// How late a fault may come where others before it took longer than planned.
const LATE: Duration = Duration::from_secs(15);

/// Whom the faults befall.
#[derive(Clone)]
pub struct Faults {
    pub world: Arc<World>,
    pub clients: Vec<mpsc::Sender<Order>>,
    /// How long there are faults.
    pub time: Duration,
}

impl Faults {
    /// One lane, from its first fault to its last; at its end everything is there again.
    pub async fn run(self, lane: Vec<Planned>) {
        for planned in lane {
            sleep_until(self.world.books.start() + planned.at).await;
            if self.world.books.time() > self.time + LATE {
                self.world.books.tell(format_args!("left out, because the time is over: {}", planned.fault));
                continue;
            }
            self.world.books.fault(planned.fault.word(), planned.fault.to_string());
            self.befall(planned).await;
        }
    }

    async fn befall(&self, Planned { fault, pick, .. }: Planned) {
        let world = &self.world;
        match fault {
            Fault::CutBroker => world.with_node(|node| _ = node.ctl(&["close_all_connections", "ledger"])).await,
            Fault::KillBroker(away) => {
                world.node_absence.lock().begin();
                world.with_node(|node| node.kill()).await;
                sleep(away).await;
                world.with_node(|node| node.start_again()).await;
                world.node_absence.lock().end();
                world.books.tell("broker is there again");
            }
            Fault::PauseBroker(time) => {
                world.node_absence.lock().begin();
                world.with_node(|node| node.control("pause")).await;
                sleep(time).await;
                world.with_node(|node| node.control("resume")).await;
                world.node_absence.lock().end();
                world.books.tell("broker goes on");
            }
            Fault::KillInstance(which, away) => {
                self.spare_last_witness(which).await;
                world.instances[which].kill();
                self.start_again(which, away).await;
            }
            Fault::StopInstance(which, away) => {
                self.stop(which).await;
                self.start_again(which, away).await;
            }
            Fault::CutClients(count) => self.order(count, pick, Order::Cut),
            Fault::StallClients(count, time) => {
                self.order(count, pick, Order::Stall(time));
                world.load(true);
                sleep(time).await;
                world.load(false);
            }
            Fault::LoseTail { before, is_killed } => self.lose_tail(before, is_killed).await,
            Fault::RedeclareExchange { is_quiet } => self.redeclare_exchange(is_quiet).await,
            Fault::AlternateExchange => self.alternate_exchange().await,
            Fault::MemoryAlarm(time) => self.memory_alarm(time).await,
            Fault::Unreadable(count) => _ = world.unreadable.fetch_add(count, Ordering::Relaxed),
            Fault::CutPublishers(count) => self.cut_publishers(count, pick).await,
            Fault::BlockLog { which, time, is_stopped } => self.block_log(which, time, is_stopped).await,
        }
    }

    async fn lose_tail(&self, before: Duration, is_killed: bool) {
        let (world, books) = (&self.world, &self.world.books);
        world.with_node(|node| node.save_streams()).await;
        let kept = books.accepted();
        sleep(before).await;
        let gap = books.open_gap(Fault::LoseTail { before, is_killed }.word());
        books.lose(gap, &kept, &books.accepted());
        let life = |instance: &Instance| instance.life().filter(|_| instance.is_ready());
        *world.witnesses.lock() = Some(world.instances.each_ref().map(life));
        world.node_absence.lock().begin();
        world
            .with_node(move |node| {
                node.control(if is_killed { "kill" } else { "stop" });
                node.rewind_streams();
                node.start_again();
            })
            .await;
        world.node_absence.lock().end();
        books.tell("broker is there again");
        self.until_ready(FOLLOW, "after the end of the log was lost").await;
        *world.witnesses.lock() = None;
        self.close(gap).await;
    }

    async fn redeclare_exchange(&self, is_quiet: bool) {
        let (world, books) = (&self.world, &self.world.books);
        let gap = books.open_gap(Fault::RedeclareExchange { is_quiet }.word());
        world.is_careless.store(true, Ordering::Relaxed);
        if is_quiet {
            world.is_quiet.store(true, Ordering::Relaxed);
            sleep(QUIET).await;
        }
        operator::redeclare_exchange(&world.node).await;
        world.is_quiet.store(false, Ordering::Relaxed);
        if !operator::is_bound_within(world, BIND).await {
            books.error(format!("the exchange was declared anew, and nothing was bound to it within {BIND:?}"));
            operator::is_bound_within(world, BIND_AT_LAST).await;
        }
        world.is_careless.store(false, Ordering::Relaxed);
        self.until_ready(FOLLOW, "after the exchange was declared anew").await;
        self.close(gap).await;
    }

    async fn alternate_exchange(&self) {
        let (world, books) = (&self.world, &self.world.books);
        operator::set_alternate_exchange(world).await;
        let gap = books.open_gap(Fault::AlternateExchange.word());
        world.node_absence.lock().begin();
        world
            .with_node(|node| {
                node.control("stop");
                node.start_again();
            })
            .await;
        world.node_absence.lock().end();
        books.tell("broker is there again");
        let is_bound = operator::is_bound_within(world, BIND).await;
        if is_bound {
            self.until_ready(FOLLOW, "with an alternate exchange").await;
        } else {
            books.error(format!("there is an alternate exchange, and the log was not bound within {BIND:?}"));
        }
        operator::clear_alternate_exchange(world).await;
        if !is_bound {
            operator::is_bound_within(world, BIND_AT_LAST).await;
        }
        self.close(gap).await;
    }

    /// Publishing waits or is refused; instances that have to connect again follow the log all the same.
    async fn memory_alarm(&self, time: Duration) {
        let (world, books) = (&self.world, &self.world.books);
        world.is_blocked.store(true, Ordering::Relaxed);
        operator::raise_memory_alarm(world).await;
        sleep(ALARM).await;
        let accepted: u64 = books.serials().iter().sum();
        world.proxies.iter().for_each(Proxy::cut);
        sleep(NOTICE).await;
        world.proxies.iter().for_each(Proxy::mend);
        self.until_ready(FOLLOW_BLOCKED, "while RabbitMQ is short of memory").await;
        sleep(time).await;
        let taken = books.serials().iter().sum::<u64>() - accepted;
        operator::clear_memory_alarm(world).await;
        world.is_blocked.store(false, Ordering::Relaxed);
        books.tell(format_args!("memory alarm is over; {taken} triggers were accepted meanwhile"));
    }

    async fn cut_publishers(&self, count: usize, pick: u64) {
        let mut rng = StdRng::seed_from_u64(pick);
        for proxy in &self.world.proxies {
            let publishes: Vec<usize> = (0..count).map(|_| rng.random_range(0..=CUT_AFTER)).collect();
            proxy.cut_early("high-templar publisher", publishes);
        }
        // Where RabbitMQ is away meanwhile, fewer are made.
        let _ = timeout(CUTS, async {
            while self.world.proxies.iter().any(|proxy| proxy.early_cuts_left() > 0) {
                sleep(LOOK).await;
            }
        })
        .await;
        for proxy in &self.world.proxies {
            proxy.cut_early("", []);
        }
    }

    /// An instance goes on delivering, and stops when it is asked to, though nobody reads its log.
    async fn block_log(&self, which: usize, time: Duration, is_stopped: bool) {
        let (world, books, instance) = (&self.world, &self.world.books, &self.world.instances[which]);
        if let Err(error) = instance.block_log() {
            books.error(format!("the log of instance {which} cannot be blocked: {error}"));
        }
        while timeout(DELIVER, operator::publish_mistakes(&world.node, WARNINGS)).await.is_ok_and(|sent| sent.is_err())
        {
            sleep(LOOK).await;
        }
        let (start, serials, mut waited) = (Instant::now(), books.serials(), Duration::ZERO);
        let mut look = Instant::now();
        while start.elapsed() < time || !instance.has_delivered_since(&serials) && waited < DELIVER {
            sleep(LOOK).await;
            // Where RabbitMQ or the instance is away for another reason, or publishers are blocked, nothing can be delivered.
            let is_blocked = world.is_blocked.load(Ordering::Relaxed);
            if !is_blocked && world.node_absence.lock().length().is_zero() && instance.absence().is_zero() {
                waited += look.elapsed();
            }
            look = Instant::now();
        }
        if !instance.has_delivered_since(&serials) {
            books.error(format!("instance {which} delivers nothing while nobody reads its log"));
        }
        if is_stopped {
            self.stop(which).await;
            instance.stderr.unblock();
            self.start_again(which, Duration::ZERO).await;
        } else {
            instance.stderr.unblock();
        }
        books.tell(format_args!("the log of instance {which} is read again"));
    }

    /// What nobody knows who is there, nobody can tell: the last instance that has read the end of a log that was lost may
    /// not be ended before it has written into the log again.
    async fn spare_last_witness(&self, which: usize) {
        let world = &self.world;
        if !world.is_last_witness(which) {
            return;
        }
        world.books.tell(format_args!("instance {which} is spared until it publishes again"));
        let deadline = Instant::now() + FOLLOW;
        loop {
            sleep(NOTICE).await; // also for the instance, to notice that the broker is away
            let is_there = world.node_absence.lock().is_over();
            if is_there && world.instances[which].is_publishing().await || Instant::now() > deadline {
                return;
            }
        }
    }

    async fn stop(&self, which: usize) {
        self.spare_last_witness(which).await;
        match self.world.instances[which].stop().await {
            Some(status) if status.code() == Some(0) => {}
            ended => self.world.books.error(format!("instance {which} was asked to stop: {ended:?}")),
        }
    }

    /// Closes a gap once all instances deliver what is published now. Before that, the notices may still be held up, and
    /// the next fault would hold them up for longer. An instance without clients is not waited for long.
    async fn close(&self, gap: GapId) {
        let (books, serials) = (&self.world.books, self.world.books.serials());
        let deadline = Instant::now() + SETTLE;
        while Instant::now() < deadline && !self.world.instances.iter().all(|one| one.has_delivered_since(&serials)) {
            sleep(LOOK).await;
        }
        books.close_gap(gap);
    }

    /// Waits until all instances follow the log.
    async fn until_ready(&self, time: Duration, when: &str) {
        let deadline = Instant::now() + time;
        loop {
            let unready = || self.world.instances.iter().filter(|one| !one.is_ready());
            if unready().next().is_none() {
                return;
            }
            // One that was started meanwhile has as much time.
            if Instant::now() > deadline && unready().any(|one| one.has_run_for(time)) {
                let unready: Vec<usize> = unready().map(|one| one.name).collect();
                return self.world.books.error(format!("instances {unready:?} were not ready within {time:?} {when}"));
            }
            sleep(LOOK).await;
        }
    }

    async fn start_again(&self, which: usize, away: Duration) {
        sleep(away).await;
        self.world.instances[which].start();
        self.world.books.tell(format_args!("instance {which} is started again"));
    }

    fn order(&self, count: usize, pick: u64, order: Order) {
        let all = index::sample(&mut StdRng::seed_from_u64(pick), self.clients.len(), count.min(self.clients.len()));
        for client in all {
            let _ = self.clients[client].try_send(order); // one that is still busy with the last order is left alone
        }
    }
}
