//! Links: the ways to neighbours that routing uses.
//!
//! Whoever has an endpoint of a peer configured dials it: one link for each entry, tried out by probes inside the session, whichever way
//! that takes meanwhile. The other end has a link as soon as it hears routing over the underlay. Which link a packet came by, a tag says
//! that the dialler has given it and the other end repeats: so a link that has moved to another address differs from another link, and two
//! nodes that dial each other by different ways have two links.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use routing::{LinkConfig, LinkId, Metric, NeighbourState, extension::link_tag};
use tracing::{debug, info};
use wireguard::{Endpoint, Kind, PublicKey, Underlay};

use super::{
    Node, Task,
    paths::Path,
    peers::{Entry, Origin},
};
use crate::{
    admin::{Happening, LinkState},
    config::StockRouting,
    discard::Reason,
    fib::LinkStats,
    liveness::{LEAST_MTU, Liveness},
    packet::{HEADER, Ipv6Header},
    signal::{Probe, Signal, Way},
};

/// Links of one session at most, however many a peer opens.
const MAX_LINKS_OF_PEER: usize = 8;
/// Links that others have opened, at most.
const MAX_ACCEPTED: usize = 64;
/// A link over which nothing is heard for so long is given up; whoever dialled it dials again.
const GIVE_UP: Duration = Duration::from_secs(10);
/// A session whose last link is down has so long to find a way through other nodes.
pub(super) const STRANDED: Duration = Duration::from_millis(500);
/// Pause before an endpoint that does not answer is probed again; it doubles up to [`MAX_REDIAL`].
const REDIAL: Duration = Duration::from_secs(1);
/// See [`REDIAL`]. A mesh that was parted is whole again soon after it can be.
const MAX_REDIAL: Duration = Duration::from_secs(4);
/// After so many probes without an answer, other ways to the same place are tried.
const FEW_REDIALS: u32 = 3;
/// So many probes are sent at that pace, for some minutes; then the endpoint is taken for one that is not there.
const MANY_REDIALS: u32 = 64;
/// And probed so often.
const PATIENT_REDIAL: Duration = Duration::from_secs(30);
/// What a link in a TCP stream costs at least: a link without losses, and a fixed penalty of 512, more than five hops.
const STREAM_COST: Metric = Metric(96 + 512);
/// UDP header before a Babel packet.
const UDP_HEADER: usize = 8;

/// All links.
#[derive(Debug, Default)]
pub(super) struct Links {
    last: u32,
    links: BTreeMap<LinkId, Link>,
}

/// One link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: PublicKey,
    pub(super) endpoint: Underlay,
    /// Which of the peer's endpoints we dialled, that after the configured ones being where it was found; none: it called us.
    pub(super) dialled: Option<usize>,
    /// The tag that we send on it: ours if we dialled it, else what its other end said first. Stock routers know no tags.
    tag: Option<u32>,
    /// The tag that its other end sends on it.
    heard: Option<u32>,
    pub(super) state: NeighbourState,
    pub(super) cost: Metric,
    /// Whether it carries packets, and how long ones.
    pub(super) liveness: Liveness,
    /// Since when nothing is heard.
    down: Option<Instant>,
    pub(super) counters: LinkCounters,
    /// What packet threads note about it.
    pub(super) stats: Arc<LinkStats>,
}

impl Link {
    fn is_doubted(&self) -> bool {
        self.state != NeighbourState::Up
    }

    /// Less is better. Of two that are alike, both ends take the same one, by the tags that they know both.
    fn rank(&self) -> (bool, Metric, Option<u32>) {
        let tag = self.tag.into_iter().chain(self.heard).min();
        (self.is_doubted(), self.cost, tag)
    }
}

/// Routing packets, with their IPv6 headers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkCounters {
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
    pub(super) rx_packets: u64,
    pub(super) tx_packets: u64,
}

impl Links {
    pub(super) fn get(&self, id: LinkId) -> Option<&Link> {
        self.links.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links.iter().map(|(id, link)| (*id, link))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (LinkId, &mut Link)> {
        self.links.iter_mut().map(|(id, link)| (*id, link))
    }

    /// The links of one session.
    pub(super) fn of(&self, peer: &PublicKey) -> impl Iterator<Item = (LinkId, &Link)> {
        self.iter().filter(move |(_, link)| link.peer == *peer)
    }

    /// The best of a session's links that can be used: `current` while no other is much better, so that packets do not swing.
    pub(super) fn best(&self, peer: &PublicKey, current: Option<LinkId>) -> Option<LinkId> {
        let usable = || {
            let links = self.of(peer);
            links.filter(|(_, link)| link.state != NeighbourState::Down)
        };
        let (id, best) = usable().min_by_key(|(_, link)| link.rank())?;
        let stays = usable().find(|(id, link)| {
            let is_much_worse = u32::from(best.cost.0) * 4 <= u32::from(link.cost.0) * 3;
            Some(*id) == current && link.is_doubted() == best.is_doubted() && !is_much_worse
        });
        Some(stays.map_or(id, |(id, _)| id))
    }

    fn insert(&mut self, link: Link) -> LinkId {
        self.last += 1;
        let id = LinkId(self.last);
        self.links.insert(id, link);
        id
    }

    /// The link that a routing packet of `peer` came by.
    fn arriving(
        &self,
        peer: &PublicKey,
        kind: Kind,
        from: &Underlay,
        tag: Option<u32>,
    ) -> Option<LinkId> {
        let by_tag = || {
            let tag = tag?;
            let mut links = self.of(peer);
            links.find(|(_, link)| {
                // A link does not move between UDP and a stream.
                let is_alike = link.endpoint.is_stream() == from.is_stream();
                is_alike && (link.heard == Some(tag) || link.tag == Some(tag))
            })
        };
        let by_address = || {
            self.of(peer)
                .find(|(_, link)| link.endpoint.is_same_way(from))
        };
        // A stock router has one link, and no tags. A node's packets without a tag may be of any link of its.
        let of_stock = || self.of(peer).next().filter(|_| kind == Kind::Stock);
        let found = by_tag().or_else(by_address).or_else(of_stock)?;
        Some(found.0)
    }

    fn accepted(&self) -> usize {
        self.links
            .values()
            .filter(|link| link.dialled.is_none())
            .count()
    }
}

/// One configured endpoint of a peer, as far as dialling it has got.
#[derive(Clone, Debug, Default)]
pub(super) struct Dial {
    /// What it resolves to.
    pub(super) addresses: Vec<SocketAddr>,
    /// Whose turn it is among them.
    turn: usize,
    /// The probe that waits for an answer.
    probe: Option<u32>,
    /// When the next is due.
    due: Option<Instant>,
    failures: u32,
}

impl Dial {
    /// It has not been silent for long, if it was probed at all.
    pub(super) fn may_answer(&self) -> bool {
        self.failures < FEW_REDIALS
    }

    /// Where we are has changed: what did not answer before may answer now.
    pub(super) fn hurry(&mut self) {
        self.failures = 0;
        self.due = None;
    }

    /// Nothing was tried yet.
    pub(super) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self {
            addresses,
            ..Self::default()
        }
    }
}

impl Node {
    /// A session has opened, or the endpoints of one have changed: its links are to be opened.
    pub(super) fn dial(&mut self, peer: &PublicKey, now: Instant) {
        let Some(entry) = self.peers.get(peer) else {
            return;
        };
        let Some(session) = self
            .device
            .session(peer)
            .filter(|session| session.is_established())
        else {
            return;
        };
        let heard = session
            .endpoint()
            .and_then(|endpoint| endpoint.underlay().copied())
            .filter(|heard| !heard.is_stream());
        let is_router = entry.routing != StockRouting::None;
        if entry.origin.is_stock() {
            if is_router
                && self.links.of(peer).next().is_none()
                && let Some(heard) = heard
            {
                self.open_link(*peer, heard, Some(0), None, now);
            }
            return;
        }
        // The handshake itself has proven one of them.
        let proven = heard.and_then(|heard| {
            let at = entry
                .dials
                .iter()
                .position(|dial| dial.addresses.contains(&heard.remote))?;
            Some((at, heard))
        });
        if let Some((at, heard)) = proven
            && self.links.of(peer).next().is_none()
        {
            self.open_link(*peer, heard, Some(at), None, now);
        }
        self.agenda.set(Task::Dial(*peer), Some(now));
    }

    /// Probes the endpoints of a peer that no link leads to.
    pub(super) fn redial(&mut self, peer: &PublicKey, now: Instant) {
        let is_open = self
            .device
            .session(peer)
            .is_some_and(|session| session.is_established());
        let linked: Vec<usize> = self
            .links
            .of(peer)
            .filter_map(|(_, link)| link.dialled)
            .collect();
        let found = self.peers.get(peer).and_then(|entry| {
            self.needs_no_found_link(peer)
                .then_some(entry.endpoints.len())
        });
        let linked: Vec<usize> = linked.into_iter().chain(found).collect();
        let Some(entry) = self.peers.get_mut(peer).filter(|_| is_open) else {
            return;
        };
        let mut probes = Vec::new();
        let mut next: Option<Instant> = None;
        for (at, dial) in entry.dials.iter_mut().enumerate() {
            if linked.contains(&at) || dial.addresses.is_empty() {
                dial.probe = None;
                dial.failures = 0;
                dial.due = None;
                continue;
            }
            if dial.due.is_none_or(|due| due <= now) {
                let address = dial.addresses[dial.turn % dial.addresses.len()];
                dial.turn += 1;
                let id = self.rng.u32(..);
                dial.probe = Some(id);
                let pause = match dial.failures {
                    MANY_REDIALS.. => PATIENT_REDIAL,
                    failures => {
                        (REDIAL * 2_u32.saturating_pow(failures).min(1 << 10)).min(MAX_REDIAL)
                    }
                };
                dial.failures = dial.failures.saturating_add(1);
                dial.due = Some(now + pause);
                probes.push((id, address));
            }
            next = next.into_iter().chain(dial.due).min();
        }
        self.agenda.set(Task::Dial(*peer), next);
        for (id, address) in probes {
            let probe = Signal::Probe(Probe {
                id,
                way: Way::Direct,
            });
            self.signal(peer, &probe, 0, Endpoint::unproven(address), now);
        }
    }

    /// Whether an echo answers the probe of an endpoint that we dial; the link is opened then.
    pub(super) fn is_dialled(
        &mut self,
        peer: &PublicKey,
        id: u32,
        from: Underlay,
        now: Instant,
    ) -> bool {
        let Some(at) = self
            .peers
            .get(peer)
            .and_then(|entry| entry.dials.iter().position(|dial| dial.probe == Some(id)))
        else {
            return false;
        };
        let same = self
            .links
            .of(peer)
            .find(|(_, link)| link.endpoint.is_same_way(&from))
            .map(|(id, _)| id)
            .or_else(|| self.twin(peer, at, &from.remote));
        match same.and_then(|id| self.links.get_mut(id)) {
            // The peer called us that way before, or two endpoints lead to the same place.
            Some(link) => {
                match &mut link.dialled {
                    // What the configuration asks for comes before what was found.
                    Some(dialled) => *dialled = at.min(*dialled),
                    None => link.dialled = Some(at),
                }
                self.count_links(now);
            }
            None => {
                self.open_link(*peer, from, Some(at), None, now);
            }
        }
        if let Some(dial) = self
            .peers
            .get_mut(peer)
            .and_then(|entry| entry.dials.get_mut(at))
        {
            dial.probe = None;
        }
        true
    }

    /// `tag` is what the other end calls it, if that is known.
    pub(super) fn open_link(
        &mut self,
        peer: PublicKey,
        endpoint: Underlay,
        dialled: Option<usize>,
        tag: Option<u32>,
        now: Instant,
    ) -> Option<LinkId> {
        let tag = tag.or_else(|| dialled.map(|_| self.rng.u32(..)));
        let mtu = self.interface.mtu;
        // Routing has to pass from the first moment on, before anybody knows how much the link carries.
        let least = mtu.min(LEAST_MTU as u16);
        let local = self.identity.node().link_local();
        let entry = self.peers.get(&peer)?;
        let config = match (&entry.node, &entry.routing) {
            (Some(node), _) => LinkConfig {
                tag,
                transit: self.transit(entry),
                ..LinkConfig::meshd(
                    local,
                    node.link_local(),
                    routing::RouterId(node.router_id()),
                    least,
                )
            },
            (None, StockRouting::Stub) => {
                let prefixes = entry.allowed.clone();
                LinkConfig::stock(local, routing::Peer::Stub { prefixes }, least)
            }
            (None, StockRouting::Legacy(allow)) => {
                let allow = allow.iter().chain(&entry.allowed).copied().collect();
                LinkConfig::stock(local, routing::Peer::Legacy { allow }, least)
            }
            (None, StockRouting::None) => return None,
        };
        let config = LinkConfig {
            least_cost: if endpoint.is_stream() {
                STREAM_COST
            } else {
                config.least_cost
            },
            ..config
        };
        let link = Link {
            peer,
            endpoint,
            dialled,
            tag,
            heard: None,
            state: NeighbourState::Down,
            cost: Metric::INFINITY,
            liveness: Liveness::new(usize::from(mtu), self.rng.u64(..)),
            down: Some(now),
            counters: LinkCounters::default(),
            stats: Arc::new(LinkStats::new(now)),
        };
        let id = self.links.insert(link);
        debug!(peer = %self.label(&peer), link = id.0, endpoint = %Endpoint::from(endpoint), "Link opened");
        self.router.add_link(id, config, now);
        self.watch_link(id, now);
        self.note_paths(&peer, now);
        self.count_links(now);
        self.stale = true;
        Some(id)
    }

    /// Tells the router as soon as there are all links that the configuration lets expect: a neighbour that has not been heard yet may
    /// still believe in routes through us, from before we were started.
    pub(super) fn count_links(&mut self, now: Instant) {
        if !self.awaits_links {
            return;
        }
        let lacks_some = |key: &PublicKey, entry: &Entry| {
            let dialled: Vec<_> = self.links.of(key).map(|(_, link)| link.dialled).collect();
            let has = |at: usize| dialled.contains(&Some(at));
            dialled.is_empty() || !(0..entry.endpoints.len()).all(has)
        };
        let mut expected = self
            .peers
            .iter()
            .filter(|(_, entry)| entry.origin == Origin::Peer);
        self.awaits_links = expected.any(|(key, entry)| lacks_some(key, entry));
        if !self.awaits_links {
            self.router.await_links(false, now);
        }
    }

    /// Tells the router for whom packets are forwarded.
    pub(super) fn tell_transit(&mut self, now: Instant) {
        let links: Vec<_> = self
            .links
            .iter()
            .filter_map(|(id, link)| Some((id, self.transit(self.peers.get(&link.peer)?))))
            .collect();
        for (id, transit) in links {
            self.router.set_transit(id, transit, now);
        }
    }

    /// Gives a link up, and dials again what we dialled.
    pub(super) fn close_link(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.links.remove(&id) else {
            return;
        };
        debug!(peer = %self.label(&link.peer), link = id.0, "Link given up");
        self.agenda.set(Task::Link(id), None);
        self.agenda.set(Task::LinkLiveness(id), None);
        self.router.remove_link(id, now);
        self.forget_labels(id);
        self.note_paths(&link.peer, now);
        self.stale = true;
        let was_found = self
            .peers
            .get(&link.peer)
            .is_some_and(|entry| entry.dials.len() > entry.endpoints.len());
        if link.endpoint.is_stream() {
            self.look_at_streams(now);
        }
        // Whoever was heard there is not any more.
        let way = self.reach.way(&link.peer, false);
        if way.is_some_and(|(way, _)| way.is_same_way(&link.endpoint)) {
            self.drop_ways(&link.peer, now);
        }
        if link.dialled.is_some() || was_found {
            self.agenda.set(Task::Dial(link.peer), Some(now));
        }
    }

    pub(super) fn close_links_of(&mut self, peer: &PublicKey, now: Instant) {
        for id in self.links.of(peer).map(|(id, _)| id).collect::<Vec<_>>() {
            self.close_link(id, now);
        }
    }

    /// A routing packet came over the underlay.
    pub(super) fn on_babel(
        &mut self,
        peer: PublicKey,
        from: Underlay,
        packet: &[u8],
        received: Instant,
        now: Instant,
    ) {
        let Ok(header) = Ipv6Header::parse(packet) else {
            return self.discards.discard(Reason::Malformed, 1);
        };
        let Some(payload) = packet.get(HEADER + UDP_HEADER..HEADER + header.payload) else {
            return self.discards.discard(Reason::Malformed, 1);
        };
        let tag = link_tag(payload);
        let kind = self.peers.get(&peer).map_or(Kind::Mesh, Entry::kind);
        let id = match self.links.arriving(&peer, kind, &from, tag) {
            Some(id) => id,
            None => match self.accept_link(peer, from, tag, now) {
                Some(id) => id,
                None => return self.discards.discard(Reason::LinkRefused, 1),
            },
        };
        let moved = match self.links.get_mut(id) {
            Some(link) => {
                link.counters.rx_bytes += packet.len() as u64;
                link.counters.rx_packets += 1;
                link.heard = tag.or(link.heard);
                std::mem::replace(&mut link.endpoint, from) != from
            }
            None => false,
        };
        if moved {
            self.stale = true;
            self.note_paths(&peer, now);
            self.choose_path(&peer, now);
        }
        let to = if header.destination == routing::wire::GROUP {
            routing::Cast::Multicast
        } else {
            routing::Cast::Unicast(header.destination)
        };
        let read = self
            .router
            .handle_packet(id, header.source, to, payload, received, now);
        if read.is_err() {
            self.discards.discard(Reason::BadRouting, 1);
        }
        self.drain(now);
    }

    /// A peer speaks routing by a way that we did not know: whether that becomes a link.
    fn accept_link(
        &mut self,
        peer: PublicKey,
        from: Underlay,
        tag: Option<u32>,
        now: Instant,
    ) -> Option<LinkId> {
        let origin = self.peers.get(&peer)?.origin;
        let of_peer = self.links.of(&peer).count();
        // Without a tag it may be any of the others, which has moved.
        if tag.is_none() && of_peer > 0 {
            return None;
        }
        // What the configuration names has a place in any case.
        let is_full = !origin.is_named() && self.links.accepted() >= MAX_ACCEPTED;
        if of_peer >= MAX_LINKS_OF_PEER || is_full || origin == Origin::Guest {
            return None;
        }
        self.open_link(peer, from, None, tag, now)
    }

    /// What the router thinks of a neighbour has changed.
    pub(super) fn on_neighbour(
        &mut self,
        id: LinkId,
        state: NeighbourState,
        cost: Metric,
        now: Instant,
    ) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        let peer = link.peer;
        let before = std::mem::replace(&mut link.state, state);
        link.cost = cost;
        link.down = match state {
            NeighbourState::Down => link.down.or(Some(now)),
            NeighbourState::Up | NeighbourState::Suspect => None,
        };
        self.watch_link(id, now);
        if before != state {
            self.look_at_streams(now);
            let name = self.label(&peer);
            match (before, state) {
                (NeighbourState::Down, _) => info!(peer = %name, link = id.0, "Link up"),
                (_, NeighbourState::Down) => info!(peer = %name, link = id.0, "Link down"),
                _ => debug!(peer = %name, link = id.0, state = state.name(), "Link doubted"),
            }
            self.note_link(id, peer, state, now);
        }
        self.choose_path(&peer, now);
        if before != state && state == NeighbourState::Up {
            // What was told meanwhile may not have come.
            self.compare_records(&peer, now);
        }
        match (before, state) {
            (NeighbourState::Down, NeighbourState::Down) => {}
            (NeighbourState::Down, _) => {
                self.disown_labels(id, now);
                self.try_link(id, now);
                self.greet_neighbour(id, now);
                self.ask_reflexions(false, now);
            }
            (_, NeighbourState::Down) => {
                self.agenda.set(Task::Stranded(peer), Some(now + STRANDED));
            }
            _ => {}
        }
    }

    /// The last link of a session is down for a while, and no route leads to the peer: it may have lost the session, and a new one heals
    /// that. Where there is another way, that tells.
    pub(super) fn on_stranded(&mut self, peer: &PublicKey, now: Instant) {
        match self.peers.get(peer).map(|entry| entry.path) {
            Some(Path::Direct) if self.reach.way(peer, false).is_some() => {}
            Some(Path::None | Path::Direct) => self.device.handle_loss(peer, now),
            Some(Path::Link(_) | Path::Relayed(_)) | None => {}
        }
    }

    fn note_link(&mut self, id: LinkId, peer: PublicKey, state: NeighbourState, now: Instant) {
        let (state, why) = match state {
            NeighbourState::Up => (LinkState::Up, "both ends hear each other"),
            NeighbourState::Suspect => (LinkState::Suspect, "something is overdue"),
            NeighbourState::Down => (LinkState::Down, "nothing is heard"),
        };
        let what = Happening::Link {
            link: id.0,
            peer: self.label(&peer),
            address: self.address_of(&peer),
            state,
            why: why.to_owned(),
        };
        self.history.push(what, now);
    }

    /// A link that stays down is given up.
    fn watch_link(&mut self, id: LinkId, now: Instant) {
        let due = self
            .links
            .get(id)
            .and_then(|link| link.down)
            .map(|since| (since + GIVE_UP).max(now));
        self.agenda.set(Task::Link(id), due);
    }

    /// A link's time is up.
    pub(super) fn expire_link(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get(id) else {
            return;
        };
        // A stock router has only one way, and nobody probes it.
        let is_only_way = self
            .peers
            .get(&link.peer)
            .is_some_and(|entry| entry.origin.is_stock());
        if !is_only_way {
            self.close_link(id, now);
        }
    }

    /// The session of a link has moved, and the link with it.
    pub(super) fn move_link(
        &mut self,
        peer: &PublicKey,
        from: Option<Endpoint>,
        to: Underlay,
        now: Instant,
    ) {
        let Some(Endpoint::Underlay(from)) = from else {
            return;
        };
        if from.is_stream() != to.is_stream() {
            return;
        }
        let at = |way: &Underlay| {
            let mut links = self.links.of(peer);
            let found = links.find(|(_, link)| link.endpoint.is_same_way(way));
            found.map(|(id, _)| id)
        };
        // It may have taken the way of another link.
        let moved = if at(&to).is_some() { None } else { at(&from) };
        if let Some(link) = moved.and_then(|id| self.links.get_mut(id)) {
            link.endpoint = to;
            self.stale = true;
            self.note_paths(peer, now);
        }
    }

    /// Tells the session which ways lead to its peer, so that being heard there does not move it.
    pub(super) fn note_paths(&self, peer: &PublicKey, now: Instant) {
        let links = self.links.of(peer).map(|(_, link)| link.endpoint);
        let paths: Vec<Underlay> = links.chain(self.reach.endpoints(peer)).collect();
        if let Some(session) = self.device.session(peer) {
            // One way alone may move as it likes.
            let paths = if paths.len() > 1 { paths } else { Vec::new() };
            session.lock(now).set_paths(paths);
        }
    }
}
