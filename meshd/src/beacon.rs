//! The beacon: how nodes on one link find each other, without I/O. `docs/protocol.md` has the layout.
//!
//! A node says on every link who it is and on which UDP ports it listens. What it says is signed together with the link-local address
//! that it is sent from, and counts only with the hop limit that nothing passes a router with. So a beacon that is repeated elsewhere
//! either comes from the wrong address, or leads to an address at which nobody answers; the WireGuard handshake, which whoever hears
//! a beacon opens, shows that the node is there now. Nobody is answered by a beacon of his own: hearing one makes the next one due a
//! little earlier, no more.
//!
//! Whoever is on the link can learn which nodes are there that look for others; can make nodes call addresses of the link, a few a
//! second; and can drown beacons in forged ones. He cannot be taken for another node, cannot move a session, and cannot
//! have anything sent off the link.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    time::{Duration, Instant},
};

use blake2::{Blake2s256, Digest};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use ipnetwork::Ipv4Network;

use crate::{identity::NodeId, network::Network};

/// Where beacons go on every link: a group of link-local scope that nobody has assigned (RFC 4291 §2.7, RFC 3307 §4.3).
pub const GROUP: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0xed65, 0x7368);
/// UDP port of the group, both ends.
pub const PORT: u16 = 6698;
/// The hop limit that beacons are sent with. One that has passed a router has less (RFC 5082).
pub const HOP_LIMIT: u8 = 255;
/// Longest beacon that is read, in bytes.
pub const MAX_LEN: usize = 512;
/// IPv4 addresses in a beacon.
pub const MAX_ADDRESSES: usize = 4;

const MAGIC: [u8; 4] = *b"mbcn";
const VERSION: u8 = 1;
/// What is signed begins with this: the purpose and its version. The network's id follows, after its length.
const DOMAIN: &[u8] = b"meshd beacon v1";
const SIGNATURE: usize = 64;
/// Everything before the IPv4 addresses.
const HEAD: usize = 60;

/// Pauses after the first beacons on a link, so that two nodes that begin together hear each other although one packet is lost.
const BURST: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// Pause between beacons after that, in the mean.
const PACE: Duration = Duration::from_secs(30);
/// The first beacon leaves within this time, so that many nodes that start together do not all speak at once.
const FIRST: Duration = Duration::from_millis(100);
/// A newcomer hears from us within this time.
const GREETING: Duration = Duration::from_millis(500);
/// And newcomers bring us to speak so often at most.
const GREET_AGAIN: Duration = Duration::from_secs(2);
/// A beacon of the same node is heard again after so long; what comes in between says nothing new.
const HEAR_AGAIN: Duration = Duration::from_secs(5);
/// Nodes of which it is kept in mind that they were heard.
const MAX_HEARD: usize = 256;
/// Beacons verified a second, of all links: 1 % of a processor.
const VERIFIED_PER_SECOND: f64 = 50.0;

/// What a node says on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// Ed25519 public key of the node.
    pub key: [u8; 32],
    /// Random for each run of the daemon: tells a node that has begun anew from one that repeats itself.
    pub run: [u8; 8],
    /// UDP port of its WireGuard socket for IPv6; 0: it has none.
    pub port_v6: u16,
    /// UDP port of its WireGuard socket for IPv4; 0: it has none.
    pub port_v4: u16,
    /// Its IPv4 addresses on the link, [`MAX_ADDRESSES`] at most.
    pub addresses: Vec<Ipv4Addr>,
}

/// Why something that was heard is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It may have passed a router, did not come from a link-local address, or came on a link that we do not speak on.
    #[error("it does not come from the link")]
    OffLink,
    /// It is no beacon, or one of another version.
    #[error("it is no beacon")]
    Malformed,
    /// It is of another network.
    #[error("it is of another network")]
    Foreign,
    /// It is our own.
    #[error("it is our own")]
    Own,
    /// It was heard just now.
    #[error("it was heard just now")]
    Repeated,
    /// More came than are verified.
    #[error("there are too many")]
    TooMany,
    /// Its key cannot be a node's, or has not signed it, or not to be sent from that address.
    #[error("it is not signed by a node at that address")]
    Forged,
}

impl Beacon {
    /// The datagram to send from this link-local address, in that network.
    pub fn sign(&self, seed: &[u8; 32], network: &Network, source: Ipv6Addr) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + 4 * MAX_ADDRESSES + SIGNATURE);
        bytes.extend_from_slice(&MAGIC);
        let addresses = &self.addresses[..self.addresses.len().min(MAX_ADDRESSES)];
        bytes.extend_from_slice(&[VERSION, 0, 0, addresses.len() as u8]);
        bytes.extend_from_slice(&tag(network));
        bytes.extend_from_slice(&self.key);
        bytes.extend_from_slice(&self.run);
        bytes.extend_from_slice(&self.port_v6.to_be_bytes());
        bytes.extend_from_slice(&self.port_v4.to_be_bytes());
        for address in addresses {
            bytes.extend_from_slice(&address.octets());
        }
        let signature = SigningKey::from_bytes(seed).sign(&signed(&bytes, network, source));
        bytes.extend_from_slice(&signature.to_bytes());
        bytes
    }

    /// Reads a datagram of that network, without looking at its signature.
    ///
    /// # Errors
    /// [`Refused::Malformed`], [`Refused::Foreign`].
    pub fn parse(datagram: &[u8], network: &Network) -> Result<Self, Refused> {
        if datagram.len() > MAX_LEN {
            return Err(Refused::Malformed);
        }
        let (body, _) = split(datagram).ok_or(Refused::Malformed)?;
        let (head, rest) = body.split_first_chunk::<HEAD>().ok_or(Refused::Malformed)?;
        let [a, b, c, d, VERSION, _, _, count, ..] = *head else {
            return Err(Refused::Malformed);
        };
        let count = usize::from(count);
        if [a, b, c, d] != MAGIC || count > MAX_ADDRESSES {
            return Err(Refused::Malformed);
        }
        if head[8..16] != tag(network) {
            return Err(Refused::Foreign);
        }
        let addresses = rest.get(..4 * count).ok_or(Refused::Malformed)?;
        let (addresses, _) = addresses.as_chunks::<4>();
        let (mut key, mut run) = ([0; 32], [0; 8]);
        key.copy_from_slice(&head[16..48]);
        run.copy_from_slice(&head[48..56]);
        Ok(Self {
            key,
            run,
            port_v6: u16::from_be_bytes([head[56], head[57]]),
            port_v4: u16::from_be_bytes([head[58], head[59]]),
            addresses: addresses.iter().map(|octets| (*octets).into()).collect(),
        })
    }

    /// Whose beacon a datagram of that network is that was sent from this link-local address. Costs a tenth of a millisecond.
    ///
    /// # Errors
    /// [`Refused::Forged`]: nobody's.
    pub fn verify(
        &self,
        datagram: &[u8],
        network: &Network,
        source: Ipv6Addr,
    ) -> Result<NodeId, Refused> {
        let (body, signature) = split(datagram).ok_or(Refused::Forged)?;
        // The work first: it is cheap.
        let node = NodeId::from_ed25519(self.key).map_err(|_| Refused::Forged)?;
        let key = VerifyingKey::from_bytes(&self.key).map_err(|_| Refused::Forged)?;
        key.verify_strict(
            &signed(body, network, source),
            &Signature::from_bytes(signature),
        )
        .map_err(|_| Refused::Forged)?;
        Ok(node)
    }
}

fn split(datagram: &[u8]) -> Option<(&[u8], &[u8; SIGNATURE])> {
    datagram.split_last_chunk::<SIGNATURE>()
}

/// The bytes under the signature of a beacon.
fn signed(body: &[u8], network: &Network, source: Ipv6Addr) -> Vec<u8> {
    let id = network.id();
    let length = [id.len() as u8];
    [DOMAIN, &length, id.as_bytes(), &source.octets(), body].concat()
}

/// What tells the beacons of one network from those of another: says nothing about the network.
fn tag(network: &Network) -> [u8; 8] {
    let hash = Blake2s256::new()
        .chain_update(b"meshd network v1")
        .chain_update(network.id())
        .finalize();
    let mut tag = [0; 8];
    tag.copy_from_slice(&hash[..8]);
    tag
}

/// An interface on which beacons can be sent and heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index of the interface.
    pub interface: u32,
    /// Our link-local address there.
    pub source: Ipv6Addr,
    /// Our IPv4 addresses there, and their networks.
    pub networks: Vec<Ipv4Network>,
}

/// Whether the node wants to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// It does.
    Loud,
    /// It only listens.
    Silent,
}

/// Who was heard, and where it may be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who.
    pub node: NodeId,
    /// Addresses on the link.
    pub endpoints: Vec<SocketAddr>,
}

/// When to speak, and whom to believe.
#[derive(Debug)]
pub struct Speaker {
    own: Own,
    network: Network,
    voice: Voice,
    links: BTreeMap<u32, Spoken>,
    heard: BTreeMap<[u8; 32], Mention>,
    /// How many may be verified.
    credit: f64,
    since: Instant,
    rng: fastrand::Rng,
}

/// What is the same on all links.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Our Ed25519 public key.
    pub key: [u8; 32],
    /// See [`Beacon::run`].
    pub run: [u8; 8],
    /// See [`Beacon::port_v6`].
    pub port_v6: u16,
    /// See [`Beacon::port_v4`].
    pub port_v4: u16,
}

/// A link, and what has been said on it.
#[derive(Debug)]
struct Spoken {
    link: Link,
    /// Beacons so far, as far as they matter.
    count: usize,
    next: Instant,
    greeted: Option<Instant>,
}

/// When a node was heard.
#[derive(Debug)]
struct Mention {
    run: [u8; 8],
    interface: u32,
    at: Instant,
}

impl Speaker {
    /// Nothing is said until links are known.
    pub fn new(own: Own, seed: u64, now: Instant) -> Self {
        Self {
            own,
            network: Network::default(),
            voice: Voice::Silent,
            links: BTreeMap::new(),
            heard: BTreeMap::new(),
            credit: VERIFIED_PER_SECOND,
            since: now,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// These are the links. On one that is new, or has another address, everything begins anew.
    pub fn set_links(&mut self, links: Vec<Link>, now: Instant) {
        let mut before = std::mem::take(&mut self.links);
        for link in links {
            let old = before
                .remove(&link.interface)
                .filter(|old| old.link.source == link.source);
            let spoken = match old {
                Some(old) => Spoken { link, ..old },
                None => Spoken {
                    link,
                    count: 0,
                    next: now + self.rng_up_to(FIRST),
                    greeted: None,
                },
            };
            self.links.insert(spoken.link.interface, spoken);
        }
    }

    /// Whether the node wants to be found. Who begins to speaks as on a new link.
    pub fn set_voice(&mut self, voice: Voice, now: Instant) {
        if std::mem::replace(&mut self.voice, voice) == Voice::Silent && voice == Voice::Loud {
            let mut rng = self.rng.fork();
            for spoken in self.links.values_mut() {
                spoken.count = 0;
                spoken.next = now + up_to(&mut rng, FIRST);
            }
        }
    }

    /// The node is in this network now. It is to be found anew there, and everybody is new to it.
    pub fn set_network(&mut self, network: Network, now: Instant) {
        if self.network == network {
            return;
        }
        self.network = network;
        self.heard.clear();
        let mut rng = self.rng.fork();
        for spoken in self.links.values_mut() {
            spoken.count = 0;
            spoken.next = now + up_to(&mut rng, FIRST);
        }
    }

    /// When [`Self::poll_beacon`] has something to say next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.voice == Voice::Silent {
            return None;
        }
        self.links.values().map(|spoken| spoken.next).min()
    }

    /// The next beacon that is due, and the link to send it on; call until there is none.
    pub fn poll_beacon(&mut self, now: Instant) -> Option<(Link, Beacon)> {
        if self.voice == Voice::Silent {
            return None;
        }
        let Self {
            own, links, rng, ..
        } = self;
        let spoken = links.values_mut().find(|spoken| spoken.next <= now)?;
        let pause = match BURST.get(spoken.count) {
            Some(pause) => *pause * 7 / 8 + up_to(rng, *pause / 4),
            None => PACE * 3 / 4 + up_to(rng, PACE / 2),
        };
        spoken.count = spoken.count.saturating_add(1);
        spoken.next = now + pause;
        let networks = spoken.link.networks.iter();
        let beacon = Beacon {
            key: own.key,
            run: own.run,
            port_v6: own.port_v6,
            port_v4: own.port_v4,
            addresses: networks
                .map(|network| network.ip())
                .take(MAX_ADDRESSES)
                .collect(),
        };
        Some((spoken.link.clone(), beacon))
    }

    /// Something was heard on an interface.
    ///
    /// # Errors
    /// [`Refused`]: it means nothing to us.
    pub fn handle_datagram(
        &mut self,
        interface: u32,
        source: Ipv6Addr,
        hop_limit: u8,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Heard, Refused> {
        let spoken = self.links.get(&interface).ok_or(Refused::OffLink)?;
        if hop_limit != HOP_LIMIT || !source.is_unicast_link_local() || source == spoken.link.source
        {
            return Err(Refused::OffLink);
        }
        let beacon = Beacon::parse(datagram, &self.network)?;
        if beacon.key == self.own.key {
            return Err(Refused::Own);
        }
        let before = self.heard.get(&beacon.key);
        let is_repeated = before.is_some_and(|before| {
            before.run == beacon.run
                && before.interface == interface
                && now.saturating_duration_since(before.at) < HEAR_AGAIN
        });
        if is_repeated {
            return Err(Refused::Repeated);
        }
        let is_newcomer = before.is_none_or(|before| before.run != beacon.run);
        let endpoints = endpoints(&beacon, source, &spoken.link);
        if !self.may_verify(now) {
            return Err(Refused::TooMany);
        }
        let node = beacon.verify(datagram, &self.network, source)?;
        self.note(&beacon, interface, now);
        if is_newcomer {
            self.greet(interface, now);
        }
        Ok(Heard { node, endpoints })
    }

    fn may_verify(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.since).as_secs_f64() * VERIFIED_PER_SECOND;
        self.credit = (self.credit + gained).min(VERIFIED_PER_SECOND);
        self.since = now;
        if self.credit < 1.0 {
            return false;
        }
        self.credit -= 1.0;
        true
    }

    fn note(&mut self, beacon: &Beacon, interface: u32, now: Instant) {
        let mention = Mention {
            run: beacon.run,
            interface,
            at: now,
        };
        self.heard.insert(beacon.key, mention);
        if self.heard.len() > MAX_HEARD
            && let Some(oldest) = self
                .heard
                .iter()
                .min_by_key(|(_, mention)| mention.at)
                .map(|(key, _)| *key)
        {
            self.heard.remove(&oldest);
        }
    }

    /// Somebody is new on a link: it hears us soon.
    fn greet(&mut self, interface: u32, now: Instant) {
        let soon = now + self.rng_up_to(GREETING);
        let Some(spoken) = self.links.get_mut(&interface) else {
            return;
        };
        let is_early = spoken
            .greeted
            .is_some_and(|greeted| now.saturating_duration_since(greeted) < GREET_AGAIN);
        if !is_early {
            spoken.greeted = Some(now);
            spoken.next = spoken.next.min(soon);
        }
    }

    fn rng_up_to(&mut self, most: Duration) -> Duration {
        up_to(&mut self.rng, most)
    }
}

fn up_to(rng: &mut fastrand::Rng, most: Duration) -> Duration {
    most.mul_f64(rng.f64())
}

/// Where on the link a node may be that has sent this: at the address it was sent from, and at those that are in a network of ours.
fn endpoints(beacon: &Beacon, source: Ipv6Addr, link: &Link) -> Vec<SocketAddr> {
    let v6 = SocketAddrV6::new(source, beacon.port_v6, 0, link.interface);
    let is_shared = |address: &&Ipv4Addr| {
        let mut networks = link.networks.iter();
        networks.any(|network| network.contains(**address) && network.ip() != **address)
    };
    let v4 = beacon.addresses.iter().filter(is_shared);
    let v4 = v4.map(|address| SocketAddr::from((*address, beacon.port_v4)));
    std::iter::once(SocketAddr::V6(v6))
        .chain(v4)
        .filter(|endpoint| endpoint.port() != 0)
        .collect()
}

#[cfg(test)]
mod tests;
