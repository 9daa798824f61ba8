//! Identities for tests: seeds mined once and committed, since mining one takes seconds.

use std::fs;
use std::net::Ipv6Addr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2s256, Digest as _};
use ed25519_dalek::SigningKey;
use ipnetwork::Ipv6Network;

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

    /// The libp2p PeerId, in base58.
    pub fn peer_id(&self) -> String {
        let head = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
        let key = self.signing_key().verifying_key().to_bytes();
        bs58::encode([&head[..], &key].concat()).into_string()
    }

    /// The key that the seed is.
    pub(crate) fn signing_key(&self) -> SigningKey {
        let mut seed = [0; 32];
        for (byte, digits) in seed.iter_mut().zip(self.seed.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).expect("hexadecimal digits are ASCII");
            *byte = u8::from_str_radix(digits, 16).expect("the seed is hexadecimal");
        }
        SigningKey::from_bytes(&seed)
    }

    /// The WireGuard private key, base64, for a stock program that is to act as this node.
    pub fn private_key(&self) -> String {
        STANDARD.encode(self.signing_key().to_scalar_bytes())
    }

    /// The node's /64.
    pub fn prefix(&self) -> Ipv6Network {
        self.part(64)
    }

    /// The first part of the node's /64 of that length, from 64 to 128.
    pub fn part(&self, length: u8) -> Ipv6Network {
        let [a, b, c, d, ..] = self.address.segments();
        Ipv6Network::new([a, b, c, d, 0, 0, 0, 0].into(), length).expect("a length of up to 128")
    }

    /// The node's link-local address inside its sessions.
    pub fn link_local(&self) -> Ipv6Addr {
        let mut octets = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).octets();
        octets[8..].copy_from_slice(&self.hash("meshd link-local v1"));
        octets.into()
    }

    /// The router-id of the node, by which it originates routes.
    pub fn router_id(&self) -> [u8; 8] {
        self.hash("meshd router-id v1")
    }

    /// What docs/protocol.md derives from the public key by way of a tag.
    fn hash(&self, tag: &str) -> [u8; 8] {
        let key = STANDARD
            .decode(&self.public_key)
            .expect("the key is base64");
        let hash = Blake2s256::new()
            .chain_update(tag)
            .chain_update(key)
            .finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        first
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

    /// The first identity of the pool is the first of the test vectors in docs/protocol.md.
    #[test]
    fn the_views_of_a_key_are_those_of_the_protocol() {
        let identity = Identity::from_pool(0);
        assert_eq!(
            identity.link_local().to_string(),
            "fe80::2743:8fc2:586:61aa"
        );
        assert_eq!(
            identity.router_id(),
            0x15d3_166e_b4ba_2948_u64.to_be_bytes()
        );
        assert_eq!(identity.prefix().to_string(), "664:6008:a954:afec::/64");
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
