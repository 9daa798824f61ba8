//! A network of routers in virtual time, in one thread, repeatable to the byte: everything random comes from one seed.
//!
//! ```
//! use routing::sim::{Net, secs};
//!
//! let mut net = Net::line(3, 7);
//! assert!(net.run_until(secs(3), Net::is_connected));
//! let wire = net.wire_between(1, 2);
//! net.cut(wire);
//! assert!(net.run_until(secs(3), |net| !net.reaches(0, 2)));
//! assert_eq!(net.loops(), 0);
//! ```

mod clock;
mod node;
mod oracle;
mod shape;
mod wire;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::net::Ipv6Addr;
use std::time::Duration;

use ipnetwork::Ipv6Network;

use crate::config::{LinkConfig, Peer};
use crate::event::{Cast, Event, FibAction, Hint, Transmit};
use crate::origin::{Job, Outcome, Owner};
use crate::rng::Rng;
use crate::router::Router;
use crate::types::{LinkId, RouterId};
use crate::wire::{PacketBuf, PacketWriter, Tlv};
pub use clock::LocalClock;
pub use node::{Kept, Node, owner};
pub use wire::{Direction, Traffic, Wire};

/// The MTU of all links.
pub const MTU: u16 = 1_420;

/// A router that is woken so often at the same moment does not do what it wants to be woken for.
const MOST_SPINS: u32 = 100;

/// So many seconds.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many milliseconds.
pub const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// How verifications are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// By computing them; the outcome comes so much later.
    Real(Duration),
    /// By believing all but that a key has an owner: for many nodes.
    Trusting(Duration),
}

/// Changes what a node sends, one message at a time: it writes what is to be sent in its place.
pub type Tamper = Box<dyn FnMut(&Tlv<'_>, &mut PacketWriter)>;

/// Routers, wires between them, and the time.
pub struct Net {
    nodes: Vec<Node>,
    wires: Vec<Wire>,
    owners: BTreeMap<[u8; 32], Owner>,
    numbers: BTreeMap<Ipv6Network, usize>,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, Occurrence)>>,
    order: u64,
    rng: Rng,
    /// How verifications are done.
    pub verification: Verification,
    /// Pairs of nodes that exchange data, by which wires are loaded and routers hear what becomes of it.
    flows: Vec<Flow>,
    tampers: BTreeMap<usize, Tamper>,
    loops: u64,
    gaps: u64,
    trace: u64,
    /// The wire whose packets are kept, and they.
    capture: Option<(usize, Vec<Captured>)>,
    /// How often each node has told its FIB something.
    fib_changes: u64,
    violations: Vec<String>,
}

/// A packet on a wire.
#[derive(Clone, Debug)]
pub struct Captured {
    /// When it was sent.
    pub at: Duration,
    /// By which node.
    pub from: usize,
    /// Whether it arrives.
    pub arrives: bool,
    /// The UDP payload.
    pub packet: Vec<u8>,
}

/// A node that sends to another, once every interval, and hears whether it arrives.
#[derive(Clone, Copy, Debug)]
struct Flow {
    from: usize,
    to: usize,
    interval: Duration,
}

/// Something that happens at a certain time.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Occurrence {
    Arrival {
        wire: usize,
        direction: Direction,
        from: Ipv6Addr,
        to: Option<Ipv6Addr>,
        packet: Vec<u8>,
    },
    Wake {
        node: usize,
        life: u32,
    },
    Verified {
        node: usize,
        life: u32,
        verification: usize,
    },
    Send {
        flow: usize,
    },
}

impl Net {
    /// Nobody, yet.
    pub fn new(seed: u64) -> Self {
        Self {
            nodes: Vec::new(),
            wires: Vec::new(),
            owners: BTreeMap::new(),
            numbers: BTreeMap::new(),
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            order: 0,
            rng: Rng::new(seed),
            verification: Verification::Real(millis(1)),
            flows: Vec::new(),
            tampers: BTreeMap::new(),
            loops: 0,
            gaps: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            capture: None,
            fib_changes: 0,
            violations: Vec::new(),
        }
    }

    /// One more node, and its number.
    pub fn add_node(&mut self) -> usize {
        let number = self.nodes.len();
        let node = Node::new(number, self.now, self.rng.next());
        self.owners.insert(*node.key(), owner(number));
        self.numbers.insert(owner(number).prefix, number);
        self.nodes.push(node);
        self.touch(number);
        number
    }

    /// A wire between two nodes: both routers learn of a link at once. Its number.
    pub fn connect(&mut self, a: usize, b: usize) -> usize {
        self.connect_as(a, b, |_, _| {})
    }

    /// As [`Self::connect`]; `adjust` may change what each end believes of the link.
    pub fn connect_as(
        &mut self,
        a: usize,
        b: usize,
        adjust: impl Fn(usize, &mut LinkConfig),
    ) -> usize {
        let wire = self.wires.len();
        let configs = [(a, b), (b, a)].map(|(here, there)| {
            let peer = owner(there).router_id;
            let mut config =
                LinkConfig::meshd(node::address(here), node::address(there), peer, MTU);
            adjust(here, &mut config);
            config
        });
        self.wires.push(Wire::new([a, b], configs));
        self.plug(wire, 0);
        self.plug(wire, 1);
        wire
    }

    /// The router at one end of a wire learns of the link.
    fn plug(&mut self, wire: usize, end: usize) {
        let Wire { ends, configs, .. } = &self.wires[wire];
        let (node, config) = (ends[end], configs[end].clone());
        let now = self.nodes[node].clock.local(self.now);
        let node_state = &mut self.nodes[node];
        if node_state.is_alive {
            node_state.router.add_link(LinkId(wire as u32), config, now);
            self.touch(node);
        }
    }

    /// What time it is.
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// A node.
    pub fn node(&self, node: usize) -> &Node {
        &self.nodes[node]
    }

    /// A node, to be changed.
    pub fn node_mut(&mut self, node: usize) -> &mut Node {
        &mut self.nodes[node]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A wire.
    pub fn wire(&self, wire: usize) -> &Wire {
        &self.wires[wire]
    }

    /// A wire, to be changed.
    pub fn wire_mut(&mut self, wire: usize) -> &mut Wire {
        &mut self.wires[wire]
    }

    /// How many wires there are.
    pub fn wires(&self) -> usize {
        self.wires.len()
    }

    /// The first wire between two nodes.
    ///
    /// # Panics
    /// If there is none.
    pub fn wire_between(&self, a: usize, b: usize) -> usize {
        let is_it = |wire: &Wire| wire.ends == [a, b] || wire.ends == [b, a];
        self.wires.iter().position(is_it).expect("such a wire")
    }

    /// Nothing passes any more, either way, and nobody is told.
    pub fn cut(&mut self, wire: usize) {
        self.wires[wire].is_open = [false; 2];
    }

    /// Nothing passes any more from that end.
    pub fn cut_from(&mut self, wire: usize, node: usize) {
        let wire = &mut self.wires[wire];
        wire.is_open[usize::from(wire.ends[0] != node)] = false;
    }

    /// Everything passes again.
    pub fn heal(&mut self, wire: usize) {
        self.wires[wire].is_open = [true; 2];
    }

    /// A node is gone, from one moment to the next.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// A node that was killed, or was not, begins anew; its neighbours are not told.
    pub fn restart(&mut self, node: usize, kept: Kept) {
        let seed = self.rng.next();
        self.nodes[node].restart(node, kept, self.now, seed);
        self.touch(node);
        for wire in 0..self.wires.len() {
            for end in 0..2 {
                if self.wires[wire].ends[end] == node {
                    self.plug(wire, end);
                }
            }
        }
    }

    /// Changes all that a node sends.
    pub fn tamper(&mut self, node: usize, tamper: Tamper) {
        self.tampers.insert(node, tamper);
    }

    /// A node sends a packet of these messages by a wire, whatever its router thinks.
    pub fn inject(&mut self, node: usize, wire: usize, tlvs: &[Tlv<'_>]) {
        let mut writer = PacketWriter::unicast(MTU, node::address(node));
        for tlv in tlvs {
            if let Err(why) = writer.push(tlv) {
                self.violations
                    .push(format!("injected what cannot be sent: {why}"));
            }
        }
        for packet in writer.finish() {
            self.send(node, wire, Cast::Multicast, &packet);
        }
    }

    /// A node sends bytes by a wire.
    pub fn inject_bytes(&mut self, node: usize, wire: usize, bytes: &[u8]) {
        let packet = PacketBuf {
            bytes: bytes.to_vec(),
            sent_at: None,
            opaque: None,
        };
        self.send(node, wire, Cast::Multicast, &packet);
    }

    /// The data plane of a node has seen something of a link.
    pub fn hint(&mut self, node: usize, wire: usize, hint: Hint) {
        self.with_router(node, |router, now| {
            router.handle_hint(LinkId(wire as u32), hint, now);
        });
    }

    /// A node sends to another all the time, and its router hears whether it arrives.
    pub fn add_flow(&mut self, from: usize, to: usize, interval: Duration) {
        self.flows.push(Flow { from, to, interval });
        let flow = self.flows.len() - 1;
        self.schedule(self.now, Occurrence::Send { flow });
    }

    /// Calls a router, and does what it wants done.
    pub fn with_router<T>(
        &mut self,
        node: usize,
        call: impl FnOnce(&mut Router, std::time::Instant) -> T,
    ) -> T {
        let state = &mut self.nodes[node];
        let now = state.clock.local(self.now);
        let result = call(&mut state.router, now);
        self.touch(node);
        result
    }

    /// Lets time pass.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while self.step(end) {}
        self.now = end;
    }

    /// Lets time pass until something is true, at most so long. Looks every 5 ms.
    pub fn run_until(
        &mut self,
        span: Duration,
        mut is_true: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let end = self.now + span;
        loop {
            if is_true(self) {
                return true;
            }
            if self.now >= end {
                return false;
            }
            self.run_for(millis(5).min(end - self.now));
        }
    }

    /// Keeps the packets of a wire from now on.
    pub fn capture(&mut self, wire: usize) {
        self.capture = Some((wire, Vec::new()));
    }

    /// The packets that were kept.
    pub fn captured(&self) -> &[Captured] {
        self.capture.as_ref().map_or(&[], |(_, packets)| packets)
    }

    /// How often packets would have gone in a circle: looked at whenever a route changes.
    pub const fn loops(&self) -> u64 {
        self.loops
    }

    /// How often a route was removed though there was another in the same batch: never, if all is well.
    pub const fn gaps(&self) -> u64 {
        self.gaps
    }

    /// A hash of everything that has happened.
    pub const fn trace(&self) -> u64 {
        self.trace
    }

    /// How many routes have been set, removed or made unreachable.
    pub const fn fib_changes(&self) -> u64 {
        self.fib_changes
    }

    /// What a router said of itself must not be, and what the simulation found.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Has every router look for what must not be.
    pub fn check(&mut self) {
        for (number, node) in self.nodes.iter().enumerate() {
            if let Err(violation) = node.router.check() {
                let at = self.now;
                self.violations
                    .push(format!("{at:?}: node {number}: {violation}"));
            }
        }
    }

    /// What has passed all wires.
    pub fn traffic(&self) -> Traffic {
        self.wires
            .iter()
            .flat_map(|wire| wire.traffic)
            .fold(Traffic::default(), |sum, traffic| sum + traffic)
    }

    /// The next thing happens, unless it is after `end`.
    fn step(&mut self, end: Duration) -> bool {
        match self.queue.peek() {
            Some(Reverse((at, ..))) if *at <= end => {}
            Some(_) | None => return false,
        }
        let Some(Reverse((at, _, occurrence))) = self.queue.pop() else {
            return false;
        };
        self.now = at;
        match occurrence {
            Occurrence::Arrival {
                wire,
                direction,
                from,
                to,
                packet,
            } => self.arrive(wire, direction, from, to, &packet),
            Occurrence::Wake { node, life } => {
                let state = &mut self.nodes[node];
                if state.life == life && state.wake.is_some_and(|wake| wake <= at) {
                    state.wake = None;
                    let spins = if state.woken.0 == at {
                        state.woken.1 + 1
                    } else {
                        0
                    };
                    state.woken = (at, spins);
                    assert!(
                        spins < MOST_SPINS,
                        "node {node} spins: {:?}",
                        state.router.poll_timeout()
                    );
                    let now = state.clock.local(at);
                    state.router.handle_timeout(now);
                    self.touch(node);
                }
            }
            Occurrence::Verified {
                node,
                life,
                verification,
            } => {
                let state = &mut self.nodes[node];
                if state.life == life
                    && let Some((id, outcome)) = state.outcomes.remove(&verification)
                {
                    let now = state.clock.local(at);
                    state.router.handle_outcome(id, outcome, now);
                    self.touch(node);
                }
            }
            Occurrence::Send { flow } => self.send_data(flow),
        }
        true
    }

    fn arrive(
        &mut self,
        wire: usize,
        direction: Direction,
        from: Ipv6Addr,
        to: Option<Ipv6Addr>,
        packet: &[u8],
    ) {
        let node = self.wires[wire].ends[1 - direction.end()];
        let state = &mut self.nodes[node];
        if !state.is_alive {
            return;
        }
        let now = state.clock.local(self.now);
        let received = now.checked_sub(state.stamp_delay).unwrap_or(now);
        let to = to.map_or(Cast::Multicast, Cast::Unicast);
        // Packets that cannot be read are counted by the router; here they are nothing special.
        let _read =
            state
                .router
                .handle_packet(LinkId(wire as u32), from, to, packet, received, now);
        self.touch(node);
    }

    /// Does what a router wants done.
    fn touch(&mut self, node: usize) {
        while let Some(event) = self.nodes[node].router.poll_event() {
            self.heed(node, event);
        }
        while let Some(transmit) = self.nodes[node].router.poll_transmit() {
            self.transmit(node, transmit);
        }
        let state = &mut self.nodes[node];
        let wake = state
            .router
            .poll_timeout()
            .filter(|_| state.is_alive)
            .map(|(at, _)| state.clock.global(at).max(self.now));
        if let Some(at) = wake
            && state.wake.is_none_or(|known| at < known)
        {
            state.wake = Some(at);
            let life = state.life;
            self.schedule(at, Occurrence::Wake { node, life });
        }
    }

    fn heed(&mut self, node: usize, event: Event) {
        match event {
            Event::Fib(batch) => {
                let mut last: BTreeMap<Ipv6Network, FibAction> = BTreeMap::new();
                for op in &batch {
                    self.note(&(self.now, node, op.prefix, "fib"));
                    if let Some(before) = last.insert(op.prefix, op.action) {
                        self.gaps += u64::from(before == FibAction::Remove);
                    }
                    self.fib_changes += 1;
                    let to = self.numbers.get(&op.prefix).copied();
                    self.nodes[node].apply(*op, to);
                }
                for op in batch {
                    let to = self.numbers.get(&op.prefix);
                    if to.is_some_and(|&to| self.is_in_circle(node, to)) {
                        self.loops += 1;
                        self.violations
                            .push(format!("{:?}: a loop to {} at {node}", self.now, op.prefix));
                    }
                }
            }
            Event::Verify { id, job } => self.verify(node, id, &job),
            Event::Persist { epoch, .. } => self.nodes[node].epoch = Some(epoch),
            other @ (Event::Route { .. }
            | Event::Neighbour { .. }
            | Event::IdentityCloned
            | Event::Conflict(_)
            | Event::Quarantined { .. }) => {
                self.note(&(self.now, node, "event"));
                self.nodes[node].log(other);
            }
        }
    }

    fn verify(&mut self, node: usize, id: u64, job: &Job) {
        let derive = |key: &[u8; 32]| self.owners.get(key).cloned();
        let (outcome, delay): (Outcome, _) = match self.verification {
            Verification::Real(delay) => (job.run(derive), delay),
            Verification::Trusting(delay) => (job.trust(derive), delay),
        };
        let state = &mut self.nodes[node];
        let verification = state.verifications;
        state.verifications += 1;
        state.outcomes.insert(verification, (id, outcome));
        let life = state.life;
        self.schedule(
            self.now + delay,
            Occurrence::Verified {
                node,
                life,
                verification,
            },
        );
    }

    fn transmit(&mut self, node: usize, transmit: Transmit) {
        let wire = transmit.link.0 as usize;
        let mut packet = transmit.packet;
        let state = &self.nodes[node];
        packet.stamp(state.router.micros(state.clock.local(self.now)));
        let Some(mut tamper) = self.tampers.remove(&node) else {
            self.send(node, wire, transmit.to, &packet);
            return;
        };
        for packet in tampered(node, transmit.to, &packet, &mut tamper) {
            self.send(node, wire, transmit.to, &packet);
        }
        self.tampers.insert(node, tamper);
    }

    fn send(&mut self, node: usize, wire: usize, to: Cast, packet: &PacketBuf) {
        let Some(state) = self.wires.get_mut(wire) else {
            return;
        };
        if !self.nodes[node].is_alive {
            return;
        }
        let direction = Direction::from_end(usize::from(state.ends[0] != node));
        let is_lost = self.rng.below(1_000) < u64::from(state.loss);
        let jitter = self.rng.below(state.jitter.as_micros() as u64 + 1);
        state.traffic[direction.end()].note(packet.bytes.len());
        let is_open = state.is_open[direction.end()];
        let load = if state.is_loaded {
            state.load
        } else {
            Duration::ZERO
        };
        let delay = state.latency[direction.end()] + Duration::from_micros(jitter) + load;
        self.note(&(self.now, node, wire, &packet.bytes));
        if let Some((_, packets)) = self.capture.as_mut().filter(|(it, _)| *it == wire) {
            packets.push(Captured {
                at: self.now,
                from: node,
                arrives: is_open && !is_lost,
                packet: packet.bytes.clone(),
            });
        }
        if is_lost || !is_open {
            return;
        }
        self.schedule(
            self.now + delay,
            Occurrence::Arrival {
                wire,
                direction,
                from: node::address(node),
                to: match to {
                    Cast::Multicast => None,
                    Cast::Unicast(address) => Some(address),
                },
                packet: packet.bytes.clone(),
            },
        );
    }

    /// A packet of a flow goes its way, in no time.
    fn send_data(&mut self, flow: usize) {
        let Flow { from, to, interval } = self.flows[flow];
        self.schedule(self.now + interval, Occurrence::Send { flow });
        let prefix = owner(to).prefix;
        for wire in &mut self.wires {
            wire.is_loaded = false;
        }
        for flow in self.flows.clone() {
            for (wire, _) in self.path(flow.from, flow.to).1 {
                self.wires[wire].is_loaded = true;
            }
        }
        let (arrives, path) = self.path(from, to);
        if let Some(&(wire, _)) = path.first()
            && self.nodes[from].is_alive
        {
            let verdict = if arrives {
                crate::Verdict::Answered
            } else {
                crate::Verdict::Failed
            };
            self.with_router(from, |router, now| {
                router.handle_feedback(prefix, LinkId(wire as u32), verdict, now);
            });
        }
    }

    fn schedule(&mut self, at: Duration, occurrence: Occurrence) {
        self.order += 1;
        self.queue.push(Reverse((at, self.order, occurrence)));
    }

    /// Goes into the hash of everything.
    fn note(&mut self, what: &impl std::hash::Hash) {
        let mut hasher = Fnv(self.trace);
        what.hash(&mut hasher);
        self.trace = hasher.0;
    }
}

/// FNV-1a: fast, and the same everywhere.
struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// What becomes of a packet in the hands of a liar.
fn tampered(node: usize, to: Cast, packet: &PacketBuf, tamper: &mut Tamper) -> Vec<PacketBuf> {
    let address = node::address(node);
    let mut writer = match to {
        Cast::Multicast => PacketWriter::multicast(MTU, address),
        Cast::Unicast(_) => PacketWriter::unicast(MTU, address),
    };
    if let Ok(packet) = crate::wire::Packet::parse(&packet.bytes) {
        for tlv in packet.tlvs(address) {
            tamper(&tlv, &mut writer);
        }
    }
    writer.finish()
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("now", &self.now)
            .field("nodes", &self.nodes.len())
            .field("wires", &self.wires.len())
            .finish_non_exhaustive()
    }
}

/// A link to a plain Babel speaker, as its neighbour sees it.
pub fn stock(here: usize, peer: Peer) -> LinkConfig {
    LinkConfig::stock(node::address(here), peer, MTU)
}

/// The router-id of a node.
pub fn router_id(node: usize) -> RouterId {
    owner(node).router_id
}
