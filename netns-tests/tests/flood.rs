//! A node under a flood of handshakes.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;

use netns_tests::{Host, Lab, Settings, secs, traffic, wait_until};

/// Bytes that an interface has received and sent.
fn bytes(host: &Host, interface: &str) -> (u64, u64) {
    let text = host.run(&format!("ip -j -s link show dev {interface}"));
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    let of = |way: &str| told[0]["stats64"][way]["bytes"].as_u64().unwrap();
    (of("rx"), of("tx"))
}

/// Resident memory in KiB.
fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_configured_peer_connects_within_six_seconds_of_a_flood_from_65000_sources() {
    let lab = Lab::new("flood");
    let (a, b, stranger) = (lab.host("a"), lab.host("b"), lab.host("stranger"));
    let (link, way) = (lab.link(&a, &b), lab.link(&stranger, &b));
    stranger.run("ip route add local 10.200.0.0/16 dev lo");
    b.run(&format!("ip route add 10.200.0.0/16 via {}", way.a.v4));
    let (id_a, id_b) = (lab.identity(), lab.identity());
    let key = id_b.public_key.clone();
    let (for_a, for_b) = Settings::pair((&id_a, link.a.v4.into()), (&id_b, link.b.v4.into()));
    let (a, b) = (a.meshd(for_a), b.meshd(for_b.log_level("info")));
    wait_until(secs(10), "a reaches b", || a.ping(b.address()));

    let before = (bytes(b.host(), &way.b.interface), memory(b.id()));
    let target = SocketAddr::new(way.b.v4.into(), 51860);
    let mut flood = traffic::initiations(&stranger, target, &key, 400_000, 20_000);
    wait_until(secs(5), "b demands proofs of address", || {
        b.drops().contains_key("address-unproven")
    });
    a.restart();
    wait_until(secs(6), "a reaches b again", || a.ping(b.address()));
    assert!(flood.is_running(), "the flood has ended before the test");
    let after = (bytes(b.host(), &way.b.interface), memory(b.id()));
    flood.kill();

    let (received, sent) = (after.0.0 - before.0.0, after.0.1 - before.0.1);
    assert!(received > 5_000_000, "no flood: {received} bytes");
    assert!(sent <= received, "{sent} bytes out for {received} in");
    let grown = after.1.saturating_sub(before.1);
    assert!(grown <= 8 << 10, "memory grew by {grown} KiB");
}
