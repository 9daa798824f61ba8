//! The handshake of the protocol: Noise_IKpsk2 (white paper, section 5.4; the Noise framework, revision 34), without I/O, time or
//! randomness of its own.
//!
//! What [`crate::Reader`] does with an initiation before a session is looked up is the beginning of what [`Noise::respond`] does; the
//! engine reads it again rather than to keep state for strangers. Points are checked before they come here (`key.rs`), so no
//! agreement gives a secret that everybody knows.

use blake2::Blake2s256;
use blake2::digest::{Digest, Mac as _};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
use hmac::SimpleHmac;
use x25519_dalek::PublicKey as Point;
use zeroize::Zeroizing;

use crate::constants::{INITIATION_LEN, RESPONSE_LEN};
use crate::handshake::HandshakeError;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::stamp::Stamp;

/// A secret of 32 bytes.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// What two ends agreed on: a key for each direction, as the initiator names them.
pub(crate) struct Agreed {
    pub(crate) to_responder: Secret,
    pub(crate) to_initiator: Secret,
}

/// The state of a handshake: what both ends have said so far, and every secret they have agreed on.
#[derive(Clone)]
pub(crate) struct Chain {
    chaining: Secret,
    key: Secret,
    hash: [u8; 32],
}

impl Chain {
    /// Before the first message to `responder`.
    pub(crate) fn new(responder: &PublicKey) -> Self {
        let chaining = hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]);
        let named = hash(&[&chaining, b"WireGuard v1 zx2c4 Jason@zx2c4.com"]);
        Self {
            chaining: Zeroizing::new(chaining),
            key: Zeroizing::default(),
            hash: hash(&[&named, responder.as_bytes()]),
        }
    }

    pub(crate) fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    pub(crate) fn mix_key(&mut self, input: &[u8]) {
        let [chaining, key] = derive(&self.chaining, input);
        (self.chaining, self.key) = (chaining, key);
    }

    /// An ephemeral key goes over the wire.
    pub(crate) fn mix_ephemeral(&mut self, ephemeral: &[u8; 32]) {
        self.mix_hash(ephemeral);
        self.mix_key(ephemeral);
    }

    pub(crate) fn agree(&mut self, ours: &PrivateKey, theirs: &[u8; 32]) {
        self.mix_key(&*agree(ours, theirs));
    }

    fn mix_preshared(&mut self, preshared: Option<&PresharedKey>) {
        let none = [0; 32];
        let input = preshared.map_or(&none, PresharedKey::as_bytes);
        let [chaining, mixed, key] = derive(&self.chaining, input);
        self.mix_hash(&*mixed);
        (self.chaining, self.key) = (chaining, key);
    }

    /// Seals `text`, and 16 bytes of tag behind it, with the key that was mixed last.
    fn seal(&mut self, out: &mut [u8]) {
        let (text, tag) = out.split_at_mut(out.len() - 16);
        let sealed = ChaCha20Poly1305::new((&*self.key).into())
            .encrypt_in_place_detached(&[0; 12].into(), &self.hash, text)
            .expect("a handshake message is short");
        tag.copy_from_slice(&sealed);
        self.mix_hash(out);
    }

    /// Opens what was sealed with the key that was mixed last, text and tag.
    pub(crate) fn open<const N: usize>(
        &mut self,
        sealed: &[u8],
    ) -> Result<[u8; N], HandshakeError> {
        let (text, tag) = sealed
            .split_first_chunk::<N>()
            .ok_or(HandshakeError::NotHandshake)?;
        let mut opened = *text;
        ChaCha20Poly1305::new((&*self.key).into())
            .decrypt_in_place_detached(&[0; 12].into(), &self.hash, &mut opened, tag.into())
            .map_err(|_| HandshakeError::Forged)?;
        self.mix_hash(sealed);
        Ok(opened)
    }

    fn split(&self) -> Agreed {
        let [to_responder, to_initiator] = derive(&self.chaining, &[]);
        Agreed {
            to_responder,
            to_initiator,
        }
    }
}

/// An initiation of ours that may be answered.
pub(crate) struct Initiated {
    chain: Chain,
    ephemeral: PrivateKey,
}

/// Handshakes between two static keys.
pub(crate) struct Noise {
    key: PrivateKey,
    public: PublicKey,
    peer: PublicKey,
    /// What the static keys agree on.
    shared: Secret,
    preshared: Option<PresharedKey>,
}

impl Noise {
    pub(crate) fn new(key: PrivateKey, peer: PublicKey, preshared: Option<PresharedKey>) -> Self {
        Self {
            public: key.public(),
            shared: agree(&key, peer.as_bytes()),
            key,
            peer,
            preshared,
        }
    }

    /// An initiation without MACs, and what is needed to take its answer.
    pub(crate) fn initiate(
        &self,
        index: u32,
        stamp: Stamp,
        ephemeral: PrivateKey,
    ) -> (Vec<u8>, Initiated) {
        let mut message = vec![0; INITIATION_LEN];
        message[0] = 1;
        message[4..8].copy_from_slice(&index.to_le_bytes());
        let point = ephemeral.public();
        message[8..40].copy_from_slice(point.as_bytes());
        let mut chain = Chain::new(&self.peer);
        chain.mix_ephemeral(point.as_bytes());
        chain.agree(&ephemeral, self.peer.as_bytes());
        message[40..72].copy_from_slice(self.public.as_bytes());
        chain.seal(&mut message[40..88]);
        chain.mix_key(&*self.shared);
        message[88..100].copy_from_slice(stamp.as_bytes());
        chain.seal(&mut message[88..116]);
        (message, Initiated { chain, ephemeral })
    }

    /// The response to an initiation of the peer, without MACs, and what it agrees on.
    pub(crate) fn respond(
        &self,
        initiation: &[u8],
        index: u32,
        ephemeral: &PrivateKey,
    ) -> Result<(Vec<u8>, Agreed), HandshakeError> {
        let initiation: &[u8; INITIATION_LEN] = initiation
            .try_into()
            .map_err(|_| HandshakeError::NotHandshake)?;
        let theirs: &[u8; 32] = part(initiation, 8)?;
        let mut chain = Chain::new(&self.public);
        chain.mix_ephemeral(theirs);
        chain.agree(&self.key, theirs);
        let peer: [u8; 32] = chain.open(&initiation[40..88])?;
        if peer != *self.peer.as_bytes() {
            return Err(HandshakeError::Forged);
        }
        chain.mix_key(&*self.shared);
        let _stamp: [u8; 12] = chain.open(&initiation[88..116])?;
        let mut message = vec![0; RESPONSE_LEN];
        message[0] = 2;
        message[4..8].copy_from_slice(&index.to_le_bytes());
        message[8..12].copy_from_slice(&initiation[4..8]);
        let point = ephemeral.public();
        message[12..44].copy_from_slice(point.as_bytes());
        chain.mix_ephemeral(point.as_bytes());
        chain.agree(ephemeral, theirs);
        chain.agree(ephemeral, self.peer.as_bytes());
        chain.mix_preshared(self.preshared.as_ref());
        chain.seal(&mut message[44..60]);
        Ok((message, chain.split()))
    }

    /// What a response agrees on.
    pub(crate) fn complete(
        &self,
        initiated: &Initiated,
        response: &[u8],
    ) -> Result<Agreed, HandshakeError> {
        let response: &[u8; RESPONSE_LEN] = response
            .try_into()
            .map_err(|_| HandshakeError::NotHandshake)?;
        let theirs: &[u8; 32] = part(response, 12)?;
        let mut chain = initiated.chain.clone();
        chain.mix_ephemeral(theirs);
        chain.agree(&initiated.ephemeral, theirs);
        chain.agree(&self.key, theirs);
        chain.mix_preshared(self.preshared.as_ref());
        let [] = chain.open(&response[44..60])?;
        Ok(chain.split())
    }
}

/// So many bytes of a message at `offset`.
pub(crate) fn part<const N: usize>(
    message: &[u8],
    offset: usize,
) -> Result<&[u8; N], HandshakeError> {
    message
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(HandshakeError::NotHandshake)
}

fn agree(ours: &PrivateKey, theirs: &[u8; 32]) -> Secret {
    let shared = ours.secret().diffie_hellman(&Point::from(*theirs));
    Zeroizing::new(shared.to_bytes())
}

/// So many keys from one (white paper, section 5.4: KDF).
fn derive<const N: usize>(chaining: &[u8; 32], input: &[u8]) -> [Secret; N] {
    let extracted = hmac(chaining, &[input]);
    let mut last = Secret::default();
    let mut number = 0;
    std::array::from_fn(|_| {
        let before: &[u8] = if number == 0 { &[] } else { &*last };
        number += 1;
        last = hmac(&extracted, &[before, &[number]]);
        last.clone()
    })
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    parts
        .iter()
        .fold(Blake2s256::new(), |hash, part| hash.chain_update(part))
        .finalize()
        .into()
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Secret {
    let mac = <SimpleHmac<Blake2s256> as hmac::Mac>::new_from_slice(key)
        .expect("HMAC takes a key of any length");
    let mac = parts.iter().fold(mac, |mac, part| mac.chain_update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}
