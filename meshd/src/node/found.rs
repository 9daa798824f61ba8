//! Found nodes: whom the beacon, neighbours, the state directory and libp2p tell of, and what becomes of that.
//!
//! What is told is a hint from anybody. It is cleaned of addresses that nobody may send us to, it opens a session only with whom a
//! session may be opened at all, and the handshake shows whether it was true. Who was found on the LAN gets a link. Of the others the
//! node chooses a few for links, so that the mesh stays connected whoever fails; the rest is remembered in case it is needed.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use routing::{LinkId, NeighbourState};
use tracing::debug;
use wireguard::PublicKey;

use super::{
    Node, Task,
    hygiene::{LocalNetwork, LocalNetworks, Reach, reach, region},
    links::{Dial, Link},
    peers::{Entry, Origin},
};
use crate::{
    beacon::{Beacon, Voice},
    discard::Reason,
    identity::NodeId,
    path::Mapping,
};

/// Endpoints kept of one node.
pub const MAX_ENDPOINTS: usize = 8;
/// Nodes known of each kind of source: a neighbour that lies, or a LAN full of forged beacons, displaces only what came that way.
const MAX_KNOWN: usize = 128;
/// Nodes that are called at a time because they were found.
const MAX_CALLED: usize = 64;
/// Strangers called a second, and at once.
const CALLS_PER_SECOND: f64 = 5.0;
/// How long a found node has to answer: less than it takes until it is called again, so that one call is one initiation.
const ANSWER: Duration = Duration::from_millis(4800);
/// Pause before one that did not answer is called again; it doubles up to [`MAX_PAUSE`].
const PAUSE: Duration = Duration::from_secs(2);
/// See [`PAUSE`].
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// Links to nodes found on the LAN that are opened from here.
const MAX_LAN_LINKS: usize = 32;
/// Links that the node chooses: two can fail at once and the mesh is still whole.
const LEAST_CHOSEN: usize = 3;
/// Further ones are chosen up to this number while somebody who is known cannot be reached.
const MOST_CHOSEN: usize = 8;
/// Nobody counts as out of reach before routing had so long to find a way.
const ROUTED: Duration = Duration::from_secs(5);
/// A chosen link may be down for so long before another is chosen in its place: longer than a restart takes.
const FORGIVE: Duration = Duration::from_secs(30);
/// While there is something to wait for, it is looked at so often.
const REVIEW: Duration = Duration::from_millis(250);

/// A node that somebody told of.
#[derive(Clone, Debug)]
pub struct Found {
    /// Who it is.
    pub node: NodeId,
    /// Where its WireGuard port may be, best first. What is no address to send to is left out.
    pub endpoints: Vec<SocketAddr>,
    /// Who says so.
    pub source: Source,
}

/// Where the knowledge of a node comes from.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Source {
    /// Itself, on a link that we share; endpoints that are not on such a link are left out.
    Lan,
    /// A neighbour.
    Neighbour(PublicKey),
    /// An earlier run, which had a session with it there.
    Remembered,
    /// libp2p.
    Control,
    /// A record that it has signed, looked up because somebody wants to reach it: it is called at once.
    Record,
}

impl Source {
    /// Sources of a kind share a limit.
    const fn kind(self) -> u8 {
        match self {
            Self::Lan => 0,
            Self::Neighbour(_) => 1,
            Self::Remembered => 2,
            Self::Control => 3,
            Self::Record => 4,
        }
    }
}

/// Everybody who was found.
#[derive(Debug)]
pub(super) struct FoundNodes {
    known: BTreeMap<PublicKey, Known>,
    pub(super) local: LocalNetworks,
    calls: Calls,
}

/// What is known of one.
#[derive(Debug)]
struct Known {
    node: NodeId,
    endpoints: Vec<SocketAddr>,
    source: Source,
    since: Instant,
    heard: Instant,
    stage: Stage,
    /// The link is ours to keep: the node has chosen it.
    chosen: bool,
    /// Since when a chosen one has no link that works.
    lost: Option<Instant>,
    failures: u32,
    /// Not called before that.
    pause: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Nothing is under way.
    Idle,
    /// It has been called.
    Called(Instant),
}

/// How many strangers may be called.
#[derive(Debug)]
struct Calls {
    left: f64,
    since: Instant,
}

impl Calls {
    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.since).as_secs_f64() * CALLS_PER_SECOND;
        self.left = (self.left + gained).min(CALLS_PER_SECOND);
        self.since = now;
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

impl Known {
    fn may_be_called(&self, now: Instant) -> bool {
        self.stage == Stage::Idle && self.pause.is_none_or(|pause| pause <= now)
    }

    fn fail(&mut self, now: Instant) {
        self.stage = Stage::Idle;
        self.chosen = false;
        self.lost = None;
        let pause = (PAUSE * 2_u32.saturating_pow(self.failures).min(1 << 10)).min(MAX_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.pause = Some(now + pause);
    }
}

impl FoundNodes {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            known: BTreeMap::new(),
            local: LocalNetworks::default(),
            calls: Calls {
                left: CALLS_PER_SECOND,
                since: now,
            },
        }
    }

    /// Makes room for one more of that kind; the one heard of longest ago goes, but none that we have to do with.
    fn make_room(&mut self, source: Source) -> bool {
        let of_kind = || {
            let kind = source.kind();
            self.known
                .iter()
                .filter(move |(_, known)| known.source.kind() == kind)
        };
        if of_kind().count() < MAX_KNOWN {
            return true;
        }
        let oldest = of_kind()
            .filter(|(_, known)| known.stage == Stage::Idle && !known.chosen)
            .min_by_key(|(_, known)| (known.failures == 0, known.heard))
            .map(|(key, _)| *key);
        oldest.is_some_and(|key| self.known.remove(&key).is_some())
    }

    fn called(&self) -> usize {
        self.known
            .values()
            .filter(|known| known.stage != Stage::Idle)
            .count()
    }
}

impl Node {
    /// The addresses and networks of this machine are these.
    pub fn handle_local(&mut self, local: Vec<LocalNetwork>) {
        self.found.local = LocalNetworks(local);
    }

    /// Whether the node wants to be found on the LAN: by everybody if it is open, by members if it is in a private network, else by
    /// peers that it could not call itself. What it says there tells strangers that it is there.
    pub fn voice(&self) -> Voice {
        let is_sought = |(key, entry): (&PublicKey, &Entry)| {
            entry.origin == Origin::Peer && entry.endpoints.is_empty() && !self.is_open_with(key)
        };
        if self.admits_everybody() || self.network.is_private() || self.peers.iter().any(is_sought)
        {
            Voice::Loud
        } else {
            Voice::Silent
        }
    }

    /// The datagram that says on a link what the beacon does.
    pub fn sign_beacon(&self, beacon: &Beacon, source: Ipv6Addr) -> Vec<u8> {
        beacon.sign(self.identity.seed(), &self.network, source)
    }

    /// Somebody tells of a node. With whom no session may be opened, nothing happens.
    pub fn handle_found(&mut self, found: Found, now: Instant) {
        let Found {
            node,
            mut endpoints,
            source,
        } = found;
        let key = node.public_key();
        if node == self.identity.node() {
            return;
        }
        if !self.is_welcome(&key) {
            return self.discards.discard(Reason::FoundStranger, 1);
        }
        endpoints.retain(|endpoint| self.found.local.is_usable(endpoint, source));
        endpoints.truncate(MAX_ENDPOINTS);
        if endpoints.is_empty() {
            return self.discards.discard(Reason::FoundNowhere, 1);
        }
        if !self.found.known.contains_key(&key) && !self.found.make_room(source) {
            return self.discards.discard(Reason::FoundTooMany, 1);
        }
        let known = self.found.known.entry(key).or_insert_with(|| Known {
            node,
            endpoints: Vec::new(),
            source,
            since: now,
            heard: now,
            stage: Stage::Idle,
            chosen: false,
            lost: None,
            failures: 0,
            pause: None,
        });
        let is_new = endpoints
            .iter()
            .any(|endpoint| !known.endpoints.contains(endpoint));
        known.heard = now;
        // Who was found on the LAN stays there, whatever others tell of it besides.
        if known.source != Source::Lan {
            known.source = source;
        }
        if is_new {
            known.pause = None;
        }
        let before = std::mem::take(&mut known.endpoints);
        let left = before
            .into_iter()
            .filter(|endpoint| !endpoints.contains(endpoint))
            .collect::<Vec<_>>();
        known.endpoints = endpoints
            .into_iter()
            .chain(left)
            .take(MAX_ENDPOINTS)
            .collect();
        if self.peers.contains_key(&key) {
            self.tell_endpoints(&key, now);
        }
        self.review_found(now);
        self.drain(now);
    }

    /// Lets the session with a node know where it was found.
    fn tell_endpoints(&mut self, key: &PublicKey, now: Instant) {
        let Some(known) = self.found.known.get(key) else {
            return;
        };
        let is_linked = known.source == Source::Lan || known.chosen;
        let endpoints: Vec<_> = known
            .endpoints
            .iter()
            .copied()
            .filter(|endpoint| self.may_be_tried(known.source, endpoint))
            .collect();
        if endpoints.is_empty() {
            return;
        }
        let Some(entry) = self.peers.get_mut(key) else {
            return;
        };
        let is_new = entry.set_found(endpoints, is_linked);
        if is_new {
            self.refresh_endpoints(key, now);
            self.dial(key, now);
        }
    }

    /// Whether something may be sent to an endpoint before both ends have agreed on it. A router that gives out a port for each destination
    /// would spend the one for this destination on it, and the path agent of the other end could not guess it any more; a router that is
    /// not known yet may be one.
    fn may_be_tried(&self, source: Source, endpoint: &SocketAddr) -> bool {
        let is_told = matches!(source, Source::Neighbour(_));
        !is_told
            || endpoint.is_ipv6()
            || matches!(
                self.nat().mapping,
                Mapping::None | Mapping::EndpointIndependent { .. }
            )
    }

    /// More is known of the router before this node: what had to wait for that may be tried.
    pub(super) fn on_router_known(&mut self, now: Instant) {
        let told = self.found.known.iter();
        let told = told.filter(|(_, known)| matches!(known.source, Source::Neighbour(_)));
        let told: Vec<PublicKey> = told.map(|(key, _)| *key).collect();
        for key in told {
            self.tell_endpoints(&key, now);
        }
        self.review_found(now);
    }

    /// Looks at what is under way, and calls who is to be called.
    pub(super) fn review_found(&mut self, now: Instant) {
        self.settle_called(now);
        self.settle_chosen(now);
        let due: Vec<PublicKey> = self.due_calls(now);
        let mut waits = false;
        for key in due {
            waits |= !self.call_found(&key, now);
        }
        waits |= self.choose_links(now);
        let next = self.next_review(waits, now);
        self.agenda.set(Task::Found, next);
    }

    /// Those who were called have answered, or their time is up.
    fn settle_called(&mut self, now: Instant) {
        let called: Vec<_> = self
            .found
            .known
            .iter()
            .filter_map(|(key, known)| match known.stage {
                Stage::Called(since) => Some((*key, since)),
                Stage::Idle => None,
            })
            .collect();
        for (key, since) in called {
            let is_open = self.is_open_with(&key);
            let Some(known) = self.found.known.get_mut(&key) else {
                continue;
            };
            if is_open {
                known.stage = Stage::Idle;
                known.failures = 0;
                known.pause = None;
            } else if now.saturating_duration_since(since) >= ANSWER {
                known.fail(now);
                // Who never was there leaves nothing behind.
                let is_nobody = self
                    .peers
                    .get(&key)
                    .is_some_and(|entry| !entry.origin.is_named() && entry.admitted == Some(since));
                let never_heard = self
                    .device
                    .session(&key)
                    .is_some_and(|session| session.counters().last_received.is_none());
                if is_nobody && never_heard {
                    self.remove(&key, now);
                }
            }
        }
    }

    /// Chosen links that have failed are chosen no more.
    fn settle_chosen(&mut self, now: Instant) {
        let chosen: Vec<PublicKey> = self
            .found
            .known
            .iter()
            .filter(|(_, known)| known.chosen && known.stage == Stage::Idle)
            .map(|(key, _)| *key)
            .collect();
        for key in chosen {
            let is_up = self.has_link(&key);
            let Some(known) = self.found.known.get_mut(&key) else {
                continue;
            };
            if is_up {
                known.lost = None;
            } else if now.saturating_duration_since(*known.lost.get_or_insert(now)) >= FORGIVE {
                known.fail(now);
                debug!(peer = %self.label(&key), "A chosen link has failed");
            }
        }
    }

    /// Who is to be called at once: on the LAN everybody, as far as links go; elsewhere whom the configuration names, and who was looked
    /// up.
    fn due_calls(&mut self, now: Instant) -> Vec<PublicKey> {
        let lan_links = self
            .found
            .known
            .iter()
            .filter(|(key, known)| known.source == Source::Lan && self.is_open_with(key))
            .count();
        let mut room = MAX_LAN_LINKS.saturating_sub(lan_links);
        let mut due = Vec::new();
        for (key, known) in &self.found.known {
            if !known.may_be_called(now) || self.is_open_with(key) || !self.is_welcome(key) {
                continue;
            }
            let origin = self.peers.get(key).map(|entry| entry.origin);
            let is_due = match known.source {
                Source::Record => true,
                _ if origin == Some(Origin::Peer) => true,
                Source::Lan if room > 0 => {
                    room -= 1;
                    true
                }
                Source::Lan | Source::Neighbour(_) | Source::Remembered | Source::Control => false,
            };
            if is_due {
                due.push(*key);
            }
        }
        // Whoever forges many does not always come first.
        self.rng.shuffle(&mut due);
        due
    }

    /// Somebody sends to an address without session or route: calls the node that was found with it, if it has not been called in vain.
    /// What neighbours and earlier runs know comes before a look-up, whose answers strangers may keep back.
    pub(super) fn call_known(&mut self, destination: Ipv6Addr, now: Instant) -> Option<PublicKey> {
        let is_it = |(_, known): &(&PublicKey, &Known)| {
            known.node.prefix().contains(destination)
                && known.failures == 0
                && known.may_be_called(now)
        };
        let (key, _) = self.found.known.iter().find(is_it)?;
        let key = *key;
        if !self.is_welcome(&key) {
            return None;
        }
        // There is no session to agree on anything in: it is as good as a record that was looked up.
        if let Some(known) = self.found.known.get_mut(&key)
            && known.source != Source::Lan
        {
            known.source = Source::Record;
        }
        self.call_found(&key, now).then_some(key)
    }

    /// Opens a session with a found node. `false`: too many are being called.
    fn call_found(&mut self, key: &PublicKey, now: Instant) -> bool {
        let Some(known) = self.found.known.get(key) else {
            return true;
        };
        let node = known.node;
        let is_named = self
            .peers
            .get(key)
            .is_some_and(|entry| entry.origin.is_named());
        if !is_named && (self.found.called() >= MAX_CALLED || !self.found.calls.take(now)) {
            return false;
        }
        if !self.peers.contains_key(key) && self.admit(node.public_key(), now).is_none() {
            return true;
        }
        if let Some(known) = self.found.known.get_mut(key) {
            known.stage = Stage::Called(now);
        }
        self.tell_endpoints(key, now);
        debug!(peer = %self.label(key), "Calling a node that was found");
        self.device.initiate(key, now);
        if is_named {
            // It may be that it was being called where it is not.
            self.device.handle_new_way(key, now);
        }
        true
    }

    /// Chooses links until there are enough. `true`: there are not, and somebody is left to try.
    fn choose_links(&mut self, now: Instant) -> bool {
        let chosen: Vec<PublicKey> = self
            .found
            .known
            .iter()
            .filter(|(_, known)| known.chosen)
            .map(|(key, _)| *key)
            .collect();
        let mut count = chosen.len();
        let mut regions: Vec<_> = chosen
            .iter()
            .filter_map(|key| self.found.known.get(key)?.endpoints.first())
            .map(|endpoint| region(endpoint.ip()))
            .collect();
        while count < MOST_CHOSEN {
            let Some(key) = self.candidate(&regions, count >= LEAST_CHOSEN, now) else {
                return false;
            };
            let Some(known) = self.found.known.get_mut(&key) else {
                return false;
            };
            known.chosen = true;
            regions.extend(
                known
                    .endpoints
                    .first()
                    .map(|endpoint| region(endpoint.ip())),
            );
            if self.is_open_with(&key) {
                self.tell_endpoints(&key, now);
            } else if !self.call_found(&key, now) {
                if let Some(known) = self.found.known.get_mut(&key) {
                    known.chosen = false;
                }
                return true;
            }
            count += 1;
        }
        false
    }

    /// The best node to choose a link to: in another region than the others, near, and heard of lately.
    fn candidate(
        &mut self,
        regions: &[(u8, u32)],
        only_unreached: bool,
        now: Instant,
    ) -> Option<PublicKey> {
        let salt = self.rng.u64(..);
        let rank = |(key, known): &(&PublicKey, &Known)| {
            let first = known.endpoints.first()?;
            let near = self.peers.get(key).and_then(|entry| entry.rtt);
            let mut order = [0; 8];
            order.copy_from_slice(&key.as_bytes()[..8]);
            Some((
                known.failures,
                regions.contains(&region(first.ip())),
                near.is_none(),
                near.map(|rtt| rtt.time),
                // Not everybody is to choose the same ones.
                u64::from_ne_bytes(order) ^ salt,
            ))
        };
        let is_candidate = |(key, known): &(&PublicKey, &Known)| {
            !known.chosen
                && known.may_be_called(now)
                && known.source != Source::Lan
                && known
                    .endpoints
                    .iter()
                    .any(|endpoint| self.may_be_tried(known.source, endpoint))
                && !self.has_any_link(key)
                && self.is_welcome(key)
                && !(only_unreached
                    && (known.since + ROUTED > now
                        || self.is_open_with(key)
                        || self.is_routed(known.node.address())))
        };
        self.found
            .known
            .iter()
            .filter(is_candidate)
            .min_by_key(rank)
            .map(|(key, _)| *key)
    }

    /// The link of a peer that makes another one to `to` needless, dialled as its endpoint `at`: it goes by the same interface, and one
    /// of the two was found. Two that are configured stay two.
    pub(super) fn twin(&self, peer: &PublicKey, at: usize, to: &SocketAddr) -> Option<LinkId> {
        let found = self.peers.get(peer)?.endpoints.len();
        let interface = self.found.local.interface_of(to)?;
        // Who calls from a link-local address has found us.
        let was_found = |link: &Link| match link.dialled {
            Some(dialled) => dialled == found,
            None => reach(&link.endpoint.remote) == Reach::Link,
        };
        let mut links = self.links.of(peer);
        let twin = links.find(|(_, link)| {
            self.found.local.interface_of(&link.endpoint.remote) == Some(interface)
                && (at == found || was_found(link))
        });
        twin.map(|(id, _)| id)
    }

    /// Whether there is no need to dial where a peer was found: there is a link by that interface, or one that the configuration asks
    /// for may come yet.
    pub(super) fn needs_no_found_link(&self, peer: &PublicKey) -> bool {
        let Some(entry) = self.peers.get(peer) else {
            return true;
        };
        let configured = entry.endpoints.len();
        let Some(dial) = entry.dials.get(configured) else {
            return true;
        };
        let interface = |address: &SocketAddr| self.found.local.interface_of(address);
        let there: Vec<u32> = dial.addresses.iter().filter_map(interface).collect();
        let is_there = |address: &SocketAddr| {
            interface(address).is_some_and(|interface| there.contains(&interface))
        };
        let is_linked = self.links.of(peer).any(|(_, link)| {
            link.state != NeighbourState::Down
                && link.dialled != Some(configured)
                && is_there(&link.endpoint.remote)
        });
        is_linked
            || entry.dials[..configured]
                .iter()
                .any(|dial| dial.may_answer() && dial.addresses.iter().any(is_there))
    }

    pub(super) fn has_link(&self, key: &PublicKey) -> bool {
        self.links
            .of(key)
            .any(|(_, link)| link.state != NeighbourState::Down)
    }

    fn has_any_link(&self, key: &PublicKey) -> bool {
        self.links.of(key).next().is_some()
    }

    fn next_review(&self, waits: bool, now: Instant) -> Option<Instant> {
        let steps = self.found.known.values().filter_map(|known| {
            match known.stage {
                // It is looked whether it has answered, so that it is not called again.
                Stage::Called(_) => Some(now + REVIEW),
                Stage::Idle if known.chosen => Some(now + FORGIVE / 4),
                Stage::Idle => {
                    let looked_for = Some(known.since + ROUTED);
                    known.pause.max(looked_for).filter(|due| *due > now)
                }
            }
        });
        steps.chain(waits.then_some(now + REVIEW)).min()
    }
}

impl Entry {
    /// Where else it may be; whether that is news. `is_linked`: a link is wanted there.
    fn set_found(&mut self, endpoints: Vec<SocketAddr>, is_linked: bool) -> bool {
        let dial = self.endpoints.len();
        let is_dialled = self.dials.len() > dial;
        if self.found == endpoints && is_dialled == is_linked {
            return false;
        }
        match self.dials.get_mut(dial) {
            Some(dial) => dial.addresses.clone_from(&endpoints),
            None if is_linked => self.dials.push(Dial::new(endpoints.clone())),
            None => {}
        }
        self.found = endpoints;
        true
    }
}
