//! Who may be connected: the PeerId is the node's key, so it is known before the first stream opens.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    task::{Context, Poll},
};

use ipnetwork::IpNetwork;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
};

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

/// Closes connections of those who may have none, before any protocol runs on them.
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
}

impl NetworkBehaviour for Admission {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let key = self.check(&peer).map_err(ConnectionDenied::new)?;
        if let Some(ip) = ip(remote)
            && !self.is_listed(&key)
        {
            let party = party(ip);
            let others = self.strangers.values().filter(|other| **other == party);
            if others.count() >= MAX_STRANGERS_PER_PARTY {
                return Err(ConnectionDenied::new(NotAdmitted::Crowd));
            }
            self.strangers.insert(connection, party);
        }
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if let Some(peer) = peer {
            self.check(&peer).map_err(ConnectionDenied::new)?;
        }
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(&peer).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = event {
            self.strangers.remove(&closed.connection_id);
        } else if let FromSwarm::ListenFailure(failure) = event {
            // Another behaviour denied it after this one had let it in.
            self.strangers.remove(&failure.connection_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        match self.closing.pop_front() {
            Some(peer_id) => Poll::Ready(ToSwarm::CloseConnection {
                peer_id,
                connection: CloseConnection::All,
            }),
            None => Poll::Pending,
        }
    }
}
