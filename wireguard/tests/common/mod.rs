//! Devices that exchange datagrams in memory, in virtual time.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test binary uses a part of this; a test may fail by panic"
)]

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wireguard::{
    Device, Endpoint, Event, HandshakeError, Kind, Message, Opened, Peer, PrivateKey, PublicKey,
    Reader, SealError, Session, Signals, Transmit, Underlay, Upkeep, Verdict,
};

pub const MTU: usize = 1420;

/// Which engine the devices use.
#[derive(Clone, Copy, Debug)]
pub enum Engine {
    Noise,
    Simulated,
}

/// Makes of one function of an [`Engine`] two tests.
#[macro_export]
macro_rules! both_engines {
    ($($(#[$meta:meta])* fn $name:ident($engine:ident: Engine) $body:block)*) => {
        mod noise {
            use super::*;
            $($(#[$meta])* #[test] fn $name() { super::$name(Engine::Noise) })*
        }
        mod simulated {
            use super::*;
            $($(#[$meta])* #[test] fn $name() { super::$name(Engine::Simulated) })*
        }
        $(fn $name($engine: Engine) $body)*
    };
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn private(node: usize) -> PrivateKey {
    let mut bytes = [0x40; 32];
    bytes[8..16].copy_from_slice(&(node as u64 + 1).to_le_bytes());
    PrivateKey::from_bytes(bytes)
}

pub fn public(node: usize) -> PublicKey {
    private(node).public()
}

/// The overlay address of a node.
pub fn overlay(node: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x600, node as u16, 0, 0, 0, 0, 0, 1)
}

pub fn underlay(node: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, node as u8], 51860))
}

/// How a node configures another.
pub fn peer(node: usize) -> Peer {
    Peer {
        key: public(node),
        preshared: None,
        kind: Kind::Mesh,
        allowed: vec![format!("{}/64", overlay(node)).parse().unwrap()],
        endpoints: vec![Endpoint::unproven(underlay(node))],
        persistent_keepalive: None,
        upkeep: Upkeep::OnDemand,
    }
}

/// An IPv6 packet of `length` bytes in all.
pub fn packet(source: Ipv6Addr, length: usize) -> Vec<u8> {
    let mut packet = vec![0xa5; length];
    packet[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    packet[4..6].copy_from_slice(&u16::try_from(length - 40).unwrap().to_be_bytes());
    packet[6] = 59;
    packet[8..24].copy_from_slice(&source.octets());
    packet
}

#[derive(Clone, Debug)]
pub struct Flight {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub payload: Vec<u8>,
    pub arrival: Instant,
}

pub struct Node {
    pub device: Device,
    pub at: SocketAddr,
    pub inbox: Vec<(Verdict, Vec<u8>)>,
    pub keepalives: usize,
    pub events: Vec<Event>,
    pub refused: Vec<&'static str>,
    pub signals: usize,
    pub timeouts: usize,
}

pub struct Lab {
    pub start: Instant,
    pub now: Instant,
    /// One way.
    pub latency: Duration,
    pub nodes: Vec<Node>,
    pub air: VecDeque<Flight>,
    /// All that was sent: when after the start, by which node, what.
    pub sent: Vec<(Duration, usize, Vec<u8>)>,
    /// (from, to) pairs between which nothing passes.
    pub cuts: BTreeSet<(SocketAddr, SocketAddr)>,
    /// Whether what others send is taken as by a thread of its own, whose signals wait for [`Lab::hear`].
    pub threads: Threads,
    /// Signals that wait: which node has to look at whom.
    pub unheard: Vec<(usize, PublicKey)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    One,
    Two,
}

/// What a step of a handshake came to.
#[derive(Debug)]
pub struct Step {
    pub result: Result<(), HandshakeError>,
    pub signals: Signals,
    pub sent: VecDeque<Transmit>,
}

/// Takes a handshake message for a session, as a thread does that has no device.
pub fn step(
    reader: &Reader,
    session: &Arc<Session>,
    from: Endpoint,
    datagram: &[u8],
    now: Instant,
) -> Step {
    let mut sent = VecDeque::new();
    let mut signals = Signals::default();
    let result = reader
        .read(datagram, |_| session.admit(now))
        .and_then(|author| {
            let mut batch = session.lock(now);
            let result = batch.handle_handshake(author, from, datagram, &mut sent);
            signals = batch.finish();
            result
        });
    Step {
        result,
        signals,
        sent,
    }
}

impl Lab {
    pub fn new(engine: Engine, nodes: usize) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "some instant has to be the first; only differences matter"
        )]
        let start = Instant::now();
        let nodes = (0..nodes)
            .map(|node| Node {
                device: device(engine, node, 1),
                at: underlay(node),
                inbox: Vec::new(),
                keepalives: 0,
                events: Vec::new(),
                refused: Vec::new(),
                signals: 0,
                timeouts: 0,
            })
            .collect();
        Self {
            start,
            now: start,
            latency: Duration::from_millis(10),
            nodes,
            air: VecDeque::new(),
            sent: Vec::new(),
            cuts: BTreeSet::new(),
            threads: Threads::One,
            unheard: Vec::new(),
        }
    }

    /// Two nodes that know each other and have nothing to say yet.
    pub fn pair(engine: Engine) -> Self {
        Self::pair_with(engine, |_| {})
    }

    pub fn pair_with(engine: Engine, mut change: impl FnMut(&mut Peer)) -> Self {
        let mut lab = Self::new(engine, 2);
        for (node, other) in [(0, 1), (1, 0)] {
            let mut peer = peer(other);
            change(&mut peer);
            lab.add(node, peer);
        }
        lab
    }

    /// Two nodes with a session that node 0 asked for.
    pub fn connected(engine: Engine) -> Self {
        let mut lab = Self::pair(engine);
        lab.initiate(0, 1);
        lab.run(Duration::from_millis(100));
        assert!(lab.session(0, 1).is_established() && lab.session(1, 0).is_established());
        lab
    }

    /// Another device of the same node, which remembers nothing but knows what time it is.
    pub fn restarted(&self, engine: Engine, node: usize, seed: u64) -> Device {
        let mut device = device(engine, node, seed);
        device.handle_wall_clock(secs(1) + (self.now - self.start), self.now);
        device
    }

    pub fn add(&mut self, node: usize, peer: Peer) {
        self.nodes[node].device.add_peer(peer, self.now).unwrap();
        self.drain(node);
    }

    pub fn initiate(&mut self, node: usize, other: usize) {
        self.nodes[node].device.initiate(&public(other), self.now);
        self.drain(node);
    }

    pub fn session(&self, node: usize, other: usize) -> Arc<Session> {
        Arc::clone(self.nodes[node].device.session(&public(other)).unwrap())
    }

    pub fn endpoint(&self, node: usize, other: usize) -> Option<SocketAddr> {
        self.session(node, other)
            .lock(self.now)
            .endpoint()
            .and_then(|endpoint| endpoint.remote())
    }

    /// Seals a packet of the node's own and lets it fly.
    pub fn send(&mut self, node: usize, other: usize) -> Result<(), SealError> {
        let flight = self.seal(node, other, &packet(overlay(node), 100))?;
        self.launch(node, flight);
        Ok(())
    }

    pub fn seal(&mut self, node: usize, other: usize, packet: &[u8]) -> Result<Flight, SealError> {
        let mut out = vec![0; packet.len() + 48];
        let session = self.session(node, other);
        let mut batch = session.lock(self.now);
        let sealed = batch.seal(packet, MTU, &mut out);
        let endpoint = batch.endpoint();
        self.signal(node, other, batch.finish());
        out.truncate(sealed?);
        let to = endpoint.unwrap().remote().unwrap();
        Ok(Flight {
            from: self.nodes[node].at,
            to,
            payload: out,
            arrival: self.now + self.latency,
        })
    }

    fn signal(&mut self, node: usize, other: usize, signals: Signals) {
        if signals.any() {
            self.nodes[node].signals += 1;
            self.nodes[node]
                .device
                .handle_signal(&public(other), self.now);
            self.drain(node);
        }
    }

    pub fn launch(&mut self, node: usize, flight: Flight) {
        self.sent
            .push((self.now - self.start, node, flight.payload.clone()));
        if !self.cuts.contains(&(flight.from, flight.to)) {
            self.air.push_back(flight);
        }
    }

    pub fn drain(&mut self, node: usize) {
        while let Some(transmit) = self.nodes[node].device.poll_transmit() {
            let (from, arrival) = (self.nodes[node].at, self.now + self.latency);
            self.launch(
                node,
                Flight {
                    from,
                    to: transmit.endpoint.remote().unwrap(),
                    payload: transmit.payload,
                    arrival,
                },
            );
        }
        while let Some(event) = self.nodes[node].device.poll_event() {
            self.nodes[node].events.push(event);
        }
    }

    /// Gives a datagram to a node as if it came from `from`.
    pub fn deliver(&mut self, node: usize, from: SocketAddr, datagram: &[u8]) {
        let from = Endpoint::Underlay(Underlay {
            remote: from,
            local: Some(self.nodes[node].at.ip()),
            socket: 0,
        });
        if let Some(Message::Data { receiver, .. }) = Message::of(datagram) {
            let found = self.nodes[node].device.receiver(receiver).cloned();
            let Some(session) = found else {
                self.nodes[node].refused.push("no such session");
                return;
            };
            let mut out = vec![0; datagram.len()];
            let mut batch = session.lock(self.now);
            match batch.open(from, datagram, &mut out) {
                Ok(Opened::Keepalive) => self.nodes[node].keepalives += 1,
                Ok(Opened::Packet { verdict, packet }) => {
                    self.nodes[node].inbox.push((verdict, packet.to_vec()))
                }
                Err(error) => self.nodes[node].refused.push(error.reason()),
            }
            let signals = batch.finish();
            if signals.any() {
                self.nodes[node].signals += 1;
                self.nodes[node]
                    .device
                    .handle_signal(session.key(), self.now);
            }
        } else if let Err(error) = self.handshake(node, from, datagram) {
            self.nodes[node].refused.push(error.reason());
        }
        self.drain(node);
    }

    pub fn handshake(
        &mut self,
        node: usize,
        from: Endpoint,
        datagram: &[u8],
    ) -> Result<(), HandshakeError> {
        match self.threads {
            Threads::One => self.nodes[node]
                .device
                .handle_datagram(from, datagram, self.now),
            Threads::Two => self.step(node, from, datagram),
        }
    }

    /// As [`Self::handshake`], on another thread.
    fn step(&mut self, node: usize, from: Endpoint, datagram: &[u8]) -> Result<(), HandshakeError> {
        let reader = self.nodes[node].device.reader();
        let session = self.session(node, 1 - node);
        let step = step(reader, &session, from, datagram, self.now);
        for transmit in step.sent {
            let flight = Flight {
                from: self.nodes[node].at,
                to: transmit.endpoint.remote().unwrap(),
                payload: transmit.payload,
                arrival: self.now + self.latency,
            };
            self.launch(node, flight);
        }
        if step.signals.any() {
            self.unheard.push((node, *session.key()));
        }
        step.result
    }

    /// Lets the devices look at what the other thread did.
    pub fn hear(&mut self) {
        for (node, peer) in std::mem::take(&mut self.unheard) {
            self.nodes[node].device.handle_signal(&peer, self.now);
            self.drain(node);
        }
    }

    /// Lets virtual time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _ in 0..200_000 {
            let arrival = self.air.iter().map(|flight| flight.arrival).min();
            let timeout = self
                .nodes
                .iter()
                .filter_map(|node| node.device.poll_timeout())
                .map(|(due, _)| due)
                .min();
            let Some(next) = [arrival, timeout]
                .into_iter()
                .flatten()
                .min()
                .filter(|&next| next <= end)
            else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            if let Some(first) = self
                .air
                .iter()
                .position(|flight| flight.arrival <= self.now)
            {
                let flight = self.air.remove(first).unwrap();
                if let Some(node) = self.nodes.iter().position(|node| node.at == flight.to) {
                    self.deliver(node, flight.from, &flight.payload);
                }
                continue;
            }
            for node in 0..self.nodes.len() {
                if self.nodes[node]
                    .device
                    .poll_timeout()
                    .is_some_and(|(due, _)| due <= self.now)
                {
                    self.nodes[node].timeouts += 1;
                    self.nodes[node].device.handle_timeout(self.now);
                    self.drain(node);
                    let next = self.nodes[node].device.poll_timeout();
                    assert!(
                        next.is_none_or(|(due, _)| due > self.now),
                        "a deadline that was handled is still due: {next:?}"
                    );
                }
            }
        }
        panic!("too much happens in {duration:?}");
    }

    pub fn cut(&mut self, node: usize, other: usize) {
        for (from, to) in [(node, other), (other, node)] {
            self.cuts.insert((self.nodes[from].at, self.nodes[to].at));
        }
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// When, in seconds after the start, a node sent messages of a type.
    pub fn times(&self, node: usize, kind: u8) -> Vec<f64> {
        let of_kind =
            |&&(_, by, ref payload): &&(Duration, usize, Vec<u8>)| by == node && payload[0] == kind;
        self.sent
            .iter()
            .filter(of_kind)
            .map(|(at, ..)| at.as_secs_f64())
            .collect()
    }

    /// The last message of a type that a node sent.
    pub fn last(&self, node: usize, kind: u8) -> Vec<u8> {
        self.sent
            .iter()
            .rev()
            .find(|(_, by, payload)| *by == node && payload[0] == kind)
            .unwrap()
            .2
            .clone()
    }
}

pub fn device(engine: Engine, node: usize, seed: u64) -> Device {
    match engine {
        Engine::Noise => Device::new(private(node), seed + node as u64),
        Engine::Simulated => Device::simulated(private(node), seed + node as u64),
    }
}

pub fn at(remote: SocketAddr) -> Endpoint {
    Endpoint::Underlay(Underlay {
        remote,
        local: None,
        socket: 0,
    })
}
