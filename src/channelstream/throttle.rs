//! Rate limits on the commands that clients without a signature cause.
//!
//! Anybody who knows the id of a connection may listen for it, and each listen writes two commands into the log that all
//! instances share. A listen therefore takes a turn of its connection. A turn is given back when the listen was answered or
//! lasted for a while, as those of real clients are; one that was not counts against the client's address instead. A client
//! that is out of turns waits. Until it is admitted, nothing stands in the log, so one that leaves meanwhile costs nothing.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::metrics::Metrics;

/// Time after which a connection has another turn, and the turns that it can save up: 4.
const CONNECTION: Rate = Rate { cost: Duration::from_millis(500), burst: Duration::from_secs(2) };
/// The same of `/disconnect`, which succeeds once for a connection.
const DISCONNECT: Rate = Rate { cost: Duration::from_millis(500), burst: Duration::from_millis(500) };
/// What one short listen takes of its address's share: the about 512 bytes that its commands take in the log, of 16 KiB a
/// second. The share of ten seconds can be saved up.
const ADDRESS: Rate = Rate { cost: Duration::from_micros(31_250), burst: Duration::from_secs(10) };
/// A listen that lasts for so long is not short.
const LASTING: Duration = Duration::from_secs(1);
/// How long a listen waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// The fewest keys of a bucket list that are worth looking through for those that can be dropped.
const WORTH_PURGING: usize = 1024;

/// Why a listen is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// A newer listen for the same connection came while this one waited.
    Superseded,
    /// Its turn did not come in time.
    OutOfTurns,
}

/// The turns of all connections and addresses at this instance.
#[derive(Debug)]
pub(super) struct Throttle {
    buckets: Mutex<Buckets>,
    /// Listens that have had to wait so far.
    waited: AtomicU64,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Buckets {
    connections: Bucket<Uuid>,
    disconnects: Bucket<Uuid>,
    addresses: Bucket<IpAddr>,
    /// The newest of the listens that wait, by their connection.
    newest: HashMap<Uuid, u64>,
}

/// A listen that has been admitted, for as long as it lasts.
#[derive(Debug)]
pub(super) struct Turn {
    throttle: Arc<Throttle>,
    connection: Uuid,
    address: Option<IpAddr>,
    begun: Instant,
    is_answered: bool,
}

#[derive(Debug, Clone, Copy)]
struct Rate {
    /// How long it takes until one use has been made up for.
    cost: Duration,
    /// How much of that may be outstanding.
    burst: Duration,
}

/// A leaky bucket for each key (generic cell rate algorithm).
#[derive(Debug)]
struct Bucket<K> {
    rate: Rate,
    /// When all uses have been made up for; a key that is not listed has none.
    even_at: HashMap<K, Instant>,
    /// How many keys were left when those without uses were last dropped.
    purged: usize,
}

impl Throttle {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let buckets = Buckets {
            connections: Bucket::new(CONNECTION),
            disconnects: Bucket::new(DISCONNECT),
            addresses: Bucket::new(ADDRESS),
            newest: HashMap::new(),
        };
        Self { buckets: Mutex::new(buckets), waited: AtomicU64::new(0), metrics }
    }

    /// Waits until a client at `address` may listen for `connection`.
    ///
    /// # Errors
    /// When the client is to do without.
    pub(super) async fn admit(self: &Arc<Self>, connection: Uuid, address: Option<IpAddr>) -> Result<Turn, Refused> {
        let deadline = Instant::now() + PATIENCE;
        // Of several clients the last one is to listen in the end: those that wait do so no more.
        self.buckets.lock().newest.remove(&connection);
        let mut waiting = None;
        loop {
            let now = Instant::now();
            let next = {
                let mut buckets = self.buckets.lock();
                let buckets = &mut *buckets;
                if waiting.as_ref().is_some_and(|waiting: &Waiting<'_>| !waiting.is_newest(buckets)) {
                    return Err(Refused::Superseded);
                }
                let taken = match address.and_then(|address| buckets.addresses.next(address, now)) {
                    Some(next) => Err(next),
                    None => buckets.connections.take(connection, now),
                };
                match taken {
                    Ok(()) => break,
                    Err(next) => {
                        waiting.get_or_insert_with(|| Waiting::new(self, buckets, connection));
                        next
                    }
                }
            };
            if next > deadline {
                return Err(Refused::OutOfTurns);
            }
            sleep_until(next).await;
        }
        let throttle = self.clone();
        Ok(Turn { throttle, connection, address, begun: Instant::now(), is_answered: false })
    }

    /// When another `/disconnect` may be written for `connection`; `None` if it may at once, which counts as done.
    pub(super) fn disconnect(&self, connection: Uuid) -> Option<Instant> {
        let next = self.buckets.lock().disconnects.take(connection, Instant::now()).err();
        if next.is_some() {
            self.metrics.limited.inc("listening");
        }
        next
    }
}

/// A listen that waits, the newest one of its connection until another one comes.
struct Waiting<'t> {
    throttle: &'t Throttle,
    connection: Uuid,
    number: u64,
}

impl<'t> Waiting<'t> {
    fn new(throttle: &'t Throttle, buckets: &mut Buckets, connection: Uuid) -> Self {
        throttle.metrics.limited.inc("listening");
        let number = throttle.waited.fetch_add(1, Ordering::Relaxed);
        buckets.newest.insert(connection, number);
        Self { throttle, connection, number }
    }

    fn is_newest(&self, buckets: &Buckets) -> bool {
        buckets.newest.get(&self.connection) == Some(&self.number)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut buckets = self.throttle.buckets.lock();
        if self.is_newest(&buckets) {
            buckets.newest.remove(&self.connection);
        }
    }
}

impl Turn {
    /// The client has been given what it asked for, however soon.
    pub(super) fn answered(&mut self) {
        self.is_answered = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut buckets = self.throttle.buckets.lock();
        if self.is_answered || now - self.begun >= LASTING {
            buckets.connections.give_back(self.connection);
        } else if let Some(address) = self.address {
            buckets.addresses.charge(address, now);
        }
    }
}

impl<K: Eq + Hash + Copy> Bucket<K> {
    fn new(rate: Rate) -> Self {
        Self { rate, even_at: HashMap::new(), purged: 0 }
    }

    /// When `key` may be used next, unless that is now.
    fn next(&self, key: K, now: Instant) -> Option<Instant> {
        let next = *self.even_at.get(&key)? + self.rate.cost - self.rate.burst;
        (next > now).then_some(next)
    }

    /// Uses `key`, or says when it may be used.
    fn take(&mut self, key: K, now: Instant) -> Result<(), Instant> {
        if let Some(next) = self.next(key, now) {
            return Err(next);
        }
        self.charge(key, now);
        Ok(())
    }

    /// Counts a use of `key`.
    fn charge(&mut self, key: K, now: Instant) {
        if self.even_at.len() >= WORTH_PURGING.max(2 * self.purged) {
            self.even_at.retain(|_, even_at| *even_at > now);
            self.purged = self.even_at.len();
        }
        let even_at = self.even_at.entry(key).or_insert(now);
        *even_at = (*even_at).max(now) + self.rate.cost;
    }

    /// Undoes a use of `key`.
    fn give_back(&mut self, key: K) {
        if let Some(even_at) = self.even_at.get_mut(&key) {
            *even_at -= self.rate.cost;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn throttle() -> Arc<Throttle> {
        Arc::new(Throttle::new(Arc::default()))
    }

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    /// Listens that are given up at once, until `within` is over; how many were admitted.
    async fn aborted(throttle: &Arc<Throttle>, ids: &[Uuid], address: Option<IpAddr>, within: Duration) -> usize {
        let end = Instant::now() + within;
        let mut admitted = 0;
        while Instant::now() < end {
            for id in ids {
                let turn = futures::FutureExt::now_or_never(throttle.admit(*id, address));
                admitted += usize::from(matches!(turn, Some(Ok(_))));
            }
            advance(Duration::from_millis(10)).await;
        }
        admitted
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_listened_for_twice_a_second_by_clients_that_leave_at_once() {
        let throttle = throttle();
        let admitted = aborted(&throttle, &[Uuid::new_v4()], None, Duration::from_secs(30)).await;
        assert!((60..=64).contains(&admitted), "{admitted}");
        assert_eq!(throttle.metrics.limited.counts()["listening"], 3000 - admitted as u64);
        assert!(throttle.buckets.lock().newest.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn listens_that_are_answered_or_last_never_wait() {
        let throttle = throttle();
        let id = Uuid::new_v4();
        for number in 0..200 {
            let mut turn = futures::FutureExt::now_or_never(throttle.admit(id, address(1))).unwrap().unwrap();
            if number % 2 == 0 {
                turn.answered();
            } else {
                advance(LASTING).await;
            }
        }
        assert!(throttle.metrics.limited.counts().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_shares_its_budget_of_log_bytes_among_all_connections_that_it_knows() {
        let throttle = throttle();
        let ids: Vec<_> = (0..100).map(|_| Uuid::new_v4()).collect();
        let admitted = aborted(&throttle, &ids, address(1), Duration::from_secs(60)).await;
        // 32 a second, ten seconds saved up, and what was under way when that was used up.
        assert!((32 * 60..=32 * 71).contains(&admitted), "{admitted}");
        let other = futures::FutureExt::now_or_never(throttle.admit(Uuid::new_v4(), address(2)));
        assert!(matches!(other, Some(Ok(_))), "another address is not concerned");
        assert!(throttle.admit(ids[0], address(1)).await.is_ok(), "it has a turn again in a moment");
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_that_wait_the_last_one_gets_the_turn() {
        let throttle = throttle();
        let id = Uuid::new_v4();
        aborted(&throttle, &[id], None, Duration::from_millis(10)).await;
        while futures::FutureExt::now_or_never(throttle.admit(id, None)).is_some() {}
        let listens = futures::future::join_all((0..5).map(|_| throttle.admit(id, None))).await;
        let outcomes: Vec<_> = listens.into_iter().map(|turn| turn.err()).collect();
        assert_eq!(outcomes, [vec![Some(Refused::Superseded); 4], vec![None]].concat());
        assert!(throttle.buckets.lock().newest.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_of_keys_that_were_used_long_ago() {
        let throttle = throttle();
        for _ in 0..20 {
            for number in 0..1000_u32 {
                let address = Some(IpAddr::from(number.to_be_bytes()));
                drop(futures::FutureExt::now_or_never(throttle.admit(Uuid::new_v4(), address)));
            }
            advance(Duration::from_secs(20)).await;
        }
        let buckets = throttle.buckets.lock();
        assert!(buckets.connections.even_at.len() <= 2 * WORTH_PURGING);
        assert!(buckets.addresses.even_at.len() <= 2 * WORTH_PURGING);
    }
}
