//! What the node says about itself.

use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use ipnetwork::Ipv6Network;
use routing::{LinkId, LinkView, Metric, NeighbourState, RouteView, Trust};
use wireguard::{Class, Endpoint, Kind, PublicKey};

use super::{
    CommandError, Node, Seen, Since, paths,
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
            warnings: self.all_warnings(),
            control: None,
            workloads: self.workloads(now),
            network: Some(self.network_report(now)).filter(admin::Network::is_shown),
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
        let may_come = matches!(
            entry.origin,
            Origin::Allowed | Origin::Member | Origin::Stranger
        );
        if entry.origin == Origin::Guest || may_come && counters.last_handshake.is_none() {
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

    /// What needs attention: by the configuration, and by what has happened.
    fn all_warnings(&self) -> Vec<admin::Warning> {
        let alarms = self
            .alarms
            .iter()
            .map(|(code, text)| admin::Warning::new(*code, text));
        let nat = self.nat_warnings();
        self.warnings
            .iter()
            .cloned()
            .chain(alarms)
            .chain(nat)
            .chain(self.membership_warnings())
            .collect()
    }

    /// How packets reach a peer now.
    pub fn path(&self, key: &PublicKey) -> Path {
        let Some(session) = self
            .device
            .session(key)
            .filter(|session| session.is_established())
        else {
            return Path::none();
        };
        let entry = self.peers.get(key);
        match (entry.map(|entry| entry.path), session.endpoint()) {
            (Some(paths::Path::Relayed(link)), _) => {
                let via = self.links.get(link).map(|link| self.label(&link.peer));
                let hops = entry.and_then(|entry| entry.stats.hops());
                Path::relay(via.into_iter().collect(), hops)
            }
            (_, Some(Endpoint::Underlay(underlay))) if underlay.is_stream() => {
                Path::stream(underlay.remote)
            }
            (_, Some(Endpoint::Underlay(underlay))) => Path::direct(underlay.remote),
            (_, Some(Endpoint::Overlay(_)) | None) => Path::none(),
        }
    }

    /// The links of this node.
    pub fn links(&self, now: Instant) -> Vec<admin::Link> {
        let views: BTreeMap<LinkId, LinkView> =
            self.router.links().map(|view| (view.link, view)).collect();
        let cost = |metric: Metric| metric.is_finite().then_some(metric.0);
        let mut links: Vec<admin::Link> = self
            .links
            .iter()
            .filter_map(|(id, link)| {
                let view = views.get(&id)?;
                Some(admin::Link {
                    peer: self.label(&link.peer),
                    address: self.address_of(&link.peer),
                    endpoint: Some(link.endpoint.remote),
                    state: match view.state {
                        NeighbourState::Up => admin::LinkState::Up,
                        NeighbourState::Suspect => admin::LinkState::Suspect,
                        NeighbourState::Down => admin::LinkState::Down,
                    },
                    rtt_ms: view.rtt.map(|micros| f64::from(micros) / 1000.0),
                    rxcost: cost(view.rxcost),
                    txcost: cost(view.txcost),
                    since_s: now.saturating_duration_since(view.since).as_secs(),
                    id: id.0,
                    mtu: u16::try_from(link.liveness.mtu()).unwrap_or(u16::MAX),
                    rx_bytes: link.counters.rx_bytes,
                    tx_bytes: link.counters.tx_bytes,
                    rx_packets: link.counters.rx_packets,
                    tx_packets: link.counters.tx_packets,
                })
            })
            .collect();
        links.sort_by(|a, b| (&a.peer, a.endpoint).cmp(&(&b.peer, b.endpoint)));
        links
    }

    /// The route table, the selected route of each prefix first.
    pub fn routes(&self) -> Vec<admin::Route> {
        let mut routes: Vec<admin::Route> =
            self.router.routes().map(|view| self.route(&view)).collect();
        routes.sort_by_key(|route| {
            let metric = route.metric.unwrap_or(u16::MAX);
            (route.prefix, !route.selected, !route.feasible, metric)
        });
        routes
    }

    fn route(&self, view: &RouteView) -> admin::Route {
        let link = view.via.map(|(link, _)| link);
        let peer = link
            .and_then(|link| self.links.get(link))
            .map(|link| link.peer);
        let why = match (view.is_selected, view.is_feasible, view.metric.is_finite()) {
            _ if view.via.is_none() => "our own",
            (true, _, _) => "best",
            (false, _, false) if !view.advertised.is_finite() => "retracted",
            (false, _, false) => "its neighbour is down",
            (false, false, true) => "might loop",
            (false, true, true) => "longer",
        };
        admin::Route {
            prefix: view.prefix,
            selected: view.is_selected,
            metric: view.metric.is_finite().then_some(view.metric.0),
            next_hop: link.and_then(|link| self.neighbour_at(link)),
            router_id: view.router_id.to_string(),
            feasible: view.is_feasible,
            age_s: view.age.as_secs(),
            origin: match (view.via, view.trust) {
                (None, _) => admin::RouteOrigin::Own,
                (Some(_), Trust::Proven) => admin::RouteOrigin::Proven,
                (Some(_), Trust::Stub) => admin::RouteOrigin::Own,
                (Some(_), Trust::Legacy) => admin::RouteOrigin::Legacy,
            },
            via: peer.map(|peer| self.label(&peer)),
            link: link.map(|link| link.0),
            why: why.to_owned(),
        }
    }

    /// What has happened, from that event on.
    pub fn events(&self, from: u64) -> Since {
        self.history.since(from)
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
        let member = || {
            let by_name = self.roll().named(target);
            let node = match by_name {
                Some(key) => self.node_of(key)?,
                None => self.member_at(target.parse().ok()?)?,
            };
            let address = target.parse().unwrap_or_else(|_| node.address());
            Some((node.public_key(), address))
        };
        by_name()
            .or_else(by_address)
            .or_else(member)
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

    /// Whether packets to every address of this prefix have a way: it is ours, an open session owns it, or there is a route.
    pub fn has_route(&self, prefix: Ipv6Network) -> bool {
        let covers = |owned: &Ipv6Network| prefix.is_subnet_of(*owned);
        covers(&self.identity.node().prefix())
            || self
                .routes
                .iter()
                .any(|(routed, link)| link.is_some() && covers(routed))
            || self
                .peers
                .iter()
                .any(|(key, entry)| entry.allowed.iter().any(covers) && self.is_open_with(key))
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
                    Origin::Peer
                    | Origin::Allowed
                    | Origin::Member
                    | Origin::Stranger
                    | Origin::Guest => return None,
                },
                endpoint: session.endpoint().and_then(|endpoint| endpoint.remote()),
                last_handshake_s: session.counters().last_handshake.map(since),
            })
        };
        let mut devices: Vec<admin::Device> = self.peers.iter().filter_map(device).collect();
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        devices
    }

    /// Where and when everybody with a name was last heard of, and those without that are worth it, to be remembered over a restart.
    pub fn seen(&self, now: Instant) -> BTreeMap<PublicKey, Seen> {
        let named = self
            .peers
            .iter()
            .filter(|(_, entry)| entry.origin.is_named());
        let seen = |key: &PublicKey| {
            let fresh = || {
                let session = self.device.session(key)?;
                let age = now.saturating_duration_since(session.counters().last_received?);
                let at = session.endpoint()?;
                let endpoints = match at.class() {
                    Class::Underlay => at.remote().into_iter().collect(),
                    // It was reached through other nodes.
                    Class::Overlay => Vec::new(),
                    // Where its end of a stream is says nothing about where it takes datagrams.
                    Class::Stream => self.seen.get(key).cloned().unwrap_or_default().endpoints,
                };
                Some(Seen { endpoints, age })
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
            .chain(self.worth_remembering(now))
            .collect()
    }

    /// What the log calls a peer.
    pub(super) fn label(&self, key: &PublicKey) -> String {
        self.peers
            .get(key)
            .map_or_else(|| key.short(), |entry| entry.name.clone())
    }
}

/// A duration as milliseconds, for people.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
