//! What clients hear about links, routes, and what happens to them.

use std::net::{Ipv6Addr, SocketAddr};

use ipnetwork::Ipv6Network;
use serde::{Deserialize, Serialize};

use super::{Path, Schema};

/// Longest time that [`EventsRequest`] may wait for an event, in milliseconds.
pub const MAX_EVENTS_TIMEOUT_MS: u32 = 10_000;
/// Longest time that [`TraceRequest`] may take, in milliseconds.
pub const MAX_TRACE_TIMEOUT_MS: u32 = 60_000;

/// The links of this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Links {
    /// By name of the peer, then by endpoint.
    pub links: Vec<Link>,
}

impl Schema for Links {
    const SCHEMA: &'static str = "meshd.links/1";
}

/// One way to one neighbour that routing uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The neighbour's name.
    pub peer: String,
    /// The neighbour's own overlay address.
    pub address: Ipv6Addr,
    /// Where it is; null while that is unknown.
    pub endpoint: Option<SocketAddr>,
    /// Whether it works.
    pub state: LinkState,
    /// Smoothed round-trip time; null before the first measurement.
    pub rtt_ms: Option<f64>,
    /// What it costs the neighbour to send to us; null: it does not get here.
    pub rxcost: Option<u16>,
    /// What it costs us to send to the neighbour; null: it does not get there.
    pub txcost: Option<u16>,
    /// Seconds in this state.
    pub since_s: u64,
    /// Its number, as in [`Event`]s.
    pub id: u32,
    /// Longest packet that it carries, in bytes.
    pub mtu: u16,
    /// Bytes of routing packets received on it, with their IPv6 headers.
    pub rx_bytes: u64,
    /// Bytes of routing packets sent on it, with their IPv6 headers.
    pub tx_bytes: u64,
    /// Routing packets received on it.
    pub rx_packets: u64,
    /// Routing packets sent on it.
    pub tx_packets: u64,
}

/// Whether a link works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Both ends hear each other.
    Up,
    /// Something is overdue; it is being asked for.
    Suspect,
    /// Nothing is routed over it.
    Down,
}

/// The route table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Routes {
    /// By prefix, the selected one first.
    pub routes: Vec<Route>,
}

impl Schema for Routes {
    const SCHEMA: &'static str = "meshd.routes/1";
}

/// One way to one prefix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Which destinations.
    pub prefix: Ipv6Network,
    /// Whether packets take it.
    pub selected: bool,
    /// How far it is; null: unreachable, kept so that nothing else is used for it meanwhile.
    pub metric: Option<u16>,
    /// Overlay address of the neighbour that it leads through; null for our own.
    pub next_hop: Option<Ipv6Addr>,
    /// Who originates it, in hexadecimal.
    pub router_id: String,
    /// Whether it can be used without the risk of a loop.
    pub feasible: bool,
    /// Seconds since it was last announced.
    pub age_s: u64,
    /// Why it is believed.
    pub origin: RouteOrigin,
    /// The neighbour's name; null for our own.
    pub via: Option<String>,
    /// Over which link; null for our own.
    pub link: Option<u32>,
    /// Why it is selected, or why it is not.
    pub why: String,
}

/// Why a route is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteOrigin {
    /// Its origin has proven it.
    Proven,
    /// It is ours, or a stub's that is ours.
    Own,
    /// A stock router says so, and the configuration trusts it with that.
    Legacy,
}

/// Asks which way packets take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRequest {
    /// Name of a peer, or an overlay address.
    pub target: String,
    /// How long to wait for every hop together, in milliseconds, 1 to [`MAX_TRACE_TIMEOUT_MS`].
    pub timeout_ms: u32,
}

/// The way packets take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The overlay address it leads to.
    pub target: Ipv6Addr,
    /// This node's name, where it begins.
    pub from: String,
    /// Node by node; the last is the target if it answered.
    pub hops: Vec<Hop>,
    /// Other routes that could be used at once, best first.
    pub backup: Vec<Backup>,
    /// Whether the target answered.
    pub reached: bool,
}

impl Schema for Trace {
    const SCHEMA: &'static str = "meshd.trace/1";
}

/// One node on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// Its name, or its address; null if it did not answer.
    pub node: Option<String>,
    /// Its own overlay address; null if it did not answer.
    pub address: Option<Ipv6Addr>,
    /// Round-trip time to it; null if it did not answer.
    pub rtt_ms: Option<f64>,
    /// How far it is; null if there is no route to it.
    pub metric: Option<u16>,
}

/// A route that could be used at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backup {
    /// The neighbour's name.
    pub via: String,
    /// How far it is that way.
    pub metric: u16,
    /// Whether it can be used without the risk of a loop.
    pub feasible: bool,
}

/// Asks for what has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsRequest {
    /// The first event wanted: [`Events::next`] of the last answer, or 0 for all that is remembered.
    pub from: u64,
    /// How long to wait if there is none yet, in milliseconds, at most [`MAX_EVENTS_TIMEOUT_MS`].
    pub timeout_ms: u32,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// Where to go on.
    pub next: u64,
    /// How many of those asked for are not remembered any more.
    pub missed: u64,
    /// In order.
    pub events: Vec<Event>,
}

impl Schema for Events {
    const SCHEMA: &'static str = "meshd.events/1";
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in microseconds of the machine's boot time clock.
    pub t_us: u64,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

impl Schema for Event {
    const SCHEMA: &'static str = "meshd.event/1";
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Happening {
    /// A link has come, has gone, or works better or worse.
    Link {
        /// Its number.
        link: u32,
        /// The neighbour's name.
        peer: String,
        /// The neighbour's own overlay address.
        address: Ipv6Addr,
        /// Whether it works.
        state: LinkState,
        /// Why.
        why: String,
    },
    /// Another route is selected, or another metric is announced.
    Route {
        /// Which destinations.
        prefix: Ipv6Network,
        /// How far they are; null: not reachable.
        metric: Option<u16>,
        /// Through which neighbour, by its overlay address; null: none.
        next_hop: Option<Ipv6Addr>,
        /// Who originates it, in hexadecimal.
        router_id: String,
    },
    /// Packets to a prefix take another way.
    Fib {
        /// Which destinations.
        prefix: Ipv6Network,
        /// Through which neighbour, by its overlay address; null: no way.
        via: Option<Ipv6Addr>,
        /// Over which link.
        link: Option<u32>,
    },
    /// A session's packets take another way.
    Path {
        /// The peer's name.
        peer: String,
        /// Its own overlay address.
        address: Ipv6Addr,
        /// The way.
        path: Path,
    },
    /// A session has opened or closed.
    Peer {
        /// The peer's name.
        peer: String,
        /// Its own overlay address.
        address: Ipv6Addr,
        /// Whether there is a session.
        session: bool,
    },
    /// Something needs attention.
    Warning {
        /// Stable; `meshd help CODE` explains it.
        code: String,
        /// What is the case.
        text: String,
    },
}
