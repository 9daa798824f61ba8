//! What comes out of the router.

use std::net::Ipv6Addr;
use std::time::Instant;

use ipnetwork::Ipv6Network;

use crate::origin::{Conflict, Job};
use crate::types::{LinkId, Metric, RouterId, Seqno};
use crate::wire::PacketBuf;

/// Whom a packet on a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// All Babel nodes on it: [`crate::wire::GROUP`].
    Multicast,
    /// One address.
    Unicast(Ipv6Addr),
}

/// A packet to send: from [`crate::wire::PORT`] to the same, with our link-local address and hop limit 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// By which link.
    pub link: LinkId,
    /// To whom.
    pub to: Cast,
    /// The UDP payload. [`PacketBuf::stamp`] it with [`crate::Router::micros`] as late as possible.
    pub packet: PacketBuf,
}

/// What the caller should know, or do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The routes to forward by have changed: all at once, each in the place of the one before.
    Fib(Vec<FibOp>),
    /// Another route is selected, or none any more. What it means for forwarding is in the next [`Event::Fib`].
    Route {
        /// To which destination.
        prefix: Ipv6Network,
        /// Which one was selected.
        from: Option<Hop>,
        /// Which one is.
        to: Option<Hop>,
        /// Why.
        why: Why,
    },
    /// What is thought of a neighbour has changed.
    Neighbour {
        /// By which link.
        link: LinkId,
        /// Its address.
        address: Ipv6Addr,
        /// What is thought of it.
        state: NeighbourState,
        /// What the link costs; infinite unless it is up or suspect.
        cost: Metric,
        /// The round-trip time in microseconds.
        rtt: Option<u32>,
    },
    /// Something is to be verified, by whoever has time: [`crate::Router::handle_outcome`] wants what comes out of it.
    Verify {
        /// To be repeated with the outcome.
        id: u64,
        /// What.
        job: Job,
    },
    /// We have a new seqno. The epoch is to be kept before a restart.
    Persist {
        /// Our epoch.
        epoch: u32,
        /// Our seqno.
        seqno: Seqno,
    },
    /// Somebody else uses our key.
    IdentityCloned,
    /// An origin has signed two records of one epoch.
    Conflict(Box<Conflict>),
    /// The ends of sessions say that a neighbour drops what it is given.
    Quarantined {
        /// By which link.
        link: LinkId,
        /// Until then it is not used.
        until: Instant,
    },
}

/// A change of what to forward by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FibOp {
    /// Of which destination.
    pub prefix: Ipv6Network,
    /// What is to be done with its packets from now on.
    pub action: FibAction,
}

/// What is to be done with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibAction {
    /// They go to this neighbour.
    Via {
        /// By which link.
        link: LinkId,
        /// To whom.
        next_hop: Ipv6Addr,
    },
    /// They go nowhere, not even by a route for a shorter prefix.
    Unreachable,
    /// There is no route any more; one for a shorter prefix will do.
    Remove,
}

/// A route that is, or was, selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// By which link.
    pub link: LinkId,
    /// To which neighbour.
    pub next_hop: Ipv6Addr,
    /// How far it is from here.
    pub metric: Metric,
    /// The origin.
    pub router_id: RouterId,
    /// The origin's.
    pub seqno: Seqno,
}

/// Why another route is selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There was none before.
    New,
    /// It is better.
    Better,
    /// The one before cannot be used any more.
    Lost,
}

impl Why {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Better => "better",
            Self::Lost => "lost",
        }
    }
}

/// What is thought of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// Packets go both ways.
    Up,
    /// It is late, or has not answered; it is being asked.
    Suspect,
    /// It is not used.
    Down,
}

impl NeighbourState {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To this neighbour.
    Via {
        /// By which link.
        link: LinkId,
        /// To whom.
        next_hop: Ipv6Addr,
    },
    /// The address is in a prefix of ours.
    Own,
    /// There was a route, and others may still believe that it is here.
    Unreachable,
    /// There is no route.
    Unknown,
}

/// What the data plane has seen of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Data was sent, and nothing has come back for a while: the neighbour is asked at once.
    Silent,
    /// Something authentic came.
    Heard,
    /// The link is known to be cut.
    CarrierLost,
    /// It is there again, or the machine slept: the neighbour is to know that this is a new beginning.
    CarrierBack,
}
