//! Reading handshake messages before any state is touched, on whatever thread: this is where strangers are turned away.
//!
//! An initiation is opened as far as the initiator's time stamp (white paper, section 5.4.2), which only the holder of its static
//! key can have sealed. So what comes out of here is authentic, though it may be a replay; the session tells.

use crate::handshake::HandshakeError;
use crate::key::{PrivateKey, PublicKey, check_point};
use crate::message::{Mac1, Message, index_at};
use crate::noise::{Chain, part};
#[cfg(feature = "_sim")]
use crate::simulated::Simulated;
use crate::stamp::Stamp;

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
    /// Whoever answers our message with this sender index; only its session can tell whether it is the peer.
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
        check_point(part(datagram, ephemeral)?).map_err(HandshakeError::Ephemeral)
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
                let ephemeral = part(initiation, 8)?;
                chain.mix_ephemeral(ephemeral);
                chain.agree(&self.key, ephemeral);
                let key = checked(chain.open(part::<48>(initiation, 40)?)?)?;
                chain.agree(&self.key, key.as_bytes());
                let stamp = Stamp::new(chain.open(part::<28>(initiation, 88)?)?);
                Ok(Author::Initiator { key, stamp })
            }
            #[cfg(feature = "_sim")]
            Suite::Simulated => {
                let key = checked(Simulated::initiator(initiation).ok_or(HandshakeError::Forged)?)?;
                let stamp = Stamp::new(*part(initiation, 88)?);
                Ok(Author::Initiator { key, stamp })
            }
        }
    }
}
