//! Hygiene: where datagrams may go because somebody says that a node is there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnetwork::IpNetwork;

use super::{found::Source, is_overlay};
use crate::path::candidate::is_private;

/// An address of this machine, with the network that it is in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LocalNetwork {
    /// Index of the interface.
    pub interface: u32,
    /// Our address, and the length of the prefix that is on the link.
    pub network: IpNetwork,
}

/// The addresses and networks of this machine.
#[derive(Debug, Default)]
pub(super) struct LocalNetworks(pub(super) Vec<LocalNetwork>);

impl LocalNetworks {
    /// Whether a datagram may go there because this source says so.
    pub(super) fn is_usable(&self, endpoint: &SocketAddr, source: Source) -> bool {
        // Anybody can tell us of the ports of services; a node listens there only if it says so itself.
        let is_own_word = matches!(source, Source::Lan | Source::Remembered);
        let least_port = if is_own_word { 1 } else { 1024 };
        let is_ours = self.0.iter().any(|own| own.network.ip() == endpoint.ip());
        if endpoint.port() < least_port || is_ours || is_overlay(endpoint) {
            return false;
        }
        let is_shared = self.is_on_link(endpoint);
        match (reach(endpoint), source) {
            (Reach::Nowhere, _) => false,
            (Reach::Link, Source::Lan | Source::Remembered) => true,
            (Reach::Link, _) => false,
            (Reach::Site | Reach::World, Source::Lan) => is_shared,
            (Reach::Site, Source::Remembered) => true,
            (Reach::Site, _) => is_shared,
            (Reach::World, _) => true,
        }
    }

    /// Whether an address is in a network that one of our interfaces is in, without a router between.
    fn is_on_link(&self, endpoint: &SocketAddr) -> bool {
        self.interface_of(endpoint).is_some()
    }

    /// The interface that leads to an address without a router between.
    pub(super) fn interface_of(&self, endpoint: &SocketAddr) -> Option<u32> {
        if let SocketAddr::V6(v6) = endpoint
            && v6.ip().is_unicast_link_local()
            && v6.scope_id() != 0
        {
            return Some(v6.scope_id());
        }
        // A whole Internet on one interface is a tunnel.
        let is_link = |network: &IpNetwork| network.prefix() >= 8;
        let mut local = self.0.iter();
        local
            .find(|own| is_link(&own.network) && own.network.contains(endpoint.ip()))
            .map(|own| own.interface)
    }
}

/// How far an address reaches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reach {
    /// Nobody is there, or everybody.
    Nowhere,
    /// One link.
    Link,
    /// One site: whoever is there may be somebody else elsewhere.
    Site,
    /// Everywhere.
    World,
}

pub(super) fn reach(endpoint: &SocketAddr) -> Reach {
    match endpoint {
        SocketAddr::V4(v4) => reach_v4(*v4.ip()),
        SocketAddr::V6(v6) => reach_v6(*v6.ip(), v6.scope_id()),
    }
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    match ip.octets()[0] {
        0 | 127 | 224.. => Reach::Nowhere,
        _ if is_private(ip.into()) || ip.is_link_local() => Reach::Site,
        _ => Reach::World,
    }
}

fn reach_v6(ip: Ipv6Addr, scope: u32) -> Reach {
    // The first 96 bits are zero: unspecified, loopback, and forms of IPv4 that no socket of ours sends to.
    let is_old = ip.segments()[..5] == [0; 5];
    if is_old || ip.is_multicast() {
        Reach::Nowhere
    } else if ip.is_unicast_link_local() {
        // Without the interface it says nothing.
        if scope == 0 {
            Reach::Nowhere
        } else {
            Reach::Link
        }
    } else if ip.is_unique_local() || ip.segments()[0] & 0xffc0 == 0xfec0 {
        Reach::Site
    } else {
        Reach::World
    }
}

/// What two addresses that are near each other have in common: a provider, most likely.
pub(super) fn region(ip: IpAddr) -> (u8, u32) {
    match ip.to_canonical() {
        IpAddr::V4(v4) => (4, v4.to_bits() >> 16),
        IpAddr::V6(v6) => (6, (v6.to_bits() >> 96) as u32),
    }
}
