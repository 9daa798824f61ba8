//! Handshakes.

use thiserror::Error;

use crate::key::{KeyError, PublicKey};

/// Why a handshake message led to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// It is not a handshake message.
    #[error("not a handshake message")]
    NotHandshake,
    /// The first MAC is wrong: the sender does not know our key.
    #[error("first MAC is wrong")]
    Mac1,
    /// The ephemeral key is not worth agreeing with.
    #[error("ephemeral key is refused")]
    Ephemeral(#[source] KeyError),
    /// The initiator's static key is not one.
    #[error("static key is refused")]
    Static(#[source] KeyError),
    /// The initiator has our own key.
    #[error("the key is our own")]
    OwnKey,
    /// The initiator is not a peer. It may not even have this key: that shows only in the session. Nothing was allocated;
    /// the caller may add it and pass the message in again.
    #[error("{} is not a peer", .0.short())]
    Stranger(PublicKey),
    /// Another initiation of this peer was accepted less than 20 ms ago.
    #[error("too soon after the last initiation")]
    TooSoon,
    /// No session has its receiver index.
    #[error("unknown receiver index")]
    UnknownIndex,
    /// Nothing was sent that it could answer.
    #[error("no initiation waits for it")]
    Unexpected,
    /// An initiation whose time stamp is not newer than the last.
    #[error("replayed")]
    Replayed,
    /// Authentication failed: another key, another preshared key, or changed on the way.
    #[error("authentication failed")]
    Forged,
}

impl HandshakeError {
    /// A short name, for counters.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotHandshake => "handshake_not_one",
            Self::Mac1 => "handshake_mac1",
            Self::Ephemeral(_) => "handshake_ephemeral",
            Self::Static(_) => "handshake_static",
            Self::OwnKey => "handshake_own_key",
            Self::Stranger(_) => "handshake_stranger",
            Self::TooSoon => "handshake_too_soon",
            Self::UnknownIndex => "handshake_unknown_index",
            Self::Unexpected => "handshake_unexpected",
            Self::Replayed => "handshake_replayed",
            Self::Forged => "handshake_forged",
        }
    }
}
