//! The promise: links come and go, traffic follows, and on the way there no packet goes in a circle.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, and their figures"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use netns_tests::events::MeshFib;
use netns_tests::fib::{Fib, Verdict};
use netns_tests::traffic::{Stream, tcp_serve, udp_echo};
use netns_tests::trial::Trial;
use netns_tests::{Flow, Graph, Lab, Mesh, Moment, Process, millis, secs, wait_until};

/// A processor that others use too makes everything late: by so much the times below may be missed here. Run alone, and built
/// with `--release`, `netns-tests/routing-bench` tells them exactly.
const SLACK: u32 = 3;
/// From the last handshake until everybody is reached, and until everybody takes a shortest way.
const REACHED: Duration = millis(1500);
const SHORTEST: Duration = secs(3);
/// Outages after a silent failure of a link that traffic flows over: the middle one, and the longest.
const MEDIAN_OUTAGE: Duration = secs(1);
const LONGEST_OUTAGE: Duration = secs(2);
/// Until everybody takes a shortest way again when the link is back.
const HEALED: Duration = secs(5);
/// Nobody is out of reach for longer than this, whatever fails, also without any traffic.
const NEVER_LONGER: Duration = secs(10);
/// Bytes a second that routing sends on one link in one direction while nothing happens, as plain Ethernet.
const REST: f64 = 150.0;

/// Whatever happens to links.
#[track_caller]
fn assert_sane(what: &str, seen: &Verdict) {
    assert_sound(what, seen);
    assert_eq!(seen.gaps, [], "{what}");
}

/// Whatever happens. Who has lost the only route that is free of loops, asks for another, and is without one until the answer comes:
/// that may take no longer than what the lab calls a gap.
#[track_caller]
fn assert_sound(what: &str, seen: &Verdict) {
    println!(
        "{what}: reached {:?}, settled {:?}, shortest {:?}, {} outages, median {:?}, longest {:?}, {} loops, longest {:?}, {} gaps, {} changes",
        seen.reached,
        seen.settled,
        seen.shortest,
        seen.outages.len(),
        seen.median_outage(),
        seen.longest_outage(),
        seen.loops.len(),
        seen.longest_loop(),
        seen.gaps.len(),
        seen.changes,
    );
    assert_eq!(seen.loops, [], "{what}");
    assert!(seen.settled.is_some(), "{what}: {:?}", seen.outages);
    assert!(seen.shortest.is_some(), "{what}: somebody goes a detour");
    assert!(
        seen.longest_outage() <= NEVER_LONGER,
        "{what}: {:?}",
        seen.outages
    );
}

/// Datagrams over an edge, from several sources.
struct Flows {
    flows: Vec<Flow>,
    _servers: Vec<Process>,
}

impl Flows {
    fn over(mesh: &Mesh, fib: &Fib, edge: usize, count: usize) -> Self {
        let graph = &mesh.topology.graph;
        let (a, b) = graph.edges()[edge];
        let mut sources = BTreeSet::new();
        let mut pairs = fib.crossing(graph, a, b);
        // Those next to each other send each other nothing by way of routing.
        pairs.retain(|(from, to)| !graph.joins(*from, *to) && sources.insert(*from));
        pairs.truncate(count);
        let targets: BTreeSet<usize> = pairs.iter().map(|pair| pair.1).collect();
        let serve = |node: &usize| udp_echo(&mesh.topology.hosts[*node], mesh.at(*node, 7000));
        let _servers = targets.iter().map(serve).collect();
        let start = |(from, to): &(usize, usize)| {
            Flow::start(&mesh.topology.hosts[*from], mesh.at(*to, 7000), millis(50))
        };
        let flows: Vec<Flow> = pairs.iter().map(start).collect();
        assert!(!flows.is_empty(), "nobody's packets cross {a} to {b}");
        for flow in &flows {
            flow.wait_for_answers(secs(15));
        }
        Self { flows, _servers }
    }

    /// The longest time that one of them had no answer.
    fn longest_gap(&self, since: Moment) -> Duration {
        let gaps = self.flows.iter().map(|flow| flow.longest_gap(since));
        gaps.max().unwrap_or_default()
    }
}

#[test]
fn a_ring_of_six_finds_the_other_way_round() {
    let lab = Lab::new("ring of six");
    let mesh = Mesh::start(&lab, Graph::ring(6));
    let ring = mesh.topology.graph.clone();
    let watched = MeshFib::watch(&mesh);
    let mut trial = Trial::new(&mesh.topology, || watched.take());
    let from = watched.wait_for_handshakes(secs(30));
    let cold = trial.observe(&ring, from, Duration::ZERO..=secs(30));
    assert_sane("cold", &cold);
    assert!(cold.reached <= Some(REACHED * SLACK), "{cold:?}");

    // Nobody sends anything: only the neighbours' Hellos can tell.
    let (edge, cut) = (0, ring.clone().without_edge(0));
    let link = &mesh.topology.links[edge];
    let from = Moment::now();
    link.silence();
    let idle = trial.observe(&cut, from, secs(1)..=secs(30));
    assert_sane("silent failure, no traffic", &idle);
    assert!(!idle.outages.is_empty());
    let from = Moment::now();
    link.restore();
    let heal = trial.observe(&ring, from, secs(1)..=secs(30));
    assert_sane("heal", &heal);
    assert!(heal.shortest <= Some(HEALED * SLACK), "{heal:?}");

    let flows = Flows::over(&mesh, trial.fib(), edge, 3);
    let _server = tcp_serve(&mesh.topology.hosts[3], mesh.at(3, 7001));
    let stream = Stream::start(
        &mesh.topology.hosts[0],
        mesh.at(3, 7001),
        10_000_000,
        1_000_000,
    );
    wait_until(secs(10), "the stream flows", || stream.progress() > 0);
    let from = Moment::now();
    link.silence();
    let busy = trial.observe(&cut, from, secs(1)..=secs(30));
    let gap = flows.longest_gap(from);
    assert_sane("silent failure, traffic", &busy);
    assert!(gap <= MEDIAN_OUTAGE, "no answer for {gap:?}");
    let from = Moment::now();
    link.restore();
    assert_sane("heal", &trial.observe(&ring, from, secs(1)..=secs(30)));

    // The card says that its cable is gone.
    let from = Moment::now();
    link.cut();
    let carrier = trial.observe(&cut, from, secs(1)..=secs(30));
    let gap = flows.longest_gap(from);
    assert_sane("carrier loss", &carrier);
    assert!(gap <= MEDIAN_OUTAGE, "no answer for {gap:?}");
    link.mend();
    stream.finish(secs(60)).unwrap();
}

#[test]
fn a_grid_of_49_is_quick_quiet_and_free_of_loops() {
    let lab = Lab::new("ring grid");
    let mesh = Mesh::start(&lab, Graph::grid(7, 7));
    let grid = mesh.topology.graph.clone();
    let watched = MeshFib::watch(&mesh);
    let mut trial = Trial::new(&mesh.topology, || watched.take());
    let from = watched.wait_for_handshakes(secs(60));
    let cold = trial.observe(&grid, from, Duration::ZERO..=secs(60));
    assert_sane("cold", &cold);
    assert!(cold.reached <= Some(REACHED * SLACK), "{:?}", cold.reached);
    assert!(
        cold.shortest <= Some(SHORTEST * SLACK),
        "{:?}",
        cold.shortest
    );

    let rest = trial.rest(secs(8), &mesh.ids(), || mesh.sent_by_routing());
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate =
        |bytes: u64| bytes as f64 / rest.length.as_secs_f64() / (2.0 * grid.edges().len() as f64);
    println!(
        "at rest: {:.1} B/s per link and direction inside, {:.1} B/s on the wire, {rest:?}",
        rate(rest.inside.bytes),
        rate(rest.wire.bytes),
    );
    assert!(rate(rest.inside.bytes) <= REST, "{rest:?}");

    // The middle of the grid.
    let edge = grid.edge(24, 25).unwrap();
    let link = &mesh.topology.links[edge];
    let flows = Flows::over(&mesh, trial.fib(), edge, 4);
    let from = Moment::now();
    link.silence();
    let failure = trial.observe(&grid.clone().without_edge(edge), from, secs(1)..=secs(30));
    println!("the longest gap of a flow: {:?}", flows.longest_gap(from));
    assert_sane("silent failure", &failure);
    assert!(failure.median_outage() <= MEDIAN_OUTAGE * SLACK);
    assert!(failure.longest_outage() <= LONGEST_OUTAGE * SLACK);
    let from = Moment::now();
    link.restore();
    let heal = trial.observe(&grid, from, secs(1)..=secs(30));
    assert_sane("heal", &heal);
    assert!(heal.shortest <= Some(HEALED * SLACK), "{:?}", heal.shortest);
    drop(flows);

    // The middle one dies.
    let from = Moment::now();
    mesh.nodes[24].kill();
    let death = trial.observe(&grid.clone().without_node(24), from, secs(1)..=secs(30));
    assert_sound("a node dies", &death);
}
