use super::*;
use crate::testdata;

fn key(n: usize) -> PublicKey {
    testdata::identity(n).node().public_key()
}

/// Knows this node, a peer and a device.
fn redactor(detail: Detail) -> Redactor {
    let mut redactor = Redactor::new(detail);
    redactor.know(Who::Own, Some("nas"), Some(&key(0)));
    redactor.know(Who::Peer, Some("vps"), Some(&key(1)));
    redactor.know(Who::Device, Some("phone"), Some(&key(2)));
    redactor.know_endpoint("VPS1.example.org:51860");
    redactor
}

fn prose(text: &str) -> String {
    redactor(Detail::Redacted).prose(text)
}

#[test]
fn whoever_is_known_has_one_stand_in_for_every_name() {
    let node = testdata::identity(1).node();
    let text = format!(
        "vps has {}, {}, {}, {}, at vps1.example.org",
        node.public_key(),
        node.peer_id(),
        node.address(),
        node.prefix()
    );
    assert_eq!(
        prose(&text),
        "peer-1 has key-of-peer-1, id-of-peer-1, peer-1::1, peer-1::/64, at host-1"
    );
    let own = testdata::identity(0).node();
    let leaf = crate::identity::leaf_address(own.prefix(), &key(2));
    assert_eq!(
        prose(&format!("nas {} phone {leaf}", own.address())),
        "self self::1 device-1 self::leaf-1"
    );
}

#[test]
fn a_name_that_comes_later_belongs_to_the_key_that_came_before() {
    let mut redactor = redactor(Detail::Redacted);
    redactor.know(Who::Peer, Some("tower"), Some(&key(1)));
    redactor.know(Who::Peer, Some("vps"), Some(&key(3)));
    assert_eq!(redactor.text("tower vps"), "peer-1 peer-1");
    assert_eq!(redactor.text(&key(3).to_string()), "key-of-peer-1");
}

#[test]
fn addresses_that_others_could_reach_are_replaced_and_the_same_ones_stay_the_same() {
    let cases = [
        (
            "203.0.113.7:51860 and 203.0.113.7",
            "ipv4-1:51860 and ipv4-1",
        ),
        ("[2001:DB8:0::7]:9 is 2001:db8::7.", "[ipv6-1]:9 is ipv6-1."),
        ("2001:db8:1:2::/64", "ipv6-1/64"),
        ("from:2001:db8::1,to=198.51.100.2", "from:ipv6-1,to=ipv4-1"),
        ("src203.0.113.9", "srcipv4-1"),
        (
            "203.0.113.9.51860 > 198.51.100.2.9",
            "ipv4-1.51860 > ipv4-2.9",
        ),
        ("::ffff:203.0.113.9", "::ffff:ipv4-1"),
        ("fe80::1234:56ff:fe78:9abc%eth0", "link-local-1%eth0"),
        ("link/ether 52:54:00:12:34:56", "link/ether mac-1"),
        ("6ab:1:2:3::1 6ab:1:2:3::/64", "node-1::1 node-1::/64"),
    ];
    for (text, told) in cases {
        assert_eq!(prose(text), told);
    }
}

#[test]
fn what_is_the_same_everywhere_stays() {
    for text in [
        "10.1.2.3 172.16.0.1/12 192.168.1.1 100.64.0.1 127.0.0.1 169.254.1.1 224.0.0.1",
        "0.0.0.0:51860 [::]:51860 ::1 fd12:3456::1 ff02::1 255.255.255.0",
        "600::/8 dev mesh0 metric 1024",
        "2026-11-24T08:15:30.661833Z  INFO meshd::node: Peer reachable",
        "linux 6.18.44 meshd 0.1.0, read meshd.toml:12: node.open: true, meshd.service: failed",
        "thread `inside` does not answer",
        "thread 'node' panicked at meshd/src/driver.rs:120:9:",
    ] {
        assert_eq!(prose(text), text);
    }
}

#[test]
fn a_name_is_not_mistaken_for_a_field_or_a_module() {
    let mut redactor = Redactor::new(Detail::Redacted);
    for name in ["node", "peer", "meshd"] {
        redactor.know(Who::Peer, Some(name), None);
    }
    assert_eq!(
        redactor.prose("meshd::node: Peer reachable peer=node \"peer\":\"peer\""),
        "meshd::node: Peer reachable peer=peer-1 \"peer\":\"peer-2\""
    );
}

#[test]
fn names_that_nobody_told_us_are_found_in_prose() {
    let cases = [
        (
            "Session closed peer=tower rtt=3",
            "Session closed peer=name-1 rtt=3",
        ),
        (
            "Device added device=\"big tower\" x",
            "Device added device=\"name-1\" x",
        ),
        ("{\"peer\":\"tower\"}", "{\"peer\":\"name-1\"}"),
        (
            "no answer from tower:51860, a.example.net:9",
            "no answer from host-3:51860, host-2:9",
        ),
        (
            "no answer from secret.example.net.",
            "no answer from host-2.",
        ),
        (
            "reading /home/alice/meshd.toml",
            "reading /home/name-1/meshd.toml",
        ),
        (
            "`tower.x` is no name of `vps`",
            "`…` is no name of `peer-1`",
        ),
        ("`tower` is no name, `hunter2`", "`…` is no name, `…`"),
    ];
    for (text, told) in cases {
        assert_eq!(prose(text), told);
    }
}

#[test]
fn a_fault_of_the_configuration_quotes_nothing() {
    let told = redactor(Detail::Redacted)
        .fault("invalid type: string \"hunter2\", expected u16, unknown key `hunter3`");
    assert_eq!(
        told,
        "invalid type: string \"…\", expected u16, unknown key `…`"
    );
}

#[test]
fn secrets_go_from_every_text_and_public_keys_stay_in_a_full_one() {
    let identity = testdata::identity(3);
    let (seed, private) = (identity.to_hex(), identity.private_key().to_base64());
    let text = format!(
        "seed={} PrivateKey={} vps {} 203.0.113.7",
        seed.as_str(),
        private.as_str(),
        key(1)
    );
    assert_eq!(
        prose(&text),
        "seed=[digits] PrivateKey=key-1 peer-1 key-of-peer-1 ipv4-1"
    );
    assert_eq!(
        redactor(Detail::Full).prose(&text),
        format!("seed=[digits] PrivateKey=[key] vps {} 203.0.113.7", key(1))
    );
}

#[test]
fn what_a_configuration_says_is_left_out_unless_it_is_harmless() {
    let mut redactor = redactor(Detail::Redacted);
    let mut config = serde_json::json!({
        "node": { "name": "nas", "state_dir": "/home/alice/state", "relay": "members", "relay_mbit": 3 },
        "wireguard": { "listen": ["203.0.113.7:51860", "0.0.0.0:0"] },
        "peers": [{
            "name": "vps", "public_key": "hunter2", "endpoint": ["vps1.example.org:51860"],
            "address": format!("/dns4/tower.example/tcp/9/p2p/{}", testdata::identity(3).node().peer_id()),
        }],
        "inbound": { "allow": [{ "from": "member:laptop", "to": "workload:web", "ports": ["tcp/22"] }] },
    });
    redactor.config(&mut config);
    assert_eq!(
        config,
        serde_json::json!({
            "node": { "name": "self", "state_dir": "/home/name-1/state", "relay": "members", "relay_mbit": 3 },
            "wireguard": { "listen": ["ipv4-1:51860", "0.0.0.0:0"] },
            "peers": [{
                "name": "peer-1", "public_key": "…", "endpoint": ["host-1:51860"],
                "address": "/dns4/….…/tcp/9/p2p/id-1",
            }],
            "inbound": { "allow": [{ "from": "member:…", "to": "workload:…", "ports": ["tcp/22"] }] },
        })
    );
}

proptest::proptest! {
    /// Whatever surrounds it, and however often it is redacted.
    #[test]
    fn an_address_or_key_is_found_in_any_surroundings(
        before in "[ -~]{0,12}", after in "[ -~]{0,12}", octets: [u8; 4], number in 1..60_usize,
    ) {
        let address = std::net::Ipv4Addr::from(octets);
        let key = key(number).to_string();
        let mut redactor = redactor(Detail::Redacted);
        let text = format!("{before} {address} {key} {after}");
        let told = redactor.prose(&text);
        proptest::prop_assert!(!told.contains(&key), "{told}");
        let is_public = redactor.address(address.into()) != address.to_string();
        let shown = told.split(|c: char| !c.is_ascii_digit() && c != '.').any(|word| word == address.to_string());
        proptest::prop_assert!(!is_public || !shown, "{told}");
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,60}", shapes in "[0-9a-f:.`\"=/@-]{0,60}") {
        for detail in [Detail::Redacted, Detail::Full] {
            let mut redactor = redactor(detail);
            for text in [&text, &shapes] {
                redactor.text(text);
                redactor.prose(text);
                redactor.fault(text);
                redactor.config(&mut Value::String(text.clone()));
            }
        }
    }
}
