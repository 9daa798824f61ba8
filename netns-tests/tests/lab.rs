//! The lab proves itself: what its parts are said to do is what they do.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use netns_tests::impair::{Bursts, Order};
use netns_tests::nat::{Hairpin, Udp};
use netns_tests::traffic::{self, Behaviour, Iperf, Pings, SinkReport};
use netns_tests::wireguard::{Key, WireGuard};
use netns_tests::{
    Cable, Direction, Host, Impairment, Lab, Link, Nat, NatBox, Offloads, Port, Router, millis,
    secs, wait_until,
};

const INDEPENDENT: &str = "endpoint independent";
const ADDRESS: &str = "address dependent";
const PORT: &str = "address and port dependent";

#[test]
fn two_hosts_talk_over_a_cable() {
    let lab = Lab::new("two hosts talk over a cable");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    a.ping(link.b.v4).unwrap();
    b.ping(link.a.v6).unwrap();

    let at = SocketAddr::new(link.b.v6.into(), 7000);
    let _echo = traffic::udp_echo(&b, at);
    traffic::udp_sizes(&a, at, 0..=40).unwrap();
    traffic::udp_sizes(&a, at, 1440..=1500).unwrap();
    let _server = traffic::tcp_serve(&b, at);
    traffic::tcp_send(&a, at, 8, 300_000).unwrap();
    let _web = traffic::http_serve(&b, SocketAddr::new(link.b.v4.into(), 80), 123_456);
    assert_eq!(
        traffic::http_get(&a, SocketAddr::new(link.b.v4.into(), 80)),
        Ok(123_456)
    );
}

#[test]
fn a_cut_link_carries_nothing_until_it_is_mended() {
    let lab = Lab::new("a cut link");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    link.cut();
    assert!(b.ping(link.a.v6).is_err() && b.ping(link.a.v4).is_err());
    link.mend();
    wait_until(secs(5), "both families work again", || {
        b.ping(link.a.v6).and_then(|()| b.ping(link.a.v4))
    });
}

#[test]
fn a_silent_link_carries_nothing_and_a_lossy_port_loses_what_it_is_told() {
    let lab = Lab::new("a silent link");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    link.silence();
    assert!(b.ping(link.a.v6).is_err() && a.ping(link.b.v4).is_err());
    // Nobody was told.
    for port in [&link.a, &link.b] {
        let shown = port.host.run(&format!("ip link show {}", port.interface));
        assert!(shown.contains("state UP"), "{shown}");
    }
    link.restore();
    wait_until(secs(5), "both families work again", || {
        b.ping(link.a.v6).and_then(|()| a.ping(link.b.v4))
    });

    let at = SocketAddr::new(link.b.v6.into(), 7000);
    let _echo = traffic::udp_echo(&b, at);
    link.a.lose("ip6 nexthdr udp udp length > 700");
    traffic::udp_sizes(&a, at, 680..=692).unwrap();
    let lost = traffic::udp_sizes(&a, at, 693..=694).unwrap_err();
    assert!(lost.contains("693") && lost.contains("694"), "{lost}");
}

#[test]
fn hosts_on_a_switch_reach_each_other_under_old_and_new_addresses() {
    let lab = Lab::new("a switch");
    let switch = lab.switch("lan");
    let hosts = ["a", "b", "c"].map(|name| lab.host(name));
    let ports = hosts.each_ref().map(|host| switch.plug(host));
    hosts[0].ping(ports[2].v6).unwrap();
    let network = ports[2].v4.octets()[2];
    hosts[2].replace_address(
        &ports[2].interface,
        &format!("{}/24", ports[2].v4),
        &format!("10.77.{network}.99/24"),
    );
    hosts[0].ping(Ipv4Addr::new(10, 77, network, 99)).unwrap();
    assert!(hosts[0].ping(ports[2].v4).is_err());
}

/// A host behind a router, and a public server with two addresses.
struct Home {
    lab: Lab,
    host: Host,
    server: Host,
    addresses: [IpAddr; 2],
    _answers: netns_tests::Process,
}

impl Home {
    fn new(name: &str, router: impl FnOnce(&Lab) -> Router) -> Self {
        let lab = Lab::new(name);
        let (host, server) = (lab.host("home"), lab.host("server"));
        let port = lab.internet().connect(&server);
        server.set_address(&port.interface, "198.51.100.10/32");
        lab.internet()
            .host()
            .run(&format!("ip route add 198.51.100.10 via {}", port.v4));
        router(&lab).attach(&host);
        let addresses = [port.v4.into(), "198.51.100.10".parse().unwrap()];
        let _answers = traffic::nat_serve(&server, addresses);
        Self {
            lab,
            host,
            server,
            addresses,
            _answers,
        }
    }

    fn behind(name: &str, nat: impl Into<NatBox>) -> Self {
        Self::new(name, |lab| lab.router("router").online().nat(nat))
    }

    fn behaviour(&self) -> Behaviour {
        traffic::nat_probe(&self.host, self.addresses)
    }

    #[track_caller]
    fn expect(&self, mapping: &str, filtering: &str) -> Behaviour {
        let found = self.behaviour();
        assert_eq!(
            (found.mapping.as_str(), found.filtering.as_str()),
            (mapping, filtering),
            "{found:?} in {}",
            self.lab.id()
        );
        found
    }
}

#[test]
fn a_home_router_keeps_the_port_and_lets_in_only_who_was_asked() {
    let home = Home::behind("nat port restricted", Nat::PortRestricted);
    assert!(home.expect(INDEPENDENT, PORT).keeps_port);
    assert!(
        home.server
            .ping("203.0.113.10".parse::<IpAddr>().unwrap())
            .is_ok(),
        "the router itself answers"
    );
}

#[test]
fn a_port_changing_nat_has_one_mapping_for_all() {
    assert!(
        !Home::behind("nat port changing", Nat::PortChanging)
            .expect(INDEPENDENT, PORT)
            .keeps_port
    );
}

#[test]
fn a_full_cone_lets_in_everybody() {
    Home::behind("nat full cone", Nat::FullCone).expect(INDEPENDENT, INDEPENDENT);
}

#[test]
fn a_restricted_nat_lets_in_other_ports_of_whom_was_asked() {
    Home::behind("nat restricted", Nat::Restricted).expect(INDEPENDENT, ADDRESS);
}

#[test]
fn an_address_dependent_nat_has_a_mapping_for_each_address() {
    Home::behind("nat address dependent", Nat::AddressDependent).expect(ADDRESS, PORT);
}

#[test]
fn a_symmetric_nat_has_a_mapping_for_each_destination() {
    Home::behind("nat symmetric", Nat::SymmetricRandom).expect(PORT, PORT);
}

#[test]
fn a_sequential_nat_counts_its_ports_up() {
    let found = Home::behind("nat sequential", Nat::SymmetricSequential).expect(PORT, PORT);
    assert!(
        found.ports.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{found:?}"
    );
}

#[test]
fn a_second_nat_in_front_decides_where_it_is_stricter() {
    let home = Home::new("nat double", |lab| {
        let carrier = lab.router("carrier").online().nat(Nat::SymmetricRandom);
        lab.router("router").behind(&carrier).nat(Nat::FullCone)
    });
    home.expect(PORT, PORT);
}

#[test]
fn a_router_that_blocks_udp_lets_tcp_pass() {
    let home = Home::behind("nat udp blocked", NatBox::udp_blocked());
    home.expect("blocked", "blocked");
    let at = SocketAddr::new(home.addresses[0], 80);
    let _web = traffic::http_serve(&home.server, at, 1000);
    assert_eq!(traffic::http_get(&home.host, at), Ok(1000));
}

#[test]
fn where_only_the_web_is_open_other_ports_are_refused() {
    let home = Home::behind(
        "nat 443 only",
        NatBox {
            udp: Udp::BlockedAndTcp443Only,
            ..Nat::PortRestricted.into()
        },
    );
    let [open, closed] = [443, 80].map(|port| SocketAddr::new(home.addresses[0], port));
    let _servers = [open, closed].map(|at| traffic::http_serve(&home.server, at, 10));
    assert_eq!(traffic::http_get(&home.host, open), Ok(10));
    assert!(
        traffic::http_get(&home.host, closed)
            .unwrap_err()
            .contains("refused")
    );
}

#[test]
fn a_forgetful_router_loses_a_late_answer() {
    let home = Home::behind("nat forgetful", NatBox::forgetful());
    assert!(traffic::nat_remembers(
        &home.host,
        home.addresses[0],
        millis(500)
    ));
    assert!(!traffic::nat_remembers(
        &home.host,
        home.addresses[0],
        millis(3500)
    ));
}

#[test]
fn a_router_that_restarts_gives_a_symmetric_flow_another_port() {
    let lab = Lab::new("nat reboot");
    let (home, server) = (lab.host("home"), lab.host("server"));
    let at = lab.internet().connect(&server);
    let router = lab.router("router").online().nat(Nat::PortRestricted);
    router.attach(&home);
    home.ping(at.v4).unwrap();
    assert!(
        router
            .host()
            .run("conntrack -L")
            .contains(&at.v4.to_string())
    );
    router.reboot();
    assert!(
        !router
            .host()
            .run("conntrack -L")
            .contains(&at.v4.to_string())
    );
}

#[test]
fn hosts_behind_one_router_meet_at_its_external_address_only_with_hairpin() {
    for hairpin in [Hairpin::On, Hairpin::Off] {
        let lab = Lab::new("nat hairpin");
        let (a, b, server) = (lab.host("a"), lab.host("b"), lab.host("server"));
        let router = lab.router("router").online().nat(NatBox {
            hairpin,
            ..Nat::PortRestricted.into()
        });
        router.attach(&a);
        let at_b = router.attach(&b);
        let outside = lab.internet().connect(&server);
        let external = SocketAddr::new(router.external().into(), 7000);
        let knock = SocketAddr::new(outside.v4.into(), 9);
        let _echo = traffic::udp_echo_after_knock(&b, SocketAddr::new(at_b.v4.into(), 7000), knock);
        let met = traffic::udp_sizes(&a, external, 1..=1);
        assert_eq!(met.is_ok(), hairpin == Hairpin::On, "{met:?}");
        assert!(
            traffic::udp_sizes(&server, external, 1..=1).is_err(),
            "nobody outside reaches b uninvited"
        );
    }
}

#[test]
fn an_ipv6_home_lets_in_only_answers() {
    let lab = Lab::new("nat ipv6 firewall");
    let (home, server) = (lab.host("home"), lab.host("server"));
    let outside = lab.internet().connect(&server);
    let inside = lab
        .router("router")
        .online()
        .nat(Nat::PortRestricted)
        .attach(&home);
    wait_until(secs(5), "home reaches the server", || home.ping(outside.v6));
    assert!(server.ping(inside.v6).is_err());
}

fn emulated(name: &str, impairment: Impairment) -> (Lab, Link, netns_tests::Wire) {
    let lab = Lab::new(name);
    let (a, b) = (lab.host("a"), lab.host("b"));
    let (link, wire) = lab.wire(&a, &b, impairment);
    (lab, link, wire)
}

fn flow(link: &Link, count: u32, per_second: u32, size: u16) -> SinkReport {
    let at = SocketAddr::new(link.b.v4.into(), 9000);
    link.a.host.ping(link.b.v4).ok();
    let sink = traffic::udp_sink(&link.b.host, at);
    traffic::udp_source(&link.a.host, at, count, per_second, size);
    SinkReport::wait(sink)
}

#[test]
fn a_delay_is_never_shorter_than_set_and_hardly_longer() {
    let (_lab, link, wire) = emulated("linkemu delay", Impairment::delay(millis(25)));
    let pings = Pings::send(&link.a.host, link.b.v6.into(), 40, millis(20)).unwrap();
    assert_eq!(pings.rtt_ms.len(), 40);
    assert!(pings.rtt_ms[0] >= 50.0, "{pings:?}");
    assert!(pings.quantile(0.5) < 55.0, "{pings:?}");

    wire.set_direction(Direction::Back, Impairment::default());
    let pings = Pings::send(&link.a.host, link.b.v6.into(), 20, millis(20)).unwrap();
    assert!(
        pings.rtt_ms[0] >= 25.0 && pings.quantile(0.5) < 30.0,
        "one way alone: {pings:?}"
    );
}

#[test]
fn jitter_makes_frames_overtake_unless_their_order_is_kept() {
    let jitter = Impairment {
        jitter: millis(10),
        ..Impairment::delay(millis(10))
    };
    let (_lab, link, wire) = emulated("linkemu jitter", jitter);
    let report = flow(&link, 2000, 1000, 200);
    assert_eq!(report.received, 2000);
    assert!(report.reordered > 500, "{report:?}");
    assert!(
        report.delay_min_ms >= 10.0 && (12.0..20.0).contains(&report.delay_median_ms),
        "{report:?}"
    );
    wire.set(Impairment {
        order: Order::Kept,
        ..jitter
    });
    let report = flow(&link, 1000, 1000, 200);
    assert_eq!((report.received, report.reordered), (1000, 0), "{report:?}");
}

#[test]
fn early_frames_overtake_those_that_are_delayed() {
    let early = Impairment {
        early: 0.05,
        ..Impairment::delay(millis(20))
    };
    let (_lab, link, wire) = emulated("linkemu early", early);
    let report = flow(&link, 2000, 1000, 200);
    assert_eq!(report.received, 2000);
    // Each of the 100 that are to be expected is followed by the twenty that it has overtaken, less those that were early too.
    assert!((900..=2000).contains(&report.reordered), "{report:?}");
    assert!(
        report.delay_min_ms < 10.0 && report.delay_median_ms >= 20.0,
        "{report:?}"
    );
    wire.set(Impairment {
        order: Order::Kept,
        ..early
    });
    let report = flow(&link, 1000, 1000, 200);
    assert_eq!((report.received, report.reordered), (1000, 0), "{report:?}");
}

#[test]
fn losses_have_the_share_that_was_set() {
    let (_lab, link, wire) = emulated("linkemu loss", Impairment::loss(0.05));
    let report = flow(&link, 5000, 4000, 200);
    // Five standard deviations about the mean of 4750.
    assert!((4672..=4828).contains(&report.received), "{report:?}");
    let frames = wire.frames()[0];
    assert_eq!(frames.received, frames.sent + frames.lost, "{frames:?}");

    wire.set(Impairment {
        bursts: Some(Bursts {
            begin: 0.01,
            end: 0.2,
        }),
        ..Impairment::default()
    });
    let report = flow(&link, 5000, 4000, 200);
    // The mean share is 0.01 / 0.21; bursts of five on average widen the spread.
    assert!((4550..=4950).contains(&report.received), "{report:?}");

    wire.set(Impairment {
        duplicates: 0.1,
        ..Impairment::default()
    });
    let report = flow(&link, 2000, 4000, 200);
    assert_eq!(report.received, 2000);
    assert!((133..=267).contains(&report.duplicates), "{report:?}");
}

#[test]
fn one_seed_gives_one_fate() {
    let (lab, link, wire) = emulated("linkemu seed", Impairment::default());
    for host in [&link.a.host, &link.b.host] {
        // Nothing but the datagrams themselves may meet with chance.
        host.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    }
    link.a.host.run(&format!(
        "ip neigh replace {} lladdr {} dev {}",
        link.b.v4,
        mac(&link.b),
        link.a.interface
    ));
    let fates = [7, 8, 7].map(|seed| {
        wire.set(Impairment {
            seed: Some(seed),
            ..Impairment::loss(0.5)
        });
        let at = SocketAddr::new(link.b.v4.into(), 9000);
        let sink = traffic::udp_sink(&link.b.host, at);
        traffic::udp_source(&link.a.host, at, 1000, 4000, 100);
        SinkReport::wait(sink).received
    });
    assert_eq!(fates[0], fates[2], "{fates:?} in {}", lab.id());
    assert_ne!(
        fates[0], fates[1],
        "{fates:?}: these two seeds happen to differ in number"
    );
}

fn mac(port: &Port) -> String {
    port.host
        .run(&format!("cat /sys/class/net/{}/address", port.interface))
        .trim()
        .to_owned()
}

#[test]
fn a_rate_is_kept_and_its_queue_is_bounded() {
    let limited = Impairment {
        rate_kbit: Some(5000),
        queue: millis(50),
        ..Impairment::default()
    };
    let (_lab, link, wire) = emulated("linkemu rate", limited);
    // 8 Mbit/s offered.
    let report = flow(&link, 3000, 1000, 1000);
    assert!(
        (4.5e6..=5.0e6).contains(&report.bits_per_second),
        "{report:?}"
    );
    assert!(
        (40.0..=60.0).contains(&report.delay_median_ms),
        "the queue stays full: {report:?}"
    );
    let frames = wire.frames()[0];
    assert!(frames.overflowed > 0 && frames.failed == 0, "{frames:?}");
}

#[test]
fn whole_segments_cross_the_emulator() {
    let lab = Lab::new("linkemu segments");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let (link, wire) = lab.wire_with(
        &a,
        &b,
        Cable {
            offloads: Offloads::On,
            ..Cable::default()
        },
        Impairment::default(),
    );
    let _server = Iperf::serve(&b);
    let report = Iperf::tcp(&a, link.b.v4.into(), 1, 1).unwrap();
    assert!(report.bits_per_second > 1e8, "{report:?}");
    let frames = wire.frames()[0];
    assert!(
        report.bytes / frames.sent > 1500,
        "frames larger than the MTU: {frames:?} for {report:?}"
    );
    assert_eq!(frames.failed, 0);
}

#[test]
fn a_capture_holds_what_passed() {
    let lab = Lab::new("a capture");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    let file = b.capture(&link.b.interface);
    a.ping(link.b.v4).unwrap();
    wait_until(secs(5), "the request is in the file", || {
        let text = b.try_run(&format!("tcpdump -n -r {}", file.display()))?;
        if text.contains("ICMP echo request") {
            Ok(())
        } else {
            Err(text)
        }
    });
}

#[test]
fn a_failing_test_leaves_its_knowledge_and_nothing_else() {
    let mut known = None;
    let failure = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::new("a failing test");
        known = Some((lab.id().to_owned(), lab.directory().to_owned()));
        let (a, b) = (lab.host("a"), lab.host("b"));
        let _link = lab.link(&a, &b);
        let _sleeper = a.spawn("sleep 600");
        wait_until(millis(50), "pigs fly", || Err::<(), _>("no wings"));
    }));
    let message = *failure.unwrap_err().downcast::<String>().unwrap();
    assert!(
        message.contains("until pigs fly; last observation: no wings"),
        "{message}"
    );
    let (id, directory) = known.unwrap();
    let network = std::fs::read_to_string(directory.join("a/network.txt")).unwrap();
    assert!(
        network.contains("10.77.1.1/24") && network.contains("# ip rule"),
        "{network}"
    );
    assert_nothing_left(&id);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_lab_that_passed_leaves_nothing_at_all() {
    let (id, directory) = {
        let lab = Lab::new("nothing left");
        let (a, b) = (lab.host("a"), lab.host("b"));
        let _link = lab.wire(&a, &b, Impairment::default());
        let _router = lab.router("r").online().nat(Nat::FullCone);
        let _sleeper = a.spawn("sleep 600");
        (lab.id().to_owned(), lab.directory().to_owned())
    };
    assert!(!directory.exists());
    assert_nothing_left(&id);
}

#[test]
fn what_a_killed_run_left_is_swept_by_the_next() {
    // Larger than any process id can be (2^22), so that nobody lives under it.
    let namespace = "lab4194305x0-left";
    let made = Command::new("ip")
        .args(["netns", "add", namespace])
        .status()
        .unwrap();
    assert!(made.success());
    let _lab = Lab::new("the next run");
    assert_nothing_left(namespace);
}

#[test]
fn two_stock_wireguard_endpoints_talk_also_by_the_text_for_wg_quick() {
    let lab = Lab::new("stock WireGuard");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    let (key_a, key_b) = (Key::generate(&a), Key::generate(&b));
    let [address_a, address_b] =
        ["fd78::1", "fd78::2"].map(|address| address.parse::<Ipv6Addr>().unwrap());
    let at_a = WireGuard::start(&a, &key_a, address_a);
    at_a.listen(51820);
    at_a.peer(&key_b.public, "fd78::2/128", None);
    let text = format!(
        "[Interface]\nPrivateKey = {}\nAddress = {address_b}/128\nMTU = 1400\n\n\
         [Peer]\nPublicKey = {}\nEndpoint = {}:51820\nAllowedIPs = fd78::/64\nPersistentKeepalive = 25\n",
        key_b.private, key_a.public, link.a.v4
    );
    let at_b = WireGuard::from_quick_configuration(&b, &text);
    assert_eq!(at_b.key().public, key_b.public);
    wait_until(secs(10), "b reaches a through the tunnel", || {
        b.ping(address_a)
    });
    a.ping(address_b).unwrap();
    assert!(at_a.last_handshake() > 0);
    assert!(
        b.run(&format!("ip link show {}", at_b.interface()))
            .contains("mtu 1400")
    );
}

#[test]
fn the_keys_of_the_pool_belong_together() {
    let lab = Lab::new("the pool");
    let host = lab.host("a");
    let identities = [(); 8].map(|()| lab.identity());
    for (number, identity) in identities.iter().enumerate() {
        let derived = host
            .output_of(&["wg", "pubkey"], &identity.private_key(), secs(5))
            .unwrap()
            .success()
            .unwrap();
        assert_eq!(derived.trim(), identity.public_key, "identity {number}");
        assert_eq!(identity.address.octets()[0], 0x06);
        assert!(
            identities[..number]
                .iter()
                .all(|other| other.address != identity.address)
        );
    }
}

fn assert_nothing_left(id: &str) {
    let listed = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(!listed.contains(id), "{listed}");
    assert!(!std::path::Path::new("/run/netns-tests").join(id).exists());
}
