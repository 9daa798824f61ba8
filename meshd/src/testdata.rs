//! Identities for tests, from the committed pool.

use crate::identity::Identity;

/// `<seed> <WireGuard public key> <overlay address>` a line, after a comment.
pub(crate) const POOL: &str = include_str!("../testdata/identities.txt");

/// The n-th identity of the pool.
pub(crate) fn identity(n: usize) -> Identity {
    let line = POOL
        .lines()
        .filter(|line| !line.starts_with('#'))
        .nth(n)
        .unwrap();
    Identity::from_hex(line.split(' ').next().unwrap()).unwrap()
}
