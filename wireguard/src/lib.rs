//! WireGuard sessions between keys, without I/O.
//!
//! Bytes and the time go in; datagrams, packets, events and deadlines come out. There is no socket, no thread and no clock
//! here, so that a thousand nodes can run in virtual time in one test. A session has two halves: handshakes and timers belong
//! to the [`Device`], which the node's loop owns alone; sealing and opening belong to the [`Session`], which packet threads share.
//!
//! # The way of a packet out
//!
//! 1. A packet thread has read packets for one peer and takes [`Session::lock`], once for all of them.
//! 2. [`Batch::seal`] asks our own account of keypairs (`keypair.rs`) whether there is one to send with, and how old it is. If there
//!    is none, the packet waits in the node, which calls [`Device::initiate`].
//! 3. The packet is padded to 16 bytes, not beyond the MTU, and sealed by the engine (`tunnel.rs`).
//! 4. The batch notes when data was sent, and whether the keypair is due for renewal.
//! 5. [`Batch::endpoint`] says where to send; [`Batch::finish`] says whether the node's loop must call [`Device::handle_signal`].
//!
//! # The way of a datagram in
//!
//! 1. A packet thread reads the header with [`Message::of`]. What is not WireGuard is not ours.
//! 2. Handshake messages (types 1, 2, 3): [`Gate::judge`] at once for the first two, so that nobody who does not know our key, nor
//!    anybody under load who has not proven its address, gets any further; then by queue to a thread that does
//!    [`Reader::read`], where strangers and forgers end; then to the node's loop and into [`Device::handle_read`] (6).
//! 3. Data: the upper 24 bits of the receiver index are [`Session::index`]. [`Session::lock`] once for a run of datagrams.
//! 4. [`Batch::open`] refuses counters beyond the limit and keypairs that are unknown or too old, then asks the engine, which
//!    checks the replay window before and after it opens the message.
//! 5. An authentic message moves the endpoint, may confirm a keypair that we answered for, and is noted; the packet's source is
//!    compared with what the peer may send from ([`Verdict`]).
//! 6. The reader has checked the MAC again, refused ephemeral keys of low order, and read the initiator's key from the message
//!    *before* anything is allocated ([`HandshakeError::Stranger`]). The device applies the limit of 20 ms per peer, and lets the
//!    engine answer.
//!    An initiator may send when it has the response; a responder only when the first data message of the new keypair has
//!    opened (5), which the node's loop hears of by signal.
//!
//! # Time
//!
//! Every method that needs it takes `now`. The only clock that is read is inside the engine, and only the order of what it
//! stamps matters (`tunnel.rs` says how that is kept so). All timers are in `peer.rs`.

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
mod gate;
mod handshake;
mod key;
mod keypair;
mod loss;
mod message;
mod peer;
mod reader;
mod rng;
mod session;
#[cfg(feature = "_sim")]
mod sim_engine;
mod source_limit;
mod tunnel;

pub use allowed_ips::AllowedIps;
pub use device::{AddPeerError, Device, Event, Transmit};
pub use endpoint::Endpoint;
pub use gate::{Gate, Load, Passage};
pub use handshake::HandshakeError;
pub use key::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use message::{Mac1, Message};
pub use peer::{Peer, Upkeep};
pub use reader::{Author, Reader};
pub use session::{Batch, Counters, Kind, OpenError, Opened, SealError, Session, Signals, Verdict};
