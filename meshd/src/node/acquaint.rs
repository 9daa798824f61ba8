//! Acquaintance: what neighbours tell each other of other nodes, so that whoever knows one member soon knows more.
//!
//! A node tells a neighbour who else it has a session with, and at which address of the underlay it hears it. It tells nobody of who does
//! not want that: a node that is open says so, and may be told of to everybody; one that is not is told of only between members of
//! the network, and those whom our configuration names. What is told is a hint like any other ([`Source::Neighbour`]).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use routing::{LinkId, NeighbourState};
use wireguard::PublicKey;

use super::{
    Node, Task,
    found::{Found, Source},
    peers::Origin,
};
use crate::{
    discard::Reason,
    identity::NodeId,
    signal::{Acquaintance, Signal},
};

/// Nodes that a new neighbour is told of at once, and neighbours that are told of it.
const AT_FIRST: usize = 16;
/// Nodes that each neighbour is told of later on, at a time.
const LATER: usize = 4;
/// How often.
const TELL: Duration = Duration::from_secs(60);
/// So much a neighbour may tell at once, and so much a second.
const MOST_TOLD: f64 = 48.0;
/// See [`MOST_TOLD`].
const TOLD_PER_SECOND: f64 = 1.0;

/// What neighbours have told and may tell.
#[derive(Debug, Default)]
pub(super) struct Acquaintances {
    /// How much each may still tell, and when that was so.
    credit: BTreeMap<PublicKey, (f64, Instant)>,
}

impl Acquaintances {
    fn may_tell(&mut self, peer: PublicKey, now: Instant) -> bool {
        let (credit, since) = self.credit.entry(peer).or_insert((MOST_TOLD, now));
        let gained = now.saturating_duration_since(*since).as_secs_f64() * TOLD_PER_SECOND;
        *credit = (*credit + gained).min(MOST_TOLD);
        *since = now;
        if *credit < 1.0 {
            return false;
        }
        *credit -= 1.0;
        true
    }

    /// A peer is gone.
    pub(super) fn forget(&mut self, peer: &PublicKey) {
        self.credit.remove(peer);
    }
}

impl Node {
    /// A link has come up: its other end hears who we are to others, and of whom we know.
    pub(super) fn greet_neighbour(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get(id) else {
            return;
        };
        let peer = link.peer;
        self.present(id, now);
        self.tell_neighbour(&peer, id, AT_FIRST, now);
        // It may have said before what it is to others.
        self.tell_of(&peer, now);
        if !self.agenda.has(&Task::Acquaint) {
            self.agenda.set(Task::Acquaint, Some(now + TELL));
        }
    }

    /// Now and then all neighbours hear of some nodes, in case they have missed it.
    pub(super) fn tend_acquaintances(&mut self, now: Instant) {
        let neighbours = self.neighbours();
        for (peer, id) in &neighbours {
            self.present(*id, now);
            self.tell_neighbour(peer, *id, LATER, now);
        }
        let jitter = TELL.mul_f64(self.rng.f64() / 4.0);
        let next = (!neighbours.is_empty()).then(|| now + TELL + jitter);
        self.agenda.set(Task::Acquaint, next);
    }

    /// Nodes at the other end of a link that works, each with one such link.
    fn neighbours(&self) -> Vec<(PublicKey, LinkId)> {
        let mut neighbours = BTreeMap::new();
        for (id, link) in self.links.iter() {
            let is_node = self
                .peers
                .get(&link.peer)
                .is_some_and(|entry| entry.node.is_some());
            if is_node && link.state != NeighbourState::Down {
                neighbours.entry(link.peer).or_insert(id);
            }
        }
        neighbours.into_iter().collect()
    }

    fn present(&mut self, id: LinkId, now: Instant) {
        let is_open = self.admits_everybody();
        self.tell(id, &Signal::Presence { is_open }, now);
    }

    fn tell(&mut self, id: LinkId, signal: &Signal, now: Instant) {
        if let Some(link) = self.links.get(id) {
            let (peer, to) = (link.peer, link.endpoint.into());
            self.signal(&peer, signal, 0, to, now);
        }
    }

    /// Tells a neighbour of some of the nodes that it may hear of.
    fn tell_neighbour(&mut self, peer: &PublicKey, id: LinkId, count: usize, now: Instant) {
        let mut others: Vec<PublicKey> = self
            .peers
            .keys()
            .filter(|other| self.may_be_told(other, peer))
            .copied()
            .collect();
        self.rng.shuffle(&mut others);
        let known = others.into_iter().filter_map(|key| self.acquaintance(&key));
        for acquaintance in known.take(count).collect::<Vec<_>>() {
            self.tell(id, &Signal::Acquaintance(acquaintance), now);
        }
    }

    /// Tells some neighbours of a node.
    fn tell_of(&mut self, key: &PublicKey, now: Instant) {
        let Some(acquaintance) = self.acquaintance(key) else {
            return;
        };
        let mut neighbours = self.neighbours();
        neighbours.retain(|(peer, _)| self.may_be_told(key, peer));
        self.rng.shuffle(&mut neighbours);
        for (_, id) in neighbours.into_iter().take(AT_FIRST) {
            self.tell(id, &Signal::Acquaintance(acquaintance), now);
        }
    }

    /// Whether a neighbour may hear of a node.
    fn may_be_told(&self, of: &PublicKey, to: &PublicKey) -> bool {
        let (Some(node), Some(neighbour)) = (self.peers.get(of), self.peers.get(to)) else {
            return false;
        };
        let is_named = |origin| matches!(origin, Origin::Peer | Origin::Allowed | Origin::Member);
        of != to
            && node.node.is_some()
            && (node.says_open || (is_named(node.origin) && is_named(neighbour.origin)))
    }

    /// Where a node can be heard straight, as it was proven: what came inside its session came from there.
    fn acquaintance(&self, key: &PublicKey) -> Option<Acquaintance> {
        if !self.is_open_with(key) {
            return None;
        }
        let linked = self
            .links
            .of(key)
            .filter(|(_, link)| link.state != NeighbourState::Down);
        let linked = linked.map(|(_, link)| link.endpoint.remote);
        let current = self.device.session(key)?.endpoint();
        let current = current.and_then(|endpoint| endpoint.remote());
        // What is good on one link only means nothing elsewhere.
        let is_far = |endpoint: &SocketAddr| match endpoint {
            SocketAddr::V6(v6) => !v6.ip().is_unicast_link_local(),
            SocketAddr::V4(v4) => !v4.ip().is_link_local(),
        };
        let mut endpoints = [None; Acquaintance::ENDPOINTS];
        let mut count = 0;
        for endpoint in linked.chain(current).filter(is_far) {
            if count < endpoints.len() && !endpoints.contains(&Some(endpoint)) {
                endpoints[count] = Some(endpoint);
                count += 1;
            }
        }
        (count > 0).then_some(Acquaintance {
            key: *key,
            endpoints,
        })
    }

    /// A neighbour says whether others may hear of it.
    pub(super) fn on_presence(&mut self, peer: &PublicKey, is_open: bool, now: Instant) {
        let Some(entry) = self.peers.get_mut(peer) else {
            return;
        };
        let is_new = std::mem::replace(&mut entry.says_open, is_open) != is_open;
        if is_new && is_open {
            self.tell_of(peer, now);
        }
    }

    /// A neighbour tells of a node.
    pub(super) fn on_acquaintance(
        &mut self,
        peer: PublicKey,
        acquaintance: &Acquaintance,
        now: Instant,
    ) {
        if self.links.of(&peer).next().is_none() || !self.acquaintances.may_tell(peer, now) {
            return self.discards.discard(Reason::PeerTalksTooMuch, 1);
        }
        let Ok(node) = NodeId::from_public_key(&acquaintance.key) else {
            return self.discards.discard(Reason::SignalUnknown, 1);
        };
        let endpoints = acquaintance.endpoints.iter().flatten().copied().collect();
        let source = Source::Neighbour(peer);
        self.handle_found(
            Found {
                node,
                endpoints,
                source,
            },
            now,
        );
    }
}
