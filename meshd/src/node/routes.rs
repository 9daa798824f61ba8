//! Routes: what the router says, carried out; and who is behind an address.

use std::{collections::BTreeMap, net::Ipv6Addr, sync::Arc, time::Instant};

use ipnetwork::Ipv6Network;
use routing::{
    Event, FibAction, FibOp, Next, Router, RouterId, Transit, Transmit,
    origin::{Own, Owner},
};
use tracing::{debug, warn};
use wireguard::PublicKey;

use super::{
    Node, Output,
    peers::{Entry, Origin},
};
use crate::{
    admin::{Happening, WarningCode},
    config::{Relay, StockRouting},
    fib::{self, Carrier, Fib, NextHop, Role},
    identity::{NodeId, overlay},
    network::Network,
    packet,
};

/// What belongs to a node as an origin of routes.
pub(super) fn owner(node: &NodeId) -> Owner {
    Owner {
        router_id: RouterId(node.router_id()),
        prefix: node.prefix(),
    }
}

/// What belongs to the holder of an Ed25519 key, if it may be a node: for [`routing::origin::Job::run`].
pub fn derive(key: &[u8; 32]) -> Option<Owner> {
    NodeId::from_ed25519(*key).ok().map(|node| owner(&node))
}

/// A router of the node in that network, which is about to get its links. `epoch` is the last that was begun.
pub(super) fn router(
    network: &Network,
    seed: &[u8; 32],
    owner: Owner,
    epoch: Option<u32>,
    rng: &mut fastrand::Rng,
    now: Instant,
) -> Router {
    let prefix = owner.prefix;
    let own = Own::in_network(network.of_origins(), seed, owner, epoch);
    let mut router = Router::new(routing::Config::new(overlay()), own, rng.u64(..), now);
    router.announce(prefix, now);
    router.await_links(true, now);
    router
}

impl Node {
    pub(super) fn on_router_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Fib(operations) => {
                for operation in operations {
                    self.on_fib(operation, now);
                }
            }
            Event::Route {
                prefix, from, to, ..
            } => {
                let hop = to.or(from);
                let router_id = hop.map(|hop| hop.router_id.to_string()).unwrap_or_default();
                let what = Happening::Route {
                    prefix,
                    metric: to.map(|hop| hop.metric.0),
                    next_hop: to.and_then(|hop| self.neighbour_at(hop.link)),
                    router_id,
                };
                self.history.push(what, now);
                self.outputs.push_back(Output::Changed);
            }
            Event::Neighbour {
                link, state, cost, ..
            } => {
                self.on_neighbour(link, state, cost, now);
                self.outputs.push_back(Output::Changed);
            }
            Event::Verify { id, job } => self.outputs.push_back(Output::Verify { id, job }),
            Event::Persist { epoch, .. } => {
                if epoch != self.epoch {
                    self.epoch = epoch;
                    self.outputs.push_back(Output::Remember { epoch });
                }
            }
            Event::IdentityCloned => {
                let text = "another machine runs with this node's key".to_owned();
                self.alarm(WarningCode::IdentityCloned, text, now);
            }
            Event::Conflict(conflict) => {
                let text = format!(
                    "the node with router-id {} has signed two records of one epoch: its key is in use twice",
                    conflict.router_id()
                );
                self.alarm(WarningCode::OriginConflict, text, now);
            }
            Event::Quarantined { link, .. } => {
                let peer = self.links.get(link).map(|link| self.label(&link.peer));
                let text = format!(
                    "neighbour {} drops what it is given to carry, and is not used for a while",
                    peer.unwrap_or_default()
                );
                self.alarm(WarningCode::RelayDrops, text, now);
            }
        }
    }

    fn on_fib(&mut self, operation: FibOp, now: Instant) {
        let FibOp { prefix, action } = operation;
        let link = match action {
            FibAction::Via { link, .. } => {
                self.routes.insert(prefix, Some(link));
                Some(link)
            }
            FibAction::Unreachable => {
                self.routes.insert(prefix, None);
                None
            }
            FibAction::Remove => {
                self.routes.remove(&prefix);
                None
            }
        };
        self.stale = true;
        let via = link.and_then(|link| self.neighbour_at(link));
        let what = Happening::Fib {
            prefix,
            via,
            link: link.map(|link| link.0),
        };
        self.history.push(what, now);
        self.outputs.push_back(Output::Changed);
        self.on_route(prefix, now);
        self.relabel(prefix, now);
    }

    /// The overlay address of the neighbour at the end of a link.
    pub(super) fn neighbour_at(&self, link: routing::LinkId) -> Option<Ipv6Addr> {
        let peer = self.links.get(link)?.peer;
        self.peers.get(&peer).map(|entry| entry.address)
    }

    /// Whether some neighbour leads to an address.
    pub(super) fn is_routed(&self, address: Ipv6Addr) -> bool {
        matches!(self.router.lookup(address), Next::Via { .. })
    }

    /// A routing packet is stamped, sealed and sent at once.
    pub(super) fn send_babel(&mut self, transmit: Transmit, now: Instant) {
        let Transmit {
            link,
            to,
            mut packet,
        } = transmit;
        packet.stamp(self.router.micros(now));
        let destination = match to {
            routing::Cast::Multicast => routing::wire::GROUP,
            routing::Cast::Unicast(address) => address,
        };
        let own = self.identity.node().link_local();
        //= RFC 8966 §4 datagram
        let mut packet = packet::udp_between(own, destination, routing::wire::PORT, &packet.bytes);
        packet::set_hop_limit(&mut packet, 1);
        if let Some(link) = self.links.get_mut(link) {
            link.counters.tx_bytes += packet.len() as u64;
            link.counters.tx_packets += 1;
        }
        self.send_on_link(link, &packet, now);
    }

    /// Says in `status` and to the log that something is wrong.
    pub(super) fn alarm(&mut self, code: WarningCode, text: String, now: Instant) {
        if self.alarms.get(&code) == Some(&text) {
            return;
        }
        warn!(%code, "{text}");
        let what = Happening::Warning {
            code: code.to_string(),
            text: text.clone(),
        };
        self.history.push(what, now);
        self.alarms.insert(code, text);
    }

    // ---- who is there --------------------------------------------------------------------------------------------------------

    /// The node that an address belongs to, as a peer: the key behind it comes from the record that proved the route to it, and is taken
    /// only if the address follows from it.
    pub(super) fn first_contact(
        &mut self,
        destination: Ipv6Addr,
        now: Instant,
    ) -> Option<PublicKey> {
        if let Some(session) = self.device.owner(destination) {
            return Some(*session.key());
        }
        if let Some(member) = self.member_at(destination) {
            let key = member.public_key();
            return self.admit(key, now).map(|_| key);
        }
        if !self.admits_everybody() || !self.is_routed(destination) {
            return None;
        }
        let mask = u128::from(u64::MAX) << 64;
        let network = Ipv6Addr::from_bits(destination.to_bits() & mask);
        let prefix = Ipv6Network::new(network, 64).ok()?;
        let node = NodeId::from_ed25519(*self.router.record(prefix)?.key()).ok()?;
        if node.prefix() != prefix {
            return None;
        }
        debug!(address = %node.address(), "First contact");
        let key = node.public_key();
        self.admit(key, now).map(|_| key)
    }

    pub(super) fn address_of(&self, peer: &PublicKey) -> Ipv6Addr {
        self.peers
            .get(peer)
            .map_or(Ipv6Addr::UNSPECIFIED, |entry| entry.address)
    }

    pub(super) fn is_open_with(&self, peer: &PublicKey) -> bool {
        self.device
            .session(peer)
            .is_some_and(|session| session.is_established())
    }

    // ---- the snapshot --------------------------------------------------------------------------------------------------------

    /// What packet threads forward by.
    pub(super) fn snapshot(&self) -> Fib {
        let node = self.identity.node();
        let own = fib::Own {
            address: node.address(),
            prefix: node.prefix(),
            link_local: node.link_local(),
            token: self.pings.token,
        };
        let carriers = self.peers.iter().filter_map(|(key, entry)| {
            let session = self.device.session(key)?;
            Some(Carrier {
                session: Arc::clone(session),
                owns: entry.allowed.clone(),
                role: self.role(entry),
                stats: Arc::clone(&entry.stats),
                inbound: entry.inbound.clone(),
            })
        });
        let next_hops: BTreeMap<_, _> = self
            .links
            .iter()
            .filter_map(|(id, link)| {
                let session = self.device.session(&link.peer)?;
                let next_hop = NextHop {
                    link: id,
                    session: Arc::clone(session),
                    endpoint: link.endpoint,
                    mtu: link.liveness.mtu(),
                    stats: Arc::clone(&link.stats),
                };
                Some((id, Arc::new(next_hop)))
            })
            .collect();
        let routes = self.routes.iter().map(|(prefix, link)| {
            let next_hop = link.and_then(|link| next_hops.get(&link)).map(Arc::clone);
            (*prefix, next_hop)
        });
        let next_hop = |link| next_hops.get(&link).map(Arc::clone);
        Fib::new(own, carriers, routes)
            .admitting(self.admits())
            .relaying(self.relay.mbit)
            .naming(self.directory.clone())
            .probing(self.reach.tokens())
            .hosting(self.hosted())
            .labelling(self.given_labels(next_hop), self.own_labels(next_hop))
    }

    /// Whether a neighbour is told of routes to others: there is no use in them to one whose packets are not forwarded. Stock routers
    /// need them for their own packets.
    pub(super) fn transit(&self, entry: &Entry) -> Transit {
        match (entry.node, self.relays_for(entry)) {
            (Some(_), fib::Relay::No) => Transit::No,
            (Some(_), fib::Relay::Yes) | (None, _) => Transit::Yes,
        }
    }

    /// Whether the packets of a peer for other nodes are forwarded.
    pub(super) fn relays_for(&self, entry: &Entry) -> fib::Relay {
        match (self.relay.relay, entry.origin) {
            (Relay::Off, _) | (Relay::Members, Origin::Stranger) | (_, Origin::Guest) => {
                fib::Relay::No
            }
            (Relay::Members | Relay::Open, _) => fib::Relay::Yes,
        }
    }

    fn role(&self, entry: &Entry) -> Role {
        let relay = self.relays_for(entry);
        match (&entry.node, &entry.routing) {
            (Some(node), _) if entry.origin == Origin::Guest => Role::Guest {
                link_local: node.link_local(),
            },
            (Some(node), _) => Role::Node {
                address: node.address(),
                link_local: node.link_local(),
                relay,
            },
            (None, StockRouting::None) => Role::Leaf,
            (None, StockRouting::Stub) => Role::StockRouter {
                relay: fib::Relay::No,
            },
            (None, StockRouting::Legacy(_)) => Role::StockRouter { relay },
        }
    }
}
