//! What the router is told in the beginning.

use std::net::Ipv6Addr;
use std::time::Duration;

use ipnetwork::Ipv6Network;

use crate::bucket::Rate;
use crate::cost::{Delay, NOMINAL};
use crate::neighbour::Patience;
use crate::types::{Metric, RouterId};

/// What holds for the whole router.
#[derive(Clone, Debug)]
pub struct Config {
    /// The block whose routes must be proven by their origins. In it, every route is a /64.
    pub overlay: Ipv6Network,
    /// Routes to these, to parts of them or to more than them are never accepted: the addresses of the underlay.
    pub refused: Vec<Ipv6Network>,
    /// Most destinations that are remembered, those without a route among them.
    pub most_destinations: usize,
}

impl Config {
    /// The overlay block of meshd, and nothing refused.
    pub const fn new(overlay: Ipv6Network) -> Self {
        Self {
            overlay,
            refused: Vec::new(),
            most_destinations: 1 << 17,
        }
    }
}

/// Who is at the other end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A node that runs this program: it carries proofs, and answers at once.
    Meshd {
        /// Which one, by the key of its session.
        router_id: RouterId,
    },
    /// A plain Babel speaker with prefixes behind it, which are reached through us. They are not announced to anybody.
    Stub {
        /// What it may announce: these and parts of them, as the operator says, out of our own /64 for example.
        prefixes: Vec<Ipv6Network>,
    },
    /// A plain Babel router that may carry transit. What it announces is used where there is nothing better, and not announced to
    /// anybody.
    Legacy {
        /// What it may announce: these and parts of them, in the overlay only /64s.
        allow: Vec<Ipv6Network>,
    },
}

impl Peer {
    /// Whether it is a plain Babel speaker.
    pub const fn is_stock(&self) -> bool {
        match self {
            Self::Meshd { .. } => false,
            Self::Stub { .. } | Self::Legacy { .. } => true,
        }
    }
}

/// Whether routes are announced to the neighbour through whom they go (RFC 8966 §3.7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitHorizon {
    /// Only if it asks.
    On,
    /// Like all others.
    Off,
}

/// Whether packets of the neighbour are forwarded to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transit {
    /// They are: it is told of all routes.
    Yes,
    /// They are not: it is told only of what is ours.
    No,
}

/// What holds for one link: a point-to-point link with one neighbour at its other end.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Our link-local address on it.
    pub local: Ipv6Addr,
    /// The neighbour's, if it is known beforehand: then no other is accepted.
    pub remote: Option<Ipv6Addr>,
    /// The largest IPv6 packet it carries, in bytes.
    pub mtu: u16,
    /// What tells it apart from other links of the same session, if there may be any: sent with every Hello.
    pub tag: Option<u32>,
    /// Who is at its other end.
    pub peer: Peer,
    /// A Hello is sent at least so often; by a node with many links, or towards one, up to six times more rarely.
    pub hello: Duration,
    /// Every route is announced at least so often.
    pub update: Duration,
    /// Whether routes go back where they came from.
    pub split_horizon: SplitHorizon,
    /// Whether the neighbour is told of routes to others.
    pub transit: Transit,
    /// What it costs at least. Proofs need 96 or more towards [`Peer::Meshd`].
    pub least_cost: Metric,
    /// What its round-trip time adds.
    pub delay: Delay,
    /// How soon the neighbour is doubted.
    pub patience: Patience,
    /// What the neighbour may ask for, and bring.
    pub limits: Limits,
}

impl LinkConfig {
    /// A link to a node that runs this program: Hellos of 0.67 s, so that it is left within a second when it breaks; updates are
    /// acknowledged, and hence repeated every 300 s only.
    pub const fn meshd(local: Ipv6Addr, remote: Ipv6Addr, router_id: RouterId, mtu: u16) -> Self {
        Self {
            local,
            remote: Some(remote),
            mtu,
            tag: None,
            peer: Peer::Meshd { router_id },
            hello: Duration::from_millis(670),
            update: Duration::from_secs(300),
            split_horizon: SplitHorizon::On,
            transit: Transit::Yes,
            least_cost: NOMINAL,
            delay: Delay::DEFAULT,
            patience: Patience::MESHD,
            limits: Limits::DEFAULT,
        }
    }

    /// A link to a plain Babel speaker, with the intervals of RFC 8966 Appendix B.
    pub const fn stock(local: Ipv6Addr, peer: Peer, mtu: u16) -> Self {
        Self {
            local,
            remote: None,
            mtu,
            tag: None,
            peer,
            hello: Duration::from_secs(4),
            update: Duration::from_secs(16),
            split_horizon: SplitHorizon::On,
            transit: Transit::Yes,
            least_cost: NOMINAL,
            delay: Delay::DEFAULT,
            patience: Patience::STOCK,
            limits: Limits::DEFAULT,
        }
    }
}

/// What a neighbour may ask for, and bring. What is beyond is refused and counted; the neighbour is asked again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Routes from it.
    pub routes: u32,
    /// Destinations that nobody else has brought. They are remembered for a while after their routes have gone.
    pub destinations: u32,
    /// New destinations.
    pub new_destinations: Rate,
    /// Updates.
    pub updates: Rate,
    /// Seqno requests. Besides, at most one a second for each prefix is heeded.
    pub seqno_requests: Rate,
    /// Requests for a whole table.
    pub dumps: Rate,
    /// Requests for one route.
    pub requests: Rate,
    /// Requests for an origin's record.
    pub records: Rate,
    /// Acknowledgment Requests.
    pub acks: Rate,
    /// Verifications of proofs and records.
    pub verifications: Rate,
    /// Updates that wait for a verification.
    pub waiting: usize,
    /// TLVs that cannot be read. Beyond, the link is not used for a minute.
    pub malformed: Rate,
}

impl Limits {
    /// For a mesh of some thousand nodes.
    pub const DEFAULT: Self = Self {
        routes: 4_096,
        destinations: 8_192,
        new_destinations: Rate::per_second(50, 2_000),
        updates: Rate::per_second(5_000, 20_000),
        seqno_requests: Rate::per_second(200, 2_000),
        dumps: Rate {
            interval: Duration::from_secs(10),
            burst: 2,
        },
        requests: Rate::per_second(50, 200),
        records: Rate::per_second(50, 4_000),
        acks: Rate::per_second(200, 1_000),
        verifications: Rate::per_second(1_000, 4_000),
        waiting: 256,
        malformed: Rate {
            interval: Duration::from_millis(1_200),
            burst: 50,
        },
    };
}
