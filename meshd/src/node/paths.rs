//! Paths: which way a session's packets take, and whether that way carries them.
//!
//! A session goes straight while there is a link that works, and through other nodes while there is none but a route. It moves from one to
//! the other without a handshake. What tells whether packets arrive are probes inside the session (`liveness.rs`); of relayed ones the
//! router hears, so that a next hop that drops them is left.

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use ipnetwork::Ipv6Network;
use routing::{Hint, LinkId, Next, Verdict};
use tracing::{debug, info};
use wireguard::{
    Carriage, Endpoint, PublicKey, Underlay,
    constants::{OVERHEAD, PADDING},
};

use super::{Node, Output, Task, links::STRANDED};
use crate::{
    admin::Happening,
    discard::Reason,
    ecn::Ecn,
    fragment::fragments,
    icmp::{RelayError, TIME_EXCEEDED},
    liveness::{self, LEAST_MTU, Liveness, Narrow},
    path::Demand,
    relayed,
    signal::{Echo, Probe, Signal, Way},
};

/// Users' packets that wait for a sign of a neighbour for so long make its link suspect.
pub(super) const LINK_PATIENCE: Duration = Duration::from_millis(300);

/// Which way a session's packets take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Path {
    /// None that is known.
    #[default]
    None,
    /// By this link.
    Link(LinkId),
    /// Over the underlay, where routing is not heard (`reach.rs`).
    Direct,
    /// Through other nodes, the first of which is at the end of this link.
    Relayed(LinkId),
}

impl Path {
    pub(super) fn is_relayed(self) -> bool {
        matches!(self, Self::Relayed(_))
    }
}

impl Node {
    // ---- which way -----------------------------------------------------------------------------------------------------------

    /// Chooses the way of a session's packets anew, since links, routes or the session have changed.
    pub(super) fn choose_path(&mut self, peer: &PublicKey, now: Instant) {
        let Some(entry) = self.peers.get(peer) else {
            return;
        };
        if entry.origin.is_stock() {
            return;
        }
        let before = entry.path;
        let is_open = self.is_open_with(peer);
        let Some(session) = self.device.session(peer) else {
            return;
        };
        let current = match before {
            Path::Link(link) => Some(link),
            Path::None | Path::Direct | Path::Relayed(_) => None,
        };
        let best = self.links.best(peer, current);
        let next = self.router.lookup(entry.address);
        // Where a link leads, routing says whether it works.
        let is_links = |way: &Underlay| {
            let mut links = self.links.of(peer);
            links.any(|(_, link)| link.endpoint.is_same_way(way))
        };
        let straight = self.reach.way(peer, matches!(next, Next::Via { .. }));
        let straight = straight.filter(|(way, _)| !is_links(way));
        let path = match (best, next) {
            (Some(link), _) => Path::Link(link),
            (None, _) if straight.is_some() && is_open => Path::Direct,
            (None, Next::Via { link, .. }) => Path::Relayed(link),
            (None, Next::Own | Next::Unreachable | Next::Unknown) => match session.endpoint() {
                Some(Endpoint::Underlay(_)) => Path::Direct,
                Some(Endpoint::Overlay(_)) | None => Path::None,
            },
        };
        let address = entry.address;
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.path = path;
        }
        match path {
            Path::Link(id) => {
                let Some(link) = self.links.get(id) else {
                    return;
                };
                let (endpoint, mtu) = (link.endpoint, link.liveness.mtu());
                self.take_way(peer, endpoint.into(), mtu, Carriage::Whole, now);
            }
            Path::Relayed(_) => {
                let ceiling = self.relayed_ceiling(path);
                let seed = self.rng.u64(..);
                let Some(entry) = self.peers.get_mut(peer) else {
                    return;
                };
                let liveness = entry
                    .liveness
                    .get_or_insert_with(|| Liveness::new(ceiling, seed));
                if path != before && is_open {
                    liveness.handle_change(ceiling, now);
                }
                let (mtu, carriage) = (liveness.mtu(), liveness.carriage());
                self.take_way(peer, Endpoint::Overlay(address), mtu, carriage, now);
                if path != before && is_open {
                    self.want_own_label(address, now);
                }
                self.heed_liveness(peer, now);
            }
            Path::Direct => {
                if let Some(way) = straight {
                    self.take_straight(peer, way, now);
                }
            }
            Path::None => {}
        }
        if path != before {
            self.on_path(peer, before, path, now);
        }
    }

    /// A session has opened: whether its way through other nodes carries it is to be found out, and a label is wanted for it.
    pub(super) fn try_path(&mut self, peer: &PublicKey, now: Instant) {
        let known = self.peers.get(peer);
        let Some((path, address)) = known.map(|entry| (entry.path, entry.address)) else {
            return;
        };
        if !path.is_relayed() {
            return;
        }
        self.want_own_label(address, now);
        let ceiling = self.relayed_ceiling(path);
        if let Some(liveness) = self
            .peers
            .get_mut(peer)
            .and_then(|entry| entry.liveness.as_mut())
        {
            liveness.handle_change(ceiling, now);
            self.heed_liveness(peer, now);
        }
    }

    fn on_path(&mut self, peer: &PublicKey, before: Path, path: Path, now: Instant) {
        let interval = match path {
            Path::Link(_) | Path::Direct => Some(LINK_PATIENCE),
            Path::Relayed(_) => self
                .peers
                .get(peer)
                .and_then(|entry| entry.liveness.as_ref())
                .map(Liveness::patience),
            Path::None => None,
        };
        self.device.set_use_interval(peer, interval, now);
        // The way through others has gone as well: the peer may have lost the session before.
        let has_way = self.reach.way(peer, false).is_some();
        if before.is_relayed() && matches!(path, Path::None | Path::Direct) && !has_way {
            self.agenda.set(Task::Stranded(*peer), Some(now + STRANDED));
        }
        self.refresh_endpoints(peer, now);
        self.device.handle_new_way(peer, now);
        if self.is_open_with(peer) {
            if before.is_relayed() != path.is_relayed() {
                let way = if path.is_relayed() {
                    "relayed"
                } else {
                    "direct"
                };
                info!(peer = %self.label(peer), path = way, "Path changed");
            }
            self.note_path(peer, now);
        }
        self.look_at_streams(now);
        self.outputs.push_back(Output::Changed);
    }

    pub(super) fn note_path(&mut self, peer: &PublicKey, now: Instant) {
        let what = Happening::Path {
            peer: self.label(peer),
            address: self.address_of(peer),
            path: self.path(peer),
        };
        self.history.push(what, now);
    }

    pub(super) fn take_way(
        &self,
        peer: &PublicKey,
        endpoint: Endpoint,
        mtu: usize,
        carriage: Carriage,
        now: Instant,
    ) {
        let Some(session) = self.device.session(peer) else {
            return;
        };
        session.set_mtu(mtu);
        session.set_carriage(carriage);
        if session.endpoint() != Some(endpoint) {
            session.lock(now).set_endpoint(endpoint);
        }
    }

    /// The longest packet that a relayed session can be expected to carry.
    fn relayed_ceiling(&self, path: Path) -> usize {
        let link = match path {
            Path::Relayed(link) => self.links.get(link),
            Path::None | Path::Link(_) | Path::Direct => None,
        };
        let mtu = match link {
            Some(link) => link.liveness.mtu(),
            None => usize::from(self.interface.mtu),
        };
        mtu.saturating_sub(relayed::OVERHEAD + OVERHEAD)
            .max(LEAST_MTU)
    }

    /// A route has changed: the session with the node there may take another way.
    pub(super) fn on_route(&mut self, prefix: Ipv6Network, now: Instant) {
        let owner = self.device.owner(prefix.ip()).map(|session| *session.key());
        if let Some(peer) = owner {
            self.choose_path(&peer, now);
            self.refresh_endpoints(&peer, now);
        }
    }

    // ---- whether it carries --------------------------------------------------------------------------------------------------

    /// Users' packets are sent to a peer.
    pub(super) fn on_use(&mut self, peer: &PublicKey, waiting: Option<Duration>, now: Instant) {
        let Some(entry) = self.peers.get_mut(peer) else {
            return;
        };
        let sent = self
            .device
            .session(peer)
            .map_or(0, |session| session.counters().tx_packets);
        match entry.path {
            Path::Link(id) => {
                let Some(link) = self.links.get_mut(id) else {
                    return;
                };
                let rtt = link.liveness.rtt().unwrap_or_default();
                if waiting.is_some_and(|waiting| waiting >= LINK_PATIENCE.max(rtt * 2)) {
                    self.router.handle_hint(id, Hint::Silent, now);
                }
                link.liveness.handle_use(sent, waiting, now);
                self.heed_link(id, now);
            }
            Path::Relayed(_) => {
                let address = entry.address;
                if let Some(liveness) = &mut entry.liveness {
                    liveness.handle_use(sent, waiting, now);
                }
                self.want_own_label(address, now);
                self.heed_liveness(peer, now);
                self.want_way(peer, Demand::Traffic, now);
            }
            Path::Direct => self.on_way_use(peer, sent, waiting, now),
            Path::None => {}
        }
    }

    /// Does what a relayed session's liveness wants.
    pub(super) fn heed_liveness(&mut self, peer: &PublicKey, now: Instant) {
        while let Some((output, path)) = self.peers.get_mut(peer).and_then(|entry| {
            let output = entry.liveness.as_mut()?.poll_output()?;
            Some((output, entry.path))
        }) {
            let Path::Relayed(link) = path else {
                continue;
            };
            match output {
                liveness::Output::Probe { id, size, carriage } => {
                    self.probe_relayed(peer, id, size, carriage, now);
                }
                liveness::Output::Answered => self.feed_back(peer, link, Verdict::Answered, now),
                liveness::Output::Failed => {
                    debug!(peer = %self.label(peer), link = link.0, "Relayed packets are not answered");
                    self.feed_back(peer, link, Verdict::Failed, now);
                    // The peer may have lost the session.
                    self.device.handle_loss(peer, now);
                }
                liveness::Output::Lossy(share) => {
                    debug!(peer = %self.label(peer), link = link.0, share, "Relayed packets are lost");
                    self.feed_back(peer, link, Verdict::Failed, now);
                }
                liveness::Output::Mtu(mtu) => {
                    if let Some(session) = self.device.session(peer) {
                        session.set_mtu(mtu);
                    }
                }
                // A relay that says what it cannot carry is an honest one.
                liveness::Output::Narrow(Narrow::Silent) if self.has_another_way(peer, link) => {
                    self.feed_back(peer, link, Verdict::Failed, now);
                }
                liveness::Output::Narrow(_) => self.set_carriage(peer, Carriage::Cut),
                liveness::Output::Wide => self.set_carriage(peer, Carriage::Whole),
            }
        }
        let due = self
            .peers
            .get(peer)
            .and_then(|entry| entry.liveness.as_ref())
            .and_then(Liveness::poll_timeout);
        self.agenda
            .set(Task::Path(*peer), due.map(|(due, _)| due.max(now)));
    }

    /// Initiations that went through other nodes are not answered.
    pub(super) fn on_missed(&mut self, peer: &PublicKey, now: Instant) {
        if let Some(Path::Relayed(link)) = self.peers.get(peer).map(|entry| entry.path) {
            debug!(peer = %self.label(peer), link = link.0, "Relayed handshakes are not answered");
            self.feed_back(peer, link, Verdict::Failed, now);
        }
    }

    fn set_carriage(&self, peer: &PublicKey, carriage: Carriage) {
        if let Some(session) = self.device.session(peer) {
            session.set_carriage(carriage);
        }
    }

    fn probe_relayed(
        &mut self,
        peer: &PublicKey,
        id: u32,
        size: usize,
        carriage: Carriage,
        now: Instant,
    ) {
        let own = self.identity.node().link_local();
        let Some(node) = self.peers.get(peer).and_then(|entry| entry.node) else {
            return;
        };
        let way = Way::Relayed;
        let packet = Signal::Probe(Probe { id, way }).packet(own, node.link_local(), size);
        if let Some(datagram) = self.seal_own(peer, &packet, packet.len(), now) {
            self.relay(node.address(), &datagram, relayed::HOP_LIMIT, carriage, now);
        }
    }

    /// Tells the router what became of packets for a peer by a link; what follows comes as events.
    fn feed_back(&mut self, peer: &PublicKey, link: LinkId, verdict: Verdict, now: Instant) {
        if let Some(prefix) = self.prefix_of(peer) {
            self.router.handle_feedback(prefix, link, verdict, now);
        }
    }

    /// Whether packets for a peer could take another link.
    fn has_another_way(&self, peer: &PublicKey, link: LinkId) -> bool {
        let Some(prefix) = self.prefix_of(peer) else {
            return false;
        };
        self.router.routes().any(|route| {
            route.prefix == prefix
                && route.is_feasible
                && route.metric.is_finite()
                && route.via.is_some_and(|(other, _)| other != link)
        })
    }

    fn prefix_of(&self, peer: &PublicKey) -> Option<Ipv6Network> {
        let entry = self.peers.get(peer)?;
        Some(entry.node?.prefix())
    }

    /// A new link is tried at once, so that its MTU is known before it is needed.
    pub(super) fn try_link(&mut self, id: LinkId, now: Instant) {
        let ceiling = usize::from(self.interface.mtu);
        if let Some(link) = self.links.get_mut(id) {
            link.liveness.handle_change(ceiling, now);
        }
        self.heed_link(id, now);
    }

    /// Does what a link's liveness wants. That it does not answer, the router finds out itself.
    pub(super) fn heed_link(&mut self, id: LinkId, now: Instant) {
        while let Some((output, peer, endpoint)) = self.links.get_mut(id).and_then(|link| {
            let output = link.liveness.poll_output()?;
            Some((output, link.peer, link.endpoint))
        }) {
            // Nobody but a node of the mesh understands signals.
            let is_node = self
                .peers
                .get(&peer)
                .is_some_and(|entry| !entry.origin.is_stock());
            match output {
                liveness::Output::Probe { id, size, .. } if is_node => {
                    let way = Way::straight(&endpoint);
                    let probe = Signal::Probe(Probe { id, way });
                    self.signal(&peer, &probe, size, endpoint.into(), now);
                }
                liveness::Output::Mtu(mtu) => {
                    self.stale = true;
                    if self.peers.get(&peer).map(|entry| entry.path) == Some(Path::Link(id))
                        && let Some(session) = self.device.session(&peer)
                    {
                        session.set_mtu(mtu);
                    }
                }
                liveness::Output::Probe { .. }
                | liveness::Output::Answered
                | liveness::Output::Failed
                | liveness::Output::Lossy(_)
                | liveness::Output::Narrow(_)
                | liveness::Output::Wide => {}
            }
        }
        let due = self
            .links
            .get(id)
            .and_then(|link| link.liveness.poll_timeout());
        self.agenda
            .set(Task::LinkLiveness(id), due.map(|(due, _)| due.max(now)));
    }

    // ---- signals -------------------------------------------------------------------------------------------------------------

    /// A signal of a peer.
    pub(super) fn on_signal(
        &mut self,
        peer: PublicKey,
        from: Endpoint,
        packet: &[u8],
        received: Instant,
        now: Instant,
    ) {
        let own = self.identity.node().link_local();
        let node = self.peers.get(&peer).and_then(|entry| entry.node);
        let signal = node.and_then(|node| Signal::parse(packet, node.link_local(), own));
        let is_guest = self
            .peers
            .get(&peer)
            .is_some_and(super::peers::Entry::is_guest);
        if is_guest && !matches!(signal, Some(Signal::Join(_))) {
            return self.discards.discard(Reason::NoMember, 1);
        }
        match (signal, from) {
            (Some(Signal::Probe(Probe { id, way })), _) => {
                // What was sent one way and came another was carried there by somebody else.
                let is_straight = match &from {
                    Endpoint::Underlay(from) => way == Way::straight(from),
                    Endpoint::Overlay(_) => way == Way::Relayed,
                };
                if !is_straight {
                    return self.discards.discard(Reason::SignalAstray, 1);
                }
                let Some(session) = self.device.session(&peer) else {
                    return;
                };
                let tally = session.tally();
                let echo = Signal::Echo(Echo {
                    id,
                    size: u16::try_from(packet.len()).unwrap_or(u16::MAX),
                    expected: tally.expected,
                    received: tally.received,
                });
                self.signal(&peer, &echo, 0, from, now);
            }
            (Some(Signal::LabelRequest(pair)), Endpoint::Underlay(from)) => {
                self.on_label_request(&peer, from, pair, now);
            }
            (
                Some(Signal::Label {
                    pair,
                    label,
                    lifetime_s,
                }),
                Endpoint::Underlay(from),
            ) => self.on_label(&peer, from, pair, label, lifetime_s, now),
            (Some(Signal::LabelUnknown(label)), Endpoint::Underlay(from)) => {
                self.on_label_unknown(&peer, from, label, now);
            }
            (
                Some(
                    Signal::LabelRequest(_)
                    | Signal::Label { .. }
                    | Signal::LabelUnknown(_)
                    | Signal::Reflect(_)
                    | Signal::Reflected { .. },
                ),
                Endpoint::Overlay(_),
            ) => self.discards.discard(Reason::SignalAstray, 1),
            (Some(Signal::Presence { is_open }), Endpoint::Underlay(_)) => {
                self.on_presence(&peer, is_open, now);
            }
            (Some(Signal::Acquaintance(acquaintance)), Endpoint::Underlay(_)) => {
                self.on_acquaintance(peer, &acquaintance, now);
            }
            (Some(Signal::Presence { .. } | Signal::Acquaintance(_)), Endpoint::Overlay(_)) => {
                self.discards.discard(Reason::SignalAstray, 1);
            }
            (Some(Signal::Reflect(id)), Endpoint::Underlay(from)) => {
                self.on_reflect(&peer, from, id, now);
            }
            (Some(Signal::Reflected { id, address }), Endpoint::Underlay(from)) => {
                self.on_reflected(&peer, from, id, address, now);
            }
            (Some(Signal::Offer(offer)), _) => self.on_offer(peer, &offer, now),
            (Some(Signal::Records(message)), _) => self.on_records_message(peer, &message, now),
            (Some(Signal::Join(message)), _) => self.on_join_message(peer, &message, now),
            (Some(Signal::Echo(echo)), Endpoint::Underlay(from)) => {
                self.on_direct_echo(peer, from, &echo, received, now);
            }
            (Some(Signal::Echo(echo)), Endpoint::Overlay(_)) => {
                self.traces.handle_echo(&echo, received);
                self.finish_traces(now);
                if let Some(liveness) = self
                    .peers
                    .get_mut(&peer)
                    .and_then(|entry| entry.liveness.as_mut())
                {
                    liveness.handle_echo(&echo, received);
                }
                self.heed_liveness(&peer, now);
            }
            // Of a later release, perhaps.
            (None, _) => self.discards.discard(Reason::SignalUnknown, 1),
        }
        self.drain(now);
    }

    fn on_direct_echo(
        &mut self,
        peer: PublicKey,
        from: Underlay,
        echo: &Echo,
        received: Instant,
        now: Instant,
    ) {
        self.traces.handle_echo(echo, received);
        self.finish_traces(now);
        if self.is_streamed(&peer, echo.id, from, now) || self.is_dialled(&peer, echo.id, from, now)
        {
            return;
        }
        self.on_way_echo(&peer, echo, received, now);
        let links: Vec<LinkId> = self.links.of(&peer).map(|(id, _)| id).collect();
        for id in links {
            if let Some(link) = self.links.get_mut(id) {
                link.liveness.handle_echo(echo, received);
            }
            self.heed_link(id, now);
        }
    }

    /// Sends a signal inside the session with `peer`, by this way, in a packet of at least `size` bytes.
    pub(super) fn signal(
        &mut self,
        peer: &PublicKey,
        signal: &Signal,
        size: usize,
        to: Endpoint,
        now: Instant,
    ) {
        let own = self.identity.node().link_local();
        let Some(theirs) = self
            .peers
            .get(peer)
            .and_then(|entry| entry.node)
            .map(|node| node.link_local())
        else {
            return;
        };
        let packet = signal.packet(own, theirs, size);
        if let Some(datagram) = self.seal_own(peer, &packet, packet.len(), now) {
            self.send(to, datagram, now);
        }
    }

    // ---- datagrams -----------------------------------------------------------------------------------------------------------

    /// Seals a packet of the node itself, padded up to `mtu` at most; nothing if there is no session.
    pub(super) fn seal_own(
        &mut self,
        peer: &PublicKey,
        packet: &[u8],
        mtu: usize,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let session = self.device.session(peer)?;
        let mut datagram = vec![0; packet.len() + OVERHEAD + PADDING];
        let mut batch = session.lock(now);
        let sealed = batch.seal_own(packet, mtu, &mut datagram);
        let signals = batch.finish();
        if signals.any() {
            self.device.handle_signal(peer, now);
        }
        datagram.truncate(sealed.ok()?);
        Some(datagram)
    }

    /// Sends a sealed datagram.
    pub(super) fn send(&mut self, to: Endpoint, datagram: Vec<u8>, now: Instant) {
        match to {
            Endpoint::Underlay(to) => self.outputs.push_back(Output::Transmit { to, datagram }),
            Endpoint::Overlay(node) => {
                let session = self.device.owner(node);
                let carriage = session.map_or(Carriage::Whole, |session| session.carriage());
                self.relay(node, &datagram, relayed::HOP_LIMIT, carriage, now);
            }
        }
    }

    /// Sends a sealed datagram to another node through a neighbour.
    pub(super) fn relay(
        &mut self,
        node: Ipv6Addr,
        datagram: &[u8],
        hop_limit: u8,
        carriage: Carriage,
        now: Instant,
    ) {
        let Next::Via { link, .. } = self.router.lookup(node) else {
            return self.discards.discard(Reason::NoPath, 1);
        };
        // Whoever traces wants to hear of relays, and those of labelled datagrams say nothing.
        if hop_limit == relayed::HOP_LIMIT
            && carriage == Carriage::Whole
            && let Some(labelled) = self.labelled(link, node, datagram)
            && let Some(link) = self.links.get(link)
        {
            return self.send(link.endpoint.into(), labelled, now);
        }
        let own = self.identity.node().address();
        let mut packet = vec![0; relayed::OVERHEAD];
        packet.extend_from_slice(datagram);
        relayed::write_headers(&mut packet, own, node, hop_limit, Ecn::NotEct);
        let Some(mtu) = self.links.get(link).map(|link| link.liveness.mtu()) else {
            return self.discards.discard(Reason::NoPath, 1);
        };
        let limit = match carriage {
            Carriage::Whole => mtu,
            Carriage::Cut => mtu.min(LEAST_MTU),
        };
        let name = self.rng.u32(..);
        for fragment in fragments(&packet, limit, name) {
            self.send_on_link(link, &fragment, now);
        }
    }

    /// Seals a packet in the session of a link, and sends it by the link.
    pub(super) fn send_on_link(&mut self, id: LinkId, packet: &[u8], now: Instant) {
        let Some(link) = self.links.get(id) else {
            return self.discards.discard(Reason::NoPath, 1);
        };
        let (peer, endpoint, mtu) = (link.peer, link.endpoint, link.liveness.mtu());
        match self.seal_own(&peer, packet, mtu, now) {
            Some(datagram) => self.send(endpoint.into(), datagram, now),
            None => self.discards.discard(Reason::NoPath, 1),
        }
    }

    /// A relay says that a datagram of ours got no further. Anybody on the way can say so, and none is believed.
    pub(super) fn on_relay_error(&mut self, packet: &[u8], received: Instant, now: Instant) {
        let Some(error) = RelayError::parse(packet) else {
            return self.discards.discard(Reason::Malformed, 1);
        };
        if error.kind == TIME_EXCEEDED {
            self.traces.handle_relay(&error, received);
            return self.finish_traces(now);
        }
        let peer = self
            .device
            .owner(error.destination)
            .map(|session| *session.key());
        let liveness = peer
            .and_then(|peer| self.peers.get_mut(&peer))
            .filter(|entry| entry.path.is_relayed())
            .and_then(|entry| entry.liveness.as_mut());
        match (peer, liveness) {
            (Some(peer), Some(liveness)) => {
                liveness.handle_too_big(now);
                self.heed_liveness(&peer, now);
            }
            _ => self.discards.discard(Reason::RelayErrorForeign, 1),
        }
    }
}
