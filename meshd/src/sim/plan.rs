//! What a simulated mesh begins with: machines, wires, and what their configurations say.

use std::fmt::Write as _;

use wireguard::PublicKey;

use super::{Net, wire::Wire};
use crate::testdata;

/// The plan of a mesh. Every node names those that it has a wire to as peers, and all others in `allow_keys`.
#[derive(Debug)]
pub struct Plan {
    pub(super) seed: u64,
    pub(super) names: Vec<String>,
    pub(super) wires: Vec<Wire>,
    /// Which ends of each wire have the other's address in their configuration.
    dials: Vec<[bool; 2]>,
    /// What stands in `[node]` besides.
    lines: Vec<String>,
    is_open: bool,
}

impl Plan {
    /// So many nodes without wires, called a, b, c and so on.
    pub fn nodes(count: usize) -> Self {
        Self {
            seed: 1,
            names: (0..count).map(name).collect(),
            wires: Vec::new(),
            dials: Vec::new(),
            lines: vec![String::new(); count],
            is_open: false,
        }
    }

    /// Nodes in a row.
    pub fn line(count: usize) -> Self {
        (1..count).fold(Self::nodes(count), |plan, n| plan.join(n - 1, n))
    }

    /// Nodes in a circle.
    pub fn ring(count: usize) -> Self {
        Self::line(count).join(0, count - 1)
    }

    /// Connected nodes with so many wires more than it takes, at random.
    pub fn random(count: usize, more: usize, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut plan = Self::nodes(count).seed(seed);
        for n in 1..count {
            plan = plan.join(rng.usize(..n), n);
        }
        let most = count * (count - 1) / 2;
        let wanted = (plan.wires.len() + more).min(most);
        while plan.wires.len() < wanted {
            let (a, b) = (rng.usize(..count), rng.usize(..count));
            if a != b && !plan.wires.iter().any(|wire| wire.joins(a, b)) {
                plan = plan.join(a, b);
            }
        }
        plan
    }

    /// The names of all nodes.
    pub fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    /// What everything random comes from.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Nobody names anybody but those that it has a wire to, and everybody may open a session.
    #[must_use]
    pub fn open(mut self) -> Self {
        self.is_open = true;
        self
    }

    /// One more wire between these two, which both dial.
    #[must_use]
    pub fn wire(self, a: &str, b: &str) -> Self {
        let (a, b) = (self.at(a), self.at(b));
        self.join(a, b)
    }

    /// Changes the last wire between these two.
    #[must_use]
    pub fn with(mut self, a: &str, b: &str, change: impl FnOnce(&mut Wire)) -> Self {
        let at = self.last(a, b);
        change(&mut self.wires[at]);
        self
    }

    /// Changes all wires.
    #[must_use]
    pub fn with_all(mut self, change: impl FnMut(&mut Wire)) -> Self {
        self.wires.iter_mut().for_each(change);
        self
    }

    /// The last wire between these two is cut in the beginning.
    #[must_use]
    pub fn cut(self, a: &str, b: &str) -> Self {
        self.with(a, b, |wire| wire.is_open = [false; 2])
    }

    /// Of the last wire between these two, only the first knows the other's address.
    #[must_use]
    pub fn only_dials(mut self, caller: &str, called: &str) -> Self {
        let at = self.last(caller, called);
        let end = self.wires[at].end_of(self.at(caller));
        self.dials[at] = [end == Some(0), end == Some(1)];
        self
    }

    /// Nobody knows the other's address on the last wire between these two.
    #[must_use]
    pub fn nobody_dials(mut self, a: &str, b: &str) -> Self {
        let at = self.last(a, b);
        self.dials[at] = [false; 2];
        self
    }

    /// One more line in `[node]` of a node.
    #[must_use]
    pub fn node(mut self, name: &str, line: &str) -> Self {
        let at = self.at(name);
        self.lines[at].push_str(line);
        self.lines[at].push('\n');
        self
    }

    /// Machines are switched on.
    pub fn start(self) -> Net {
        Net::start(self)
    }

    fn join(mut self, a: usize, b: usize) -> Self {
        let number = self.wires.len();
        self.wires.push(Wire::new(number, [a, b]));
        self.dials.push([true; 2]);
        self
    }

    fn at(&self, name: &str) -> usize {
        let place = self.names.iter().position(|other| other == name);
        place.unwrap_or_else(|| panic!("no node `{name}`"))
    }

    fn last(&self, a: &str, b: &str) -> usize {
        let (at, to) = (self.at(a), self.at(b));
        let place = self.wires.iter().rposition(|wire| wire.joins(at, to));
        place.unwrap_or_else(|| panic!("no wire between `{a}` and `{b}`"))
    }

    /// The configuration file of a node.
    pub(super) fn configuration(&self, node: usize) -> String {
        let mut text = String::new();
        let mut peers = String::new();
        let mut others = Vec::new();
        for other in (0..self.names.len()).filter(|&other| other != node) {
            let wires = self.wires.iter().zip(&self.dials);
            let ours: Vec<_> = wires.filter(|(wire, _)| wire.joins(node, other)).collect();
            if ours.is_empty() {
                others.push(key(other));
                continue;
            }
            let endpoints: Vec<String> = ours
                .iter()
                .filter_map(|(wire, dials)| {
                    let end = wire.end_of(node)?;
                    dials[end].then(|| format!("\"{}\"", wire.ends[1 - end].seen_as))
                })
                .collect();
            peers.push_str(&peer(&self.names[other], other, &endpoints));
        }
        let allowed: Vec<String> = others.iter().map(|key| format!("\"{key}\"")).collect();
        let more = &self.lines[node];
        let admission = if self.is_open {
            "open = true".to_owned()
        } else {
            format!("allow_keys = [{}]", allowed.join(", "))
        };
        let name = &self.names[node];
        let _never_fails = write!(
            text,
            "[node]\nname = \"{name}\"\n{admission}\n{more}[inbound]\ndefault = \"allow\"\n{peers}"
        );
        text
    }
}

/// An entry for a node.
fn peer(name: &str, node: usize, endpoints: &[String]) -> String {
    let key = key(node);
    let endpoints = endpoints.join(", ");
    format!("[[peers]]\nname = \"{name}\"\npublic_key = \"{key}\"\nendpoint = [{endpoints}]\n")
}

fn key(node: usize) -> PublicKey {
    testdata::identity(node).node().public_key()
}

fn name(number: usize) -> String {
    match u8::try_from(number) {
        Ok(letter @ 0..26) => char::from(b'a' + letter).to_string(),
        Ok(_) | Err(_) => format!("n{number}"),
    }
}
