//! Keys of nodes, networks and invites.

use std::{fmt, str::FromStr};

use blake2::{Blake2s256, Digest};
use ed25519_dalek::SigningKey;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// What precedes the network's public key where its id is computed.
const NETWORK: &[u8] = b"meshd network v1";
/// What precedes network id and seed where the key of an invite is computed.
const INVITE: &[u8] = b"meshd invite key v1";
/// The alphabet of RFC 4648 §6, in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A node, by its Ed25519 public key.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeKey(pub [u8; 32]);

/// A network: BLAKE2s-256 of `"meshd network v1"` and its Ed25519 public key, the first 16 bytes. Shown as 26 characters of base32 (RFC 4648
/// §6) in lower case, without padding, so that it may stand wherever the network `open` does.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NetworkId(pub [u8; 16]);

/// The secret of a network, which names its admins. Whoever has it owns the network.
#[derive(ZeroizeOnDrop)]
pub struct NetworkKey {
    signing: SigningKey,
}

/// The public half of an invite, by which records speak of it.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InviteKey(pub [u8; 32]);

/// The secret of an invite, which a ticket carries. Whoever has it may use the invite.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct InviteSeed(pub(crate) [u8; 16]);

/// With which secret an admin signs.
#[derive(Clone, Copy)]
pub enum Signer<'a> {
    /// The network's own.
    Network(&'a NetworkKey),
    /// The seed of a node that is an admin.
    Node(&'a [u8; 32]),
}

/// Why a text is no key or id.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// Not 26 characters of base32.
    #[error("not the id of a network: 26 characters of a-z and 2-7")]
    NetworkId,
    /// Not 64 hexadecimal digits.
    #[error("not a network key: 64 hexadecimal digits")]
    NetworkKey,
}

impl NodeKey {
    /// The node whose seed this is.
    #[must_use]
    pub fn of_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed).verifying_key().to_bytes())
    }
}

impl NetworkId {
    /// The network of a public key.
    #[must_use]
    pub fn of_key(public: &[u8; 32]) -> Self {
        let hash: [u8; 32] = Blake2s256::new()
            .chain_update(NETWORK)
            .chain_update(public)
            .finalize()
            .into();
        Self(first(&hash))
    }
}

impl NetworkKey {
    /// The key of 32 random bytes.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self {
            signing: SigningKey::from_bytes(seed),
        }
    }

    /// The seed. Secret.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.signing.to_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    /// The network that it is the key of.
    #[must_use]
    pub fn id(&self) -> NetworkId {
        NetworkId::of_key(&self.public())
    }

    /// The seed as 64 hexadecimal digits. Secret: for its file and for a person who asked.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        let seed = self.seed();
        let mut text = Zeroizing::new(String::with_capacity(64));
        for nibble in seed.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
            text.extend(char::from_digit(u32::from(nibble), 16));
        }
        text
    }

    /// Reads [`Self::to_hex`], in either case.
    ///
    /// # Errors
    /// [`KeyError::NetworkKey`].
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != seed.len() || !rest.is_empty() {
            return Err(KeyError::NetworkKey);
        }
        for (byte, pair) in seed.iter_mut().zip(pairs) {
            for digit in pair {
                let digit = char::from(*digit).to_digit(16);
                let digit = digit.and_then(|digit| u8::try_from(digit).ok());
                *byte = *byte << 4 | digit.ok_or(KeyError::NetworkKey)?;
            }
        }
        Ok(Self::from_seed(&seed))
    }
}

impl InviteSeed {
    /// The seed of 16 random bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The public half of the invite in a network.
    #[must_use]
    pub fn key(&self, network: &NetworkId) -> InviteKey {
        InviteKey(self.signing(network).verifying_key().to_bytes())
    }

    /// The secret half of the invite in a network: one seed is another invite in another network.
    pub(crate) fn signing(&self, network: &NetworkId) -> SigningKey {
        let seed: Zeroizing<[u8; 32]> = Zeroizing::new(
            Blake2s256::new()
                .chain_update(INVITE)
                .chain_update(network.0)
                .chain_update(self.0)
                .finalize()
                .into(),
        );
        SigningKey::from_bytes(&seed)
    }
}

impl Signer<'_> {
    /// The public half of what signs.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        match self {
            Self::Network(key) => key.public(),
            Self::Node(seed) => NodeKey::of_seed(seed).0,
        }
    }

    pub(crate) fn signing(&self) -> SigningKey {
        match self {
            Self::Network(key) => key.signing.clone(),
            Self::Node(seed) => SigningKey::from_bytes(seed),
        }
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_base32(&self.0))
    }
}

impl FromStr for NetworkId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = from_base32(text).ok_or(KeyError::NetworkId)?;
        let id = bytes.as_slice().try_into();
        id.map(Self).map_err(|_| KeyError::NetworkId)
    }
}

/// Base32 in lower case, without padding.
pub(crate) fn to_base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut held, mut bits) = (0u32, 0);
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(BASE32[(held >> bits & 31) as usize]));
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(BASE32[(held << (5 - bits) & 31) as usize]));
    }
    text
}

/// Reads [`to_base32`], in either case; nothing if the bytes have another text.
pub(crate) fn from_base32(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() * 5 / 8));
    let (mut held, mut bits) = (0u32, 0);
    for character in text.bytes() {
        let value = match character {
            b'a'..=b'z' => character - b'a',
            b'A'..=b'Z' => character - b'A',
            b'2'..=b'7' => character - b'2' + 26,
            _ => return None,
        };
        held = held << 5 | u32::from(value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    (bits < 5 && held == 0).then_some(bytes)
}

/// The first bytes of a hash.
pub(crate) fn first<const N: usize>(hash: &[u8; 32]) -> [u8; N] {
    const { assert!(N <= 32) };
    let mut bytes = [0; N];
    bytes.copy_from_slice(&hash[..N]);
    bytes
}

fn write_hex(f: &mut fmt::Formatter<'_>, name: &str, bytes: &[u8]) -> fmt::Result {
    write!(f, "{name}(")?;
    for byte in bytes {
        write!(f, "{byte:02x}")?;
    }
    f.write_str(")")
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, "NodeKey", &self.0)
    }
}

impl fmt::Debug for InviteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, "InviteKey", &self.0)
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkId({self})")
    }
}

impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkKey(of {})", self.id())
    }
}

impl fmt::Debug for InviteSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteSeed")
    }
}

impl fmt::Debug for Signer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network(_) => "Signer::Network",
            Self::Node(_) => "Signer::Node",
        })
    }
}
