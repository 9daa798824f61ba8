//! What a fuzzer's bytes do as a packet out of a session: shared by the fuzz target and by `tests/fuzz_corpus.rs`.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Instant;

use meshd::fib::Lookup;
use meshd::fib::Role;
use meshd::forward::delivery::{Arrival, Delivery, deliver};
use meshd::fragment::Reassembly;
use meshd::icmp::{self, RelayError, Unreachable};
use meshd::identity::resolver_address;
use meshd::packet::{self, HEADER, ICMPV6, Ipv6Header};
use meshd::relayed::{self, Relayed};
use meshd::signal::Signal;
use wireguard::Verdict;

use crate::bytes::Bytes;
use crate::scene::{TOKEN, scene};

/// No packet is longer.
const LONGEST: usize = 65_535;

/// The bytes are a packet, most often one with a version and addresses that mean something. It may go only where verdict and destination
/// allow, and an error about it has to be one that RFC 4443 allows.
pub(crate) fn carry(bytes: &[u8]) {
    let scene = scene();
    let mut bytes = Bytes(bytes);
    let (choice, addresses) = (bytes.byte(), bytes.byte());
    let mut packet = bytes.take(LONGEST).to_vec();
    let known = |n: u8| match n & 7 {
        0 => Some(scene.own.address()),
        1 => Some(scene.leaf),
        2 => Some(scene.other.address()),
        3 => Some(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
        4 => Some(Ipv6Addr::UNSPECIFIED),
        5 => Some(scene.far.address()),
        6 => Some(scene.other.link_local()),
        _ => Some(scene.own.link_local()),
    };
    if let Some(header) = packet.first_chunk_mut::<HEADER>() {
        if choice & 0x80 == 0 {
            header[0] = 0x60 | header[0] & 15;
        }
        // The fourth bit of each leaves what the fuzzer wrote.
        let named = |n: u8| known(n).filter(|_| n & 8 == 0);
        for (at, address) in [(8, named(addresses)), (24, named(addresses >> 4))] {
            if let Some(address) = address {
                header[at..at + 16].copy_from_slice(&address.octets());
            }
        }
    }
    if choice & 0x40 == 0
        && let Some(length) = packet.len().checked_sub(HEADER)
    {
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        packet[4..6].copy_from_slice(&length.to_be_bytes());
    }
    let verdict = match choice & 3 {
        0 => Verdict::Owned,
        1 => Verdict::Leaf,
        _ => Verdict::Foreign,
    };

    let arrival = if choice & 0x20 == 0 {
        Arrival::Direct
    } else {
        Arrival::Relayed
    };
    let carrier = match (verdict, choice & 0x10) {
        (Verdict::Leaf, _) => &scene.carriers[1],
        (Verdict::Owned | Verdict::Foreign, 0) => &scene.carriers[0],
        (Verdict::Owned | Verdict::Foreign, _) => &scene.carriers[2],
    };

    let header = Ipv6Header::parse(&packet);
    let upper = packet::upper_layer(&packet);
    if let Ok(header) = header {
        assert!(HEADER + header.payload <= packet.len());
    }
    if let Some(upper) = upper.filter(|upper| !upper.is_later_fragment) {
        assert!((HEADER..=packet.len()).contains(&upper.offset));
    }
    match deliver(&scene.fib, carrier, arrival, verdict, &packet) {
        Delivery::Host => {
            assert_ne!(verdict, Verdict::Foreign);
            assert_eq!(
                header.map(|header| header.destination),
                Ok(scene.own.address())
            );
            assert!(upper.is_some());
        }
        Delivery::Resolver => {
            assert_eq!(verdict, Verdict::Leaf);
            let destination = header.expect("delivered").destination;
            assert_eq!(destination, resolver_address(scene.own.prefix()));
        }
        Delivery::Workload(_) => panic!("no workload is attached"),
        Delivery::Forward(session) => {
            assert_ne!(verdict, Verdict::Foreign);
            let destination = header.expect("delivered").destination;
            assert!(
                matches!(scene.fib.lookup(destination), Lookup::Session(of) if Arc::ptr_eq(of, session))
            );
            assert!(verdict == Verdict::Leaf || destination == scene.leaf);
        }
        Delivery::Nested => {
            let header = header.expect("delivered");
            assert_eq!(header.destination, scene.own.address());
            assert!(matches!(
                Relayed::parse(&header, &packet),
                Some(Relayed::Whole(_))
            ));
            assert!(arrival == Arrival::Direct && carrier.role != Role::Leaf);
        }
        Delivery::Part => {
            assert_eq!(header.expect("delivered").destination, scene.own.address());
            // Whatever comes of it is a packet that can be looked at again.
            if let Ok(Some(whole)) = Reassembly::default().push(&packet, Instant::now()) {
                assert!(Ipv6Header::parse(&whole).is_ok());
            }
        }
        Delivery::Transit(next_hop) => {
            let destination = header.expect("delivered").destination;
            assert!(relayed::is_node(destination) && destination != scene.own.address());
            assert!(!Arc::ptr_eq(&next_hop.session, &carrier.session));
            assert_eq!(arrival, Arrival::Direct);
        }
        Delivery::Babel | Delivery::Signal => {
            assert!(header.expect("delivered").source.is_unicast_link_local());
            assert_ne!(carrier.role, Role::Leaf);
        }
        Delivery::RelayError => {
            assert_eq!(header.expect("delivered").destination, scene.own.address());
        }
        Delivery::Discard(_) => {}
        Delivery::Refuse(..) => {
            assert!(verdict == Verdict::Leaf || carrier.role != Role::Leaf);
        }
    }
    // Total, whatever they are given.
    let _ = RelayError::parse(&packet);
    let (own, other) = (scene.own.link_local(), scene.other.link_local());
    let _ = Signal::parse(&packet, other, own);
    check_errors(&packet, scene.own.address());
    if icmp::echo_reply(&packet, TOKEN).is_some() {
        assert_eq!(packet[48..56], TOKEN);
    }
    let before = packet.clone();
    if packet::decrement_hop_limit(&mut packet) {
        packet[7] += 1;
    }
    assert_eq!(packet, before);
}

fn check_errors(packet: &[u8], own: Ipv6Addr) {
    for what in [
        Unreachable::TooBig(1300),
        Unreachable::NoRoute,
        Unreachable::Address,
        Unreachable::SourcePolicy,
        Unreachable::HopLimit,
    ] {
        let Some(error) = icmp::error(what, own, packet) else {
            continue;
        };
        let offender = Ipv6Header::parse(packet).expect("only packets are answered");
        let header = Ipv6Header::parse(&error).expect("a packet of ours");
        assert!(error.len() <= 1280);
        assert!(!offender.source.is_multicast() && !offender.source.is_unspecified());
        assert_eq!((header.source, header.destination), (own, offender.source));
        let sum = packet::checksum(own, offender.source, ICMPV6, &error[HEADER..]);
        assert_eq!(sum, 0);
        assert_eq!(
            icmp::error(what, own, &error),
            None,
            "an error about an error"
        );
    }
}
