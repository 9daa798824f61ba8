//! From outside to inside: UDP, demultiplex, open, delivery step, TUN.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    ops::Range,
    os::fd::AsFd,
    sync::Arc,
    time::Instant,
};

use crossbeam_channel::{Sender, TrySendError};
use wireguard::{Endpoint, Gate, Load, OpenError, Opened, Passage, Session, Transmit, Verdict};

use super::{
    Handshake, Notice, Outbox, Shared, Unheard,
    delivery::{Delivery, deliver},
    demux::{Runs, Way},
};
use crate::{
    discard::Reason,
    fib::Fib,
    handshake::Incoming,
    icmp::{self, ErrorLimit, Unreachable},
    io::{
        offload::Coalescer,
        poll::Poll,
        udp::{Received, RecvBatch},
        wake::Wake,
    },
    packet::decrement_hop_limit,
    pulse::Pulse,
};

/// Messages of up to 64 KiB in one receive call.
const MESSAGES: usize = 16;
/// Decrypted packets are collected up to this many bytes before they are delivered; one more received message always fits.
const ARENA: usize = 4 << 16;

/// When this part of the queue of handshakes is full, senders have to prove their addresses (kernel module).
const HEAVY_PART: usize = 8;

/// The thread that carries datagrams from the sockets to the TUN device.
#[derive(Debug)]
pub struct Outside {
    shared: Shared,
    handshakes: Sender<Incoming>,
    gate: Gate,
    opener: Opener,
}

/// Everything but the receive buffers, which are borrowed while this works.
#[derive(Debug)]
struct Opener {
    arena: Box<[u8]>,
    used: usize,
    opened: Vec<Decrypted>,
    /// Whose packets are in `opened`.
    sessions: Vec<Arc<Session>>,
    coalescer: Coalescer,
    outbox: Outbox,
    errors: ErrorLimit,
    unheard: Unheard,
}

/// One decrypted packet.
#[derive(Debug)]
struct Decrypted {
    /// Position in [`Opener::sessions`].
    session: usize,
    verdict: Verdict,
    place: Range<usize>,
}

impl Outside {
    /// A carrier that has carried nothing yet. Only handshake messages that pass `gate` get into the queue `handshakes`.
    pub fn new(shared: Shared, handshakes: Sender<Incoming>, gate: Gate) -> Self {
        let opener = Opener {
            arena: vec![0; ARENA].into_boxed_slice(),
            used: 0,
            opened: Vec::with_capacity(512),
            sessions: Vec::with_capacity(16),
            coalescer: Coalescer::new(shared.tun.offload()),
            outbox: Outbox::default(),
            errors: ErrorLimit::new(shared.clock.now()),
            unheard: Unheard::default(),
        };
        Self {
            shared,
            handshakes,
            gate,
            opener,
        }
    }

    /// Carries datagrams until `stop` is woken, and answers `pulse`.
    ///
    /// # Errors
    /// Waiting failed, or a socket did.
    pub fn run(mut self, stop: &Wake, pulse: &Pulse) -> io::Result<()> {
        let sockets = Arc::clone(&self.shared.sockets);
        let mut descriptors = vec![stop.as_fd()];
        descriptors.extend(sockets.sockets.iter().map(|socket| socket.as_fd()));
        descriptors.push(pulse.as_fd());
        let mut poll = Poll::new(&descriptors);
        let mut batch = RecvBatch::new(MESSAGES);
        loop {
            poll.wait(None, &self.shared.clock)?;
            if poll.is_ready(0) {
                return Ok(());
            }
            if poll.is_ready(sockets.sockets.len() + 1) {
                pulse.answer()?;
            }
            for (position, socket) in sockets.sockets.iter().enumerate() {
                if poll.is_ready(position + 1) && socket.recv(&mut batch)? > 0 {
                    self.take(&mut batch, position);
                }
            }
        }
    }

    /// Everything that one receive call brought.
    fn take(&mut self, batch: &mut RecvBatch, socket: usize) {
        let now = self.shared.clock.now();
        let fib = self.shared.fib.load_full();
        for Received {
            from,
            local,
            segment,
            data,
        } in batch.messages()
        {
            let from = Endpoint {
                remote: canonical(from),
                local: local.map(|local: IpAddr| local.to_canonical()),
                socket: u8::try_from(socket).unwrap_or(Endpoint::ANY_SOCKET),
            };
            if self.opener.arena.len() - self.opener.used < data.len() {
                self.opener.deliver(&self.shared, &fib, now);
            }
            self.open(data, segment, from, &fib, now);
        }
        self.opener.deliver(&self.shared, &fib, now);
    }

    /// The datagrams of one received message.
    fn open(&mut self, data: &mut [u8], segment: usize, from: Endpoint, fib: &Fib, now: Instant) {
        if data.is_empty() {
            self.shared.discards.discard(Reason::NotWireguard, 1);
        }
        for (way, run) in Runs::new(data, segment, fib) {
            match way {
                Way::Session(session) => {
                    let datagrams = run.chunks_mut(segment);
                    self.opener
                        .open(session, datagrams, from, &self.shared, now);
                }
                Way::Gate => self.judge(from, run, now),
                Way::Cookie => self.hand_over(from, run),
                Way::Discard(reason) => self.shared.discards.discard(reason, 1),
            }
        }
    }

    /// Lets a handshake message pass, or answers or discards it at once.
    fn judge(&mut self, from: Endpoint, datagram: &[u8], now: Instant) {
        let many = self.handshakes.capacity().unwrap_or(usize::MAX) / HEAVY_PART;
        let load = if self.handshakes.len() < many {
            Load::Light
        } else {
            Load::Heavy
        };
        let reason = match self.gate.judge(datagram, from.remote, load, now) {
            Passage::Pass => return self.hand_over(from, datagram),
            Passage::Prove(reply) => {
                self.opener.reply(from, &reply, &self.shared, now);
                Reason::AddressUnproven
            }
            Passage::Mac1 => Reason::BadMac1,
            Passage::Limited => Reason::SourceLimit,
        };
        self.shared.discards.discard(reason, 1);
    }

    fn hand_over(&self, from: Endpoint, datagram: &[u8]) {
        let Some(handshake) = Handshake::new(from, datagram) else {
            return self.shared.discards.discard(Reason::NotWireguard, 1);
        };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.handshakes.try_send(Incoming::Message(handshake))
        {
            self.shared.discards.discard(Reason::HandshakeQueueFull, 1);
        }
    }
}

impl Opener {
    /// Sends a datagram back where one came from.
    fn reply(&mut self, to: Endpoint, reply: &[u8], shared: &Shared, now: Instant) {
        if !self.outbox.has_room() {
            self.outbox.flush(&shared.sockets, &shared.discards, now);
        }
        let transmit = Transmit {
            endpoint: to,
            payload: reply.to_vec(),
        };
        self.outbox.transmit(&transmit, &shared.discards);
    }

    /// Opens a run of datagrams of one session into the arena, which has room for them.
    fn open<'a>(
        &mut self,
        session: &Arc<Session>,
        datagrams: impl Iterator<Item = &'a mut [u8]>,
        from: Endpoint,
        shared: &Shared,
        now: Instant,
    ) {
        let position = self.sessions.len();
        self.sessions.push(Arc::clone(session));
        let mut batch = session.lock(now);
        for datagram in datagrams {
            match batch.open(from, datagram, &mut self.arena[self.used..]) {
                Ok(Opened::Keepalive) => {}
                Ok(Opened::Packet { verdict, packet }) => {
                    let place = self.used..self.used + packet.len();
                    self.used = place.end;
                    self.opened.push(Decrypted {
                        session: position,
                        verdict,
                        place,
                    });
                }
                Err(error) => shared.discards.discard(reason(error), 1),
            }
        }
        let signals = batch.finish();
        shared.signal(&mut self.unheard, session.key(), signals);
    }

    /// Sends everything opened so far where it may go.
    fn deliver(&mut self, shared: &Shared, fib: &Fib, now: Instant) {
        let (mut opened, mut sessions) = (
            std::mem::take(&mut self.opened),
            std::mem::take(&mut self.sessions),
        );
        for Decrypted {
            session,
            verdict,
            place,
        } in opened.drain(..)
        {
            let packet = &mut self.arena[place.clone()];
            match deliver(fib, verdict, packet) {
                Delivery::Host => match icmp::echo_reply(packet, fib.token()) {
                    Some(number) => {
                        if !shared.notify(Notice::EchoReply {
                            number,
                            received: now,
                        }) {
                            shared.discards.discard(Reason::LoopBusy, 1);
                        }
                    }
                    None => self.coalescer.push(&self.arena, place),
                },
                Delivery::Forward(to) => {
                    if decrement_hop_limit(packet) {
                        self.outbox
                            .forward(to, packet, shared, &mut self.unheard, now);
                    } else {
                        shared.discards.discard(Reason::HopLimit, 1);
                        self.answer(
                            &sessions[session],
                            Unreachable::HopLimit,
                            place,
                            shared,
                            fib,
                            now,
                        );
                    }
                }
                Delivery::Discard(reason) => shared.discards.discard(reason, 1),
                Delivery::Refuse(reason, why) => {
                    shared.discards.discard(reason, 1);
                    self.answer(&sessions[session], why, place, shared, fib, now);
                }
            }
        }
        sessions.clear();
        // Their room is used again.
        (self.opened, self.sessions) = (opened, sessions);
        let tun = &shared.tun;
        self.coalescer
            .flush(&mut self.arena, |frame: &[IoSlice<'_>]| {
                if tun.write(frame).is_err() {
                    shared.discards.discard(Reason::TunWrite, 1);
                }
            });
        self.outbox.flush(&shared.sockets, &shared.discards, now);
        self.used = 0;
    }

    /// Tells the sender of a packet, through the session that it came from, why it went nowhere.
    fn answer(
        &mut self,
        session: &Arc<Session>,
        why: Unreachable,
        place: Range<usize>,
        shared: &Shared,
        fib: &Fib,
        now: Instant,
    ) {
        if self.errors.allows(now)
            && let Some(error) = icmp::error(why, fib.own(), &self.arena[place])
        {
            self.outbox
                .forward(session, &error, shared, &mut self.unheard, now);
        }
    }
}

/// An IPv4 address in IPv6 clothes would be another endpoint than the same one without.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(address.ip().to_canonical(), v6.port())
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}

fn reason(error: OpenError) -> Reason {
    match error {
        OpenError::Counter | OpenError::Replayed => Reason::Replayed,
        OpenError::UnknownIndex => Reason::UnknownReceiver,
        OpenError::Expired => Reason::Expired,
        OpenError::Malformed => Reason::OutsideNotIp,
        OpenError::Forged | OpenError::NotData | OpenError::Buffer => Reason::NotAuthentic,
    }
}
