//! One router, whose neighbours the test plays.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "each test binary uses a part of this; a test may fail by panic"
)]

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;
use routing::extension::Extension;
use routing::origin::{Origins, Own, Owner};
use routing::sim::{millis, owner};
use routing::wire::{HelloKind, Packet, PacketWriter, Tlv, Update};
use routing::{
    Cast, Config, Event, FibAction, Interval, LinkConfig, LinkId, Metric, Peer, Router, RouterId,
    Seqno,
};

/// Links to neighbours: see [`Lab::with_neighbours`].
pub const A: LinkId = LinkId(1);
pub const B: LinkId = LinkId(2);
pub const C: LinkId = LinkId(3);
/// A node behind our neighbours.
pub const FAR: usize = 9;

/// Its prefix.
pub fn far() -> Ipv6Network {
    owner(FAR).prefix
}

/// Our own number among the nodes: see [`owner`].
pub const US: usize = 0;
const MTU: u16 = 1_420;

/// The overlay block.
pub fn overlay() -> Ipv6Network {
    "600::/8".parse().unwrap()
}

/// A prefix from its text.
pub fn net(text: &str) -> Ipv6Network {
    text.parse().unwrap()
}

/// The secrets of a node, in its newest epoch after `last`.
pub fn own(node: usize, last: Option<u32>) -> Own {
    let mut seed = [0x77; 32];
    seed[..8].copy_from_slice(&(node as u64).to_be_bytes());
    Own::new(&seed, owner(node), last)
}

pub fn address(node: usize) -> Ipv6Addr {
    Ipv6Addr::from((0xfe80_u128 << 112) | (node as u128 + 1))
}

/// What was sent, in a form that can be kept.
#[derive(Clone, Debug)]
pub struct Sent {
    pub at: Instant,
    pub link: LinkId,
    pub to: Cast,
    pub packet: Vec<u8>,
}

impl Sent {
    pub fn tlvs(&self) -> Vec<Tlv<'_>> {
        let packet = Packet::parse(&self.packet).unwrap();
        let mut tlvs = packet.tlvs(address(US));
        let all = tlvs.by_ref().collect();
        assert_eq!(tlvs.skipped().total(), 0, "nothing of ours is skipped");
        all
    }
}

/// How a neighbour behaves by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// It says Hello, hears us, and acknowledges.
    Good,
    /// It says Hello and hears us, but does not acknowledge.
    NoAcks,
    /// It says nothing by itself.
    Silent,
}

#[derive(Debug)]
pub struct Neighbour {
    pub node: usize,
    pub address: Ipv6Addr,
    pub manners: Manners,
    pub hello: Duration,
    pub hello_seqno: u16,
    pub rxcost: Metric,
    next_hello: Instant,
}

/// A router and the neighbours that the test plays.
#[derive(Debug)]
pub struct Lab {
    pub router: Router,
    pub now: Instant,
    pub start: Instant,
    pub sent: Vec<Sent>,
    pub events: Vec<Event>,
    pub neighbours: BTreeMap<LinkId, Neighbour>,
    pub origins: BTreeMap<usize, Origins>,
    /// Whether jobs are done, and records shown.
    pub verifies: bool,
}

impl Lab {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(adjust: impl Fn(&mut Config)) -> Self {
        let start = Instant::now();
        let mut config = Config::new(overlay());
        adjust(&mut config);
        let mut lab = Self {
            router: Router::new(config, own(US, None), 1, start),
            now: start,
            start,
            sent: Vec::new(),
            events: Vec::new(),
            neighbours: BTreeMap::new(),
            origins: BTreeMap::new(),
            verifies: true,
        };
        lab.router.announce(owner(US).prefix, start);
        lab.drain();
        lab
    }

    /// A router with so many neighbours that run the same program, all up: links 1, 2, … to nodes 1, 2, …
    pub fn with_neighbours(count: usize) -> Self {
        let mut lab = Self::new();
        for node in 1..=count {
            lab.meshd(node);
        }
        lab.run(millis(100));
        lab.forget();
        lab
    }

    /// A link to a node that runs the same program, with the number of the node.
    pub fn meshd(&mut self, node: usize) -> LinkId {
        let peer = owner(node).router_id;
        let config = LinkConfig::meshd(address(US), address(node), peer, MTU);
        self.link(node, config)
    }

    /// A link to a plain Babel speaker.
    pub fn stock(&mut self, node: usize, peer: Peer) -> LinkId {
        self.link(node, LinkConfig::stock(address(US), peer, MTU))
    }

    pub fn link(&mut self, node: usize, config: LinkConfig) -> LinkId {
        let id = LinkId(node as u32);
        let hello = config.hello;
        self.neighbours.insert(
            id,
            Neighbour {
                node,
                address: address(node),
                manners: Manners::Good,
                hello,
                hello_seqno: 100,
                rxcost: Metric(96),
                next_hello: self.now,
            },
        );
        self.router.add_link(id, config, self.now);
        self.drain();
        id
    }

    pub fn neighbour(&mut self, link: LinkId) -> &mut Neighbour {
        self.neighbours.get_mut(&link).unwrap()
    }

    /// What node `node` knows as an origin.
    pub fn origin(&mut self, node: usize) -> &mut Origins {
        self.origins
            .entry(node)
            .or_insert_with(|| Origins::new(own(node, None), 10))
    }

    /// A route to a node's prefix, with a genuine proof, its seqno `ahead` of the origin's first.
    pub fn route(&mut self, to: usize, ahead: u16, metric: u16) -> Update {
        let Owner { router_id, prefix } = owner(to);
        let origin = self.origin(to);
        let first = origin.own().record().base();
        let seqno = first.plus(ahead);
        while seqno.is_newer_than(origin.own().seqno()) {
            origin.bump();
        }
        let proof = origin.proof(router_id, seqno, Metric(metric));
        Update {
            prefix: Some(prefix),
            router_id: Some(router_id),
            next_hop: address(US),
            interval: Some(Interval(30_000)),
            seqno,
            metric: Metric(metric),
            proof: proof.map(|proof| proof.encode()),
        }
    }

    /// A route without a proof.
    pub fn plain(prefix: Ipv6Network, router_id: u8, seqno: u16, metric: u16) -> Update {
        Update {
            prefix: Some(prefix),
            router_id: Some(RouterId([router_id; 8])),
            next_hop: address(US),
            interval: Some(Interval(1_600)),
            seqno: Seqno(seqno),
            metric: Metric(metric),
            proof: None,
        }
    }

    /// The neighbour on a link announces a route to a node's prefix.
    pub fn hear(&mut self, link: LinkId, to: usize, ahead: u16, metric: u16) {
        let update = self.route(to, ahead, metric);
        self.say(link, &[Tlv::Update(update)]);
    }

    /// The neighbour on a link retracts its route.
    pub fn hear_retraction(&mut self, link: LinkId, prefix: Ipv6Network) {
        let update = Update {
            router_id: None,
            metric: Metric::INFINITY,
            ..Self::plain(prefix, 1, 0, 0)
        };
        self.say(link, &[Tlv::Update(update)]);
    }

    /// The neighbour on a link sends a packet.
    pub fn say(&mut self, link: LinkId, tlvs: &[Tlv<'_>]) {
        let from = self.neighbours[&link].address;
        self.say_from(link, from, tlvs);
    }

    pub fn say_from(&mut self, link: LinkId, from: Ipv6Addr, tlvs: &[Tlv<'_>]) {
        let mut writer = PacketWriter::unicast(MTU, from);
        for tlv in tlvs {
            if let Tlv::Update(update) = tlv {
                let next_hop = from;
                let update = Update {
                    next_hop,
                    ..*update
                };
                writer.push(&Tlv::Update(update)).unwrap();
            } else {
                writer.push(tlv).unwrap();
            }
        }
        for packet in writer.finish() {
            self.say_bytes(link, from, &packet.bytes).unwrap();
        }
    }

    pub fn say_bytes(
        &mut self,
        link: LinkId,
        from: Ipv6Addr,
        bytes: &[u8],
    ) -> Result<(), routing::wire::DecodeError> {
        let read = self.router.handle_packet(
            link,
            from,
            Cast::Unicast(address(US)),
            bytes,
            self.now,
            self.now,
        );
        self.drain();
        read
    }

    /// The neighbour on a link says Hello, and that it hears us.
    pub fn greet(&mut self, link: LinkId) {
        let neighbour = self.neighbours.get_mut(&link).unwrap();
        let seqno = Seqno(neighbour.hello_seqno);
        neighbour.hello_seqno = neighbour.hello_seqno.wrapping_add(1);
        neighbour.next_hello = self.now + neighbour.hello * 9 / 10;
        let interval = Interval::from_duration(neighbour.hello);
        let rxcost = neighbour.rxcost;
        self.say(
            link,
            &[
                Tlv::Hello {
                    kind: HelloKind::Multicast,
                    seqno,
                    interval: Some(interval),
                    sent: None,
                },
                Tlv::Ihu {
                    address: None,
                    rxcost,
                    interval: Interval(interval.0 * 3),
                    echo: None,
                },
            ],
        );
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let hello = self
                .neighbours
                .iter()
                .filter(|(_, neighbour)| neighbour.manners != Manners::Silent)
                .map(|(&link, neighbour)| (neighbour.next_hello.max(self.now), link))
                .min();
            let timeout = self.router.poll_timeout().map(|(at, _)| at.max(self.now));
            let next = timeout.into_iter().chain(hello.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|&next| next <= end) else {
                break;
            };
            self.now = next;
            if timeout == Some(next) {
                self.router.handle_timeout(next);
                self.drain();
            }
            if let Some((at, link)) = hello
                && at == next
            {
                self.greet(link);
            }
        }
        self.now = end;
        self.router.handle_timeout(end);
        self.drain();
    }

    /// Forgets what was sent and what has happened so far.
    pub fn forget(&mut self) {
        self.sent.clear();
        self.events.clear();
    }

    /// All updates that were sent by a link about a prefix.
    pub fn updates(&self, link: LinkId, prefix: Ipv6Network) -> Vec<Update> {
        let of_link = self.sent.iter().filter(|sent| sent.link == link);
        let tlvs = of_link.flat_map(Sent::tlvs);
        tlvs.filter_map(|tlv| match tlv {
            Tlv::Update(update) if update.prefix == Some(prefix) => Some(update),
            _ => None,
        })
        .collect()
    }

    /// The metrics that were announced by a link for a prefix.
    pub fn metrics(&self, link: LinkId, prefix: Ipv6Network) -> Vec<u16> {
        let updates = self.updates(link, prefix);
        updates.iter().map(|update| update.metric.0).collect()
    }

    /// The seqnos that were requested by a link for a prefix, with the hop counts.
    pub fn requested(&self, link: LinkId, prefix: Ipv6Network) -> Vec<(Seqno, u8)> {
        let of_link = self.sent.iter().filter(|sent| sent.link == link);
        let tlvs = of_link.flat_map(Sent::tlvs);
        tlvs.filter_map(|tlv| match tlv {
            Tlv::SeqnoRequest {
                prefix: requested,
                seqno,
                hop_count,
                ..
            } if requested == prefix => Some((seqno, hop_count)),
            _ => None,
        })
        .collect()
    }

    /// Whether something was sent by a link that is like this.
    pub fn has_sent(&self, link: LinkId, is_it: impl Fn(&Tlv<'_>) -> bool) -> bool {
        let mut of_link = self.sent.iter().filter(|sent| sent.link == link);
        of_link.any(|sent| sent.tlvs().iter().any(&is_it))
    }

    /// The link of the route that is selected for a prefix, and the metric.
    pub fn selected(&self, prefix: Ipv6Network) -> Option<(LinkId, u16)> {
        self.router
            .routes()
            .find(|route| route.prefix == prefix && route.is_selected)
            .and_then(|route| Some((route.via?.0, route.metric.0)))
    }

    /// What the FIB was told last about a prefix.
    pub fn fib(&self, prefix: Ipv6Network) -> Option<FibAction> {
        let batches = self.events.iter().filter_map(|event| match event {
            Event::Fib(batch) => Some(batch),
            _ => None,
        });
        let of_prefix = batches.flatten().rev().find(|op| op.prefix == prefix);
        of_prefix.map(|op| op.action)
    }

    /// How much was discarded for this reason.
    pub fn discarded(&self, reason: routing::Reason) -> u64 {
        self.router.discards().count(reason)
    }

    /// Takes out what the router has for us, and plays the neighbours' part.
    pub fn drain(&mut self) {
        loop {
            while let Some(event) = self.router.poll_event() {
                if let Event::Verify { id, job } = &event
                    && self.verifies
                {
                    let outcome = job.run(derive);
                    self.router.handle_outcome(*id, outcome, self.now);
                }
                self.events.push(event);
            }
            let Some(transmit) = self.router.poll_transmit() else {
                break;
            };
            let sent = Sent {
                at: self.now,
                link: transmit.link,
                to: transmit.to,
                packet: transmit.packet.bytes,
            };
            self.reply(&sent);
            self.sent.push(sent);
        }
        self.router.check().unwrap();
    }

    fn reply(&mut self, sent: &Sent) {
        let Some(neighbour) = self.neighbours.get(&sent.link) else {
            return;
        };
        let (acks, from) = (neighbour.manners == Manners::Good, neighbour.address);
        let mut records = Vec::new();
        let mut replies = Vec::new();
        for tlv in sent.tlvs() {
            match tlv {
                Tlv::AckRequest { opaque, .. } if acks => replies.push(Tlv::Ack { opaque }),
                Tlv::Extension(body) if self.verifies => {
                    if let Ok(Extension::RecordRequest { router_id, .. }) = Extension::decode(body)
                    {
                        let known = self.origins.values();
                        let record = known.filter_map(|it| it.record(router_id, None)).next();
                        records.extend(record.map(|it| Extension::Record(it.clone()).encode()));
                    }
                }
                _ => {}
            }
        }
        replies.extend(records.iter().map(|record| Tlv::Extension(record)));
        if !replies.is_empty() {
            let mut writer = PacketWriter::unicast(MTU, from);
            replies.iter().for_each(|tlv| writer.push(tlv).unwrap());
            for packet in writer.finish() {
                self.router
                    .handle_packet(
                        sent.link,
                        from,
                        Cast::Unicast(address(US)),
                        &packet.bytes,
                        self.now,
                        self.now,
                    )
                    .unwrap();
            }
        }
    }
}

/// What belongs to the key of any of the first hundred nodes.
pub fn derive(key: &[u8; 32]) -> Option<Owner> {
    thread_local! {
        static KEYS: BTreeMap<[u8; 32], Owner> = (0..100)
            .map(|node| (*own(node, None).record().key(), owner(node)))
            .collect();
    }
    KEYS.with(|keys| keys.get(key).cloned())
}
