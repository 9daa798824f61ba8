//! Receiver indices on the wire: what they tell somebody who watches.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic"
)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::*;
use wireguard::constants::REKEY_AFTER_TIME;

fn index_at(message: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(*message[offset..].first_chunk().unwrap())
}

/// What is suspicious about a sequence of indices: how far any simple count is from what chance would give, in standard deviations.
fn suspicion(indices: &[u32]) -> f64 {
    let of_steps = |step: fn(u32, u32) -> u32| {
        let pairs = indices.windows(2).map(|pair| step(pair[0], pair[1]));
        pairs.collect::<Vec<u32>>()
    };
    let sequences = [
        indices.to_vec(),
        of_steps(|one, next| one ^ next),
        of_steps(|one, next| next.wrapping_sub(one)),
    ];
    let mut worst = 0_f64;
    for values in &sequences {
        let count = values.len() as f64;
        for bit in 0..32 {
            let set = values
                .iter()
                .filter(|value| **value >> bit & 1 == 1)
                .count() as f64;
            worst = worst.max((set - count / 2.0).abs() / (count / 4.0).sqrt());
        }
        // Pearson's test on each four bits: 15 degrees of freedom, so a variance of 30.
        for nibble in 0..8 {
            let mut counts = [0.0; 16];
            for value in values {
                counts[(value >> (4 * nibble) & 15) as usize] += 1.0;
            }
            let expected = count / 16.0;
            let squares = counts.map(|seen: f64| (seen - expected).powi(2) / expected);
            worst = worst.max((squares.iter().sum::<f64>() - 15.0) / 30_f64.sqrt());
        }
    }
    worst
}

/// There are some hundred counts, and the worst of them is hardly ever this far off by chance. Runs are seeded, so it is not.
const CHANCE: f64 = 7.0;

fn are_distinct(values: impl Iterator<Item = u32>) -> bool {
    let mut seen = BTreeSet::new();
    values.into_iter().all(|value| seen.insert(value))
}

#[test]
fn what_counts_up_is_suspicious() {
    let engine: Vec<u32> = (0..1000).map(|n| 0x5a17_c300 | n & 0xff).collect();
    assert!(suspicion(&engine) > 4.0 * CHANCE);
    let shuffled: Vec<u32> = engine
        .iter()
        .map(|index| index.wrapping_mul(0x9e37_79b9))
        .collect();
    assert!(suspicion(&shuffled) > 4.0 * CHANCE);
}

both_engines! {
    fn a_thousand_keypairs_of_one_pair_show_no_structure(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let mut given: [Vec<u32>; 2] = Default::default();
        for _ in 0..1000 {
            lab.sent.clear();
            lab.run(REKEY_AFTER_TIME);
            lab.send(0, 1).unwrap();
            lab.run(secs(1));
            lab.send(1, 0).unwrap();
            lab.run(secs(1));
            let initiation = index_at(&lab.last(0, 1), 4);
            let response = index_at(&lab.last(1, 2), 4);
            assert_eq!(index_at(&lab.last(1, 2), 8), initiation);
            assert_eq!(index_at(&lab.last(1, 4), 4), initiation, "data goes to the keypair of the last handshake");
            assert_eq!(index_at(&lab.last(0, 4), 4), response);
            given[0].push(initiation);
            given[1].push(response);
        }
        for given in given {
            assert!(are_distinct(given.iter().copied()));
            assert!(suspicion(&given) < CHANCE, "{}", suspicion(&given));
            let shared = 1000 - given.iter().map(|index| index >> 8).collect::<BTreeSet<_>>().len();
            assert!(shared <= 1, "{shared} share their upper 24 bits");
        }
        assert!(lab.nodes.iter().all(|node| node.refused.is_empty()));
    }

    fn indices_of_256_sessions_follow_no_order_and_never_repeat(engine: Engine) {
        let mut lab = Lab::new(engine, 1);
        for node in 1..=256 {
            let mut other = peer(node);
            other.endpoints = vec![at(underlay(250))];
            lab.add(0, other);
            lab.initiate(0, node);
        }
        lab.run(secs(60));
        let given: Vec<u32> = lab.sent.iter().map(|(_, _, sent)| index_at(sent, 4)).collect();
        assert!(given.len() >= 10 * 256);
        assert!(are_distinct(given.iter().copied()));
        assert!(suspicion(&given) < CHANCE, "{}", suspicion(&given));
        let first = &given[..256];
        assert!(suspicion(first) < CHANCE, "{}", suspicion(first));
    }

    fn a_restart_gives_other_indices(engine: Engine) {
        let mut seen = BTreeSet::new();
        for restart in 0..5 {
            let mut lab = Lab::new(engine, 2);
            lab.nodes[0].device = lab.restarted(engine, 0, 100 + restart);
            lab.add(0, peer(1));
            lab.add(1, peer(0));
            lab.initiate(0, 1);
            lab.run(secs(1));
            assert!(seen.insert(index_at(&lab.last(0, 1), 4)));
        }
    }

    fn no_keypair_seals_twice_with_one_counter(engine: Engine) {
        let mut lab = Lab::connected(engine);
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            for _ in 0..1000 {
                for (node, other) in [(0, 1), (1, 0)] {
                    let flight = lab.seal(node, other, &packet(overlay(node), 60)).unwrap();
                    let counter = u64::from_le_bytes(*flight.payload[8..].first_chunk().unwrap());
                    assert!(seen.insert((index_at(&flight.payload, 4), counter)));
                    lab.launch(node, flight);
                }
            }
            lab.run(REKEY_AFTER_TIME);
            lab.send(0, 1).unwrap();
            lab.run(secs(1));
        }
        let keypairs: BTreeSet<u32> = seen.iter().map(|(index, _)| *index).collect();
        assert_eq!(keypairs.len(), 8, "four for each direction");
        assert!(lab.nodes.iter().all(|node| node.refused.is_empty()));
    }

    fn an_index_leads_to_its_session_and_to_no_other(engine: Engine) {
        let mut lab = Lab::new(engine, 1);
        for node in 1..=100 {
            lab.add(0, peer(node));
            lab.initiate(0, node);
            let index = index_at(&lab.last(0, 1), 4);
            let found = lab.nodes[0].device.receiver(index).unwrap();
            assert_eq!(*found.key(), public(node));
            assert_eq!(found.indices().session(index), found.index());
        }
    }

    fn another_preshared_key_does_not_repeat_indices(engine: Engine) {
        let mut lab = Lab::pair(engine);
        let mut seen = BTreeSet::new();
        for secret in 0..20 {
            lab.initiate(0, 1);
            assert!(seen.insert(index_at(&lab.last(0, 1), 4)));
            let mut other = peer(1);
            other.preshared = Some(wireguard::PresharedKey::from_bytes([secret; 32]));
            lab.nodes[0].device.update_peer(other, lab.now).unwrap();
            lab.run(Duration::from_millis(10));
        }
    }
}
