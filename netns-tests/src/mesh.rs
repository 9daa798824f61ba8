//! A mesh: a topology whose hosts are nodes, each of which knows its neighbours by endpoint and lets all others open a session.

use std::net::SocketAddr;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::identity::Identity;
use crate::lab::Lab;
use crate::settings::{PORT, Settings};
use crate::topology::{Graph, Topology};
use crate::usage::Traffic;
use crate::wait::{millis, secs};

/// How long the nodes may take to start: all at once, on few processors.
const START: Duration = secs(10);
/// So much longer for each of them.
const START_EACH: Duration = millis(400);
/// From so many nodes on they do not log what is for debugging.
const MANY: usize = 10;

/// Nodes joined as a [`Graph`] says, each peer of its neighbours, which it calls `n` and their number.
#[derive(Debug)]
pub struct Mesh {
    /// Their hosts and cables.
    pub topology: Topology,
    /// The node of each number.
    pub nodes: Vec<Daemon>,
}

impl Mesh {
    /// Starts one.
    ///
    /// # Panics
    /// When a node is not ready in time.
    #[track_caller]
    pub fn start(lab: &Lab, graph: Graph) -> Self {
        Self::start_with(lab, graph, |_, settings| settings)
    }

    /// Starts one whose nodes' settings are changed.
    ///
    /// # Panics
    /// When a node is not ready in time.
    #[track_caller]
    pub fn start_with(
        lab: &Lab,
        graph: Graph,
        change: impl Fn(usize, Settings) -> Settings,
    ) -> Self {
        Self::on(lab, Topology::lay(lab, graph), change)
    }

    /// Starts one on hosts that are there, and perhaps joined differently than at first.
    ///
    /// # Panics
    /// When a node is not ready in time.
    #[track_caller]
    pub fn on(lab: &Lab, topology: Topology, change: impl Fn(usize, Settings) -> Settings) -> Self {
        let ids: Vec<Identity> = topology.hosts.iter().map(|_| lab.identity()).collect();
        let settings = |node| change(node, settings(&topology, &ids, node));
        let starting: Vec<_> = topology
            .hosts
            .iter()
            .enumerate()
            .map(|(node, host)| host.launch_meshd(settings(node)))
            .collect();
        let count = u32::try_from(starting.len()).expect("a mesh of a lab is small");
        let within = START + START_EACH * count;
        for node in &starting {
            node.wait_until_ready(within);
        }
        Self {
            topology,
            nodes: starting,
        }
    }

    /// Waits until every node has a route to every other.
    ///
    /// # Panics
    /// When one has not in that time.
    #[track_caller]
    pub fn wait_for_routes(&self, within: Duration) {
        for from in &self.nodes {
            for to in &self.nodes {
                if from.address() != to.address() {
                    from.wait_for_route(to.address(), within);
                }
            }
        }
    }

    /// Waits until every node has a working link to each of its neighbours.
    ///
    /// # Panics
    /// When one has not in that time.
    #[track_caller]
    pub fn wait_for_links(&self, within: Duration) {
        for (a, b) in self.topology.graph.edges() {
            for (from, to) in [(a, b), (b, a)] {
                self.nodes[*from].wait_for_links(self.nodes[*to].address(), 1, within);
            }
        }
    }

    /// Where a server of a node listens on that port of its overlay address.
    pub fn at(&self, node: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.nodes[node].address().into(), port)
    }

    /// What routing has sent on all links of all nodes, by their own account.
    ///
    /// # Panics
    /// When a node does not answer.
    #[track_caller]
    pub fn sent_by_routing(&self) -> Traffic {
        let sent = |node: &Daemon| node.sent_by_routing();
        let all: Result<Vec<Traffic>, String> = self.nodes.iter().map(sent).collect();
        all.unwrap_or_else(|err| panic!("{err}")).into_iter().sum()
    }

    /// The process ids of all nodes.
    #[track_caller]
    pub fn ids(&self) -> Vec<u32> {
        self.nodes.iter().map(Daemon::id).collect()
    }
}

/// What a node of a mesh is configured with before it is changed.
fn settings(topology: &Topology, ids: &[Identity], node: usize) -> Settings {
    let neighbours: Vec<usize> = topology.graph.neighbours(node).collect();
    let others = (0..ids.len()).filter(|other| *other != node && !neighbours.contains(other));
    let mut settings = Settings::new(&ids[node]).allow(others.map(|other| &ids[other]));
    if ids.len() >= MANY {
        settings = settings.log_level("info");
    }
    for neighbour in neighbours {
        let endpoint = SocketAddr::new(topology.port(neighbour, node).v6.into(), PORT);
        settings = settings.peer(&format!("n{neighbour}"), &ids[neighbour], Some(endpoint));
    }
    settings
}
