//! What neighbours send: everything but updates and proofs, which are in `learn.rs`.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;

use super::Router;
use crate::discard::Reason;
use crate::event::Cast;
use crate::link::{Acknowledged, Ask, Link, SeqnoWanted, Word};
use crate::neighbour::{Neighbour, Sequence};
use crate::origin::Bump;
use crate::request::Pass;
use crate::route::{Choice, Destination, Slot};
use crate::types::{Interval, RouterId, Seqno};
use crate::update::News;
use crate::wire::{DecodeError, Echo, HelloKind, PORT, Packet, Skip, Tlv, check_source};

/// A table that was announced so recently is not announced again before the same has passed once more.
const JUST_ANNOUNCED: Duration = Duration::from_secs(2);

impl Router {
    /// Reads a packet and does what it says.
    pub(super) fn receive(
        &mut self,
        slot: Slot,
        from: Ipv6Addr,
        to: Cast,
        packet: &[u8],
        received: Instant,
    ) -> Result<(), DecodeError> {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return Ok(());
        };
        let parsed = check_source(from, PORT).and_then(|()| Packet::parse(packet));
        let packet = parsed.inspect_err(|_| {
            link.discards.note(Reason::Unreadable);
            link.note_malformed(1, now);
        })?;
        if to != Cast::Multicast && to != Cast::Unicast(link.config.local) {
            link.discards.note(Reason::NotForUs);
            return Ok(());
        }
        if !is_welcome(link, from) {
            link.discards.note(Reason::Stranger);
            return Ok(());
        }
        if let Some(neighbour) = neighbour(link, from) {
            neighbour.heard(now);
        }
        link.has_refused = false;
        let mut times = Times::default();
        let mut tlvs = packet.tlvs(from);
        for tlv in tlvs.by_ref() {
            self.heed(slot, from, tlv, received, &mut times);
        }
        if let Some(link) = self.links.get_mut(slot) {
            let skipped = tlvs.skipped();
            link.skipped += *skipped;
            let malformed = [Skip::Overrun, Skip::Malformed];
            let malformed = malformed.iter().map(|&skip| skipped.count(skip)).sum();
            link.note_malformed(malformed, now);
        }
        self.measure(slot, from, received, &times);
        Ok(())
    }

    fn heed(
        &mut self,
        slot: Slot,
        from: Ipv6Addr,
        tlv: Tlv<'_>,
        received: Instant,
        times: &mut Times,
    ) {
        if let Tlv::Hello {
            kind,
            seqno,
            interval,
            sent,
        } = tlv
        {
            times.sent = sent;
            self.heed_hello(slot, from, kind, seqno, interval);
            return;
        }
        let now = self.clock.now();
        let local_and_known = self.links.get_mut(slot).map(|link| {
            let local = link.config.local;
            (local, neighbour(link, from).is_some())
        });
        let Some((local, is_known)) = local_and_known else {
            return;
        };
        if let Tlv::AckRequest { opaque, .. } = tlv {
            self.heed_ack_request(slot, from, opaque);
            return;
        }
        //= RFC 8966 §3.4 entry
        if !is_known {
            self.discard(slot, Reason::NoHello);
            if let Some(link) = self.links.get_mut(slot) {
                link.has_refused = true;
            }
            return;
        }
        match tlv {
            Tlv::Hello { .. } | Tlv::AckRequest { .. } => {}
            Tlv::Ihu {
                address,
                rxcost,
                interval,
                echo,
            } => {
                if address.is_none_or(|address| address == local) {
                    times.echo = echo;
                    if let Some(neighbour) = self.neighbour_mut(slot) {
                        neighbour.ihu(rxcost, interval, echo, now);
                    }
                }
            }
            Tlv::Ack { opaque } => self.heed_ack(slot, opaque, received),
            Tlv::Update(update) => self.heed_update(slot, update),
            Tlv::RouteRequest { prefix } => self.heed_route_request(slot, prefix),
            Tlv::SeqnoRequest {
                prefix,
                seqno,
                hop_count,
                router_id,
            } => self.heed_seqno_request(slot, prefix, seqno, hop_count, router_id),
            Tlv::Extension(body) => self.heed_extension(slot, body),
        }
    }

    fn heed_hello(
        &mut self,
        slot: Slot,
        from: Ipv6Addr,
        kind: HelloKind,
        seqno: Seqno,
        interval: Option<Interval>,
    ) {
        let now = self.clock.now();
        let known = self
            .links
            .get_mut(slot)
            .and_then(|link| neighbour(link, from));
        if let Some(neighbour) = known
            && neighbour.hello(kind, seqno, interval, now) == Sequence::Continues
        {
            let is_to_prove = neighbour.liveness.is_silent() && neighbour.liveness.answers();
            if is_to_prove {
                self.question(slot);
            }
            self.recover(slot);
            return;
        }
        // It is new, or has begun anew.
        let may_begin = self
            .links
            .get_mut(slot)
            .is_some_and(|link| link.may_begin(now));
        if !may_begin {
            self.discard(slot, Reason::Restarts);
            return;
        }
        self.drop_neighbour(slot);
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        let mut neighbour = Neighbour::new(from, link.patience());
        neighbour.hello(kind, seqno, interval, now);
        link.neighbour = Some(neighbour);
        link.schedule.greet(now);
        self.recover(slot);
    }

    /// A plain Babel speaker that was out of reach may be slow to trust our Hellos again.
    fn recover(&mut self, slot: Slot) {
        let now = self.clock.now();
        if let Some(link) = self.links.get_mut(slot)
            && link.config.peer.is_stock()
            && link.was_up
            && !link.is_up()
        {
            link.schedule.recover(now);
        }
    }

    /// Computes the round-trip time, and notes what the neighbour needs for the same.
    fn measure(&mut self, slot: Slot, from: Ipv6Addr, received: Instant, times: &Times) {
        let Some(sent) = times.sent else {
            return;
        };
        let received = self.clock.micros(received);
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        let Some(neighbour) = neighbour(link, from) else {
            return;
        };
        neighbour.note_echo(Echo {
            origin: sent,
            received,
        });
        if let Some(echo) = times.echo
            && !neighbour.round_trip.note(sent, received, echo)
        {
            self.discard(slot, Reason::RoundTrip);
        }
    }

    fn heed_ack_request(&mut self, slot: Slot, from: Ipv6Addr, opaque: u16) {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        //= RFC 8966 §3.3 answer
        let rate = link.config.limits.acks;
        if link.has_refused {
            link.discards.note(Reason::NotTaken);
        } else if link.allows(|quota| &mut quota.acks, rate, now) {
            link.outbox.ack(from, opaque);
        } else {
            link.discards.note(Reason::AckLimit);
        }
    }

    fn heed_ack(&mut self, slot: Slot, opaque: u16, received: Instant) {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        let answers_at_once = !link.config.peer.is_stock();
        let asked = link.question(opaque, received);
        let acknowledged = match asked {
            Some(_) => Acknowledged::Late,
            None => link.outbox.acknowledged(opaque, received),
        };
        let Some(neighbour) = &mut link.neighbour else {
            return;
        };
        let cargo = match acknowledged {
            Acknowledged::Unknown => return,
            Acknowledged::Late => None,
            Acknowledged::Now(cargo, span) => Some((cargo, span)),
        };
        let was_silent = neighbour.liveness.is_silent();
        neighbour.answered(now);
        link.is_noticed = true;
        let span = cargo.as_ref().map_or(asked, |&(_, span)| Some(span));
        if let Some(span) = span.filter(|_| answers_at_once) {
            neighbour.round_trip.measured(span);
        }
        if was_silent {
            link.schedule.greet(now);
        }
        for (prefix, word) in cargo.map_or_else(Vec::new, |(cargo, _)| cargo.updates) {
            if word == Word::Retraction
                && let Some(destination) = self.table.find_mut(prefix)
                && let Some(exchange) = destination.exchange_mut(slot)
                && !exchange.is_told()
            {
                exchange.may_rely = false;
                self.dirty.push(prefix);
            }
        }
        self.wake_up();
    }

    fn heed_route_request(&mut self, slot: Slot, prefix: Option<Ipv6Network>) {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        let limits = link.config.limits;
        match prefix {
            //= RFC 8966 §3.8.1.1 known
            //= RFC 8966 §3.8.1.1 unknown
            Some(prefix) if link.allows(|quota| &mut quota.requests, limits.requests, now) => {
                link.outbox.answer(prefix, now);
            }
            Some(_) => link.discards.note(Reason::RequestLimit),
            // It will be told everything when it is up.
            None if !link.is_up() => {}
            None if link.dumped.is_some_and(|at| now < at + JUST_ANNOUNCED) => {
                // It may have asked before that came, or have lost it.
                link.redump.get_or_insert(now + JUST_ANNOUNCED);
            }
            None if link.allows(|quota| &mut quota.dumps, limits.dumps, now) => {
                link.dump(now);
                // Whoever asks for everything may have forgotten everything, proofs too.
                for destination in self.table.iter_mut() {
                    if let Some(exchange) = destination.exchange_mut(slot)
                        && exchange.is_told()
                    {
                        exchange.is_unsure = true;
                    }
                }
            }
            None => {
                link.discards.note(Reason::DumpLimit);
                link.dump_later(now);
            }
        }
    }

    fn heed_seqno_request(
        &mut self,
        slot: Slot,
        prefix: Ipv6Network,
        seqno: Seqno,
        hop_count: u8,
        router_id: RouterId,
    ) {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        let rate = link.config.limits.seqno_requests;
        if !link.allows(|quota| &mut quota.seqno_requests, rate, now) {
            link.discards.note(Reason::SeqnoRequestLimit);
            return;
        }
        let Some(destination) = self.table.find(prefix) else {
            self.discard(slot, Reason::NoWay);
            return;
        };
        let have = self.desired(destination, slot, Echoes::Allowed);
        match have {
            //= RFC 8966 §3.8.1.2 satisfied
            Some(have) if have.router_id != router_id || !seqno.is_newer_than(have.seqno) => {
                self.answer(slot, prefix);
            }
            Some(have) if destination.choice == Choice::Own => {
                self.requests
                    .passed((prefix, router_id), seqno, slot, slot, now);
                if seqno.since(have.seqno) > 1 {
                    // It knows seqnos of ours that we do not: we may have lost an epoch.
                    self.ask_for_record(slot, router_id, None);
                }
                self.owe(seqno);
            }
            //= RFC 8966 §4.6.11 last-hop
            Some(_) if hop_count >= 2 => {
                self.pass_on(slot, (prefix, router_id), seqno, hop_count - 1);
            }
            Some(_) | None => self.discard(slot, Reason::NoWay),
        }
    }

    /// Passes a seqno request on to one neighbour that may know more.
    fn pass_on(&mut self, asker: Slot, key: (Ipv6Network, RouterId), seqno: Seqno, hop_count: u8) {
        let now = self.clock.now();
        let Pass::On { before } = self.requests.pass(key, seqno, asker, now) else {
            self.discard(asker, Reason::Redundant);
            return;
        };
        let to = self
            .table
            .find(key.0)
            .and_then(|destination| self.way_to_origin(destination, asker, before));
        let Some(to) = to else {
            self.discard(asker, Reason::NoWay);
            return;
        };
        //= RFC 8966 §3.8.1.2 once
        //= RFC 8966 §4.6.11 once
        self.requests.passed(key, seqno, asker, to, now);
        let at = now + News::Urgent.delay(&mut self.rng);
        if let Some(link) = self.links.get_mut(to) {
            let wanted = SeqnoWanted { seqno, hop_count };
            link.outbox.ask(Ask::Seqno(key.0, key.1), wanted, at);
        }
    }

    /// The neighbour through which a request may reach the origin: not the one that asks, and if there is a choice, not the one that
    /// was tried `before`.
    fn way_to_origin(
        &self,
        destination: &Destination,
        asker: Slot,
        before: Option<Slot>,
    ) -> Option<Slot> {
        let selected = match destination.choice {
            Choice::Via(slot) => Some(slot),
            Choice::Nothing | Choice::Own | Choice::Held => None,
        };
        destination
            .exchanges()
            .iter()
            //= RFC 8966 §3.8.1.2 forward
            .filter(|exchange| exchange.slot != asker && exchange.is_route())
            .filter(|exchange| self.links.cost(exchange.slot).is_finite())
            .min_by_key(|exchange| {
                (
                    before == Some(exchange.slot),
                    !destination.may_use(exchange),
                    selected != Some(exchange.slot),
                    self.metric(destination, exchange),
                )
            })
            .map(|exchange| exchange.slot)
    }

    /// Somebody wants a seqno of ours that is not there yet.
    pub(super) fn owe(&mut self, seqno: Seqno) {
        let is_more = self.owed.is_none_or(|owed| seqno.is_newer_than(owed));
        if is_more {
            self.owed = Some(seqno);
        }
        self.tend_seqno();
    }

    /// Takes a new seqno of ours, if one is wanted and it is not too soon; all who have asked hear of it.
    pub(super) fn tend_seqno(&mut self) {
        let now = self.clock.now();
        if now >= self.renew {
            self.renew = now + super::EPOCH;
            self.origins.renew();
            self.announce_ourselves(News::Soon);
        }
        let is_owed = self
            .owed
            .is_some_and(|owed| owed.is_newer_than(self.origins.own().seqno()));
        if !is_owed {
            self.owed = None;
            return;
        }
        let buckets = self.seqno_buckets.iter();
        if !buckets
            .zip(super::SEQNOS)
            .all(|(bucket, rate)| bucket.next(rate, now) <= now)
        {
            return;
        }
        for (bucket, rate) in self.seqno_buckets.iter_mut().zip(super::SEQNOS) {
            bucket.take(rate, now);
        }
        self.owed = None;
        //= RFC 8966 §3.8.1.2 one-step
        match self.origins.bump() {
            Bump::Seqno | Bump::Epoch => {}
            Bump::Exhausted => return,
        }
        self.persist();
        let router_id = self.origins.own().owner().router_id;
        for prefix in self.own.keys().copied().collect::<Vec<_>>() {
            // It grows by one at a time: whoever wanted more asks again.
            for asker in self.requests.answer_all((prefix, router_id)) {
                self.answer(asker, prefix);
            }
        }
    }

    /// Tells a neighbour about a destination at once, as an answer.
    pub(super) fn answer(&mut self, slot: Slot, prefix: Ipv6Network) {
        let at = self.clock.now() + News::Urgent.delay(&mut self.rng);
        if let Some(link) = self.links.get_mut(slot).filter(|link| link.is_up()) {
            link.outbox.answer(prefix, at);
        }
    }

    pub(super) fn discard(&mut self, slot: Slot, reason: Reason) {
        match self.links.get_mut(slot) {
            Some(link) => link.discards.note(reason),
            None => self.discards.note(reason),
        }
    }

    fn neighbour_mut(&mut self, slot: Slot) -> Option<&mut Neighbour> {
        self.links.get_mut(slot)?.neighbour.as_mut()
    }
}

/// Whether a neighbour may be told of routes that go through itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Echoes {
    /// Because it asked.
    Allowed,
    /// By split horizon.
    Suppressed,
}

/// The times in one packet (RFC 9616).
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    sent: Option<u32>,
    echo: Option<Echo>,
}

/// Whether packets from this address are read on a link: they come from its neighbour, or from a new one that may take its place.
fn is_welcome(link: &Link, from: Ipv6Addr) -> bool {
    let is_expected = link.config.remote.is_none_or(|remote| remote == from);
    is_expected
        && link
            .address()
            .is_none_or(|address| address == from || !link.is_up())
}

/// The neighbour of a link, if this is its address.
fn neighbour(link: &mut Link, from: Ipv6Addr) -> Option<&mut Neighbour> {
    link.neighbour
        .as_mut()
        .filter(|neighbour| neighbour.address == from)
}
