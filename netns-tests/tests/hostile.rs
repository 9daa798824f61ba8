//! The promise: what strangers send gets no byte back, moves nothing, breaks nothing and costs nothing, and what a peer puts into
//! its tunnel reaches nobody it may not reach; all of it is counted.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, and their figures"
)]

use std::net::SocketAddr;

use netns_tests::lab::program;
use netns_tests::traffic::{Pings, udp_echo};
use netns_tests::wait::{hold_for, millis};
use netns_tests::wireguard::{Key, WireGuard};
use netns_tests::{Daemon, Host, Identity, Lab, Port, Settings, secs, wait_until};
use serde_json::Value;

/// The most that abuse may add to the resident memory of a daemon.
const MEMORY: u64 = 1 << 20;
/// The most lines that abuse may add to its log, at level `debug`.
const LINES: usize = 100;

/// Two nodes with a session, and a stranger on the same network.
struct Scene {
    a: Daemon,
    b: Daemon,
    stranger: Host,
    at_a: Port,
    at_b: Port,
    at_stranger: Port,
    _lab: Lab,
}

/// What abuse must not change.
#[derive(Debug)]
struct State {
    process: u32,
    memory: u64,
    lines: usize,
    drops: u64,
    endpoint: Value,
}

impl Scene {
    fn new(name: &str) -> Self {
        let lab = Lab::new(name);
        let switch = lab.switch("lan");
        let (a, b, stranger) = (lab.host("a"), lab.host("b"), lab.host("stranger"));
        let (at_a, at_b, at_stranger) = (switch.plug(&a), switch.plug(&b), switch.plug(&stranger));
        let (id_a, id_b) = (lab.identity(), lab.identity());
        let (for_a, for_b) = Settings::pair((&id_a, at_a.v4.into()), (&id_b, at_b.v4.into()));
        let (a, b) = (a.meshd(for_a), b.meshd(for_b));
        wait_until(secs(10), "a reaches b", || a.ping(b.address()));
        Self {
            a,
            b,
            stranger,
            at_a,
            at_b,
            at_stranger,
            _lab: lab,
        }
    }

    fn target(&self) -> SocketAddr {
        SocketAddr::new(self.at_a.v4.into(), 51860)
    }

    fn state(&self) -> State {
        State {
            process: self.a.id(),
            memory: memory(self.a.id()),
            lines: self.a.log().lines().count(),
            drops: total(&self.a),
            endpoint: self.a.peer("b").unwrap()["path"].clone(),
        }
    }

    /// Runs one kind of abuse from the stranger's host, while the two nodes ping each other, and checks that nothing came of it.
    #[track_caller]
    fn endures(&self, abuse: &str) -> (Value, u64) {
        let answers = self.stranger.capture(&self.at_stranger.interface);
        let before = self.state();
        let mut load = self
            .stranger
            .spawn(&format!("{} {abuse}", program("netns-probe")));
        let mut pings = (0, 0);
        while load.is_running() {
            let some = Pings::send(self.a.host(), self.b.address().into(), 20, millis(20)).unwrap();
            pings = (pings.0 + some.sent, pings.1 + some.rtt_ms.len());
        }
        assert!(load.wait(secs(1)).success(), "{abuse}: {}", load.log());
        let report: Value = serde_json::from_str(load.log().trim()).unwrap();
        assert_eq!(report["answers"], report["cookies"], "{abuse}: {report}");
        let others = format!(
            "src host {} and (udp or icmp) and not ({COOKIE})",
            self.at_a.v4
        );
        let others = self.stranger.captured(&answers, &others);
        assert_eq!(others, 0, "{abuse} was answered with more than cookies");
        assert!(pings.0 > 0);
        assert_eq!(
            pings.0 as usize, pings.1,
            "the session lost pings under {abuse}"
        );
        let after = self.state();
        assert_eq!(after.process, before.process);
        assert!(self.a.ping(self.b.address()).is_ok());
        assert_eq!(
            after.endpoint, before.endpoint,
            "{abuse} moved the endpoint"
        );
        assert!(
            after.memory <= before.memory + MEMORY,
            "{abuse} cost memory: {before:?} {after:?}"
        );
        assert!(
            after.lines <= before.lines + LINES,
            "{abuse} filled the log: {before:?} {after:?}"
        );
        println!("{abuse}: {report}, {pings:?} pings, {before:?}, {after:?}");
        (report, after.drops - before.drops)
    }
}

#[test]
fn datagrams_of_strangers_get_nothing_back_and_cost_nothing() {
    let scene = Scene::new("hostile datagrams");
    // First the largest: receive buffers count as resident only once they have been used.
    scene.stranger.run(&format!(
        "{} abuse-trains {}",
        program("netns-probe"),
        scene.target()
    ));
    let (report, drops) = scene.endures(&format!("abuse-trains {}", scene.target()));
    assert_eq!(report["answers"], 0, "{report}");
    let sent = report["sent"].as_u64().unwrap();
    assert!(drops * 10 >= sent * 9, "{drops} of {sent} were counted");

    let (report, drops) =
        scene.endures(&format!("abuse-datagrams {} 0 2000 50000", scene.target()));
    assert_eq!(report["answers"], 0, "{report}");
    let sent = report["sent"].as_u64().unwrap();
    assert_eq!(sent, 2001 * 260);
    assert!(drops * 10 >= sent * 9, "{drops} of {sent} were counted");
}

/// Cookie replies (type 3, 64 bytes each; the capture sees several of them before the kernel cuts them): what a source over its
/// share gets for messages with a right first MAC, which are longer.
const COOKIE: &str = "udp[8:4] = 0x03000000";

#[test]
fn replayed_messages_move_nothing_and_break_nothing() {
    let scene = Scene::new("hostile replay");
    // A handshake in each direction, and data.
    let capture = scene.a.host().capture(&scene.at_a.interface);
    scene.a.restart();
    wait_until(secs(15), "a reaches b", || scene.a.ping(scene.b.address()));
    scene.b.restart();
    wait_until(secs(15), "b reaches a", || scene.b.ping(scene.a.address()));
    Pings::send(scene.a.host(), scene.b.address().into(), 50, millis(10)).unwrap();
    wait_until(secs(5), "data was captured", || {
        scene.a.host().captured(&capture, "udp port 51860") > 100
    });

    let target = scene.target();
    let replay = format!("abuse-replay {target} {} 5", capture.display());
    // The first time brings all buffers into use.
    scene
        .stranger
        .run(&format!("{} {replay}", program("netns-probe")));
    let replayed = count(&scene.a, "replayed");
    let (report, drops) = scene.endures(&replay);
    let (sent, data) = (
        report["sent"].as_u64().unwrap(),
        report["data"].as_u64().unwrap(),
    );
    assert!(report["initiations"].as_u64() >= Some(2), "{report}");
    assert!(report["responses"].as_u64() >= Some(2), "{report}");
    assert!(drops * 10 >= sent * 9, "{drops} of {sent} were counted");
    // What b sent to a in a's last session: half of the pings at least, five times.
    let replayed = count(&scene.a, "replayed") - replayed;
    assert!(
        replayed >= 5 * 50,
        "{replayed} of {data} data messages, 5 times"
    );

    // The other end has forgotten, by its start, which of these initiations it had answered.
    let at_b = SocketAddr::new(scene.at_b.v4.into(), 51860);
    let path = scene.b.peer("a").unwrap()["path"].clone();
    scene.stranger.run(&format!(
        "{} abuse-replay {at_b} {} 2",
        program("netns-probe"),
        capture.display()
    ));
    assert_eq!(scene.b.peer("a").unwrap()["path"], path);
    hold_for(secs(1), "b reaches a", || scene.b.ping(scene.a.address()));
}

#[test]
fn packets_that_a_peer_forges_reach_no_port_and_kill_no_thread() {
    const ROUNDS: u64 = 20;
    let lab = Lab::new("hostile inner packets");
    let (host, abuser) = (lab.host("node"), lab.host("abuser"));
    let link = lab.link(&host, &abuser);
    let (id, peer) = (lab.identity(), lab.identity());
    let leaf = id.address_of(0x5555);
    let leaf_key = Key::generate(&host);
    let settings = Settings::new(&id)
        .peer(
            "abuser",
            &peer,
            Some(SocketAddr::new(link.b.v4.into(), 51999)),
        )
        .stock("leaf", &leaf_key.public, leaf, None);
    let node = host.meshd(settings);
    let tunnel = stock(
        &abuser,
        &peer,
        &id,
        SocketAddr::new(link.a.v4.into(), 51860),
    );
    wait_until(secs(10), "the abuser reaches the node, as it may", || {
        abuser.ping(id.address)
    });

    let probe = program("netns-probe");
    let own = peer.address;
    let _port = udp_echo(node.host(), "[::]:7777".parse().unwrap());
    // The port is open to packets that are in order.
    abuser.run(&format!("{probe} abuse-honest {own} [{}]:7777", id.address));
    let echoes = abuser.capture(tunnel.interface());
    let before = (node.id(), memory(node.id()), total(&node));
    let report = abuser.run(&format!(
        "{probe} abuse-inner {} {own} {} {leaf} 7777 {ROUNDS}",
        tunnel.interface(),
        id.address
    ));
    let report: Value = serde_json::from_str(report.trim()).unwrap();
    let sent = report["sent"].as_u64().unwrap();
    // What is too short to be IP, or without the address of a peer, stock WireGuard does not send.
    wait_until(secs(5), "all that was sent is counted", || {
        let drops = total(&node) - before.2;
        if drops * 10 >= sent * 8 {
            Ok(())
        } else {
            Err(format!("{drops} of {sent}: {:?}", node.drops()))
        }
    });
    println!("{sent} sent, {:?}", node.drops());
    for reason in [
        "malformed",
        "not-ipv6",
        "hop-limit",
        "outside-source",
        "outside-destination",
        "outside-not-ip",
    ] {
        assert!(
            count(&node, reason) >= ROUNDS,
            "{reason}: {:?}",
            node.drops()
        );
    }
    let echoed = abuser.captured(
        &echoes,
        &format!(
            "src host {} and dst host {own} and udp dst port 7777",
            id.address
        ),
    );
    assert_eq!(echoed, 0, "a forged packet reached the port");
    assert_eq!(node.id(), before.0);
    assert!(memory(node.id()) <= before.1 + MEMORY);
    assert!(abuser.ping(id.address).is_ok());
}

/// A stock device that holds a node's key.
#[track_caller]
fn stock(host: &Host, who: &Identity, node: &Identity, at: SocketAddr) -> WireGuard {
    let key = Key {
        private: who.private_key(),
        public: who.public_key.clone(),
    };
    let tunnel = WireGuard::start(host, &key, who.address);
    tunnel.listen(51999);
    tunnel.peer(&node.public_key, "::/0", Some(at));
    host.run(&format!(
        "wg set {} peer {} allowed-ips ::/0,0.0.0.0/0",
        tunnel.interface(),
        node.public_key
    ));
    tunnel
}

/// Resident memory of a process, in bytes, once it has come to rest.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.unwrap().parse::<u64>().unwrap() << 10
}

#[track_caller]
fn total(node: &Daemon) -> u64 {
    node.drops().values().sum()
}

#[track_caller]
fn count(node: &Daemon, reason: &str) -> u64 {
    node.drops().get(reason).copied().unwrap_or_default()
}
