//! The path agent (`path/`) joined to the node.
//!
//! The agent needs to be told who sees this node where, and somebody to carry its messages. Neighbours are asked what they see by each
//! link; messages go inside the session with the peer, whichever way that takes, and where there is none by whoever knows the peer
//! otherwise. What becomes of an address that it has proven is in `ways.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use blake2::{Blake2s256, Digest as _};
use routing::{LinkId, NeighbourState};
use tracing::debug;
use wireguard::{PublicKey, Underlay};

use super::{Fresh, Node, Output, Task, ways::Ways};
use crate::{
    discard::Reason,
    identity::NodeId,
    path::{self, Agent, Arrival, Demand, NatView, ProbeError, Reflexion, Socket, Why},
    port_mapping::Mapped,
    signal::Signal,
};

/// What a neighbour sees is asked again after this.
const REFLECT_AGAIN: Duration = Duration::from_secs(120);
/// A question whose answer did not come is asked again.
const REFLECT_RETRY: Duration = Duration::from_secs(1);
/// So often, and no more before the next turn.
const REFLECT_TRIES: u32 = 3;
/// Questions of one peer are answered this often at most.
const REFLECT_ANSWER: Duration = Duration::from_millis(200);
/// Extra sockets that are ways to somebody.
const MAX_ADOPTED: usize = 16;

/// The agent, and what this node has made of what it found.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) agent: Agent,
    /// This machine's addresses, with WireGuard's ports.
    pub(super) hosts: Vec<SocketAddr>,
    /// What the router lets in.
    pub(super) mapped: Option<Mapped>,
    /// Neighbours that are being asked what they see, by link.
    questions: BTreeMap<LinkId, Question>,
    /// When each peer was last told what we see.
    pub(super) answered: BTreeMap<PublicKey, Instant>,
    pub(super) ways: BTreeMap<PublicKey, Ways>,
    /// Where peers that there is no session with have answered.
    pub(super) proven: BTreeMap<PublicKey, Underlay>,
    pub(super) failed: BTreeMap<PublicKey, Why>,
    /// Indices of the extra sockets, by the agent's numbers.
    extra: Vec<u8>,
    /// Those of them, or of earlier ones, that are ways.
    pub(super) adopted: BTreeSet<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Question {
    id: u32,
    tries: u32,
    is_answered: bool,
    due: Instant,
}

impl Reach {
    pub(super) fn new(fresh: &Fresh) -> Self {
        // Tokens follow from it: nobody else may know it, and it is another one in each run.
        let mut secret = Blake2s256::new();
        secret.update(b"meshd path v1");
        secret.update(fresh.identity.seed());
        secret.update(fresh.seed.to_le_bytes());
        secret.update(fresh.token);
        Self {
            agent: Agent::new(
                fresh.identity.node().public_key(),
                &secret.finalize().into(),
            ),
            hosts: Vec::new(),
            mapped: None,
            questions: BTreeMap::new(),
            answered: BTreeMap::new(),
            ways: BTreeMap::new(),
            proven: BTreeMap::new(),
            failed: BTreeMap::new(),
            extra: Vec::new(),
            adopted: BTreeSet::new(),
        }
    }

    /// When the agent wants to be called next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.agent.poll_timeout()
    }

    /// Tokens under which probes are read.
    pub(super) fn tokens(&self) -> impl Iterator<Item = path::probe::TokenId> {
        self.agent.tokens()
    }

    /// What the agent calls a socket.
    fn arrival(&self, from: Underlay) -> Arrival {
        let extra = self.extra.iter().position(|index| *index == from.socket);
        Arrival {
            socket: match extra {
                Some(number) => Socket::Extra(number as u16),
                None => Socket::Own(from.socket),
            },
            ..from.into()
        }
    }

    fn socket(&self, socket: Socket) -> Option<u8> {
        match socket {
            Socket::Own(index) => Some(index),
            Socket::Extra(number) => self.extra.get(usize::from(number)).copied(),
        }
    }
}

impl Node {
    // ---- what comes in -------------------------------------------------------------------------------------------------------

    /// The addresses of this machine in the underlay, with WireGuard's ports, are these.
    pub fn handle_hosts(&mut self, hosts: Vec<SocketAddr>, now: Instant) {
        self.reach.hosts = hosts;
        self.tell_local(now);
    }

    /// The router lets the WireGuard port in, or does not any more.
    pub fn handle_mapped(&mut self, mapped: Option<Mapped>, now: Instant) {
        self.reach.mapped = mapped;
        self.tell_local(now);
    }

    fn tell_local(&mut self, now: Instant) {
        let mapped = self.reach.mapped.map(|mapped| mapped.external.into());
        let local = path::Local {
            hosts: self.reach.hosts.clone(),
            mapped: mapped.into_iter().collect(),
            refused: vec![crate::identity::overlay().into()],
        };
        self.reach.agent.set_local(local, now);
        self.drain(now);
    }

    /// A datagram under a token that the agent has given away.
    pub fn handle_probe(&mut self, from: Underlay, datagram: &[u8], now: Instant) {
        let arrival = self.reach.arrival(from);
        match self.reach.agent.handle_probe(arrival, datagram, now) {
            Ok(()) => {}
            Err(ProbeError::UnknownToken) => self.discards.discard(Reason::UnknownToken, 1),
            Err(error) => {
                debug!(%error, "Probe refused");
                self.discards.discard(Reason::ProbeRefused, 1);
            }
        }
        self.drain(now);
    }

    /// A message of the agent of `from`, which whoever carried it vouches for. It is read only if `from` may open a session.
    pub fn handle_introduction(&mut self, from: NodeId, message: &[u8], now: Instant) {
        let peer = from.public_key();
        if self.admit(peer, now).is_none() {
            return self.discards.discard(Reason::Stranger, 1);
        }
        self.on_offer(peer, message, now);
        self.drain(now);
    }

    /// The sockets that [`Output::OpenSockets`] asked for: their indices, none if there are none.
    pub fn handle_sockets(&mut self, peer: PublicKey, indices: Vec<u8>, now: Instant) {
        let count = u16::try_from(indices.len()).unwrap_or(u16::MAX);
        self.reach.extra = indices;
        self.reach.agent.handle_sockets(peer, count, now);
        self.drain(now);
    }

    pub(super) fn on_offer(&mut self, peer: PublicKey, message: &[u8], now: Instant) {
        if let Err(error) = self.reach.agent.handle_offer(peer, message, now) {
            debug!(peer = %self.label(&peer), %error, "Offer refused");
            self.discards.discard(Reason::OfferRefused, 1);
        }
    }

    /// Does what is due for the agent.
    pub(super) fn reach_timeout(&mut self, now: Instant) {
        self.reach.agent.handle_timeout(now);
    }

    /// A way of its own is wanted to a peer that is reached through others, or not at all.
    pub(super) fn want_way(&mut self, peer: &PublicKey, demand: Demand, now: Instant) {
        let is_node = self
            .peers
            .get(peer)
            .is_some_and(|entry| entry.node.is_some());
        if is_node {
            self.reach.agent.reach(*peer, demand, now);
        }
    }

    /// Does what the agent wants; returns whether there was anything.
    pub(super) fn drain_reach(&mut self, now: Instant) -> bool {
        if let Some(transmit) = self.reach.agent.poll_transmit() {
            let Some(socket) = self.reach.socket(transmit.socket) else {
                self.discards.discard(Reason::NoEndpoint, 1);
                return true;
            };
            self.outputs.push_back(Output::Probe {
                to: Underlay {
                    remote: transmit.to,
                    local: transmit.from,
                    socket,
                },
                hop_limit: transmit.hop_limit,
                datagram: transmit.datagram,
            });
            return true;
        }
        let Some(event) = self.reach.agent.poll_event() else {
            return false;
        };
        match event {
            path::Event::Offer { peer, message } => self.carry_offer(&peer, message, now),
            path::Event::Proven {
                peer,
                endpoint,
                rtt,
            } => {
                debug!(peer = %self.label(&peer), remote = %endpoint.remote, ?rtt, "Address answers");
                self.consider(&peer, endpoint, now);
            }
            path::Event::Failed { peer, why } => {
                debug!(peer = %self.label(&peer), %why, "No straight way");
                self.reach.failed.insert(peer, why);
                self.outputs.push_back(Output::Changed);
            }
            path::Event::OpenSockets { peer, count } => {
                self.outputs.push_back(Output::OpenSockets { peer, count });
            }
            path::Event::Adopt {
                peer,
                socket,
                remote,
                local,
                ..
            } => self.adopt(&peer, socket, remote, local, now),
            path::Event::CloseSockets { .. } => {
                let mut indices = std::mem::take(&mut self.reach.extra);
                indices.retain(|index| !self.reach.adopted.contains(index));
                self.outputs.push_back(Output::CloseSockets(indices));
            }
        }
        true
    }

    fn carry_offer(&mut self, peer: &PublicKey, message: Vec<u8>, now: Instant) {
        // It may have given a token away.
        self.stale = true;
        let session = self
            .device
            .session(peer)
            .filter(|session| session.is_established());
        if let Some(way) = session.and_then(|session| session.endpoint()) {
            self.signal(peer, &Signal::Offer(message), 0, way, now);
        } else if let Some(to) = self.peers.get(peer).and_then(|entry| entry.node) {
            self.outputs.push_back(Output::Introduce { to, message });
        }
    }

    fn adopt(
        &mut self,
        peer: &PublicKey,
        number: u16,
        remote: SocketAddr,
        local: Option<IpAddr>,
        now: Instant,
    ) {
        let Some(socket) = self.reach.socket(Socket::Extra(number)) else {
            return;
        };
        if self.reach.adopted.len() >= MAX_ADOPTED {
            debug!(peer = %self.label(peer), "As many extra sockets are ways as may be");
            return;
        }
        self.reach.adopted.insert(socket);
        let endpoint = Underlay {
            remote,
            local,
            socket,
        };
        self.consider(peer, endpoint, now);
    }

    // ---- reflexion -----------------------------------------------------------------------------------------------------------

    /// Asks what neighbours see: those that were not asked yet, or, if `again`, all.
    pub(super) fn ask_reflexions(&mut self, again: bool, now: Instant) {
        let links: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.state != NeighbourState::Down && !link.endpoint.is_stream())
            .filter(|(_, link)| {
                self.peers
                    .get(&link.peer)
                    .is_some_and(|entry| entry.node.is_some())
            })
            .map(|(id, _)| id)
            .collect();
        self.reach.questions.retain(|id, _| links.contains(id));
        let mut next: Option<Instant> = None;
        for id in links {
            let known = self.reach.questions.get(&id).copied();
            let tries = match known {
                Some(question) if !again && question.due > now => {
                    next = next.into_iter().chain([question.due]).min();
                    continue;
                }
                Some(question) if !again && !question.is_answered => question.tries,
                Some(_) | None => 0,
            };
            let question = Question {
                id: self.rng.u32(..),
                tries: if tries + 1 >= REFLECT_TRIES {
                    0
                } else {
                    tries + 1
                },
                is_answered: false,
                due: if tries + 1 >= REFLECT_TRIES {
                    now + REFLECT_AGAIN
                } else {
                    now + REFLECT_RETRY
                },
            };
            next = next.into_iter().chain([question.due]).min();
            self.reach.questions.insert(id, question);
            if let Some((peer, endpoint)) =
                self.links.get(id).map(|link| (link.peer, link.endpoint))
            {
                let ask = Signal::Reflect(question.id);
                self.signal(&peer, &ask, 0, endpoint.into(), now);
            }
        }
        self.agenda.set(Task::Reflect, next);
    }

    /// A peer asks where it is seen.
    pub(super) fn on_reflect(&mut self, peer: &PublicKey, from: Underlay, id: u32, now: Instant) {
        if from.is_stream() {
            // The port of a TCP connection says nothing about UDP.
            return self.discards.discard(Reason::SignalAstray, 1);
        }
        let last = self.reach.answered.insert(*peer, now);
        if last.is_some_and(|last| now.saturating_duration_since(last) < REFLECT_ANSWER) {
            return self.discards.discard(Reason::PeerTalksTooMuch, 1);
        }
        let reflected = Signal::Reflected {
            id,
            address: from.remote,
        };
        self.signal(peer, &reflected, 0, from.into(), now);
    }

    pub(super) fn on_reflected(
        &mut self,
        peer: &PublicKey,
        from: Underlay,
        id: u32,
        seen: SocketAddr,
        now: Instant,
    ) {
        let mut asked = self.reach.questions.iter_mut();
        let Some((_, question)) = asked.find(|(_, question)| question.id == id) else {
            return self.discards.discard(Reason::SignalAstray, 1);
        };
        question.is_answered = true;
        question.tries = 0;
        question.due = now + REFLECT_AGAIN;
        let reflexion = Reflexion {
            witness: *peer,
            remote: from.remote,
            seen,
            socket: from.socket,
        };
        let before = self.nat().mapping;
        self.reach.agent.handle_reflexion(reflexion, now);
        if self.nat().mapping != before {
            self.on_router_known(now);
        }
        let dues = self.reach.questions.values().map(|question| question.due);
        self.agenda.set(Task::Reflect, dues.min());
    }

    // ---- what it shows -------------------------------------------------------------------------------------------------------

    /// How the router before this node behaves, as far as neighbours have told.
    pub fn nat(&self) -> NatView {
        self.reach.agent.nat()
    }
}
