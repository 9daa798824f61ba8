//! The packet path, in the order packets travel: [`Inside`] takes them from the TUN device, seals them and sends them; [`Outside`]
//! takes datagrams, opens them, and delivers what is inside, here or to the next node. Each is one plain thread that runs to completion
//! against the [`Fib`] snapshot; what is not plain data goes to the node loop and the handshake thread over bounded queues and is never
//! waited for.

mod codel;
pub mod delivery;
pub mod demux;
mod devices;
mod egress;
mod entrance;
mod extra;
mod inside;
mod outbox;
mod outside;
mod queue;
mod relay_limit;
mod resolver;
mod stage;
mod workloads;

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Sender, TrySendError};
use wireguard::{Endpoint, PublicKey, Signals, Underlay, constants::INITIATION_LEN};

pub use self::{
    devices::{Device, Devices},
    egress::Egress,
    entrance::Doors,
    extra::Extra,
    inside::Inside,
    outbox::Outbox,
    outside::Outside,
    relay_limit::RelayLimit,
    resolver::{Asker, QUESTIONS, Question, Resolver},
};
use crate::{
    bell,
    discard::{Discards, Reason},
    fib::{Carrier, Fib, Queued, Workload},
    io::{
        clock::Clock,
        offload::{HEADER, VirtioHeader},
        tun::Tun,
        udp::UdpSocket,
    },
    packet::Ipv6Header,
    stream,
    workload::WorkloadId,
};

/// What the packet threads share. A shard, the two threads of one queue, has the device's queue and the sockets to itself.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The current snapshot.
    pub fib: Arc<ArcSwap<Fib>>,
    /// The shard's queue of the device of this host.
    pub tun: Arc<Tun>,
    /// The devices of workloads, of all shards.
    pub devices: Arc<Devices>,
    /// The clock that the node loop uses too.
    pub clock: Clock,
    /// What is forwarded for others, by all threads.
    pub relay_limit: Arc<RelayLimit>,
    /// The sockets, the counters, and the queue of the node loop.
    pub outlet: Outlet,
    /// For the thread that answers questions for names; none: nobody does.
    pub questions: Option<Sender<Question>>,
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
    /// A packet of the host's for a node that there is no session with.
    FirstContact(Vec<u8>),
    /// A datagram came from there under a label that nobody was given.
    UnknownLabel {
        /// Where it came from.
        from: SocketAddr,
        /// The label.
        label: u32,
    },
    /// Something about a TCP stream.
    Stream(stream::Event),
    /// The namespace of this attachment has died, and its device with it.
    WorkloadGone(WorkloadId),
    /// A packet that a peer sent to the node itself.
    Packet {
        /// Who sent it.
        peer: PublicKey,
        /// Where it came from.
        from: Endpoint,
        /// What it is about.
        topic: Topic,
        /// The packet.
        packet: Vec<u8>,
        /// When it arrived.
        received: Instant,
        /// Its place in the queue.
        queued: Queued,
    },
}

/// What a packet to the node itself is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Topic {
    /// Routes: a Babel packet.
    Routing,
    /// The session: a signal.
    Session,
    /// A datagram of ours that got no further: an ICMPv6 error.
    RelayError,
    /// Something of ours that the peer does not let in: an ICMPv6 error.
    Prohibited,
}

/// A probe of a path agent, under a token that was given away: dropped before anything of a session.
#[derive(Debug)]
pub struct Probed {
    /// Where it came from, and to which of our addresses and sockets.
    pub from: Underlay,
    /// The probe.
    pub datagram: Vec<u8>,
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
    /// Those that come and go.
    extra: Arc<Extra>,
    /// How often the underlay has changed: what was learned about destinations before is void.
    changes: Arc<AtomicU64>,
    /// The TCP streams, which all shards share; none in simulations.
    streams: Option<Arc<stream::Table>>,
}

impl Sockets {
    /// These sockets, in this order.
    ///
    /// # Errors
    /// The system gives no descriptor.
    pub fn new(sockets: Vec<UdpSocket>) -> io::Result<Self> {
        Ok(Self {
            extra: Arc::new(Extra::new(sockets.len())?),
            sockets,
            changes: Arc::default(),
            streams: None,
        })
    }

    /// The same, with TCP streams besides.
    #[must_use]
    pub fn with_streams(self, streams: Arc<stream::Table>) -> Self {
        Self {
            streams: Some(streams),
            ..self
        }
    }

    /// Another shard's, in the same order: what changes under one changes under all.
    pub fn shard(&self, sockets: Vec<UdpSocket>) -> Self {
        Self {
            sockets,
            extra: Arc::clone(&self.extra),
            changes: Arc::clone(&self.changes),
            streams: self.streams.as_ref().map(Arc::clone),
        }
    }

    /// The TCP streams.
    pub fn streams(&self) -> Option<&Arc<stream::Table>> {
        self.streams.as_ref()
    }

    /// Addresses or routes of the underlay have changed.
    pub fn note_change(&self) {
        self.changes.fetch_add(1, Relaxed);
    }

    /// Those that come and go, for all shards.
    pub fn extra(&self) -> &Extra {
        &self.extra
    }

    /// Where the sockets that stay are bound.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.sockets.iter().map(UdpSocket::local_addr)
    }

    /// The socket to reach an endpoint with: the one it names, which may be in `extra`, or the first of its family.
    fn of<'a>(&'a self, endpoint: &Underlay, extra: &'a extra::Table) -> Option<&'a UdpSocket> {
        if endpoint.is_stream() {
            return None;
        }
        let fits = |socket: &&UdpSocket| socket.local_addr().is_ipv4() == endpoint.remote.is_ipv4();
        let named = self
            .sockets
            .get(usize::from(endpoint.socket))
            .or_else(|| extra.get(endpoint.socket));
        named
            .filter(fits)
            .or_else(|| self.sockets.iter().find(fits))
    }
}

/// Where a thread's packets leave, and whom it tells of them.
#[derive(Clone, Debug)]
pub struct Outlet {
    /// The sockets of the underlay.
    pub sockets: Arc<Sockets>,
    /// The counters of discarded packets.
    pub discards: Arc<Discards>,
    /// For the node loop.
    pub notices: bell::Sender<Notice>,
}

/// Signals that the node loop has not heard yet, because its queue was full.
#[derive(Debug, Default)]
struct Unheard(Vec<PublicKey>);

impl Outlet {
    /// Whether the node loop heard.
    pub(crate) fn reaches(&self, notice: Notice) -> bool {
        match self.notices.try_send(notice) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Tells the node loop, or counts the packet that it did not hear of.
    pub(crate) fn tell(&self, notice: Notice) {
        if !self.reaches(notice) {
            self.discards.discard(Reason::LoopBusy, 1);
        }
    }

    /// Hands a packet for a closed session to the node loop.
    fn unsent(&self, peer: &PublicKey, packet: &[u8]) {
        self.tell(Notice::Unsent {
            peer: *peer,
            packet: packet.to_vec(),
        });
    }

    /// Passes a session's signals on, and those that went unheard before.
    fn signal(&self, unheard: &mut Unheard, peer: &PublicKey, signals: Signals) {
        let tell = |peer: &PublicKey| self.reaches(Notice::Signal(*peer));
        unheard.0.retain(|peer| !tell(peer));
        if signals.any() && !tell(peer) && !unheard.0.contains(peer) {
            unheard.0.push(*peer);
        }
    }
}

impl Shared {
    /// The same for another shard.
    pub fn shard(&self, tun: Tun, sockets: Vec<UdpSocket>) -> Self {
        Self {
            tun: Arc::new(tun),
            outlet: Outlet {
                sockets: Arc::new(self.outlet.sockets.shard(sockets)),
                ..self.outlet.clone()
            },
            ..self.clone()
        }
    }

    /// Hands the node loop a packet that is for the node itself.
    fn tell_packet(
        &self,
        carrier: &Carrier,
        topic: Topic,
        from: Endpoint,
        packet: &[u8],
        received: Instant,
    ) {
        match carrier.stats.queue() {
            None => self.outlet.discards.discard(Reason::PeerTalksTooMuch, 1),
            Some(queued) => self.outlet.tell(Notice::Packet {
                peer: *carrier.session.key(),
                from,
                topic,
                packet: packet.to_vec(),
                received,
                queued,
            }),
        }
    }

    /// Hands the name server a packet that is for it; false if it is not a question.
    fn asks(&self, asker: impl FnOnce() -> Asker, packet: &[u8]) -> bool {
        if !resolver::is_question(packet) {
            self.discard(Reason::ResolverPort, 1);
            return false;
        }
        let question = || Question {
            asker: asker(),
            packet: packet.to_vec(),
        };
        let queue = self.questions.as_ref();
        if queue.is_none_or(|queue| queue.try_send(question()).is_err()) {
            self.discard(Reason::QueryQueueFull, 1);
        }
        true
    }

    fn discard(&self, reason: Reason, packets: u64) {
        self.outlet.discards.discard(reason, packets);
    }

    /// Writes one packet to the TUN device of whom it is for: a workload, else the host.
    pub fn deliver(&self, packet: &[u8]) {
        let header = VirtioHeader::default().emit();
        let frame = [IoSlice::new(&header), IoSlice::new(packet)];
        let fib = self.fib.load();
        match Ipv6Header::parse_destination(packet).and_then(|to| fib.workload(to)) {
            Some(workload) => self.write_to(workload, &frame),
            None => self.write(&frame),
        }
    }

    /// Writes a frame, virtio header first, to the host's device.
    fn write(&self, frame: &[IoSlice<'_>]) {
        if self.tun.write(frame).is_err() {
            self.discard(Reason::TunWrite, 1);
        }
    }

    /// Writes a frame, virtio header first, to the device of a workload.
    fn write_to(&self, workload: &Workload, frame: &[IoSlice<'_>]) {
        let table = self.devices.table();
        // It may have been detached since the snapshot was made.
        let written = match table.get(workload.id) {
            Some(device) => device.tun.write(frame).is_ok(),
            None => false,
        };
        if written {
            let length: usize = frame.iter().map(|slice| slice.len()).sum();
            workload.stats.note_received(length.saturating_sub(HEADER));
        } else {
            self.discard(Reason::TunWrite, 1);
        }
    }
}
