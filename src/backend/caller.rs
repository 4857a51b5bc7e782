//! On whose account a call to the API is made.

use std::net::IpAddr;

/// Account of a call. Slots, turns in the line, times to come back and memory are shared out evenly between accounts, so that
/// one client cannot have all of them, however many cookies it makes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Caller {
    /// The client's address; of IPv6, its network.
    Address(IpAddr),
    /// Hash of the forwarded headers, where the address is not known: clients behind a proxy that does not tell their addresses
    /// are not one account.
    Identity(u64),
}
