//! Origin records: what an origin signs once an epoch.

use std::sync::Arc;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::chain::{ANCHOR_LEN, Anchor, Chain, Scale};
use crate::types::{RouterId, Seqno};

/// The version of the records made here. Records of another version are not understood at all.
const VERSION: u8 = 1;
/// What is signed begins with this, so that no other signature of the key is one of a record: the purpose and its version. The
/// network's id follows, after its length.
const DOMAIN: &[u8] = b"meshd origin record v1";

const KEY_LEN: usize = 32;
const SIGNATURE_LEN: usize = 64;

/// The network that records are signed for: those of one are none in another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network(Arc<str>);

impl Network {
    /// Longest id of a network, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The network with this id; nothing if it is empty or longer than [`Self::MAX_LEN`].
    pub fn new(id: &str) -> Option<Self> {
        (1..=Self::MAX_LEN)
            .contains(&id.len())
            .then(|| Self(id.into()))
    }
}

impl Default for Network {
    /// The one of everybody who is in no other: `open`.
    fn default() -> Self {
        Self("open".into())
    }
}

/// A signed origin record, one per epoch: binds the ends of the epoch's chains to a key. Decoding one says nothing about its
/// signature; [`super::Job::run`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub(super) flags: u16,
    pub(super) router_id: RouterId,
    pub(super) key: [u8; KEY_LEN],
    pub(super) epoch: u32,
    pub(super) base: Seqno,
    pub(super) scale: Scale,
    pub(super) anchors: Vec<Anchor>,
    /// What a later release put between the anchors and the signature.
    pub(super) later: Vec<u8>,
    pub(super) signature: [u8; SIGNATURE_LEN],
}

impl Record {
    /// Most seqnos in an epoch: so many anchors fit into one TLV.
    pub const MAX_SEQNOS: usize = 8;
    /// Longest record, in bytes: what a TLV can hold, less the head of our messages.
    pub const MAX_LEN: usize = 253;

    /// A record in the layout of this release, signed.
    pub(super) fn sign(
        signing: &SigningKey,
        network: &Network,
        router_id: RouterId,
        epoch: u32,
        base: Seqno,
        scale: Scale,
        anchors: Vec<Anchor>,
    ) -> Self {
        let mut record = Self {
            flags: 0,
            router_id,
            key: signing.verifying_key().to_bytes(),
            epoch,
            base,
            scale,
            anchors,
            later: Vec::new(),
            signature: [0; SIGNATURE_LEN],
        };
        record.signature = signing.sign(&record.signed(network)).to_bytes();
        record
    }

    /// Reads a record (`docs/protocol.md`).
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > Self::MAX_LEN {
            return Err(RecordError::Length);
        }
        let mut rest = bytes;
        let [version] = take(&mut rest)?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let [seqnos] = take(&mut rest)?;
        if !(1..=Self::MAX_SEQNOS).contains(&usize::from(seqnos)) {
            return Err(RecordError::Seqnos);
        }
        let flags = u16::from_be_bytes(take(&mut rest)?);
        let router_id = RouterId(take(&mut rest)?);
        if router_id.is_reserved() {
            return Err(RecordError::RouterId);
        }
        let key = take(&mut rest)?;
        let epoch = u32::from_be_bytes(take(&mut rest)?);
        if epoch == 0 {
            return Err(RecordError::Epoch);
        }
        let base = Seqno(u16::from_be_bytes(take(&mut rest)?));
        let [quantum, levels] = [take(&mut rest)?, take(&mut rest)?].map(u16::from_be_bytes);
        let scale = Scale::new(quantum, levels).ok_or(RecordError::Scale)?;
        let anchors = (0..seqnos)
            .map(|_| take::<ANCHOR_LEN>(&mut rest).map(Anchor))
            .collect::<Result<_, _>>()?;
        let (later, signature) = rest.split_last_chunk().ok_or(RecordError::Length)?;
        Ok(Self {
            flags,
            router_id,
            key,
            epoch,
            base,
            scale,
            anchors,
            later: later.to_vec(),
            signature: *signature,
        })
    }

    /// Writes it: the very bytes that it was read from.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.body();
        bytes.extend(self.signature);
        bytes
    }

    /// Who says it is theirs.
    pub fn router_id(&self) -> RouterId {
        self.router_id
    }

    /// The Ed25519 key that signed it, or that is said to have.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// Of which epoch it is, at least 1. An origin's epochs grow.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The first seqno of the epoch.
    pub fn base(&self) -> Seqno {
        self.base
    }

    /// How many seqnos the epoch has: 1 to [`Self::MAX_SEQNOS`].
    pub fn seqnos(&self) -> u16 {
        self.anchors.len() as u16
    }

    /// How its metrics become levels.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// What the origin says it is capable of. No bit has a meaning yet.
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// Which of the epoch's seqnos this is, from 0; none: it is not one of them.
    pub(super) fn place(&self, seqno: Seqno) -> Option<usize> {
        let place = usize::from(seqno.0.wrapping_sub(self.base.0));
        (place < self.anchors.len()).then_some(place)
    }

    /// The chain of a seqno.
    pub(super) fn chain(&self, seqno: Seqno) -> Chain {
        Chain {
            router_id: self.router_id,
            epoch: self.epoch,
            seqno,
        }
    }

    /// Whether the other record's epoch comes right after this one's, and all its seqnos after all of this one's.
    pub(super) fn leads_to(&self, next: &Self) -> bool {
        self.epoch.checked_add(1) == Some(next.epoch)
            && next.base.since(self.base) >= self.seqnos() as i16
    }

    /// Whether the holder of the key signed it for that network, by the rules that leave one signature to one record and key: no point of small
    /// order, no number that is not reduced.
    pub(super) fn is_signed(&self, network: &Network) -> bool {
        VerifyingKey::from_bytes(&self.key).is_ok_and(|key| {
            key.verify_strict(
                &self.signed(network),
                &Signature::from_bytes(&self.signature),
            )
            .is_ok()
        })
    }

    /// What the signature is over.
    pub(super) fn signed(&self, Network(id): &Network) -> Vec<u8> {
        [DOMAIN, &[id.len() as u8], id.as_bytes(), &self.body()].concat()
    }

    fn body(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::MAX_LEN);
        bytes.extend([VERSION, self.anchors.len() as u8]);
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.router_id.0);
        bytes.extend(self.key);
        bytes.extend(self.epoch.to_be_bytes());
        bytes.extend(self.base.0.to_be_bytes());
        bytes.extend(self.scale.quantum().to_be_bytes());
        bytes.extend(self.scale.levels().to_be_bytes());
        bytes.extend(self.anchors.iter().flat_map(|anchor| anchor.0));
        bytes.extend(&self.later);
        bytes
    }
}

/// Why bytes are not an origin record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Of a later release, perhaps.
    #[error("an origin record of version {0}")]
    Version(u8),
    /// Too short for what it says it holds, or too long for a TLV.
    #[error("an origin record of the wrong length")]
    Length,
    /// No seqno, or more than fit.
    #[error("an origin record with no seqno or too many")]
    Seqnos,
    /// A quantum or a number of levels that is 0 or above its bound.
    #[error("an origin record with levels that cannot be used")]
    Scale,
    /// A router-id that RFC 8966 §4.1.3 forbids.
    #[error("an origin record with a reserved router-id")]
    RouterId,
    /// Epoch 0, which stands for the newest one in requests.
    #[error("an origin record of epoch 0")]
    Epoch,
}

/// Takes the next `N` bytes.
fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], RecordError> {
    let (taken, after) = rest.split_first_chunk().ok_or(RecordError::Length)?;
    *rest = after;
    Ok(*taken)
}
