//! The delivery step: where an authenticated packet from outside goes.
//!
//! This is where the promise of the source check is kept (design, Data plane): a packet reaches the TUN only out of the session whose
//! key owns its source address, and only if its destination is this node or a workload of its; a leaf's packets go on as if read from a TUN. Packets that carry
//! a datagram of somebody's session between two nodes are the exception that makes relaying possible: nobody vouches for their source, and
//! all that ever comes of them is another datagram to open, or to send on.

use std::sync::Arc;

use filter::Ports;
use routing::wire::{GROUP as BABEL_GROUP, PORT as BABEL_PORT};
use wireguard::Verdict;

use crate::{
    discard::Reason,
    fib::{Carrier, Fib, Lookup, NextHop, Relay, Role, Route, Workload},
    icmp::{self, Unreachable},
    packet::{
        FRAGMENT, HeaderError, ICMPV6, Ipv6Header, UDP, is_neighbour_discovery, udp_ports,
        upper_layer,
    },
    relayed::Relayed,
    signal,
};

/// How the datagram came that a packet was in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arrival {
    /// Over the underlay.
    Direct,
    /// Inside another session, through other nodes. Nothing is nested deeper.
    Relayed,
}

/// What becomes of a decrypted packet.
#[derive(Debug)]
pub enum Delivery<'a> {
    /// To the host behind the TUN device.
    Host,
    /// To a workload of this node, behind its own device.
    Workload(&'a Arc<Workload>),
    /// To the name server of this node, from a leaf.
    Resolver,
    /// Into another session: from or to a leaf of ours.
    Forward(&'a Arc<Carrier>),
    /// It carries a whole datagram for a session of ours.
    Nested,
    /// It carries a fragment of a datagram for a session of ours.
    Part,
    /// It goes to another node, through this neighbour.
    Transit(&'a Arc<NextHop>),
    /// It tells the node loop something about routes.
    Babel,
    /// It tells the node loop something about its session.
    Signal,
    /// A relay says that a datagram of ours got no further.
    RelayError,
    /// Nowhere.
    Discard(Reason),
    /// Nowhere, and the sender is told why.
    Refuse(Reason, Unreachable),
}

/// Where a packet goes that the session of `carrier` brought, with this verdict on its source.
pub fn deliver<'a>(
    fib: &'a Fib,
    carrier: &Carrier,
    arrival: Arrival,
    verdict: Verdict,
    packet: &[u8],
) -> Delivery<'a> {
    let header = match Ipv6Header::parse(packet) {
        Ok(header) => header,
        Err(HeaderError::Version) => return Delivery::Discard(Reason::NotIpv6),
        Err(HeaderError::Truncated) => return Delivery::Discard(Reason::Malformed),
    };
    if verdict == Verdict::Foreign && header.source.is_unicast_link_local() {
        return on_link(fib, carrier, arrival, &header, packet);
    }
    if let Some(delivery) = between_nodes(fib, carrier, arrival, verdict, &header, packet) {
        return delivery;
    }
    // Extension headers without end cost every receiver time for each, and hide what is behind them from every filter.
    let Some(upper) = upper_layer(packet) else {
        return Delivery::Discard(Reason::Malformed);
    };
    if is_neighbour_discovery(&upper, packet) {
        return Delivery::Discard(Reason::LinkScope);
    }
    match (verdict, fib.lookup(header.destination)) {
        (Verdict::Foreign, _) => Delivery::Discard(Reason::OutsideSource),
        (Verdict::Owned | Verdict::Leaf, Lookup::Host) => Delivery::Host,
        (Verdict::Owned | Verdict::Leaf, Lookup::Workload(workload)) => {
            Delivery::Workload(workload)
        }
        (Verdict::Owned, Lookup::Session(leaf)) if fib.is_ours(header.destination) => {
            Delivery::Forward(leaf)
        }
        // Other nodes have name servers of their own.
        (
            Verdict::Owned,
            Lookup::Resolver | Lookup::Session(_) | Lookup::Unknown | Lookup::NotOverlay,
        ) => Delivery::Discard(Reason::OutsideDestination),
        (Verdict::Leaf, Lookup::Resolver) => Delivery::Resolver,
        (Verdict::Leaf, Lookup::Session(session)) => Delivery::Forward(session),
        (Verdict::Leaf, Lookup::Unknown) => Delivery::Refuse(Reason::NoRoute, Unreachable::NoRoute),
        (Verdict::Leaf, Lookup::NotOverlay) => Delivery::Discard(Reason::NotOverlay),
    }
}

/// What is open to everybody where a packet goes that the session of `carrier` brought, if it is this node, or somebody behind it: then the
/// filter has to be asked.
pub fn judged<'a>(
    fib: &'a Fib,
    carrier: &Carrier,
    arrival: Arrival,
    verdict: Verdict,
    packet: &[u8],
) -> Option<&'a [Ports]> {
    match deliver(fib, carrier, arrival, verdict, packet) {
        Delivery::Host => Some(&[]),
        Delivery::Workload(workload) => Some(&workload.publish),
        Delivery::Forward(to) if to.is_ours() => Some(&[]),
        Delivery::Forward(_)
        | Delivery::Resolver
        | Delivery::Nested
        | Delivery::Part
        | Delivery::Transit(_)
        | Delivery::Babel
        | Delivery::Signal
        | Delivery::RelayError
        | Delivery::Discard(_)
        | Delivery::Refuse(..) => None,
    }
}

/// A packet of the link itself: from the peer's link-local address, to ours or to all Babel routers.
fn on_link<'a>(
    fib: &Fib,
    carrier: &Carrier,
    arrival: Arrival,
    header: &Ipv6Header,
    packet: &[u8],
) -> Delivery<'a> {
    let (is_peer, is_node) = match carrier.role {
        Role::Node { link_local, .. } => (link_local == header.source, true),
        Role::Guest { link_local } if arrival == Arrival::Direct => {
            (link_local == header.source, true)
        }
        Role::Guest { .. } => (false, false),
        Role::StockRouter { .. } => (true, false),
        Role::Leaf => (false, false),
    };
    if !is_peer {
        return Delivery::Discard(Reason::OutsideSource);
    }
    let is_to_us = header.destination == fib.own().link_local;
    let routes = !matches!(carrier.role, Role::Guest { .. });
    match udp_ports(header, packet) {
        Some((BABEL_PORT, BABEL_PORT))
            if routes
                && arrival == Arrival::Direct
                && (is_to_us || header.destination == BABEL_GROUP) =>
        {
            Delivery::Babel
        }
        Some((signal::PORT, signal::PORT)) if is_node && is_to_us => Delivery::Signal,
        Some(_) | None => Delivery::Discard(Reason::OutsideDestination),
    }
}

/// A packet between two nodes that carries a datagram of their session, or the error of a relay about one.
fn between_nodes<'a>(
    fib: &'a Fib,
    carrier: &Carrier,
    arrival: Arrival,
    verdict: Verdict,
    header: &Ipv6Header,
    packet: &[u8],
) -> Option<Delivery<'a>> {
    let relay = match carrier.role {
        Role::Node { relay, .. } | Role::StockRouter { relay } => relay,
        Role::Leaf | Role::Guest { .. } => return None,
    };
    let for_us = match header.next_header {
        UDP | FRAGMENT => match Relayed::parse(header, packet)? {
            Relayed::Whole(_) => Delivery::Nested,
            // A neighbour sends nothing of its own session through that session: these are a user's.
            Relayed::Part
                if verdict == Verdict::Owned && header.destination == fib.own().address =>
            {
                return None;
            }
            Relayed::Part => Delivery::Part,
        },
        ICMPV6 if icmp::is_relay_error(header, packet) => Delivery::RelayError,
        _ => return None,
    };
    if arrival == Arrival::Relayed {
        return Some(Delivery::Discard(Reason::NestedTwice));
    }
    if fib.is_ours(header.source) {
        return Some(Delivery::Discard(Reason::OutsideSource));
    }
    if header.destination == fib.own().address {
        return Some(for_us);
    }
    if relay == Relay::No {
        return Some(Delivery::Discard(Reason::RelayRefused));
    }
    // Back where it came from would be a loop of two, whatever the route says meanwhile.
    let came_from = |next_hop: &NextHop| Arc::ptr_eq(&next_hop.session, &carrier.session);
    Some(match fib.route(header.destination) {
        Route::Via(next_hop) if !came_from(next_hop) => Delivery::Transit(next_hop),
        Route::Via(_) | Route::Unreachable | Route::Unknown => {
            Delivery::Refuse(Reason::RelayNoRoute, Unreachable::NoRoute)
        }
    })
}

#[cfg(test)]
mod tests;
