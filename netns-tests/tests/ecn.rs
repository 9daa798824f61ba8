//! ECN through tunnels (RFC 6040): who is inside hears of queues outside, and nobody outside reads more of the traffic class.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use netns_tests::traffic::{tcp_send, tcp_serve};
use netns_tests::view::PathKind;
use netns_tests::{Daemon, Graph, Host, Lab, Link, Marks, Mesh, Settings, secs, wait_until};

/// Traffic classes: ECT(0), and what a phone call has (EF), with ECT(0) and without.
const ECT_0: u8 = 0b10;
const CALL: u8 = 0xb8;
const CAPABLE_CALL: u8 = CALL | ECT_0;

/// Echo requests in one go.
const PINGS: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Underlay {
    V4,
    V6,
}

impl Underlay {
    /// As `tcpdump` takes it: WireGuard's datagrams from there with this traffic class.
    fn datagrams(self, from: IpAddr, class: u8) -> String {
        let class = match self {
            Self::V4 => format!("ip[1] == {class}"),
            Self::V6 => format!("{} and {}", high(class), low(class)),
        };
        format!("udp port 51860 and src host {from} and {class}")
    }
}

/// The halves of a traffic class in a header of IPv6.
fn high(class: u8) -> String {
    format!("(ip6[0] & 0x0f) == {}", class >> 4)
}

fn low(class: u8) -> String {
    format!("(ip6[1] & 0xf0) == {}", (class & 15) << 4)
}

/// As `tcpdump` takes it: echo requests from this node with this traffic class.
fn requests(from: &Daemon, class: u8) -> String {
    format!(
        "icmp6 and ip6[40] == 128 and src host {} and {} and {}",
        from.address(),
        high(class),
        low(class)
    )
}

/// Sends echo requests with this traffic class; says what `ping` does if not all are answered.
fn ping(from: &Daemon, to: &Daemon, class: u8) -> Result<String, String> {
    from.host().try_run(&format!(
        "ping -n -c {PINGS} -i 0.02 -W 1 -Q {class} {}",
        to.address()
    ))
}

/// Waits until so many packets of a capture pass this filter.
#[track_caller]
fn wait_for(host: &Host, file: &Path, filter: &str, count: usize) {
    wait_until(secs(5), filter, || match host.captured(file, filter) {
        seen if seen >= count => Ok(()),
        seen => Err(format!("{seen} of {count}")),
    });
}

struct Pair {
    a: Daemon,
    b: Daemon,
    link: Link,
    underlay: Underlay,
    /// What reaches b, outside and inside.
    outside: PathBuf,
    inside: PathBuf,
    _lab: Lab,
}

impl Pair {
    fn new(name: &str, underlay: Underlay) -> Self {
        let lab = Lab::new(name);
        let (a, b) = (lab.host("a"), lab.host("b"));
        let link = lab.link(&a, &b);
        let (id_a, id_b) = (lab.identity(), lab.identity());
        let (at_a, at_b): (IpAddr, IpAddr) = match underlay {
            Underlay::V4 => (link.a.v4.into(), link.b.v4.into()),
            Underlay::V6 => (link.a.v6.into(), link.b.v6.into()),
        };
        let (for_a, for_b) = Settings::pair((&id_a, at_a), (&id_b, at_b));
        let outside = b.capture(&link.b.interface);
        let (a, b) = (a.meshd(for_a), b.meshd(for_b));
        wait_until(secs(10), "a reaches b", || a.ping(b.address()));
        let inside = b.host().capture("mesh0");
        Self {
            a,
            b,
            link,
            underlay,
            outside,
            inside,
            _lab: lab,
        }
    }

    /// The address that a sends from.
    fn at_a(&self) -> IpAddr {
        match self.underlay {
            Underlay::V4 => self.link.a.v4.into(),
            Underlay::V6 => self.link.a.v6.into(),
        }
    }

    /// Of the datagrams that came from a, how many had this traffic class.
    #[track_caller]
    fn came(&self, class: u8) -> usize {
        let filter = self.underlay.datagrams(self.at_a(), class);
        self.b.host().captured(&self.outside, &filter)
    }

    fn marks_pass_into_the_tunnel_and_out_of_it(&self) {
        let (a, b) = (&self.a, &self.b);
        // Handshakes, routing and a ping without ECN have passed.
        assert!(self.came(0) > 0);
        assert_eq!(self.came(ECT_0), 0);

        ping(a, b, CAPABLE_CALL).unwrap();
        wait_for(b.host(), &self.inside, &requests(a, CAPABLE_CALL), PINGS);
        let outside = self.underlay.datagrams(self.at_a(), ECT_0);
        // In fewer frames than datagrams, where several went in one message.
        wait_for(b.host(), &self.outside, &outside, 1);

        ping(a, b, CALL).unwrap();
        wait_for(b.host(), &self.inside, &requests(a, CALL), PINGS);

        self.link.a.mark(Marks::Capable);
        ping(a, b, CAPABLE_CALL).unwrap();
        wait_for(b.host(), &self.inside, &requests(a, CALL | 0b11), PINGS);
        // What must not be marked is not, and passes.
        ping(a, b, CALL).unwrap();
        wait_for(b.host(), &self.inside, &requests(a, CALL), 2 * PINGS);
        self.link.a.unmark();

        // Nothing but the ECN field was ever seen outside.
        let dscp = match self.underlay {
            Underlay::V4 => "(ip[1] & 0xfc) != 0".to_owned(),
            Underlay::V6 => "((ip6[0] & 0x0f) != 0 or (ip6[1] & 0xc0) != 0)".to_owned(),
        };
        let filter = format!("udp port 51860 and {dscp}");
        assert_eq!(b.host().captured(&self.outside, &filter), 0);
    }

    /// As a broken network does it.
    fn what_must_not_be_marked_passes_as_it_was(&self) {
        let (a, b) = (&self.a, &self.b);
        let arrived = |class| b.host().captured(&self.inside, &requests(a, class));
        let before = arrived(CALL);
        self.link.a.mark(Marks::Everything);
        ping(a, b, CALL).unwrap();
        wait_for(b.host(), &self.inside, &requests(a, CALL), before + PINGS);
        assert_eq!(
            arrived(CALL | 0b11),
            PINGS,
            "those that asked for marks, and no others"
        );
        self.link.a.unmark();
    }

    /// TCP asks for ECN, in super-packets; its receiver tells its sender of what was marked.
    fn tcp_hears_of_marks(&self) {
        let (a, b) = (&self.a, &self.b);
        for node in [a, b] {
            node.host().sysctl("ipv4/tcp_ecn", "1");
        }
        let at_b = (b.address(), 7001).into();
        let _server = tcp_serve(b.host(), at_b);
        tcp_send(a.host(), at_b, 1, 5_000_000).unwrap();
        assert_eq!(delivered_ce(a.host()), 0);
        self.link.a.mark(Marks::Capable);
        tcp_send(a.host(), at_b, 1, 1_000_000).unwrap();
        self.link.a.unmark();
        assert!(delivered_ce(a.host()) > 0);
    }
}

/// How many segments of this host's TCP were marked on their way, as it was told.
fn delivered_ce(host: &Host) -> u64 {
    let said = host.run("nstat -a -s -z TcpExtTCPDeliveredCE");
    let mut lines = said.lines().filter(|line| line.starts_with("Tcp"));
    let value = lines.next().and_then(|line| line.split_whitespace().nth(1));
    value.and_then(|value| value.parse().ok()).unwrap()
}

#[test]
fn a_tunnel_over_ipv4_carries_ecn_and_nothing_else_of_the_class() {
    let pair = Pair::new("ecn over IPv4", Underlay::V4);
    pair.marks_pass_into_the_tunnel_and_out_of_it();
    pair.tcp_hears_of_marks();
    pair.what_must_not_be_marked_passes_as_it_was();
}

#[test]
fn a_tunnel_over_ipv6_carries_ecn_and_nothing_else_of_the_class() {
    let pair = Pair::new("ecn over IPv6", Underlay::V6);
    pair.marks_pass_into_the_tunnel_and_out_of_it();
    pair.tcp_hears_of_marks();
    pair.what_must_not_be_marked_passes_as_it_was();
}

#[test]
fn marks_cross_a_relay_under_labels() {
    /// As `tcpdump` takes it: labelled datagrams with this ECN field.
    fn labelled(ecn: u8) -> String {
        format!("ip6[6] == 17 and ip6[48] == 5 and {}", low(ecn))
    }
    let lab = Lab::new("ecn relay");
    let mesh = Mesh::start(&lab, Graph::line(3));
    let (first, last) = (&mesh.nodes[0], &mesh.nodes[2]);
    let hosts = &mesh.topology.hosts;
    mesh.wait_for_routes(secs(20));
    first.wait_for_answer(last.address(), secs(10));
    first.wait_for_path(last.address(), PathKind::Relay, secs(5));
    let onward = mesh.topology.port(1, 2);
    let outside = hosts[1].capture(&onward.interface);
    let inside = hosts[2].capture("mesh0");
    let filter = format!("{} and src host {}", labelled(ECT_0), onward.v6);
    wait_until(secs(10), "labels are used", || {
        ping(first, last, ECT_0)?;
        match hosts[1].captured(&outside, &filter) {
            0 => Err("nothing under labels with ECT(0)".to_owned()),
            _ => Ok(()),
        }
    });
    wait_for(&hosts[2], &inside, &requests(first, ECT_0), PINGS);

    // On the first hop; the relay hands on what it has heard.
    mesh.topology.port(0, 1).mark(Marks::Capable);
    ping(first, last, ECT_0).unwrap();
    wait_for(&hosts[2], &inside, &requests(first, 0b11), PINGS);
    let filter = format!("{} and src host {}", labelled(0b11), onward.v6);
    wait_for(&hosts[1], &outside, &filter, 1);
    // And on the second.
    mesh.topology.port(0, 1).unmark();
    mesh.topology.port(1, 2).mark(Marks::Capable);
    ping(first, last, ECT_0).unwrap();
    wait_for(&hosts[2], &inside, &requests(first, 0b11), 2 * PINGS);
}
