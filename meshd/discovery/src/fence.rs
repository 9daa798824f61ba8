//! The fence around all protocols of the network: whoever may not be connected is kept out, and a guest is let in without them.
//!
//! A guest is on its way to be a member: it has a connection, and on it one protocol, that of joining, which is outside of the fence.
//! The behaviours inside never hear of such a connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    task::{Context, Poll},
};

use either::Either;
use ipnetwork::IpNetwork;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour,
        NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionClosed, ConnectionEstablished},
        dummy,
    },
};

use crate::{
    admission::{Admission, NotAdmitted},
    guard::ip,
    hygiene::party,
};

/// Guests at a time, and those of one party (a /24, a /48).
const MAX_GUESTS: usize = 16;
const MAX_GUESTS_PER_PARTY: usize = 4;

/// Behaviours for those who may be connected.
pub(crate) struct Fence<B> {
    pub(crate) admission: Admission,
    pub(crate) inner: B,
    /// Connections that the behaviours inside know of, by peer.
    members: BTreeMap<PeerId, BTreeSet<ConnectionId>>,
    /// Connections that they do not know of, and the party of those who have called.
    guests: BTreeMap<ConnectionId, (PeerId, Option<IpNetwork>)>,
    /// Dials of ours to nodes whose key we do not know, as guests.
    calls: BTreeSet<ConnectionId>,
}

impl<B: NetworkBehaviour> Fence<B> {
    pub(crate) fn new(admission: Admission, inner: B) -> Self {
        Self {
            admission,
            inner,
            members: BTreeMap::new(),
            guests: BTreeMap::new(),
            calls: BTreeSet::new(),
        }
    }

    /// This dial of ours, which is about to begin, leads to whoever answers.
    pub(crate) fn expect(&mut self, call: ConnectionId) {
        self.calls.insert(call);
    }

    /// Whether a connection is a guest's, theirs or ours.
    pub(crate) fn is_guest(&self, connection: &ConnectionId) -> bool {
        self.guests.contains_key(connection)
    }

    /// Peers with connections that the behaviours inside know of.
    pub(crate) fn connected(&self) -> impl Iterator<Item = &PeerId> {
        self.members.keys()
    }

    /// Whether a peer has a connection that the behaviours inside know of.
    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.members.contains_key(peer)
    }

    /// A guest may be let in from there.
    fn has_room(&self, from: Option<IpNetwork>) -> bool {
        let others = self.guests.values().filter(|(_, party)| *party == from);
        self.admission.welcomes_guests()
            && self.guests.len() < MAX_GUESTS
            && others.count() < MAX_GUESTS_PER_PARTY
    }

    fn guests_of(&self, peer: &PeerId) -> usize {
        let guests = self.guests.values();
        guests.filter(|(guest, _)| guest == peer).count()
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Fence<B> {
    type ConnectionHandler = Either<THandler<B>, dummy::ConnectionHandler>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        match self.admission.admit(connection, &peer, remote) {
            Ok(()) => {
                let handler = self
                    .inner
                    .handle_established_inbound_connection(connection, peer, local, remote)?;
                Ok(Either::Left(handler))
            }
            Err(NotAdmitted::Stranger) => {
                let party = ip(remote).map(party);
                if !self.has_room(party) {
                    return Err(ConnectionDenied::new(NotAdmitted::Stranger));
                }
                self.guests.insert(connection, (peer, party));
                Ok(Either::Right(dummy::ConnectionHandler))
            }
            Err(why) => Err(ConnectionDenied::new(why)),
        }
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if self.calls.contains(&connection) {
            return Ok(Vec::new());
        }
        if let Some(peer) = peer {
            self.admission.check(&peer).map_err(ConnectionDenied::new)?;
        }
        self.inner
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.calls.remove(&connection) {
            self.guests.insert(connection, (peer, None));
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        self.admission.check(&peer).map_err(ConnectionDenied::new)?;
        let handler = self
            .inner
            .handle_established_outbound_connection(connection, peer, address, role, port)?;
        Ok(Either::Left(handler))
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "whatever is not about a connection is for the behaviours inside"
    )]
    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                let (peer, id) = (established.peer_id, established.connection_id);
                if self.is_guest(&id) {
                    return;
                }
                self.members.entry(peer).or_default().insert(id);
                let guests = self.guests_of(&peer);
                let established = ConnectionEstablished {
                    other_established: established.other_established.saturating_sub(guests),
                    ..established
                };
                self.inner
                    .on_swarm_event(FromSwarm::ConnectionEstablished(established));
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.admission.forget(&closed.connection_id);
                if self.guests.remove(&closed.connection_id).is_some() {
                    return;
                }
                if let Some(connections) = self.members.get_mut(&closed.peer_id) {
                    connections.remove(&closed.connection_id);
                    if connections.is_empty() {
                        self.members.remove(&closed.peer_id);
                    }
                }
                let guests = self.guests_of(&closed.peer_id);
                let closed = ConnectionClosed {
                    remaining_established: closed.remaining_established.saturating_sub(guests),
                    ..closed
                };
                self.inner
                    .on_swarm_event(FromSwarm::ConnectionClosed(closed));
            }
            FromSwarm::AddressChange(change) if self.is_guest(&change.connection_id) => {}
            FromSwarm::ListenFailure(failure) => {
                // Another behaviour denied it after this one had let it in.
                self.admission.forget(&failure.connection_id);
                self.guests.remove(&failure.connection_id);
                self.inner.on_swarm_event(FromSwarm::ListenFailure(failure));
            }
            FromSwarm::DialFailure(failure) => {
                self.calls.remove(&failure.connection_id);
                self.guests.remove(&failure.connection_id);
                self.inner.on_swarm_event(FromSwarm::DialFailure(failure));
            }
            other => self.inner.on_swarm_event(other),
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {
            Either::Left(event) => self
                .inner
                .on_connection_handler_event(peer, connection, event),
            Either::Right(never) => match never {},
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(peer_id) = self.admission.take_closing() {
            return Poll::Ready(ToSwarm::CloseConnection {
                peer_id,
                connection: CloseConnection::All,
            });
        }
        loop {
            let event = match self.inner.poll(cx) {
                Poll::Ready(event) => event,
                Poll::Pending => return Poll::Pending,
            };
            let ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::Any,
                event,
            } = event
            else {
                return Poll::Ready(event.map_in(Either::Left));
            };
            // Not the handler of a guest's connection, which would not understand.
            let connections = self.members.get(&peer_id);
            let Some(connection) = connections.and_then(BTreeSet::first) else {
                continue;
            };
            return Poll::Ready(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(*connection),
                event: Either::Left(event),
            });
        }
    }
}
