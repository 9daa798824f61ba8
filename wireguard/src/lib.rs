//! WireGuard sessions between keys, without I/O.
//!
//! Bytes and the time go in; datagrams, packets, events and deadlines come out. There is no socket, no thread and no clock
//! here, so that a thousand nodes can run in virtual time in one test. Peers and timers belong to the [`Device`], which the node's loop
//! owns alone; sealing, opening and the steps of a handshake belong to the [`Session`], which other threads share. One thread may do all
//! of it: [`Device::handle_datagram`].
//!
//! # The way of a packet out
//!
//! 1. A packet thread has read packets for one peer and takes [`Session::lock`], once for all of them.
//! 2. [`Batch::seal`] takes the keypair to send with (`keypair.rs`), if there is one and it is not too old. If there
//!    is none, the packet waits in the node, which calls [`Device::initiate`].
//! 3. The packet is padded to 16 bytes, not beyond the MTU, and sealed straight into the datagram ([`chapoly`]).
//! 4. The batch notes when data was sent, and whether the keypair is due for renewal.
//! 5. [`Batch::endpoint`] says where to send; [`Batch::finish`] says whether the node's loop must call [`Device::handle_signal`].
//!
//! # The way of a datagram in
//!
//! 1. A packet thread reads the header with [`Message::of`]. What is not WireGuard is not ours.
//! 2. Handshake messages (types 1, 2, 3): [`Gate::judge`] at once for the first two, so that nobody who does not know our key, nor
//!    anybody under load who has not proven its address, gets any further; then by queue to a thread that does all of (6).
//! 3. Data: the receiver index, decrypted, names the session ([`Indices::session`]). [`Session::lock`] once for a run of datagrams.
//! 4. [`Batch::open`] refuses counters beyond the limit, keypairs that are unknown or too old, and counters that were seen (`window.rs`),
//!    then opens the message.
//! 5. An authentic message moves the endpoint (a packet of a node itself, from its link-local address, does not), may confirm a keypair
//!    that we answered for, and is noted; the packet's source is compared with what the peer may send from ([`Verdict`]).
//! 6. [`Reader::read`] checks the MAC again, refuses ephemeral keys of low order, and reads the initiator's key from the message
//!    *before* anything is allocated ([`HandshakeError::Stranger`]). [`Session::admit`] applies the limit of 20 ms per peer before the
//!    second key agreement, which shows that the initiator has the key. Under the session's lock [`Batch::handle_handshake`] refuses
//!    replays and answers to nothing, agrees on keys (`engine.rs`), gives the answer its MACs, and notes what came
//!    of it, which the device hears of by signal ([`Device::handle_signal`]); of what is refused it hears nothing.
//!    An initiator may send when it has the response; a responder only when the first data message of the new keypair has
//!    opened (5), which the node's loop hears of by signal too.
//!
//! # Time
//!
//! Every method that needs it takes `now`; no clock is read. Initiations are stamped with the time of day that the device was told
//! ([`Device::handle_wall_clock`]). All timers are in `peer.rs`. The only randomness that is not from a seed are the keys of handshakes.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::unwrap_in_result,
        reason = "a test may fail by panic"
    )
)]

mod allowed_ips;
pub mod constants;
mod cookie;
mod device;
mod endpoint;
mod engine;
mod gate;
mod handshake;
mod index;
mod key;
mod keypair;
mod loss;
mod message;
mod noise;
mod peer;
mod reader;
mod rng;
mod session;
#[cfg(feature = "_sim")]
mod simulated;
mod source_limit;
mod stamp;
mod window;

pub use allowed_ips::AllowedIps;
pub use device::{AddPeerError, Device, Event, Transmit};
pub use endpoint::{Class, Endpoint, Underlay};
pub use gate::{Gate, Load, Passage};
pub use handshake::HandshakeError;
pub use index::Indices;
pub use key::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use loss::Tally;
pub use message::{Mac1, Message};
pub use peer::{Peer, Upkeep};
pub use reader::{Author, Reader};
pub use session::{
    Batch, Carriage, Counters, Kind, OpenError, Opened, SealError, Session, Signals, Verdict,
};
pub use stamp::Stamp;
