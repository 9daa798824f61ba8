//! The promise: what is joined stays joined, whoever fails: a provider, a gateway, the big transit in the middle.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, and their figures"
)]

use std::net::SocketAddr;

use netns_tests::traffic::{Stream, tcp_serve, udp_echo};
use netns_tests::view::PathKind;
use netns_tests::wait::hold_for;
use netns_tests::{
    Daemon, Flow, Graph, Host, Identity, Lab, Link, Mesh, Moment, Process, Settings, millis, secs,
    wait_until,
};

/// How long a partition lasts.
const PARTITION: u64 = 30;
/// How long routes may take to come back after one.
const BACK: std::time::Duration = secs(20);
/// How long nothing may be heard where there is another way.
const GAP: std::time::Duration = secs(2);

#[test]
fn a_partition_of_30_seconds_leaves_both_halves_working_and_heals() {
    let lab = Lab::new("partition ring");
    let mesh = Mesh::start(&lab, Graph::ring(6));
    mesh.wait_for_routes(secs(20));
    let node = |node: usize| &mesh.nodes[node];
    node(0).wait_for_answer(node(3).address(), secs(10));
    // 0, 1, 2 here and 3, 4, 5 there.
    let borders = [(2, 3), (5, 0)].map(|(a, b)| {
        let edge = mesh.topology.graph.edge(a, b).unwrap();
        &mesh.topology.links[edge]
    });
    borders.iter().for_each(|link| link.silence());
    let parted = Moment::now();
    for (from, to) in [(0, 3), (1, 4), (3, 0)] {
        node(from).wait_without_route(node(to).address(), secs(20));
    }
    let left = secs(PARTITION).saturating_sub(Moment::now().since(parted));
    hold_for(left, "both halves work, and nothing crosses", || {
        node(0).ping(node(2).address())?;
        node(5).ping(node(3).address())?;
        let crossed = node(0).host().ping_within(node(3).address(), millis(50));
        crossed.map_or(Ok(()), |()| Err("a packet crossed".to_owned()))
    });
    let healed = Moment::now();
    borders.iter().for_each(|link| link.restore());
    for (from, to) in [(0, 3), (1, 4), (3, 0), (5, 2)] {
        let left = BACK.saturating_sub(Moment::now().since(healed));
        node(from).wait_for_answer(node(to).address(), left);
    }
    // No packet has gone in a circle: it would have run out of hops.
    for node in &mesh.nodes {
        let drops = node.drops();
        assert_eq!(drops.get("hop-limit").copied().unwrap_or(0), 0, "{drops:?}");
    }
}

/// Hosts that forward IP and know nothing of the mesh.
struct Provider(Host);

impl Provider {
    fn new(lab: &Lab, name: &str) -> Self {
        let host = lab.host(name);
        host.forward();
        Self(host)
    }

    /// Joins two customers, each of which gets a route to the other's address by way of this provider; returns their links to it.
    fn joins(&self, lab: &Lab, a: &Host, b: &Host) -> [Link; 2] {
        let links = [lab.link(a, &self.0), lab.link(b, &self.0)];
        for (own, other) in [(0, 1), (1, 0)] {
            let (own, other) = (&links[own], &links[other]);
            own.a.host.run(&format!(
                "ip -6 route add {}/128 via {}",
                other.a.v6, own.b.v6
            ));
        }
        links
    }
}

/// The provider takes nothing in any more, and tells nobody.
fn dies(links: &[Link]) {
    links.iter().for_each(Link::silence);
}

fn comes_back(links: &[Link]) {
    links.iter().for_each(Link::restore);
}

fn endpoint(link: &Link) -> SocketAddr {
    SocketAddr::new(link.a.v6.into(), netns_tests::settings::PORT)
}

/// A flow and a stream between two nodes, while the test does things.
struct Traffic {
    flow: Flow,
    stream: Stream,
    _servers: [Process; 2],
}

impl Traffic {
    #[track_caller]
    fn between(from: &Daemon, to: &Daemon) -> Self {
        from.wait_for_answer(to.address(), secs(20));
        let at = |port| SocketAddr::new(to.address().into(), port);
        let _servers = [
            udp_echo(to.host(), at(7000)),
            tcp_serve(to.host(), at(7001)),
        ];
        let flow = Flow::start(from.host(), at(7000), millis(20));
        flow.wait_for_answers(secs(5));
        let stream = Stream::start(from.host(), at(7001), 6_000_000, 500_000);
        wait_until(secs(10), "the stream flows", || stream.progress() > 0);
        Self {
            flow,
            stream,
            _servers,
        }
    }

    /// The flow goes on after what has just happened, with no longer gap than allowed.
    #[track_caller]
    fn survives(&self, since: Moment, what: &str) {
        self.flow.wait_for_answers(secs(15));
        let gap = self.flow.longest_gap(since);
        println!("after {what}: no answer for {gap:?}");
        assert!(gap <= GAP, "no answer for {gap:?} after {what}");
        self.flow.goes_on(secs(1), GAP);
    }
}

/// On each side a gateway at each provider, and a node behind both gateways.
#[test]
fn two_sites_with_two_gateways_each_outlive_either_provider() {
    let lab = Lab::new("partition two gateways");
    let hosts = ["left", "left1", "left2", "right", "right1", "right2"].map(|name| lab.host(name));
    let ids: Vec<Identity> = hosts.iter().map(|_| lab.identity()).collect();
    let [left, left1, left2, right, right1, right2] = &hosts;
    let providers = ["one", "two"].map(|name| Provider::new(&lab, name));
    let across = [
        providers[0].joins(&lab, left1, right1),
        providers[1].joins(&lab, left2, right2),
    ];
    let inside = [
        (left, left1),
        (left, left2),
        (right, right1),
        (right, right2),
    ]
    .map(|(node, gateway)| lab.link(gateway, node));
    let number = |host: &Host| {
        hosts
            .iter()
            .position(|it| it.name() == host.name())
            .unwrap()
    };
    // Who knows whom, and where.
    let known = [
        (left, left1, endpoint(&inside[0])),
        (left, left2, endpoint(&inside[1])),
        (right, right1, endpoint(&inside[2])),
        (right, right2, endpoint(&inside[3])),
        (left1, right1, endpoint(&across[0][1])),
        (left2, right2, endpoint(&across[1][1])),
    ];
    let settings = |host: &Host| {
        let own = number(host);
        let mut settings = Settings::new(&ids[own]);
        let mut strangers: Vec<usize> = (0..ids.len()).filter(|other| *other != own).collect();
        for (caller, called, at) in &known {
            for (here, there, at) in [(caller, called, Some(*at)), (called, caller, None)] {
                if here.name() == host.name() {
                    let other = number(there);
                    settings = settings.peer(there.name(), &ids[other], at);
                    strangers.retain(|it| *it != other);
                }
            }
        }
        settings.allow(strangers.into_iter().map(|other| &ids[other]))
    };
    let nodes: Vec<Daemon> = hosts
        .iter()
        .map(|host| host.meshd(settings(host)))
        .collect();
    let (left, right) = (&nodes[0], &nodes[3]);
    let traffic = Traffic::between(left, right);
    let path = left.wait_for_path(right.address(), PathKind::Relay, secs(5));
    assert_eq!(path.hops, Some(3), "{path:?}");

    for (number, links) in across.iter().enumerate() {
        // The other one must be there before this one goes.
        let gateway = &nodes[2 - number];
        gateway.wait_for_links(nodes[5 - number].address(), 1, secs(20));
        let since = Moment::now();
        dies(links);
        traffic.survives(since, &format!("provider {number} died"));
        comes_back(links);
        nodes[1 + number].wait_for_links(nodes[4 + number].address(), 1, secs(20));
    }
    // A gateway itself.
    left.wait_for_route(right.address(), secs(5));
    let since = Moment::now();
    let through = left.route_to(right.address()).unwrap().next_hop;
    let gateway = nodes
        .iter()
        .find(|node| Some(node.address()) == through)
        .unwrap();
    gateway.kill();
    traffic.survives(since, "a gateway was killed");
    traffic.stream.finish(secs(60)).unwrap();
}

/// Each site has one node, at both providers: two links of one session.
#[test]
fn two_sites_with_two_uplinks_outlive_either_provider() {
    let lab = Lab::new("partition two uplinks");
    let (left, right) = (lab.host("left"), lab.host("right"));
    let providers = ["one", "two"].map(|name| Provider::new(&lab, name));
    let across = providers
        .each_ref()
        .map(|provider| provider.joins(&lab, &left, &right));
    let (id_left, id_right) = (lab.identity(), lab.identity());
    let at_right = across.each_ref().map(|links| endpoint(&links[1]));
    let left = left.meshd(Settings::new(&id_left).peer_at("right", &id_right, &at_right));
    let right = right.meshd(Settings::new(&id_right).peer("left", &id_left, None));
    left.wait_for_links(right.address(), 2, secs(20));
    right.wait_for_links(left.address(), 2, secs(20));

    let traffic = Traffic::between(&left, &right);
    for links in &across {
        let since = Moment::now();
        dies(links);
        traffic.survives(since, "a provider died");
        left.wait_for_links(right.address(), 1, secs(15));
        comes_back(links);
        left.wait_for_links(right.address(), 2, secs(20));
    }
    traffic.stream.finish(secs(60)).unwrap();
}

/// Two sites and a member between them that has a cable of its own to each: as long as the transit works, nothing goes that way.
#[test]
fn sites_keep_talking_over_members_own_links_when_the_transit_is_gone() {
    let lab = Lab::new("partition tier one");
    let transit = Provider::new(&lab, "transit");
    let (left, member, right) = (lab.host("left"), lab.host("member"), lab.host("right"));
    let across = transit.joins(&lab, &left, &right);
    let (to_left, to_right) = (lab.link(&member, &left), lab.link(&member, &right));
    let (id_left, id_member, id_right) = (lab.identity(), lab.identity(), lab.identity());
    let left = left.meshd(
        Settings::new(&id_left)
            .peer("right", &id_right, Some(endpoint(&across[1])))
            .peer("member", &id_member, Some(endpoint(&to_left))),
    );
    let right = right.meshd(
        Settings::new(&id_right)
            .peer("left", &id_left, Some(endpoint(&across[0])))
            .peer("member", &id_member, Some(endpoint(&to_right))),
    );
    let member = member.meshd(
        Settings::new(&id_member)
            .peer("left", &id_left, None)
            .peer("right", &id_right, None),
    );
    for (from, to) in [(&left, &member), (&right, &member), (&left, &right)] {
        from.wait_for_links(to.address(), 1, secs(20));
    }
    let traffic = Traffic::between(&left, &right);
    left.wait_for_path(right.address(), PathKind::Direct, secs(10));

    let since = Moment::now();
    dies(&across);
    traffic.survives(since, "the transit died");
    let path = left.wait_for_path(right.address(), PathKind::Relay, secs(5));
    assert_eq!(path.via, ["member"], "{path:?}");
    // Now its cables are gone too.
    for link in &across {
        link.a.host.link_down(&link.a.interface);
    }
    traffic.flow.goes_on(secs(3), GAP);
    traffic.stream.finish(secs(60)).unwrap();
}
