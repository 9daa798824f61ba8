use std::collections::BTreeSet;

use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use proptest::prelude::*;

use super::*;
use crate::testdata;

const PROTOCOL: &str = include_str!("../../../docs/protocol.md");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_identity_of_the_pool_is_as_written() {
    let lines: Vec<&str> = testdata::POOL.lines().collect();
    assert!(lines[0].starts_with('#'));
    assert_eq!(lines.len(), 129);
    let mut seen = BTreeSet::new();
    for line in &lines[1..] {
        let [seed, key, address] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let identity = Identity::from_hex(seed).unwrap();
        assert_eq!(identity.node().public_key().to_string(), key);
        assert_eq!(identity.node().address().to_string(), address);
        assert_eq!(identity.to_hex().as_str(), seed);
        assert_eq!(
            identity.private_key().public(),
            identity.node().public_key()
        );
        assert_eq!(
            NodeId::from_public_key(&identity.node().public_key()),
            Ok(identity.node())
        );
        assert_eq!(
            NodeId::from_ed25519(*identity.node().ed25519()),
            Ok(identity.node())
        );
        assert_eq!(
            prefix_of(&identity.node().public_key()),
            Ok(identity.node().prefix())
        );
        assert!(overlay().contains(identity.node().address()));
        assert!(seen.insert(identity.node().prefix()));
    }
}

#[test]
fn the_peer_id_is_the_one_of_libp2p() {
    for n in 0..8 {
        let identity = testdata::identity(n);
        let pair = libp2p_identity::Keypair::ed25519_from_bytes(*identity.seed).unwrap();
        let peer_id = pair.public().to_peer_id().to_string();
        assert_eq!(identity.node().to_string(), peer_id);
        assert_eq!(peer_id.parse(), Ok(identity.node()));
    }
}

/// The vectors of docs/protocol.md: `name = value` lines in blocks that begin with a seed.
#[test]
fn the_published_vectors_hold() {
    let block = PROTOCOL
        .split("```vectors\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let mut vectors = 0;
    for vector in block.split("\n\n") {
        let mut fields = vector
            .lines()
            .map(|line| line.split_once('=').unwrap())
            .map(|(k, v)| (k.trim(), v.trim()));
        let (first, seed) = fields.next().unwrap();
        assert_eq!(first, "seed");
        let identity = Identity::from_hex(seed).unwrap();
        let node = identity.node();
        let private = PrivateKey::from_bytes(*scalar(&identity.seed));
        let views = [
            ("ed25519 public key", hex(node.ed25519())),
            ("peer id", node.peer_id()),
            ("wireguard private key", private.to_base64().to_string()),
            ("wireguard scalar", hex(&*scalar(&identity.seed))),
            ("wireguard public key", hex(node.public_key().as_bytes())),
            (
                "wireguard public key, base64",
                node.public_key().to_string(),
            ),
            (
                "address hash",
                hex(&tagged_hash(ADDRESS_TAG, &node.public_key())),
            ),
            ("prefix", node.prefix().to_string()),
            ("address", node.address().to_string()),
            ("router-id", hex(&node.router_id())),
            ("link-local", node.link_local().to_string()),
        ];
        let fields: Vec<(&str, String)> = fields.map(|(k, v)| (k, v.to_owned())).collect();
        assert_eq!(fields, views);
        vectors += 1;
    }
    assert_eq!(vectors, 4);
}

/// A key with the work and a torsion component, found by adding the base point to a point of order 8 until the hash fits.
const TORSION: &str = "RLfvlXIp55qnqQZjOoeuTnFSGUqt2eWWrGPcaqh8CQM=";

#[test]
fn a_key_with_torsion_is_refused_whatever_its_work() {
    assert_eq!(
        prefix_of(&TORSION.parse().unwrap()),
        Err(AddressError::Torsion)
    );
    let point = ED25519_BASEPOINT_POINT + EIGHT_TORSION[1];
    let bytes = point.compress().to_bytes();
    let bytes = if bytes[31] >> 7 == 0 {
        bytes
    } else {
        (-point).compress().to_bytes()
    };
    assert_eq!(NodeId::from_ed25519(bytes), Err(AddressError::Torsion));
}

#[test]
fn keys_of_small_order_are_refused() {
    for point in EIGHT_TORSION {
        let bytes = point.compress().to_bytes();
        let expected = if bytes[31] >> 7 == 0 {
            AddressError::SmallOrder
        } else {
            AddressError::Sign
        };
        assert_eq!(NodeId::from_ed25519(bytes), Err(expected));
        assert!(PublicKey::from_bytes(point.to_montgomery().to_bytes()).is_err());
    }
}

#[test]
fn a_set_sign_bit_is_refused() {
    let node = testdata::identity(0).node();
    let mut bytes = *node.ed25519();
    bytes[31] |= 0x80;
    assert_eq!(NodeId::from_ed25519(bytes), Err(AddressError::Sign));
}

#[test]
fn non_canonical_keys_are_refused() {
    // y = p + 3 and y = 3 are the same point; so are y = p + 1 and the neutral element.
    for low in [0xf0, 0xee] {
        let mut bytes = [0xff; 32];
        (bytes[0], bytes[31]) = (low, 0x7f);
        assert_eq!(NodeId::from_ed25519(bytes), Err(AddressError::NotCanonical));
        assert!(PublicKey::from_bytes(bytes).is_err());
    }
    let mut bytes = *testdata::identity(0).node().public_key().as_bytes();
    bytes[31] |= 0x80;
    assert!(PublicKey::from_bytes(bytes).is_err());
    // y = 2 is on no point.
    let mut bytes = [0; 32];
    bytes[0] = 2;
    assert_eq!(NodeId::from_ed25519(bytes), Err(AddressError::NotCanonical));
}

#[test]
fn a_key_nobody_worked_for_is_refused() {
    let bytes = ED25519_BASEPOINT_POINT.compress().to_bytes();
    assert_eq!(NodeId::from_ed25519(bytes), Err(AddressError::Work));
    assert_eq!(
        Identity::from_hex(&"01".repeat(32)).unwrap_err(),
        SeedError::Address(AddressError::Work)
    );
}

/// A key on the twist with the work, found by counting.
const TWIST: &str = "DOkAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

#[test]
fn a_key_on_the_twist_is_refused_whatever_its_work() {
    assert_eq!(prefix_of(&TWIST.parse().unwrap()), Err(AddressError::Twist));
}

#[test]
fn a_peer_id_of_another_kind_is_refused() {
    let node = testdata::identity(0).node();
    let id = node.peer_id();
    // A hash of an RSA key, a CID, one digit less, one more, nothing.
    let rsa = bs58::encode([&[0x12, 0x20][..], &[7; 32]].concat()).into_string();
    for text in [
        rsa.as_str(),
        "bafzaajaiaejcal",
        &id[..id.len() - 1],
        &format!("{id}1"),
        "",
    ] {
        assert_eq!(text.parse::<NodeId>(), Err(AddressError::PeerId), "{text}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let identity = testdata::identity(0);
    let shown = format!("{identity:?} {:?}", identity.private_key());
    assert!(!shown.contains(identity.to_hex().as_str()));
    assert!(!shown.contains(identity.private_key().to_base64().as_str()));
    assert!(shown.contains(&identity.node().peer_id()));
}

#[test]
fn mining_stops_when_told_to() {
    let mut calls = 0;
    let mined = Identity::mine(NonZeroUsize::MIN, |progress| {
        calls += 1;
        assert!(progress.rate() >= 0.0);
        ControlFlow::Break(())
    });
    // It may have been lucky within the first interval.
    match mined {
        Err(error) => assert!(matches!(error, MineError::Cancelled) && calls == 1),
        Ok(identity) => assert_eq!(
            identity.private_key().public(),
            identity.node().public_key()
        ),
    }
}

#[test]
fn a_leaf_gets_an_address_of_its_own_in_the_prefix() {
    let [gateway, other] = [0, 1].map(|n| testdata::identity(n).node().prefix());
    let devices: Vec<PublicKey> = (2..10)
        .map(|n| testdata::identity(n).node().public_key())
        .collect();
    let leaves: BTreeSet<Ipv6Addr> = devices
        .iter()
        .map(|key| leaf_address(gateway, key))
        .collect();
    assert_eq!(leaves.len(), devices.len());
    assert!(
        leaves
            .iter()
            .all(|leaf| gateway.contains(*leaf) && leaf.segments()[4] & 0x8000 != 0)
    );
    assert_ne!(
        leaf_address(gateway, &devices[0]),
        leaf_address(other, &devices[0])
    );
}

/// `KEY = LABEL` lines of docs/protocol.md.
#[test]
fn a_node_has_the_published_label_and_is_found_by_it() {
    let block = PROTOCOL.split("```key-labels\n").nth(1).unwrap();
    let lines: Vec<&str> = block.split("```").next().unwrap().lines().collect();
    assert_eq!(lines.len(), 2);
    let directory = names::Directory::new("internal", "mesh", DERIVATION).unwrap();
    for (n, line) in lines.into_iter().enumerate() {
        let node = testdata::identity(n).node();
        let (key, label) = line.split_once(" = ").unwrap();
        assert_eq!(node.public_key().to_string(), key);
        assert_eq!(names::key_label(node.public_key().as_bytes()), label);
        let query = names::question(&format!("{label}.id.internal")).unwrap();
        let answer = names::answer(&query, &directory).unwrap();
        assert_eq!(names::address_in(&answer), Some(node.address()));
    }
}

/// `PREFIX NAME = ADDRESS` lines of docs/protocol.md.
#[test]
fn a_workload_has_the_published_address() {
    let block = PROTOCOL.split("```workloads\n").nth(1).unwrap();
    let lines: Vec<&str> = block.split("```").next().unwrap().lines().collect();
    assert_eq!(lines.len(), 5);
    for line in lines {
        let (workload, address) = line.split_once(" = ").unwrap();
        let (prefix, name) = workload.split_once(' ').unwrap();
        let computed = workload_address(prefix.parse().unwrap(), name);
        assert_eq!(computed.to_string(), address, "{name}");
    }
}

proptest! {
    #[test]
    fn a_workload_is_never_where_the_node_its_services_or_its_devices_are(name in "[a-z0-9-]{1,63}", device: [u8; 32]) {
        let prefix = testdata::identity(0).node().prefix();
        let address = workload_address(prefix, &name);
        prop_assert!(prefix.contains(address) && address.segments()[4] >> 14 == 1);
        if let Ok(device) = PublicKey::from_bytes(device) {
            prop_assert_ne!(address, leaf_address(prefix, &device));
        }
    }

    #[test]
    fn no_bytes_make_a_node_panic(bytes: [u8; 32], text in "\\PC{0,64}") {
        let _ = NodeId::from_ed25519(bytes);
        let _ = PublicKey::from_bytes(bytes).map(|key| prefix_of(&key));
        let _ = text.parse::<NodeId>();
        let _ = Identity::from_hex(&text);
    }
}
