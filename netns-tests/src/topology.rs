//! Who is joined to whom, and hosts joined that way, made many at a time.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::thread;

use crate::host::{Host, run_outside_with};
use crate::lab::{Lab, Link, Port};

/// Nodes, numbered from 0, and which two of them each edge joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    nodes: usize,
    edges: Vec<(usize, usize)>,
    cut: BTreeSet<usize>,
    dead: BTreeSet<usize>,
}

impl Graph {
    /// So many nodes, joined like that.
    ///
    /// # Panics
    /// When an edge joins a node to itself, or one that is not there.
    pub fn new(nodes: usize, edges: &[(usize, usize)]) -> Self {
        for (a, b) in edges {
            assert!(
                a != b && *a < nodes && *b < nodes,
                "no edge from {a} to {b}"
            );
        }
        Self {
            nodes,
            edges: edges.to_vec(),
            cut: BTreeSet::new(),
            dead: BTreeSet::new(),
        }
    }

    /// One after the other.
    pub fn line(nodes: usize) -> Self {
        let edges: Vec<_> = (1..nodes).map(|node| (node - 1, node)).collect();
        Self::new(nodes, &edges)
    }

    /// A line whose ends meet, of three nodes or more.
    pub fn ring(nodes: usize) -> Self {
        let edges: Vec<_> = (0..nodes).map(|node| (node, (node + 1) % nodes)).collect();
        Self::new(nodes, &edges)
    }

    /// Rows and columns, numbered row by row; every node is joined to those beside, above and below it.
    pub fn grid(width: usize, height: usize) -> Self {
        let mut edges = Vec::new();
        for node in 0..width * height {
            if node % width + 1 < width {
                edges.push((node, node + 1));
            }
            if node + width < width * height {
                edges.push((node, node + width));
            }
        }
        Self::new(width * height, &edges)
    }

    /// The same without an edge, by its number.
    #[must_use]
    pub fn without_edge(mut self, edge: usize) -> Self {
        self.cut.insert(edge);
        self
    }

    /// The same after the death of a node.
    #[must_use]
    pub fn without_node(mut self, node: usize) -> Self {
        self.dead.insert(node);
        self
    }

    /// How many nodes there are, the dead included.
    pub const fn nodes(&self) -> usize {
        self.nodes
    }

    /// All edges, also those that are cut.
    pub fn edges(&self) -> &[(usize, usize)] {
        &self.edges
    }

    /// The number of the edge between two nodes.
    pub fn edge(&self, a: usize, b: usize) -> Option<usize> {
        self.edges
            .iter()
            .position(|edge| *edge == (a, b) || *edge == (b, a))
    }

    /// Whether a node is alive.
    pub fn is_alive(&self, node: usize) -> bool {
        !self.dead.contains(&node)
    }

    /// Whether packets pass from one node to the other without others between.
    pub fn joins(&self, a: usize, b: usize) -> bool {
        self.is_alive(a)
            && self.is_alive(b)
            && self
                .edge(a, b)
                .is_some_and(|edge| !self.cut.contains(&edge))
    }

    /// The nodes that are joined to this one, whatever is cut or dead.
    pub fn neighbours(&self, node: usize) -> impl Iterator<Item = usize> {
        self.edges.iter().filter_map(move |(a, b)| match node {
            _ if node == *a => Some(*b),
            _ if node == *b => Some(*a),
            _ => None,
        })
    }

    /// How many edges it takes to get to `destination`, from every node; none: there is no way.
    pub fn distances(&self, destination: usize) -> Vec<Option<u32>> {
        let mut distances = vec![None; self.nodes];
        if !self.is_alive(destination) {
            return distances;
        }
        distances[destination] = Some(0);
        let mut reached = VecDeque::from([(destination, 0)]);
        while let Some((node, distance)) = reached.pop_front() {
            for next in self.neighbours(node) {
                if distances[next].is_none() && self.joins(node, next) {
                    distances[next] = Some(distance + 1);
                    reached.push_back((next, distance + 1));
                }
            }
        }
        distances
    }
}

/// Hosts joined as a [`Graph`] says: one a node, one cable an edge, in its order.
#[derive(Debug)]
pub struct Topology {
    /// Who is joined to whom.
    pub graph: Graph,
    /// The node of each number, named `n` and the number.
    pub hosts: Vec<Host>,
    /// The edge of each number; its end `a` is the first of the pair.
    pub links: Vec<Link>,
}

impl Topology {
    /// Makes the hosts and lays the cables, in a small part of the time that [`Lab::host`] and [`Lab::link`] take.
    #[track_caller]
    pub fn lay(lab: &Lab, graph: Graph) -> Self {
        let hosts: Vec<Host> = (0..graph.nodes())
            .map(|node| Host::without_namespace(lab.site(), &format!("n{node}")))
            .collect();
        let mut outside = String::new();
        for host in &hosts {
            // Of the lab already now: if anything fails, it goes with the lab.
            lab.adopt(host);
            writeln!(outside, "netns add {}", host.namespace()).expect(WRITES);
        }
        run_outside_with("ip -batch -", &outside);
        outside.clear();
        let links: Vec<Link> = graph
            .edges()
            .iter()
            .map(|(a, b)| {
                let network = lab.site().next_network();
                let [a, b] = [(*a, 1), (*b, 2)].map(|(node, number)| {
                    Port::planned(&hosts[node], hosts[node].next_interface(), network, number)
                });
                let (at_a, at_b) = (a.host.namespace(), b.host.namespace());
                writeln!(
                    outside,
                    "link add {} netns {at_a} type veth peer name {} netns {at_b}",
                    a.interface, b.interface
                )
                .expect(WRITES);
                Link { a, b }
            })
            .collect();
        // Settled first, since what is set for new interfaces holds for them.
        hosts.iter().for_each(Host::settle);
        run_outside_with("ip -batch -", &outside);
        let setups: Vec<String> = hosts.iter().map(|host| setup(host, &links)).collect();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = hosts.len().div_ceil(threads).max(1);
        thread::scope(|scope| {
            for (hosts, setups) in hosts.chunks(share).zip(setups.chunks(share)) {
                scope.spawn(move || {
                    for (host, setup) in hosts.iter().zip(setups) {
                        run_outside_with(&format!("ip -n {} -batch -", host.namespace()), setup);
                    }
                });
            }
        });
        Self {
            graph,
            hosts,
            links,
        }
    }

    /// The port of one node towards a neighbour.
    ///
    /// # Panics
    /// When no edge joins them.
    #[track_caller]
    pub fn port(&self, node: usize, neighbour: usize) -> &Port {
        let edge = self.graph.edge(node, neighbour);
        let edge = edge.unwrap_or_else(|| panic!("no edge from {node} to {neighbour}"));
        if self.graph.edges()[edge].0 == node {
            &self.links[edge].a
        } else {
            &self.links[edge].b
        }
    }
}

const WRITES: &str = "a string takes all that is written";

/// What brings up `lo` and the ports of a host, for `ip -batch`.
fn setup(host: &Host, links: &[Link]) -> String {
    let mut text = "link set lo up\n".to_owned();
    for port in links.iter().flat_map(|link| [&link.a, &link.b]) {
        if port.host.name() == host.name() {
            let Port {
                interface, v4, v6, ..
            } = port;
            writeln!(
                text,
                "addr add {v4}/24 dev {interface}\naddr add {v6}/64 dev {interface} nodad\nlink set {interface} up"
            )
            .expect(WRITES);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_rings_and_grids_have_their_edges() {
        assert_eq!(Graph::line(3).edges(), [(0, 1), (1, 2)]);
        assert_eq!(Graph::ring(3).edges(), [(0, 1), (1, 2), (2, 0)]);
        assert_eq!(Graph::grid(2, 2).edges(), [(0, 1), (0, 2), (1, 3), (2, 3)]);
        assert_eq!(Graph::grid(7, 7).edges().len(), 84);
    }

    #[test]
    fn distances_go_round_what_is_cut_or_dead() {
        let ring = Graph::ring(5);
        let some = |numbers: [u32; 5]| numbers.map(Some).to_vec();
        assert_eq!(ring.distances(0), some([0, 1, 2, 2, 1]));
        let line = ring.clone().without_edge(0);
        assert_eq!(line.distances(0), some([0, 4, 3, 2, 1]));
        let dead = ring.without_node(1);
        assert_eq!(
            dead.distances(0),
            [Some(0), None, Some(3), Some(2), Some(1)]
        );
        assert_eq!(dead.distances(1), [None; 5]);
        let apart = Graph::line(3).without_edge(1);
        assert_eq!(apart.distances(0), [Some(0), Some(1), None]);
    }
}
