//! The engine of one session, and the only file that knows boringtun.
//!
//! What `boringtun::noise::Tunn` is used for: the handshake, the AEAD, the replay window. What it is not used for, because it
//! does it differently from the protocol or not at all: timers, limits of age and count, padding, queueing, roaming, rate limits,
//! receiver indices and with them MACs and cookies. Those are `device.rs`, `peer.rs`, `session.rs` and `handshake.rs`.
//!
//! Reading 0.7.1 gives these rules for its use, each kept by this file or by its callers:
//!
//! 1. **Time.** `Tunn` stamps keypairs with `TimeCurrent`, which moves only inside `update_timers`, and `set_current_session`
//!    lets a message that opens on another keypair make that one current if its stamp is not smaller. Were `update_timers`
//!    never called, all stamps would be equal, a late message on the old keypair would bring it back, and two peers could
//!    hand it to each other until it expires. So [`Tunnel::advance`] calls it before every initiation that is sent or
//!    received. Its real clock is read there and nowhere else; only the order of stamps matters, since `keypair.rs` applies
//!    all ages in the device's time.
//! 2. **Not before a response.** While an initiation waits, `update_timers` sends another one after 5 s and, 90 s after the
//!    first, wipes *all* keypairs along with the handshake (also at 540 s after the last handshake). Called before a late
//!    response it would make that response worthless. The stamp of the keypair is then that of the initiation, at most
//!    a retry older, which keeps the order.
//! 3. **What it returns is sent.** `update_timers` may hand out an initiation (which replaces the one that waits) or an empty
//!    data message. Both are used, so that our account of the state of the handshake stays true. `ConnectionExpired` only
//!    says that it has wiped its keypairs: [`Advanced::Wiped`].
//! 4. **A response may answer the initiation before the last.** `Tunn` then keeps waiting for the last, and rule 2 would wipe
//!    the new keypair with the rest 90 s later. So the device sees to it that the last one is answered too (`peer.rs`, which asks
//!    `handshake.rs` whether the engine waits).
//! 5. **Never `encapsulate` without a keypair.** It would queue the packet and return an initiation. Callers keep their own
//!    `established`; should the two disagree, [`Tunnel::seal`] recognizes the initiation, reports [`SealError::NotEstablished`]
//!    and drops it (the device's retries replace it). The queue holds 256 packets at most and is never sent.
//! 6. **Guards in front.** Counters above the limit (they panic or reset the window), points of low order in keys and
//!    handshake messages, wrong lengths: refused before they come here. The limiter is told never to be under load.
//! 7. An initiation is accepted if its time stamp is newer than the last one *this* engine saw, so a new engine (restart, other
//!    preshared key) accepts one old initiation. It cannot be completed, and must not move the endpoint of a session that works.
//!    `handshake.rs` keeps the last stamp too, so that no other replay comes as far as here.
//! 8. Steps may come from any thread, since all that they change in the engine and in our account of it is under the session's lock.
//! 9. **Its indices stay here.** It counts them up in the lowest 8 bits of what it was made with, over and over. On the wire there
//!    are others (`index.rs`), written into its handshake messages, whose MACs it has then computed in vain, and replaced by its own
//!    again in what it is given: neither the handshake's hash nor the AEAD of data messages covers them (white paper, section 5.4).
//!    It is given no cookie replies, since they are sealed for the MAC that was sent. All engines count alike: only the order of
//!    indices within one matters, and that none is 0, with which `Tunn` begins as the current one.
//! 10. `Tunn::new` panics if the system clock is before 1970, which Linux does not allow it to be.

use std::sync::Arc;
use std::time::Instant;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};

use crate::handshake::HandshakeError;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::session::{OpenError, SealError};
#[cfg(feature = "_sim")]
use crate::sim_engine::Simulated;

/// The engine never writes a message longer than this when it is not sealing.
pub(crate) const HANDSHAKE_BUFFER: usize = 160;

/// What an engine's indices count up from, in the lowest 8 bits.
pub(crate) const FIRST_INDEX: u32 = 0x100;

/// What the passing of time made the engine do.
#[derive(Debug)]
pub(crate) enum Advanced {
    Nothing,
    /// It forgot every keypair and the handshake under way.
    Wiped,
    /// It wants this sent.
    Message(Vec<u8>),
}

/// Makes engines for one static key.
pub(crate) enum Factory {
    Boringtun {
        key: PrivateKey,
        limiter: Arc<RateLimiter>,
    },
    #[cfg(feature = "_sim")]
    Simulated { key: PrivateKey },
}

impl Factory {
    pub(crate) fn boringtun(key: PrivateKey) -> Self {
        let limiter = Arc::new(RateLimiter::new(&key.secret().into(), u64::MAX));
        Self::Boringtun { key, limiter }
    }

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
    ) -> Tunnel {
        match self {
            Self::Boringtun { key, limiter } => Tunnel::Boringtun(Box::new(Tunn::new(
                key.secret().clone(),
                (*peer.as_bytes()).into(),
                preshared.map(|key| *key.as_bytes()),
                None,
                FIRST_INDEX >> 8,
                Some(Arc::clone(limiter)),
            ))),
            #[cfg(feature = "_sim")]
            Self::Simulated { key } => Tunnel::Simulated(Box::new(Simulated::new(
                key.public(),
                *peer,
                preshared,
                seed,
            ))),
        }
    }
}

impl std::fmt::Debug for Factory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Factory(..)")
    }
}

/// The engine of one session.
pub(crate) enum Tunnel {
    Boringtun(Box<Tunn>),
    #[cfg(feature = "_sim")]
    Simulated(Box<Simulated>),
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tunnel(..)")
    }
}

impl Tunnel {
    /// Lets the engine's clock catch up: before every initiation that is sent or received, and when keys are too old (rules 1
    /// and 2 above).
    pub(crate) fn advance(&mut self) -> Advanced {
        match self {
            Self::Boringtun(tunn) => {
                let mut buffer = [0; HANDSHAKE_BUFFER];
                match tunn.update_timers(&mut buffer) {
                    TunnResult::WriteToNetwork(message) => Advanced::Message(message.to_vec()),
                    TunnResult::Err(_) => Advanced::Wiped,
                    TunnResult::Done
                    | TunnResult::WriteToTunnelV4(..)
                    | TunnResult::WriteToTunnelV6(..) => Advanced::Nothing,
                }
            }
            #[cfg(feature = "_sim")]
            Self::Simulated(_) => Advanced::Nothing,
        }
    }

    /// Whether the engine still has the keypair it would send with: it may have dropped it in [`Self::advance`].
    pub(crate) fn has_current(&self) -> bool {
        match self {
            Self::Boringtun(tunn) => tunn.time_since_last_handshake().is_some(),
            #[cfg(feature = "_sim")]
            Self::Simulated(simulated) => simulated.has_current(),
        }
    }

    /// A new initiation; the one before it can still be answered.
    #[cfg_attr(
        not(feature = "_sim"),
        expect(unused_variables, reason = "only the simulated engine takes its time")
    )]
    pub(crate) fn initiate(&mut self, now: Instant) -> Vec<u8> {
        match self {
            Self::Boringtun(tunn) => {
                let mut buffer = [0; HANDSHAKE_BUFFER];
                match tunn.format_handshake_initiation(&mut buffer, true) {
                    TunnResult::WriteToNetwork(message) => message.to_vec(),
                    TunnResult::Done
                    | TunnResult::Err(_)
                    | TunnResult::WriteToTunnelV4(..)
                    | TunnResult::WriteToTunnelV6(..) => {
                        unreachable!("a forced initiation fails only for want of room")
                    }
                }
            }
            #[cfg(feature = "_sim")]
            Self::Simulated(simulated) => simulated.initiate(now),
        }
    }

    /// Takes a handshake message of type 1 or 2 and returns what to send back: the response, or the empty packet that confirms the
    /// keypair.
    pub(crate) fn handle(&mut self, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        match self {
            Self::Boringtun(tunn) => {
                let mut buffer = [0; HANDSHAKE_BUFFER];
                match tunn.decapsulate(None, message, &mut buffer) {
                    TunnResult::WriteToNetwork(answer) => Ok(answer.to_vec()),
                    TunnResult::Done => Ok(Vec::new()),
                    TunnResult::Err(error) => Err(match error {
                        WireGuardError::WrongTai64nTimestamp => HandshakeError::Replayed,
                        WireGuardError::UnexpectedPacket | WireGuardError::WrongIndex => {
                            HandshakeError::Unexpected
                        }
                        WireGuardError::DestinationBufferTooSmall
                        | WireGuardError::IncorrectPacketLength
                        | WireGuardError::WrongPacketType
                        | WireGuardError::WrongKey
                        | WireGuardError::InvalidTai64nTimestamp
                        | WireGuardError::InvalidMac
                        | WireGuardError::InvalidAeadTag
                        | WireGuardError::InvalidCounter
                        | WireGuardError::DuplicateCounter
                        | WireGuardError::InvalidPacket
                        | WireGuardError::NoCurrentSession
                        | WireGuardError::LockFailed
                        | WireGuardError::ConnectionExpired
                        | WireGuardError::UnderLoad => HandshakeError::Forged,
                    }),
                    TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
                        Err(HandshakeError::NotHandshake)
                    }
                }
            }
            #[cfg(feature = "_sim")]
            Self::Simulated(simulated) => simulated.handle(message),
        }
    }

    /// Seals `packet` into `out`, which has room for it and [`crate::constants::OVERHEAD`]; returns the message's length.
    pub(crate) fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        match self {
            Self::Boringtun(tunn) => match tunn.encapsulate(packet, out) {
                TunnResult::WriteToNetwork(message) if message[0] == 4 => Ok(message.len()),
                TunnResult::WriteToNetwork(_)
                | TunnResult::Done
                | TunnResult::Err(_)
                | TunnResult::WriteToTunnelV4(..)
                | TunnResult::WriteToTunnelV6(..) => Err(SealError::NotEstablished),
            },
            #[cfg(feature = "_sim")]
            Self::Simulated(simulated) => simulated.seal(packet, out),
        }
    }

    /// Opens a data message into `out`, which has room for it, and returns the length of the IP packet without its padding
    /// (zero: a keepalive). [`OpenError::Malformed`] means that the message was authentic all the same.
    pub(crate) fn open(&mut self, message: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        match self {
            Self::Boringtun(tunn) => match tunn.decapsulate(None, message, out) {
                // An IPv4 header may claim any length, even none.
                TunnResult::WriteToTunnelV4(packet, _) if packet.len() < 20 => {
                    Err(OpenError::Malformed)
                }
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    Ok(packet.len())
                }
                TunnResult::Done => Ok(0),
                TunnResult::WriteToNetwork(_) => Err(OpenError::NotData),
                TunnResult::Err(error) => Err(match error {
                    WireGuardError::InvalidCounter | WireGuardError::DuplicateCounter => {
                        OpenError::Replayed
                    }
                    WireGuardError::WrongIndex | WireGuardError::NoCurrentSession => {
                        OpenError::UnknownIndex
                    }
                    WireGuardError::InvalidPacket => OpenError::Malformed,
                    WireGuardError::DestinationBufferTooSmall
                    | WireGuardError::IncorrectPacketLength
                    | WireGuardError::UnexpectedPacket
                    | WireGuardError::WrongPacketType
                    | WireGuardError::WrongKey
                    | WireGuardError::InvalidTai64nTimestamp
                    | WireGuardError::WrongTai64nTimestamp
                    | WireGuardError::InvalidMac
                    | WireGuardError::InvalidAeadTag
                    | WireGuardError::LockFailed
                    | WireGuardError::ConnectionExpired
                    | WireGuardError::UnderLoad => OpenError::Forged,
                }),
            },
            #[cfg(feature = "_sim")]
            Self::Simulated(simulated) => simulated.open(message, out),
        }
    }
}
