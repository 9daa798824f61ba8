//! What should be, to be compared with what is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use super::{Net, Node, millis};
use crate::types::Metric;

impl Net {
    /// Whether a packet from one node arrives at another's prefix, and the wires it takes, each with the node it leads to.
    pub fn path(&self, from: usize, to: usize) -> (bool, Vec<(usize, usize)>) {
        let (mut at, mut path) = (from, Vec::new());
        while at != to {
            let Some((wire, next)) = self.forward(at, to) else {
                return (false, path);
            };
            path.push((wire, next));
            let is_dropped = next != to && self.nodes[next].is_black_hole;
            if !self.passes(wire, at) || is_dropped || path.len() > self.nodes.len() {
                return (false, path);
            }
            at = next;
        }
        (self.nodes[to].is_alive, path)
    }

    /// Whether a packet from one node arrives at another.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        self.path(from, to).0
    }

    /// Whether packets pass a wire from that end, and somebody is at the other.
    fn passes(&self, wire: usize, from: usize) -> bool {
        let wire = &self.wires[wire];
        let end = usize::from(wire.ends[0] != from);
        wire.is_open[end] && self.nodes[wire.ends[1 - end]].is_alive && self.nodes[from].is_alive
    }

    /// Where a node forwards packets to another.
    fn forward(&self, node: usize, to: usize) -> Option<(usize, usize)> {
        let wire = (*self.nodes[node].hops.get(to)?)?;
        let [a, b] = self.wires[wire].ends;
        Some((wire, if a == node { b } else { a }))
    }

    /// Whether packets that leave a node for another come back to it.
    pub(super) fn is_in_circle(&self, node: usize, to: usize) -> bool {
        let mut at = node;
        for _ in 0..=self.nodes.len() {
            match self.forward(at, to) {
                Some((_, next)) if next == node => return true,
                Some((_, next)) if next != to => at = next,
                Some(_) | None => return false,
            }
        }
        // It gets into a circle that it is not part of: who closed that one has been found.
        false
    }

    /// The pairs of living nodes that are connected by open wires.
    pub fn connected_pairs(&self) -> Vec<(usize, usize)> {
        let mut component: Vec<usize> = (0..self.nodes.len()).collect();
        let mut has_changed = true;
        while has_changed {
            has_changed = false;
            for (number, wire) in self.wires.iter().enumerate() {
                let [a, b] = wire.ends;
                if self.passes(number, a) && self.passes(number, b) && component[a] != component[b]
                {
                    let least = component[a].min(component[b]);
                    (component[a], component[b]) = (least, least);
                    has_changed = true;
                }
            }
        }
        let alive: Vec<usize> = (0..self.nodes.len())
            .filter(|&node| self.nodes[node].is_alive)
            .collect();
        let mut pairs = Vec::new();
        for &a in &alive {
            pairs.extend(
                alive
                    .iter()
                    .filter(|&&b| a != b && component[a] == component[b])
                    .map(|&b| (a, b)),
            );
        }
        pairs
    }

    /// Whether every node reaches every node that it is connected with.
    pub fn is_connected(&mut self) -> bool {
        self.unreached().is_empty()
    }

    /// How many routes all nodes together forward by.
    pub fn installed(&self) -> usize {
        self.nodes.iter().map(Node::installed).sum()
    }

    /// The pairs of nodes that are connected, and do not reach each other.
    pub fn unreached(&self) -> Vec<(usize, usize)> {
        let mut pairs = self.connected_pairs();
        pairs.retain(|&(a, b)| !self.reaches(a, b));
        pairs
    }

    /// What a wire costs a node, as its router has it. Infinite: it does not use it.
    pub fn cost(&self, node: usize, wire: usize) -> Metric {
        let links = self.nodes[node].router.links();
        links
            .into_iter()
            .find(|view| view.link.0 as usize == wire)
            .map_or(Metric::INFINITY, |view| view.cost)
    }

    /// How far each node is from one, by the shortest paths over open wires at the costs that routers have.
    fn distances(&self, to: usize, costs: &BTreeMap<(usize, usize), u32>) -> Vec<u32> {
        let mut distances = vec![u32::MAX; self.nodes.len()];
        let mut heap = BinaryHeap::from([Reverse((0, to))]);
        distances[to] = 0;
        while let Some(Reverse((distance, node))) = heap.pop() {
            if distance > distances[node] {
                continue;
            }
            for &wire in &self.nodes_wires(node) {
                let [a, b] = self.wires[wire].ends;
                let other = if a == node { b } else { a };
                let cost = costs.get(&(other, wire)).copied();
                let is_open = self.passes(wire, other) && self.passes(wire, node);
                if let Some(cost) = cost.filter(|_| is_open) {
                    let sum = distance + cost;
                    if sum < distances[other] {
                        distances[other] = sum;
                        heap.push(Reverse((sum, other)));
                    }
                }
            }
        }
        distances
    }

    fn nodes_wires(&self, node: usize) -> Vec<usize> {
        (0..self.wires.len())
            .filter(|&wire| self.wires[wire].ends.contains(&node))
            .collect()
    }

    /// The pairs whose path is longer than the shortest by more than so many percent, with both lengths. Those that do not reach each
    /// other are among them.
    pub fn detours(&self, percent: u32) -> Vec<(usize, usize, u32, u32)> {
        let mut costs = BTreeMap::new();
        for (number, node) in self.nodes.iter().enumerate() {
            for link in node.router.links() {
                if link.cost.is_finite() {
                    costs.insert((number, link.link.0 as usize), u32::from(link.cost.0));
                }
            }
        }
        let pairs: BTreeSet<_> = self.connected_pairs().into_iter().collect();
        let mut detours = Vec::new();
        for to in 0..self.nodes.len() {
            let distances = self.distances(to, &costs);
            for (from, &shortest) in distances.iter().enumerate() {
                if !pairs.contains(&(from, to)) {
                    continue;
                }
                let (arrives, path) = self.path(from, to);
                let mut at = from;
                let mut length = 0;
                for (wire, next) in path {
                    length += costs.get(&(at, wire)).copied().unwrap_or(u32::MAX / 4);
                    at = next;
                }
                let limit = u64::from(shortest) * u64::from(100 + percent);
                if !arrives || u64::from(length) * 100 > limit {
                    detours.push((from, to, length, shortest));
                }
            }
        }
        detours
    }

    /// Whether every node uses every wire that is open, and reaches every node it is connected with by a shortest path.
    pub fn is_optimal(&mut self) -> bool {
        self.is_optimal_within(0)
    }

    /// As [`Self::is_optimal`], but paths may be longer by so many percent.
    pub fn is_optimal_within(&mut self, percent: u32) -> bool {
        let all_used = (0..self.wires.len()).all(|wire| {
            let [a, b] = self.wires[wire].ends;
            let is_open = self.passes(wire, a) && self.passes(wire, b);
            !is_open || self.cost(a, wire).is_finite() && self.cost(b, wire).is_finite()
        });
        all_used && self.detours(percent).is_empty()
    }

    /// How long each pair of nodes was out of reach of each other, of those that were at all: looked at every 10 ms until all are
    /// connected, for at most so long. A pair that is still out of reach then was so all the time.
    pub fn outages(&mut self, most: Duration) -> Vec<Duration> {
        let begin = self.now;
        let mut last: BTreeMap<(usize, usize), Duration> = BTreeMap::new();
        let mut quiet = Duration::ZERO;
        while self.now < begin + most && quiet < millis(1_500) {
            self.run_for(millis(10));
            let unreached = self.unreached();
            quiet = if unreached.is_empty() {
                quiet + millis(10)
            } else {
                Duration::ZERO
            };
            for pair in unreached {
                last.insert(pair, self.now - begin);
            }
        }
        let mut outages: Vec<Duration> = last.into_values().collect();
        outages.sort_unstable();
        outages
    }
}
