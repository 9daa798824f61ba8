//! The node: a pure state machine that joins the WireGuard [`Device`], the [`Router`] and what the configuration says about peers.
//!
//! It takes packets for the node itself, signals of packet threads, commands and the time, and gives back outputs and a deadline. It owns nothing that
//! a packet thread waits for: those read the [`Fib`] snapshot that it publishes. After every `handle_*` or command, drain
//! [`Node::poll_output`], then look at [`Node::poll_timeout`].

mod acquaint;
mod directory;
mod found;
mod govern;
mod history;
mod hygiene;
mod inbound;
mod joining;
mod labels;
mod links;
mod membership;
mod netcheck;
mod paths;
mod peers;
mod reach;
mod remember;
mod report;
mod routes;
mod seek;
mod standing;
mod streams;
#[cfg(test)]
mod tests;
mod trace;
mod ways;
mod why;
mod workloads;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use filter::{Budget, Policy, PortsError};
use ipnetwork::Ipv6Network;
use names::Directory;
use routing::{
    Hint, LinkId, Router,
    origin::{Job, Outcome},
};
use tracing::{debug, info};
use wireguard::{
    AddPeerError, Device, Endpoint, Event, PublicKey, Reader, Underlay,
    constants::{OVERHEAD, PADDING},
};

use self::{
    acquaint::Acquaintances,
    found::FoundNodes,
    history::History,
    links::{Dial, Links},
    membership::Membership,
    peers::{Entry, Names, Reachable, Rtt},
    reach::Reach,
    seek::Seeking,
    streams::Streams,
    trace::Traces,
};
pub use self::{
    found::{Found, MAX_ENDPOINTS, Source},
    govern::GovernError,
    history::Since,
    hygiene::LocalNetwork,
    joining::{JoinFailure, Joined, Via},
    membership::Kept,
    report::millis,
    routes::derive,
    seek::Search,
    standing::Admitted,
};
use crate::{
    admin::{self, Happening},
    agenda::Agenda,
    config::{Admission, HostPort, InterfaceSettings, RelaySettings, Settings},
    discard::{Discards, Reason},
    fib::Fib,
    forward::Topic,
    held::Held,
    icmp::{self, EchoToken, ErrorLimit, Unreachable},
    identity::{self, Identity, NodeId},
    inbound::Inbound,
    labels::Labels,
    network::Network,
    path::Demand,
    state::StockDevice,
    stream,
    workload::{Wish, WorkloadId, Workloads},
};

/// Names of an endpoint are resolved again at most this often while nobody answers.
const RESOLVE_AGAIN: Duration = Duration::from_secs(30);

/// Who was heard of this long before the start is greeted: a session lives for three minutes, and what is known of its last sign of
/// life can be five minutes old.
const CALL_BACK: Duration = Duration::from_secs(8 * 60);

/// A round-trip time older than this is measured again when somebody looks.
const MEASURE_AGAIN: Duration = Duration::from_secs(10);

/// Echo requests of `meshd ping` that wait for their replies; the oldest is forgotten for a new one.
const MAX_PINGS: usize = 256;

/// A deadline that was missed by this much was slept through: the node was not merely busy.
pub const GAP: Duration = Duration::from_secs(5);

/// The state of a node.
pub struct Node {
    identity: Identity,
    name: String,
    /// The domain of names.
    domain: String,
    /// What names are answered from.
    directory: Option<Arc<Directory>>,
    interface: InterfaceSettings,
    admission: Admission,
    network: Network,
    membership: Membership,
    relay: RelaySettings,
    inbound: Policy,
    /// How much may be remembered of what goes on with all who are judged.
    flows: Budget,
    /// What judges the packets of workloads, by name.
    guarded: BTreeMap<String, Inbound>,
    device: Device,
    router: Router,
    links: Links,
    found: FoundNodes,
    acquaintances: Acquaintances,
    seeking: Seeking,
    labels: Labels,
    reach: Reach,
    /// The node has just begun, and does not have all links yet that it is going to have.
    awaits_links: bool,
    /// FIB 2, as the router has it; none: unreachable.
    routes: BTreeMap<Ipv6Network, Option<LinkId>>,
    /// The epoch that is, or is about to be, remembered.
    epoch: u32,
    agenda: Agenda<Task>,
    traces: Traces,
    streams: Streams,
    history: History,
    rng: fastrand::Rng,
    peers: BTreeMap<PublicKey, Entry>,
    held: Held,
    workloads: Workloads,
    pings: Pings,
    errors: ErrorLimit,
    discards: Arc<Discards>,
    warnings: Vec<admin::Warning>,
    /// What went wrong while it ran, by code.
    alarms: BTreeMap<admin::WarningCode, String>,
    seen: BTreeMap<PublicKey, Seen>,
    outputs: VecDeque<Output>,
    /// Packet threads forward by something that has changed.
    stale: bool,
    started: Instant,
    /// When the node last took up its work after a gap.
    resumed: Option<Instant>,
}

/// What is due at some time, besides what device and router want.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Task {
    /// A link over which nothing is heard is given up.
    Link(LinkId),
    /// A link's probes.
    LinkLiveness(LinkId),
    /// Endpoints of a peer are dialled.
    Dial(PublicKey),
    /// A session that lost its way has found no other.
    Stranded(PublicKey),
    /// A relayed session's probes.
    Path(PublicKey),
    /// A trace is answered as it stands.
    Trace(u64),
    /// Labels run out, or are asked for again.
    Labels,
    /// Found nodes have answered or not, or are to be called.
    Found,
    /// Neighbours are told of other nodes.
    Acquaint,
    /// Neighbours are asked what they see.
    Reflect,
    /// The probes of straight ways to a peer, and their end.
    Ways(PublicKey),
    /// Whether a peer is to be reached by a stream is looked at.
    Streams,
    /// Look-ups are given up.
    Seek,
    /// Records are compared, guests leave, and whoever lets us in is asked again.
    Membership,
}

/// What the node wants done, in this order.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram.
    Transmit {
        /// Where to.
        to: Underlay,
        /// The datagram.
        datagram: Vec<u8>,
    },
    /// Send a probe of the path agent.
    Probe {
        /// Where to.
        to: Underlay,
        /// With this hop limit, if not the usual one.
        hop_limit: Option<u8>,
        /// The probe.
        datagram: Vec<u8>,
    },
    /// Open so many more sockets, each on a port of its own, and answer with [`Node::handle_sockets`].
    OpenSockets {
        /// Because of whom.
        peer: PublicKey,
        /// How many.
        count: u16,
    },
    /// Close the sockets with these indices.
    CloseSockets(Vec<u8>),
    /// Carry a message of the path agent to a node that there is no session with, so that it cannot be forged; there it goes to
    /// [`Node::handle_introduction`].
    Introduce {
        /// For whom.
        to: NodeId,
        /// What.
        message: Vec<u8>,
    },
    /// Write a packet to the TUN device.
    Deliver(Vec<u8>),
    /// Publish a new snapshot to the packet threads.
    Publish(Fib),
    /// A session opened or closed: who waits for one should look again.
    Changed,
    /// Have the thread that keeps streams do this.
    Stream(stream::Command),
    /// Resolve these names and answer with [`Node::handle_resolved`].
    Resolve {
        /// Whose endpoints they are.
        peer: PublicKey,
        /// All its endpoints, in the order of the configuration.
        endpoints: Vec<HostPort>,
    },
    /// Look for the node that owns this prefix and answer with [`Node::handle_looked`].
    Lookup {
        /// The first eight bytes of its addresses.
        prefix: [u8; 8],
    },
    /// A reply to an echo request of [`Node::ping`].
    Pong(Pong),
    /// A trace has ended.
    Traced {
        /// The number that [`Node::trace`] gave.
        number: u64,
        /// What it found.
        trace: admin::Trace,
    },
    /// Run this and answer with [`Node::handle_outcome`]. It takes up to a millisecond.
    Verify {
        /// To be repeated in the answer.
        id: u64,
        /// What to run.
        job: Job,
    },
    /// Remember this epoch over a restart.
    Remember {
        /// The epoch.
        epoch: u32,
    },
    /// Give up the device of this attachment, for good.
    DetachWorkload(WorkloadId),
    /// Remember [`Node::workloads_to_remember`] over a restart: there are fewer.
    RememberWorkloads,
    /// Keep the records ([`Node::to_be_kept`]), and answer with [`Node::handle_kept`].
    Keep,
    /// Connect with whoever answers at this address of TCP, to be let into its network; answer with [`Node::handle_door_open`] or
    /// [`Node::handle_door_closed`].
    Knock(SocketAddr),
    /// Ask whoever answers there, and answer with [`Node::handle_door_answer`] or [`Node::handle_door_closed`].
    Ask {
        /// Where.
        at: SocketAddr,
        /// What.
        message: Vec<u8>,
    },
    /// The answer to [`Node::handle_asked`].
    Answer {
        /// To which question.
        number: u64,
        /// What; none: there is no answer.
        message: Option<Vec<u8>>,
    },
    /// How [`Node::join`] ended. Where an admin has to approve, it ends more than once.
    Joined(Result<Joined, JoinFailure>),
}

/// The reply to one echo request.
#[derive(Clone, Debug)]
pub struct Pong {
    /// The number that [`Node::ping`] gave.
    pub number: u64,
    /// From sending to arrival.
    pub rtt: Duration,
    /// How the reply came.
    pub path: admin::Path,
    /// Who does not let echo requests in, and said so instead of replying.
    pub blocked_by: Option<String>,
}

#[derive(Debug)]
struct Pings {
    token: EchoToken,
    next: u64,
    sent: BTreeMap<u64, Ping>,
}

#[derive(Debug)]
struct Ping {
    sent: Instant,
    peer: PublicKey,
}

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Nobody has this name or address.
    #[error("nobody here is called `{0}`, and it is no address of a peer")]
    NoSuchName(String),
    /// The name is taken.
    #[error("the name `{0}` is taken already")]
    NameTaken(String),
    /// The key cannot be added.
    #[error("this key cannot be added")]
    Peer(#[source] AddPeerError),
    /// The device comes from the configuration file, not from `meshd wg add`.
    #[error("`{0}` is written in the configuration file")]
    Configured(String),
    /// What is asked about is not on this node.
    #[error("`{0}` is not on this node, which knows its own rules only")]
    NotHere(String),
    /// That is no port.
    #[error("no port")]
    Ports(#[source] PortsError),
    /// That is more than one port.
    #[error("`{0}` is more than one port")]
    ManyPorts(String),
}

/// What is remembered of a peer over a restart.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Where it was, latest first.
    pub endpoints: Vec<SocketAddr>,
    /// How long ago it was heard of, when the daemon started.
    pub age: Duration,
}

/// What a fresh node is made of, besides its settings.
#[derive(Debug)]
pub struct Fresh {
    /// Who the node is.
    pub identity: Identity,
    /// Devices that `meshd wg add` added.
    pub added: Vec<StockDevice>,
    /// Workloads that were attached before.
    pub workloads: Vec<Wish>,
    /// Where and when peers were last heard of.
    pub seen: BTreeMap<PublicKey, Seen>,
    /// Randomness for indices and jitter.
    pub seed: u64,
    /// The secret that marks our echo requests.
    pub token: EchoToken,
    /// The epoch of the run before, if it is remembered.
    pub epoch: Option<u32>,
    /// The counters of discarded packets.
    pub discards: Arc<Discards>,
    /// The private network that it is in.
    pub kept: Kept,
}

impl Node {
    /// A node with these settings.
    pub fn new(settings: &Settings, fresh: Fresh, now: Instant) -> Self {
        let device = Device::new(fresh.identity.private_key().clone(), fresh.seed);
        Self::with(settings, device, fresh, now)
    }

    /// A node whose sessions use no cryptography, and which is the same again for the same `fresh`.
    #[cfg(feature = "_sim")]
    pub fn simulated(settings: &Settings, fresh: Fresh, now: Instant) -> Self {
        let device = Device::simulated(fresh.identity.private_key().clone(), fresh.seed);
        Self::with(settings, device, fresh, now)
    }

    fn with(settings: &Settings, mut device: Device, fresh: Fresh, now: Instant) -> Self {
        let reach = Reach::new(&fresh);
        let Fresh {
            identity,
            added,
            workloads,
            seen,
            seed,
            token,
            epoch,
            discards,
            kept,
        } = fresh;
        let mut rng = fastrand::Rng::with_seed(seed);
        device.handle_wall_clock(kept.unix, now);
        let membership = Membership::new(identity.node().public_key(), kept, now);
        let network = membership.network();
        let owner = routes::owner(&identity.node());
        let router = routes::router(&network, identity.seed(), owner, epoch, &mut rng, now);
        let mut node = Self {
            name: settings.name.clone(),
            domain: settings.dns.domain.clone(),
            directory: None,
            interface: settings.interface.clone(),
            admission: settings.admission,
            network,
            membership,
            relay: settings.relay,
            inbound: settings.inbound.clone(),
            flows: Budget::default(),
            guarded: BTreeMap::new(),
            device,
            router,
            links: Links::default(),
            found: FoundNodes::new(now),
            acquaintances: Acquaintances::default(),
            seeking: Seeking::new(now),
            labels: Labels::default(),
            reach,
            awaits_links: true,
            routes: BTreeMap::new(),
            epoch: 0,
            agenda: Agenda::default(),
            traces: Traces::default(),
            streams: Streams::default(),
            history: History::default(),
            rng,
            peers: BTreeMap::new(),
            held: Held::default(),
            workloads: Workloads::new(identity.node().prefix(), workloads),
            pings: Pings {
                token,
                next: 0,
                sent: BTreeMap::new(),
            },
            errors: ErrorLimit::new(now),
            discards,
            warnings: Vec::new(),
            alarms: BTreeMap::new(),
            seen,
            outputs: VecDeque::new(),
            stale: true,
            started: now,
            resumed: None,
            identity,
        };
        node.configure(settings, &added, now);
        node.note_guests(now);
        node.set_membership_timer(now);
        node.call_back(now);
        node.recall(now);
        node
    }

    /// Greets those who may still hold a session with our last run, and would notice only by our silence that it is gone.
    fn call_back(&mut self, now: Instant) {
        let recent = self.seen.iter().filter(|(_, seen)| seen.age < CALL_BACK);
        for key in recent.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.device.initiate(&key, now);
        }
        self.drain(now);
    }

    // ---- packets -------------------------------------------------------------------------------------------------------------

    /// What reads handshake messages to this node.
    pub fn reader(&self) -> &Reader {
        self.device.reader()
    }

    /// Another thread saw something on this peer's session that concerns its timers.
    pub fn handle_signal(&mut self, peer: &PublicKey, now: Instant) {
        self.device.handle_signal(peer, now);
        self.drain(now);
    }

    /// A packet from inside, or from a leaf, whose session is not open.
    pub fn handle_unsent(&mut self, peer: PublicKey, packet: Vec<u8>, now: Instant) {
        match self
            .device
            .session(&peer)
            .map(|session| session.is_established())
        {
            None => self.refuse(Reason::NoRoute, Unreachable::NoRoute, &packet, now),
            Some(true) => {
                self.held_or_counted(peer, packet);
                self.release(peer, now);
                self.drain(now);
            }
            Some(false) => {
                self.held_or_counted(peer, packet);
                self.look_for_peer(&peer, now);
                self.device.initiate(&peer, now);
                if !self.is_routed(self.address_of(&peer)) {
                    self.want_way(&peer, Demand::Traffic, now);
                }
                self.drain(now);
            }
        }
    }

    /// A packet that a packet thread could not carry, and whose sender behind the TUN device is to hear why.
    fn refuse(&mut self, reason: Reason, why: Unreachable, packet: &[u8], now: Instant) {
        self.discards.discard(reason, 1);
        if self.errors.allows(now)
            && let Some(error) = icmp::error(why, self.identity.node().address(), packet)
        {
            self.outputs.push_back(Output::Deliver(error));
        }
    }

    /// The reply to the echo request with this number came out of `peer`'s session.
    pub fn handle_echo_reply(&mut self, number: u64, received: Instant) {
        let Some(ping) = self.pings.sent.remove(&number) else {
            return;
        };
        let rtt = received.saturating_duration_since(ping.sent);
        if let Some(entry) = self.peers.get_mut(&ping.peer) {
            entry.rtt = Some(Rtt {
                time: rtt,
                measured: received,
            });
        }
        let path = self.path(&ping.peer);
        self.outputs.push_back(Output::Pong(Pong {
            number,
            rtt,
            path,
            blocked_by: None,
        }));
    }

    /// A packet of a peer for the node itself, which came from there.
    pub fn handle_packet(
        &mut self,
        peer: PublicKey,
        from: Endpoint,
        topic: Topic,
        packet: &[u8],
        received: Instant,
        now: Instant,
    ) {
        match (topic, from) {
            (Topic::Routing, Endpoint::Underlay(from)) => {
                self.on_babel(peer, from, packet, received, now);
            }
            (Topic::Routing, Endpoint::Overlay(_)) => {
                self.discards.discard(Reason::NestedTwice, 1);
            }
            (Topic::Session, from) => self.on_signal(peer, from, packet, received, now),
            (Topic::RelayError, _) => {
                self.on_relay_error(packet, received, now);
                self.drain(now);
            }
            (Topic::Prohibited, _) => self.on_prohibited(peer, packet, now),
        }
    }

    /// A packet of the host's for a node that there is no session with.
    pub fn handle_first_contact(&mut self, packet: Vec<u8>, now: Instant) {
        let destination =
            crate::packet::Ipv6Header::parse(&packet).map(|header| header.destination);
        let Ok(destination) = destination else {
            return self.refuse(Reason::NoRoute, Unreachable::NoRoute, &packet, now);
        };
        let peer = self
            .first_contact(destination, now)
            .or_else(|| self.call_known(destination, now));
        match peer {
            Some(peer) => {
                self.note_sent(&peer, &packet, now);
                self.handle_unsent(peer, packet, now);
            }
            None => self.seek(destination, packet, now),
        }
    }

    // ---- time and the world --------------------------------------------------------------------------------------------------

    /// When, and why, [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let own = self.agenda.next().map(|due| (due, "links and paths"));
        let reach = self.reach.poll_timeout().map(|due| (due, "path agent"));
        [
            self.device.poll_timeout(),
            self.router.poll_timeout(),
            own,
            reach,
        ]
        .into_iter()
        .flatten()
        .min_by_key(|deadline| deadline.0)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.device.handle_timeout(now);
        self.router.handle_timeout(now);
        self.reach_timeout(now);
        while let Some(task) = self.agenda.take(now) {
            self.on_task(task, now);
        }
        self.drain(now);
    }

    fn on_task(&mut self, task: Task, now: Instant) {
        match task {
            Task::Link(id) => self.expire_link(id, now),
            Task::LinkLiveness(id) => {
                if let Some(link) = self.links.get_mut(id) {
                    link.liveness.handle_timeout(now);
                }
                self.heed_link(id, now);
            }
            Task::Dial(peer) => self.redial(&peer, now),
            Task::Stranded(peer) => self.on_stranded(&peer, now),
            Task::Path(peer) => {
                if let Some(liveness) = self
                    .peers
                    .get_mut(&peer)
                    .and_then(|entry| entry.liveness.as_mut())
                {
                    liveness.handle_timeout(now);
                }
                self.heed_liveness(&peer, now);
            }
            Task::Labels => self.tend_labels(now),
            Task::Found => self.review_found(now),
            Task::Acquaint => self.tend_acquaintances(now),
            Task::Reflect => self.ask_reflexions(false, now),
            Task::Ways(peer) => self.tend_ways(&peer, now),
            Task::Streams => self.tend_streams(now),
            Task::Seek => self.review_seeking(now),
            Task::Membership => self.tend_membership(now),
            Task::Trace(number) => self.finish_trace(number),
        }
    }

    /// What came out of [`Output::Verify`].
    pub fn handle_outcome(&mut self, id: u64, outcome: Outcome, now: Instant) {
        self.router.handle_outcome(id, outcome, now);
        self.drain(now);
    }

    /// The node stops: neighbours hear that nothing can be reached through it any more.
    pub fn handle_stop(&mut self, now: Instant) {
        self.router.shut_down(now);
        self.drain(now);
    }

    /// The resolver's answer to [`Output::Resolve`]: addresses for each endpoint, in the same order. What lies inside the overlay is
    /// ignored, since a tunnel must not run in itself.
    pub fn handle_resolved(
        &mut self,
        peer: &PublicKey,
        endpoints: Vec<Vec<SocketAddr>>,
        now: Instant,
    ) {
        let Some(entry) = self.peers.get_mut(peer) else {
            return;
        };
        for (dial, mut addresses) in entry.dials.iter_mut().zip(endpoints) {
            addresses.retain(|address| !is_overlay(address));
            // A name that cannot be resolved now stands for what it stood for before.
            if !addresses.is_empty() {
                entry.names = Names::Known;
                dial.addresses = addresses;
            }
        }
        self.refresh_endpoints(peer, now);
        self.dial(peer, now);
        self.drain(now);
    }

    /// Addresses or routes of the underlay changed, or an interface went up or down.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.device.handle_network_change(now);
        // Which link goes by which interface the kernel knows; every neighbour is asked whether it is still there.
        for id in self.links.iter().map(|(id, _)| id).collect::<Vec<_>>() {
            self.router.handle_hint(id, Hint::Silent, now);
        }
        for entry in self.peers.values_mut() {
            entry.dials.iter_mut().for_each(Dial::hurry);
        }
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.dial(&peer, now);
        }
        self.on_reach_network_change(now);
        self.hurry_streams(now);
        self.drain(now);
    }

    /// Whether a deadline passed so long ago that time must have gone by without us.
    pub fn has_slept(&self, now: Instant) -> bool {
        self.poll_timeout()
            .is_some_and(|(deadline, _)| now.saturating_duration_since(deadline) > GAP)
    }

    /// Time went by without us: renews every session, and resolves the names of endpoints again, since the machine may wake up
    /// elsewhere. Whoever notices says so; within [`GAP`] of the last time nothing happens.
    pub fn handle_resume(&mut self, now: Instant) {
        if self
            .resumed
            .is_some_and(|resumed| now.saturating_duration_since(resumed) < GAP)
        {
            return;
        }
        self.resumed = Some(now);
        info!("Resumed after a pause, renewing all sessions");
        self.device.handle_resume(now);
        for id in self.links.iter().map(|(id, _)| id).collect::<Vec<_>>() {
            self.router.handle_hint(id, Hint::CarrierBack, now);
            self.disown_labels(id, now);
        }
        for (peer, entry) in &mut self.peers {
            if entry.has_names() {
                entry.resolved = Some(now);
                self.outputs.push_back(Output::Resolve {
                    peer: *peer,
                    endpoints: entry.endpoints.clone(),
                });
            }
        }
        self.drain(now);
    }

    /// The next thing to do; call until it returns nothing.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        // However much has changed, packet threads hear of it once.
        if !std::mem::take(&mut self.stale) {
            return None;
        }
        Some(Output::Publish(self.snapshot()))
    }

    /// Lets device and router tell each other what they have to say.
    fn drain(&mut self, now: Instant) {
        loop {
            if let Some(event) = self.device.poll_event() {
                self.on_device_event(event, now);
            } else if let Some(event) = self.router.poll_event() {
                self.on_router_event(event, now);
            } else if let Some(transmit) = self.device.poll_transmit() {
                self.send(transmit.endpoint, transmit.payload, now);
            } else if let Some(transmit) = self.router.poll_transmit() {
                self.send_babel(transmit, now);
            } else if !self.drain_reach(now) {
                return;
            }
        }
    }

    fn on_device_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Established { peer, rtt } => {
                self.on_established(peer, rtt, now);
                self.outputs.push_back(Output::Changed);
            }
            Event::Closed { peer } => {
                debug!(peer = %self.label(&peer), "Session closed");
                self.close_links_of(&peer, now);
                self.on_reach_closed(&peer, now);
                self.agenda.set(Task::Path(peer), None);
                self.note_session(&peer, false, now);
                self.outputs.push_back(Output::Changed);
            }
            Event::Roamed {
                peer,
                from,
                endpoint,
            } => {
                debug!(peer = %self.label(&peer), %endpoint, "Peer roamed");
                if let Endpoint::Underlay(to) = endpoint {
                    self.move_link(&peer, from, to, now);
                    if let Some(Endpoint::Underlay(from)) = &from {
                        self.move_way(&peer, from, to, now);
                    }
                }
                self.choose_path(&peer, now);
            }
            Event::InUse { peer, waiting } => self.on_use(&peer, waiting, now),
            Event::Missed { peer } => self.on_missed(&peer, now),
            Event::Unanswered { peer } => self.on_unanswered(peer, now),
        }
    }

    fn note_session(&mut self, peer: &PublicKey, session: bool, now: Instant) {
        let what = Happening::Peer {
            peer: self.label(peer),
            address: self.address_of(peer),
            session,
        };
        self.history.push(what, now);
    }

    fn on_established(&mut self, peer: PublicKey, rtt: Option<Duration>, now: Instant) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.rtt = rtt
                .map(|time| Rtt {
                    time,
                    measured: now,
                })
                .or(entry.rtt);
            if entry.reachable == Reachable::No {
                entry.reachable = Reachable::Yes;
                info!(peer = %entry.name, "Peer reachable");
            }
        }
        self.note_session(&peer, true, now);
        self.dial(&peer, now);
        self.choose_path(&peer, now);
        self.try_path(&peer, now);
        self.on_reach_opened(&peer, now);
        self.on_door_session(&peer, now);
        self.compare_records(&peer, now);
        self.look_at_streams(now);
        self.note_path(&peer, now);
        self.send_traces(&peer, now);
        self.release(peer, now);
        if rtt.is_none()
            && let Some(entry) = self.peers.get(&peer).filter(|entry| !entry.is_guest())
        {
            let address = entry.address;
            self.echo(peer, address, now);
        }
    }

    fn on_unanswered(&mut self, peer: PublicKey, now: Instant) {
        let is_open = self
            .device
            .session(&peer)
            .is_some_and(|session| session.is_established());
        if !is_open {
            for packet in self.held.take(&peer) {
                self.refuse(Reason::Unreachable, Unreachable::Address, &packet, now);
            }
        }
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        if !is_open && entry.reachable == Reachable::Yes {
            entry.reachable = Reachable::No;
            info!(peer = %entry.name, "Peer unreachable");
        }
        if entry.has_names()
            && entry
                .resolved
                .is_none_or(|resolved| now.saturating_duration_since(resolved) >= RESOLVE_AGAIN)
        {
            entry.resolved = Some(now);
            self.outputs.push_back(Output::Resolve {
                peer,
                endpoints: entry.endpoints.clone(),
            });
        }
    }

    fn held_or_counted(&mut self, peer: PublicKey, packet: Vec<u8>) {
        self.discards
            .discard(Reason::HeldFull, self.held.push(peer, packet));
    }

    /// Sends what was held for a session that has opened.
    fn release(&mut self, peer: PublicKey, now: Instant) {
        let packets = self.held.take(&peer);
        let Some(session) = self.device.session(&peer).filter(|_| !packets.is_empty()) else {
            return;
        };
        let mtu = session.mtu();
        let mut batch = session.lock(now);
        let (mut sealed, mut too_big) = (Vec::new(), Vec::new());
        let endpoint = batch.endpoint();
        for packet in packets {
            if packet.len() > mtu {
                too_big.push(packet);
                continue;
            }
            let mut datagram = vec![0; packet.len() + OVERHEAD + PADDING];
            match (endpoint, batch.seal(&packet, mtu, &mut datagram)) {
                (Some(endpoint), Ok(length)) => {
                    datagram.truncate(length);
                    sealed.push((endpoint, datagram));
                }
                (None, _) => self.discards.discard(Reason::NoEndpoint, 1),
                (_, Err(_)) => self.discards.discard(Reason::Unreachable, 1),
            }
        }
        let signals = batch.finish();
        if signals.any() {
            self.device.handle_signal(&peer, now);
        }
        for (endpoint, datagram) in sealed {
            self.send(endpoint, datagram, now);
        }
        for packet in too_big {
            let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);
            self.refuse(Reason::TooBig, Unreachable::TooBig(mtu), &packet, now);
        }
    }

    // ---- commands ------------------------------------------------------------------------------------------------------------

    /// Sends an echo request to the peer with this name or address (its own or one inside its prefixes); the reply comes out as
    /// [`Output::Pong`] with the number returned here. A session is opened for it if there is none.
    ///
    /// # Errors
    /// [`CommandError::NoSuchName`].
    pub fn ping(&mut self, target: &str, now: Instant) -> Result<PingSent, CommandError> {
        let (peer, address) = self.find(target)?;
        self.admit(peer, now);
        let path = self.path(&peer);
        let number = self.echo(peer, address, now);
        Ok(PingSent {
            number,
            address,
            path,
        })
    }

    fn echo(&mut self, peer: PublicKey, address: Ipv6Addr, now: Instant) -> u64 {
        let number = self.pings.next;
        self.pings.next += 1;
        if self.pings.sent.len() >= MAX_PINGS {
            self.pings.sent.pop_first();
        }
        self.pings.sent.insert(number, Ping { sent: now, peer });
        let own = self.identity.node().address();
        let request = icmp::echo_request(own, address, self.pings.token, number);
        self.note_sent(&peer, &request, now);
        self.handle_unsent(peer, request, now);
        number
    }

    /// Somebody looks: measures the way to connected peers where that was not done lately. The next look shows it.
    fn measure_again(&mut self, now: Instant) {
        let is_old = |entry: &Entry| {
            entry
                .rtt
                .is_none_or(|rtt| now.saturating_duration_since(rtt.measured) >= MEASURE_AGAIN)
        };
        let due = self.peers.iter().filter(|(key, entry)| {
            is_old(entry)
                && self
                    .device
                    .session(key)
                    .is_some_and(|session| session.is_established())
        });
        let due: Vec<_> = due
            .take(MAX_PINGS / 2)
            .map(|(key, entry)| (*key, entry.address))
            .collect();
        for (peer, address) in due {
            self.echo(peer, address, now);
        }
    }
}

/// An echo request on its way.
#[derive(Clone, Debug)]
pub struct PingSent {
    /// Names the request.
    pub number: u64,
    /// Where it goes.
    pub address: Ipv6Addr,
    /// How it left.
    pub path: admin::Path,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

/// Whether an endpoint lies inside the overlay: a tunnel must not run in itself.
fn is_overlay(endpoint: &SocketAddr) -> bool {
    match endpoint {
        SocketAddr::V4(_) => false,
        SocketAddr::V6(endpoint) => identity::is_overlay(*endpoint.ip()),
    }
}
