//! The control plane: finds nodes and carries their signals, by libp2p; never users' packets.
//!
//! ```text
//!  daemon ── Command (bounded) ──► supervisor (thread) ── starts, watches ──► worker (thread: tokio, Swarm)
//!     ▲                                                                          │
//!     └───────────────────────────── Event (bounded) ◄───────────────────────────┘
//! ```
//!
//! [`start`] gives a [`Door`]. Nothing of libp2p passes through it: nodes are [`NodeKey`]s, addresses are socket addresses, messages are
//! bytes. Whatever happens behind it is no concern of packets: the worker may panic, and is started again; it may hang, and is given up
//! and replaced; a queue that is full costs a command or an event, not time.
//!
//! Who may be connected is decided by the key, which is the PeerId ([`Admitted`]). What may be dialled, listened on, or believed is
//! decided in one place ([`hygiene`]). Records of the DHT are verified before they are stored and after they are read ([`record`]).
//!
//! Pure, and tested by themselves: [`hygiene`], [`record`], [`store`], [`diversity`], [`contact`].
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod admission;
mod behaviour;
pub mod contact;
mod dht;
pub mod diversity;
mod door;
mod exchange;
mod fence;
mod guard;
pub mod hygiene;
pub mod record;
pub mod store;
mod supervisor;
mod worker;

use std::{collections::BTreeSet, fmt};

use libp2p::PeerId;

#[cfg(feature = "_fault")]
pub use self::door::Fault;
pub use self::{
    contact::{Carrier, Contact},
    door::{AtDoor, Busy, Command, Dht, Door, Event, Found, How, Memory, Settings, Status, start},
    exchange::{MAX_JOIN, Whereabouts},
};

/// The first eight bytes of the addresses of one node, which follow from its key.
pub type Prefix = [u8; 8];

/// Says which prefix a key owns, if it may be a node's at all.
pub type Derive = fn(&NodeKey) -> Option<Prefix>;

/// What precedes the key in the multihash of a PeerId: the protobuf of an Ed25519 key.
const PEER_ID_HEAD: [u8; 4] = [0x08, 0x01, 0x12, 0x20];

/// A node, by its Ed25519 public key.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeKey(pub [u8; 32]);

impl NodeKey {
    /// The key inside a PeerId, if it is one of an Ed25519 key.
    pub(crate) fn of_peer(peer: &PeerId) -> Option<Self> {
        let hash = peer.as_ref();
        if hash.code() != 0 {
            return None;
        }
        let key = hash.digest().strip_prefix(&PEER_ID_HEAD)?;
        key.try_into().ok().map(Self)
    }

    /// The PeerId; nothing if the bytes are no point of the curve.
    pub(crate) fn peer(&self) -> Option<PeerId> {
        let key = libp2p::identity::ed25519::PublicKey::try_from_bytes(&self.0).ok()?;
        Some(libp2p::identity::PublicKey::from(key).to_peer_id())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer() {
            Some(peer) => peer.fmt(f),
            None => f.write_str("NodeKey(no point)"),
        }
    }
}

/// Who may be connected.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Admitted {
    /// These nodes, always.
    pub listed: BTreeSet<NodeKey>,
    /// Every node of the network besides.
    pub open: bool,
    /// Others as guests, who may ask to join the network, and nothing else.
    pub guests: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_peer_id() {
        let pair = libp2p::identity::Keypair::ed25519_from_bytes([7; 32]).unwrap();
        let peer = pair.public().to_peer_id();
        let key = NodeKey::of_peer(&peer).unwrap();
        assert_eq!(key.peer(), Some(peer));
        assert_eq!(format!("{key:?}"), format!("{peer:?}"));
    }
}
