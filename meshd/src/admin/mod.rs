//! What the daemon and its clients say to each other: JSON over HTTP/1.1 on a Unix socket.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`Status`] |
//! | `GET /v1/peers` | | [`Peers`] |
//! | `GET /v1/links` | | [`Links`] |
//! | `GET /v1/netcheck` | | [`Netcheck`] |
//! | `GET /v1/routes` | | [`Routes`] |
//! | `POST /v1/trace` | [`TraceRequest`] | [`Trace`] |
//! | `POST /v1/why` | [`WhyRequest`] | [`Why`] |
//! | `POST /v1/explain` | [`ExplainRequest`] | [`Explain`] |
//! | `POST /v1/events` | [`EventsRequest`] | [`Events`] |
//! | `POST /v1/ping` | [`PingRequest`] | [`PingAnswer`] |
//! | `POST /v1/reload` | | [`Reload`] |
//! | `GET /v1/log` | | [`LogLines`] |
//! | `POST /v1/log` | [`Log`] | [`Log`] |
//! | `POST /v1/wait` | [`WaitRequest`] | [`Wait`] |
//! | `GET /v1/wg` | | [`Devices`] |
//! | `POST /v1/wg` | [`AddDevice`] | [`DeviceAdded`] |
//! | `DELETE /v1/wg/NAME` | | [`DeviceRemoved`] |
//! | `GET /v1/workloads` | | [`Workloads`] |
//! | `POST /v1/workloads` | [`AttachWorkload`] | [`WorkloadAttached`] |
//! | `DELETE /v1/workloads/NAME` | | [`WorkloadDetached`] |
//! | `GET /v1/network` | | [`Network`] |
//! | `POST /v1/network` | [`CreateNetwork`] | [`Network`] |
//! | `POST /v1/invite` | [`InviteRequest`] | [`Invited`] |
//! | `POST /v1/join` | [`JoinRequest`] | [`JoinedNetwork`] |
//! | `GET /v1/members` | | [`Members`] |
//! | `POST /v1/approve` | [`ApproveRequest`] | [`Governed`] |
//! | `POST /v1/revoke` | [`RevokeRequest`] | [`Governed`] |
//! | `POST /v1/leave` | | [`LeftNetwork`] |
//! | `POST /v1/whois` | [`WhoisRequest`] | [`Whois`] |
//!
//! Every answer is a [`Document`], every refusal an [`ErrorBody`] with [`ErrorCode::status`]. Both sides send
//! [`VERSION_HEADER`]. Fields are only ever added; unknown ones are ignored; absent values are null.

pub mod client;
pub mod connection;
mod inbound;
mod network;
mod reach;
mod routing;
pub mod server;
mod workload;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};

use ipnetwork::Ipv6Network;
use serde::de::{self, DeserializeOwned};
use serde::{Deserialize, Deserializer, Serialize};
use wireguard::PublicKey;

pub use self::inbound::{Blocked, Explain, ExplainRequest, Fate};
pub use self::network::{
    ApproveRequest, CreateNetwork, Governed, InviteRequest, Invited, JoinRequest, JoinedNetwork,
    LeftNetwork, MAX_INVITE_S, MemberShown, MemberStanding, Members, Network, OpenInvite,
    RevokeRequest, Whois, WhoisKind, WhoisRequest,
};
pub use self::reach::{
    FamilyReach, NatBehaviour, Netcheck, PortMapped, Role, TriedCandidate, UdpReach, Why,
    WhyRequest,
};
pub use self::routing::{
    Backup, Event, Events, EventsRequest, Happening, Hop, Link, LinkState, Links,
    MAX_EVENTS_TIMEOUT_MS, MAX_TRACE_TIMEOUT_MS, Route, RouteOrigin, Routes, Trace, TraceRequest,
};
pub use self::workload::{
    AttachWorkload, WishError, Workload, WorkloadAttached, WorkloadDetached, WorkloadOrigin,
    WorkloadState, Workloads,
};
use crate::config::LogLevel;

/// Header of every request and every answer; its value is [`VERSION`] in decimal.
pub const VERSION_HEADER: &str = "meshd-api";
/// Raised when an old client would misunderstand a new daemon, or the other way round.
pub const VERSION: u32 = 1;
/// Largest body that either side reads, in bytes: 10,000 peers at some 600 bytes fit well.
pub const MAX_BODY: usize = 16 << 20;
/// Longest time that a [`PingRequest`] may wait for its reply, in milliseconds.
pub const MAX_PING_TIMEOUT_MS: u32 = 60_000;
/// Longest time that a [`WaitRequest`] may take, in seconds.
pub const MAX_WAIT_S: u32 = 86_400;

/// A kind of answer, with the name scripts know it by.
pub trait Schema {
    /// `meshd.<verb>/<version>`
    const SCHEMA: &'static str;
}

/// An answer with its schema as the first field, which is how it travels and how `--json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Document<T> {
    schema: &'static str,
    /// The other fields.
    #[serde(flatten)]
    pub body: T,
}

impl<T: Schema> Document<T> {
    /// Puts the schema in front.
    pub fn new(body: T) -> Self {
        Self {
            schema: T::SCHEMA,
            body,
        }
    }
}

impl<'de, T: Schema + DeserializeOwned> Deserialize<'de> for Document<T> {
    /// Refuses a document of another schema.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Any<T> {
            schema: String,
            #[serde(flatten)]
            body: T,
        }
        let any = Any::<T>::deserialize(deserializer)?;
        if any.schema == T::SCHEMA {
            Ok(Self::new(any.body))
        } else {
            Err(de::Error::custom(format_args!(
                "schema {} where {} was expected",
                any.schema,
                T::SCHEMA
            )))
        }
    }
}

/// The node, its interface and everybody it knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The node itself.
    pub node: Node,
    /// Its overlay interface.
    pub interface: Interface,
    /// Every configured peer and stock device, and every node with a session.
    pub peers: Vec<Peer>,
    /// Packets dropped since the start, by reason.
    pub drops: BTreeMap<String, u64>,
    /// What needs attention.
    pub warnings: Vec<Warning>,
    /// The control plane; null when it is off.
    #[serde(default)]
    pub control: Option<ControlPlane>,
    /// Its workloads, by name.
    #[serde(default)]
    pub workloads: Vec<Workload>,
    /// The private network that the node is in, or whose admin it waits for; null in the open one.
    #[serde(default)]
    pub network: Option<Network>,
}

/// What finds nodes and carries their signals, by libp2p.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlPlane {
    /// Whether it runs; it is started again when it does not.
    pub running: bool,
    /// How many times it had to be started again.
    pub restarts: u32,
    /// Nodes that it is connected with.
    pub peers: usize,
    /// Nodes in its table of the DHT.
    pub table: usize,
    /// Records that it keeps for others.
    pub records: usize,
    /// Whether others have shown that they reach its port.
    pub reachable: bool,
    /// Multiaddresses that it listens on.
    pub listening: Vec<String>,
}

impl Schema for Status {
    const SCHEMA: &'static str = "meshd.status/1";
}

/// This node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// What it calls itself.
    pub name: String,
    /// Its own overlay address.
    pub address: Ipv6Addr,
    /// The `/64` it owns.
    pub prefix: Ipv6Network,
    /// Its libp2p PeerId in base58.
    pub peer_id: String,
    /// Its WireGuard public key.
    pub public_key: PublicKey,
    /// Version of the daemon.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
}

/// The overlay interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MTU, in bytes.
    pub mtu: u16,
}

/// The other end of a session, or of one that is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// What the configuration calls it, else its address.
    pub name: String,
    /// Its overlay address; of a stock device, the first one it was given.
    pub address: Ipv6Addr,
    /// Its WireGuard public key.
    pub public_key: PublicKey,
    /// A node of the mesh or a stock device.
    pub kind: PeerKind,
    /// How packets reach it.
    pub path: Path,
    /// Round-trip time over `path`, in milliseconds; null before the first measurement.
    pub rtt_ms: Option<f64>,
    /// Share of probes lost, 0 to 1; null before the first measurement.
    pub loss: Option<f64>,
    /// Bytes received from it inside the session.
    pub rx_bytes: u64,
    /// Bytes sent to it inside the session.
    pub tx_bytes: u64,
    /// Age of the last completed handshake, in seconds; null if there was none.
    pub last_handshake_s: Option<u64>,
    /// Seconds since anything authenticated came from it, as far back as the state directory remembers; null if never.
    pub seen_s: Option<u64>,
    /// Why there is no path; null when there is one.
    pub reason: Option<String>,
}

/// What a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// A node that owns the address its key derives.
    Mesh,
    /// A stock WireGuard device behind this node: what is said to it is not encrypted end to end.
    Stock,
}

/// The way packets take to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// What sort of way.
    pub kind: PathKind,
    /// The underlay address that datagrams go to first; null without a path.
    pub endpoint: Option<SocketAddr>,
    /// Names of the nodes in between; empty when direct.
    pub via: Vec<String>,
    /// Links to cross: 1 when direct; null without a path.
    pub hops: Option<u32>,
}

impl Path {
    /// No way at all.
    #[must_use]
    pub fn none() -> Self {
        Self {
            kind: PathKind::None,
            endpoint: None,
            via: Vec::new(),
            hops: None,
        }
    }

    /// Through other nodes, the first of which are `via`.
    #[must_use]
    pub fn relay(via: Vec<String>, hops: Option<u32>) -> Self {
        Self {
            kind: PathKind::Relay,
            endpoint: None,
            via,
            hops,
        }
    }

    /// In a TCP stream over the underlay.
    #[must_use]
    pub fn stream(endpoint: SocketAddr) -> Self {
        Self {
            kind: PathKind::Stream,
            ..Self::direct(endpoint)
        }
    }

    /// Straight over the underlay.
    #[must_use]
    pub fn direct(endpoint: SocketAddr) -> Self {
        Self {
            kind: PathKind::Direct,
            endpoint: Some(endpoint),
            via: Vec::new(),
            hops: Some(1),
        }
    }
}

/// The sort of a [`Path`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// One UDP path over the underlay.
    Direct,
    /// Through other nodes, which see ciphertext.
    Relay,
    /// Inside a TCP stream, because UDP does not pass.
    Stream,
    /// There is none.
    None,
}

/// Something that needs attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Stable; `meshd help CODE` explains it.
    pub code: String,
    /// What is the case, with names.
    pub text: String,
}

impl Warning {
    /// A warning with one of our codes.
    pub fn new(code: WarningCode, text: impl Into<String>) -> Self {
        Self {
            code: code.to_string(),
            text: text.into(),
        }
    }
}

/// The codes of warnings. On the wire they are text, so that a client shows codes it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WarningCode {
    /// A peer can only be reached by a way that this version does not have.
    NoEndpoint,
    /// The kernel's packet filter cannot be used.
    NoNft,
    /// systemd-resolved does not take this node's names.
    NoResolved,
    /// The kernel does not confine the daemon as it should be.
    NoSandbox,
    /// The wall clock was set while the daemon ran, or between two runs.
    ClockJump,
    /// The state directory cannot be written.
    StateReadonly,
    /// A state file could not be understood and was set aside.
    StateDamaged,
    /// Somebody has set the overlay's interface down.
    InterfaceDown,
    /// A device is in the configuration and was added, too.
    DeviceTwice,
    /// Another machine runs with this node's key.
    IdentityCloned,
    /// Another node's key is in use twice.
    OriginConflict,
    /// A neighbour drops what it is given to carry.
    RelayDrops,
    /// Peers are reached over TCP, since UDP does not pass.
    UdpBlocked,
    /// No straight way: both routers change ports.
    NatSymSym,
    /// No straight way: one router changes ports.
    NatSym,
    /// No straight way: the other node does not answer offers.
    PathNoAnswer,
    /// No straight way: no address is known that could be tried.
    PathNoAddress,
    /// No straight way: nothing came back.
    PathSilent,
    /// A ticket was used more often than it may be.
    InviteReused,
    /// Several members claim one name.
    NameConflict,
    /// Members are suspended because the admin who let them in is revoked.
    AdminRevoked,
    /// A revocation does not count any more.
    RevocationFallen,
    /// This node is not a member of the network that it is in.
    NotMember,
}

impl WarningCode {
    /// Every code.
    pub const ALL: [Self; 23] = [
        Self::NoEndpoint,
        Self::NoNft,
        Self::NoResolved,
        Self::NoSandbox,
        Self::ClockJump,
        Self::StateReadonly,
        Self::StateDamaged,
        Self::InterfaceDown,
        Self::DeviceTwice,
        Self::IdentityCloned,
        Self::OriginConflict,
        Self::RelayDrops,
        Self::UdpBlocked,
        Self::NatSymSym,
        Self::NatSym,
        Self::PathNoAnswer,
        Self::PathNoAddress,
        Self::PathSilent,
        Self::InviteReused,
        Self::NameConflict,
        Self::AdminRevoked,
        Self::RevocationFallen,
        Self::NotMember,
    ];

    /// What `meshd help CODE` prints: what it means, and what to do.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::NoEndpoint => {
                "A peer is configured with a libp2p address only, and [control] enabled = false leaves libp2p out, which would \
                 find where its WireGuard port is. If the peer knows where this node is, it will connect, and everything works.\n\
                 To do: set enabled = true, or add endpoint = \"host:port\" to its [[peers]] entry."
            }
            Self::NoNft => {
                "The daemon could not put its rule into the kernel's packet filter (table ip6 meshd), which drops packets \
                 for the overlay that arrive on another interface than the overlay's. Everything works, but whoever shares \
                 a LAN with this machine can send to its overlay address directly, under any overlay source address.\n\
                 To do: load the module with `modprobe nf_tables` (Linux 5.12 or newer), then restart the daemon; or drop \
                 such packets in your own firewall."
            }
            Self::NoResolved => {
                "This node answers the names of the mesh, and systemd-resolved, which this machine's programs ask, was not told so or did \
                 not take it: it does not run, or a service without root's rights may not change it. Tunnels are not affected; only \
                 names are not found.\n\
                 To do: resolvectl status; sudo systemctl enable --now systemd-resolved; for the service's user, \
                 meshd-resolved.rules in /usr/share/polkit-1/rules.d; or [dns] mode = \"off\", then restart meshd."
            }
            Self::NoSandbox => {
                "After its start the daemon takes from itself what it does not need, so that somebody who takes it over \
                 gets little: Landlock hides files and TCP ports, seccomp forbids system calls. This kernel lacks what \
                 is named, or a container forbids its use. Everything works, with one wall less.\n\
                 To do: a kernel of 6.12 or later with landlock among the security modules \
                 (cat /sys/kernel/security/lsm); in a container, a seccomp profile that allows landlock_* and seccomp."
            }
            Self::ClockJump => {
                "The machine's wall clock was set while the daemon ran, or it is behind the time of the last run. \
                 Sessions do not depend on it and go on. But a handshake carries the time, and peers refuse one that is \
                 older than the last they saw: after a restart with a clock that was set back, peers that this node \
                 has to call may refuse it until the clock has caught up or they restart.\n\
                 To do: timedatectl    (is the time right, and is it synchronized?)"
            }
            Self::StateReadonly => {
                "A file of the state directory could not be written: the disk is full, or the file system is read-only. \
                 Tunnels are not affected. Where peers were last seen is not remembered over a restart, and \
                 `meshd wg add` and `meshd wg remove` fail.\n\
                 To do: df -h /var/lib/meshd; findmnt -T /var/lib/meshd    (the warning goes when a write succeeds)"
            }
            Self::StateDamaged => {
                "A file of the state directory could not be understood, perhaps after a power failure or a full disk. It \
                 was set aside with .damaged behind its name, and the daemon went on without it: a random WireGuard port \
                 is drawn anew, and where peers were last seen is forgotten. The identity and the devices of `meshd wg \
                 add` are never given up like that.\n\
                 To do: check the disk, and remove the .damaged file."
            }
            Self::DeviceTwice => {
                "A device was added with `meshd wg add`, and later the configuration gave its name or its key to an entry as \
                 well. Both may open sessions; with the same key, what `meshd wg add` wrote down counts. A reload of such \
                 a configuration is refused, a start is not, since everybody else would be cut off.\n\
                 To do: sudo meshd wg remove NAME    (the added one goes, the configuration's stays); or change the \
                 configuration."
            }
            Self::InterfaceDown => {
                "The overlay's interface was set down, by hand or by a program that manages the network. Packets for the \
                 overlay are refused and do not leave by another way; sessions stay. When the interface is set up \
                 again, the daemon gives it its address and routes back.\n\
                 To do: sudo ip link set mesh0 up    (and tell the program that it is not its interface)"
            }
            Self::IdentityCloned => {
                "Another machine runs with a copy of this node's key. Each of the two takes the other's traffic away, as routing \
                 happens to go. A node that was restored from a snapshot, once, is not meant: it continues where others \
                 remember it.\n\
                 To do: stop one of the two, remove its node.key, and run meshd init there for a key of its own."
            }
            Self::OriginConflict => {
                "Another node has signed two different records for one epoch, which needs its secret key: a copy of it is in \
                 use on another machine. Routes to it are not used until it begins a newer epoch.\n\
                 To do: tell whoever runs that node; its own status says IDENTITY-CLONED."
            }
            Self::RelayDrops => {
                "Sessions that cross a neighbour get no answers, while the same nodes answer over another neighbour. The \
                 neighbour is broken, overloaded, or drops packets on purpose; it is not used for a while, and again later.\n\
                 To do: meshd links; meshd trace NAME    (does it stay away, or come back and fail again?)"
            }
            Self::UdpBlocked => {
                "UDP does not pass between this node and a peer, but TCP does: packets go inside a TCP stream. Everything works, \
                 slower: what one lost segment holds up waits for it, and a stream that is full drops packets. UDP is tried \
                 again all the time, and used as soon as it passes.\nTo do: let UDP to the peer's WireGuard port out of this \
                 network's firewall, and into the peer's; if only port 443 gets out, streams need a peer with \
                 [wireguard] stream_listen = [\"auto\", \"[::]:443\", \"0.0.0.0:443\"]."
            }
            Self::NatSymSym => {
                "The routers before both nodes give out another port for every destination, so neither node can tell the other where to \
                 send. Packets go through a member instead, which sees ciphertext only.\n\
                 To do: forward the WireGuard port on one of the two routers, or use IPv6 on both sides.   meshd why NAME"
            }
            Self::NatSym => {
                "The router before one of the nodes gives out another port for every destination, at random. Ports are guessed by the \
                 hundred, but only while there is traffic, and seldom; this time none was hit. Packets go through a member meanwhile.\n\
                 To do: nothing, or forward the WireGuard port on one of the two routers.   meshd why NAME"
            }
            Self::PathNoAnswer => {
                "The other node did not answer when it was asked where it can be reached straight: it is of an older version, or it \
                 cannot be reached at all.\n\
                 To do: meshd ping NAME; update meshd there."
            }
            Self::PathNoAddress => {
                "Neither node knows an address of its own that the other could try.\n\
                 To do: meshd links    (a neighbour outside the own network tells a node where it is seen)"
            }
            Self::PathSilent => {
                "Every address that the two nodes know of each other was tried, and nothing came back: a firewall drops UDP, or there is \
                 no way between the two networks but through a member.\n\
                 To do: let UDP out of both networks, and answers in.   meshd why NAME"
            }
            Self::InviteReused => {
                "More machines have used a ticket than it is for. That can happen where two parts of the network did not hear of each other; \
                 or somebody else has got hold of the ticket. All of them are suspended: nobody opens a session with them.\n\
                 To do: meshd members    (whose are they?), then: sudo meshd approve NAME, and revoke the others."
            }
            Self::NameConflict => {
                "Several members have come under one name, and no admin has given it to one of them. Each is shown with the beginning of its \
                 key behind the name, and the name alone is nobody's.\n\
                 To do: sudo meshd approve MEMBER --name NAME    (on an admin's machine: that one has the name)"
            }
            Self::AdminRevoked => {
                "An admin was revoked. Whom it let in without the network hearing of it before counts no more, until another admin approves.\n\
                 To do: meshd members, then: sudo meshd approve NAME    (or revoke NAME)"
            }
            Self::RevocationFallen => {
                "An admin whose past was disowned had revoked this member, and nobody else has: it may come again.\n\
                 To do: sudo meshd revoke NAME    (if it shall stay out)"
            }
            Self::NotMember => {
                "This node is in a private network, and its members do not count it as one of them: it was revoked, suspended, or has left. \
                 They open no sessions with it.\n\
                 To do: if an admin says so, sudo meshd leave, and join again. A key that was revoked never comes back: stop the daemon, \
                 move node.key away, sudo meshd init, and join with a new ticket."
            }
        }
    }
}

impl fmt::Display for WarningCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NoEndpoint => "NO-ENDPOINT",
            Self::NoNft => "NO-NFT",
            Self::NoResolved => "NO-RESOLVED",
            Self::NoSandbox => "NO-SANDBOX",
            Self::ClockJump => "CLOCK-JUMP",
            Self::StateReadonly => "STATE-READONLY",
            Self::StateDamaged => "STATE-DAMAGED",
            Self::InterfaceDown => "INTERFACE-DOWN",
            Self::DeviceTwice => "DEVICE-TWICE",
            Self::IdentityCloned => "IDENTITY-CLONED",
            Self::OriginConflict => "ORIGIN-CONFLICT",
            Self::RelayDrops => "RELAY-DROPS",
            Self::UdpBlocked => "UDP-BLOCKED",
            Self::NatSymSym => "NAT-SYM-SYM",
            Self::NatSym => "NAT-SYM",
            Self::PathNoAnswer => "PATH-NO-ANSWER",
            Self::PathNoAddress => "PATH-NO-ADDRESS",
            Self::PathSilent => "PATH-SILENT",
            Self::InviteReused => "INVITE-REUSED",
            Self::NameConflict => "NAME-CONFLICT",
            Self::AdminRevoked => "ADMIN-REVOKED",
            Self::RevocationFallen => "REVOCATION-FALLEN",
            Self::NotMember => "NOT-MEMBER",
        })
    }
}

/// The peers of [`Status`], alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// As in [`Status::peers`].
    pub peers: Vec<Peer>,
}

impl Schema for Peers {
    const SCHEMA: &'static str = "meshd.peers/1";
}

/// Asks for one echo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingRequest {
    /// Name of a peer, or an overlay address.
    pub target: String,
    /// Comes back in the reply.
    pub seq: u32,
    /// How long to wait, in milliseconds, 1 to [`MAX_PING_TIMEOUT_MS`].
    pub timeout_ms: u32,
}

/// The answer to a [`PingRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingAnswer {
    /// The overlay address that was pinged.
    pub target: Ipv6Addr,
    /// What became of the echo.
    #[serde(flatten)]
    pub reply: PingReply,
}

impl Schema for PingAnswer {
    const SCHEMA: &'static str = "meshd.ping-reply/1";
}

/// One echo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingReply {
    /// As in the request.
    pub seq: u32,
    /// Round-trip time in milliseconds; null when no reply came in time.
    pub rtt_ms: Option<f64>,
    /// The path over which the request left.
    pub path: Path,
    /// Who said, instead of replying, that it lets no echo requests in; null: nobody.
    #[serde(default)]
    pub blocked_by: Option<String>,
}

/// What `meshd ping --json` prints: all replies, put together by the client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ping {
    /// The overlay address that was pinged.
    pub target: Ipv6Addr,
    /// Requests sent.
    pub sent: u32,
    /// Replies received in time.
    pub received: u32,
    /// Share of requests without a reply, 0 to 1.
    pub loss: f64,
    /// One for each request.
    pub replies: Vec<PingReply>,
}

impl Schema for Ping {
    const SCHEMA: &'static str = "meshd.ping/1";
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// Changes in effect now.
    pub applied: Vec<String>,
    /// Keys whose change waits for a restart of the daemon.
    pub restart: Vec<String>,
    /// Warnings of the new configuration.
    pub warnings: Vec<Warning>,
}

impl Schema for Reload {
    const SCHEMA: &'static str = "meshd.reload/1";
}

/// The level of the log, wanted or in effect: until the next reload or start, which take it from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The least important event that is logged.
    pub level: LogLevel,
}

impl Schema for Log {
    const SCHEMA: &'static str = "meshd.log/1";
}

/// The latest lines of the log, as they were written: with names, keys and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLines {
    /// The oldest first.
    pub lines: Vec<LogLine>,
}

impl Schema for LogLines {
    const SCHEMA: &'static str = "meshd.log-lines/1";
}

/// One of [`LogLines`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// How long ago it was written, in milliseconds.
    pub age_ms: u64,
    /// Its beginning, without control characters.
    pub text: String,
}

/// Asks for an answer when something is the case; without `peer` and `route`: when the daemon is ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitRequest {
    /// Name or address of a peer that has to have a session.
    pub peer: Option<String>,
    /// Prefix that has to have a selected route.
    pub route: Option<Ipv6Network>,
    /// After how many seconds to give up with [`ErrorCode::Unreachable`], at most [`MAX_WAIT_S`].
    pub timeout_s: u32,
}

/// It is the case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// How long it took, in milliseconds.
    pub waited_ms: u64,
}

impl Schema for Wait {
    const SCHEMA: &'static str = "meshd.wait/1";
}

/// The stock WireGuard devices of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// By name.
    pub devices: Vec<Device>,
}

impl Schema for Devices {
    const SCHEMA: &'static str = "meshd.wg/1";
}

/// A stock WireGuard device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What it is called.
    pub name: String,
    /// Its WireGuard public key.
    pub public_key: PublicKey,
    /// Its addresses in this node's `/64`.
    pub allowed: Vec<Ipv6Network>,
    /// Who added it.
    pub origin: DeviceOrigin,
    /// Where it is; null before it was heard of.
    pub endpoint: Option<SocketAddr>,
    /// Age of the last completed handshake, in seconds; null if there was none.
    pub last_handshake_s: Option<u64>,
}

/// Where a stock device is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceOrigin {
    /// `[[wireguard.stock]]`
    Config,
    /// `meshd wg add`: the state directory.
    Added,
}

/// Asks for an address for a stock device. The private key stays where it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddDevice {
    /// What to call it: a DNS label.
    pub name: String,
    /// Its WireGuard public key.
    pub public_key: PublicKey,
}

/// What the device needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAdded {
    /// What it is called.
    pub name: String,
    /// Its address.
    pub address: Ipv6Addr,
    /// This node's WireGuard public key.
    pub gateway_public_key: PublicKey,
    /// This node's WireGuard port.
    pub listen_port: u16,
    /// MTU for the device's interface, in bytes.
    pub mtu: u16,
    /// Where this node probably can be reached; null if it has no idea.
    pub endpoint: Option<SocketAddr>,
    /// Where this node answers questions for names; null if it does not.
    #[serde(default)]
    pub resolver: Option<Ipv6Addr>,
}

impl Schema for DeviceAdded {
    const SCHEMA: &'static str = "meshd.wg-added/1";
}

/// The device may not open a session any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRemoved {
    /// What it was called.
    pub name: String,
}

impl Schema for DeviceRemoved {
    const SCHEMA: &'static str = "meshd.wg-removed/1";
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What happened and the likely cause.
    pub error: String,
    /// The exact next command; empty if there is none.
    pub hint: String,
    /// What scripts go by.
    pub code: ErrorCode,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Anything without a code of its own.
    Failed,
    /// The request makes no sense: a bad name, body or method.
    Usage,
    /// The caller may only read.
    Permission,
    /// There is nobody of that name.
    NoSuchName,
    /// The name or key is taken.
    Exists,
    /// No reply, or not in time.
    Unreachable,
    /// Not a member of the network, or not yet.
    NotMember,
    /// The configuration is invalid; the one that ran stays in effect.
    Config,
    /// [`VERSION_HEADER`] is absent or differs.
    Version,
    /// A rule forbids it.
    Denied,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Failed | Self::Unknown => 500,
            Self::Usage => 400,
            Self::Permission | Self::Denied | Self::NotMember => 403,
            Self::NoSuchName => 404,
            Self::Exists => 409,
            Self::Unreachable => 504,
            Self::Config => 422,
            Self::Version => 426,
        }
    }
}
