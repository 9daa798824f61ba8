//! Where a peer is.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Where to send to a peer: which way its datagrams take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Straight over the underlay: by UDP, or in a TCP stream where UDP does not pass.
    Underlay(Underlay),
    /// To this address inside other sessions, which whoever sends has to know a way to. It is one that the peer owns.
    Overlay(Ipv6Addr),
}

/// The sorts of ways. A session does not change from one to another because a packet came that way: whoever stands between can carry one
/// across. Only who has asked that way, inside the session, and was answered knows that it leads to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// UDP over the underlay.
    Underlay,
    /// A TCP stream over the underlay.
    Stream,
    /// Packets of the overlay.
    Overlay,
}

/// An address of the underlay, and where to send to it from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Underlay {
    /// The peer's address.
    pub remote: SocketAddr,
    /// Our address that the peer sent to, to be kept as the source of what we send (`None`: the kernel chooses).
    pub local: Option<IpAddr>,
    /// Index of the local socket the peer was heard on, [`Self::ANY_SOCKET`], or [`Self::STREAM`].
    pub socket: u8,
}

impl Underlay {
    /// The peer was not heard at this address yet: whoever sends picks a socket of the right family.
    pub const ANY_SOCKET: u8 = u8::MAX;
    /// In place of a socket's index: the TCP stream whose other end is at the peer's address.
    pub const STREAM: u8 = u8::MAX - 1;

    /// An address that was configured or found, but never heard from.
    pub const fn unproven(remote: SocketAddr) -> Self {
        Self {
            remote,
            local: None,
            socket: Self::ANY_SOCKET,
        }
    }

    /// The TCP stream whose other end is at `remote`, and ours at `local`.
    pub const fn stream(remote: SocketAddr, local: Option<IpAddr>) -> Self {
        Self {
            remote,
            local,
            socket: Self::STREAM,
        }
    }

    /// Whether it is a TCP stream.
    pub const fn is_stream(&self) -> bool {
        self.socket == Self::STREAM
    }

    /// Whether both are the same way: by UDP or both in a stream, the same address of the peer, and of ours if both say which.
    pub fn is_same_way(&self, other: &Self) -> bool {
        self.remote == other.remote
            && self.is_stream() == other.is_stream()
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

    /// Which sort of way it is.
    pub const fn class(&self) -> Class {
        match self {
            Self::Underlay(underlay) if underlay.is_stream() => Class::Stream,
            Self::Underlay(_) => Class::Underlay,
            Self::Overlay(_) => Class::Overlay,
        }
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
            Self::Underlay(underlay) if underlay.is_stream() => {
                write!(f, "{} (stream)", underlay.remote)
            }
            Self::Underlay(underlay) => underlay.remote.fmt(f),
            Self::Overlay(address) => write!(f, "{address} (overlay)"),
        }
    }
}
