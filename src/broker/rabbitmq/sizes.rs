//! How large a message may be. RabbitMQ does not tell: it ends the channel of one that is larger than `max_message_size`
//! (16 MiB in version 4, 128 MiB before), and with it everything else on that channel.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The sizes that RabbitMQ is known to take and to refuse.
#[derive(Debug)]
pub(super) struct Sizes {
    /// The largest that it has taken.
    taken: AtomicUsize,
    /// The largest that it takes, once it has refused one.
    limit: AtomicUsize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { taken: AtomicUsize::new(0), limit: AtomicUsize::new(usize::MAX) }
    }
}

impl Sizes {
    /// A message of `bytes` was taken.
    pub(super) fn taken(&self, bytes: usize) {
        self.taken.fetch_max(bytes, Relaxed);
    }

    /// A message was refused that is larger than `limit`. Whether that is new.
    pub(super) fn refused(&self, limit: usize) -> bool {
        self.limit.swap(limit, Relaxed) != limit
    }

    /// The broker may be another one, with other limits.
    pub(super) fn forget(&self) {
        self.taken.store(0, Relaxed);
        self.limit.store(usize::MAX, Relaxed);
    }

    /// Whether RabbitMQ is known to take a message of `bytes`.
    ///
    /// # Errors
    /// The limit, when the message is larger.
    pub(super) fn check(&self, bytes: usize) -> Result<bool, usize> {
        let limit = self.limit.load(Relaxed);
        if bytes > limit { Err(limit) } else { Ok(bytes <= self.taken.load(Relaxed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_size_that_was_taken_is_known_to_be_taken() {
        let sizes = Sizes::default();
        assert_eq!(sizes.check(1), Ok(false));
        sizes.taken(100);
        sizes.taken(10);
        assert_eq!((sizes.check(100), sizes.check(101)), (Ok(true), Ok(false)));
        assert!(sizes.refused(1000) && !sizes.refused(1000));
        assert_eq!((sizes.check(1000), sizes.check(1001)), (Ok(false), Err(1000)));
        sizes.forget();
        assert_eq!(sizes.check(1001), Ok(false));
    }
}
