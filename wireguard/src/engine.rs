//! What agrees on keys and what seals with them: the cryptography of a session, and what stands for it in simulations of many nodes.
//!
//! [`Noise`] and [`chapoly`] are the real one. It takes no time of its own, and its only randomness are the ephemeral keys of handshakes.
//! The other, behind the feature `_sim`, takes a microsecond where this takes a hundred. Neither keeps a state: what a handshake needs
//! between its two messages is with those who wait (`handshake.rs`), counters and windows are with keypairs (`keypair.rs`).

use zeroize::Zeroizing;

use crate::handshake::HandshakeError;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::message::index_at;
use crate::noise::{self, Agreed, Noise};
#[cfg(feature = "_sim")]
use crate::simulated::{self, Simulated};
use crate::stamp::Stamp;

/// Handshakes with one peer.
pub(crate) enum Engine {
    Noise(Box<Noise>),
    #[cfg(feature = "_sim")]
    Simulated(Box<Simulated>),
}

/// An initiation of ours that may be answered.
pub(crate) enum Initiated {
    Noise(Box<noise::Initiated>),
    #[cfg(feature = "_sim")]
    Simulated(simulated::Initiated),
}

/// Makes engines for one static key.
#[derive(Debug)]
pub(crate) enum Factory {
    Noise {
        key: PrivateKey,
    },
    #[cfg(feature = "_sim")]
    Simulated {
        key: PrivateKey,
    },
}

impl Factory {
    /// A new engine for `peer`. `seed` feeds the simulated one.
    #[cfg_attr(
        not(feature = "_sim"),
        expect(
            unused_variables,
            reason = "only the simulated engine takes its randomness"
        )
    )]
    pub(crate) fn make(
        &self,
        peer: &PublicKey,
        preshared: Option<&PresharedKey>,
        seed: u64,
    ) -> Engine {
        match self {
            Self::Noise { key } => {
                let noise = Noise::new(key.clone(), *peer, preshared.cloned());
                Engine::Noise(Box::new(noise))
            }
            #[cfg(feature = "_sim")]
            Self::Simulated { key } => {
                let simulated = Simulated::new(key.public(), *peer, preshared, seed);
                Engine::Simulated(Box::new(simulated))
            }
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine(..)")
    }
}

impl std::fmt::Debug for Initiated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Initiated(..)")
    }
}

impl Engine {
    /// An initiation that names us `index`, without MACs, and what is needed to take its answer.
    pub(crate) fn initiate(&mut self, index: u32, stamp: Stamp) -> (Vec<u8>, Initiated) {
        match self {
            Self::Noise(noise) => {
                let (message, initiated) = noise.initiate(index, stamp, ephemeral());
                (message, Initiated::Noise(Box::new(initiated)))
            }
            #[cfg(feature = "_sim")]
            Self::Simulated(simulated) => {
                let (message, initiated) = simulated.initiate(index, stamp);
                (message, Initiated::Simulated(initiated))
            }
        }
    }

    /// The response to an initiation of the peer that names us `index`, without MACs, and the keys that they agree on.
    pub(crate) fn respond(
        &mut self,
        initiation: &[u8],
        index: u32,
    ) -> Result<(Vec<u8>, Keys), HandshakeError> {
        let remote = index_at(initiation, 4);
        match self {
            Self::Noise(noise) => {
                let (message, agreed) = noise.respond(initiation, index, &ephemeral())?;
                let Agreed {
                    to_responder,
                    to_initiator,
                } = agreed;
                Ok((message, Keys::new(remote, to_initiator, to_responder)))
            }
            #[cfg(feature = "_sim")]
            Self::Simulated(simulated) => {
                let (message, agreed) = simulated.respond(initiation, index)?;
                let [to_responder, to_initiator] = agreed;
                Ok((message, Keys::simulated(remote, to_initiator, to_responder)))
            }
        }
    }

    /// The keys that a response agrees on.
    pub(crate) fn complete(
        &self,
        initiated: &Initiated,
        response: &[u8],
    ) -> Result<Keys, HandshakeError> {
        let remote = index_at(response, 4);
        match (self, initiated) {
            (Self::Noise(noise), Initiated::Noise(initiated)) => {
                let agreed = noise.complete(initiated, response)?;
                Ok(Keys::new(remote, agreed.to_responder, agreed.to_initiator))
            }
            #[cfg(feature = "_sim")]
            (Self::Simulated(simulated), Initiated::Simulated(initiated)) => {
                let [to_responder, to_initiator] = simulated.complete(initiated, response)?;
                Ok(Keys::simulated(remote, to_responder, to_initiator))
            }
            #[cfg(feature = "_sim")]
            (Self::Noise(_) | Self::Simulated(_), _) => Err(HandshakeError::Unexpected),
        }
    }
}

/// A key for one handshake.
fn ephemeral() -> PrivateKey {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).expect("the kernel has randomness for whoever runs as a service");
    PrivateKey::from_bytes(*bytes)
}

/// What seals messages to the peer and opens its own.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Receiver index of our messages: what the peer calls the keypair.
    pub(crate) remote: u32,
    sealing: Cipher,
    opening: Cipher,
}

#[derive(Debug)]
enum Cipher {
    ChaPoly(chapoly::Key),
    #[cfg(feature = "_sim")]
    Simulated(u64),
}

impl Keys {
    fn new(remote: u32, sealing: noise::Secret, opening: noise::Secret) -> Self {
        Self {
            remote,
            sealing: Cipher::ChaPoly(chapoly::Key::new(sealing)),
            opening: Cipher::ChaPoly(chapoly::Key::new(opening)),
        }
    }

    #[cfg(feature = "_sim")]
    const fn simulated(remote: u32, sealing: u64, opening: u64) -> Self {
        Self {
            remote,
            sealing: Cipher::Simulated(sealing),
            opening: Cipher::Simulated(opening),
        }
    }

    /// Keys that nobody agreed on.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self::new(0, Zeroizing::default(), Zeroizing::default())
    }

    /// Seals `packet`, with zeros up to the end of `out` but 16 bytes.
    pub(crate) fn seal(&self, counter: u64, packet: &[u8], out: &mut [u8]) {
        match &self.sealing {
            Cipher::ChaPoly(key) => key.seal(counter, packet, out),
            #[cfg(feature = "_sim")]
            Cipher::Simulated(secret) => simulated::seal(*secret, counter, packet, out),
        }
    }

    /// Opens what the peer sealed into `out`, whether that was a packet or not.
    pub(crate) fn open<'a>(
        &self,
        counter: u64,
        sealed: &[u8],
        out: &'a mut [u8],
    ) -> Result<&'a mut [u8], chapoly::Forged> {
        match &self.opening {
            Cipher::ChaPoly(key) => key.open(counter, sealed, out),
            #[cfg(feature = "_sim")]
            Cipher::Simulated(secret) => simulated::open(*secret, counter, sealed, out),
        }
    }
}
