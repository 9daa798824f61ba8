//! Queries from anybody's hand.

use std::net::Ipv6Addr;

use ipnetwork::Ipv6Network;
use names::{Derivation, Directory, MAX_ANSWER, answer};

/// Prefixes of two nodes.
pub(crate) const PREFIXES: [Ipv6Network; 2] = [prefix(1), prefix(2)];

/// Of a mesh in which a key's first byte is its number, and a name's length that of a workload.
pub(crate) const DERIVATION: Derivation = Derivation {
    node: |key| (key[0] < 128).then(|| prefix(key[0].into())),
    workload: |prefix, name| Ipv6Addr::from_bits(prefix.network().to_bits() | name.len() as u128),
};

const fn prefix(n: u16) -> Ipv6Network {
    Ipv6Network::new_checked(Ipv6Addr::new(0x600, 0, 0, n, 0, 0, 0, 0), 64)
        .expect("64 bits are less than 128")
}

/// Two nodes, one of them with something inside.
pub(crate) fn directory() -> Directory {
    let mut directory = Directory::new("internal", "home", DERIVATION).expect("both are names");
    let at = |identifier: u128| Ipv6Addr::from_bits(PREFIXES[0].network().to_bits() | identifier);
    let inside = [("web", at(0x80)), ("phone", at(0x5555))];
    let inside = inside.map(|(name, address)| (name.to_owned(), address));
    directory.add_own("nas", PREFIXES[0], inside);
    directory.add_node("pi", PREFIXES[1]);
    directory
}

/// Whatever is asked, the answer is one: to this query, short enough, never to another answer, and not more than a few times as long.
pub(crate) fn ask(bytes: &[u8]) {
    let Ok(told) = answer(bytes, &directory()) else {
        assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0);
        return;
    };
    assert!((12..=MAX_ANSWER).contains(&told.len()));
    assert_eq!(told[..2], bytes[..2], "its identifier is the query's");
    assert_eq!(told[2] & 0x80, 0x80, "it is an answer");
    assert_eq!(
        told[2] & 0x78,
        bytes[2] & 0x78,
        "to the same kind of operation"
    );
    assert!(told.len() <= bytes.len() + 512, "it amplifies little");
}
