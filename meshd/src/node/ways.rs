//! Straight ways that are no links: addresses that the path agent has proven, tried inside the session as links are, and taken for users'
//! packets once they have answered there. They speak no Babel. As soon as one is in doubt, packets go through other nodes again, if there
//! is a way.

use std::time::{Duration, Instant};

use tracing::{debug, info};
use wireguard::{Carriage, Endpoint, PublicKey, Underlay};

use super::{
    Node, Output, Task,
    paths::{LINK_PATIENCE, Path},
    reach::Reach,
};
use crate::{
    liveness::{self, Liveness},
    path::Demand,
    signal::{Echo, Probe, Signal, Way},
};

/// A way that no user's packet has taken for so long is given up.
const IDLE: Duration = Duration::from_secs(180);

/// The straight ways to one peer.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// The one that packets take, if no link leads there.
    current: Option<DirectWay>,
    /// One that is being tried.
    next: Option<DirectWay>,
    /// When the last user's packet was sent.
    used: Option<Instant>,
    /// When the router before this node has to see a packet next.
    keepalive: Option<Instant>,
}

/// One straight way.
#[derive(Debug)]
struct DirectWay {
    endpoint: Underlay,
    liveness: Liveness,
}

impl Ways {
    fn iter_mut(&mut self) -> impl Iterator<Item = &mut DirectWay> {
        self.current.iter_mut().chain(&mut self.next)
    }

    fn iter(&self) -> impl Iterator<Item = &DirectWay> {
        self.current.iter().chain(&self.next)
    }
}

impl Reach {
    /// The straight way to a peer, and how long packets it carries; a doubtful one only where it is all there is.
    pub(super) fn way(&self, peer: &PublicKey, has_other: bool) -> Option<(Underlay, usize)> {
        let way = self.ways.get(peer)?.current.as_ref()?;
        let is_usable = !has_other || !way.liveness.is_doubted();
        is_usable.then(|| (way.endpoint, way.liveness.mtu()))
    }

    /// All straight ways to a peer, proven or not.
    pub(super) fn endpoints(&self, peer: &PublicKey) -> impl Iterator<Item = Underlay> {
        let ways = self.ways.get(peer).into_iter();
        ways.flat_map(Ways::iter)
            .map(|way| way.endpoint)
            .chain(self.proven.get(peer).copied())
    }

    /// The next thing that the liveness of a way wants: of which, and whether that is the one taken.
    fn next_output(&mut self, peer: &PublicKey) -> Option<(liveness::Output, Underlay, bool)> {
        let ways = self.ways.get_mut(peer)?;
        let of = |way: &mut DirectWay| Some((way.liveness.poll_output()?, way.endpoint));
        let current = ways.current.as_mut().and_then(of);
        if let Some((output, endpoint)) = current {
            return Some((output, endpoint, true));
        }
        let (output, endpoint) = ways.next.as_mut().and_then(of)?;
        Some((output, endpoint, false))
    }
}

impl Node {
    /// An address of a peer answers: it is tried inside the session, if there is one, and a session is opened there if there is none.
    pub(super) fn consider(&mut self, peer: &PublicKey, endpoint: Underlay, now: Instant) {
        self.reach.failed.remove(peer);
        if !self.is_open_with(peer) {
            self.reach.proven.insert(*peer, endpoint);
            self.refresh_endpoints(peer, now);
            // Both ends hear of it at about the same time, and one of them is to call. The other asks there when its own attempt goes on.
            if self.identity.node().public_key() < *peer {
                self.device.call(peer, endpoint.into(), now);
            }
            return;
        }
        let ways = self.reach.ways.entry(*peer).or_default();
        if let Some(way) = &mut ways.current
            && way.endpoint.is_same_way(&endpoint)
        {
            // It may be that way by another socket now.
            way.endpoint = endpoint;
            way.liveness.handle_check(now);
            return self.heed_way(peer, now);
        }
        if let Some(way) = &ways.next
            && way.endpoint == endpoint
        {
            return;
        }
        let ceiling = usize::from(self.interface.mtu);
        let mut liveness = Liveness::impatient(ceiling, self.rng.u64(..), LINK_PATIENCE);
        liveness.handle_change(ceiling, now);
        ways.next = Some(DirectWay { endpoint, liveness });
        self.note_paths(peer, now);
        self.heed_way(peer, now);
    }

    /// A probe that was sent straight to a peer has been answered.
    pub(super) fn on_way_echo(
        &mut self,
        peer: &PublicKey,
        echo: &Echo,
        received: Instant,
        now: Instant,
    ) {
        if let Some(ways) = self.reach.ways.get_mut(peer) {
            for way in ways.iter_mut() {
                way.liveness.handle_echo(echo, received);
            }
            self.heed_way(peer, now);
        }
    }

    /// Users' packets are sent straight to a peer.
    pub(super) fn on_way_use(
        &mut self,
        peer: &PublicKey,
        sent: u64,
        waiting: Option<Duration>,
        now: Instant,
    ) {
        let Some(ways) = self.reach.ways.get_mut(peer) else {
            // It went straight before anybody had asked whether it could.
            return self.on_reach_opened(peer, now);
        };
        ways.used = Some(now);
        if let Some(way) = &mut ways.current {
            way.liveness.handle_use(sent, waiting, now);
        }
        self.heed_way(peer, now);
    }

    /// Does what is due for the ways to a peer.
    pub(super) fn tend_ways(&mut self, peer: &PublicKey, now: Instant) {
        let Some(ways) = self.reach.ways.get_mut(peer) else {
            return;
        };
        for way in ways.iter_mut() {
            way.liveness.handle_timeout(now);
        }
        if ways.keepalive.is_some_and(|due| due <= now) {
            ways.keepalive = None;
            if let Some(way) = &mut ways.current {
                way.liveness.handle_check(now);
            }
        }
        let is_idle = ways
            .used
            .is_some_and(|used| now.saturating_duration_since(used) >= IDLE);
        if is_idle {
            debug!(peer = %self.label(peer), "Straight way is not used, and given up");
            return self.drop_ways(peer, now);
        }
        self.heed_way(peer, now);
    }

    /// Does what the liveness of the ways to a peer wants.
    fn heed_way(&mut self, peer: &PublicKey, now: Instant) {
        let mut has_changed = false;
        while let Some((output, endpoint, is_current)) = self.reach.next_output(peer) {
            match output {
                liveness::Output::Probe { id, size, .. } => {
                    let way = Way::Direct;
                    let probe = Signal::Probe(Probe { id, way });
                    self.signal(peer, &probe, size, endpoint.into(), now);
                }
                liveness::Output::Answered => {
                    has_changed = true;
                    if !is_current {
                        self.promote(peer, now);
                    }
                }
                liveness::Output::Failed => {
                    debug!(peer = %self.label(peer), remote = %endpoint.remote, "Straight way is not answered");
                    has_changed = true;
                    self.give_up(peer, is_current, now);
                }
                liveness::Output::Mtu(_) => has_changed |= is_current,
                // As on a link.
                liveness::Output::Lossy(_)
                | liveness::Output::Narrow(_)
                | liveness::Output::Wide => {}
            }
        }
        let is_doubted = self.reach.way(peer, true).is_none();
        let is_taken = self.peers.get(peer).map(|entry| entry.path) == Some(Path::Direct);
        if has_changed || (is_taken && is_doubted) {
            self.choose_path(peer, now);
        }
        self.schedule_way(peer, now);
    }

    fn schedule_way(&mut self, peer: &PublicKey, now: Instant) {
        let nat = self.reach.agent.nat();
        let due = self.reach.ways.get_mut(peer).and_then(|ways| {
            if ways.keepalive.is_none() && ways.current.is_some() {
                ways.keepalive = nat.keepalive().map(|pause| now + pause);
            }
            let idle = ways.used.map(|used| used + IDLE);
            let checks = ways
                .iter()
                .filter_map(|way| way.liveness.poll_timeout())
                .map(|(due, _)| due);
            checks.chain(ways.keepalive).chain(idle).min()
        });
        self.agenda
            .set(Task::Ways(*peer), due.map(|due| due.max(now)));
    }

    /// The way that was being tried is the one to take.
    fn promote(&mut self, peer: &PublicKey, now: Instant) {
        let Some(ways) = self.reach.ways.get_mut(peer) else {
            return;
        };
        let Some(way) = ways.next.take() else {
            return;
        };
        let remote = way.endpoint.remote;
        ways.used.get_or_insert(now);
        ways.keepalive = None;
        let old = ways.current.replace(way);
        info!(peer = %self.label(peer), %remote, "Straight way found");
        self.disown_socket(old);
        self.note_paths(peer, now);
    }

    fn give_up(&mut self, peer: &PublicKey, is_current: bool, now: Instant) {
        let Some(ways) = self.reach.ways.get_mut(peer) else {
            return;
        };
        let gone = if is_current {
            ways.current.take()
        } else {
            ways.next.take()
        };
        if ways.current.is_none() && ways.next.is_none() {
            self.reach.ways.remove(peer);
        }
        self.disown_socket(gone);
        self.note_paths(peer, now);
        if is_current {
            // The peer may have lost the session, if there is no other way to find out.
            if !self.is_routed(self.address_of(peer)) {
                self.device.handle_loss(peer, now);
            }
            self.want_way(peer, Demand::Traffic, now);
        }
    }

    /// Forgets the straight ways to a peer.
    pub(super) fn drop_ways(&mut self, peer: &PublicKey, now: Instant) {
        let Some(ways) = self.reach.ways.remove(peer) else {
            return;
        };
        self.disown_socket(ways.current);
        self.disown_socket(ways.next);
        self.agenda.set(Task::Ways(*peer), None);
        self.note_paths(peer, now);
        self.choose_path(peer, now);
    }

    /// Forgets all about a peer's addresses.
    pub(super) fn forget_reach(&mut self, peer: &PublicKey, now: Instant) {
        self.drop_ways(peer, now);
        self.reach.agent.forget(*peer);
        self.reach.proven.remove(peer);
        self.reach.failed.remove(peer);
        self.reach.answered.remove(peer);
    }

    /// A session has closed: what is known of the way may be true still, and is tried first.
    pub(super) fn on_reach_closed(&mut self, peer: &PublicKey, now: Instant) {
        self.drop_ways(peer, now);
        self.reach.answered.remove(peer);
    }

    /// A session has opened. If that was straight, and no link leads there, the way is tried as one that was found.
    pub(super) fn on_reach_opened(&mut self, peer: &PublicKey, now: Instant) {
        self.reach.proven.remove(peer);
        let Some(entry) = self.peers.get(peer) else {
            return;
        };
        let heard = self
            .device
            .session(peer)
            .and_then(|session| session.endpoint()?.underlay().copied());
        if entry.node.is_none() {
            return;
        }
        let is_relayed = entry.path.is_relayed();
        let is_known = self.reach.ways.contains_key(peer);
        if self.links.of(peer).next().is_some() || is_known {
            return;
        }
        match heard {
            Some(heard) => self.consider(peer, heard, now),
            None if is_relayed => self.want_way(peer, Demand::Traffic, now),
            None => {}
        }
    }

    /// The session has moved to another address of its peer, and a way with it.
    pub(super) fn move_way(
        &mut self,
        peer: &PublicKey,
        from: &Underlay,
        to: Underlay,
        now: Instant,
    ) {
        let Some(ways) = self.reach.ways.get_mut(peer) else {
            return;
        };
        if let Some(way) = &mut ways.current
            && way.endpoint.is_same_way(from)
        {
            way.endpoint = to;
            way.liveness.handle_check(now);
            self.note_paths(peer, now);
            self.heed_way(peer, now);
        }
    }

    /// This node is somewhere else, perhaps: every straight way is tried, and until it answers another is taken if there is one.
    pub(super) fn on_reach_network_change(&mut self, now: Instant) {
        for peer in self.reach.ways.keys().copied().collect::<Vec<_>>() {
            let Some(ways) = self.reach.ways.get_mut(&peer) else {
                continue;
            };
            for way in ways.iter_mut() {
                way.endpoint.local = None;
                way.liveness.handle_doubt(now);
            }
            self.heed_way(&peer, now);
        }
        self.reach.agent.handle_network_change(now);
        self.ask_reflexions(true, now);
    }

    fn disown_socket(&mut self, way: Option<DirectWay>) {
        let Some(socket) = way.map(|way| way.endpoint.socket) else {
            return;
        };
        let mut ways = self.reach.ways.values().flat_map(Ways::iter);
        if !ways.any(|way| way.endpoint.socket == socket) && self.reach.adopted.remove(&socket) {
            self.outputs.push_back(Output::CloseSockets(vec![socket]));
        }
    }

    /// A straight way's packets, whole.
    pub(super) fn take_straight(&self, peer: &PublicKey, way: (Underlay, usize), now: Instant) {
        let (endpoint, mtu) = way;
        self.take_way(
            peer,
            Endpoint::Underlay(endpoint),
            mtu,
            Carriage::Whole,
            now,
        );
    }
}
