//! Tracing: which nodes packets to a peer cross, found out by datagrams whose hops run out on the way.
//!
//! Relays are opaque to programs, since a packet of theirs is sealed when it crosses them. But a relayed datagram has a hop limit like every
//! IPv6 packet, and the node where it runs out says so. What it says is matched with what was sent; it proves nothing.

use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use routing::Next;
use wireguard::{Carriage, Message, PublicKey};

use super::{CommandError, Node, Output, Task, paths::Path, report::millis};
use crate::{
    admin::{self, Backup},
    icmp::RelayError,
    signal::{Echo, LEAST, Probe, Signal, Way},
};

/// Nodes on the way at most.
const MAX_HOPS: u8 = 16;
/// How long to wait for answers that are still missing once the target has answered.
const GRACE: Duration = Duration::from_millis(500);
/// How long to wait for the target.
const PATIENCE: Duration = Duration::from_secs(3);
/// Traces under way at most; the oldest is answered as it stands.
const MOST: usize = 16;

/// All traces under way.
#[derive(Debug, Default)]
pub(super) struct Traces {
    next: u64,
    traces: BTreeMap<u64, Trace>,
}

#[derive(Debug)]
struct Trace {
    peer: PublicKey,
    target: Ipv6Addr,
    /// Whether it waits for a session.
    is_waiting: bool,
    probes: Vec<Sent>,
    /// No sooner is it answered.
    due: Instant,
}

/// One probe, whose datagram has as many hops as its place among the probes says.
#[derive(Debug)]
struct Sent {
    id: u32,
    /// Receiver index and counter of its datagram, by which a relay's error is matched.
    name: Option<(u32, u64)>,
    at: Instant,
    /// Who answered and when: the target, or a relay.
    answer: Option<(Answerer, Instant)>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Answerer {
    Target,
    Relay(Ipv6Addr),
}

impl Traces {
    /// An echo may answer a probe of a trace.
    pub(super) fn handle_echo(&mut self, echo: &Echo, received: Instant) {
        self.answer(|sent| sent.id == echo.id, Answerer::Target, received);
    }

    /// The hops of a datagram ran out.
    pub(super) fn handle_relay(&mut self, error: &RelayError<'_>, received: Instant) {
        let Some(name) = name(error.datagram) else {
            return;
        };
        let relay = Answerer::Relay(error.relay);
        self.answer(|sent| sent.name == Some(name), relay, received);
    }

    fn answer(&mut self, is_it: impl Fn(&Sent) -> bool, who: Answerer, received: Instant) {
        let sent = self
            .traces
            .values_mut()
            .flat_map(|trace| &mut trace.probes)
            .find(|sent| is_it(sent) && sent.answer.is_none());
        if let Some(sent) = sent {
            sent.answer = Some((who, received));
        }
    }
}

impl Trace {
    /// How many probes it takes to get to the target; none if it has not answered.
    fn length(&self) -> Option<usize> {
        let reaches = |sent: &Sent| matches!(sent.answer, Some((Answerer::Target, _)));
        self.probes.iter().position(reaches).map(|at| at + 1)
    }

    fn is_complete(&self) -> bool {
        self.length().is_some_and(|length| {
            self.probes[..length]
                .iter()
                .all(|sent| sent.answer.is_some())
        })
    }
}

/// What names a sealed datagram, or the beginning of one.
fn name(datagram: &[u8]) -> Option<(u32, u64)> {
    let mut whole = datagram.to_vec();
    // A quotation may end anywhere after the header.
    whole.resize(datagram.len().max(32), 0);
    match Message::of(&whole)? {
        Message::Data { receiver, counter } if datagram.len() >= 16 => Some((receiver, counter)),
        Message::Data { .. } | Message::Initiation | Message::Response | Message::Cookie { .. } => {
            None
        }
    }
}

impl Node {
    /// Begins to trace the way to the peer with this name or address; the answer comes out as [`Output::Traced`] with the number returned
    /// here.
    ///
    /// # Errors
    /// [`CommandError::NoSuchName`].
    pub fn trace(&mut self, target: &str, now: Instant) -> Result<u64, CommandError> {
        let (peer, target) = self.find(target)?;
        let number = self.traces.next;
        self.traces.next += 1;
        if self.traces.traces.len() >= MOST
            && let Some((&oldest, _)) = self.traces.traces.first_key_value()
        {
            self.finish_trace(oldest);
        }
        let trace = Trace {
            peer,
            target,
            is_waiting: true,
            probes: Vec::new(),
            due: now + PATIENCE,
        };
        self.traces.traces.insert(number, trace);
        self.agenda.set(Task::Trace(number), Some(now + PATIENCE));
        if self.is_open_with(&peer) {
            self.send_traces(&peer, now);
        } else {
            self.device.initiate(&peer, now);
        }
        self.drain(now);
        Ok(number)
    }

    /// Sends the probes of traces that waited for this session.
    pub(super) fn send_traces(&mut self, peer: &PublicKey, now: Instant) {
        let waiting: Vec<u64> = self
            .traces
            .traces
            .iter()
            .filter(|(_, trace)| trace.is_waiting && trace.peer == *peer)
            .map(|(number, _)| *number)
            .collect();
        for number in waiting {
            let probes = self.send_probes(peer, now);
            if let Some(trace) = self.traces.traces.get_mut(&number) {
                trace.is_waiting = false;
                trace.probes = probes;
            }
        }
    }

    fn send_probes(&mut self, peer: &PublicKey, now: Instant) -> Vec<Sent> {
        let (way, hops) = match self.peers.get(peer).map(|entry| entry.path) {
            Some(Path::Relayed(_)) => (Way::Relayed, MAX_HOPS),
            Some(Path::None | Path::Link(_) | Path::Direct) | None => {
                let session = self.device.session(peer);
                let endpoint = session.and_then(|session| session.endpoint());
                let underlay = endpoint.and_then(|endpoint| endpoint.underlay().copied());
                (underlay.as_ref().map_or(Way::Direct, Way::straight), 1)
            }
        };
        let own = self.identity.node().link_local();
        let node = self.peers.get(peer).and_then(|entry| entry.node);
        let mut sent = Vec::new();
        for hop_limit in 1..=hops {
            let id = self.rng.u32(..);
            let Some(node) = node else {
                return sent;
            };
            let packet = Signal::Probe(Probe { id, way }).packet(own, node.link_local(), LEAST);
            let Some(datagram) = self.seal_own(peer, &packet, LEAST, now) else {
                return sent;
            };
            let name = name(&datagram);
            match way {
                Way::Relayed => {
                    self.relay(node.address(), &datagram, hop_limit, Carriage::Whole, now);
                }
                Way::Direct | Way::Stream => {
                    let endpoint = self
                        .device
                        .session(peer)
                        .and_then(|session| session.endpoint());
                    if let Some(endpoint) = endpoint {
                        self.send(endpoint, datagram, now);
                    }
                }
            }
            sent.push(Sent {
                id,
                name,
                at: now,
                answer: None,
            });
        }
        sent
    }

    /// Answers the traces that have all they wanted, and gives those a little time that lack some.
    pub(super) fn finish_traces(&mut self, now: Instant) {
        let mut complete = Vec::new();
        for (number, trace) in &mut self.traces.traces {
            if trace.is_complete() {
                complete.push(*number);
            } else if trace.length().is_some() {
                trace.due = trace.due.min(now + GRACE);
                self.agenda.set(Task::Trace(*number), Some(trace.due));
            }
        }
        for number in complete {
            self.finish_trace(number);
        }
    }

    /// A trace is answered as it stands.
    pub(super) fn finish_trace(&mut self, number: u64) {
        let Some(trace) = self.traces.traces.remove(&number) else {
            return;
        };
        self.agenda.set(Task::Trace(number), None);
        let length = trace.length();
        // Without the target, up to the last node that answered.
        let last = trace
            .probes
            .iter()
            .rposition(|sent| sent.answer.is_some())
            .map_or(0, |at| at + 1);
        let hops = trace.probes[..length.unwrap_or(last)]
            .iter()
            .map(|sent| {
                let (address, rtt) = match sent.answer {
                    Some((who, at)) => {
                        let address = match who {
                            Answerer::Target => self.address_of(&trace.peer),
                            Answerer::Relay(relay) => relay,
                        };
                        (Some(address), Some(at.saturating_duration_since(sent.at)))
                    }
                    None => (None, None),
                };
                admin::Hop {
                    node: address.map(|address| self.name_at(address)),
                    address,
                    rtt_ms: rtt.map(millis),
                    metric: address.and_then(|address| self.metric_to(address)),
                }
            })
            .collect();
        let answer = admin::Trace {
            target: trace.target,
            from: self.name.clone(),
            hops,
            backup: self.backups(trace.target),
            reached: length.is_some(),
        };
        self.outputs.push_back(Output::Traced {
            number,
            trace: answer,
        });
    }

    /// The name of the node at an address, else the address.
    pub(super) fn name_at(&self, address: Ipv6Addr) -> String {
        self.device
            .owner(address)
            .map_or_else(|| address.to_string(), |session| self.label(session.key()))
    }

    /// How far it is to an address by the selected route.
    fn metric_to(&self, address: Ipv6Addr) -> Option<u16> {
        if !matches!(self.router.lookup(address), Next::Via { .. }) {
            return None;
        }
        let selected = self
            .router
            .routes()
            .find(|route| route.is_selected && route.prefix.contains(address))?;
        Some(selected.metric.0)
    }

    /// Routes to an address that are not selected and could be, best first.
    fn backups(&self, address: Ipv6Addr) -> Vec<Backup> {
        let selected = self
            .router
            .routes()
            .find(|route| route.is_selected && route.prefix.contains(address))
            .and_then(|route| route.via);
        let mut backups: Vec<Backup> = self
            .router
            .routes()
            .filter(|route| {
                route.prefix.contains(address) && !route.is_selected && route.metric.is_finite()
            })
            .filter(|route| route.via != selected)
            .filter_map(|route| {
                let (link, _) = route.via?;
                Some(Backup {
                    via: self.label(&self.links.get(link)?.peer),
                    metric: route.metric.0,
                    feasible: route.is_feasible,
                })
            })
            .collect();
        backups.sort_by_key(|backup| (!backup.feasible, backup.metric));
        backups
    }
}
