//! The promise: a packet reaches a TUN only out of the session whose key owns its source, and only if it is for this node; a
//! packet is read from a TUN only if its source belongs there. What fails a check is counted.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;

use netns_tests::wireguard::{Key, WireGuard};
use netns_tests::{Daemon, Host, Identity, Lab, Settings, secs, wait_until};

/// How many packets each attempt sends.
const ATTEMPTS: u64 = 5;
/// An interface without anything behind it, for addresses that a host claims.
const CLAIM: &str = "claims";

/// A node, and next to it a host that holds a valid key and abuses it by means of stock WireGuard.
struct Scene {
    node: Daemon,
    abuser: Host,
    /// What the abuser's key owns.
    own: Ipv6Addr,
    _tunnel: WireGuard,
    lab: Lab,
}

impl Scene {
    /// The abuser is a mesh peer of the node.
    fn with_mesh_peer(name: &str) -> Self {
        Self::new(name, |lab, _, abuser| {
            let id = lab.identity();
            let key = Key {
                private: id.private_key(),
                public: id.public_key.clone(),
            };
            assert_eq!(
                public_key(abuser, &key.private),
                id.public_key,
                "the pool's keys belong together"
            );
            let at_abuser = SocketAddr::new("10.77.1.2".parse().unwrap(), 51999);
            (
                id.address,
                key,
                Box::new(move |settings: Settings| settings.peer("abuser", &id, Some(at_abuser))),
            )
        })
    }

    /// The abuser is a stock leaf of the node.
    fn with_leaf(name: &str) -> Self {
        Self::new(name, |_, node, abuser| {
            let (key, leaf) = (Key::generate(abuser), node.address_of(0x5555));
            let public = key.public.clone();
            (
                leaf,
                key,
                Box::new(move |settings: Settings| settings.stock("abuser", &public, leaf, None)),
            )
        })
    }

    fn new(
        name: &str,
        admit: impl FnOnce(
            &Lab,
            &Identity,
            &Host,
        ) -> (Ipv6Addr, Key, Box<dyn FnOnce(Settings) -> Settings>),
    ) -> Self {
        let lab = Lab::new(name);
        let (host, abuser) = (lab.host("node"), lab.host("abuser"));
        let link = lab.link(&host, &abuser);
        let id = lab.identity();
        let (own, key, admitted) = admit(&lab, &id, &abuser);
        let node = host.meshd(admitted(Settings::new(&id)));
        let tunnel = WireGuard::start(&abuser, &key, own);
        tunnel.listen(51999);
        tunnel.peer(
            &id.public_key,
            "::/0",
            Some(SocketAddr::new(link.a.v4.into(), 51860)),
        );
        wait_until(secs(10), "the abuser reaches the node, as it may", || {
            abuser.ping(id.address)
        });
        abuser.run(&format!("ip link add {CLAIM} type bridge"));
        abuser.link_up(CLAIM);
        Self {
            node,
            abuser,
            own,
            _tunnel: tunnel,
            lab,
        }
    }

    /// Sends from `source` to `target` out of the abuser's session. Nothing of it may come out of the node's TUN, or be answered,
    /// and everything must be counted.
    #[track_caller]
    fn must_not_pass(&self, source: Ipv6Addr, target: Ipv6Addr) {
        if source != self.own {
            self.abuser.set_address(CLAIM, &format!("{source}/128"));
        }
        let tun = self.node.host().capture("mesh0");
        let before = total(&self.node);
        let answered = send(&self.abuser, source, target);
        wait_until(secs(5), "every packet is counted as dropped", || {
            let now = total(&self.node);
            if now >= before + ATTEMPTS {
                Ok(())
            } else {
                Err(format!("{before} before, {:?}", self.node.drops()))
            }
        });
        assert!(!answered, "{source} > {target} was answered");
        let passed = packets(
            self.node.host(),
            &tun,
            &format!("src host {source} and dst host {target}"),
        );
        assert_eq!(passed, 0, "{source} > {target} came out of the TUN");
    }
}

#[test]
fn a_mesh_peer_cannot_speak_for_others() {
    let scene = Scene::with_mesh_peer("checks mesh source");
    let stranger = scene.lab.identity();
    scene.must_not_pass(stranger.address, scene.node.address());
}

#[test]
fn a_mesh_peer_cannot_speak_for_the_node_itself() {
    let scene = Scene::with_mesh_peer("checks mesh own source");
    scene.must_not_pass(scene.node.identity().address_of(7), scene.node.address());
}

#[test]
fn a_mesh_peer_cannot_bring_in_addresses_from_outside_the_overlay() {
    let scene = Scene::with_mesh_peer("checks mesh foreign source");
    scene.must_not_pass("2001:db8:77::1".parse().unwrap(), scene.node.address());
}

#[test]
fn a_mesh_peer_cannot_reach_what_is_not_the_node() {
    let scene = Scene::with_mesh_peer("checks mesh destination");
    // A LAN behind the node, an address of its /64 that nobody has, and another node.
    scene.node.host().set_address("lo", "fd99::1/128");
    scene.must_not_pass(scene.own, "fd99::1".parse().unwrap());
}

#[test]
fn a_mesh_peer_cannot_reach_free_addresses_of_the_node() {
    let scene = Scene::with_mesh_peer("checks mesh free destination");
    scene.must_not_pass(scene.own, scene.node.identity().address_of(9));
}

#[test]
fn a_leaf_cannot_speak_for_others() {
    let scene = Scene::with_leaf("checks leaf source");
    let stranger = scene.lab.identity();
    scene.must_not_pass(stranger.address, scene.node.address());
}

#[test]
fn a_leaf_cannot_speak_for_its_neighbour() {
    let scene = Scene::with_leaf("checks leaf neighbour source");
    scene.must_not_pass(
        scene.node.identity().address_of(0x5556),
        scene.node.address(),
    );
}

#[test]
fn a_leaf_cannot_reach_what_is_not_the_overlay() {
    let scene = Scene::with_leaf("checks leaf destination");
    scene.node.host().set_address("lo", "fd99::1/128");
    scene.must_not_pass(scene.own, "fd99::1".parse().unwrap());
}

/// Two nodes, and an attempt to send from one with a source that is not its own.
#[test]
fn a_node_sends_nothing_under_a_foreign_source() {
    let lab = Lab::new("checks read from the TUN");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    let (id_a, id_b, stranger) = (lab.identity(), lab.identity(), lab.identity());
    let (for_a, for_b) = Settings::pair((&id_a, link.a.v4.into()), (&id_b, link.b.v4.into()));
    let (a, b) = (a.meshd(for_a), b.meshd(for_b));
    wait_until(secs(10), "a reaches b", || a.ping(b.address()));

    for source in [
        stranger.address,
        id_b.address_of(3),
        "2001:db8:77::1".parse().unwrap(),
    ] {
        a.host().set_address("lo", &format!("{source}/128"));
        let (tun, far) = (a.host().capture("mesh0"), b.host().capture("mesh0"));
        let before = total(&a);
        assert!(!send(a.host(), source, b.address()));
        wait_until(secs(5), "every packet is counted as dropped", || {
            total(&a) >= before + ATTEMPTS
        });
        assert_eq!(
            packets(b.host(), &far, &format!("src host {source}")),
            0,
            "{source} reached b"
        );
        // Destination Unreachable, source address failed ingress/egress policy (RFC 4443 §3.1).
        wait_until(secs(5), "the sender is told why", || {
            packets(
                a.host(),
                &tun,
                &format!("dst host {source} and icmp6 and ip6[40] == 1 and ip6[41] == 5"),
            ) > 0
        });
    }
}

#[test]
fn a_packet_to_a_node_nobody_knows_is_counted_and_answered() {
    let lab = Lab::new("checks unknown destination");
    let id = lab.identity();
    let node = lab.host("a").meshd(Settings::new(&id));
    let before = total(&node);
    let output = node
        .host()
        .output(
            &format!("ping -n -c 1 -W 1 {}", lab.identity().address),
            secs(5),
        )
        .unwrap();
    assert!(!output.status.success());
    assert!(
        output.stdout.contains("Destination unreachable"),
        "{output:?}"
    );
    assert!(total(&node) > before, "{:?}", node.drops());
}

/// Sends [`ATTEMPTS`] echo requests; whether any was answered.
#[track_caller]
fn send(host: &Host, source: Ipv6Addr, target: Ipv6Addr) -> bool {
    let output = host
        .output(
            &format!("ping -n -c {ATTEMPTS} -i 0.05 -W 1 -I {source} {target}"),
            secs(10),
        )
        .unwrap();
    assert!(
        output
            .stdout
            .contains(&format!("{ATTEMPTS} packets transmitted")),
        "nothing was sent: {output:?}"
    );
    output.status.success()
}

#[track_caller]
fn total(node: &Daemon) -> u64 {
    node.drops().values().sum()
}

/// How many packets of a capture a filter matches.
#[track_caller]
fn packets(host: &Host, file: &Path, filter: &str) -> usize {
    let path = file.display().to_string();
    let output = host.output_of(&["tcpdump", "-n", "-r", &path, filter], "", secs(10));
    output
        .and_then(netns_tests::process::Output::success)
        .unwrap()
        .lines()
        .count()
}

#[track_caller]
fn public_key(host: &Host, private: &str) -> String {
    let derived = host.output_of(&["wg", "pubkey"], private, secs(5));
    derived
        .and_then(netns_tests::process::Output::success)
        .unwrap()
        .trim()
        .to_owned()
}
