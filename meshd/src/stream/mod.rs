//! WireGuard datagrams over TCP, for where UDP does not pass (`docs/protocol.md` has the layout).
//!
//! A stream is one more way over the underlay, and not a good one: what one lost segment holds up waits for it to be sent again. So nothing
//! queues besides: what a stream does not take at once is dropped, and those who sent it slow down.
//!
//! Who may be at the other end, nobody knows before a handshake has come. A listener says nothing to anybody who does not begin with an
//! initiation to this node's key, and has little room for those who have not proven who they are ([`Waiting`]).
//!
//! ```text
//!  packet threads, node loop ──► Sockets ──► Table ──► Line::write ──► TCP       (by whoever sends; never waits)
//!  TCP ──► thread `stream`: frames ──► the same opening and delivery as `outside`
//!  node loop ──► Command ──► thread `stream` ──► Notice::Stream ──► node loop
//! ```

pub mod frame;
mod line;
mod table;
mod thread;
mod waiting;

use std::net::SocketAddr;

use wireguard::{PublicKey, Underlay};

pub use self::{
    line::{Line, Written},
    table::{Table, table},
    thread::{Berth, Setup, StreamThread},
    waiting::{Place, Waiting},
};

/// The port that networks which pass nothing else mostly pass.
pub const PORT: u16 = 443;
/// Addresses that are tried of one peer, at most.
pub const MAX_ADDRESSES: usize = 8;

/// What the node loop wants of the thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect to a peer at one of these addresses, whichever answers first; [`Event::Opened`] or [`Event::Failed`] says what came of
    /// it.
    Dial {
        /// Which peer.
        peer: PublicKey,
        /// The best first, at most [`MAX_ADDRESSES`].
        addresses: Vec<SocketAddr>,
    },
    /// Close a stream, or give up connecting one.
    Close {
        /// Of which peer.
        peer: PublicKey,
        /// Which; none: the one that is being connected.
        stream: Option<Underlay>,
    },
}

/// What the node loop hears of the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stream that was asked for is there. Who is at its other end, only a handshake tells.
    Opened {
        /// For which peer it was asked for.
        peer: PublicKey,
        /// Where to send.
        stream: Underlay,
    },
    /// No address of a peer took a connection.
    Failed {
        /// Which peer.
        peer: PublicKey,
    },
    /// A stream is no more.
    Closed {
        /// Who is known to have been at its other end, or was to be.
        peer: PublicKey,
        /// Which.
        stream: Underlay,
    },
}
