//! The node: a pure state machine that joins the WireGuard [`Device`] with what the configuration says about peers.
//!
//! It takes datagrams, signals of packet threads, commands and the time, and gives back outputs and a deadline. It owns nothing that
//! a packet thread waits for: those read the [`Fib`] snapshot that it publishes. After every `handle_*` or command, drain
//! [`Node::poll_output`], then look at [`Node::poll_timeout`].

mod peers;
mod report;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{debug, info};
use wireguard::{
    AddPeerError, Device, Event, PublicKey, Reader, Transmit,
    constants::{OVERHEAD, PADDING},
};

use self::peers::{Entry, Names, Reachable, Rtt};
pub use self::report::millis;
use crate::{
    admin,
    config::{Admission, HostPort, InterfaceSettings, Settings},
    discard::{Discards, Reason},
    fib::Fib,
    held::Held,
    icmp::{self, EchoToken, ErrorLimit, Unreachable},
    identity::{Identity, overlay},
    state::StockDevice,
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
    interface: InterfaceSettings,
    admission: Admission,
    device: Device,
    peers: BTreeMap<PublicKey, Entry>,
    held: Held,
    pings: Pings,
    errors: ErrorLimit,
    discards: Arc<Discards>,
    warnings: Vec<admin::Warning>,
    seen: BTreeMap<PublicKey, Seen>,
    outputs: VecDeque<Output>,
    started: Instant,
    /// When the node last took up its work after a gap.
    resumed: Option<Instant>,
}

/// What the node wants done, in this order.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram.
    Transmit(Transmit),
    /// Write a packet to the TUN device.
    Deliver(Vec<u8>),
    /// Publish a new snapshot to the packet threads.
    Publish(Fib),
    /// A session opened or closed: who waits for one should look again.
    Changed,
    /// Resolve these names and answer with [`Node::handle_resolved`].
    Resolve {
        /// Whose endpoints they are.
        peer: PublicKey,
        /// All its endpoints, in the order of the configuration.
        endpoints: Vec<HostPort>,
    },
    /// A reply to an echo request of [`Node::ping`].
    Pong(Pong),
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
    /// Where and when peers were last heard of.
    pub seen: BTreeMap<PublicKey, Seen>,
    /// Randomness for indices and jitter.
    pub seed: u64,
    /// The secret that marks our echo requests.
    pub token: EchoToken,
    /// The counters of discarded packets.
    pub discards: Arc<Discards>,
}

impl Node {
    /// A node with these settings.
    pub fn new(settings: &Settings, fresh: Fresh, now: Instant) -> Self {
        let Fresh {
            identity,
            added,
            seen,
            seed,
            token,
            discards,
        } = fresh;
        let mut node = Self {
            name: settings.name.clone(),
            interface: settings.interface.clone(),
            admission: settings.admission,
            device: Device::new(identity.private_key().clone(), seed),
            peers: BTreeMap::new(),
            held: Held::default(),
            pings: Pings {
                token,
                next: 0,
                sent: BTreeMap::new(),
            },
            errors: ErrorLimit::new(now),
            discards,
            warnings: Vec::new(),
            seen,
            outputs: VecDeque::new(),
            started: now,
            resumed: None,
            identity,
        };
        node.configure(settings, &added, now);
        node.call_back(now);
        node
    }

    /// Greets those who may still hold a session with our last run, and would notice only by our silence that it is gone.
    fn call_back(&mut self, now: Instant) {
        let recent = self.seen.iter().filter(|(_, seen)| seen.age < CALL_BACK);
        for key in recent.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.device.initiate(&key, now);
        }
        self.drain_device(now);
    }

    // ---- packets -------------------------------------------------------------------------------------------------------------

    /// What reads handshake messages to this node.
    pub fn reader(&self) -> &Reader {
        self.device.reader()
    }

    /// Another thread saw something on this peer's session that concerns its timers.
    pub fn handle_signal(&mut self, peer: &PublicKey, now: Instant) {
        self.device.handle_signal(peer, now);
        self.drain_device(now);
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
            }
            Some(false) => {
                self.held_or_counted(peer, packet);
                self.device.initiate(&peer, now);
                self.drain_device(now);
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
        self.outputs
            .push_back(Output::Pong(Pong { number, rtt, path }));
    }

    // ---- time and the world --------------------------------------------------------------------------------------------------

    /// When, and why, [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.device.poll_timeout()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.device.handle_timeout(now);
        self.drain_device(now);
    }

    /// The resolver's answer to [`Output::Resolve`]; what lies inside the overlay is ignored, since a tunnel must not run in itself.
    pub fn handle_resolved(
        &mut self,
        peer: &PublicKey,
        mut endpoints: Vec<SocketAddr>,
        now: Instant,
    ) {
        endpoints.retain(|endpoint| !is_overlay(endpoint));
        if !endpoints.is_empty() {
            if let Some(entry) = self.peers.get_mut(peer) {
                entry.names = Names::Known;
            }
            self.device.set_endpoints(peer, endpoints, now);
            self.drain_device(now);
        }
    }

    /// Addresses or routes of the underlay changed.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.device.handle_network_change(now);
        self.drain_device(now);
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
        for (peer, entry) in &mut self.peers {
            if entry.has_names() {
                entry.resolved = Some(now);
                self.outputs.push_back(Output::Resolve {
                    peer: *peer,
                    endpoints: entry.endpoints.clone(),
                });
            }
        }
        self.drain_device(now);
    }

    /// The next thing to do; call until it returns nothing.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn drain_device(&mut self, now: Instant) {
        while let Some(event) = self.device.poll_event() {
            match event {
                Event::Established { peer, rtt } => {
                    self.on_established(peer, rtt, now);
                    self.outputs.push_back(Output::Changed);
                }
                Event::Closed { peer } => {
                    debug!(peer = %self.label(&peer), "Session closed");
                    self.outputs.push_back(Output::Changed);
                }
                Event::Roamed { peer, endpoint } => {
                    debug!(peer = %self.label(&peer), %endpoint.remote, "Peer roamed")
                }
                Event::Unanswered { peer } => self.on_unanswered(peer, now),
            }
        }
        while let Some(transmit) = self.device.poll_transmit() {
            self.outputs.push_back(Output::Transmit(transmit));
        }
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
        self.release(peer, now);
        if rtt.is_none()
            && let Some(address) = self.peers.get(&peer).map(|entry| entry.address)
        {
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
        let mtu = usize::from(self.interface.mtu);
        let mut batch = session.lock(now);
        for packet in packets {
            let mut datagram = vec![0; packet.len() + OVERHEAD + PADDING];
            match (batch.endpoint(), batch.seal(&packet, mtu, &mut datagram)) {
                (Some(endpoint), Ok(length)) => {
                    datagram.truncate(length);
                    self.outputs.push_back(Output::Transmit(Transmit {
                        endpoint,
                        payload: datagram,
                    }));
                }
                (None, _) => self.discards.discard(Reason::NoEndpoint, 1),
                (_, Err(_)) => self.discards.discard(Reason::Unreachable, 1),
            }
        }
        let signals = batch.finish();
        if signals.any() {
            self.device.handle_signal(&peer, now);
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
        SocketAddr::V6(endpoint) => overlay().contains(*endpoint.ip()),
    }
}
