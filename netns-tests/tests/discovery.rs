//! Nodes that find each other by libp2p.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests, which print their figures"
)]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use netns_tests::{
    Daemon, Host, Identity, Lab, Settings,
    process::Output,
    secs,
    settings::PORT,
    traffic::{self, SinkReport},
    usage::Usage,
    wait::{hold_for, pace},
    wait_until,
};
use serde_json::Value;

/// A node of the public mesh.
fn open(identity: &Identity) -> Settings {
    Settings::new(identity).node("open = true").inbound("")
}

/// What `status` says of the control plane.
fn control(daemon: &Daemon) -> Value {
    daemon.status()["control"].clone()
}

#[track_caller]
fn wait_for_control(daemon: &Daemon, what: &str, is_so: impl Fn(&Value) -> bool) {
    wait_until(secs(60), what, || {
        // It may just be starting.
        let control = daemon.try_status()?["control"].clone();
        is_so(&control)
            .then_some(())
            .ok_or_else(|| control.to_string())
    });
}

fn peers(control: &Value) -> u64 {
    control["peers"].as_u64().unwrap_or_default()
}

/// `a`, which `b` knows by a libp2p address alone, and which knows nothing of where `b` is.
fn meet(
    name: &str,
    know: impl Fn(Settings, &Identity, IpAddr) -> Settings,
    at: fn(&netns_tests::Port) -> IpAddr,
) {
    let lab = Lab::new(name);
    let internet = lab.internet();
    let (a, b) = (lab.host("a"), lab.host("b"));
    let port = internet.connect(&a);
    internet.connect(&b);
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let a = a.meshd(
        Settings::new(&id_a)
            .peer("b", &id_b, None)
            .libp2p("mdns = false"),
    );
    let for_b = Settings::new(&id_b).libp2p("mdns = false");
    let b = b.meshd(know(for_b, &id_a, at(&port)));
    wait_until(secs(10), "b reaches a", || b.ping(a.address()));
    wait_until(secs(10), "a reaches b", || a.ping(b.address()));
    assert_eq!(b.peer("a").unwrap()["path"]["kind"], "direct");
    wait_for_control(&a, "a is connected with b", |control| peers(control) == 1);
}

#[test]
fn a_libp2p_address_is_enough_over_tcp() {
    let know = |settings: Settings, id: &Identity, at| settings.peer_by_libp2p("a", id, at);
    meet("discovery over TCP", know, |port| port.v4.into());
}

#[test]
fn a_libp2p_address_is_enough_over_quic() {
    let know = |settings: Settings, id: &Identity, at| settings.peer_by_quic("a", id, at);
    meet("discovery over QUIC", know, |port| port.v6.into());
}

/// The port that libp2p listens on, which is one for all addresses, over TCP and QUIC.
#[track_caller]
fn libp2p_port(daemon: &Daemon) -> u16 {
    let listening = || -> Result<Vec<String>, String> {
        let control = &daemon.try_status()?["control"];
        let listening = control["listening"].as_array().cloned();
        let listening = listening.unwrap_or_default();
        let texts = listening.iter().filter_map(Value::as_str);
        let texts: Vec<String> = texts.map(str::to_owned).collect();
        let is_there = |ip: &str, transport: &str| {
            let mut texts = texts.iter();
            texts.any(|text| text.starts_with(ip) && text.contains(transport))
        };
        let all = [
            ("/ip4/", "/tcp/"),
            ("/ip6/", "/tcp/"),
            ("/ip4/", "/udp/"),
            ("/ip6/", "/udp/"),
        ];
        if all.iter().all(|(ip, transport)| is_there(ip, transport)) {
            Ok(texts)
        } else {
            Err(control.to_string())
        }
    };
    wait_until(secs(10), "libp2p listens", || listening().map(drop));
    let texts = listening().unwrap();
    let ports = texts
        .iter()
        .map(|text| text.split('/').nth(4).unwrap().parse());
    let ports: BTreeSet<u16> = ports.map(Result::unwrap).collect();
    let mut ports = ports.into_iter();
    match (ports.next(), ports.next()) {
        (Some(port), None) => port,
        _ => panic!("not one port: {texts:?}"),
    }
}

#[test]
fn nodes_with_random_ports_meet_at_the_first_dial_and_keep_their_ports() {
    let lab = Lab::new("discovery at random ports");
    let internet = lab.internet();
    let (a, b) = (lab.host("a"), lab.host("b"));
    let (at_a, at_b) = (internet.connect(&a).v4, internet.connect(&b).v4);
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let for_a = Settings::new(&id_a).peer("b", &id_b, None);
    let a = a.meshd(for_a.libp2p_at_random_port("mdns = false"));
    let port_a = libp2p_port(&a);
    let for_b =
        Settings::new(&id_b).peer_by_libp2p_at("a", &id_a, SocketAddr::new(at_a.into(), port_a));
    let b = b.meshd(for_b.libp2p_at_random_port("mdns = false"));

    // What b says of its dials, once it has reached a; no later, since what nodes tell each other makes them dial further addresses.
    let without_failure = |what: &str| {
        wait_for_control(&b, what, |control| peers(control) == 1);
        let log = b.log();
        let (before, _) = log.split_once("Connected").unwrap();
        assert!(!before.contains("Dial failed"), "{what}: {before}");
        assert!(!log.contains("Permission denied"), "{what}: {log}");
    };
    // Whether a was called from the port that b listens on.
    let is_called_from = |port: u16| {
        let caller = format!("address=/ip4/{at_b}/tcp/{port} ");
        let log = a.log();
        let mut lines = log.lines();
        assert!(
            lines.any(|line| line.contains("Connected") && line.contains(&caller)),
            "nobody at {caller}: {log}"
        );
    };
    without_failure("a fresh node is connected");
    let port_b = libp2p_port(&b);
    is_called_from(port_b);
    wait_until(secs(10), "b reaches a", || b.ping(a.address()));

    b.restart();
    without_failure("after a restart");
    assert_eq!(libp2p_port(&b), port_b);

    // Another program has it: there is another port, which is kept in its turn.
    b.stop();
    let squatter = b.host().inside(|| TcpListener::bind(("0.0.0.0", port_b)));
    let squatter = squatter.unwrap();
    b.start_again();
    without_failure("on another port");
    let other = libp2p_port(&b);
    assert_ne!(other, port_b);
    is_called_from(other);
    drop(squatter);
    b.restart();
    without_failure("on the other port again");
    assert_eq!(libp2p_port(&b), other);
    assert!(!a.log().contains("Permission denied"), "{}", a.log());
}

#[test]
fn strangers_get_nothing() {
    let lab = Lab::new("discovery strangers");
    let internet = lab.internet();
    let hosts: Vec<Host> = ["a", "b", "c"].map(|name| lab.host(name)).into();
    let ports: Vec<_> = hosts.iter().map(|host| internet.connect(host)).collect();
    let ids: Vec<Identity> = (0..3).map(|_| lab.identity()).collect();
    let for_a = Settings::new(&ids[0]).peer("b", &ids[1], None);
    let a = hosts[0].meshd(for_a.libp2p("mdns = false"));
    let knows_a = |n: usize| {
        let settings = Settings::new(&ids[n]).libp2p("mdns = false");
        settings.peer_by_libp2p("a", &ids[0], ports[0].v4)
    };
    let c = hosts[2].meshd(knows_a(2));
    wait_until(secs(10), "c calls a", || {
        c.log().contains("Disconnected").then_some(())
    });
    let b = hosts[1].meshd(knows_a(1));
    wait_until(secs(10), "b reaches a", || b.ping(a.address()));
    wait_for_control(&a, "a has one peer", |control| peers(control) == 1);
    c.ping(a.address()).unwrap_err();
    assert!(
        !c.log().contains("Calling a node that was found"),
        "{}",
        c.log()
    );
    // What c is told about a would be the addresses of a.
    assert_eq!(c.peer("a").unwrap()["path"]["kind"], "none");
}

/// What passed an interface of a host, both ways, in bytes.
fn carried(host: &Host, interface: &str) -> u64 {
    let count = |way: &str| -> u64 {
        let path = format!("/sys/class/net/{interface}/statistics/{way}_bytes");
        let text = host.run(&format!("cat {path}"));
        text.trim().parse().unwrap()
    };
    count("rx") + count("tx")
}

fn resident_kib(daemon: &Daemon) -> u64 {
    Usage::of(&[daemon.id()]).resident_kib
}

/// Servers of the DHT, each knowing the first, and clients that know one server each. Nobody can have a session with a server, so that
/// there are neither routes nor neighbours who know the others.
struct Dht {
    servers: Vec<Daemon>,
    clients: Vec<(Daemon, String)>,
    _lab: Lab,
}

impl Dht {
    fn new(name: &str, servers: usize, clients: usize) -> Self {
        let lab = Lab::new(name);
        let internet = lab.internet();
        let total = servers + clients;
        let hosts: Vec<Host> = (0..total).map(|n| lab.host(&format!("n{n}"))).collect();
        let ports: Vec<_> = hosts.iter().map(|host| internet.connect(host)).collect();
        let ids: Vec<Identity> = (0..total).map(|_| lab.identity()).collect();
        let start = |n: usize| {
            let (mut settings, known) = if n < servers {
                let rules = format!(
                    "table inet wall {{\nchain inward {{ type filter hook input priority 0; udp dport {PORT} drop; }}\n}}\n"
                );
                let ruled = hosts[n].output_of(&["nft", "-f", "-"], &rules, secs(5));
                ruled.and_then(Output::success).unwrap();
                let settings = open(&ids[n]).libp2p("mdns = false\ndht = \"server\"");
                (settings, (n > 0).then_some(0))
            } else {
                (
                    open(&ids[n]).libp2p_without_port("mdns = false"),
                    Some(n % servers),
                )
            };
            if let Some(known) = known {
                // No server takes more than 32 strangers of one /24, which all IPv4 addresses of the lab are in.
                let at: IpAddr = if n.is_multiple_of(2) {
                    ports[known].v4.into()
                } else {
                    ports[known].v6.into()
                };
                settings = settings.peer_by_libp2p(&format!("n{known}"), &ids[known], at);
            }
            hosts[n].launch_meshd(settings)
        };
        let daemons: Vec<Daemon> = (0..total).map(start).collect();
        let mut clients: Vec<_> = daemons.into_iter().zip(ports).collect();
        let servers: Vec<Daemon> = clients.drain(..servers).map(|(daemon, _)| daemon).collect();
        let clients: Vec<_> = clients
            .into_iter()
            .map(|(daemon, port)| (daemon, port.interface))
            .collect();
        Self {
            servers,
            clients,
            _lab: lab,
        }
    }

    /// Until the servers keep a record of every client.
    fn wait_for_records(&self) {
        for (client, _) in &self.clients {
            wait_for_control(client, "a client knows servers", |control| {
                control["table"].as_u64() >= Some(1)
            });
        }
        let kept = || -> u64 {
            let records = |server| control(server)["records"].as_u64().unwrap_or_default();
            self.servers.iter().map(records).max().unwrap()
        };
        wait_until(secs(60), "the servers keep all records", || {
            let (kept, wanted) = (kept(), self.clients.len() as u64);
            (kept >= wanted)
                .then_some(())
                .ok_or_else(|| format!("{kept} of {wanted}"))
        });
    }
}

#[test]
fn a_node_that_nobody_routes_to_is_found_in_the_dht() {
    let dht = Dht::new("discovery by DHT", 5, 45);
    dht.wait_for_records();
    let mut times = Vec::new();
    for n in 0..10 {
        let ((from, _), (to, _)) = (&dht.clients[n], &dht.clients[n + 30]);
        let status = from.status();
        let known = status["peers"].as_array().unwrap();
        let is_it = |peer: &Value| peer["address"] == to.address().to_string();
        assert!(!known.iter().any(is_it), "{status}");
        let routes = from.json("routes");
        assert!(
            !routes.to_string().contains(&to.address().to_string()),
            "{routes}"
        );
        let start = std::time::Instant::now();
        // Its packets are held while the node is looked for.
        wait_until(secs(10), "the node is found and answers", || {
            from.host().ping_within(to.address(), secs(2))
        });
        times.push(start.elapsed().as_millis());
    }
    println!("first contact by DHT among 50 nodes: {times:?} ms to the first answer");
    // Who is nowhere is said to be so.
    let nobody: Ipv6Addr = "6ff:1:2:3::1".parse().unwrap();
    let (from, _) = &dht.clients[0];
    let said = from
        .host()
        .try_run(&format!("ping -n -c 1 -W 12 {nobody}"))
        .unwrap_err();
    assert!(said.contains("nreachable"), "{said}");
}

#[test]
fn five_thousand_destinations_are_a_few_look_ups() {
    let dht = Dht::new("discovery of nobody", 3, 2);
    dht.wait_for_records();
    let (from, interface) = &dht.clients[0];
    let (third, their_interface) = &dht.clients[1];
    let before = (carried(from.host(), interface), resident_kib(from));
    let theirs = carried(third.host(), their_interface);
    let start = std::time::Instant::now();
    from.host().inside(|| {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        for n in 0..5000_u64 {
            // All over the block, and the same for every run.
            let place = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
            let mut octets = [0; 16];
            octets[0] = 6;
            octets[1..8].copy_from_slice(&place[1..]);
            octets[15] = 1;
            let to = SocketAddr::new(Ipv6Addr::from(octets).into(), 9);
            // Some are refused at once by an error that came back for another.
            let _ = socket.send_to(&[0; 64], to);
            pace(start + Duration::from_millis(n));
        }
    });
    let held = || -> u64 { from.drops().values().sum() };
    wait_until(secs(30), "every one has been refused", || {
        let refused = held();
        (refused >= 4900)
            .then_some(())
            .ok_or_else(|| format!("{refused} refused"))
    });
    // The last look-ups are over, and some that were not begun at first are not begun later.
    hold_for(secs(12), "the node goes on", || from.try_status());
    let sent = carried(from.host(), interface) - before.0;
    let grown = resident_kib(from).saturating_sub(before.1);
    let at_third = carried(third.host(), their_interface) - theirs;
    println!(
        "5,000 destinations: {sent} bytes at the sender, {at_third} at a third node, {grown} KiB more memory, in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    assert!(sent < 1_000_000, "{sent} bytes");
    assert!(at_third < 100_000, "{at_third} bytes at a third node");
    assert!(grown < 8 << 10, "{grown} KiB more");
}

#[test]
fn a_control_plane_that_panics_or_hangs_costs_no_packet() {
    let lab = Lab::new("discovery faults");
    let internet = lab.internet();
    let (a, b) = (lab.host("a"), lab.host("b"));
    let port = internet.connect(&a);
    internet.connect(&b);
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let for_a = Settings::new(&id_a).peer("b", &id_b, None);
    let a = a.meshd(for_a.libp2p("mdns = false"));
    let for_b = Settings::new(&id_b).libp2p("mdns = false");
    let b = b.meshd(for_b.peer_by_libp2p("a", &id_a, port.v4));
    wait_until(secs(10), "b reaches a", || b.ping(a.address()));
    let restarted = |daemon: &Daemon, times: u64| {
        wait_for_control(daemon, "it has come back", |control| {
            control["restarts"] == times && control["running"] == true && peers(control) == 1
        });
    };
    let at = SocketAddr::new(a.address().into(), 7000);
    let sink = traffic::udp_sink(a.host(), at);
    let (count, per_second) = (4000, 100);
    std::thread::scope(|scope| {
        let source = scope.spawn(|| traffic::udp_source(b.host(), at, count, per_second, 200));
        b.signal("USR1");
        restarted(&b, 1);
        // It hangs for half a minute, and is replaced after ten seconds. Until it wakes up, the port is shared with it.
        a.signal("USR2");
        restarted(&a, 1);
        source.join().unwrap();
    });
    let report = SinkReport::wait(sink);
    assert_eq!(report.received, u64::from(count), "{report:?}");
    assert!(b.log().contains("The control plane panicked"));
    assert!(a.log().contains("The control plane hangs"));
}

#[test]
fn twenty_neighbours_cost_less_than_a_kilobyte_a_second() {
    const NEIGHBOURS: usize = 20;
    /// A ping a minute of each, and everything that is done more often.
    const WINDOW: Duration = secs(61);
    let lab = Lab::new("discovery idle");
    let internet = lab.internet();
    let hub = lab.host("hub");
    let port = internet.connect(&hub);
    let id = lab.identity();
    let others: Vec<Identity> = (0..NEIGHBOURS).map(|_| lab.identity()).collect();
    // Half of them over QUIC, which speaks when it has nothing to say.
    let hub = hub.meshd(
        Settings::new(&id)
            .allow(&others)
            .libp2p("mdns = false\ndht = \"server\""),
    );
    let neighbours: Vec<Daemon> = others
        .iter()
        .enumerate()
        .map(|(n, other)| {
            let host = lab.host(&format!("n{n}"));
            internet.connect(&host);
            let settings = Settings::new(other).libp2p("mdns = false");
            let settings = if n.is_multiple_of(2) {
                settings.peer_by_quic("hub", &id, port.v4)
            } else {
                settings.peer_by_libp2p("hub", &id, port.v4)
            };
            host.launch_meshd(settings)
        })
        .collect();
    wait_for_control(&hub, "all are connected", |control| {
        peers(control) == NEIGHBOURS as u64
    });
    let rules = "table inet tally {\n\
        chain inward { type filter hook input priority 0; meta l4proto { tcp, udp } th dport 51861 counter; }\n\
        chain outward { type filter hook output priority 0; meta l4proto { tcp, udp } th sport 51861 counter; }\n}\n";
    let ruled = hub.host().output_of(&["nft", "-f", "-"], rules, secs(5));
    ruled.and_then(Output::success).unwrap();
    // What belongs to the beginning is over.
    hold_for(secs(20), "the hub goes on", || hub.try_status());
    let bytes = || -> u64 {
        let table = hub.host().run("nft list table inet tally");
        let mut words = table.split_whitespace().peekable();
        let mut sum = 0;
        while let Some(word) = words.next() {
            if word == "bytes" {
                sum += words.peek().unwrap().parse::<u64>().unwrap();
            }
        }
        sum
    };
    let (before, start) = (bytes(), std::time::Instant::now());
    hold_for(WINDOW, "the hub goes on", || hub.try_status());
    let rate = (bytes() - before) as f64 / start.elapsed().as_secs_f64();
    println!(
        "20 neighbours, half over QUIC: {rate:.0} bytes/s both ways; hub {} KiB resident",
        resident_kib(&hub)
    );
    assert!(rate < 1000.0, "{rate:.0} bytes/s");
    drop(neighbours);
}

#[test]
fn three_thousand_silent_connections_take_eight_places() {
    let lab = Lab::new("discovery silent connections");
    let internet = lab.internet();
    let [a, b, attacker] = ["a", "b", "attacker"].map(|name| lab.host(name));
    let port = internet.connect(&a);
    internet.connect(&b);
    internet.connect(&attacker);
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let for_a = Settings::new(&id_a).peer("b", &id_b, None);
    let a = a.meshd(for_a.libp2p("mdns = false"));
    let descriptors = || {
        std::fs::read_dir(format!("/proc/{}/fd", a.id()))
            .unwrap()
            .count()
    };
    let before = (descriptors(), resident_kib(&a));
    let target = SocketAddr::new(port.v4.into(), 51861);
    let mut most = 0;
    let silent: Vec<TcpStream> = attacker.inside(|| {
        let connect = |n: usize| {
            if n.is_multiple_of(100) {
                most = most.max(descriptors());
            }
            TcpStream::connect_timeout(&target, secs(5)).ok()
        };
        (0..3000).filter_map(connect).collect()
    });
    let start = std::time::Instant::now();
    let for_b = Settings::new(&id_b).libp2p("mdns = false");
    let b = b.meshd(for_b.peer_by_libp2p("a", &id_a, port.v4));
    wait_until(secs(10), "b reaches a all the same", || b.ping(a.address()));
    let grown = resident_kib(&a).saturating_sub(before.1);
    println!(
        "3,000 silent connections ({} taken): at most {most} descriptors instead of {}, {grown} KiB more memory, \
         {:.1} s from the start of another node to its first ping",
        silent.len(),
        before.0,
        start.elapsed().as_secs_f64()
    );
    assert!(
        most <= before.0 + 40,
        "{most} descriptors, {} before",
        before.0
    );
    assert!(grown < 16 << 10, "{grown} KiB more");
}
