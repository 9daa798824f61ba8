//! What the daemon and its clients say about private networks.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};
use wireguard::PublicKey;

use super::{Schema, Warning};

/// Longest life of an invite, in seconds: a year.
pub const MAX_INVITE_S: u64 = 366 * 86_400;

/// The network that the node is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id; `open` is the network of everybody.
    pub id: String,
    /// Whether only members are in it.
    pub private: bool,
    /// Its name; null if it has none.
    pub name: Option<String>,
    /// What this node is in it.
    pub standing: MemberStanding,
    /// Whether this node is an admin.
    pub admin: bool,
    /// Whether the key of the network is kept here.
    pub has_network_key: bool,
    /// How many members there are.
    pub members: usize,
    /// How many records.
    pub records: usize,
    /// And how many bytes they have.
    pub record_bytes: usize,
    /// Invites that are good.
    pub invites: Vec<OpenInvite>,
    /// What an admin should look at.
    pub warnings: Vec<Warning>,
}

impl Network {
    /// Whether there is something to tell: it is private, or about to be.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.private || self.standing != MemberStanding::None
    }
}

impl Schema for Network {
    const SCHEMA: &'static str = "meshd.network/1";
}

/// What a node is in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberStanding {
    /// A member.
    Member,
    /// An admin has to approve it.
    Pending,
    /// It was let in, which does not count until an admin approves.
    Suspended,
    /// It is out for ever.
    Revoked,
    /// It has left.
    Left,
    /// Nothing is said of it.
    None,
}

/// An invite that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenInvite {
    /// The name that it gives.
    pub name: Option<String>,
    /// The tags that it gives.
    pub tags: Vec<String>,
    /// By how many nodes it may be used.
    pub uses: u16,
    /// By how many it was.
    pub used: usize,
    /// Seconds until it runs out.
    pub expires_in_s: u64,
    /// Whether an admin has to approve whoever uses it.
    pub approve: bool,
}

/// Asks for a private network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateNetwork {
    /// What to call it.
    pub name: String,
    /// What to call this node in it; null: as its configuration does.
    pub node: Option<String>,
}

/// Asks for a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRequest {
    /// The name of whoever uses it; null: its own choice.
    pub name: Option<String>,
    /// By how many nodes it may be used.
    pub uses: u16,
    /// For how long, in seconds, at most [`MAX_INVITE_S`].
    pub lifetime_s: u64,
    /// Tags of whoever uses it.
    pub tags: Vec<String>,
    /// Whether an admin has to approve.
    pub approve: bool,
    /// Where a member takes libp2p connections over TCP, `ip:port`; null: here.
    pub endpoint: Option<String>,
}

/// A ticket: secret, since whoever has it may join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// The text to give away.
    pub ticket: String,
    /// Where its bearer asks; null: the ticket does not say.
    pub endpoint: Option<String>,
    /// Whether only machines on the same network reach that.
    pub local_only: bool,
    /// Seconds since 1970 when it runs out.
    pub expires: u64,
    /// As in the request.
    pub uses: u16,
    /// As in the request.
    pub name: Option<String>,
    /// As in the request.
    pub tags: Vec<String>,
}

impl Schema for Invited {
    const SCHEMA: &'static str = "meshd.invite/1";
}

impl std::fmt::Debug for Invited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invited")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Asks to join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The ticket.
    pub ticket: String,
    /// What to call this node; null: as its configuration does.
    pub name: Option<String>,
    /// A member to ask in a session: its WireGuard public key; null: over libp2p, at the ticket's endpoint.
    pub peer: Option<PublicKey>,
    /// Where to ask, `host:port`, in place of the ticket's endpoint; of the peer's WireGuard port if there is a `peer`.
    pub endpoint: Option<String>,
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("peer", &self.peer)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// This node has joined, or waits for an admin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedNetwork {
    /// [`MemberStanding::Member`] or [`MemberStanding::Pending`].
    pub standing: MemberStanding,
    /// The network's id.
    pub network: String,
    /// Its name, if it has one and this node is in it.
    pub network_name: Option<String>,
    /// What this node is called there; null while it is pending.
    pub name: Option<String>,
    /// This node's address.
    pub address: Ipv6Addr,
    /// The address of the member that answered.
    pub by: Ipv6Addr,
    /// Members that are known so far.
    pub members: usize,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl Schema for JoinedNetwork {
    const SCHEMA: &'static str = "meshd.join/1";
}

/// Everybody of whom the network's records say something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Members first, by name.
    pub members: Vec<MemberShown>,
}

impl Schema for Members {
    const SCHEMA: &'static str = "meshd.members/1";
}

/// One of [`Members`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberShown {
    /// What it is called; null where nothing is said about that.
    pub name: Option<String>,
    /// Its overlay address.
    pub address: Ipv6Addr,
    /// Its WireGuard public key.
    pub public_key: PublicKey,
    /// What it is.
    pub standing: MemberStanding,
    /// Why it is suspended.
    pub why: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether it is an admin.
    pub admin: bool,
    /// Since when it is a member: seconds since 1970.
    pub since: Option<u64>,
    /// Whether it is this node.
    pub own: bool,
    /// Whether there is a session with it.
    pub connected: bool,
}

/// Asks to approve a node, or to give a member a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApproveRequest {
    /// Its name, address or WireGuard public key.
    pub target: String,
    /// The name to give it; null: none.
    pub name: Option<String>,
}

/// Asks to revoke a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeRequest {
    /// Its name, address or WireGuard public key.
    pub target: String,
}

/// A node's standing has been changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Governed {
    /// What it is called now; null: nothing.
    pub name: Option<String>,
    /// Its overlay address.
    pub address: Ipv6Addr,
    /// What it is now.
    pub standing: MemberStanding,
}

impl Schema for Governed {
    const SCHEMA: &'static str = "meshd.governed/1";
}

/// This node has left a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftNetwork {
    /// Which.
    pub network: String,
}

impl Schema for LeftNetwork {
    const SCHEMA: &'static str = "meshd.leave/1";
}

/// Asks who owns an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoisRequest {
    /// The overlay address.
    pub address: Ipv6Addr,
}

/// Who owns an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whois {
    /// The address in question.
    pub address: Ipv6Addr,
    /// What its owner is called.
    pub name: String,
    /// What its owner is to this node.
    pub kind: WhoisKind,
    /// The address of the node itself; null for a stock device.
    pub node: Option<Ipv6Addr>,
    /// The owner's WireGuard public key.
    pub public_key: PublicKey,
    /// Its libp2p PeerId; null for a stock device.
    pub peer_id: Option<String>,
    /// Its tags as a member.
    pub tags: Vec<String>,
    /// Whether it is an admin.
    pub admin: bool,
}

impl Schema for Whois {
    const SCHEMA: &'static str = "meshd.whois/1";
}

/// What the owner of an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhoisKind {
    /// This node.
    Own,
    /// A stock device of this node.
    Leaf,
    /// A member of the network.
    Member,
    /// A node that the configuration names.
    Peer,
    /// Another node with a session.
    Stranger,
}
