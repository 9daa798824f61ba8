//! From inside to outside: TUN, source check, FIB 1, seal, UDP.

use std::{io, os::fd::AsFd, sync::Arc, time::Instant};

use wireguard::Session;

use super::{Outbox, Shared, Unheard};
use crate::{
    discard::Reason,
    fib::{Fib, Lookup},
    icmp::{self, ErrorLimit, Unreachable},
    io::{
        offload::{self, FRAME, Segments, SplitError},
        poll::Poll,
        wake::Wake,
    },
    packet::{HeaderError, Ipv6Header},
    pulse::Pulse,
};

/// The thread that carries packets from the TUN device to the sockets.
#[derive(Debug)]
pub struct Inside {
    shared: Shared,
    outbox: Outbox,
    errors: ErrorLimit,
    unheard: Unheard,
}

impl Inside {
    /// A carrier that has carried nothing yet.
    pub fn new(shared: Shared) -> Self {
        let errors = ErrorLimit::new(shared.clock.now());
        Self {
            shared,
            outbox: Outbox::default(),
            errors,
            unheard: Unheard::default(),
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
            let now = self.shared.clock.now();
            while let Some(length) = tun.read(&mut frame)? {
                self.carry(&mut frame[..length], now);
                if !self.outbox.has_room() {
                    break;
                }
            }
            self.outbox
                .flush(&self.shared.sockets, &self.shared.discards, now);
        }
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
            ) => return self.shared.discards.discard(Reason::Malformed, 1),
        };
        let packets = segments.remaining() as u64;
        let header = match Ipv6Header::parse(segments.packet()) {
            Ok(header) => header,
            Err(HeaderError::Version) => {
                return self.shared.discards.discard(Reason::NotIpv6, packets);
            }
            Err(HeaderError::Truncated) => {
                return self.shared.discards.discard(Reason::Malformed, packets);
            }
        };
        let fib = self.shared.fib.load_full();
        if header.source != fib.own() {
            return self.refuse(
                Reason::InsideSource,
                Unreachable::SourcePolicy,
                &fib,
                &segments,
                now,
            );
        }
        match fib.lookup(header.destination) {
            Lookup::Session(session) => self.seal(session, segments, now),
            // The kernel keeps packets to its own address to itself.
            Lookup::Host | Lookup::NotOverlay => {
                self.shared.discards.discard(Reason::NotOverlay, packets)
            }
            Lookup::Unknown => {
                self.refuse(Reason::NoRoute, Unreachable::NoRoute, &fib, &segments, now)
            }
        }
    }

    fn seal(&mut self, session: &Arc<Session>, mut segments: Segments<'_>, now: Instant) {
        if session.is_established() {
            let mut batch = session.lock(now);
            let endpoint = batch.endpoint();
            while let Some(packet) = segments.next_packet() {
                let Some(endpoint) = endpoint else {
                    self.shared.discards.discard(Reason::NoEndpoint, 1);
                    continue;
                };
                if self
                    .outbox
                    .seal(session, &mut batch, endpoint, packet, self.shared.mtu)
                    .is_err()
                {
                    // The keypair ran out under our hands: this packet waits for the next one like those that follow it.
                    self.shared.unsent(session.key(), packet);
                    break;
                }
            }
            let signals = batch.finish();
            self.shared
                .signal(&mut self.unheard, session.key(), signals);
        }
        while let Some(packet) = segments.next_packet() {
            self.shared.unsent(session.key(), packet);
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
        self.shared
            .discards
            .discard(reason, segments.remaining() as u64);
        if self.errors.allows(now)
            && let Some(error) = icmp::error(why, fib.own(), segments.packet())
        {
            self.shared.deliver(&error);
        }
    }
}
