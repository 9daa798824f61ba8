//! The promise: a node reaches another over whatever chain of nodes there is, and those between see ciphertext only.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use netns_tests::traffic::{Stream, tcp_send, tcp_serve, udp_echo, udp_sizes};
use netns_tests::view::PathKind;
use netns_tests::wait::hold_for;
use netns_tests::{
    Canary, Daemon, Flow, Graph, Host, Lab, Mesh, Moment, Topology, millis, secs, wait_until,
};

/// Headers of IPv6 and UDP.
const HEADERS: u16 = 48;
/// The MTU of the overlay.
const MTU: u16 = 1420;
/// The payloads of UDP in packets from 56 bytes to the MTU.
const SIZES: RangeInclusive<u16> = 56 - HEADERS..=MTU - HEADERS;

/// What was captured, and where.
struct Captures(Vec<(Host, PathBuf)>);

impl Captures {
    /// On every interface of these nodes, the overlay's among them if it is named.
    fn of(mesh: &Mesh, nodes: impl IntoIterator<Item = usize>, overlay: Option<&str>) -> Self {
        let on = |node: usize| {
            let graph = &mesh.topology.graph;
            let ports = graph.neighbours(node);
            let ports = ports.map(|other| mesh.topology.port(node, other).interface.clone());
            let host = mesh.topology.hosts[node].clone();
            let names = ports.chain(overlay.map(str::to_owned)).collect::<Vec<_>>();
            names
                .into_iter()
                .map(move |name| (host.clone(), host.capture(&name)))
        };
        Self(nodes.into_iter().flat_map(on).collect())
    }

    fn assert_clean(&self, canary: &Canary) {
        for (host, file) in &self.0 {
            assert!(!canary.is_in(file), "{}: {}", host.name(), file.display());
        }
    }
}

/// Every size gets there and back. The first large one may be lost: it tells the sender what the path carries.
#[track_caller]
fn carries_every_size(from: &Host, mesh: &Mesh, to: usize) {
    let at = mesh.at(to, 7000);
    let _echo = udp_echo(&mesh.topology.hosts[to], at);
    let largest = *SIZES.end();
    wait_until(secs(15), "the largest packet passes", || {
        udp_sizes(from, at, largest..=largest)
    });
    udp_sizes(from, at, SIZES).unwrap();
}

/// Whether a capture is one of a node's overlay interface.
fn is_overlay(file: &Path) -> bool {
    file.file_name()
        .is_some_and(|name| name.to_string_lossy().contains("mesh0"))
}

#[test]
fn a_line_of_five_reaches_its_ends_and_relays_see_ciphertext_only() {
    let lab = Lab::new("relay line");
    let mesh = Mesh::start(&lab, Graph::line(5));
    let (first, last) = (&mesh.nodes[0], &mesh.nodes[4]);
    mesh.wait_for_routes(secs(20));
    first.wait_for_answer(last.address(), secs(10));
    last.wait_for_answer(first.address(), secs(5));

    let path = first.wait_for_path(last.address(), PathKind::Relay, secs(5));
    assert_eq!(path.hops, Some(4), "{path:?}");
    assert_eq!(path.via.first().map(String::as_str), Some("n1"), "{path:?}");
    let trace = first.trace(last.address()).unwrap();
    assert_eq!(trace.hops.len(), 4, "{trace:?}");
    for pair in trace.hops.windows(2) {
        assert!(pair[0].metric < pair[1].metric, "{trace:?}");
    }
    assert!(
        trace.hops.iter().all(|hop| hop.rtt_ms.is_some()),
        "{trace:?}"
    );

    let relays = Captures::of(&mesh, 1..4, Some("mesh0"));
    let underlay = Captures::of(&mesh, [0, 4], None);
    let arrived = mesh.topology.hosts[4].capture("mesh0");
    let canary = Canary::new();
    let _echo = udp_echo(&mesh.topology.hosts[4], mesh.at(4, 7000));
    canary.send(&mesh.topology.hosts[0], mesh.at(4, 7000), 20);
    let _server = tcp_serve(&mesh.topology.hosts[4], mesh.at(4, 7001));
    tcp_send(&mesh.topology.hosts[0], mesh.at(4, 7001), 4, 1_000_000).unwrap();
    wait_until(secs(5), "the canary has arrived", || canary.is_in(&arrived));
    relays.assert_clean(&canary);
    underlay.assert_clean(&canary);
    // Relays hand on what others have sealed as it is, under a label, once they have agreed on that.
    for (host, file) in relays.0.iter().filter(|(_, file)| !is_overlay(file)) {
        let labelled = host.captured(file, "ip6[6] == 17 and ip6[48] == 5");
        assert!(labelled > 20, "{}: {labelled} under labels", host.name());
    }
    // Whatever passed the relays did not pass their overlay interfaces.
    for (host, file) in relays.0.iter().filter(|(_, file)| is_overlay(file)) {
        assert_eq!(host.captured(file, "tcp or udp"), 0, "{}", host.name());
    }

    for hops in 1..=3 {
        carries_every_size(&mesh.topology.hosts[0], &mesh, hops);
    }
}

#[test]
fn every_size_passes_where_an_underlay_carries_1400_bytes() {
    let lab = Lab::new("relay narrow underlay");
    let topology = Topology::lay(&lab, Graph::line(4));
    for port in [&topology.links[1].a, &topology.links[1].b] {
        port.host
            .run(&format!("ip link set {} mtu 1400", port.interface));
    }
    let mesh = Mesh::on(&lab, topology, |_, settings| settings);
    mesh.wait_for_routes(secs(20));
    carries_every_size(&mesh.topology.hosts[1], &mesh, 2);
    carries_every_size(&mesh.topology.hosts[0], &mesh, 2);
    carries_every_size(&mesh.topology.hosts[0], &mesh, 3);
    let _server = tcp_serve(&mesh.topology.hosts[3], mesh.at(3, 7001));
    tcp_send(&mesh.topology.hosts[0], mesh.at(3, 7001), 2, 1_000_000).unwrap();
}

#[test]
fn a_relayed_path_becomes_direct_when_a_link_appears_and_relayed_when_it_goes() {
    let lab = Lab::new("relay upgrade");
    let topology = Topology::lay(&lab, Graph::ring(3));
    let between = topology.links[topology.graph.edge(0, 1).unwrap()].clone();
    between.silence();
    let mesh = Mesh::on(&lab, topology, |_, settings| settings);
    let (a, b) = (&mesh.nodes[0], &mesh.nodes[1]);
    a.wait_for_answer(b.address(), secs(20));
    let path = a.wait_for_path(b.address(), PathKind::Relay, secs(5));
    assert_eq!(path.hops, Some(2), "{path:?}");

    let _echo = udp_echo(b.host(), mesh.at(1, 7000));
    let flow = Flow::start(a.host(), mesh.at(1, 7000), millis(20));
    flow.wait_for_answers(secs(5));
    let _server = tcp_serve(b.host(), mesh.at(1, 7001));
    // For about ten seconds, if nothing holds it up.
    let stream = Stream::start(a.host(), mesh.at(1, 7001), 10_000_000, 1_000_000);
    let handshake = handshake_age(a, b);

    let since = Moment::now();
    between.restore();
    for (one, other) in [(a, b), (b, a)] {
        one.wait_for_path(other.address(), PathKind::Direct, secs(15));
    }
    let gap = flow.longest_gap(since);
    assert!(
        gap < millis(300),
        "no answer for {gap:?} when the link came"
    );
    assert!(handshake_age(a, b) >= handshake, "it took a new handshake");

    let since = Moment::now();
    between.silence();
    a.wait_for_path(b.address(), PathKind::Relay, secs(15));
    flow.wait_for_answers(secs(5));
    let gap = flow.longest_gap(since);
    assert!(gap <= secs(2), "no answer for {gap:?} when the link went");
    stream.finish(secs(60)).unwrap();
}

/// Seconds since the last handshake with a peer, by the name that a mesh gives it.
fn handshake_age(node: &Daemon, peer: &Daemon) -> f64 {
    let shown = node.peer(peer.host().name()).unwrap();
    shown["last_handshake_s"].as_f64().unwrap()
}

/// Two nodes, 0 and 3, with two relays between them, 1 and 2.
struct Diamond {
    mesh: Mesh,
    flow: Flow,
    _servers: Vec<netns_tests::Process>,
    _lab: Lab,
}

impl Diamond {
    fn new(name: &str) -> Self {
        let lab = Lab::new(name);
        let graph = Graph::new(4, &[(0, 1), (1, 3), (0, 2), (2, 3)]);
        let mesh = Mesh::start(&lab, graph);
        mesh.wait_for_routes(secs(20));
        mesh.nodes[0].wait_for_answer(mesh.nodes[3].address(), secs(10));
        let target = &mesh.topology.hosts[3];
        let _servers = vec![
            udp_echo(target, mesh.at(3, 7000)),
            tcp_serve(target, mesh.at(3, 7001)),
        ];
        let flow = Flow::start(&mesh.topology.hosts[0], mesh.at(3, 7000), millis(20));
        flow.wait_for_answers(secs(5));
        Self {
            mesh,
            flow,
            _servers,
            _lab: lab,
        }
    }

    /// The relay that packets of node 0 take, and the other one.
    #[track_caller]
    fn relays(&self) -> (usize, usize) {
        let route = self.mesh.nodes[0].route_to(self.mesh.nodes[3].address());
        if route.unwrap().next_hop == Some(self.mesh.nodes[1].address()) {
            (1, 2)
        } else {
            (2, 1)
        }
    }

    /// Has a relay drop, of the datagrams it sends, those that match.
    #[track_caller]
    fn drops(&self, relay: usize, what: &str) {
        for neighbour in [0, 3] {
            let port = self.mesh.topology.port(relay, neighbour);
            port.lose(&format!("ip6 nexthdr udp {what}"));
        }
    }

    /// Node 0 finds the other relay within 15 seconds, and does not come back while the first one is as it is.
    #[track_caller]
    fn goes_round(&self, liar: usize, other: usize) {
        let (first, last) = (&self.mesh.nodes[0], self.mesh.nodes[3].address());
        let other = self.mesh.nodes[other].address();
        first.wait_for_route_via(last, other, secs(15));
        let liar = self.mesh.nodes[liar].address();
        first.never_routes_through(last, liar, secs(5));
    }
}

#[test]
fn a_relay_that_is_killed_or_stands_still_breaks_no_connection() {
    let diamond = Diamond::new("relay killed");
    let (relay, other) = diamond.relays();
    let hosts = &diamond.mesh.topology.hosts;
    let stream = Stream::start(&hosts[0], diamond.mesh.at(3, 7001), 10_000_000, 1_000_000);
    wait_until(secs(10), "the stream flows", || stream.progress() > 500_000);
    let since = Moment::now();
    diamond.mesh.nodes[relay].kill();
    diamond.flow.wait_for_answers(secs(10));
    let gap = diamond.flow.longest_gap(since);
    assert!(
        gap <= secs(1),
        "no answer for {gap:?} after a relay was killed"
    );

    diamond.mesh.nodes[relay].start_again();
    let first = &diamond.mesh.nodes[0];
    first.wait_for_links(diamond.mesh.nodes[relay].address(), 1, secs(15));
    diamond.flow.goes_on(secs(3), secs(1));
    let far = diamond.mesh.nodes[3].address();
    wait_until(secs(10), "there is a way round the other relay", || {
        first.trace(far).map(|trace| !trace.backup.is_empty())
    });

    // It stands still, and answers nobody.
    let (standing, _) = diamond.relays();
    let since = Moment::now();
    diamond.mesh.nodes[standing].signal("STOP");
    diamond.flow.wait_for_answers(secs(10));
    let gap = diamond.flow.longest_gap(since);
    diamond.mesh.nodes[standing].signal("CONT");
    assert!(
        gap <= secs(1),
        "no answer for {gap:?} after a relay stood still ({other})"
    );
    stream.finish(secs(60)).unwrap();
}

#[test]
fn a_relay_that_drops_large_packets_is_left() {
    let diamond = Diamond::new("relay drops large");
    let (liar, other) = diamond.relays();
    // More than any packet of routing has, in a mesh of four.
    diamond.drops(liar, "udp length > 700");
    let hosts = &diamond.mesh.topology.hosts;
    let stream = Stream::start(&hosts[0], diamond.mesh.at(3, 7001), 3_000_000, 1_000_000);
    diamond.goes_round(liar, other);
    stream.finish(secs(30)).unwrap();
}

#[test]
fn a_relay_that_drops_a_third_is_left() {
    let diamond = Diamond::new("relay drops a third");
    let (liar, other) = diamond.relays();
    diamond.drops(liar, "udp length > 250 numgen random mod 3 == 0");
    diamond.goes_round(liar, other);
    diamond.flow.goes_on(secs(3), millis(500));
}

#[test]
fn a_node_that_relays_for_nobody_is_passed_by() {
    let lab = Lab::new("relay off");
    let graph = Graph::new(4, &[(0, 1), (1, 3), (0, 2), (2, 3)]);
    let mesh = Mesh::start_with(&lab, graph, |node, settings| {
        if node == 1 {
            settings.node("relay = \"off\"")
        } else {
            settings
        }
    });
    let (first, last) = (&mesh.nodes[0], &mesh.nodes[3]);
    first.wait_for_route_via(last.address(), mesh.nodes[2].address(), secs(20));
    first.wait_for_answer(last.address(), secs(10));
    mesh.nodes[2].kill();
    first.wait_without_route(last.address(), secs(20));
    hold_for(secs(1), "nobody relays", || {
        first.ping(last.address()).is_err()
    });
    // It is no relay, but a node like any other.
    first.wait_for_answer(mesh.nodes[1].address(), secs(5));
}
