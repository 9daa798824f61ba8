//! Who the node knows, and who may open a session with it.

use std::{
    collections::BTreeSet,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnetwork::Ipv6Network;
use tracing::{info, warn};
use wireguard::{AddPeerError, Endpoint, Kind, Peer, PublicKey, Session, Upkeep};

use super::{
    CommandError, Node, Output, Seen, Task,
    inbound::{Acquaintance, Refused},
    links::Dial,
    paths::Path,
};
use crate::{
    config::{HostPort, PeerInbound, PeerSettings, Settings, StockRouting, StockSettings},
    fib::CarrierStats,
    identity::{NodeId, leaf_address},
    inbound::Inbound,
    liveness::Liveness,
    state::StockDevice,
};

/// Sessions of keys that nobody named; the least recently used goes first.
const MAX_STRANGERS: usize = 1024;

/// What the node knows about a peer besides its session.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) address: Ipv6Addr,
    /// Who it is, unless it is a stock device.
    pub(super) node: Option<NodeId>,
    pub(super) origin: Origin,
    /// What a stock device is to routing.
    pub(super) routing: StockRouting,
    /// When a stranger was let in.
    pub(super) admitted: Option<Instant>,
    pub(super) allowed: Vec<Ipv6Network>,
    pub(super) endpoints: Vec<HostPort>,
    /// How far dialling each of them has got.
    pub(super) dials: Vec<Dial>,
    /// Where else it may be, as it was found. If a link is wanted there, one more of `dials`, the last, has these addresses.
    pub(super) found: Vec<SocketAddr>,
    /// It has said that everybody may hear of it.
    pub(super) says_open: bool,
    /// Which way its packets take.
    pub(super) path: Path,
    /// Whether the way through other nodes carries them, since it was first taken.
    pub(super) liveness: Option<Liveness>,
    pub(super) stats: Arc<CarrierStats>,
    /// When its names were last asked for.
    pub(super) resolved: Option<Instant>,
    pub(super) names: Names,
    pub(super) rtt: Option<Rtt>,
    pub(super) reachable: Reachable,
    /// What a configured peer's entry says of its packets.
    pub(super) trust: PeerInbound,
    /// What judges its packets; none: they are trusted.
    pub(super) inbound: Option<Inbound>,
    /// What it has refused to us.
    pub(super) refused: Option<Refused>,
}

/// What is known of the names among a peer's endpoints.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Names {
    /// There are none, or they gave addresses.
    Known,
    /// Nothing yet.
    Unknown,
}

/// Why a peer may open a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    /// `[[peers]]`
    Peer,
    /// `allow_keys`
    Allowed,
    /// `[[wireguard.stock]]`
    Stock,
    /// `meshd wg add`
    Added,
    /// A member of the network that the node is in.
    Member,
    /// Nobody named it, and the node is open.
    Stranger,
    /// It wants to be a member of our network, or we of its: signals about that pass, and nothing else.
    Guest,
}

/// A round-trip time, and when it was measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rtt {
    pub(super) time: Duration,
    pub(super) measured: Instant,
}

/// What the log last said about a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reachable {
    Yes,
    No,
}

impl Origin {
    pub(super) const fn is_stock(self) -> bool {
        matches!(self, Self::Stock | Self::Added)
    }

    /// Whether it was named here, by the configuration or by a command.
    pub(super) const fn is_named(self) -> bool {
        match self {
            Self::Peer | Self::Allowed | Self::Stock | Self::Added => true,
            Self::Member | Self::Stranger | Self::Guest => false,
        }
    }
}

/// What dialling begins with: the addresses that need not be resolved.
fn dials(endpoints: &[HostPort]) -> Vec<Dial> {
    let addresses = |endpoint: &HostPort| endpoint.address().into_iter().collect();
    endpoints
        .iter()
        .map(|endpoint| Dial::new(addresses(endpoint)))
        .collect()
}

impl Entry {
    pub(super) fn mesh(
        name: String,
        node: NodeId,
        origin: Origin,
        endpoints: Vec<HostPort>,
    ) -> Self {
        Self {
            name,
            address: node.address(),
            node: Some(node),
            origin,
            routing: StockRouting::None,
            admitted: None,
            allowed: vec![node.prefix()],
            dials: dials(&endpoints),
            found: Vec::new(),
            says_open: false,
            path: Path::None,
            liveness: None,
            stats: Arc::default(),
            endpoints,
            names: Names::Known,
            resolved: None,
            rtt: None,
            reachable: Reachable::No,
            trust: PeerInbound::Allow,
            inbound: None,
            refused: None,
        }
    }

    fn stock(
        name: String,
        allowed: Vec<Ipv6Network>,
        origin: Origin,
        endpoints: Vec<HostPort>,
        routing: StockRouting,
    ) -> Self {
        let address = allowed
            .first()
            .map_or(Ipv6Addr::UNSPECIFIED, Ipv6Network::ip);
        Self {
            name,
            address,
            node: None,
            origin,
            routing,
            admitted: None,
            allowed,
            dials: dials(&endpoints),
            found: Vec::new(),
            says_open: false,
            path: Path::None,
            liveness: None,
            stats: Arc::default(),
            endpoints,
            names: Names::Known,
            resolved: None,
            rtt: None,
            reachable: Reachable::No,
            trust: PeerInbound::Allow,
            inbound: None,
            refused: None,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        if self.origin.is_stock() {
            Kind::Stock
        } else {
            Kind::Mesh
        }
    }

    /// Whether it is none of us, or we none of them, yet.
    pub(super) fn is_guest(&self) -> bool {
        self.origin == Origin::Guest
    }

    /// Whether an endpoint has to be resolved.
    pub(super) fn has_names(&self) -> bool {
        self.endpoints
            .iter()
            .any(|endpoint| endpoint.address().is_none())
    }

    /// What the device has to know; a peer that we can dial is kept connected.
    fn peer(&self, key: PublicKey, seen: Option<&Seen>) -> Peer {
        let endpoints = self.underlay(seen);
        let keeps =
            self.origin == Origin::Peer && !(self.endpoints.is_empty() && endpoints.is_empty());
        Peer {
            key,
            preshared: None,
            kind: self.kind(),
            allowed: self.allowed.clone(),
            endpoints: endpoints.into_iter().map(Endpoint::unproven).collect(),
            persistent_keepalive: None,
            upkeep: if keeps {
                Upkeep::Always
            } else {
                Upkeep::OnDemand
            },
        }
    }
}

impl Entry {
    /// Where it may be found on the underlay.
    fn underlay(&self, seen: Option<&Seen>) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        let configured = self.dials.iter().flat_map(|dial| &dial.addresses);
        let found = configured.chain(&self.found);
        for address in found.chain(seen.iter().flat_map(|seen| &seen.endpoints)) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses
    }
}

impl Node {
    /// Takes over the live part of new settings; sessions of peers that stay are not touched.
    pub fn handle_settings(&mut self, settings: &Settings, now: Instant) {
        let added = self.added_devices();
        self.configure(settings, &added, now);
    }

    pub(super) fn configure(&mut self, settings: &Settings, added: &[StockDevice], now: Instant) {
        self.admission = settings.admission;
        self.relay = settings.relay;
        self.inbound.clone_from(&settings.inbound);
        self.warnings.clone_from(&settings.warnings);
        for id in self.workloads.configure(&settings.workloads) {
            self.outputs.push_back(Output::DetachWorkload(id));
        }
        let wanted = self.wanted(settings, added);
        let keys: BTreeSet<PublicKey> = wanted.iter().map(|(key, _)| *key).collect();
        // Who has other grounds may come again.
        let is_gone =
            |(key, entry): &(&PublicKey, &Entry)| entry.origin.is_named() && !keys.contains(*key);
        let gone = self.peers.iter().filter(is_gone);
        for key in gone.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.remove(&key, now);
        }
        self.expel(now);
        for (key, entry) in wanted {
            if self.is_refused(&key) {
                warn!(peer = %entry.name, "The network has revoked a configured peer: it is left out");
                continue;
            }
            let name = entry.name.clone();
            if let Err(error) = self.set_peer(key, entry, now) {
                warn!(peer = %name, %error, "Peer left out");
            }
        }
        self.renew_all_rules(now);
        self.tell_transit(now);
        self.count_links(now);
        self.look_at_streams(now);
        self.rename();
        self.drain(now);
    }

    /// Everybody that the configuration and `meshd wg add` name.
    fn wanted(&self, settings: &Settings, added: &[StockDevice]) -> Vec<(PublicKey, Entry)> {
        let peer = |peer: &PeerSettings| {
            (
                peer.node.public_key(),
                Entry {
                    trust: peer.inbound,
                    ..Entry::mesh(
                        peer.name.clone(),
                        peer.node,
                        Origin::Peer,
                        peer.endpoints.clone(),
                    )
                },
            )
        };
        let allowed = |node: &NodeId| {
            (
                node.public_key(),
                Entry::mesh(
                    node.address().to_string(),
                    *node,
                    Origin::Allowed,
                    Vec::new(),
                ),
            )
        };
        let stock = |stock: &StockSettings| {
            let mut allowed = stock.allowed.clone();
            if allowed.is_empty() {
                allowed.push(leaf_address(self.identity.node().prefix(), &stock.public_key).into());
            }
            (
                stock.public_key,
                Entry::stock(
                    stock.name.clone(),
                    allowed,
                    Origin::Stock,
                    stock.endpoints.clone(),
                    stock.routing.clone(),
                ),
            )
        };
        let device = |device: &StockDevice| {
            (
                device.public_key,
                Entry::stock(
                    device.name.clone(),
                    vec![device.address.into()],
                    Origin::Added,
                    Vec::new(),
                    StockRouting::None,
                ),
            )
        };
        let listed = settings
            .peers
            .iter()
            .map(peer)
            .chain(settings.allow_keys.iter().map(allowed))
            .chain(settings.stock.iter().map(stock));
        listed.chain(added.iter().map(device)).collect()
    }

    /// Adds a peer, or changes one in place.
    pub(super) fn set_peer(
        &mut self,
        key: PublicKey,
        mut entry: Entry,
        now: Instant,
    ) -> Result<(), AddPeerError> {
        if let Some(old) = self.peers.get(&key) {
            entry.found.clone_from(&old.found);
            entry.says_open = old.says_open;
            entry.inbound.clone_from(&old.inbound);
            entry.refused = old.refused;
        }
        let peer = entry.peer(key, self.seen.get(&key));
        match self.peers.get(&key) {
            None => {
                self.device.add_peer(peer, now)?;
            }
            Some(old) if old.kind() == entry.kind() && old.routing == entry.routing => {
                self.device.update_peer(peer, now)?;
                entry.rtt = old.rtt;
                entry.reachable = old.reachable;
                entry.path = old.path;
                entry.stats = Arc::clone(&old.stats);
            }
            Some(_) => {
                self.close_links_of(&key, now);
                self.device.remove_peer(&key);
                self.device.add_peer(peer, now)?;
            }
        }
        if let Some(session) = self.device.session(&key)
            && session.mtu() > usize::from(self.interface.mtu)
        {
            session.set_mtu(usize::from(self.interface.mtu));
        }
        if entry.has_names() {
            entry.names = Names::Unknown;
            entry.resolved = Some(now);
            self.outputs.push_back(Output::Resolve {
                peer: key,
                endpoints: entry.endpoints.clone(),
            });
        }
        let acquaintance = match self.peers.insert(key, entry) {
            Some(old) => {
                self.keep_dials(&key, old, now);
                Acquaintance::Old
            }
            None => Acquaintance::New,
        };
        self.renew_rules(&key, acquaintance, now);
        self.refresh_endpoints(&key, now);
        self.choose_path(&key, now);
        Ok(())
    }

    /// The entry of a peer has been replaced: its links stay with those endpoints that are still there.
    fn keep_dials(&mut self, key: &PublicKey, mut old: Entry, now: Instant) {
        let Some(entry) = self.peers.get_mut(key) else {
            return;
        };
        entry.liveness = old.liveness.take();
        // The last is where it was found.
        if old.dials.len() > old.endpoints.len() {
            entry.dials.extend(old.dials.pop());
        }
        let place = |at: usize| match old.endpoints.get(at) {
            Some(endpoint) => entry.endpoints.iter().position(|other| other == endpoint),
            None => Some(entry.endpoints.len()),
        };
        let mut gone = Vec::new();
        for (id, link) in self.links.iter_mut() {
            if link.peer != *key {
                continue;
            }
            match link.dialled.map(place) {
                Some(Some(at)) => link.dialled = Some(at),
                Some(None) if !entry.origin.is_stock() => gone.push(id),
                Some(None) | None => {}
            }
        }
        for (endpoint, dial) in old.endpoints.iter().zip(old.dials) {
            if let Some(at) = entry.endpoints.iter().position(|other| other == endpoint) {
                entry.dials[at] = dial;
            }
        }
        for id in gone {
            self.close_link(id, now);
        }
        self.dial(key, now);
    }

    /// Tells the device where a peer may be found: at its endpoints, and through other nodes if there is a way. That comes first, since
    /// a session opened that way is moved as soon as a link works, and until then it carries packets.
    pub(super) fn refresh_endpoints(&mut self, key: &PublicKey, now: Instant) {
        let Some(entry) = self.peers.get(key) else {
            return;
        };
        let is_routed = entry.node.is_some() && self.is_routed(entry.address);
        let relayed = is_routed.then_some(Endpoint::Overlay(entry.address));
        let underlay = entry.underlay(self.seen.get(key));
        let straight = self.reach.endpoints(key).map(Endpoint::from);
        let endpoints = relayed
            .into_iter()
            .chain(straight)
            .chain(underlay.into_iter().map(Endpoint::unproven))
            .collect();
        self.device.set_endpoints(key, endpoints, now);
    }

    /// Forgets a peer and its session.
    pub(super) fn remove(&mut self, key: &PublicKey, now: Instant) {
        self.close_links_of(key, now);
        self.forget_reach(key, now);
        self.device.remove_peer(key);
        self.held.take(key);
        self.acquaintances.forget(key);
        self.membership.forget(key);
        self.peers.remove(key);
        for task in [Task::Dial(*key), Task::Stranded(*key), Task::Path(*key)] {
            self.agenda.set(task, None);
        }
        self.stale = true;
    }

    /// The session for one whom nobody named, and who may open one all the same; it then owns exactly its /64. Nothing if it may
    /// not.
    pub fn admit(&mut self, key: PublicKey, now: Instant) -> Option<Arc<Session>> {
        // It may have been admitted, or named, since it was taken for a stranger.
        if let Some(session) = self.device.session(&key) {
            return Some(Arc::clone(session));
        }
        let origin = self.grounds(&key)?;
        self.admit_as(origin, key, now)
    }

    /// The same for one who calls, and who may also come as a guest with a ticket.
    pub fn admit_caller(&mut self, key: PublicKey, now: Instant) -> Option<Arc<Session>> {
        if let Some(session) = self.admit(key, now) {
            return Some(session);
        }
        if self.is_refused(&key) || !self.has_room_for_guest(now) {
            return None;
        }
        self.admit_as(Origin::Guest, key, now)
    }

    fn admit_as(&mut self, origin: Origin, key: PublicKey, now: Instant) -> Option<Arc<Session>> {
        let node = NodeId::from_public_key(&key).ok()?;
        if self.strangers().count() >= MAX_STRANGERS
            && let Some(oldest) = self.oldest_stranger()
        {
            self.remove(&oldest, now);
        }
        let entry = self.entry_for(node, origin, now);
        let is_added = self.set_peer(key, entry, now);
        self.stale = true;
        self.set_membership_timer(now);
        self.drain(now);
        is_added.ok()?;
        self.device.session(&key).map(Arc::clone)
    }

    fn strangers(&self) -> impl Iterator<Item = (&PublicKey, &Entry)> {
        self.peers
            .iter()
            .filter(|(_, entry)| !entry.origin.is_named())
    }

    /// The stranger that was heard least recently; one whose handshake is still to be answered counts as heard when it was admitted.
    pub(super) fn oldest_stranger(&self) -> Option<PublicKey> {
        let heard = |(key, entry): &(&PublicKey, &Entry)| {
            let session = self.device.session(key)?;
            session.counters().last_received.max(entry.admitted)
        };
        self.strangers().min_by_key(heard).map(|(key, _)| *key)
    }

    // ---- devices of `meshd wg` -----------------------------------------------------------------------------------------------

    /// What `meshd wg add` has added.
    pub fn added_devices(&self) -> Vec<StockDevice> {
        let added = self
            .peers
            .iter()
            .filter(|(_, entry)| entry.origin == Origin::Added);
        added
            .map(|(key, entry)| StockDevice {
                name: entry.name.clone(),
                public_key: *key,
                address: entry.address,
            })
            .collect()
    }

    /// Lets a stock WireGuard device join as a leaf; returns its address, which follows from its key.
    ///
    /// # Errors
    /// [`CommandError::NameTaken`], [`CommandError::Peer`] if the key is taken or our own.
    pub fn add_device(
        &mut self,
        name: &str,
        key: PublicKey,
        now: Instant,
    ) -> Result<Ipv6Addr, CommandError> {
        if self.name == name || self.peers.values().any(|entry| entry.name == name) {
            return Err(CommandError::NameTaken(name.to_owned()));
        }
        if self.peers.contains_key(&key) {
            return Err(CommandError::Peer(AddPeerError::Exists));
        }
        let address = leaf_address(self.identity.node().prefix(), &key);
        let entry = Entry::stock(
            name.to_owned(),
            vec![address.into()],
            Origin::Added,
            Vec::new(),
            StockRouting::None,
        );
        self.set_peer(key, entry, now).map_err(CommandError::Peer)?;
        self.renew_all_rules(now);
        self.rename();
        info!(device = name, %address, "Device added");
        Ok(address)
    }

    /// Takes a device of `meshd wg add` away, with its session.
    ///
    /// # Errors
    /// [`CommandError::NoSuchName`], [`CommandError::Configured`].
    pub fn remove_device(&mut self, name: &str, now: Instant) -> Result<(), CommandError> {
        let named = self
            .peers
            .iter()
            .filter(|(_, entry)| entry.name == name && entry.kind() == Kind::Stock);
        // The configuration may have got one of the same name since.
        let found = named.min_by_key(|(_, entry)| entry.origin != Origin::Added);
        let (key, origin) = found
            .map(|(key, entry)| (*key, entry.origin))
            .ok_or_else(|| CommandError::NoSuchName(name.to_owned()))?;
        if origin != Origin::Added {
            return Err(CommandError::Configured(name.to_owned()));
        }
        self.remove(&key, now);
        self.renew_all_rules(now);
        self.rename();
        info!(device = name, "Device removed");
        Ok(())
    }
}
