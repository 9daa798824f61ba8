//! What clients hear about how a node is reached, and why not better.

use std::net::{Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Path, Schema};

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
