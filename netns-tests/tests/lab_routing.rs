//! The lab proves itself, where it is about routing: with stock routers alone.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use ipnetwork::Ipv6Network;
use netns_tests::babel::{INFINITY, Tlv, Update, ack_request};
use netns_tests::liar::{BlackHole, Reposter};
use netns_tests::monitor::KernelFib;
use netns_tests::stock::first;
use netns_tests::traffic::udp_echo;
use netns_tests::trial::Trial;
use netns_tests::usage::sent_by_ports;
use netns_tests::wireguard::{Key, WireGuard};
use netns_tests::{
    Canary, Flow, Graph, Lab, Moment, Software, Speaker, StockRouter, StockSettings, Topology,
    millis, secs, wait_until,
};

/// Quicker than either daemon by default, so that nobody waits.
const HELLO: Duration = millis(500);
const UPDATE: Duration = secs(2);

fn net(text: &str) -> Ipv6Network {
    text.parse().unwrap()
}

fn prefix(node: usize) -> Ipv6Network {
    net(&format!("600:0:0:{:x}::/64", node + 1))
}

#[test]
fn routers_on_a_ring_are_followed_through_a_silent_failure() {
    let lab = Lab::new("routing ring of stock routers");
    let topology = Topology::lay(&lab, Graph::ring(4));
    let ring = topology.graph.clone();
    let prefixes: Vec<Ipv6Network> = (0..4).map(prefix).collect();
    let watched = KernelFib::watch(&topology, &prefixes);
    let mut trial = Trial::new(&topology, || watched.take());
    let from = Moment::now();
    let routers: Vec<StockRouter> = topology
        .hosts
        .iter()
        .enumerate()
        .map(|(node, host)| {
            host.forward();
            let ports: Vec<&str> = ring
                .neighbours(node)
                .map(|other| topology.port(node, other).interface.as_str())
                .collect();
            let settings = StockSettings::on(&ports)
                .every(HELLO, UPDATE)
                .announce(prefixes[node]);
            StockRouter::launch(Software::Bird, host, &settings)
        })
        .collect();
    routers.iter().for_each(StockRouter::wait_until_ready);
    let cold = trial.observe(&ring, from, Duration::ZERO..=secs(60));
    assert!(
        cold.reached.is_some() && cold.shortest.is_some(),
        "{cold:?}"
    );
    assert_eq!(cold.outages.len(), 12, "{cold:?}");
    let ping = |from: usize, to: usize| {
        let [from_address, to] = [from, to].map(|node| first(prefixes[node]));
        topology.hosts[from].try_run(&format!("ping -n -c 1 -W 1 -I {from_address} {to}"))
    };
    ping(0, 2).unwrap();

    let edge = ring.edge(0, 1).unwrap();
    let cut = ring.clone().without_edge(edge);
    assert!(trial.fib().crossing(&ring, 0, 1).contains(&(0, 1)));
    let from = Moment::now();
    topology.links[edge].silence();
    assert!(ping(0, 1).is_err());
    let failure = trial.observe(&cut, from, Duration::ZERO..=secs(60));
    assert!(failure.settled.is_some(), "{failure:?}");
    assert!(failure.longest_outage() >= HELLO, "{failure:?}");
    ping(0, 1).unwrap();

    let from = Moment::now();
    topology.links[edge].restore();
    let heal = trial.observe(&ring, from, Duration::ZERO..=secs(30));
    assert_eq!(heal.settled, Some(Duration::ZERO), "{heal:?}");
    assert!(heal.shortest > Some(Duration::ZERO), "{heal:?}");

    let ids: Vec<u32> = routers.iter().map(StockRouter::id).collect();
    let rest = trial.rest(secs(3), &ids, || sent_by_ports(&topology));
    // Four links, both ways, two Hellos a second each.
    assert!(rest.wire.packets >= 40, "{rest:?}");
    assert!(
        rest.processor > Duration::ZERO && rest.memory.resident_kib > 4000,
        "{rest:?}"
    );
}

#[test]
fn routers_speak_over_stock_wireguard() {
    let lab = Lab::new("routing over stock wireguard");
    let hosts = [lab.host("a"), lab.host("b")];
    let link = lab.link(&hosts[0], &hosts[1]);
    let ends = hosts
        .each_ref()
        .map(|host| WireGuard::start_for_routing(host, &Key::generate(host), None));
    ends[0].listen(51820);
    ends[0].neighbour(&ends[1].key().public, None);
    let at_a = SocketAddr::new(link.a.v6.into(), 51820);
    ends[1].neighbour(&ends[0].key().public, Some(at_a));
    let [a, b] = [(0, Software::Babeld), (1, Software::Bird)].map(|(node, software)| {
        let settings = StockSettings::on(&[ends[node].interface()])
            .every(HELLO, UPDATE)
            .announce(prefix(node));
        StockRouter::start(software, &hosts[node], &settings)
    });
    let neighbour = a.wait_for_neighbour(ends[0].interface(), secs(20));
    let route = a.wait_for_route(first(prefix(1)), secs(20));
    assert_eq!(
        (route.via, route.metric),
        (neighbour.address, neighbour.cost)
    );
    b.wait_for_route(first(prefix(0)), secs(20));

    let target = SocketAddr::new(first(prefix(1)).into(), 7000);
    let _echo = udp_echo(&hosts[1], target);
    let flow = Flow::start(&hosts[0], target, millis(10));
    flow.wait_for_answers(secs(5));
    let (inside, outside) = (
        hosts[1].capture(ends[1].interface()),
        hosts[1].capture(&link.b.interface),
    );
    let canary = Canary::new();
    canary.send(&hosts[0], target, 3);
    wait_until(secs(5), "the canary is inside the tunnel", || {
        canary.is_in(&inside)
    });
    let since = Moment::now();
    link.silence();
    wait_until(secs(5), "the flow stands still", || {
        flow.longest_gap(since) > millis(300)
    });
    link.restore();
    flow.wait_for_answers(secs(5));
    assert!(!canary.is_in(&outside));
    a.stop();
    wait_until(secs(20), "b forgets a's route", || {
        b.route_to(first(prefix(0))).is_err()
    });
}

#[test]
fn a_speaker_is_a_neighbour_of_stock_routers() {
    for software in Software::ALL {
        let lab = Lab::new("routing speaker");
        let (host, other) = (lab.host("router"), lab.host("speaker"));
        let link = lab.link(&host, &other);
        let settings = StockSettings::on(&[&link.a.interface])
            .every(HELLO, UPDATE)
            .announce(prefix(0));
        let router = StockRouter::start(software, &host, &settings);
        let speaker = Speaker::on(&other, &link.b.interface);
        router.wait_for_neighbour(&link.a.interface, secs(10));

        let route = Update::new(prefix(7), [7; 8], 100, 50);
        speaker.announce("route", route.tlvs());
        let learned = router.wait_for_route(first(prefix(7)), secs(10));
        assert_eq!(learned.metric, Some(146), "{}", software.name());
        speaker.cease("route");
        let retraction = Update {
            metric: INFINITY,
            ..route
        };
        speaker.say(&[retraction.tlvs()]);
        wait_until(secs(5), "the route is gone", || {
            router.route_to(first(prefix(7))).is_err()
        });

        let own = speaker.wait_for_update(prefix(0), secs(10), |update| update.metric == 0);
        assert!(own.proof.is_none());
        speaker.say(&[ack_request(0xbeef, 50)]);
        speaker.wait_to_hear(secs(2), "the acknowledgment", |tlv| {
            (*tlv == Tlv::Ack { opaque: 0xbeef }).then_some(())
        });
        assert_eq!(speaker.malformed(), Vec::<String>::new());
    }
}

#[test]
fn a_black_hole_passes_on_routes_and_no_packets() {
    let lab = Lab::new("routing black hole");
    let (a, hole, b) = (lab.host("a"), lab.host("hole"), lab.host("b"));
    let links = [lab.link(&a, &hole), lab.link(&b, &hole)];
    let [a, b] =
        [(0, a, Software::Babeld), (1, b, Software::Bird)].map(|(node, host, software)| {
            let settings = StockSettings::on(&[&links[node].a.interface])
                .every(HELLO, UPDATE)
                .announce(prefix(node));
            StockRouter::start(software, &host, &settings)
        });
    let speakers = links
        .each_ref()
        .map(|link| Speaker::on(&hole, &link.b.interface));
    let _hole = BlackHole::between(&speakers[0], &speakers[1]);
    let route = a.wait_for_route(first(prefix(1)), secs(20));
    // As near as a neighbour of the origin can be.
    assert_eq!(route.metric, Some(192), "{route:?}");
    b.wait_for_route(first(prefix(0)), secs(20));
    let line = format!(
        "ping -n -c 1 -W 1 -I {} {}",
        first(prefix(0)),
        first(prefix(1))
    );
    assert!(a.host().try_run(&line).is_err());
}

#[test]
fn a_reposter_posts_what_is_relayed_to_its_victim() {
    let lab = Lab::new("routing repost");
    let [from, relay, elsewhere, to] =
        ["from", "relay", "elsewhere", "to"].map(|name| lab.host(name));
    let (near, out) = (lab.link(&from, &relay), lab.link(&elsewhere, &to));
    relay.forward();
    let victim = first(prefix(1));
    from.run(&format!("ip -6 route add {victim}/128 via {}", near.b.v6));
    let target = SocketAddr::new(out.b.v6.into(), 7000);
    let _echo = udp_echo(&to, target);
    let seen = to.capture(&out.b.interface);
    let poster = Reposter::start(&relay, &near.b.interface, victim, &elsewhere, target, 2);
    let canary = Canary::new();
    canary.send(&from, SocketAddr::new(victim.into(), 51820), 3);
    // Not a session's.
    Canary::new().send(&from, SocketAddr::new(victim.into(), 51821), 3);
    wait_until(secs(5), "all was posted twice", || poster.posted() == 6);
    wait_until(secs(5), "it came from elsewhere", || canary.is_in(&seen));
    let filter = format!("src host {} and dst host {}", out.a.v6, out.b.v6);
    assert_eq!(to.captured(&seen, &format!("{filter} and udp")), 6);
}
