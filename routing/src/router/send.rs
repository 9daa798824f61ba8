//! From what is due to packets.

use std::time::Duration;

use super::Router;
use super::tell::Say;
use crate::event::{Cast, Transmit};
use crate::extension::Extension;
use crate::link::{Ask, Beat, Cargo, DueHello, DumpKind, Link, SeqnoWanted};
use crate::route::{Destination, Slot};
use crate::types::{LinkId, Metric, Seqno};
use crate::wire::{EncodeError, HelloKind, PacketBuf, PacketWriter, Tlv, Update};

/// So many destinations at a time: a few packets.
const MOST_UPDATES: usize = 160;
/// Between the packets of a whole table.
const PACE: Duration = Duration::from_millis(4);
/// So often an Acknowledgment is asked for without need, to measure the round-trip time by our own clock alone.
const MEASURE: Duration = Duration::from_secs(30);

impl Router {
    /// Sends what is due on a link.
    pub(super) fn flush(&mut self, slot: Slot, beat: Beat, pace: u32) {
        self.say_hello(slot, beat, pace);
        self.say_at_once(slot);
        self.say_reliably(slot);
        self.say_all(slot);
    }

    /// Hello, and with it what is said to whoever is there.
    fn say_hello(&mut self, slot: Slot, beat: Beat, pace: u32) {
        let now = self.clock.now();
        let stamp = self.clock.micros(now);
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        let has_neighbour = link.neighbour.is_some();
        link.schedule.set_interval(link.unhurried(pace));
        let Some(hello) = link.schedule.poll(has_neighbour, beat, now, &mut self.rng) else {
            return;
        };
        let DueHello {
            seqno,
            interval,
            with_ihu,
        } = hello;
        let is_stock = link.config.peer.is_stock();
        //= RFC 8966 §3.4.1 to-all
        //= RFC 8966 §4.6.5 to-all
        let mut tlvs = vec![Tlv::Hello {
            kind: HelloKind::Multicast,
            seqno,
            interval: Some(interval),
            sent: (with_ihu || is_stock).then_some(stamp),
        }];
        let rxcost = link.rxcost(now);
        if let Some(neighbour) = link.neighbour.as_ref().filter(|_| with_ihu) {
            tlvs.push(Tlv::Ihu {
                address: is_stock.then_some(neighbour.address),
                rxcost,
                interval: link.schedule.ihu_interval(),
                echo: neighbour.echo(),
            });
        }
        if !link.is_noticed && link.dumped.is_none() {
            // What we announced before we were restarted is void, and what it announced is forgotten.
            tlvs.push(Tlv::Update(retraction_of_all(link)));
            tlvs.push(Tlv::RouteRequest { prefix: None });
        }
        let is_to_measure = with_ihu && !is_stock && now >= link.measure;
        if is_to_measure || !link.is_noticed {
            let opaque = link.outbox.take_opaques(1);
            link.note_question(opaque, now);
            link.measure = now + MEASURE;
            tlvs.push(Tlv::AckRequest {
                opaque,
                interval: link.ack_interval(),
            });
        }
        let tag = link.config.tag.map(|tag| Extension::LinkTag(tag).encode());
        tlvs.extend(tag.as_deref().map(Tlv::Extension));
        let mut writer = PacketWriter::multicast(link.config.mtu, link.config.local);
        let written = tlvs.iter().try_for_each(|tlv| writer.push(tlv));
        sound(written);
        let id = link.id;
        self.transmit(id, Cast::Multicast, writer.finish());
    }

    /// Acknowledgments and messages of ours.
    fn say_at_once(&mut self, slot: Slot) {
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        //= RFC 8966 §4.6.3 in-time
        //= RFC 8966 §3.1 deadline
        let acks = std::mem::take(&mut link.outbox.acks);
        let messages = match link.address() {
            Some(_) => std::mem::take(&mut link.outbox.messages),
            None => Default::default(),
        };
        if acks.is_empty() && messages.is_empty() {
            return;
        }
        let (id, mtu, local) = (link.id, link.config.mtu, link.config.local);
        let address = link.address();
        let mut packets = Vec::new();
        for to in acks.chunk_by(|(a, _), (b, _)| a == b) {
            let mut writer = PacketWriter::unicast(mtu, local);
            for &(_, opaque) in to {
                sound(writer.push(&Tlv::Ack { opaque }));
            }
            packets.push((to[0].0, writer.finish()));
        }
        if let Some(address) = address {
            let mut writer = PacketWriter::unicast(mtu, local);
            for body in &messages {
                sound(writer.push(&Tlv::Extension(body)));
            }
            packets.push((address, writer.finish()));
        }
        for (address, packets) in packets {
            self.transmit(id, Cast::Unicast(address), packets);
        }
    }

    /// What has to arrive: changes, answers and requests.
    fn say_reliably(&mut self, slot: Slot) {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        if link.address().is_none() {
            return;
        }
        let due = link.outbox.take_due(MOST_UPDATES, now);
        let asks = link.outbox.take_asks(now);
        if due.is_empty() && asks.is_empty() {
            return;
        }
        let mut batch = Batch::default();
        for (prefix, due) in due {
            let say = if due.is_answer {
                Say::Answer
            } else {
                Say::Change
            };
            if let Some((update, word)) = self.compose(slot, prefix, say) {
                batch.updates.push((update, word, due.copies));
            }
        }
        batch.asks = asks
            .into_iter()
            .map(|(ask, due, wanted)| (ask, wanted, due.copies))
            .collect();
        self.send_batch(slot, batch);
    }

    /// The next part of the whole table, if that is under way.
    fn say_all(&mut self, slot: Slot) {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        let Some(mut dump) = link.outbox.dump.filter(|dump| dump.next <= now) else {
            return;
        };
        let is_reliable = link.outbox.is_reliable(dump.kind);
        if link.address().is_none() || !link.is_up() || !link.outbox.has_room_for(dump.kind) {
            return;
        }
        let prefixes: Vec<_> = self
            .table
            .after(dump.after)
            .map(Destination::prefix)
            .take(MOST_UPDATES)
            .collect();
        let say = match dump.kind {
            DumpKind::Full => Say::Anew,
            DumpKind::Refresh => Say::Again,
        };
        let mut batch = Batch::default();
        for &prefix in &prefixes {
            let waits = self.links.get_mut(slot).is_some_and(|link| {
                let waits = link.outbox.is_flying(prefix);
                if waits {
                    link.outbox.update(prefix, now);
                }
                waits
            });
            if !waits && let Some((update, word)) = self.compose(slot, prefix, say) {
                batch.updates.push((update, word, 0));
            }
        }
        let is_done = prefixes.len() < MOST_UPDATES;
        dump.after = prefixes.last().copied();
        dump.next = now + PACE;
        if let Some(link) = self.links.get_mut(slot) {
            link.outbox.dump = (!is_done).then_some(dump);
        }
        if is_reliable {
            self.send_batch(slot, batch);
        } else {
            self.send_refresh(slot, &batch);
        }
    }

    /// Sends packets that ask for Acknowledgments, and remembers what is in them.
    fn send_batch(&mut self, slot: Slot, batch: Batch) {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        let Some(address) = link.address() else {
            return;
        };
        if batch.updates.is_empty() && batch.asks.is_empty() {
            return;
        }
        let writer = PacketWriter::unicast(link.config.mtu, link.config.local);
        let first = link.outbox.take_opaques(0);
        let Ok(mut writer) = writer.asking_for_acks(first, link.ack_interval()) else {
            return;
        };
        let mut cargos: Vec<Cargo> = Vec::new();
        let cargo = |cargos: &mut Vec<Cargo>, packet: usize, copies: u8| {
            cargos.resize_with(cargos.len().max(packet + 1), Cargo::default);
            cargos[packet].copies = cargos[packet].copies.max(copies + 1);
        };
        for (update, word, copies) in &batch.updates {
            sound(writer.push(&Tlv::Update(*update)));
            let packet = writer.packet();
            cargo(&mut cargos, packet, *copies);
            cargos[packet]
                .updates
                .extend(update.prefix.map(|prefix| (prefix, *word)));
        }
        for &(ask, wanted, copies) in &batch.asks {
            sound(writer.push(&tlv(ask, wanted)));
            let packet = writer.packet();
            cargo(&mut cargos, packet, copies);
            cargos[packet].asks.push((ask, wanted));
        }
        let packets = writer.finish();
        link.outbox.take_opaques(packets.len() as u16);
        let patience = link.ack_patience();
        for (packet, cargo) in packets.iter().zip(cargos) {
            if let Some(opaque) = packet.opaque {
                link.outbox.launch(opaque, cargo, patience, now);
            }
        }
        let id = link.id;
        self.transmit(id, Cast::Unicast(address), packets);
    }

    /// Sends what only repeats what the neighbour knows.
    fn send_refresh(&mut self, slot: Slot, batch: &Batch) {
        let Some(link) = self.links.get(slot) else {
            return;
        };
        let Some(address) = link.address() else {
            return;
        };
        let mut writer = PacketWriter::unicast(link.config.mtu, link.config.local);
        for (update, ..) in &batch.updates {
            sound(writer.push(&Tlv::Update(*update)));
        }
        let id = link.id;
        self.transmit(id, Cast::Unicast(address), writer.finish());
    }

    /// Asks a neighbour whether it is there.
    pub(super) fn question(&mut self, slot: Slot) {
        let now = self.clock.now();
        let Some(link) = self.links.get_mut(slot) else {
            return;
        };
        let Some(address) = link.address() else {
            return;
        };
        let opaque = link.outbox.take_opaques(1);
        link.note_question(opaque, now);
        let mut writer = PacketWriter::unicast(link.config.mtu, link.config.local);
        sound(writer.push(&Tlv::AckRequest {
            opaque,
            interval: link.ack_interval(),
        }));
        let id = link.id;
        self.transmit(id, Cast::Unicast(address), writer.finish());
    }

    /// Retracts everything from a neighbour.
    pub(super) fn say_goodbye(&mut self, slot: Slot) {
        let Some(link) = self.links.get(slot) else {
            return;
        };
        let mut writer = PacketWriter::multicast(link.config.mtu, link.config.local);
        sound(writer.push(&Tlv::Update(retraction_of_all(link))));
        let id = link.id;
        self.transmit(id, Cast::Multicast, writer.finish());
    }

    fn transmit(&mut self, link: LinkId, to: Cast, packets: Vec<PacketBuf>) {
        self.transmits.extend(
            packets
                .into_iter()
                .map(|packet| Transmit { link, to, packet }),
        );
    }
}

/// What goes into packets together, and how many copies of each have been sent.
#[derive(Debug, Default)]
struct Batch {
    updates: Vec<(Update, crate::link::Word, u8)>,
    asks: Vec<(Ask, SeqnoWanted, u8)>,
}

/// The end of all our routes, as far as a neighbour is concerned.
fn retraction_of_all(link: &Link) -> Update {
    Update {
        prefix: None,
        router_id: None,
        next_hop: link.config.local,
        interval: Some(link.update_interval()),
        seqno: Seqno(0),
        metric: Metric::INFINITY,
        proof: None,
    }
}

fn tlv(ask: Ask, wanted: SeqnoWanted) -> Tlv<'static> {
    match ask {
        Ask::Everything => Tlv::RouteRequest { prefix: None },
        Ask::Route(prefix) => Tlv::RouteRequest {
            prefix: Some(prefix),
        },
        Ask::Seqno(prefix, router_id) => Tlv::SeqnoRequest {
            prefix,
            seqno: wanted.seqno,
            hop_count: wanted.hop_count,
            router_id,
        },
    }
}

/// The router writes nothing that may not be written.
fn sound(written: Result<(), EncodeError>) {
    debug_assert_eq!(written, Ok(()));
}
