//! The configuration file: TOML as written by people ([`Config`]), checked into [`Settings`].
//!
//! [`Source::load`] is the way in: it names every fault of the file with its line, not only the first. Nothing after
//! `Settings` sees text that still could be wrong.

mod address;
mod changes;
mod check;
mod fault;
mod inbound;
mod settings;

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::identity::NodeId;

pub use address::{
    Host, HostPort, HostPortError, ListenAddress, ListenAddressError, PeerAddress,
    PeerAddressError, Transport,
};
pub use changes::Changes;
pub(crate) use check::host_label;
pub use fault::Fault;
pub(crate) use names::is_label;
pub use settings::{
    Admission, ApiSettings, ControlSettings, DnsSettings, InterfaceSettings, LogSettings,
    PeerSettings, RelaySettings, Settings, StockRouting, StockSettings, StreamListen,
    WorkloadSettings,
};

/// In `[wireguard] stream_listen`: the addresses of `listen` whose port is written.
const AUTO: &str = "auto";
/// What stands for the network's name in DNS while there is no private network.
pub const NETWORK_LABEL: &str = "mesh";
/// Queues of packets at most: more processors than for these are left to others.
pub const MAX_QUEUES: NonZeroU8 = NonZeroU8::new(8).expect("not zero");
/// Where the configuration is, unless a flag or the environment says otherwise.
pub const DEFAULT_PATH: &str = "/etc/meshd/meshd.toml";
/// The file that `meshd init` starts from: every key, commented, with its default.
pub const TEMPLATE: &str = include_str!("../../../configs/meshd.toml");
/// Largest configuration that is read, in bytes: about 30,000 peers.
const MAX_LEN: u64 = 4 << 20;

/// Which file to read, and what the command line puts in place of its contents. Kept by the daemon for reloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The configuration file.
    pub path: PathBuf,
    /// In place of `[node] state_dir`.
    pub state_dir: Option<PathBuf>,
    /// In place of `[api] socket`.
    pub socket: Option<PathBuf>,
}

impl Source {
    /// Reads and checks the file. Checks that need to know this node's own key are in [`Source::load_for`].
    pub fn load(&self) -> Result<Settings, ConfigError> {
        let text = self.read()?;
        self.check(&text, None)
    }

    /// As [`Source::load`], and also that the configuration fits the node it is for: it is no peer of itself, and its
    /// stock devices get addresses of its own prefix.
    pub fn load_for(&self, own: NodeId) -> Result<Settings, ConfigError> {
        let text = self.read()?;
        self.check(&text, Some(own))
    }

    /// The file as written, with defaults for what it leaves out and the command line's replacements.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let text = self.read()?;
        self.parse(&text)
    }

    /// Checks what a file says, as [`Source::load`] and, with the node it is for, [`Source::load_for`] do.
    pub fn check(&self, text: &str, own: Option<NodeId>) -> Result<Settings, ConfigError> {
        let config = self.parse(text)?;
        check::check(&config, own).map_err(|faults| {
            let mut faults: Vec<Fault> = faults
                .into_iter()
                .map(|fault| fault.located(text))
                .collect();
            faults.sort_by_key(|fault| fault.line);
            self.invalid(faults)
        })
    }

    fn parse(&self, text: &str) -> Result<Config, ConfigError> {
        let mut config: Config = toml::from_str(text)
            .map_err(|error| self.invalid(vec![Fault::of_toml(&error, text)]))?;
        config.node.state_dir = self.state_dir.clone().unwrap_or(config.node.state_dir);
        config.api.socket = self.socket.clone().unwrap_or(config.api.socket);
        Ok(config)
    }

    fn invalid(&self, faults: Vec<Fault>) -> ConfigError {
        ConfigError::Invalid {
            path: self.path.clone(),
            faults,
        }
    }

    fn read(&self) -> Result<String, ConfigError> {
        read_bounded(&self.path).map_err(|source| ConfigError::Read {
            path: self.path.clone(),
            source,
        })
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_LEN + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > MAX_LEN {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {MAX_LEN} bytes"),
        ));
    }
    Ok(text)
}

/// Why there are no [`Settings`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file says something it may not say; one line for each fault, `file:line: what`.
    #[error("{}", fault::report(path, faults))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, by line; never empty.
        faults: Vec<Fault>,
    },
}

/// The file, key by key; `configs/meshd.toml` explains each one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(
    missing_docs,
    reason = "configs/meshd.toml explains every key, and a test holds it to this type"
)]
pub struct Config {
    pub node: Node,
    pub interface: Interface,
    pub wireguard: Wireguard,
    pub control: Control,
    pub peers: Vec<Peer>,
    pub inbound: Inbound,
    pub workload: Vec<Workload>,
    pub api: Api,
    pub log: Log,
    pub metrics: Metrics,
    pub dns: Dns,
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "see Config")]
pub struct Node {
    pub name: String,
    pub state_dir: PathBuf,
    pub open: bool,
    pub allow_keys: Vec<String>,
    pub relay: Relay,
    pub relay_mbit: u32,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: String::new(),
            state_dir: "/var/lib/meshd".into(),
            open: false,
            allow_keys: Vec::new(),
            relay: Relay::Members,
            relay_mbit: 0,
        }
    }
}

/// For whom the node forwards ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Relay {
    /// Those who may open a session.
    Members,
    /// Everybody.
    Open,
    /// Nobody.
    Off,
}

/// `[interface]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "see Config")]
pub struct Interface {
    pub name: String,
    pub mtu: u16,
    pub queues: u8,
}

impl Default for Interface {
    fn default() -> Self {
        Self {
            name: "mesh0".into(),
            mtu: 1420,
            queues: 0,
        }
    }
}

/// `[wireguard]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "see Config")]
pub struct Wireguard {
    pub listen: Vec<String>,
    pub port_mapping: bool,
    pub stream_listen: Vec<String>,
    pub stock: Vec<Stock>,
}

impl Default for Wireguard {
    fn default() -> Self {
        Self {
            listen: vec!["[::]:0".into(), "0.0.0.0:0".into()],
            port_mapping: true,
            stream_listen: vec![AUTO.into()],
            stock: Vec::new(),
        }
    }
}

/// `[[wireguard.stock]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct Stock {
    pub name: String,
    pub public_key: String,
    #[serde(default)]
    pub endpoint: Endpoints,
    #[serde(default)]
    pub allowed: Vec<String>,
    #[serde(default)]
    pub babel: bool,
    #[serde(default)]
    pub trust: Trust,
    #[serde(default)]
    pub legacy_allow: Vec<String>,
}

/// What a stock router next to us may carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Its own prefix.
    #[default]
    Stub,
    /// Also transit for `legacy_allow`.
    Legacy,
}

/// `[control]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "see Config")]
pub struct Control {
    pub enabled: bool,
    pub listen: Vec<String>,
    pub mdns: bool,
    pub dht: Dht,
}

impl Default for Control {
    fn default() -> Self {
        let listen = [
            "/ip6/::/tcp/0",
            "/ip4/0.0.0.0/tcp/0",
            "/ip6/::/udp/0/quic-v1",
            "/ip4/0.0.0.0/udp/0/quic-v1",
        ];
        Self {
            enabled: true,
            listen: listen.map(Into::into).into(),
            mdns: true,
            dht: Dht::Client,
        }
    }
}

/// The part played in the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dht {
    /// Asks.
    Client,
    /// Asks and answers.
    Server,
    /// Takes no part.
    Off,
}

/// `[[peers]]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "see Config")]
pub struct Peer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    pub endpoint: Endpoints,
    pub inbound: PeerInbound,
}

/// How packets from a configured peer are judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerInbound {
    /// They may reach this node and its workloads.
    #[default]
    Allow,
    /// They meet `[inbound]` like everybody's.
    Rules,
}

/// `[inbound]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "see Config")]
pub struct Inbound {
    pub default: Verdict,
    pub icmp_echo: bool,
    pub allow: Vec<InboundRule>,
}

impl Default for Inbound {
    fn default() -> Self {
        Self {
            default: Verdict::Deny,
            icmp_echo: true,
            allow: Vec::new(),
        }
    }
}

/// What happens to packets of those who are not in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Dropped, apart from replies and, by `icmp_echo`, pings.
    Deny,
    /// Delivered.
    Allow,
}

/// One of `[inbound] allow`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct InboundRule {
    pub from: String,
    #[serde(default = "to_node")]
    pub to: String,
    #[serde(default)]
    pub ports: Vec<String>,
}

fn to_node() -> String {
    filter::To::Node.to_string()
}

/// `[[workload]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see Config")]
pub struct Workload {
    pub name: String,
    pub netns: String,
    #[serde(default)]
    pub publish: Vec<String>,
}

/// `[api]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "see Config")]
pub struct Api {
    pub socket: PathBuf,
    pub group: String,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            socket: "/run/meshd/meshd.sock".into(),
            group: String::new(),
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "see Config")]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Auto,
        }
    }
}

/// The least important event that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// We stop.
    Error,
    /// Look tomorrow.
    Warn,
    /// What one would tell a friend.
    Info,
    /// Every decision.
    Debug,
    /// Every packet; only in a development build.
    Trace,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `Journal` when standard error is the journal, else `Text`.
    Auto,
    /// A `<priority>` in front instead of the time.
    Journal,
    /// One line, time first.
    Text,
    /// One object a line.
    Json,
}

/// `[metrics]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "see Config")]
pub struct Metrics {
    pub listen: String,
}

/// `[dns]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "see Config")]
pub struct Dns {
    pub mode: DnsMode,
    pub domain: String,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            mode: DnsMode::Auto,
            domain: "internal".into(),
        }
    }
}

/// Who is told about names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsMode {
    /// systemd-resolved where it runs.
    Auto,
    /// systemd-resolved; it is a warning if it does not run.
    Resolved,
    /// Nobody.
    Off,
}

/// A string or a list of strings, each `host:port`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Endpoints(pub Vec<String>);

impl<'de> Deserialize<'de> for Endpoints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Endpoints;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"host:port\" or a list of them")
            }

            fn visit_str<E: de::Error>(self, one: &str) -> Result<Endpoints, E> {
                Ok(Endpoints(vec![one.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut many: A) -> Result<Endpoints, A::Error> {
                let mut endpoints = Vec::new();
                while let Some(endpoint) = many.next_element()? {
                    endpoints.push(endpoint);
                }
                Ok(Endpoints(endpoints))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

#[cfg(test)]
mod mutated;
#[cfg(test)]
mod tests;
