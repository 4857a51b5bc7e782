//! Lists of addresses and networks.

use std::net::IpAddr;

/// Networks, each by an address in it and the number of bits that all of its addresses share (RFC 4632 section 3.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<(IpAddr, u8)>);

impl Networks {
    /// `127.0.0.0/8,::1`: an address without bits stands for itself.
    pub(super) fn parse(list: &str) -> Result<Self, String> {
        let network = |text: &str| {
            let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Some(most), |bits| bits.parse().ok().filter(|bits| *bits <= most))?;
            Some((address, bits))
        };
        let names = list.split(',').map(str::trim).filter(|text| !text.is_empty() && *text != "none");
        names
            .map(|text| {
                network(text).ok_or_else(|| format!("has {text}, which is no address like 10.0.0.1 or 10.0.0.0/8"))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether `address` is in one of them; an IPv4 address in IPv6's clothes is one of IPv4.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|(network, bits)| match (network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= u32::from(*bits)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.leading_zeros() >= u32::from(*bits)
            }
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_a_network_when_it_begins_like_it() {
        let networks = Networks::parse("10.1.0.0/16, ::1,192.168.0.7,2001:db8::/33").unwrap();
        for (address, is_in) in [
            ("10.1.255.1", true),
            ("10.2.0.0", false),
            ("::ffff:10.1.0.1", true),
            ("::1", true),
            ("::2", false),
            ("192.168.0.7", true),
            ("192.168.0.6", false),
            ("2001:db8:7fff::1", true),
            ("2001:db8:8000::1", false),
        ] {
            assert_eq!(networks.contain(address.parse().unwrap()), is_in, "{address}");
        }
        assert!(Networks::parse("0.0.0.0/0").unwrap().contain("9.9.9.9".parse().unwrap()));
        assert_eq!(Networks::parse("none"), Ok(Networks::default()));
    }

    #[test]
    fn what_is_no_network_is_named() {
        for text in ["x", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.1:80"] {
            assert!(Networks::parse(text).unwrap_err().contains(text), "{text}");
        }
    }
}
