//! What becomes of nodes that somebody tells of.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::{
    identity::overlay,
    node::{Found, LocalNetwork, Source},
};

const OPEN: &str = "open = true\n[inbound]\ndefault = \"allow\"\n";

fn found(n: usize, endpoint: SocketAddr, source: Source) -> Found {
    Found {
        node: identity(n).node(),
        endpoints: vec![endpoint],
        source,
    }
}

/// The network that all hosts of these tests are in.
fn lan() -> LocalNetwork {
    LocalNetwork {
        interface: 3,
        network: "192.0.2.1/24".parse().unwrap(),
    }
}

#[test]
fn an_open_node_calls_whom_it_finds_on_the_lan_and_links_to_it() {
    let now = Instant::now();
    let (mut a, mut b) = (Host::new(1, OPEN, now), Host::new(2, OPEN, now));
    a.node.handle_local(vec![lan()]);
    a.node.handle_found(found(2, place(2), Source::Lan), now);
    a.drain(now);
    settle(&mut [&mut a, &mut b], now);
    assert!(a.session(address(2)).is_established());
    assert!(b.session(address(1)).is_established());
    let links = a.node.links(now);
    assert_eq!(links.len(), 1);
    assert_eq!(links[0].endpoint, Some(place(2)));
}

#[test]
fn a_node_that_is_not_open_calls_nobody_whom_it_does_not_know() {
    let now = Instant::now();
    let mut a = Host::new(1, &peer(3, ""), now);
    a.node.handle_local(vec![lan()]);
    for source in [Source::Lan, Source::Control, Source::Record] {
        a.node.handle_found(found(2, place(2), source), now);
    }
    a.drain(now);
    assert!(a.sent.is_empty() && a.node.find(&address(2).to_string()).is_err());
    assert_eq!(a.discards.count(Reason::FoundStranger), 3);
    // Whom the configuration names, without saying where it is, is called.
    let mut c = Host::new(3, &peer(1, ""), now);
    a.node.handle_found(found(3, place(3), Source::Lan), now);
    a.drain(now);
    settle(&mut [&mut a, &mut c], now);
    assert!(a.session(address(3)).is_established());
}

#[test]
fn forged_nodes_are_called_five_a_second_and_leave_nothing_behind() {
    let start = Instant::now();
    let mut a = Host::new(1, OPEN, start);
    a.node.handle_local(vec![lan()]);
    let mut calls = 0;
    for step in 0..100_u32 {
        let now = start + Duration::from_millis(100) * step;
        for n in 2..42 {
            let at = SocketAddr::new("192.0.2.200".parse().unwrap(), 2000 + n as u16);
            a.node.handle_found(found(n, at, Source::Lan), now);
        }
        a.node.handle_timeout(now);
        a.drain(now);
        let initiations = |sent: &&(SocketAddr, Vec<u8>)| sent.1.first() == Some(&1);
        calls += a.sent.drain(..).filter(|sent| initiations(&sent)).count();
    }
    assert!((40..=56).contains(&calls), "{calls} in ten seconds");
    for step in 0..600 {
        let now = start + Duration::from_secs(10) + Duration::from_millis(100) * step;
        a.node.handle_timeout(now);
        a.drain(now);
    }
    let strangers = a.node.status(start).peers.len();
    assert_eq!(strangers, 0);
    assert!(a.node.peers.len() <= 40, "{}", a.node.peers.len());
}

#[test]
fn no_address_is_taken_that_leads_into_a_tunnel_or_to_a_bystander() {
    let now = Instant::now();
    let mut a = Host::new(1, OPEN, now);
    a.node.handle_local(vec![
        lan(),
        LocalNetwork {
            interface: 3,
            network: "fd77:1::1/64".parse().unwrap(),
        },
    ]);
    let neighbour = Source::Neighbour(key(9));
    let refused = [
        ("127.0.0.1:51860", neighbour),
        ("0.0.0.0:51860", neighbour),
        ("224.0.0.1:51860", neighbour),
        ("255.255.255.255:51860", neighbour),
        ("[::1]:51860", neighbour),
        ("[::ffff:198.51.100.1]:51860", neighbour),
        ("[ff02::1]:51860", neighbour),
        ("[600::1]:51860", neighbour),
        ("198.51.100.1:0", neighbour),
        ("198.51.100.1:53", neighbour),
        ("198.51.100.1:443", Source::Control),
        ("10.1.2.3:51860", neighbour),
        ("192.168.1.2:51860", Source::Record),
        ("100.64.0.1:51860", neighbour),
        ("169.254.1.1:51860", neighbour),
        ("[fd99::1]:51860", neighbour),
        ("[fe80::1%3]:51860", neighbour),
        ("[fe80::1]:51860", Source::Lan),
        ("198.51.100.1:51860", Source::Lan),
        ("192.0.2.1:51860", Source::Lan),
        ("198.51.100.1:0", Source::Remembered),
    ];
    for (text, source) in refused {
        let endpoint = text.parse().unwrap();
        assert!(
            !a.node.found.is_usable(&endpoint, source),
            "{text} {source:?}"
        );
    }
    let taken = [
        ("198.51.100.1:51860", neighbour),
        ("192.0.2.7:51860", Source::Lan),
        ("192.0.2.7:443", Source::Lan),
        ("[fe80::1%3]:51860", Source::Lan),
        ("[fd77:1::7]:51860", neighbour),
        ("[2001:db8::7]:51860", Source::Control),
        ("10.1.2.3:51860", Source::Remembered),
    ];
    for (text, source) in taken {
        let endpoint = text.parse().unwrap();
        assert!(
            a.node.found.is_usable(&endpoint, source),
            "{text} {source:?}"
        );
    }
}

proptest! {
    #[test]
    fn whatever_is_told_nothing_is_sent_where_it_must_not(
        told in proptest::collection::vec((2_usize..12, any::<u128>(), any::<u32>(), any::<u16>(), 0_u8..5), 1..60),
    ) {
        let start = Instant::now();
        let mut a = Host::new(1, OPEN, start);
        a.node.handle_local(vec![lan()]);
        for (at, (n, v6, v4, port, source)) in told.into_iter().enumerate() {
            let now = start + Duration::from_millis(300) * at as u32;
            let source = match source {
                0 => Source::Lan,
                1 => Source::Neighbour(key(9)),
                2 => Source::Remembered,
                3 => Source::Control,
                _ => Source::Record,
            };
            let endpoints = vec![
                SocketAddr::new(Ipv6Addr::from_bits(v6).into(), port),
                SocketAddr::new(std::net::Ipv4Addr::from_bits(v4).into(), port),
            ];
            a.node.handle_found(Found { node: identity(n).node(), endpoints, source }, now);
            a.node.handle_timeout(now);
            a.drain(now);
        }
        for (to, _) in &a.sent {
            prop_assert!(to.port() != 0 && !to.ip().is_loopback() && !to.ip().is_multicast() && !to.ip().is_unspecified());
            if let SocketAddr::V6(to) = to {
                prop_assert!(!overlay().contains(*to.ip()));
            }
        }
        prop_assert!(a.node.peers.len() <= 10);
    }
}
