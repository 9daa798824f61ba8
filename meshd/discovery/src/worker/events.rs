//! What the Swarm reports.

use std::time::Instant;

use libp2p::{
    Multiaddr, PeerId, autonat,
    core::{ConnectedPoint, transport::ListenerId},
    identify, kad, mdns, relay,
    request_response::{self, Message},
    swarm::{ConnectionId, SwarmEvent},
};
use tracing::debug;

use super::{Connection, Worker, protocols};
use crate::{
    Contact, Event, Found, How, NodeKey,
    behaviour::{BehaviourEvent, ProtocolsEvent, protocol, version},
    contact::{is_circuit, split},
    door::Dht,
    exchange::Whereabouts,
    guard::ip,
    hygiene::{Loopback, party},
    supervisor::tell,
};

/// What a node that relays for others says that it speaks.
const RELAYS: &str = "/libp2p/circuit/relay/0.2.0/hop";

impl Worker<'_> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "most of what libp2p reports is for logs, and it logs it itself"
    )]
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Fence(event)) => self.on_protocol_event(event),
            SwarmEvent::Behaviour(BehaviourEvent::Join(event)) => self.on_join(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                if self.swarm.behaviour().fence.is_guest(&connection_id) {
                    self.on_guest(peer_id, connection_id, &endpoint);
                } else {
                    self.on_connected(peer_id, connection_id, &endpoint);
                }
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                ..
            } => self.on_closed(&peer_id, &connection_id),
            SwarmEvent::OutgoingConnectionError {
                peer_id,
                connection_id,
                error,
            } => {
                debug!(?peer_id, error = %super::causes(&error), "Dial failed");
                self.on_no_guest(&connection_id, &error);
            }
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => self.on_listening(&listener_id, address),
            SwarmEvent::ListenerClosed { listener_id, .. } => self.on_listener_closed(&listener_id),
            SwarmEvent::ExternalAddrConfirmed { address } => self.on_reachable(address),
            SwarmEvent::ExternalAddrExpired { address } => {
                self.confirmed.remove(&address);
                self.adopt_role();
            }
            _ => {}
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "most of what libp2p reports is for logs, and it logs it itself"
    )]
    fn on_protocol_event(&mut self, event: ProtocolsEvent) {
        match event {
            ProtocolsEvent::Identify(identify::Event::Received {
                peer_id,
                connection_id,
                info,
            }) => self.on_identified(peer_id, connection_id, &info),
            ProtocolsEvent::Kad(event) => self.on_kad(event),
            ProtocolsEvent::Mdns(mdns::Event::Discovered(found)) => self.on_lan(found),
            ProtocolsEvent::Circuit(relay::client::Event::ReservationReqAccepted {
                relay_peer_id,
                ..
            }) => self.on_reserved(&relay_peer_id),
            ProtocolsEvent::Reach(autonat::v2::client::Event {
                tested_addr,
                result,
                ..
            }) => debug!(address = %tested_addr, reached = result.is_ok(), "Reachability tested"),
            ProtocolsEvent::Endpoints(event) => self.on_endpoints(event),
            ProtocolsEvent::Introductions(event) => self.on_introductions(event),
            _ => {}
        }
    }

    // ---- connections ---------------------------------------------------------------------------------------------------------

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let connection = Connection {
            remote: endpoint.get_remote_address().clone(),
            is_ours: endpoint.is_dialer(),
        };
        debug!(%peer, address = %connection.remote, ours = connection.is_ours, "Connected");
        self.connections.insert(id, (peer, connection));
        if let Some(key) = NodeKey::of_peer(&peer) {
            self.calls.on_connection(&key, Instant::now());
        }
        self.send_introductions(&peer);
    }

    fn on_closed(&mut self, peer: &PeerId, id: &ConnectionId) {
        if self.connections.remove(id).is_none() {
            return self.on_guest_gone(id);
        }
        if self.is_connected(peer) {
            return;
        }
        debug!(%peer, "Disconnected");
        self.anchors.on_disconnected(peer);
        if let Some(key) = NodeKey::of_peer(peer) {
            self.identified.remove(&key);
            self.calls.on_connection(&key, Instant::now());
        }
    }

    fn remote(&self, id: &ConnectionId) -> Option<&Multiaddr> {
        self.connections
            .get(id)
            .map(|(_, connection)| &connection.remote)
    }

    /// A node has said who and of which network it is. Its key is the connection's, whatever it says.
    fn on_identified(&mut self, peer: PeerId, id: ConnectionId, info: &identify::Info) {
        if info.protocol_version != version(&self.settings.network) {
            debug!(%peer, network = ?info.protocol_version, "Of another network");
            // It may be gone already, which is what is wanted.
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        let Some(key) = NodeKey::of_peer(&peer) else {
            return;
        };
        let now = Instant::now();
        let contact = self.contact_of(&peer, &info.listen_addrs);
        let speaks = |name: &str| info.protocols.iter().any(|other| other.as_ref() == name);
        let relay = contact.filter(|_| speaks(RELAYS));
        self.anchors.note(peer, relay, now);
        if let Some(contact) = contact {
            if speaks(protocol(&self.settings.network, "kad").as_ref()) {
                self.seat(peer, contact, now);
            }
            let is_ours = self.connections.get(&id).is_some_and(|(_, it)| it.is_ours);
            if is_ours && self.contacts.note(contact) {
                self.remember_at = Some(self.remember_at.unwrap_or(now + super::REMEMBER));
            }
        }
        // Who dialled begins; the other answers.
        let is_ours = self.connections.get(&id).is_some_and(|(_, it)| it.is_ours);
        if self.identified.insert(key) && is_ours {
            self.tell_whereabouts(&key);
        }
    }

    /// Puts a node that answers the DHT's questions into the table, if its network has not enough seats there.
    fn seat(&mut self, peer: PeerId, contact: Contact, now: Instant) {
        let Some(kad) = protocols(&mut self.swarm).kad.as_mut() else {
            return;
        };
        let own = kad::KBucketKey::from(self.key.peer().expect("our own key is a point"));
        let distance = own.distance(&kad::KBucketKey::from(peer));
        let Some(bucket) = distance.ilog2() else {
            return;
        };
        match self.diversity.seat(contact.key, bucket, contact.at.ip()) {
            Ok(()) => match kad.add_address(&peer, contact.address()) {
                kad::RoutingUpdate::Success | kad::RoutingUpdate::Pending => {
                    self.publisher.note_arrival(now);
                }
                kad::RoutingUpdate::Failed => self.diversity.leave(&contact.key),
            },
            Err(why) => debug!(%peer, %why, "Not in the table"),
        }
    }

    // ---- endpoints -----------------------------------------------------------------------------------------------------------

    /// Tells a connected node where our WireGuard port is; it answers with where its own is.
    pub(super) fn tell_whereabouts(&mut self, key: &NodeKey) {
        if let Some(peer) = key.peer().filter(|peer| self.is_connected(peer)) {
            let message = self.whereabouts.encode();
            let endpoints = &mut protocols(&mut self.swarm).endpoints;
            endpoints.send_request(&peer, message);
        }
    }

    fn on_endpoints(&mut self, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        match event {
            request_response::Event::Message {
                peer,
                connection_id,
                message,
            } => {
                let said = match message {
                    Message::Request {
                        request, channel, ..
                    } => {
                        let answer = self.whereabouts.encode();
                        let endpoints = &mut protocols(&mut self.swarm).endpoints;
                        // The connection may be closed by now.
                        if endpoints.send_response(channel, answer).is_err() {
                            debug!(%peer, "Nobody waits for our endpoints any more");
                        }
                        request
                    }
                    Message::Response { response, .. } => response,
                };
                self.on_whereabouts_of(&peer, &connection_id, &said);
            }
            request_response::Event::OutboundFailure { peer, error, .. } => {
                debug!(%peer, %error, "Endpoints not exchanged");
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                debug!(%peer, %error, "Endpoints not answered");
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn on_whereabouts_of(&self, peer: &PeerId, id: &ConnectionId, said: &[u8]) {
        let Some(key) = NodeKey::of_peer(peer) else {
            return;
        };
        let said = match Whereabouts::decode(said) {
            Ok(said) => said,
            Err(error) => {
                debug!(%peer, %error, "Endpoints not understood");
                return;
            }
        };
        // Through a relay, the address is the relay's.
        let remote = self.remote(id).filter(|remote| !is_circuit(remote));
        let seen = remote.and_then(ip);
        let endpoints = self.rules.read(|rules| said.candidates(seen, rules));
        let found = Found {
            key,
            endpoints,
            anchors: Vec::new(),
            how: How::Told,
        };
        tell(self.events, Event::Found(found));
    }

    fn on_introductions(&mut self, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        match event {
            request_response::Event::Message {
                peer,
                message:
                    Message::Request {
                        request, channel, ..
                    },
                ..
            } => {
                let introductions = &mut protocols(&mut self.swarm).introductions;
                if introductions.send_response(channel, vec![0]).is_err() {
                    debug!(%peer, "Nobody waits for an answer any more");
                }
                self.on_introduction(&peer, request);
            }
            request_response::Event::OutboundFailure { peer, error, .. } => {
                debug!(%peer, %error, "Introduction not delivered");
            }
            request_response::Event::Message {
                message: Message::Response { .. },
                ..
            }
            | request_response::Event::InboundFailure { .. }
            | request_response::Event::ResponseSent { .. } => {}
        }
    }

    // ---- the DHT -------------------------------------------------------------------------------------------------------------

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "requests that only ask are libp2p's to answer"
    )]
    fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed {
                id,
                result,
                stats,
                step,
            } => {
                if let kad::QueryResult::PutRecord(Err(error)) = &result {
                    debug!(%error, "Nobody keeps our record");
                    self.publisher.on_failure(Instant::now());
                }
                let Some(kad) = protocols(&mut self.swarm).kad.as_mut() else {
                    return;
                };
                let (network, derive) = (&self.settings.network, self.settings.derive);
                let outcome = self
                    .lookups
                    .on_progress(kad, id, result, &stats, step.last, network, derive);
                if let Some(outcome) = outcome {
                    self.on_outcome(outcome);
                }
            }
            kad::Event::InboundRequest {
                request:
                    kad::InboundRequest::PutRecord {
                        source,
                        connection,
                        record: Some(record),
                    },
            } => {
                let party = self.remote(&connection).and_then(ip).map(party);
                // Who comes through a relay of no known address is of the one party that has none.
                let party = party.or_else(|| "::/0".parse().ok());
                let (network, derive) = (&self.settings.network, self.settings.derive);
                if let Some(kad) = protocols(&mut self.swarm).kad.as_mut() {
                    let kept = kad.store_mut().keep(record, network, derive, party);
                    if let Err(why) = kept {
                        debug!(from = %source, %why, "A record is not kept");
                    }
                }
            }
            kad::Event::RoutingUpdated {
                old_peer: Some(old),
                ..
            } => {
                if let Some(key) = NodeKey::of_peer(&old) {
                    self.diversity.leave(&key);
                }
            }
            _ => {}
        }
    }

    // ---- where we are --------------------------------------------------------------------------------------------------------

    fn on_listening(&mut self, id: &ListenerId, address: Multiaddr) {
        debug!(%address, "Listening");
        if let Some(awaited) = &mut self.awaited {
            awaited.remove(id);
            self.settle();
        }
        // A server is configured to be one: its addresses are taken to be good.
        if self.is_server()
            && let Some((at, _)) = split(&address)
            && (!at.ip().is_loopback() || self.settings.loopback == Loopback::Allowed)
        {
            self.swarm.add_external_address(address);
        }
    }

    fn on_listener_closed(&mut self, id: &ListenerId) {
        let now = Instant::now();
        if self.anchors.on_closed(id, now) {
            debug!("A place at a relay is gone");
            self.publisher.note_change(now);
        } else if let Some(address) = self.listeners.remove(id) {
            debug!(%address, "Not listening any more");
            self.unlistened.push(address);
        }
    }

    fn on_reserved(&mut self, relay: &PeerId) {
        if self.anchors.on_reserved(relay) {
            debug!(%relay, "A relay passes introductions on to us");
            self.publisher.note_change(Instant::now());
        }
    }

    /// Somebody has reached us at this address.
    fn on_reachable(&mut self, address: Multiaddr) {
        if is_circuit(&address) {
            return;
        }
        debug!(%address, "Reachable");
        self.confirmed.insert(address);
        self.adopt_role();
    }

    /// Who is reachable answers the DHT's questions and relays introductions; who is not only asks.
    fn adopt_role(&mut self) {
        if self.settings.dht != Dht::Client {
            return;
        }
        let is_reachable = !self.confirmed.is_empty();
        let behaviour = protocols(&mut self.swarm);
        if let Some(kad) = behaviour.kad.as_mut() {
            kad.set_mode(Some(if is_reachable {
                kad::Mode::Server
            } else {
                kad::Mode::Client
            }));
        }
        behaviour.relay.set_status(Some(if is_reachable {
            relay::Status::Enable
        } else {
            relay::Status::Disable
        }));
    }
}
