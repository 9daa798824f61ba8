//! The delivery step: where an authenticated packet from outside goes.
//!
//! This is where the promise of the source check is kept (design, Data plane): a packet reaches the TUN only out of the session whose
//! key owns its source address, and only if its destination is this node; a leaf's packets go on as if read from a TUN.

use std::sync::Arc;

use wireguard::{Session, Verdict};

use crate::{
    discard::Reason,
    fib::{Fib, Lookup},
    icmp::Unreachable,
    packet::{HeaderError, Ipv6Header},
};

/// What becomes of a decrypted packet.
#[derive(Debug)]
pub enum Delivery<'a> {
    /// To the host behind the TUN device.
    Host,
    /// Into another session: from or to a leaf of ours.
    Forward(&'a Arc<Session>),
    /// Nowhere.
    Discard(Reason),
    /// Nowhere, and the sender, who is a leaf of ours, is told why.
    Refuse(Reason, Unreachable),
}

/// Where a packet goes that the session with this verdict brought.
pub fn deliver<'a>(fib: &'a Fib, verdict: Verdict, packet: &[u8]) -> Delivery<'a> {
    let destination = match Ipv6Header::parse(packet) {
        Ok(header) => header.destination,
        Err(HeaderError::Version) => return Delivery::Discard(Reason::NotIpv6),
        Err(HeaderError::Truncated) => return Delivery::Discard(Reason::Malformed),
    };
    match (verdict, fib.lookup(destination)) {
        (Verdict::Foreign, _) => Delivery::Discard(Reason::OutsideSource),
        (Verdict::Owned | Verdict::Leaf, Lookup::Host) => Delivery::Host,
        (Verdict::Owned, Lookup::Session(leaf)) if fib.is_ours(destination) => {
            Delivery::Forward(leaf)
        }
        (Verdict::Owned, Lookup::Session(_) | Lookup::Unknown | Lookup::NotOverlay) => {
            Delivery::Discard(Reason::OutsideDestination)
        }
        (Verdict::Leaf, Lookup::Session(session)) => Delivery::Forward(session),
        (Verdict::Leaf, Lookup::Unknown) => Delivery::Refuse(Reason::NoRoute, Unreachable::NoRoute),
        (Verdict::Leaf, Lookup::NotOverlay) => Delivery::Discard(Reason::NotOverlay),
    }
}
