//! Bootstrap answers that are used again for a while.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use ring::hmac;
use tokio::time::Instant;

use super::{Answer, Caller, Changes, Identity};
use crate::metrics::Metrics;

/// What an answer takes beside its user and rooms, about.
const ANSWER_BYTES: usize = 512;
/// Part of the whole that the answers for one account may take: a client that is known by many names does not push out what is
/// kept for others.
const SHARE: usize = 8;

type Hash = [u8; 32];

/// Answers by what was forwarded for them, hashed: whoever reads the memory finds no cookies here. Failures are never kept.
///
/// Bounded by bytes; rooms that several answers share count once. What is too much goes, the oldest first.
#[derive(Debug)]
pub(super) struct Cache {
    ttl: Duration,
    limit_bytes: usize,
    /// Nobody can make up two identities with the same hash.
    key: hmac::Key,
    known: Mutex<Known>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Known {
    entries: HashMap<Hash, Entry>,
    all: Kept,
    by_caller: HashMap<Caller, Kept>,
    /// Number of the next entry.
    next: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    answer: Arc<Answer>,
    until: Instant,
    caller: Caller,
    size: Size,
}

/// What an answer takes: by itself, and for each of its two shared sets of rooms, which are known by where they are.
#[derive(Debug, Clone, Copy)]
struct Size {
    own: usize,
    sets: [(usize, usize); 2],
}

/// Entries, the oldest first, and what they take.
#[derive(Debug, Default)]
struct Kept {
    order: BTreeMap<u64, Hash>,
    bytes: usize,
    /// How many entries hold a set of rooms.
    holders: HashMap<usize, usize>,
}

impl Size {
    fn of(answer: &Answer) -> Self {
        let admission = &answer.admission;
        let [allowed, written] = admission.room_bytes();
        Self {
            own: ANSWER_BYTES + admission.user.as_ref().map_or(0, |user| user.len()),
            sets: [(Arc::as_ptr(&admission.allowed).addr(), allowed), (Arc::as_ptr(&admission.rooms).addr(), written)],
        }
    }
}

impl Kept {
    fn add(&mut self, number: u64, hash: Hash, size: Size) {
        self.order.insert(number, hash);
        self.bytes += size.own;
        for (set, bytes) in size.sets {
            let holders = self.holders.entry(set).or_default();
            *holders += 1;
            if *holders == 1 {
                self.bytes += bytes;
            }
        }
    }

    fn remove(&mut self, number: u64, size: Size) {
        self.order.remove(&number);
        self.bytes -= size.own;
        for (set, bytes) in size.sets {
            let Some(holders) = self.holders.get_mut(&set) else { continue };
            *holders -= 1;
            if *holders == 0 {
                self.holders.remove(&set);
                self.bytes -= bytes;
            }
        }
    }

    fn oldest(&self) -> Option<Hash> {
        self.order.first_key_value().map(|(_, hash)| *hash)
    }
}

impl Known {
    fn remove(&mut self, hash: &Hash) {
        let Some(entry) = self.entries.remove(hash) else { return };
        self.all.remove(entry.number, entry.size);
        if let Some(own) = self.by_caller.get_mut(&entry.caller) {
            own.remove(entry.number, entry.size);
            if own.order.is_empty() {
                self.by_caller.remove(&entry.caller);
            }
        }
    }

    /// Removes what is too old. All are kept for the same time, so the oldest ones are the first to go.
    fn sweep(&mut self, now: Instant) {
        while let Some(oldest) = self.all.oldest()
            && self.entries.get(&oldest).is_none_or(|entry| entry.until <= now)
        {
            self.remove(&oldest);
        }
    }

    /// Removes the oldest ones of `caller` and of all until no more than `limit_bytes` are left; returns how many.
    fn evict(&mut self, caller: Caller, limit_bytes: usize) -> u64 {
        let mut evicted = 0;
        while let Some(own) = self.by_caller.get(&caller).filter(|own| own.bytes > limit_bytes / SHARE)
            && let Some(oldest) = own.oldest()
        {
            self.remove(&oldest);
            evicted += 1;
        }
        while self.all.bytes > limit_bytes
            && let Some(oldest) = self.all.oldest()
        {
            self.remove(&oldest);
            evicted += 1;
        }
        evicted
    }
}

impl Cache {
    pub(super) fn new(ttl: Duration, limit_bytes: usize, metrics: Arc<Metrics>) -> Self {
        let secret: [u8; 32] = rand::random();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        Self { ttl, limit_bytes, key, known: Mutex::default(), metrics }
    }

    /// The answer for `identity`, if it is not too old and nothing has changed since it was asked for.
    pub(super) fn get(&self, identity: &Identity, changes: &Changes) -> Option<Arc<Answer>> {
        let hash = self.hash(identity);
        let known = self.known.lock();
        let Entry { answer, until, .. } = known.entries.get(&hash)?;
        let is_fresh =
            *until > Instant::now() && changes.none_since(answer.asked, answer.admission.user.as_deref(), None);
        is_fresh.then(|| answer.clone())
    }

    /// Keeps an answer that `caller` was the first to wait for.
    pub(super) fn put(&self, identity: &Identity, caller: Caller, answer: &Arc<Answer>) {
        let (hash, size) = (self.hash(identity), Size::of(answer));
        let mut known = self.known.lock();
        let now = Instant::now();
        known.remove(&hash);
        known.sweep(now);
        let number = known.next;
        known.next += 1;
        known.all.add(number, hash, size);
        known.by_caller.entry(caller).or_default().add(number, hash, size);
        known.entries.insert(hash, Entry { number, answer: answer.clone(), until: now + self.ttl, caller, size });
        let evicted = known.evict(caller, self.limit_bytes);
        self.metrics.auth_cache_evicted.inc_by(evicted);
        self.count(&known);
    }

    pub(super) fn remove(&self, identity: &Identity) {
        let hash = self.hash(identity);
        let mut known = self.known.lock();
        known.remove(&hash);
        self.count(&known);
    }

    /// Removes what is too old.
    pub(super) fn sweep(&self) {
        let mut known = self.known.lock();
        known.sweep(Instant::now());
        self.count(&known);
    }

    fn count(&self, known: &Known) {
        self.metrics.auth_cache_bytes.set(i64::try_from(known.all.bytes).unwrap_or(i64::MAX));
    }

    fn hash(&self, identity: &Identity) -> Hash {
        let tag = hmac::sign(&self.key, identity.as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(tag.as_ref());
        hash
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::{super::Admission, *};
    use crate::room::Interner;

    const LIMIT_BYTES: usize = 1 << 20;
    const TTL: Duration = Duration::from_secs(600);

    struct Case {
        cache: Cache,
        changes: Changes,
        interner: Interner,
        metrics: Arc<Metrics>,
    }

    impl Case {
        fn new() -> Self {
            let metrics: Arc<Metrics> = Arc::default();
            let cache = Cache::new(TTL, LIMIT_BYTES, metrics.clone());
            Self { cache, changes: Changes::new(Duration::ZERO), interner: Interner::default(), metrics }
        }

        /// An answer with 100 rooms, the same ones for the same `rooms`.
        fn put(&self, cookie: u64, caller: u64, rooms: u64) {
            let rooms: Vec<_> = (0..100)
                .map(|number| to_raw_value(&json!({"number": number, "rooms": rooms, "x": "x".repeat(60)})).unwrap())
                .collect();
            let admission = Admission::of(rooms.iter().map(Box::as_ref), Some("17".into()), &self.interner).unwrap();
            let answer = Answer { admission, asked: self.changes.now(), at: Instant::now() };
            self.cache.put(&identity(cookie), Caller::Identity(caller), &Arc::new(answer));
        }

        fn has(&self, cookie: u64) -> bool {
            self.cache.get(&identity(cookie), &self.changes).is_some()
        }

        fn bytes(&self) -> usize {
            let bytes = self.cache.known.lock().all.bytes;
            assert_eq!(self.metrics.auth_cache_bytes.get(), i64::try_from(bytes).unwrap());
            bytes
        }
    }

    fn identity(cookie: u64) -> Identity {
        Identity::from_bytes(format!("cookie:{cookie}\n").as_bytes())
    }

    #[test]
    fn answers_with_the_same_rooms_take_the_bytes_of_one() {
        let case = Case::new();
        case.put(0, 0, 0);
        let one = case.bytes();
        assert!((20_000..100_000).contains(&one), "{one}");
        for cookie in 1..100 {
            case.put(cookie, 0, 0);
        }
        assert!(case.bytes() <= one + 100 * 2 * ANSWER_BYTES, "{}", case.bytes());
        assert!((0..100).all(|cookie| case.has(cookie)));
    }

    #[test]
    fn an_account_with_many_cookies_pushes_out_its_own_answers_and_no_others() {
        let case = Case::new();
        case.put(10_000, 1, 10_000);
        let one = case.bytes();
        for cookie in 0..3000 {
            case.put(cookie, 2, cookie);
            assert!(case.bytes() <= one + LIMIT_BYTES / SHARE);
        }
        assert!(case.has(10_000) && case.has(2999) && !case.has(0));
        assert!(case.metrics.auth_cache_evicted.get() > 2900);
    }

    #[test]
    fn what_is_kept_is_bounded_by_bytes_and_the_oldest_answers_go_first() {
        let case = Case::new();
        for cookie in 0..200 {
            case.put(cookie, cookie, cookie);
            assert!(case.bytes() <= LIMIT_BYTES);
        }
        let kept: Vec<u64> = (0..200).filter(|cookie| case.has(*cookie)).collect();
        assert!(!kept.is_empty() && kept.iter().copied().eq(200 - kept.len() as u64..200), "{kept:?}");
        assert_eq!(case.metrics.auth_cache_evicted.get(), 200 - kept.len() as u64);
        // The same one again takes the place of the one before.
        let (bytes, evicted) = (case.bytes(), case.metrics.auth_cache_evicted.get());
        case.put(199, 199, 199);
        assert_eq!((case.bytes(), case.metrics.auth_cache_evicted.get()), (bytes, evicted));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_of_answers_that_are_too_old_or_removed() {
        let case = Case::new();
        case.put(0, 0, 0);
        tokio::time::advance(TTL / 2).await;
        case.put(1, 1, 1);
        tokio::time::advance(TTL / 2).await;
        case.cache.sweep();
        assert!(!case.has(0) && case.has(1));
        case.cache.remove(&identity(1));
        let known = case.cache.known.lock();
        assert!(known.entries.is_empty() && known.by_caller.is_empty());
        assert!(known.all.order.is_empty() && known.all.holders.is_empty() && known.all.bytes == 0);
    }
}
