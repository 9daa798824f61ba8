//! The forwarding snapshot that packet threads read.
//!
//! Two tables, since a session may cross other nodes: FIB 1 leads from the destination that a user's packet names to a session; FIB 2
//! leads from the node that a session's datagrams go to, ours or others', to a neighbour. Beside them, who a datagram is from: receiver
//! index to session, key to session; and what is done with labelled datagrams (`labelled.rs`).
//!
//! The node loop builds a new [`Fib`] whenever a peer, a link or a route comes or goes and swaps it in; a packet thread loads it once
//! per batch and never waits. The only locks a packet thread takes are that of one session and that of what goes on with one party
//! (`inbound.rs`), each for one batch, never two at once.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use filter::Ports;
use ipnetwork::Ipv6Network;
use names::Directory;
use routing::LinkId;
use wireguard::{Class, Indices, PublicKey, Session, Underlay};

use crate::{
    icmp::EchoToken,
    identity::{overlay, resolver_address},
    inbound::Inbound,
    labels::Pair,
    path::probe::TokenId,
    relayed,
    workload::{WorkloadId, WorkloadStats},
};

/// Where packets go, as an immutable snapshot.
pub struct Fib {
    own: Own,
    /// Where this node answers questions for names.
    resolver: Ipv6Addr,
    /// What it answers from.
    directory: Option<Arc<Directory>>,
    by_prefix: Table<Arc<Carrier>>,
    routes: Table<Option<Arc<NextHop>>>,
    by_index: HashMap<u32, Arc<Carrier>>,
    /// Those of the device that all sessions are of; none while there is no session.
    indices: Option<Indices>,
    by_key: HashMap<PublicKey, Arc<Carrier>>,
    admits: Admits,
    relay_mbit: Option<NonZeroU32>,
    by_label: HashMap<u32, Arc<Labelled>>,
    /// Under these tokens of ours probes are read.
    tokens: HashSet<TokenId>,
    /// The labels under which neighbours take our own datagrams for a node.
    own_labels: HashMap<Ipv6Addr, (Arc<NextHop>, u32)>,
    /// The attached workloads of this node.
    workloads: HashMap<Ipv6Addr, Arc<Workload>>,
}

/// Who may ask for a session without having one.
#[derive(Clone, Debug, Default)]
pub enum Admits {
    /// Nobody.
    #[default]
    Nobody,
    /// These: the members of the network.
    These(Arc<HashSet<PublicKey>>),
    /// Everybody: the node loop decides.
    Everybody,
}

/// What never changes about this node.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Its own address.
    pub address: Ipv6Addr,
    /// The /64 that is its own.
    pub prefix: Ipv6Network,
    /// Its address on links.
    pub link_local: Ipv6Addr,
    /// The secret that marks its echo requests.
    pub token: EchoToken,
}

/// A session, and what may come out of it besides what its peer owns.
#[derive(Debug)]
pub struct Carrier {
    /// The session.
    pub session: Arc<Session>,
    /// What it owns: the destinations that lead to it.
    pub owns: Vec<Ipv6Network>,
    /// Who the other end is on a link.
    pub role: Role,
    /// What is noted about it, from one snapshot to the next.
    pub stats: Arc<CarrierStats>,
    /// What judges its packets for this node; none: they are trusted.
    pub inbound: Option<Inbound>,
}

impl Carrier {
    /// Whether its peer is behind this node, with addresses of ours.
    pub fn is_ours(&self) -> bool {
        match self.role {
            Role::Node { .. } | Role::Guest { .. } => false,
            Role::StockRouter { .. } | Role::Leaf => true,
        }
    }

    /// Whether datagrams of the session may come through others: from a node at this address, its peer and nobody else, by the link of
    /// another session than itself.
    pub fn may_be_relayed(&self, source: Ipv6Addr, link: &Arc<Session>) -> bool {
        let is_peer = matches!(self.role, Role::Node { address, .. } if address == source);
        is_peer && !Arc::ptr_eq(link, &self.session)
    }
}

/// What packet threads note about a session's peer.
#[derive(Debug, Default)]
pub struct CarrierStats {
    /// Hop limit of the last datagram that was relayed from it, 0: none was.
    hop_limit: AtomicU8,
    /// Packets of its that wait for the node loop.
    queued: AtomicU16,
}

impl CarrierStats {
    /// Packets of one peer that may wait for the node loop, so that no peer keeps others from being heard.
    const MAX_QUEUED: u16 = 128;

    /// Notes how many hops a relayed datagram had left.
    pub fn note_hop_limit(&self, hop_limit: u8) {
        self.hop_limit.store(hop_limit, Relaxed);
    }

    /// How many links its relayed datagrams cross, as far as their hop limit shows; none before the first.
    pub fn hops(&self) -> Option<u32> {
        match self.hop_limit.load(Relaxed) {
            0 => None,
            left => Some(u32::from(relayed::HOP_LIMIT.saturating_sub(left)) + 1),
        }
    }

    /// A place for one more packet in the queue of the node loop, until it is dropped; none if there are enough.
    pub fn queue(self: &Arc<Self>) -> Option<Queued> {
        let before = self.queued.fetch_add(1, Relaxed);
        let queued = Queued(Arc::clone(self));
        (before < Self::MAX_QUEUED).then_some(queued)
    }
}

/// A packet's place in the queue of the node loop.
#[derive(Debug)]
pub struct Queued(Arc<CarrierStats>);

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Relaxed);
    }
}

/// What the other end of a session is to routing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// A node of the mesh, with this address of its own and this one on links. It may be a neighbour.
    Node {
        /// Its own address.
        address: Ipv6Addr,
        /// On links.
        link_local: Ipv6Addr,
        /// Whether what it wants forwarded is.
        relay: Relay,
    },
    /// A stock router, whose address on links is its own affair.
    StockRouter {
        /// Whether what it carries for others is taken from it.
        relay: Relay,
    },
    /// A stock device that routes nothing.
    Leaf,
    /// One who is not a member yet and wants to be, with this address on links: it exchanges signals with us, and nothing else.
    Guest {
        /// On links.
        link_local: Ipv6Addr,
    },
}

/// Whether packets between other nodes are forwarded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Relay {
    /// They are.
    Yes,
    /// They are not.
    No,
}

/// What packet threads note about a link's labelled datagrams, of which its session knows nothing.
#[derive(Debug)]
pub struct LinkStats {
    base: Instant,
    /// Since when something was sent and nothing came, in milliseconds from `base` and from 1; 0: something has come since.
    unanswered: AtomicU64,
}

impl LinkStats {
    /// Of a link that begins now.
    pub fn new(now: Instant) -> Self {
        Self {
            base: now,
            unanswered: AtomicU64::new(0),
        }
    }

    /// Something was sent.
    pub fn note_sent(&self, now: Instant) {
        if self.unanswered.load(Relaxed) == 0 {
            let since = now.saturating_duration_since(self.base).as_millis() as u64 + 1;
            self.unanswered.store(since, Relaxed);
        }
    }

    /// Something has come.
    pub fn note_heard(&self) {
        if self.unanswered.load(Relaxed) != 0 {
            self.unanswered.store(0, Relaxed);
        }
    }

    /// Whether nothing has come for this long though something was sent; it counts from the next that is sent then.
    pub fn take_silence(&self, patience: Duration, now: Instant) -> bool {
        let since = self.unanswered.load(Relaxed);
        if since == 0 {
            return false;
        }
        let until = now.saturating_duration_since(self.base);
        let is_long = until.saturating_sub(Duration::from_millis(since)) >= patience;
        if is_long {
            self.unanswered.store(0, Relaxed);
        }
        is_long
    }
}

/// A neighbour, over one link.
#[derive(Debug)]
pub struct NextHop {
    /// Which link.
    pub link: LinkId,
    /// The session of the link.
    pub session: Arc<Session>,
    /// Where the link leads.
    pub endpoint: Underlay,
    /// The longest packet that the link carries, in bytes.
    pub mtu: usize,
    /// What is noted about the link.
    pub stats: Arc<LinkStats>,
}

/// What is done with datagrams under a label that we have given to a neighbour.
#[derive(Debug)]
pub struct Labelled {
    /// Where they have to come from.
    pub from: SocketAddr,
    /// By which sort of way.
    pub class: Class,
    /// The session of the link that they come by.
    pub session: Arc<Session>,
    /// What is noted about that link.
    pub stats: Arc<LinkStats>,
    /// Whose they are.
    pub pair: Pair,
    /// Where they go.
    pub onward: Onward,
}

/// Where labelled datagrams go.
#[derive(Debug)]
pub enum Onward {
    /// Into our own session with the node that they are from.
    Here,
    /// To a neighbour, under its label; none: in the nested form.
    Via(Arc<NextHop>, Option<u32>),
    /// There is no way.
    Nowhere,
}

/// An attached workload of this node. Its device is among the [`Devices`](crate::forward::Devices).
#[derive(Debug)]
pub struct Workload {
    /// Names the attachment, and so the device.
    pub id: WorkloadId,
    /// What it is called.
    pub name: String,
    /// Its address, the only source it may use.
    pub address: Ipv6Addr,
    /// What everybody may reach who reaches this node at all.
    pub publish: Vec<Ports>,
    /// What is noted about it.
    pub stats: Arc<WorkloadStats>,
    /// What judges its packets for others on this node; none: nothing is refused.
    pub inbound: Option<Inbound>,
}

/// What FIB 1 says about a destination.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// This node itself.
    Host,
    /// A workload of this node.
    Workload(&'a Arc<Workload>),
    /// The name server of this node.
    Resolver,
    /// Through this session: another node, or a leaf of ours.
    Session(&'a Arc<Carrier>),
    /// Inside the overlay, but nobody we have a session with.
    Unknown,
    /// Not an overlay unicast address.
    NotOverlay,
}

/// What FIB 2 says about a node.
#[derive(Debug)]
pub enum Route<'a> {
    /// Through this neighbour.
    Via(&'a Arc<NextHop>),
    /// There was a way, and nothing else is to be used for it meanwhile (RFC 8966 §2.8).
    Unreachable,
    /// There is no way.
    Unknown,
}

impl Fib {
    /// A snapshot with these sessions of one device and, for the datagrams between nodes, these ways to prefixes; none: unreachable.
    pub fn new(
        own: Own,
        carriers: impl IntoIterator<Item = Carrier>,
        routes: impl IntoIterator<Item = (Ipv6Network, Option<Arc<NextHop>>)>,
    ) -> Self {
        let mut fib = Self {
            own,
            resolver: resolver_address(own.prefix),
            directory: None,
            by_prefix: Table::default(),
            routes: Table::default(),
            by_index: HashMap::new(),
            indices: None,
            by_key: HashMap::new(),
            admits: Admits::Nobody,
            relay_mbit: None,
            by_label: HashMap::new(),
            tokens: HashSet::new(),
            own_labels: HashMap::new(),
            workloads: HashMap::new(),
        };
        for carrier in carriers {
            let carrier = Arc::new(carrier);
            for prefix in &carrier.owns {
                fib.by_prefix.insert(*prefix, Arc::clone(&carrier));
            }
            let session = &carrier.session;
            fib.by_key.insert(*session.key(), Arc::clone(&carrier));
            fib.indices = Some(session.indices());
            fib.by_index.insert(session.index(), Arc::clone(&carrier));
        }
        for (prefix, next_hop) in routes {
            fib.routes.insert(prefix, next_hop);
        }
        fib
    }

    /// The same, where these may ask for a session who have none.
    pub fn admitting(self, admits: Admits) -> Self {
        Self { admits, ..self }
    }

    /// The same, where at most so many megabits a second are forwarded for others.
    pub fn relaying(self, relay_mbit: Option<NonZeroU32>) -> Self {
        Self { relay_mbit, ..self }
    }

    /// The same, with these labels that were given to neighbours, and those under which they take our own datagrams for a node.
    pub fn labelling(
        self,
        given: impl IntoIterator<Item = (u32, Labelled)>,
        own: impl IntoIterator<Item = (Ipv6Addr, (Arc<NextHop>, u32))>,
    ) -> Self {
        let given = given.into_iter();
        Self {
            by_label: given.map(|(label, to)| (label, Arc::new(to))).collect(),
            own_labels: own.into_iter().collect(),
            ..self
        }
    }

    /// The same, where these tokens were given away for probes.
    pub fn probing(self, tokens: impl IntoIterator<Item = TokenId>) -> Self {
        Self {
            tokens: tokens.into_iter().collect(),
            ..self
        }
    }

    /// The same, with these workloads attached.
    pub fn hosting(self, workloads: impl IntoIterator<Item = Workload>) -> Self {
        let workloads = workloads.into_iter();
        Self {
            workloads: workloads
                .map(|workload| (workload.address, Arc::new(workload)))
                .collect(),
            ..self
        }
    }

    /// The workload of this node with this address.
    pub fn workload(&self, address: Ipv6Addr) -> Option<&Arc<Workload>> {
        self.workloads.get(&address)
    }

    /// The same, where questions for names are answered from this directory.
    pub fn naming(self, directory: Option<Arc<Directory>>) -> Self {
        Self { directory, ..self }
    }

    /// What questions for names are answered from; none: they are not.
    pub fn directory(&self) -> Option<&Directory> {
        self.directory.as_deref()
    }

    /// Whether this token was given to somebody.
    pub fn has_given(&self, token: &TokenId) -> bool {
        self.tokens.contains(token)
    }

    /// What is done with datagrams under this label.
    pub fn labelled(&self, label: u32) -> Option<&Arc<Labelled>> {
        self.by_label.get(&label)
    }

    /// The neighbour that takes our datagrams for a node under a label, and the label.
    pub fn own_label(&self, node: Ipv6Addr) -> Option<(&Arc<NextHop>, u32)> {
        let (next_hop, label) = self.own_labels.get(&node)?;
        Some((next_hop, *label))
    }

    /// The session with the holder of this key, open or not.
    pub fn session(&self, key: &PublicKey) -> Option<&Arc<Session>> {
        self.by_key.get(key).map(|carrier| &carrier.session)
    }

    /// Whether the holder of this key, who has no session, may ask for one.
    pub fn admits(&self, key: &PublicKey) -> bool {
        match &self.admits {
            Admits::Nobody => false,
            Admits::These(keys) => keys.contains(key),
            Admits::Everybody => true,
        }
    }

    /// Whether there are nodes without a session that one may be opened with.
    pub fn admits_any(&self) -> bool {
        match &self.admits {
            Admits::Nobody => false,
            Admits::These(keys) => !keys.is_empty(),
            Admits::Everybody => true,
        }
    }

    /// At most so many megabits a second are forwarded for others; none: no limit.
    pub fn relay_mbit(&self) -> Option<NonZeroU32> {
        self.relay_mbit
    }

    /// FIB 1: the way to a destination that a user's packet names.
    pub fn lookup(&self, destination: Ipv6Addr) -> Lookup<'_> {
        if destination == self.own.address {
            return Lookup::Host;
        }
        if destination == self.resolver {
            return Lookup::Resolver;
        }
        if !overlay().contains(destination) {
            return Lookup::NotOverlay;
        }
        if self.is_ours(destination)
            && let Some(workload) = self.workloads.get(&destination)
        {
            return Lookup::Workload(workload);
        }
        match self.by_prefix.lookup(destination) {
            Some(carrier) => Lookup::Session(carrier),
            None => Lookup::Unknown,
        }
    }

    /// FIB 2: the way to the node that a session's datagram is for.
    pub fn route(&self, node: Ipv6Addr) -> Route<'_> {
        match self.routes.lookup(node) {
            Some(Some(next_hop)) => Route::Via(next_hop),
            Some(None) => Route::Unreachable,
            None => Route::Unknown,
        }
    }

    /// The session that gave out this receiver index.
    pub fn receiver(&self, receiver: u32) -> Option<&Arc<Carrier>> {
        self.by_index.get(&self.indices?.session(receiver))
    }

    /// This node.
    pub fn own(&self) -> &Own {
        &self.own
    }

    /// Whether an address lies in this node's own /64.
    pub fn is_ours(&self, address: Ipv6Addr) -> bool {
        self.own.prefix.contains(address)
    }
}

impl fmt::Debug for Fib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fib")
            .field("own", &self.own.address)
            .field("sessions", &self.by_index.len())
            .finish_non_exhaustive()
    }
}

/// Longest prefix match: one hash table for each prefix length in use, longest first. An overlay has few lengths (/64 for nodes,
/// /128 for leaves), so a look-up is one or two hashes.
struct Table<T>(Vec<(u8, HashMap<u128, T>)>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Table<T> {
    fn insert(&mut self, prefix: Ipv6Network, value: T) {
        let length = prefix.prefix();
        let at = match self.0.binary_search_by(|(other, _)| length.cmp(other)) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (length, HashMap::new()));
                at
            }
        };
        self.0[at].1.insert(masked(prefix.ip(), length), value);
    }

    fn lookup(&self, address: Ipv6Addr) -> Option<&T> {
        self.0
            .iter()
            .find_map(|(length, values)| values.get(&masked(address, *length)))
    }
}

fn masked(address: Ipv6Addr, length: u8) -> u128 {
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    address.to_bits() & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_silent_if_something_goes_and_nothing_comes_for_a_while() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let patience = Duration::from_millis(300);
        let stats = LinkStats::new(start);
        assert!(!stats.take_silence(patience, at(9_000)), "nothing was sent");
        stats.note_sent(at(9_000));
        stats.note_sent(at(9_200));
        assert!(!stats.take_silence(patience, at(9_298)));
        stats.note_heard();
        assert!(!stats.take_silence(patience, at(9_400)));
        stats.note_sent(at(9_500));
        assert!(stats.take_silence(patience, at(9_802)));
        assert!(!stats.take_silence(patience, at(9_900)), "once");
    }
}
