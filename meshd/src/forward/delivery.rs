//! The delivery step: where an authenticated packet from outside goes.
//!
//! This is where the promise of the source check is kept (design, Data plane): a packet reaches the TUN only out of the session whose
//! key owns its source address, and only if its destination is this node; a leaf's packets go on as if read from a TUN.

use std::sync::Arc;

use wireguard::{Session, Verdict};

use crate::{
    discard::Reason,
    fib::{Fib, Lookup},
    icmp::Unreachable,
    packet::{HeaderError, Ipv6Header, upper_layer},
};

/// What becomes of a decrypted packet.
#[derive(Debug)]
pub enum Delivery<'a> {
    /// To the host behind the TUN device.
    Host,
    /// Into another session: from or to a leaf of ours.
    Forward(&'a Arc<Session>),
    /// Nowhere.
    Discard(Reason),
    /// Nowhere, and the sender, who is a leaf of ours, is told why.
    Refuse(Reason, Unreachable),
}

/// Where a packet goes that the session with this verdict brought.
pub fn deliver<'a>(fib: &'a Fib, verdict: Verdict, packet: &[u8]) -> Delivery<'a> {
    let destination = match Ipv6Header::parse(packet) {
        Ok(header) => header.destination,
        Err(HeaderError::Version) => return Delivery::Discard(Reason::NotIpv6),
        Err(HeaderError::Truncated) => return Delivery::Discard(Reason::Malformed),
    };
    // Extension headers without end cost every receiver time for each, and hide what is behind them from every filter.
    if upper_layer(packet).is_none() {
        return Delivery::Discard(Reason::Malformed);
    }
    match (verdict, fib.lookup(destination)) {
        (Verdict::Foreign, _) => Delivery::Discard(Reason::OutsideSource),
        (Verdict::Owned | Verdict::Leaf, Lookup::Host) => Delivery::Host,
        (Verdict::Owned, Lookup::Session(leaf)) if fib.is_ours(destination) => {
            Delivery::Forward(leaf)
        }
        (Verdict::Owned, Lookup::Session(_) | Lookup::Unknown | Lookup::NotOverlay) => {
            Delivery::Discard(Reason::OutsideDestination)
        }
        (Verdict::Leaf, Lookup::Session(session)) => Delivery::Forward(session),
        (Verdict::Leaf, Lookup::Unknown) => Delivery::Refuse(Reason::NoRoute, Unreachable::NoRoute),
        (Verdict::Leaf, Lookup::NotOverlay) => Delivery::Discard(Reason::NotOverlay),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv6Addr, time::Instant};

    use ipnetwork::Ipv6Network;
    use wireguard::{Device, Kind, Peer, PrivateKey, Upkeep};

    use super::*;
    use crate::{packet::ipv6, testdata::identity};

    const LEAF: u16 = 0x55;

    /// A FIB with one other node (the second of the pool) and one leaf.
    fn fib() -> Fib {
        let now = Instant::now();
        let mut device = Device::new(identity(0).private_key().clone(), 1);
        let mut add = |key, kind, prefix: Ipv6Network| {
            let peer = Peer {
                key,
                preshared: None,
                kind,
                allowed: vec![prefix],
                endpoints: Vec::new(),
                persistent_keepalive: None,
                upkeep: Upkeep::OnDemand,
            };
            (device.add_peer(peer, now).unwrap(), vec![prefix])
        };
        let node = identity(1).node();
        let other = add(node.public_key(), Kind::Mesh, node.prefix());
        let leaf = add(
            PrivateKey::from_bytes([9; 32]).public(),
            Kind::Stock,
            leaf(LEAF).into(),
        );
        let own = identity(0).node();
        Fib::new(own.address(), own.prefix(), [0; 8], [other, leaf])
    }

    fn leaf(n: u16) -> Ipv6Addr {
        let own = identity(0).node().prefix().ip().segments();
        Ipv6Addr::new(own[0], own[1], own[2], own[3], 0, 0, 0, n)
    }

    fn to(destination: Ipv6Addr) -> Vec<u8> {
        ipv6(identity(1).node().address(), destination, 59, &[])
    }

    /// A word for what happens.
    fn fate(verdict: Verdict, packet: &[u8]) -> String {
        let fib = fib();
        match deliver(&fib, verdict, packet) {
            Delivery::Host => "host".into(),
            Delivery::Forward(session) => format!("to {:?}", session.kind()),
            Delivery::Discard(reason) | Delivery::Refuse(reason, _) => reason.name().into(),
        }
    }

    #[test]
    fn a_foreign_source_never_gets_anywhere() {
        for destination in [
            identity(0).node().address(),
            leaf(LEAF),
            identity(1).node().address(),
        ] {
            assert_eq!(fate(Verdict::Foreign, &to(destination)), "outside-source");
        }
    }

    #[test]
    fn a_node_reaches_this_node_and_its_leaves_and_nothing_else() {
        assert_eq!(
            fate(Verdict::Owned, &to(identity(0).node().address())),
            "host"
        );
        assert_eq!(fate(Verdict::Owned, &to(leaf(LEAF))), "to Stock");
        let elsewhere = [
            "fe80::1",
            "ff02::1",
            "::1",
            "2001:db8::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "600::1",
        ];
        let others = [
            leaf(LEAF + 1),
            identity(1).node().address(),
            identity(2).node().address(),
        ];
        for destination in elsewhere
            .iter()
            .map(|address| address.parse().unwrap())
            .chain(others)
        {
            assert_eq!(
                fate(Verdict::Owned, &to(destination)),
                "outside-destination",
                "{destination}"
            );
        }
    }

    #[test]
    fn a_leaf_reaches_what_this_node_reaches() {
        assert_eq!(
            fate(Verdict::Leaf, &to(identity(0).node().address())),
            "host"
        );
        assert_eq!(fate(Verdict::Leaf, &to(leaf(LEAF))), "to Stock");
        assert_eq!(
            fate(Verdict::Leaf, &to(identity(1).node().address())),
            "to Mesh"
        );
        assert_eq!(
            fate(Verdict::Leaf, &to(identity(2).node().address())),
            "no-route"
        );
        assert_eq!(
            fate(Verdict::Leaf, &to("2001:db8::1".parse().unwrap())),
            "not-overlay"
        );
        assert_eq!(
            fate(Verdict::Leaf, &to("ff02::1".parse().unwrap())),
            "not-overlay"
        );
    }

    #[test]
    fn extension_headers_without_end_go_nowhere() {
        let chain = |count: usize| {
            let mut headers = [60, 0, 1, 4, 0, 0, 0, 0].repeat(count);
            if let Some(last) = headers.chunks_mut(8).next_back() {
                last[0] = 59;
            }
            ipv6(
                identity(1).node().address(),
                identity(0).node().address(),
                60,
                &headers,
            )
        };
        assert_eq!(fate(Verdict::Owned, &chain(3)), "host");
        assert_eq!(fate(Verdict::Owned, &chain(60)), "malformed");
        // A header that runs past the end.
        assert_eq!(fate(Verdict::Owned, &chain(0)), "malformed");
    }

    #[test]
    fn what_is_no_ipv6_packet_goes_nowhere() {
        assert_eq!(fate(Verdict::Owned, &[0x45; 40]), "not-ipv6");
        assert_eq!(
            fate(Verdict::Owned, &to(identity(0).node().address())[..39]),
            "malformed"
        );
    }
}
