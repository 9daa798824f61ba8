//! The way out of a session: straight over the underlay, or through other nodes.
//!
//! A relayed session's datagrams become packets of the overlay, which FIB 2 leads to a neighbour, and are sealed once more in the session
//! of that neighbour's link. The two locks are taken one after the other, each once for all packets of a super-packet. Where the neighbour
//! has given a label for them, they go under that as they are.
//!
//! The ECN field of a user's packet is that of every header around it (RFC 6040).

use std::{net::Ipv6Addr, ops::Range, sync::Arc, time::Instant};

use wireguard::{Carriage, Endpoint, PublicKey, Session, Signals, constants::OVERHEAD};

use super::{Outbox, Outlet, Unheard};
use crate::{
    discard::Reason,
    ecn::Ecn,
    fib::{Fib, NextHop, Route},
    fragment::fragments,
    io::{offload, udp::SEGMENTS},
    labelled::{self, Head},
    labels::Pair,
    liveness::LEAST_MTU,
    relayed,
};

/// Sealed packets of one super-packet, each with room for the headers of a relayed datagram before it.
const ARENA: usize = offload::PACKET + SEGMENTS * (relayed::OVERHEAD + OVERHEAD + 16);

/// Packets that are to be sealed, one after the other. Not an `Iterator`, since each lives only until the next.
pub(super) trait Packets {
    /// The next packet; none after the last.
    fn next_packet(&mut self) -> Option<&[u8]>;
}

impl Packets for offload::Segments<'_> {
    fn next_packet(&mut self) -> Option<&[u8]> {
        Self::next_packet(self).map(|packet| &*packet)
    }
}

/// A single packet.
impl Packets for Option<&[u8]> {
    fn next_packet(&mut self) -> Option<&[u8]> {
        self.take()
    }
}

/// Where one packet thread's packets leave.
#[derive(Debug)]
pub struct Egress {
    outlet: Outlet,
    outbox: Outbox,
    sealed: Box<[u8]>,
    places: Vec<Range<usize>>,
    unheard: Unheard,
    /// Names the next packet that is cut into fragments.
    fragmented: u32,
}

impl Egress {
    /// Nothing waits to be sent. `seed` begins the names of fragments.
    pub fn new(outlet: Outlet, seed: u32) -> Self {
        Self {
            outlet,
            outbox: Outbox::default(),
            sealed: vec![0; ARENA].into_boxed_slice(),
            places: Vec::with_capacity(SEGMENTS),
            unheard: Unheard::default(),
            fragmented: seed,
        }
    }

    /// Tells the node loop what a session's lock holders noted.
    pub fn signal(&mut self, peer: &PublicKey, signals: Signals) {
        self.outlet.signal(&mut self.unheard, peer, signals);
    }

    /// Whether a super-packet still fits.
    pub fn has_room(&self) -> bool {
        self.outbox.has_room()
    }

    /// Sends everything.
    pub fn flush(&mut self, now: Instant) {
        let Outlet {
            sockets, discards, ..
        } = &self.outlet;
        self.outbox.flush(sockets, discards, now);
    }

    /// Seals packets of one super-packet, none longer than [`Session::mtu`], and sends them the session's way. What meets a closed
    /// session waits at the node loop.
    pub(super) fn send(
        &mut self,
        session: &Arc<Session>,
        packets: &mut impl Packets,
        fib: &Fib,
        now: Instant,
    ) {
        self.make_room(now);
        let mut relay = None;
        if session.is_established() {
            let mtu = session.mtu();
            let mut batch = session.lock(now);
            let endpoint = batch.endpoint();
            let labelled = match (endpoint, session.carriage()) {
                (Some(Endpoint::Overlay(node)), Carriage::Whole) => fib.own_label(node),
                (_, _) => None,
            };
            if let Some((next_hop, _)) = labelled {
                next_hop.stats.note_sent(now);
            }
            let mut used = 0;
            while let Some(packet) = packets.next_packet() {
                let sealed = match endpoint {
                    None => {
                        self.outlet.discards.discard(Reason::NoEndpoint, 1);
                        continue;
                    }
                    Some(Endpoint::Underlay(to)) => {
                        self.outbox.seal(session, &mut batch, to, packet, mtu)
                    }
                    Some(Endpoint::Overlay(_)) if let Some((next_hop, label)) = labelled => {
                        let hop_limit = relayed::HOP_LIMIT;
                        let head = Head { hop_limit, label };
                        self.outbox
                            .seal_labelled(&mut batch, next_hop, head, packet, mtu)
                    }
                    Some(Endpoint::Overlay(node)) => {
                        // One super-packet: all have the same.
                        relay = Some((node, Ecn::of(packet)));
                        let start = used + relayed::OVERHEAD;
                        batch
                            .seal(packet, mtu, &mut self.sealed[start..])
                            .map(|length| {
                                self.places.push(used..start + length);
                                used = start + length;
                            })
                    }
                };
                if sealed.is_err() {
                    // The keypair ran out under our hands: this packet waits for the next one like those that follow it.
                    self.outlet.unsent(session.key(), packet);
                    break;
                }
            }
            let signals = batch.finish();
            self.outlet
                .signal(&mut self.unheard, session.key(), signals);
        }
        while let Some(packet) = packets.next_packet() {
            self.outlet.unsent(session.key(), packet);
        }
        if let Some((node, ecn)) = relay {
            self.relay(session, node, ecn, fib, now);
        }
    }

    /// Sends the datagrams in `sealed`, of packets with this ECN field, to another node, through the neighbour that leads there.
    fn relay(&mut self, session: &Session, node: Ipv6Addr, ecn: Ecn, fib: &Fib, now: Instant) {
        let mut places = std::mem::take(&mut self.places);
        let own = fib.own().address;
        match fib.route(node) {
            Route::Via(next_hop) => {
                let limit = match session.carriage() {
                    Carriage::Whole => next_hop.mtu,
                    Carriage::Cut => next_hop.mtu.min(LEAST_MTU),
                };
                let mut sealed = std::mem::take(&mut self.sealed);
                for place in &places {
                    relayed::write_headers(
                        &mut sealed[place.clone()],
                        own,
                        node,
                        relayed::HOP_LIMIT,
                        ecn,
                    );
                }
                let packets = places.iter().map(|place| &sealed[place.clone()]);
                self.hop(next_hop, packets, limit, now);
                self.sealed = sealed;
            }
            Route::Unreachable | Route::Unknown => {
                self.outlet
                    .discards
                    .discard(Reason::NoPath, places.len() as u64);
            }
        }
        places.clear();
        self.places = places;
    }

    /// Seals packets for other nodes in the session of a neighbour's link, cut where they are longer than `limit`.
    fn hop<'a>(
        &mut self,
        next_hop: &NextHop,
        packets: impl Iterator<Item = &'a [u8]>,
        limit: usize,
        now: Instant,
    ) {
        let session = &next_hop.session;
        let (endpoint, mtu) = (next_hop.endpoint, next_hop.mtu);
        let mut packets = packets.peekable();
        let mut lost = 0;
        while packets.peek().is_some() {
            self.make_room(now);
            let mut batch = session.lock(now);
            while self.outbox.has_room()
                && let Some(packet) = packets.next()
            {
                let mut seal = |packet: &[u8]| {
                    let sealed = self.outbox.seal(session, &mut batch, endpoint, packet, mtu);
                    lost += u64::from(sealed.is_err());
                };
                if packet.len() <= limit {
                    seal(packet);
                } else {
                    self.fragmented = self.fragmented.wrapping_add(1);
                    for fragment in fragments(packet, limit, self.fragmented) {
                        seal(&fragment);
                    }
                }
            }
            let signals = batch.finish();
            self.outlet
                .signal(&mut self.unheard, session.key(), signals);
        }
        if lost > 0 {
            self.outlet.discards.discard(Reason::NoPath, lost);
        }
    }

    /// Sends packets of other nodes on, none longer than the link carries.
    pub(super) fn transit<'a>(
        &mut self,
        next_hop: &NextHop,
        packets: impl Iterator<Item = &'a [u8]>,
        now: Instant,
    ) {
        self.hop(next_hop, packets, usize::MAX, now);
    }

    /// Hands labelled datagrams of others on to a neighbour, end to end and `segment` bytes each but for the last, with so many hops left and
    /// the ECN field that they came with.
    pub(super) fn hand_on(
        &mut self,
        next_hop: &NextHop,
        label: Option<u32>,
        pair: Pair,
        hop_limit: u8,
        ecn: Ecn,
        datagrams: &[u8],
        segment: usize,
        now: Instant,
    ) {
        self.make_room(now);
        if let Some(label) = label {
            next_hop.stats.note_sent(now);
            let head = Head { hop_limit, label };
            return self.outbox.forward(next_hop, head, ecn, datagrams, segment);
        }
        let mut sealed = std::mem::take(&mut self.sealed);
        let mut places = std::mem::take(&mut self.places);
        let mut used = 0;
        for datagram in datagrams.chunks(segment) {
            let datagram = &datagram[labelled::HEADER..];
            let place = used..used + relayed::OVERHEAD + datagram.len();
            let packet = &mut sealed[place.clone()];
            packet[relayed::OVERHEAD..].copy_from_slice(datagram);
            relayed::write_headers(packet, pair.source, pair.destination, hop_limit, ecn);
            used = place.end;
            places.push(place);
        }
        let packets = places.iter().map(|place| &sealed[place.clone()]);
        self.hop(next_hop, packets, next_hop.mtu, now);
        places.clear();
        self.places = places;
        self.sealed = sealed;
    }

    /// Sends a datagram back where one came from: a cookie reply.
    pub fn reply(&mut self, to: Endpoint, datagram: &[u8], fib: &Fib, now: Instant) {
        self.make_room(now);
        match to {
            Endpoint::Underlay(to) => self.outbox.transmit(to, datagram, &self.outlet.discards),
            Endpoint::Overlay(node) => {
                if let Route::Via(next_hop) = fib.route(node) {
                    let mut packet = vec![0; relayed::OVERHEAD];
                    packet.extend_from_slice(datagram);
                    relayed::write_headers(
                        &mut packet,
                        fib.own().address,
                        node,
                        relayed::HOP_LIMIT,
                        Ecn::NotEct,
                    );
                    self.transit(next_hop, std::iter::once(&*packet), now);
                } else {
                    self.outlet.discards.discard(Reason::NoPath, 1);
                }
            }
        }
    }

    fn make_room(&mut self, now: Instant) {
        if !self.outbox.has_room() {
            self.flush(now);
        }
    }
}
