//! How many connections there may be, in all and from one address.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use http::HeaderMap;
use parking_lot::Mutex;

use crate::config;

/// The bits of an IPv6 address that its network is known by; a household or a server has all that follow.
const NETWORK_BITS: u32 = 64;

/// Which limit does not allow another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// `MAX_CONNECTIONS`.
    #[error("this server has as many connections as it may have")]
    InAll,
    /// `MAX_CONNECTIONS_PER_ADDRESS`.
    #[error("there are as many connections from this address as there may be")]
    FromAddress,
}

impl TooMany {
    /// The word it is counted under.
    pub fn word(self) -> &'static str {
        match self {
            Self::InAll => "connections",
            Self::FromAddress => "connections-per-address",
        }
    }
}

/// All places for connections.
#[derive(Debug)]
pub(super) struct Places {
    in_all: Option<usize>,
    per_address: Option<usize>,
    proxies: config::Networks,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    addresses: HashMap<IpAddr, usize>,
}

/// The place of one connection, for as long as this is there.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    /// Where the client is, as far as that is known; of IPv6 its network.
    address: Option<IpAddr>,
}

impl Place {
    /// Where the client is, as far as that is known; of IPv6 its network of 64 bits.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }
}

impl Places {
    pub(super) fn new(limits: &config::Limits) -> Self {
        Self {
            in_all: limits.connections,
            per_address: limits.per_address,
            proxies: limits.trusted_proxies.clone(),
            taken: Mutex::default(),
        }
    }

    /// A place for a client that comes from `peer` with these headers.
    pub(super) fn take(self: &Arc<Self>, peer: Option<SocketAddr>, headers: &HeaderMap) -> Result<Place, TooMany> {
        let address = self.address(peer, headers);
        let mut taken = self.taken.lock();
        if self.in_all.is_some_and(|most| taken.all >= most) {
            return Err(TooMany::InAll);
        }
        if let (Some(address), Some(most)) = (address, self.per_address) {
            let count = taken.addresses.entry(address).or_default();
            if *count >= most {
                return Err(TooMany::FromAddress);
            }
            *count += 1;
        }
        taken.all += 1;
        Ok(Place { places: self.clone(), address })
    }

    /// Where a client is: the peer, or what a proxy says that is to be believed. A unix socket has a proxy at its other end.
    pub(super) fn address(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let own = match peer {
            Some(peer) if !self.proxies.contain(peer.ip()) => peer.ip(),
            _ => headers.get("x-real-ip")?.to_str().ok()?.trim().parse().ok()?,
        };
        Some(match own.to_canonical() {
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> (128 - NETWORK_BITS) << (128 - NETWORK_BITS)))
            }
            address => address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.all -= 1;
        if let (Some(address), Some(_)) = (self.address, self.places.per_address)
            && let Entry::Occupied(mut entry) = taken.addresses.entry(address)
        {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(vars: &[(&str, &str)]) -> Arc<Places> {
        let api = [("API_URL", "http://api/")];
        let vars = api.iter().chain(vars).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Arc::new(Places::new(&config::from_vars(vars).unwrap().connection.limits))
    }

    fn take(places: &Arc<Places>, peer: &str, real: Option<&str>) -> Result<Place, TooMany> {
        let mut headers = HeaderMap::new();
        if let Some(real) = real {
            headers.insert("x-real-ip", real.parse().unwrap());
        }
        places.take(peer.parse().ok(), &headers)
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_has_gone() {
        let places = places(&[("MAX_CONNECTIONS", "2"), ("MAX_CONNECTIONS_PER_ADDRESS", "1")]);
        let first = take(&places, "10.0.0.1:1", None).unwrap();
        assert_eq!(take(&places, "10.0.0.1:2", None).err(), Some(TooMany::FromAddress));
        let second = take(&places, "10.0.0.2:1", None).unwrap();
        assert_eq!(take(&places, "10.0.0.3:1", None).err(), Some(TooMany::InAll));
        drop(first);
        drop(take(&places, "10.0.0.1:3", None).unwrap());
        drop(second);
        assert!(places.taken.lock().addresses.is_empty());
    }

    #[test]
    fn what_a_header_says_is_believed_of_proxies_only() {
        let places = places(&[("TRUSTED_PROXIES", "10.0.0.0/24")]);
        let address =
            |peer: &str, real| take(&places, peer, real).unwrap().address().map(|address| address.to_string());
        assert_eq!(address("10.0.0.9:1", Some("1.2.3.4")).as_deref(), Some("1.2.3.4"));
        assert_eq!(address("10.0.1.9:1", Some("1.2.3.4")).as_deref(), Some("10.0.1.9"));
        assert_eq!(address("10.0.0.9:1", None), None, "all clients of a proxy are not one");
        assert_eq!(address("10.0.0.9:1", Some("x")), None);
        assert_eq!(address("unix", Some("1.2.3.4")).as_deref(), Some("1.2.3.4"));
        assert_eq!(address("[2001:db8:1:2:3::4]:1", None).as_deref(), Some("2001:db8:1:2::"));
        assert_eq!(address("[::ffff:9.9.9.9]:1", None).as_deref(), Some("9.9.9.9"));
    }
}
