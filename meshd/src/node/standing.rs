//! Who may: one rule for sessions, links, relaying, found nodes, introductions and the control plane.
//!
//! A key may have a session because the configuration names it, because it is a member of the network that the node is in, or, in the
//! open network, because the node is open. Whom the network has revoked may not, whatever the configuration says.

use std::time::Instant;

use membership::{Standing, Suspension};
use tracing::warn;
use wireguard::PublicKey;

use super::{
    Node,
    peers::{Entry, Origin},
    routes,
};
use crate::{config::Admission, network::Network};

/// Whom the control plane may be connected with.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Admitted {
    /// The network.
    pub network: Network,
    /// Ed25519 keys of peers and members.
    pub listed: Vec<[u8; 32]>,
    /// Whether everybody else of the network is.
    pub open: bool,
    /// Whether those who have a ticket may ask.
    pub guests: bool,
}

impl Node {
    /// Why this key may have a session with the node; none: it may not.
    pub(super) fn grounds(&self, key: &PublicKey) -> Option<Origin> {
        if self.is_refused(key) {
            return None;
        }
        let entry = self.peers.get(key);
        match entry.map(|entry| entry.origin) {
            Some(named) if named.is_named() => Some(named),
            _ if self.membership.is_member(key) => Some(Origin::Member),
            _ if self.admits_everybody() => Some(Origin::Stranger),
            // Whoever is there gets its answer, though it has used the last invite; it does not stay.
            Some(Origin::Guest) if self.is_door(key) || self.network.is_private() => {
                Some(Origin::Guest)
            }
            Some(_) | None => None,
        }
    }

    /// Whether the network says that this key is out.
    pub(super) fn is_refused(&self, key: &PublicKey) -> bool {
        match self.membership.standing(key) {
            Standing::Revoked => true,
            Standing::Suspended { why, .. } => *why == Suspension::InviteReused,
            Standing::Member(_) | Standing::Pending { .. } | Standing::Left | Standing::Unknown => {
                false
            }
        }
    }

    /// Whether a session with this node may be opened from here: it is no stock device, and it may have one.
    pub(super) fn is_welcome(&self, key: &PublicKey) -> bool {
        let grounds = self.grounds(key);
        grounds.is_some_and(|origin| !origin.is_stock() && origin != Origin::Guest)
    }

    /// Whether everybody may open a session.
    pub(super) fn admits_everybody(&self) -> bool {
        self.admission == Admission::Open && !self.network.is_private()
    }

    /// The network that the node is in.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Whom the control plane may be connected with.
    pub fn admitted(&self, now: Instant) -> Admitted {
        let peers = self.peers.values();
        let named = peers.filter(|entry| matches!(entry.origin, Origin::Peer | Origin::Allowed));
        let named = named.filter_map(|entry| Some(*entry.node?.ed25519()));
        let members = self.members().map(|(node, _)| *node.ed25519());
        let own = *self.identity.node().ed25519();
        Admitted {
            network: self.network.clone(),
            listed: named.chain(members).filter(|key| *key != own).collect(),
            open: self.admits_everybody(),
            guests: self.welcomes_guests(now),
        }
    }

    /// Goes to another network. Who may have a session no longer loses it; the others keep theirs, and their links begin anew, since
    /// routes are proven for one network.
    pub(super) fn set_network(&mut self, network: Network, now: Instant) {
        self.network = network;
        let links: Vec<_> = self.links.iter().map(|(id, _)| id).collect();
        for id in links {
            self.close_link(id, now);
        }
        self.expel(now);
        self.drain(now);
        let (seed, owner) = (self.identity.seed(), routes::owner(&self.identity.node()));
        let epoch = Some(self.epoch);
        self.router = routes::router(&self.network, seed, owner, epoch, &mut self.rng, now);
        self.awaits_links = true;
        for (prefix, _) in std::mem::take(&mut self.routes) {
            self.on_route(prefix, now);
            self.relabel(prefix, now);
        }
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.refresh_endpoints(&peer, now);
            self.dial(&peer, now);
        }
        self.tell_transit(now);
        self.count_links(now);
        self.stale = true;
        self.review_found(now);
        self.drain(now);
    }

    /// Closes the sessions of those who may have none any more; what has become of the others is noted.
    pub(super) fn expel(&mut self, now: Instant) {
        let keys: Vec<PublicKey> = self.peers.keys().copied().collect();
        for key in keys {
            let Some(entry) = self.peers.get(&key) else {
                continue;
            };
            match (self.grounds(&key), entry.origin, entry.node) {
                (None, _, _) => self.remove(&key, now),
                (Some(Origin::Guest), Origin::Guest, _) => {}
                // It owns its prefix now.
                (Some(origin), Origin::Guest, Some(node)) => {
                    let found = entry.found.clone();
                    let fresh = self.entry_for(node, origin, now);
                    let entry = Entry { found, ..fresh };
                    if let Err(error) = self.set_peer(key, entry, now) {
                        warn!(peer = %self.label(&key), %error, "Member left out");
                    }
                    self.stale = true;
                }
                (Some(origin), _, Some(node)) if !origin.is_named() => {
                    let name = self.name_for(&node, origin);
                    if let Some(entry) = self.peers.get_mut(&key) {
                        entry.origin = origin;
                        entry.name = name;
                    }
                }
                (Some(_), _, _) => {}
            }
        }
    }
}
