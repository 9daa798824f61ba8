//! Machines that do not do what they should.

use super::inspect::{Carried, carried};

/// What becomes of a datagram that a machine wants to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It is sent.
    Send,
    /// It is dropped.
    Drop,
    /// The datagram that it relays is sent to its last receiver over the underlay, from here, as if the relay were its origin.
    Post,
    /// Both.
    SendAndPost,
}

/// What decides about the datagrams of a machine.
pub type Crime = Box<dyn FnMut(&[u8]) -> Deed>;

/// Drops what it should relay, if `is_chosen` says so of its length.
pub fn dropping(mut is_chosen: impl FnMut(usize) -> bool + 'static) -> Crime {
    Box::new(move |datagram| match carried(datagram) {
        Carried::Relayed { .. } if is_chosen(datagram.len()) => Deed::Drop,
        Carried::Relayed { .. } | Carried::Nothing | Carried::Own(_) | Carried::Error => Deed::Send,
    })
}

/// Does that with all that it should relay.
pub fn relaying(deed: Deed) -> Crime {
    Box::new(move |datagram| match carried(datagram) {
        Carried::Relayed { .. } => deed,
        Carried::Nothing | Carried::Own(_) | Carried::Error => Deed::Send,
    })
}
