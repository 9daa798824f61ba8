//! From inside to outside: TUN, queue, source check, FIB 1, seal, UDP.

use std::{io, os::fd::AsFd, sync::Arc, time::Instant};

use super::{Egress, Notice, Shared, queue::Queue};
use crate::{
    discard::Reason,
    fib::{Fib, Lookup},
    icmp::{self, ErrorLimit, Unreachable},
    io::{
        offload::{self, Segments, SplitError},
        poll::Poll,
        tun::Tun,
        wake::Wake,
    },
    packet::{HeaderError, Ipv6Header, mark_congestion},
    pulse::Pulse,
};

/// What is read from the device in one turn at most: more than a turn sends, so that what piles up does so where it is kept fair.
const READ_FRAMES: usize = 256;
/// The same in bytes.
const READ_BYTES: usize = 8 << 16;

/// The thread that carries packets from the TUN device to the sockets.
#[derive(Debug)]
pub struct Inside {
    shared: Shared,
    queue: Queue,
    egress: Egress,
    errors: ErrorLimit,
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
        while self.egress.has_room()
            && let Some(mut next) = self.queue.pop(now)
        {
            let is_chosen = next.is_chosen;
            self.carry(next.frame(), is_chosen, now);
            self.queue.recycle(next);
        }
        self.egress.flush(now);
        Ok(self.queue.is_empty())
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
        let fib = self.shared.fib.load_full();
        if header.source != fib.own().address {
            return self.refuse(
                Reason::InsideSource,
                Unreachable::SourcePolicy,
                &fib,
                &segments,
                now,
            );
        }
        match fib.lookup(header.destination) {
            Lookup::Session(session) if segments.longest() > session.mtu() => {
                let mtu = u32::try_from(session.mtu()).unwrap_or(u32::MAX);
                self.refuse(
                    Reason::TooBig,
                    Unreachable::TooBig(mtu),
                    &fib,
                    &segments,
                    now,
                );
            }
            Lookup::Session(session) => {
                let mut segments = segments;
                if is_lossy {
                    segments.next_packet();
                    self.shared.discard(Reason::Congested, 1);
                }
                self.egress.send(session, &mut segments, &fib, now);
            }
            // The kernel keeps packets to its own address to itself.
            Lookup::Host | Lookup::NotOverlay => self.shared.discard(Reason::NotOverlay, packets),
            Lookup::Unknown if fib.admits_any() => {
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

    fn refuse(
        &mut self,
        reason: Reason,
        why: Unreachable,
        fib: &Fib,
        segments: &Segments<'_>,
        now: Instant,
    ) {
        self.shared.discard(reason, segments.remaining() as u64);
        if self.errors.allows(now)
            && let Some(error) = icmp::error(why, fib.own().address, segments.packet())
        {
            self.shared.deliver(&error);
        }
    }
}
