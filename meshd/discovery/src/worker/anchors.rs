//! Nodes that pass introductions on to us: reservations with relays, kept for as long as nobody reaches us without.
//!
//! libp2p does not reserve again by itself. A reservation is a listener; when it closes, for whatever reason, it is gone, and another one
//! is made.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, core::transport::ListenerId, multiaddr::Protocol};
use tracing::debug;

use super::Worker;
use crate::{Contact, NodeKey, record::MAX_ANCHORS};

/// A relay that refused is asked again after this.
const AGAIN: Duration = Duration::from_secs(60);

/// Relays, and our places at them.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    /// Connected nodes that relay, and where they are.
    relays: HashMap<PeerId, Relay>,
    places: HashMap<ListenerId, PeerId>,
}

#[derive(Debug)]
struct Relay {
    contact: Contact,
    is_confirmed: bool,
    ask_at: Instant,
}

impl Anchors {
    /// Relays at which we have a place.
    pub(super) fn confirmed(&self) -> Vec<Contact> {
        let confirmed = self.relays.values().filter(|relay| relay.is_confirmed);
        let mut contacts: Vec<_> = confirmed.map(|relay| relay.contact).collect();
        contacts.sort();
        contacts
    }

    /// All relays that we are connected with.
    pub(super) fn relays(&self) -> impl Iterator<Item = &Contact> {
        self.relays.values().map(|relay| &relay.contact)
    }

    /// A connected node says that it relays, or that it does not any more.
    pub(super) fn note(&mut self, peer: PeerId, contact: Option<Contact>, now: Instant) {
        match contact {
            Some(contact) => {
                let relay = self.relays.entry(peer).or_insert(Relay {
                    contact,
                    is_confirmed: false,
                    ask_at: now,
                });
                relay.contact = contact;
            }
            None => {
                self.relays.remove(&peer);
            }
        }
    }

    /// A relay has given us a place; returns whether it is a new one.
    pub(super) fn on_reserved(&mut self, peer: &PeerId) -> bool {
        match self.relays.get_mut(peer) {
            Some(relay) => !std::mem::replace(&mut relay.is_confirmed, true),
            None => false,
        }
    }

    /// A listener has closed; returns whether it was a place at a relay.
    pub(super) fn on_closed(&mut self, listener: &ListenerId, now: Instant) -> bool {
        let Some(peer) = self.places.remove(listener) else {
            return false;
        };
        if let Some(relay) = self.relays.get_mut(&peer) {
            relay.is_confirmed = false;
            relay.ask_at = now + AGAIN;
        }
        true
    }

    pub(super) fn on_disconnected(&mut self, peer: &PeerId) {
        self.relays.remove(peer);
    }
}

/// The address of a node through a relay.
pub(super) fn circuit(relay: &Contact) -> Option<Multiaddr> {
    let address = relay.address().with(Protocol::P2p(relay.key.peer()?));
    Some(address.with(Protocol::P2pCircuit))
}

impl Worker<'_> {
    /// Asks for places at relays while nobody reaches us directly, and gives them up when somebody does.
    pub(super) fn tend_anchors(&mut self, now: Instant) {
        if self.is_server() || !self.confirmed.is_empty() {
            let places: Vec<_> = self.anchors.places.drain().map(|(id, _)| id).collect();
            for id in places {
                self.swarm.remove_listener(id);
            }
            return;
        }
        let held: Vec<PeerId> = self.anchors.places.values().copied().collect();
        let mut free: Vec<(PeerId, Contact)> = Vec::new();
        for (peer, relay) in &mut self.anchors.relays {
            if held.len() + free.len() >= MAX_ANCHORS {
                break;
            }
            if !held.contains(peer) && relay.ask_at <= now {
                relay.ask_at = now + AGAIN;
                free.push((*peer, relay.contact));
            }
        }
        for (peer, contact) in free {
            let Some(address) = circuit(&contact) else {
                continue;
            };
            match self.swarm.listen_on(address) {
                Ok(id) => {
                    self.anchors.places.insert(id, peer);
                }
                Err(error) => debug!(%peer, error = %super::causes(&error), "No place at a relay"),
            }
        }
    }

    /// Where a connected node may be dialled by others, if it can: at the address that we reached it at, or at one that it listens on
    /// and its connection comes from.
    pub(super) fn contact_of(&self, peer: &PeerId, listening: &[Multiaddr]) -> Option<Contact> {
        let key = NodeKey::of_peer(peer)?;
        let mut connections = self.connections.values().filter(|(other, _)| other == peer);
        connections.find_map(|(_, connection)| {
            let dialled = Contact::new(key, &connection.remote)?;
            if connection.is_ours {
                return Some(dialled);
            }
            let claimed = listening
                .iter()
                .filter_map(|address| Contact::new(key, address));
            let mut same = claimed.filter(|contact| contact.at.ip() == dialled.at.ip());
            same.next()
        })
    }
}
