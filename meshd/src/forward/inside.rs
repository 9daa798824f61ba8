//! From inside to outside: TUN, source check, FIB 1, seal, UDP.

use std::{io, os::fd::AsFd, sync::Arc, time::Instant};

use super::{Egress, Notice, Shared};
use crate::{
    discard::Reason,
    fib::{Fib, Lookup},
    icmp::{self, ErrorLimit, Unreachable},
    io::{
        offload::{self, FRAME, Segments, SplitError},
        poll::Poll,
        tun::Tun,
        wake::Wake,
    },
    packet::{HeaderError, Ipv6Header},
    pulse::Pulse,
};

/// The thread that carries packets from the TUN device to the sockets.
#[derive(Debug)]
pub struct Inside {
    shared: Shared,
    egress: Egress,
    errors: ErrorLimit,
}

impl Inside {
    /// A carrier that has carried nothing yet. `seed` begins the names of fragments.
    pub fn new(shared: Shared, seed: u32) -> Self {
        let errors = ErrorLimit::new(shared.clock.now());
        Self {
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
        let mut frame = vec![0; FRAME];
        loop {
            poll.wait(None, &self.shared.clock)?;
            if poll.is_ready(0) {
                return Ok(());
            }
            if poll.is_ready(2) {
                pulse.answer()?;
            }
            self.take(&tun, &mut frame)?;
        }
    }

    /// What waits in the device, as far as it fits into one batch.
    pub(crate) fn take(&mut self, tun: &Tun, frame: &mut [u8]) -> io::Result<()> {
        let now = self.shared.clock.now();
        while let Some(length) = tun.read(frame)? {
            self.carry(&mut frame[..length], now);
            if !self.egress.has_room() {
                break;
            }
        }
        self.egress.flush(now);
        Ok(())
    }

    /// One super-packet: everything but header, checksum and seal is done once for all its packets.
    fn carry(&mut self, frame: &mut [u8], now: Instant) {
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
                self.egress.send(session, &mut segments, &fib, now);
            }
            // The kernel keeps packets to its own address to itself.
            Lookup::Host | Lookup::NotOverlay => self.shared.discard(Reason::NotOverlay, packets),
            Lookup::Unknown if fib.admits_strangers() => {
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
