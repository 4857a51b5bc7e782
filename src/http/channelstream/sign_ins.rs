//! Attempts to sign in that are under way, bounded in all and by address.
//!
//! Each wrong one takes half a second, which bounds how fast passwords can be guessed. The bound by address keeps a stranger
//! from using up all attempts, and the administrator from being locked out by that.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
};

use parking_lot::Mutex;

/// Attempts at once, in all.
const IN_ALL: usize = 32;
/// The same from one address.
pub(super) const PER_ADDRESS: usize = 4;

/// Counts attempts.
#[derive(Debug, Default)]
pub(super) struct SignIns(Mutex<HashMap<Option<IpAddr>, usize>>);

/// One attempt, for as long as this is there.
#[derive(Debug)]
pub(super) struct SignIn<'s> {
    all: &'s SignIns,
    address: Option<IpAddr>,
}

impl SignIns {
    /// Begins an attempt of a client at `address`, as far as that is known; `None` when there are too many.
    pub(super) fn begin(&self, address: Option<IpAddr>) -> Option<SignIn<'_>> {
        let mut attempts = self.0.lock();
        let own = attempts.get(&address).copied().unwrap_or_default();
        if own >= PER_ADDRESS || attempts.values().sum::<usize>() >= IN_ALL {
            return None;
        }
        attempts.insert(address, own + 1);
        Some(SignIn { all: self, address })
    }
}

impl Drop for SignIn<'_> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut own) = self.all.0.lock().entry(self.address) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}
