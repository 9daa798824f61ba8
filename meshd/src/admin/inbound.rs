//! What clients hear about who may reach what.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use super::Schema;

/// Asks whether somebody may reach something on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// Who: the name of a peer, an overlay address, or a public key.
    pub from: String,
    /// What on this node: its name or `node`, the name of a stock device, or an address.
    pub to: String,
    /// `tcp/22`, `udp/53`, `icmp`.
    pub port: String,
}

/// Whether somebody may reach something, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explain {
    /// Who, as asked.
    pub from: String,
    /// From which address.
    pub source: Ipv6Addr,
    /// What, as asked.
    pub to: String,
    /// At which address.
    pub destination: Ipv6Addr,
    /// Which port.
    pub port: String,
    /// What becomes of a packet that begins it.
    pub fate: Fate,
    /// What decides that.
    pub reason: String,
    /// The rule that comes nearest to letting it in, and what it lacks; null: it is let in, or none comes near.
    pub nearest: Option<String>,
}

impl Schema for Explain {
    const SCHEMA: &'static str = "meshd.explain/1";
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It is let in.
    Allowed,
    /// It is refused.
    Denied,
}

/// What another node does not let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Which node says so.
    pub by: String,
    /// At which of its addresses.
    pub destination: Ipv6Addr,
    /// What was sent there last: `tcp/22`, `icmp`.
    pub port: String,
    /// How often that was refused.
    pub count: u64,
    /// Seconds since it last was.
    pub ago_s: u64,
}
