//! Candidates: addresses that a node might be reached at, and which of them are worth a probe.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Local;
use crate::identity;

/// How it is known that a node might be there.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// An interface of the node has this address.
    Host,
    /// Others see the node there.
    Reflexive,
    /// A router was asked to forward from there.
    Mapped,
    /// The address that others see, with the node's own port: some routers keep it.
    Guessed,
    /// The port that the node's router should give out next.
    Predicted,
    /// A probe came from there.
    PeerReflexive,
}

impl Kind {
    /// Its number in offers.
    pub const fn code(self) -> u8 {
        match self {
            Self::Host => 1,
            Self::Reflexive => 2,
            Self::Mapped => 3,
            Self::Guessed => 4,
            Self::Predicted => 5,
            Self::PeerReflexive => 6,
        }
    }

    /// The kind with this number, if it can be offered.
    pub const fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Host),
            2 => Some(Self::Reflexive),
            3 => Some(Self::Mapped),
            4 => Some(Self::Guessed),
            _ => None,
        }
    }

    /// As it is called in the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Reflexive => "reflexive",
            Self::Mapped => "port-mapped",
            Self::Guessed => "guessed",
            Self::Predicted => "predicted",
            Self::PeerReflexive => "peer-reflexive",
        }
    }
}

/// An address that a node might be reached at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Candidate {
    /// How it is known.
    pub kind: Kind,
    /// Where it is.
    pub address: SocketAddr,
}

impl Candidate {
    /// In which order to try them: IPv6 hosts, IPv4 hosts, then what others see, and guesses last (after RFC 8305).
    pub(super) fn order(&self) -> (u8, bool) {
        let place = match self.kind {
            Kind::Host => 0,
            Kind::Mapped | Kind::Reflexive | Kind::PeerReflexive => 1,
            Kind::Guessed | Kind::Predicted => 2,
        };
        (place, self.address.is_ipv4())
    }
}

/// Whether anybody could be reached there, as far as the address alone tells.
pub fn is_plausible(address: &SocketAddr) -> bool {
    if address.port() == 0 {
        return false;
    }
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            !ip.is_unspecified()
                && !ip.is_loopback()
                && !ip.is_multicast()
                && !ip.is_broadcast()
                && !ip.is_link_local()
                && ip.octets()[0] != 0
                && ip.octets()[0] < 240
        }
        // A link-local address says nothing without a link.
        IpAddr::V6(ip) => {
            !ip.is_unspecified()
                && !ip.is_loopback()
                && !ip.is_multicast()
                && !ip.is_unicast_link_local()
                && !identity::is_overlay(ip)
        }
    }
}

/// Whether the address means something only inside somebody's site.
pub(crate) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || is_carrier(ip),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// 100.64.0.0/10 (RFC 6598): between a carrier's router and those of its customers.
pub(crate) fn is_carrier(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    a == 100 && b & 0xC0 == 64
}

/// Whether both are most likely on one link: in the same /24 or /64.
pub(super) fn is_near(one: IpAddr, other: IpAddr) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            one.octets()[..3] == other.octets()[..3] && is_private(one.into())
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => prefix64(one) == prefix64(other),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn prefix64(ip: Ipv6Addr) -> u64 {
    (ip.to_bits() >> 64) as u64
}

impl Local {
    /// Whether an address is on a link of ours.
    pub(super) fn is_near(&self, ip: IpAddr) -> bool {
        self.hosts.iter().any(|host| is_near(host.ip(), ip))
    }

    /// Whether an address that a peer has named may be probed. `is_same_site`: others see the peer at the same address as us.
    pub(super) fn may_probe(&self, address: &SocketAddr, is_same_site: bool) -> bool {
        let ip = address.ip();
        let has_family = |host: &SocketAddr| host.is_ipv4() == address.is_ipv4();
        if !is_plausible(address)
            || self.hosts.contains(address)
            || !self.hosts.iter().any(has_family)
            || self.refused.iter().any(|prefix| prefix.contains(ip))
        {
            return false;
        }
        if !is_private(ip) || is_same_site || self.is_near(ip) {
            return true;
        }
        let shares = |host: &SocketAddr| match (host.ip(), ip) {
            (IpAddr::V4(host), IpAddr::V4(ip)) => is_carrier(host) && is_carrier(ip),
            // One site has one /48 of unique local addresses (RFC 4193).
            (IpAddr::V6(host), IpAddr::V6(ip)) => host.segments()[..3] == ip.segments()[..3],
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        };
        self.hosts.iter().any(shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(hosts: &[&str]) -> Local {
        Local {
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            ..Local::default()
        }
    }

    #[test]
    fn only_addresses_where_a_peer_can_be_are_probed() {
        let mut local = local(&["192.168.1.2:7000", "[fd00:1:2:3::1]:7000"]);
        local.refused.push("203.0.113.0/25".parse().unwrap());
        for (address, may, may_at_same_site) in [
            ("192.0.2.1:7000", true, true),
            ("[2001:db8::1]:7000", true, true),
            ("192.168.1.3:7000", true, true),
            ("192.168.1.2:7000", false, false),
            ("192.168.2.3:7000", false, true),
            ("10.0.0.1:7000", false, true),
            ("100.64.0.1:7000", false, true),
            ("[fd00:1:2:4::1]:7000", true, true),
            ("[fd00:1:3::1]:7000", false, true),
            ("127.0.0.1:7000", false, false),
            ("0.0.0.0:7000", false, false),
            ("0.1.2.3:7000", false, false),
            ("224.0.0.1:7000", false, false),
            ("255.255.255.255:7000", false, false),
            ("240.0.0.1:7000", false, false),
            ("169.254.1.1:7000", false, false),
            ("192.0.2.1:0", false, false),
            ("[::1]:7000", false, false),
            ("[::]:7000", false, false),
            ("[ff02::1]:7000", false, false),
            ("[fe80::1]:7000", false, false),
            ("[600::1]:7000", false, false),
            ("[::ffff:127.0.0.1]:7000", false, false),
            ("203.0.113.1:7000", false, false),
            ("203.0.113.200:7000", true, true),
        ] {
            let parsed = address.parse().unwrap();
            let found = [false, true].map(|site| local.may_probe(&parsed, site));
            assert_eq!(found, [may, may_at_same_site], "{address}");
        }
    }

    #[test]
    fn without_an_address_of_a_family_none_of_it_is_probed() {
        let local = local(&["192.0.2.9:7000"]);
        assert!(!local.may_probe(&"[2001:db8::1]:7000".parse().unwrap(), false));
        assert!(local.may_probe(&"198.51.100.1:7000".parse().unwrap(), false));
    }
}
