//! Records as others would have us read them: poisoned, stale, oversized, foreign, cut off; and the corpus of the fuzzer.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../fuzz/targets/records.rs"]
mod records;

use std::{fs, net::SocketAddr, path::Path};

use discovery::{
    Carrier, Contact, NodeKey, Whereabouts,
    record::{MAX_LEN, Record, RecordError, TTL, place},
};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

const NOW: u64 = 1_800_000_000;

fn derive(key: &NodeKey) -> Option<[u8; 8]> {
    // Some keys are nobody's, as without the work.
    (key.0[31] & 1 == 0).then(|| *key.0.first_chunk().unwrap())
}

fn key(seed: &[u8; 32]) -> NodeKey {
    NodeKey(SigningKey::from_bytes(seed).verifying_key().to_bytes())
}

/// The n-th seed whose key may be a node's.
fn seed(n: u8) -> [u8; 32] {
    let seeds = (0..=255u8).map(|byte| [byte; 32]);
    let mut good = seeds.filter(|seed| derive(&key(seed)).is_some());
    good.nth(n.into()).unwrap()
}

fn full() -> Record {
    let at = |n: u8, port| SocketAddr::new([198, 51, 100, n].into(), port);
    let v6 = |n: u16| SocketAddr::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, n].into(), 51860);
    Record {
        network: "open".to_owned(),
        key: key(&seed(0)),
        sequence: NOW * 1000,
        signed: NOW,
        anchors: (1..=3)
            .map(|n| Contact {
                key: key(&seed(n)),
                at: at(n, 51861),
                carrier: if n == 1 { Carrier::Tcp } else { Carrier::Quic },
            })
            .collect(),
        endpoints: (1..=4)
            .map(|n| at(n, 51860))
            .chain((1..=4).map(v6))
            .collect(),
    }
}

fn verify(bytes: &[u8]) -> Result<Record, RecordError> {
    Record::verify(bytes, "open", derive, NOW).map(|(record, _)| record)
}

#[test]
fn a_record_is_read_back_and_is_small() {
    let record = full();
    let bytes = record.sign(&seed(0)).unwrap();
    assert_eq!(verify(&bytes), Ok(record));
    assert!(bytes.len() <= 400, "{} bytes", bytes.len());
}

#[test]
fn whoever_signs_for_somebody_else_is_not_believed() {
    let bytes = full().sign(&seed(1)).unwrap();
    assert_eq!(verify(&bytes), Err(RecordError::Signature));
    let no_node = (0..=255u8).map(|byte| [byte; 32]);
    let no_node = no_node
        .into_iter()
        .find(|seed| derive(&key(seed)).is_none());
    let no_node = no_node.unwrap();
    let record = Record {
        key: key(&no_node),
        ..full()
    };
    let bytes = record.sign(&no_node).unwrap();
    assert_eq!(verify(&bytes), Err(RecordError::Prefix));
}

#[test]
fn what_is_old_foreign_or_of_the_future_is_not_believed() {
    let bytes = full().sign(&seed(0)).unwrap();
    let at = |now| Record::verify(&bytes, "open", derive, now).map(|_| ());
    assert_eq!(at(NOW + TTL.as_secs()), Ok(()));
    assert_eq!(at(NOW + TTL.as_secs() + 1), Err(RecordError::Stale));
    assert_eq!(at(NOW - 600), Ok(()));
    assert_eq!(at(NOW - 601), Err(RecordError::Stale));
    let other = Record::verify(&bytes, "other", derive, NOW).map(|_| ());
    assert_eq!(other, Err(RecordError::Foreign));
}

#[test]
fn no_byte_can_be_changed_and_none_cut_off_or_added() {
    let bytes = full().sign(&seed(0)).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            assert!(verify(&changed).is_err(), "byte {at}, bit {bit}");
        }
        assert!(verify(&bytes[..at]).is_err(), "{at} bytes");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(verify(&longer), Err(RecordError::Length));
    let oversized = vec![1; MAX_LEN + 1];
    assert_eq!(verify(&oversized), Err(RecordError::TooLong));
}

#[test]
fn what_no_node_would_write_cannot_be_signed() {
    let with = |change: &dyn Fn(&mut Record)| {
        let mut record = full();
        change(&mut record);
        record.sign(&seed(0)).unwrap_err()
    };
    let twice = with(&|record| record.endpoints[1] = record.endpoints[0]);
    assert_eq!(twice, RecordError::NotCanonical);
    let nine = with(&|record| {
        record.endpoints.push(([198, 51, 100, 99], 51860).into());
    });
    assert_eq!(nine, RecordError::NotCanonical);
    let four = with(&|record| {
        let other = Contact {
            carrier: Carrier::Quic,
            ..record.anchors[0]
        };
        record.anchors.push(other);
    });
    assert_eq!(four, RecordError::NotCanonical);
    for name in [
        "",
        "Open",
        "a/b",
        "a\n",
        "a-name-that-is-longer-than-any-has",
    ] {
        let named = with(&|record| record.network = name.to_owned());
        assert_eq!(named, RecordError::NotCanonical, "{name:?}");
    }
    for address in [
        "10.0.0.1:1",
        "127.0.0.1:1",
        "[fe80::1]:1",
        "[::]:1",
        "1.2.3.4:0",
    ] {
        let private = with(&|record| record.endpoints[0] = address.parse().unwrap());
        assert_eq!(private, RecordError::Address, "{address}");
    }
}

#[test]
fn the_place_of_a_record_depends_on_network_and_prefix() {
    let places = [
        place("open", &[6, 0, 0, 0, 0, 0, 0, 1]),
        place("open", &[6, 0, 0, 0, 0, 0, 0, 2]),
        place("opem", &[6, 0, 0, 0, 0, 0, 0, 1]),
    ];
    assert!(places[0] != places[1] && places[0] != places[2]);
}

/// Writes the corpus anew: `CORPUS=1 cargo test -p discovery --test records`.
fn write_corpus(directory: &Path) {
    let record = full();
    let bytes = record.sign(&seed(0)).unwrap();
    let without = |change: &dyn Fn(&mut Record)| {
        let mut record = full();
        change(&mut record);
        record.sign(&seed(0)).unwrap()
    };
    let mut entries = vec![
        bytes.clone(),
        without(&|record| record.anchors.clear()),
        without(&|record| record.endpoints.clear()),
        without(&|record| {
            record.endpoints.clear();
            record.anchors.clear();
        }),
        without(&|record| record.endpoints.truncate(1)),
        without(&|record| record.network = "x".repeat(32)),
        without(&|record| record.sequence = u64::MAX),
        full().sign(&seed(1)).unwrap(),
        bytes[..100].to_vec(),
        [&bytes[..], &[0; 8]].concat(),
        vec![1; 1025],
        Vec::new(),
        Whereabouts::default().encode(),
    ];
    let said = Whereabouts {
        port: 51860,
        endpoints: record.endpoints,
    };
    entries.push(said.encode());
    entries.push(said.encode()[..30].to_vec());
    entries.push([&said.encode()[..], b"later"].concat());
    for (n, entry) in entries.iter().enumerate() {
        fs::write(directory.join(format!("{n:02}")), entry).unwrap();
    }
}

#[test]
fn the_corpus_is_read_again() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/records");
    if std::env::var_os("CORPUS").is_some() {
        write_corpus(&directory);
    }
    let files = fs::read_dir(directory).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 16, "{} entries", files.len());
    for file in files {
        let bytes = fs::read(&file).unwrap();
        records::read(&bytes);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] = changed[at].wrapping_add(41);
            records::read(&changed);
        }
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let v4 = (11..100u8, any::<[u8; 3]>(), 1..=u16::MAX)
        .prop_filter("public", |(first, [second, ..], _)| {
            *first != 100 || second & 0xc0 != 64
        })
        .prop_map(|(first, [b, c, d], port)| ([first, b, c, d], port).into());
    let v6 = (any::<[u16; 7]>(), 1..=u16::MAX)
        .prop_map(|([b, c, d, e, f, g, h], port)| ([0x2001, b, c, d, e, f, g, h], port).into());
    prop_oneof![v4, v6]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_record_is_read_back(
        network in "[a-z0-9-]{1,32}",
        sequence: u64,
        endpoints in prop::collection::btree_set(address(), 0..=8),
        anchors in prop::collection::btree_set(address(), 0..=3),
    ) {
        let record = Record {
            network: network.clone(),
            key: key(&seed(0)),
            sequence,
            signed: NOW,
            anchors: anchors
                .into_iter()
                .map(|at| Contact { key: key(&seed(2)), at, carrier: Carrier::Quic })
                .collect(),
            endpoints: endpoints.into_iter().collect(),
        };
        let bytes = record.sign(&seed(0)).unwrap();
        prop_assert!(bytes.len() <= MAX_LEN);
        let read = Record::verify(&bytes, &network, derive, NOW).unwrap();
        prop_assert_eq!(read.0, record);
        records::read(&bytes);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..1100)) {
        records::read(&bytes);
    }
}
