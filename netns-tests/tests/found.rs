//! The promise: nodes find each other without libp2p, on the LAN and through whom they know, and nobody else is called.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, some of which print figures"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use netns_tests::beacon::{self, Ear, Voice, beacon, link_local};
use netns_tests::settings::PORT;
use netns_tests::usage::Usage;
use netns_tests::view::PathKind;
use netns_tests::wait::hold_for;
use netns_tests::{Daemon, Host, Identity, Lab, Port, Settings, Switch, secs, wait_until};

/// How soon two nodes have to find each other on a LAN.
const SOON: std::time::Duration = secs(5);

/// A node that is open to everybody.
fn open(id: &Identity) -> Settings {
    Settings::new(id).node("open = true").inbound("")
}

/// Hosts on one switch, without any route to elsewhere.
fn lan<const N: usize>(lab: &Lab, names: [&str; N]) -> ([Host; N], [Port; N], Switch) {
    let switch = lab.switch("switch");
    let hosts = names.map(|name| lab.host(name));
    let ports = hosts.each_ref().map(|host| switch.plug(host));
    (hosts, ports, switch)
}

/// Takes every address but the link-local ones from a port, as where nobody gives out any.
fn flush(port: &Port) {
    port.host.run(&format!(
        "ip addr flush dev {} scope global",
        port.interface
    ));
}

/// How many packets a node dropped for a reason.
fn dropped(node: &Daemon, reason: &str) -> u64 {
    node.drops().get(reason).copied().unwrap_or_default()
}

/// Initiations of handshakes in a capture, by whom they come from.
fn initiations(host: &Host, file: &Path, source: std::net::Ipv6Addr) -> usize {
    // An IPv6 header, UDP, and a message of type 1.
    host.captured(
        file,
        &format!("ip6 src {source} and udp and ip6[4:2] == 156 and ip6[48:4] == 0x01000000"),
    )
}

fn find_each_other(name: &str, prepare: impl Fn(&Port)) {
    let lab = Lab::new(name);
    let (hosts, ports, _switch) = lan(&lab, ["a", "b"]);
    ports.iter().for_each(prepare);
    let ids = [lab.identity(), lab.identity()];
    let first = hosts[0].meshd(open(&ids[0]));
    let start = Instant::now();
    let second = hosts[1].launch_meshd(open(&ids[1]));
    wait_until(SOON, "they ping each other", || {
        first.ping(second.address())?;
        second.ping(first.address())
    });
    println!("{name}: start to first ping {:?}", start.elapsed());
    for (from, to) in [(&first, &second), (&second, &first)] {
        from.wait_for_path(to.address(), PathKind::Direct, secs(5));
        from.wait_for_links(to.address(), 1, secs(5));
    }
}

#[test]
fn two_open_nodes_on_one_lan_find_each_other_within_five_seconds() {
    find_each_other("found lan", |_| {});
}

#[test]
fn so_they_do_where_nobody_gives_out_addresses() {
    find_each_other("found link-local", flush);
}

#[test]
fn nodes_that_are_not_open_stay_strangers_and_silent() {
    let lab = Lab::new("found strangers");
    let (hosts, ports, _switch) = lan(&lab, ["a", "b", "c"]);
    let captured = hosts[0].capture(&ports[0].interface);
    let ids = [lab.identity(), lab.identity(), lab.identity()];
    let closed = [
        hosts[0].meshd(Settings::new(&ids[0])),
        hosts[1].meshd(Settings::new(&ids[1])),
    ];
    // One that is open speaks to both, and they know nothing of it.
    let open = hosts[2].meshd(open(&ids[2]));
    hold_for(secs(6), "nobody knows anybody", || {
        let nodes = closed.iter().chain([&open]);
        nodes.into_iter().try_for_each(|node| {
            let status = node.try_status()?;
            let peers = status["peers"].as_array().map_or(0, Vec::len);
            if peers == 0 {
                Ok(())
            } else {
                Err(status.to_string())
            }
        })
    });
    let spoken = |port: &Port| {
        let own = link_local(port);
        hosts[0].captured(
            &captured,
            &format!("ip6 src {own} and udp port {}", beacon::PORT),
        )
    };
    assert_eq!((spoken(&ports[0]), spoken(&ports[1])), (0, 0));
    assert!(spoken(&ports[2]) >= 4, "{} beacons", spoken(&ports[2]));
    assert!(
        dropped(&closed[0], "found-stranger") > 0,
        "{:?}",
        closed[0].drops()
    );
}

#[test]
fn a_listed_node_without_endpoint_is_found_by_one_that_only_allows_its_key() {
    let lab = Lab::new("found listed");
    let (hosts, ports, _switch) = lan(&lab, ["a", "b"]);
    ports.iter().for_each(flush);
    let ids = [lab.identity(), lab.identity()];
    let a = hosts[0].meshd(Settings::new(&ids[0]).peer("b", &ids[1], None));
    let b = hosts[1].meshd(Settings::new(&ids[1]).allow([&ids[0]]));
    a.wait_for_answer(b.address(), SOON);
    a.wait_for_path(b.address(), PathKind::Direct, secs(5));
}

#[test]
fn an_interface_that_comes_later_is_used() {
    let lab = Lab::new("found later");
    let hosts = [lab.host("a"), lab.host("b")];
    let nodes = [0, 1].map(|n: usize| hosts[n].meshd(open(&lab.identity())));
    let link = lab.link(&hosts[0], &hosts[1]);
    let start = Instant::now();
    // Where the kernel makes sure first that nobody else has the address, that is two seconds of it.
    nodes[0].wait_for_answer(nodes[1].address(), secs(10));
    println!("found later: link to first ping {:?}", start.elapsed());
    // It goes and comes again.
    link.cut();
    nodes[0].wait_without_route(nodes[1].address(), secs(20));
    link.mend();
    nodes[1].wait_for_answer(nodes[0].address(), secs(20));
}

/// Three sites that know one member, all online.
struct Sites {
    member: Daemon,
    sites: Vec<Daemon>,
    _lab: Lab,
}

impl Sites {
    /// Open to everybody, or only to each other.
    fn new(name: &str, is_open: bool) -> Self {
        let lab = Lab::new(name);
        let internet = lab.internet();
        let host = lab.host("member");
        let port = internet.connect(&host);
        let at = SocketAddr::new(port.v4.into(), PORT);
        let id = lab.identity();
        let ids = [lab.identity(), lab.identity(), lab.identity()];
        let node = |own: &Identity| {
            if is_open {
                return open(own);
            }
            let others = ids.iter().filter(|other| *other != own);
            Settings::new(own).allow(others)
        };
        let member = host.meshd(node(&id));
        let site = |(name, own): (&str, &Identity)| {
            let host = lab.host(name);
            internet.connect(&host);
            host.launch_meshd(node(own).peer("member", &id, Some(at)))
        };
        let sites = ["a", "b", "c"].into_iter().zip(&ids).map(site).collect();
        Self {
            member,
            sites,
            _lab: lab,
        }
    }

    /// Waits until every site has a session straight to every other, and pings it.
    fn wait_until_joined(&self, within: std::time::Duration) {
        let start = Instant::now();
        for from in &self.sites {
            for to in &self.sites {
                if from.address() != to.address() {
                    from.wait_for_path(to.address(), PathKind::Direct, within);
                    from.wait_for_answer(to.address(), within);
                }
            }
        }
        println!("sites: all joined after {:?}", start.elapsed());
    }
}

#[test]
fn sites_that_know_one_member_are_joined_and_stay_so_without_it_and_after_a_restart() {
    joins_and_stays(&Sites::new("found sites", true));
}

#[test]
fn so_do_sites_that_are_not_open_and_allow_each_other() {
    joins_and_stays(&Sites::new("found closed sites", false));
}

fn joins_and_stays(sites: &Sites) {
    sites.wait_until_joined(secs(20));
    sites.member.kill();
    hold_for(secs(5), "the sites reach each other", || {
        sites.sites[0].ping(sites.sites[1].address())?;
        sites.sites[1].ping(sites.sites[2].address())?;
        sites.sites[2].ping(sites.sites[0].address())
    });
    for site in &sites.sites {
        let ended = site.stop();
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    }
    for site in &sites.sites {
        site.start_again();
    }
    sites.wait_until_joined(secs(20));
}

#[test]
fn a_thousand_forged_beacons_a_second_cost_five_calls_a_second_and_no_memory() {
    const LENGTH: u64 = 10;
    let lab = Lab::new("found flood");
    let (hosts, ports, _switch) = lan(&lab, ["victim", "attacker", "friend"]);
    let victim = hosts[0].meshd(open(&lab.identity()).log_level("info"));
    let target = link_local(&ports[0]);
    let friend = hosts[2].meshd(open(&lab.identity()));
    victim.wait_for_answer(friend.address(), secs(5));
    let voice = Voice::new(&ports[1]);
    let forgers: Vec<Identity> = (20..120).map(Identity::from_pool).collect();
    let memory = || Usage::peak_resident_kib(&[victim.id()]).unwrap();
    let before = memory();
    let captured = hosts[0].capture(&ports[0].interface);
    // Every second one is signed by one of a hundred nodes that are not there, the others by nobody.
    voice.flood(target, 1000, secs(LENGTH), |number| {
        let who = &forgers[number as usize / 2 % forgers.len()];
        let mut datagram = beacon(
            who,
            number.into(),
            2000 + (number % 1000) as u16,
            voice.source(),
        );
        if number % 2 == 1 {
            datagram[40] ^= 1;
        }
        datagram
    });
    victim.ping(friend.address()).unwrap();
    let calls = initiations(&hosts[0], &captured, target);
    let grown = memory().saturating_sub(before);
    println!(
        "found flood: {calls} calls in {LENGTH} s, {grown} KiB more, {:?}",
        victim.drops()
    );
    assert!(
        calls > 0,
        "no forged beacon was heard: {:?}",
        victim.drops()
    );
    assert!(calls <= 5 * LENGTH as usize + 5, "{calls} calls");
    assert!(grown <= 4096, "{grown} KiB");
    assert!(
        dropped(&victim, "beacon-too-many") > 1000,
        "{:?}",
        victim.drops()
    );
    wait_until(secs(20), "the forged nodes are forgotten", || {
        let status = victim.try_status()?;
        let peers = status["peers"].as_array().map_or(0, Vec::len);
        if peers == 1 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

#[test]
fn a_beacon_that_is_repeated_on_another_link_finds_nobody() {
    let lab = Lab::new("found replay");
    let [a, thief, b] = ["a", "thief", "b"].map(|name| lab.host(name));
    let (here, there) = (lab.link(&a, &thief), lab.link(&thief, &b));
    let ear = Ear::new(&here.b);
    let a = a.meshd(open(&lab.identity()));
    let (source, stolen) = ear.next(secs(10)).expect("a beacon of a");
    assert_eq!(source, link_local(&here.a));
    drop(ear);
    let captured = b.capture(&there.b.interface);
    let target = link_local(&there.b);
    let b = b.meshd(open(&lab.identity()));
    // From the thief's own address it counts for nothing, and not even a call follows.
    let bad = || dropped(&b, "beacon-bad");
    let before = bad();
    let voice = Voice::new(&there.a);
    wait_until(secs(5), "the repeated beacon is refused", || {
        voice.say(target, &stolen);
        if bad() > before {
            Ok(())
        } else {
            Err("it is not".to_owned())
        }
    });
    drop(voice);
    assert_eq!(initiations(b.host(), &captured, target), 0);
    // From the address that it was sent from, it leads there, where the thief does not have the key.
    let at = &there.a;
    at.host.run(&format!(
        "ip addr add {source}/64 dev {} nodad",
        at.interface
    ));
    let voice = Voice::from(at, source);
    wait_until(secs(5), "the repeated beacon makes a call", || {
        voice.say(target, &stolen);
        let calls = initiations(b.host(), &captured, target);
        if calls > 0 {
            Ok(())
        } else {
            Err("it does not".to_owned())
        }
    });
    hold_for(secs(6), "nobody is found", || {
        for node in [&a, &b] {
            let status = node.try_status()?;
            if status["peers"]
                .as_array()
                .is_some_and(|peers| !peers.is_empty())
            {
                return Err(status.to_string());
            }
        }
        Ok(())
    });
}
