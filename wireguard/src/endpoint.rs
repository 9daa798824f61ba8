//! Where a peer is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Where to send to a peer, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The peer's underlay address.
    pub remote: SocketAddr,
    /// Our address that the peer sent to, to be kept as the source of what we send (`None`: the kernel chooses).
    pub local: Option<IpAddr>,
    /// Index of the local socket the peer was heard on, or [`Self::ANY_SOCKET`].
    pub socket: u8,
}

impl Endpoint {
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
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.remote.fmt(f)
    }
}
