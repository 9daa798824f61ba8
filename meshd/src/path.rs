//! The straight way to a node, wherever both are: the path agent.
//!
//! Two nodes that can already tell each other something, through other nodes or through libp2p, tell each other where they might be
//! reached ([`offer`]) and with what keyed datagrams they will look for each other ([`probe`]). Then both send such probes from the
//! sockets that WireGuard uses to every address named ([`candidate`]), in a rhythm that opens routers on the way from the inside
//! before anything reaches them from the outside ([`attempt`]). What answers is a path. How a node's own router behaves is learned
//! from the addresses that its neighbours see ([`nat`]).
//!
//! A pure state machine without clock and socket: after every `handle_*`, `reach`, `set_local` and `forget` drain
//! [`Agent::poll_transmit`] and [`Agent::poll_event`], then look at [`Agent::poll_timeout`].

pub mod agent;
pub mod attempt;
pub mod candidate;
mod exchange;
pub mod guess;
mod guessing;
pub mod limit;
pub mod nat;
pub mod offer;
mod pair;
pub mod probe;
mod random;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnetwork::IpNetwork;
use wireguard::{PublicKey, Underlay};

pub use agent::Agent;
pub use candidate::Kind;
pub use nat::{Filtering, Mapping, NatView};
pub use probe::ProbeError;

/// Which socket a probe leaves by, or came by.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Socket {
    /// One of those that WireGuard uses, or [`Underlay::ANY_SOCKET`].
    Own(u8),
    /// One that was opened because of [`Event::OpenSockets`], from 0.
    Extra(u16),
}

/// Where a probe came from, and to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arrival {
    /// The sender's address.
    pub remote: SocketAddr,
    /// Our address that it was sent to, if that is known.
    pub local: Option<IpAddr>,
    /// The socket that it came by.
    pub socket: Socket,
}

impl From<Underlay> for Arrival {
    fn from(underlay: Underlay) -> Self {
        Self {
            remote: underlay.remote,
            local: underlay.local,
            socket: Socket::Own(underlay.socket),
        }
    }
}

/// Where this node is, as it knows itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Local {
    /// The addresses of its interfaces in the underlay, with WireGuard's port.
    pub hosts: Vec<SocketAddr>,
    /// Addresses that a router was asked to forward to it.
    pub mapped: Vec<SocketAddr>,
    /// Prefixes that are reached through the overlay: nothing is sent there.
    pub refused: Vec<IpNetwork>,
}

/// What a neighbour sees of this node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reflexion {
    /// Who says so.
    pub witness: PublicKey,
    /// Where the witness was asked.
    pub remote: SocketAddr,
    /// Where it was asked from, as it sees it.
    pub seen: SocketAddr,
    /// Index of the socket that it was asked by.
    pub socket: u8,
}

/// Why a peer is to be reached.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Demand {
    /// It would be good to have a straight way, some time.
    Background,
    /// There are packets for it now, or there were at most seconds ago.
    Traffic,
}

/// A probe to be sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transmit {
    /// By which socket.
    pub socket: Socket,
    /// From which of our addresses (`None`: the kernel chooses).
    pub from: Option<IpAddr>,
    /// Where to.
    pub to: SocketAddr,
    /// What.
    pub datagram: Vec<u8>,
    /// With this hop limit (TTL), if not the usual one.
    pub hop_limit: Option<u8>,
}

/// What the agent wants, or has found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// Carry this message, at most [`offer::MAX`] bytes, to the peer, so that it cannot be forged.
    Offer {
        /// For whom.
        peer: PublicKey,
        /// What.
        message: Vec<u8>,
    },
    /// Probes go both ways between this address and us. It may come again with another address that has turned out to be better.
    Proven {
        /// Whose address.
        peer: PublicKey,
        /// Which, and from where.
        endpoint: Underlay,
        /// Round-trip time.
        rtt: Duration,
    },
    /// No straight way was found. There will be other attempts while there is traffic.
    Failed {
        /// To whom.
        peer: PublicKey,
        /// Why not.
        why: Why,
    },
    /// Open this many sockets, each on a port of its own, and call [`Agent::handle_sockets`].
    OpenSockets {
        /// Because of whom.
        peer: PublicKey,
        /// How many.
        count: u16,
    },
    /// Like [`Self::Proven`], by one of the extra sockets: make it one that WireGuard uses.
    Adopt {
        /// Whose address.
        peer: PublicKey,
        /// By which extra socket.
        socket: u16,
        /// The peer's address.
        remote: SocketAddr,
        /// Our address that the peer sends to, if that is known.
        local: Option<IpAddr>,
        /// Round-trip time.
        rtt: Duration,
    },
    /// Close all extra sockets that were not adopted; their numbers may be used again.
    CloseSockets {
        /// Because of whom they were opened.
        peer: PublicKey,
    },
}

/// Why no straight way was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// The peer did not answer the offer.
    NoAnswer,
    /// Neither side has named an address that may be probed.
    NoCandidates,
    /// Both routers give out ports that nobody can guess.
    BothRandom,
    /// One router gives out ports that nobody can guess, and the other lets nothing in that was not asked for: it would take hundreds
    /// of probes, which are sent only where there is traffic, and seldom.
    Unpredictable,
    /// As before, and the hundreds of probes did not meet.
    NotMet,
    /// Nothing came back.
    Silent,
}

impl Why {
    /// A short name that does not change.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoAnswer => "PATH-NO-ANSWER",
            Self::NoCandidates => "PATH-NO-ADDRESS",
            Self::BothRandom => "NAT-SYM-SYM",
            Self::Unpredictable | Self::NotMet => "NAT-SYM",
            Self::Silent => "PATH-SILENT",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAnswer => "the other node did not answer",
            Self::NoCandidates => "no address to try",
            Self::BothRandom => "both routers change ports",
            Self::Unpredictable => "one router changes ports, and guessing them waits for traffic",
            Self::NotMet => "one router changes ports, and none was guessed",
            Self::Silent => "nothing came back",
        })
    }
}

/// What was tried to reach a peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tried {
    /// Where.
    pub candidate: SocketAddr,
    /// What address that is.
    pub kind: Kind,
    /// Probes sent.
    pub sent: u32,
    /// Probes answered.
    pub answered: u32,
    /// The shortest round-trip time.
    pub rtt: Option<Duration>,
    /// What came of it.
    pub note: &'static str,
}
