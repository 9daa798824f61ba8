//! The identity of a node: one Ed25519 seed and everything that follows from it.
//!
//! [`NodeId`] holds what any other node may know of a node, each view derived from its public key and checked;
//! [`Identity`] adds the secret of our own. `docs/protocol.md` specifies the derivation and publishes test vectors.

use std::fmt;
use std::net::Ipv6Addr;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use blake2::{Blake2s256, Digest};
use curve25519_dalek::MontgomeryPoint;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::clamp_integer;
use ed25519_dalek::SigningKey;
use ed25519_dalek::hazmat::ExpandedSecretKey;
use ipnetwork::Ipv6Network;
use names::Derivation;
use wireguard::{KeyError, PrivateKey, PublicKey};
use zeroize::Zeroizing;

/// First byte of every overlay address: the overlay block is `0600::/8`.
const OVERLAY_BYTE: u8 = 0x06;
/// Length of a node's prefix, in bits.
const PREFIX_LEN: u8 = 64;
/// Leading zero bits that the address hash must show. The price is paid once, at key generation; forging somebody's
/// address costs this many times more than the 56 bits that remain in the prefix.
const WORK_BITS: u32 = 16;
/// What precedes the 32 bytes of an Ed25519 public key in a libp2p PeerId: identity multihash (0x00), its length (36),
/// then the protobuf of the key: field 1 (type) = 1 (Ed25519), field 2 (data), 32 bytes.
const PEER_ID_HEAD: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
/// Seeds drawn from the system's generator at once while mining.
const SEEDS_PER_DRAW: usize = 64;
/// How often [`Identity::mine`] reports.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// The block that holds every overlay address, `0600::/8`.
#[must_use]
pub fn overlay() -> Ipv6Network {
    network(
        Ipv6Addr::new(u16::from(OVERLAY_BYTE) << 8, 0, 0, 0, 0, 0, 0, 0),
        8,
    )
}

/// Whether an address lies in the overlay block.
#[must_use]
pub fn is_overlay(address: Ipv6Addr) -> bool {
    overlay().contains(address)
}

/// The prefix that a WireGuard public key owns; an error if no node may have that key.
pub fn prefix_of(key: &PublicKey) -> Result<Ipv6Network, AddressError> {
    NodeId::from_public_key(key).map(|node| node.prefix())
}

/// The address in `prefix` that a node gives a stock device that asked for none: it follows from the device's key, so
/// that it is the same after the device was removed and added again. The upper bit of the interface identifier is set,
/// which keeps it apart from `::1` and from small identifiers chosen by hand.
#[must_use]
pub fn leaf_address(prefix: Ipv6Network, device: &PublicKey) -> Ipv6Addr {
    let identifier =
        u64::from_be_bytes(first_eight(&tagged_hash("meshd leaf address v1", device))) | 1 << 63;
    let prefix = prefix.network().to_bits() >> 64 << 64;
    Ipv6Addr::from_bits(prefix | u128::from(identifier))
}

/// The address in `prefix` of the workload with this name, a DNS label: whoever knows a node's prefix knows where its workloads are. The
/// upper bits of the interface identifier are 01, which keeps it apart from leaves ([`leaf_address`]) and from small identifiers, among
/// them those of the node and of its services.
#[must_use]
pub fn workload_address(prefix: Ipv6Network, name: &str) -> Ipv6Addr {
    let hash = Blake2s256::new()
        .chain_update("meshd workload v1")
        .chain_update(name)
        .finalize()
        .into();
    let identifier = u64::from_be_bytes(first_eight(&hash)) & !(1 << 63) | 1 << 62;
    let prefix = prefix.network().to_bits() >> 64 << 64;
    Ipv6Addr::from_bits(prefix | u128::from(identifier))
}

/// The address in `prefix` at which the node that owns it answers questions for names, `::53`. No workload or device has it.
#[must_use]
pub fn resolver_address(prefix: Ipv6Network) -> Ipv6Addr {
    Ipv6Addr::from_bits(prefix.network().to_bits() >> 64 << 64 | 0x53)
}

/// How addresses follow from keys and names, for a directory of names.
pub const DERIVATION: Derivation = Derivation {
    node: |key| prefix_of(&PublicKey::from_bytes(*key).ok()?).ok(),
    workload: workload_address,
};

/// Why a key or a PeerId cannot belong to a node. A key refused here must not get a session, a route or a table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The WireGuard key is not a canonical field element, has its top bit set, or is of low order.
    #[error("unusable WireGuard key")]
    Key(#[source] KeyError),
    /// The bytes of the Ed25519 key encode no point, or encode one in a second way (y >= p).
    #[error("not a canonical Ed25519 public key")]
    NotCanonical,
    /// The WireGuard key is on the twist: no Ed25519 key corresponds to it.
    #[error("no Ed25519 key corresponds to the WireGuard key")]
    Twist,
    /// The Ed25519 key has its sign bit set: another key with the same WireGuard key exists.
    #[error("the sign bit of the Ed25519 key is set")]
    Sign,
    /// The key lies in the small subgroup: everybody knows its secret.
    #[error("the key is of small order")]
    SmallOrder,
    /// The key has a component in the small subgroup, so that several keys answer to one secret.
    #[error("the key has a torsion component")]
    Torsion,
    /// The hash of the key does not begin with the zero bits that a mined key shows.
    #[error(
        "the key was not mined for an address (its hash lacks the {WORK_BITS} leading zero bits)"
    )]
    Work,
    /// The text is not a PeerId of an Ed25519 key in base58.
    #[error("not the PeerId of an Ed25519 key (12D3KooW...)")]
    PeerId,
}

/// A node's public identity: an Ed25519 public key that passed every check, with its WireGuard key and prefix.
///
/// Displays and parses as the libp2p PeerId.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    ed25519: [u8; 32],
    wireguard: PublicKey,
    prefix: u64,
}

impl NodeId {
    /// The node with this WireGuard key. The cheap check of the work comes first: a stranger's key costs one hash.
    pub fn from_public_key(key: &PublicKey) -> Result<Self, AddressError> {
        let prefix = mined_prefix(key)?;
        let point = MontgomeryPoint(*key.as_bytes())
            .to_edwards(0)
            .ok_or(AddressError::Twist)?;
        check_subgroup(&point)?;
        Ok(Self {
            ed25519: point.compress().to_bytes(),
            wireguard: *key,
            prefix,
        })
    }

    /// The node with this Ed25519 public key.
    pub fn from_ed25519(bytes: [u8; 32]) -> Result<Self, AddressError> {
        let point = checked_point(bytes)?;
        let wireguard =
            PublicKey::from_bytes(point.to_montgomery().to_bytes()).map_err(AddressError::Key)?;
        Ok(Self {
            ed25519: bytes,
            wireguard,
            prefix: mined_prefix(&wireguard)?,
        })
    }

    /// The Ed25519 public key.
    #[must_use]
    pub fn ed25519(&self) -> &[u8; 32] {
        &self.ed25519
    }

    /// The libp2p PeerId in base58: the identity multihash of the key's protobuf encoding.
    #[must_use]
    pub fn peer_id(&self) -> String {
        bs58::encode([&PEER_ID_HEAD[..], &self.ed25519].concat()).into_string()
    }

    /// The WireGuard public key: the Montgomery form of the Ed25519 key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.wireguard
    }

    /// The `/64` that the node owns.
    #[must_use]
    pub fn prefix(&self) -> Ipv6Network {
        network(
            Ipv6Addr::from_bits(u128::from(self.prefix) << 64),
            PREFIX_LEN,
        )
    }

    /// The node's own address, `::1` in its prefix.
    #[must_use]
    pub fn address(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::from(self.prefix) << 64 | 1)
    }

    /// The Babel router-id (RFC 8966 §2.1).
    #[must_use]
    pub fn router_id(&self) -> [u8; 8] {
        first_eight(&tagged_hash("meshd router-id v1", &self.wireguard))
    }

    /// The link-local address from which the node speaks Babel inside its links.
    #[must_use]
    pub fn link_local(&self) -> Ipv6Addr {
        let identifier = u64::from_be_bytes(first_eight(&tagged_hash(
            "meshd link-local v1",
            &self.wireguard,
        )));
        Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(identifier))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peer_id())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

impl FromStr for NodeId {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let mut bytes = [0; PEER_ID_HEAD.len() + 32];
        if bs58::decode(text).onto(&mut bytes[..]) != Ok(bytes.len()) {
            return Err(AddressError::PeerId);
        }
        let Some(key) = bytes.strip_prefix(&PEER_ID_HEAD) else {
            return Err(AddressError::PeerId);
        };
        let key = key.try_into().map_err(|_| AddressError::PeerId)?;
        Self::from_ed25519(key)
    }
}

/// Our own identity. `Debug` shows the public half only; the seed is erased on drop.
#[derive(Clone)]
pub struct Identity {
    seed: Zeroizing<[u8; 32]>,
    private: PrivateKey,
    node: NodeId,
}

impl Identity {
    /// The identity of a seed; an error for the seeds whose key earns no address (all but one in 131,072).
    pub fn from_seed(seed: Zeroizing<[u8; 32]>) -> Result<Self, AddressError> {
        let node = NodeId::from_ed25519(public_half(&seed))?;
        Ok(Self {
            private: PrivateKey::from_bytes(*scalar(&seed)),
            node,
            seed,
        })
    }

    /// The identity of a seed written as 64 hexadecimal digits, as in `node.key`.
    pub fn from_hex(text: &str) -> Result<Self, SeedError> {
        if text.len() != 64 {
            return Err(SeedError::Format);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(SeedError::Format);
        let mut seed = Zeroizing::new([0; 32]);
        for (byte, pair) in seed.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
            let value = digit(pair[0])? << 4 | digit(pair[1])?;
            *byte = u8::try_from(value).map_err(|_| SeedError::Format)?;
        }
        Ok(Self::from_seed(seed)?)
    }

    /// Tries random seeds on `threads` threads until one earns an address: 131,072 tries on average, a second or three
    /// of one core. `progress` hears of it five times a second and may cancel.
    pub fn mine(
        threads: NonZeroUsize,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Self, MineError> {
        let start = Instant::now();
        let tries = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (found, finds) = mpsc::sync_channel(threads.get());
            for _ in 0..threads.get() {
                let found = found.clone();
                let (tries, stop) = (&tries, &stop);
                scope.spawn(move || {
                    if let Some(result) = search(tries, stop) {
                        // Fails only when the search is over already.
                        let _ = found.send(result);
                    }
                });
            }
            drop(found);
            let result = loop {
                match finds.recv_timeout(PROGRESS_INTERVAL) {
                    Ok(result) => break result,
                    Err(RecvTimeoutError::Timeout) => {
                        let now = Progress {
                            tries: tries.load(Ordering::Relaxed),
                            elapsed: start.elapsed(),
                        };
                        if progress(now).is_break() {
                            break Err(MineError::Cancelled);
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => break Err(MineError::Cancelled),
                }
            };
            stop.store(true, Ordering::Relaxed);
            result
        })
    }

    /// The public half: PeerId, WireGuard key, prefix, addresses.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The WireGuard private key: the X25519 scalar of the seed, clamped.
    #[must_use]
    pub fn private_key(&self) -> &PrivateKey {
        &self.private
    }

    /// The seed. Secret: origin records are signed with it, and their chains begin with it.
    #[must_use]
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The seed as 64 hexadecimal digits. Secret: it goes into `node.key` or to a person who asked, nowhere else.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        // Sized at once, so that no half-filled copy of the secret is left behind by a reallocation.
        let mut text = Zeroizing::new(String::with_capacity(64));
        for nibble in self.seed.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
            text.extend(char::from_digit(u32::from(nibble), 16));
        }
        text
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Why a text is not the seed of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// Not 64 hexadecimal digits.
    #[error("not 64 hexadecimal digits")]
    Format,
    /// A seed, but its key earns no address.
    #[error("the key cannot have an address")]
    Address(#[from] AddressError),
}

/// How far [`Identity::mine`] is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Seeds tried so far, by all threads.
    pub tries: u64,
    /// Time since the start.
    pub elapsed: Duration,
}

impl Progress {
    /// Tries a second, so far.
    #[must_use]
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let tries = self.tries as f64;
        tries / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

/// Why mining ended without an identity.
#[derive(Debug, thiserror::Error)]
pub enum MineError {
    /// `progress` asked for it.
    #[error("cancelled")]
    Cancelled,
    /// The system's random generator failed.
    #[error("the system gives no random numbers")]
    Random(#[source] getrandom::Error),
}

/// Tries seeds until one earns an address (`Some(Ok)`), or `stop` is set (`None`).
fn search(tries: &AtomicU64, stop: &AtomicBool) -> Option<Result<Identity, MineError>> {
    let mut draw = Zeroizing::new([0; 32 * SEEDS_PER_DRAW]);
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = getrandom::fill(draw.as_mut_slice()) {
            return Some(Err(MineError::Random(error)));
        }
        for seed in draw.as_chunks::<32>().0 {
            let point = EdwardsPoint::mul_base(&ExpandedSecretKey::from(seed).scalar);
            if !worked(&tagged_hash_of(
                ADDRESS_TAG,
                point.to_montgomery().as_bytes(),
            )) {
                continue;
            }
            // The sign bit, and every other check, is settled here, once in 65,536 tries.
            if let Ok(identity) = Identity::from_seed(Zeroizing::new(*seed)) {
                return Some(Ok(identity));
            }
        }
        tries.fetch_add(SEEDS_PER_DRAW as u64, Ordering::Relaxed);
    }
    None
}

/// Tag of the hash whose first bits are the work and whose next 56 are the prefix.
const ADDRESS_TAG: &str = "meshd address v1";

/// The prefix as its upper 64 bits, if the key shows the work.
fn mined_prefix(key: &PublicKey) -> Result<u64, AddressError> {
    let hash = tagged_hash(ADDRESS_TAG, key);
    if !worked(&hash) {
        return Err(AddressError::Work);
    }
    let mut prefix = [OVERLAY_BYTE; 8];
    prefix[1..].copy_from_slice(&hash[2..9]);
    Ok(u64::from_be_bytes(prefix))
}

/// Whether an address hash begins with enough zero bits.
fn worked(hash: &[u8; 32]) -> bool {
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]).leading_zeros() >= WORK_BITS
}

/// Decodes an Ed25519 public key and refuses every encoding that is not the only one for its node.
fn checked_point(bytes: [u8; 32]) -> Result<EdwardsPoint, AddressError> {
    if bytes[31] >> 7 != 0 {
        return Err(AddressError::Sign);
    }
    let point = CompressedEdwardsY(bytes)
        .decompress()
        .ok_or(AddressError::NotCanonical)?;
    if point.compress().to_bytes() != bytes {
        return Err(AddressError::NotCanonical);
    }
    check_subgroup(&point)?;
    Ok(point)
}

fn check_subgroup(point: &EdwardsPoint) -> Result<(), AddressError> {
    if point.is_small_order() {
        Err(AddressError::SmallOrder)
    } else if point.is_torsion_free() {
        Ok(())
    } else {
        Err(AddressError::Torsion)
    }
}

/// The Ed25519 public key of a seed (RFC 8032 §5.1.5).
fn public_half(seed: &[u8; 32]) -> [u8; 32] {
    SigningKey::from_bytes(seed).verifying_key().to_bytes()
}

/// The X25519 private key of a seed: the lower half of its SHA-512, clamped as RFC 7748 §5 says.
fn scalar(seed: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let half = Zeroizing::new(SigningKey::from_bytes(seed).to_scalar_bytes());
    Zeroizing::new(clamp_integer(*half))
}

fn tagged_hash(tag: &str, key: &PublicKey) -> [u8; 32] {
    tagged_hash_of(tag, key.as_bytes())
}

/// BLAKE2s-256 of the tag's bytes followed by the key's (RFC 7693, no key, no separator).
fn tagged_hash_of(tag: &str, key: &[u8; 32]) -> [u8; 32] {
    Blake2s256::new()
        .chain_update(tag)
        .chain_update(key)
        .finalize()
        .into()
}

fn first_eight(hash: &[u8; 32]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    [a, b, c, d, e, f, g, h]
}

fn network(address: Ipv6Addr, len: u8) -> Ipv6Network {
    Ipv6Network::new(address, len).expect("length is a constant of at most 128")
}

#[cfg(test)]
mod tests;
