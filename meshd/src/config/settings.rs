//! The checked configuration: the only thing the daemon sees.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::path::PathBuf;

use filter::Ports;
use ipnetwork::Ipv6Network;
use wireguard::PublicKey;

use super::address::{HostPort, ListenAddress};
use super::{Dht, DnsMode, LogFormat, LogLevel, PeerInbound, Relay};
use crate::admin::Warning;
use crate::identity::NodeId;
use crate::state::StockDevice;
use crate::workload::Target;

/// What the configuration says, every value parsed, in its range, and in agreement with the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What the node calls itself: a DNS label; the host's name unless the file says otherwise.
    pub name: String,
    /// Where the identity and everything learned is kept.
    pub state_dir: PathBuf,
    /// Who may open a session without being listed.
    pub admission: Admission,
    /// Nodes that may open a session without being peers of ours; none of them is in `peers`.
    pub allow_keys: BTreeSet<NodeId>,
    /// Whose ciphertext is forwarded, and how much of it.
    pub relay: RelaySettings,
    /// The overlay's network interface.
    pub interface: InterfaceSettings,
    /// Local addresses of the WireGuard sockets: 1 to 16, no two alike. Port 0: the remembered random port.
    pub listen: Vec<SocketAddr>,
    /// Whether the router is asked to let their port in, where this machine has no address of the Internet.
    pub port_mapping: bool,
    /// Where TCP streams are taken, no two alike.
    pub stream_listen: Vec<StreamListen>,
    /// The control plane.
    pub control: ControlSettings,
    /// Configured nodes, in the file's order; no two share a name or a key.
    pub peers: Vec<PeerSettings>,
    /// Configured stock WireGuard devices, in the file's order; names and keys differ from the peers' as well.
    pub stock: Vec<StockSettings>,
    /// Configured workloads, in the file's order; no two share a name.
    pub workloads: Vec<WorkloadSettings>,
    /// What those may reach who are no configured peers, or meet it all the same.
    pub inbound: filter::Policy,
    /// The Unix socket.
    pub api: ApiSettings,
    /// The log.
    pub log: LogSettings,
    /// Where Prometheus may ask: a loopback address; nowhere if absent.
    pub metrics: Option<SocketAddr>,
    /// Names.
    pub dns: DnsSettings,
    /// What the file asks for and will not get, to be logged at start and shown by `status`.
    pub warnings: Vec<Warning>,
}

impl Settings {
    /// The first of these devices of `meshd wg add` whose name or key is somebody's in the configuration as well, and what is to be
    /// said about it.
    #[must_use]
    pub fn twice<'a>(&self, added: &'a [StockDevice]) -> Option<(&'a StockDevice, String)> {
        let nodes = self
            .peers
            .iter()
            .map(|peer| (peer.name.as_str(), peer.node));
        let stock = self
            .stock
            .iter()
            .map(|stock| (stock.name.as_str(), stock.public_key));
        let mut names_and_keys: Vec<_> = nodes
            .map(|(name, node)| (name, node.public_key()))
            .chain(stock)
            .collect();
        names_and_keys.extend(self.allow_keys.iter().map(|node| ("", node.public_key())));
        let device = added.iter().find(|device| {
            let is_taken =
                |&(name, key): &(&str, PublicKey)| name == device.name || key == device.public_key;
            device.name == self.name || names_and_keys.iter().any(is_taken)
        })?;
        let text = format!(
            "`{}` was added with `meshd wg add`, and the configuration has its name or its key as well",
            device.name
        );
        Some((device, text))
    }
}

/// Where TCP streams are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamListen {
    /// At those WireGuard addresses whose port is written, as far as they are free: it is a server that has them, which others write down.
    Auto,
    /// There; its port is never 0.
    At(SocketAddr),
}

impl Settings {
    /// Addresses to take TCP streams at: those that have to be had, and those that need not.
    #[must_use]
    pub fn stream_addresses(&self) -> Vec<(SocketAddr, StreamListen)> {
        let mut addresses: Vec<(SocketAddr, StreamListen)> = Vec::new();
        let written = self.stream_listen.iter().filter_map(|listen| match listen {
            StreamListen::At(address) => Some((*address, *listen)),
            StreamListen::Auto => None,
        });
        addresses.extend(written);
        if self.stream_listen.contains(&StreamListen::Auto) {
            for address in self.listen.iter().filter(|address| address.port() != 0) {
                if !addresses.iter().any(|(other, _)| other == address) {
                    addresses.push((*address, StreamListen::Auto));
                }
            }
        }
        addresses
    }
}

/// Who may open a session without being in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Nobody.
    Listed,
    /// Everybody with a valid key.
    Open,
}

/// What is forwarded for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelaySettings {
    /// For whom.
    pub relay: Relay,
    /// At most so many megabits a second, in all; none: no cap.
    pub mbit: Option<NonZeroU32>,
}

/// `[interface]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceSettings {
    /// 1 to 15 bytes that the kernel accepts.
    pub name: String,
    /// Bytes, 1280 to 65,475.
    pub mtu: u16,
    /// Queues, each with two packet threads, 1 to 8; none: by the number of processors.
    pub queues: Option<NonZeroU8>,
}

/// `[control]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlSettings {
    /// Whether there is one.
    pub enabled: bool,
    /// Where it listens, up to 16, none of the overlay; empty: nobody can call it. Port 0: the remembered random port.
    pub listen: Vec<ListenAddress>,
    /// Whether it looks for nodes on the LAN by mDNS.
    pub mdns: bool,
    /// Its part in the DHT.
    pub dht: Dht,
}

/// One of `[[peers]]`
#[derive(Debug, Clone, PartialEq)]
pub struct PeerSettings {
    /// What we call it; its overlay address when the file gives no name.
    pub name: String,
    /// Who it is.
    pub node: NodeId,
    /// Where its WireGuard port is, one link each; empty: it has to find us.
    pub endpoints: Vec<HostPort>,
    /// Its libp2p multiaddress, if the file gives one.
    pub address: Option<String>,
    /// How its packets are judged.
    pub inbound: PeerInbound,
}

/// One of `[[wireguard.stock]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockSettings {
    /// What we call it.
    pub name: String,
    /// Its key: any WireGuard key, since the device has no address of its own.
    pub public_key: PublicKey,
    /// Where it is; empty: it calls.
    pub endpoints: Vec<HostPort>,
    /// Its addresses, inside our /64 and apart from every other device's; empty: it gets
    /// [`leaf_address`](crate::identity::leaf_address).
    pub allowed: Vec<Ipv6Network>,
    /// Whether it is a router, and how far it is trusted.
    pub routing: StockRouting,
}

/// How a stock device takes part in routing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StockRouting {
    /// Not at all: it has the addresses that it is given.
    None,
    /// It speaks Babel, and may announce what lies inside its addresses.
    Stub,
    /// It may also announce what lies inside these prefixes, which lie in the overlay, and carry packets for them.
    Legacy(Vec<Ipv6Network>),
}

/// One of `[[workload]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadSettings {
    /// What it is called: a DNS label.
    pub name: String,
    /// Its network namespace.
    pub target: Target,
    /// What everybody may reach who reaches this node at all; at most
    /// [`MAX_PUBLISHED`](crate::workload::MAX_PUBLISHED).
    pub publish: Vec<Ports>,
}

/// `[api]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiSettings {
    /// Path of the socket.
    pub socket: PathBuf,
    /// Group whose members may change things, besides root.
    pub group: Option<String>,
}

/// `[dns]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSettings {
    /// Who is told that this node answers names.
    pub mode: DnsMode,
    /// What all names end with.
    pub domain: String,
}

/// `[log]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// Least important event that is logged.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
}
