//! What clients hear about how a node is reached, and why not better.

use std::net::{Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Blocked, Path, Schema};

/// Asks how a node is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyRequest {
    /// Name of a peer, or an overlay address.
    pub target: String,
}

/// How a node is reached, and what was tried to reach it straight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// The overlay address of the node.
    pub target: Ipv6Addr,
    /// What it is called.
    pub name: String,
    /// Which way packets to it take now.
    pub path: Path,
    /// How the router before this node treats IPv4.
    pub nat: NatBehaviour,
    /// What was tried last, best first; empty: nothing was.
    pub candidates: Vec<TriedCandidate>,
    /// The warning code of why there is no straight way; null: there is one, or it is not known to be impossible.
    pub code: Option<String>,
    /// The same in words.
    pub text: Option<String>,
    /// What would help; null: nothing has to be done, or nothing is known that would.
    pub fix: Option<String>,
    /// What the node has refused to us within the last hour; null: nothing, or it does not say.
    #[serde(default)]
    pub blocked: Option<Blocked>,
}

impl Schema for Why {
    const SCHEMA: &'static str = "meshd.why/1";
}

/// How a router treats IPv4, as neighbours have seen it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatBehaviour {
    /// What ports it gives out, in words.
    pub mapping: String,
    /// What it lets in, in words.
    pub filtering: String,
    /// The address that it gave out last, as far as is known.
    pub last: Option<SocketAddr>,
    /// How many neighbours at different addresses have told what they see.
    pub witnesses: u8,
}

/// An address that a node might be reached at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TriedCandidate {
    /// Where.
    pub address: SocketAddr,
    /// What kind of address that is: its own, as seen by others, guessed.
    pub kind: String,
    /// Probes sent there.
    pub sent: u32,
    /// Probes answered.
    pub answered: u32,
    /// The shortest round-trip time; null: none was answered.
    pub rtt_ms: Option<f64>,
    /// What came of it.
    pub note: String,
}

/// What this node's network lets it do, as far as the node has found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Netcheck {
    /// Whether UDP passes.
    pub udp: UdpReach,
    /// Over IPv4.
    pub ipv4: FamilyReach,
    /// Over IPv6.
    pub ipv6: FamilyReach,
    /// How the router before this node treats IPv4.
    pub nat: NatBehaviour,
    /// The port that the router lets in because it was asked to; null: none.
    pub port_mapping: Option<PortMapped>,
    /// The longest packet that a link has been found to carry, in bytes, and what the interface takes; null: no link is up.
    pub mtu: Option<u16>,
    /// What the interface takes.
    pub interface_mtu: u16,
    /// What this node can be to others.
    pub role: Role,
    /// The same in words.
    pub role_text: String,
    /// What would help; null: nothing has to be done.
    pub fix: Option<String>,
}

impl Schema for Netcheck {
    const SCHEMA: &'static str = "meshd.netcheck/1";
}

/// Whether UDP passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UdpReach {
    /// A neighbour answers over it.
    Works,
    /// Neighbours answer over TCP, and over UDP none does.
    Blocked,
    /// There is no neighbour that could tell.
    Unknown,
}

/// One family of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyReach {
    /// This machine's own, with WireGuard's port.
    pub addresses: Vec<SocketAddr>,
    /// Links that are up over it.
    pub links: u32,
}

/// A port that a router lets in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapped {
    /// How the router was asked.
    pub protocol: String,
    /// The router's address and port, as it says.
    pub external: SocketAddr,
}

/// What a node can be to others, by what others can send to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everybody can call it: it can be what others list, and introduce and relay.
    Reachable,
    /// Straight ways to it are found with the help of a member.
    Direct,
    /// Only nodes whose routers are more lenient than its own reach it straight.
    Hard,
    /// It is reached through others alone.
    Relayed,
    /// Nobody has told yet.
    Unknown,
}
