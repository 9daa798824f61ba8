//! What is inside datagrams. Simulated sessions use no cryptography, so that everybody can look; nobody but liars and the oracle does.

use std::net::Ipv6Addr;

use wireguard::Message;

use crate::{
    icmp,
    labelled::{self, Head},
    packet::Ipv6Header,
    relayed::{self, Relayed},
};

/// What an outer datagram carries, as far as a relay is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried<'a> {
    /// A handshake, a keepalive, or something that is not WireGuard.
    Nothing,
    /// A packet of the two ends of the outer session: of a user, of routing, a signal.
    Own(&'a [u8]),
    /// A datagram of the session between two nodes.
    Relayed {
        /// From which node.
        from: Ipv6Addr,
        /// To which.
        to: Ipv6Addr,
        /// The datagram; none: this is only a fragment of one.
        datagram: Option<&'a [u8]>,
    },
    /// What a relay says about such a datagram.
    Error,
}

/// The packet in a data message.
pub(super) fn packet(datagram: &[u8]) -> Option<&[u8]> {
    match Message::of(datagram)? {
        Message::Data { .. } => datagram
            .get(16..datagram.len() - 16)
            .filter(|it| !it.is_empty()),
        Message::Initiation | Message::Response | Message::Cookie { .. } => None,
    }
}

/// Looks into an outer datagram.
pub fn carried(datagram: &[u8]) -> Carried<'_> {
    if Head::of(datagram).is_some() {
        return under_label(&datagram[labelled::HEADER..]);
    }
    let Some(packet) = packet(datagram) else {
        return Carried::Nothing;
    };
    let Ok(header) = Ipv6Header::parse(packet) else {
        return Carried::Own(packet);
    };
    match Relayed::parse(&header, packet) {
        Some(relayed) => Carried::Relayed {
            from: header.source,
            to: header.destination,
            datagram: match relayed {
                Relayed::Whole(datagram) => Some(datagram),
                Relayed::Part => None,
            },
        },
        None if icmp::is_relay_error(&header, packet) && relayed::is_node(header.source) => {
            Carried::Error
        }
        None => Carried::Own(packet),
    }
}

/// What is under a label: only relays know between whom, but a packet in it tells as well.
fn under_label(datagram: &[u8]) -> Carried<'_> {
    let header = packet(datagram).and_then(|packet| Ipv6Header::parse(packet).ok());
    let node = |address: Ipv6Addr| Ipv6Addr::from_bits(address.to_bits() >> 64 << 64 | 1);
    let unknown = Ipv6Addr::UNSPECIFIED;
    Carried::Relayed {
        from: header.map_or(unknown, |header| node(header.source)),
        to: header.map_or(unknown, |header| node(header.destination)),
        datagram: Some(datagram),
    }
}

/// Whether a packet of this session's ends may be in its datagrams in the clear: it is from one to the other, or link-local.
pub(super) fn belongs(packet: &[u8], from: Ipv6Addr, to: Ipv6Addr) -> bool {
    let network = |address: Ipv6Addr| address.to_bits() >> 64;
    Ipv6Header::parse(packet).is_ok_and(|header| {
        header.source.is_unicast_link_local()
            || (network(header.source) == network(from)
                && network(header.destination) == network(to))
    })
}
