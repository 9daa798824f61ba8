//! Packets that were opened and not yet delivered.

use std::{net::Ipv6Addr, ops::Range, sync::Arc, time::Instant};

use filter::Judgement;
use wireguard::{Endpoint, OpenError, Opened, Verdict};

use super::{
    Shared, Unheard,
    delivery::{Arrival, judged},
};
use crate::{
    discard::Reason,
    ecn::Ecn,
    fib::{Carrier, Fib},
    packet::Ipv6Header,
    relayed,
};

/// Decrypted packets are collected up to this many bytes before they are delivered; one more received message always fits.
const ARENA: usize = 4 << 16;

/// A queue that stands is not the doing of those who send less than this in a row, in bytes.
const LARGE: usize = 1000;

/// One arena of opened packets, and whose they are.
#[derive(Debug, Default)]
pub(super) struct Stage {
    pub(super) arena: Box<[u8]>,
    used: usize,
    opened: Vec<Decrypted>,
    carriers: Vec<(Arc<Carrier>, Endpoint)>,
    unheard: Unheard,
}

/// One opened packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decrypted {
    /// Position among the carriers of its stage.
    pub(super) carrier: usize,
    pub(super) verdict: Verdict,
    /// Whether its sender should be told to slow down, by a mark or the loss of the packet.
    pub(super) is_chosen: bool,
    /// What the filter says of it, once it has been asked.
    pub(super) judgement: Judgement,
    start: usize,
    end: usize,
}

impl Decrypted {
    /// Where the packet is in the arena.
    pub(super) fn place(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// A datagram that was relayed to us, in the arena of the outer stage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nested {
    /// Position of the link's session among the carriers of the outer stage.
    pub(super) carrier: usize,
    /// Which node it says it is from.
    pub(super) source: Ipv6Addr,
    /// How many hops it had left.
    pub(super) hop_limit: u8,
    /// What was said on its way.
    pub(super) ecn: Ecn,
    start: usize,
    end: usize,
}

impl Nested {
    /// The datagram in a packet of the overlay that is at `place`, and came in `decrypted`.
    pub(super) fn new(decrypted: &Decrypted, place: Range<usize>, packet: &[u8]) -> Self {
        let (source, hop_limit) = Ipv6Header::parse(packet)
            .map_or((Ipv6Addr::UNSPECIFIED, 0), |header| {
                (header.source, header.hop_limit)
            });
        Self {
            carrier: decrypted.carrier,
            source,
            hop_limit,
            ecn: Ecn::of(packet),
            start: (place.start + relayed::OVERHEAD).min(place.end),
            end: place.end,
        }
    }

    /// Where the datagram is in the arena.
    pub(super) fn place(&self) -> Range<usize> {
        self.start..self.end
    }
}

impl Stage {
    /// An empty one with an arena. (The default has none.)
    pub(super) fn new() -> Self {
        Self {
            arena: vec![0; ARENA].into_boxed_slice(),
            opened: Vec::with_capacity(512),
            carriers: Vec::with_capacity(16),
            ..Self::default()
        }
    }

    /// How many bytes still fit.
    pub(super) fn room(&self) -> usize {
        self.arena.len() - self.used
    }

    /// Opens a run of datagrams of one session into the arena: those at `places` in `bytes`, which came with this ECN field. What has no room
    /// there is discarded. Returns how many were authentic.
    pub(super) fn open(
        &mut self,
        carrier: &Arc<Carrier>,
        bytes: &[u8],
        places: impl Iterator<Item = Range<usize>>,
        from: Endpoint,
        ecn: Ecn,
        shared: &Shared,
        now: Instant,
    ) -> usize {
        let (position, mut authentic) = (self.carriers.len(), 0);
        self.carriers.push((Arc::clone(carrier), from));
        let session = &carrier.session;
        let mut batch = session.lock(now);
        for place in places {
            match batch.open(from, &bytes[place], &mut self.arena[self.used..]) {
                Ok(Opened::Keepalive) => authentic += 1,
                Ok(Opened::Packet { verdict, packet }) => {
                    authentic += 1;
                    ecn.decapsulate(packet);
                    let start = self.used;
                    self.used += packet.len();
                    self.opened.push(Decrypted {
                        carrier: position,
                        verdict,
                        is_chosen: false,
                        judgement: Judgement::Pass,
                        start,
                        end: self.used,
                    });
                }
                Err(error) => shared.discard(reason(error), 1),
            }
        }
        let signals = batch.finish();
        shared
            .outlet
            .signal(&mut self.unheard, session.key(), signals);
        authentic
    }

    /// Where a mark is owed, chooses the packet of this order for its sender to slow down, if there is one and it was among enough bytes.
    pub(super) fn choose(&mut self, at: usize, bytes: usize, owes_mark: &mut bool) {
        if *owes_mark
            && bytes >= LARGE
            && let Some(packet) = self.opened.get_mut(at)
        {
            packet.is_chosen = true;
            *owes_mark = false;
        }
    }

    /// Has the packets of those who are not trusted judged, those of a session that came in a row under one lock.
    pub(super) fn judge(&mut self, arrival: Arrival, fib: &Fib, now: Instant) {
        let mut rest = &mut *self.opened;
        while let Some(first) = rest.first() {
            let position = first.carrier;
            let count = rest
                .iter()
                .take_while(|packet| packet.carrier == position)
                .count();
            let (run, later) = rest.split_at_mut(count);
            rest = later;
            let (carrier, _) = &self.carriers[position];
            let Some(inbound) = &carrier.inbound else {
                continue;
            };
            let mut watch = inbound.watch();
            for decrypted in run {
                let packet = &self.arena[decrypted.place()];
                if let Some(publish) = judged(fib, carrier, arrival, decrypted.verdict, packet) {
                    decrypted.judgement = watch.judge(publish, packet, now);
                }
            }
        }
    }

    /// How many packets were opened.
    pub(super) fn len(&self) -> usize {
        self.opened.len()
    }

    /// How many bytes are taken.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Whether nothing was opened.
    pub(super) fn is_empty(&self) -> bool {
        self.opened.is_empty()
    }

    /// One of the packets, by its order.
    pub(super) fn get(&self, at: usize) -> Decrypted {
        self.opened[at]
    }

    /// Whose packets are at this position, and where they came from.
    pub(super) fn carrier(&self, position: usize) -> (&Arc<Carrier>, Endpoint) {
        let (carrier, from) = &self.carriers[position];
        (carrier, *from)
    }

    /// Adds a packet that was put together of parts of others; returns where it is, or nothing if there is no room.
    pub(super) fn append(&mut self, packet: &[u8]) -> Option<Range<usize>> {
        let place = self.used..self.used + packet.len();
        self.arena.get_mut(place.clone())?.copy_from_slice(packet);
        self.used = place.end;
        Some(place)
    }

    /// Forgets everything; the room is used again.
    pub(super) fn clear(&mut self) {
        self.used = 0;
        self.opened.clear();
        self.carriers.clear();
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
