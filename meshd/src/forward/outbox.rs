//! Sealed datagrams on their way out, laid end to end so that a run of equal lengths and one ECN field to one endpoint is one message of
//! one system call.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use wireguard::{Batch, SealError, Session, Underlay, constants::OVERHEAD};

use super::Sockets;
use crate::{
    discard::{Discards, Reason},
    ecn::Ecn,
    fib::NextHop,
    io::{
        offload,
        udp::{Outcome, Outgoing, SEGMENTS, SendBatch},
    },
    labelled::{self, Head},
    relayed,
};

/// What one super-packet can need: 64 KiB in segments, each with its overhead and padding, twice if it is relayed.
const SUPER_PACKET: usize =
    offload::PACKET + SEGMENTS * (OVERHEAD + 16 + relayed::OVERHEAD + OVERHEAD + 16);
/// Room for three super-packets, so that a batch is sent while the next is still in the cache.
const ARENA: usize = 3 * SUPER_PACKET;

/// Datagrams that wait to be sent in one go.
pub struct Outbox {
    arena: Box<[u8]>,
    used: usize,
    runs: Vec<Run>,
    batch: SendBatch,
    /// The changes of the underlay that `batch` knows of.
    changes: u64,
}

/// Datagrams to one endpoint with one ECN field, equally long but for a shorter last one.
#[derive(Debug)]
struct Run {
    /// Whose datagrams these are; handshakes have no session that could forget a stale source.
    session: Option<Arc<Session>>,
    endpoint: Underlay,
    hop_limit: Option<u8>,
    ecn: Ecn,
    bytes: Range<usize>,
    segment: usize,
    count: u64,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            arena: vec![0; ARENA].into_boxed_slice(),
            used: 0,
            runs: Vec::with_capacity(64),
            batch: SendBatch::new(),
            changes: 0,
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("used", &self.used)
            .field("runs", &self.runs.len())
            .finish_non_exhaustive()
    }
}

impl Outbox {
    /// Whether a super-packet still fits.
    pub fn has_room(&self) -> bool {
        self.arena.len() - self.used >= SUPER_PACKET
    }

    /// Seals one packet in an open session, to be sent to its endpoint with the packet's ECN field.
    ///
    /// # Errors
    /// Those of [`Batch::seal`].
    pub fn seal(
        &mut self,
        session: &Arc<Session>,
        batch: &mut Batch<'_>,
        endpoint: Underlay,
        packet: &[u8],
        mtu: usize,
    ) -> Result<(), SealError> {
        let length = batch.seal(packet, mtu, &mut self.arena[self.used..])?;
        self.append(Some(session), endpoint, None, Ecn::of(packet), length);
        Ok(())
    }

    /// Seals one packet in an open session, to be handed on by a neighbour under its label, with the packet's ECN field.
    ///
    /// # Errors
    /// Those of [`Batch::seal`].
    pub fn seal_labelled(
        &mut self,
        batch: &mut Batch<'_>,
        next_hop: &NextHop,
        head: Head,
        packet: &[u8],
        mtu: usize,
    ) -> Result<(), SealError> {
        let start = self.used + labelled::HEADER;
        let length = batch.seal(packet, mtu, &mut self.arena[start..])?;
        self.arena[self.used..start].copy_from_slice(&head.bytes());
        let length = labelled::HEADER + length;
        let ecn = Ecn::of(packet);
        self.append(
            Some(&next_hop.session),
            next_hop.endpoint,
            None,
            ecn,
            length,
        );
        Ok(())
    }

    /// Adds labelled datagrams of others, end to end and all `segment` bytes long but for a shorter last one, to be handed on under
    /// this head and with this ECN field. There has to be room.
    pub fn forward(
        &mut self,
        next_hop: &NextHop,
        head: Head,
        ecn: Ecn,
        datagrams: &[u8],
        segment: usize,
    ) {
        let bytes = self.used..self.used + datagrams.len();
        let room = &mut self.arena[bytes.clone()];
        room.copy_from_slice(datagrams);
        let mut count = 0;
        for datagram in room.chunks_mut(segment) {
            datagram[..labelled::HEADER].copy_from_slice(&head.bytes());
            count += 1;
        }
        self.used = bytes.end;
        self.runs.push(Run {
            session: Some(Arc::clone(&next_hop.session)),
            endpoint: next_hop.endpoint,
            hop_limit: None,
            ecn,
            bytes,
            segment,
            count,
        });
    }

    /// Adds a datagram of the node loop; what does not fit is counted.
    pub fn transmit(&mut self, endpoint: Underlay, datagram: &[u8], discards: &Discards) {
        let Some(room) = self.arena.get_mut(self.used..self.used + datagram.len()) else {
            discards.discard(Reason::SendFailed, 1);
            return;
        };
        room.copy_from_slice(datagram);
        self.append(None, endpoint, None, Ecn::NotEct, datagram.len());
    }

    /// Adds a probe, which may pass so many routers; what does not fit is counted.
    pub fn probe(
        &mut self,
        endpoint: Underlay,
        hop_limit: Option<u8>,
        datagram: &[u8],
        discards: &Discards,
    ) {
        let Some(room) = self.arena.get_mut(self.used..self.used + datagram.len()) else {
            discards.discard(Reason::SendFailed, 1);
            return;
        };
        room.copy_from_slice(datagram);
        self.append(None, endpoint, hop_limit, Ecn::NotEct, datagram.len());
    }

    fn append(
        &mut self,
        session: Option<&Arc<Session>>,
        endpoint: Underlay,
        hop_limit: Option<u8>,
        ecn: Ecn,
        length: usize,
    ) {
        let bytes = self.used..self.used + length;
        self.used = bytes.end;
        match self.runs.last_mut() {
            Some(run) if run.takes(&endpoint, hop_limit, ecn, length) => {
                run.bytes.end = bytes.end;
                run.count += 1;
            }
            _ => self.runs.push(Run {
                session: session.map(Arc::clone),
                endpoint,
                hop_limit,
                ecn,
                bytes,
                segment: length,
                count: 1,
            }),
        }
    }

    /// Sends everything. What the kernel does not take is counted; a source address that has gone is forgotten.
    pub fn flush(&mut self, sockets: &Sockets, discards: &Discards, now: Instant) {
        let changes = sockets.changes.load(Relaxed);
        if changes != self.changes {
            self.changes = changes;
            self.batch.forget_destinations();
        }
        let extra = sockets.extra.table();
        let mut runs = self.runs.as_slice();
        while let Some(first) = runs.first() {
            if first.endpoint.is_stream()
                && let Some(streams) = sockets.streams()
            {
                let data = &self.arena[first.bytes.clone()];
                streams.send(&first.endpoint, data, first.segment, discards, now);
                runs = &runs[1..];
                continue;
            }
            let Some(socket) = sockets.of(&first.endpoint, &extra) else {
                discards.discard(Reason::NoEndpoint, first.count);
                runs = &runs[1..];
                continue;
            };
            let same_socket = |run: &&Run| {
                sockets
                    .of(&run.endpoint, &extra)
                    .is_some_and(|other| std::ptr::eq(other, socket))
            };
            let (now_sent, later) = runs.split_at(runs.iter().take_while(same_socket).count());
            let mut messages = [Outgoing {
                to: first.endpoint.remote,
                source: None,
                hop_limit: None,
                ecn: Ecn::NotEct,
                segment: 0,
                data: &[],
            }; MESSAGES];
            for group in now_sent.chunks(MESSAGES) {
                for (message, run) in messages.iter_mut().zip(group) {
                    let data = &self.arena[run.bytes.clone()];
                    *message = Outgoing {
                        to: run.endpoint.remote,
                        source: run.endpoint.local,
                        hop_limit: run.hop_limit,
                        ecn: run.ecn,
                        segment: run.segment,
                        data,
                    };
                }
                let outcomes = socket.send(&mut self.batch, &messages[..group.len()]);
                for (run, outcome) in group.iter().zip(outcomes) {
                    match outcome {
                        Outcome::Sent => {}
                        Outcome::StaleSource => run.forget_source(now),
                        Outcome::Full | Outcome::Failed(_) => {
                            discards.discard(Reason::SendFailed, run.count)
                        }
                    }
                }
            }
            runs = later;
        }
        self.runs.clear();
        self.used = 0;
    }
}

/// Runs in one call of the socket.
const MESSAGES: usize = 32;

impl Run {
    fn takes(&self, endpoint: &Underlay, hop_limit: Option<u8>, ecn: Ecn, length: usize) -> bool {
        let is_full_so_far = (self.bytes.len() as u64) == self.segment as u64 * self.count;
        let is_alike = self.endpoint == *endpoint && self.hop_limit == hop_limit && self.ecn == ecn;
        is_alike && is_full_so_far && length <= self.segment
    }

    fn forget_source(&self, now: Instant) {
        if let Some(session) = &self.session {
            session.lock(now).forget_source();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIELDS: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];

    fn endpoint(port: u16) -> Underlay {
        Underlay {
            remote: ([192, 0, 2, 1], port).into(),
            local: None,
            socket: Underlay::ANY_SOCKET,
        }
    }

    #[test]
    fn a_run_ends_where_the_ecn_field_changes() {
        let mut outbox = Outbox::default();
        for ecn in [Ecn::Ect0, Ecn::Ect0, Ecn::Ce, Ecn::Ect0, Ecn::NotEct] {
            outbox.append(None, endpoint(1), None, ecn, 100);
        }
        let runs: Vec<_> = outbox.runs.iter().map(|run| (run.ecn, run.count)).collect();
        let expected = [
            (Ecn::Ect0, 2),
            (Ecn::Ce, 1),
            (Ecn::Ect0, 1),
            (Ecn::NotEct, 1),
        ];
        assert_eq!(runs, expected);
    }

    #[test]
    fn what_the_node_itself_sends_is_not_capable() {
        let (mut outbox, discards) = (Outbox::default(), Discards::default());
        outbox.transmit(endpoint(1), &[0x60, 0x30, 0, 0], &discards);
        outbox.probe(endpoint(2), Some(3), &[0x60, 0x30, 0, 0], &discards);
        assert!(outbox.runs.iter().all(|run| run.ecn == Ecn::NotEct));
        assert_eq!(outbox.runs.len(), 2);
    }

    proptest! {
        #[test]
        fn runs_are_the_longest_that_are_alike(datagrams in proptest::collection::vec((1u16..3, 0usize..4, 1usize..4), 0..100)) {
            let mut outbox = Outbox::default();
            for (port, ecn, length) in &datagrams {
                outbox.append(None, endpoint(*port), None, FIELDS[*ecn], length * 100);
            }
            let mut rest = datagrams.iter();
            let mut start = 0;
            for run in &outbox.runs {
                prop_assert_eq!(run.bytes.start, start);
                start = run.bytes.end;
                let mut left = run.bytes.len();
                for number in 1..=run.count {
                    let (port, ecn, length) = rest.next().unwrap();
                    let length = length * 100;
                    prop_assert_eq!((endpoint(*port), FIELDS[*ecn]), (run.endpoint, run.ecn));
                    prop_assert!(length == run.segment || number == run.count && length < run.segment);
                    left -= length;
                }
                prop_assert_eq!(left, 0);
            }
            prop_assert!(rest.next().is_none());
            for pair in outbox.runs.windows(2) {
                let [run, next] = pair else { unreachable!() };
                prop_assert!(!run.takes(&next.endpoint, None, next.ecn, next.segment));
            }
        }
    }
}
