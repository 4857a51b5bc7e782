//! One copy of what many hold.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use ring::digest;

/// Dead entries are swept when there are as many as live ones, but not before there are so many in all.
const SWEPT_FROM: usize = 1024;

/// Values that are shared as long as one of their holders is there, each known by a digest. An entry of a value that is gone
/// costs about a hundred bytes until it is swept, however large the value was.
#[derive(Debug)]
pub(super) struct Pool<T: ?Sized>(Mutex<Known<T>>);

#[derive(Debug)]
struct Known<T: ?Sized> {
    values: HashMap<Digest, Weak<T>>,
    sweep_at: usize,
}

/// SHA-256 of a value: a client whose texts are among the rooms of others cannot make up another value with the same one.
pub(super) type Digest = [u8; digest::SHA256_OUTPUT_LEN];

/// Makes the digest of a list of texts.
pub(super) fn digest<'a>(texts: impl IntoIterator<Item = &'a str>) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    for text in texts {
        context.update(&text.len().to_le_bytes());
        context.update(text.as_bytes());
    }
    let mut made = Digest::default();
    made.copy_from_slice(context.finish().as_ref());
    made
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self(Mutex::new(Known { values: HashMap::new(), sweep_at: SWEPT_FROM }))
    }
}

impl<T: ?Sized> Pool<T> {
    /// Returns the value with this digest; one made by `make` where none is held.
    pub(super) fn get(&self, digest: Digest, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        if let Some(value) = self.0.lock().values.get(&digest).and_then(Weak::upgrade) {
            return value;
        }
        let made = make(); // not under the lock: its cost is the API's choice
        let mut known = self.0.lock();
        if let Some(value) = known.values.get(&digest).and_then(Weak::upgrade) {
            return value;
        }
        if known.values.len() >= known.sweep_at {
            known.values.retain(|_, value| value.strong_count() > 0);
            known.sweep_at = (known.values.len() * 2).max(SWEPT_FROM);
        }
        known.values.insert(digest, Arc::downgrade(&made));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_shared_while_it_is_held_and_few_dead_ones_are_kept() {
        let pool: Pool<str> = Pool::default();
        let get = |text: &str| pool.get(digest([text]), || text.into());
        let first = get("a");
        assert!(Arc::ptr_eq(&first, &get("a")) && !Arc::ptr_eq(&first, &get("b")));
        for number in 0..10 * SWEPT_FROM {
            get(&number.to_string());
        }
        assert!(pool.0.lock().values.len() <= SWEPT_FROM);
        assert!(Arc::ptr_eq(&first, &get("a")));
    }

    #[test]
    fn lists_that_read_the_same_when_joined_are_told_apart() {
        assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
        assert_ne!(digest(["", "a"]), digest(["a", ""]));
        assert_eq!(digest(["a", "b"]), digest(["a", "b"]));
    }
}
