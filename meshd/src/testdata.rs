//! Identities for tests, from the committed pool.

use crate::identity::Identity;

/// `<seed> <WireGuard public key> <overlay address>` a line, after a comment.
pub(crate) const POOL: &str = include_str!("../testdata/identities.txt");

/// The lines `name = value` of a block of docs/protocol.md, values in hexadecimal.
#[cfg(test)]
pub(crate) fn vectors(block: &str) -> Vec<(&'static str, Vec<u8>)> {
    const PROTOCOL: &str = include_str!("../../docs/protocol.md");
    let start = format!("```{block}\n");
    let text = PROTOCOL.split(&start).nth(1).unwrap();
    let lines = text.split("```").next().unwrap().lines();
    let bytes = |hex: &str| {
        let pairs = hex.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        pairs.map(byte).collect()
    };
    lines
        .map(|line| line.split_once(" = ").unwrap())
        .map(|(name, hex)| (name, bytes(hex)))
        .collect()
}

/// The n-th identity of the pool.
pub(crate) fn identity(n: usize) -> Identity {
    let line = POOL
        .lines()
        .filter(|line| !line.starts_with('#'))
        .nth(n)
        .expect("as many as the pool has");
    let (seed, _) = line.split_once(' ').expect("seed, key and address");
    Identity::from_hex(seed).expect("seeds of the pool are mined")
}
