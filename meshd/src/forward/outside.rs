//! From outside to inside: UDP, demultiplex, open, delivery step, TUN. What was relayed to us is opened twice, unless it is labelled;
//! labelled datagrams of others are handed on unopened.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    ops::Range,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use filter::{Judgement, Refusal};
use wireguard::{Endpoint, Gate, PublicKey, Underlay, Verdict, constants::OVERHEAD};

use super::{
    Egress, Notice, RelayLimit, Shared, Topic,
    codel::Codel,
    delivery::{Arrival, Delivery, deliver},
    demux::{Runs, Way, receiver},
    entrance::{Doors, Entrance},
    resolver::Asker,
    stage::{Nested, Stage},
};
use crate::{
    discard::Reason,
    ecn::Ecn,
    fib::{Carrier, Fib, Labelled, NextHop, Onward, Route},
    fragment::Reassembly,
    icmp::{self, ErrorLimit, Heard, Unreachable},
    inbound::{self, Inbound},
    io::{
        offload::Coalescer,
        poll::Poll,
        udp::{Received, RecvBatch},
        wake::Wake,
    },
    labelled::{self, Head},
    packet::{Ipv6Header, decrement_hop_limit, mark_congestion},
    pulse::Pulse,
};

/// Messages of up to 64 KiB in one receive call.
const MESSAGES: usize = 16;
/// The node loop hears of labels that are not known this often at most: anybody can make some up.
const WONDER: Duration = Duration::from_millis(50);

/// The thread that carries datagrams from the sockets to the TUN device.
#[derive(Debug)]
pub struct Outside {
    shared: Shared,
    entrance: Entrance,
    /// The queues of the sockets.
    codels: Vec<Codel>,
    opener: Opener,
}

/// Everything but the receive buffers, which are borrowed while this works.
#[derive(Debug)]
struct Opener {
    /// What came over the underlay.
    outer: Stage,
    /// What came inside that.
    inner: Stage,
    nested: Vec<Nested>,
    reassembly: Reassembly,
    transit: Transit,
    coalescer: Coalescer,
    egress: Egress,
    errors: ErrorLimit,
    /// Among what was noted to be written is something for workloads.
    for_workloads: bool,
    /// A socket's queue stands: the sender of one of the next packets is to slow down.
    owes_mark: bool,
    /// When the node loop last heard of a label that is not known.
    wondered: Option<Instant>,
    /// Whose datagram was last found to be authentic.
    proven: Option<PublicKey>,
}

/// Packets in a row that go to the same neighbour, by their places in the outer stage's arena.
#[derive(Debug, Default)]
struct Transit {
    next_hop: Option<Arc<NextHop>>,
    places: Vec<Range<usize>>,
}

impl Outside {
    /// A carrier that has carried nothing yet. Only handshake messages that pass `gate` get through the door. `seed` begins the names of
    /// fragments.
    pub fn new(shared: Shared, doors: Doors, gate: Gate, seed: u32) -> Self {
        let opener = Opener {
            outer: Stage::new(),
            inner: Stage::new(),
            nested: Vec::with_capacity(512),
            reassembly: Reassembly::default(),
            transit: Transit::default(),
            coalescer: Coalescer::new(shared.tun.offload()),
            egress: Egress::new(shared.outlet.clone(), seed),
            errors: ErrorLimit::new(shared.clock.now()),
            for_workloads: false,
            owes_mark: false,
            wondered: None,
            proven: None,
        };
        Self {
            entrance: Entrance::new(doors, gate),
            codels: vec![Codel::default(); usize::from(Underlay::ANY_SOCKET)],
            shared,
            opener,
        }
    }

    /// Carries datagrams until `stop` is woken, and answers `pulse`.
    ///
    /// # Errors
    /// Waiting failed, or a socket did.
    pub fn run(mut self, stop: &Wake, pulse: &Pulse) -> io::Result<()> {
        let sockets = Arc::clone(&self.shared.outlet.sockets);
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
                    self.take(batch.messages(), position);
                }
            }
        }
    }

    /// The same for the sockets that come and go.
    ///
    /// # Errors
    /// Waiting failed, or a socket did.
    pub fn run_extra(mut self, stop: &Wake, pulse: &Pulse) -> io::Result<()> {
        let sockets = Arc::clone(&self.shared.outlet.sockets);
        let mut batch = RecvBatch::new(MESSAGES);
        loop {
            let table = sockets.extra.table();
            let mut descriptors = vec![stop.as_fd(), pulse.as_fd(), sockets.extra.wake().as_fd()];
            let fixed = descriptors.len();
            descriptors.extend(table.0.iter().map(|(_, socket)| socket.as_fd()));
            let mut poll = Poll::new(&descriptors);
            loop {
                poll.wait(None, &self.shared.clock)?;
                if poll.is_ready(0) {
                    return Ok(());
                }
                if poll.is_ready(1) {
                    pulse.answer()?;
                }
                for (position, (index, socket)) in table.0.iter().enumerate() {
                    if poll.is_ready(position + fixed) && socket.recv(&mut batch)? > 0 {
                        self.take(batch.messages(), usize::from(*index));
                    }
                }
                // What is in the table from here on is there after this.
                if poll.is_ready(2) {
                    sockets.extra.wake().clear()?;
                    break;
                }
            }
        }
    }

    /// Everything that one receive call of this socket brought.
    pub(crate) fn take<'batch>(
        &mut self,
        messages: impl Iterator<Item = Received<'batch>>,
        socket: usize,
    ) {
        let now = self.shared.clock.now();
        let fib = self.shared.fib.load_full();
        for Received {
            from,
            local,
            segment,
            waited,
            ecn,
            data,
        } in messages
        {
            if let Some(codel) = self.codels.get_mut(socket) {
                self.opener.owes_mark |= codel.chooses(waited, now);
            }
            let from = Underlay {
                remote: canonical(from),
                local: local.map(|local: IpAddr| local.to_canonical()),
                socket: u8::try_from(socket).unwrap_or(Underlay::ANY_SOCKET),
            };
            if self.opener.room() < data.len() {
                self.deliver(&fib, now);
            }
            self.open(data, segment, from, ecn, &fib, now);
        }
        self.deliver(&fib, now);
    }

    /// Datagrams of a TCP stream, end to end, `segment` bytes each but for a shorter last one. Returns who is shown to be at its other
    /// end, if any of them does: one was authentic, straight from there.
    pub(crate) fn take_frames(
        &mut self,
        data: &mut [u8],
        segment: usize,
        from: Underlay,
    ) -> Option<PublicKey> {
        let now = self.shared.clock.now();
        let fib = self.shared.fib.load_full();
        self.opener.proven = None;
        if self.opener.room() < data.len() {
            self.deliver(&fib, now);
        }
        // What the network does to TCP's packets is TCP's business.
        self.open(data, segment, from, Ecn::NotEct, &fib, now);
        self.deliver(&fib, now);
        self.opener.proven.take()
    }

    fn deliver(&mut self, fib: &Fib, now: Instant) {
        self.opener
            .deliver(&mut self.entrance, &self.shared, fib, now);
    }

    /// The datagrams of one received message, taken in runs of the same session, for each of which its lock is taken once.
    fn open(
        &mut self,
        data: &mut [u8],
        segment: usize,
        from: Underlay,
        ecn: Ecn,
        fib: &Fib,
        now: Instant,
    ) {
        let Self {
            shared,
            entrance,
            opener,
            ..
        } = self;
        if data.is_empty() {
            shared.discard(Reason::NotWireguard, 1);
        }
        let (underlay, from, remote) = (from, Endpoint::Underlay(from), from.remote);
        let class = from.class();
        for (way, run) in Runs::new(data, segment, fib) {
            match way {
                Way::Session(carrier) => {
                    let length = run.len();
                    let places = (0..length)
                        .step_by(segment)
                        .map(|start| start..(start + segment).min(length));
                    let first = opener.outer.len();
                    let outer = &mut opener.outer;
                    if outer.open(carrier, run, places, from, ecn, shared, now) > 0 {
                        opener.proven = Some(*carrier.session.key());
                    }
                    opener.outer.choose(first, length, &mut opener.owes_mark);
                }
                Way::Gate | Way::Cookie => {
                    entrance.take(way, from, run, fib, shared, &mut opener.egress, now);
                }
                Way::Probe => entrance.take_probe(underlay, run, shared),
                Way::Labelled(labelled) => {
                    let count = run.len().div_ceil(segment) as u64;
                    if (remote, class) != (labelled.from, labelled.class) {
                        shared.discard(Reason::LabelForeign, count);
                        continue;
                    }
                    labelled.stats.note_heard();
                    opener.labelled(labelled, run, segment, ecn, entrance, shared, fib, now);
                }
                Way::Discard(reason) => {
                    shared.discard(reason, 1);
                    if reason == Reason::UnknownLabel {
                        opener.wonder(remote, run, shared, now);
                    }
                }
            }
        }
    }
}

impl Opener {
    /// Lets whoever may be using a label hear that it is not known, if it is a neighbour.
    fn wonder(&mut self, from: SocketAddr, datagram: &[u8], shared: &Shared, now: Instant) {
        let may_ask = self
            .wondered
            .is_none_or(|last| now.saturating_duration_since(last) >= WONDER);
        if may_ask && let Some(Head { label, .. }) = Head::of(datagram) {
            self.wondered = Some(now);
            shared.outlet.tell(Notice::UnknownLabel { from, label });
        }
    }

    /// How many more bytes can be received before what was opened has to be delivered: what is in the outer stage may be nested, and
    /// needs as much room in the inner one, where labelled datagrams are already.
    fn room(&self) -> usize {
        self.outer.room().saturating_sub(self.inner.used())
    }

    /// Sends everything opened so far where it may go.
    fn deliver(&mut self, entrance: &mut Entrance, shared: &Shared, fib: &Fib, now: Instant) {
        let mut outer = std::mem::take(&mut self.outer);
        self.dispatch(&mut outer, Arrival::Direct, shared, fib, now);
        self.send_transit(&outer, now);
        self.write(&mut outer, shared, fib);
        if !self.nested.is_empty() || !self.inner.is_empty() {
            let mut inner = std::mem::take(&mut self.inner);
            self.open_nested(&outer, &mut inner, entrance, shared, fib, now);
            self.dispatch(&mut inner, Arrival::Relayed, shared, fib, now);
            self.write(&mut inner, shared, fib);
            inner.clear();
            self.inner = inner;
        }
        outer.clear();
        self.outer = outer;
        self.egress.flush(now);
    }

    /// The delivery step for every packet of a stage. Packets for the host, for neighbours, and nested ones are only noted.
    fn dispatch(
        &mut self,
        stage: &mut Stage,
        arrival: Arrival,
        shared: &Shared,
        fib: &Fib,
        now: Instant,
    ) {
        stage.judge(arrival, fib, now);
        for at in 0..stage.len() {
            let decrypted = stage.get(at);
            let place = decrypted.place();
            let (carrier, from) = stage.carrier(decrypted.carrier);
            let carrier = Arc::clone(carrier);
            let packet = &mut stage.arena[place.clone()];
            if let Judgement::Refuse(refusal) = decrypted.judgement {
                self.refuse(refusal, &carrier, packet, shared, fib, now);
                continue;
            }
            match deliver(fib, &carrier, arrival, decrypted.verdict, packet) {
                Delivery::Host
                | Delivery::Workload(_)
                | Delivery::Forward(_)
                | Delivery::Transit(_)
                    if decrypted.is_chosen && !mark_congestion(packet) =>
                {
                    shared.discard(Reason::Congested, 1);
                }
                Delivery::Host => match icmp::heard(packet, fib.own().token) {
                    Some(Heard::Reply(number)) => shared.outlet.tell(Notice::EchoReply {
                        number,
                        received: now,
                    }),
                    Some(Heard::Prohibited) => {
                        shared.tell_packet(&carrier, Topic::Prohibited, from, packet, now);
                        self.coalescer.push(&stage.arena, place);
                    }
                    None => self.coalescer.push(&stage.arena, place),
                },
                Delivery::Workload(workload) => {
                    // What a workload sends to a leaf is judged as well.
                    if let (Verdict::Leaf, Some(inbound)) = (decrypted.verdict, &workload.inbound) {
                        inbound.note(packet, now);
                    }
                    self.for_workloads = true;
                    self.coalescer.push(&stage.arena, place);
                }
                Delivery::Resolver => {
                    if !shared.asks(|| Asker::Device(Arc::clone(&carrier.session)), packet) {
                        self.answer(&carrier, Unreachable::Port, packet, fib, now);
                    }
                }
                Delivery::Forward(to) => {
                    if packet.len() > to.session.mtu() {
                        shared.discard(Reason::TooBig, 1);
                        let why = Unreachable::TooBig(to.session.mtu() as u32);
                        self.answer(&carrier, why, packet, fib, now);
                    } else if decrement_hop_limit(packet) {
                        // What a node sends to a leaf is answered to that node, whose affair it is.
                        if let (Verdict::Leaf, Some(inbound)) = (decrypted.verdict, &to.inbound) {
                            inbound.note(packet, now);
                        }
                        let session = &to.session;
                        self.egress.send(session, &mut Some(&*packet), fib, now);
                    } else {
                        shared.discard(Reason::HopLimit, 1);
                        self.answer(&carrier, Unreachable::HopLimit, packet, fib, now);
                    }
                }
                Delivery::Nested => {
                    let nested = Nested::new(&decrypted, place, packet);
                    self.nested.push(nested);
                }
                Delivery::Part => match self.reassembly.push(packet, now) {
                    Ok(None) => {}
                    Ok(Some(whole)) => match stage.append(&whole) {
                        Some(place) => self.nested.push(Nested::new(&decrypted, place, &whole)),
                        None => shared.discard(Reason::Fragment, 1),
                    },
                    Err(_) => shared.discard(Reason::Fragment, 1),
                },
                Delivery::Transit(next_hop) => {
                    match Transit::admit(&shared.relay_limit, next_hop, packet, fib, now) {
                        Ok(()) => {
                            if !self.transit.leads_to(next_hop) {
                                self.send_transit(stage, now);
                            }
                            self.transit.push(next_hop, place);
                        }
                        Err((reason, why)) => {
                            shared.discard(reason, 1);
                            self.refuse_transit(why, packet, fib, now);
                        }
                    }
                }
                Delivery::Babel => shared.tell_packet(&carrier, Topic::Routing, from, packet, now),
                Delivery::Signal => shared.tell_packet(&carrier, Topic::Session, from, packet, now),
                Delivery::RelayError => {
                    shared.tell_packet(&carrier, Topic::RelayError, from, packet, now);
                }
                Delivery::Discard(reason) => shared.discard(reason, 1),
                Delivery::Refuse(Reason::RelayNoRoute, why) => {
                    shared.discard(Reason::RelayNoRoute, 1);
                    self.refuse_transit(Some(why), packet, fib, now);
                }
                Delivery::Refuse(reason, why) => {
                    shared.discard(reason, 1);
                    self.answer(&carrier, why, packet, fib, now);
                }
            }
        }
        shared.discard(Reason::Fragment, self.reassembly.take_given_up());
    }

    /// Opens the datagrams that were relayed to us, in runs of the same session.
    fn open_nested(
        &mut self,
        outer: &Stage,
        inner: &mut Stage,
        entrance: &mut Entrance,
        shared: &Shared,
        fib: &Fib,
        now: Instant,
    ) {
        let mut rest = self.nested.as_slice();
        while let Some(first) = rest.first() {
            let datagram = |nested: &Nested| &outer.arena[nested.place()];
            let from = Endpoint::Overlay(first.source);
            let keypair = receiver(datagram(first));
            let is_alike = |nested: &&Nested| {
                keypair.is_some()
                    && receiver(datagram(nested)) == keypair
                    && nested.carrier == first.carrier
                    && nested.source == first.source
                    && nested.ecn == first.ecn
            };
            let count = rest.iter().take_while(is_alike).count().max(1);
            let run;
            (run, rest) = rest.split_at(count);
            match Way::of(datagram(first), fib) {
                Way::Session(carrier) => {
                    let (link, _) = outer.carrier(first.carrier);
                    if !carrier.may_be_relayed(first.source, &link.session) {
                        shared.discard(Reason::NestedPath, count as u64);
                        continue;
                    }
                    carrier.stats.note_hop_limit(first.hop_limit);
                    let places = run.iter().map(Nested::place);
                    let (datagrams, ecn) = (&outer.arena, first.ecn);
                    inner.open(carrier, datagrams, places, from, ecn, shared, now);
                }
                way @ (Way::Gate | Way::Cookie) => {
                    let egress = &mut self.egress;
                    entrance.take(way, from, datagram(first), fib, shared, egress, now);
                }
                Way::Labelled(_) => shared.discard(Reason::NestedTwice, count as u64),
                Way::Probe => shared.discard(Reason::ProbeRelayed, count as u64),
                Way::Discard(reason) => shared.discard(reason, 1),
            }
        }
        self.nested.clear();
    }

    /// Hands datagrams under one label on, or opens them if they are for us.
    fn labelled(
        &mut self,
        labelled: &Labelled,
        mut run: &mut [u8],
        segment: usize,
        mut ecn: Ecn,
        entrance: &mut Entrance,
        shared: &Shared,
        fib: &Fib,
        now: Instant,
    ) {
        let count = run.len().div_ceil(segment) as u64;
        let Some(Head { hop_limit, .. }) = Head::of(run) else {
            return shared.discard(Reason::Malformed, count);
        };
        let (next_hop, label) = match &labelled.onward {
            Onward::Via(next_hop, label) => (next_hop, *label),
            Onward::Nowhere => return shared.discard(Reason::RelayNoRoute, count),
            Onward::Here => {
                return self.arrive(
                    labelled, hop_limit, run, segment, ecn, entrance, shared, fib, now,
                );
            }
        };
        if hop_limit <= 1 {
            return shared.discard(Reason::HopLimit, count);
        }
        if !shared.relay_limit.allows(run.len(), fib.relay_mbit(), now) {
            return shared.discard(Reason::RelayLimit, count);
        }
        if self.owes_mark && count > 1 {
            self.owes_mark = false;
            if ecn.is_capable() {
                ecn = Ecn::Ce;
            } else {
                run = &mut run[segment..];
                shared.discard(Reason::Congested, 1);
            }
        }
        // What is too long even so is cut, in the nested form, whose header has a place for a mark as well, where a stream has none.
        let is_short = segment <= next_hop.mtu + OVERHEAD;
        let loses_mark = ecn == Ecn::Ce && next_hop.endpoint.is_stream();
        let label = label.filter(|_| is_short && !loses_mark);
        let (hop_limit, pair) = (hop_limit - 1, labelled.pair);
        self.egress
            .hand_on(next_hop, label, pair, hop_limit, ecn, run, segment, now);
    }

    /// Opens datagrams that came under a label, in runs of the same keypair.
    fn arrive(
        &mut self,
        labelled: &Labelled,
        hop_limit: u8,
        run: &mut [u8],
        segment: usize,
        ecn: Ecn,
        entrance: &mut Entrance,
        shared: &Shared,
        fib: &Fib,
        now: Instant,
    ) {
        let source = labelled.pair.source;
        let from = Endpoint::Overlay(source);
        let mut rest = run;
        while !rest.is_empty() {
            let mut datagrams = rest
                .chunks(segment)
                .map(|datagram| &datagram[labelled::HEADER..]);
            let Some(first) = datagrams.next() else {
                return;
            };
            let (way, keypair) = (Way::of(first, fib), receiver(first));
            let alike = datagrams
                .take_while(|datagram| keypair.is_some() && receiver(datagram) == keypair)
                .count();
            let length = ((alike + 1) * segment).min(rest.len());
            let (now_opened, later) = rest.split_at_mut(length);
            rest = later;
            let count = alike as u64 + 1;
            match way {
                Way::Session(carrier) => {
                    if !carrier.may_be_relayed(source, &labelled.session) {
                        shared.discard(Reason::NestedPath, count);
                        continue;
                    }
                    carrier.stats.note_hop_limit(hop_limit);
                    let places = (0..length)
                        .step_by(segment)
                        .map(|start| start + labelled::HEADER..(start + segment).min(length));
                    let first = self.inner.len();
                    self.inner
                        .open(carrier, now_opened, places, from, ecn, shared, now);
                    self.inner.choose(first, length, &mut self.owes_mark);
                }
                way @ (Way::Gate | Way::Cookie) => {
                    let datagram = &now_opened[labelled::HEADER..];
                    let egress = &mut self.egress;
                    entrance.take(way, from, datagram, fib, shared, egress, now);
                }
                Way::Labelled(_) => shared.discard(Reason::NestedTwice, count),
                Way::Probe => shared.discard(Reason::ProbeRelayed, count),
                Way::Discard(reason) => shared.discard(reason, count),
            }
        }
    }

    /// Sends what was noted for a neighbour.
    fn send_transit(&mut self, stage: &Stage, now: Instant) {
        if let Some(next_hop) = self.transit.next_hop.take() {
            let packets = self
                .transit
                .places
                .drain(..)
                .map(|place| &stage.arena[place]);
            self.egress.transit(&next_hop, packets, now);
        }
    }

    /// Writes what was noted for the host and for workloads.
    fn write(&mut self, stage: &mut Stage, shared: &Shared, fib: &Fib) {
        let for_workloads = std::mem::take(&mut self.for_workloads);
        // Virtio header first, then the packet's beginning.
        let workload = |frame: &[IoSlice<'_>]| {
            let packet = frame.get(1).filter(|_| for_workloads)?;
            fib.workload(Ipv6Header::parse_destination(packet)?)
        };
        self.coalescer
            .flush(&mut stage.arena, |frame: &[IoSlice<'_>]| {
                match workload(frame) {
                    Some(workload) => shared.write_to(workload, frame),
                    None => shared.write(frame),
                }
            });
    }

    /// Discards what the filter refuses, and tells its sender if that is one of us.
    fn refuse(
        &mut self,
        refusal: Refusal,
        carrier: &Carrier,
        packet: &[u8],
        shared: &Shared,
        fib: &Fib,
        now: Instant,
    ) {
        shared.discard(inbound::reason(refusal), 1);
        if refusal == Refusal::Denied && carrier.inbound.as_ref().is_some_and(Inbound::tells) {
            self.answer(carrier, Unreachable::Prohibited, packet, fib, now);
        }
    }

    /// Tells the sender of a packet, through the session that it came from, why it went nowhere.
    fn answer(
        &mut self,
        carrier: &Carrier,
        why: Unreachable,
        packet: &[u8],
        fib: &Fib,
        now: Instant,
    ) {
        if self.errors.allows(now)
            && let Some(error) = icmp::error(why, fib.own().address, packet)
        {
            self.egress
                .send(&carrier.session, &mut Some(&*error), fib, now);
        }
    }

    /// Tells the node whose datagram was to be forwarded why it was not.
    fn refuse_transit(&mut self, why: Option<Unreachable>, packet: &[u8], fib: &Fib, now: Instant) {
        let (Some(why), Ok(header)) = (why, Ipv6Header::parse(packet)) else {
            return;
        };
        if let Route::Via(next_hop) = fib.route(header.source)
            && self.errors.allows(now)
            && let Some(error) = icmp::error(why, fib.own().address, packet)
        {
            self.egress.transit(next_hop, std::iter::once(&*error), now);
        }
    }
}

impl Transit {
    /// Whether a packet may go to this neighbour; takes one hop off it then. Otherwise the reason, and what its sender is told.
    fn admit(
        limit: &RelayLimit,
        next_hop: &NextHop,
        packet: &mut [u8],
        fib: &Fib,
        now: Instant,
    ) -> Result<(), (Reason, Option<Unreachable>)> {
        if packet.len() > next_hop.mtu {
            let mtu = u32::try_from(next_hop.mtu).unwrap_or(u32::MAX);
            return Err((Reason::RelayTooBig, Some(Unreachable::TooBig(mtu))));
        }
        if !limit.allows(packet.len(), fib.relay_mbit(), now) {
            return Err((Reason::RelayLimit, None));
        }
        if !decrement_hop_limit(packet) {
            return Err((Reason::HopLimit, Some(Unreachable::HopLimit)));
        }
        Ok(())
    }

    fn leads_to(&self, next_hop: &Arc<NextHop>) -> bool {
        self.next_hop
            .as_ref()
            .is_none_or(|current| Arc::ptr_eq(current, next_hop))
    }

    fn push(&mut self, next_hop: &Arc<NextHop>, place: Range<usize>) {
        if self.next_hop.is_none() {
            self.next_hop = Some(Arc::clone(next_hop));
        }
        self.places.push(place);
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
