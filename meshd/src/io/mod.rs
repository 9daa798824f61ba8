//! Everything that touches the kernel: all system calls and all `unsafe` of the daemon.
//!
//! ```text
//!  tun ── read ──► offload::split ──► packets ─► (seal) ─► udp::send      one read = up to 64 KB = one GSO send
//!  udp ── recv ──► segments ─► (open) ─► offload::Coalescer ──► tun::write  gathered, not copied
//!  tcp: connections that nobody waits for; socket: options and names of sockets of every kind
//!  poll, wake, clock: how a packet thread waits, is stopped, and tells the time
//!  namespace, handover: where workloads live, and how their devices come to the daemon
//!  hardening: what a daemon that has been taken over may still do
//!  multicast: what is said to everybody on a link
//!  netlink: addresses, routes and rules of the overlay; changes of the underlay
//!  nft: the packet filter's rule against overlay packets from elsewhere
//! ```
//! Nothing here knows WireGuard, Babel or a peer: what comes in and goes out are bytes and socket addresses.
#![allow(unsafe_code, reason = "system calls live here and nowhere else")]

pub(crate) mod checksum;
pub mod clock;
pub mod handover;
pub mod hardening;
pub mod multicast;
pub mod namespace;
pub mod netlink;
pub mod nft;
pub mod offload;
pub mod peer_credentials;
pub mod poll;
#[cfg(feature = "_sim")]
pub mod simulated;
mod socket;
pub mod tcp;
pub mod tun;
pub mod udp;
pub mod wake;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::io;

/// Turns the result of a system call that reports failure by -1 and `errno` into a `Result`.
fn check<T: Into<i64> + Copy>(result: T) -> io::Result<T> {
    if result.into() < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
