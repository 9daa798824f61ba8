//! What all nodes together do with packets, followed change by change, and judged: who was reached when, by the shortest way or
//! not, for how long somebody was not, whether packets went in circles. It takes the same account of every routing daemon.
//!
//! Every node is a destination, and its prefix the only one that counts. Pure: the changes come from [`crate::monitor`] (the
//! kernel's routes) or [`crate::events`] (meshd's own).

use std::time::Duration;

use crate::moment::Moment;
use crate::topology::Graph;
use crate::wait::millis;

/// A destination that was out of reach for less than this was not out of reach: so long may the replacement of a route take that is
/// deleted and added again. It is counted among [`Verdict::gaps`] instead.
pub const GLITCH: Duration = millis(100);

/// From then on, one node sends what is for one destination to another neighbour, or nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: Moment,
    /// Which node.
    pub node: usize,
    /// Packets for whom.
    pub destination: usize,
    /// Where it sends them now; none: it has no route, or one that says unreachable.
    pub next: Option<usize>,
}

/// Where every node sends what is for every destination.
#[derive(Clone, Debug)]
pub struct Fib {
    next: Vec<Vec<Option<usize>>>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives, after so many hops.
    Arrives(u32),
    /// Somebody has no route for it, or sends it over an edge that is no more.
    Lost,
    /// It goes in a circle.
    Circles,
}

impl Fib {
    /// Of so many nodes that know of nobody.
    pub fn new(nodes: usize) -> Self {
        Self {
            next: vec![vec![None; nodes]; nodes],
        }
    }

    /// Follows a change.
    pub fn apply(&mut self, change: &Change) {
        self.next[change.destination][change.node] = change.next;
    }

    /// Where a node sends what is for a destination.
    pub fn next(&self, node: usize, destination: usize) -> Option<usize> {
        self.next[destination][node]
    }

    /// What becomes of a packet for a destination, from every node.
    pub fn fates(&self, graph: &Graph, destination: usize) -> Vec<Fate> {
        let mut fates: Vec<Option<Fate>> = vec![None; graph.nodes()];
        if graph.is_alive(destination) {
            fates[destination] = Some(Fate::Arrives(0));
        }
        for source in 0..graph.nodes() {
            let (mut way, mut node) = (Vec::new(), source);
            let mut fate = loop {
                if let Some(fate) = fates[node] {
                    break fate;
                }
                if way.contains(&node) {
                    break Fate::Circles;
                }
                way.push(node);
                match self.next(node, destination) {
                    Some(next) if graph.joins(node, next) => node = next,
                    _ => break Fate::Lost,
                }
            };
            for node in way.into_iter().rev() {
                if let Fate::Arrives(hops) = &mut fate {
                    *hops += 1;
                }
                fates[node] = Some(fate);
            }
        }
        fates
            .into_iter()
            .map(|fate| fate.unwrap_or(Fate::Lost))
            .collect()
    }

    /// The pairs of source and destination whose packets cross the edge between two nodes now, in either direction.
    pub fn crossing(&self, graph: &Graph, a: usize, b: usize) -> Vec<(usize, usize)> {
        let mut pairs = Vec::new();
        for destination in 0..graph.nodes() {
            let fates = self.fates(graph, destination);
            for source in 0..graph.nodes() {
                let mut node = source;
                while matches!(fates[node], Fate::Arrives(hops) if hops > 0) {
                    let Some(next) = self.next(node, destination) else {
                        break;
                    };
                    if (node, next) == (a, b) || (node, next) == (b, a) {
                        pairs.push((source, destination));
                        break;
                    }
                    node = next;
                }
            }
        }
        pairs
    }
}

/// A source that did not reach a destination although there was a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// From where.
    pub source: usize,
    /// To where.
    pub destination: usize,
    /// Since when.
    pub from: Moment,
    /// Until when; none: to the end.
    pub until: Option<Moment>,
}

/// Packets for a destination that went in a circle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop {
    /// For whom they were.
    pub destination: usize,
    /// Since when.
    pub from: Moment,
    /// For how long.
    pub lasted: Duration,
}

/// A node that could reach a destination, then had no route to it, and shortly after had one again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Which node.
    pub node: usize,
    /// Which destination.
    pub destination: usize,
    /// For how long, less than [`GLITCH`].
    pub lasted: Duration,
}

/// What was seen between two moments.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Until every pair that can be reached had been reached once; none: not all were.
    pub reached: Option<Duration>,
    /// Until the last outage ended; none: somebody is out of reach still.
    pub settled: Option<Duration>,
    /// Until everybody took a shortest way, for good; none: not even at the end.
    pub shortest: Option<Duration>,
    /// Those of [`GLITCH`] or longer, and those that last to the end.
    pub outages: Vec<Outage>,
    /// All, however short.
    pub loops: Vec<Loop>,
    /// All.
    pub gaps: Vec<Gap>,
    /// How many changes there were.
    pub changes: usize,
    until: Moment,
}

impl Verdict {
    /// How long the outages lasted, the shortest first.
    pub fn outage_lengths(&self) -> Vec<Duration> {
        let length = |outage: &Outage| outage.until.unwrap_or(self.until).since(outage.from);
        let mut lengths: Vec<Duration> = self.outages.iter().map(length).collect();
        lengths.sort();
        lengths
    }

    /// Of the lengths of outages, the middle one; nothing without outages.
    pub fn median_outage(&self) -> Duration {
        let lengths = self.outage_lengths();
        lengths.get(lengths.len() / 2).copied().unwrap_or_default()
    }

    /// The longest outage; nothing without any.
    pub fn longest_outage(&self) -> Duration {
        self.outage_lengths().last().copied().unwrap_or_default()
    }

    /// The longest circle; nothing without any.
    pub fn longest_loop(&self) -> Duration {
        self.loops
            .iter()
            .map(|circle| circle.lasted)
            .max()
            .unwrap_or_default()
    }
}

/// Whether all that can be reached is reached, and that by shortest ways.
pub fn is_shortest(graph: &Graph, fib: &Fib) -> bool {
    (0..graph.nodes()).all(|destination| {
        let distances = graph.distances(destination);
        let fates = fib.fates(graph, destination);
        (0..graph.nodes())
            .all(|source| goes_shortest(graph, source, fates[source], distances[source]))
    })
}

/// Follows the changes up to `until`, of a network that is `graph` from `from` on, and says what was seen. `fib` is what was the case
/// before the first of them; afterwards it is what was the case at the end. Changes before `from` are followed and not judged.
pub fn judge(
    graph: &Graph,
    fib: &mut Fib,
    changes: &[Change],
    from: Moment,
    until: Moment,
) -> Verdict {
    let mut changes = changes
        .iter()
        .filter(|change| change.at <= until)
        .peekable();
    while let Some(change) = changes.next_if(|change| change.at < from) {
        fib.apply(change);
    }
    let mut court = Court::new(graph, from);
    for destination in 0..graph.nodes() {
        court.look(fib, destination, from);
    }
    for change in changes {
        court.notice_gap(fib, change);
        fib.apply(change);
        court.changes += 1;
        court.look(fib, change.destination, change.at);
    }
    court.conclude(until)
}

struct Court<'a> {
    graph: &'a Graph,
    from: Moment,
    /// By destination.
    seen: Vec<Seen>,
    outages: Vec<Outage>,
    loops: Vec<Loop>,
    gaps: Vec<Gap>,
    /// When the last destination ceased to be reached by detours.
    detour: Moment,
    changes: usize,
}

/// What is the case for one destination.
struct Seen {
    /// By source.
    distances: Vec<Option<u32>>,
    fates: Vec<Fate>,
    unreached: Vec<Option<Moment>>,
    /// When it was reached first.
    reached: Vec<Option<Moment>>,
    circle: Option<Moment>,
    detour: Option<Moment>,
    /// By node: when it lost its route while it could reach the destination.
    vanished: Vec<Option<Moment>>,
}

impl<'a> Court<'a> {
    fn new(graph: &'a Graph, from: Moment) -> Self {
        let nodes = graph.nodes();
        let seen = |destination| Seen {
            distances: graph.distances(destination),
            fates: vec![Fate::Lost; nodes],
            unreached: vec![None; nodes],
            reached: vec![None; nodes],
            circle: None,
            detour: None,
            vanished: vec![None; nodes],
        };
        Self {
            graph,
            from,
            seen: (0..nodes).map(seen).collect(),
            outages: Vec::new(),
            loops: Vec::new(),
            gaps: Vec::new(),
            detour: from,
            changes: 0,
        }
    }

    /// Before the change is applied.
    fn notice_gap(&mut self, fib: &Fib, change: &Change) {
        let Change {
            at,
            node,
            destination,
            next,
        } = *change;
        let seen = &mut self.seen[destination];
        let had = fib.next(node, destination);
        match (had, next) {
            (Some(_), None) if matches!(seen.fates[node], Fate::Arrives(_)) => {
                seen.vanished[node] = Some(at);
            }
            (None, Some(_)) => {
                let lasted = seen.vanished[node].take().map(|since| at.since(since));
                if let Some(lasted) = lasted.filter(|lasted| *lasted < GLITCH) {
                    self.gaps.push(Gap {
                        node,
                        destination,
                        lasted,
                    });
                }
            }
            _ => {}
        }
    }

    fn look(&mut self, fib: &Fib, destination: usize, now: Moment) {
        let fates = fib.fates(self.graph, destination);
        let seen = &mut self.seen[destination];
        let (mut circles, mut shortest) = (false, true);
        for (source, fate) in fates.iter().enumerate() {
            circles |= *fate == Fate::Circles;
            shortest &= goes_shortest(self.graph, source, *fate, seen.distances[source]);
            if !self.graph.is_alive(source) || seen.distances[source].is_none() {
                continue;
            }
            if matches!(fate, Fate::Arrives(_)) {
                seen.reached[source].get_or_insert(now);
                if let Some(from) = seen.unreached[source].take()
                    && now.since(from) >= GLITCH
                {
                    self.outages.push(Outage {
                        source,
                        destination,
                        from,
                        until: Some(now),
                    });
                }
            } else {
                seen.unreached[source].get_or_insert(now);
            }
        }
        seen.fates = fates;
        match (circles, seen.circle) {
            (true, None) => seen.circle = Some(now),
            (false, Some(from)) => {
                seen.circle = None;
                self.loops.push(Loop {
                    destination,
                    from,
                    lasted: now.since(from),
                });
            }
            _ => {}
        }
        match (shortest, seen.detour) {
            (false, None) => seen.detour = Some(now),
            (true, Some(from)) => {
                seen.detour = None;
                if now.since(from) >= GLITCH {
                    self.detour = self.detour.max(now);
                }
            }
            _ => {}
        }
    }

    fn conclude(mut self, until: Moment) -> Verdict {
        let (mut reached, mut is_settled) = (Some(self.from), true);
        for (destination, seen) in self.seen.iter().enumerate() {
            for source in 0..self.graph.nodes() {
                if !self.graph.is_alive(source) || seen.distances[source].is_none() {
                    continue;
                }
                reached = reached.and_then(|latest| Some(latest.max(seen.reached[source]?)));
                if let Some(from) = seen.unreached[source] {
                    is_settled = false;
                    self.outages.push(Outage {
                        source,
                        destination,
                        from,
                        until: None,
                    });
                }
            }
            if let Some(from) = seen.circle {
                self.loops.push(Loop {
                    destination,
                    from,
                    lasted: until.since(from),
                });
            }
        }
        let is_shortest = self.seen.iter().all(|seen| seen.detour.is_none());
        let ends = self.outages.iter().filter_map(|outage| outage.until);
        let settled = ends.max().unwrap_or(self.from);
        Verdict {
            reached: reached.map(|at| at.since(self.from)),
            settled: is_settled.then(|| settled.since(self.from)),
            shortest: is_shortest.then(|| self.detour.since(self.from)),
            outages: self.outages,
            loops: self.loops,
            gaps: self.gaps,
            changes: self.changes,
            until,
        }
    }
}

/// The dead, and those for whom there is no way, are content with anything but a circle.
fn goes_shortest(graph: &Graph, source: usize, fate: Fate, distance: Option<u32>) -> bool {
    match distance {
        Some(distance) => fate == Fate::Arrives(distance),
        None => !graph.is_alive(source) || fate != Fate::Circles,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At `ms`, `node` sends what is for `destination` to `next`.
    fn change(ms: u64, node: usize, destination: usize, next: Option<usize>) -> Change {
        Change {
            at: Moment(ms * 1000),
            node,
            destination,
            next,
        }
    }

    /// A line of three where everybody knows the way to everybody.
    fn line() -> (Graph, Fib) {
        let mut fib = Fib::new(3);
        for (node, destination, next) in [
            (0, 1, 1),
            (0, 2, 1),
            (1, 0, 0),
            (1, 2, 2),
            (2, 0, 1),
            (2, 1, 1),
        ] {
            fib.apply(&change(0, node, destination, Some(next)));
        }
        (Graph::line(3), fib)
    }

    fn verdict(graph: &Graph, fib: &mut Fib, changes: &[Change]) -> Verdict {
        judge(graph, fib, changes, Moment(0), Moment(10_000_000))
    }

    #[test]
    fn who_knows_nobody_reaches_nobody_until_routes_come() {
        let (graph, known) = line();
        let mut changes = Vec::new();
        for (ms, (node, destination)) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
            .into_iter()
            .enumerate()
        {
            let next = known.next(node, destination);
            changes.push(change(1000 + 100 * ms as u64, node, destination, next));
        }
        let mut fib = Fib::new(3);
        let seen = verdict(&graph, &mut fib, &changes);
        let ended = Some(millis(1500));
        assert_eq!(
            (seen.reached, seen.settled, seen.shortest),
            (ended, ended, ended)
        );
        assert!(is_shortest(&graph, &fib));
        assert_eq!(seen.outages.len(), 6);
        assert_eq!(seen.longest_outage(), millis(1500));
        assert_eq!((seen.loops.len(), seen.gaps.len(), seen.changes), (0, 0, 6));

        let seen = verdict(&graph, &mut Fib::new(3), &changes[..5]);
        assert_eq!(
            (seen.reached, seen.settled, seen.shortest),
            (None, None, None)
        );
        assert_eq!(seen.longest_outage(), Duration::from_secs(10));
    }

    #[test]
    fn a_cut_edge_makes_outages_only_where_there_is_another_way() {
        let (line, mut fib) = line();
        let seen = verdict(&line.without_edge(1), &mut fib.clone(), &[]);
        assert_eq!(seen.outages, []);
        assert_eq!(seen.settled, Some(Duration::ZERO));

        let ring = Graph::ring(3);
        fib.apply(&change(0, 0, 2, Some(2)));
        fib.apply(&change(0, 2, 0, Some(0)));
        assert!(is_shortest(&ring, &fib));
        assert_eq!(fib.crossing(&ring, 2, 1), [(2, 1), (1, 2)]);
        let cut = ring.without_edge(1);
        let seen = verdict(
            &cut,
            &mut fib,
            &[change(700, 1, 2, Some(0)), change(900, 2, 1, Some(0))],
        );
        assert_eq!(seen.outage_lengths(), [millis(700), millis(900)]);
        assert_eq!(
            (seen.median_outage(), seen.longest_outage()),
            (millis(900), millis(900))
        );
        assert_eq!(seen.shortest, Some(millis(900)));
    }

    #[test]
    fn packets_in_a_circle_are_seen_however_short_it_lasts() {
        let (_, mut fib) = line();
        // 0 sends to 2 by way of 1, and now 1 by way of 0, for a millisecond.
        let seen = verdict(
            &Graph::ring(3),
            &mut fib,
            &[change(5, 1, 2, Some(0)), change(6, 1, 2, Some(2))],
        );
        let circle = Loop {
            destination: 2,
            from: Moment(5000),
            lasted: millis(1),
        };
        assert_eq!(seen.loops, [circle]);
        assert_eq!(seen.longest_loop(), millis(1));
    }

    #[test]
    fn a_route_deleted_and_added_again_is_a_gap_and_no_outage() {
        let (graph, mut fib) = line();
        let seen = verdict(
            &graph,
            &mut fib.clone(),
            &[change(5, 1, 2, None), change(7, 1, 2, Some(2))],
        );
        let gap = Gap {
            node: 1,
            destination: 2,
            lasted: millis(2),
        };
        assert_eq!((seen.gaps, seen.outages), (vec![gap], vec![]));
        assert_eq!(seen.shortest, Some(Duration::ZERO));

        // It lost its way first: then it may say so.
        let graph = graph.without_edge(1);
        let seen = verdict(
            &graph,
            &mut fib,
            &[change(5, 1, 2, None), change(7, 1, 2, Some(2))],
        );
        assert_eq!(seen.gaps, []);
    }

    #[test]
    fn detours_are_not_outages() {
        let mut fib = Fib::new(3);
        for (node, destination, next) in [
            (0, 1, 2),
            (2, 1, 1),
            (1, 0, 0),
            (1, 2, 2),
            (0, 2, 2),
            (2, 0, 0),
        ] {
            fib.apply(&change(0, node, destination, Some(next)));
        }
        let seen = verdict(&Graph::ring(3), &mut fib, &[change(800, 0, 1, Some(1))]);
        assert_eq!(seen.outages, []);
        assert_eq!(seen.settled, Some(Duration::ZERO));
        assert_eq!(seen.shortest, Some(millis(800)));
    }

    #[test]
    fn the_dead_are_no_sources_and_no_destinations() {
        let (graph, mut fib) = line();
        let seen = verdict(&graph.without_node(2), &mut fib, &[]);
        assert_eq!(seen.outages, []);
        assert_eq!(seen.shortest, Some(Duration::ZERO));
    }
}
