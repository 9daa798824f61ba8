//! Cryptokey routing against a list that is searched naively, and prefixes of the device's peers.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic"
)]

mod common;

use std::net::Ipv6Addr;

use common::*;
use ipnetwork::Ipv6Network;
use proptest::prelude::*;
use wireguard::{AddPeerError, AllowedIps};

/// Few distinct addresses, so that prefixes nest and repeat.
fn address() -> impl Strategy<Value = Ipv6Addr> {
    (0..4_u16, 0..4_u16, 0..4_u16)
        .prop_map(|(a, b, c)| Ipv6Addr::new(0x600 | a, b << 14, 0, 0, 0, 0, 0, c))
}

fn prefix() -> impl Strategy<Value = Ipv6Network> {
    (
        address(),
        prop_oneof![0..=128_u8, Just(16), Just(64), Just(128)],
    )
        .prop_map(|(address, length)| Ipv6Network::new(address, length).unwrap())
}

fn network(prefix: Ipv6Network) -> (Ipv6Addr, u8) {
    (prefix.network(), prefix.prefix())
}

proptest! {
    #[test]
    fn look_up_agrees_with_a_naive_search(
        inserted in proptest::collection::vec((prefix(), 0..5_u32), 0..40),
        removed in proptest::collection::vec(prefix(), 0..10),
        asked in proptest::collection::vec(address(), 1..20),
    ) {
        let (mut table, mut model) = (AllowedIps::default(), Vec::<(Ipv6Network, u32)>::new());
        for (prefix, owner) in inserted {
            let present = model.iter().find(|(other, _)| network(*other) == network(prefix)).map(|&(_, owner)| owner);
            prop_assert_eq!(table.owner(prefix), present);
            match table.insert(prefix, owner) {
                Ok(()) => prop_assert!(present.is_none() || present == Some(owner)),
                Err(other) => prop_assert!(present == Some(other) && other != owner),
            }
            if present.is_none() {
                model.push((prefix, owner));
            }
        }
        for prefix in removed {
            table.remove(prefix);
            model.retain(|(other, _)| network(*other) != network(prefix));
        }
        for address in asked {
            let best = model.iter().filter(|(prefix, _)| prefix.contains(address)).max_by_key(|(prefix, _)| prefix.prefix());
            prop_assert_eq!(table.lookup(address), best.map(|&(_, owner)| owner));
        }
    }
}

both_engines! {
    fn the_longest_prefix_owns_an_address(engine: Engine) {
        let mut lab = Lab::new(engine, 3);
        let mut wide = peer(1);
        wide.allowed = vec!["600::/8".parse().unwrap()];
        lab.add(0, wide);
        lab.add(0, peer(2));
        let device = &lab.nodes[0].device;
        assert_eq!(device.owner(overlay(2)).unwrap().key(), &public(2));
        assert_eq!(device.owner(overlay(7)).unwrap().key(), &public(1));
        assert!(device.owner("2001:db8::1".parse().unwrap()).is_none());
    }

    fn two_peers_never_own_one_prefix(engine: Engine) {
        let mut lab = Lab::new(engine, 3);
        lab.add(0, peer(1));
        let mut thief = peer(2);
        thief.allowed = vec!["600:5::/64".parse().unwrap(), "600:1::42/64".parse().unwrap()];
        let taken = AddPeerError::PrefixTaken { prefix: "600:1::42/64".parse().unwrap(), owner: public(1) };
        assert_eq!(lab.nodes[0].device.add_peer(thief.clone(), lab.now).unwrap_err(), taken);
        assert!(lab.nodes[0].device.session(&public(2)).is_none());
        assert!(lab.nodes[0].device.owner("600:5::1".parse().unwrap()).is_none(), "nothing was taken over");

        lab.add(0, peer(2));
        assert_eq!(lab.nodes[0].device.update_peer(thief.clone(), lab.now), Err(taken));
        assert_eq!(lab.nodes[0].device.owner(overlay(2)).unwrap().key(), &public(2), "nothing has changed");
        assert_eq!(lab.nodes[0].device.add_peer(peer(2), lab.now).unwrap_err(), AddPeerError::Exists);

        lab.nodes[0].device.remove_peer(&public(1));
        assert_eq!(lab.nodes[0].device.update_peer(thief, lab.now), Ok(()));
        assert_eq!(lab.nodes[0].device.owner(overlay(1)).unwrap().key(), &public(2));
        assert!(lab.nodes[0].device.owner(overlay(2)).is_none());
    }
}
