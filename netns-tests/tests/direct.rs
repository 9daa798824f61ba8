//! Two nodes with a cable between them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};

use netns_tests::traffic::{self, Stream};
use netns_tests::wait::hold_for;
use netns_tests::{Cable, Daemon, Lab, Link, Offloads, Settings, millis, secs, wait_until};

/// The MTU of the overlay on an underlay of 1500 bytes.
const MTU: u16 = 1420;
const IPV6_HEADER: u16 = 40;
const UDP_HEADER: u16 = 8;
const ICMP_HEADER: u16 = 8;

#[derive(Clone, Copy)]
enum Underlay {
    V4,
    V6,
}

struct Pair {
    a: Daemon,
    b: Daemon,
    link: Link,
    /// Last, so that it outlives the rest.
    _lab: Lab,
}

impl Pair {
    fn new(name: &str, underlay: Underlay) -> Self {
        Self::over(name, underlay, Cable::default())
    }

    fn over(name: &str, underlay: Underlay, cable: Cable) -> Self {
        Self::with(name, underlay, cable, |settings| settings)
    }

    fn with(
        name: &str,
        underlay: Underlay,
        cable: Cable,
        change: impl Fn(Settings) -> Settings,
    ) -> Self {
        let lab = Lab::new(name);
        let (a, b) = (lab.host("a"), lab.host("b"));
        let link = lab.link_with(&a, &b, cable);
        let (id_a, id_b) = (lab.identity(), lab.identity());
        let (at_a, at_b): (IpAddr, IpAddr) = match underlay {
            Underlay::V4 => (link.a.v4.into(), link.b.v4.into()),
            Underlay::V6 => (link.a.v6.into(), link.b.v6.into()),
        };
        let (for_a, for_b) = Settings::pair((&id_a, at_a), (&id_b, at_b));
        let pair = Self {
            a: a.meshd(change(for_a)),
            b: b.meshd(change(for_b)),
            link,
            _lab: lab,
        };
        pair.wait_for_both();
        pair
    }

    #[track_caller]
    fn wait_for_both(&self) {
        wait_until(secs(10), "a reaches b", || self.a.ping(self.b.address()));
        wait_until(secs(10), "b reaches a", || self.b.ping(self.a.address()));
    }

    fn at_b(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.b.address().into(), port)
    }

    fn carries_every_kind_of_traffic(&self) {
        let _echo = traffic::udp_echo(self.b.host(), self.at_b(7000));
        traffic::udp_sizes(
            self.a.host(),
            self.at_b(7000),
            0..=MTU - IPV6_HEADER - UDP_HEADER,
        )
        .unwrap();
        // In fragments.
        traffic::udp_sizes(self.a.host(), self.at_b(7000), MTU..=MTU + 100).unwrap();
        traffic::udp_sizes(self.a.host(), self.at_b(7000), 3990..=4010).unwrap();

        let _server = traffic::tcp_serve(self.b.host(), self.at_b(7001));
        traffic::tcp_send(self.a.host(), self.at_b(7001), 1, 20_000_000).unwrap();
        traffic::tcp_send(self.a.host(), self.at_b(7001), 50, 500_000).unwrap();
    }

    fn passes_full_size_packets_and_says_what_is_too_big(&self) {
        let full = MTU - IPV6_HEADER - ICMP_HEADER;
        let ping = |size: u16| {
            self.a.host().try_run(&format!(
                "ping -n -c 1 -W 1 -M do -s {size} {}",
                self.b.address()
            ))
        };
        ping(full).unwrap();
        let refused = ping(full + 1).unwrap_err();
        assert!(refused.contains("too long"), "{refused}");
    }
}

#[test]
fn two_nodes_carry_every_kind_of_traffic_over_ipv4() {
    let pair = Pair::new("direct over IPv4", Underlay::V4);
    pair.carries_every_kind_of_traffic();
    pair.passes_full_size_packets_and_says_what_is_too_big();
}

#[test]
fn two_nodes_carry_every_kind_of_traffic_over_ipv6() {
    let pair = Pair::new("direct over IPv6", Underlay::V6);
    pair.carries_every_kind_of_traffic();
    pair.passes_full_size_packets_and_says_what_is_too_big();
}

#[test]
fn cards_without_offloads_make_no_difference() {
    let cable = Cable {
        offloads: Offloads::Off,
        ..Cable::default()
    };
    Pair::over("direct without offloads", Underlay::V4, cable).carries_every_kind_of_traffic();
}

#[test]
fn status_tells_about_the_peer() {
    let pair = Pair::new("direct status", Underlay::V4);
    let status = pair.a.status();
    assert_eq!(status["schema"], "meshd.status/1");
    assert_eq!(status["node"]["name"], "a");
    assert_eq!(status["node"]["address"], pair.a.address().to_string());
    assert_eq!(status["node"]["public_key"], pair.a.identity().public_key);
    assert_eq!(status["interface"]["mtu"], MTU);
    let peer = pair.a.peer("b").unwrap();
    assert_eq!(peer["kind"], "mesh");
    assert_eq!(peer["address"], pair.b.address().to_string());
    assert_eq!(peer["public_key"], pair.b.identity().public_key);
    assert_eq!(peer["path"]["kind"], "direct");
    assert_eq!(
        peer["path"]["endpoint"],
        format!("{}:51860", pair.link.b.v4)
    );
    assert!(
        peer["rx_bytes"].as_u64().unwrap() > 0 && peer["tx_bytes"].as_u64().unwrap() > 0,
        "{peer}"
    );
    assert!(peer["last_handshake_s"].as_f64().unwrap() < 60.0, "{peer}");
}

#[test]
fn only_one_side_needs_to_know_the_other_ones_endpoint() {
    let lab = Lab::new("direct one endpoint");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let b = b.meshd(Settings::new(&id_b).peer("a", &id_a, None));
    let a = a.meshd(Settings::new(&id_a).peer(
        "b",
        &id_b,
        Some(SocketAddr::new(link.b.v4.into(), 51860)),
    ));
    wait_until(secs(10), "b reaches a", || b.ping(a.address()));
}

#[test]
fn a_stranger_gets_an_answer_to_its_first_call_from_an_open_node_and_from_no_other() {
    let lab = Lab::new("direct open");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let closed = Settings::new(&id_b);
    let open = closed.clone().node("open = true").inbound("");
    let b = b.meshd(closed);
    let at_b = SocketAddr::new(link.b.v4.into(), 51860);
    let a = a.meshd(Settings::new(&id_a).peer("b", &id_b, Some(at_b)));
    wait_until(secs(10), "b turns a stranger away", || {
        b.drops().contains_key("stranger")
    });
    a.ping(b.address()).unwrap_err();
    b.configure(&open);
    b.reload();
    a.restart();
    // The second call would come five seconds after the first.
    wait_until(secs(4), "a reaches b", || a.ping(b.address()));
}

fn an_address_change_breaks_no_stream(name: &str, underlay: Underlay) {
    let pair = Pair::new(name, underlay);
    let Link { a, b } = &pair.link;
    let _server = traffic::tcp_serve(pair.b.host(), pair.at_b(7001));
    let stream = Stream::start(pair.a.host(), pair.at_b(7001), 24_000_000, 4_000_000);
    wait_until(secs(10), "the stream flows", || {
        stream.progress() > 4_000_000
    });
    let [old_a, new_a, old_b, new_b] = match underlay {
        Underlay::V4 => [
            format!("{}/24", a.v4),
            "10.77.1.101/24".into(),
            format!("{}/24", b.v4),
            "10.77.1.102/24".into(),
        ],
        Underlay::V6 => [
            format!("{}/64", a.v6),
            "fd77:1::101/64".into(),
            format!("{}/64", b.v6),
            "fd77:1::102/64".into(),
        ],
    };
    a.host.replace_address(&a.interface, &old_a, &new_a);
    wait_until(secs(10), "the stream flows after the sender moved", || {
        stream.progress() > 12_000_000
    });
    b.host.replace_address(&b.interface, &old_b, &new_b);
    stream.finish(secs(30)).unwrap();

    let moved = pair.a.peer("b").unwrap();
    let address = new_b.split('/').next().unwrap();
    assert!(
        moved["path"]["endpoint"]
            .as_str()
            .is_some_and(|endpoint| endpoint.contains(address)),
        "{moved}"
    );
}

#[test]
fn a_stream_survives_address_changes_of_both_sides_over_ipv4() {
    an_address_change_breaks_no_stream("direct roaming over IPv4", Underlay::V4);
}

#[test]
fn a_stream_survives_address_changes_of_both_sides_over_ipv6() {
    an_address_change_breaks_no_stream("direct roaming over IPv6", Underlay::V6);
}

#[test]
fn a_stream_survives_a_cut_of_the_underlay() {
    let pair = Pair::new("direct cut", Underlay::V4);
    let _server = traffic::tcp_serve(pair.b.host(), pair.at_b(7001));
    let stream = Stream::start(pair.a.host(), pair.at_b(7001), 12_000_000, 4_000_000);
    wait_until(secs(10), "the stream flows", || {
        stream.progress() > 4_000_000
    });
    pair.link.cut();
    let reached = pair.a.host().ping(pair.b.address());
    assert!(reached.is_err(), "nothing passes a cut link");
    pair.link.mend();
    stream.finish(secs(30)).unwrap();
}

#[test]
fn either_side_restarts_and_both_talk_again_within_two_seconds() {
    let pair = Pair::new("direct restart", Underlay::V4);
    for (restarted, other) in [(&pair.a, &pair.b), (&pair.b, &pair.a)] {
        restarted.restart();
        wait_until(secs(2), "the other side reaches the restarted one", || {
            other.host().ping_within(restarted.address(), millis(200))
        });
        wait_until(secs(2), "the restarted one reaches the other side", || {
            restarted.host().ping_within(other.address(), millis(200))
        });
    }
}

#[test]
fn either_side_is_killed_and_both_talk_again_within_two_seconds() {
    let pair = Pair::new("direct kill", Underlay::V6);
    for (killed, other) in [(&pair.a, &pair.b), (&pair.b, &pair.a)] {
        killed.kill();
        assert!(other.ping(killed.address()).is_err());
        killed.start_again();
        wait_until(
            secs(2),
            "the other side reaches the one that was killed",
            || other.host().ping_within(killed.address(), millis(200)),
        );
        wait_until(
            secs(2),
            "the one that was killed reaches the other side",
            || killed.host().ping_within(other.address(), millis(200)),
        );
    }
}

#[test]
fn a_stopped_daemon_leaves_nothing_in_the_kernel() {
    let lab = Lab::new("direct clean stop");
    let host = lab.host("a");
    let kernel = || {
        [
            "ip link",
            "ip -6 rule",
            "ip -6 route show table all",
            "ip rule",
        ]
        .map(|line| host.run(line))
    };
    let before = kernel();
    let daemon = host.meshd(Settings::new(&lab.identity()));
    assert!(
        host.run("ip -6 addr show dev mesh0")
            .contains(&format!("{}/128", daemon.address()))
    );
    assert_ne!(kernel(), before);
    let ended = daemon.stop();
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    assert_eq!(kernel(), before);

    // Killed, it cannot clean up; the next one does.
    daemon.start_again();
    daemon.kill();
    daemon.start_again();
    assert!(daemon.stop().is_some_and(|status| status.success()));
    assert_eq!(kernel(), before);
}

#[test]
fn a_peer_comes_and_goes_by_reload_without_harm_to_the_others() {
    let lab = Lab::new("direct reload");
    let switch = lab.switch("lan");
    let hosts = ["a", "b", "c"].map(|name| lab.host(name));
    let ports = hosts.each_ref().map(|host| switch.plug(host));
    let ids = [(); 3].map(|()| lab.identity());
    let at = |number: usize| Some(SocketAddr::new(ports[number].v4.into(), 51860));
    let with_b = Settings::new(&ids[0]).peer("b", &ids[1], at(1));
    let with_both = with_b.clone().peer("c", &ids[2], at(2));
    let a = hosts[0].meshd(with_b.clone());
    let b = hosts[1].meshd(Settings::new(&ids[1]).peer("a", &ids[0], at(0)));
    let c = hosts[2].meshd(Settings::new(&ids[2]).peer("a", &ids[0], at(0)));
    wait_until(secs(10), "a reaches b", || a.ping(b.address()));
    assert!(a.ping(c.address()).is_err());

    a.configure(&with_both);
    a.reload();
    wait_until(secs(10), "a reaches c", || a.ping(c.address()));
    a.configure(&with_b);
    a.reload();
    wait_until(secs(10), "a no longer reaches c", || {
        a.ping(c.address()).is_err()
    });
    hold_for(secs(1), "a reaches b", || a.ping(b.address()));
}

#[test]
fn packets_in_four_queues_arrive_as_those_in_one_do() {
    let in_four = |settings: Settings| settings.queues(4);
    let pair = Pair::with("direct queues", Underlay::V4, Cable::default(), in_four);
    for node in [&pair.a, &pair.b] {
        let sockets = node.host().run("ss -Hun4l sport = :51860");
        assert_eq!(sockets.lines().count(), 4, "{sockets}");
    }
    pair.carries_every_kind_of_traffic();
    let _server = traffic::Iperf::serve(pair.b.host());
    traffic::Iperf::tcp(pair.a.host(), pair.b.address().into(), 8, 2).unwrap();
    for node in [&pair.a, &pair.b] {
        assert_eq!(node.drops().get("replayed"), None);
    }

    // Its port is shared among its own sockets only.
    let probe = netns_tests::lab::program("netns-probe");
    let taken = pair
        .a
        .host()
        .try_run(&format!("{probe} udp-echo 0.0.0.0:51860"));
    assert!(taken.unwrap_err().contains("in use"));
}
