//! Who may be connected: the PeerId is the node's key, so it is known before the first stream opens.

use std::collections::{BTreeMap, VecDeque};

use ipnetwork::IpNetwork;
use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};

use crate::{Admitted, Derive, NodeKey, guard::ip, hygiene::party};

/// Connections that strangers of one party (a /24, a /48) may have to us at a time, a quarter of all: keys are cheap, addresses are not, but
/// a carrier's NAT or a data centre has many honest nodes.
const MAX_STRANGERS_PER_PARTY: usize = 32;

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum NotAdmitted {
    /// Its key cannot be a node's.
    #[error("no key of a node")]
    NoNode,
    /// Nobody listed it.
    #[error("a stranger")]
    Stranger,
    /// Too many from its network.
    #[error("too many strangers of one network")]
    Crowd,
}

/// Says who may have a connection, before any protocol runs on it, and who no longer may.
pub(crate) struct Admission {
    own: NodeKey,
    admitted: Admitted,
    derive: Derive,
    strangers: BTreeMap<ConnectionId, IpNetwork>,
    closing: VecDeque<PeerId>,
}

impl Admission {
    pub(crate) fn new(own: NodeKey, admitted: Admitted, derive: Derive) -> Self {
        Self {
            own,
            admitted,
            derive,
            strangers: BTreeMap::new(),
            closing: VecDeque::new(),
        }
    }

    /// Who may be connected from here on; who no longer may, of those who are, is disconnected.
    pub(crate) fn set<'a>(
        &mut self,
        admitted: Admitted,
        connected: impl Iterator<Item = &'a PeerId>,
    ) {
        self.admitted = admitted;
        for peer in connected {
            if self.check(peer).is_err() {
                self.closing.push_back(*peer);
            }
        }
    }

    /// Whether this peer may be connected.
    pub(crate) fn check(&self, peer: &PeerId) -> Result<NodeKey, NotAdmitted> {
        let key = NodeKey::of_peer(peer).ok_or(NotAdmitted::NoNode)?;
        if self.admitted.listed.contains(&key) {
            return Ok(key);
        }
        // The cheap answer comes first: the work behind a key costs a hash and more to check.
        if !self.admitted.open || key == self.own {
            return Err(NotAdmitted::Stranger);
        }
        match (self.derive)(&key) {
            Some(_) => Ok(key),
            None => Err(NotAdmitted::NoNode),
        }
    }

    pub(crate) fn is_listed(&self, key: &NodeKey) -> bool {
        self.admitted.listed.contains(key)
    }

    /// Whether those who want to join the network are let in that far.
    pub(crate) fn welcomes_guests(&self) -> bool {
        self.admitted.guests
    }

    /// Whether a peer that calls from there may be connected; its place among the strangers, if it is one, is taken.
    pub(crate) fn admit(
        &mut self,
        connection: ConnectionId,
        peer: &PeerId,
        remote: &Multiaddr,
    ) -> Result<(), NotAdmitted> {
        let key = self.check(peer)?;
        if let Some(ip) = ip(remote)
            && !self.is_listed(&key)
        {
            let party = party(ip);
            let others = self.strangers.values().filter(|other| **other == party);
            if others.count() >= MAX_STRANGERS_PER_PARTY {
                return Err(NotAdmitted::Crowd);
            }
            self.strangers.insert(connection, party);
        }
        Ok(())
    }

    /// A connection is gone.
    pub(crate) fn forget(&mut self, connection: &ConnectionId) {
        self.strangers.remove(connection);
    }

    /// The next peer whose connections are to be closed.
    pub(crate) fn take_closing(&mut self) -> Option<PeerId> {
        self.closing.pop_front()
    }
}
