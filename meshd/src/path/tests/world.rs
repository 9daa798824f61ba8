//! A small internet in virtual time: nodes, the routers before them, and what carries their messages while they have no straight way.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use wireguard::PublicKey;

use super::super::{Agent, Arrival, Demand, Event, Local, Reflexion, Socket, Why, attempt::LASTS};
use super::key;

/// From one node's outermost router to another's.
const DELAY: Duration = Duration::from_millis(20);
/// A message by way of another node.
const SIGNAL: Duration = Duration::from_millis(30);
/// Where extra sockets get their ports.
const EXTRA: u16 = 40000;
const PORT: u16 = 7000;

/// Which port a router gives a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Gives {
    /// The one that its sender has, if that is free.
    Own,
    /// Always the same, and not the sender's.
    Another,
    /// One for every destination address.
    PerAddress,
    /// The next.
    Next,
    /// Any.
    Any,
    /// The address and port stay as they are: it is a firewall.
    Nothing,
}

/// What it lets in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Lets {
    /// Everything that comes to a port given out.
    Everybody,
    /// What comes from an address that was sent to.
    Address,
    /// What comes from an address and port that was sent to.
    Port,
}

/// A router.
#[derive(Clone, Debug)]
pub(super) struct Router {
    pub(super) gives: Gives,
    pub(super) lets: Lets,
    pub(super) has_hairpin: bool,
    /// Like Linux without a rule for what comes to itself: it remembers a flow that came unasked, and gives its own next flow between the
    /// same addresses another port.
    pub(super) is_open: bool,
    pub(super) forgets: Duration,
    outside: IpAddr,
    next: u16,
    flows: BTreeMap<(SocketAddr, SocketAddr), Flow>,
    unasked: BTreeMap<(SocketAddr, u16), Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    port: u16,
    last: Instant,
}

impl Router {
    pub(super) fn new(gives: Gives, lets: Lets) -> Self {
        Self {
            gives,
            lets,
            has_hairpin: false,
            is_open: false,
            forgets: Duration::from_secs(30),
            outside: [0, 0, 0, 0].into(),
            next: 20000,
            flows: BTreeMap::new(),
            unasked: BTreeMap::new(),
        }
    }

    /// Others behind it begin so many flows.
    pub(super) const fn take_ports(&mut self, flows: u16) {
        self.next += flows;
    }

    /// Forgets everything, as when it is switched off and on.
    pub(super) fn restart(&mut self) {
        self.flows.clear();
    }

    fn lives(&self, last: Instant, now: Instant) -> bool {
        now.saturating_duration_since(last) < self.forgets
    }

    /// Where a packet comes from, outside.
    fn out(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> SocketAddr {
        let live = self.flows.get(&(from, to)).copied();
        let port = match live.filter(|flow| self.lives(flow.last, now)) {
            Some(flow) => flow.port,
            None => self.choose(from, to, now, rng),
        };
        self.flows.insert((from, to), Flow { port, last: now });
        if self.gives == Gives::Nothing {
            return from;
        }
        SocketAddr::new(self.outside, port)
    }

    fn choose(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> u16 {
        let port = match self.gives {
            Gives::Own | Gives::Nothing => from.port(),
            Gives::Another => from.port() % 20000 + 9000,
            Gives::PerAddress => match to.ip() {
                IpAddr::V4(ip) => {
                    10000 + u16::from(ip.octets()[2]) * 100 + u16::from(ip.octets()[3])
                }
                IpAddr::V6(_) => from.port(),
            },
            Gives::Next => {
                self.next += 1;
                self.next
            }
            Gives::Any => rng.u16(1024..),
        };
        let is_taken = |port: u16| {
            self.flows.iter().any(|((source, _), flow)| {
                flow.port == port && *source != from && self.lives(flow.last, now)
            }) || self
                .unasked
                .get(&(to, port))
                .is_some_and(|last| self.lives(*last, now))
        };
        if self.gives != Gives::Nothing && is_taken(port) {
            rng.u16(1024..)
        } else {
            port
        }
    }

    /// Where a packet goes, inside.
    fn inside(&mut self, from: SocketAddr, to: SocketAddr, now: Instant) -> Option<SocketAddr> {
        let found = self.flows.iter().find(|((source, destination), flow)| {
            let matches = match self.lets {
                Lets::Everybody => true,
                Lets::Address => destination.ip() == from.ip(),
                Lets::Port => *destination == from,
            };
            let is_to = if self.gives == Gives::Nothing {
                *source == to
            } else {
                flow.port == to.port()
            };
            matches && is_to && self.lives(flow.last, now)
        });
        let key = found.map(|(key, _)| *key);
        if let Some(key) = key {
            if let Some(flow) = self.flows.get_mut(&key) {
                flow.last = now;
            }
            return Some(key.0);
        }
        if self.is_open {
            self.unasked.insert((from, to.port()), now);
        }
        None
    }
}

/// A node and what is before it, from inside to outside.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) agent: Agent,
    pub(super) key: PublicKey,
    hosts: Vec<SocketAddr>,
    routers: Vec<usize>,
    pub(super) proven: Vec<(Instant, SocketAddr)>,
    pub(super) adopted: Vec<u16>,
    pub(super) failed: Vec<(Instant, Why)>,
    pub(super) sent: usize,
    pub(super) new_destinations: Vec<SocketAddr>,
    open: bool,
    pub(super) has_signals: bool,
}

#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
enum What {
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        datagram: Vec<u8>,
        by: usize,
    },
    Message {
        from: usize,
        to: usize,
        message: Vec<u8>,
    },
    Sockets {
        node: usize,
        peer: usize,
        count: u16,
    },
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) nodes: Vec<Node>,
    pub(super) routers: Vec<Router>,
    queue: BinaryHeap<Reverse<(Instant, u64, What)>>,
    count: u64,
    rng: fastrand::Rng,
    /// Routers between the outermost ones of two nodes.
    pub(super) hops: u8,
    /// Of a thousand datagrams, so many are lost.
    pub(super) loss: u16,
    pub(super) is_blocked: bool,
    /// Which of the messages, counted from 0, is lost.
    pub(super) lost_message: Option<usize>,
    messages: usize,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            now,
            start: now,
            nodes: Vec::new(),
            routers: Vec::new(),
            queue: BinaryHeap::new(),
            count: 0,
            rng: fastrand::Rng::with_seed(seed),
            hops: 6,
            loss: 0,
            is_blocked: false,
            lost_message: None,
            messages: 0,
        }
    }

    pub(super) fn router(&mut self, mut router: Router) -> usize {
        let n = self.routers.len() as u8 + 1;
        router.outside = [203, 0, n, 1].into();
        router.next = 20000 + u16::from(n) * 1000;
        self.routers.push(router);
        self.routers.len() - 1
    }

    /// A node at these addresses, with WireGuard's port, behind these routers.
    pub(super) fn node(&mut self, hosts: &[&str], routers: &[usize]) -> usize {
        let n = self.nodes.len();
        let key = key(n);
        let hosts: Vec<_> = hosts
            .iter()
            .map(|host| SocketAddr::new(host.parse().unwrap(), PORT))
            .collect();
        let mut agent = Agent::new(key, &[n as u8 + 1; 32]);
        let local = Local {
            hosts: hosts.clone(),
            ..Local::default()
        };
        agent.set_local(local, self.now);
        // What is before the outermost router is the Internet; before an inner one, the carrier's network.
        for pair in routers.windows(2) {
            self.routers[pair[0]].outside = [100, 64, 0, pair[0] as u8 + 1].into();
        }
        self.nodes.push(Node {
            agent,
            key,
            hosts,
            routers: routers.to_vec(),
            proven: Vec::new(),
            adopted: Vec::new(),
            failed: Vec::new(),
            sent: 0,
            new_destinations: Vec::new(),
            open: false,
            has_signals: true,
        });
        n
    }

    /// Two public hosts say what they see of a node.
    pub(super) fn reflect(&mut self, n: usize) {
        for witness in 0..2_u8 {
            for host in self.nodes[n].hosts.clone() {
                let remote = match host {
                    SocketAddr::V4(_) => SocketAddr::from(([198, 51, 100 + witness, 1], 51820)),
                    SocketAddr::V6(_) => {
                        SocketAddr::from(([0x2001, 0xdb8, 0xff, witness.into(), 0, 0, 0, 1], 51820))
                    }
                };
                let routers = self.nodes[n].routers.clone();
                let seen = self.translate(&routers, host, remote);
                let reflexion = Reflexion {
                    witness: key(100 + usize::from(witness)),
                    remote,
                    seen,
                    socket: 0,
                };
                self.nodes[n].agent.handle_reflexion(reflexion, self.now);
            }
        }
    }

    fn translate(&mut self, routers: &[usize], from: SocketAddr, to: SocketAddr) -> SocketAddr {
        routers.iter().fold(from, |from, n| {
            self.routers[*n].out_of_family(from, to, self.now, &mut self.rng)
        })
    }

    pub(super) fn reach(&mut self, from: usize, to: usize, demand: Demand) {
        let peer = self.nodes[to].key;
        self.nodes[from].agent.reach(peer, demand, self.now);
        self.drain(from);
    }

    fn push(&mut self, after: Duration, what: What) {
        self.count += 1;
        self.queue
            .push(Reverse((self.now + after, self.count, what)));
    }

    fn index(&self, peer: PublicKey) -> usize {
        self.nodes.iter().position(|node| node.key == peer).unwrap()
    }

    /// Carries out what an agent wants.
    pub(super) fn drain(&mut self, n: usize) {
        while let Some(transmit) = self.nodes[n].agent.poll_transmit() {
            let node = &mut self.nodes[n];
            node.sent += 1;
            if !node.new_destinations.contains(&transmit.to) {
                node.new_destinations.push(transmit.to);
            }
            let Some(host) = node
                .hosts
                .iter()
                .find(|host| host.is_ipv4() == transmit.to.is_ipv4())
            else {
                panic!("no address of the family of {}", transmit.to);
            };
            let port = match transmit.socket {
                Socket::Own(_) => host.port(),
                Socket::Extra(extra) => {
                    assert!(node.open, "a socket that is not open");
                    EXTRA + extra
                }
            };
            let from = SocketAddr::new(host.ip(), port);
            let hops = transmit.hop_limit.unwrap_or(64);
            self.carry(n, from, transmit.to, hops, transmit.datagram);
        }
        while let Some(event) = self.nodes[n].agent.poll_event() {
            let now = self.now;
            match event {
                Event::Offer { peer, message } => {
                    let to = self.index(peer);
                    let is_lost = self.lost_message == Some(self.messages);
                    self.messages += 1;
                    if !is_lost && self.nodes[n].has_signals && self.nodes[to].has_signals {
                        self.push(
                            SIGNAL,
                            What::Message {
                                from: n,
                                to,
                                message,
                            },
                        );
                    }
                }
                Event::Proven { endpoint, .. } => self.nodes[n].proven.push((now, endpoint.remote)),
                Event::Adopt { remote, socket, .. } => {
                    self.nodes[n].proven.push((now, remote));
                    self.nodes[n].adopted.push(socket);
                }
                Event::Failed { why, .. } => self.nodes[n].failed.push((now, why)),
                Event::OpenSockets { peer, count } => {
                    assert!(!self.nodes[n].open, "one at a time");
                    self.nodes[n].open = true;
                    let peer = self.index(peer);
                    self.push(
                        Duration::from_millis(5),
                        What::Sockets {
                            node: n,
                            peer,
                            count,
                        },
                    );
                }
                Event::CloseSockets { .. } => {
                    assert!(self.nodes[n].open);
                    self.nodes[n].open = false;
                }
            }
        }
    }

    fn carry(
        &mut self,
        n: usize,
        mut from: SocketAddr,
        to: SocketAddr,
        mut hops: u8,
        datagram: Vec<u8>,
    ) {
        let routers = self.nodes[n].routers.clone();
        let mut passed = 0;
        for router in &routers {
            // Somebody inside, before this router?
            if self.is_inside(&routers[..passed], to) {
                break;
            }
            hops = hops.saturating_sub(1);
            if hops == 0 {
                return;
            }
            let (now, rng) = (self.now, &mut self.rng);
            let router = &mut self.routers[*router];
            if to.ip() == router.outside && router.gives != Gives::Nothing && !router.has_hairpin {
                return;
            }
            from = router.out_of_family(from, to, now, rng);
            passed += 1;
        }
        let lost = self.rng.u16(..1000) < self.loss;
        let is_near = passed < routers.len() || self.is_inside(&routers[..passed], to);
        if !is_near {
            hops = hops.saturating_sub(self.hops);
        }
        if hops == 0 || lost || self.is_blocked {
            return;
        }
        let delay = if passed == 0 {
            Duration::from_millis(1)
        } else {
            DELAY
        };
        let by = if passed == 0 {
            routers.first().copied().unwrap_or(usize::MAX)
        } else {
            usize::MAX
        };
        self.push(
            delay,
            What::Datagram {
                from,
                to,
                datagram,
                by,
            },
        );
    }

    /// Whether an address is that of somebody behind the next router, seen from behind `passed` of them.
    fn is_inside(&self, passed: &[usize], to: SocketAddr) -> bool {
        passed.is_empty()
            && self.nodes.iter().any(|node| {
                node.hosts.iter().any(|host| host.ip() == to.ip()) && !node.routers.is_empty()
            })
            && to.ip().to_string().starts_with("192.168.")
    }

    fn arrive(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8], by: usize) {
        let now = self.now;
        for n in 0..self.nodes.len() {
            let node = &self.nodes[n];
            let routers = node.routers.clone();
            let mut to = to;
            if by != usize::MAX {
                // On a link behind that router.
                if routers.first() != Some(&by) {
                    continue;
                }
            } else {
                let Some(outermost) = routers.last() else {
                    if node.hosts.iter().any(|host| host.ip() == to.ip()) {
                        self.deliver(n, from, to, datagram);
                        return;
                    }
                    continue;
                };
                let is_addressed = |router: &Router| router.outside == to.ip();
                let is_firewalled = node.hosts.contains(&to) && to.is_ipv6();
                if !is_firewalled && !is_addressed(&self.routers[*outermost]) {
                    continue;
                }
                let mut is_let_in = true;
                for router in routers.iter().rev() {
                    match self.routers[*router].inside_of_family(from, to, now) {
                        Some(inner) => to = inner,
                        None => {
                            is_let_in = false;
                            break;
                        }
                    }
                }
                if !is_let_in {
                    continue;
                }
            }
            if self.nodes[n].hosts.iter().any(|host| host.ip() == to.ip()) {
                self.deliver(n, from, to, datagram);
                return;
            }
        }
    }

    fn deliver(&mut self, n: usize, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let node = &mut self.nodes[n];
        let socket = match to.port() {
            PORT => Socket::Own(0),
            port if port >= EXTRA && node.open => Socket::Extra(port - EXTRA),
            _ => return,
        };
        let arrival = Arrival {
            remote: from,
            local: Some(to.ip()),
            socket,
        };
        // What is refused is nobody's fault here: it came late, or twice.
        let _ = node.agent.handle_probe(arrival, datagram, self.now);
        self.drain(n);
    }

    /// Runs for so long, or until `done`.
    pub(super) fn run(&mut self, time: Duration, done: impl Fn(&Self) -> bool) {
        let end = self.now + time;
        let mut turns = 0_u32;
        while !done(self) {
            turns += 1;
            assert!(turns < 2_000_000, "it turns on the spot");
            let queued = self.queue.peek().map(|Reverse((at, ..))| *at);
            let due = self
                .nodes
                .iter()
                .filter_map(|node| node.agent.poll_timeout())
                .min();
            let Some(next) = [queued, due]
                .into_iter()
                .flatten()
                .min()
                .filter(|next| *next <= end)
            else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            if queued.is_some_and(|at| at <= self.now) {
                let Reverse((_, _, what)) = self.queue.pop().unwrap();
                self.happen(what);
            }
            for n in 0..self.nodes.len() {
                self.nodes[n].agent.handle_timeout(self.now);
                self.drain(n);
            }
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Datagram {
                from,
                to,
                datagram,
                by,
            } => self.arrive(from, to, &datagram, by),
            What::Message { from, to, message } => {
                let peer = self.nodes[from].key;
                self.nodes[to]
                    .agent
                    .handle_offer(peer, &message, self.now)
                    .unwrap();
                self.drain(to);
            }
            What::Sockets { node, peer, count } => {
                let peer = self.nodes[peer].key;
                self.nodes[node].agent.handle_sockets(peer, count, self.now);
                self.drain(node);
            }
        }
    }

    /// Whether both know a straight way.
    pub(super) fn is_direct(&self, a: usize, b: usize) -> bool {
        [a, b].iter().all(|n| !self.nodes[*n].proven.is_empty())
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Longer than any attempt.
    pub(super) fn patience() -> Duration {
        LASTS + Duration::from_secs(10)
    }
}

impl Router {
    /// A router that translates leaves IPv6 alone.
    fn out_of_family(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> SocketAddr {
        if from.is_ipv6() && self.gives != Gives::Nothing {
            return from;
        }
        self.out(from, to, now, rng)
    }

    fn inside_of_family(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        now: Instant,
    ) -> Option<SocketAddr> {
        if to.is_ipv6() && self.gives != Gives::Nothing {
            return Some(to);
        }
        self.inside(from, to, now)
    }
}
