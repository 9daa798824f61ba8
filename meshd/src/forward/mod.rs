//! The packet path, in the order packets travel: [`Inside`] takes them from the TUN device, seals them and sends them; [`Outside`]
//! takes datagrams, opens them, and delivers what is inside. Each is one plain thread that runs to completion against the [`Fib`]
//! snapshot; what is not plain data goes to the node loop and the handshake thread over bounded queues and is never waited for.

pub mod delivery;
pub mod demux;
mod inside;
mod outbox;
mod outside;

use std::{
    io::IoSlice,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Sender, TrySendError};
use wireguard::{Endpoint, PublicKey, Signals, constants::INITIATION_LEN};

pub use self::{inside::Inside, outbox::Outbox, outside::Outside};
use crate::{
    discard::{Discards, Reason},
    fib::Fib,
    io::{clock::Clock, offload::VirtioHeader, tun::Tun, udp::UdpSocket},
};

/// What the packet threads share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The current snapshot.
    pub fib: Arc<ArcSwap<Fib>>,
    /// The device of this host.
    pub tun: Arc<Tun>,
    /// The sockets of the underlay.
    pub sockets: Arc<Sockets>,
    /// The counters of discarded packets.
    pub discards: Arc<Discards>,
    /// The clock that the node loop uses too.
    pub clock: Clock,
    /// Authenticated and local notices for the node loop.
    pub notices: Sender<Notice>,
    /// Longest packet that a tunnel carries, in bytes.
    pub mtu: usize,
}

/// What other threads tell the node loop about those who have a session; never starved by strangers.
#[derive(Debug)]
pub enum Notice {
    /// Something on this peer's session concerns its timers: traffic, or a step of a handshake.
    Signal(PublicKey),
    /// A packet for a session that is not open.
    Unsent {
        /// Whose session.
        peer: PublicKey,
        /// The packet.
        packet: Vec<u8>,
    },
    /// A reply to an echo request of ours.
    EchoReply {
        /// The number of the request.
        number: u64,
        /// When it arrived.
        received: Instant,
    },
}

/// A handshake message, from anybody: dropped first.
#[derive(Debug)]
pub struct Handshake {
    /// Where it came from, and to which of our addresses.
    pub from: Endpoint,
    datagram: [u8; INITIATION_LEN],
    length: usize,
}

impl Handshake {
    /// Copies a handshake message; nothing if it is longer than any.
    pub fn new(from: Endpoint, datagram: &[u8]) -> Option<Self> {
        let mut copy = [0; INITIATION_LEN];
        copy.get_mut(..datagram.len())?.copy_from_slice(datagram);
        Some(Self {
            from,
            datagram: copy,
            length: datagram.len(),
        })
    }

    /// The message.
    pub fn datagram(&self) -> &[u8] {
        &self.datagram[..self.length]
    }
}

/// The underlay sockets, by the index that an [`Endpoint`] names.
#[derive(Debug)]
pub struct Sockets {
    sockets: Vec<UdpSocket>,
    /// How often the underlay has changed: what was learned about destinations before is void.
    changes: AtomicU64,
}

impl Sockets {
    /// These sockets, in this order.
    pub fn new(sockets: Vec<UdpSocket>) -> Self {
        Self {
            sockets,
            changes: AtomicU64::new(0),
        }
    }

    /// Addresses or routes of the underlay have changed.
    pub fn note_change(&self) {
        self.changes.fetch_add(1, Relaxed);
    }

    /// The socket to reach an endpoint with: the one it names, or the first of its family.
    fn of(&self, endpoint: &Endpoint) -> Option<&UdpSocket> {
        let fits = |socket: &&UdpSocket| socket.local_addr().is_ipv4() == endpoint.remote.is_ipv4();
        let named = self.sockets.get(usize::from(endpoint.socket));
        named
            .filter(fits)
            .or_else(|| self.sockets.iter().find(fits))
    }
}

/// Signals that the node loop has not heard yet, because its queue was full.
#[derive(Debug, Default)]
pub struct Unheard(Vec<PublicKey>);

impl Unheard {
    /// Passes a session's signals on, and those that went unheard before.
    pub fn signal(&mut self, notices: &Sender<Notice>, peer: &PublicKey, signals: Signals) {
        let tell = |peer: &PublicKey| notify(notices, Notice::Signal(*peer));
        self.0.retain(|peer| !tell(peer));
        if signals.any() && !tell(peer) && !self.0.contains(peer) {
            self.0.push(*peer);
        }
    }
}

/// Tells the node loop; returns whether it heard.
fn notify(notices: &Sender<Notice>, notice: Notice) -> bool {
    match notices.try_send(notice) {
        Ok(()) => true,
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
    }
}

impl Shared {
    fn notify(&self, notice: Notice) -> bool {
        notify(&self.notices, notice)
    }

    fn signal(&self, unheard: &mut Unheard, peer: &PublicKey, signals: Signals) {
        unheard.signal(&self.notices, peer, signals);
    }

    /// Writes one packet to the TUN device.
    pub fn deliver(&self, packet: &[u8]) {
        let header = VirtioHeader::default().emit();
        if self
            .tun
            .write(&[IoSlice::new(&header), IoSlice::new(packet)])
            .is_err()
        {
            self.discards.discard(Reason::TunWrite, 1);
        }
    }

    /// Hands a packet for a closed session to the node loop.
    fn unsent(&self, peer: &PublicKey, packet: &[u8]) {
        if !self.notify(Notice::Unsent {
            peer: *peer,
            packet: packet.to_vec(),
        }) {
            self.discards.discard(Reason::LoopBusy, 1);
        }
    }
}
