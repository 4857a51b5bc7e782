//! How many connections there may be, in all and from one address.
//!
//! They count when they are accepted: a peer that never becomes a client costs a file descriptor, too.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use http::HeaderMap;
use parking_lot::Mutex;

use crate::{config, logging::limited, metrics::Metrics, protocol::address::real_ip};

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

    /// Returns the settings to look at.
    pub fn setting(self) -> &'static str {
        match self {
            Self::InAll => "MAX_CONNECTIONS, or the limit on open files",
            Self::FromAddress => "MAX_CONNECTIONS_PER_ADDRESS",
        }
    }
}

/// Connections of the public listener beyond the limits, in all and from one address, that are still told so: there has to
/// be a connection for the refusal.
pub const REFUSED_CONNECTIONS: usize = 32;
const REFUSED_FROM_ADDRESS: usize = 8;
/// Of so many connections in all, answers end their connection once the others are taken.
const KEPT_PART: usize = 4;

/// All places for connections: TCP connections from their acceptance on, and clients from their request on.
#[derive(Debug)]
pub(super) struct Places {
    in_all: Option<usize>,
    per_address: Option<usize>,
    proxies: config::Networks,
    metrics: Arc<Metrics>,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    clients: usize,
    accepted: usize,
    addresses: HashMap<IpAddr, FromAddress>,
}

/// What comes from one address.
#[derive(Debug, Default)]
struct FromAddress {
    clients: usize,
    accepted: usize,
}

/// An accepted connection. Counts until HTTP ends; a WebSocket or an event stream is then counted by its [`Place`].
#[derive(Debug)]
pub struct Accepted {
    places: Arc<Places>,
    /// Where it comes from, unless a proxy is there.
    address: Option<IpAddr>,
}

/// The place of one client, for as long as this is there.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    /// Where the client is, as far as that is known; of IPv6 its network.
    address: Option<IpAddr>,
    /// Whether no proxy stands between.
    is_direct: bool,
    /// Whether this counts the connection as well, which [`Accepted`] no longer does.
    has_connection: AtomicBool,
}

impl Accepted {
    /// Whether there are so many connections, in all or from its address, that none should be kept for a next request.
    pub fn is_crowded(&self) -> bool {
        let (places, taken) = (&self.places, self.places.taken.lock());
        let is_crowd = |accepted: usize, most: usize| accepted > most - most / KEPT_PART;
        let from_address = self.address.and_then(|address| Some(taken.addresses.get(&address)?.accepted));
        places.in_all.is_some_and(|most| is_crowd(taken.accepted, most))
            || places.per_address.zip(from_address).is_some_and(|(most, accepted)| is_crowd(accepted, most))
    }
}

impl Place {
    /// Where the client is, as far as that is known; of IPv6 its network of 64 bits.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The client's connection outlives its HTTP request, and is counted by this place from here on.
    pub fn keep_connection(&self) {
        if !self.has_connection.swap(true, Relaxed) {
            self.places.taken.lock().accept(self.direct_address());
        }
    }

    /// The address that its connection is counted under.
    fn direct_address(&self) -> Option<IpAddr> {
        self.address.filter(|_| self.is_direct)
    }
}

impl Taken {
    fn accept(&mut self, address: Option<IpAddr>) {
        self.accepted += 1;
        if let Some(address) = address {
            self.addresses.entry(address).or_default().accepted += 1;
        }
    }

    fn release(&mut self, address: Option<IpAddr>) {
        self.accepted -= 1;
        self.leave(address, |from| from.accepted -= 1);
    }

    /// Has something less come from `address`.
    fn leave(&mut self, address: Option<IpAddr>, less: impl FnOnce(&mut FromAddress)) {
        let Some(address) = address else { return };
        if let Entry::Occupied(mut entry) = self.addresses.entry(address) {
            less(entry.get_mut());
            if entry.get().clients == 0 && entry.get().accepted == 0 {
                entry.remove();
            }
        }
    }
}

impl Places {
    pub(super) fn new(limits: &config::Limits, metrics: Arc<Metrics>) -> Self {
        Self {
            in_all: limits.connections,
            per_address: limits.per_address,
            proxies: limits.trusted_proxies.clone(),
            metrics,
            taken: Mutex::default(),
        }
    }

    /// Counts a connection from `peer` that has been accepted.
    pub(super) fn accept(self: &Arc<Self>, peer: Option<SocketAddr>) -> Result<Accepted, TooMany> {
        let address = peer.filter(|peer| !self.proxies.contain(peer.ip())).map(|peer| network(peer.ip()));
        let mut taken = self.taken.lock();
        if self.in_all.is_some_and(|most| taken.accepted >= most + REFUSED_CONNECTIONS) {
            return Err(TooMany::InAll);
        }
        if let (Some(address), Some(most)) = (address, self.per_address)
            && taken.addresses.get(&address).is_some_and(|from| from.accepted >= most + REFUSED_FROM_ADDRESS)
        {
            return Err(TooMany::FromAddress);
        }
        let address = address.filter(|_| self.per_address.is_some());
        taken.accept(address);
        Ok(Accepted { places: self.clone(), address })
    }

    /// A place for a client that comes from `peer` with these headers.
    pub(super) fn take(self: &Arc<Self>, peer: Option<SocketAddr>, headers: &HeaderMap) -> Result<Place, TooMany> {
        let (address, is_direct) = self.address(peer, headers);
        let mut taken = self.taken.lock();
        if self.in_all.is_some_and(|most| taken.clients >= most) {
            return Err(TooMany::InAll);
        }
        if let (Some(address), Some(most)) = (address, self.per_address) {
            let from = taken.addresses.entry(address).or_default();
            if from.clients >= most {
                return Err(TooMany::FromAddress);
            }
            from.clients += 1;
        }
        taken.clients += 1;
        let is_direct = is_direct && self.per_address.is_some();
        Ok(Place { places: self.clone(), address, is_direct, has_connection: AtomicBool::new(false) })
    }

    /// Where a client is, as far as that is known: the peer, or what a proxy says that is to be believed; and whether it is the
    /// peer. A unix socket has a proxy at its other end.
    pub(super) fn address(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> (Option<IpAddr>, bool) {
        match peer {
            Some(peer) if !self.proxies.contain(peer.ip()) => (Some(network(peer.ip())), true),
            _ => {
                let told = real_ip(headers).unwrap_or_else(|error| {
                    self.metrics.addresses_unreadable.inc();
                    // Without the value, which may come from the client.
                    let peer = peer.map(|peer| peer.ip());
                    limited!(warn, "X-Real-IP cannot be read: this client has no address for limits", %error, ?peer);
                    None
                });
                (told.map(network), false)
            }
        }
    }
}

/// What addresses are counted by: of IPv6 the network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> (128 - NETWORK_BITS) << (128 - NETWORK_BITS)))
        }
        address => address,
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        self.places.taken.lock().release(self.address);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.clients -= 1;
        taken.leave(self.address.filter(|_| self.places.per_address.is_some()), |from| from.clients -= 1);
        if *self.has_connection.get_mut() {
            taken.release(self.direct_address());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(vars: &[(&str, &str)]) -> Arc<Places> {
        let api = [("API_URL", "http://api/")];
        let vars = api.iter().chain(vars).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Arc::new(Places::new(&config::from_vars(vars).unwrap().connection.limits, Arc::default()))
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
    fn connections_count_from_their_acceptance_and_a_socket_counts_once() {
        let places = places(&[("MAX_CONNECTIONS", "4"), ("MAX_CONNECTIONS_PER_ADDRESS", "2")]);
        let accept = |peer: &str| places.accept(peer.parse().ok());
        let mut accepted: Vec<_> =
            (0..2 + REFUSED_FROM_ADDRESS).map(|port| accept(&format!("10.0.0.1:{port}")).unwrap()).collect();
        assert_eq!(accept("10.0.0.1:99").err(), Some(TooMany::FromAddress));
        // A socket keeps its connection counted when HTTP is over; a long poll does not outlive that.
        let socket = take(&places, "10.0.0.1:1", None).unwrap();
        socket.keep_connection();
        socket.keep_connection();
        let stream = take(&places, "10.0.0.1:2", None).unwrap();
        drop(accepted.pop());
        assert_eq!(accept("10.0.0.1:99").err(), Some(TooMany::FromAddress));
        drop((stream, accepted.pop()));
        accepted.push(accept("10.0.0.1:99").unwrap());
        drop(socket);
        // Nothing is known of who is behind a proxy or a unix socket; all of them count in all.
        let is_crowded = |accepted: &[Accepted]| accepted[0].is_crowded();
        accepted.truncate(2);
        accepted.push(accept("127.0.0.1:1").unwrap());
        assert!(!is_crowded(&accepted));
        accepted.push(accept("unix").unwrap());
        assert!(is_crowded(&accepted));
        while accepted.len() < 4 + REFUSED_CONNECTIONS {
            accepted.push(accept("127.0.0.1:1").unwrap());
        }
        assert_eq!(accept("127.0.0.1:1").err(), Some(TooMany::InAll));
        drop(accepted);
        let taken = places.taken.lock();
        assert_eq!((taken.accepted, taken.clients, taken.addresses.len()), (0, 0, 0));
    }

    #[test]
    fn what_a_header_says_is_believed_of_proxies_only() {
        let places = places(&[("TRUSTED_PROXIES", "10.0.0.0/24")]);
        let address =
            |peer: &str, real| take(&places, peer, real).unwrap().address().map(|address| address.to_string());
        assert_eq!(address("10.0.0.9:1", Some("1.2.3.4")).as_deref(), Some("1.2.3.4"));
        assert_eq!(address("10.0.1.9:1", Some("1.2.3.4")).as_deref(), Some("10.0.1.9"));
        assert_eq!(address("10.0.0.9:1", None), None, "all clients of a proxy are not one");
        assert_eq!(address("10.0.0.9:1", Some("203.0.113.7:40123")).as_deref(), Some("203.0.113.7"));
        assert_eq!(address("10.0.0.9:1", Some("[2001:db8::1]:40123")).as_deref(), Some("2001:db8::"));
        assert_eq!(address("10.0.0.9:1", Some("1.1.1.1, 203.0.113.7")).as_deref(), Some("203.0.113.7"));
        assert_eq!(places.metrics.addresses_unreadable.get(), 0);
        assert_eq!(address("10.0.0.9:1", Some("x")), None);
        assert_eq!(places.metrics.addresses_unreadable.get(), 1);
        assert_eq!(address("10.0.1.9:1", Some("x")).as_deref(), Some("10.0.1.9"), "not looked at");
        assert_eq!(places.metrics.addresses_unreadable.get(), 1);
        assert_eq!(address("unix", Some("1.2.3.4")).as_deref(), Some("1.2.3.4"));
        assert_eq!(address("[2001:db8:1:2:3::4]:1", None).as_deref(), Some("2001:db8:1:2::"));
        assert_eq!(address("[::ffff:9.9.9.9]:1", None).as_deref(), Some("9.9.9.9"));
    }
}
