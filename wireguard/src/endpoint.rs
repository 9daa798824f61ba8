//! Where a peer is.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Where to send to a peer: which way its datagrams take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Over UDP, straight.
    Underlay(Underlay),
    /// To this address inside other sessions, which whoever sends has to know a way to. It is one that the peer owns.
    Overlay(Ipv6Addr),
}

/// An address of the underlay, and where to send to it from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Underlay {
    /// The peer's address.
    pub remote: SocketAddr,
    /// Our address that the peer sent to, to be kept as the source of what we send (`None`: the kernel chooses).
    pub local: Option<IpAddr>,
    /// Index of the local socket the peer was heard on, or [`Self::ANY_SOCKET`].
    pub socket: u8,
}

impl Underlay {
    /// The peer was not heard at this address yet: whoever sends picks a socket of the right family.
    pub const ANY_SOCKET: u8 = u8::MAX;

    /// An address that was configured or found, but never heard from.
    pub const fn unproven(remote: SocketAddr) -> Self {
        Self {
            remote,
            local: None,
            socket: Self::ANY_SOCKET,
        }
    }

    /// Whether both are the same way: the same address of the peer, and of ours if both say which.
    pub fn is_same_way(&self, other: &Self) -> bool {
        self.remote == other.remote
            && match (self.local, other.local) {
                (Some(one), Some(another)) => one == another,
                (None, _) | (_, None) => true,
            }
    }
}

impl Endpoint {
    /// An address of the underlay that was configured or found, but never heard from.
    pub const fn unproven(remote: SocketAddr) -> Self {
        Self::Underlay(Underlay::unproven(remote))
    }

    /// The address of the underlay, unless it is one of the overlay.
    pub const fn underlay(&self) -> Option<&Underlay> {
        match self {
            Self::Underlay(underlay) => Some(underlay),
            Self::Overlay(_) => None,
        }
    }

    /// The peer's address of the underlay, unless it is one of the overlay.
    pub const fn remote(&self) -> Option<SocketAddr> {
        match self {
            Self::Underlay(underlay) => Some(underlay.remote),
            Self::Overlay(_) => None,
        }
    }
}

impl From<Underlay> for Endpoint {
    fn from(underlay: Underlay) -> Self {
        Self::Underlay(underlay)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Underlay(underlay) => underlay.remote.fmt(f),
            Self::Overlay(address) => write!(f, "{address} (overlay)"),
        }
    }
}
