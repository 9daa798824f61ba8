//! A mesh of whole daemons in virtual time, in one thread, repeatable to the byte (feature `_sim`).
//!
//! Every machine runs the real threads by hand: the packet threads, the handshake thread and the node loop with their queues between
//! them. Only what is below is simulated: clocks, TUN devices and sockets (`io/simulated.rs`), the wires of the underlay, and the
//! cryptography of sessions. Proofs of routes are real. Everything random comes from one seed.
//!
//! ```
//! use meshd::sim::{Plan, secs};
//!
//! let mut net = Plan::line(3).start();
//! assert!(net.run_until(|net| net.is_all_routed(), secs(5)));
//! assert!(net.ping("a", "c").is_some());
//! assert_eq!(net.path("a", "c"), "a b c");
//! net.cut("b", "c");
//! assert!(net.run_until(|net| !net.is_routed("a", "c"), secs(3)));
//! net.assert_sound();
//! ```

mod crime;
mod flow;
mod host;
mod inspect;
mod machine;
mod oracle;
mod plan;
mod wire;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    fmt,
    hash::{Hash, Hasher},
    net::SocketAddr,
    sync::OnceLock,
    time::{Duration, Instant},
};

use routing::origin::Outcome;

pub use self::{
    crime::{Crime, Deed, dropping, relaying},
    flow::Flow,
    host::{Fate, LEAST_ECHO},
    inspect::{Carried, carried},
    machine::Kept,
    plan::Plan,
    wire::{End, HEADERS, Traffic, Wire},
};
use self::{host::Arrival, machine::Machine, oracle::Trail};
use crate::{
    admin, discard::Reason, driver::Request, ecn::Ecn, fib::Lookup, io::simulated::Datagram,
    labelled::Head, node::Node,
};

/// So many seconds.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many milliseconds.
pub const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Machines are switched on within this time.
const STARTS: Duration = millis(100);
/// How often [`Net::run_until`] looks.
const LOOK: Duration = millis(5);
/// How long [`Net::ping`] waits.
const PING: Duration = secs(5);
/// How long one verification takes.
const VERIFICATION: Duration = Duration::from_micros(200);

/// Machines, wires between them, and the time.
pub struct Net {
    machines: Vec<Machine>,
    wires: Vec<Wire>,
    /// Which end of which wire an address is.
    addresses: BTreeMap<SocketAddr, (usize, usize)>,
    now: Duration,
    queue: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    rng: fastrand::Rng,
    flows: Vec<Flow>,
    crimes: BTreeMap<usize, Crime>,
    violations: Vec<String>,
    trace: u64,
}

/// Something that happens at a certain time.
struct Scheduled {
    at: Duration,
    order: u64,
    what: Occurrence,
}

enum Occurrence {
    Start {
        machine: usize,
        kept: Kept,
    },
    Arrival {
        wire: usize,
        end: usize,
        from: SocketAddr,
        to: SocketAddr,
        ecn: Ecn,
        payload: Vec<u8>,
    },
    Run {
        machine: usize,
        life: u32,
        thread: Thread,
    },
    Verified {
        machine: usize,
        life: u32,
        id: u64,
        outcome: Outcome,
    },
    Send {
        flow: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    /// The node loop, which has something to do.
    Loop,
    /// The node loop, which has a deadline.
    Wake,
    Handshake,
    Inside,
}

impl Net {
    fn start(plan: Plan) -> Self {
        static BASE: OnceLock<Instant> = OnceLock::new();
        let base = *BASE.get_or_init(Instant::now);
        let machines: Vec<Machine> = plan
            .names
            .iter()
            .enumerate()
            .map(|(n, name)| Machine::new(n, name.clone(), plan.configuration(n), base))
            .collect();
        let mut net = Self {
            machines,
            wires: plan.wires,
            addresses: BTreeMap::new(),
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            order: 0,
            rng: fastrand::Rng::with_seed(plan.seed),
            flows: Vec::new(),
            crimes: BTreeMap::new(),
            violations: Vec::new(),
            trace: 0xcbf2_9ce4_8422_2325,
        };
        net.note_addresses();
        for machine in 0..net.machines.len() {
            let at = Duration::from_micros(net.rng.u64(..STARTS.as_micros() as u64));
            let kept = Kept::Nothing;
            net.schedule(at, Occurrence::Start { machine, kept });
        }
        net.run_for(STARTS);
        net
    }

    // ---- time ----------------------------------------------------------------------------------------------------------------

    /// How long this has been going on.
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// Lets time pass.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while self.queue.peek().is_some_and(|next| next.0.at <= end) {
            if let Some(Reverse(next)) = self.queue.pop() {
                self.now = next.at;
                self.happen(next.what);
            }
        }
        self.now = end;
    }

    /// Lets time pass until something is true, at most so long; says whether it is. Looks every 5 ms.
    pub fn run_until(
        &mut self,
        mut is_true: impl FnMut(&mut Self) -> bool,
        limit: Duration,
    ) -> bool {
        let end = self.now + limit;
        loop {
            if is_true(self) {
                return true;
            }
            if self.now >= end {
                return false;
            }
            self.run_for(LOOK.min(end - self.now));
        }
    }

    fn schedule(&mut self, at: Duration, what: Occurrence) {
        self.order += 1;
        let order = self.order;
        self.queue.push(Reverse(Scheduled { at, order, what }));
    }

    // ---- the underlay --------------------------------------------------------------------------------------------------------

    /// Nothing passes any more between these two, either way; nobody is told.
    pub fn cut(&mut self, a: &str, b: &str) {
        self.each_wire(a, b, |wire| wire.is_open = [false; 2]);
    }

    /// Nothing passes any more from the first to the second.
    pub fn cut_from(&mut self, a: &str, b: &str) {
        let from = self.at(a);
        self.each_wire(a, b, |wire| {
            if let Some(end) = wire.end_of(from) {
                wire.is_open[end] = false;
            }
        });
    }

    /// Everything passes again between these two.
    pub fn heal(&mut self, a: &str, b: &str) {
        self.each_wire(a, b, |wire| wire.is_open = [true; 2]);
    }

    /// The numbers of the wires between these two.
    pub fn wires_between(&self, a: &str, b: &str) -> Vec<usize> {
        let (a, b) = (self.at(a), self.at(b));
        let numbered = self.wires.iter().enumerate();
        numbered
            .filter(|(_, wire)| wire.joins(a, b))
            .map(|(number, _)| number)
            .collect()
    }

    /// A wire.
    pub fn wire(&self, number: usize) -> &Wire {
        &self.wires[number]
    }

    /// A wire, to be changed; not its addresses.
    pub fn wire_mut(&mut self, number: usize) -> &mut Wire {
        &mut self.wires[number]
    }

    /// How many wires there are.
    pub fn wires(&self) -> usize {
        self.wires.len()
    }

    fn each_wire(&mut self, a: &str, b: &str, change: impl Fn(&mut Wire)) {
        for number in self.wires_between(a, b) {
            change(&mut self.wires[number]);
        }
    }

    /// The NAT in front of a machine gives its end of a wire another address, and forgets the old one.
    pub fn rebind(&mut self, machine: &str, wire: usize) {
        let host = self.rng.u8(100..200);
        if let Some(end) = self.wires[wire].end_of(self.at(machine)) {
            self.wires[wire].ends[end].seen_as = wire::address(wire, host);
            self.note_addresses();
        }
    }

    /// A machine gets another address on a wire, and hears of it as from netlink.
    pub fn renumber(&mut self, machine: &str, wire: usize) {
        let host = self.rng.u8(20..100);
        let number = self.at(machine);
        if let Some(end) = self.wires[wire].end_of(number) {
            let end = &mut self.wires[wire].ends[end];
            end.address = wire::address(wire, host);
            end.seen_as = end.address;
            self.note_addresses();
            self.call(number, |node_loop, now| {
                node_loop.handle_network_change(now)
            });
        }
    }

    fn note_addresses(&mut self) {
        self.addresses.clear();
        for (number, wire) in self.wires.iter().enumerate() {
            for (end, it) in wire.ends.iter().enumerate() {
                self.addresses.insert(it.seen_as, (number, end));
            }
        }
        for (number, machine) in self.machines.iter().enumerate() {
            let ends = self.wires.iter().flat_map(|wire| &wire.ends);
            let own: BTreeSet<_> = ends
                .filter(|end| end.machine == number)
                .map(|end| end.address.ip())
                .collect();
            machine.set_addresses(own);
        }
    }

    // ---- machines ------------------------------------------------------------------------------------------------------------

    /// A daemon is gone, from one moment to the next.
    pub fn kill(&mut self, machine: &str) {
        let machine = self.at(machine);
        self.machines[machine].stop(self.now);
    }

    /// A daemon is killed, if it runs, and started.
    pub fn restart(&mut self, machine: &str, kept: Kept) {
        self.kill(machine);
        let machine = self.at(machine);
        self.boot(machine, kept);
    }

    /// A machine is stopped with everything on it, but its clock.
    pub fn suspend(&mut self, machine: &str) {
        let machine = self.at(machine);
        self.machines[machine].is_asleep = true;
    }

    /// It goes on.
    pub fn resume(&mut self, machine: &str) {
        let machine = self.at(machine);
        self.machines[machine].is_asleep = false;
        self.run(machine, Thread::Loop);
    }

    /// The clock of a machine leaps ahead.
    pub fn leap(&mut self, machine: &str, by: Duration) {
        let machine = self.at(machine);
        self.machines[machine].ahead += by;
        self.run(machine, Thread::Loop);
    }

    /// The clock of a machine is set back, which no clock of the daemon's ever is.
    pub fn set_back(&mut self, machine: &str, by: Duration) {
        let machine = self.at(machine);
        self.machines[machine].ahead = self.machines[machine].ahead.saturating_sub(by);
        self.run(machine, Thread::Loop);
    }

    /// The threads of a machine take so long to wake up.
    pub fn set_lag(&mut self, machine: &str, lag: Duration) {
        let machine = self.at(machine);
        self.machines[machine].lag = lag;
    }

    /// The configuration of a machine, which is loaded again once it is changed.
    pub fn reconfigure(&mut self, machine: &str, change: impl FnOnce(&mut String)) {
        let machine = self.at(machine);
        change(&mut self.machines[machine].configuration);
        let settings = self.machines[machine].settings();
        self.call(machine, |node_loop, now| {
            node_loop.node.handle_settings(&settings, now);
        });
    }

    /// A machine does this with what it sends from now on.
    pub fn corrupt(&mut self, machine: &str, crime: Crime) {
        let machine = self.at(machine);
        self.crimes.insert(machine, crime);
    }

    /// A machine is honest again.
    pub fn reform(&mut self, machine: &str) {
        let machine = self.at(machine);
        self.crimes.remove(&machine);
    }

    /// Calls the node of a machine, as the control thread does.
    ///
    /// # Panics
    /// If its daemon does not run.
    pub fn with_node<T>(&mut self, machine: &str, call: impl FnOnce(&mut Node, Instant) -> T) -> T {
        let number = self.at(machine);
        self.call(number, |node_loop, now| call(&mut node_loop.node, now))
            .unwrap_or_else(|| panic!("the daemon of `{machine}` does not run"))
    }

    fn call<T>(
        &mut self,
        machine: usize,
        call: impl FnOnce(&mut crate::driver::NodeLoop, Instant) -> T,
    ) -> Option<T> {
        let result = self.machines[machine].call(self.now, call);
        self.settle(machine);
        result
    }

    fn boot(&mut self, machine: usize, kept: Kept) {
        let seed = self.rng.u64(..);
        if let Err(error) = self.machines[machine].start(kept, seed, self.now) {
            let name = &self.machines[machine].name;
            self.violations
                .push(format!("{name} does not start: {error}"));
        }
        self.settle(machine);
    }

    fn at(&self, name: &str) -> usize {
        let mut machines = self.machines.iter();
        let place = machines.position(|machine| machine.name == name);
        place.unwrap_or_else(|| panic!("no node `{name}`"))
    }

    // ---- what can be asked ---------------------------------------------------------------------------------------------------

    /// All names.
    pub fn names(&self) -> Vec<String> {
        let names = self.machines.iter().map(|machine| machine.name.clone());
        names.collect()
    }

    /// How many packets a node has discarded for a reason.
    pub fn count(&self, machine: &str, reason: Reason) -> u64 {
        self.machines[self.at(machine)].count(reason)
    }

    /// What `meshd links` shows.
    pub fn links(&mut self, machine: &str) -> Vec<admin::Link> {
        self.with_node(machine, |node, now| node.links(now))
    }

    /// What `meshd status` shows of a peer; nothing if it shows none.
    pub fn peer(&mut self, machine: &str, peer: &str) -> Option<admin::Peer> {
        let address = self.machines[self.at(peer)].address();
        let peers = self.with_node(machine, |node, now| node.reports(now));
        peers.into_iter().find(|peer| peer.address == address)
    }

    /// How many handshakes a session has had.
    pub fn handshakes(&self, machine: &str, peer: &str) -> u64 {
        let address = self.machines[self.at(peer)].address();
        let daemon = self.machines[self.at(machine)].daemon.as_ref();
        daemon.map_or(0, |daemon| match daemon.fib.load().lookup(address) {
            Lookup::Session(to) => to.session.counters().handshakes,
            Lookup::Host
            | Lookup::Workload(_)
            | Lookup::Resolver
            | Lookup::Unknown
            | Lookup::NotOverlay => 0,
        })
    }

    /// The longest packet that a session carries, as its node believes.
    pub fn mtu(&self, machine: &str, peer: &str) -> usize {
        let address = self.machines[self.at(peer)].address();
        let daemon = self.machines[self.at(machine)].daemon.as_ref();
        daemon.map_or(0, |daemon| match daemon.fib.load().lookup(address) {
            Lookup::Session(to) => to.session.mtu(),
            Lookup::Host
            | Lookup::Workload(_)
            | Lookup::Resolver
            | Lookup::Unknown
            | Lookup::NotOverlay => 0,
        })
    }

    /// What must not have happened, and did.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// That nothing has happened that must not.
    ///
    /// # Panics
    /// If something has.
    pub fn assert_sound(&self) {
        assert!(self.violations.is_empty(), "{:#?}", self.violations);
    }

    /// A hash of everything that was sent, and when.
    pub const fn trace(&self) -> u64 {
        self.trace
    }

    // ---- programs ------------------------------------------------------------------------------------------------------------

    /// A program on one node sends an echo request to another and waits 5 s; the round-trip time, if it is answered.
    pub fn ping(&mut self, from: &str, to: &str) -> Option<Duration> {
        match self.echo(from, to, 104) {
            Fate::Answered(rtt) => Some(rtt),
            Fate::Open | Fate::TooBig(_) | Fate::Unreachable(..) => None,
        }
    }

    /// The same with a packet of this length, and all that can become of it.
    pub fn echo(&mut self, from: &str, to: &str, length: usize) -> Fate {
        let number = self.send_echo(from, to, length);
        let at = self.at(from);
        self.run_until(|net| net.machines[at].host.fate(number) != Fate::Open, PING);
        self.machines[at].host.fate(number)
    }

    /// Sends echo requests of these lengths, 10 ms apart, and says what has become of each 5 s later.
    pub fn echoes(
        &mut self,
        from: &str,
        to: &str,
        lengths: impl Iterator<Item = usize>,
    ) -> Vec<(usize, Fate)> {
        let numbers: Vec<(usize, u32)> = lengths
            .map(|length| {
                self.run_for(millis(10));
                (length, self.send_echo(from, to, length))
            })
            .collect();
        self.run_for(PING);
        let host = &self.machines[self.at(from)].host;
        let fates = numbers.into_iter();
        fates
            .map(|(length, number)| (length, host.fate(number)))
            .collect()
    }

    fn send_echo(&mut self, from: &str, to: &str, length: usize) -> u32 {
        let (from, to) = (self.at(from), self.at(to));
        let target = self.machines[to].address();
        let machine = &mut self.machines[from];
        let own = machine.address();
        let (number, packet) = machine.host.echo(own, target, length, self.now);
        machine.send(vec![packet], self.now);
        self.run(from, Thread::Inside);
        number
    }

    /// Packets of 1200 bytes begin to flow from one node to another, a hundred a second, each of them answered. Its number.
    pub fn flow(&mut self, from: &str, to: &str) -> usize {
        self.flow_of(from, to, millis(10), 1200)
    }

    /// The same, one packet of `size` bytes every `interval`.
    pub fn flow_of(&mut self, from: &str, to: &str, interval: Duration, size: usize) -> usize {
        let (from, to) = (self.at(from), self.at(to));
        self.flows
            .push(Flow::new(from, to, interval, size, self.now));
        let flow = self.flows.len() - 1;
        self.schedule(self.now, Occurrence::Send { flow });
        flow
    }

    /// A flow ends; what is under way has a second to arrive.
    pub fn end(&mut self, flow: usize) -> &Flow {
        self.flows[flow].is_on = false;
        self.run_for(secs(1));
        &self.flows[flow]
    }

    /// What has become of a flow so far.
    pub fn flowed(&self, flow: usize) -> &Flow {
        &self.flows[flow]
    }

    /// The longest time without an answer to a flow since [`Self::mark`], or since it began.
    pub fn gap(&self, flow: usize) -> Duration {
        self.flows[flow].gap(self.now)
    }

    /// [`Self::gap`] begins to measure anew.
    pub fn mark(&mut self, flow: usize) {
        self.flows[flow].mark(self.now);
    }

    // ---- what happens --------------------------------------------------------------------------------------------------------

    fn happen(&mut self, what: Occurrence) {
        match what {
            Occurrence::Start { machine, kept } => self.boot(machine, kept),
            Occurrence::Arrival {
                wire,
                end,
                from,
                to,
                ecn,
                payload,
            } => self.arrive(wire, end, from, to, ecn, payload),
            Occurrence::Run {
                machine,
                life,
                thread,
            } => {
                if self.machines[machine].life == life {
                    self.run(machine, thread);
                }
            }
            Occurrence::Verified {
                machine,
                life,
                id,
                outcome,
            } => {
                if self.machines[machine].life == life
                    && let Some(daemon) = &self.machines[machine].daemon
                {
                    if daemon.outcomes.try_send((id, outcome)).is_err() {
                        self.blame(machine, "an outcome had no room");
                    }
                    self.run(machine, Thread::Loop);
                }
            }
            Occurrence::Send { flow } => self.send_flow(flow),
        }
    }

    /// A thread of a machine does what it has to do.
    fn run(&mut self, machine: usize, thread: Thread) {
        let now = self.now;
        let it = &mut self.machines[machine];
        let is_wake = thread == Thread::Wake && it.wake.is_some_and(|wake| wake <= now);
        match thread {
            Thread::Loop => it.is_loop_due = false,
            Thread::Wake if is_wake => it.wake = None,
            Thread::Wake => return,
            Thread::Handshake => it.is_handshake_due = false,
            Thread::Inside => it.is_inside_due = false,
        }
        if it.is_asleep {
            return;
        }
        match thread {
            Thread::Loop | Thread::Wake => {
                let before = it.daemon.as_ref().map(|daemon| daemon.fib.load_full());
                if !it.run_loop(now) {
                    self.blame(machine, "its node loop never rests");
                }
                let after = self.machines[machine].daemon.as_ref();
                let after = after.map(|daemon| daemon.fib.load_full());
                let is_same = match (&before, &after) {
                    (Some(before), Some(after)) => std::sync::Arc::ptr_eq(before, after),
                    _ => true,
                };
                if !is_same {
                    self.look_for_circles(machine);
                }
            }
            Thread::Handshake => it.run_handshake(now),
            Thread::Inside => {
                if let Err(error) = it.run_inside(now) {
                    self.blame(machine, &format!("its thread `inside` ended: {error}"));
                }
            }
        }
        self.settle(machine);
    }

    fn look_for_circles(&mut self, machine: usize) {
        for target in 0..self.machines.len() {
            if let Trail::Circle(circle) = self.trail(machine, self.machines[target].address())
                && circle.last() == Some(&machine)
            {
                self.blame(machine, &format!("a loop towards {target}: {circle:?}"));
            }
        }
    }

    fn blame(&mut self, machine: usize, what: &str) {
        let violation = format!("{:?}: {}: {what}", self.now, self.machines[machine].name);
        self.violations.push(violation);
    }

    /// Carries away what has come out of a machine, and sees to it that its threads run that have something to do.
    fn settle(&mut self, machine: usize) {
        let done = self.machines[machine].collect(self.now);
        for datagram in done.sent {
            self.transmit(machine, datagram);
        }
        for arrival in done.arrived {
            self.come_up(machine, arrival);
        }
        for wrong in done.wrongs {
            self.blame(machine, &wrong);
        }
        for request in done.requests {
            match request {
                Request::Remember { epoch } => self.machines[machine].remember(epoch),
                // Endpoints are addresses here.
                Request::Resolve { .. } => {}
                // There is no control plane, and the node does not ask.
                Request::Lookup { .. } | Request::Introduce { .. } => {}
                // There are no workloads.
                Request::RememberWorkloads | Request::RemoveDevice(_) => {}
                // Nor a private network.
                Request::Keep | Request::Plane(_) => {}
            }
        }
        let outcomes = self.machines[machine].jobs();
        let (now, life) = (self.now, self.machines[machine].life);
        for (id, outcome) in outcomes {
            let it = &mut self.machines[machine];
            it.verifier = it.verifier.max(now) + VERIFICATION;
            let at = it.verifier;
            self.schedule(
                at,
                Occurrence::Verified {
                    machine,
                    life,
                    id,
                    outcome,
                },
            );
        }
        let it = &mut self.machines[machine];
        let soon = now + it.lag;
        let [for_loop, for_handshake, for_inside] = it.is_waited_for();
        let mut due = Vec::new();
        if for_loop && !std::mem::replace(&mut it.is_loop_due, true) {
            due.push((soon, Thread::Loop));
        }
        if for_handshake && !std::mem::replace(&mut it.is_handshake_due, true) {
            due.push((soon, Thread::Handshake));
        }
        if for_inside && !std::mem::replace(&mut it.is_inside_due, true) {
            due.push((now, Thread::Inside));
        }
        if let Some(deadline) = it.deadline(now).map(|deadline| deadline.max(now))
            && it.wake.is_none_or(|wake| deadline < wake)
        {
            it.wake = Some(deadline);
            due.push((deadline, Thread::Wake));
        }
        for (at, thread) in due {
            self.schedule(
                at,
                Occurrence::Run {
                    machine,
                    life,
                    thread,
                },
            );
        }
    }

    fn transmit(&mut self, machine: usize, datagram: Datagram) {
        self.inspect(machine, &datagram);
        let deed = self
            .crimes
            .get_mut(&machine)
            .map_or(Deed::Send, |crime| crime(&datagram.payload));
        if matches!(deed, Deed::Post | Deed::SendAndPost)
            && let Carried::Relayed {
                to,
                datagram: Some(relayed),
                ..
            } = carried(&datagram.payload)
            && let to = self.labelled_to(&datagram).unwrap_or(to)
            && let Some(to) = self.place_of(machine, to)
        {
            self.put(machine, to, datagram.ecn, relayed.to_vec());
        }
        if matches!(deed, Deed::Send | Deed::SendAndPost) {
            self.put(machine, datagram.to, datagram.ecn, datagram.payload);
        }
    }

    /// For whom a labelled datagram is: the machine that it is sent to has given the label.
    fn labelled_to(&self, datagram: &Datagram) -> Option<std::net::Ipv6Addr> {
        let head = Head::of(&datagram.payload)?;
        let (wire, end) = self.addresses.get(&datagram.to)?;
        let receiver = self.wires[*wire].ends[*end].machine;
        let fib = self.machines[receiver].daemon.as_ref()?.fib.load();
        Some(fib.labelled(head.label)?.pair.destination)
    }

    /// Where on the underlay a machine reaches another, if there is a wire.
    fn place_of(&self, machine: usize, node: std::net::Ipv6Addr) -> Option<SocketAddr> {
        let other = self.machines.iter().position(|it| it.address() == node)?;
        let wire = self.wires.iter().find(|wire| wire.joins(machine, other))?;
        Some(wire.ends[wire.end_of(other)?].seen_as)
    }

    /// A datagram goes to an address of the underlay.
    fn put(&mut self, machine: usize, to: SocketAddr, ecn: Ecn, payload: Vec<u8>) {
        self.note(&(self.now, machine, to, &payload));
        // Nobody is there, or nobody that this machine has a way to.
        let Some(&(wire, end)) = self.addresses.get(&to) else {
            return;
        };
        let it = &mut self.wires[wire];
        let other = it.ends[1 - end];
        if other.machine != machine {
            return;
        }
        let length = payload.len() + HEADERS;
        let traffic = &mut it.traffic[1 - end];
        traffic.datagrams += 1;
        traffic.bytes += length as u64;
        let is_lost = self.rng.u32(..1000) < it.loss;
        let jitter = self.rng.u64(..=it.jitter.as_micros() as u64);
        if is_lost || !it.is_open[1 - end] || length > it.mtu {
            return;
        }
        let at = self.now + it.latency + Duration::from_micros(jitter);
        let from = other.seen_as;
        let ecn = if it.is_congested && ecn.is_capable() {
            Ecn::Ce
        } else {
            ecn
        };
        self.schedule(
            at,
            Occurrence::Arrival {
                wire,
                end,
                from,
                to,
                ecn,
                payload,
            },
        );
    }

    fn arrive(
        &mut self,
        wire: usize,
        end: usize,
        from: SocketAddr,
        to: SocketAddr,
        ecn: Ecn,
        mut payload: Vec<u8>,
    ) {
        let it = &self.wires[wire];
        // Cut, or moved, while it was on its way.
        if !it.is_open[1 - end] || it.ends[end].seen_as != to {
            return;
        }
        let (machine, local) = (it.ends[end].machine, it.ends[end].address.ip());
        if self.machines[machine].is_asleep {
            return;
        }
        self.machines[machine].receive(from, local, ecn, &mut payload, self.now);
        self.settle(machine);
    }

    /// Nothing that belongs to the programs of two nodes leaves a machine but in their session, and no session is nested twice.
    fn inspect(&mut self, machine: usize, datagram: &Datagram) {
        let Some(&(wire, end)) = self.addresses.get(&datagram.to) else {
            return;
        };
        let receiver = self.wires[wire].ends[end].machine;
        let addresses = [machine, receiver].map(|it| self.machines[it].address());
        let what = match carried(&datagram.payload) {
            Carried::Nothing | Carried::Error => None,
            Carried::Own(packet) => (!inspect::belongs(packet, addresses[0], addresses[1]))
                .then_some("a packet in the clear, for a relay to read"),
            Carried::Relayed { from, to, datagram } => {
                match datagram.map_or(Carried::Nothing, carried) {
                    Carried::Nothing | Carried::Error => None,
                    Carried::Own(packet) => (!inspect::belongs(packet, from, to))
                        .then_some("a packet in a session that it does not belong to"),
                    Carried::Relayed { .. } => Some("a session that is nested twice"),
                }
            }
        };
        if let Some(what) = what {
            let name = &self.machines[receiver].name;
            let packet = inspect::packet(&datagram.payload).unwrap_or_default();
            let header = crate::packet::Ipv6Header::parse(packet);
            self.blame(machine, &format!("to {name}: {what}: {header:?}"));
        }
    }

    /// Something has come up to the programs of a machine.
    fn come_up(&mut self, machine: usize, arrival: Arrival) {
        match arrival {
            Arrival::Other => {}
            Arrival::Wrong(what) => self.blame(machine, &format!("delivered a packet: {what}")),
            Arrival::Flow {
                flow,
                number,
                is_answer,
                source,
                ecn,
            } => {
                let Some(it) = self.flows.get_mut(flow) else {
                    return self.blame(machine, "a packet of no flow");
                };
                let (from, to) = if is_answer {
                    (it.to, it.from)
                } else {
                    (it.from, it.to)
                };
                if machine != to || self.machines[from].address() != source {
                    return self.blame(machine, "a packet of a flow between others");
                }
                if ecn == Ecn::NotEct {
                    return self.blame(machine, "a packet without its ECN field");
                }
                if is_answer {
                    it.note_answer(number, self.now);
                } else {
                    it.note_arrival(number, ecn);
                    self.send_packet(flow, number, true);
                }
            }
        }
    }

    fn send_flow(&mut self, flow: usize) {
        let it = &mut self.flows[flow];
        if !it.is_on {
            return;
        }
        let (number, at) = (it.sent, self.now + it.interval);
        it.sent += 1;
        self.schedule(at, Occurrence::Send { flow });
        self.send_packet(flow, number, false);
    }

    /// A packet of a flow, or the answer to one, is handed to the daemon.
    fn send_packet(&mut self, flow: usize, number: u64, is_answer: bool) {
        let it = &self.flows[flow];
        let (from, to, size) = if is_answer {
            (it.to, it.from, host::LEAST)
        } else {
            (it.from, it.to, it.size)
        };
        let (own, target) = (self.machines[from].address(), self.machines[to].address());
        let packet = host::flow_packet(own, target, flow, number, is_answer, size);
        let machine = &mut self.machines[from];
        machine.send(vec![packet], self.now);
        if !std::mem::replace(&mut machine.is_inside_due, true) {
            let life = machine.life;
            self.schedule(
                self.now,
                Occurrence::Run {
                    machine: from,
                    life,
                    thread: Thread::Inside,
                },
            );
        }
    }

    /// Goes into the hash of everything.
    fn note(&mut self, what: &impl Hash) {
        let mut hasher = Fnv(self.trace);
        what.hash(&mut hasher);
        self.trace = hasher.0;
    }
}

/// FNV-1a over words: fast, and the same everywhere.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("now", &self.now)
            .field("machines", &self.machines.len())
            .field("wires", &self.wires.len())
            .finish_non_exhaustive()
    }
}
