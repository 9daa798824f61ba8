//! Identities for tests: seeds mined once and committed, since mining one takes seconds.

use std::fs;
use std::net::Ipv6Addr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;

/// Where the pool is, from the root of the workspace.
const POOL: &str = "meshd/testdata/identities.txt";

/// One node's key and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The Ed25519 seed as 64 hexadecimal digits: the content of `node.key`.
    pub seed: String,
    /// The WireGuard public key, base64.
    pub public_key: String,
    /// The node's own overlay address.
    pub address: Ipv6Addr,
}

impl Identity {
    /// The identity on line `number` of the pool, from 0.
    ///
    /// # Panics
    /// When the pool cannot be read or is too small.
    #[track_caller]
    pub fn from_pool(number: usize) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(POOL);
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|err| panic!("cannot read the identities in {POOL}: {err}"));
        let mut lines = text
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let line = lines
            .nth(number)
            .unwrap_or_else(|| panic!("{POOL} has no identity number {number}"));
        Self::parse(line).unwrap_or_else(|err| panic!("{POOL}, identity number {number}: {err}"))
    }

    /// Reads `<seed, 64 hexadecimal digits> <public key, base64> <address>`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[seed, public_key, address] = words.as_slice() else {
            return Err(format!("{} words instead of 3", words.len()));
        };
        if seed.len() != 64 || !seed.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("the seed is not 64 hexadecimal digits".into());
        }
        if public_key.len() != 44 {
            return Err("the public key is not 44 characters".into());
        }
        let address = address
            .parse()
            .map_err(|err| format!("address {address}: {err}"))?;
        Ok(Self {
            seed: seed.to_owned(),
            public_key: public_key.to_owned(),
            address,
        })
    }

    /// The WireGuard private key, base64, for a stock program that is to act as this node.
    pub fn private_key(&self) -> String {
        let mut seed = [0; 32];
        for (byte, digits) in seed.iter_mut().zip(self.seed.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).expect("hexadecimal digits are ASCII");
            *byte = u8::from_str_radix(digits, 16).expect("the seed is hexadecimal");
        }
        STANDARD.encode(SigningKey::from_bytes(&seed).to_scalar_bytes())
    }

    /// Another address of the node's /64, for a workload or a leaf: `n` in the last 16 bits.
    pub fn address_of(&self, n: u16) -> Ipv6Addr {
        let mut segments = self.address.segments();
        segments[4..].copy_from_slice(&[0, 0, 0, n]);
        segments.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_pool_is_a_seed_a_key_and_an_address() {
        let seed = "ab".repeat(32);
        let identity = Identity::parse(&format!(
            "{seed} AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE= 6a3:9c1e:77b0:1f42::1"
        ))
        .unwrap();
        assert_eq!(identity.seed, seed);
        assert_eq!(
            identity.address_of(0x5555).to_string(),
            "6a3:9c1e:77b0:1f42::5555"
        );
    }

    #[test]
    fn other_lines_are_refused() {
        for line in [
            "",
            "ab cd",
            "ab AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE= 6a3::1",
        ] {
            assert!(Identity::parse(line).is_err(), "{line}");
        }
    }
}
