//! From [`Config`] to [`Settings`]: every rule that a configuration has to obey.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU32};
use std::path::Path;

use filter::Ports;
use ipnetwork::Ipv6Network;
use names::{Directory, is_label};
use wireguard::PublicKey;

use super::address::{HostPort, ListenAddress, PeerAddress};
use super::fault::Fault;
use super::settings::{
    Admission, ApiSettings, ControlSettings, DnsSettings, InterfaceSettings, LogSettings,
    PeerSettings, RelaySettings, Settings, StockRouting, StockSettings, StreamListen,
    WorkloadSettings,
};
use super::{
    AUTO, Config, Dns, Endpoints, MAX_QUEUES, NETWORK_LABEL, Peer, Stock, Trust, Workload,
};
use crate::admin::{Warning, WarningCode};
use crate::identity::{
    DERIVATION, NodeId, leaf_address, overlay, resolver_address, workload_address,
};
use crate::workload::{MAX_PUBLISHED, MAX_WORKLOADS, Target};

/// Sockets that one daemon opens at most; an [`Endpoint`](wireguard) numbers them in a byte.
const MAX_LISTEN: usize = 16;
/// Links to one peer at most: further ways to reach it would only cost hellos.
const MAX_ENDPOINTS: usize = 8;
/// Least MTU of an IPv6 link (RFC 8200 §5).
const MIN_MTU: u16 = 1280;
/// Largest packet that fits a UDP datagram over IPv4 (65,507 bytes) with the 32 bytes that WireGuard adds.
const MAX_MTU: u16 = 65_475;

/// Checks everything and names every fault, not only the first. Without `own`, what depends on our key is left out.
pub(super) fn check(config: &Config, own: Option<NodeId>) -> Result<Settings, Vec<Fault>> {
    let mut check = Check {
        own,
        ..Check::default()
    };
    let settings = check.settings(config);
    if check.faults.is_empty() {
        Ok(settings)
    } else {
        Err(check.faults)
    }
}

#[derive(Default)]
pub(super) struct Check {
    own: Option<NodeId>,
    faults: Vec<Fault>,
    warnings: Vec<Warning>,
    /// Who has a name, a key, an address: the key of the configuration that gave it.
    names: BTreeMap<String, String>,
    keys: BTreeMap<PublicKey, String>,
    allowed: Vec<(Ipv6Network, String)>,
}

impl Check {
    fn settings(&mut self, config: &Config) -> Settings {
        let name = self.node_name(&config.node.name);
        let peers = config.peers.iter().enumerate();
        let peers = peers
            .filter_map(|(i, peer)| self.peer(&format!("peers[{i}]"), peer, config))
            .collect();
        let stock = config.wireguard.stock.iter().enumerate();
        let stock = stock
            .filter_map(|(i, stock)| self.stock(&format!("wireguard.stock[{i}]"), stock))
            .collect();
        let allow_keys = self.allow_keys(&config.node.allow_keys);
        let admission = if config.node.open {
            Admission::Open
        } else {
            Admission::Listed
        };
        let interface = self.interface(config);
        let listen = self.listen(&config.wireguard.listen);
        let stream_listen = self.stream_listen(&config.wireguard.stream_listen);
        let control = self.control(&config.control);
        self.absolute("node.state_dir", &config.node.state_dir);
        self.absolute("api.socket", &config.api.socket);
        let metrics = self.metrics(&config.metrics.listen);
        let inbound = self.inbound(config);
        let workloads = self.workloads(&config.workload);
        let dns = self.dns(&config.dns);
        Settings {
            name,
            state_dir: config.node.state_dir.clone(),
            admission,
            allow_keys,
            relay: RelaySettings {
                relay: config.node.relay,
                mbit: NonZeroU32::new(config.node.relay_mbit),
            },
            interface,
            listen,
            port_mapping: config.wireguard.port_mapping,
            stream_listen,
            control,
            peers,
            stock,
            workloads,
            inbound,
            api: ApiSettings {
                socket: config.api.socket.clone(),
                group: Some(config.api.group.clone()).filter(|group| !group.is_empty()),
            },
            log: LogSettings {
                level: config.log.level,
                format: config.log.format,
            },
            metrics,
            dns,
            warnings: std::mem::take(&mut self.warnings),
        }
    }

    pub(super) fn fault(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.faults.push(Fault::new(key, message));
    }

    /// The value, or a fault at `key` and nothing.
    pub(super) fn ok<T, E: std::fmt::Display>(
        &mut self,
        key: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        result
            .map_err(|error| self.fault(key, error.to_string()))
            .ok()
    }

    fn node_name(&mut self, name: &str) -> String {
        if name.is_empty() {
            let name = host_label();
            self.names.insert(name.clone(), "the host's name".into());
            return name;
        }
        self.name("node.name", name);
        name.to_owned()
    }

    /// Checks a name and that nobody else has it.
    fn name(&mut self, key: &str, name: &str) {
        if !is_label(name) {
            self.fault(
                key,
                format!("`{name}` is no name: 1 to 63 lower-case letters, digits and hyphens"),
            );
        }
        if let Some(other) = self.names.insert(name.to_owned(), key.to_owned()) {
            self.fault(key, format!("`{name}` is the name of {other} already"));
        }
    }

    /// Notes that `key` of the configuration names this public key, which nobody else may.
    fn key(&mut self, key: &str, public_key: PublicKey) {
        if self.own.is_some_and(|own| own.public_key() == public_key) {
            self.fault(key, "this is the node's own key");
        }
        if let Some(other) = self.keys.insert(public_key, key.to_owned()) {
            self.fault(key, format!("the same key as {other}"));
        }
    }

    fn peer(&mut self, key: &str, peer: &Peer, config: &Config) -> Option<PeerSettings> {
        if let Some(name) = &peer.name {
            self.name(&format!("{key}.name"), name);
        }
        let address = match &peer.address {
            Some(text) => Some(self.ok(&format!("{key}.address"), text.parse::<PeerAddress>())?),
            None => None,
        };
        let at = format!("{key}.public_key");
        let by_key = match &peer.public_key {
            Some(text) => Some(self.node_key(&at, text)?),
            None => None,
        };
        let endpoints = self.endpoints(&format!("{key}.endpoint"), &peer.endpoint);
        let (at, node) = match (&address, by_key) {
            (Some(address), Some(node)) if address.node != node => {
                self.fault(
                    at,
                    "is not the key of the PeerId in `address`: drop one of the two",
                );
                return None;
            }
            (_, Some(node)) => (at, node),
            (Some(address), None) => (format!("{key}.address"), address.node),
            (None, None) => {
                self.fault(
                    key,
                    "a peer needs `public_key`, or an `address` that ends in its PeerId",
                );
                return None;
            }
        };
        self.key(&at, node.public_key());
        let name = peer
            .name
            .clone()
            .unwrap_or_else(|| node.address().to_string());
        if address.is_some() && endpoints.is_empty() && !config.control.enabled {
            self.warn(
                WarningCode::NoEndpoint,
                format!(
                    "peer {name} has only a libp2p address, and [control] enabled = false leaves libp2p out: \
                     it can reach this node, this node cannot reach it; add endpoint = \"host:port\" (its WireGuard port)"
                ),
            );
        }
        Some(PeerSettings {
            name,
            node,
            endpoints,
            address: address.map(|address| address.text),
            inbound: peer.inbound,
        })
    }

    /// A WireGuard key of a node, not of a stock device.
    fn node_key(&mut self, key: &str, text: &str) -> Option<NodeId> {
        let public_key = self.ok(key, text.parse::<PublicKey>())?;
        match NodeId::from_public_key(&public_key) {
            Ok(node) => Some(node),
            Err(error) => {
                self.fault(
                    key,
                    format!("{error}; a stock WireGuard device belongs into [[wireguard.stock]]"),
                );
                None
            }
        }
    }

    fn endpoints(&mut self, key: &str, endpoints: &Endpoints) -> Vec<HostPort> {
        let mut parsed: Vec<HostPort> = Vec::new();
        for text in &endpoints.0 {
            match text.parse() {
                Ok(endpoint) if parsed.contains(&endpoint) => {
                    self.fault(key, format!("`{text}` is there twice"))
                }
                Ok(endpoint) => parsed.push(endpoint),
                Err(error) => self.fault(key, format!("`{text}`: {error}")),
            }
        }
        if parsed.len() > MAX_ENDPOINTS {
            self.fault(key, format!("more than {MAX_ENDPOINTS} endpoints"));
        }
        parsed
    }

    fn stock(&mut self, key: &str, stock: &Stock) -> Option<StockSettings> {
        self.name(&format!("{key}.name"), &stock.name);
        let at = format!("{key}.public_key");
        let public_key = self.ok(&at, stock.public_key.parse());
        if let Some(public_key) = public_key {
            self.key(&at, public_key);
        }
        let endpoints = self.endpoints(&format!("{key}.endpoint"), &stock.endpoint);
        let at = format!("{key}.allowed");
        let mut allowed = Vec::new();
        for text in &stock.allowed {
            match text.parse::<Ipv6Network>() {
                Ok(network) if network.network() != network.ip() => {
                    self.fault(
                        &at,
                        format!(
                            "`{text}` has bits set behind its prefix: write {}/{}",
                            network.network(),
                            network.prefix()
                        ),
                    );
                }
                Ok(network) => {
                    self.allowed(&at, network);
                    allowed.push(network);
                }
                Err(_) => self.fault(
                    &at,
                    format!("`{text}` is not an IPv6 prefix such as 6a3:9c1e:77b0:1f42:5555::/80"),
                ),
            }
        }
        if let (true, Some(own), Some(public_key)) = (allowed.is_empty(), self.own, public_key) {
            self.allowed(&at, leaf_address(own.prefix(), &public_key).into());
        }
        let routing = self.stock_routing(key, stock);
        Some(StockSettings {
            name: stock.name.clone(),
            public_key: public_key?,
            endpoints,
            allowed,
            routing,
        })
    }

    /// Whether a device is a router, and what it may carry: the whole overlay where it says nothing else.
    fn stock_routing(&mut self, key: &str, stock: &Stock) -> StockRouting {
        let at = format!("{key}.legacy_allow");
        let mut allow = Vec::new();
        for text in &stock.legacy_allow {
            match text.parse::<Ipv6Network>() {
                Ok(network) if network.network() != network.ip() => self.fault(
                    &at,
                    format!(
                        "`{text}` has bits set behind its prefix: write {}/{}",
                        network.network(),
                        network.prefix()
                    ),
                ),
                Ok(network) if network.prefix() < 8 || !overlay().contains(network.ip()) => self
                    .fault(
                        &at,
                        format!("{network} is not inside the overlay, {}", overlay()),
                    ),
                Ok(network) => allow.push(network),
                Err(_) => self.fault(&at, format!("`{text}` is not an IPv6 prefix")),
            }
        }
        match (stock.babel, stock.trust) {
            (false, Trust::Legacy) => {
                self.fault(format!("{key}.trust"), "\"legacy\" needs babel = true");
                StockRouting::None
            }
            (_, Trust::Stub) if !stock.legacy_allow.is_empty() => {
                self.fault(at, "needs trust = \"legacy\"");
                StockRouting::None
            }
            (false, Trust::Stub) => StockRouting::None,
            (true, Trust::Stub) => StockRouting::Stub,
            (true, Trust::Legacy) if stock.legacy_allow.is_empty() => {
                StockRouting::Legacy(vec![overlay()])
            }
            (true, Trust::Legacy) => StockRouting::Legacy(allow),
        }
    }

    /// Addresses of a device: in our /64, without our own address, and nobody else's.
    fn allowed(&mut self, key: &str, network: Ipv6Network) {
        if !(64..=128).contains(&network.prefix()) || !overlay().contains(network.ip()) {
            self.fault(key, format!("{network} is not inside a node's /64"));
        } else if let Some(own) = self.own {
            if !own.prefix().contains(network.ip()) {
                self.fault(
                    key,
                    format!("{network} is not inside this node's {}", own.prefix()),
                );
            } else if network.contains(own.address()) {
                self.fault(
                    key,
                    format!(
                        "{network} contains the node's own address {}",
                        own.address()
                    ),
                );
            } else if network.contains(resolver_address(own.prefix())) {
                let server = resolver_address(own.prefix());
                let message = format!("{network} contains {server}, where the node answers names");
                self.fault(key, message);
            }
        }
        let overlap = self
            .allowed
            .iter()
            .find(|(other, _)| other.overlaps(network));
        if let Some((other, at)) = overlap {
            let message = format!("{network} overlaps with {other} of {at}");
            self.fault(key, message);
        }
        self.allowed.push((network, key.to_owned()));
    }

    fn workloads(&mut self, workloads: &[Workload]) -> Vec<WorkloadSettings> {
        let mut checked: Vec<WorkloadSettings> = Vec::new();
        for (i, workload) in workloads.iter().enumerate() {
            let key = format!("workload[{i}]");
            let Workload {
                name,
                netns,
                publish,
            } = workload;
            let at = format!("{key}.name");
            if !is_label(name) {
                self.fault(
                    &at,
                    format!("`{name}` is no name: 1 to 63 lower-case letters, digits and hyphens"),
                );
            }
            // Workloads have names of their own, apart from those of peers and devices.
            if checked.iter().any(|other| other.name == *name) {
                self.fault(
                    &at,
                    format!("`{name}` is the name of another workload already"),
                );
            }
            if let Some(own) = self.own {
                let address = workload_address(own.prefix(), name);
                let taken = self.allowed.iter().find(|(of, _)| of.contains(address));
                if let Some((network, device)) = taken {
                    let message = format!("its address {address} lies in {network} of {device}");
                    self.fault(&at, message);
                }
            }
            let netns = format!("netns:{netns}").parse::<Target>();
            let target = netns.map_err(|_| "not the name or the path of a network namespace");
            let target = self.ok(&format!("{key}.netns"), target);
            let at = format!("{key}.publish");
            let publish: Vec<Ports> = publish
                .iter()
                .filter_map(|text| self.ok(&at, text.parse()))
                .collect();
            if publish.len() > MAX_PUBLISHED {
                self.fault(&at, format!("more than {MAX_PUBLISHED} entries"));
            }
            if let Some(target) = target {
                checked.push(WorkloadSettings {
                    name: name.clone(),
                    target,
                    publish,
                });
            }
        }
        if workloads.len() > MAX_WORKLOADS {
            self.fault("workload", format!("more than {MAX_WORKLOADS} workloads"));
        }
        checked
    }

    fn allow_keys(&mut self, texts: &[String]) -> BTreeSet<NodeId> {
        let mut nodes = BTreeSet::new();
        for (i, text) in texts.iter().enumerate() {
            let key = format!("node.allow_keys[{i}]");
            if let Some(node) = self.node_key(&key, text) {
                self.key(&key, node.public_key());
                nodes.insert(node);
            }
        }
        nodes
    }

    fn interface(&mut self, config: &Config) -> InterfaceSettings {
        let (name, mtu) = (&config.interface.name, config.interface.mtu);
        // What the kernel's dev_valid_name() refuses, and what would not be one word in a table.
        let bad = |c: char| c == '/' || c == ':' || !c.is_ascii_graphic();
        if name.is_empty()
            || name.len() > 15
            || matches!(name.as_str(), "." | "..")
            || name.contains(bad)
        {
            self.fault(
                "interface.name",
                format!(
                    "`{name}` is no name of an interface: 1 to 15 characters, no space, / or :"
                ),
            );
        }
        if !(MIN_MTU..=MAX_MTU).contains(&mtu) {
            self.fault(
                "interface.mtu",
                format!("{mtu} is not from {MIN_MTU} (the least of IPv6) to {MAX_MTU}"),
            );
        }
        let queues = NonZeroU8::new(config.interface.queues);
        if queues.is_some_and(|queues| queues > MAX_QUEUES) {
            self.fault(
                "interface.queues",
                format!("{} is more than {MAX_QUEUES}", config.interface.queues),
            );
        }
        InterfaceSettings {
            name: name.clone(),
            mtu,
            queues,
        }
    }

    fn listen(&mut self, texts: &[String]) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            let key = format!("wireguard.listen[{i}]");
            match text.parse::<SocketAddr>() {
                Ok(address) if addresses.contains(&address) => {
                    self.fault(key, format!("{address} is there twice"))
                }
                Ok(address) if matches!(address.ip(), IpAddr::V6(ip) if overlay().contains(ip)) => {
                    self.fault(key, "an address of the overlay cannot carry the overlay");
                }
                Ok(address) => addresses.push(address),
                Err(_) => self.fault(
                    key,
                    format!(
                        "`{text}` is not an address and port such as [::]:51860 or 0.0.0.0:51860"
                    ),
                ),
            }
        }
        if texts.is_empty() || texts.len() > MAX_LISTEN {
            self.fault(
                "wireguard.listen",
                format!("{} addresses; 1 to {MAX_LISTEN} are possible", texts.len()),
            );
        }
        addresses
    }

    fn stream_listen(&mut self, texts: &[String]) -> Vec<StreamListen> {
        let mut addresses = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            let key = format!("wireguard.stream_listen[{i}]");
            let listen = match text.parse::<SocketAddr>() {
                Ok(address) if address.port() == 0 => {
                    self.fault(key, "needs a port: nobody could find a random one");
                    continue;
                }
                Ok(address) if matches!(address.ip(), IpAddr::V6(ip) if overlay().contains(ip)) => {
                    self.fault(key, "an address of the overlay cannot carry the overlay");
                    continue;
                }
                Ok(address) => StreamListen::At(address),
                Err(_) if text == AUTO => StreamListen::Auto,
                Err(_) => {
                    self.fault(
                        key,
                        format!(
                            "`{text}` is neither \"{AUTO}\" nor an address and port such as [::]:443 or 0.0.0.0:443"
                        ),
                    );
                    continue;
                }
            };
            if addresses.contains(&listen) {
                self.fault(key, format!("{text} is there twice"));
            } else {
                addresses.push(listen);
            }
        }
        if texts.len() > MAX_LISTEN {
            self.fault(
                "wireguard.stream_listen",
                format!("{} addresses; {MAX_LISTEN} are possible", texts.len()),
            );
        }
        addresses
    }

    fn control(&mut self, control: &super::Control) -> ControlSettings {
        let mut listen = Vec::new();
        for (i, text) in control.listen.iter().enumerate() {
            let key = format!("control.listen[{i}]");
            listen.extend(self.ok(&key, text.parse::<ListenAddress>()));
            if control.listen[..i].contains(text) {
                self.fault(key, format!("{text} is there twice"));
            }
        }
        if control.listen.len() > MAX_LISTEN {
            self.fault(
                "control.listen",
                format!(
                    "{} addresses; up to {MAX_LISTEN} are possible",
                    control.listen.len()
                ),
            );
        }
        ControlSettings {
            enabled: control.enabled,
            listen,
            mdns: control.mdns,
            dht: control.dht,
        }
    }

    fn absolute(&mut self, key: &str, path: &Path) {
        if !path.is_absolute() {
            self.fault(key, format!("`{}` does not begin with /", path.display()));
        }
    }

    fn dns(&mut self, dns: &Dns) -> DnsSettings {
        let names = Directory::new(&dns.domain, NETWORK_LABEL, DERIVATION);
        self.ok("dns.domain", names);
        DnsSettings {
            mode: dns.mode,
            domain: dns.domain.clone(),
        }
    }

    fn metrics(&mut self, listen: &str) -> Option<SocketAddr> {
        if listen.is_empty() {
            return None;
        }
        match listen.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() && address.port() != 0 => Some(address),
            Ok(_) => {
                self.fault(
                    "metrics.listen",
                    "has to be a loopback address with a port, such as [::1]:9586: whoever can connect can read",
                );
                None
            }
            Err(_) => {
                self.fault(
                    "metrics.listen",
                    format!("`{listen}` is not an address and port"),
                );
                None
            }
        }
    }

    fn warn(&mut self, code: WarningCode, text: String) {
        self.warnings.push(Warning::new(code, text));
    }
}

/// The host's name, up to its first dot, made into a label; `node` if nothing is left of it.
pub(crate) fn host_label() -> String {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().to_ascii_lowercase();
    let label: String = host
        .chars()
        .take_while(|c| *c != '.')
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    match label.trim_matches('-') {
        "" => "node".to_owned(),
        label => label.to_owned(),
    }
}
