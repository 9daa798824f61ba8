//! Labels, carried out: neighbours are asked for them, and given them, inside the sessions of links.

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnetwork::Ipv6Network;
use routing::{Hint, LinkId, Next};
use wireguard::{Endpoint, PublicKey, Underlay};

use super::{
    Node, Task,
    paths::{LINK_PATIENCE, Path},
    peers::Entry,
};
use crate::{
    discard::Reason,
    fib::{self, Labelled, NextHop, Onward},
    identity::overlay,
    labelled::{HEADER, Head},
    labels::{Answer, LIFETIME, Pair},
    relayed,
    signal::Signal,
};

/// In place of a label: every one.
const ALL: u32 = 0;

impl Node {
    /// What this node seals for another.
    fn own_pair(&self, destination: Ipv6Addr) -> Pair {
        Pair {
            source: self.identity.node().address(),
            destination,
        }
    }

    /// The neighbour that leads to a node, if labels can be agreed with it.
    fn next_link(&self, destination: Ipv6Addr) -> Option<LinkId> {
        let Next::Via { link, .. } = self.router.lookup(destination) else {
            return None;
        };
        let peer = self.links.get(link)?.peer;
        self.peers.get(&peer)?.node.is_some().then_some(link)
    }

    /// The session with the node at this address is relayed and in use.
    pub(super) fn want_own_label(&mut self, destination: Ipv6Addr, now: Instant) {
        self.want_label(self.own_pair(destination), now);
    }

    /// Datagrams of this pair are handed on: asks the next node for a label, unless there is one.
    fn want_label(&mut self, pair: Pair, now: Instant) {
        if let Some(link) = self.next_link(pair.destination)
            && self.labels.want(link, pair, now)
        {
            self.ask_for_label(link, pair, now);
        }
        self.schedule_labels();
    }

    fn ask_for_label(&mut self, link: LinkId, pair: Pair, now: Instant) {
        if let Some(link) = self.links.get(link) {
            let (peer, endpoint) = (link.peer, link.endpoint);
            let request = Signal::LabelRequest(pair);
            self.signal(&peer, &request, 0, endpoint.into(), now);
        }
    }

    fn schedule_labels(&mut self) {
        self.agenda.set(Task::Labels, self.labels.poll_timeout());
    }

    /// Doubts links that labelled datagrams leave by and none comes by, forgets labels that have run out, and asks again for those that are
    /// wanted.
    pub(super) fn tend_labels(&mut self, now: Instant) {
        let silent: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| {
                let rtt = link.liveness.rtt().unwrap_or_default();
                link.stats.take_silence(LINK_PATIENCE.max(rtt * 2), now)
            })
            .map(|(id, _)| id)
            .collect();
        for link in silent {
            self.router.handle_hint(link, Hint::Silent, now);
        }
        let (has_changed, to_ask) = self.labels.handle_timeout(now);
        self.stale |= has_changed;
        for (link, pair) in to_ask {
            self.ask_for_label(link, pair, now);
        }
        self.schedule_labels();
    }

    /// The link of a peer that a signal came by.
    fn link_at(&self, peer: &PublicKey, from: &Underlay) -> Option<LinkId> {
        let mut links = self.links.of(peer);
        let found = links.find(|(_, link)| link.endpoint.is_same_way(from));
        found.map(|(id, _)| id)
    }

    /// A neighbour asks for a label.
    pub(super) fn on_label_request(
        &mut self,
        peer: &PublicKey,
        from: Underlay,
        pair: Pair,
        now: Instant,
    ) {
        let Some(link) = self.link_at(peer, &from) else {
            return self.discards.discard(Reason::SignalAstray, 1);
        };
        let is_here = pair.destination == self.identity.node().address();
        let answer = if self.may_hand_on(peer, pair) {
            let rng = &mut self.rng;
            self.labels.give(link, pair, || rng.u32(..), now)
        } else {
            Answer::Refused
        };
        let label = match answer {
            Answer::New(label) => {
                self.stale = true;
                label
            }
            Answer::Longer(label) => label,
            Answer::Refused => 0,
        };
        if label != 0 && !is_here {
            self.want_label(pair, now);
        }
        self.schedule_labels();
        let reply = Signal::Label {
            pair,
            label,
            lifetime_s: LIFETIME.as_secs() as u16,
        };
        self.signal(peer, &reply, 0, from.into(), now);
    }

    /// Whether what a neighbour says is of this pair would be taken in the nested form.
    fn may_hand_on(&self, peer: &PublicKey, pair: Pair) -> bool {
        let own = self.identity.node();
        let are_nodes = [pair.source, pair.destination]
            .iter()
            .all(|address| overlay().contains(*address) && relayed::is_node(*address));
        if !are_nodes || own.prefix().contains(pair.source) {
            return false;
        }
        let Some(entry) = self.peers.get(peer) else {
            return false;
        };
        pair.destination == own.address() || self.relays_for(entry) == fib::Relay::Yes
    }

    /// A neighbour has answered our question.
    pub(super) fn on_label(
        &mut self,
        peer: &PublicKey,
        from: Underlay,
        pair: Pair,
        label: u32,
        lifetime_s: u16,
        now: Instant,
    ) {
        let Some(link) = self.link_at(peer, &from) else {
            return self.discards.discard(Reason::SignalAstray, 1);
        };
        let lifetime = Duration::from_secs(lifetime_s.into());
        if self.labels.take(link, pair, label, lifetime, now) {
            self.stale = true;
        }
    }

    /// A neighbour does not know a label that we use.
    pub(super) fn on_label_unknown(
        &mut self,
        peer: &PublicKey,
        from: Underlay,
        label: u32,
        now: Instant,
    ) {
        let Some(link) = self.link_at(peer, &from) else {
            return self.discards.discard(Reason::SignalAstray, 1);
        };
        let has_lost = match label {
            ALL => self.labels.lose_all(link, now),
            label => self.labels.lose(link, label, now),
        };
        self.stale |= has_lost;
        self.schedule_labels();
    }

    /// A link has come up, or time has gone by without us: its other end may know labels that we do not.
    pub(super) fn disown_labels(&mut self, link: LinkId, now: Instant) {
        let is_node = |peer| {
            let entry: Option<&Entry> = self.peers.get(peer);
            entry.is_some_and(|entry| entry.node.is_some())
        };
        if let Some(link) = self.links.get(link).filter(|link| is_node(&link.peer)) {
            let (peer, endpoint) = (link.peer, link.endpoint);
            self.signal(&peer, &Signal::LabelUnknown(ALL), 0, endpoint.into(), now);
        }
    }

    /// A datagram came under a label that is not known: whoever may be using it is told.
    pub fn handle_unknown_label(&mut self, from: SocketAddr, label: u32, now: Instant) {
        let link = self
            .links
            .iter()
            .find(|(_, link)| link.endpoint.remote == from)
            .map(|(_, link)| (link.peer, link.endpoint));
        if let Some((peer, endpoint)) = link {
            let unknown = Signal::LabelUnknown(label);
            self.signal(&peer, &unknown, 0, endpoint.into(), now);
            self.drain(now);
        }
    }

    /// A route has changed: what is handed on to there needs a label of another neighbour.
    pub(super) fn relabel(&mut self, prefix: Ipv6Network, now: Instant) {
        let pairs: Vec<Pair> = self
            .labels
            .given()
            .map(|(_, _, pair)| pair)
            .filter(|pair| prefix.contains(pair.destination))
            .collect();
        for pair in pairs {
            self.want_label(pair, now);
        }
    }

    /// A link is no more, and neither are its labels.
    pub(super) fn forget_labels(&mut self, link: LinkId) {
        if self.labels.forget(link) {
            self.stale = true;
        }
    }

    /// What is done with labelled datagrams, for a snapshot.
    pub(super) fn given_labels(
        &self,
        next_hop: impl Fn(LinkId) -> Option<Arc<NextHop>>,
    ) -> Vec<(u32, Labelled)> {
        let own = self.identity.node().address();
        let given = self.labels.given().filter_map(|(label, link, pair)| {
            let came_by = self.links.get(link)?;
            let session = Arc::clone(self.device.session(&came_by.peer)?);
            let onward = if pair.destination == own {
                Onward::Here
            } else {
                match self.router.lookup(pair.destination) {
                    Next::Via { link, .. } => match next_hop(link) {
                        // Back where it came from would be a loop of two.
                        Some(hop) if !Arc::ptr_eq(&hop.session, &session) => {
                            let label = self.labels.of(link, pair);
                            Onward::Via(hop, label)
                        }
                        Some(_) | None => Onward::Nowhere,
                    },
                    Next::Own | Next::Unreachable | Next::Unknown => Onward::Nowhere,
                }
            };
            Some((
                label,
                Labelled {
                    from: came_by.endpoint.remote,
                    class: Endpoint::Underlay(came_by.endpoint).class(),
                    session,
                    stats: Arc::clone(&came_by.stats),
                    pair,
                    onward,
                },
            ))
        });
        given.collect()
    }

    /// The labels under which our own datagrams go, for a snapshot.
    pub(super) fn own_labels(
        &self,
        next_hop: impl Fn(LinkId) -> Option<Arc<NextHop>>,
    ) -> Vec<(Ipv6Addr, (Arc<NextHop>, u32))> {
        let relayed = self.peers.values().filter_map(|entry| match entry.path {
            Path::Relayed(link) => Some((link, entry.address)),
            Path::None | Path::Link(_) | Path::Direct => None,
        });
        let labelled = relayed.filter_map(|(link, address)| {
            let label = self.labels.of(link, self.own_pair(address))?;
            Some((address, (next_hop(link)?, label)))
        });
        labelled.collect()
    }

    /// A datagram of our own session with a node under the label of the neighbour that leads there, if it has given one.
    pub(super) fn labelled(
        &self,
        link: LinkId,
        node: Ipv6Addr,
        datagram: &[u8],
    ) -> Option<Vec<u8>> {
        let label = self.labels.of(link, self.own_pair(node))?;
        let hop_limit = relayed::HOP_LIMIT;
        let mut labelled = Vec::with_capacity(HEADER + datagram.len());
        labelled.extend_from_slice(&Head { hop_limit, label }.bytes());
        labelled.extend_from_slice(datagram);
        Some(labelled)
    }
}
