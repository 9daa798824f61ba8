//! Routing daemons side by side, on the same networks, judged by the same account of what every node does with packets.
//!
//! ```text
//! routing-bench [-p SECONDS]... [line5] [ring10] [grid49] [hops] [meshd] [babeld] [bird]
//! ```
//! Each network comes up from cold, rests, loses a link without being told, and gets it back. meshd does so twice: with traffic
//! over that link, and without. `-p` is the pace of the others: the interval of their Hellos; their updates come four times as
//! seldom, and at most every 16 seconds. `hops` measures traffic over one, two and three links of meshd.
//!
//! meshd speaks inside WireGuard, the others in clear. All nodes share this machine's processors: compare within one run only. Run it
//! by `sudo ./netns-tests/routing-bench`, which builds with `--release`.
#![expect(clippy::print_stdout, reason = "it prints its results")]

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};
use ipnetwork::Ipv6Network;
use netns_tests::events::MeshFib;
use netns_tests::fib::{Fib, Verdict};
use netns_tests::monitor::KernelFib;
use netns_tests::traffic::{Congestion, udp_echo};
use netns_tests::trial::{Rest, Trial};
use netns_tests::usage::{Traffic, sent_by_ports};
use netns_tests::{
    Flow, Graph, Lab, Mesh, Moment, Process, Software, StockRouter, StockSettings, Stretch,
    Topology, millis, secs,
};

/// How long a network may take from cold until all take shortest ways.
const COLD: RangeInclusive<Duration> = Duration::ZERO..=secs(130);
/// How long the failure lasts: until there are other ways, and longer than it takes to notice where there are none.
const FAILURE: RangeInclusive<Duration> = secs(30)..=secs(70);
/// How long it may take to go back to shortest ways.
const HEAL: RangeInclusive<Duration> = Duration::ZERO..=secs(110);
/// For how long it is looked at while it rests: two updates of the slowest of the others.
const REST: Duration = secs(32);
/// The shortest interval of updates: the default of both daemons.
const UPDATE: Duration = secs(16);
/// Flows over the link that fails: so many, with a datagram each so often.
const FLOWS: usize = 8;
const FLOW_EVERY: Duration = millis(50);

fn main() -> Result<()> {
    let (mut paces, mut networks, mut systems, mut hops) =
        (Vec::new(), Vec::new(), Vec::new(), false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "-p" {
            let seconds = words.next().context("-p needs a number of seconds")?;
            paces.push(Duration::try_from_secs_f64(seconds.parse().context("-p")?)?);
        } else if let Some(network) = NETWORKS.iter().find(|network| network.name == word) {
            networks.push(network);
        } else if let Some(daemon) = Software::ALL.into_iter().find(|it| it.name() == word) {
            systems.push(Some(daemon));
        } else if word == "meshd" {
            systems.push(None);
        } else if word == "hops" {
            hops = true;
        } else {
            bail!(
                "usage: routing-bench [-p SECONDS]... [line5] [ring10] [grid49] [hops] [meshd] [babeld] [bird]"
            );
        }
    }
    if paces.is_empty() {
        paces = vec![secs(4), secs(1)];
    }
    if networks.is_empty() && !hops {
        networks = NETWORKS.iter().collect();
        hops = true;
    }
    if systems.is_empty() {
        systems = vec![None, Some(Software::Babeld), Some(Software::Bird)];
    }
    let mut systems: Vec<System> = systems
        .into_iter()
        .flat_map(|it| System::all(it, &paces))
        .collect();
    systems.dedup();
    if !networks.is_empty() {
        println!("{}", HEAD.join("\n"));
    }
    for network in networks {
        for system in &systems {
            println!("{}", measure(network, *system));
        }
    }
    if hops {
        measure_hops()?;
    }
    Ok(())
}

struct Network {
    name: &'static str,
    graph: fn() -> Graph,
    /// The number of the edge that fails.
    fails: usize,
}

const NETWORKS: [Network; 3] = [
    Network {
        name: "line5",
        graph: || Graph::line(5),
        fails: 2,
    },
    Network {
        name: "ring10",
        graph: || Graph::ring(10),
        fails: 0,
    },
    Network {
        name: "grid49",
        graph: || Graph::grid(7, 7),
        fails: 42,
    },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Meshd(Load),
    Stock(Software, Duration),
}

/// What is on the link that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Idle,
    Traffic,
}

impl System {
    /// Every way to measure a daemon, or meshd if none is named.
    fn all(software: Option<Software>, paces: &[Duration]) -> Vec<Self> {
        match software {
            None => vec![Self::Meshd(Load::Idle), Self::Meshd(Load::Traffic)],
            Some(software) => paces
                .iter()
                .map(|pace| Self::Stock(software, *pace))
                .collect(),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Meshd(Load::Idle) => "meshd".into(),
            Self::Meshd(Load::Traffic) => "meshd, traffic".into(),
            Self::Stock(software, pace) => {
                format!("{}, {} s", software.name(), pace.as_secs_f64())
            }
        }
    }
}

/// A row of the table.
fn measure(network: &Network, system: System) -> String {
    let lab = Lab::new("routing-bench");
    let graph = (network.graph)();
    let figures = match system {
        System::Meshd(load) => {
            let mesh = Mesh::start(&lab, graph.clone());
            let watched = MeshFib::watch(&mesh);
            let from = watched.wait_for_handshakes(secs(60));
            Run {
                topology: &mesh.topology,
                trial: Trial::new(&mesh.topology, || watched.take()),
                from,
                fails: network.fails,
                processes: mesh.ids(),
                inside: &|| mesh.sent_by_routing(),
            }
            .figures(|fib| match load {
                Load::Idle => Flows::default(),
                Load::Traffic => flows(&mesh, fib, network.fails),
            })
        }
        System::Stock(software, pace) => {
            let topology = Topology::lay(&lab, graph.clone());
            let prefixes: Vec<Ipv6Network> = (0..graph.nodes()).map(prefix).collect();
            let watched = KernelFib::watch(&topology, &prefixes);
            let from = Moment::now();
            let launch = |node: usize| launch(&topology, node, software, pace, prefixes[node]);
            let routers: Vec<StockRouter> = (0..graph.nodes()).map(launch).collect();
            routers.iter().for_each(StockRouter::wait_until_ready);
            Run {
                topology: &topology,
                trial: Trial::new(&topology, || watched.take()),
                from,
                fails: network.fails,
                processes: routers.iter().map(StockRouter::id).collect(),
                inside: &|| sent_by_ports(&topology),
            }
            .figures(|_| Flows::default())
        }
    };
    format!(
        "{:7} {:14}{}",
        network.name,
        system.name(),
        figures.row(&graph)
    )
}

/// What the node of that number announces.
fn prefix(node: usize) -> Ipv6Network {
    let node = u16::try_from(node + 1).expect("a small network");
    Ipv6Network::new([0x600, 0, 0, node, 0, 0, 0, 0].into(), 64).expect("64 is a length")
}

fn launch(
    topology: &Topology,
    node: usize,
    software: Software,
    pace: Duration,
    prefix: Ipv6Network,
) -> StockRouter {
    let ports: Vec<&str> = topology
        .graph
        .neighbours(node)
        .map(|neighbour| topology.port(node, neighbour).interface.as_str())
        .collect();
    let host = &topology.hosts[node];
    host.forward();
    let settings = StockSettings::on(&ports)
        .every(pace, UPDATE.max(pace * 4))
        .announce(prefix);
    StockRouter::launch(software, host, &settings)
}

/// Flows and the servers that answer them.
#[derive(Default)]
struct Flows {
    _flows: Vec<Flow>,
    _servers: Vec<Process>,
}

/// Some of those whose packets cross the edge, from as many sources as there are.
fn flows(mesh: &Mesh, fib: &Fib, edge: usize) -> Flows {
    let graph = &mesh.topology.graph;
    let (a, b) = graph.edges()[edge];
    let mut sources = BTreeSet::new();
    let mut pairs = fib.crossing(graph, a, b);
    pairs.retain(|(source, _)| sources.insert(*source));
    pairs.truncate(FLOWS);
    let destinations: BTreeSet<usize> = pairs.iter().map(|pair| pair.1).collect();
    let _servers = destinations
        .iter()
        .map(|node| udp_echo(&mesh.topology.hosts[*node], mesh.at(*node, 7000)))
        .collect();
    let start = |(source, destination): &(usize, usize)| {
        Flow::start(
            &mesh.topology.hosts[*source],
            mesh.at(*destination, 7000),
            FLOW_EVERY,
        )
    };
    let _flows: Vec<Flow> = pairs.iter().map(start).collect();
    for flow in &_flows {
        flow.wait_for_answers(secs(10));
    }
    Flows { _flows, _servers }
}

/// A network that has just been started.
struct Run<'a> {
    topology: &'a Topology,
    trial: Trial<'a>,
    /// When it counts as started.
    from: Moment,
    fails: usize,
    processes: Vec<u32>,
    inside: &'a dyn Fn() -> Traffic,
}

struct Figures {
    cold: Verdict,
    rest: Rest,
    failure: Verdict,
    heal: Verdict,
}

impl Run<'_> {
    fn figures(mut self, load: impl Fn(&Fib) -> Flows) -> Figures {
        let graph = self.topology.graph.clone();
        let cold = self.trial.observe(&graph, self.from, COLD);
        let rest = self.trial.rest(REST, &self.processes, self.inside);
        let load = load(self.trial.fib());
        let link = &self.topology.links[self.fails];
        let from = Moment::now();
        link.silence();
        let cut = graph.clone().without_edge(self.fails);
        let failure = self.trial.observe(&cut, from, FAILURE);
        let from = Moment::now();
        link.restore();
        let heal = self.trial.observe(&graph, from, HEAL);
        drop(load);
        Figures {
            cold,
            rest,
            failure,
            heal,
        }
    }
}

/// Times in seconds; bytes and packets a second on one link in one direction, as plain Ethernet, and encrypted; processor time in
/// microseconds a second, memory in KiB, both for one node.
const HEAD: [&str; 2] = [
    "                      | from cold                          | at rest                                          | a link fails silently                        | it is back",
    "network daemon        | reached settled shortest loop  gap |    B/s  pkt/s wire B/s  cpu us/s    RSS    PSS | outages  median     max shortest loop  gap | shortest loop  gap",
];

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn row(&self, graph: &Graph) -> String {
        let Self {
            cold,
            rest,
            failure,
            heal,
        } = self;
        let seconds = rest.length.as_secs_f64();
        let ends = 2.0 * graph.edges().len() as f64 * seconds;
        let nodes = graph.nodes() as f64;
        let per = |sum: u64, of: f64| sum as f64 / of;
        format!(
            " | {} {} {}  {:4} {:4} | {:6.1} {:6.2} {:8.1}  {:8.0} {:6.0} {:6.0} | {:7} {:7.2} {:7.2} {}  {:4} {:4} | {}  {:4} {:4}",
            time(cold.reached),
            time(cold.settled),
            time(cold.shortest),
            cold.loops.len(),
            cold.gaps.len(),
            per(rest.inside.bytes, ends),
            per(rest.inside.packets, ends),
            per(rest.wire.bytes, ends),
            rest.processor.as_secs_f64() * 1e6 / nodes / seconds,
            per(rest.memory.resident_kib, nodes),
            per(rest.memory.proportional_kib, nodes),
            failure.outages.len(),
            failure.median_outage().as_secs_f64(),
            failure.longest_outage().as_secs_f64(),
            time(failure.shortest),
            failure.loops.len(),
            failure.gaps.len(),
            time(heal.shortest),
            heal.loops.len(),
            heal.gaps.len(),
        )
    }
}

fn time(time: Option<Duration>) -> String {
    time.map_or_else(
        || "  never".into(),
        |time| format!("{:7.2}", time.as_secs_f64()),
    )
}

/// Rates and times over one, two and three links of meshd.
fn measure_hops() -> Result<()> {
    let lab = Lab::new("routing-bench");
    let mesh = Mesh::start_with(&lab, Graph::line(4), |_, settings| {
        settings.log_level("info")
    });
    mesh.wait_for_routes(secs(30));
    let first = &mesh.topology.hosts[0];
    println!("\nhops  TCP Mbit/s  CPU s/GB  idle p50 ms  idle p99 ms  load p50 ms  load p99 ms");
    for hops in 1..4 {
        let to = &mesh.nodes[hops];
        mesh.nodes[0].wait_for_answer(to.address(), secs(20));
        let way = Stretch::new(first, to.host(), to.address().into(), mesh.ids());
        let idle = way.idle(3).map_err(Error::msg)?;
        let tcp = way.tcp(1, 5, Congestion::Cubic).map_err(Error::msg)?;
        let loaded = way.loaded(3).map_err(Error::msg)?;
        println!(
            "{hops:4} {:11.0} {:9.2} {:12.2} {:12.2} {:12.2} {:12.2}",
            tcp.mbit,
            tcp.processor_per_gb,
            idle.quantile(0.5),
            idle.quantile(0.99),
            loaded.quantile(0.5),
            loaded.quantile(0.99),
        );
    }
    Ok(())
}
