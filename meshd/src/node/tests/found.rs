//! What becomes of nodes that somebody tells of.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::{
    forward::Topic,
    identity::overlay,
    node::{Found, LocalNetwork, Search, Source},
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
fn whom_a_neighbour_knows_nobody_has_to_look_up() {
    let start = Instant::now();
    let mut a = Host::new(1, OPEN, start);
    a.node.set_search(Search::On);
    a.node.handle_local(vec![lan()]);
    // More than links are chosen for.
    for n in 2..40 {
        let told = found(n, place(n), Source::Neighbour(key(50)));
        a.node.handle_found(told, start);
    }
    a.drain(start);
    let is_called = |a: &Host, n: usize| a.sent.iter().any(|(to, _)| *to == place(n));
    let spared: Vec<usize> = (2..40).filter(|n| !is_called(&a, *n)).collect();
    assert!(spared.len() > 20, "{spared:?}");
    let now = start + Duration::from_secs(2);
    let packet = |n: usize| packet::ipv6(address(1), address(n), 59, b"hello");
    a.node.handle_first_contact(packet(spared[0]), now);
    a.drain(now);
    assert!(is_called(&a, spared[0]));
    assert!(a.lookups.is_empty(), "{:?}", a.lookups);
    // Who does not answer there may be elsewhere.
    let later = now + Duration::from_secs(6);
    a.node.handle_timeout(later);
    a.node.handle_first_contact(packet(spared[0]), later);
    a.drain(later);
    assert_eq!(a.lookups.len(), 1);
    // And whom nobody knows is looked for at once.
    a.node.handle_first_contact(packet(60), later);
    a.drain(later);
    assert_eq!(a.lookups.len(), 2);
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
            !a.node.found.local.is_usable(&endpoint, source),
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
            a.node.found.local.is_usable(&endpoint, source),
            "{text} {source:?}"
        );
    }
}

/// Time passes for all, and what they send arrives, with what it holds for the nodes themselves.
fn pass(hosts: &mut [&mut Host], from: Instant, seconds: u64) -> Instant {
    for step in 0..seconds * 4 {
        let now = from + Duration::from_millis(250) * step as u32;
        for host in &mut *hosts {
            host.node.handle_timeout(now);
            host.drain(now);
        }
        for _ in 0..20 {
            let out = settle(hosts, now);
            if out.is_empty() {
                break;
            }
            for (to, _, packet) in out {
                hand_over(hosts, to, &packet, now);
            }
        }
    }
    from + Duration::from_secs(seconds)
}

/// What the outside thread does with a packet that is for the node.
fn hand_over(hosts: &mut [&mut Host], to: SocketAddr, packet: &[u8], now: Instant) {
    let header = packet::Ipv6Header::parse(packet).unwrap();
    let sender = (1..10).find(|n| identity(*n).node().link_local() == header.source);
    let (Some(n), Some(host)) = (sender, hosts.iter_mut().find(|host| host.address == to)) else {
        return;
    };
    let topic = match u16::from_be_bytes([packet[42], packet[43]]) {
        crate::signal::PORT => Topic::Session,
        _ => Topic::Routing,
    };
    let from = Endpoint::Underlay(Underlay {
        remote: place(n),
        local: None,
        socket: 0,
    });
    host.node
        .handle_packet(key(n), from, topic, packet, now, now);
    host.drain(now);
}

#[test]
fn nodes_that_know_one_member_hear_of_each_other_and_remember() {
    let start = Instant::now();
    let knows_first = format!("{OPEN}{}", peer(1, "192.0.2.1:51860"));
    let mut member = Host::new(1, OPEN, start);
    let mut others = [2, 3, 4].map(|n| Host::new(n, &knows_first, start));
    let [a, b, c] = &mut others;
    // No router is before any of them.
    let online = |host: &mut Host, now| host.node.handle_hosts(vec![host.address], now);
    for host in [&mut member, &mut *a, &mut *b, &mut *c] {
        online(host, start);
    }
    let now = pass(&mut [&mut member, a, b, c], start, 10);
    for n in [2, 3] {
        assert!(
            c.session(address(n)).is_established(),
            "no session with {n}"
        );
        let links = c.node.links(now);
        assert!(
            links.iter().any(|link| link.endpoint == Some(place(n))),
            "{links:?}"
        );
    }
    // The member is gone and they begin anew, with what they remember.
    let seen = [&mut *a, b, c].map(|host| host.node.seen(now));
    assert_eq!(seen[2][&key(2)].endpoints, [place(2)]);
    let [of_a, of_b, of_c] = seen;
    let mut again =
        [(2, of_a), (3, of_b), (4, of_c)].map(|(n, seen)| Host::seen(n, &knows_first, seen, now));
    let [a, b, c] = &mut again;
    for host in [&mut *a, &mut *b, &mut *c] {
        online(host, now);
    }
    let now = pass(&mut [a, b, c], now, 10);
    for n in [2, 3] {
        assert!(
            c.session(address(n)).is_established(),
            "no session with {n}"
        );
    }
    assert!(!c.session(address(1)).is_established());
    assert_eq!(c.node.links(now).len(), 2);
}

#[test]
fn sixty_four_are_remembered_and_no_region_has_them_all() {
    let now = Instant::now();
    let seen = |regions: u8| -> BTreeMap<PublicKey, Seen> {
        (2..102)
            .map(|n| {
                let at = [198, n as u8 % regions, n as u8, 1];
                let endpoints = vec![SocketAddr::from((at, 51860))];
                let age = Duration::from_secs(n as u64);
                (key(n), Seen { endpoints, age })
            })
            .collect()
    };
    let kept = |regions, configuration| {
        let mut host = Host::seen(1, configuration, seen(regions), now);
        host.sent.clear();
        host.node.seen(now + Duration::from_secs(60))
    };
    assert_eq!(kept(1, OPEN).len(), 16);
    assert_eq!(kept(50, OPEN).len(), 64);
    // Who was heard of last stays.
    assert!(kept(50, OPEN).contains_key(&key(2)));
    assert!(!kept(50, OPEN).contains_key(&key(101)));
}

#[test]
fn one_link_by_each_interface_is_enough() {
    let start = Instant::now();
    let mut a = Host::new(1, &peer(2, "192.0.2.2:51860"), start);
    let mut b = Host::new(2, &peer(1, "192.0.2.1:51860"), start);
    a.node.handle_local(vec![lan()]);
    let now = pass(&mut [&mut a, &mut b], start, 3);
    assert_eq!(a.node.links(now).len(), 1);
    let (same, other) = ("[fe80::2%3]:51860", "[fe80::2%4]:51860");
    let probed = |a: &mut Host, at: &str, now| {
        let at = at.parse().unwrap();
        a.node.handle_found(found(2, at, Source::Lan), now);
        let mut probed = false;
        for step in 0..40 {
            let now = now + Duration::from_millis(250) * step;
            a.node.handle_timeout(now);
            a.drain(now);
            probed |= a.sent.drain(..).any(|(to, _)| to == at);
        }
        probed
    };
    assert!(!probed(&mut a, same, now), "by the interface of the link");
    let now = now + Duration::from_secs(1);
    let mut b = Host::new(3, &peer(1, "192.0.2.1:51860"), start);
    let mut a = Host::new(1, &peer(3, "192.0.2.3:51860"), start);
    a.node.handle_local(vec![lan()]);
    pass(&mut [&mut a, &mut b], start, 3);
    let at = other.parse().unwrap();
    a.node.handle_found(found(3, at, Source::Lan), now);
    a.drain(now);
    a.node.handle_timeout(now);
    a.drain(now);
    assert!(
        a.sent.iter().any(|(to, _)| *to == at),
        "by another interface"
    );
}

#[test]
fn nobody_is_told_of_a_node_that_is_not_open_and_that_nobody_named() {
    let start = Instant::now();
    // The member is open; of the two that know it, one is not.
    let mut member = Host::new(1, OPEN, start);
    let mut shy = Host::new(2, &peer(1, "192.0.2.1:51860"), start);
    let mut open = Host::new(3, &format!("{OPEN}{}", peer(1, "192.0.2.1:51860")), start);
    pass(&mut [&mut member, &mut shy, &mut open], start, 130);
    assert!(open.session(address(1)).is_established());
    assert!(shy.session(address(1)).is_established());
    assert!(open.node.find(&address(2).to_string()).is_err());
    // And who is not open does nothing about the one that it is told of.
    assert!(shy.node.find(&address(3).to_string()).is_err());
    assert!(shy.discards.count(Reason::FoundStranger) > 0);
}

#[test]
fn a_neighbour_that_talks_too_much_is_not_heard() {
    let now = Instant::now();
    let knows_first = format!("{OPEN}{}", peer(1, "192.0.2.1:51860"));
    let mut member = Host::new(1, OPEN, now);
    let mut liar = Host::new(2, &knows_first, now);
    let now = pass(&mut [&mut member, &mut liar], now, 3);
    let before = member.node.peers.len();
    let (own, theirs) = (
        identity(2).node().link_local(),
        identity(1).node().link_local(),
    );
    for port in 0..1000_u16 {
        let acquaintance = crate::signal::Acquaintance {
            key: key(3 + usize::from(port) % 90),
            endpoints: [
                Some(SocketAddr::from(([198, 51, 100, 1], 2000 + port))),
                None,
            ],
        };
        let packet = crate::signal::Signal::Acquaintance(acquaintance).packet(own, theirs, 0);
        let from = Endpoint::unproven(place(2));
        member
            .node
            .handle_packet(key(2), from, Topic::Session, &packet, now, now);
    }
    assert!(member.discards.count(Reason::PeerTalksTooMuch) > 940);
    // A few are called, since links are wanted, and no more.
    assert!(
        member.node.peers.len() <= before + 8,
        "{}",
        member.node.peers.len()
    );
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
