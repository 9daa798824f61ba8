//! Putting decrypted packets together, so that the kernel's receive path runs once for many.

use std::io::IoSlice;
use std::ops::Range;

use super::{
    IPV6_HEADER, PACKET, Segmentation, TCP, TCP_CHECKSUM, TCP_HEADER, UDP, UDP_CHECKSUM,
    UDP_HEADER, VirtioHeader, be16, be32, pseudo_header,
};
use crate::io::checksum;
use crate::io::tun::Offload;

/// Most packets in one super-packet: what every kernel takes for UDP (`UDP_MAX_SEGMENTS`; newer ones take 128).
pub const SEGMENTS: usize = 64;

/// Flows that can be joined at a time. More in one batch lose nothing but the gain; a longer table costs every packet.
const OPEN_RUNS: usize = 16;

const FLAGS: usize = 13;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

/// Joins the packets of one batch into super-packets, without copying payloads.
///
/// Packets join a run when the kernel, splitting the super-packet, would give back exactly the same bytes: same flow,
/// consecutive sequence numbers, every other header field and option equal, checksums right (checked when a second
/// packet arrives, since afterwards the kernel trusts them). A shorter packet or one with PSH ends its run. Inside a
/// flow the order never changes; between flows it may, within a batch.
#[derive(Debug)]
pub struct Coalescer {
    offload: Offload,
    packets: Vec<Packet>,
    runs: Vec<Run>,
    /// Positions in `runs` of those that may grow.
    open: [Option<usize>; OPEN_RUNS],
    /// The next place in `open` to be taken from its run when none is free.
    victim: usize,
}

#[derive(Debug, Clone, Copy)]
struct Packet {
    start: usize,
    end: usize,
    /// Position in `packets` of the next one of the same run.
    next: Option<usize>,
}

#[derive(Debug)]
struct Run {
    first: usize,
    last: usize,
    count: usize,
    /// Length of the super-packet.
    total: usize,
    /// What a packet needs to be joined; `None` for a packet that travels alone.
    shape: Option<Shape>,
    verified: bool,
}

/// What matters of a packet that could be joined.
#[derive(Debug, Clone, Copy)]
struct Shape {
    protocol: u8,
    headers: usize,
    payload: usize,
    /// TCP: the sequence number that must follow.
    sequence_end: u32,
    /// TCP with PSH: nothing may follow.
    push: bool,
}

impl Coalescer {
    /// For a device that takes `offload`.
    pub fn new(offload: Offload) -> Self {
        Self {
            offload,
            packets: Vec::with_capacity(512),
            runs: Vec::with_capacity(512),
            open: [None; OPEN_RUNS],
            victim: 0,
        }
    }

    /// Whether nothing waits to be written.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Adds the decrypted packet at `place` of `arena`. Until the flush, `arena` must be the same and the packet untouched.
    ///
    /// # Panics
    /// If `place` is not within `arena`, which is the caller's mistake.
    pub fn push(&mut self, arena: &[u8], place: Range<usize>) {
        let packet = &arena[place.clone()];
        let shape = shape(packet, self.offload);
        let position = self.packets.len();
        self.packets.push(Packet {
            start: place.start,
            end: place.end,
            next: None,
        });
        if let Some(slot) = self.slot(arena, packet) {
            if shape.is_some_and(|shape| self.join(arena, slot, position, shape)) {
                return;
            }
            // Whatever it is, nothing later of this flow may overtake it.
            self.open[slot] = None;
        } else if !has_ports(packet) {
            self.close_all_between(arena, packet);
        }
        let run = Run {
            first: position,
            last: position,
            count: 1,
            total: packet.len(),
            shape,
            verified: false,
        };
        self.runs.push(run);
        if shape.is_some_and(|shape| !shape.push) {
            let slot = self
                .open
                .iter()
                .position(Option::is_none)
                .unwrap_or(self.victim);
            self.open[slot] = Some(self.runs.len() - 1);
            self.victim = (slot + 1) % OPEN_RUNS;
        }
    }

    /// Hands everything to `write`, one super-packet or packet (virtio header first) a call, and forgets it.
    ///
    /// `arena` is the one of the pushes; the headers of first packets are rewritten in it.
    pub fn flush(&mut self, arena: &mut [u8], mut write: impl FnMut(&[IoSlice<'_>])) {
        for run in &self.runs {
            let header = match run.shape {
                Some(shape) if run.count > 1 => rewrite(
                    &mut arena[self.packets[run.first].start..],
                    run.total,
                    shape,
                ),
                _ => VirtioHeader::default(),
            }
            .emit();
            let mut slices = [IoSlice::new(&[]); SEGMENTS + 1];
            slices[0] = IoSlice::new(&header);
            let mut used = 1;
            let mut next = Some(run.first);
            while let Some(packet) = next.map(|position| self.packets[position]) {
                let skipped = if used == 1 {
                    0
                } else {
                    run.shape.map_or(0, |shape| shape.headers)
                };
                slices[used] = IoSlice::new(&arena[packet.start + skipped..packet.end]);
                used += 1;
                next = packet.next;
            }
            write(&slices[..used]);
        }
        self.packets.clear();
        self.runs.clear();
        self.open = [None; OPEN_RUNS];
        self.victim = 0;
    }

    /// The place in `open` of the run of this packet's flow.
    fn slot(&self, arena: &[u8], packet: &[u8]) -> Option<usize> {
        if !has_ports(packet) {
            return None;
        }
        self.open.iter().position(|run| {
            run.is_some_and(|run| {
                let head = &arena[self.packets[self.runs[run].first].start..];
                head[8..IPV6_HEADER + 4] == packet[8..IPV6_HEADER + 4] && head[6] == packet[6]
            })
        })
    }

    /// Fragments, extension headers and the like hide their flow: it may be any between the same addresses.
    fn close_all_between(&mut self, arena: &[u8], packet: &[u8]) {
        let Some(addresses) = packet.get(8..IPV6_HEADER) else {
            return;
        };
        for slot in &mut self.open {
            if slot.is_some_and(|run| {
                arena[self.packets[self.runs[run].first].start..][8..IPV6_HEADER] == *addresses
            }) {
                *slot = None;
            }
        }
    }

    /// Appends the packet at `position` to the run in `slot` if it belongs there.
    fn join(&mut self, arena: &[u8], slot: usize, position: usize, shape: Shape) -> bool {
        let Some((run, head_shape)) =
            self.open[slot].and_then(|run| self.runs[run].shape.map(|shape| (run, shape)))
        else {
            return false;
        };
        let run = &mut self.runs[run];
        let head = &arena[self.packets[run.first].start..self.packets[run.first].end];
        let packet = &arena[self.packets[position].start..self.packets[position].end];
        let fits = run.count < SEGMENTS
            && run.total + shape.payload <= PACKET
            && shape.payload <= head_shape.payload;
        if !fits || !follows(head, head_shape, packet, shape) {
            return false;
        }
        if !run.verified && !is_intact(head, head_shape.protocol) {
            return false;
        }
        run.verified = true;
        if !is_intact(packet, shape.protocol) {
            return false;
        }
        self.packets[run.last].next = Some(position);
        run.last = position;
        run.count += 1;
        run.total += shape.payload;
        run.shape = Some(Shape {
            sequence_end: shape.sequence_end,
            push: shape.push,
            ..head_shape
        });
        if shape.push || shape.payload < head_shape.payload {
            self.open[slot] = None;
        }
        true
    }
}

/// Whether the transport header, with the ports, follows the IPv6 header at once.
fn has_ports(packet: &[u8]) -> bool {
    packet.len() >= IPV6_HEADER + 4 && packet[0] >> 4 == 6 && matches!(packet[6], TCP | UDP)
}

/// The shape of a packet that may begin or join a run.
fn shape(packet: &[u8], offload: Offload) -> Option<Shape> {
    if !has_ports(packet) || usize::from(be16(packet, 4)) + IPV6_HEADER != packet.len() {
        return None;
    }
    let transport = &packet[IPV6_HEADER..];
    let protocol = packet[6];
    if protocol == TCP {
        if transport.len() < TCP_HEADER || transport[FLAGS] & !(PSH | ECE) != ACK {
            return None;
        }
        let length = usize::from(transport[12] >> 4) * 4;
        if length < TCP_HEADER || transport.len() <= length {
            return None;
        }
        let payload = transport.len() - length;
        let sequence_end = be32(transport, 4).wrapping_add(payload as u32);
        let push = transport[FLAGS] & PSH != 0;
        return Some(Shape {
            protocol,
            headers: IPV6_HEADER + length,
            payload,
            sequence_end,
            push,
        });
    }
    let whole = transport.len() > UDP_HEADER && usize::from(be16(transport, 4)) == transport.len();
    if offload != Offload::TcpAndUdp || !whole || be16(transport, UDP_CHECKSUM) == 0 {
        return None;
    }
    let payload = transport.len() - UDP_HEADER;
    Some(Shape {
        protocol,
        headers: IPV6_HEADER + UDP_HEADER,
        payload,
        sequence_end: 0,
        push: false,
    })
}

/// Whether splitting would make `packet` out of the run's headers: all fields that a split repeats are equal.
fn follows(head: &[u8], run: Shape, packet: &[u8], shape: Shape) -> bool {
    // Version, traffic class (ECN in it), flow label; then hop limit. The flow's addresses and ports are known equal.
    if head[..4] != packet[..4] || head[7] != packet[7] || run.headers != shape.headers {
        return false;
    }
    if shape.protocol == UDP {
        return true;
    }
    let (head, packet) = (
        &head[IPV6_HEADER..run.headers],
        &packet[IPV6_HEADER..run.headers],
    );
    be32(packet, 4) == run.sequence_end
        && head[8..FLAGS] == packet[8..FLAGS]
        && (head[FLAGS] ^ packet[FLAGS]) & !PSH == 0
        && head[14..TCP_CHECKSUM] == packet[14..TCP_CHECKSUM]
        && head[18..] == packet[18..]
}

/// Whether the transport checksum of a whole packet is right.
fn is_intact(packet: &[u8], protocol: u8) -> bool {
    let transport = &packet[IPV6_HEADER..];
    checksum::fold(checksum::sum(
        transport,
        pseudo_header(packet, protocol, transport.len()),
    )) == 0xffff
}

/// Makes the first packet's headers those of the super-packet, and its virtio header.
fn rewrite(packet: &mut [u8], total: usize, shape: Shape) -> VirtioHeader {
    let length = total - IPV6_HEADER;
    packet[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    let (segmentation, offset) = if shape.protocol == TCP {
        if shape.push {
            packet[IPV6_HEADER + FLAGS] |= PSH;
        }
        (Segmentation::Tcp6, TCP_CHECKSUM)
    } else {
        packet[IPV6_HEADER + 4..IPV6_HEADER + 6].copy_from_slice(&(length as u16).to_be_bytes());
        (Segmentation::Udp, UDP_CHECKSUM)
    };
    let sum = checksum::fold(pseudo_header(packet, shape.protocol, length));
    packet[IPV6_HEADER + offset..IPV6_HEADER + offset + 2].copy_from_slice(&sum.to_ne_bytes());
    VirtioHeader {
        needs_checksum: true,
        segmentation,
        header_length: shape.headers as u16,
        segment_size: shape.payload as u16,
        checksum_start: IPV6_HEADER as u16,
        checksum_offset: offset as u16,
    }
}
