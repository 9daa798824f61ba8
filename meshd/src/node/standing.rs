//! Who may: one rule for sessions, links, relaying, found nodes, introductions and the control plane.
//!
//! A key may have a session because the configuration names it, because it is a member of the network that the node is in, or, in the
//! open network, because the node is open. Whom the network has revoked may not, whatever the configuration says.

use std::time::Instant;

use wireguard::PublicKey;

use super::{Node, peers::Origin, routes};
use crate::{config::Admission, fib::Admits, network::Network};

impl Node {
    /// Why this key may have a session with the node; none: it may not.
    pub(super) fn grounds(&self, key: &PublicKey) -> Option<Origin> {
        match self.peers.get(key).map(|entry| entry.origin) {
            Some(named) if named.is_named() => Some(named),
            Some(Origin::Guest) => None,
            Some(_) | None if self.admits_everybody() => Some(Origin::Stranger),
            Some(_) | None => None,
        }
    }

    /// Whether a session with this node may be opened from here: it is no stock device, and it may have one.
    pub(super) fn is_welcome(&self, key: &PublicKey) -> bool {
        self.grounds(key).is_some_and(|origin| !origin.is_stock())
    }

    /// Whether everybody may open a session.
    pub(super) fn admits_everybody(&self) -> bool {
        self.admission == Admission::Open && !self.network.is_private()
    }

    /// What the packet threads let through of those who have no session.
    pub(super) fn admits(&self) -> Admits {
        if self.admits_everybody() {
            Admits::Everybody
        } else {
            Admits::Nobody
        }
    }

    /// The network that the node is in.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Goes to another network. Who may have a session no longer loses it; the others keep theirs, and their links begin anew, since
    /// routes are proven for one network.
    pub fn set_network(&mut self, network: Network, now: Instant) {
        if self.network == network {
            return;
        }
        self.network = network;
        let links: Vec<_> = self.links.iter().map(|(id, _)| id).collect();
        for id in links {
            self.close_link(id, now);
        }
        self.expel(now);
        self.drain(now);
        let (seed, owner) = (self.identity.seed(), routes::owner(&self.identity.node()));
        self.router = routes::router(
            &self.network,
            seed,
            owner,
            Some(self.epoch),
            &mut self.rng,
            now,
        );
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

    /// Closes the sessions of those who may have none any more.
    pub(super) fn expel(&mut self, now: Instant) {
        let keys: Vec<PublicKey> = self.peers.keys().copied().collect();
        for key in keys {
            match self.grounds(&key) {
                None => self.remove(&key, now),
                Some(origin) => {
                    if let Some(entry) = self.peers.get_mut(&key) {
                        entry.origin = origin;
                    }
                }
            }
        }
    }
}
