//! Reading handshake messages before any state is touched, on whatever thread: this is where strangers are turned away.
//!
//! An initiation is opened as far as the initiator's time stamp (white paper, section 5.4.2), which only the holder of its static
//! key can have sealed. So what comes out of here is authentic, though it may be a replay; the engine tells.

use blake2::Blake2s256;
use blake2::digest::{Digest, Mac as _};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
use hmac::SimpleHmac;
use x25519_dalek::PublicKey as Point;
use zeroize::Zeroizing;

use crate::handshake::HandshakeError;
use crate::key::{PrivateKey, PublicKey, check_point};
use crate::message::{Mac1, Message, index_at};
#[cfg(feature = "_sim")]
use crate::sim_engine::Simulated;

/// When an initiation was made, by its initiator's clock (TAI64N). Only the order counts: it tells a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp([u8; 12]);

/// Whose handshake message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// The holder of this key made this initiation, now or once.
    Initiator {
        /// Who.
        key: PublicKey,
        /// When.
        stamp: Stamp,
    },
    /// Whoever answers our message with this sender index; only the engine can tell whether it is the peer.
    Answerer {
        /// The index.
        receiver: u32,
    },
}

/// Reads handshake messages to one static key. Immutable, so that a thread of its own can do it.
#[derive(Clone, Debug)]
pub struct Reader {
    public: PublicKey,
    key: PrivateKey,
    mac1: Mac1,
    suite: Suite,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Suite {
    Noise,
    #[cfg(feature = "_sim")]
    Simulated,
}

impl Reader {
    /// For messages to the holder of `key`.
    pub fn new(key: PrivateKey) -> Self {
        Self::with(key, Suite::Noise)
    }

    pub(crate) fn with(key: PrivateKey, suite: Suite) -> Self {
        let public = key.public();
        Self {
            public,
            key,
            mac1: Mac1::new(&public),
            suite,
        }
    }

    /// The first MAC of messages to our key.
    pub(crate) const fn mac1(&self) -> &Mac1 {
        &self.mac1
    }

    /// Our own key.
    pub(crate) const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Reads a handshake message (types 1, 2 and 3). `admit` is asked whether the initiator is worth going on for: whom it refuses
    /// costs one Diffie-Hellman operation, anybody else two.
    ///
    /// # Errors
    /// What `admit` says of an initiator, who may not even have that key ([`HandshakeError::Stranger`],
    /// [`crate::Session::admit`]); [`HandshakeError::Forged`] for one who has not; and all that the message itself shows to be
    /// wrong.
    pub fn read(
        &self,
        datagram: &[u8],
        admit: impl FnOnce(&PublicKey) -> Result<(), HandshakeError>,
    ) -> Result<Author, HandshakeError> {
        match Message::of(datagram) {
            Some(Message::Initiation) => {
                self.check(datagram, 8)?;
                self.initiator(datagram, admit)
            }
            Some(Message::Response) => {
                self.check(datagram, 12)?;
                let receiver = index_at(datagram, 8);
                Ok(Author::Answerer { receiver })
            }
            Some(Message::Cookie { receiver }) => Ok(Author::Answerer { receiver }),
            Some(Message::Data { .. }) | None => Err(HandshakeError::NotHandshake),
        }
    }

    fn check(&self, datagram: &[u8], ephemeral: usize) -> Result<(), HandshakeError> {
        if !self.mac1.verify(datagram) {
            return Err(HandshakeError::Mac1);
        }
        let point = datagram
            .get(ephemeral..)
            .and_then(|rest| rest.first_chunk())
            .ok_or(HandshakeError::NotHandshake)?;
        check_point(point).map_err(HandshakeError::Ephemeral)
    }

    fn initiator(
        &self,
        initiation: &[u8],
        admit: impl FnOnce(&PublicKey) -> Result<(), HandshakeError>,
    ) -> Result<Author, HandshakeError> {
        let checked = |key: [u8; 32]| {
            let key = PublicKey::from_bytes(key).map_err(HandshakeError::Static)?;
            if key == self.public {
                return Err(HandshakeError::OwnKey);
            }
            admit(&key).map(|()| key)
        };
        match self.suite {
            Suite::Noise => {
                let mut chain = Chain::new(&self.public);
                let ephemeral: [u8; 32] = part(initiation, 8)?;
                chain.mix_hash(&ephemeral);
                chain.mix_key(&ephemeral);
                let mut key: [u8; 32] = part(initiation, 40)?;
                chain.agree(&self.key, ephemeral);
                chain.open(&mut key, &part(initiation, 72)?)?;
                let key = checked(key)?;
                let sealed: [u8; 48] = part(initiation, 40)?;
                chain.mix_hash(&sealed);
                chain.agree(&self.key, *key.as_bytes());
                let mut stamp: [u8; 12] = part(initiation, 88)?;
                chain.open(&mut stamp, &part(initiation, 100)?)?;
                let stamp = Stamp(stamp);
                Ok(Author::Initiator { key, stamp })
            }
            #[cfg(feature = "_sim")]
            Suite::Simulated => {
                let key = checked(Simulated::initiator(initiation).ok_or(HandshakeError::Forged)?)?;
                let stamp = Stamp(part(initiation, 88)?);
                Ok(Author::Initiator { key, stamp })
            }
        }
    }
}

fn part<const N: usize>(message: &[u8], offset: usize) -> Result<[u8; N], HandshakeError> {
    message
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or(HandshakeError::NotHandshake)
}

/// The responder's half of the Noise state, as far as an initiation needs it.
struct Chain {
    chaining: Zeroizing<[u8; 32]>,
    key: Zeroizing<[u8; 32]>,
    hash: [u8; 32],
}

impl Chain {
    fn new(responder: &PublicKey) -> Self {
        let chaining = hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]);
        let named = hash(&[&chaining, b"WireGuard v1 zx2c4 Jason@zx2c4.com"]);
        Self {
            chaining: Zeroizing::new(chaining),
            key: Zeroizing::default(),
            hash: hash(&[&named, responder.as_bytes()]),
        }
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    fn mix_key(&mut self, input: &[u8]) {
        let extracted = hmac(&*self.chaining, &[input]);
        self.chaining = hmac(&*extracted, &[&[1]]);
        self.key = hmac(&*extracted, &[&*self.chaining, &[2]]);
    }

    fn agree(&mut self, ours: &PrivateKey, theirs: [u8; 32]) {
        let shared = ours.secret().diffie_hellman(&Point::from(theirs));
        self.mix_key(shared.as_bytes());
    }

    /// Opens what was sealed with the key that was mixed last.
    fn open(&self, sealed: &mut [u8], tag: &[u8; 16]) -> Result<(), HandshakeError> {
        ChaCha20Poly1305::new((&*self.key).into())
            .decrypt_in_place_detached(&[0; 12].into(), &self.hash, sealed, tag.into())
            .map_err(|_| HandshakeError::Forged)
    }
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    parts
        .iter()
        .fold(Blake2s256::new(), |hash, part| hash.chain_update(part))
        .finalize()
        .into()
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mac = <SimpleHmac<Blake2s256> as hmac::Mac>::new_from_slice(key)
        .expect("HMAC takes a key of any length");
    let mac = parts.iter().fold(mac, |mac, part| mac.chain_update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}
