//! What should be, to be compared with what is.

use std::net::Ipv6Addr;

use wireguard::Endpoint;

use super::Net;
use crate::fib::{Lookup, Route};

/// Where datagrams go that leave a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trail {
    /// They arrive, and cross these machines, the first and the last among them.
    Arrives(Vec<usize>),
    /// They get so far.
    Ends(Vec<usize>),
    /// They go in a circle.
    Circle(Vec<usize>),
}

impl Net {
    /// Which way packets of one node for another take: the names of all nodes that they cross, with spaces in between. Empty if there
    /// is no session, or its datagrams do not get there.
    pub fn path(&self, from: &str, to: &str) -> String {
        let (at, target) = (self.at(from), self.at(to));
        let Some(daemon) = &self.machines[at].daemon else {
            return String::new();
        };
        let address = self.machines[target].address();
        let fib = daemon.fib.load();
        let Lookup::Session(to) = fib.lookup(address) else {
            return String::new();
        };
        let session = &to.session;
        if !session.is_established() {
            return String::new();
        }
        let machines = match session.endpoint() {
            Some(Endpoint::Underlay(underlay)) => match self.step(at, underlay.remote) {
                Some(next) if next == target => vec![at, next],
                Some(_) | None => return String::new(),
            },
            Some(Endpoint::Overlay(node)) => match self.trail(at, node) {
                Trail::Arrives(machines) => machines,
                Trail::Ends(_) | Trail::Circle(_) => return String::new(),
            },
            None => return String::new(),
        };
        let names = machines.iter().map(|&at| self.machines[at].name.as_str());
        names.collect::<Vec<_>>().join(" ")
    }

    /// By which wire a node's packets for another go first; none if there is no session or no way.
    pub fn used_wire(&self, from: &str, to: &str) -> Option<usize> {
        let address = self.machines[self.at(to)].address();
        let fib = self.machines[self.at(from)].daemon.as_ref()?.fib.load();
        let Lookup::Session(to) = fib.lookup(address) else {
            return None;
        };
        let session = &to.session;
        let remote = match session.endpoint()? {
            Endpoint::Underlay(underlay) => underlay.remote,
            Endpoint::Overlay(node) => match fib.route(node) {
                Route::Via(next_hop) => next_hop.endpoint.remote,
                Route::Unreachable | Route::Unknown => return None,
            },
        };
        self.addresses.get(&remote).map(|(wire, _)| *wire)
    }

    /// Whether FIB 2 leads from one node to another, over wires that are open.
    pub fn is_routed(&self, from: &str, to: &str) -> bool {
        let (from, to) = (self.at(from), self.at(to));
        matches!(
            self.trail(from, self.machines[to].address()),
            Trail::Arrives(_)
        )
    }

    /// Whether FIB 2 leads from every node to every other that it is connected with.
    pub fn is_all_routed(&self) -> bool {
        self.connected_pairs().into_iter().all(|(from, to)| {
            let address = self.machines[to].address();
            matches!(self.trail(from, address), Trail::Arrives(_))
        })
    }

    /// Whether a session of one node with another is open.
    pub fn is_open(&self, from: &str, to: &str) -> bool {
        let address = self.machines[self.at(to)].address();
        self.machines[self.at(from)]
            .daemon
            .as_ref()
            .is_some_and(|daemon| {
                let fib = daemon.fib.load();
                matches!(fib.lookup(address), Lookup::Session(to) if to.session.is_established())
            })
    }

    /// Where FIB 2 leads from a machine, for datagrams to a node's own address.
    pub(super) fn trail(&self, from: usize, node: Ipv6Addr) -> Trail {
        let mut machines = vec![from];
        let mut at = from;
        while self.machines[at].address() != node {
            let Some(daemon) = &self.machines[at].daemon else {
                return Trail::Ends(machines);
            };
            let fib = daemon.fib.load();
            let Route::Via(next_hop) = fib.route(node) else {
                return Trail::Ends(machines);
            };
            let Some(next) = self.step(at, next_hop.endpoint.remote) else {
                return Trail::Ends(machines);
            };
            let is_circle = machines.contains(&next);
            machines.push(next);
            if is_circle {
                return Trail::Circle(machines);
            }
            at = next;
        }
        Trail::Arrives(machines)
    }

    /// Whom datagrams reach that a machine sends to an address of the underlay.
    fn step(&self, from: usize, to: std::net::SocketAddr) -> Option<usize> {
        let &(wire, end) = self.addresses.get(&to)?;
        let wire = &self.wires[wire];
        let other = &wire.ends[1 - end];
        let next = wire.ends[end].machine;
        let is_there = self.machines[next].daemon.is_some() && !self.machines[next].is_asleep;
        (other.machine == from && wire.is_open[1 - end] && is_there).then_some(next)
    }

    /// The names of [`Self::connected_pairs`].
    pub fn connected_names(&self) -> Vec<(String, String)> {
        let name = |machine: usize| self.machines[machine].name.clone();
        let pairs = self.connected_pairs().into_iter();
        pairs.map(|(a, b)| (name(a), name(b))).collect()
    }

    /// Whether a daemon runs.
    pub fn is_on(&self, machine: &str) -> bool {
        self.machines[self.at(machine)].daemon.is_some()
    }

    /// The pairs of machines that are on and joined by wires that are open both ways and lose less than half.
    pub fn connected_pairs(&self) -> Vec<(usize, usize)> {
        let is_on: Vec<bool> = self
            .machines
            .iter()
            .map(|machine| machine.daemon.is_some() && !machine.is_asleep)
            .collect();
        let mut component: Vec<usize> = (0..self.machines.len()).collect();
        let mut has_changed = true;
        while has_changed {
            has_changed = false;
            for wire in &self.wires {
                let [a, b] = wire.ends.map(|end| end.machine);
                let is_good = wire.is_open_both_ways() && wire.loss < 500 && is_on[a] && is_on[b];
                if is_good && component[a] != component[b] {
                    let least = component[a].min(component[b]);
                    (component[a], component[b]) = (least, least);
                    has_changed = true;
                }
            }
        }
        let mut pairs = Vec::new();
        for a in (0..component.len()).filter(|&a| is_on[a]) {
            for b in (0..component.len()).filter(|&b| is_on[b]) {
                if a != b && component[a] == component[b] {
                    pairs.push((a, b));
                }
            }
        }
        pairs
    }
}
