//! What the network lets this node do.

use std::net::{IpAddr, SocketAddr};

use routing::NeighbourState;

use super::{Node, why};
use crate::{
    admin::{FamilyReach, Netcheck, PortMapped, Role, UdpReach},
    path::{Filtering, Mapping},
};

impl Node {
    /// What neighbours, the router and the probes of links have told of the network so far. Nothing is sent.
    pub fn netcheck(&self) -> Netcheck {
        let up = || {
            let links = self.links.iter().map(|(_, link)| link);
            links.filter(|link| link.state != NeighbourState::Down)
        };
        let by = |is_ipv4: bool| {
            let hosts = self.reach.hosts.iter().copied();
            let is_of_it = |address: &SocketAddr| address.is_ipv4() == is_ipv4;
            let links = up().filter(|link| !link.endpoint.is_stream());
            let links = links.filter(|link| is_of_it(&link.endpoint.remote)).count();
            FamilyReach {
                addresses: hosts.filter(is_of_it).collect(),
                links: u32::try_from(links).unwrap_or(u32::MAX),
            }
        };
        let (ipv4, ipv6) = (by(true), by(false));
        let udp = match (ipv4.links + ipv6.links, up().count()) {
            (1.., _) => UdpReach::Works,
            (0, 1..) => UdpReach::Blocked,
            (0, 0) => UdpReach::Unknown,
        };
        let nat = self.nat();
        let role = role(
            udp,
            nat.mapping,
            nat.filtering,
            self.reach.mapped.is_some(),
            &ipv6,
        );
        let widest = up().map(|link| link.liveness.mtu()).max();
        Netcheck {
            udp,
            ipv4,
            ipv6,
            nat: why::behaviour(nat),
            port_mapping: self.reach.mapped.map(|mapped| PortMapped {
                protocol: mapped.protocol.name().to_owned(),
                external: mapped.external.into(),
            }),
            mtu: widest.and_then(|mtu| u16::try_from(mtu).ok()),
            interface_mtu: self.interface.mtu,
            role,
            role_text: text(role).to_owned(),
            fix: fix(role, udp).map(str::to_owned),
        }
    }
}

fn role(
    udp: UdpReach,
    mapping: Mapping,
    filtering: Filtering,
    is_mapped: bool,
    ipv6: &FamilyReach,
) -> Role {
    match (udp, mapping) {
        (UdpReach::Blocked, _) => Role::Relayed,
        (UdpReach::Unknown, _) => Role::Unknown,
        (UdpReach::Works, _) if is_mapped || filtering == Filtering::EndpointIndependent => {
            Role::Reachable
        }
        (UdpReach::Works, Mapping::None) => Role::Reachable,
        (
            UdpReach::Works,
            Mapping::EndpointIndependent { .. }
            | Mapping::AddressDependent
            | Mapping::Sequential { .. },
        ) => Role::Direct,
        (UdpReach::Works, Mapping::Random) => Role::Hard,
        (UdpReach::Works, Mapping::Unknown) if ipv6.addresses.iter().any(is_public) => Role::Direct,
        (UdpReach::Works, Mapping::Unknown) => Role::Unknown,
    }
}

/// Whether an address of IPv6 is one of the Internet.
fn is_public(address: &SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V6(ip) if ip.segments()[0] & 0xe000 == 0x2000)
}

const fn text(role: Role) -> &'static str {
    match role {
        Role::Reachable => {
            "reachable: others can list it as a peer, and it can introduce and relay"
        }
        Role::Direct => "direct: straight ways to most nodes are found with the help of a member",
        Role::Hard => {
            "hard to reach: straight ways to nodes with lenient routers only, and to others by guessing; through members otherwise"
        }
        Role::Relayed => "relayed: packets go through members alone",
        Role::Unknown => "not known yet: too few neighbours have told what they see",
    }
}

const fn fix(role: Role, udp: UdpReach) -> Option<&'static str> {
    match (role, udp) {
        (_, UdpReach::Blocked) => Some("let UDP out of this network's firewall"),
        (Role::Hard, _) => Some(
            "forward the WireGuard port on the router, let it map ports (UPnP, NAT-PMP, PCP), or use IPv6",
        ),
        (Role::Unknown, _) => {
            Some("meshd status    (a neighbour outside this network tells what it sees)")
        }
        (Role::Reachable | Role::Direct | Role::Relayed, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_can_be_follows_from_its_router() {
        let family = |address: &str| FamilyReach {
            addresses: vec![address.parse().unwrap()],
            links: 0,
        };
        let (public, none) = (family("[2001:db8::1]:1"), family("[fd00::1]:1"));
        let (ei, apd, unknown) = (
            Filtering::EndpointIndependent,
            Filtering::AddressAndPortDependent,
            Filtering::Unknown,
        );
        let keeps = Mapping::EndpointIndependent { keeps_port: true };
        let cases = [
            (
                UdpReach::Works,
                Mapping::None,
                unknown,
                false,
                &none,
                Role::Reachable,
            ),
            (UdpReach::Works, keeps, ei, false, &none, Role::Reachable),
            (
                UdpReach::Works,
                Mapping::Random,
                apd,
                true,
                &none,
                Role::Reachable,
            ),
            (UdpReach::Works, keeps, apd, false, &none, Role::Direct),
            (
                UdpReach::Works,
                Mapping::Sequential { delta: 1 },
                apd,
                false,
                &none,
                Role::Direct,
            ),
            (
                UdpReach::Works,
                Mapping::Random,
                apd,
                false,
                &none,
                Role::Hard,
            ),
            (
                UdpReach::Works,
                Mapping::Unknown,
                unknown,
                false,
                &public,
                Role::Direct,
            ),
            (
                UdpReach::Works,
                Mapping::Unknown,
                unknown,
                false,
                &none,
                Role::Unknown,
            ),
            (UdpReach::Blocked, keeps, ei, true, &public, Role::Relayed),
            (UdpReach::Unknown, keeps, ei, false, &public, Role::Unknown),
        ];
        for (udp, mapping, filtering, is_mapped, ipv6, expected) in cases {
            let found = role(udp, mapping, filtering, is_mapped, ipv6);
            assert_eq!(
                found, expected,
                "{udp:?} {mapping:?} {filtering:?} {is_mapped}"
            );
        }
    }
}
