//! Stock WireGuard (Debian's wireguard-go, configured by `wg`) as a leaf of a node.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;

use netns_tests::wait::hold_for;
use netns_tests::wireguard::{Key, WireGuard};
use netns_tests::{Daemon, Host, Lab, Link, Settings, secs, traffic, wait_until};

/// All of the overlay.
const OVERLAY: &str = "0600::/8";
/// The last 16 bits of the leaf's address.
const LEAF: u16 = 0x5555;

/// A node and a host with a cable between them.
struct Bench {
    node: Host,
    phone: Host,
    link: Link,
    lab: Lab,
}

impl Bench {
    fn new(name: &str) -> Self {
        let lab = Lab::new(name);
        let (node, phone) = (lab.host("node"), lab.host("phone"));
        let link = lab.link(&node, &phone);
        Self {
            node,
            phone,
            link,
            lab,
        }
    }

    fn node_endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.link.a.v6.into(), 51860)
    }
}

/// The node knows the phone's key alone, the phone knows the node's endpoint: the phone calls.
fn phone_calls(bench: &Bench) -> (Daemon, WireGuard) {
    let (id, key) = (bench.lab.identity(), Key::generate(&bench.phone));
    let node =
        bench
            .node
            .meshd(Settings::new(&id).stock("phone", &key.public, id.address_of(LEAF), None));
    let phone = WireGuard::start(&bench.phone, &key, id.address_of(LEAF));
    phone.peer(&id.public_key, OVERLAY, Some(bench.node_endpoint()));
    wait_until(secs(10), "the phone reaches its node", || {
        bench.phone.ping(id.address)
    });
    (node, phone)
}

fn carries_traffic_both_ways(bench: &Bench, node: &Daemon) {
    let leaf = node.identity().address_of(LEAF);
    bench.node.ping(leaf).unwrap();
    let at_leaf = SocketAddr::new(leaf.into(), 7000);
    let _echo = traffic::udp_echo(&bench.phone, at_leaf);
    traffic::udp_sizes(&bench.node, at_leaf, 0..=1372).unwrap();
    let at_node = SocketAddr::new(node.address().into(), 7001);
    let _server = traffic::tcp_serve(&bench.node, at_node);
    traffic::tcp_send(&bench.phone, at_node, 4, 2_000_000).unwrap();
    let at_leaf = SocketAddr::new(leaf.into(), 7002);
    let _server = traffic::tcp_serve(&bench.phone, at_leaf);
    traffic::tcp_send(&bench.node, at_leaf, 4, 2_000_000).unwrap();
}

#[test]
fn a_stock_device_calls_its_node() {
    let bench = Bench::new("interop stock calls");
    let (node, phone) = phone_calls(&bench);
    carries_traffic_both_ways(&bench, &node);
    assert!(phone.last_handshake() > 0);
    let peer = node.peer("phone").unwrap();
    assert_eq!(peer["kind"], "stock");
    assert_eq!(peer["public_key"], phone.key().public);
}

#[test]
fn a_node_calls_a_stock_device() {
    let bench = Bench::new("interop node calls");
    let (id, key) = (bench.lab.identity(), Key::generate(&bench.phone));
    let leaf = id.address_of(LEAF);
    let phone = WireGuard::start(&bench.phone, &key, leaf);
    phone.listen(51999);
    phone.peer(&id.public_key, OVERLAY, None);
    let endpoint = SocketAddr::new(bench.link.b.v4.into(), 51999);
    let node =
        bench
            .node
            .meshd(Settings::new(&id).stock("phone", &key.public, leaf, Some(endpoint)));
    wait_until(secs(10), "the node reaches the phone", || {
        bench.node.ping(leaf)
    });
    carries_traffic_both_ways(&bench, &node);
}

#[test]
fn a_configuration_made_for_a_phone_is_accepted_by_stock_tools_and_works() {
    let bench = Bench::new("interop wg add");
    let id = bench.lab.identity();
    let node = bench.node.meshd(Settings::new(&id));
    let added = node
        .command(&format!(
            "wg add phone --endpoint {}",
            bench.node_endpoint()
        ))
        .unwrap();
    let text = added.success().unwrap();
    let allowed = text
        .lines()
        .find(|line| line.starts_with("AllowedIPs"))
        .unwrap();
    assert!(allowed.contains("600::/8"), "{text}");

    let phone = WireGuard::from_quick_configuration(&bench.phone, &text);
    wait_until(secs(10), "the phone reaches its node", || {
        bench.phone.ping(id.address)
    });
    assert_eq!(
        node.peer("phone").unwrap()["public_key"],
        phone.key().public
    );
    let listed = node.command("wg list").unwrap().success().unwrap();
    assert!(listed.contains("phone"), "{listed}");

    node.restart();
    wait_until(secs(10), "the phone is still known after a restart", || {
        bench.phone.ping(id.address)
    });
    node.command("wg remove phone").unwrap().success().unwrap();
    wait_until(secs(10), "the removed phone is no longer let in", || {
        bench.phone.ping(id.address).is_err()
    });
}

#[test]
fn a_stock_device_roams_with_its_packets() {
    let bench = Bench::new("interop roaming");
    let (node, _phone) = phone_calls(&bench);
    let port = &bench.link.b;
    bench
        .phone
        .replace_address(&port.interface, &format!("{}/64", port.v6), "fd77:1::77/64");
    wait_until(secs(5), "the phone reaches its node from elsewhere", || {
        bench.phone.ping(node.address())
    });
    bench.node.ping(node.identity().address_of(LEAF)).unwrap();
}

/// Bytes that an interface has received.
fn received(host: &Host, interface: &str) -> u64 {
    let text = host.run(&format!("ip -j -s link show dev {interface}"));
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    told[0]["stats64"]["rx"]["bytes"].as_u64().unwrap()
}

/// Counts cookie replies (type 3) that arrive at a host.
fn count_cookies(host: &Host) -> impl Fn() -> u64 {
    host.run("nft add table ip cookies");
    host.run("nft add chain ip cookies arrive { type filter hook prerouting priority 0 ; }");
    host.run("nft add rule ip cookies arrive udp length 72 @th,64,32 0x03000000 counter");
    let host = host.clone();
    move || {
        let text = host.run("nft -j list chain ip cookies arrive");
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        let rule = told["nftables"].as_array().unwrap().last().unwrap();
        let counter = rule["rule"]["expr"].as_array().unwrap().last().unwrap();
        counter["counter"]["packets"].as_u64().unwrap()
    }
}

#[test]
fn a_node_proves_its_address_to_a_stock_device_under_load() {
    let lab = Lab::new("interop load");
    let (node, phone, stranger) = (lab.host("node"), lab.host("phone"), lab.host("stranger"));
    let (link, way) = (lab.link(&node, &phone), lab.link(&stranger, &phone));
    stranger.run("ip route add local 10.200.0.0/16 dev lo");
    phone.run(&format!("ip route add 10.200.0.0/16 via {}", way.a.v4));
    let (id, key) = (lab.identity(), Key::generate(&phone));
    let leaf = id.address_of(LEAF);
    let device = WireGuard::start(&phone, &key, leaf);
    device.listen(51999);
    device.peer(&id.public_key, OVERLAY, None);
    let endpoint = SocketAddr::new(link.b.v4.into(), 51999);
    let settings = Settings::new(&id).stock("phone", &key.public, leaf, Some(endpoint));

    let target = SocketAddr::new(way.b.v4.into(), 51999);
    let mut flood = traffic::initiations(&stranger, target, &key.public, 2_000_000, 20_000);
    wait_until(secs(10), "the phone demands proofs of address", || {
        received(&stranger, &way.a.interface) > 1_000_000
    });
    let cookies = count_cookies(&node);
    let node = node.meshd(settings);
    // A call may meet the phone in a moment without load and need no proof, or be lost in the flood.
    for _ in 0..5 {
        wait_until(secs(20), "the node reaches the phone", || {
            node.host().ping(leaf)
        });
        if cookies() > 0 {
            break;
        }
        node.restart();
    }
    assert_eq!(cookies(), 1, "one is demanded, and the first is right");
    assert!(flood.is_running(), "the flood has ended before the test");
    flood.kill();
}

/// WireGuard renews a session after 120 s (REKEY_AFTER_TIME) and refuses one of 180 s (REJECT_AFTER_TIME).
#[test]
fn a_session_with_a_stock_device_rekeys_and_survives_idleness() {
    let bench = Bench::new("interop rekey");
    let (node, phone) = phone_calls(&bench);
    let leaf = node.identity().address_of(LEAF);
    let first = phone.last_handshake();
    hold_for(
        secs(135),
        "the phone reaches its node and the node its phone",
        || {
            bench
                .phone
                .ping(node.address())
                .and_then(|()| bench.node.ping(leaf))
        },
    );
    let renewed = phone.last_handshake();
    assert!(
        (110..=135).contains(&(renewed - first)),
        "renewed after {} s",
        renewed - first
    );

    hold_for(secs(190), "the daemon answers", || node.try_status());
    wait_until(secs(3), "the node reaches its phone after silence", || {
        bench.node.ping(leaf)
    });
    wait_until(secs(3), "the phone reaches its node after silence", || {
        bench.phone.ping(node.address())
    });
    assert!(phone.last_handshake() > renewed);
}

#[test]
fn a_stock_device_reaches_other_nodes_through_its_gateway() {
    let lab = Lab::new("interop gateway");
    let (phone, gateway, far) = (lab.host("phone"), lab.host("gateway"), lab.host("far"));
    let (front, back) = (lab.link(&phone, &gateway), lab.link(&gateway, &far));
    let (id, id_far, key) = (lab.identity(), lab.identity(), Key::generate(&phone));
    let leaf = id.address_of(LEAF);
    let at_far = SocketAddr::new(back.b.v4.into(), 51860);
    let settings = Settings::new(&id).stock("phone", &key.public, leaf, None);
    let gateway = gateway.meshd(settings.peer("far", &id_far, Some(at_far)));
    let far = far.meshd(Settings::new(&id_far).peer("gateway", &id, None));
    let device = WireGuard::start(&phone, &key, leaf);
    let at_gateway = SocketAddr::new(front.b.v4.into(), 51860);
    device.peer(&id.public_key, OVERLAY, Some(at_gateway));

    wait_until(secs(10), "the phone reaches the far node", || {
        phone.ping(id_far.address)
    });
    far.ping(leaf).unwrap();
    let at_far = SocketAddr::new(id_far.address.into(), 7001);
    let _server = traffic::tcp_serve(far.host(), at_far);
    traffic::tcp_send(&phone, at_far, 4, 2_000_000).unwrap();
    let at_leaf = SocketAddr::new(leaf.into(), 7000);
    let _echo = traffic::udp_echo(&phone, at_leaf);
    traffic::udp_sizes(far.host(), at_leaf, 1300..=1372).unwrap();

    // The gateway is a hop, and says what it cannot carry.
    let answer = |line: String| phone.output(&line, secs(5)).unwrap().stdout;
    let exceeded = answer(format!("ping -c 1 -W 2 -t 1 {}", id_far.address));
    assert!(exceeded.contains("Time exceeded"), "{exceeded}");
    let nobody = lab.identity().address;
    let unreachable = answer(format!("ping -c 1 -W 2 {nobody}"));
    assert!(unreachable.contains("No route"), "{unreachable}");
    let drops = gateway.drops();
    assert_eq!((drops["hop-limit"], drops["no-route"]), (1, 1), "{drops:?}");
}
