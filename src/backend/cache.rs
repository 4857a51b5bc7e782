//! Bootstrap answers that are used again for a while.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ring::hmac;
use tokio::time::Instant;

use super::{Answer, Changes, Identity};

/// Answers that are kept.
const MOST: usize = 10_000;

type Hash = [u8; 32];

/// Answers by what was forwarded for them, hashed: whoever reads the memory finds no cookies here. Failures are never kept.
#[derive(Debug)]
pub(super) struct Cache {
    ttl: Duration,
    /// Nobody can make up two identities with the same hash.
    key: hmac::Key,
    known: Mutex<HashMap<Hash, (Arc<Answer>, Instant)>>,
}

impl Cache {
    pub(super) fn new(ttl: Duration) -> Self {
        let secret: [u8; 32] = rand::random();
        Self { ttl, key: hmac::Key::new(hmac::HMAC_SHA256, &secret), known: Mutex::default() }
    }

    /// The answer for `identity`, if it is not too old and nothing has changed since it was asked for.
    pub(super) fn get(&self, identity: &Identity, changes: &Changes) -> Option<Arc<Answer>> {
        let known = self.known.lock();
        let (answer, until) = known.get(&self.hash(identity))?;
        let is_fresh =
            *until > Instant::now() && changes.none_since(answer.asked, answer.admission.user.as_deref(), None);
        is_fresh.then(|| answer.clone())
    }

    pub(super) fn put(&self, identity: &Identity, answer: &Arc<Answer>) {
        let mut known = self.known.lock();
        let now = Instant::now();
        if known.len() >= MOST {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() < MOST {
            known.insert(self.hash(identity), (answer.clone(), now + self.ttl));
        }
    }

    pub(super) fn remove(&self, identity: &Identity) {
        self.known.lock().remove(&self.hash(identity));
    }

    fn hash(&self, identity: &Identity) -> Hash {
        let tag = hmac::sign(&self.key, identity.as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(tag.as_ref());
        hash
    }
}
