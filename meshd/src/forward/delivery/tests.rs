use std::{net::Ipv6Addr, time::Instant};

use ipnetwork::Ipv6Network;
use routing::LinkId;
use wireguard::{Device, Kind, Peer, PrivateKey, Underlay, Upkeep};

use super::*;
use crate::{
    fib::{LinkStats, Own},
    identity::workload_address,
    packet::{FRAGMENT, icmpv6, ipv6},
    relayed,
    signal::{Probe, Signal, Way},
    testdata::identity,
    workload::WorkloadId,
};

const LEAF: u16 = 0x55;
/// Nodes of the pool: this one, a neighbour, one behind it, one nobody leads to.
const OWN: usize = 0;
const NEIGHBOUR: usize = 1;
const FAR: usize = 2;
const LOST: usize = 3;

/// A node with a neighbour that leads to another node, and with one leaf and one stock router.
struct Site {
    fib: Fib,
    neighbour: Carrier,
    /// The other node, whose session crosses the neighbour.
    far: Carrier,
    leaf: Carrier,
    router: Carrier,
}

fn node(n: usize) -> Ipv6Addr {
    identity(n).node().address()
}

fn link_local(n: usize) -> Ipv6Addr {
    identity(n).node().link_local()
}

fn leaf(n: u16) -> Ipv6Addr {
    let own = node(OWN).segments();
    Ipv6Addr::new(own[0], own[1], own[2], own[3], 0, 0, 0, n)
}

/// The workload `web` of a node.
fn workload(n: usize) -> Ipv6Addr {
    workload_address(identity(n).node().prefix(), "web")
}

impl Site {
    fn new(relay: Relay) -> Self {
        let now = Instant::now();
        let mut device = Device::new(identity(OWN).private_key().clone(), 1);
        let mut carrier = |key, kind, owns: Ipv6Network, role| {
            let peer = Peer {
                key,
                preshared: None,
                kind,
                allowed: vec![owns],
                endpoints: Vec::new(),
                persistent_keepalive: None,
                upkeep: Upkeep::OnDemand,
            };
            Carrier {
                session: device.add_peer(peer, now).unwrap(),
                owns: vec![owns],
                role,
                stats: Arc::default(),
                inbound: None,
            }
        };
        let mut mesh = |n: usize| {
            let id = identity(n).node();
            let role = Role::Node {
                address: id.address(),
                link_local: id.link_local(),
                relay,
            };
            carrier(id.public_key(), Kind::Mesh, id.prefix(), role)
        };
        let (neighbour, far) = (mesh(NEIGHBOUR), mesh(FAR));
        let mut stock = |byte, owns: Ipv6Addr, role| {
            let key = PrivateKey::from_bytes([byte; 32]).public();
            carrier(key, Kind::Stock, owns.into(), role)
        };
        let device_leaf = stock(9, leaf(LEAF), Role::Leaf);
        let router = stock(10, leaf(LEAF + 1), Role::StockRouter { relay });
        let next_hop = Arc::new(NextHop {
            link: LinkId(1),
            session: Arc::clone(&neighbour.session),
            endpoint: Underlay::unproven("192.0.2.1:1".parse().unwrap()),
            mtu: 1420,
            stats: Arc::new(LinkStats::new(Instant::now())),
        });
        let own = identity(OWN).node();
        let copy = |carrier: &Carrier| Carrier {
            session: Arc::clone(&carrier.session),
            owns: carrier.owns.clone(),
            role: carrier.role,
            stats: Arc::clone(&carrier.stats),
            inbound: carrier.inbound.clone(),
        };
        let fib = Fib::new(
            Own {
                address: own.address(),
                prefix: own.prefix(),
                link_local: own.link_local(),
                token: [0; 8],
            },
            [&neighbour, &far, &device_leaf, &router].map(copy),
            [NEIGHBOUR, FAR].map(|n| (identity(n).node().prefix(), Some(Arc::clone(&next_hop)))),
        )
        .hosting([Workload {
            id: WorkloadId(3),
            name: "web".to_owned(),
            address: workload(OWN),
            publish: Vec::new(),
            stats: Arc::default(),
            inbound: None,
        }]);
        Self {
            fib,
            neighbour,
            far,
            leaf: device_leaf,
            router,
        }
    }

    fn fate(&self, carrier: &Carrier, arrival: Arrival, verdict: Verdict, packet: &[u8]) -> String {
        match deliver(&self.fib, carrier, arrival, verdict, packet) {
            Delivery::Host => "host".into(),
            Delivery::Workload(workload) => format!("workload {}", workload.name),
            Delivery::Forward(to) => format!("to {:?}", to.session.kind()),
            Delivery::Nested => "nested".into(),
            Delivery::Part => "part".into(),
            Delivery::Transit(next_hop) => format!("via {:?}", next_hop.link),
            Delivery::Babel => "babel".into(),
            Delivery::Signal => "signal".into(),
            Delivery::RelayError => "relay error".into(),
            Delivery::Discard(reason) | Delivery::Refuse(reason, _) => reason.name().into(),
        }
    }
}

/// A word for what happens to a packet of the neighbour's.
fn fate(verdict: Verdict, packet: &[u8]) -> String {
    let site = Site::new(Relay::Yes);
    let carrier = match verdict {
        Verdict::Leaf => &site.leaf,
        Verdict::Owned | Verdict::Foreign => &site.neighbour,
    };
    site.fate(carrier, Arrival::Direct, verdict, packet)
}

fn to(destination: Ipv6Addr) -> Vec<u8> {
    ipv6(node(NEIGHBOUR), destination, 59, &[])
}

fn udp(source: Ipv6Addr, destination: Ipv6Addr, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let datagram = vec![high, low, high, low, 0, 12, 0, 0, 4, 0, 0, 0];
    crate::packet::udp(source, destination, datagram)
}

fn relayed_from(source: usize, destination: usize) -> Vec<u8> {
    udp(node(source), node(destination), relayed::PORT)
}

#[test]
fn a_foreign_source_never_gets_anywhere() {
    for destination in [node(OWN), leaf(LEAF), node(NEIGHBOUR)] {
        assert_eq!(fate(Verdict::Foreign, &to(destination)), "outside-source");
    }
}

#[test]
fn a_node_reaches_this_node_and_its_leaves_and_nothing_else() {
    assert_eq!(fate(Verdict::Owned, &to(node(OWN))), "host");
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
    let others = [leaf(LEAF + 2), node(NEIGHBOUR), node(FAR), node(LOST)];
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
    let cases = [
        (node(OWN), "host"),
        (leaf(LEAF), "to Stock"),
        (node(NEIGHBOUR), "to Mesh"),
        (node(LOST), "no-route"),
        ("2001:db8::1".parse().unwrap(), "not-overlay"),
        ("ff02::1".parse().unwrap(), "not-overlay"),
    ];
    for (destination, expected) in cases {
        assert_eq!(fate(Verdict::Leaf, &to(destination)), expected);
    }
}

#[test]
fn extension_headers_without_end_go_nowhere() {
    let chain = |count: usize| {
        let mut headers = [60, 0, 1, 4, 0, 0, 0, 0].repeat(count);
        if let Some(last) = headers.chunks_mut(8).next_back() {
            last[0] = 59;
        }
        ipv6(node(NEIGHBOUR), node(OWN), 60, &headers)
    };
    assert_eq!(fate(Verdict::Owned, &chain(3)), "host");
    assert_eq!(fate(Verdict::Owned, &chain(60)), "malformed");
    // A header that runs past the end.
    assert_eq!(fate(Verdict::Owned, &chain(0)), "malformed");
}

#[test]
fn what_is_no_ipv6_packet_goes_nowhere() {
    assert_eq!(fate(Verdict::Owned, &[0x45; 40]), "not-ipv6");
    assert_eq!(fate(Verdict::Owned, &to(node(OWN))[..39]), "malformed");
}

#[test]
fn a_datagram_between_nodes_is_opened_here_or_sent_on_whoever_it_says_it_is_from() {
    for verdict in [Verdict::Owned, Verdict::Foreign] {
        assert_eq!(fate(verdict, &relayed_from(LOST, OWN)), "nested");
    }
    let site = Site::new(Relay::Yes);
    let from_far = |packet: &[u8]| site.fate(&site.far, Arrival::Direct, Verdict::Foreign, packet);
    assert_eq!(from_far(&relayed_from(LOST, NEIGHBOUR)), "via LinkId(1)");
    assert_eq!(from_far(&relayed_from(FAR, LOST)), "relay-no-route");
    assert_eq!(from_far(&relayed_from(OWN, NEIGHBOUR)), "outside-source");
    let part = ipv6(
        node(LOST),
        node(OWN),
        FRAGMENT,
        &[17, 0, 0, 0, 0, 0, 0, 1, 9],
    );
    assert_eq!(from_far(&part), "part");
    let of_a_user = ipv6(
        node(NEIGHBOUR),
        node(OWN),
        FRAGMENT,
        &[17, 0, 0, 0, 0, 0, 0, 1, 9],
    );
    assert_eq!(fate(Verdict::Owned, &of_a_user), "host");
}

#[test]
fn a_datagram_is_not_sent_back_where_it_came_from() {
    assert_eq!(
        fate(Verdict::Foreign, &relayed_from(LOST, FAR)),
        "relay-no-route"
    );
}

#[test]
fn nothing_is_nested_twice_and_routes_are_not_heard_through_relays() {
    let site = Site::new(Relay::Yes);
    let nested = |packet: &[u8]| site.fate(&site.far, Arrival::Relayed, Verdict::Foreign, packet);
    assert_eq!(nested(&relayed_from(LOST, OWN)), "nested-twice");
    assert_eq!(nested(&relayed_from(LOST, NEIGHBOUR)), "nested-twice");
    let hello = udp(link_local(FAR), BABEL_GROUP, BABEL_PORT);
    assert_eq!(nested(&hello), "outside-destination");
}

#[test]
fn who_is_not_relayed_for_still_reaches_this_node() {
    let site = Site::new(Relay::No);
    let fate = |packet: &[u8]| site.fate(&site.far, Arrival::Direct, Verdict::Foreign, packet);
    assert_eq!(fate(&relayed_from(LOST, NEIGHBOUR)), "relay-refused");
    assert_eq!(fate(&relayed_from(LOST, OWN)), "nested");
}

#[test]
fn a_leaf_relays_nothing() {
    let site = Site::new(Relay::Yes);
    let packet = relayed_from(LOST, OWN);
    let fate = site.fate(&site.leaf, Arrival::Direct, Verdict::Foreign, &packet);
    assert_eq!(fate, "outside-source");
}

#[test]
fn routes_and_signals_are_heard_of_the_peer_itself_only() {
    let own = link_local(OWN);
    for destination in [own, BABEL_GROUP] {
        let from = |n| udp(link_local(n), destination, BABEL_PORT);
        assert_eq!(fate(Verdict::Foreign, &from(NEIGHBOUR)), "babel");
        assert_eq!(fate(Verdict::Foreign, &from(FAR)), "outside-source");
    }
    let wrong_port = udp(link_local(NEIGHBOUR), own, BABEL_PORT + 9);
    assert_eq!(fate(Verdict::Foreign, &wrong_port), "outside-destination");
    let elsewhere = udp(
        link_local(NEIGHBOUR),
        "ff02::1".parse().unwrap(),
        BABEL_PORT,
    );
    assert_eq!(fate(Verdict::Foreign, &elsewhere), "outside-destination");
    let probe = Signal::Probe(Probe {
        id: 1,
        way: Way::Direct,
    });
    let signal = |n: usize| probe.packet(link_local(n), own, 0);
    assert_eq!(fate(Verdict::Foreign, &signal(NEIGHBOUR)), "signal");
    assert_eq!(fate(Verdict::Foreign, &signal(FAR)), "outside-source");
}

#[test]
fn a_stock_router_speaks_babel_from_any_link_local_address_and_nothing_else() {
    let site = Site::new(Relay::Yes);
    let fate = |source: &str, destination, port| {
        let packet = udp(source.parse().unwrap(), destination, port);
        site.fate(&site.router, Arrival::Direct, Verdict::Foreign, &packet)
    };
    assert_eq!(fate("fe80::5", BABEL_GROUP, BABEL_PORT), "babel");
    assert_eq!(fate("fe80::6", link_local(OWN), BABEL_PORT), "babel");
    assert_eq!(fate("6ff::6", BABEL_GROUP, BABEL_PORT), "outside-source");
    assert_eq!(
        fate("fe80::5", link_local(OWN), signal::PORT),
        "outside-destination"
    );
}

#[test]
fn an_error_of_a_relay_reaches_the_node_whose_datagram_it_quotes() {
    let about = |datagram: &[u8], to: usize| {
        let mut body = vec![2, 0, 0, 0, 0, 0, 5, 0];
        body.extend_from_slice(datagram);
        icmpv6(node(LOST), node(to), &body)
    };
    let ours = about(&relayed_from(OWN, FAR), OWN);
    assert_eq!(fate(Verdict::Foreign, &ours), "relay error");
    let not_ours = about(&relayed_from(NEIGHBOUR, FAR), OWN);
    assert_eq!(fate(Verdict::Foreign, &not_ours), "outside-source");
    let of_a_program = about(&udp(node(OWN), node(FAR), 53), OWN);
    assert_eq!(fate(Verdict::Foreign, &of_a_program), "outside-source");
    let site = Site::new(Relay::Yes);
    let in_transit = about(&relayed_from(NEIGHBOUR, FAR), NEIGHBOUR);
    let fate = site.fate(&site.far, Arrival::Direct, Verdict::Foreign, &in_transit);
    assert_eq!(fate, "via LinkId(1)");
}

#[test]
fn a_workload_gets_what_its_senders_may_say_and_nothing_of_any_link() {
    let udp = |source, destination| ipv6(source, destination, UDP, &[0; 8]);
    let discovery = |kind, destination| icmpv6(node(NEIGHBOUR), destination, &[kind; 8]);
    let web = workload(OWN);
    let cases = [
        (Verdict::Owned, udp(node(NEIGHBOUR), web), "workload web"),
        (
            Verdict::Owned,
            udp(workload(NEIGHBOUR), web),
            "workload web",
        ),
        (Verdict::Owned, udp(workload(NEIGHBOUR), node(OWN)), "host"),
        (Verdict::Leaf, udp(leaf(LEAF), web), "workload web"),
        (Verdict::Foreign, udp(workload(FAR), web), "outside-source"),
        (
            Verdict::Owned,
            udp(node(NEIGHBOUR), workload(FAR)),
            "outside-destination",
        ),
        // The address of a workload that is not attached.
        (
            Verdict::Owned,
            udp(
                node(NEIGHBOUR),
                workload_address(identity(OWN).node().prefix(), "db"),
            ),
            "outside-destination",
        ),
        // A network behind the node.
        (
            Verdict::Owned,
            udp(
                node(NEIGHBOUR),
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
            ),
            "outside-destination",
        ),
        (
            Verdict::Owned,
            udp(node(NEIGHBOUR), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
            "outside-destination",
        ),
        (Verdict::Owned, discovery(128, web), "workload web"),
        (Verdict::Owned, discovery(134, web), "link-scope"),
        (Verdict::Owned, discovery(136, node(OWN)), "link-scope"),
    ];
    for (verdict, packet, expected) in cases {
        assert_eq!(fate(verdict, &packet), expected, "{verdict:?} {packet:x?}");
    }
}
