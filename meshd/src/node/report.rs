//! What the node says about itself.

use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use ipnetwork::Ipv6Network;
use wireguard::{Kind, PublicKey};

use super::{
    CommandError, Node, Seen,
    peers::{Entry, Names, Origin},
};
use crate::admin::{self, Path, PeerKind};

impl Node {
    /// Everything that `meshd status` shows.
    pub fn status(&mut self, now: Instant) -> admin::Status {
        let node = self.identity.node();
        admin::Status {
            node: admin::Node {
                name: self.name.clone(),
                address: node.address(),
                prefix: node.prefix(),
                peer_id: node.peer_id(),
                public_key: node.public_key(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_s: now.saturating_duration_since(self.started).as_secs(),
            },
            interface: admin::Interface {
                name: self.interface.name.clone(),
                mtu: self.interface.mtu,
            },
            peers: self.reports(now),
            drops: self.discards.by_name(),
            warnings: self.warnings.clone(),
        }
    }

    /// Everybody the node knows; those that may come but never did are left out.
    pub fn reports(&mut self, now: Instant) -> Vec<admin::Peer> {
        self.measure_again(now);
        let mut peers: Vec<admin::Peer> = self
            .peers
            .iter()
            .filter_map(|(key, entry)| self.report(key, entry, now))
            .collect();
        peers.sort_by(|a, b| {
            (a.kind == PeerKind::Stock, &a.name).cmp(&(b.kind == PeerKind::Stock, &b.name))
        });
        peers
    }

    fn report(&self, key: &PublicKey, entry: &Entry, now: Instant) -> Option<admin::Peer> {
        let counters = self.device.session(key)?.counters();
        if matches!(entry.origin, Origin::Allowed | Origin::Stranger)
            && counters.last_handshake.is_none()
        {
            return None;
        }
        let age = |since: Option<Instant>| {
            since.map(|since| now.saturating_duration_since(since).as_secs())
        };
        let path = self.path(key);
        Some(admin::Peer {
            name: entry.name.clone(),
            address: entry.address,
            public_key: *key,
            kind: match entry.kind() {
                Kind::Mesh => PeerKind::Mesh,
                Kind::Stock => PeerKind::Stock,
            },
            reason: (path.kind == admin::PathKind::None).then(|| self.why_unreachable(key, entry)),
            path,
            rtt_ms: entry.rtt.map(|rtt| millis(rtt.time)),
            loss: counters.loss,
            rx_bytes: counters.rx_bytes,
            tx_bytes: counters.tx_bytes,
            last_handshake_s: age(counters.last_handshake),
            seen_s: age(counters.last_received).or_else(|| {
                let seen = self.seen.get(key)?;
                Some((seen.age + now.saturating_duration_since(self.started)).as_secs())
            }),
        })
    }

    fn why_unreachable(&self, key: &PublicKey, entry: &Entry) -> String {
        let heard = self
            .device
            .session(key)
            .and_then(|session| session.endpoint());
        let tried = entry.endpoints.iter().map(ToString::to_string);
        let tried: Vec<String> = tried
            .chain(heard.map(|endpoint| endpoint.to_string()))
            .collect();
        match entry.kind() {
            Kind::Stock => "not connected".to_owned(),
            Kind::Mesh if tried.is_empty() && !self.seen.contains_key(key) => {
                "it has to call: no endpoint is configured".to_owned()
            }
            Kind::Mesh if entry.names == Names::Unknown => {
                format!("{} does not resolve", tried.join(", "))
            }
            Kind::Mesh => format!("no answer from {}", tried.join(", ")),
        }
    }

    /// How packets reach a peer now.
    pub fn path(&self, key: &PublicKey) -> Path {
        let session = self
            .device
            .session(key)
            .filter(|session| session.is_established());
        session
            .and_then(|session| session.endpoint())
            .map_or_else(Path::none, |endpoint| Path::direct(endpoint.remote))
    }

    /// The peer with this name or overlay address, and the address to reach it at.
    ///
    /// # Errors
    /// [`CommandError::NoSuchName`].
    pub fn find(&self, target: &str) -> Result<(PublicKey, Ipv6Addr), CommandError> {
        let by_name = || {
            self.peers
                .iter()
                .find(|(_, entry)| entry.name == target)
                .map(|(key, entry)| (*key, entry.address))
        };
        let by_address = || {
            let address: Ipv6Addr = target.parse().ok()?;
            let owner = self
                .peers
                .iter()
                .find(|(_, entry)| entry.allowed.iter().any(|prefix| prefix.contains(address)));
            owner.map(|(key, _)| (*key, address))
        };
        by_name()
            .or_else(by_address)
            .ok_or_else(|| CommandError::NoSuchName(target.to_owned()))
    }

    /// Whether a session with the peer of this name or address is open.
    ///
    /// # Errors
    /// [`CommandError::NoSuchName`].
    pub fn is_open(&self, target: &str) -> Result<bool, CommandError> {
        let (key, _) = self.find(target)?;
        Ok(self
            .device
            .session(&key)
            .is_some_and(|session| session.is_established()))
    }

    /// Whether packets to every address of this prefix have a way: it is ours, or an open session owns it.
    pub fn has_route(&self, prefix: Ipv6Network) -> bool {
        let covers = |owned: &Ipv6Network| prefix.is_subnet_of(*owned);
        covers(&self.identity.node().prefix())
            || self.peers.iter().any(|(key, entry)| {
                entry.allowed.iter().any(covers)
                    && self
                        .device
                        .session(key)
                        .is_some_and(|session| session.is_established())
            })
    }

    /// The stock WireGuard devices of this node.
    pub fn devices(&self, now: Instant) -> Vec<admin::Device> {
        let device = |(key, entry): (&PublicKey, &Entry)| {
            let session = self.device.session(key)?;
            let since = |since: Instant| now.saturating_duration_since(since).as_secs();
            Some(admin::Device {
                name: entry.name.clone(),
                public_key: *key,
                allowed: entry.allowed.clone(),
                origin: match entry.origin {
                    Origin::Stock => admin::DeviceOrigin::Config,
                    Origin::Added => admin::DeviceOrigin::Added,
                    Origin::Peer | Origin::Allowed | Origin::Stranger => return None,
                },
                endpoint: session.endpoint().map(|endpoint| endpoint.remote),
                last_handshake_s: session.counters().last_handshake.map(since),
            })
        };
        let mut devices: Vec<admin::Device> = self.peers.iter().filter_map(device).collect();
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        devices
    }

    /// Where and when everybody with a name was last heard of, to be remembered over a restart.
    pub fn seen(&self, now: Instant) -> BTreeMap<PublicKey, Seen> {
        let named = self
            .peers
            .iter()
            .filter(|(_, entry)| entry.origin != Origin::Stranger);
        let seen = |key: &PublicKey| {
            let fresh = || {
                let session = self.device.session(key)?;
                let age = now.saturating_duration_since(session.counters().last_received?);
                Some(Seen {
                    endpoints: vec![session.endpoint()?.remote],
                    age,
                })
            };
            let remembered = || {
                let seen = self.seen.get(key)?;
                Some(Seen {
                    age: seen.age + now.saturating_duration_since(self.started),
                    ..seen.clone()
                })
            };
            fresh().or_else(remembered)
        };
        named
            .filter_map(|(key, _)| Some((*key, seen(key)?)))
            .collect()
    }

    /// What the log calls a peer.
    pub(super) fn label(&self, key: &PublicKey) -> String {
        self.peers
            .get(key)
            .map_or_else(|| key.short(), |entry| entry.name.clone())
    }

    /// This node's WireGuard public key and MTU, for a device that joins.
    pub fn gateway(&self) -> (PublicKey, u16) {
        (self.identity.node().public_key(), self.interface.mtu)
    }
}

/// A duration as milliseconds, for people.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
