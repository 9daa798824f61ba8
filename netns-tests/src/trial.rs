//! A network of routers under observation: from cold, at rest, after a failure, after its end.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::fib::{Change, Fib, Verdict, is_shortest, judge};
use crate::moment::Moment;
use crate::topology::{Graph, Topology};
use crate::usage::{Traffic, Usage, sent_by_ports};
use crate::wait::{pace, poll_until, secs};

/// Where nothing has changed for so long, and all is well, nothing more is waited for.
const CALM: Duration = secs(2);

/// Follows what all nodes of a topology do with packets.
pub struct Trial<'a> {
    topology: &'a Topology,
    /// Gives what has changed since it was asked last.
    source: Box<dyn Fn() -> Vec<Change> + 'a>,
    /// What was the case at the end of the last observation, and what has changed since.
    fib: Fib,
    later: Vec<Change>,
}

/// What it costs when nothing happens.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    /// For how long that was looked at.
    pub length: Duration,
    /// What the ports of all nodes sent, with headers of Ethernet.
    pub wire: Traffic,
    /// What routing sent, inside tunnels if there are any.
    pub inside: Traffic,
    /// Processor time of all nodes.
    pub processor: Duration,
    /// Of all nodes, at the end.
    pub memory: Usage,
}

impl<'a> Trial<'a> {
    /// Of nodes that know of nobody yet.
    pub fn new(topology: &'a Topology, source: impl Fn() -> Vec<Change> + 'a) -> Self {
        Self {
            topology,
            source: Box::new(source),
            fib: Fib::new(topology.hosts.len()),
            later: Vec::new(),
        }
    }

    /// Observes what the nodes make of the network being `graph` from `from` on: for so long at least, then until everybody takes
    /// shortest ways and nothing has changed for two seconds, and for so long at most.
    pub fn observe(
        &mut self,
        graph: &Graph,
        from: Moment,
        length: RangeInclusive<Duration>,
    ) -> Verdict {
        let mut current = self.fib.clone();
        let mut changes = std::mem::take(&mut self.later);
        let mut followed = 0;
        let left = length.end().saturating_sub(Moment::now().since(from));
        // Whether it got there, the verdict says.
        let _ended = poll_until(left, || {
            changes.extend((self.source)());
            changes[followed..].sort_by_key(|change| change.at);
            changes[followed..]
                .iter()
                .for_each(|change| current.apply(change));
            followed = changes.len();
            let last = changes.iter().map(|change| change.at).max();
            let is_calm = Moment::now().since(last.unwrap_or(from).max(from)) >= CALM;
            is_calm && Moment::now().since(from) >= *length.start() && is_shortest(graph, &current)
        });
        let until = Moment::now();
        changes.extend((self.source)());
        changes.sort_by_key(|change| change.at);
        let (now, later) = changes.split_at(changes.partition_point(|change| change.at <= until));
        let verdict = judge(graph, &mut self.fib, now, from, until);
        self.later = later.to_vec();
        verdict
    }

    /// Where everybody sends what is for everybody, at the end of the last observation.
    pub fn fib(&self) -> &Fib {
        &self.fib
    }

    /// Looks for so long at what it costs: the processes of all nodes, and the packets of routing by the account of `inside`.
    pub fn rest(&self, length: Duration, processes: &[u32], inside: impl Fn() -> Traffic) -> Rest {
        let all = || (sent_by_ports(self.topology), inside(), Usage::of(processes));
        let (from, (wire, routing, usage)) = (Moment::now(), all());
        pace(Instant::now() + length);
        let (length, (wire_now, routing_now, memory)) = (Moment::now().since(from), all());
        Rest {
            length,
            wire: wire_now.since(wire),
            inside: routing_now.since(routing),
            processor: memory.processor.saturating_sub(usage.processor),
            memory,
        }
    }
}

impl fmt::Debug for Trial<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trial({} nodes)", self.topology.hosts.len())
    }
}
