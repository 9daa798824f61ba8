//! From inside to outside: TUN, queue, source check, FIB 1, seal, UDP. What is for somebody on this machine goes to another TUN.

use std::{
    io::{self, IoSlice},
    os::fd::AsFd,
    sync::Arc,
    time::Instant,
};

use filter::{Judgement, Ports, Refusal};

use super::{Egress, Notice, Shared, queue::Queue, resolver::Asker};
use crate::{
    discard::Reason,
    fib::{Fib, Lookup},
    icmp::{self, ErrorLimit, Unreachable},
    inbound,
    io::{
        offload::{self, Segments, SplitError},
        poll::Poll,
        tun::Tun,
        wake::Wake,
    },
    packet::{HeaderError, Ipv6Header, is_neighbour_discovery, mark_congestion, upper_layer},
    pulse::Pulse,
};

/// What is read from the device in one turn at most: more than a turn sends, so that what piles up does so where it is kept fair.
const READ_FRAMES: usize = 256;
/// The same in bytes.
const READ_BYTES: usize = 8 << 16;

/// The thread that carries packets from the TUN device to the sockets.
#[derive(Debug)]
pub struct Inside {
    pub(super) shared: Shared,
    pub(super) queue: Queue,
    pub(super) egress: Egress,
    pub(super) errors: ErrorLimit,
    pub(super) senders: Senders,
}

/// Whose packets a thread carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Senders {
    /// The host's.
    Host,
    /// Those of workloads, each found to have the source of the device that it came from.
    Workloads,
}

impl Inside {
    /// A carrier that has carried nothing yet. `seed` begins the names of fragments, and is nobody's to guess.
    pub fn new(shared: Shared, seed: u32) -> Self {
        let errors = ErrorLimit::new(shared.clock.now());
        Self {
            queue: Queue::new(seed),
            egress: Egress::new(shared.outlet.clone(), seed),
            shared,
            errors,
            senders: Senders::Host,
        }
    }

    /// Carries packets until `stop` is woken, and answers `pulse`.
    ///
    /// # Errors
    /// The TUN device is gone.
    pub fn run(mut self, stop: &Wake, pulse: &Pulse) -> io::Result<()> {
        let tun = Arc::clone(&self.shared.tun);
        let mut poll = Poll::new(&[stop.as_fd(), tun.as_fd(), pulse.as_fd()]);
        let mut is_done = true;
        loop {
            let deadline = (!is_done).then(|| self.shared.clock.now());
            poll.wait(deadline, &self.shared.clock)?;
            if poll.is_ready(0) {
                return Ok(());
            }
            if poll.is_ready(2) {
                pulse.answer()?;
            }
            is_done = self.turn(&tun)?;
        }
    }

    /// Reads what waits in the device, and sends as much as fits into one batch. Says whether nothing is left in the queue.
    pub(crate) fn turn(&mut self, tun: &Tun) -> io::Result<bool> {
        let now = self.shared.clock.now();
        self.read(tun, now)?;
        Ok(self.send(now))
    }

    /// Sends as much as fits into one batch. Says whether nothing is left in the queue.
    pub(super) fn send(&mut self, now: Instant) -> bool {
        while self.egress.has_room()
            && let Some(mut next) = self.queue.pop(now)
        {
            let is_chosen = next.is_chosen;
            self.carry(next.frame(), is_chosen, now);
            self.queue.recycle(next);
        }
        self.egress.flush(now);
        self.queue.is_empty()
    }

    fn read(&mut self, tun: &Tun, now: Instant) -> io::Result<()> {
        let mut bytes = 0;
        for _ in 0..READ_FRAMES {
            let mut buffer = self.queue.buffer();
            let Some(length) = tun.read(&mut buffer)? else {
                self.queue.keep(buffer);
                break;
            };
            let lost = self.queue.push(buffer, length, now);
            self.shared.discard(Reason::QueueFull, lost as u64);
            bytes += length;
            if bytes >= READ_BYTES {
                break;
            }
        }
        Ok(())
    }

    /// One super-packet: everything but header, checksum and seal is done once for all its packets. If it is chosen, its sender is to
    /// slow down: it is marked, or its first packet lost.
    fn carry(&mut self, frame: &mut [u8], is_chosen: bool, now: Instant) {
        let is_lossy =
            is_chosen && !mark_congestion(frame.get_mut(offload::HEADER..).unwrap_or_default());
        let fib = self.shared.fib.load_full();
        if self.stays_here(frame, is_lossy, &fib, now) {
            return;
        }
        let segments = match offload::split(frame) {
            Ok(segments) => segments,
            Err(
                SplitError::Truncated
                | SplitError::Length
                | SplitError::Checksum
                | SplitError::Type
                | SplitError::Segment,
            ) => return self.shared.discard(Reason::Malformed, 1),
        };
        let packets = segments.remaining() as u64;
        let header = match Ipv6Header::parse(segments.packet()) {
            Ok(header) => header,
            Err(HeaderError::Version) => {
                return self.shared.discard(Reason::NotIpv6, packets);
            }
            Err(HeaderError::Truncated) => {
                return self.shared.discard(Reason::Malformed, packets);
            }
        };
        if !self.may_send(&header, &fib) {
            return self.refuse(
                Reason::InsideSource,
                Unreachable::SourcePolicy,
                &fib,
                &segments,
                now,
            );
        }
        match fib.lookup(header.destination) {
            Lookup::Session(to) if segments.longest() > to.session.mtu() => {
                let mtu = u32::try_from(to.session.mtu()).unwrap_or(u32::MAX);
                self.refuse(
                    Reason::TooBig,
                    Unreachable::TooBig(mtu),
                    &fib,
                    &segments,
                    now,
                );
            }
            Lookup::Session(to)
                if to.is_ours()
                    && !self.is_let_through(
                        &header,
                        &[],
                        segments.packet(),
                        packets,
                        &fib,
                        now,
                    ) => {}
            Lookup::Session(to) => {
                let mut segments = segments;
                if let Some(inbound) = &to.inbound {
                    inbound.note(segments.packet(), now);
                }
                if is_lossy {
                    segments.next_packet();
                    self.shared.discard(Reason::Congested, 1);
                }
                self.egress.send(&to.session, &mut segments, &fib, now);
            }
            // The kernel keeps packets to its own address to itself.
            Lookup::Host | Lookup::Workload(_) | Lookup::NotOverlay => {
                self.shared.discard(Reason::NotOverlay, packets);
            }
            Lookup::Resolver => {
                let mut segments = segments;
                while let Some(packet) = segments.next_packet() {
                    if !self.shared.asks(|| Asker::Inside, packet) {
                        self.answer(Unreachable::Port, &fib, packet, now);
                    }
                }
            }
            Lookup::Unknown if fib.admits_any() && !fib.is_ours(header.destination) => {
                let mut segments = segments;
                while let Some(packet) = segments.next_packet() {
                    self.shared
                        .outlet
                        .tell(Notice::FirstContact(packet.to_vec()));
                }
            }
            Lookup::Unknown => {
                self.refuse(Reason::NoRoute, Unreachable::NoRoute, &fib, &segments, now)
            }
        }
    }

    /// Whether what is sent to somebody on this node, where `publish` is open to all, may go there: the host's packets may, those of
    /// workloads are judged. What may not is counted, and its sender told.
    fn is_let_through(
        &mut self,
        header: &Ipv6Header,
        publish: &[Ports],
        packet: &[u8],
        packets: u64,
        fib: &Fib,
        now: Instant,
    ) -> bool {
        let sender = fib
            .workload(header.source)
            .filter(|_| self.senders == Senders::Workloads);
        let Some(inbound) = sender.and_then(|workload| workload.inbound.as_ref()) else {
            return true;
        };
        let refusal = match inbound.watch().judge(publish, packet, now) {
            Judgement::Pass => return true,
            Judgement::Refuse(refusal) => refusal,
        };
        self.shared.discard(inbound::reason(refusal), packets);
        if refusal == Refusal::Denied {
            self.answer(Unreachable::Prohibited, fib, packet, now);
        }
        false
    }

    fn may_send(&self, header: &Ipv6Header, fib: &Fib) -> bool {
        match self.senders {
            Senders::Host => header.source == fib.own().address,
            Senders::Workloads => fib.workload(header.source).is_some(),
        }
    }

    /// Switches a frame that is for a workload, or from one for the host: it goes into the other device as it is. Says whether it was
    /// such a frame. A lossy one is lost as a whole, as in every queue of the kernel's.
    fn stays_here(&mut self, frame: &[u8], is_lossy: bool, fib: &Fib, now: Instant) -> bool {
        let packet = frame.get(offload::HEADER..).unwrap_or_default();
        let Ok(header) = Ipv6Header::parse(packet) else {
            return false;
        };
        let workload = fib.workload(header.destination);
        let is_for_host =
            self.senders == Senders::Workloads && header.destination == fib.own().address;
        if workload.is_none() && !is_for_host {
            return false;
        }
        if !self.may_send(&header, fib) {
            return false;
        }
        let frame = [IoSlice::new(frame)];
        match upper_layer(packet) {
            None => self.shared.discard(Reason::Malformed, 1),
            Some(upper) if is_neighbour_discovery(&upper, packet) => {
                self.shared.discard(Reason::LinkScope, 1);
            }
            Some(_) if is_lossy => self.shared.discard(Reason::Congested, 1),
            Some(_) => {
                let publish = workload.map_or(&[][..], |workload| &workload.publish);
                if !self.is_let_through(&header, publish, packet, 1, fib, now) {
                    return true;
                }
                match workload {
                    Some(workload) => {
                        if let Some(inbound) = &workload.inbound {
                            inbound.note(packet, now);
                        }
                        self.shared.write_to(workload, &frame);
                    }
                    None => self.shared.write(&frame),
                }
            }
        }
        true
    }

    fn refuse(
        &mut self,
        reason: Reason,
        why: Unreachable,
        fib: &Fib,
        segments: &Segments<'_>,
        now: Instant,
    ) {
        self.shared.discard(reason, segments.remaining() as u64);
        self.answer(why, fib, segments.packet(), now);
    }

    /// Tells the sender of a packet why it went nowhere.
    fn answer(&mut self, why: Unreachable, fib: &Fib, packet: &[u8], now: Instant) {
        if self.errors.allows(now)
            && let Some(error) = icmp::error(why, fib.own().address, packet)
        {
            self.shared.deliver(&error);
        }
    }
}
